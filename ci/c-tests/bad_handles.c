/* NULL, closed and mistaken handles: each call names the mistake and leaves its outputs alone. */
#include "calls.h"

#define CHECK_NULL(call) CHECK_STATUS(GRIDNET_ERR_NULL, call)
#define CHECK_HANDLE(call) CHECK_STATUS(GRIDNET_ERR_HANDLE, call)

/* Receiver handles that are right, each other pointer NULL in turn. */
static void null_arguments(struct handles h)
{
    gridnet_send_params send = send_params();
    gridnet_recv_params recv = recv_params();
    gridnet_iov hole = {NULL, 8, 0, 0};
    gridnet_region_params memory = region_params(buffer, 8, ALL), nowhere = region_params(NULL, 8, ALL);
    gridnet_atomic_params one = add(0, 1, NULL);
    outputs_reset();
    CHECK_NULL(gridnet_fabric_open(NULL, NULL));
    CHECK_NULL(gridnet_fabric_address(h.fabric, NULL));
    CHECK_NULL(gridnet_fabric_lookup(h.fabric, NULL, 0, &out.address));
    CHECK_NULL(gridnet_fabric_lookup(h.fabric, "nobody", 0, NULL));
    CHECK_NULL(gridnet_fabric_locate(h.fabric, NULL, &out.location));
    CHECK_NULL(gridnet_fabric_locate(h.fabric, &h.address, NULL));
    CHECK_NULL(gridnet_fabric_counters(h.fabric, NULL));
    CHECK_NULL(gridnet_cq_create(h.fabric, 0, NULL));
    CHECK_NULL(gridnet_cq_poll(h.cq, NULL, 1));
    CHECK_NULL(gridnet_cq_wait(h.cq, NULL, 1, 0));
    CHECK_NULL(gridnet_cq_fd(h.cq, NULL));
    CHECK_NULL(gridnet_endpoint_open(h.cq, NULL, &out.endpoint));
    CHECK_NULL(gridnet_endpoint_open(h.cq, &h.address, NULL));
    CHECK_NULL(gridnet_endpoint_open_source(h.cq, 0, NULL));
    CHECK_NULL(gridnet_endpoint_open_node(h.cq, NULL, 0, NULL));
    CHECK_NULL(gridnet_endpoint_open_nodex(h.cq, NULL, &some_wish));
    CHECK_NULL(gridnet_endpoint_open_nodex(h.cq, &some_node, NULL));
    CHECK_NULL(gridnet_nodes(h.fabric, NULL, 1, &out.size));
    CHECK_NULL(gridnet_node_events(h.fabric, NULL, 1));
    CHECK_NULL(gridnet_node_explain(h.fabric, NULL, out.text, sizeof out.text, &out.size));
    CHECK_NULL(gridnet_node_explain(h.fabric, &some_node, NULL, 64, &out.size));
    CHECK_NULL(gridnet_endpoint_source(h.endpoint, NULL));
    CHECK_NULL(gridnet_endpoint_explain(h.endpoint, NULL, 64, &out.size));
    CHECK_NULL(gridnet_endpoint_counters(h.endpoint, NULL));
    CHECK_NULL(gridnet_tag_send(h.endpoint, NULL, 8, 0, NULL));
    CHECK_NULL(gridnet_tag_recv(h.cq, NULL, NULL, 8, 0, 0, NULL));
    CHECK_NULL(gridnet_tag_sendx(h.endpoint, NULL, &out.op));
    CHECK_NULL(gridnet_tag_recvx(h.cq, NULL, &out.op));
    send.iov_count = recv.iov_count = 1;
    CHECK_NULL(gridnet_tag_sendx(h.endpoint, &send, &out.op));
    CHECK_NULL(gridnet_tag_recvx(h.cq, &recv, &out.op));
    send.iov = recv.iov = &hole;
    CHECK_NULL(gridnet_tag_sendx(h.endpoint, &send, &out.op));
    CHECK_NULL(gridnet_tag_recvx(h.cq, &recv, &out.op));
    CHECK_NULL(gridnet_tag_probe(h.fabric, NULL, 0, 0, NULL));
    CHECK_NULL(gridnet_tag_mprobe(h.fabric, NULL, 0, 0, NULL, &out.message));
    CHECK_NULL(gridnet_tag_mprobe(h.fabric, NULL, 0, 0, &out.info, NULL));
    CHECK_NULL(gridnet_message_recv(h.cq, NULL, buffer, sizeof buffer, NULL));
    CHECK_NULL(gridnet_message_recv(NULL, h.message, buffer, sizeof buffer, NULL));
    CHECK_NULL(gridnet_message_recv(h.cq, h.message, NULL, 8, NULL));
    CHECK_NULL(gridnet_message_recv_loan(h.cq, NULL, &out.lent, NULL));
    CHECK_NULL(gridnet_message_recv_loan(NULL, h.message, &out.lent, NULL));
    CHECK_NULL(gridnet_message_recv_loan(h.cq, h.message, NULL, NULL));
    CHECK_NULL(gridnet_loan_take(h.fabric, 8, NULL, &out.data));
    CHECK_NULL(gridnet_loan_take(h.fabric, 8, &out.loan, NULL));
    CHECK_NULL(gridnet_loan_recv(h.cq, NULL, NULL, 0, 0, NULL));
    CHECK_NULL(gridnet_region_register(h.fabric, NULL, &out.region));
    CHECK_NULL(gridnet_region_register(h.fabric, &memory, NULL));
    CHECK_NULL(gridnet_region_allocate(h.fabric, NULL, &out.region, &out.data));
    CHECK_NULL(gridnet_region_allocate(h.fabric, &nowhere, NULL, &out.data));
    CHECK_NULL(gridnet_region_allocate(h.fabric, &nowhere, &out.region, NULL));
    CHECK_NULL(gridnet_region_key(h.region, NULL));
    CHECK_NULL(gridnet_rkey_import(h.endpoint, NULL, &out.rkey));
    CHECK_NULL(gridnet_rkey_import(h.endpoint, &h.key, NULL));
    CHECK_NULL(gridnet_put(h.endpoint, NULL, 8, h.rkey, 0, NULL));
    CHECK_NULL(gridnet_put(h.endpoint, buffer, 8, NULL, 0, NULL));
    CHECK_NULL(gridnet_get(h.endpoint, NULL, 8, h.rkey, 0, NULL));
    CHECK_NULL(gridnet_get(h.endpoint, buffer, 8, NULL, 0, NULL));
    CHECK_NULL(gridnet_atomic(h.endpoint, h.rkey, NULL));
    CHECK_NULL(gridnet_atomic(h.endpoint, NULL, &one));
    CHECK_NULL(gridnet_listener_open(h.fabric, NULL, 0, &out.listener));
    CHECK_NULL(gridnet_listener_open(h.fabric, "more", 0, NULL));
    CHECK_NULL(gridnet_listener_accept(h.listener, 0, NULL));
    CHECK_NULL(gridnet_listener_fd(h.listener, NULL));
    CHECK_NULL(gridnet_stream_connect(h.endpoint, NULL, 0, &out.stream));
    CHECK_NULL(gridnet_stream_connect(h.endpoint, "all", 0, NULL));
    CHECK_NULL(gridnet_stream_source(h.stream, NULL));
    CHECK_NULL(gridnet_stream_read(h.stream, NULL, 8, 0, &out.size));
    CHECK_NULL(gridnet_stream_read(h.stream, buffer, 8, 0, NULL));
    CHECK_NULL(gridnet_stream_write(h.stream, NULL, 8, 0, &out.size));
    CHECK_NULL(gridnet_stream_write(h.stream, buffer, 8, 0, NULL));
    CHECK_NULL(gridnet_stream_fd(h.stream, NULL));
    CHECK_NULL(gridnet_group_create(h.cq, NULL, 1, &out.group));
    CHECK_NULL(gridnet_group_create(h.cq, &h.address, 1, NULL));
    CHECK_NULL(gridnet_group_create_nodes(h.cq, NULL, 1, NULL, &out.group));
    CHECK_NULL(gridnet_group_create_nodes(h.cq, &some_node, 1, NULL, NULL));
    CHECK_NULL(gridnet_group_size(h.group, NULL));
    CHECK_NULL(gridnet_group_endpoint(h.group, 0, NULL));
    CHECK_NULL(gridnet_group_rank(h.group, 0, NULL));
    outputs_untouched();
}

