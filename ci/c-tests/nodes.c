/* Two processes join a session with its ticket, see each other come, talk by node id, and see each other go; two are a group. */
#include "session.h"

#define TAG 7

/* A word there and back. */
static void hello(gridnet_cq *cq, gridnet_endpoint *endpoint)
{
    gridnet_completion entry;
    char word[16] = "";
    CHECK(gridnet_tag_recv(cq, endpoint, word, sizeof word, TAG, 0, NULL) >= 0);
    CHECK(gridnet_tag_send(endpoint, "hello", 6, TAG, NULL) >= 0);
    do
        CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    while (entry.op_kind != GRIDNET_OP_RECV);
    CHECK(strcmp(word, "hello") == 0);
}

/* Gives a message back, and ends when the other side does not need this one any more. */
static void give_back(gridnet_fabric *fabric, gridnet_cq *cq, gridnet_endpoint *back, const char *word, size_t length, int until)
{
    gridnet_completion entry;
    char end;
    if (CHECK_SENT(gridnet_tag_send(back, word, length, TAG, NULL)))
        CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    fcntl(until, F_SETFL, O_NONBLOCK);
    while (read(until, &end, 1) < 0)
        CHECK(gridnet_fabric_progress(fabric) >= 0);
    CHECK_OK(gridnet_fabric_close(fabric));
    exit(EXIT_SUCCESS);
}

/* Joins when it is told to, waits for one message, and gives it back. */
static void echo(int begin, int until)
{
    struct node node;
    gridnet_completion entry;
    gridnet_endpoint *back;
    char word[16];
    CHECK(read(begin, word, 1) == 1);
    node = session_join("child");
    CHECK(gridnet_tag_recv(node.cq, NULL, word, sizeof word, TAG, 0, NULL) >= 0);
    entry = node_wait(&node);
    CHECK_OK(gridnet_endpoint_open_source(node.cq, entry.source, &back));
    give_back(node.fabric, node.cq, back, word, (size_t)entry.length, until);
}

static gridnet_endpoint *open_other(gridnet_fabric *fabric, gridnet_cq *cq, const gridnet_node *other)
{
    gridnet_completion entry;
    gridnet_endpoint *endpoint;
    char why[2048];
    size_t needed = 0;
    int mark;
    CHECK_STATUS(GRIDNET_ERR_NOT_FOUND, gridnet_node_explain(fabric, other, why, sizeof why, NULL));
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_endpoint_open_node(cq, other, WAIT_NS, &mark));
    CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, 2 * WAIT_NS));
    CHECK(entry.op_kind == GRIDNET_OP_OPEN && entry.context == &mark);
    CHECK_OK(gridnet_node_explain(fabric, other, why, sizeof why, &needed));
    if (entry.status != GRIDNET_OK)
        fputs(why, stderr);
    CHECK_OK(entry.status);
    CHECK(strstr(why, "stack shm: encrypted") != NULL && needed == strlen(why) + 1);
    CHECK_STATUS(GRIDNET_ERR_TRUNCATED, gridnet_node_explain(fabric, other, why, 10, &needed));
    CHECK(strlen(why) == 9);
    CHECK_OK(gridnet_endpoint_open_source(cq, entry.source, &endpoint));
    return endpoint;
}

/* Also when it was not heard of in time, or nobody knows why: on a busy machine one may be lost before it leaves. */
static bool is_gone(const gridnet_node_event *event, const gridnet_node *node)
{
    bool went = event->kind == GRIDNET_NODE_LEFT || event->kind == GRIDNET_NODE_LOST || event->kind == GRIDNET_NODE_GONE;
    return went && memcmp(&event->info.node, node, sizeof *node) == 0;
}

static void wait_until_gone(gridnet_fabric *fabric, const gridnet_node *node)
{
    gridnet_node_event event;
    for (;;) {
        gridnet_status taken = gridnet_node_events(fabric, &event, 1);
        CHECK(taken >= 0);
        if (taken == 1 && is_gone(&event, node))
            return;
        poll(NULL, 0, 1);
    }
}

