/* Tagged messages between two fabrics of one process, and from a fabric to itself. */
#include "test.h"

static struct node a, b;
static gridnet_endpoint *to_b, *to_a;

/* With manual progress each side moves only inside its own calls: drive both until one has an entry. */
static gridnet_completion await_entry(struct node *node)
{
    gridnet_completion entry;
    for (;;) {
        gridnet_status count = gridnet_cq_poll(node->cq, &entry, 1);
        CHECK(count >= 0);
        if (count == 1)
            return entry;
        CHECK(gridnet_fabric_progress(a.fabric) >= 0);
        CHECK(gridnet_fabric_progress(b.fabric) >= 0);
    }
}

static gridnet_completion done(struct node *node)
{
    gridnet_completion entry = await_entry(node);
    CHECK_OK(entry.status);
    return entry;
}

static void put(struct node *node, gridnet_endpoint *to, const void *data, size_t length, uint64_t tag)
{
    if (CHECK_SENT(gridnet_tag_send(to, data, length, tag, NULL)))
        done(node);
}

static gridnet_completion recv_masked(struct node *node, gridnet_endpoint *from, void *data, size_t length,
                                      uint64_t tag, uint64_t ignore)
{
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node->cq, from, data, length, tag, ignore, NULL));
    return done(node);
}

static gridnet_completion take(struct node *node, gridnet_endpoint *from, void *data, size_t length, uint64_t tag)
{
    return recv_masked(node, from, data, length, tag, 0);
}

/* Sends from a to b with the receive posted before or after; checks everything that the entry says. */
static void deliver(size_t length, uint64_t tag, bool posted)
{
    static int here, there;
    char *out = malloc(length + 1), *in = malloc(length + 1);
    CHECK(out != NULL && in != NULL);
    fill(out, length, tag);
    memset(in, 0, length + 1);
    in[length] = 'x';

    if (posted)
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, in, length, tag, 0, &there));
    bool pending = CHECK_SENT(gridnet_tag_send(to_b, out, length, tag, &here));
    if (!posted)
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, in, length, tag, 0, &there));
    gridnet_completion entry = done(&b);
    CHECK(entry.context == &there && entry.op_kind == GRIDNET_OP_RECV);
    CHECK(entry.length == length && entry.tag == tag && entry.flags == 0);
    CHECK(filled(in, length, tag) && in[length] == 'x');
    if (pending) {
        entry = done(&a);
        CHECK(entry.context == &here && entry.op_kind == GRIDNET_OP_SEND && entry.length == length);
    }
    free(out);
    free(in);
}

static void sizes(void)
{
    for (size_t length = 0; length <= 70000; length += length < 300 ? 1 : 733)
        deliver(length, length, length % 2 == 0);
    static const size_t edges[] = {4095, 4096, 4097, 8191, 8192, 8193, 65535, 65536, 65537, 1 << 20, 8 << 20};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        deliver(edges[i], 1, true);
        deliver(edges[i], 2, false);
    }
}

static void tags_and_masks(void)
{
    uint64_t value;
    for (uint64_t i = 1; i <= 3; i++)
        put(&a, to_b, &i, sizeof i, 0x100 + i);
    CHECK(take(&b, NULL, &value, sizeof value, 0x103).tag == 0x103 && value == 3);
    CHECK(recv_masked(&b, NULL, &value, sizeof value, 0x100, 0xff).tag == 0x101 && value == 1);
    CHECK(recv_masked(&b, NULL, &value, sizeof value, 0, UINT64_MAX).tag == 0x102 && value == 2);

    /* Of two posted receives that fit, the older one takes the message, exact or not. */
    uint64_t wide = 0, exact = 0;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, &wide, sizeof wide, 0, UINT64_MAX, &wide));
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, &exact, sizeof exact, 7, 0, &exact));
    for (uint64_t i = 10; i < 12; i++)
        put(&a, to_b, &i, sizeof i, 7);
    CHECK(done(&b).context == &wide && done(&b).context == &exact);
    CHECK(wide == 10 && exact == 11);

    /* All 64 bits of a tag count. */
    uint64_t high = 1;
    put(&a, to_b, &high, sizeof high, UINT64_MAX);
    put(&a, to_b, &high, sizeof high, UINT64_C(1) << 63);
    CHECK(take(&b, NULL, &value, sizeof value, UINT64_C(1) << 63).tag == UINT64_C(1) << 63);
    CHECK(take(&b, NULL, &value, sizeof value, UINT64_MAX).tag == UINT64_MAX);
}

