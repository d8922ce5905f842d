/* Regions in hard times: many threads, a peer that is stopped in the middle of an access, and signals all the time while
 * regions are closed under puts. */
#define _GNU_SOURCE /* timer_create with -std=c99 */
#include "regions.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { KEYS = 1, GO = 2, GOING = 3, OVER = 4, THREADS = 4, SLICE = 1 << 14, LEN = 8 << 20 };

/* The offset of the words that all add to, one for each way. */
enum { COUNTER = THREADS * SLICE };

/* ---- Thread level MULTIPLE ---- */

static struct node open_multiple(const char *name)
{
    struct node node;
    gridnet_fabric_params params = test_params(name);
    params.thread_level = GRIDNET_THREAD_MULTIPLE;
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    return node;
}

struct user {
    gridnet_fabric *fabric;
    gridnet_address owner;
    gridnet_key keys[2];
    uint64_t number, rounds;
};

/* Uses its slice of both regions, and adds to what all add to. */
static void *use_slices(void *argument)
{
    struct user *user = argument;
    struct node node = {user->fabric, NULL};
    gridnet_endpoint *peer;
    gridnet_rkey *rkey[2];
    unsigned char *out = malloc(SLICE), *back = malloc(SLICE);
    CHECK(out != NULL && back != NULL);
    CHECK_OK(gridnet_cq_create(user->fabric, 0, &node.cq));
    CHECK_OK(gridnet_endpoint_open(node.cq, &user->owner, &peer));
    for (int i = 0; i < 2; i++)
        CHECK_OK(gridnet_rkey_import(peer, &user->keys[i], &rkey[i]));
    for (uint64_t round = 0; round < user->rounds; round++) {
        size_t length = SLICE - round * 61 % 4096;
        gridnet_rkey *key = rkey[round % 2];
        gridnet_atomic_params one = add(COUNTER, 1, NULL);
        fill(out, length, round + user->number);
        CHECK_OK(end(&node, gridnet_put(peer, out, length, key, user->number * SLICE, NULL)));
        CHECK_OK(end(&node, gridnet_get(peer, back, length, key, user->number * SLICE, NULL)));
        CHECK(memcmp(out, back, length) == 0);
        CHECK_OK(end(&node, gridnet_atomic(peer, key, &one)));
        if (round % 16 == 0)
            CHECK_OK(end(&node, gridnet_flush(peer, NULL)));
    }
    for (int i = 0; i < 2; i++)
        CHECK_OK(gridnet_rkey_close(rkey[i]));
    CHECK_OK(gridnet_endpoint_close(peer));
    CHECK_OK(gridnet_cq_destroy(node.cq));
    free(out);
    free(back);
    return NULL;
}

