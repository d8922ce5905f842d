/* Ways to open, close, fork, exec and end in every order that programs come up with. Each case runs in a process of its
 * own with a run directory of its own; afterwards no descriptor, mapping, socket, name or other file is left. */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>

enum { TAG_HELLO = 1, TAG_ANSWER = 2, TAG_NEVER = 3, LENGTH = 100000 };

extern char **environ;
static const char *program;
static const char *const *options;

/* --- what the cases are made of --- */

static struct node open_node(const char *name, uint32_t level)
{
    struct node node;
    gridnet_fabric_params params = test_params(name);
    params.thread_level = level;
    params.options = options;
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    return node;
}

static struct node open_named(const char *name) { return open_node(name, GRIDNET_THREAD_SERIALIZED); }

/* Calls the fabric of this name, which answers: a long message each way. */
static void talk(struct node *node, const char *name)
{
    char *bytes = malloc(LENGTH);
    CHECK(bytes != NULL);
    gridnet_endpoint *peer = node_connect(node, name);
    fill(bytes, LENGTH, 1);
    node_send(node, peer, bytes, LENGTH, TAG_HELLO);
    CHECK(node_recv(node, peer, bytes, LENGTH, TAG_ANSWER).length == LENGTH);
    CHECK(filled(bytes, LENGTH, 2));
    CHECK_OK(gridnet_endpoint_close(peer));
    free(bytes);
}

static void answer(struct node *node)
{
    char *bytes = malloc(LENGTH);
    CHECK(bytes != NULL);
    gridnet_completion hello = node_recv(node, NULL, bytes, LENGTH, TAG_HELLO);
    CHECK(hello.length == LENGTH && filled(bytes, LENGTH, 1));
    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open_source(node->cq, hello.source, &peer));
    fill(bytes, LENGTH, 2);
    node_send(node, peer, bytes, LENGTH, TAG_ANSWER);
    CHECK_OK(gridnet_endpoint_close(peer));
    free(bytes);
}

/* The fabric works: it sends itself something. */
static void works(struct node *node)
{
    int out = 42, in = 0;
    gridnet_endpoint *self = node_link(node, node);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node->cq, self, &in, sizeof in, 9, 0, NULL));
    int entries = 1 + CHECK_SENT(gridnet_tag_send(self, &out, sizeof out, 9, NULL));
    while (entries-- > 0)
        node_done(node);
    CHECK(in == 42);
    CHECK_OK(gridnet_endpoint_close(self));
}

static void refused(struct node *node)
{
    gridnet_completion entry;
    gridnet_loan loan;
    void *data;
    CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_cq_poll(node->cq, &entry, 1));
    CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_cq_wait(node->cq, &entry, 1, SECOND));
    CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_fabric_progress(node->fabric));
    CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_loan_take(node->fabric, 100, &loan, &data));
}

static pid_t forked(void)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        test_limit(test_seconds);
    return pid;
}

static void killed(pid_t pid)
{
    int status = 0;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* This program again, in a role: see main. */
static pid_t spawned(const char *role, const char *argument)
{
    pid_t pid;
    char *arguments[] = {(char *)program, (char *)role, (char *)argument, NULL};
    fflush(NULL);
    CHECK(posix_spawn(&pid, program, NULL, NULL, arguments, environ) == 0);
    return pid;
}

static void become(const char *role, const char *argument)
{
    execl(program, program, role, argument, (char *)NULL);
    _exit(3);
}

/* A pipe that says when somebody has come so far. */
struct gate {
    int ends[2];
};

static struct gate gate_make(void)
{
    struct gate gate;
    CHECK(pipe(gate.ends) == 0);
    return gate;
}

static void gate_open(struct gate *gate) { CHECK(write(gate->ends[1], "x", 1) == 1); }

static void gate_pass(struct gate *gate)
{
    char byte;
    ssize_t got;
    do
        got = read(gate->ends[0], &byte, 1);
    while (got < 0 && errno == EINTR);
    CHECK(got == 1);
}

static void gate_drop(struct gate *gate)
{
    close(gate->ends[0]);
    close(gate->ends[1]);
}

/* A receive from a peer that ends when that peer does. */
static void await_end(struct node *node, const char *name)
{
    char byte;
    gridnet_endpoint *peer = node_connect(node, name);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node->cq, peer, &byte, 1, TAG_NEVER, 0, NULL));
    gridnet_completion entry = node_wait(node);
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, entry.status);
    CHECK_OK(gridnet_endpoint_close(peer));
}

