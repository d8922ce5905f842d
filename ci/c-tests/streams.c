/* Byte streams: what goes in comes out, over shared memory and TCP; ends, slow readers, peers that are killed, event loops. */
#define _DEFAULT_SOURCE
#include "../../examples/sha256.h"
#include "streams.h"

#include <signal.h>
#include <sys/epoll.h>

enum { MANY = 100, PART = 10000 };

static const char *shm[] = {"GRIDNET_RAILS=shm", NULL};
static const char *tcp[] = {"GRIDNET_RAILS=tcp", "GRIDNET_NET_INTERFACES=127.0.0.1", "GRIDNET_NET_INSECURE=1", NULL};
static const char *both[] = {"GRIDNET_RAILS=shm,tcp", "GRIDNET_NET_INTERFACES=127.0.0.1", "GRIDNET_NET_INSECURE=1",
                             "GRIDNET_PEER_TIMEOUT=300ms", NULL};

struct server {
    const char *name;
    const char **options;
    int streams;
};

static struct node open_with(const char *name, const char **options)
{
    struct node node;
    gridnet_fabric_params params = test_params(name);
    params.options = options;
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    return node;
}

static gridnet_stream *connect_to(gridnet_endpoint *peer)
{
    gridnet_stream *stream;
    CHECK_OK(gridnet_stream_connect(peer, "echo", WAIT_NS, &stream));
    return stream;
}

/* Gives back what one stream says, until its end. */
static void echo(gridnet_stream *stream)
{
    static char data[100000];
    size_t count;
    for (;;) {
        CHECK_OK(gridnet_stream_read(stream, data, sizeof data, WAIT_NS, &count));
        if (count == 0)
            break;
        write_all(stream, data, count);
    }
    CHECK_OK(gridnet_stream_shutdown(stream));
}

static void echo_server(void *argument)
{
    struct server *server = argument;
    struct node node = open_with(server->name, server->options);
    gridnet_listener *listener;
    CHECK_OK(gridnet_listener_open(node.fabric, "echo", 0, &listener));
    for (int i = 0; i < server->streams; i++) {
        gridnet_stream *stream;
        CHECK_OK(gridnet_listener_accept(listener, WAIT_NS, &stream));
        echo(stream);
        reads_end(stream);
        CHECK_OK(gridnet_stream_close(stream));
    }
    /* The callers hear the end before the fabric goes: they say so by a stream that they give up. */
    gridnet_stream *last;
    CHECK_OK(gridnet_listener_accept(listener, WAIT_NS, &last));
    reads_end(last);
    node_close(&node);
}

/* The server goes when it is told to. */
static void dismiss(struct node *node, gridnet_endpoint *peer, pid_t server)
{
    gridnet_stream *stream = connect_to(peer);
    CHECK_OK(gridnet_stream_shutdown(stream));
    test_join(server);
    node_close(node);
}

/* Says `total` bytes in parts, hears them again, and compares what was said with what was heard. */
static void echo_with_digest(const char **options, size_t total)
{
    static unsigned char said[PART], heard[PART];
    struct server server = {test_name("echo"), options, 1};
    pid_t pid = test_spawn(echo_server, &server);
    struct node node = open_with(NULL, options);
    gridnet_endpoint *peer = node_connect(&node, server.name);
    gridnet_stream *stream = connect_to(peer);
    sha256 of_said, of_heard;
    sha256_init(&of_said), sha256_init(&of_heard);
    for (size_t done = 0, size; done < total; done += size) {
        size = 1 + (done * 7919 + 13) % PART;
        fill(said, size, done);
        sha256_update(&of_said, said, size);
        write_all(stream, said, size);
        read_exactly(stream, heard, size);
        sha256_update(&of_heard, heard, size);
    }
    CHECK_OK(gridnet_stream_shutdown(stream));
    size_t count;
    CHECK_STATUS(GRIDNET_ERR_CLOSED, gridnet_stream_write(stream, said, 1, WAIT_NS, &count));
    reads_end(stream);
    sha256_digest first = sha256_final(&of_said), second = sha256_final(&of_heard);
    CHECK(memcmp(&first, &second, sizeof first) == 0);
    CHECK_OK(gridnet_stream_close(stream));
    dismiss(&node, peer, pid);
}

