/* See pair.h. */
#include "pair.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ALL = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC };

void die(const char *what)
{
    fprintf(stderr, "judge: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

const char *error_name(int error)
{
    switch (error) {
    case 0:
        return "ok";
    case EINVAL:
        return "EINVAL";
    case ENOMEM:
        return "ENOMEM";
    case ENOSYS:
        return "ENOSYS";
    default:
        return strerror(error);
    }
}

static void *must(void *made, const char *what)
{
    if (!made)
        die(what);
    return made;
}

static int or_default(int value, int otherwise)
{
    return value == NONE ? 0 : value ? value : otherwise;
}

void side_open(struct side *side, char letter, const char *device, int gid_index)
{
    int count;
    struct ibv_device **list = must(ibv_get_device_list(&count), "list of devices");
    side->letter = letter;
    side->gid_index = (uint8_t)gid_index;
    for (int i = 0; i < count; i++)
        if (strcmp(ibv_get_device_name(list[i]), device) == 0)
            side->context = must(ibv_open_device(list[i]), device);
    ibv_free_device_list(list);
    errno = ENODEV;
    must(side->context, device);
    if (ibv_query_gid(side->context, 1, gid_index, &side->gid))
        die("GID");
    side->pd = must(ibv_alloc_pd(side->context), "protection domain");
    side->other_pd = must(ibv_alloc_pd(side->context), "protection domain");
    side->memory = must(aligned_alloc(4096, MEMORY), "memory");
}

static void fill(struct side *side)
{
    memset(side->memory, 0, MEMORY);
    if (side->letter == 'a')
        for (uint32_t i = 0; i < MEMORY; i++)
            side->memory[i] = (unsigned char)(i * 2654435761u >> 24);
}

static void make(struct side *side, int region, bool srq)
{
    side->seen = 0;
    fill(side);
    side->mr = must(ibv_reg_mr(side->pd, side->memory, MEMORY, region), "memory region");
    side->channel = must(ibv_create_comp_channel(side->context), "channel");
    side->cq = must(ibv_create_cq(side->context, LOG, NULL, side->channel, 0), "completion queue");
    struct ibv_srq_init_attr shared = {.attr = {.max_wr = QUEUE, .max_sge = SGES}};
    side->srq = srq ? must(ibv_create_srq(side->pd, &shared), "shared receive queue") : NULL;
    struct ibv_qp_init_attr init = {
        .send_cq = side->cq,
        .recv_cq = side->cq,
        .srq = side->srq,
        .cap = {.max_send_wr = QUEUE, .max_recv_wr = QUEUE, .max_send_sge = SGES, .max_recv_sge = SGES, .max_inline_data = INLINE},
        .qp_type = IBV_QPT_RC,
    };
    side->qp = must(ibv_create_qp(side->pd, &init), "queue pair");
}

static void connect(struct pair *pair, struct side *side)
{
    static const enum ibv_qp_state way[] = {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS};
    for (int i = 0; i < 3; i++) {
        errno = side_move(pair, side, way[i], side_mask(way[i] - 1, way[i]));
        if (errno)
            die("connect");
    }
}

void pair_open(struct pair *pair, const struct rules *rules)
{
    pair->rules = *rules;
    pair->data = NULL;
    pair->refused = 0;
    make(&pair->a, ALL, false);
    make(&pair->b, rules->region == NONE ? IBV_ACCESS_LOCAL_WRITE : or_default(rules->region, ALL), rules->srq);
    if (rules->apart)
        return;
    if (!rules->b_stays)
        connect(pair, &pair->b);
    connect(pair, &pair->a);
}

static void unmake(struct side *side)
{
    if (ibv_destroy_qp(side->qp))
        die("destroy queue pair");
    if (side->srq && ibv_destroy_srq(side->srq))
        die("destroy shared receive queue");
    if (ibv_destroy_cq(side->cq) || ibv_destroy_comp_channel(side->channel))
        die("destroy completion queue");
    if (side->mr && ibv_dereg_mr(side->mr))
        die("deregister");
}

void pair_close(struct pair *pair)
{
    unmake(&pair->a);
    unmake(&pair->b);
}

int side_mask(enum ibv_qp_state from, enum ibv_qp_state state)
{
    switch (state) {
    case IBV_QPS_INIT:
        return IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    case IBV_QPS_RTR:
        return IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
               IBV_QP_MIN_RNR_TIMER;
    case IBV_QPS_RTS:
        if (from == IBV_QPS_RTS || from == IBV_QPS_SQD)
            return IBV_QP_STATE;
        return IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
    default:
        return IBV_QP_STATE;
    }
}

int side_move(struct pair *pair, struct side *side, enum ibv_qp_state state, int mask)
{
    const struct rules *rules = &pair->rules;
    bool is_a = side == &pair->a;
    const struct side *peer = is_a ? &pair->b : &pair->a;
    uint32_t of_a = rules->psn ? rules->psn : 100, of_b = 200;
    enum ibv_mtu mtu = rules->mtu ? rules->mtu : IBV_MTU_1024;
    struct ibv_qp_attr attr = {
        .qp_state = state,
        .port_num = 1,
        .qp_access_flags = is_a ? ALL : or_default(rules->allowed, ALL),
        .path_mtu = !is_a && rules->b_mtu ? rules->b_mtu : mtu,
        .dest_qp_num = peer->qp->qp_num + (is_a ? rules->qpn_off : 0),
        .rq_psn = is_a ? of_b : rules->b_expects ? rules->b_expects : of_a,
        .sq_psn = is_a ? of_a : of_b,
        .max_rd_atomic = (uint8_t)or_default(rules->depth, 4),
        .max_dest_rd_atomic = (uint8_t)or_default(rules->b_depth, 4),
        .min_rnr_timer = (uint8_t)or_default(rules->rnr_timer, 24),
        .timeout = (uint8_t)or_default(rules->timeout, 18),
        .retry_cnt = (uint8_t)or_default(rules->retries, 3),
        .rnr_retry = (uint8_t)or_default(rules->rnr_retries, 7),
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = peer->gid, .sgid_index = side->gid_index, .hop_limit = 64}},
    };
    return ibv_modify_qp(side->qp, &attr, mask);
}

