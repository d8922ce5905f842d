/* Parameter structs of the wrong size, values out of range, unknown options, unusable names. */
#include "test.h"

static gridnet_fabric *fabric;

static gridnet_status open_with(gridnet_fabric_params *params)
{
    gridnet_fabric *untouched = (gridnet_fabric *)&fabric;
    fabric = untouched;
    gridnet_status status = gridnet_fabric_open(params, &fabric);
    CHECK(status == GRIDNET_OK || fabric == untouched);
    return status;
}

static void fabric_sizes(void)
{
    const size_t sizes[] = {0, 1, sizeof(gridnet_fabric_params) - 1, 1 << 20, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gridnet_fabric_params params = test_params(NULL);
        params.size = sizes[i];
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, open_with(&params));
    }
}

static void operation_sizes(void)
{
    struct node node = node_open(NULL);
    gridnet_endpoint *self = node_link(&node, &node);
    const size_t sizes[] = {0, 1, 1 << 20, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gridnet_send_params send;
        gridnet_recv_params recv;
        gridnet_counters counters;
        memset(&send, 0, sizeof send);
        memset(&recv, 0, sizeof recv);
        send.size = recv.size = counters.size = sizes[i];
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_tag_sendx(self, &send, NULL));
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_tag_recvx(node.cq, &recv, NULL));
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_fabric_counters(node.fabric, &counters));
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_endpoint_counters(self, &counters));
    }
    node_close(&node);
}

/* What no service is called, no level, and no size; whatever else is wrong. */
static void wishes(void)
{
    static char long_name[66];
    const char *names[] = {"", " ", "a b", "-a", ".a", "a\n", "\xc3\xa4", "\xff", long_name};
    const gridnet_node nobody = {{1}};
    struct node node = node_open(NULL);
    gridnet_open_node_params good = {sizeof good, 0, "secrets", GRIDNET_SECURITY_ENCRYPTED, 0, NULL}, params;
    memset(long_name, 'n', sizeof long_name - 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        params = good;
        params.service = names[i];
        CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_endpoint_open_nodex(node.cq, &nobody, &params));
    }
    params = good;
    params.min_security = GRIDNET_SECURITY_ENCRYPTED + 1;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_endpoint_open_nodex(node.cq, &nobody, &params));
    params = good;
    params.reserved = 1;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_endpoint_open_nodex(node.cq, &nobody, &params));
    params = good;
    params.size -= 8;
    CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_endpoint_open_nodex(node.cq, &nobody, &params));
    CHECK_STATUS(GRIDNET_ERR_CONFIG, gridnet_endpoint_open_nodex(node.cq, &nobody, &good));
    node_close(&node);
}

/* Structs of programs that are older or newer than the library. */
static void other_versions(void)
{
    struct node node = node_open(NULL);
    struct {
        gridnet_counters known;
        uint64_t unknown, not_its_own;
    } counters;
    const size_t first = offsetof(gridnet_counters, puts), known = sizeof(gridnet_counters);
    const size_t sizes[] = {first, first + 8, known, known + 8};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        memset(&counters, 7, sizeof counters);
        counters.known.size = sizes[i];
        CHECK_OK(gridnet_fabric_counters(node.fabric, &counters.known));
        CHECK(counters.known.size == sizes[i] && counters.known.peers_gone == 0);
        const char *bytes = (const char *)&counters;
        for (size_t at = first; at < sizeof counters; at++)
            CHECK(bytes[at] == (at < sizes[i] ? 0 : 7));
    }
    counters.known.size = first - 8;
    CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_fabric_counters(node.fabric, &counters.known));
    struct {
        gridnet_recv_params known;
        uint64_t unknown;
    } receive;
    memset(&receive, 0, sizeof receive);
    receive.known.size = sizeof receive;
    receive.known.tag = 99;
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recvx(node.cq, &receive.known, NULL));
    receive.unknown = (uint64_t)1 << 63;
    CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_tag_recvx(node.cq, &receive.known, NULL));
    receive.known.size = sizeof receive.known - 8;
    CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_tag_recvx(node.cq, &receive.known, NULL));
    node_close(&node);
}

static void ranges(void)
{
    gridnet_fabric_params params = test_params(NULL);
    params.thread_level = 3;
    CHECK_STATUS(GRIDNET_ERR_INVALID, open_with(&params));
    params = test_params(NULL);
    params.flags = 1;
    CHECK_STATUS(GRIDNET_ERR_INVALID, open_with(&params));

    struct node node = node_open(NULL);
    gridnet_endpoint *self = node_link(&node, &node);
    gridnet_send_params send;
    gridnet_recv_params recv;
    memset(&send, 0, sizeof send);
    memset(&recv, 0, sizeof recv);
    send.size = sizeof send;
    recv.size = sizeof recv;
    send.flags = recv.flags = 1u << 31;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_tag_sendx(self, &send, NULL));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_tag_recvx(node.cq, &recv, NULL));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_tag_send(self, &send, SIZE_MAX, 0, NULL));
    send.flags = recv.flags = 0;
    send.reserved = recv.reserved = 1;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_tag_sendx(self, &send, NULL));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_tag_recvx(node.cq, &recv, NULL));
    node_close(&node);
}

/* The same pieces of memory, sent and received. */
static void refused_pieces(struct node *node, gridnet_endpoint *self, gridnet_status expected, const gridnet_iov *iov,
                           size_t count)
{
    gridnet_send_params send;
    gridnet_recv_params recv;
    gridnet_op op = 77;
    memset(&send, 0, sizeof send);
    memset(&recv, 0, sizeof recv);
    send.size = sizeof send;
    recv.size = sizeof recv;
    send.iov = recv.iov = iov;
    send.iov_count = recv.iov_count = count;
    CHECK_STATUS(expected, gridnet_tag_sendx(self, &send, &op));
    CHECK_STATUS(expected, gridnet_tag_recvx(node->cq, &recv, &op));
    CHECK(op == 77);
}

