/* Two processes join a session with its ticket, find each other by node id, talk, and see each other go. */
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

/* Sends one message back, and ends when the other side does not need it any more. */
static void echo(int until)
{
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_completion entry;
    gridnet_endpoint *back;
    char word[16], end;
    join_session(&fabric, &cq);
    CHECK(gridnet_tag_recv(cq, NULL, word, sizeof word, TAG, 0, NULL) >= 0);
    CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    CHECK_OK(gridnet_endpoint_open_source(cq, entry.source, &back));
    if (CHECK_SENT(gridnet_tag_send(back, word, (size_t)entry.length, TAG, NULL)))
        CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    fcntl(until, F_SETFL, O_NONBLOCK);
    while (read(until, &end, 1) < 0)
        CHECK(gridnet_fabric_progress(fabric) >= 0);
    CHECK_OK(gridnet_fabric_close(fabric));
    exit(EXIT_SUCCESS);
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

int main(void)
{
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_endpoint *endpoint;
    gridnet_completion entry;
    gridnet_node other;
    pid_t server, child;
    int until[2];
    char word[16] = "", command[128];
    if (!have_session()) {
        printf("SKIPPED nodes: no gridnet in PATH\n");
        return 0;
    }
    test_limit(100);
    server = serve();
    CHECK(pipe(until) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(until[1]);
        echo(until[0]);
    }
    CHECK(setenv("GRIDNET_SESSION_LABEL", "parent", 1) == 0);
    join_session(&fabric, &cq);
    other = find_other(fabric, "parent");
    endpoint = open_other(fabric, cq, &other);
    CHECK(gridnet_tag_recv(cq, endpoint, word, sizeof word, TAG, 0, NULL) >= 0);
    CHECK(gridnet_tag_send(endpoint, "hello", 6, TAG, NULL) >= 0);
    do
        CHECK_STATUS(1, gridnet_cq_wait(cq, &entry, 1, WAIT_NS));
    while (entry.op_kind != GRIDNET_OP_RECV);
    CHECK(strcmp(word, "hello") == 0);
    close(until[1]);
    wait_until_gone(fabric, &other);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK_OK(gridnet_fabric_close(fabric));
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
