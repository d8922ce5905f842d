/*
 * gridnet: one transport for the processes of a parallel or distributed program.
 *
 * Generated from capi/src by cbindgen; not to be edited. See docs/ for a page on each call.
 *
 * Every function returns a status: 0 done, positive in progress or a number of things, negative an error. Outputs come
 * last and are written on success only. A handle that is NULL or closed is an error, never a crash; one that is no
 * handle at all is undefined behaviour, as for any pointer.
 */

#ifndef GRIDNET_H
#define GRIDNET_H

#include <stddef.h>
#include <stdint.h>

/**
 * gridnet_completion.op_kind: a send.
 */
#define GRIDNET_OP_SEND 1

/**
 * gridnet_completion.op_kind: a receive.
 */
#define GRIDNET_OP_RECV 2

/**
 * gridnet_completion.op_kind: a put.
 */
#define GRIDNET_OP_PUT 8

/**
 * gridnet_completion.op_kind: a get.
 */
#define GRIDNET_OP_GET 9

/**
 * gridnet_completion.op_kind: an atomic operation.
 */
#define GRIDNET_OP_ATOMIC 10

/**
 * gridnet_completion.op_kind: a flush.
 */
#define GRIDNET_OP_FLUSH 11

/**
 * gridnet_completion.op_kind: an endpoint that was opened by node id.
 */
#define GRIDNET_OP_OPEN 12

/**
 * gridnet_completion.flags: the field immediate is valid.
 */
#define GRIDNET_COMPLETION_IMMEDIATE 1

/**
 * Only the thread that opened the fabric calls.
 */
#define GRIDNET_THREAD_SINGLE 0

/**
 * Any thread calls, one at a time. The default.
 */
#define GRIDNET_THREAD_SERIALIZED 1

/**
 * Any thread calls at any time.
 */
#define GRIDNET_THREAD_MULTIPLE 2

/**
 * gridnet_iov.memory_kind: memory of the host.
 */
#define GRIDNET_MEMORY_HOST 0

/**
 * gridnet_iov.memory_kind: memory of an accelerator; no rail moves it yet (GRIDNET_ERR_UNSUPPORTED).
 */
#define GRIDNET_MEMORY_DEVICE 1

/**
 * gridnet_iov.numa_node: not known.
 */
#define GRIDNET_NUMA_UNKNOWN 4294967295

/**
 * gridnet_location.flags: on the host of the fabric that was asked.
 */
#define GRIDNET_LOCATION_HERE 1

/**
 * Bytes of a name of a node, or of a cluster, with the zero behind it; more than the longest has.
 */
#define GRIDNET_NODE_NAME_BYTES 72

/**
 * gridnet_node_info.flags: the node leads its cluster.
 */
#define GRIDNET_NODE_LEADS 1

/**
 * gridnet_node_event.kind: a node came, or says something else of itself.
 */
#define GRIDNET_NODE_JOINED 1

/**
 * gridnet_node_event.kind: a node left. Of it only the id is told, as of all that went.
 */
#define GRIDNET_NODE_LEFT 2

/**
 * gridnet_node_event.kind: a node was not heard of any more.
 */
#define GRIDNET_NODE_LOST 3

/**
 * gridnet_node_event.kind: a node was revoked.
 */
#define GRIDNET_NODE_REVOKED 4

/**
 * gridnet_node_event.kind: a node went, for a reason that this version does not know.
 */
#define GRIDNET_NODE_GONE 5

/**
 * gridnet_node_event.kind: events were dropped since nobody took them: gridnet_nodes says who is there now.
 */
#define GRIDNET_NODE_MISSED 6

/**
 * gridnet_atomic_params.op: adds the operand, modulo the width.
 */
#define GRIDNET_ATOMIC_ADD 1

/**
 * gridnet_atomic_params.op: bitwise and with the operand.
 */
#define GRIDNET_ATOMIC_AND 2

/**
 * gridnet_atomic_params.op: bitwise or with the operand.
 */
#define GRIDNET_ATOMIC_OR 3

/**
 * gridnet_atomic_params.op: bitwise exclusive or with the operand.
 */
#define GRIDNET_ATOMIC_XOR 4

/**
 * gridnet_atomic_params.op: replaces the word by the operand.
 */
#define GRIDNET_ATOMIC_SWAP 5

/**
 * gridnet_atomic_params.op: replaces the word by the operand when it equals compare.
 */
#define GRIDNET_ATOMIC_COMPARE_SWAP 6

/**
 * gridnet_open_node_params.min_security: what the rules ask for.
 */
#define GRIDNET_SECURITY_PLAIN 0

/**
 * gridnet_open_node_params.min_security: the peer is who it should be, and nobody changes what passes.
 */
#define GRIDNET_SECURITY_AUTHENTICATED 1

/**
 * gridnet_open_node_params.min_security: nobody but the two reads or changes what passes.
 */
#define GRIDNET_SECURITY_ENCRYPTED 2

/**
 * gridnet_probe_info.flags: the field immediate is valid.
 */
#define GRIDNET_PROBE_IMMEDIATE 1

/**
 * gridnet_region_params.access: the owner's own use; always included.
 */
#define GRIDNET_ACCESS_LOCAL 1

/**
 * gridnet_region_params.access: peers get.
 */
#define GRIDNET_ACCESS_REMOTE_READ 2

/**
 * gridnet_region_params.access: peers put.
 */
#define GRIDNET_ACCESS_REMOTE_WRITE 4

/**
 * gridnet_region_params.access: peers run atomic operations.
 */
#define GRIDNET_ACCESS_REMOTE_ATOMIC 8

/**
 * gridnet_stream_arm: there is something to be read, or the end.
 */
#define GRIDNET_STREAM_READABLE 1

/**
 * gridnet_stream_arm: something can be written, or nothing ever.
 */
#define GRIDNET_STREAM_WRITABLE 2

/**
 * Complete only when the receiver has matched the message.
 */
#define GRIDNET_SEND_SYNC 1

/**
 * The field immediate travels with the message.
 */
#define GRIDNET_SEND_IMMEDIATE 2

/**
 * Report the completion even of a send that is done at once.
 */
#define GRIDNET_SEND_COMPLETION 4

/**
 * A completion queue: where operations report their end.
 */
typedef struct gridnet_cq gridnet_cq;

/**
 * An endpoint: the conversation with one peer, over whatever rails lead there.
 */
typedef struct gridnet_endpoint gridnet_endpoint;

/**
 * A fabric: this process as others see it, with all its rails.
 */
typedef struct gridnet_fabric gridnet_fabric;

/**
 * A group: an ordered set of peers. Ranks count from 0.
 */
typedef struct gridnet_group gridnet_group;

/**
 * A listener: takes calls for a service.
 */
typedef struct gridnet_listener gridnet_listener;

/**
 * A message that gridnet_tag_mprobe has taken: nobody else receives it.
 */
typedef struct gridnet_message gridnet_message;

/**
 * A region: memory of this process that peers reach by key.
 */
typedef struct gridnet_region gridnet_region;

/**
 * The key of a peer's region, imported.
 */
typedef struct gridnet_rkey gridnet_rkey;

/**
 * A stream: ordered bytes to and from a peer.
 */
typedef struct gridnet_stream gridnet_stream;

/**
 * 0: done. Positive: in progress, or a number of things. Negative: an error.
 */
typedef int32_t gridnet_status;

/**
 * What has happened so far. All but those named "now" only grow.
 */
