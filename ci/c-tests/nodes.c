/* Two processes join a session with its ticket, find each other by node id, talk, and see each other go; two are a group. */
#include "test.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#define TAG 7

static char dir[64], ticket[96];

/* The command, which lies beside the library; none may be installed. */
static bool have_session(void)
{
    return system("gridnet session --help >/dev/null 2>&1") == 0;
}

/* A rendez-vous node at some port of this host. */
static pid_t serve(void)
{
    char command[256];
    pid_t server;
    int port = 20000 + (int)(getpid() % 12000), tries = 0;
    snprintf(dir, sizeof dir, "/tmp/gridnet-c-nodes-%d", (int)getpid());
    do {
        CHECK(tries++ < 100);
        snprintf(command, sizeof command, "rm -rf %s; gridnet session new --dir %s --listen 127.0.0.1:%d >/dev/null", dir,
                 dir, port++);
        CHECK(system(command) == 0);
        server = fork();
        CHECK(server >= 0);
        if (server == 0) {
            execlp("gridnet", "gridnet", "session", "serve", "--dir", dir, (char *)NULL);
            _exit(127);
        }
        snprintf(command, sizeof command, "gridnet session join %s/ticket --timeout 20s >/dev/null 2>&1", dir);
    } while (system(command) != 0 && (kill(server, SIGKILL), waitpid(server, NULL, 0) == server));
    snprintf(ticket, sizeof ticket, "%s/ticket", dir);
    return server;
}

static void join_session(gridnet_fabric **fabric, gridnet_cq **cq)
{
    CHECK(setenv("GRIDNET_SESSION", ticket, 1) == 0);
    CHECK(setenv("GRIDNET_NET_INTERFACES", "127.0.0.1", 1) == 0);
    CHECK_OK(gridnet_fabric_open(NULL, fabric));
    CHECK_OK(gridnet_cq_create(*fabric, 0, cq));
}

static void join_as(const char *label, gridnet_fabric **fabric, gridnet_cq **cq)
{
    CHECK(setenv("GRIDNET_SESSION_LABEL", label, 1) == 0);
    join_session(fabric, cq);
}

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

/* Waits for one message, and gives it back. */
static void echo(int until)
{
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_completion entry;
    gridnet_endpoint *back;
    char word[16];
    join_session(&fabric, &cq);
    CHECK(gridnet_tag_recv(cq, NULL, word, sizeof word, TAG, 0, NULL) >= 0);
    CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    CHECK_OK(gridnet_endpoint_open_source(cq, entry.source, &back));
    give_back(fabric, cq, back, word, (size_t)entry.length, until);
}

/* Another node than `own`, once there is one. */
static gridnet_node find_other(gridnet_fabric *fabric, const char *own)
{
    gridnet_node_info nodes[4];
    size_t count = 0, i;
    for (;;) {
        CHECK_OK(gridnet_nodes(fabric, nodes, 4, &count));
        for (i = 0; i < count; i++)
            if (strcmp(nodes[i].label, own) != 0)
                return nodes[i].node;
        poll(NULL, 0, 1);
    }
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

/* Two processes talk over an endpoint that one of them opens by node id, and the one sees the other go. */
static void talk(void)
{
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_endpoint *endpoint;
    gridnet_node other;
    pid_t child;
    int until[2];
    CHECK(pipe(until) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(until[1]);
        echo(until[0]);
    }
    join_as("parent", &fabric, &cq);
    other = find_other(fabric, "parent");
    endpoint = open_other(fabric, cq, &other);
    hello(cq, endpoint);
    close(until[1]);
    wait_until_gone(fabric, &other);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK_OK(gridnet_fabric_close(fabric));
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
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_completion entry;
    gridnet_group *group;
    gridnet_endpoint *back;
    gridnet_node nodes[2];
    size_t own, rank;
    char word[16];
    join_as("child", &fabric, &cq);
    own = two_nodes(fabric, nodes, "child");
    CHECK_OK(gridnet_group_create_nodes(cq, nodes, 2, NULL, &group));
    CHECK(gridnet_tag_recv(cq, NULL, word, sizeof word, TAG, 0, NULL) >= 0);
    CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    CHECK_OK(gridnet_group_rank(group, entry.source, &rank));
    CHECK(rank == 1 - own);
    CHECK_OK(gridnet_group_endpoint(group, rank, &back));
    give_back(fabric, cq, back, word, (size_t)entry.length, until);
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
    join_as("parent", &fabric, &cq);
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

int main(void)
{
    pid_t server;
    char command[128];
    if (!have_session()) {
        printf("SKIPPED nodes: no gridnet in PATH\n");
        return 0;
    }
    test_limit(100);
    server = serve();
    talk();
    group();
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