/* Messages of one sender keep their order, small and large mixed. */
static void order(void)
{
    enum { COUNT = 200, LARGE = 100000 };
    static uint32_t out[COUNT][LARGE / 4], in[LARGE / 4];
    int pending = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        out[i][0] = i;
        pending += CHECK_SENT(gridnet_tag_send(to_b, out[i], i % 7 == 0 ? LARGE : 8, 5, NULL));
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, in, sizeof in, 5, 0, NULL));
        gridnet_completion entry = done(&b);
        CHECK(in[0] == i && entry.length == (i % 7 == 0 ? LARGE : 8));
    }
    while (pending-- > 0)
        done(&a);
}

/* A receive that names its source takes nothing from another. */
static void sources(void)
{
    gridnet_endpoint *self = node_link(&b, &b);
    uint32_t source_a, source_self;
    int from_a = 1, from_self = 2, value = 0;
    CHECK_OK(gridnet_endpoint_source(to_a, &source_a));
    CHECK_OK(gridnet_endpoint_source(self, &source_self));
    CHECK(source_a != source_self);

    put(&b, self, &from_self, sizeof from_self, 9);
    put(&a, to_b, &from_a, sizeof from_a, 9);
    CHECK(take(&b, to_a, &value, sizeof value, 9).source == source_a && value == from_a);
    CHECK(take(&b, self, &value, sizeof value, 9).source == source_self && value == from_self);

    /* The source of an entry is enough to answer. */
    put(&a, to_b, &from_a, sizeof from_a, 9);
    gridnet_endpoint *answer;
    CHECK_OK(gridnet_endpoint_open_source(b.cq, take(&b, NULL, &value, sizeof value, 9).source, &answer));
    put(&b, answer, &value, sizeof value, 10);
    CHECK(take(&a, NULL, &value, sizeof value, 10).length == sizeof value);
    CHECK_OK(gridnet_endpoint_close(answer));
    CHECK_OK(gridnet_endpoint_close(self));
}

static void send_to_self(void)
{
    gridnet_endpoint *self = node_link(&a, &a);
    enum { LARGE = 3000001 };
    char *out = malloc(LARGE), *in = malloc(LARGE);
    CHECK(out != NULL && in != NULL);
    for (size_t length = 0; length <= LARGE; length = length * 5 + 1) {
        fill(out, length, length);
        int entries = 1 + CHECK_SENT(gridnet_tag_send(self, out, length, 1, NULL));
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(a.cq, self, in, length, 1, 0, NULL));
        while (entries-- > 0)
            CHECK(done(&a).length == length);
        CHECK(filled(in, length, length));
    }
    free(out);
    free(in);
    CHECK_OK(gridnet_endpoint_close(self));
}

/* Progresses b until a message is there to be seen. */
static gridnet_probe_info probe(uint64_t tag, uint64_t ignore)
{
    gridnet_probe_info info;
    gridnet_status status;
    while ((status = gridnet_tag_probe(b.fabric, NULL, tag, ignore, &info)) == GRIDNET_ERR_NO_MESSAGE) {
        CHECK(gridnet_fabric_progress(a.fabric) >= 0);
        CHECK(gridnet_fabric_progress(b.fabric) >= 0);
    }
    CHECK_OK(status);
    return info;
}

static void probing(void)
{
    char out[500], in[500];
    fill(out, sizeof out, 3);
    CHECK(!CHECK_SENT(gridnet_tag_send(to_b, out, sizeof out, 0x31, NULL)) || done(&a).length == sizeof out);
    gridnet_probe_info info = probe(0x30, 0xf);
    CHECK(info.length == sizeof out && info.tag == 0x31);
    info = probe(0x31, 0); /* still there */
    gridnet_completion entry = take(&b, NULL, in, sizeof in, info.tag);
    CHECK(entry.source == info.source && filled(in, sizeof in, 3));
    CHECK_STATUS(GRIDNET_ERR_NO_MESSAGE, gridnet_tag_probe(b.fabric, NULL, 0x31, 0, &info));
}