typedef struct gridnet_counters {
    /**
     * sizeof(gridnet_counters), to be set before the call.
     */
    size_t size;
    /**
     * Messages handed over for sending.
     */
    uint64_t messages_sent;
    /**
     * Messages that came in, received or not.
     */
    uint64_t messages_received;
    /**
     * Payload bytes of the former.
     */
    uint64_t bytes_sent;
    /**
     * Payload bytes of the latter.
     */
    uint64_t bytes_received;
    /**
     * Sends that went whole.
     */
    uint64_t sends_eager;
    /**
     * Sends that were announced first, and moved without a further copy.
     */
    uint64_t sends_rendezvous;
    /**
     * Messages now in the unexpected store (fabric only).
     */
    uint64_t unexpected_now;
    /**
     * Their bytes (fabric only).
     */
    uint64_t unexpected_bytes_now;
    /**
     * Messages that came before their receive.
     */
    uint64_t unexpected_total;
    /**
     * Operations that have not completed (fabric only).
     */
    uint64_t pending_now;
    /**
     * Times that a peer was told to stop since the unexpected store was full.
     */
    uint64_t backpressure_stops;
    /**
     * Rounds of polling (fabric only).
     */
    uint64_t polls;
    /**
     * Rounds of polling that found nothing (fabric only).
     */
    uint64_t empty_polls;
    /**
     * Times that a waiting call slept (fabric only).
     */
    uint64_t sleeps;
    /**
     * Wake-ups given to sleeping peers (fabric only).
     */
    uint64_t wakeups_sent;
    /**
     * Peers with a live connection (fabric only).
     */
    uint64_t peers_now;
    /**
     * Peers that have gone (fabric only).
     */
    uint64_t peers_gone;
    /**
     * Puts into regions of peers that were done or started.
     */
    uint64_t puts;
    /**
     * Their bytes.
     */
    uint64_t bytes_put;
    /**
     * Gets from regions of peers that were done or started.
     */
    uint64_t gets;
    /**
     * Their bytes.
     */
    uint64_t bytes_got;
    /**
     * Atomic operations on regions of peers that were done or started.
     */
    uint64_t atomics;
    /**
     * Those puts, gets and atomic operations that went by messages.
     */
    uint64_t operations_by_message;
    /**
     * Operations of peers on regions of this fabric that came by messages. Of others it does not know.
     */
    uint64_t operations_served;
    /**
     * Bytes that those have put and got.
     */
    uint64_t bytes_served;
    /**
     * Streams that were asked for or accepted here.
     */
    uint64_t streams;
    /**
     * Bytes that were written to streams.
     */
    uint64_t stream_bytes_sent;
    /**
     * Bytes of streams that came in, read or not.
     */
    uint64_t stream_bytes_received;
} gridnet_counters;

/**
 * Names an operation for gridnet_cancel; 0 is none.
 */
typedef uint64_t gridnet_op;

/**
 * The end of one operation.
 */
typedef struct gridnet_completion {
    /**
     * What was given with the operation.
     */
    void *context;
    /**
     * Length of the message in bytes; of a truncated one, its whole length.
     */
    uint64_t length;
    /**
     * Tag of the message.
     */
    uint64_t tag;
    /**
     * Value that came with the message, if GRIDNET_COMPLETION_IMMEDIATE is in flags.
     */
    uint64_t immediate;
    /**
     * The operation.
     */
    gridnet_op op;
    /**
     * GRIDNET_OK or an error.
     */
    gridnet_status status;
    /**
     * Number of the peer, the same while the fabric is open.
     */
    uint32_t source;
    /**
     * GRIDNET_OP_*.
     */
    uint32_t op_kind;
    /**
     * GRIDNET_COMPLETION_*.
     */
    uint32_t flags;
} gridnet_completion;

/**
 * How a fabric is reached: opaque, the same for its whole life, to be handed to peers by any means.
 */
typedef struct gridnet_address {
    /**
     * The bytes.
     */
    uint8_t bytes[64];
} gridnet_address;

/**
 * What a fabric is opened with.
 */
typedef struct gridnet_fabric_params {
    /**
     * sizeof(gridnet_fabric_params).
     */
    size_t size;
    /**
     * NULL, or the name by which other processes of this host find the fabric: 1 to 64 of A-Z a-z 0-9 . _ -, not
     * beginning with a dot.
     */
    const char *name;
    /**
     * GRIDNET_THREAD_*.
     */
    uint32_t thread_level;
    /**
     * 0.
     */
    uint32_t flags;
    /**
     * NULL, or "GRIDNET_X=value" strings up to a NULL; they beat the environment.
     */
    const char *const *options;
} gridnet_fabric_params;

/**
 * The id of a node of a session.
 */
typedef struct gridnet_node {
    /**
     * Never all zero.
     */
    uint8_t bytes[16];
} gridnet_node;

/**
 * How the edges of a group of nodes are opened.
 */
typedef struct gridnet_group_params {
    /**
     * sizeof(gridnet_group_params).
     */
    size_t size;
    /**
     * How long agreeing on an edge may take, in ns: a minute at most, and when it is 0 or negative.
     */
    int64_t timeout_ns;
    /**
     * Is in the completions that tell how it went.
     */
    void *context;
} gridnet_group_params;

/**
 * Names a loan of one fabric; 0 is none.
 */
typedef uint64_t gridnet_loan;

/**
 * A message as gridnet_loan_recv hands it over.
 */
typedef struct gridnet_lent {
    /**
     * The loan, for gridnet_loan_give_back.
     */
    gridnet_loan loan;
    /**
     * The message, to be read until the loan is given back.
     */
    const void *data;
    /**
     * Its length in bytes.
     */
    size_t len;
} gridnet_lent;

/**
 * Where the fabric of an address is. The struct keeps its size.
 */
typedef struct gridnet_location {
    /**
     * Which node it is. In a session that it has joined by a ticket this is its id there.
     */
    struct gridnet_node node;
    /**
     * GRIDNET_LOCATION_HERE or 0.
     */
    uint32_t flags;
    /**
     * 0.
     */
    uint32_t reserved;
} gridnet_location;

/**
 * What is known of a node. The struct keeps its size.
 */
typedef struct gridnet_node_info {
    /**
     * Who it is; only this is proved.
     */
    struct gridnet_node node;
    /**
     * When it came, in seconds after 1970 began, by the clock of the rendez-vous node.
     */
    int64_t since;
    /**
     * GRIDNET_NODE_LEADS or 0.
     */
    uint32_t flags;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * What it says of itself, for people; ended by a zero.
     */
    char label[GRIDNET_NODE_NAME_BYTES];
    /**
     * The cluster that it says it belongs to; ended by a zero.
     */
    char cluster[GRIDNET_NODE_NAME_BYTES];
} gridnet_node_info;

/**
 * What has happened to a node. The struct keeps its size.
 */
typedef struct gridnet_node_event {
    /**
     * GRIDNET_NODE_JOINED to GRIDNET_NODE_MISSED; kinds of later versions may be skipped.
     */
    uint32_t kind;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The node; all zero for GRIDNET_NODE_MISSED.
     */
    struct gridnet_node_info info;
} gridnet_node_event;

/**
 * An atomic operation with everything that can be said of it.
 */
typedef struct gridnet_atomic_params {
    /**
     * sizeof(gridnet_atomic_params).
     */
    size_t size;
    /**
     * GRIDNET_ATOMIC_*.
     */
    uint32_t op;
    /**
     * Bytes of the word: 4 or 8.
     */
    uint32_t width;
    /**
     * Where in the region.
     */
    uint64_t offset;
    /**
     * With what; of a word of 4 bytes the low half counts.
     */
    uint64_t operand;
    /**
     * See GRIDNET_ATOMIC_COMPARE_SWAP.
     */
    uint64_t compare;
    /**
     * NULL, or where the word as it was before goes: `width` bytes.
     */
    void *result;
    /**
     * 0.
     */
    uint32_t flags;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Given back with the completion.
     */
    void *context;
} gridnet_atomic_params;

/**
 * What an endpoint to a node is for, and what it has to be.
 */
