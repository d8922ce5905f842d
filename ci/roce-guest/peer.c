/* One side of a talk between two implementations of verbs; this one is a device of libibverbs.

       verbs_peer DEVICE GID-INDEX PORT      waits at a TCP port for the other side, for 60 s

   The other side is rdma-sim/examples/peer.rs, which says what lines the two speak over that connection.

   Whoever asks sends, writes, reads and does atomic operations with messages of 1 byte to 1 MiB; all that was moved is looked at. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, REGION = 2 * MIB, FAR = MIB, PATIENCE_S = 60, FIRST_PSN = 0xffffe0, NO_IMM = -1 };

static const uint32_t lengths[] = {1, 7, 256, 1023, 1024, 1025, 4096, 65537, MIB};

static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp;
static struct ibv_mr *mr;
static unsigned char *memory;
static uint8_t gid_index;
static FILE *line_in, *line_out;
static uint64_t far_address;
static uint32_t far_rkey;

static void die(const char *what)
{
    fprintf(stderr, "verbs_peer: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void *must(void *made, const char *what)
{
    if (!made)
        die(what);
    return made;
}

static void wrong(const char *what, uint32_t length)
{
    fprintf(stderr, "verbs_peer: %s of %" PRIu32 " bytes went wrong\n", what, length);
    exit(EXIT_FAILURE);
}

/* --- lines --- */

/* Waits for a call. */
static void listen_at(uint16_t port)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) ||
        bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1))
        die("listen");
    int stream = accept(listener, NULL, NULL);
    if (stream < 0 || setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes))
        die("accept");
    line_in = must(fdopen(stream, "r"), "stream");
    line_out = must(fdopen(dup(stream), "w"), "stream");
    setlinebuf(line_out);
}

static void hear(char *line, size_t size)
{
    alarm(PATIENCE_S);
    if (!fgets(line, (int)size, line_in))
        die("the other side has gone");
    line[strcspn(line, "\n")] = 0;
}

static void must_hear(const char *expected)
{
    char line[200];
    hear(line, sizeof line);
    if (strcmp(line, expected)) {
        fprintf(stderr, "verbs_peer: the other side says: %s\n", line);
        exit(EXIT_FAILURE);
    }
}

/* Asks for something, and waits for the answer. */
#define ASK(...) (fprintf(line_out, __VA_ARGS__), must_hear("ok"))

/* --- verbs --- */

static void open_device(const char *name)
{
    struct ibv_device **list = must(ibv_get_device_list(NULL), "devices");
    struct ibv_context *context = NULL;
    for (int i = 0; list[i]; i++)
        if (strcmp(ibv_get_device_name(list[i]), name) == 0)
            context = must(ibv_open_device(list[i]), name);
    pd = must(ibv_alloc_pd(must(context, name)), "protection domain");
    cq = must(ibv_create_cq(context, 16, NULL, NULL, 0), "completion queue");
    memory = must(aligned_alloc(4096, REGION), "memory");
    memset(memory, 0, REGION);
    mr = must(ibv_reg_mr(pd, memory, REGION, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                                                 IBV_ACCESS_REMOTE_ATOMIC), "memory region");
    struct ibv_qp_init_attr init = {.send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC,
                                    .cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1}};
    qp = must(ibv_create_qp(pd, &init), "queue pair");
}

static void move_to(struct ibv_qp_attr attr, int mask)
{
    errno = ibv_modify_qp(qp, &attr, mask | IBV_QP_STATE);
    if (errno)
        die("move the queue pair");
}