/* A handle of another kind is no handle of this one. */
static struct handles exchanged(struct handles h)
{
    struct handles wrong = h;
    wrong.fabric = (gridnet_fabric *)h.cq;
    wrong.cq = (gridnet_cq *)h.endpoint;
    wrong.endpoint = (gridnet_endpoint *)h.group;
    wrong.group = (gridnet_group *)h.fabric;
    wrong.message = (gridnet_message *)h.cq;
    wrong.region = (gridnet_region *)h.rkey;
    wrong.rkey = (gridnet_rkey *)h.region;
    wrong.listener = (gridnet_listener *)h.stream;
    wrong.stream = (gridnet_stream *)h.listener;
    return wrong;
}

/* A source that is no endpoint, and one of another fabric. */
static void wrong_sources(struct handles h)
{
    struct node other = node_open(NULL);
    gridnet_endpoint *foreign = node_link(&other, &other), *mistaken = (gridnet_endpoint *)h.cq;
    gridnet_recv_params params = recv_params();
    outputs_reset();
    CHECK_HANDLE(gridnet_tag_recv(h.cq, mistaken, buffer, sizeof buffer, 0, 0, NULL));
    CHECK_HANDLE(gridnet_loan_recv(h.cq, mistaken, &out.lent, 0, 0, NULL));
    CHECK(gridnet_loan_recv(h.cq, foreign, &out.lent, 0, 0, NULL) < 0);
    CHECK_HANDLE(gridnet_tag_probe(h.fabric, mistaken, 0, 0, &out.info));
    CHECK_HANDLE(gridnet_tag_mprobe(h.fabric, mistaken, 0, 0, &out.info, &out.message));
    params.source = mistaken;
    CHECK_HANDLE(gridnet_tag_recvx(h.cq, &params, &out.op));
    CHECK(gridnet_tag_recv(h.cq, foreign, buffer, sizeof buffer, 0, 0, NULL) < 0);
    CHECK(gridnet_tag_probe(h.fabric, foreign, 0, 0, &out.info) < 0);
    CHECK(gridnet_endpoint_open_source(h.cq, 0xfffffff0u, &out.endpoint) < 0);
    /* It has joined no session. */
    CHECK_STATUS(GRIDNET_ERR_CONFIG, gridnet_endpoint_open_node(h.cq, &some_node, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_CONFIG, gridnet_nodes(h.fabric, NULL, 0, &out.size));
    CHECK_STATUS(GRIDNET_ERR_CONFIG, gridnet_node_events(h.fabric, &out.event, 1));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_node_events(h.fabric, &out.event, 0));
    CHECK_STATUS(GRIDNET_ERR_CONFIG, gridnet_node_explain(h.fabric, &some_node, out.text, sizeof out.text, &out.size));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_endpoint_open_node(h.cq, &no_node, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_CONFIG, gridnet_endpoint_open_nodex(h.cq, &some_node, &some_wish));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_endpoint_open_nodex(h.cq, &no_node, &some_wish));
    outputs_untouched();
    node_close(&other);
}