/* --- the cases --- */

static void open_and_close(void)
{
    for (int i = 0; i < 20; i++) {
        struct node node = open_named("parent");
        works(&node);
        node_close(&node);
    }
}

static void close_in_other_order(void)
{
    struct node nodes[3] = {open_named("a"), open_named("b"), open_named("c")};
    works(&nodes[1]);
    node_close(&nodes[1]);
    works(&nodes[0]);
    node_close(&nodes[0]);
    works(&nodes[2]);
    node_close(&nodes[2]);
}

static void child_is_refused(void)
{
    struct node node = open_named("parent");
    pid_t pid = forked();
    if (pid == 0) {
        refused(&node);
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_fabric_close(node.fabric));
        exit(EXIT_SUCCESS);
    }
    works(&node);
    test_join(pid);
    works(&node);
    node_close(&node);
}

static void child_leaves_at_once(void)
{
    struct node node = open_named("parent");
    for (int i = 0; i < 10; i++) {
        pid_t pid = forked();
        if (pid == 0)
            _exit(EXIT_SUCCESS);
        works(&node);
        test_join(pid);
    }
    node_close(&node);
}

static void child_leaves_by_exit(void)
{
    struct node node = open_named("parent");
    pid_t pid = forked();
    if (pid == 0)
        exit(EXIT_SUCCESS);
    test_join(pid);
    works(&node);
    node_close(&node);
}

static void child_is_killed_at_once(void)
{
    struct node node = open_named("parent");
    for (int i = 0; i < 10; i++) {
        pid_t pid = forked();
        if (pid == 0)
            for (;;)
                pause();
        killed(pid);
        works(&node);
    }
    node_close(&node);
}

static void child_opens_its_own(void)
{
    struct node node = open_named("parent");
    pid_t pid = forked();
    if (pid == 0) {
        struct node own = open_named("child");
        talk(&own, "parent");
        node_close(&own);
        exit(EXIT_SUCCESS);
    }
    answer(&node);
    test_join(pid);
    node_close(&node);
}

static void child_dies_with_its_own(void)
{
    struct node node = open_named("parent");
    struct gate gate = gate_make();
    pid_t pid = forked();
    if (pid == 0) {
        struct node own = open_named("child");
        talk(&own, "parent");
        gate_open(&gate);
        for (;;)
            pause();
    }
    answer(&node);
    gate_pass(&gate);
    killed(pid);
    /* The name of the dead is free. */
    struct node second = open_named("child");
    works(&second);
    node_close(&second);
    gate_drop(&gate);
    node_close(&node);
}

static void children_in_turn(void)
{
    struct node node = open_named("parent");
    for (int i = 0; i < 5; i++) {
        pid_t pid = forked();
        if (pid == 0) {
            struct node own = open_named("child");
            talk(&own, "parent");
            node_close(&own);
            exit(EXIT_SUCCESS);
        }
        answer(&node);
        test_join(pid);
    }
    node_close(&node);
}

static void grandchild_talks(void)
{
    struct node node = open_named("parent");
    pid_t pid = forked();
    if (pid == 0) {
        struct node own = open_named("child");
        pid_t second = forked();
        if (second == 0) {
            refused(&node);
            refused(&own);
            struct node third = open_named("grandchild");
            talk(&third, "child");
            talk(&third, "parent");
            node_close(&third);
            exit(EXIT_SUCCESS);
        }
        answer(&own);
        test_join(second);
        node_close(&own);
        exit(EXIT_SUCCESS);
    }
    answer(&node);
    test_join(pid);
    node_close(&node);
}

static void name_is_taken_in_child(void)
{
    struct node node = open_named("parent");
    struct gate closed = gate_make(), tried = gate_make();
    pid_t pid = forked();
    if (pid == 0) {
        gridnet_fabric *fabric;
        gridnet_fabric_params params = test_params("parent");
        CHECK_STATUS(GRIDNET_ERR_NAME_IN_USE, gridnet_fabric_open(&params, &fabric));
        gate_open(&tried);
        gate_pass(&closed);
        struct node own = open_named("parent");
        works(&own);
        node_close(&own);
        exit(EXIT_SUCCESS);
    }
    gate_pass(&tried);
    node_close(&node);
    gate_open(&closed);
    test_join(pid);
    gate_drop(&closed);
    gate_drop(&tried);
}