static void run_users(struct node *node, const gridnet_address *owner, const gridnet_key keys[2], uint64_t rounds)
{
    pthread_t threads[THREADS];
    struct user users[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        users[i] = (struct user){node->fabric, *owner, {keys[0], keys[1]}, i, rounds};
        CHECK(pthread_create(&threads[i], NULL, use_slices, &users[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Has two regions, serves them, and uses others of its own by threads as well. */
static void threaded_owner(void *name)
{
    struct node node = open_multiple(name);
    static unsigned char memory[2 * (COUNTER + 64)] __attribute__((aligned(64)));
    gridnet_region *region[4];
    void *base[4] = {NULL, memory, NULL, memory + COUNTER + 64};
    gridnet_key keys[4];
    for (int i = 0; i < 4; i++) {
        if (i % 2 == 0)
            region[i] = allocate(&node, COUNTER + 64, ALL, &base[i]);
        else
            region[i] = register_memory(&node, base[i], COUNTER + 64, ALL);
        CHECK_OK(gridnet_region_key(region[i], &keys[i]));
    }
    gridnet_completion hello = node_recv(&node, NULL, NULL, 0, GO);
    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open_source(node.cq, hello.source, &peer));
    node_send(&node, peer, keys, 2 * sizeof *keys, KEYS);
    gridnet_address self;
    CHECK_OK(gridnet_fabric_address(node.fabric, &self));
    run_users(&node, &self, &keys[2], 200);
    gridnet_completion over = node_recv(&node, peer, NULL, 0, OVER);
    CHECK(over.length == 0);
    uint64_t rounds = 1000;
    for (int i = 0; i < 4; i++) {
        /* Each thread adds to both in turn. */
        uint64_t *counter = (uint64_t *)((char *)base[i] + COUNTER);
        CHECK(*counter == THREADS * (i < 2 ? rounds : 200) / 2);
        CHECK_OK(gridnet_region_close(region[i]));
    }
    node_send(&node, peer, NULL, 0, OVER);
    node_close(&node);
}

static void many_threads(void)
{
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("threads"));
    pid_t pid = test_spawn(threaded_owner, name);
    struct node node = open_multiple(NULL);
    gridnet_address owner;
    gridnet_key keys[2];
    CHECK_OK(gridnet_fabric_lookup(node.fabric, name, WAIT_NS, &owner));
    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open(node.cq, &owner, &peer));
    node_send(&node, peer, NULL, 0, GO);
    node_recv(&node, peer, keys, sizeof keys, KEYS);
    run_users(&node, &owner, keys, 1000);
    node_send(&node, peer, NULL, 0, OVER);
    node_recv(&node, peer, NULL, 0, OVER);
    test_join(pid);
    node_close(&node);
}

/* ---- Peers that put on and on ---- */

enum { BY_MESSAGES = 0, DIRECT = 1 };

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

/* From now on a signal each 100 us, which interrupts system calls, until the timer is deleted. */
static timer_t start_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = count_signal;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec each = {{0, 100000}, {0, 100000}};
    CHECK(timer_settime(timer, 0, &each, NULL) == 0);
    return timer;
}

struct putter {
    const char *name;
    size_t length;
    bool signals;
};

/* For each key that comes: puts until the region is closed, and nothing else may end it. */
static void putter(void *argument)
{
    struct putter *how = argument;
    struct node node = node_open(NULL);
    gridnet_endpoint *peer = node_connect(&node, how->name);
    unsigned char *bytes = malloc(how->length);
    CHECK(bytes != NULL);
    memset(bytes, 0xee, how->length);
    if (how->signals)
        start_signals();
    node_send(&node, peer, NULL, 0, GO);
    for (;;) {
        gridnet_key key;
        gridnet_rkey *rkey;
        /* No bytes: there is no further one. */
        if (node_recv(&node, peer, &key, sizeof key, KEYS).length == 0)
            break;
        CHECK_OK(gridnet_rkey_import(peer, &key, &rkey));
        gridnet_status status = gridnet_put(peer, bytes, how->length, rkey, 0, NULL);
        uint64_t way = status == GRIDNET_OK ? DIRECT : BY_MESSAGES;
        status = end(&node, status);
        node_send(&node, peer, &way, sizeof way, GOING);
        while (status == GRIDNET_OK) {
            status = end(&node, gridnet_put(peer, bytes, how->length, rkey, 0, NULL));
            if (status == GRIDNET_OK && how->signals)
                status = end(&node, gridnet_get(peer, bytes, how->length, rkey, 0, NULL));
        }
        CHECK_STATUS(GRIDNET_ERR_KEY, status);
        CHECK_OK(gridnet_rkey_close(rkey));
        node_send(&node, peer, NULL, 0, OVER);
    }
    CHECK(!how->signals || signals > 0);
    free(bytes);
    node_close(&node);
}

/* An owner with such a peer. */
struct scene {
    struct node node;
    gridnet_endpoint *peer;
    pid_t pid;
};

static struct scene scene_open(size_t length, bool signals_too)
{
    static char name[64];
    static struct putter how;
    snprintf(name, sizeof name, "%s", test_name("puts"));
    how = (struct putter){name, length, signals_too};
    struct scene scene;
    scene.pid = test_spawn(putter, &how);
    scene.node = node_open(name);
    gridnet_completion hello = node_recv(&scene.node, NULL, NULL, 0, GO);
    CHECK_OK(gridnet_endpoint_open_source(scene.node.cq, hello.source, &scene.peer));
    return scene;
}

/* Has the peer put into a region; which way it does. */
static uint64_t scene_begin(struct scene *scene, gridnet_region *region)
{
    gridnet_key key;
    uint64_t way;
    CHECK_OK(gridnet_region_key(region, &key));
    node_send(&scene->node, scene->peer, &key, sizeof key, KEYS);
    node_recv(&scene->node, scene->peer, &way, sizeof way, GOING);
    return way;
}

/* The peer has noticed that the region is closed. */
static void scene_over(struct scene *scene)
{
    node_recv(&scene->node, scene->peer, NULL, 0, OVER);
}

static void scene_close(struct scene *scene)
{
    node_send(&scene->node, scene->peer, NULL, 0, KEYS);
    test_join(scene->pid);
    node_close(&scene->node);
}

/* ---- A peer that is stopped in the middle of an access ---- */

static void stop(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGSTOP) == 0);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
}

