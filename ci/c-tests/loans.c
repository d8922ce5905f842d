/* Loans between processes: read where they were written, back when their reader gives them back or is killed, readable
 * when their writer is killed, and named errors for what cannot be. */
#include "test.h"

#include <pthread.h>
#include <signal.h>

enum { TAG_KEEP = 1, TAG_BACK = 2, TAG_BYE = 3, TAG_ANSWER = 4, TAG_WRITTEN = 5, READERS = 3, THREADS = 2, EACH = 300 };

#define MIB ((size_t)1 << 20)

static struct node node;

/* What is said beside a loan: the seed of its bytes is its first word. */
static void *take(size_t length, uint64_t seed, gridnet_loan *loan)
{
    void *data;
    CHECK_OK(gridnet_loan_take(node.fabric, length, loan, &data));
    CHECK((uintptr_t)data % 64 == 0);
    fill(data, length, seed);
    return data;
}

/* The next message, lent. */
static gridnet_lent borrow(struct node *own, gridnet_endpoint *from, uint64_t tag, uint64_t ignore,
                           gridnet_completion *entry)
{
    gridnet_lent lent = {0, NULL, 0};
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_loan_recv(own->cq, from, &lent, tag, ignore, &lent));
    *entry = node_done(own);
    CHECK(entry->context == &lent && entry->op_kind == GRIDNET_OP_RECV && entry->length == lent.len);
    CHECK(lent.loan != 0);
    return lent;
}

/* Reads every loan that comes, answers with its length, and keeps it or gives it back, as the tag says. */
static void reader(void *name)
{
    struct node own = node_open(name);
    gridnet_endpoint *parent = NULL;
    gridnet_loan kept[64];
    size_t count = 0;
    for (;;) {
        gridnet_completion entry;
        gridnet_lent lent = borrow(&own, NULL, 0, UINT64_MAX, &entry);
        if (parent == NULL)
            CHECK_OK(gridnet_endpoint_open_source(own.cq, entry.source, &parent));
        CHECK(filled(lent.data, lent.len, lent.len));
        if (entry.tag == TAG_KEEP && count < sizeof kept / sizeof *kept)
            kept[count++] = lent.loan;
        else
            CHECK_OK(gridnet_loan_give_back(own.fabric, lent.loan));
        uint64_t length = lent.len;
        node_send(&own, parent, &length, sizeof length, TAG_ANSWER);
        if (entry.tag == TAG_BYE)
            break;
    }
    while (count > 0)
        CHECK_OK(gridnet_loan_give_back(own.fabric, kept[--count]));
    node_close(&own);
}

/* Sends two loans and lives on without a call until it is killed. */
static void writer(void *name)
{
    struct node own = node_open(NULL);
    gridnet_endpoint *parent = node_connect(&own, name);
    for (size_t length = MIB; length <= 2 * MIB; length += MIB) {
        gridnet_loan loan;
        void *data;
        CHECK_OK(gridnet_loan_take(own.fabric, length, &loan, &data));
        fill(data, length, length);
        if (CHECK_SENT(gridnet_loan_send(parent, loan, length, TAG_WRITTEN, NULL)))
            node_done(&own);
    }
    for (;;)
        pause();
}

static void send_loan(gridnet_endpoint *to, size_t length, uint64_t tag)
{
    gridnet_loan loan;
    take(length, length, &loan);
    if (CHECK_SENT(gridnet_loan_send(to, loan, length, tag, NULL)))
        node_done(&node);
}

static void await_answer(gridnet_endpoint *from, size_t length)
{
    uint64_t answer = 0;
    node_recv(&node, from, &answer, sizeof answer, TAG_ANSWER);
    CHECK(answer == length);
}