/* The child keeps copies of all descriptors; the end is noticed all the same. */
static void parent_closes_first(void)
{
    struct gate up = gate_make(), over = gate_make();
    pid_t watcher = forked();
    if (watcher == 0) {
        struct node own = open_named("watcher");
        gate_open(&up);
        await_end(&own, "parent");
        node_close(&own);
        exit(EXIT_SUCCESS);
    }
    gate_pass(&up);
    struct node node = open_named("parent");
    /* Until the watcher is connected. */
    gridnet_counters counters;
    counters.size = sizeof counters;
    do {
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
        CHECK_OK(gridnet_fabric_counters(node.fabric, &counters));
    } while (counters.peers_now == 0);
    pid_t pid = forked();
    if (pid == 0) {
        gate_pass(&over);
        refused(&node);
        _exit(EXIT_SUCCESS);
    }
    node_close(&node);
    test_join(watcher);
    gate_open(&over);
    test_join(pid);
    gate_drop(&up);
    gate_drop(&over);
}

/* As before, but the parent does not close: it is killed. */
static void parent_is_killed(void)
{
    struct gate up = gate_make(), over = gate_make();
    int gone[2];
    CHECK(pipe(gone) == 0);
    pid_t parent = forked();
    if (parent == 0) {
        struct node node = open_named("parent");
        pid_t pid = forked();
        if (pid == 0) {
            gate_pass(&over);
            refused(&node);
            _exit(EXIT_SUCCESS);
        }
        gate_open(&up);
        gridnet_completion entry;
        for (;;)
            gridnet_cq_wait(node.cq, &entry, 1, SECOND);
    }
    CHECK(close(gone[1]) == 0);
    gate_pass(&up);
    struct node node = open_named("watcher");
    char byte;
    gridnet_endpoint *peer = node_connect(&node, "parent");
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, peer, &byte, 1, TAG_NEVER, 0, NULL));
    killed(parent);
    gridnet_completion entry = node_wait(&node);
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, entry.status);
    gate_open(&over);
    node_close(&node);
    /* The child has its parent's sockets: nothing can be cleared away before it has ended. */
    CHECK(read(gone[0], &byte, 1) == 0);
    CHECK(close(gone[0]) == 0);
    gate_drop(&up);
    gate_drop(&over);
}

static void exec_in_child(void)
{
    struct node node = open_named("parent");
    pid_t pid = forked();
    if (pid == 0)
        become("talk", "parent");
    answer(&node);
    test_join(pid);
    node_close(&node);
}

/* What the library opens is closed by exec. */
static void exec_keeps_no_descriptor(void)
{
    char expected[16];
    snprintf(expected, sizeof expected, "%d", open_descriptors());
    struct node node = open_named("parent");
    works(&node);
    pid_t pid = forked();
    if (pid == 0) {
        struct node own = open_named("child");
        works(&own);
        become("count", expected);
    }
    test_join(pid);
    works(&node);
    node_close(&node);
}

/* Exec ends the fabrics of a process: its peers hear of it. */
static void exec_ends_a_fabric(void)
{
    struct gate up = gate_make();
    struct node node = open_named("watcher");
    pid_t pid = forked();
    if (pid == 0) {
        struct node own = open_named("parent");
        gate_open(&up);
        gridnet_counters counters;
        counters.size = sizeof counters;
        do {
            CHECK(gridnet_fabric_progress(own.fabric) >= 0);
            CHECK_OK(gridnet_fabric_counters(own.fabric, &counters));
        } while (counters.peers_now == 0);
        become("talk", "watcher");
    }
    gate_pass(&up);
    await_end(&node, "parent");
    answer(&node);
    test_join(pid);
    node_close(&node);
    gate_drop(&up);
}

static void spawn_while_open(void)
{
    struct node node = open_named("parent");
    pid_t pid = spawned("talk", "parent");
    answer(&node);
    test_join(pid);
    node_close(&node);
}

