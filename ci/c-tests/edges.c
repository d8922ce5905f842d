/* What is allowed but rare: empty messages, short buffers, nothing to find, no time to wait. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */
#include "test.h"

#include <sys/mman.h>
#include <time.h>

/* More than 31 bits count. */
#define HUGE_LENGTH ((UINT64_C(1) << 31) + 4096)

static struct node node;
static gridnet_endpoint *self;

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* An empty message is a message. It needs no buffer on either side. */
static void empty_message(void)
{
    gridnet_send_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.tag = 1;
    node_send(&node, self, NULL, 0, 1);
    CHECK(node_recv(&node, NULL, NULL, 0, 1).length == 0);
    if (CHECK_SENT(gridnet_tag_sendx(self, &params, NULL)))
        node_done(&node);
    char byte = 'x';
    CHECK(node_recv(&node, self, &byte, 1, 1).length == 0 && byte == 'x');
}

/* The receiver hears how long the message was; what fits is there, what does not is nowhere. */
static void truncated(void)
{
    static char out[3000000], in[3000000];
    static const size_t lengths[] = {1, 8, 48, 49, 3000, 70000, 3000000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int posted = 0; posted < 2; posted++) {
            size_t room = lengths[i] / 2;
            fill(out, lengths[i], 4);
            memset(in, 'x', sizeof in);
            if (posted)
                CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, NULL, in, room, 2, 0, in));
            int entries = 1 + CHECK_SENT(gridnet_tag_send(self, out, lengths[i], 2, out));
            if (!posted)
                CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, NULL, in, room, 2, 0, in));
            while (entries-- > 0) {
                gridnet_completion entry = node_wait(&node);
                if (entry.op_kind == GRIDNET_OP_SEND)
                    continue;
                CHECK_STATUS(GRIDNET_ERR_TRUNCATED, entry.status);
                CHECK(entry.length == lengths[i] && entry.context == in && in[room] == 'x');
            }
        }
}

static void short_receiver(void *name)
{
    struct node own = node_open(name);
    char in[100];
    for (uint64_t tag = 1; tag <= 2; tag++) {
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(own.cq, NULL, in, sizeof in, tag, 0, NULL));
        gridnet_completion entry = node_wait(&own);
        CHECK_STATUS(GRIDNET_ERR_TRUNCATED, entry.status);
        CHECK(entry.length == HUGE_LENGTH && in[0] == 'a' && in[99] == 0);
    }
    node_close(&own);
}

/* Lengths have 64 bits, also where few of the bytes are wanted. Pages that nobody writes take no memory. */
static void more_than_31_bits(void)
{
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("short"));
    pid_t child = test_spawn(short_receiver, name);
    struct node from = node_open(NULL);
    char *out = mmap(NULL, HUGE_LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(out != MAP_FAILED);
    out[0] = 'a';
    gridnet_endpoint *peer = node_connect(&from, name);
    for (uint64_t tag = 1; tag <= 2; tag++)
        node_send(&from, peer, out, HUGE_LENGTH, tag);
    test_join(child);
    node_close(&from);

    char in[100];
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, self, in, sizeof in, 7, 0, in));
    int entries = 1 + CHECK_SENT(gridnet_tag_send(self, out, HUGE_LENGTH, 7, out));
    while (entries-- > 0) {
        gridnet_completion entry = node_wait(&node);
        CHECK(entry.length == HUGE_LENGTH);
        CHECK_STATUS(entry.context == in ? GRIDNET_ERR_TRUNCATED : GRIDNET_OK, entry.status);
    }
    CHECK(munmap(out, HUGE_LENGTH) == 0);
}

static void nothing_there(void)
{
    gridnet_probe_info info;
    gridnet_message *message;
    gridnet_completion entry;
    CHECK_STATUS(GRIDNET_ERR_NO_MESSAGE, gridnet_tag_probe(node.fabric, NULL, 3, 0, &info));
    CHECK_STATUS(GRIDNET_ERR_NO_MESSAGE, gridnet_tag_probe(node.fabric, self, 0, UINT64_MAX, &info));
    CHECK_STATUS(GRIDNET_ERR_NO_MESSAGE, gridnet_tag_mprobe(node.fabric, NULL, 3, 0, &info, &message));
    CHECK_STATUS(GRIDNET_ERR_NOT_FOUND, gridnet_cancel(node.fabric, 0));
    CHECK_STATUS(GRIDNET_ERR_NOT_FOUND, gridnet_cancel(node.fabric, UINT64_MAX));
    CHECK_STATUS(0, gridnet_cq_poll(node.cq, &entry, 1));
}