/* Others go on while the region cannot be closed. */
static void others_go_on(struct node *node)
{
    char name[64];
    void *memory;
    struct node other = node_open(NULL);
    gridnet_endpoint *self = node_link(node, node), *there = node_link(&other, node);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node->cq, self, name, sizeof name, 77, 0, NULL));
    int entries = 1 + CHECK_SENT(gridnet_tag_send(self, "self", 5, 77, NULL));
    while (entries-- > 0)
        node_done(node);
    gridnet_region *region = allocate(node, 4096, ALL, &memory);
    gridnet_key key;
    gridnet_rkey *rkey;
    CHECK_OK(gridnet_region_key(region, &key));
    CHECK_OK(gridnet_rkey_import(there, &key, &rkey));
    gridnet_completion entry;
    gridnet_status status = gridnet_put(there, "other", 6, rkey, 0, NULL);
    while (status == GRIDNET_IN_PROGRESS) {
        CHECK(gridnet_fabric_progress(node->fabric) >= 0);
        if (gridnet_cq_poll(other.cq, &entry, 1) == 1)
            status = entry.status;
    }
    CHECK_OK(status);
    CHECK(strcmp(memory, "other") == 0);
    CHECK_OK(gridnet_region_close(region));
    node_close(&other);
    CHECK_OK(gridnet_endpoint_close(self));
}

static gridnet_status close_patiently(gridnet_region *region)
{
    gridnet_status status;
    do
        status = gridnet_region_close(region);
    while (status == GRIDNET_ERR_IN_USE);
    return status;
}

/* Nearly all of its time the peer is inside: in a few attempts it is stopped there. */
static void stopped_inside(bool registered)
{
    struct scene scene = scene_open(LEN, false);
    unsigned char *own = malloc(LEN);
    CHECK(own != NULL);
    bool met = false;
    for (int attempt = 0; !met; attempt++) {
        void *memory;
        CHECK(attempt < 200);
        gridnet_region *region =
            registered ? register_memory(&scene.node, own, LEN, ALL) : allocate(&scene.node, LEN, ALL, &memory);
        if (scene_begin(&scene, region) == BY_MESSAGES && registered) {
            printf("SKIPPED: a peer stopped in registered memory: this system does not let processes write one another's\n");
            met = true;
        }
        stop(scene.pid);
        gridnet_status status = gridnet_region_close(region);
        if (status == GRIDNET_ERR_IN_USE) {
            met = true;
            others_go_on(&scene.node);
            CHECK_STATUS(GRIDNET_ERR_IN_USE, gridnet_region_close(region));
            CHECK(kill(scene.pid, SIGCONT) == 0);
            status = close_patiently(region);
        } else {
            CHECK(kill(scene.pid, SIGCONT) == 0);
        }
        CHECK_OK(status);
        fill(own, LEN, (uint64_t)attempt);
        scene_over(&scene);
        CHECK(filled(own, LEN, (uint64_t)attempt));
    }
    scene_close(&scene);
    free(own);
}

/* ---- Signals all the time ---- */

static void signals_while_closing(int rounds)
{
    size_t length = 300000;
    struct scene scene = scene_open(length, true);
    unsigned char *own = malloc(length);
    CHECK(own != NULL);
    timer_t timer = start_signals();
    for (int round = 0; round < rounds; round++) {
        void *memory;
        bool registered = round % 2 == 0;
        gridnet_region *region = registered ? register_memory(&scene.node, own, length, ALL)
                                            : allocate(&scene.node, length, ALL, &memory);
        scene_begin(&scene, region);
        for (int i = 0; i < round * 37 % 2000; i++)
            CHECK(gridnet_fabric_progress(scene.node.fabric) >= 0);
        CHECK_OK(close_patiently(region));
        fill(own, length, (uint64_t)round);
        scene_over(&scene);
        CHECK(filled(own, length, (uint64_t)round));
    }
    CHECK(signals > 0 && timer_delete(timer) == 0);
    scene_close(&scene);
    free(own);
}

int main(void)
{
    bool soak = test_wants("TEST_SOAK");
    test_limit(soak ? 1800 : 100);
    many_threads();
    stopped_inside(false);
    stopped_inside(true);
    signals_while_closing(soak ? 5000 : 200);
    return EXIT_SUCCESS;
}