/* Two fabrics of this process, of which nobody but the calls moves anything. */
struct couple {
    struct node near, far;
    gridnet_endpoint *peer;
    gridnet_listener *listener;
};

static struct couple couple_open(const char **options)
{
    struct couple c;
    c.near = open_with(NULL, options);
    c.far = open_with(NULL, options);
    c.peer = node_link(&c.near, &c.far);
    CHECK_OK(gridnet_listener_open(c.far.fabric, "echo", MANY + 1, &c.listener));
    return c;
}

static void couple_close(struct couple *c)
{
    node_close(&c->near);
    node_close(&c->far);
}

/* Both fabrics have to be driven. */
static void couple_drive(struct couple *c)
{
    CHECK(gridnet_fabric_progress(c->near.fabric) >= 0);
    CHECK(gridnet_fabric_progress(c->far.fabric) >= 0);
}

static void couple_connect(struct couple *c, gridnet_stream **near, gridnet_stream **far)
{
    gridnet_status status;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_stream_connect(c->peer, "echo", 0, near));
    while ((status = gridnet_listener_accept(c->listener, 0, far)) == GRIDNET_ERR_AGAIN)
        couple_drive(c);
    CHECK_OK(status);
}

static void couple_write(struct couple *c, gridnet_stream *stream, const void *data, size_t size)
{
    for (size_t done = 0, count; done < size; done += count) {
        gridnet_status status = gridnet_stream_write(stream, (const char *)data + done, size - done, 0, &count);
        if (status == GRIDNET_ERR_AGAIN) {
            couple_drive(c);
            count = 0;
        } else {
            CHECK_OK(status);
        }
    }
}

/* Reads until `size` bytes, or the end, have come; how many. */
static size_t couple_read(struct couple *c, gridnet_stream *stream, void *data, size_t size)
{
    size_t done = 0, count;
    while (done < size) {
        gridnet_status status = gridnet_stream_read(stream, (char *)data + done, size - done, 0, &count);
        if (status == GRIDNET_ERR_AGAIN) {
            couple_drive(c);
            continue;
        }
        CHECK_OK(status);
        if (count == 0)
            break;
        done += count;
    }
    return done;
}

/* A reader that does not read holds up its own stream, and no other. */
static void slow_reader(void)
{
    static char data[1 << 20], back[1 << 20];
    struct couple c = couple_open(shm);
    gridnet_stream *slow[2], *quick[2];
    couple_connect(&c, &slow[0], &slow[1]);
    couple_connect(&c, &quick[0], &quick[1]);
    fill(data, sizeof data, 1);
    size_t written = 0, count;
    for (int vain = 0; vain < 1000;) {
        gridnet_status status = gridnet_stream_write(slow[0], data + written, sizeof data - written, 0, &count);
        couple_drive(&c);
        if (status == GRIDNET_OK)
            written += count, vain = 0;
        else
            CHECK_STATUS(GRIDNET_ERR_AGAIN, status), vain++;
    }
    CHECK(written >= 256 << 10 && written < sizeof data);
    CHECK_STATUS(GRIDNET_ERR_TIMEOUT, gridnet_stream_write(slow[0], data, 1, 1000, &count));
    for (int i = 0; i < 100; i++) {
        couple_write(&c, quick[0], data, PART);
        CHECK(couple_read(&c, quick[1], back, PART) == PART && memcmp(data, back, PART) == 0);
    }
    CHECK(couple_read(&c, slow[1], back, written) == written && memcmp(data, back, written) == 0);
    couple_write(&c, slow[0], "more", 4);
    CHECK(couple_read(&c, slow[1], back, 4) == 4 && memcmp(back, "more", 4) == 0);
    couple_close(&c);
}