/* A queue goes, and takes its receives with it: the message waits for one of another queue. */
static void queue_with_users(struct handles h)
{
    struct node node = {h.fabric, h.cq};
    gridnet_cq *doomed;
    gridnet_endpoint *orphan;
    gridnet_address address;
    int gone = 0, here = 0, value = 3;
    CHECK_OK(gridnet_fabric_address(h.fabric, &address));
    CHECK_OK(gridnet_cq_create(h.fabric, 0, &doomed));
    CHECK_OK(gridnet_endpoint_open(doomed, &address, &orphan));
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(doomed, NULL, &gone, sizeof gone, 2, 0, NULL));
    CHECK_OK(gridnet_cq_destroy(doomed));
    CHECK_HANDLE(gridnet_cq_poll(doomed, &out.entry, 1));
    node_send(&node, h.endpoint, &value, sizeof value, 2);
    CHECK(node_recv(&node, NULL, &here, sizeof here, 2).length == sizeof here && here == value && gone == 0);
    CHECK_OK(gridnet_endpoint_close(orphan));
}

int main(void)
{
    test_limit(60);
    struct node node = node_open(NULL);
    struct handles h = all_handles(&node), none;
    memset(&none, 0, sizeof none);

    all_calls(none, GRIDNET_ERR_NULL);
    null_arguments(h);
    all_calls(exchanged(h), GRIDNET_ERR_HANDLE);
    CHECK_HANDLE(gridnet_message_recv(node.cq, (gridnet_message *)h.cq, buffer, sizeof buffer, NULL));
    CHECK_HANDLE(gridnet_message_recv_loan(node.cq, (gridnet_message *)h.cq, &out.lent, NULL));
    CHECK_HANDLE(gridnet_put(h.endpoint, buffer, 8, (gridnet_rkey *)h.region, 0, NULL));
    CHECK_HANDLE(gridnet_get(h.endpoint, buffer, 8, (gridnet_rkey *)h.region, 0, NULL));
    wrong_sources(h);
    queue_with_users(h);

    /* All this has done no harm. */
    CHECK(gridnet_message_recv(node.cq, h.message, buffer, sizeof buffer, NULL) >= GRIDNET_OK);
    CHECK(node_done(&node).length == 8);
    CHECK_HANDLE(gridnet_message_recv(node.cq, h.message, buffer, sizeof buffer, NULL));

    /* Closed one by one, and by the fabric that they belong to. */
    CHECK_OK(gridnet_endpoint_close(h.endpoint));
    CHECK_HANDLE(gridnet_endpoint_close(h.endpoint));
    CHECK_HANDLE(gridnet_tag_send(h.endpoint, buffer, 8, 0, NULL));
    CHECK_OK(gridnet_fabric_close(node.fabric));
    all_calls(h, GRIDNET_ERR_HANDLE);

    /* New objects do not bring the old handles back to life. */
    struct node again = node_open(NULL);
    CHECK_HANDLE(gridnet_endpoint_close(h.endpoint));
    CHECK_HANDLE(gridnet_group_destroy(h.group));
    node_close(&again);
    return EXIT_SUCCESS;
}