static void kill_child(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

/* Takes a loan, polling while there is none. */
static gridnet_loan take_patiently(size_t length)
{
    gridnet_loan loan;
    void *data;
    gridnet_status status;
    while ((status = gridnet_loan_take(node.fabric, length, &loan, &data)) == GRIDNET_ERR_AGAIN) {
        gridnet_completion none;
        CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_cq_wait(node.cq, &none, 1, 1000000));
    }
    CHECK_OK(status);
    return loan;
}

static void all_sizes(gridnet_endpoint *peer)
{
    static const size_t sizes[] = {0, 1, 48, 49, 4096, 8193, 100000, 1 << 20, (20 << 20) + 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        send_loan(peer, sizes[i], TAG_BACK);
        await_answer(peer, sizes[i]);
    }
    /* A message that is no loan is lent all the same, and a loan is received into a buffer, elsewhere. */
    static char bytes[100000];
    for (size_t length = 0; length <= sizeof bytes; length = length * 10 + 10) {
        fill(bytes, length, length);
        node_send(&node, peer, bytes, length, TAG_BACK);
        await_answer(peer, length);
    }
}

/* The reader keeps all there are; they come back when it is killed. */
static void killed_reader(pid_t pid, gridnet_endpoint *peer)
{
    size_t length = 4 * MIB, sent = 0;
    gridnet_loan loan;
    void *data;
    gridnet_status status;
    while ((status = gridnet_loan_take(node.fabric, length, &loan, &data)) == GRIDNET_OK) {
        fill(data, length, length);
        CHECK(CHECK_SENT(gridnet_loan_send(peer, loan, length, TAG_KEEP, NULL)) == 0);
        await_answer(peer, length);
        sent++;
    }
    CHECK_STATUS(GRIDNET_ERR_AGAIN, status);
    CHECK(strstr(gridnet_last_error(), "GRIDNET_SHM_SEGMENT_SIZE") != NULL);
    CHECK(sent >= 8);
    /* Messages have room of their own. */
    static char bytes[100000];
    fill(bytes, sizeof bytes, sizeof bytes);
    node_send(&node, peer, bytes, sizeof bytes, TAG_BACK);
    await_answer(peer, sizeof bytes);

    kill_child(pid);
    gridnet_loan again[64];
    for (size_t i = 0; i < sent; i++)
        again[i] = take_patiently(length);
    CHECK_STATUS(GRIDNET_ERR_AGAIN, gridnet_loan_take(node.fabric, length, &loan, &data));
    for (size_t i = 0; i < sent; i++)
        CHECK_OK(gridnet_loan_give_back(node.fabric, again[i]));
    CHECK_OK(gridnet_loan_take(node.fabric, 2 * length, &loan, &data));
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, gridnet_loan_send(peer, loan, length, TAG_BACK, NULL));
    CHECK_OK(gridnet_loan_give_back(node.fabric, loan));
    CHECK_OK(gridnet_endpoint_close(peer));
}

static int mapped_segments(void)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, "memfd:gridnet") != NULL;
    fclose(maps);
    return count;
}

/* What a killed writer has sent stays readable, received or not, until it is given back. */
static void killed_writer(const char *name)
{
    int before = mapped_segments(), descriptors = open_descriptors();
    pid_t pid = test_spawn(writer, (void *)name);
    gridnet_completion entry;
    gridnet_lent first = borrow(&node, NULL, TAG_WRITTEN, 0, &entry);
    gridnet_probe_info info;
    while (gridnet_tag_probe(node.fabric, NULL, TAG_WRITTEN, 0, &info) == GRIDNET_ERR_NO_MESSAGE)
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
    CHECK(info.length == 2 * MIB);

    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open_source(node.cq, entry.source, &peer));
    kill_child(pid);
    gridnet_status status = gridnet_tag_recv(node.cq, peer, &info, sizeof info, TAG_ANSWER, 0, NULL);
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, status == GRIDNET_IN_PROGRESS ? node_wait(&node).status : status);

    CHECK(filled(first.data, MIB, MIB));
    gridnet_lent second = borrow(&node, peer, TAG_WRITTEN, 0, &entry);
    CHECK(second.len == 2 * MIB && filled(second.data, 2 * MIB, 2 * MIB));
    CHECK(mapped_segments() == before + 1);
    CHECK_OK(gridnet_loan_give_back(node.fabric, first.loan));
    CHECK(filled(second.data, 2 * MIB, 2 * MIB) && mapped_segments() == before + 1);
    CHECK_OK(gridnet_loan_give_back(node.fabric, second.loan));
    CHECK(mapped_segments() == before && open_descriptors() == descriptors);
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_give_back(node.fabric, second.loan));
    CHECK_OK(gridnet_endpoint_close(peer));
}

