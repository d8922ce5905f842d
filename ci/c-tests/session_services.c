/* Byte streams of a session between two processes, by rules for their service: they go over endpoints that were opened for it. */
#include "session.h"

/* Rules by which a service is encrypted, and everything else is not. */
static const char RULES[] = "min_security = 'plain'\n"
                            "[[rule]]\n"
                            "service = 'words'\n"
                            "use = ['tls/tcp']\n"
                            "min_security = 'encrypted'\n"
                            "[[rule]]\n"
                            "use = ['tcp', 'tls/tcp']\n";

/* Listens for words, and gives one back. */
static void echo_word(int until)
{
    struct node node = session_join("server");
    gridnet_listener *listener;
    gridnet_stream *stream;
    size_t count;
    char word[16], end;
    CHECK_OK(gridnet_listener_open(node.fabric, "words", 0, &listener));
    CHECK_OK(gridnet_listener_accept(listener, 3 * WAIT_NS, &stream));
    CHECK_OK(gridnet_stream_read(stream, word, sizeof word, WAIT_NS, &count));
    CHECK_OK(gridnet_stream_write_all(stream, word, count, WAIT_NS));
    fcntl(until, F_SETFL, O_NONBLOCK);
    while (read(until, &end, 1) < 0)
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
    node_close(&node);
    exit(EXIT_SUCCESS);
}

/* What opening ends with, and the endpoint if there is one. */
static gridnet_status ends(struct node *own, const gridnet_node *node, const char *says, gridnet_endpoint **endpoint)
{
    gridnet_completion entry;
    char why[2048];
    CHECK_STATUS(1, gridnet_cq_wait(own->cq, &entry, 1, 2 * WAIT_NS));
    CHECK(entry.op_kind == GRIDNET_OP_OPEN);
    CHECK_OK(gridnet_node_explain(own->fabric, node, why, sizeof why, NULL));
    if (strstr(why, says) == NULL)
        fputs(why, stderr);
    CHECK(strstr(why, says) != NULL);
    if (entry.status == GRIDNET_OK)
        CHECK_OK(gridnet_endpoint_open_source(own->cq, entry.source, endpoint));
    return entry.status;
}

/* An endpoint of the fabric is plain by these rules, and carries no stream to the service. */
static void refused(struct node *own, const gridnet_node *node)
{
    gridnet_open_node_params params = {sizeof params, WAIT_NS, "words", GRIDNET_SECURITY_PLAIN, 0, NULL};
    gridnet_endpoint *endpoint;
    gridnet_stream *stream;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_endpoint_open_node(own->cq, node, WAIT_NS, NULL));
    CHECK_OK(ends(own, node, "stack tcp: plain", &endpoint));
    CHECK_STATUS(GRIDNET_ERR_PERMISSION, gridnet_stream_connect(endpoint, "words", WAIT_NS, &stream));
    CHECK(strstr(gridnet_last_error(), "the rule of line 2: tcp: ") != NULL);
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_endpoint_open_nodex(own->cq, node, &params));
    CHECK_STATUS(GRIDNET_ERR_UNREACHABLE, ends(own, node, "there is a conversation with it already", &endpoint));
}

/* One for the service is not. */
static void allowed(struct node *own, const gridnet_node *node)
{
    gridnet_open_node_params params = {sizeof params, WAIT_NS, "words", GRIDNET_SECURITY_ENCRYPTED, 0, NULL};
    gridnet_endpoint *endpoint;
    gridnet_stream *stream;
    size_t count;
    char word[16] = "";
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_endpoint_open_nodex(own->cq, node, &params));
    CHECK_OK(ends(own, node, "stack tls/tcp: encrypted, agreed on for service words", &endpoint));
    CHECK_OK(gridnet_stream_connect(endpoint, "words", WAIT_NS, &stream));
    CHECK_OK(gridnet_stream_write_all(stream, "hello", 6, WAIT_NS));
    CHECK_OK(gridnet_stream_read(stream, word, sizeof word, WAIT_NS, &count));
    CHECK(count == 6 && strcmp(word, "hello") == 0);
}

/* Streams of a session between two processes, by rules for their service. */
static void services(void)
{
    void (*const scenes[])(struct node *, const gridnet_node *) = {refused, allowed};
    pid_t child;
    size_t i;
    int until[2];
    session_rules(RULES);
    CHECK(pipe(until) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(until[1]);
        echo_word(until[0]);
    }
    for (i = 0; i < 2; i++) {
        struct node node = session_join("parent");
        gridnet_node other = session_find(node.fabric, "server");
        scenes[i](&node, &other);
        node_close(&node);
    }
    close(until[1]);
    CHECK(waitpid(child, NULL, 0) == child);
}

int main(void)
{
    if (!session_can()) {
        printf("SKIPPED session_services: no gridnet in PATH\n");
        return 0;
    }
    test_limit(100);
    session_serve();
    services();
    return session_end();
}
