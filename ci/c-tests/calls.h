/* Every call that takes a handle, to be made with handles that must all be refused alike: NULL, closed, mistaken, inherited.
 * ci/docs.sh sees to it that no call is missing here. */
#ifndef CALLS_H
#define CALLS_H

#include "regions.h"

/* One handle of each kind. */
struct handles {
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_endpoint *endpoint;
    gridnet_group *group;
    gridnet_message *message;
    gridnet_region *region;
    gridnet_rkey *rkey;
    gridnet_listener *listener;
    gridnet_stream *stream;
    /* Of the fabric, to call what is right but for the handle. */
    gridnet_address address;
    gridnet_key key;
};

/* Where calls that fail would write; checked to be as before after each group of them. */
static struct {
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_endpoint *endpoint;
    gridnet_group *group;
    gridnet_message *message;
    gridnet_region *region;
    gridnet_rkey *rkey;
    gridnet_listener *listener;
    gridnet_stream *stream;
    gridnet_key key;
    gridnet_address address;
    gridnet_counters counters;
    gridnet_completion entry;
    gridnet_probe_info info;
    gridnet_op op;
    uint32_t events;
    gridnet_loan loan;
    gridnet_lent lent;
    gridnet_node_info node;
    gridnet_node_event event;
    gridnet_location location;
    void *data;
    size_t size;
    uint32_t source;
    int fd;
    char text[64];
} out, before;

static char buffer[64];

/* Of no session. */
static const gridnet_node some_node = {{1}};
static const gridnet_node no_node = {{0}};
static const gridnet_open_node_params some_wish = {sizeof some_wish, 0, NULL, GRIDNET_SECURITY_PLAIN, 0, NULL};

static inline void outputs_reset(void)
{
    memset(&out, 0x5a, sizeof out);
    out.counters.size = sizeof out.counters;
    memcpy(&before, &out, sizeof out);
}

static inline void outputs_untouched(void)
{
    CHECK(memcmp(&before, &out, sizeof out) == 0);
}

static inline gridnet_send_params send_params(void)
{
    gridnet_send_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    return params;
}

static inline gridnet_recv_params recv_params(void)
{
    gridnet_recv_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    return params;
}

/* A matched message to spend: from the fabric to itself. */
static inline gridnet_message *some_message(struct node *node, gridnet_endpoint *self)
{
    gridnet_message *message;
    gridnet_probe_info info;
    gridnet_status status;
    node_send(node, self, buffer, 8, 1);
    while ((status = gridnet_tag_mprobe(node->fabric, NULL, 1, 0, &info, &message)) == GRIDNET_ERR_NO_MESSAGE)
        CHECK(gridnet_fabric_progress(node->fabric) >= 0);
    CHECK_OK(status);
    return message;
}

/* One of each, of this node. */
static inline struct handles all_handles(struct node *node)
{
    struct handles h;
    h.fabric = node->fabric;
    h.cq = node->cq;
    CHECK_OK(gridnet_fabric_address(h.fabric, &h.address));
    h.endpoint = node_link(node, node);
    CHECK_OK(gridnet_group_create(h.cq, &h.address, 1, &h.group));
    h.message = some_message(node, h.endpoint);
    h.region = register_memory(node, buffer, sizeof buffer, ALL);
    CHECK_OK(gridnet_region_key(h.region, &h.key));
    CHECK_OK(gridnet_rkey_import(h.endpoint, &h.key, &h.rkey));
    CHECK_OK(gridnet_listener_open(h.fabric, "all", 0, &h.listener));
    CHECK_OK(gridnet_stream_connect(h.endpoint, "all", WAIT_NS, &h.stream));
    return h;
}

static inline void message_calls(struct handles h, gridnet_status expected)
{
    gridnet_send_params send = send_params();
    gridnet_recv_params recv = recv_params();
    CHECK_STATUS(expected, gridnet_cancel(h.fabric, 1));
    CHECK_STATUS(expected, gridnet_tag_probe(h.fabric, NULL, 0, 0, &out.info));
    CHECK_STATUS(expected, gridnet_tag_mprobe(h.fabric, NULL, 0, 0, &out.info, &out.message));
    CHECK_STATUS(expected, gridnet_message_recv(h.cq, h.message, buffer, sizeof buffer, NULL));
    CHECK_STATUS(expected, gridnet_message_recv_loan(h.cq, h.message, &out.lent, NULL));
    CHECK_STATUS(expected, gridnet_tag_recv(h.cq, NULL, buffer, sizeof buffer, 0, 0, NULL));
    CHECK_STATUS(expected, gridnet_tag_recvx(h.cq, &recv, &out.op));
    CHECK_STATUS(expected, gridnet_tag_send(h.endpoint, buffer, 8, 0, NULL));
    CHECK_STATUS(expected, gridnet_tag_sendx(h.endpoint, &send, &out.op));
    CHECK_STATUS(expected, gridnet_loan_take(h.fabric, 8, &out.loan, &out.data));
    CHECK_STATUS(expected, gridnet_loan_give_back(h.fabric, 1));
    CHECK_STATUS(expected, gridnet_loan_recv(h.cq, NULL, &out.lent, 0, 0, NULL));
    CHECK_STATUS(expected, gridnet_loan_send(h.endpoint, 1, 8, 0, NULL));
    CHECK_STATUS(expected, gridnet_loan_share(h.endpoint, 1, 8, 0, NULL));
}

