/* ZeroMQ: a pair of sockets over ipc, blocking calls, no high-water mark; no tags, and a copy out of its own
 * message into the buffer, as zmq_recv does. */

#include "program.h"
#include <sys/wait.h>
#include <zmq.h>

static struct {
    void *socket;
    struct {
        void *buf;
        size_t len;
    } receives[2 * WINDOW];
    unsigned posted, taken;
} zmq;

static void must(int ok) {
    if (ok) return;
    fprintf(stderr, "ZeroMQ: %s\n", zmq_strerror(zmq_errno()));
    exit(1);
}

static inline void tr_post(void *buf, size_t len) {
    unsigned at = zmq.posted++ % (2 * WINDOW);
    zmq.receives[at].buf = buf;
    zmq.receives[at].len = len;
}

static inline void tr_take(void) {
    unsigned at = zmq.taken++ % (2 * WINDOW);
    must(zmq_recv(zmq.socket, zmq.receives[at].buf, zmq.receives[at].len, 0) == (int)zmq.receives[at].len);
}

static inline void tr_send(const void *buf, size_t len) { must(zmq_send(zmq.socket, buf, len, 0) == (int)len); }

static inline void tr_start(const void *buf, size_t len) { tr_send(buf, len); }

static inline void tr_drain(void) {}

#include "measure.h"

static int version(void) {
    int major, minor, patch;
    zmq_version(&major, &minor, &patch);
    printf("ZeroMQ %d.%d.%d\n", major, minor, patch);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) return version();
    struct call call = parse(argc, argv);
    const struct op *op = op_named(call.op);
    if (op == NULL) fail("no such operation here");
    char address[64];
    snprintf(address, sizeof address, "ipc://@gridnet-peers-%d", (int)getpid());
    int leads = split(&call), unlimited = 0;
    void *context = zmq_ctx_new();
    zmq.socket = zmq_socket(context, ZMQ_PAIR);
    must(context != NULL && zmq.socket != NULL);
    must(zmq_setsockopt(zmq.socket, ZMQ_SNDHWM, &unlimited, sizeof unlimited) == 0);
    must(zmq_setsockopt(zmq.socket, ZMQ_RCVHWM, &unlimited, sizeof unlimited) == 0);
    must(leads ? zmq_bind(zmq.socket, address) == 0 : zmq_connect(zmq.socket, address) == 0);
    measure(leads, op, call.size, call.ms);
    zmq_close(zmq.socket);
    zmq_ctx_term(context);
    if (!leads) return 0;
    int status = 1;
    wait(&status);
    return status != 0;
}
