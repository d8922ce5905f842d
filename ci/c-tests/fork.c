/* A fabric does not cross a fork: the child is told so, opens its own and talks to the parent. */
#include "calls.h"

enum { TAG_HELLO = 1, TAG_ANSWER = 2 };

static struct node node;
static struct handles inherited;

/* Large enough to need the rendezvous protocol. */
static char large[1000000];

static void child(void *parent_name)
{
    all_calls(inherited, GRIDNET_ERR_FORKED);
    struct node own = node_open(NULL);
    gridnet_endpoint *parent = node_connect(&own, parent_name);
    fill(large, sizeof large, 1);
    node_send(&own, parent, large, sizeof large, TAG_HELLO);
    CHECK(node_recv(&own, parent, large, sizeof large, TAG_ANSWER).length == sizeof large);
    CHECK(filled(large, sizeof large, 2));
    node_close(&own);

    /* What was inherited is still refused, and has done no harm. */
    all_calls(inherited, GRIDNET_ERR_FORKED);
}

static void answer_child(void)
{
    gridnet_completion hello = node_recv(&node, NULL, large, sizeof large, TAG_HELLO);
    CHECK(hello.length == sizeof large && filled(large, sizeof large, 1));
    gridnet_endpoint *endpoint;
    CHECK_OK(gridnet_endpoint_open_source(node.cq, hello.source, &endpoint));
    fill(large, sizeof large, 2);
    node_send(&node, endpoint, large, sizeof large, TAG_ANSWER);
    CHECK_OK(gridnet_endpoint_close(endpoint));
}

int main(void)
{
    test_limit(60);
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("parent"));
    node = node_open(name);
    inherited = all_handles(&node);

    /* A receive that is pending over the fork belongs to the parent. */
    int value = 0;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, inherited.endpoint, &value, sizeof value, 3, 0, &value));
    for (int i = 0; i < 3; i++) {
        pid_t pid = test_spawn(child, name);
        answer_child();
        test_join(pid);
    }

    int sent = 42;
    int entries = 1 + CHECK_SENT(gridnet_tag_send(inherited.endpoint, &sent, sizeof sent, 3, NULL));
    while (entries-- > 0)
        node_done(&node);
    CHECK(value == 42);
    node_close(&node);
    return EXIT_SUCCESS;
}
