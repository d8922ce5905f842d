/* Two processes throw a message back and forth and tell how long one way takes.
 *
 *   pingpong server NAME &
 *   pingpong client NAME [ITERATIONS] [BYTES]
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <string.h>

enum { TAG_HELLO = 1, TAG_BALL = 2, WARMUP = 1000 };

/* The first message of the client: what is going to be played. */
struct hello {
    uint64_t throws;
    uint64_t bytes;
};

/* Throws the ball; when it left the hand at once there is no completion entry. Returns the entries to come. */
static int throw_ball(gridnet_endpoint *peer, const void *ball, size_t bytes)
{
    return check(gridnet_tag_send(peer, ball, bytes, TAG_BALL, NULL), "gridnet_tag_send") == GRIDNET_IN_PROGRESS;
}

/* Gets ready to catch. A receive always has a completion entry. */
static int expect_ball(gridnet_cq *cq, gridnet_endpoint *peer, void *ball, size_t bytes)
{
    check(gridnet_tag_recv(cq, peer, ball, bytes, TAG_BALL, 0, NULL), "gridnet_tag_recv");
    return 1;
}

static void wait_for(gridnet_cq *cq, int entries)
{
    while (entries-- > 0)
        next_completion(cq);
}

static void serve(gridnet_fabric *fabric, gridnet_cq *cq)
{
    /* The first message may come from anyone: its entry names the sender, to whom we answer. */
    struct hello hello;
    check(gridnet_tag_recv(cq, NULL, &hello, sizeof hello, TAG_HELLO, 0, NULL), "gridnet_tag_recv");
    gridnet_completion first = next_completion(cq);
    if (first.length != sizeof hello)
        fail("the client speaks another language");
    gridnet_endpoint *client;
    check(gridnet_endpoint_open_source(cq, first.source, &client), "gridnet_endpoint_open_source");

    void *ball = malloc(hello.bytes);
    if (ball == NULL)
        fail("no memory for the ball");
    for (uint64_t i = 0; i < hello.throws; i++) {
        wait_for(cq, expect_ball(cq, client, ball, hello.bytes));
        wait_for(cq, throw_ball(client, ball, hello.bytes));
    }
    free(ball);
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
}

static void play(gridnet_fabric *fabric, gridnet_cq *cq, const char *name, struct hello hello)
{
    gridnet_endpoint *server = connect_by_name(fabric, cq, name);
    hello.throws += WARMUP;
    if (check(gridnet_tag_send(server, &hello, sizeof hello, TAG_HELLO, NULL), "gridnet_tag_send"))
        next_completion(cq);

    char *ball = malloc(hello.bytes), *caught = malloc(hello.bytes);
    if (ball == NULL || caught == NULL)
        fail("no memory for the ball");
    memset(ball, 'o', hello.bytes);
    int64_t start = 0;
    for (uint64_t i = 0; i < hello.throws; i++) {
        if (i == WARMUP)
            start = now_ns();
        int entries = expect_ball(cq, server, caught, hello.bytes);
        entries += throw_ball(server, ball, hello.bytes);
        wait_for(cq, entries);
    }
    int64_t elapsed = now_ns() - start;
    if (memcmp(ball, caught, hello.bytes) != 0)
        fail("the ball came back changed");
    printf("%llu bytes: %.3f us one way\n", (unsigned long long)hello.bytes,
           (double)elapsed / (double)(hello.throws - WARMUP) / 2e3);
    free(ball);
    free(caught);
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
}

int main(int argc, char **argv)
{
    int server = argc == 3 && strcmp(argv[1], "server") == 0;
    int client = argc >= 3 && argc <= 5 && strcmp(argv[1], "client") == 0;
    struct hello hello = {
        .throws = argc > 3 ? parse_number(argv[3], 1000000000) : 100000,
        .bytes = argc > 4 ? parse_number(argv[4], 1 << 30) : 8,
    };
    if (!(server || client) || hello.throws == 0 || hello.bytes == 0) {
        fprintf(stderr, "usage: pingpong server NAME\n"
                        "       pingpong client NAME [ITERATIONS] [BYTES]\n");
        return 2;
    }

    gridnet_fabric *fabric = open_fabric(server ? argv[2] : NULL);
    gridnet_cq *cq;
    check(gridnet_cq_create(fabric, 0, &cq), "gridnet_cq_create");
    if (server)
        serve(fabric, cq);
    else
        play(fabric, cq, argv[2], hello);
    return EXIT_SUCCESS;
}
