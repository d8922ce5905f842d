/* Mixed traffic between eight processes on two cores: all lengths, loans, put, get, atomic operations, any-source receives, matched
 * probes, cancellation. Every byte is checked, and at the end every message and count. Seconds normally, ten minutes with
 * TEST_SOAK=1. */
#define _GNU_SOURCE /* sched_setaffinity */
#include "test.h"

#include <sched.h>
#include <time.h>

enum { RANKS = 8, LARGEST = 200000, RECEIVES = 12, LOAN_RECEIVES = 4, MOST_OPEN = 48, KEPT = 5, SLOT = 8192 };
/* The high byte of a tag; below it the sender's rank, then a number. */
enum { MESSAGE = 1, LOAN = 2, PROBED = 3, NEVER = 4, START = 5, COUNTS = 6, END = 7 };

#define TAG(kind, rank, number) ((uint64_t)(kind) << 56 | (uint64_t)(rank) << 48 | (number))
#define KIND(tag) ((tag) >> 56)
#define SENDER(tag) ((tag) >> 48 & 0xff)
#define NUMBER ((UINT64_C(1) << 48) - 1)
#define ANYBODY ((UINT64_C(1) << 56) - 1)

static char prefix[32];
static long seconds;

/* What is under way: the context of each operation begins with its kind. */
struct op {
    enum { SENDING, RECEIVING, LENDING, PUTTING, CANCELLED } kind;
    size_t length;
    unsigned char *bytes;
    /* What a get has to bring, or NULL. */
    unsigned char *expected;
    gridnet_lent lent;
};

static struct node node;
static int me;
static gridnet_endpoint *peers[RANKS];
static gridnet_rkey *rkeys[RANKS];
static gridnet_region *region;
static unsigned char *memory;
static uint64_t seed, sent[RANKS], added[RANKS], received[RANKS], cancelled, probed;
static int open_ops;
static gridnet_loan kept[KEPT];
static const unsigned char *kept_bytes[KEPT];
static size_t kept_length[KEPT];
static uint64_t kept_tag[KEPT];
static int next_kept;

static uint64_t number(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static size_t length_of(uint64_t tag)
{
    uint64_t hash = tag * UINT64_C(0x9e3779b97f4a7c15) >> 20;
    switch (hash % 16) {
    case 0: return 0;
    case 1: return hash / 16 % LARGEST;
    case 2: case 3: return hash / 16 % 20000;
    case 4: case 5: case 6: return hash / 16 % 2000;
    default: return hash / 16 % 64;
    }
}

static struct op *op_new(int kind, size_t length)
{
    struct op *op = calloc(1, sizeof *op);
    CHECK(op != NULL);
    op->kind = kind;
    op->length = length;
    op->bytes = malloc(length + 1);
    CHECK(op->bytes != NULL);
    op->bytes[length] = 0xa5;
    return op;
}

static void op_free(struct op *op)
{
    CHECK(op->bytes[op->length] == 0xa5);
    CHECK(op->expected == NULL || memcmp(op->bytes, op->expected, op->length) == 0);
    free(op->expected);
    free(op->bytes);
    free(op);
}

/* --- receiving --- */

static void post_receive(void)
{
    struct op *op = op_new(RECEIVING, LARGEST);
    CHECK_STATUS(GRIDNET_IN_PROGRESS,
                 gridnet_tag_recv(node.cq, NULL, op->bytes, LARGEST, TAG(MESSAGE, 0, 0), ANYBODY, op));
}

static void post_loan_receive(void)
{
    struct op *op = op_new(LENDING, 0);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_loan_recv(node.cq, NULL, &op->lent, TAG(LOAN, 0, 0), ANYBODY, op));
}

static void check_message(const gridnet_completion *entry, const void *bytes)
{
    CHECK(entry->length == length_of(entry->tag));
    CHECK(filled(bytes, entry->length, entry->tag));
    received[SENDER(entry->tag)]++;
}

