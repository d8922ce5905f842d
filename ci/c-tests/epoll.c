/* An event loop over the descriptor of a queue: no message is ever slept through. */
#include "test.h"

#include <sys/epoll.h>
#include <time.h>

enum { TAG = 1, WINDOW = 16 };

/* One direction of the traffic as one process sees it, both at once. */
struct loop {
    struct node node;
    gridnet_endpoint *peer;
    int epoll;
    uint32_t to_send, to_receive, in_flight;
    uint64_t random;
    uint32_t slots[WINDOW];
    uint32_t *values; /* what is sent, each in its own place: pending sends refer to it */
    uint32_t sleeps;
};

static uint32_t messages(void)
{
    return test_wants("TEST_SOAK") ? 1000000 : 20000;
}

static uint64_t next_random(struct loop *loop)
{
    loop->random ^= loop->random << 13;
    loop->random ^= loop->random >> 7;
    return loop->random ^= loop->random << 17;
}

/* Mostly none, often some microseconds, seldom long enough for the other side to fall asleep. */
static void random_pause(struct loop *loop)
{
    uint64_t draw = next_random(loop);
    struct timespec pause = {0, 0};
    if (draw % 64 == 0)
        pause.tv_nsec = (long)(draw >> 32) % 200000;
    else if (draw % 4 != 0)
        return;
    if (pause.tv_nsec > 0)
        nanosleep(&pause, NULL);
    else
        for (volatile uint64_t i = 0; i < draw >> 54; i++)
            continue;
}

/* Sleeps until the queue has something; arming refuses while events are pending. */
static void sleep_until_event(struct loop *loop)
{
    struct epoll_event event;
    gridnet_status status = gridnet_cq_arm(loop->node.cq);
    if (status == GRIDNET_BUSY)
        return;
    CHECK_OK(status);
    loop->sleeps++;
    CHECK(epoll_wait(loop->epoll, &event, 1, 20000) == 1);
    CHECK(event.data.ptr == loop->node.cq);
}

static void post_receive(struct loop *loop, uint32_t *slot)
{
    CHECK_STATUS(GRIDNET_IN_PROGRESS,
                 gridnet_tag_recv(loop->node.cq, NULL, slot, sizeof *slot, TAG, 0, slot));
}

/* Half of the sends wait until they are matched: the answer must wake, too. */
static void send_some(struct loop *loop, uint32_t count)
{
    while (loop->to_send > 0 && loop->in_flight < WINDOW) {
        uint32_t *value = &loop->values[count - loop->to_send];
        *value = count - loop->to_send;
        random_pause(loop);
        gridnet_iov part = {value, sizeof *value, 0, 0};
        gridnet_send_params params;
        memset(&params, 0, sizeof params);
        params.size = sizeof params;
        params.iov = &part;
        params.iov_count = 1;
        params.tag = TAG;
        params.flags = next_random(loop) % 2 ? GRIDNET_SEND_SYNC : 0;
        loop->in_flight += (uint32_t)CHECK_SENT(gridnet_tag_sendx(loop->peer, &params, NULL));
        loop->to_send--;
    }
}

static void handle(struct loop *loop, const gridnet_completion *entry, uint32_t count)
{
    CHECK_OK(entry->status);
    if (entry->op_kind == GRIDNET_OP_SEND) {
        loop->in_flight--;
        return;
    }
    CHECK(*(uint32_t *)entry->context == count - loop->to_receive);
    if (--loop->to_receive >= WINDOW)
        post_receive(loop, entry->context);
}

static void run(struct loop *loop, uint32_t count)
{
    loop->to_send = loop->to_receive = count;
    loop->in_flight = 0;
    loop->values = malloc(count * sizeof *loop->values);
    CHECK(loop->values != NULL);
    for (int i = 0; i < WINDOW; i++)
        post_receive(loop, &loop->slots[i]);
    while (loop->to_send + loop->in_flight + loop->to_receive > 0) {
        send_some(loop, count);
        gridnet_completion entries[4];
        gridnet_status polled = gridnet_cq_poll(loop->node.cq, entries, 4);
        CHECK(polled >= 0);
        for (gridnet_status i = 0; i < polled; i++)
            handle(loop, &entries[i], count);
        if (polled == 0)
            sleep_until_event(loop);
    }
    free(loop->values);
}

static void watch(struct loop *loop, uint64_t seed)
{
    int fd;
    struct epoll_event interest;
    CHECK_OK(gridnet_cq_fd(loop->node.cq, &fd));
    memset(&interest, 0, sizeof interest);
    interest.events = EPOLLIN;
    interest.data.ptr = loop->node.cq;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(loop->epoll >= 0 && epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &interest) == 0);
    loop->random = seed;
    loop->sleeps = 0;
}

static uint32_t count;

static void partner(void *name)
{
    static struct loop loop;
    uint32_t hello;
    loop.node = node_open(name);
    gridnet_completion first = node_recv(&loop.node, NULL, &hello, sizeof hello, TAG + 1);
    CHECK_OK(gridnet_endpoint_open_source(loop.node.cq, first.source, &loop.peer));
    watch(&loop, 0x9e3779b97f4a7c15);
    run(&loop, count);
    close(loop.epoll);
    node_close(&loop.node);
}

/* An entry that nobody has polled makes arming busy; polled, arming works again. */
static void busy_when_pending(struct loop *loop)
{
    gridnet_endpoint *self = node_link(&loop->node, &loop->node);
    uint32_t value = 1, in;
    gridnet_completion entry;
    node_send(&loop->node, self, &value, sizeof value, TAG + 2);
    CHECK(node_recv(&loop->node, self, &in, sizeof in, TAG + 2).length == sizeof in);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(loop->node.cq, self, &in, sizeof in, TAG + 2, 0, NULL));
    node_send(&loop->node, self, &value, sizeof value, TAG + 2);
    gridnet_status status;
    while ((status = gridnet_fabric_progress(loop->node.fabric)) > 0)
        continue;
    CHECK_OK(status);
    CHECK_STATUS(GRIDNET_BUSY, gridnet_cq_arm(loop->node.cq));
    CHECK_STATUS(1, gridnet_cq_poll(loop->node.cq, &entry, 1));
    while ((status = gridnet_cq_arm(loop->node.cq)) == GRIDNET_BUSY)
        CHECK_STATUS(0, gridnet_cq_poll(loop->node.cq, &entry, 1));
    CHECK_OK(status);
    CHECK_STATUS(0, gridnet_cq_poll(loop->node.cq, &entry, 1));
    CHECK_OK(gridnet_endpoint_close(self));
}

int main(void)
{
    static struct loop loop;
    count = messages();
    test_limit(count > 20000 ? 1800 : 100);
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("partner"));
    pid_t child = test_spawn(partner, name);
    loop.node = node_open(NULL);
    watch(&loop, 0xd1b54a32d192ed03);
    busy_when_pending(&loop);
    loop.peer = node_connect(&loop.node, name);
    node_send(&loop.node, loop.peer, &count, sizeof count, TAG + 1);
    run(&loop, count);
    CHECK(loop.sleeps > 0);
    test_join(child);
    close(loop.epoll);
    node_close(&loop.node);
    printf("%u messages each way, %u sleeps\n", (unsigned)count, (unsigned)loop.sleeps);
    return EXIT_SUCCESS;
}
