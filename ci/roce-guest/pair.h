/* Two queue pairs of type RC that are connected, each with a memory region, over any two devices of libibverbs. */
#ifndef PAIR_H
#define PAIR_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MEMORY = 2 << 20, /* bytes of each side's region */
    QUEUE = 16,       /* work requests that a queue takes */
    LOG = 64,         /* completions of a side that are kept */
    SGES = 4,
    INLINE = 64,
    PIECES = 3 /* most that an operation of these cases has */
};

/* How a pair is set up; zero is the default of each, as `pair_open` has it. */
struct rules {
    enum ibv_mtu mtu;       /* default 1024 */
    enum ibv_mtu b_mtu;     /* of b, if it is another */
    int timeout;            /* of both, 4.096 us * 2^timeout; default 18, one second */
    int retries;            /* default 3 */
    int rnr_retries;        /* default 7: for ever; NONE is 0 */
    int rnr_timer;          /* code of the least wait; default 24, 41 ms */
    int depth;              /* reads and atomics that a has at a time; default 4 */
    int b_depth;            /* and that b bears; default 4; NONE is 0 */
    int region;             /* access of b's region; default all; NONE is local writes only */
    int allowed;            /* access that b's queue pair allows; default all; NONE is no access */
    uint32_t psn;           /* first of a; default 100 */
    uint32_t b_expects;     /* first PSN that b expects, if it is another than a's */
    uint32_t qpn_off;       /* added to the queue pair number that a sends to */
    bool srq;               /* b receives from a shared queue */
    bool b_stays;           /* b stays in RESET */
    bool apart;             /* both stay in RESET: the case moves them */
};
#define NONE (-1)

struct side {
    char letter;
    struct ibv_context *context;
    union ibv_gid gid;
    uint8_t gid_index;
    struct ibv_pd *pd, *other_pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_srq *srq;
    struct ibv_qp *qp;
    struct ibv_mr *mr;
    unsigned char *memory;
    struct ibv_wc log[LOG];
    int seen;
};

struct pair {
    struct side a, b;
    struct rules rules;
    const char *data; /* what was found in memory: NULL when no case looked */
    int refused;      /* errno of a post that may be refused */
};

/* A piece of a side's memory; `lkey` other than 0 is added to the right one. */
struct piece {
    uint32_t at, length, lkey_off;
};

/* What is posted to a send queue. Offsets are those of the two regions. */
struct op {
    uint64_t id;
    enum ibv_wr_opcode code;
    struct piece from[PIECES]; /* as many as have a length; one that is empty has none */
    int64_t to;                /* offset in the peer's region, may be outside */
    uint32_t rkey;             /* if it is not the region's */
    uint32_t rkey_off;         /* added to the key */
    uint32_t imm;
    uint64_t compare_add, swap;
    int flags; /* IBV_SEND_SIGNALED unless QUIET is in it */
};
#define QUIET (1 << 30)

/* Opens device and protection domains: once for all pairs. Ends the program when that fails. */
void side_open(struct side *side, char letter, const char *device, int gid_index);

void pair_open(struct pair *pair, const struct rules *rules);
void pair_close(struct pair *pair);

/* Moves a queue pair to a state, with the attributes of `side_mask`. 0 or an errno. */
int side_move(struct pair *pair, struct side *side, enum ibv_qp_state state, int mask);
/* The attributes that a move to `state` needs. */
int side_mask(enum ibv_qp_state from, enum ibv_qp_state state);
enum ibv_qp_state side_state(struct side *side);

/* 0 or an errno. */
int side_send(struct pair *pair, struct side *side, struct op op);
int side_recv(struct side *side, uint64_t id, const struct piece *pieces, int count);

/* Waits until the sides have had so many completions since the pair was opened, ten seconds at most. */
void await(struct pair *pair, int of_a, int of_b);
/* The same for so many milliseconds: where devices may differ. */
void await_for(struct pair *pair, int of_a, int of_b, int patience_ms);
/* Waits until the queue pairs are in these states, two seconds at most. */
void settle(struct pair *pair, enum ibv_qp_state of_a, enum ibv_qp_state of_b);

/* Memory of a is full of numbers, that of b of zeroes. Notes whether these bytes of both are the same now. */
void same(struct pair *pair, uint32_t at_a, uint32_t at_b, uint32_t length);
/* Notes whether the memory of `side` is as it was at first. */
void untouched(struct pair *pair, struct side *side);
void noted(struct pair *pair, bool right);

void die(const char *what);
/* Of the errors that posting and moving have. */
const char *error_name(int error);

#endif