static void connect_to(struct in_addr there, uint32_t qpn, uint32_t psn)
{
    struct ibv_qp_attr rtr = {
        .qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_1024, .dest_qp_num = qpn, .rq_psn = psn, .max_dest_rd_atomic = 4, .min_rnr_timer = 14,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.sgid_index = gid_index, .hop_limit = 64}}};
    unsigned char *gid = rtr.ah_attr.grh.dgid.raw;
    gid[10] = gid[11] = 0xff;
    memcpy(gid + 12, &there, 4);
    move_to((struct ibv_qp_attr){.qp_state = IBV_QPS_INIT, .port_num = 1,
                                 .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC},
            IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    move_to(rtr, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    move_to((struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .timeout = 17, .retry_cnt = 7, .rnr_retry = 7, .sq_psn = FIRST_PSN, .max_rd_atomic = 4},
            IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* Waits for the next completion. */
static struct ibv_wc completion(void)
{
    struct ibv_wc wc;
    int count;
    alarm(PATIENCE_S);
    while ((count = ibv_poll_cq(cq, 1, &wc)) == 0)
        usleep(200);
    if (count < 0)
        die("poll");
    return wc;
}

/* Sends, writes or reads at the far half of the other side's region, from or to the start of ours. */
static void transfer(enum ibv_wr_opcode code, uint32_t length, uint32_t imm, uint64_t compare_add, uint64_t swap)
{
    struct ibv_sge piece = {.addr = (uintptr_t)memory, .length = length, .lkey = mr->lkey};
    struct ibv_send_wr *bad, request = {.wr_id = 7, .sg_list = &piece, .num_sge = 1, .opcode = code, .imm_data = htobe32(imm),
                                        .send_flags = IBV_SEND_SIGNALED};
    if (code == IBV_WR_ATOMIC_CMP_AND_SWP || code == IBV_WR_ATOMIC_FETCH_AND_ADD) {
        request.wr.atomic.remote_addr = far_address + FAR;
        request.wr.atomic.rkey = far_rkey;
        request.wr.atomic.compare_add = compare_add;
        request.wr.atomic.swap = swap;
    } else {
        request.wr.rdma.remote_addr = far_address + FAR;
        request.wr.rdma.rkey = far_rkey;
    }
    errno = ibv_post_send(qp, &request, &bad);
    if (errno)
        die("post");
    struct ibv_wc wc = completion();
    if (wc.status != IBV_WC_SUCCESS) {
        fprintf(stderr, "verbs_peer: operation %d of %" PRIu32 " bytes: %s\n", (int)code, length, ibv_wc_status_str(wc.status));
        exit(EXIT_FAILURE);
    }
}

/* --- what is asked for, and what is done --- */

static unsigned char pattern(uint32_t seed, uint32_t i) { return (unsigned char)((seed + i) * 2654435761u >> 24); }

static void fill(uint32_t at, uint32_t length, uint32_t seed)
{
    for (uint32_t i = 0; i < length; i++)
        memory[at + i] = pattern(seed, i);
}

static bool is_filled(uint32_t at, uint32_t length, uint32_t seed)
{
    for (uint32_t i = 0; i < length; i++)
        if (memory[at + i] != pattern(seed, i))
            return false;
    return true;
}

static void try_messages(uint32_t length, uint32_t seed)
{
    for (int with_imm = 0; with_imm < 2; with_imm++) {
        ASK("recv %d %" PRIu32 "\n", FAR, length);
        fill(0, length, ++seed);
        transfer(with_imm ? IBV_WR_SEND_WITH_IMM : IBV_WR_SEND, length, seed, 0, 0);
        ASK("wait %" PRIu32 " %" PRId64 "\n", length, with_imm ? (int64_t)seed : NO_IMM);
        ASK("check %d %" PRIu32 " %" PRIu32 "\n", FAR, length, seed);
    }
}

static void try_memory(uint32_t length, uint32_t seed)
{
    fill(0, length, ++seed);
    transfer(IBV_WR_RDMA_WRITE, length, 0, 0, 0);
    ASK("check %d %" PRIu32 " %" PRIu32 "\n", FAR, length, seed);
    ASK("recv 0 0\n");
    fill(0, length, ++seed);
    transfer(IBV_WR_RDMA_WRITE_WITH_IMM, length, seed, 0, 0);
    ASK("wait %" PRIu32 " %" PRIu32 "\n", length, seed);
    ASK("check %d %" PRIu32 " %" PRIu32 "\n", FAR, length, seed);
    ASK("fill %d %" PRIu32 " %" PRIu32 "\n", FAR, length, ++seed);
    transfer(IBV_WR_RDMA_READ, length, 0, 0, 0);
    if (!is_filled(0, length, seed))
        wrong("READ", length);
}

static uint64_t word(void)
{
    uint64_t value;
    memcpy(&value, memory, sizeof value);
    return value;
}

/* A word of the other side: 0, then 5, still 5, then 12; each operation says what was there before. */
static void try_atomics(void)
{
    memset(memory, 0, sizeof(uint64_t));
    transfer(IBV_WR_RDMA_WRITE, 8, 0, 0, 0);
    transfer(IBV_WR_ATOMIC_CMP_AND_SWP, 8, 0, 0, 5);
    if (word() != 0)
        wrong("COMPARE_SWAP", 8);
    transfer(IBV_WR_ATOMIC_CMP_AND_SWP, 8, 0, 0, 6);
    if (word() != 5)
        wrong("COMPARE_SWAP that finds another value", 8);
    transfer(IBV_WR_ATOMIC_FETCH_AND_ADD, 8, 0, 7, 0);
    if (word() != 5)
        wrong("FETCH_ADD", 8);
    transfer(IBV_WR_RDMA_READ, 8, 0, 0, 0);
    if (word() != 12)
        wrong("what FETCH_ADD left", 8);
}

static void ask(void)
{
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        try_messages(lengths[i], 100 * (uint32_t)i);
        try_memory(lengths[i], 100 * (uint32_t)i + 50);
    }
    try_atomics();
    printf("asked: SEND, SEND_WITH_IMM, WRITE, WRITE_WITH_IMM, READ of 1 byte to 1 MiB, COMPARE_SWAP, FETCH_ADD: all right\n");
}

static void receive(uint32_t at, uint32_t length)
{
    struct ibv_sge piece = {.addr = (uintptr_t)memory + at, .length = length, .lkey = mr->lkey};
    struct ibv_recv_wr *bad, request = {.wr_id = 8, .sg_list = &piece, .num_sge = length > 0};
    errno = ibv_post_recv(qp, &request, &bad);
    if (errno)
        die("post receive");
}

static void answer_wait(uint32_t length, int64_t imm)
{
    struct ibv_wc wc = completion();
    int64_t came = wc.wc_flags & IBV_WC_WITH_IMM ? (int64_t)be32toh(wc.imm_data) : NO_IMM;
    if (wc.status == IBV_WC_SUCCESS && wc.byte_len == length && came == imm)
        fprintf(line_out, "ok\n");
    else
        fprintf(line_out, "status %d, %" PRIu32 " bytes, immediate %" PRId64 "\n", (int)wc.status, wc.byte_len, came);
}

/* Obeys until the roles change; true when that was all. */
static bool obey(void)
{
    char line[200];
    uint32_t at, length, seed;
    int64_t imm;
    for (;;) {
        hear(line, sizeof line);
        if (sscanf(line, "fill %" SCNu32 " %" SCNu32 " %" SCNu32, &at, &length, &seed) == 3) {
            fill(at, length, seed);
            fprintf(line_out, "ok\n");
        } else if (sscanf(line, "check %" SCNu32 " %" SCNu32 " %" SCNu32, &at, &length, &seed) == 3) {
            fprintf(line_out, "%s\n", is_filled(at, length, seed) ? "ok" : "wrong bytes");
        } else if (sscanf(line, "recv %" SCNu32 " %" SCNu32, &at, &length) == 2) {
            receive(at, length);
            fprintf(line_out, "ok\n");
        } else if (sscanf(line, "wait %" SCNu32 " %" SCNd64, &length, &imm) == 2) {
            answer_wait(length, imm);
        } else if (strcmp(line, "turn") == 0) {
            return false;
        } else if (strcmp(line, "end") == 0) {
            fprintf(line_out, "ok\n");
            return true;
        } else {
            fprintf(stderr, "verbs_peer: the other side asks: %s\n", line);
            exit(EXIT_FAILURE);
        }
    }
}

int main(int argc, char **argv)
{
    char line[200], address[INET_ADDRSTRLEN];
    uint32_t qpn, psn;
    struct in_addr there;
    union ibv_gid gid;
    if (argc != 4) {
        fprintf(stderr, "usage: verbs_peer DEVICE GID-INDEX PORT\n");
        return 2;
    }
    gid_index = (uint8_t)atoi(argv[2]);
    open_device(argv[1]);
    alarm(PATIENCE_S);
    if (ibv_query_gid(qp->context, 1, gid_index, &gid))
        die("GID");
    listen_at((uint16_t)atoi(argv[3]));
    fprintf(line_out, "qp %" PRIu32 " %d %" PRIu64 " %" PRIu32 " %s\n", qp->qp_num, FIRST_PSN, (uint64_t)(uintptr_t)memory, mr->rkey,
            inet_ntop(AF_INET, gid.raw + 12, address, sizeof address));
    hear(line, sizeof line);
    if (sscanf(line, "qp %" SCNu32 " %" SCNu32 " %" SCNu64 " %" SCNu32 " %15s", &qpn, &psn, &far_address, &far_rkey, address) != 5 ||
        inet_pton(AF_INET, address, &there) != 1)
        die(line);
    connect_to(there, qpn, psn);
    fprintf(line_out, "ready\n");
    must_hear("ready");
    while (!obey()) {
        ask();
        fprintf(line_out, "turn\n");
    }
    return 0;
}