static void waits_end(void)
{
    gridnet_completion entry;
    gridnet_address address;
    int64_t start = now();
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_cq_wait(node.cq, &entry, 1, 0));
    CHECK(now() - start < 5 * SECOND);

    start = now();
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_cq_wait(node.cq, &entry, 1, 20000000));
    CHECK(now() - start >= 20000000);

    start = now();
    gridnet_status status = gridnet_fabric_lookup(node.fabric, test_name("nobody"), 50000000, &address);
    CHECK(status == GRIDNET_ERR_TIMEOUT || status == GRIDNET_ERR_NOT_FOUND);
    CHECK(now() - start >= 50000000);

    status = gridnet_fabric_lookup(node.fabric, test_name("nobody"), 0, &address);
    CHECK(status == GRIDNET_ERR_TIMEOUT || status == GRIDNET_ERR_NOT_FOUND);
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_fabric_lookup(node.fabric, "not a name", 0, &address));
}

/* Bytes that are no address are refused at once or, if they look like one, as unreachable. */
static void bad_address(void)
{
    gridnet_address address;
    gridnet_endpoint *endpoint = self;
    memset(&address, 0, sizeof address);
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_endpoint_open(node.cq, &address, &endpoint));
    memset(&address, 0xff, sizeof address);
    gridnet_status status = gridnet_endpoint_open(node.cq, &address, &endpoint);
    CHECK(status == GRIDNET_ERR_INVALID || status == GRIDNET_ERR_UNREACHABLE || status == GRIDNET_ERR_VERSION);
    CHECK(endpoint == self);
}

/* Entries that nobody polls for long are kept, however many. */
static void many_entries(void)
{
    enum { COUNT = 20000 };
    static uint32_t in[COUNT], out[COUNT];
    gridnet_completion entries[64];
    for (uint32_t i = 0; i < COUNT; i++)
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, NULL, &in[i], sizeof in[i], 4, 0, &in[i]));
    int expected = COUNT;
    for (uint32_t i = 0; i < COUNT; i++) {
        out[i] = i;
        expected += CHECK_SENT(gridnet_tag_send(self, &out[i], sizeof out[i], 4, &out[i]));
    }
    for (uint32_t received = 0; expected > 0;) {
        gridnet_status count = gridnet_cq_wait(node.cq, entries, 64, WAIT_NS);
        CHECK(count > 0);
        expected -= count;
        for (gridnet_status i = 0; i < count; i++) {
            CHECK_OK(entries[i].status);
            if (entries[i].op_kind == GRIDNET_OP_RECV)
                CHECK(entries[i].context == &in[received++]);
        }
    }
    CHECK(memcmp(in, out, sizeof in) == 0);
}

/* A full queue refuses operations, which may be tried again after a poll: nothing is lost. */
static void full_queue(void)
{
    enum { CAPACITY = 8, COUNT = 100 };
    static uint32_t in[COUNT];
    gridnet_cq *small;
    gridnet_completion entry;
    CHECK_OK(gridnet_cq_create(node.fabric, CAPACITY, &small));
    uint32_t posted = 0, refused = 0, received = 0;
    for (uint32_t sent = 0; received < COUNT;) {
        gridnet_status status = GRIDNET_ERR_AGAIN;
        if (posted < COUNT)
            status = gridnet_tag_recv(small, NULL, &in[posted], sizeof in[posted], 6, 0, &in[posted]);
        if (status != GRIDNET_ERR_AGAIN) {
            CHECK_STATUS(GRIDNET_IN_PROGRESS, status);
            posted++;
            CHECK(posted - received <= CAPACITY);
            continue;
        }
        refused += posted < COUNT;
        for (; sent < posted; sent++)
            node_send(&node, self, &sent, sizeof sent, 6);
        CHECK_STATUS(1, gridnet_cq_wait(small, &entry, 1, WAIT_NS));
        CHECK_OK(entry.status);
        CHECK(entry.context == &in[received] && in[received] == received);
        received++;
    }
    CHECK(refused > 0);
    CHECK_OK(gridnet_cq_destroy(small));
}

/* Closing an endpoint ends its sends that cannot leave; receives of the queue stay. */
static void close_while_pending(void)
{
    static char large[4000000];
    struct node silent = node_open(NULL);
    gridnet_endpoint *to_silent = node_link(&node, &silent);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_send(to_silent, large, sizeof large, 5, large));
    CHECK_OK(gridnet_endpoint_close(to_silent));
    gridnet_completion entry = node_wait(&node);
    CHECK_STATUS(GRIDNET_ERR_CANCELED, entry.status);
    CHECK(entry.context == large);
    node_close(&silent);
}

int main(void)
{
    test_limit(100);
    node = node_open(NULL);
    self = node_link(&node, &node);
    empty_message();
    truncated();
    more_than_31_bits();
    nothing_there();
    waits_end();
    bad_address();
    many_entries();
    full_queue();
    close_while_pending();
    node_close(&node);
    return EXIT_SUCCESS;
}