/* One loan for three readers; its memory is nobody else's until the last of them has given it back. */
static void shared_loan(gridnet_endpoint **readers)
{
    size_t length = 20 * MIB;
    gridnet_loan loan, other;
    void *data, *elsewhere;
    const char *written = take(length, length, &loan);
    for (int i = 0; i < READERS; i++)
        if (CHECK_SENT(gridnet_loan_share(readers[i], loan, length, TAG_KEEP, NULL)))
            node_done(&node);
    for (int i = 0; i < READERS; i++)
        await_answer(readers[i], length);
    CHECK(filled(written, length, length));
    CHECK_OK(gridnet_loan_give_back(node.fabric, loan));
    /* Two such fit into the segment, not three. */
    CHECK_OK(gridnet_loan_take(node.fabric, length, &other, &data));
    CHECK(data != (const void *)written);
    for (int i = 0; i < READERS; i++) {
        CHECK_STATUS(GRIDNET_ERR_AGAIN, gridnet_loan_take(node.fabric, length, &loan, &elsewhere));
        send_loan(readers[i], 8, TAG_BYE);
        await_answer(readers[i], 8);
    }
    loan = take_patiently(length);
    CHECK_OK(gridnet_loan_give_back(node.fabric, loan));
    CHECK_OK(gridnet_loan_give_back(node.fabric, other));
}

/* Calls that cannot be right: each has its error, and nothing comes of it. */
static void wrong_calls(gridnet_endpoint *peer)
{
    struct node stranger = node_open(NULL);
    gridnet_loan loan = 77, received;
    void *data = &loan;
    gridnet_completion entry;
    CHECK_STATUS(GRIDNET_ERR_LIMIT, gridnet_loan_take(node.fabric, SIZE_MAX, &loan, &data));
    CHECK_STATUS(GRIDNET_ERR_LIMIT, gridnet_loan_take(node.fabric, 64 * MIB, &loan, &data));
    CHECK(loan == 77 && data == &loan);

    take(1000, 1000, &loan);
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_loan_give_back(stranger.fabric, loan));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_loan_send(node_link(&stranger, &stranger), loan, 8, TAG_BACK, NULL));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_loan_send(peer, loan, 1001, TAG_BACK, NULL));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_loan_share(peer, loan, SIZE_MAX, TAG_BACK, NULL));
    CHECK_OK(gridnet_loan_give_back(node.fabric, loan));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_give_back(node.fabric, loan));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_send(peer, loan, 8, TAG_BACK, NULL));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_share(peer, loan, 8, TAG_BACK, NULL));
    CHECK(gridnet_loan_give_back(node.fabric, 0) < 0 && gridnet_loan_give_back(node.fabric, UINT64_MAX) < 0);

    take(1000, 1000, &loan);
    if (CHECK_SENT(gridnet_loan_send(peer, loan, 1000, TAG_BACK, NULL)))
        node_done(&node);
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_give_back(node.fabric, loan));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_send(peer, loan, 8, TAG_BACK, NULL));
    await_answer(peer, 1000);

    /* To itself it is a copy; what was received cannot be sent on as it is. */
    gridnet_endpoint *self = node_link(&node, &node);
    gridnet_lent lent = {0, NULL, 0};
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_loan_recv(node.cq, self, &lent, TAG_WRITTEN, 0, NULL));
    take(1000, 5, &loan);
    int entries = 1 + CHECK_SENT(gridnet_loan_send(self, loan, 1000, TAG_WRITTEN, NULL));
    while (entries-- > 0)
        node_done(&node);
    CHECK(lent.len == 1000 && filled(lent.data, 1000, 5));
    received = lent.loan;
    CHECK_STATUS(GRIDNET_ERR_UNSUPPORTED, gridnet_loan_send(peer, received, 8, TAG_BACK, NULL));
    CHECK_OK(gridnet_loan_give_back(node.fabric, received));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_loan_give_back(node.fabric, received));

    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_loan_recv(node.cq, NULL, &lent, 99, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_cq_wait(node.cq, &entry, 1, 0));
    CHECK_OK(gridnet_endpoint_close(self));
    node_close(&stranger);
}