typedef struct gridnet_open_node_params {
    /**
     * sizeof(gridnet_open_node_params).
     */
    size_t size;
    /**
     * How long it may take in nanoseconds; 0, negative and more than that: a minute.
     */
    int64_t timeout_ns;
    /**
     * The service of the node that the rules of both sides are asked for; NULL: that of all fabrics, "gridnet".
     */
    const char *service;
    /**
     * GRIDNET_SECURITY_*: the least that does; the rules may ask for more.
     */
    uint32_t min_security;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Given back with the completion.
     */
    void *context;
} gridnet_open_node_params;

/**
 * What a probe found.
 */
typedef struct gridnet_probe_info {
    /**
     * Length of the message in bytes.
     */
    uint64_t length;
    /**
     * Its tag.
     */
    uint64_t tag;
    /**
     * Value that came with it, if GRIDNET_PROBE_IMMEDIATE is in flags.
     */
    uint64_t immediate;
    /**
     * Number of the sender.
     */
    uint32_t source;
    /**
     * GRIDNET_PROBE_*.
     */
    uint32_t flags;
} gridnet_probe_info;

/**
 * What a region is made of.
 */
typedef struct gridnet_region_params {
    /**
     * sizeof(gridnet_region_params).
     */
    size_t size;
    /**
     * gridnet_region_register: where the memory starts. gridnet_region_allocate: NULL.
     */
    void *base;
    /**
     * Length in bytes.
     */
    size_t len;
    /**
     * GRIDNET_ACCESS_*, of which REMOTE ones are what peers may do.
     */
    uint32_t access;
    /**
     * GRIDNET_MEMORY_HOST.
     */
    uint32_t memory_kind;
    /**
     * NUMA node where the memory lies, or is to lie, or GRIDNET_NUMA_UNKNOWN.
     */
    uint32_t numa_node;
    /**
     * 0.
     */
    uint32_t flags;
} gridnet_region_params;

/**
 * The key of a region, as plain bytes to be handed to peers by any means.
 */
typedef struct gridnet_key {
    /**
     * The bytes.
     */
    uint8_t bytes[64];
} gridnet_key;

/**
 * One piece of memory.
 */
typedef struct gridnet_iov {
    /**
     * Where it starts.
     */
    void *base;
    /**
     * Length in bytes.
     */
    size_t len;
    /**
     * GRIDNET_MEMORY_*.
     */
    uint32_t memory_kind;
    /**
     * NUMA node where it lies, or GRIDNET_NUMA_UNKNOWN. A hint.
     */
    uint32_t numa_node;
} gridnet_iov;

/**
 * A send with everything that can be said of it.
 */
typedef struct gridnet_send_params {
    /**
     * sizeof(gridnet_send_params).
     */
    size_t size;
    /**
     * Pieces of the message; at most 1024.
     */
    const struct gridnet_iov *iov;
    /**
     * How many.
     */
    size_t iov_count;
    /**
     * Tag.
     */
    uint64_t tag;
    /**
     * Value that travels with the message, with GRIDNET_SEND_IMMEDIATE.
     */
    uint64_t immediate;
    /**
     * GRIDNET_SEND_*.
     */
    uint32_t flags;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Given back with the completion.
     */
    void *context;
} gridnet_send_params;

/**
 * A receive with everything that can be said of it.
 */
typedef struct gridnet_recv_params {
    /**
     * sizeof(gridnet_recv_params).
     */
    size_t size;
    /**
     * Pieces of the buffer, filled in order; at most 1024.
     */
    const struct gridnet_iov *iov;
    /**
     * How many.
     */
    size_t iov_count;
    /**
     * Accept messages of this peer only; NULL: of any.
     */
    struct gridnet_endpoint *source;
    /**
     * Tag,
     */
    uint64_t tag;
    /**
     * of which these bits do not count.
     */
    uint64_t ignore;
    /**
     * 0.
     */
    uint32_t flags;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Given back with the completion.
     */
    void *context;
} gridnet_recv_params;

/**
 * Done; no completion follows.
 */
#define GRIDNET_OK 0

/**
 * Under way; a completion follows.
 */
#define GRIDNET_IN_PROGRESS 1

/**
 * gridnet_cq_arm: something is there already; poll first.
 */
#define GRIDNET_BUSY 2

/**
 * An argument is out of its range.
 */
#define GRIDNET_ERR_INVALID -1

/**
 * A required pointer is NULL.
 */
#define GRIDNET_ERR_NULL -2

/**
 * The handle is closed, or is not a handle of this kind.
 */
#define GRIDNET_ERR_HANDLE -3

/**
 * The size field of a parameter struct is none that this library knows.
 */
#define GRIDNET_ERR_STRUCT_SIZE -4

/**
 * A configuration variable or value is unknown.
 */
#define GRIDNET_ERR_CONFIG -5

/**
 * Memory could not be had.
 */
#define GRIDNET_ERR_NO_MEMORY -6

/**
 * A configured limit, or one of the operating system, is reached.
 */
#define GRIDNET_ERR_LIMIT -7

/**
 * No resource at this moment: poll the completion queue, then try again.
 */
#define GRIDNET_ERR_AGAIN -8

/**
 * The time given has passed.
 */
#define GRIDNET_ERR_TIMEOUT -9

/**
 * The operation was cancelled.
 */
#define GRIDNET_ERR_CANCELED -10

/**
 * The message was longer than the buffer, which holds its first bytes.
 */
#define GRIDNET_ERR_TRUNCATED -11

/**
 * The peer process has ended; whether messages not yet acknowledged arrived is unknown.
 */
#define GRIDNET_ERR_PEER_GONE -12

/**
 * The peer broke the protocol and was cut off.
 */
#define GRIDNET_ERR_PEER_MISBEHAVED -13

/**
 * No rail reaches the address.
 */
#define GRIDNET_ERR_UNREACHABLE -14

/**
 * There is no such name or operation.
 */
#define GRIDNET_ERR_NOT_FOUND -15

/**
 * Another fabric of this host has the name.
 */
#define GRIDNET_ERR_NAME_IN_USE -16

/**
 * The handle was inherited through fork.
 */
#define GRIDNET_ERR_FORKED -17

/**
 * The call breaks the thread level chosen at open.
 */
#define GRIDNET_ERR_THREAD -18

/**
 * The other side, or a file, belongs to another user.
 */
#define GRIDNET_ERR_PERMISSION -19

/**
 * A system call failed.
 */
#define GRIDNET_ERR_SYSTEM -20

/**
 * The rail or build cannot do this.
 */
#define GRIDNET_ERR_UNSUPPORTED -21

/**
 * The object still has users.
 */
#define GRIDNET_ERR_IN_USE -22

/**
 * A probe found no message.
 */
#define GRIDNET_ERR_NO_MESSAGE -23

/**
 * The peer speaks no protocol version that this library speaks.
 */
#define GRIDNET_ERR_VERSION -24

/**
 * The peer's shared segment is corrupt, foreign, unsealed or too small.
 */
#define GRIDNET_ERR_SEGMENT -25

/**
 * A defect of gridnet itself.
 */
#define GRIDNET_ERR_INTERNAL -26

/**
 * The key names no region of this peer, or one that was closed.
 */
#define GRIDNET_ERR_KEY -27

/**
 * The region does not allow this operation.
 */
#define GRIDNET_ERR_ACCESS -28

/**
 * The access goes beyond the end of the region.
 */
#define GRIDNET_ERR_BOUNDS -29

/**
 * The place is not a multiple of the width of the operation.
 */
#define GRIDNET_ERR_MISALIGNED -30

/**
 * The memory behind the region is not there any more, or cannot be accessed so.
 */
#define GRIDNET_ERR_FAULT -31

/**
 * The stream takes no more bytes: one of its sides has ended it.
 */
