/* Byte streams between two members of a session, over TLS: half-close, calls that do not wait, descriptors, times that are over. */
#include "session.h"
#include "streams.h"

enum { PART = 10000, MOST = 1 << 22 };

/* Both sides go by them: within a host it would be shared memory otherwise. */
static const char rules[] = "[[rule]]\nuse = ['tls/tcp']\n";
static unsigned char data[MOST], back[PART];

static gridnet_stream *accept_one(gridnet_listener *listener)
{
    gridnet_stream *stream;
    CHECK_OK(gridnet_listener_accept(listener, WAIT_NS, &stream));
    return stream;
}

static gridnet_stream *connect_to(gridnet_endpoint *peer)
{
    gridnet_stream *stream;
    CHECK_OK(gridnet_stream_connect(peer, "store", WAIT_NS, &stream));
    return stream;
}

/* Sleeps until a descriptor that was armed says that there is something. */
static void sleep_on(int fd)
{
    struct pollfd wanted = {fd, POLLIN, 0};
    CHECK(poll(&wanted, 1, 20000) == 1);
}

/* The server answers after it has read the end: its side is still open. */
static void answer_after_the_end(gridnet_listener *listener)
{
    gridnet_stream *stream = accept_one(listener);
    read_exactly(stream, data, 3 * PART);
    CHECK(filled(data, 3 * PART, 5));
    reads_end(stream);
    write_all(stream, data, PART);
    CHECK_OK(gridnet_stream_close(stream));
}

static void half_close(gridnet_endpoint *peer)
{
    gridnet_stream *stream = connect_to(peer);
    size_t count;
    fill(data, 3 * PART, 5);
    write_all(stream, data, 3 * PART);
    CHECK_OK(gridnet_stream_shutdown(stream));
    CHECK_STATUS(GRIDNET_ERR_CLOSED, gridnet_stream_write(stream, data, 1, WAIT_NS, &count));
    read_exactly(stream, back, PART);
    CHECK(filled(back, PART, 5));
    reads_end(stream);
    CHECK_OK(gridnet_stream_close(stream));
}

/* The server reads what it is told to, when it is told to. */
static void read_late(gridnet_listener *listener)
{
    gridnet_stream *told = accept_one(listener), *full = accept_one(listener);
    uint64_t size;
    read_exactly(told, &size, sizeof size);
    CHECK(size <= MOST);
    read_exactly(full, data, size);
    CHECK(filled(data, size, 6));
    read_exactly(full, back, 4);
    CHECK(memcmp(back, "more", 4) == 0);
    write_all(told, "read", 4);
    reads_end(told);
    CHECK_OK(gridnet_stream_close(told));
    CHECK_OK(gridnet_stream_close(full));
}

/* Writes without waiting until nothing more goes; how much went. */
static uint64_t fill_up(struct node *node, gridnet_stream *stream)
{
    uint64_t written = 0;
    for (int vain = 0; vain < 1000;) {
        size_t count;
        gridnet_status status = gridnet_stream_write(stream, data + written, MOST - written, 0, &count);
        CHECK(gridnet_fabric_progress(node->fabric) >= 0);
        if (status == GRIDNET_OK)
            written += count, vain = 0;
        else
            CHECK_STATUS(GRIDNET_ERR_AGAIN, status), vain++;
    }
    CHECK(0 < written && written < MOST);
    return written;
}