/* Each side ends by itself; a closed one tells the writer. */
static void half_close(void)
{
    char data[16];
    size_t count;
    struct couple c = couple_open(shm);
    gridnet_stream *near, *far;
    couple_connect(&c, &near, &far);
    couple_write(&c, near, "question", 8);
    CHECK_OK(gridnet_stream_shutdown(near));
    CHECK(couple_read(&c, far, data, sizeof data) == 8 && memcmp(data, "question", 8) == 0);
    couple_write(&c, far, "answer", 6);
    CHECK_OK(gridnet_stream_close(far));
    CHECK(couple_read(&c, near, data, sizeof data) == 6 && memcmp(data, "answer", 6) == 0);
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_stream_read(far, data, 1, 0, &count));
    couple_connect(&c, &near, &far);
    CHECK_OK(gridnet_stream_close(far));
    gridnet_status status;
    while ((status = gridnet_stream_write(near, data, 1, 0, &count)) == GRIDNET_OK || status == GRIDNET_ERR_AGAIN)
        couple_drive(&c);
    CHECK_STATUS(GRIDNET_ERR_CLOSED, status);
    CHECK_STATUS(GRIDNET_ERR_NAME_IN_USE, gridnet_listener_open(c.far.fabric, "echo", 0, &c.listener));
    CHECK_OK(gridnet_listener_close(c.listener));
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_stream_connect(c.peer, "echo", 0, &near));
    while ((status = gridnet_stream_write(near, data, 1, 0, &count)) == GRIDNET_ERR_AGAIN)
        couple_drive(&c);
    CHECK_STATUS(GRIDNET_ERR_NOT_FOUND, status);
    couple_close(&c);
}

static void hundred_at_once(void)
{
    static gridnet_stream *near[MANY], *far[MANY];
    static char data[PART], back[PART];
    struct couple c = couple_open(tcp);
    for (int i = 0; i < MANY; i++)
        couple_connect(&c, &near[i], &far[i]);
    for (int i = 0; i < MANY; i++) {
        fill(data, sizeof data, (uint64_t)i);
        couple_write(&c, near[i], data, sizeof data);
        couple_write(&c, far[MANY - 1 - i], data, sizeof data);
    }
    for (int i = 0; i < MANY; i++) {
        CHECK(couple_read(&c, far[i], back, sizeof back) == PART && filled(back, PART, (uint64_t)i));
        CHECK(couple_read(&c, near[MANY - 1 - i], back, sizeof back) == PART && filled(back, PART, (uint64_t)i));
    }
    couple_close(&c);
}

static void client(void *argument)
{
    static char data[PART], back[PART];
    struct server *server = argument;
    struct node node = open_with(NULL, server->options);
    gridnet_endpoint *peer = node_connect(&node, server->name);
    gridnet_stream *stream = connect_to(peer);
    for (int i = 0; i < 50; i++) {
        fill(data, sizeof data, (uint64_t)i);
        write_all(stream, data, sizeof data);
        read_exactly(stream, back, sizeof back);
        CHECK(memcmp(data, back, sizeof data) == 0);
    }
    CHECK_OK(gridnet_stream_shutdown(stream));
    reads_end(stream);
    node_close(&node);
}

struct served {
    gridnet_stream *stream;
    char data[3000];
    size_t at, end;
    bool ended;
};

/* Does what can be done without waiting; whether the stream is over. */
static bool serve(struct served *served)
{
    for (;;) {
        size_t count;
        gridnet_status status;
        if (served->at < served->end) {
            size_t left = served->end - served->at;
            status = gridnet_stream_write(served->stream, served->data + served->at, left, 0, &count);
            if (status == GRIDNET_OK)
                served->at += count;
        } else {
            status = gridnet_stream_read(served->stream, served->data, sizeof served->data, 0, &count);
            if (status == GRIDNET_OK && count == 0)
                return true;
            if (status == GRIDNET_OK)
                served->at = 0, served->end = count;
        }
        if (status == GRIDNET_OK)
            continue;
        CHECK_STATUS(GRIDNET_ERR_AGAIN, status);
        uint32_t wanted = served->at < served->end ? GRIDNET_STREAM_WRITABLE : GRIDNET_STREAM_READABLE;
        gridnet_status armed = gridnet_stream_arm(served->stream, wanted);
        if (armed == GRIDNET_OK)
            return false;
        CHECK_STATUS(GRIDNET_BUSY, armed);
    }
}

static void watch(int epoll, int fd, void *what)
{
    struct epoll_event interest;
    memset(&interest, 0, sizeof interest);
    interest.events = EPOLLIN;
    interest.data.ptr = what;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &interest) == 0);
}

