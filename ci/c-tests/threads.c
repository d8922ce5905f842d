/* Thread level MULTIPLE: four threads use one fabric at the same time, each with a queue of its
 * own and then all with one. */
#include "test.h"

#include <pthread.h>

enum { THREADS = 4, LARGEST = 40000, TAG_READY = 100 };

static gridnet_fabric *fabric;
static gridnet_address partner;
static gridnet_cq *shared_cq;
static gridnet_endpoint *shared_self;
static uint32_t rounds;

static gridnet_fabric *open_multiple(const char *name)
{
    gridnet_fabric *opened;
    gridnet_fabric_params params = test_params(name);
    params.thread_level = GRIDNET_THREAD_MULTIPLE;
    CHECK_OK(gridnet_fabric_open(&params, &opened));
    return opened;
}

static void run_threads(void *(*body)(void *))
{
    static int numbers[THREADS] = {0, 1, 2, 3};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, body, &numbers[i]) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* A thread's own tag: what it receives can only come from the thread of the same number. */
static size_t length_of(uint32_t round, int thread)
{
    return round % 50 == 0 ? LARGEST : 8 + (round * 37 + (uint32_t)thread * 11) % 2000;
}

static void *exchange(void *argument)
{
    int number = *(int *)argument;
    struct node node = {fabric, NULL};
    gridnet_endpoint *peer;
    unsigned char *out = malloc(LARGEST), *in = malloc(LARGEST);
    CHECK(out != NULL && in != NULL);
    CHECK_OK(gridnet_cq_create(fabric, 0, &node.cq));
    CHECK_OK(gridnet_endpoint_open(node.cq, &partner, &peer));
    for (uint32_t round = 0; round < rounds; round++) {
        size_t length = length_of(round, number);
        uint64_t tag = (uint64_t)number;
        fill(out, length, round + tag);
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, peer, in, LARGEST, tag, 0, in));
        int entries = 1 + CHECK_SENT(gridnet_tag_send(peer, out, length, tag, out));
        while (entries-- > 0) {
            gridnet_completion entry = node_done(&node);
            CHECK(entry.tag == tag && entry.length == length);
            CHECK(entry.context == (entry.op_kind == GRIDNET_OP_RECV ? in : out));
        }
        CHECK(filled(in, length, round + tag));
    }
    free(out);
    free(in);
    return NULL;
}

/* Opens, tells the other process its address by the way of lookup, and exchanges. */
static void side(const char *own_name, const char *other_name)
{
    fabric = open_multiple(own_name);
    CHECK_OK(gridnet_fabric_lookup(fabric, other_name, WAIT_NS, &partner));
    run_threads(exchange);

    /* Both stay until both are done: closing ends what the other has pending. */
    struct node node = {fabric, NULL};
    char done = 1;
    CHECK_OK(gridnet_cq_create(fabric, 0, &node.cq));
    gridnet_endpoint *peer = node_connect(&node, other_name);
    node_send(&node, peer, &done, sizeof done, TAG_READY);
    node_recv(&node, peer, &done, sizeof done, TAG_READY);
    CHECK_OK(gridnet_fabric_close(fabric));
}

static char names[2][64];

static void other_process(void *argument)
{
    (void)argument;
    side(names[1], names[0]);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Adds to what is outstanding over all threads, before the operation begins; is it over? */
static bool account(int64_t change)
{
    static int64_t outstanding;
    pthread_mutex_lock(&lock);
    outstanding += change;
    bool over = outstanding == 0;
    pthread_mutex_unlock(&lock);
    return over;
}

/* Entries are taken by whichever thread is first: they carry all that is needed to judge them. */
static bool poll_shared(void)
{
    gridnet_completion entries[8];
    gridnet_status count = gridnet_cq_poll(shared_cq, entries, 8);
    CHECK(count >= 0);
    for (gridnet_status i = 0; i < count; i++) {
        CHECK_OK(entries[i].status);
        CHECK(entries[i].op_kind == GRIDNET_OP_SEND || *(uint64_t *)entries[i].context >> 32 == entries[i].tag);
    }
    return account(-count);
}

static void *share_queue(void *argument)
{
    uint64_t tag = 1000 + (uint64_t) * (int *)argument;
    uint64_t *in = calloc(rounds, sizeof *in), *out = calloc(rounds, sizeof *out);
    CHECK(in != NULL && out != NULL);
    for (uint32_t i = 0; i < rounds; i++) {
        out[i] = tag << 32 | i;
        account(2);
        gridnet_status status;
        while ((status = gridnet_tag_recv(shared_cq, shared_self, &in[i], 8, tag, 0, &in[i])) == GRIDNET_ERR_AGAIN)
            poll_shared();
        CHECK_STATUS(GRIDNET_IN_PROGRESS, status);
        while ((status = gridnet_tag_send(shared_self, &out[i], 8, tag, NULL)) == GRIDNET_ERR_AGAIN)
            poll_shared();
        if (!CHECK_SENT(status))
            account(-1);
    }
    while (!poll_shared())
        continue;
    CHECK(memcmp(in, out, rounds * sizeof *in) == 0);
    free(in);
    free(out);
    return NULL;
}

static void one_queue_for_all(void)
{
    gridnet_address address;
    fabric = open_multiple(NULL);
    CHECK_OK(gridnet_cq_create(fabric, 0, &shared_cq));
    CHECK_OK(gridnet_fabric_address(fabric, &address));
    CHECK_OK(gridnet_endpoint_open(shared_cq, &address, &shared_self));
    run_threads(share_queue);
    CHECK_OK(gridnet_fabric_close(fabric));
}

static void *call_from_another(void *argument)
{
    *(gridnet_status *)argument = gridnet_fabric_progress(fabric);
    return NULL;
}

/* SINGLE belongs to the thread that opened; SERIALIZED to any, one after the other. */
static void levels(void)
{
    static const struct {
        uint32_t level;
        gridnet_status elsewhere;
    } cases[] = {{GRIDNET_THREAD_SINGLE, GRIDNET_ERR_THREAD},
                 {GRIDNET_THREAD_SERIALIZED, GRIDNET_OK},
                 {GRIDNET_THREAD_MULTIPLE, GRIDNET_OK}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gridnet_fabric_params params = test_params(NULL);
        params.thread_level = cases[i].level;
        CHECK_OK(gridnet_fabric_open(&params, &fabric));
        gridnet_status elsewhere = -1000;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, call_from_another, &elsewhere) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK_STATUS(cases[i].elsewhere, elsewhere > 0 ? GRIDNET_OK : elsewhere);
        CHECK(gridnet_fabric_progress(fabric) >= 0);
        CHECK_OK(gridnet_fabric_close(fabric));
    }
}

int main(void)
{
    bool soak = test_wants("TEST_SOAK");
    rounds = soak ? 100000 : 3000;
    test_limit(soak ? 1800 : 100);
    snprintf(names[0], sizeof names[0], "%s", test_name("left"));
    snprintf(names[1], sizeof names[1], "%s", test_name("right"));
    pid_t child = test_spawn(other_process, NULL);
    side(names[0], names[1]);
    test_join(child);
    one_queue_for_all();
    levels();
    return EXIT_SUCCESS;
}
