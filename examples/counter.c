/* Three workers share a counter and a table in the memory of a fourth process, which computes nothing.
 *
 *   counter [TASKS]
 *
 * A worker draws its next task by adding to the counter, puts the result into the table, and counts it as done. Nobody
 * answers it: the memory is allocated, so the workers reach it by themselves. When all tasks are counted, the owner reads
 * the table: who sees the count of a result sees the result.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, TAG_HELLO = 1, TAG_KEY = 2, TAG_BYE = 3 };

/* What is in the region. The two counts have cache lines of their own. */
struct table {
    uint64_t drawn, unused_a[15];
    uint64_t done, unused_b[15];
    uint64_t results[];
};

static uint64_t solve(uint64_t task)
{
    uint64_t steps = 0;
    for (uint64_t n = task + 1; n != 1; steps++)
        n = n % 2 == 0 ? n / 2 : 3 * n + 1;
    return steps;
}

/* Adds 1 to a word of the region; the word before. */
static uint64_t draw(gridnet_cq *cq, gridnet_endpoint *owner, gridnet_rkey *rkey, uint64_t offset)
{
    uint64_t before;
    gridnet_atomic_params add = {0};
    add.size = sizeof add;
    add.op = GRIDNET_ATOMIC_ADD;
    add.width = sizeof before;
    add.offset = offset;
    add.operand = 1;
    add.result = &before;
    if (check(gridnet_atomic(owner, rkey, &add), "gridnet_atomic"))
        next_completion(cq);
    return before;
}

static void work(const char *owner_name, uint64_t tasks)
{
    gridnet_fabric *fabric = open_fabric(NULL);
    gridnet_cq *cq;
    gridnet_key key;
    gridnet_rkey *rkey;
    check(gridnet_cq_create(fabric, 0, &cq), "gridnet_cq_create");
    gridnet_endpoint *owner = connect_by_name(fabric, cq, owner_name);
    check(gridnet_tag_recv(cq, owner, &key, sizeof key, TAG_KEY, 0, NULL), "gridnet_tag_recv");
    if (check(gridnet_tag_send(owner, NULL, 0, TAG_HELLO, NULL), "gridnet_tag_send"))
        next_completion(cq);
    next_completion(cq);
    check(gridnet_rkey_import(owner, &key, &rkey), "gridnet_rkey_import");

    uint64_t task;
    while ((task = draw(cq, owner, rkey, offsetof(struct table, drawn))) < tasks) {
        uint64_t result = solve(task), place = offsetof(struct table, results) + task * sizeof result;
        if (check(gridnet_put(owner, &result, sizeof result, rkey, place, NULL), "gridnet_put"))
            next_completion(cq);
        draw(cq, owner, rkey, offsetof(struct table, done));
    }
    /* From now on this process does not touch the region. */
    if (check(gridnet_tag_send(owner, NULL, 0, TAG_BYE, NULL), "gridnet_tag_send"))
        next_completion(cq);
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
}

static void hand_out_keys(gridnet_cq *cq, gridnet_region *region)
{
    gridnet_key key;
    check(gridnet_region_key(region, &key), "gridnet_region_key");
    for (int i = 0; i < WORKERS; i++) {
        gridnet_endpoint *worker;
        check(gridnet_tag_recv(cq, NULL, NULL, 0, TAG_HELLO, 0, NULL), "gridnet_tag_recv");
        gridnet_completion hello = next_completion(cq);
        check(gridnet_endpoint_open_source(cq, hello.source, &worker), "gridnet_endpoint_open_source");
        if (check(gridnet_tag_send(worker, &key, sizeof key, TAG_KEY, NULL), "gridnet_tag_send"))
            next_completion(cq);
    }
}

static void own(const char *name, uint64_t tasks)
{
    gridnet_fabric *fabric = open_fabric(name);
    gridnet_cq *cq;
    gridnet_region *region;
    void *memory;
    check(gridnet_cq_create(fabric, 0, &cq), "gridnet_cq_create");
    gridnet_region_params params = {0};
    params.size = sizeof params;
    params.len = sizeof(struct table) + tasks * sizeof(uint64_t);
    params.access = GRIDNET_ACCESS_REMOTE_WRITE | GRIDNET_ACCESS_REMOTE_ATOMIC;
    params.numa_node = GRIDNET_NUMA_UNKNOWN;
    check(gridnet_region_allocate(fabric, &params, &region, &memory), "gridnet_region_allocate");
    hand_out_keys(cq, region);

    struct table *table = memory;
    int64_t end = now_ns() + PATIENCE_NS;
    while (__atomic_load_n(&table->done, __ATOMIC_ACQUIRE) < tasks) {
        check(gridnet_fabric_progress(fabric), "gridnet_fabric_progress");
        if (now_ns() > end)
            fail("the workers do not come to an end");
    }
    for (uint64_t i = 0; i < tasks; i++)
        if (table->results[i] != solve(i))
            fail("a result is wrong");
    printf("%llu tasks, each done once\n", (unsigned long long)tasks);
    for (int i = 0; i < WORKERS; i++) {
        check(gridnet_tag_recv(cq, NULL, NULL, 0, TAG_BYE, 0, NULL), "gridnet_tag_recv");
        next_completion(cq);
    }
    check(gridnet_region_close(region), "gridnet_region_close");
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
}

int main(int argc, char **argv)
{
    uint64_t tasks = argc == 2 ? parse_number(argv[1], 1000000) : argc == 1 ? 10000 : 0;
    if (tasks == 0) {
        fprintf(stderr, "usage: counter [TASKS]\n");
        return 2;
    }

    /* Processes first, fabrics then: a fabric does not outlive a fork. */
    char name[64];
    snprintf(name, sizeof name, "counter-%ld", (long)getpid());
    for (int i = 0; i < WORKERS; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("no new process");
        if (child == 0) {
            work(name, tasks);
            return EXIT_SUCCESS;
        }
    }
    own(name, tasks);

    int code = EXIT_SUCCESS;
    for (int status; wait(&status) > 0;)
        if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_SUCCESS)
            code = EXIT_FAILURE;
    return code;
}
