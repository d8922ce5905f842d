/* What the system refuses, by limits or by a system-call filter: a named error, nothing lost, or another way. */
#define _GNU_SOURCE /* for syscall numbers and RLIMIT_AS; more than POSIX */
#include "forbid.h"
#include "regions.h"

#include <sys/resource.h>

static gridnet_status open_with(const char *option, gridnet_fabric **fabric)
{
    const char *options[] = {option, NULL};
    gridnet_fabric_params params = {sizeof params, NULL, GRIDNET_THREAD_SERIALIZED, 0, option ? options : NULL};
    return gridnet_fabric_open(&params, fabric);
}

static void expect_refusal(gridnet_status expected, const char *named)
{
    gridnet_fabric *fabric = (gridnet_fabric *)&expected;
    CHECK_STATUS(expected, open_with(NULL, &fabric));
    CHECK(fabric == (gridnet_fabric *)&expected);
    CHECK(strstr(gridnet_last_error(), named) != NULL);
}

static void expect_success(const char *option)
{
    gridnet_fabric *fabric = NULL;
    CHECK_OK(open_with(option, &fabric));
    CHECK_OK(gridnet_fabric_close(fabric));
}

/* Without a look at the limit, sizing the segment would raise SIGXFSZ. */
static void file_size(void *unused)
{
    (void)unused;
    struct rlimit limit = {1 << 20, 1 << 20};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    expect_refusal(GRIDNET_ERR_LIMIT, "RLIMIT_FSIZE");
    expect_success("GRIDNET_SHM_SEGMENT_SIZE=1m");
}

static void address_space(void *unused)
{
    (void)unused;
    struct rlimit limit = {512 << 20, 512 << 20};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    expect_refusal(GRIDNET_ERR_LIMIT, "GRIDNET_SHM_SEGMENT_SIZE");
    expect_success("GRIDNET_SHM_SEGMENT_SIZE=16m");
}

static void without_memfd(void *unused)
{
    (void)unused;
    forbid(SYS_memfd_create);
    expect_refusal(GRIDNET_ERR_UNSUPPORTED, "memfd_create");
    expect_success("GRIDNET_RAILS=self");
}

/* Two fabrics of this process talk, asleep between messages: senders fence for themselves then. */
static void talk(void)
{
    gridnet_fabric *fabrics[2];
    gridnet_cq *queues[2];
    gridnet_address addresses[2];
    gridnet_endpoint *endpoint;
    gridnet_completion entry;
    uint64_t value = 0;
    for (int i = 0; i < 2; i++) {
        CHECK_OK(open_with("GRIDNET_WAIT_MODE=block", &fabrics[i]));
        CHECK_OK(gridnet_cq_create(fabrics[i], 0, &queues[i]));
        CHECK_OK(gridnet_fabric_address(fabrics[i], &addresses[i]));
    }
    CHECK_OK(gridnet_endpoint_open(queues[0], &addresses[1], &endpoint));
    for (uint64_t i = 1; i <= 100; i++) {
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(queues[1], NULL, &value, sizeof value, i, 0, NULL));
        int pending = CHECK_SENT(gridnet_tag_send(endpoint, &i, sizeof i, i, NULL));
        while (gridnet_cq_poll(queues[1], &entry, 1) == 0) {
            gridnet_status polled = gridnet_cq_poll(queues[0], &entry, 1);
            CHECK(polled >= 0);
            pending -= polled;
        }
        CHECK(entry.status == GRIDNET_OK && value == i);
        if (pending > 0)
            CHECK_STATUS(1, gridnet_cq_wait(queues[0], &entry, 1, WAIT_NS));
    }
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_cq_wait(queues[1], &entry, 1, SECOND / 100));
    CHECK_OK(gridnet_fabric_close(fabrics[0]));
    CHECK_OK(gridnet_fabric_close(fabrics[1]));
}

static void without_membarrier(void *unused)
{
    (void)unused;
    forbid(SYS_membarrier);
    talk();
}

static void without_pidfd(void *unused)
{
    (void)unused;
    forbid(SYS_pidfd_open);
    talk();
}

/* One message from `from` to `to`, both of this process; how the send ended. What was sent comes whole. */
static gridnet_status deliver(struct node *from, gridnet_endpoint *there, struct node *to, size_t length)
{
    static char out[1000000], in[1000000];
    gridnet_completion entry;
    gridnet_status end = GRIDNET_OK;
    fill(out, length, length);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(to->cq, NULL, in, sizeof in, 1, 0, NULL));
    bool sending = CHECK_SENT(gridnet_tag_send(there, out, length, 1, NULL)), receiving = true;
    while (sending || receiving) {
        if (gridnet_cq_poll(from->cq, &entry, 1) == 1) {
            sending = false;
            end = entry.status;
        }
        if (gridnet_cq_poll(to->cq, &entry, 1) == 1) {
            receiving = false;
            CHECK(entry.status == end || sending);
            CHECK(entry.status != GRIDNET_OK || (entry.length == length && filled(in, length, length)));
        }
    }
    return end;
}

/* The system has no more memory to give: what there is goes on, and serves again. */
static void without_memory(void *unused)
{
    (void)unused;
    struct node a = node_open(NULL), b = node_open(NULL);
    gridnet_endpoint *to_b = node_link(&a, &b);
    gridnet_loan loan = 77;
    gridnet_region *region = NULL;
    gridnet_region_params params = region_params(NULL, 16 << 20, ALL);
    void *data = &loan;
    CHECK_OK(deliver(&a, to_b, &b, 8));
    fail_with(SYS_fallocate, ENOSPC);
    expect_refusal(GRIDNET_ERR_NO_MEMORY, "memory");
    CHECK_STATUS(GRIDNET_ERR_NO_MEMORY, gridnet_loan_take(a.fabric, 16 << 20, &loan, &data));
    CHECK_STATUS(GRIDNET_ERR_NO_MEMORY, gridnet_region_allocate(a.fabric, &params, &region, &data));
    CHECK(loan == 77 && data == &loan && region == NULL);
    for (int round = 0; round < 100; round++) {
        CHECK_OK(deliver(&a, to_b, &b, 8));
        CHECK_OK(deliver(&a, to_b, &b, 5000));
    }
    gridnet_status large = deliver(&a, to_b, &b, 1000000);
    CHECK(large == GRIDNET_OK || large == GRIDNET_ERR_NO_MEMORY || large == GRIDNET_ERR_LIMIT);
    CHECK_OK(deliver(&a, to_b, &b, 5000));
    node_close(&a);
    node_close(&b);
}

int main(void)
{
    test_limit(100);
    void (*const cases[])(void *) = {file_size,          address_space, without_memfd,
                                     without_membarrier, without_pidfd, without_memory};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        test_join(test_spawn(cases[i], NULL));
    return EXIT_SUCCESS;
}