#define GRIDNET_ERR_CLOSED -32

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Counters of a whole fabric.
 *
 * # Safety
 * `fabric` is NULL or a fabric; `counters_out` is NULL or points to a struct whose field size is set, and that has as many
 * bytes.
 */
gridnet_status gridnet_fabric_counters(struct gridnet_fabric *fabric,
                                       struct gridnet_counters *counters_out);

/**
 * Counters of the peer of an endpoint, over all endpoints to it.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint; `counters_out` as for gridnet_fabric_counters.
 */
gridnet_status gridnet_endpoint_counters(struct gridnet_endpoint *endpoint,
                                         struct gridnet_counters *counters_out);

/**
 * Makes a completion queue for at most `capacity` operations under way or completed (0: GRIDNET_CQ_CAPACITY). An
 * operation for which it has no room is refused with GRIDNET_ERR_AGAIN: completions are never lost.
 *
 * # Safety
 * `fabric` is NULL or a fabric; `cq_out` is valid for a write.
 */
gridnet_status gridnet_cq_create(struct gridnet_fabric *fabric,
                                 size_t capacity,
                                 struct gridnet_cq **cq_out);

/**
 * Ends a completion queue, and the operations that report to it: their memory is not touched any more, and nothing tells
 * of them. A send of which the peer knows may have been received.
 *
 * # Safety
 * `cq` is NULL or a completion queue that no other call uses.
 */
gridnet_status gridnet_cq_destroy(struct gridnet_cq *cq);

/**
 * Takes at most `count` completions, and returns how many; looks for new ones first if there are none. Never waits.
 *
 * # Safety
 * `cq` is NULL or a completion queue; `entries_out` has room for `count` entries.
 */
gridnet_status gridnet_cq_poll(struct gridnet_cq *cq,
                               struct gridnet_completion *entries_out,
                               size_t count);

/**
 * Takes at most `count` completions, and returns how many; waits for the first at most `timeout_ns` nanoseconds
 * (negative: for ever), in the way that GRIDNET_WAIT_MODE says.
 *
 * Errors: GRIDNET_ERR_TIMEOUT.
 *
 * # Safety
 * As gridnet_cq_poll.
 */
gridnet_status gridnet_cq_wait(struct gridnet_cq *cq,
                               struct gridnet_completion *entries_out,
                               size_t count,
                               int64_t timeout_ns);

/**
 * A descriptor for poll, select and epoll: readable, after gridnet_cq_arm said GRIDNET_OK, once something has
 * happened. It belongs to the queue and is closed with it.
 *
 * # Safety
 * `cq` is NULL or a completion queue; `fd_out` is valid for a write.
 */
gridnet_status gridnet_cq_fd(struct gridnet_cq *cq, int *fd_out);

/**
 * Prepares the descriptor for sleep. GRIDNET_OK: it becomes readable when something happens. GRIDNET_BUSY: something
 * has happened already; poll the queue, then arm again.
 *
 * # Safety
 * `cq` is NULL or a completion queue.
 */
gridnet_status gridnet_cq_arm(struct gridnet_cq *cq);

/**
 * Opens an endpoint to the fabric at `address`; its sends report to `cq`. The connection is made in the background:
 * sends may start at once, and fail later if the peer refuses.
 *
 * Errors: GRIDNET_ERR_INVALID for what is no address, GRIDNET_ERR_UNREACHABLE when no rail leads there
 * (gridnet_last_error has the reason of each), GRIDNET_ERR_PERMISSION for a peer of another user.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `address` NULL or valid, `endpoint_out` valid for a write.
 */
gridnet_status gridnet_endpoint_open(struct gridnet_cq *cq,
                                     const struct gridnet_address *address,
                                     struct gridnet_endpoint **endpoint_out);

/**
 * Opens an endpoint to whoever sent a message: `source` is the field of that name of a completion or probe.
 *
 * Errors: GRIDNET_ERR_NOT_FOUND, GRIDNET_ERR_PEER_GONE.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `endpoint_out` valid for a write.
 */
gridnet_status gridnet_endpoint_open_source(struct gridnet_cq *cq,
                                            uint32_t source,
                                            struct gridnet_endpoint **endpoint_out);

/**
 * Closes an endpoint. Its sends that have not completed do so with GRIDNET_ERR_CANCELED. The connection stays for
 * other endpoints to the same peer, present and future, until either fabric closes.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint that no other call uses.
 */
gridnet_status gridnet_endpoint_close(struct gridnet_endpoint *endpoint);

/**
 * The number by which completions and probes name this peer.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint, `source_out` valid for a write.
 */
gridnet_status gridnet_endpoint_source(struct gridnet_endpoint *endpoint, uint32_t *source_out);

/**
 * Says which rail carries the messages to a peer, and why each other does not: some lines of text, ended by a zero.
 * `needed_out` (may be NULL) gets the bytes that the whole text needs, zero included; when `size` is less, the text is
 * cut and the result is GRIDNET_ERR_TRUNCATED (with `size` 0, `text_out` may be NULL).
 *
 * # Safety
 * `endpoint` is NULL or an endpoint, `text_out` has room for `size` bytes, `needed_out` is NULL or valid for a write.
 */
gridnet_status gridnet_endpoint_explain(struct gridnet_endpoint *endpoint,
                                        char *text_out,
                                        size_t size,
                                        size_t *needed_out);

/**
 * Opens a fabric. `params` may be NULL: no name, level SERIALIZED, configuration from the environment alone.
 *
 * Errors: GRIDNET_ERR_CONFIG (gridnet_last_error names the variable and the accepted form), GRIDNET_ERR_NAME_IN_USE,
 * GRIDNET_ERR_LIMIT, GRIDNET_ERR_NO_MEMORY, GRIDNET_ERR_PERMISSION, GRIDNET_ERR_SYSTEM.
 *
 * # Safety
 * `params` is NULL or valid; `fabric_out` is valid for a write.
 */
gridnet_status gridnet_fabric_open(const struct gridnet_fabric_params *params,
                                   struct gridnet_fabric **fabric_out);

/**
 * Closes a fabric, and with it every queue, endpoint, group, message, region, key, listener and stream made from it. Operations that have not
 * completed are given up; what was sent before stays receivable by the peers.
 *
 * # Safety
 * `fabric` is NULL or a fabric; no other call on it or on anything made from it is under way.
 */
gridnet_status gridnet_fabric_close(struct gridnet_fabric *fabric);

/**
 * The fabric's own address, to be handed to peers.
 *
 * # Safety
 * `fabric` is NULL or a fabric; `address_out` is valid for a write.
 */
gridnet_status gridnet_fabric_address(struct gridnet_fabric *fabric, struct gridnet_address *address_out);

/**
 * Finds the fabric of a name on this host; waits until there is one, at most `timeout_ns` nanoseconds (negative:
 * for ever). Progress goes on meanwhile.
 *
 * Errors: GRIDNET_ERR_TIMEOUT, GRIDNET_ERR_INVALID for what no fabric can be named.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `name` NULL or a C string, `address_out` valid for a write.
 */
gridnet_status gridnet_fabric_lookup(struct gridnet_fabric *fabric,
                                     const char *name,
                                     int64_t timeout_ns,
                                     struct gridnet_address *address_out);

/**
 * Moves everything on that can be moved: receives frames, sends what waits, accepts peers, notices their end. Returns
 * how much happened. Programs that poll or wait on completion queues need not call it.
 *
 * # Safety
 * `fabric` is NULL or a fabric.
 */
gridnet_status gridnet_fabric_progress(struct gridnet_fabric *fabric);

/**
 * Makes a group of the fabrics at `count` addresses. Nothing is connected: each rank's endpoint is opened at its
 * first use, and reports to `cq`. A rank that is never used costs less than 128 bytes.
 *
 * # Safety
 * `cq` is NULL or a completion queue; `addresses` points to `count` addresses; `group_out` is valid for a write.
 */
