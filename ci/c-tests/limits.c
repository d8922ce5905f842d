/* What the system refuses, by limits or by a system-call filter: a named error, nothing lost, or another way. */
#define _GNU_SOURCE /* for syscall numbers and RLIMIT_AS; more than POSIX */
#include "forbid.h"
#include "test.h"

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

int main(void)
{
    test_limit(100);
    void (*const cases[])(void *) = {file_size, address_space, without_memfd, without_membarrier, without_pidfd};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        test_join(test_spawn(cases[i], NULL));
    return EXIT_SUCCESS;
}
