/* The bare TCP socket over the loopback interface, polled by both sides: what the system can do, without any library. */

#include "program.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
    PIECE = 256 << 10,   /* written at once: the kernel moves pieces of this length fastest */
    POSTED = 2 * WINDOW, /* more than receives that are posted at once */
};

static struct {
    int socket;
    struct {
        unsigned char *buf;
        size_t len;
    } posted[POSTED];
    unsigned first, next;
} raw;

/* Nothing can be moved now: true, to try again. */
static int again(ssize_t moved, const char *what) {
    if (moved == 0) fail("the other side has hung up");
    if (moved < 0 && errno != EAGAIN && errno != EINTR) {
        perror(what);
        exit(1);
    }
    return moved < 0;
}

static inline void tr_post(void *buf, size_t len) {
    unsigned slot = raw.next++ % POSTED;
    raw.posted[slot].buf = buf;
    raw.posted[slot].len = len;
}

static inline void tr_take(void) {
    unsigned slot = raw.first++ % POSTED;
    unsigned char *to = raw.posted[slot].buf;
    for (size_t left = raw.posted[slot].len; left > 0;) {
        ssize_t len = recv(raw.socket, to, left, 0);
        if (again(len, "recv")) continue;
        to += len;
        left -= (size_t)len;
    }
}

static inline void tr_send(const void *buf, size_t len) {
    const unsigned char *from = buf;
    while (len > 0) {
        ssize_t sent = send(raw.socket, from, len < PIECE ? len : PIECE, MSG_NOSIGNAL);
        if (again(sent, "send")) continue;
        from += sent;
        len -= (size_t)sent;
    }
}

static inline void tr_start(const void *buf, size_t len) { tr_send(buf, len); }

static inline void tr_drain(void) {}

#include "measure.h"

static void must(int status, const char *what) {
    if (status >= 0) return;
    perror(what);
    exit(1);
}

/* Both ends of a connection; the processes part later. */
static void connect_pair(int ends[2]) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    must(listener, "socket");
    must(bind(listener, (struct sockaddr *)&at, len), "bind");
    must(listen(listener, 1), "listen");
    must(getsockname(listener, (struct sockaddr *)&at, &len), "getsockname");
    must(ends[0] = socket(AF_INET, SOCK_STREAM, 0), "socket");
    must(connect(ends[0], (struct sockaddr *)&at, len), "connect");
    must(ends[1] = accept(listener, NULL, NULL), "accept");
    close(listener);
    for (int i = 0; i < 2; i++) {
        must(setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
        int flags = fcntl(ends[i], F_GETFL);
        must(flags, "F_GETFL");
        must(fcntl(ends[i], F_SETFL, flags | O_NONBLOCK), "O_NONBLOCK");
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        puts("bare TCP socket");
        return 0;
    }
    struct call call = parse(argc, argv);
    const struct op *op = op_named(call.op);
    int ends[2];
    if (op == NULL) fail("no such operation here");
    connect_pair(ends);
    int leads = split(&call);
    raw.socket = ends[!leads];
    close(ends[leads]);
    measure(leads, op, call.size, call.ms);
    if (!leads) return 0;
    int status = 1;
    wait(&status);
    return status != 0;
}