gridnet_status gridnet_group_create(struct gridnet_cq *cq,
                                    const struct gridnet_address *addresses,
                                    size_t count,
                                    struct gridnet_group **group_out);

/**
 * Makes a group of `count` nodes of the session that the fabric has joined. Nothing is connected: the endpoint of each rank is opened
 * at its first use by either side, over a stack that the rules of both allow, and reports to `cq`; see gridnet_group_endpoint.
 * `params` may be NULL.
 *
 * Errors: GRIDNET_ERR_CONFIG when the fabric has joined no session, GRIDNET_ERR_INVALID for an id of zeroes or a count out of
 * range, GRIDNET_ERR_STRUCT_SIZE.
 *
 * # Safety
 * `cq` is NULL or a completion queue; `nodes` points to `count` ids; `params` is NULL or valid; `group_out` is valid for a write.
 */
gridnet_status gridnet_group_create_nodes(struct gridnet_cq *cq,
                                          const struct gridnet_node *nodes,
                                          size_t count,
                                          const struct gridnet_group_params *params,
                                          struct gridnet_group **group_out);

/**
 * Ends a group, and closes the endpoints that it has opened.
 *
 * # Safety
 * `group` is NULL or a group; no other call uses it or its endpoints.
 */
gridnet_status gridnet_group_destroy(struct gridnet_group *group);

/**
 * Number of ranks.
 *
 * # Safety
 * `group` is NULL or a group, `size_out` valid for a write.
 */
gridnet_status gridnet_group_size(struct gridnet_group *group, size_t *size_out);

/**
 * The endpoint of a rank, opened at the first call. It belongs to the group: it is not to be closed by itself.
 *
 * In a group of nodes, GRIDNET_IN_PROGRESS says that both sides agree on a stack, and nothing is written: the completion queue of the
 * group has one completion of kind GRIDNET_OP_OPEN for each time that this is begun, with the context of the group and the rank as
 * tag. With status GRIDNET_OK the next call has the endpoint; otherwise it begins anew. An edge that the other side has opened is there.
 *
 * Errors: GRIDNET_ERR_INVALID for a rank that the group does not have; else as gridnet_endpoint_open or gridnet_endpoint_open_node.
 *
 * # Safety
 * `group` is NULL or a group, `endpoint_out` valid for a write.
 */
gridnet_status gridnet_group_endpoint(struct gridnet_group *group,
                                      size_t rank,
                                      struct gridnet_endpoint **endpoint_out);

/**
 * The rank of the peer that completions and probes call `source`.
 *
 * Errors: GRIDNET_ERR_NOT_FOUND when no rank has that peer.
 *
 * # Safety
 * `group` is NULL or a group, `rank_out` valid for a write.
 */
gridnet_status gridnet_group_rank(struct gridnet_group *group, uint32_t source, size_t *rank_out);

/**
 * Begins to take calls for `service` (1 to 128 bytes without control characters); at most `backlog` of them wait to be
 * accepted (1 to 4096, 0: 64), further ones are refused.
 *
 * Errors: GRIDNET_ERR_NAME_IN_USE when the fabric has a listener for the service, GRIDNET_ERR_INVALID.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `service` NULL or a C string, `listener_out` valid for a write.
 */
gridnet_status gridnet_listener_open(struct gridnet_fabric *fabric,
                                     const char *service,
                                     size_t backlog,
                                     struct gridnet_listener **listener_out);

/**
 * Takes no more calls. Streams that nobody has accepted end; those that were accepted stay.
 *
 * # Safety
 * `listener` is NULL or a listener that no other call uses.
 */
gridnet_status gridnet_listener_close(struct gridnet_listener *listener);

/**
 * Takes the stream of the oldest caller; waits for one at most `timeout_ns` nanoseconds (negative: for ever, 0: not at
 * all). gridnet_stream_source says who has called.
 *
 * Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: nobody has called.
 *
 * # Safety
 * `listener` is NULL or a listener, `stream_out` valid for a write.
 */
gridnet_status gridnet_listener_accept(struct gridnet_listener *listener,
                                       int64_t timeout_ns,
                                       struct gridnet_stream **stream_out);

/**
 * A descriptor for poll, select and epoll: readable, after gridnet_listener_arm said GRIDNET_OK, once something has
 * happened. It belongs to the listener and is closed with it.
 *
 * # Safety
 * `listener` is NULL or a listener, `fd_out` valid for a write.
 */
gridnet_status gridnet_listener_fd(struct gridnet_listener *listener,
                                   int *fd_out);

/**
 * Prepares the descriptor for sleep. GRIDNET_OK: it becomes readable when something happens. GRIDNET_BUSY: somebody may
 * have called already; accept, then arm again.
 *
 * # Safety
 * `listener` is NULL or a listener.
 */
gridnet_status gridnet_listener_arm(struct gridnet_listener *listener);

/**
 * Takes a loan: memory of `len` bytes that peers of this host can read where it lies. `data_out` gets where it begins, at
 * a multiple of 64; what it holds is not defined. It is to be written, then sent, or given back.
 *
 * Errors: GRIDNET_ERR_AGAIN when all memory for loans is in use (poll, then try again: what receivers give back is found),
 * GRIDNET_ERR_LIMIT when there is no room for as much, now or ever, also because messages have taken it for good
 * (GRIDNET_SHM_SEGMENT_SIZE), GRIDNET_ERR_NO_MEMORY.
 *
 * # Safety
 * `fabric` is NULL or a fabric; `loan_out` and `data_out` are valid for a write.
 */
gridnet_status gridnet_loan_take(struct gridnet_fabric *fabric,
                                 size_t len,
                                 gridnet_loan *loan_out,
                                 void **data_out);

/**
 * Sends the first `len` bytes of a loan with `tag`, without a copy where the peer can read them; matched as any message.
 * Unless the call fails, `loan` names nothing afterwards, and the memory must not be touched any more: it comes back when
 * the receiver gives it back, or ends.
 *
 * GRIDNET_OK: done, no completion follows. GRIDNET_IN_PROGRESS: a completion with `context` follows.
 *
 * Errors: GRIDNET_ERR_HANDLE when the loan was sent or given back before, GRIDNET_ERR_INVALID when it is of another fabric
 * or shorter, GRIDNET_ERR_UNSUPPORTED when it was received; and as gridnet_tag_send.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint. Nobody writes the memory of the loan.
 */
gridnet_status gridnet_loan_send(struct gridnet_endpoint *endpoint,
                                 gridnet_loan loan,
                                 size_t len,
                                 uint64_t tag,
                                 void *context);

/**
 * As gridnet_loan_send, but the program keeps the loan: it can read it, send it to other peers, and gives it back, or sends
 * it for good, in the end. It must not write it any more.
 *
 * # Safety
 * As gridnet_loan_send.
 */
gridnet_status gridnet_loan_share(struct gridnet_endpoint *endpoint,
                                  gridnet_loan loan,
                                  size_t len,
                                  uint64_t tag,
                                  void *context);

/**
 * Receives a message without a copy if it was sent as a loan, else in memory of the library. `lent` is written before the
 * completion that says GRIDNET_OK; the loan is then to be given back. The rest is as for gridnet_tag_recv.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `source` NULL or an endpoint of the same fabric; `lent` is valid for writes, and
 * touched by nobody, until the completion. What it names is not written, and not read after the loan was given back.
 */
gridnet_status gridnet_loan_recv(struct gridnet_cq *cq,
                                 struct gridnet_endpoint *source,
                                 struct gridnet_lent *lent,
                                 uint64_t tag,
                                 uint64_t ignore,
                                 void *context);

