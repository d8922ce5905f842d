/* A peer killed with SIGKILL: every operation on it ends with PEER_GONE, what it held is given
 * back, and a new process of the same name is reachable. */
#include "test.h"

#include <signal.h>

enum { TAG_HELLO = 1, TAG_NEVER = 2, TAG_BYE = 3, PENDING = 16 };

static struct node node;
static char large[2000000];

/* Answers one hello, then lives on without a call to gridnet until it is killed. */
static void silent_peer(void *name)
{
    struct node own = node_open(name);
    uint32_t value;
    gridnet_endpoint *parent;
    gridnet_completion hello = node_recv(&own, NULL, &value, sizeof value, TAG_HELLO);
    CHECK_OK(gridnet_endpoint_open_source(own.cq, hello.source, &parent));
    node_send(&own, parent, &value, sizeof value, TAG_HELLO);
    for (;;)
        pause();
}

/* As above, but it ends orderly once it is told to. */
static void polite_peer(void *name)
{
    struct node own = node_open(name);
    uint32_t value;
    gridnet_endpoint *parent;
    gridnet_completion hello = node_recv(&own, NULL, &value, sizeof value, TAG_HELLO);
    CHECK_OK(gridnet_endpoint_open_source(own.cq, hello.source, &parent));
    node_send(&own, parent, &value, sizeof value, TAG_HELLO);
    node_recv(&own, parent, &value, sizeof value, TAG_BYE);
    node_close(&own);
}

/* Connects to the named process and hears from it; the endpoint is then in full use. */
static gridnet_endpoint *greet(const char *name)
{
    gridnet_endpoint *peer = node_connect(&node, name);
    uint32_t value = 7, answer = 0;
    node_send(&node, peer, &value, sizeof value, TAG_HELLO);
    node_recv(&node, peer, &answer, sizeof answer, TAG_HELLO);
    CHECK(answer == value);
    return peer;
}

static void kill_peer(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

/* Sends small messages until the peer, which does not read, has no room for more. */
static int fill_up(gridnet_endpoint *peer)
{
    static char small[1000];
    int pending = 0;
    for (int i = 0; i < 100000 && pending < PENDING; i++) {
        gridnet_status status = gridnet_tag_send(peer, small, sizeof small, TAG_NEVER, NULL);
        if (status == GRIDNET_ERR_AGAIN)
            break;
        pending += CHECK_SENT(status);
    }
    return pending;
}

static void every_operation_ends(pid_t pid, gridnet_endpoint *peer)
{
    static char in[PENDING][64];
    int entries = PENDING;
    uint32_t source;
    CHECK_OK(gridnet_endpoint_source(peer, &source));
    for (int i = 0; i < PENDING; i++) {
        CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, peer, in[i], sizeof in[i], TAG_NEVER, 0, in[i]));
        if (i % 4 == 0)
            entries += CHECK_SENT(gridnet_tag_send(peer, large, sizeof large, TAG_NEVER, NULL));
    }
    entries += fill_up(peer);
    CHECK(entries > PENDING + PENDING / 4);

    kill_peer(pid);
    while (entries-- > 0) {
        gridnet_completion entry = node_wait(&node);
        CHECK_STATUS(GRIDNET_ERR_PEER_GONE, entry.status);
        CHECK(entry.op_kind == GRIDNET_OP_SEND || entry.source == source);
    }
    gridnet_completion none;
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_cq_wait(node.cq, &none, 1, 1000000));
}

/* Nothing will come from a peer that has gone, and a probe says so; from others something may. */
static void probes_fail(gridnet_endpoint *peer)
{
    gridnet_probe_info info;
    gridnet_message *message;
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, gridnet_tag_probe(node.fabric, peer, TAG_NEVER, 0, &info));
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, gridnet_tag_mprobe(node.fabric, peer, TAG_NEVER, 0, &info, &message));
    CHECK_STATUS(GRIDNET_ERR_NO_MESSAGE, gridnet_tag_probe(node.fabric, NULL, TAG_NEVER, 0, &info));
}

/* Refused at once or by its entry, but refused. The receive is first: it waits until the death is known. */
static void later_operations_fail(gridnet_endpoint *peer)
{
    gridnet_status status = gridnet_tag_recv(node.cq, peer, large, 8, TAG_NEVER, 0, NULL);
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, status == GRIDNET_IN_PROGRESS ? node_wait(&node).status : status);
    status = gridnet_tag_send(peer, large, 8, TAG_NEVER, NULL);
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, status == GRIDNET_IN_PROGRESS ? node_wait(&node).status : status);
    probes_fail(peer);
}

/* A receive from anyone does not end with one peer: the next one may still send. */
static void any_source_stays(const char *name)
{
    uint32_t value = 0, answer;
    pid_t pid = test_spawn(silent_peer, (void *)name);
    gridnet_endpoint *peer = node_connect(&node, name);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, NULL, &value, sizeof value, TAG_NEVER, 0, &value));
    node_send(&node, peer, &value, sizeof value, TAG_HELLO);
    node_recv(&node, peer, &answer, sizeof answer, TAG_HELLO);
    kill_peer(pid);
    later_operations_fail(peer);
    CHECK_OK(gridnet_endpoint_close(peer));

    gridnet_endpoint *self = node_link(&node, &node);
    uint32_t sent = 99;
    int entries = 1 + CHECK_SENT(gridnet_tag_send(self, &sent, sizeof sent, TAG_NEVER, NULL));
    while (entries-- > 0)
        node_done(&node);
    CHECK(value == sent);
    CHECK_OK(gridnet_endpoint_close(self));
}

static void orderly_end(const char *name)
{
    uint32_t value = 1, never;
    pid_t pid = test_spawn(polite_peer, (void *)name);
    gridnet_endpoint *peer = greet(name);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, peer, &never, sizeof never, TAG_NEVER, 0, NULL));
    if (CHECK_SENT(gridnet_tag_send(peer, &value, sizeof value, TAG_BYE, NULL)))
        node_done(&node);
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, node_wait(&node).status);
    test_join(pid);
    later_operations_fail(peer);
    CHECK_OK(gridnet_endpoint_close(peer));
}

int main(void)
{
    test_limit(100);
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("mortal"));
    int rounds = test_wants("TEST_SOAK") ? 100 : 5;

    /* Children first: they are forked before this process has a fabric. */
    pid_t first = test_spawn(silent_peer, name);
    node = node_open(NULL);
    gridnet_endpoint *peer = greet(name);
    every_operation_ends(first, peer);
    later_operations_fail(peer);
    CHECK_OK(gridnet_endpoint_close(peer));

    int before = open_descriptors();
    for (int i = 0; i < rounds; i++) {
        pid_t pid = test_spawn(silent_peer, name);
        peer = greet(name);
        every_operation_ends(pid, peer);
        later_operations_fail(peer);
        CHECK_OK(gridnet_endpoint_close(peer));
        CHECK(open_descriptors() == before);
    }
    any_source_stays(name);
    orderly_end(name);
    CHECK(open_descriptors() == before);
    node_close(&node);
    return EXIT_SUCCESS;
}