static void spawn_many(void)
{
    struct node node = open_named("parent");
    pid_t pids[8];
    for (int i = 0; i < 8; i++)
        pids[i] = spawned("talk", "parent");
    for (int i = 0; i < 8; i++)
        answer(&node);
    for (int i = 0; i < 8; i++)
        test_join(pids[i]);
    node_close(&node);
}

static void *wait_for_answer(void *argument)
{
    answer(argument);
    return NULL;
}

static void fork_during_a_wait(void)
{
    struct node node = open_node("parent", GRIDNET_THREAD_MULTIPLE);
    pthread_t waiter;
    CHECK(pthread_create(&waiter, NULL, wait_for_answer, &node) == 0);
    for (int i = 0; i < 10; i++) {
        pid_t pid = forked();
        if (pid == 0) {
            /* Whoever held a lock at the fork is not here. */
            refused(&node);
            _exit(EXIT_SUCCESS);
        }
        test_join(pid);
    }
    pid_t pid = spawned("talk", "parent");
    CHECK(pthread_join(waiter, NULL) == 0);
    test_join(pid);
    node_close(&node);
}

static struct node shared;

static void *traffic(void *argument)
{
    struct node own = {shared.fabric, NULL};
    uint64_t tag = 100 + *(uint64_t *)argument;
    CHECK_OK(gridnet_cq_create(own.fabric, 0, &own.cq));
    gridnet_endpoint *self = node_link(&own, &shared);
    for (uint64_t round = 0; round < 2000; round++) {
        uint64_t in = 0;
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(own.cq, self, &in, sizeof in, tag, 0, NULL));
        int entries = 1 + CHECK_SENT(gridnet_tag_send(self, &round, sizeof round, tag, NULL));
        while (entries-- > 0)
            node_done(&own);
        CHECK(in == round);
    }
    return NULL;
}

static void fork_amid_threads(void)
{
    shared = open_node("parent", GRIDNET_THREAD_MULTIPLE);
    pthread_t threads[4];
    uint64_t numbers[4] = {0, 1, 2, 3};
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, traffic, &numbers[i]) == 0);
    for (int i = 0; i < 20; i++) {
        pid_t pid = forked();
        if (pid == 0) {
            refused(&shared);
            _exit(EXIT_SUCCESS);
        }
        test_join(pid);
    }
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    node_close(&shared);
}

static void fork_with_a_progress_thread(void)
{
    static const char *const threaded[] = {"GRIDNET_PROGRESS=thread", NULL};
    options = threaded;
    struct node node = open_named("parent");
    pid_t pid = forked();
    if (pid == 0) {
        refused(&node);
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_fabric_close(node.fabric));
        struct node own = open_named("child");
        talk(&own, "parent");
        node_close(&own);
        exit(EXIT_SUCCESS);
    }
    answer(&node);
    test_join(pid);
    node_close(&node);
}

static void several_fabrics(void)
{
    struct node nodes[3] = {open_named("a"), open_named("b"), open_named("c")};
    pid_t pid = forked();
    if (pid == 0) {
        for (int i = 0; i < 3; i++)
            refused(&nodes[i]);
        struct node own = open_named("child");
        talk(&own, "a");
        talk(&own, "b");
        talk(&own, "c");
        node_close(&own);
        exit(EXIT_SUCCESS);
    }
    for (int i = 0; i < 3; i++)
        answer(&nodes[i]);
    test_join(pid);
    for (int i = 0; i < 3; i++)
        node_close(&nodes[i]);
}

/* Operations and loans that are under way over a fork belong to the parent. */
static void pending_over_a_fork(void)
{
    struct node node = open_named("parent");
    gridnet_endpoint *self = node_link(&node, &node);
    gridnet_loan loan;
    char *data;
    char in[100];
    CHECK_OK(gridnet_loan_take(node.fabric, sizeof in, &loan, (void **)&data));
    fill(data, sizeof in, 5);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, self, in, sizeof in, 7, 0, NULL));
    pid_t pid = forked();
    if (pid == 0) {
        refused(&node);
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_loan_send(self, loan, sizeof in, 7, NULL));
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_loan_give_back(node.fabric, loan));
        exit(EXIT_SUCCESS);
    }
    test_join(pid);
    int entries = 1 + CHECK_SENT(gridnet_loan_send(self, loan, sizeof in, 7, NULL));
    while (entries-- > 0)
        node_done(&node);
    CHECK(filled(in, sizeof in, 5));
    node_close(&node);
}