/**
 * Receives a message that gridnet_tag_mprobe took, as gridnet_loan_recv. On success the message handle is closed; a
 * completion follows.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `message` NULL or a message of the same fabric; `lent` as for gridnet_loan_recv.
 */
gridnet_status gridnet_message_recv_loan(struct gridnet_cq *cq,
                                         struct gridnet_message *message,
                                         struct gridnet_lent *lent,
                                         void *context);

/**
 * Gives a loan back: one that was received, or an own one that was not sent for good. Its memory must not be touched any
 * more.
 *
 * Errors: GRIDNET_ERR_HANDLE when it was sent or given back before, GRIDNET_ERR_INVALID when it is of another fabric.
 *
 * # Safety
 * `fabric` is NULL or a fabric.
 */
gridnet_status gridnet_loan_give_back(struct gridnet_fabric *fabric,
                                      gridnet_loan loan);

/**
 * Where the fabric of an address is, as far as the address says it: nobody is asked, and it may have ended.
 *
 * Errors: GRIDNET_ERR_INVALID for what is no address.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `address` NULL or valid, `location_out` valid for a write.
 */
gridnet_status gridnet_fabric_locate(struct gridnet_fabric *fabric,
                                     const struct gridnet_address *address,
                                     struct gridnet_location *location_out);

/**
 * Who is in the session that the fabric has joined, the fabric among them, by node id: at most `room` of them are written, and
 * `count_out` (may be NULL) gets how many there are; when that is more, the result is GRIDNET_ERR_TRUNCATED. With `room` 0, `nodes_out`
 * may be NULL. From the first call on, gridnet_node_events tells what changes.
 *
 * Errors: GRIDNET_ERR_CONFIG when it has joined none (GRIDNET_SESSION names no ticket).
 *
 * # Safety
 * `fabric` is NULL or a fabric, `nodes_out` has room for `room` nodes, `count_out` is NULL or valid for a write.
 */
gridnet_status gridnet_nodes(struct gridnet_fabric *fabric,
                             struct gridnet_node_info *nodes_out,
                             size_t room,
                             size_t *count_out);

/**
 * Takes what has happened to the nodes of the session since the first gridnet_nodes, oldest first: returns how many events were
 * written, 0 when nothing has happened. Never waits.
 *
 * Errors: GRIDNET_ERR_INVALID for a `room` of 0 or more than 2147483647, GRIDNET_ERR_CONFIG as gridnet_nodes.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `events_out` has room for `room` events.
 */
gridnet_status gridnet_node_events(struct gridnet_fabric *fabric,
                                   struct gridnet_node_event *events_out,
                                   size_t room);

/**
 * Begins to open an endpoint to the fabric that is this node of the session, over the first stack that the rules of both sides
 * allow and that comes up. Returns GRIDNET_IN_PROGRESS; within `timeout_ns` (a minute at most, negative: a minute) `cq` has a completion
 * of kind GRIDNET_OP_OPEN with this context. When its status is GRIDNET_OK, gridnet_endpoint_open_source makes the endpoint of its
 * `source`; otherwise gridnet_node_explain has all reasons.
 *
 * The status of the completion: GRIDNET_ERR_NOT_FOUND when there is no such node, GRIDNET_ERR_PERMISSION when the rules of either side
 * allow no stack, GRIDNET_ERR_UNREACHABLE when none came up, GRIDNET_ERR_TIMEOUT.
 *
 * Errors: GRIDNET_ERR_CONFIG when the fabric has joined no session, GRIDNET_ERR_INVALID for an id of zeroes, GRIDNET_ERR_AGAIN when
 * the queue is full, GRIDNET_ERR_SYSTEM.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `node` NULL or valid.
 */
gridnet_status gridnet_endpoint_open_node(struct gridnet_cq *cq,
                                          const struct gridnet_node *node,
                                          int64_t timeout_ns,
                                          void *context);

/**
 * How the last endpoint to a node of the session came about: the stack, and what was tried before; or why there is none. Some lines of
 * text, ended by a zero. `needed_out` (may be NULL) gets the bytes that the whole text needs, zero included; when `size` is less,
 * the text is cut and the result is GRIDNET_ERR_TRUNCATED (with `size` 0, `text_out` may be NULL).
 *
 * Errors: GRIDNET_ERR_NOT_FOUND when no endpoint to it was asked for, nor by it, GRIDNET_ERR_INVALID for an id of zeroes,
 * GRIDNET_ERR_CONFIG when the fabric has joined no session.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `node` NULL or valid, `text_out` has room for `size` bytes, `needed_out` is NULL or valid for a
 * write.
 */
gridnet_status gridnet_node_explain(struct gridnet_fabric *fabric,
                                    const struct gridnet_node *node,
                                    char *text_out,
                                    size_t size,
                                    size_t *needed_out);

/**
 * Copies `len` bytes from `buf` to `offset` of a peer's region.
 *
 * GRIDNET_OK: done, the bytes are in the region, no completion follows. GRIDNET_IN_PROGRESS: the buffer is in use until
 * the completion with `context` comes, which says that the bytes are in the region, or why not. 4 or 8 bytes at a place
 * that is a multiple of their number go as a whole into an allocated region.
 *
 * Errors: GRIDNET_ERR_KEY, GRIDNET_ERR_ACCESS, GRIDNET_ERR_BOUNDS, GRIDNET_ERR_FAULT, GRIDNET_ERR_PEER_GONE,
 * GRIDNET_ERR_AGAIN (poll, then try again).
 *
 * # Safety
 * `endpoint` is NULL or an endpoint, `rkey` NULL or an imported key; `buf` is valid for reads of `len` bytes as long as
 * the put is under way.
 */
gridnet_status gridnet_put(struct gridnet_endpoint *endpoint,
                           const void *buf,
                           size_t len,
                           struct gridnet_rkey *rkey,
                           uint64_t offset,
                           void *context);

/**
 * Copies `len` bytes from `offset` of a peer's region to `buf`.
 *
 * GRIDNET_OK: done, no completion follows. GRIDNET_IN_PROGRESS: the buffer is in use until the completion with `context`
 * comes.
 *
 * Errors: as gridnet_put.
 *
 * # Safety
 * As gridnet_put; `buf` is valid for writes of `len` bytes, and touched by nobody, as long as the get is under way.
 */
gridnet_status gridnet_get(struct gridnet_endpoint *endpoint,
                           void *buf,
                           size_t len,
                           struct gridnet_rkey *rkey,
                           uint64_t offset,
                           void *context);

/**
 * Runs an atomic operation on a word of a peer's region. Atomic with regard to other operations through gridnet and to
 * atomic instructions of the owner, but not to puts.
 *
 * GRIDNET_OK: done, the result is there, no completion follows. GRIDNET_IN_PROGRESS: the memory of the result is in use
 * until the completion with the context comes.
 *
 * Errors: as gridnet_put, and GRIDNET_ERR_MISALIGNED when the address of the word is no multiple of its width,
 * GRIDNET_ERR_INVALID for an unknown operation or width.
 *
 * # Safety
 * As gridnet_put; `params` is NULL or valid, its result NULL or valid for writes of `width` bytes as long as the operation
 * is under way.
 */
gridnet_status gridnet_atomic(struct gridnet_endpoint *endpoint,
                              struct gridnet_rkey *rkey,
                              const struct gridnet_atomic_params *params);

/**
 * Makes sure that every put, get and atomic operation that was started before, to the endpoint's peer by any endpoint of
 * this fabric, has taken effect.
 *
 * GRIDNET_OK: they have, no completion follows. GRIDNET_IN_PROGRESS: they have when the completion with `context` comes.
 * Those that fail say so themselves.
 *
 * Errors: GRIDNET_ERR_PEER_GONE, GRIDNET_ERR_AGAIN (poll, then try again).
 *
 * # Safety
 * `endpoint` is NULL or an endpoint.
 */
