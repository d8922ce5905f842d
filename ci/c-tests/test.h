/* What the C tests share: checks that say where they failed, processes, and waiting with a limit. */
#ifndef TEST_H
#define TEST_H

#include <gridnet.h>

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define WAIT_NS (30 * SECOND)

#define CHECK(condition) \
    ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, #condition, "is not true"))
#define CHECK_STATUS(expected, call) test_status(__FILE__, __LINE__, #call, (call), #expected, (expected))
#define CHECK_OK(call) CHECK_STATUS(GRIDNET_OK, call)
/* A send is done at once or has an entry to come: the value is the number of entries. */
#define CHECK_SENT(call) test_sent(__FILE__, __LINE__, #call, (call))

static inline void test_failed(const char *file, int line, const char *what, const char *why)
{
    fprintf(stderr, "%s:%d: %s %s (last error: %s)\n", file, line, what, why, gridnet_last_error());
    exit(EXIT_FAILURE);
}

static inline void test_status(const char *file, int line, const char *call, gridnet_status got, const char *name,
                               gridnet_status expected)
{
    if (got == expected)
        return;
    char why[256];
    snprintf(why, sizeof why, "returned %d %s instead of %s", (int)got, gridnet_status_name(got), name);
    test_failed(file, line, call, why);
}

static inline int test_sent(const char *file, int line, const char *call, gridnet_status got)
{
    if (got != GRIDNET_OK)
        test_status(file, line, call, got, "GRIDNET_OK or GRIDNET_IN_PROGRESS", GRIDNET_IN_PROGRESS);
    return got == GRIDNET_IN_PROGRESS;
}

/* What the runner was asked for on top: TEST_SOAK, TEST_BIG. */
static inline bool test_wants(const char *variable)
{
    const char *value = getenv(variable);
    return value != NULL && strcmp(value, "1") == 0;
}

static unsigned test_seconds;

/* No test hangs: a process that takes longer is killed by its alarm, and so are its children. */
static inline void test_limit(unsigned seconds)
{
    test_seconds = seconds;
    alarm(seconds);
}

/* Runs `body` in a process of its own. */
static inline pid_t test_spawn(void (*body)(void *), void *argument)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0)
        return child;
    test_limit(test_seconds);
    body(argument);
    exit(EXIT_SUCCESS);
}

static inline void test_join(pid_t child)
{
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
}

/* A name that no other test process uses. */
static inline const char *test_name(const char *what)
{
    static char names[4][64];
    static int next;
    char *name = names[next++ % 4];
    snprintf(name, sizeof names[0], "test-%ld-%s", (long)getpid(), what);
    return name;
}

static inline gridnet_fabric_params test_params(const char *name)
{
    gridnet_fabric_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.name = name;
    params.thread_level = GRIDNET_THREAD_SERIALIZED;
    return params;
}

/* A fabric with one completion queue. */
struct node {
    gridnet_fabric *fabric;
    gridnet_cq *cq;
};

static inline struct node node_open(const char *name)
{
    struct node node;
    gridnet_fabric_params params = test_params(name);
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    return node;
}

static inline void node_close(struct node *node)
{
    CHECK_OK(gridnet_fabric_close(node->fabric));
}

static inline gridnet_endpoint *node_connect(struct node *node, const char *name)
{
    gridnet_address address;
    gridnet_endpoint *endpoint;
    CHECK_OK(gridnet_fabric_lookup(node->fabric, name, WAIT_NS, &address));
    CHECK_OK(gridnet_endpoint_open(node->cq, &address, &endpoint));
    return endpoint;
}

/* An endpoint from one fabric to another of this process, or to itself. */
static inline gridnet_endpoint *node_link(struct node *from, struct node *to)
{
    gridnet_address address;
    gridnet_endpoint *endpoint;
    CHECK_OK(gridnet_fabric_address(to->fabric, &address));
    CHECK_OK(gridnet_endpoint_open(from->cq, &address, &endpoint));
    return endpoint;
}

/* The next entry, whatever its status. */
static inline gridnet_completion node_wait(struct node *node)
{
    gridnet_completion entry;
    CHECK_STATUS(1, gridnet_cq_wait(node->cq, &entry, 1, WAIT_NS));
    return entry;
}

/* The next entry, which must be a success. */
static inline gridnet_completion node_done(struct node *node)
{
    gridnet_completion entry = node_wait(node);
    CHECK_OK(entry.status);
    return entry;
}

static inline void node_send(struct node *node, gridnet_endpoint *to, const void *data, size_t length, uint64_t tag)
{
    if (CHECK_SENT(gridnet_tag_send(to, data, length, tag, NULL)))
        node_done(node);
}

static inline gridnet_completion node_recv(struct node *node, gridnet_endpoint *from, void *data, size_t length,
                                           uint64_t tag)
{
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(node->cq, from, data, length, tag, 0, NULL));
    return node_done(node);
}

/* Bytes that depend on the message and on their place in it. */
static inline void fill(void *data, size_t length, uint64_t seed)
{
    unsigned char *bytes = data;
    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)(seed * 131 + i * 7 + (i >> 8));
}

static inline bool filled(const void *data, size_t length, uint64_t seed)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != (unsigned char)(seed * 131 + i * 7 + (i >> 8)))
            return false;
    return true;
}

static inline int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 4096; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

#endif
