/* What may be asked for in which state. */
#include "cases.h"

#include <errno.h>
#include <stdio.h>

static const enum ibv_qp_state states[] = {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_SQD, IBV_QPS_ERR};
static const char *const names[] = {
    [IBV_QPS_RESET] = "RESET", [IBV_QPS_INIT] = "INIT", [IBV_QPS_RTR] = "RTR",
    [IBV_QPS_RTS] = "RTS", [IBV_QPS_SQD] = "SQD", [IBV_QPS_ERR] = "ERR"};
enum { STATES = sizeof states / sizeof *states };

/* Brings side a to a state, over RESET. */
static void bring(struct pair *pair, enum ibv_qp_state state)
{
    static const enum ibv_qp_state way[] = {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_SQD};
    enum ibv_qp_state from = IBV_QPS_ERR;
    /* Soft-RoCE leaves SQD for ERR only, while it drains. Refused in RESET, where it is not needed. */
    side_move(pair, &pair->a, IBV_QPS_ERR, IBV_QP_STATE);
    for (int i = 0; i < 5; i++) {
        if (state == IBV_QPS_ERR && i == 2)
            break;
        errno = side_move(pair, &pair->a, way[i], side_mask(from, way[i]));
        if (errno)
            die(names[way[i]]);
        from = way[i];
        if (way[i] == state)
            return;
    }
    errno = side_move(pair, &pair->a, IBV_QPS_ERR, IBV_QP_STATE);
    if (errno)
        die("ERR");
}

/* From one state to each, with the attributes that the move needs. */
static void moves(struct pair *pair, enum ibv_qp_state from)
{
    for (int i = 0; i < STATES; i++) {
        bring(pair, from);
        int error = side_move(pair, &pair->a, states[i], side_mask(from, states[i]));
        printf(" %s=%s", names[states[i]], error_name(error));
        if (error && side_state(&pair->a) != from)
            printf("/moved");
    }
}

static void from_reset(struct pair *pair) { moves(pair, IBV_QPS_RESET); }
static void from_init(struct pair *pair) { moves(pair, IBV_QPS_INIT); }
static void from_rtr(struct pair *pair) { moves(pair, IBV_QPS_RTR); }
static void from_rts(struct pair *pair) { moves(pair, IBV_QPS_RTS); }
static void from_sqd(struct pair *pair) { moves(pair, IBV_QPS_SQD); }
static void from_err(struct pair *pair) { moves(pair, IBV_QPS_ERR); }

static const struct {
    int bit;
    const char *name;
} attributes[] = {
    {IBV_QP_PKEY_INDEX, "pkey_index"},
    {IBV_QP_PORT, "port"},
    {IBV_QP_ACCESS_FLAGS, "access_flags"},
    {IBV_QP_AV, "av"},
    {IBV_QP_PATH_MTU, "path_mtu"},
    {IBV_QP_DEST_QPN, "dest_qpn"},
    {IBV_QP_RQ_PSN, "rq_psn"},
    {IBV_QP_MAX_DEST_RD_ATOMIC, "max_dest_rd_atomic"},
    {IBV_QP_MIN_RNR_TIMER, "min_rnr_timer"},
    {IBV_QP_TIMEOUT, "timeout"},
    {IBV_QP_RETRY_CNT, "retry_cnt"},
    {IBV_QP_RNR_RETRY, "rnr_retry"},
    {IBV_QP_SQ_PSN, "sq_psn"},
    {IBV_QP_MAX_QP_RD_ATOMIC, "max_rd_atomic"},
};

/* Which attributes a move needs, and which others it takes: each is left out, or added. */
static void needs(struct pair *pair, enum ibv_qp_state from, enum ibv_qp_state to)
{
    int usual = side_mask(from, to);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        bring(pair, from);
        int error = side_move(pair, &pair->a, to, usual ^ attributes[i].bit);
        if (usual & attributes[i].bit)
            printf(" %s=%s", attributes[i].name, error ? "needed" : "spare");
        else if (!error)
            printf(" %s=taken", attributes[i].name);
    }
}

static void needs_init(struct pair *pair) { needs(pair, IBV_QPS_RESET, IBV_QPS_INIT); }
static void needs_rtr(struct pair *pair) { needs(pair, IBV_QPS_INIT, IBV_QPS_RTR); }
static void needs_rts(struct pair *pair) { needs(pair, IBV_QPS_RTR, IBV_QPS_RTS); }

/* Posting in each state. */
static void posts(struct pair *pair, bool receive)
{
    for (int i = 0; i < STATES; i++) {
        bring(pair, states[i]);
        struct op op = {.id = 1, .code = IBV_WR_RDMA_WRITE, .from = {{.at = 0, .length = 8}}};
        int error = receive ? side_recv(&pair->a, 1, &(struct piece){.length = 8}, 1) : side_send(pair, &pair->a, op);
        printf(" %s=%s", names[states[i]], error_name(error));
    }
}

static void posts_receive(struct pair *pair) { posts(pair, true); }
static void posts_send(struct pair *pair) { posts(pair, false); }

/* More than a queue or a list takes; the device may have made them larger than was asked for, and tells so. */
static void too_much(struct pair *pair)
{
    struct ibv_sge list[256];
    struct ibv_send_wr *bad, request = {.wr_id = 1, .sg_list = list, .opcode = IBV_WR_SEND};
    struct ibv_recv_wr *bad_recv, recv = {.wr_id = 1, .sg_list = list};
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    if (ibv_query_qp(pair->a.qp, &attr, IBV_QP_CAP, &init) || init.cap.max_send_sge > 255 || init.cap.max_recv_sge > 255)
        die("capacity");
    for (int i = 0; i < 256; i++)
        list[i] = (struct ibv_sge){.addr = (uintptr_t)pair->a.memory, .length = 1, .lkey = pair->a.mr->lkey};
    request.num_sge = (int)init.cap.max_send_sge + 1;
    printf(" send_sges=%s", error_name(ibv_post_send(pair->a.qp, &request, &bad)));
    recv.num_sge = (int)init.cap.max_recv_sge + 1;
    printf(" recv_sges=%s", error_name(ibv_post_recv(pair->a.qp, &recv, &bad_recv)));
    list[0].length = init.cap.max_inline_data + 1;
    request.num_sge = 1;
    request.send_flags = IBV_SEND_INLINE;
    printf(" inline=%s", error_name(ibv_post_send(pair->a.qp, &request, &bad)));
    recv.num_sge = 0;
    int error = 0;
    for (int i = 0; error == 0 && i < 1000; i++)
        error = ibv_post_recv(pair->a.qp, &recv, &bad_recv);
    printf(" recv_queue=%s", error_name(error));
}

const struct verbs_case state_cases[] = {
    {.name = "state.RESET", .run = from_reset, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "state.INIT", .run = from_init, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "state.RTR", .run = from_rtr, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "state.RTS", .run = from_rts, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "state.SQD", .run = from_sqd, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "state.ERR", .run = from_err, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "needs.INIT", .run = needs_init, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "needs.RTR", .run = needs_rtr, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "needs.RTS", .run = needs_rts, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "post.receive", .run = posts_receive, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "post.send", .run = posts_send, .rules = {.apart = true}, .uncaptured = true, .plain = true},
    {.name = "post.too_much", .run = too_much, .uncaptured = true, .plain = true},
    {.name = NULL},
};