/* A server that puts itself into the background: only its child opens. */
static void background(void)
{
    struct gate up = gate_make();
    pid_t pid = forked();
    if (pid == 0) {
        pid_t second = forked();
        if (second > 0)
            _exit(EXIT_SUCCESS);
        CHECK(setsid() > 0);
        struct node own = open_named("server");
        gate_open(&up);
        answer(&own);
        node_close(&own);
        gate_open(&up);
        _exit(EXIT_SUCCESS);
    }
    test_join(pid);
    gate_pass(&up);
    struct node node = open_named("client");
    talk(&node, "server");
    node_close(&node);
    gate_pass(&up);
    gate_drop(&up);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"open and close", open_and_close},
    {"close in another order", close_in_other_order},
    {"a child is refused", child_is_refused},
    {"a child leaves at once", child_leaves_at_once},
    {"a child leaves by exit", child_leaves_by_exit},
    {"a child is killed at once", child_is_killed_at_once},
    {"a child opens its own", child_opens_its_own},
    {"a child dies with its own", child_dies_with_its_own},
    {"children in turn", children_in_turn},
    {"a grandchild talks", grandchild_talks},
    {"a name is taken, also in a child", name_is_taken_in_child},
    {"the parent closes first", parent_closes_first},
    {"the parent is killed", parent_is_killed},
    {"exec in a child", exec_in_child},
    {"exec keeps no descriptor", exec_keeps_no_descriptor},
    {"exec ends a fabric", exec_ends_a_fabric},
    {"spawn while open", spawn_while_open},
    {"spawn many", spawn_many},
    {"fork during a wait", fork_during_a_wait},
    {"fork amid threads", fork_amid_threads},
    {"fork with a progress thread", fork_with_a_progress_thread},
    {"several fabrics", several_fabrics},
    {"pending over a fork", pending_over_a_fork},
    {"background", background},
};

/* --- running them --- */

static void no_memory_is_left(void)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        CHECK(strstr(line, "memfd:gridnet") == NULL);
    fclose(maps);
}

/* Files below a directory but for the lock; removes all. */
static int clear(const char *path)
{
    int found = 0;
    char below[1024];
    DIR *dir = opendir(path);
    CHECK(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        CHECK(lstat(below, &status) == 0);
        if (S_ISDIR(status.st_mode)) {
            found += clear(below);
            continue;
        }
        if (strcmp(entry->d_name, "lock") != 0) {
            fprintf(stderr, "%s is left\n", below);
            found++;
        }
        CHECK(unlink(below) == 0);
    }
    closedir(dir);
    CHECK(rmdir(path) == 0);
    return found;
}

static void run_case(void *argument)
{
    void (*run)(void) = *(void (*const *)(void))argument;
    int before = open_descriptors();
    run();
    CHECK(open_descriptors() == before);
    no_memory_is_left();
}

/* Each start removes what the dead have left. */
static void start_once(void *argument)
{
    (void)argument;
    struct node node = open_named(NULL);
    node_close(&node);
}

static int role(char *const *arguments)
{
    test_limit(60);
    if (strcmp(arguments[1], "count") == 0) {
        CHECK(open_descriptors() == atoi(arguments[2]));
        return EXIT_SUCCESS;
    }
    struct node node = open_named(NULL);
    talk(&node, arguments[2]);
    node_close(&node);
    return EXIT_SUCCESS;
}

int main(int count, char **arguments)
{
    static char self[1024];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0);
    program = self;
    if (count == 3)
        return role(arguments);
    test_limit(100);
    size_t number = sizeof cases / sizeof cases[0];
    for (size_t i = 0; i < number; i++) {
        char dir[] = "/tmp/gridnet-mix-XXXXXX";
        CHECK(mkdtemp(dir) != NULL && setenv("GRIDNET_RUN_DIR", dir, 1) == 0);
        printf("%s\n", cases[i].name);
        test_join(test_spawn(run_case, (void *)&cases[i].run));
        test_join(test_spawn(start_once, NULL));
        CHECK(clear(dir) == 0);
    }
    printf("RESULT %zu mixes of open, close, fork and exec\n", number);
    return EXIT_SUCCESS;
}
