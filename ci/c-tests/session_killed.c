/* The rendez-vous node of a session is killed while members talk, and started again over what it has left: no link notices, its directory
 * fills itself again, and who comes then finds the others. */
#include "session.h"

enum { TAG = 7, LARGE = 200000, ROUNDS = 50 };

static const char *const labels[] = {"talker", "echo"};

/* Between hosts this would be the stack: no memory in common hides what becomes of links. */
static const char rules[] = "[[rule]]\nuse = ['tls/tcp']\n";

/* The path has not broken, ever. */
static void unbroken(gridnet_endpoint *peer)
{
    static char why[8192];
    CHECK_OK(gridnet_endpoint_explain(peer, why, sizeof why, NULL));
    if (strstr(why, "rail tcp in use") == NULL || strstr(why, "TLS 1.3") == NULL || strstr(why, "path broken") != NULL)
        test_failed(__FILE__, __LINE__, why, "tells of something else");
}

/* Gives back what comes, from anybody, until an empty message does. */
static void echo(void *none)
{
    static char data[LARGE];
    struct node node = session_join(labels[1]);
    gridnet_completion entry;
    gridnet_endpoint *back;
    (void)none;
    while ((entry = node_recv(&node, NULL, data, LARGE, TAG)).length > 0) {
        CHECK_OK(gridnet_endpoint_open_source(node.cq, entry.source, &back));
        node_send(&node, back, data, entry.length, TAG + 1);
    }
    CHECK_OK(gridnet_endpoint_open_source(node.cq, entry.source, &back));
    unbroken(back);
    node_close(&node);
}

static gridnet_endpoint *open_echo(struct node *node)
{
    gridnet_node other = session_find(node->fabric, labels[1]);
    gridnet_completion entry;
    gridnet_endpoint *peer;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_endpoint_open_node(node->cq, &other, WAIT_NS, NULL));
    entry = node_done(node);
    CHECK_OK(gridnet_endpoint_open_source(node->cq, entry.source, &peer));
    return peer;
}

/* One message there and back. */
static void talk(struct node *node, gridnet_endpoint *peer, unsigned number)
{
    static const size_t lengths[] = {8, 3000, LARGE};
    static unsigned char out[LARGE], back[LARGE];
    size_t length = lengths[number % 3];
    gridnet_completion entry;
    fill(out, length, number);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node->cq, peer, back, LARGE, TAG + 1, 0, NULL));
    CHECK_SENT(gridnet_tag_send(peer, out, length, TAG, NULL));
    do
        entry = node_done(node);
    while (entry.op_kind != GRIDNET_OP_RECV);
    CHECK(entry.length == length && filled(back, length, number));
}

/* One that comes when the rendez-vous node knows again who is there; it has nobody's word but the new directory's. */
static void newcomer(void *none)
{
    char command[256];
    struct node node;
    (void)none;
    for (size_t i = 0; i < sizeof labels / sizeof *labels; i++) {
        snprintf(command, sizeof command, "gridnet session status --dir %s --json 2>/dev/null | grep -q '\"%s\"'", session_dir,
                 labels[i]);
        while (system(command) != 0)
            poll(NULL, 0, 5);
    }
    node = session_join("newcomer");
    talk(&node, open_echo(&node), 1);
    node_close(&node);
}

/* Kills it, as a machine would that fails: nothing is put away. */
static void kill_server(void)
{
    char path[128];
    struct stat left;
    int status;
    CHECK(kill(session_server, SIGKILL) == 0);
    CHECK(waitpid(session_server, &status, 0) == session_server && WIFSIGNALED(status));
    snprintf(path, sizeof path, "%s/control.sock", session_dir);
    CHECK(stat(path, &left) == 0 && S_ISSOCK(left.st_mode));
}

/* Those who were there hear of who came after. (On a busy machine one of them may be away from the new directory for a moment.) */
static bool newcomer_is_told(struct node *node)
{
    gridnet_node_event event;
    while (gridnet_node_events(node->fabric, &event, 1) == 1)
        if (event.kind == GRIDNET_NODE_JOINED && strcmp(event.info.label, "newcomer") == 0)
            return true;
    return false;
}

int main(void)
{
    struct node node;
    gridnet_endpoint *peer;
    pid_t echoes, comes;
    unsigned number = 0;
    int status;
    if (!session_can()) {
        printf("SKIPPED session_killed: no gridnet in PATH\n");
        return 0;
    }
    test_limit(100);
    session_serve();
    session_rules(rules);
    echoes = test_spawn(echo, NULL);
    node = session_join(labels[0]);
    peer = open_echo(&node);
    while (number < ROUNDS)
        talk(&node, peer, number++);
    kill_server();
    while (number < 2 * ROUNDS)
        talk(&node, peer, number++);
    session_start();
    comes = test_spawn(newcomer, NULL);
    while (waitpid(comes, &status, WNOHANG) == 0)
        talk(&node, peer, number++);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
    while (!newcomer_is_told(&node))
        talk(&node, peer, number++);
    unbroken(peer);
    node_send(&node, peer, "", 0, TAG);
    test_join(echoes);
    node_close(&node);
    printf("%u messages there and back\n", number);
    return session_end();
}
