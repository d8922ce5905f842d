/* Operations that fail: which side hears of what, in which states the queue pairs are then, and that no memory was touched. */
#include "cases.h"

#include <errno.h>

#define FROM(offset, bytes) .from = {{.at = (offset), .length = (bytes)}}
#define ERR IBV_QPS_ERR
#define RTS IBV_QPS_RTS

static void recv_at(struct pair *pair, uint64_t id, struct piece piece)
{
    errno = side_recv(&pair->b, id, &piece, 1);
    if (errno)
        die("post receive");
}

static void send(struct pair *pair, struct op op)
{
    op.id = op.id ? op.id : 1;
    errno = side_send(pair, &pair->a, op);
    if (errno)
        die("post send");
}

/* One operation that fails, and puts both in error. */
static void fails(struct pair *pair, struct op op)
{
    send(pair, op);
    await(pair, 1, 0);
    settle(pair, ERR, ERR);
    untouched(pair, &pair->b);
}

static struct op write_op(void) { return (struct op){.code = IBV_WR_RDMA_WRITE, FROM(0, 100)}; }
static struct op read_op(void) { return (struct op){.code = IBV_WR_RDMA_READ, FROM(0, 100)}; }
static struct op atomic_op(void) { return (struct op){.code = IBV_WR_ATOMIC_FETCH_AND_ADD, FROM(0, 8), .compare_add = 1}; }

static void plain_write(struct pair *pair) { fails(pair, write_op()); }

static void plain_read(struct pair *pair)
{
    fails(pair, read_op());
    untouched(pair, &pair->a);
}

static void plain_atomic(struct pair *pair)
{
    fails(pair, atomic_op());
    untouched(pair, &pair->a);
}

/* Keys that b never gave away. */

static void key(struct pair *pair, struct op op)
{
    op.rkey_off = 0x100;
    fails(pair, op);
}

static void key_write(struct pair *pair) { key(pair, write_op()); }
static void key_read(struct pair *pair) { key(pair, read_op()); }
static void key_atomic(struct pair *pair) { key(pair, atomic_op()); }

/* A write of several packets is refused at the first. */
static void key_long_write(struct pair *pair)
{
    struct op op = write_op();
    op.from[0].length = 3000;
    key(pair, op);
}

/* The receive was not used, and is flushed. */
static void key_write_imm(struct pair *pair)
{
    struct op op = write_op();
    op.code = IBV_WR_RDMA_WRITE_WITH_IMM;
    op.rkey_off = 0x100;
    recv_at(pair, 1, (struct piece){0});
    send(pair, op);
    await(pair, 1, 1);
    settle(pair, ERR, ERR);
    untouched(pair, &pair->b);
}

/* The last eight bits of a key are its owner's; they count, too. */
static void key_of_other_turn(struct pair *pair)
{
    struct op op = write_op();
    op.rkey_off = 1;
    fails(pair, op);
}

/* Regions that are elsewhere, too small, or gone. */

static void bounds_end(struct pair *pair)
{
    struct op op = write_op();
    op.to = MEMORY - 99;
    fails(pair, op);
}

static void bounds_start(struct pair *pair)
{
    struct op op = write_op();
    op.to = -1;
    fails(pair, op);
}

static void bounds_read(struct pair *pair)
{
    struct op op = read_op();
    op.to = MEMORY - 99;
    fails(pair, op);
    untouched(pair, &pair->a);
}

static void bounds_wrap(struct pair *pair)
{
    struct op op = write_op();
    op.to = -(int64_t)(uintptr_t)pair->b.memory - 50;
    fails(pair, op);
}