/* A matched probe takes a message, which is then lent. */
static void matched(void)
{
    gridnet_endpoint *self = node_link(&node, &node);
    gridnet_message *message;
    gridnet_probe_info info;
    gridnet_lent lent;
    static char bytes[5000];
    fill(bytes, sizeof bytes, 6);
    node_send(&node, self, bytes, sizeof bytes, 50);
    while (gridnet_tag_mprobe(node.fabric, self, 50, 0, &info, &message) == GRIDNET_ERR_NO_MESSAGE)
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_message_recv_loan(node.cq, message, &lent, NULL));
    CHECK(node_done(&node).length == sizeof bytes && filled(lent.data, lent.len, 6));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_message_recv_loan(node.cq, message, &lent, NULL));
    CHECK_OK(gridnet_loan_give_back(node.fabric, lent.loan));
    CHECK_OK(gridnet_endpoint_close(self));
}

static struct node open_at(uint32_t level)
{
    struct node opened;
    gridnet_fabric_params params = test_params(NULL);
    params.thread_level = level;
    CHECK_OK(gridnet_fabric_open(&params, &opened.fabric));
    CHECK_OK(gridnet_cq_create(opened.fabric, 0, &opened.cq));
    return opened;
}

/* Both fabrics are of this process: the sender is driven until the receiver has an entry. */
static gridnet_completion await(struct node *from, struct node *to)
{
    gridnet_completion entry;
    gridnet_status count;
    while ((count = gridnet_cq_poll(to->cq, &entry, 1)) == 0)
        CHECK(gridnet_fabric_progress(from->fabric) >= 0);
    CHECK_STATUS(1, count);
    CHECK_OK(entry.status);
    return entry;
}

struct lending {
    struct node *from;
    gridnet_endpoint *to;
    uint64_t tag;
};

/* One of several threads that lend through one endpoint. */
static void *lend_many(void *argument)
{
    struct lending *lending = argument;
    for (int i = 0; i < EACH; i++) {
        gridnet_loan loan;
        void *data;
        gridnet_status status;
        while ((status = gridnet_loan_take(lending->from->fabric, 5000, &loan, &data)) == GRIDNET_ERR_AGAIN)
            CHECK(gridnet_fabric_progress(lending->from->fabric) >= 0);
        CHECK_OK(status);
        fill(data, 5000, lending->tag + (uint64_t)i);
        CHECK_SENT(gridnet_loan_send(lending->to, loan, 5000, lending->tag, NULL));
    }
    return NULL;
}