/* Waits for the event that tells of a node of this name. */
static gridnet_node wait_until_joined(gridnet_fabric *fabric, const char *label)
{
    gridnet_node_event event;
    for (;;) {
        gridnet_status taken = gridnet_node_events(fabric, &event, 1);
        CHECK(taken >= 0);
        if (taken == 1 && event.kind == GRIDNET_NODE_JOINED && strcmp(event.info.label, label) == 0)
            return event.info.node;
        poll(NULL, 0, 1);
    }
}

/* Two processes talk over an endpoint that one of them opens by node id, and the one sees the other come and go. */
static void talk(void)
{
    struct node node;
    gridnet_endpoint *endpoint;
    gridnet_node other, found;
    gridnet_node_info alone[2];
    size_t count;
    pid_t child;
    int begin[2], until[2];
    CHECK(pipe(begin) == 0 && pipe(until) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(until[1]);
        echo(begin[0], until[0]);
    }
    node = session_join("parent");
    while (gridnet_nodes(node.fabric, alone, 2, &count) != GRIDNET_OK || count != 1)
        poll(NULL, 0, 1);
    CHECK(write(begin[1], "", 1) == 1);
    other = wait_until_joined(node.fabric, "child");
    found = session_find(node.fabric, "child");
    CHECK(memcmp(&other, &found, sizeof other) == 0 && memcmp(&other, &alone[0].node, sizeof other) != 0);
    endpoint = open_other(node.fabric, node.cq, &other);
    hello(node.cq, endpoint);
    close(until[1]);
    wait_until_gone(node.fabric, &other);
    CHECK(waitpid(child, NULL, 0) == child);
    node_close(&node);
}

/* The ids of two nodes, by id, as soon as they are all that there are; the rank of the one with this label. */
static size_t two_nodes(gridnet_fabric *fabric, gridnet_node nodes[2], const char *label)
{
    gridnet_node_info infos[2];
    size_t count = 0;
    while (gridnet_nodes(fabric, infos, 2, &count) != GRIDNET_OK || count != 2)
        poll(NULL, 0, 1);
    nodes[0] = infos[0].node;
    nodes[1] = infos[1].node;
    return strcmp(infos[0].label, label) == 0 ? 0 : 1;
}

/* The other side has opened the edge: here it is there. */
static void answer_in_group(int until)
{
    struct node node = session_join("child");
    gridnet_completion entry;
    gridnet_group *group;
    gridnet_endpoint *back;
    gridnet_node nodes[2];
    size_t own, rank;
    char word[16];
    own = two_nodes(node.fabric, nodes, "child");
    CHECK_OK(gridnet_group_create_nodes(node.cq, nodes, 2, NULL, &group));
    CHECK(gridnet_tag_recv(node.cq, NULL, word, sizeof word, TAG, 0, NULL) >= 0);
    entry = node_wait(&node);
    CHECK_OK(gridnet_group_rank(group, entry.source, &rank));
    CHECK(rank == 1 - own);
    CHECK_OK(gridnet_group_endpoint(group, rank, &back));
    give_back(node.fabric, node.cq, back, word, (size_t)entry.length, until);
}

/* What is refused, and what makes none. */
static void no_groups(gridnet_cq *cq, const gridnet_node *nodes)
{
    static const gridnet_node nobody;
    gridnet_group_params params = {sizeof params - 8, 0, NULL};
    gridnet_group *group;
    CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_group_create_nodes(cq, nodes, 2, &params, &group));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_group_create_nodes(cq, nodes, 0, NULL, &group));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_group_create_nodes(cq, &nobody, 1, NULL, &group));
}