/* One listener, a client over shared memory and one over TCP at once, and one loop that sleeps on descriptors only. */
static void epoll_loop(void)
{
    static struct served served[2];
    struct server over[2] = {{test_name("loop"), shm, 0}, {NULL, tcp, 0}};
    over[1].name = over[0].name;
    pid_t pids[2] = {test_spawn(client, &over[0]), test_spawn(client, &over[1])};
    struct node node = open_with(over[0].name, both);
    gridnet_listener *listener;
    int epoll = epoll_create1(EPOLL_CLOEXEC), fd, accepted = 0, over_now = 0;
    uint32_t sources[2];
    CHECK_OK(gridnet_listener_open(node.fabric, "echo", 0, &listener));
    CHECK_OK(gridnet_listener_fd(listener, &fd));
    watch(epoll, fd, listener);
    memset(served, 0, sizeof served);
    for (;;) {
        bool busy = false;
        if (accepted < 2) {
            gridnet_status status = gridnet_listener_accept(listener, 0, &served[accepted].stream);
            if (status == GRIDNET_OK) {
                CHECK_OK(gridnet_stream_source(served[accepted].stream, &sources[accepted]));
                CHECK_OK(gridnet_stream_fd(served[accepted].stream, &fd));
                watch(epoll, fd, &served[accepted++]);
                busy = true;
            } else {
                CHECK_STATUS(GRIDNET_ERR_AGAIN, status);
                busy = gridnet_listener_arm(listener) == GRIDNET_BUSY;
            }
        }
        for (int i = 0; i < accepted; i++) {
            if (served[i].ended || !serve(&served[i]))
                continue;
            served[i].ended = true;
            over_now++;
            CHECK_OK(gridnet_stream_shutdown(served[i].stream));
        }
        if (over_now == 2)
            break;
        struct epoll_event event;
        CHECK(epoll_wait(epoll, &event, 1, busy ? 0 : 20000) == 1 || busy);
    }
    CHECK(sources[0] != sources[1]);
    /* Their ends go out while this side makes progress. */
    for (int left = 2; left > 0;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        CHECK(pid == 0 || ((pid == pids[0] || pid == pids[1]) && WIFEXITED(status) && WEXITSTATUS(status) == 0));
        left -= pid != 0;
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
    }
    close(epoll);
    node_close(&node);
}

static void killed_server(void *argument)
{
    struct server *server = argument;
    struct node node = open_with(server->name, server->options);
    gridnet_listener *listener;
    gridnet_stream *stream;
    CHECK_OK(gridnet_listener_open(node.fabric, "echo", 0, &listener));
    CHECK_OK(gridnet_listener_accept(listener, WAIT_NS, &stream));
    write_all(stream, "last words", 10);
    for (;;)
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
}

/* What a peer wrote before it was killed is read; then there is an error, for readers and writers. */
static void kill_one_side(const char **options)
{
    char data[16];
    size_t count;
    int status;
    struct server server = {test_name("killed"), options, 0};
    pid_t pid = test_spawn(killed_server, &server);
    struct node node = open_with(NULL, both);
    gridnet_endpoint *peer = node_connect(&node, server.name);
    gridnet_stream *stream = connect_to(peer);
    read_exactly(stream, data, 4);
    read_exactly(stream, data + 4, 6);
    CHECK(memcmp(data, "last words", 10) == 0);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, gridnet_stream_read(stream, data, 1, WAIT_NS, &count));
    CHECK_STATUS(GRIDNET_ERR_PEER_GONE, gridnet_stream_write(stream, data, 1, WAIT_NS, &count));
    CHECK_OK(gridnet_stream_close(stream));
    node_close(&node);
}

int main(void)
{
    test_limit(100);
    size_t total = test_wants("TEST_SOAK") ? 200000000 : 3000000;
    echo_with_digest(shm, total);
    echo_with_digest(tcp, total);
    slow_reader();
    half_close();
    hundred_at_once();
    epoll_loop();
    kill_one_side(shm);
    kill_one_side(tcp);
    return EXIT_SUCCESS;
}
