/* The owner of a region executes another program, or is killed, while its peer does nothing but puts. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_FIXED_NOREPLACE */
#include "test.h"

#include <signal.h>
#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { KEYS = 1, GO = 2, LEN = 1 << 16 };

/* Where both programs of the owner have memory: far from what the system places by itself. */
static void *const PLACE = (void *)0x200000000000;

static int ready[2], check[2];

static unsigned char *memory_at_place(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void *memory = mmap(PLACE, LEN, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(memory == PLACE);
    return memory;
}

static void send_key(struct node *node, void *base, gridnet_region **region)
{
    gridnet_region_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.base = base;
    params.len = LEN;
    params.access = GRIDNET_ACCESS_REMOTE_READ | GRIDNET_ACCESS_REMOTE_WRITE | GRIDNET_ACCESS_REMOTE_ATOMIC;
    params.memory_kind = GRIDNET_MEMORY_HOST;
    params.numa_node = GRIDNET_NUMA_UNKNOWN;
    void *start;
    if (base != NULL)
        CHECK_OK(gridnet_region_register(node->fabric, &params, region));
    else
        CHECK_OK(gridnet_region_allocate(node->fabric, &params, region, &start));
    gridnet_completion hello = node_recv(node, NULL, NULL, 0, GO);
    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open_source(node->cq, hello.source, &peer));
    gridnet_key key;
    CHECK_OK(gridnet_region_key(*region, &key));
    node_send(node, peer, &key, sizeof key, KEYS);
}

static gridnet_rkey *ask_for_key(struct node *node, gridnet_endpoint *peer)
{
    gridnet_key key;
    gridnet_rkey *rkey;
    node_send(node, peer, NULL, 0, GO);
    node_recv(node, peer, &key, sizeof key, KEYS);
    CHECK_OK(gridnet_rkey_import(peer, &key, &rkey));
    return rkey;
}

/* Registers memory, and executes another program in its place when it is told to. */
static void owner_that_executes(void *name)
{
    struct node node = node_open(name);
    gridnet_region *region;
    send_key(&node, memory_at_place(), &region);
    node_recv(&node, NULL, NULL, 0, GO);
    char ready_fd[16], check_fd[16];
    snprintf(ready_fd, sizeof ready_fd, "%d", ready[1]);
    snprintf(check_fd, sizeof check_fd, "%d", check[0]);
    execl("/proc/self/exe", "regions_end", ready_fd, check_fd, (char *)NULL);
    CHECK(!"the program is executed");
}

/* The other program: its memory stays as it is. */
static int successor(int ready_fd, int check_fd)
{
    unsigned char *memory = memory_at_place();
    char byte = 0;
    CHECK(write(ready_fd, &byte, 1) == 1);
    CHECK(read(check_fd, &byte, 1) == 1);
    for (size_t i = 0; i < LEN; i++)
        CHECK(memory[i] == 0);
    return EXIT_SUCCESS;
}

static void puts_do_not_reach_another_program(void)
{
    char name[64], byte = 0;
    snprintf(name, sizeof name, "%s", test_name("executes"));
    CHECK(pipe(ready) == 0 && pipe(check) == 0);
    pid_t pid = test_spawn(owner_that_executes, name);
    struct node node = node_open(NULL);
    gridnet_endpoint *peer = node_connect(&node, name);
    gridnet_rkey *rkey = ask_for_key(&node, peer);
    static unsigned char bytes[LEN];
    memset(bytes, 7, sizeof bytes);
    bool direct = false;
    for (int i = 0; i < 10; i++) {
        gridnet_status status = gridnet_put(peer, bytes, LEN, rkey, 0, NULL);
        CHECK(status >= 0);
        direct = status == GRIDNET_OK;
        if (!direct)
            CHECK_OK(node_wait(&node).status);
    }
    if (!direct)
        printf("SKIPPED: puts into another program: this system does not let processes write one another's memory\n");
    node_send(&node, peer, NULL, 0, GO);
    CHECK(read(ready[0], &byte, 1) == 1);
    /* It is not done at once, since nobody is there who could have it. */
    CHECK(gridnet_put(peer, bytes, LEN, rkey, 0, NULL) != GRIDNET_OK);
    CHECK(write(check[1], &byte, 1) == 1);
    test_join(pid);
    node_close(&node);
}

static void owner_that_is_killed(void *name)
{
    struct node node = node_open(name);
    gridnet_region *region;
    send_key(&node, NULL, &region);
    for (;;)
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
}

enum { PUT, GET, ATOMIC, FLUSH, OPERATIONS };

static gridnet_status operation(int which, gridnet_endpoint *peer, gridnet_rkey *rkey)
{
    uint64_t word = 0;
    gridnet_atomic_params add;
    memset(&add, 0, sizeof add);
    add.size = sizeof add;
    add.op = GRIDNET_ATOMIC_ADD;
    add.width = 8;
    switch (which) {
    case PUT:
        return gridnet_put(peer, &word, sizeof word, rkey, 0, NULL);
    case GET:
        return gridnet_get(peer, &word, sizeof word, rkey, 0, NULL);
    case ATOMIC:
        return gridnet_atomic(peer, rkey, &add);
    default:
        return gridnet_flush(peer, NULL);
    }
}

/* A loop of operations that are done at once ends when their owner has. */
static void loops_notice_the_end_of_the_owner(uint32_t level)
{
    for (int which = 0; which < OPERATIONS; which++) {
        char name[64];
        snprintf(name, sizeof name, "%s", test_name("ends"));
        pid_t pid = test_spawn(owner_that_is_killed, name);
        gridnet_fabric_params params = test_params(NULL);
        params.thread_level = level;
        struct node node;
        CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
        CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
        gridnet_endpoint *peer = node_connect(&node, name);
        gridnet_rkey *rkey = ask_for_key(&node, peer);
        for (int i = 0; i < 1000; i++)
            CHECK_OK(operation(which, peer, rkey));
        CHECK(kill(pid, SIGKILL) == 0);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
        gridnet_status end;
        do
            end = operation(which, peer, rkey);
        while (end == GRIDNET_OK);
        CHECK_STATUS(GRIDNET_ERR_PEER_GONE, end);
        node_close(&node);
    }
}

int main(int argc, char **argv)
{
    test_limit(100);
    if (argc == 3)
        return successor(atoi(argv[1]), atoi(argv[2]));
    puts_do_not_reach_another_program();
    loops_notice_the_end_of_the_owner(GRIDNET_THREAD_SERIALIZED);
    loops_notice_the_end_of_the_owner(GRIDNET_THREAD_MULTIPLE);
    return EXIT_SUCCESS;
}