/* A loan is kept for a while, and does not change meanwhile. */
static void keep_loan(const struct op *op, uint64_t tag)
{
    int place = next_kept++ % KEPT;
    if (kept[place] != 0) {
        CHECK(filled(kept_bytes[place], kept_length[place], kept_tag[place]));
        CHECK_OK(gridnet_loan_give_back(node.fabric, kept[place]));
    }
    kept[place] = op->lent.loan;
    kept_bytes[place] = op->lent.data;
    kept_length[place] = op->lent.len;
    kept_tag[place] = tag;
}

static void done(const gridnet_completion *entry)
{
    struct op *op = entry->context;
    if (op->kind == CANCELLED) {
        CHECK_STATUS(GRIDNET_ERR_CANCELED, entry->status);
        cancelled++;
        open_ops--;
        op_free(op);
        return;
    }
    CHECK_OK(entry->status);
    if (op->kind == RECEIVING) {
        check_message(entry, op->bytes);
        if (KIND(entry->tag) == MESSAGE)
            post_receive();
        else
            open_ops--;
    } else if (op->kind == LENDING) {
        check_message(entry, op->lent.data);
        keep_loan(op, entry->tag);
        post_loan_receive();
    } else {
        open_ops--;
    }
    op_free(op);
}

static void progress(void)
{
    gridnet_completion entries[16];
    gridnet_status count = gridnet_cq_poll(node.cq, entries, 16);
    CHECK(count >= 0);
    if (count == 0 && number(4) == 0) {
        count = gridnet_cq_wait(node.cq, entries, 16, SECOND / 1000);
        if (count == GRIDNET_ERR_TIMEOUT)
            return;
        CHECK(count >= 0);
    }
    for (gridnet_status i = 0; i < count; i++)
        done(&entries[i]);
}

/* --- what a process does at random --- */

static void started(gridnet_status status, struct op *op)
{
    if (CHECK_SENT(status))
        open_ops++;
    else
        op_free(op);
}

static void send_message(int rank, int kind)
{
    uint64_t tag = TAG(kind, me, sent[rank]++ * RANKS + (uint64_t)rank);
    struct op *op = op_new(SENDING, length_of(tag));
    fill(op->bytes, op->length, tag);
    started(gridnet_tag_send(peers[rank], op->bytes, op->length, tag, op), op);
}

static void send_loan(int rank)
{
    uint64_t tag = TAG(LOAN, me, sent[rank] * RANKS + (uint64_t)rank);
    size_t length = length_of(tag);
    gridnet_loan loan;
    void *data;
    gridnet_status status = gridnet_loan_take(node.fabric, length, &loan, &data);
    if (status == GRIDNET_ERR_AGAIN)
        return;
    CHECK_OK(status);
    fill(data, length, tag);
    sent[rank]++;
    struct op *op = op_new(SENDING, 0);
    started(gridnet_loan_send(peers[rank], loan, length, tag, op), op);
}

/* Every process has a slot of its own in each region: nobody else writes there. */
static void put_and_get(int rank)
{
    uint64_t offset = (uint64_t)(1 + me) * SLOT;
    size_t length = number(SLOT);
    struct op *put = op_new(PUTTING, length), *get = op_new(PUTTING, length);
    fill(put->bytes, length, number(1000));
    get->expected = malloc(length + 1);
    CHECK(get->expected != NULL);
    memcpy(get->expected, put->bytes, length);
    started(gridnet_put(peers[rank], put->bytes, length, rkeys[rank], offset, put), put);
    started(gridnet_get(peers[rank], get->bytes, length, rkeys[rank], offset, get), get);
}

static void add(int rank)
{
    gridnet_atomic_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.op = GRIDNET_ATOMIC_ADD;
    params.width = 8;
    params.operand = 1;
    struct op *op = op_new(PUTTING, 0);
    params.context = op;
    started(gridnet_atomic(peers[rank], rkeys[rank], &params), op);
    added[rank]++;
}

static void cancel_one(void)
{
    struct op *op = op_new(CANCELLED, 100);
    gridnet_iov iov = {op->bytes, op->length, GRIDNET_MEMORY_HOST, GRIDNET_NUMA_UNKNOWN};
    gridnet_recv_params params;
    gridnet_op name;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.iov = &iov;
    params.iov_count = 1;
    params.tag = TAG(NEVER, me, 0);
    params.context = op;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recvx(node.cq, &params, &name));
    open_ops++;
    CHECK_OK(gridnet_cancel(node.fabric, name));
}