/* Two processes are a group of nodes, of which the edge is opened at its first use. */
static void group(void)
{
    struct node node;
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_group *group;
    gridnet_endpoint *endpoint, *again;
    gridnet_completion entry;
    gridnet_node nodes[2];
    pid_t child;
    size_t own, size, rank;
    uint32_t source;
    int until[2], mark;
    gridnet_group_params params = {sizeof params, WAIT_NS, &mark};
    CHECK(pipe(until) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(until[1]);
        answer_in_group(until[0]);
    }
    node = session_join("parent");
    fabric = node.fabric;
    cq = node.cq;
    own = two_nodes(fabric, nodes, "parent");
    no_groups(cq, nodes);
    CHECK_OK(gridnet_group_create_nodes(cq, nodes, 2, &params, &group));
    CHECK_OK(gridnet_group_size(group, &size));
    CHECK(size == 2);
    CHECK_OK(gridnet_group_endpoint(group, own, &endpoint));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_group_endpoint(group, 2, &endpoint));
    /* Once begun, it goes on. */
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_group_endpoint(group, 1 - own, &endpoint));
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_group_endpoint(group, 1 - own, &endpoint));
    CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, 2 * WAIT_NS));
    CHECK(entry.op_kind == GRIDNET_OP_OPEN && entry.context == &mark && entry.tag == 1 - own);
    CHECK_OK(entry.status);
    CHECK_OK(gridnet_group_endpoint(group, 1 - own, &endpoint));
    CHECK_OK(gridnet_group_endpoint(group, 1 - own, &again));
    CHECK(endpoint == again);
    CHECK_OK(gridnet_endpoint_source(endpoint, &source));
    CHECK_OK(gridnet_group_rank(group, source, &rank));
    CHECK(rank == 1 - own && source == entry.source);
    CHECK_STATUS(0, gridnet_cq_poll(cq, &entry, 1));
    hello(cq, endpoint);
    close(until[1]);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK_OK(gridnet_group_destroy(group));
    CHECK_OK(gridnet_fabric_close(fabric));
}

/* A fabric that is not opened, for its ticket; the log has this word of the audit. */
static void refused(const char *change, const char *word)
{
    static char log[4096];
    gridnet_fabric *fabric;
    char command[512], path[128];
    int to, own;
    ssize_t length;
    snprintf(path, sizeof path, "%s/log", session_dir);
    snprintf(command, sizeof command, "cp -p %s %s/own; %s %s", session_ticket, session_dir, change, session_ticket);
    CHECK(system(command) == 0);
    CHECK(setenv("GRIDNET_SESSION", session_ticket, 1) == 0);
    own = dup(2);
    to = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(own >= 0 && to >= 0 && dup2(to, 2) == 2);
    gridnet_status status = gridnet_fabric_open(NULL, &fabric);
    CHECK(dup2(own, 2) == 2);
    CHECK_STATUS(GRIDNET_ERR_PERMISSION, status);
    length = pread(to, log, sizeof log - 1, 0);
    CHECK(length >= 0);
    log[length] = 0;
    if (strstr(log, "gridnet::audit") == NULL || strstr(log, word) == NULL)
        test_failed(__FILE__, __LINE__, log, "has no such word");
    snprintf(command, sizeof command, "mv %s/own %s", session_dir, session_ticket);
    CHECK(system(command) == 0 && close(own) == 0 && close(to) == 0);
}

/* Tickets that are refused before anybody is asked: who, what, why. */
static void refused_tickets(void)
{
    char word[256];
    snprintf(word, sizeof word, "refused ticket %s: %s can be read by others", session_ticket, session_ticket);
    refused("chmod 640", word);
    refused("sed -i 's/^expires = .*/expires = 2020-01-01T00:00:00Z/'", " expired: the ticket expired at 2020-01-01T00:00:00Z");
}

int main(void)
{
    if (!session_can()) {
        printf("SKIPPED nodes: no gridnet in PATH\n");
        return 0;
    }
    test_limit(100);
    session_serve();
    refused_tickets();
    talk();
    group();
    return session_end();
}