enum ibv_qp_state side_state(struct side *side)
{
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    if (ibv_query_qp(side->qp, &attr, IBV_QP_STATE, &init))
        die("query queue pair");
    return attr.qp_state;
}

/* Fills in the pieces of a list, and says how many there are. */
static int gather(const struct side *side, const struct piece *pieces, int count, struct ibv_sge *list)
{
    int used = 0;
    for (int i = 0; i < count; i++)
        if (pieces[i].length)
            list[used++] = (struct ibv_sge){
                .addr = (uintptr_t)side->memory + pieces[i].at,
                .length = pieces[i].length,
                .lkey = side->mr->lkey + pieces[i].lkey_off,
            };
    return used;
}

int side_send(struct pair *pair, struct side *side, struct op op)
{
    const struct side *peer = side == &pair->a ? &pair->b : &pair->a;
    struct ibv_sge list[PIECES];
    struct ibv_send_wr *bad, request = {.wr_id = op.id, .sg_list = list, .opcode = op.code, .imm_data = htobe32(op.imm)};
    uint64_t address = (uintptr_t)peer->memory + (uint64_t)op.to;
    uint32_t rkey = (op.rkey || !peer->mr ? op.rkey : peer->mr->rkey) + op.rkey_off;
    request.num_sge = gather(side, op.from, PIECES, list);
    request.send_flags = op.flags & QUIET ? (unsigned)(op.flags & ~QUIET) : (unsigned)op.flags | IBV_SEND_SIGNALED;
    if (op.code == IBV_WR_ATOMIC_CMP_AND_SWP || op.code == IBV_WR_ATOMIC_FETCH_AND_ADD) {
        request.wr.atomic.remote_addr = address;
        request.wr.atomic.rkey = rkey;
        request.wr.atomic.compare_add = op.compare_add;
        request.wr.atomic.swap = op.swap;
    } else {
        request.wr.rdma.remote_addr = address;
        request.wr.rdma.rkey = rkey;
    }
    return ibv_post_send(side->qp, &request, &bad);
}

int side_recv(struct side *side, uint64_t id, const struct piece *pieces, int count)
{
    struct ibv_sge list[PIECES];
    struct ibv_recv_wr *bad, request = {.wr_id = id, .sg_list = list, .num_sge = gather(side, pieces, count, list)};
    return side->srq ? ibv_post_srq_recv(side->srq, &request, &bad) : ibv_post_recv(side->qp, &request, &bad);
}

static int64_t now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000) + time.tv_nsec / 1000000;
}

/* Takes what has come, and asks for an event when more comes. */
static void take(struct side *side)
{
    for (int round = 0; round < 2; round++) {
        struct ibv_wc wc;
        while (side->seen < LOG && ibv_poll_cq(side->cq, 1, &wc) > 0)
            side->log[side->seen++] = wc;
        if (round == 0 && ibv_req_notify_cq(side->cq, 0))
            die("ask for an event");
    }
}

static void take_event(struct side *side, const struct pollfd *ready)
{
    struct ibv_cq *cq;
    void *context;
    if (!ready->revents)
        return;
    if (ibv_get_cq_event(side->channel, &cq, &context))
        die("event");
    ibv_ack_cq_events(cq, 1);
}

void await(struct pair *pair, int of_a, int of_b) { await_for(pair, of_a, of_b, 10000); }

void await_for(struct pair *pair, int of_a, int of_b, int patience_ms)
{
    int64_t end = now_ms() + patience_ms;
    for (;;) {
        take(&pair->a);
        take(&pair->b);
        int64_t left = end - now_ms();
        if ((pair->a.seen >= of_a && pair->b.seen >= of_b) || left <= 0)
            return;
        struct pollfd ready[2] = {{.fd = pair->a.channel->fd, .events = POLLIN}, {.fd = pair->b.channel->fd, .events = POLLIN}};
        if (poll(ready, 2, (int)left) < 0)
            die("poll");
        take_event(&pair->a, &ready[0]);
        take_event(&pair->b, &ready[1]);
    }
}

void settle(struct pair *pair, enum ibv_qp_state of_a, enum ibv_qp_state of_b)
{
    int64_t end = now_ms() + 2000;
    while ((side_state(&pair->a) != of_a || side_state(&pair->b) != of_b) && now_ms() < end)
        usleep(1000);
}

void noted(struct pair *pair, bool right)
{
    if (!right)
        pair->data = "wrong";
    else if (!pair->data)
        pair->data = "right";
}

void same(struct pair *pair, uint32_t at_a, uint32_t at_b, uint32_t length)
{
    noted(pair, memcmp(pair->a.memory + at_a, pair->b.memory + at_b, length) == 0);
}

void untouched(struct pair *pair, struct side *side)
{
    struct side fresh = {.letter = side->letter, .memory = must(malloc(MEMORY), "memory")};
    fill(&fresh);
    noted(pair, memcmp(fresh.memory, side->memory, MEMORY) == 0);
    free(fresh.memory);
}