static bool take_probed(void)
{
    gridnet_probe_info info;
    gridnet_message *message;
    gridnet_status found = gridnet_tag_mprobe(node.fabric, NULL, TAG(PROBED, 0, 0), ANYBODY, &info, &message);
    if (found == GRIDNET_ERR_NO_MESSAGE)
        return false;
    CHECK_OK(found);
    CHECK(info.length == length_of(info.tag));
    struct op *op = op_new(RECEIVING, info.length);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_message_recv(node.cq, message, op->bytes, op->length, op));
    open_ops++;
    probed++;
    return true;
}

static void act(void)
{
    int rank = (me + 1 + (int)number(RANKS - 1)) % RANKS;
    switch (number(16)) {
    default: send_message(rank, MESSAGE); break;
    case 0: case 1: case 2: send_loan(rank); break;
    case 3: case 4: put_and_get(rank); break;
    case 5: case 6: add(rank); break;
    case 7: cancel_one(); break;
    case 8: send_message(rank, PROBED); break;
    case 9: case 10: take_probed(); break;
    }
}

/* --- from beginning to end --- */

static void tell_all(int kind, const void *bytes[RANKS], size_t length)
{
    struct node own = node;
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &own.cq));
    for (int rank = 0; rank < RANKS; rank++) {
        if (rank == me)
            continue;
        gridnet_endpoint *endpoint;
        gridnet_address address;
        char name[64];
        snprintf(name, sizeof name, "%s-%d", prefix, rank);
        CHECK_OK(gridnet_fabric_lookup(own.fabric, name, WAIT_NS, &address));
        CHECK_OK(gridnet_endpoint_open(own.cq, &address, &endpoint));
        if (CHECK_SENT(gridnet_tag_send(endpoint, bytes[rank], length, TAG(kind, me, 0), NULL)))
            while (gridnet_cq_poll(own.cq, &(gridnet_completion){0}, 1) != 1)
                progress();
        CHECK_OK(gridnet_endpoint_close(endpoint));
    }
    CHECK_OK(gridnet_cq_destroy(own.cq));
}

/* From everybody; traffic goes on meanwhile. */
static void hear_all(int kind, void *bytes[RANKS], size_t length)
{
    struct node own = node;
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &own.cq));
    for (int rank = 0; rank < RANKS; rank++)
        if (rank != me)
            CHECK_STATUS(GRIDNET_IN_PROGRESS,
                         gridnet_tag_recv(own.cq, NULL, bytes[rank], length, TAG(kind, rank, 0), 0, NULL));
    for (int left = RANKS - 1; left > 0;) {
        gridnet_completion entry;
        gridnet_status count = gridnet_cq_poll(own.cq, &entry, 1);
        CHECK(count >= 0);
        if (count == 1)
            CHECK_OK(entry.status);
        left -= count;
        take_probed();
        progress();
    }
    CHECK_OK(gridnet_cq_destroy(own.cq));
}

static void meet(void)
{
    char name[64];
    gridnet_region_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.len = (RANKS + 1) * SLOT;
    params.access = GRIDNET_ACCESS_REMOTE_READ | GRIDNET_ACCESS_REMOTE_WRITE | GRIDNET_ACCESS_REMOTE_ATOMIC;
    params.numa_node = GRIDNET_NUMA_UNKNOWN;
    snprintf(name, sizeof name, "%s-%d", prefix, me);
    node = node_open(name);
    CHECK_OK(gridnet_region_allocate(node.fabric, &params, &region, (void **)&memory));
    static gridnet_key keys[RANKS];
    const void *out[RANKS];
    void *in[RANKS];
    CHECK_OK(gridnet_region_key(region, &keys[me]));
    for (int rank = 0; rank < RANKS; rank++) {
        out[rank] = &keys[me];
        in[rank] = &keys[rank];
    }
    tell_all(START, out, sizeof keys[0]);
    hear_all(START, in, sizeof keys[0]);
    for (int rank = 0; rank < RANKS; rank++) {
        if (rank == me)
            continue;
        snprintf(name, sizeof name, "%s-%d", prefix, rank);
        peers[rank] = node_connect(&node, name);
        CHECK_OK(gridnet_rkey_import(peers[rank], &keys[rank], &rkeys[rank]));
    }
    for (int i = 0; i < RECEIVES; i++)
        post_receive();
    for (int i = 0; i < LOAN_RECEIVES; i++)
        post_loan_receive();
}