gridnet_status gridnet_flush(struct gridnet_endpoint *endpoint,
                             void *context);

/**
 * Begins to open an endpoint to a node as gridnet_endpoint_open_node, for a service of it, and at least so safe: by the rules of both
 * sides for that service. It stays so: whatever becomes of its link, the conversation goes on only where that is met.
 *
 * There is one conversation with a node. One that is there already, over less than is asked for here, is not used, and stays as it is: then
 * the status of the completion is GRIDNET_ERR_UNREACHABLE. It is GRIDNET_ERR_NOT_FOUND also when the node has no such service: it
 * has those for which it listens.
 *
 * Errors: as gridnet_endpoint_open_node; GRIDNET_ERR_INVALID for a service that rules cannot name (1 to 64 letters, digits, '.',
 * '_' and '-', a letter, digit or '_' first), and for another level; GRIDNET_ERR_STRUCT_SIZE.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `node` and `params` NULL or valid, `service` in it NULL or a C string.
 */
gridnet_status gridnet_endpoint_open_nodex(struct gridnet_cq *cq,
                                           const struct gridnet_node *node,
                                           const struct gridnet_open_node_params *params);

/**
 * Looks for a message that a receive with these arguments would take, without taking it.
 *
 * Errors: GRIDNET_ERR_NO_MESSAGE; GRIDNET_ERR_PEER_GONE when `source` has gone and none of its messages is left.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `source` NULL or an endpoint of it, `info_out` valid for a write.
 */
gridnet_status gridnet_tag_probe(struct gridnet_fabric *fabric,
                                 struct gridnet_endpoint *source,
                                 uint64_t tag,
                                 uint64_t ignore,
                                 struct gridnet_probe_info *info_out);

/**
 * As gridnet_tag_probe, but takes the message: only gridnet_message_recv receives it.
 *
 * # Safety
 * As gridnet_tag_probe; `message_out` is valid for a write.
 */
gridnet_status gridnet_tag_mprobe(struct gridnet_fabric *fabric,
                                  struct gridnet_endpoint *source,
                                  uint64_t tag,
                                  uint64_t ignore,
                                  struct gridnet_probe_info *info_out,
                                  struct gridnet_message **message_out);

/**
 * Receives a message that gridnet_tag_mprobe took. On success the message handle is closed; a completion follows.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `message` NULL or a message of the same fabric; `buf` as for gridnet_tag_recv.
 */
gridnet_status gridnet_message_recv(struct gridnet_cq *cq,
                                    struct gridnet_message *message,
                                    void *buf,
                                    size_t len,
                                    void *context);

/**
 * Makes memory of the program a region. Peers reach it without this process where the system allows it (on one host, by
 * process_vm_writev), else by messages that this process answers inside its calls. Regions may overlap.
 *
 * The memory has to stay mapped until the region is closed; when it does not, operations of peers end with
 * GRIDNET_ERR_FAULT.
 *
 * Errors: GRIDNET_ERR_FAULT when not all of the memory is mapped, GRIDNET_ERR_INVALID, GRIDNET_ERR_UNSUPPORTED for
 * memory that is not of the host, GRIDNET_ERR_LIMIT.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `params` NULL or valid, `region_out` valid for a write. The memory may be read, and with
 * the rights to put or to run atomic operations written, by peers until the region is closed.
 */
gridnet_status gridnet_region_register(struct gridnet_fabric *fabric,
                                       const struct gridnet_region_params *params,
                                       struct gridnet_region **region_out);

/**
 * Takes zeroed memory for a region that peers reach by themselves: on one host they map it. `pointer_out` gets its
 * start, aligned to 128 bytes at least. The memory goes with the region.
 *
 * Errors: GRIDNET_ERR_LIMIT when GRIDNET_SHM_HEAP_SIZE is used up, GRIDNET_ERR_NO_MEMORY, GRIDNET_ERR_INVALID,
 * GRIDNET_ERR_UNSUPPORTED.
 *
 * # Safety
 * `fabric` is NULL or a fabric, `params` NULL or valid, both outputs valid for a write.
 */
gridnet_status gridnet_region_allocate(struct gridnet_fabric *fabric,
                                       const struct gridnet_region_params *params,
                                       struct gridnet_region **region_out,
                                       void **pointer_out);

/**
 * Closes a region: keys of it are void, and operations of peers that have not taken effect end with GRIDNET_ERR_KEY. When
 * this returns GRIDNET_OK, no peer reads or writes the memory any more; it waits for that, a second at most, in which
 * other threads may use the fabric.
 *
 * Errors: GRIDNET_ERR_IN_USE when a peer is in the middle of an access all that time (it was stopped, say): keys are
 * void, but the memory has to stay and the region to be closed again. A peer that nobody holds up, and that is inside for
 * ten seconds all the same, is cut off with GRIDNET_ERR_PEER_MISBEHAVED.
 *
 * # Safety
 * `region` is NULL or a region that no other call uses.
 */
gridnet_status gridnet_region_close(struct gridnet_region *region);

/**
 * The key of a region. Whoever has the bytes may do what the region allows.
 *
 * Errors: GRIDNET_ERR_KEY when the region is being closed.
 *
 * # Safety
 * `region` is NULL or a region, `key_out` valid for a write.
 */
gridnet_status gridnet_region_key(struct gridnet_region *region, struct gridnet_key *key_out);

/**
 * Imports the key of a region of the endpoint's peer.
 *
 * Errors: GRIDNET_ERR_KEY for bytes that are no key, or the key of another peer's region; GRIDNET_ERR_PEER_GONE. That the
 * region was closed shows when the key is used.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint, `key` NULL or valid, `rkey_out` valid for a write.
 */
gridnet_status gridnet_rkey_import(struct gridnet_endpoint *endpoint,
                                   const struct gridnet_key *key,
                                   struct gridnet_rkey **rkey_out);

/**
 * Gives an imported key back. Operations under way go on.
 *
 * # Safety
 * `rkey` is NULL or an imported key that no other call uses.
 */
gridnet_status gridnet_rkey_close(struct gridnet_rkey *rkey);

/**
 * Version of the library: major * 65536 + minor * 256 + patch.
 */
uint32_t gridnet_version(void);

/**
 * Version of the library as text, "0.1.0".
 */
const char *gridnet_version_string(void);

/**
 * Name of a status, "GRIDNET_ERR_PEER_GONE"; "GRIDNET_?" for numbers that are none. Never NULL.
 */
const char *gridnet_status_name(gridnet_status status);

/**
 * One sentence on a status. Never NULL; valid for ever.
 */
const char *gridnet_status_text(gridnet_status status);

/**
 * Details of the last call of this thread that failed: which argument, variable or system call, and why. Never NULL;
 * valid until the next call that fails in this thread.
 */
const char *gridnet_last_error(void);

/**
 * Calls the service of that name of an endpoint's peer, and waits for the answer at most `timeout_ns` nanoseconds
 * (negative: for ever). 0 does not wait: GRIDNET_IN_PROGRESS, and writing says GRIDNET_ERR_AGAIN until the peer has
 * answered. The stream stays when the endpoint is closed.
 *
 * Errors: GRIDNET_ERR_NOT_FOUND when the peer does not listen for the service, GRIDNET_ERR_LIMIT when too many wait there,
 * GRIDNET_ERR_PERMISSION when the rules of either side do not allow it over the link that leads there,
 * GRIDNET_ERR_TIMEOUT, GRIDNET_ERR_PEER_GONE, GRIDNET_ERR_INVALID for what is no name.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint, `service` NULL or a C string, `stream_out` valid for a write.
 */
gridnet_status gridnet_stream_connect(struct gridnet_endpoint *endpoint,
                                      const char *service,
                                      int64_t timeout_ns,
                                      struct gridnet_stream **stream_out);

