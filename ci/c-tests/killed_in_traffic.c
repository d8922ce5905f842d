/* A peer killed at any moment of busy traffic: each message is there as a whole or not at all,
 * each operation ends, and the next peer starts afresh. */
#include "test.h"

#include <signal.h>

enum { TAG = 1, DEPTH = 6, LARGE = 300000 };

/* A buffer of one direction. Its address is the context of the operation on it. */
struct slot {
    uint64_t number; /* which message: the n-th receive takes the n-th one, though it may end later than the next */
    bool busy;       /* an entry is to come */
    unsigned char bytes[LARGE];
};

struct traffic {
    struct node node;
    gridnet_endpoint *peer;
    uint64_t sent, posted, received;
    struct slot in[DEPTH], out[DEPTH];
};

/* Inline, eager and rendezvous by turns. */
static size_t length_of(uint64_t number)
{
    static const size_t lengths[] = {8, 3000, 40, LARGE, 100, 70000, 9000};
    return lengths[number % 7];
}

static gridnet_status post_receive(struct traffic *traffic, struct slot *slot)
{
    slot->number = traffic->posted++;
    gridnet_status status = gridnet_tag_recv(traffic->node.cq, traffic->peer, slot->bytes, LARGE, TAG, 0, slot);
    slot->busy = status == GRIDNET_IN_PROGRESS;
    return status;
}

/* Fills each free buffer and sends it. */
static gridnet_status send_all(struct traffic *traffic)
{
    for (struct slot *slot = traffic->out; slot < traffic->out + DEPTH; slot++) {
        if (slot->busy)
            continue;
        size_t length = length_of(traffic->sent);
        fill(slot->bytes, length, traffic->sent);
        gridnet_status status = gridnet_tag_send(traffic->peer, slot->bytes, length, TAG, slot);
        if (status < 0)
            return status;
        traffic->sent++;
        slot->busy = status == GRIDNET_IN_PROGRESS;
    }
    return GRIDNET_OK;
}

static bool anything_pending(const struct traffic *traffic)
{
    for (int i = 0; i < DEPTH; i++)
        if (traffic->in[i].busy || traffic->out[i].busy)
            return true;
    return false;
}

/* Takes one entry; a message that has arrived is whole, and its receive is posted anew. */
static gridnet_status take_entry(struct traffic *traffic)
{
    gridnet_completion entry = node_wait(&traffic->node);
    struct slot *slot = entry.context;
    CHECK(slot->busy);
    slot->busy = false;
    if (entry.status != GRIDNET_OK || entry.op_kind == GRIDNET_OP_SEND)
        return entry.status;
    CHECK(entry.length == length_of(slot->number));
    CHECK(filled(slot->bytes, entry.length, slot->number));
    traffic->received++;
    return post_receive(traffic, slot);
}

/* Until `messages` have arrived, or for ever. */
static void run(struct traffic *traffic, uint64_t messages)
{
    for (int i = 0; i < DEPTH; i++)
        CHECK_STATUS(GRIDNET_IN_PROGRESS, post_receive(traffic, &traffic->in[i]));
    while (traffic->received < messages) {
        CHECK_OK(send_all(traffic));
        CHECK(take_entry(traffic) >= GRIDNET_OK);
    }
}

static void victim(void *name)
{
    static struct traffic traffic;
    traffic.node = node_open(name);
    gridnet_completion hello = node_recv(&traffic.node, NULL, NULL, 0, TAG + 1);
    CHECK_OK(gridnet_endpoint_open_source(traffic.node.cq, hello.source, &traffic.peer));
    run(&traffic, UINT64_MAX);
}

static void one_life(struct traffic *traffic, const char *name, uint64_t messages)
{
    pid_t pid = test_spawn(victim, (void *)name);
    traffic->sent = traffic->posted = traffic->received = 0;
    traffic->peer = node_connect(&traffic->node, name);
    node_send(&traffic->node, traffic->peer, NULL, 0, TAG + 1);
    run(traffic, messages);

    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    while (anything_pending(traffic)) {
        gridnet_status ended = take_entry(traffic);
        CHECK(ended >= GRIDNET_OK || ended == GRIDNET_ERR_PEER_GONE);
    }
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, send_all(traffic));
    CHECK_OK(gridnet_endpoint_close(traffic->peer));
}

int main(void)
{
    static struct traffic traffic;
    bool soak = test_wants("TEST_SOAK");
    test_limit(soak ? 1800 : 100);
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("victim"));
    traffic.node = node_open(NULL);
    one_life(&traffic, name, 100);
    int before = open_descriptors();
    for (uint64_t i = 0; i < (soak ? 2000 : 40); i++)
        one_life(&traffic, name, i * i % 211);
    CHECK(open_descriptors() == before);
    node_close(&traffic.node);
    return EXIT_SUCCESS;
}