static void pieces(void)
{
    struct node node = node_open(NULL);
    gridnet_endpoint *self = node_link(&node, &node);
    static char bytes[8];
    static gridnet_iov many[1025];
    gridnet_iov device = {bytes, sizeof bytes, GRIDNET_MEMORY_DEVICE, GRIDNET_NUMA_UNKNOWN};
    gridnet_iov unknown = {bytes, sizeof bytes, 77, GRIDNET_NUMA_UNKNOWN};
    gridnet_iov endless = {bytes, SIZE_MAX - 7, GRIDNET_MEMORY_HOST, GRIDNET_NUMA_UNKNOWN};
    gridnet_iov halves[2] = {{bytes, SIZE_MAX / 2, 0, 0}, {bytes, SIZE_MAX / 2, 0, 0}};
    refused_pieces(&node, self, GRIDNET_ERR_UNSUPPORTED, &device, 1);
    refused_pieces(&node, self, GRIDNET_ERR_UNSUPPORTED, &unknown, 1);
    refused_pieces(&node, self, GRIDNET_ERR_INVALID, &endless, 1);
    refused_pieces(&node, self, GRIDNET_ERR_INVALID, halves, 2);
    refused_pieces(&node, self, GRIDNET_ERR_INVALID, many, 1025);
    node_close(&node);
}

/* The error names what is wrong, so that a user finds it. */
static void option(const char *text, const char *named)
{
    const char *options[] = {text, NULL};
    gridnet_fabric_params params = test_params(NULL);
    params.options = options;
    CHECK_STATUS(GRIDNET_ERR_CONFIG, open_with(&params));
    CHECK(strstr(gridnet_last_error(), named) != NULL);
}

static void options(void)
{
    option("GRIDNET_NO_SUCH_THING=1", "GRIDNET_NO_SUCH_THING");
    option("GRIDNET_WAIT_MODE=sometimes", "GRIDNET_WAIT_MODE");
    option("GRIDNET_WAIT_MODE=sometimes", "adaptive");
    option("GRIDNET_WAIT_MODE=", "GRIDNET_WAIT_MODE");
    option("GRIDNET_WAIT_MODE", "GRIDNET_WAIT_MODE");
    option("GRIDNET_RAILS=pigeon", "pigeon");
    option("PATH=/", "PATH");

    const char *good[] = {"GRIDNET_WAIT_MODE=block", NULL};
    gridnet_fabric_params params = test_params(NULL);
    params.options = good;
    CHECK_OK(open_with(&params));
    CHECK_OK(gridnet_fabric_close(fabric));
}

/* The environment is judged as options are, and options beat it. */
static void environment(void)
{
    const char *options[] = {"GRIDNET_WAIT_MODE=spin", NULL};
    gridnet_fabric_params params = test_params(NULL);
    CHECK(setenv("GRIDNET_WAIT_MODE", "sometimes", 1) == 0);
    CHECK_STATUS(GRIDNET_ERR_CONFIG, open_with(&params));
    CHECK(strstr(gridnet_last_error(), "GRIDNET_WAIT_MODE") != NULL);
    CHECK(setenv("GRIDNET_WAIT_MODE", "block", 1) == 0);
    params.options = options;
    CHECK_OK(open_with(&params));
    CHECK_OK(gridnet_fabric_close(fabric));
    CHECK(unsetenv("GRIDNET_WAIT_MODE") == 0);

    CHECK(setenv("GRIDNET_MISPELT", "1", 1) == 0);
    CHECK_STATUS(GRIDNET_ERR_CONFIG, open_with(NULL));
    CHECK(strstr(gridnet_last_error(), "GRIDNET_MISPELT") != NULL);
    CHECK(unsetenv("GRIDNET_MISPELT") == 0);
}

static void names(void)
{
    char longest[66];
    memset(longest, 'n', sizeof longest);
    longest[65] = '\0';
    const char *bad[] = {"", "a b", "a/b", "../x", "caf\xc3\xa9", "new\nline", longest};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        gridnet_fabric_params params = test_params(bad[i]);
        CHECK_STATUS(GRIDNET_ERR_INVALID, open_with(&params));
    }

    /* The longest one that is allowed, made this process's own. */
    snprintf(longest, sizeof longest, "%s", test_name("x"));
    memset(longest + strlen(longest), '_', 64 - strlen(longest));
    longest[64] = '\0';
    gridnet_fabric_params params = test_params(longest);
    CHECK_OK(open_with(&params));
    CHECK_OK(gridnet_fabric_close(fabric));
}

static void name_in_use(void)
{
    const char *name = test_name("twice");
    struct node first = node_open(name);
    gridnet_fabric_params params = test_params(name);
    CHECK_STATUS(GRIDNET_ERR_NAME_IN_USE, open_with(&params));
    CHECK(strstr(gridnet_last_error(), name) != NULL);
    node_close(&first);
    CHECK_OK(open_with(&params));
    CHECK_OK(gridnet_fabric_close(fabric));
}

int main(void)
{
    test_limit(60);
    fabric_sizes();
    operation_sizes();
    other_versions();
    wishes();
    ranges();
    pieces();
    options();
    environment();
    names();
    name_in_use();
    return EXIT_SUCCESS;
}