/**
 * Ends a stream: what was written before still goes out while the fabric makes progress, what comes is not read.
 *
 * # Safety
 * `stream` is NULL or a stream that no other call uses.
 */
gridnet_status gridnet_stream_close(struct gridnet_stream *stream);

/**
 * The number of the peer, as completions have it; gridnet_endpoint_open_source opens an endpoint to it.
 *
 * # Safety
 * `stream` is NULL or a stream, `source_out` valid for a write.
 */
gridnet_status gridnet_stream_source(struct gridnet_stream *stream, uint32_t *source_out);

/**
 * Reads what has come, at most `size` bytes; waits for the first at most `timeout_ns` nanoseconds (negative: for ever,
 * 0: not at all). `count_out` gets how many: 0 is the end of the stream.
 *
 * Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: nothing has come; after what has come, GRIDNET_ERR_PEER_GONE.
 *
 * # Safety
 * `stream` is NULL or a stream, `data_out` has room for `size` bytes, `count_out` is valid for a write.
 */
gridnet_status gridnet_stream_read(struct gridnet_stream *stream,
                                   void *data_out,
                                   size_t size,
                                   int64_t timeout_ns,
                                   size_t *count_out);

/**
 * Writes `size` bytes, or as many as may go within `timeout_ns` nanoseconds (negative: for ever, 0: those that may go at
 * once). `count_out` gets how many. The memory may be reused at once.
 *
 * Errors, when nothing was written: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT; GRIDNET_ERR_CLOSED when a side has ended the
 * stream; GRIDNET_ERR_PEER_GONE; what gridnet_stream_connect says, when the peer has refused.
 *
 * # Safety
 * `stream` is NULL or a stream, `data` points to `size` bytes, `count_out` is valid for a write.
 */
gridnet_status gridnet_stream_write(struct gridnet_stream *stream,
                                    const void *data,
                                    size_t size,
                                    int64_t timeout_ns,
                                    size_t *count_out);

/**
 * Writes all of `size` bytes within `timeout_ns` nanoseconds (negative: for ever, 0: at once), or ends the stream as gridnet_stream_abort
 * does: how many bytes the peer has read is not known then. Long parts for which the peer has no room may stay in `data`, where the rail can
 * do without a copy: the peer fetches them, and the call waits until it has. The memory may be reused afterwards.
 *
 * Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: not all could be written in time; the others of gridnet_stream_write.
 *
 * # Safety
 * `stream` is NULL or a stream, `data` points to `size` bytes.
 */
gridnet_status gridnet_stream_write_all(struct gridnet_stream *stream,
                                        const void *data,
                                        size_t size,
                                        int64_t timeout_ns);

/**
 * Says that no bytes follow: the peer reads the end of the stream behind the last one. Reading goes on.
 *
 * Errors: GRIDNET_ERR_AGAIN before the peer has answered, GRIDNET_ERR_PEER_GONE; what gridnet_stream_connect says, when
 * the peer has refused.
 *
 * # Safety
 * `stream` is NULL or a stream.
 */
gridnet_status gridnet_stream_shutdown(struct gridnet_stream *stream);

/**
 * Ends a stream at once, both ways: reading and writing say GRIDNET_ERR_CANCELED from now on, also to threads that wait in
 * them. What has come is dropped; what was written before still goes out. The stream is still to be closed.
 *
 * # Safety
 * `stream` is NULL or a stream.
 */
gridnet_status gridnet_stream_abort(struct gridnet_stream *stream);

/**
 * Waits until one of `events` (GRIDNET_STREAM_*) is so, at most `timeout_ns` nanoseconds (negative: for ever, 0: not at all).
 * `events_out` gets those that are so. Ends what gridnet_stream_arm began.
 *
 * Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: none of them is so.
 *
 * # Safety
 * `stream` is NULL or a stream, `events_out` is valid for a write.
 */
gridnet_status gridnet_stream_wait(struct gridnet_stream *stream,
                                   uint32_t events,
                                   int64_t timeout_ns,
                                   uint32_t *events_out);

/**
 * A descriptor for poll, select and epoll: readable, after gridnet_stream_arm said GRIDNET_OK, once something has
 * happened. It belongs to the stream and is closed with it.
 *
 * # Safety
 * `stream` is NULL or a stream, `fd_out` valid for a write.
 */
gridnet_status gridnet_stream_fd(struct gridnet_stream *stream,
                                 int *fd_out);

/**
 * Prepares the descriptor for sleep until one of `events` (GRIDNET_STREAM_*) is so. GRIDNET_OK: it becomes readable when
 * something happens. GRIDNET_BUSY: it may be so already; read or write, then arm again.
 *
 * # Safety
 * `stream` is NULL or a stream.
 */
gridnet_status gridnet_stream_arm(struct gridnet_stream *stream,
                                  uint32_t events);

/**
 * Sends `len` bytes with `tag`.
 *
 * GRIDNET_OK: done, the buffer may be reused, no completion follows. GRIDNET_IN_PROGRESS: the buffer is in use until
 * the completion with `context` comes. Messages to one peer arrive in the order of the calls.
 *
 * Errors: GRIDNET_ERR_AGAIN (poll, then try again), GRIDNET_ERR_PEER_GONE.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint; `buf` is valid for reads of `len` bytes as long as the send is under way.
 */
gridnet_status gridnet_tag_send(struct gridnet_endpoint *endpoint,
                                const void *buf,
                                size_t len,
                                uint64_t tag,
                                void *context);

/**
 * Receives a message of the peer `source` (NULL: of any) whose tag agrees with `tag` in all bits that are not in
 * `ignore`. A completion always follows, also when the message is there already: GRIDNET_IN_PROGRESS.
 *
 * Errors: GRIDNET_ERR_AGAIN (poll, then try again), GRIDNET_ERR_PEER_GONE. A message that is too long completes with
 * GRIDNET_ERR_TRUNCATED.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `source` NULL or an endpoint of the same fabric; `buf` is valid for writes of
 * `len` bytes, and touched by nobody, until the completion.
 */
gridnet_status gridnet_tag_recv(struct gridnet_cq *cq,
                                struct gridnet_endpoint *source,
                                void *buf,
                                size_t len,
                                uint64_t tag,
                                uint64_t ignore,
                                void *context);

/**
 * Sends as gridnet_tag_send, with everything that `params` says. `op_out` (may be NULL) gets the number of the
 * operation when a completion follows, else 0.
 *
 * # Safety
 * `endpoint` is NULL or an endpoint, `params` NULL or valid, with memory as for gridnet_tag_send; `op_out` is NULL or
 * valid for a write.
 */
gridnet_status gridnet_tag_sendx(struct gridnet_endpoint *endpoint,
                                 const struct gridnet_send_params *params,
                                 gridnet_op *op_out);

/**
 * Receives as gridnet_tag_recv, with everything that `params` says. `op_out` (may be NULL) gets the number of the
 * operation, or 0 when it has completed already.
 *
 * # Safety
 * `cq` is NULL or a completion queue, `params` NULL or valid, with memory as for gridnet_tag_recv; `op_out` is NULL or
 * valid for a write.
 */
gridnet_status gridnet_tag_recvx(struct gridnet_cq *cq,
                                 const struct gridnet_recv_params *params,
                                 gridnet_op *op_out);

/**
 * Cancels an operation; its completion says GRIDNET_ERR_CANCELED. A send of which the peer knows may have been
 * received all the same.
 *
 * Errors: GRIDNET_ERR_NOT_FOUND when the operation has completed, was never there, or is a receive whose message is
 * coming in.
 *
 * # Safety
 * `fabric` is NULL or a fabric.
 */
gridnet_status gridnet_cancel(struct gridnet_fabric *fabric,
                              gridnet_op op);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GRIDNET_H */