static void other_domain(struct pair *pair)
{
    struct op op = write_op();
    struct ibv_mr *other = ibv_reg_mr(pair->b.other_pd, pair->b.memory, MEMORY, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    if (!other)
        die("memory region");
    op.rkey = other->rkey;
    fails(pair, op);
    ibv_dereg_mr(other);
}

static void deregistered(struct pair *pair)
{
    struct op op = write_op();
    op.rkey = pair->b.mr->rkey;
    if (ibv_dereg_mr(pair->b.mr))
        die("deregister");
    pair->b.mr = NULL;
    fails(pair, op);
}

static void misaligned(struct pair *pair)
{
    struct op op = atomic_op();
    op.to = 4;
    op.id = 1;
    /* Soft-RoCE refuses it when it is posted, an adapter when it comes. */
    pair->refused = side_send(pair, &pair->a, op);
    if (!pair->refused)
        await(pair, 1, 0);
    untouched(pair, &pair->b);
}

/* Errors at home. */

static void local_key(struct pair *pair)
{
    struct op op = write_op();
    op.from[0].lkey_off = 0x100;
    send(pair, op);
    await(pair, 1, 0);
    settle(pair, ERR, RTS);
    untouched(pair, &pair->b);
}

static void local_key_of_read(struct pair *pair)
{
    struct op op = read_op();
    op.from[0].lkey_off = 0x100;
    send(pair, op);
    await(pair, 1, 0);
    settle(pair, ERR, RTS);
    untouched(pair, &pair->a);
}

static void local_key_of_receive(struct pair *pair)
{
    recv_at(pair, 1, (struct piece){.length = 100, .lkey_off = 0x100});
    send(pair, (struct op){.code = IBV_WR_SEND, FROM(0, 100)});
    await(pair, 1, 1);
    settle(pair, ERR, ERR);
    untouched(pair, &pair->b);
}

static void local_bounds(struct pair *pair)
{
    struct op op = write_op();
    op.from[0].at = MEMORY - 99;
    send(pair, op);
    await(pair, 1, 0);
    settle(pair, ERR, RTS);
    untouched(pair, &pair->b);
}

/* Lengths. */

static void short_receive(struct pair *pair)
{
    recv_at(pair, 1, (struct piece){.length = 99});
    send(pair, (struct op){.code = IBV_WR_SEND, FROM(0, 100)});
    await(pair, 1, 1);
    settle(pair, ERR, ERR);
}

static void short_receive_of_two_packets(struct pair *pair)
{
    recv_at(pair, 1, (struct piece){.length = 1500});
    send(pair, (struct op){.code = IBV_WR_SEND, FROM(0, 2000)});
    await(pair, 1, 1);
    settle(pair, ERR, ERR);
}

/* Packets that are longer than b has agreed to. */
static void longer_packets(struct pair *pair)
{
    recv_at(pair, 1, (struct piece){.length = 2000});
    send(pair, (struct op){.code = IBV_WR_SEND, FROM(0, 1000)});
    await(pair, 1, 1);
}

/* Nobody receives, or nobody is there. */

static void no_receive(struct pair *pair)
{
    send(pair, (struct op){.code = IBV_WR_SEND, FROM(0, 100)});
    await(pair, 1, 0);
    settle(pair, ERR, RTS);
    untouched(pair, &pair->b);
}

static void no_receive_for_imm(struct pair *pair)
{
    struct op op = write_op();
    op.code = IBV_WR_RDMA_WRITE_WITH_IMM;
    send(pair, op);
    await(pair, 1, 0);
    settle(pair, ERR, RTS);
}

static void nobody(struct pair *pair)
{
    send(pair, write_op());
    await(pair, 1, 0);
    settle(pair, ERR, pair->rules.b_stays ? IBV_QPS_RESET : RTS);
    untouched(pair, &pair->b);
}

/* What waits behind a failure, and what is posted after it. */

static void flushed(struct pair *pair)
{
    struct op bad = write_op();
    bad.rkey_off = 0x100;
    recv_at(pair, 1, (struct piece){.length = 100});
    recv_at(pair, 2, (struct piece){.length = 100});
    send(pair, bad);
    send(pair, (struct op){.id = 2, .code = IBV_WR_SEND, FROM(0, 100)});
    send(pair, (struct op){.id = 3, .code = IBV_WR_SEND, FROM(0, 100), .flags = QUIET});
    await(pair, 3, 2);
    settle(pair, ERR, ERR);
    untouched(pair, &pair->b);
}

/* An operation that asks for no completion has one when it fails. */
static void quiet_failure(struct pair *pair)
{
    struct op bad = write_op();
    bad.rkey_off = 0x100;
    bad.flags = QUIET;
    fails(pair, bad);
}

static void posted_in_error(struct pair *pair)
{
    if (side_move(pair, &pair->a, ERR, IBV_QP_STATE) || side_move(pair, &pair->b, ERR, IBV_QP_STATE))
        die("to ERR");
    send(pair, write_op());
    recv_at(pair, 1, (struct piece){.length = 100});
    await(pair, 1, 0);
    /* Soft-RoCE of Linux 6.1 forgets it. */
    await_for(pair, 1, 1, 1000);
    untouched(pair, &pair->b);
}

static void moved_to_error(struct pair *pair)
{
    recv_at(pair, 1, (struct piece){.length = 100});
    recv_at(pair, 2, (struct piece){.length = 100});
    if (side_move(pair, &pair->b, ERR, IBV_QP_STATE))
        die("to ERR");
    await(pair, 0, 2);
    untouched(pair, &pair->b);
}

/* 16.8 ms, tried twice. */
#define QUICK .timeout = 12, .retries = 1

const struct verbs_case error_cases[] = {
    {.name = "key.write", .run = key_write},
    {.name = "key.read", .run = key_read},
    {.name = "key.atomic", .run = key_atomic},
    {.name = "key.long_write", .run = key_long_write},
    {.name = "key.write_imm", .run = key_write_imm},
    {.name = "key.other_turn", .run = key_of_other_turn},
    {.name = "bounds.end", .run = bounds_end},
    {.name = "bounds.start", .run = bounds_start},
    {.name = "bounds.read", .run = bounds_read},
    {.name = "bounds.wrap", .run = bounds_wrap},
    {.name = "region.other_domain", .run = other_domain},
    {.name = "region.deregistered", .run = deregistered},
    {.name = "region.no_write", .run = plain_write, .rules = {.region = IBV_ACCESS_REMOTE_READ}},
    {.name = "region.no_read", .run = plain_read, .rules = {.region = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE}},
    {.name = "region.no_atomic", .run = plain_atomic, .rules = {.region = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE}},
    {.name = "qp.no_write", .run = plain_write, .rules = {.allowed = IBV_ACCESS_REMOTE_READ}},
    {.name = "qp.no_read", .run = plain_read, .rules = {.allowed = IBV_ACCESS_REMOTE_WRITE}},
    {.name = "qp.no_atomic", .run = plain_atomic, .rules = {.allowed = IBV_ACCESS_REMOTE_WRITE}},
    {.name = "qp.no_read_depth", .run = plain_read, .rules = {.b_depth = NONE}},
    {.name = "atomic.misaligned", .run = misaligned},
    {.name = "local.key", .run = local_key},
    {.name = "local.key_of_read", .run = local_key_of_read},
    {.name = "local.key_of_receive", .run = local_key_of_receive},
    {.name = "local.bounds", .run = local_bounds},
    {.name = "length.short_receive", .run = short_receive},
    {.name = "length.short_receive_of_two", .run = short_receive_of_two_packets},
    {.name = "length.longer_packets", .run = longer_packets, .rules = {.mtu = IBV_MTU_1024, .b_mtu = IBV_MTU_512}},
    {.name = "rnr.exhausted", .run = no_receive, .rules = {.rnr_retries = 2, .rnr_timer = 14}},
    {.name = "rnr.at_once", .run = no_receive, .rules = {.rnr_retries = NONE, .rnr_timer = 14}},
    {.name = "rnr.write_imm", .run = no_receive_for_imm, .rules = {.rnr_retries = NONE, .rnr_timer = 14}},
    {.name = "retry.silent_peer", .run = nobody, .rules = {QUICK, .b_stays = true}, .uncaptured = true},
    {.name = "retry.no_such_qp", .run = nobody, .rules = {QUICK, .qpn_off = 1000}, .uncaptured = true},
    {.name = "psn.ahead", .run = nobody, .rules = {QUICK, .psn = 105, .b_expects = 100}, .uncaptured = true},
    {.name = "psn.behind", .run = nobody, .rules = {QUICK, .psn = 95, .b_expects = 100}, .uncaptured = true},
    {.name = "flush.behind_failure", .run = flushed},
    {.name = "flush.quiet_failure", .run = quiet_failure},
    {.name = "flush.posted_in_error", .run = posted_in_error},
    {.name = "flush.moved_to_error", .run = moved_to_error},
    {.name = NULL},
};