/* A matched probe takes the message out of matching; the handle receives it later, in any order. */
static void matched_probe(void)
{
    enum { LARGE = 200000 };
    static char out[2][LARGE], in[LARGE];
    const size_t lengths[2] = {100, LARGE};
    gridnet_message *messages[2];
    gridnet_probe_info info;
    int pending = 0;
    for (int i = 0; i < 2; i++) {
        fill(out[i], lengths[i], (uint64_t)i);
        pending += CHECK_SENT(gridnet_tag_send(to_b, out[i], lengths[i], 0x40, NULL));
    }
    for (int i = 0; i < 2; i++) {
        probe(0x40, 0);
        CHECK_OK(gridnet_tag_mprobe(b.fabric, NULL, 0x40, 0, &info, &messages[i]));
        CHECK(info.length == lengths[i] && info.tag == 0x40);
    }
    CHECK_STATUS(GRIDNET_ERR_NO_MESSAGE, gridnet_tag_mprobe(b.fabric, NULL, 0x40, 0, &info, &messages[0]));
    for (int i = 1; i >= 0; i--) {
        CHECK(gridnet_message_recv(b.cq, messages[i], in, sizeof in, in) >= GRIDNET_OK);
        gridnet_completion entry = done(&b);
        CHECK(entry.context == in && entry.length == lengths[i] && entry.tag == 0x40);
        CHECK(filled(in, lengths[i], (uint64_t)i));
        CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_message_recv(b.cq, messages[i], in, sizeof in, NULL));
    }
    while (pending-- > 0)
        done(&a);
}

/* A canceled receive has its entry and takes no message afterwards. */
static void cancel(void)
{
    int wrong = 0, right = 0, value = 77;
    gridnet_iov part = {&wrong, sizeof wrong, 0, 0};
    gridnet_recv_params params;
    gridnet_op op = 0;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.iov = &part;
    params.iov_count = 1;
    params.tag = 0x50;
    params.context = &wrong;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recvx(b.cq, &params, &op));
    CHECK(op != 0);
    CHECK_OK(gridnet_cancel(b.fabric, op));
    gridnet_completion entry = await_entry(&b);
    CHECK_STATUS(GRIDNET_ERR_CANCELED, entry.status);
    CHECK(entry.context == &wrong && entry.op == op);
    CHECK_STATUS(GRIDNET_ERR_NOT_FOUND, gridnet_cancel(b.fabric, op));

    put(&a, to_b, &value, sizeof value, 0x50);
    take(&b, NULL, &right, sizeof right, 0x50);
    CHECK(right == 77 && wrong == 0);
}

static gridnet_send_params send_params(const gridnet_iov *iov, size_t count, uint64_t tag, uint32_t flags)
{
    gridnet_send_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.iov = iov;
    params.iov_count = count;
    params.tag = tag;
    params.flags = flags;
    return params;
}

/* A synchronous send is done only when its receive is there, however small the message. */
static void synchronous_send(void)
{
    static char out[100000], in[100000];
    for (size_t length = 0; length <= sizeof out; length += 25000) {
        gridnet_iov part = {out, length, 0, 0};
        gridnet_send_params params = send_params(&part, 1, 0x60, GRIDNET_SEND_SYNC);
        gridnet_completion entry;
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_sendx(to_b, &params, NULL));
        probe(0x60, 0);
        for (int i = 0; i < 1000; i++) {
            CHECK(gridnet_fabric_progress(b.fabric) >= 0);
            CHECK_STATUS(0, gridnet_cq_poll(a.cq, &entry, 1));
        }
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, in, sizeof in, 0x60, 0, NULL));
        done(&a);
        done(&b);
    }
}

static void immediates(void)
{
    static char out[100000], in[100000];
    static const size_t lengths[] = {0, 8, 48, 49, 5000, 100000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        gridnet_iov part = {out, lengths[i], 0, 0};
        gridnet_send_params params = send_params(&part, 1, 0x70, GRIDNET_SEND_IMMEDIATE);
        params.immediate = UINT64_C(0xfedcba9876543210) + i;
        bool pending = CHECK_SENT(gridnet_tag_sendx(to_b, &params, NULL));
        gridnet_probe_info info = probe(0x70, 0);
        CHECK(info.immediate == params.immediate && (info.flags & GRIDNET_COMPLETION_IMMEDIATE));
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(b.cq, NULL, in, sizeof in, 0x70, 0, NULL));
        gridnet_completion entry = done(&b);
        CHECK(entry.flags == GRIDNET_COMPLETION_IMMEDIATE && entry.immediate == params.immediate);
        CHECK(entry.length == lengths[i]);
        if (pending)
            done(&a);
    }
}

/* A send that asks for an entry has one, even when it is done at once. */
static void forced_completion(void)
{
    uint64_t value = 5;
    gridnet_iov part = {&value, sizeof value, 0, 0};
    gridnet_send_params params = send_params(&part, 1, 0x80, GRIDNET_SEND_COMPLETION);
    gridnet_op op = 0;
    params.context = &params;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_sendx(to_b, &params, &op));
    gridnet_completion entry = done(&a);
    CHECK(entry.context == &params && entry.op_kind == GRIDNET_OP_SEND && entry.tag == 0x80 && entry.op == op);
    take(&b, NULL, &value, sizeof value, 0x80);
}

