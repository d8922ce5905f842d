/* A fabric does not cross a fork: the child is told so, opens its own and talks to the parent. */
#include "test.h"

enum { TAG_HELLO = 1, TAG_ANSWER = 2 };

static struct node node;
static gridnet_endpoint *self;
static gridnet_group *group;
static gridnet_address address;

#define CHECK_FORKED(call) CHECK_STATUS(GRIDNET_ERR_FORKED, call)

static void inherited_handles(void)
{
    gridnet_address written;
    gridnet_completion entry;
    gridnet_counters counters;
    gridnet_endpoint *endpoint;
    gridnet_cq *cq;
    gridnet_probe_info info;
    size_t size;
    uint32_t source;
    int fd;
    char buffer[8] = "";
    counters.size = sizeof counters;
    CHECK_FORKED(gridnet_fabric_address(node.fabric, &written));
    CHECK_FORKED(gridnet_fabric_lookup(node.fabric, "anybody", 0, &written));
    CHECK_FORKED(gridnet_fabric_progress(node.fabric));
    CHECK_FORKED(gridnet_fabric_counters(node.fabric, &counters));
    CHECK_FORKED(gridnet_cq_create(node.fabric, 0, &cq));
    CHECK_FORKED(gridnet_cancel(node.fabric, 1));
    CHECK_FORKED(gridnet_tag_probe(node.fabric, NULL, 0, 0, &info));
    CHECK_FORKED(gridnet_cq_poll(node.cq, &entry, 1));
    CHECK_FORKED(gridnet_cq_wait(node.cq, &entry, 1, 0));
    CHECK_FORKED(gridnet_cq_fd(node.cq, &fd));
    CHECK_FORKED(gridnet_cq_arm(node.cq));
    CHECK_FORKED(gridnet_endpoint_open(node.cq, &address, &endpoint));
    CHECK_FORKED(gridnet_endpoint_source(self, &source));
    CHECK_FORKED(gridnet_tag_send(self, buffer, sizeof buffer, 0, NULL));
    CHECK_FORKED(gridnet_tag_recv(node.cq, NULL, buffer, sizeof buffer, 0, 0, NULL));
    CHECK_FORKED(gridnet_group_size(group, &size));
}

/* Large enough to need the rendezvous protocol. */
static char large[1000000];

static void child(void *parent_name)
{
    inherited_handles();
    struct node own = node_open(NULL);
    gridnet_endpoint *parent = node_connect(&own, parent_name);
    fill(large, sizeof large, 1);
    node_send(&own, parent, large, sizeof large, TAG_HELLO);
    CHECK(node_recv(&own, parent, large, sizeof large, TAG_ANSWER).length == sizeof large);
    CHECK(filled(large, sizeof large, 2));
    node_close(&own);

    /* What was inherited is still refused, and may be closed or left alone without harm. */
    CHECK_FORKED(gridnet_endpoint_close(self));
    CHECK_FORKED(gridnet_group_destroy(group));
    CHECK_FORKED(gridnet_cq_destroy(node.cq));
    CHECK_FORKED(gridnet_fabric_close(node.fabric));
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
    self = node_link(&node, &node);
    CHECK_OK(gridnet_fabric_address(node.fabric, &address));
    CHECK_OK(gridnet_group_create(node.cq, &address, 1, &group));

    /* A receive that is pending over the fork belongs to the parent. */
    int value = 0;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node.cq, self, &value, sizeof value, 3, 0, &value));
    for (int i = 0; i < 3; i++) {
        pid_t pid = test_spawn(child, name);
        answer_child();
        test_join(pid);
    }

    int sent = 42;
    int entries = 1 + CHECK_SENT(gridnet_tag_send(self, &sent, sizeof sent, 3, NULL));
    while (entries-- > 0)
        node_done(&node);
    CHECK(value == 42);
    node_close(&node);
    return EXIT_SUCCESS;
}