/* A stream whose reader does not read: nothing waits for longer than it may, and its descriptor wakes who sleeps on it. */
static void full_stream(struct node *node, gridnet_endpoint *peer)
{
    gridnet_stream *tell = connect_to(peer), *full = connect_to(peer);
    gridnet_status status, armed;
    uint64_t written;
    size_t count;
    int fd;
    fill(data, MOST, 6);
    CHECK_STATUS(GRIDNET_ERR_AGAIN, gridnet_stream_read(tell, back, 1, 0, &count));
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_stream_read(tell, back, 1, 1000, &count));
    written = fill_up(node, full);
    while ((status = gridnet_stream_write(full, data + written, MOST - written, 1000, &count)) == GRIDNET_OK)
        written += count;
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, status);
    write_all(tell, &written, sizeof written);
    CHECK_OK(gridnet_stream_fd(full, &fd));
    while (gridnet_stream_write(full, "more", 4, 0, &count) == GRIDNET_ERR_AGAIN) {
        armed = gridnet_stream_arm(full, GRIDNET_STREAM_WRITABLE);
        CHECK(armed == GRIDNET_OK || armed == GRIDNET_BUSY);
        if (armed == GRIDNET_OK)
            sleep_on(fd);
    }
    CHECK(count == 4);
    CHECK_OK(gridnet_stream_fd(tell, &fd));
    while (gridnet_stream_read(tell, back, 4, 0, &count) == GRIDNET_ERR_AGAIN) {
        armed = gridnet_stream_arm(tell, GRIDNET_STREAM_READABLE);
        CHECK(armed == GRIDNET_OK || armed == GRIDNET_BUSY);
        if (armed == GRIDNET_OK)
            sleep_on(fd);
    }
    CHECK(memcmp(back, "read", count) == 0);
    CHECK_OK(gridnet_stream_close(tell));
    CHECK_OK(gridnet_stream_close(full));
}

/* Which stack leads to a node, as this side tells it. */
static void goes_over_tls(struct node *node, const gridnet_node *other)
{
    char why[4096];
    CHECK_OK(gridnet_node_explain(node->fabric, other, why, sizeof why, NULL));
    if (strstr(why, "stack tls/tcp: encrypted") == NULL)
        test_failed(__FILE__, __LINE__, why, "names another stack");
}

static void server(void *go)
{
    struct node node = session_join("server");
    gridnet_node client = session_find(node.fabric, "client");
    gridnet_listener *listener;
    gridnet_stream *stream;
    int fd;
    gridnet_status status;
    CHECK_OK(gridnet_listener_open(node.fabric, "store", 0, &listener));
    CHECK_STATUS(GRIDNET_ERR_AGAIN, gridnet_listener_accept(listener, 0, &stream));
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_listener_accept(listener, 1000, &stream));
    CHECK(write(*(int *)go, "", 1) == 1);
    CHECK_OK(gridnet_listener_fd(listener, &fd));
    while ((status = gridnet_listener_accept(listener, 0, &stream)) == GRIDNET_ERR_AGAIN)
        if (gridnet_listener_arm(listener) == GRIDNET_OK)
            sleep_on(fd);
    CHECK_OK(status);
    goes_over_tls(&node, &client);
    CHECK_OK(gridnet_stream_close(stream));
    answer_after_the_end(listener);
    read_late(listener);
    /* Nobody goes before the other side has heard the end of what was said. */
    stream = accept_one(listener);
    reads_end(stream);
    node_close(&node);
}

static gridnet_endpoint *open_node(struct node *node, const gridnet_node *other)
{
    gridnet_completion entry;
    gridnet_endpoint *peer;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_endpoint_open_node(node->cq, other, WAIT_NS, NULL));
    CHECK_STATUS(1, gridnet_cq_wait(node->cq, &entry, 1, 2 * WAIT_NS));
    CHECK_OK(entry.status);
    CHECK_OK(gridnet_endpoint_open_source(node->cq, entry.source, &peer));
    return peer;
}

int main(void)
{
    struct node node;
    gridnet_node other;
    gridnet_endpoint *peer;
    gridnet_stream *stream;
    pid_t child;
    int go[2];
    char byte;
    if (!session_can()) {
        printf("SKIPPED session_streams: no gridnet in PATH\n");
        return 0;
    }
    test_limit(100);
    session_serve();
    session_rules(rules);
    CHECK(pipe(go) == 0);
    child = test_spawn(server, &go[1]);
    node = session_join("client");
    other = session_find(node.fabric, "server");
    CHECK(read(go[0], &byte, 1) == 1);
    peer = open_node(&node, &other);
    goes_over_tls(&node, &other);
    CHECK_STATUS(GRIDNET_ERR_NOT_FOUND, gridnet_stream_connect(peer, "nobody", WAIT_NS, &stream));
    stream = connect_to(peer);
    reads_end(stream);
    half_close(peer);
    full_stream(&node, peer);
    CHECK_OK(gridnet_stream_shutdown(connect_to(peer)));
    test_join(child);
    node_close(&node);
    return session_end();
}