static void many_threads(struct node *from, struct node *to, gridnet_endpoint *peer)
{
    pthread_t threads[THREADS];
    struct lending lending[THREADS];
    uint64_t next[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) {
        lending[i] = (struct lending){from, peer, (uint64_t)(i + 1) << 32};
        CHECK(pthread_create(&threads[i], NULL, lend_many, &lending[i]) == 0);
    }
    for (int i = 0; i < THREADS * EACH; i++) {
        gridnet_lent lent;
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_loan_recv(to->cq, NULL, &lent, 0, UINT64_MAX, NULL));
        gridnet_completion entry = await(from, to);
        uint64_t thread = (entry.tag >> 32) - 1;
        CHECK(thread < THREADS && filled(lent.data, lent.len, entry.tag + next[thread]++));
        CHECK_OK(gridnet_loan_give_back(to->fabric, lent.loan));
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0 && next[i] == EACH);
}

/* The same at each thread level; at the highest, with threads. */
static void thread_levels(void)
{
    static const uint32_t levels[] = {GRIDNET_THREAD_SINGLE, GRIDNET_THREAD_SERIALIZED, GRIDNET_THREAD_MULTIPLE};
    for (size_t at = 0; at < sizeof levels / sizeof *levels; at++) {
        struct node from = open_at(levels[at]), to = open_at(levels[at]);
        gridnet_endpoint *peer = node_link(&from, &to);
        for (uint64_t i = 0; i < 50; i++) {
            gridnet_lent lent;
            gridnet_loan loan;
            void *data;
            CHECK_OK(gridnet_loan_take(from.fabric, 5000, &loan, &data));
            fill(data, 5000, i);
            CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_loan_recv(to.cq, NULL, &lent, i, 0, NULL));
            bool pending = CHECK_SENT(gridnet_loan_send(peer, loan, 5000, i, NULL));
            await(&from, &to);
            CHECK(lent.len == 5000 && filled(lent.data, 5000, i));
            CHECK_OK(gridnet_loan_give_back(to.fabric, lent.loan));
            if (pending)
                node_done(&from);
        }
        if (levels[at] == GRIDNET_THREAD_MULTIPLE)
            many_threads(&from, &to, peer);
        node_close(&from);
        node_close(&to);
    }
}

static double available_gib(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "MemAvailable: %llu", &kib) != 1)
        continue;
    fclose(file);
    return (double)kib / (1 << 20);
}

/* More than 32 bits count. */
static void three_gib(const char *name)
{
    if (!test_wants("TEST_BIG") || available_gib() < 6) {
        printf("SKIPPED: loan of 3 GiB: needs TEST_BIG=1 and 6 GiB of memory\n");
        return;
    }
    pid_t pid = test_spawn(reader, (void *)name);
    const char *options[] = {"GRIDNET_SHM_SEGMENT_SIZE=4g", NULL};
    gridnet_fabric_params params = test_params(NULL);
    params.options = options;
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    gridnet_endpoint *peer = node_connect(&node, name);
    send_loan(peer, 3 * (MIB << 10), TAG_BYE);
    await_answer(peer, 3 * (MIB << 10));
    test_join(pid);
    node_close(&node);
}

int main(void)
{
    test_limit(100);
    char names[READERS + 2][64];
    pid_t pids[READERS + 1];
    gridnet_endpoint *peers[READERS + 1];
    for (int i = 0; i < READERS + 2; i++)
        snprintf(names[i], sizeof *names, "%s-%d", test_name("loans"), i);
    for (int i = 0; i < READERS + 1; i++)
        pids[i] = test_spawn(reader, names[i]);

    const char *options[] = {"GRIDNET_SHM_SEGMENT_SIZE=64m", NULL};
    gridnet_fabric_params params = test_params(names[READERS + 1]);
    params.options = options;
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    for (int i = 0; i < READERS + 1; i++)
        peers[i] = node_connect(&node, names[i]);

    all_sizes(peers[0]);
    wrong_calls(peers[0]);
    matched();
    killed_writer(names[READERS + 1]);
    killed_reader(pids[READERS], peers[READERS]);
    shared_loan(peers);
    for (int i = 0; i < READERS; i++)
        test_join(pids[i]);
    node_close(&node);
    thread_levels();
    three_gib(names[0]);
    return EXIT_SUCCESS;
}