/* Everybody says how much it has sent and added; all of that comes, and nothing else. */
static void settle(void)
{
    while (open_ops > 0)
        progress(), take_probed();
    uint64_t told[RANKS][2], heard[RANKS][2], sum = 0;
    const void *out[RANKS];
    void *in[RANKS];
    for (int rank = 0; rank < RANKS; rank++) {
        told[rank][0] = sent[rank];
        told[rank][1] = added[rank];
        out[rank] = told[rank];
        in[rank] = heard[rank];
    }
    tell_all(COUNTS, out, sizeof told[0]);
    hear_all(COUNTS, in, sizeof heard[0]);
    for (int rank = 0; rank < RANKS; rank++) {
        if (rank == me)
            continue;
        while (received[rank] < heard[rank][0] || open_ops > 0)
            progress(), take_probed();
        CHECK(received[rank] == heard[rank][0]);
        sum += heard[rank][1];
    }
    CHECK(__atomic_load_n((uint64_t *)memory, __ATOMIC_ACQUIRE) == sum);
    for (int place = 0; place < KEPT; place++)
        if (kept[place] != 0) {
            CHECK(filled(kept_bytes[place], kept_length[place], kept_tag[place]));
            CHECK_OK(gridnet_loan_give_back(node.fabric, kept[place]));
        }
    /* Nobody closes while another is still busy with it. */
    char word[RANKS];
    for (int rank = 0; rank < RANKS; rank++)
        out[rank] = in[rank] = &word[rank];
    tell_all(END, out, 1);
    hear_all(END, in, 1);
}

static void run(void *argument)
{
    me = *(int *)argument;
    seed = UINT64_C(88172645463325252) + (uint64_t)me;
    meet();
    time_t end = time(NULL) + seconds;
    while (time(NULL) < end)
        for (int i = 0; i < 100; i++) {
            if (open_ops < MOST_OPEN)
                act();
            progress();
        }
    settle();
    uint64_t messages = 0, adds = 0;
    for (int rank = 0; rank < RANKS; rank++)
        messages += received[rank], adds += added[rank];
    CHECK(messages > 0 && adds > 0 && cancelled > 0 && probed > 0);
    printf("RESULT soak, process %d: %llu messages received, %llu of them probed, %llu added, %llu cancelled\n", me,
           (unsigned long long)messages, (unsigned long long)probed, (unsigned long long)adds,
           (unsigned long long)cancelled);
    CHECK_OK(gridnet_fabric_close(node.fabric));
}

/* From now on this process, and those that it starts, have two cores, whatever the machine has. */
static void take_two_cores(void)
{
    cpu_set_t allowed, two;
    CPU_ZERO(&two);
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&two) < 2; core++)
        if (CPU_ISSET(core, &allowed))
            CPU_SET(core, &two);
    CHECK(sched_setaffinity(0, sizeof two, &two) == 0);
}

int main(void)
{
    static int ranks[RANKS];
    pid_t pids[RANKS];
    seconds = test_wants("TEST_SOAK") ? 600 : 15;
    test_limit((unsigned)seconds * 2 + 80);
    snprintf(prefix, sizeof prefix, "soak-%ld", (long)getpid());
    take_two_cores();
    for (int rank = 0; rank < RANKS; rank++) {
        ranks[rank] = rank;
        pids[rank] = test_spawn(run, &ranks[rank]);
    }
    for (int rank = 0; rank < RANKS; rank++)
        test_join(pids[rank]);
    return EXIT_SUCCESS;
}