/* Splits `length` bytes into parts of uneven lengths, some of them empty. */
static void split(gridnet_iov *parts, size_t count, char *base, size_t length)
{
    memset(parts, 0, count * sizeof *parts);
    for (size_t i = 0; i < count; i++) {
        size_t part = i + 1 == count ? length : i % 5 == 3 ? 0 : length / (count - i) + i % 2;
        part = part < length ? part : length;
        parts[i].base = base;
        parts[i].len = part;
        base += part;
        length -= part;
    }
}

static void scattered(void)
{
    static char out[300000], in[300000];
    static const size_t lengths[] = {0, 5, 48, 300, 9000, 70000, 300000};
    gridnet_iov from[16], to[16];
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t count = 1; count <= 16; count++) {
            fill(out, lengths[i], count);
            memset(in, 0, sizeof in);
            split(from, count, out, lengths[i]);
            split(to, 17 - count, in, lengths[i]);
            gridnet_send_params send = send_params(from, count, 0x90, 0);
            gridnet_recv_params recv;
            memset(&recv, 0, sizeof recv);
            recv.size = sizeof recv;
            recv.iov = to;
            recv.iov_count = 17 - count;
            recv.tag = 0x90;
            bool pending = CHECK_SENT(gridnet_tag_sendx(to_b, &send, NULL));
            CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recvx(b.cq, &recv, NULL));
            gridnet_completion entry = done(&b);
            CHECK(entry.length == lengths[i] && filled(in, lengths[i], count));
            if (pending)
                done(&a);
        }
}

static void counters(void)
{
    gridnet_counters all, one;
    all.size = one.size = sizeof all;
    CHECK_OK(gridnet_fabric_counters(a.fabric, &all));
    CHECK_OK(gridnet_endpoint_counters(to_b, &one));
    CHECK(all.messages_sent > 500 && one.messages_sent > 500 && one.messages_sent <= all.messages_sent);
    CHECK(one.bytes_sent > 10 << 20 && all.sends_eager > 0 && all.sends_rendezvous > 0);
    CHECK(all.pending_now == 0 && all.unexpected_now == 0 && all.unexpected_bytes_now == 0 && all.peers_now >= 1);
}

static void explain(void)
{
    char text[4096], small[8] = "1234567";
    size_t needed = 0, again = 0;
    CHECK_OK(gridnet_endpoint_explain(to_b, text, sizeof text, &needed));
    CHECK(strstr(text, "shm") != NULL && needed == strlen(text) + 1);
    gridnet_endpoint_explain(to_b, small, sizeof small, &again);
    CHECK(again == needed && memchr(small, 0, sizeof small) != NULL);
}

static void groups(void)
{
    gridnet_address addresses[2];
    gridnet_group *group;
    gridnet_endpoint *endpoint, *again;
    size_t size = 0, rank = 9;
    uint32_t source;
    int value = 6;
    CHECK_OK(gridnet_fabric_address(a.fabric, &addresses[0]));
    CHECK_OK(gridnet_fabric_address(b.fabric, &addresses[1]));
    CHECK_OK(gridnet_group_create(a.cq, addresses, 2, &group));
    CHECK_OK(gridnet_group_size(group, &size));
    CHECK_OK(gridnet_group_endpoint(group, 1, &endpoint));
    CHECK_OK(gridnet_group_endpoint(group, 1, &again));
    CHECK(size == 2 && endpoint == again);
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_group_endpoint(group, 2, &endpoint));
    CHECK_OK(gridnet_endpoint_source(again, &source));
    CHECK_OK(gridnet_group_rank(group, source, &rank));
    CHECK(rank == 1);
    put(&a, again, &value, sizeof value, 0xa0);
    take(&b, NULL, &value, sizeof value, 0xa0);
    CHECK_OK(gridnet_group_destroy(group));
}

int main(void)
{
    test_limit(100);
    a = node_open(NULL);
    b = node_open(NULL);
    to_b = node_link(&a, &b);
    to_a = node_link(&b, &a);
    sizes();
    tags_and_masks();
    order();
    sources();
    send_to_self();
    probing();
    matched_probe();
    cancel();
    synchronous_send();
    immediates();
    forced_completion();
    scattered();
    groups();
    counters();
    explain();
    node_close(&a);
    node_close(&b);
    return EXIT_SUCCESS;
}