static inline void region_calls(struct handles h, gridnet_status expected)
{
    gridnet_region_params memory = region_params(buffer, sizeof buffer, ALL), nowhere = region_params(NULL, 8, ALL);
    gridnet_atomic_params one = add(0, 1, NULL);
    CHECK_STATUS(expected, gridnet_region_register(h.fabric, &memory, &out.region));
    CHECK_STATUS(expected, gridnet_region_allocate(h.fabric, &nowhere, &out.region, &out.data));
    CHECK_STATUS(expected, gridnet_region_key(h.region, &out.key));
    CHECK_STATUS(expected, gridnet_rkey_import(h.endpoint, &h.key, &out.rkey));
    CHECK_STATUS(expected, gridnet_put(h.endpoint, buffer, 8, h.rkey, 0, NULL));
    CHECK_STATUS(expected, gridnet_get(h.endpoint, buffer, 8, h.rkey, 0, NULL));
    CHECK_STATUS(expected, gridnet_atomic(h.endpoint, h.rkey, &one));
    CHECK_STATUS(expected, gridnet_flush(h.endpoint, NULL));
    CHECK_STATUS(expected, gridnet_rkey_close(h.rkey));
    CHECK_STATUS(expected, gridnet_region_close(h.region));
}

static inline void stream_calls(struct handles h, gridnet_status expected)
{
    CHECK_STATUS(expected, gridnet_listener_open(h.fabric, "more", 0, &out.listener));
    CHECK_STATUS(expected, gridnet_listener_accept(h.listener, 0, &out.stream));
    CHECK_STATUS(expected, gridnet_listener_fd(h.listener, &out.fd));
    CHECK_STATUS(expected, gridnet_listener_arm(h.listener));
    CHECK_STATUS(expected, gridnet_stream_connect(h.endpoint, "all", 0, &out.stream));
    CHECK_STATUS(expected, gridnet_stream_source(h.stream, &out.source));
    CHECK_STATUS(expected, gridnet_stream_read(h.stream, buffer, sizeof buffer, 0, &out.size));
    CHECK_STATUS(expected, gridnet_stream_write(h.stream, buffer, sizeof buffer, 0, &out.size));
    CHECK_STATUS(expected, gridnet_stream_write_all(h.stream, buffer, sizeof buffer, 1000000));
    CHECK_STATUS(expected, gridnet_stream_shutdown(h.stream));
    CHECK_STATUS(expected, gridnet_stream_wait(h.stream, GRIDNET_STREAM_READABLE, 0, &out.events));
    CHECK_STATUS(expected, gridnet_stream_abort(h.stream));
    CHECK_STATUS(expected, gridnet_stream_fd(h.stream, &out.fd));
    CHECK_STATUS(expected, gridnet_stream_arm(h.stream, GRIDNET_STREAM_READABLE));
    CHECK_STATUS(expected, gridnet_stream_close(h.stream));
    CHECK_STATUS(expected, gridnet_listener_close(h.listener));
}

/* All of them; none does anything. */
static inline void all_calls(struct handles h, gridnet_status expected)
{
    outputs_reset();
    CHECK_STATUS(expected, gridnet_fabric_address(h.fabric, &out.address));
    CHECK_STATUS(expected, gridnet_fabric_lookup(h.fabric, "nobody", 0, &out.address));
    CHECK_STATUS(expected, gridnet_fabric_locate(h.fabric, &h.address, &out.location));
    CHECK_STATUS(expected, gridnet_fabric_progress(h.fabric));
    CHECK_STATUS(expected, gridnet_fabric_counters(h.fabric, &out.counters));
    CHECK_STATUS(expected, gridnet_cq_create(h.fabric, 0, &out.cq));
    CHECK_STATUS(expected, gridnet_cq_poll(h.cq, &out.entry, 1));
    CHECK_STATUS(expected, gridnet_cq_wait(h.cq, &out.entry, 1, 0));
    CHECK_STATUS(expected, gridnet_cq_fd(h.cq, &out.fd));
    CHECK_STATUS(expected, gridnet_cq_arm(h.cq));
    CHECK_STATUS(expected, gridnet_endpoint_open(h.cq, &h.address, &out.endpoint));
    CHECK_STATUS(expected, gridnet_endpoint_open_source(h.cq, 0, &out.endpoint));
    CHECK_STATUS(expected, gridnet_endpoint_open_node(h.cq, &some_node, 0, NULL));
    CHECK_STATUS(expected, gridnet_endpoint_open_nodex(h.cq, &some_node, &some_wish));
    CHECK_STATUS(expected, gridnet_nodes(h.fabric, &out.node, 1, &out.size));
    CHECK_STATUS(expected, gridnet_node_events(h.fabric, &out.event, 1));
    CHECK_STATUS(expected, gridnet_node_explain(h.fabric, &some_node, out.text, sizeof out.text, &out.size));
    CHECK_STATUS(expected, gridnet_endpoint_source(h.endpoint, &out.source));
    CHECK_STATUS(expected, gridnet_endpoint_explain(h.endpoint, out.text, sizeof out.text, &out.size));
    CHECK_STATUS(expected, gridnet_endpoint_counters(h.endpoint, &out.counters));
    CHECK_STATUS(expected, gridnet_group_create(h.cq, &h.address, 1, &out.group));
    CHECK_STATUS(expected, gridnet_group_create_nodes(h.cq, &some_node, 1, NULL, &out.group));
    CHECK_STATUS(expected, gridnet_group_size(h.group, &out.size));
    CHECK_STATUS(expected, gridnet_group_endpoint(h.group, 0, &out.endpoint));
    CHECK_STATUS(expected, gridnet_group_rank(h.group, 0, &out.size));
    message_calls(h, expected);
    region_calls(h, expected);
    stream_calls(h, expected);
    CHECK_STATUS(expected, gridnet_group_destroy(h.group));
    CHECK_STATUS(expected, gridnet_endpoint_close(h.endpoint));
    CHECK_STATUS(expected, gridnet_cq_destroy(h.cq));
    CHECK_STATUS(expected, gridnet_fabric_close(h.fabric));
    outputs_untouched();
}

#endif
