/* Operations that succeed: every operation of RC, in one, two and more packets, and what completions say of them. */
#include "cases.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Offsets of operation number `i`; far enough apart for all of these cases. */
#define AT(i) ((uint32_t)(i) * 16384u)
#define FROM(offset, bytes) .from = {{.at = (offset), .length = (bytes)}}

/* With a path MTU of 256: empty, with each count of padding, a full packet, one byte more, more than two packets. */
static const uint32_t lengths[] = {0, 1, 2, 3, 4, 256, 257, 769};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void recv_at(struct pair *pair, uint64_t id, uint32_t at, uint32_t length)
{
    errno = side_recv(&pair->b, id, &(struct piece){.at = at, .length = length}, 1);
    if (errno)
        die("post receive");
}

static void send(struct pair *pair, struct op op)
{
    errno = side_send(pair, &pair->a, op);
    if (errno)
        die("post send");
}

/* Other numbers than those of a. */
static void number_b(struct pair *pair)
{
    for (uint32_t i = 0; i < MEMORY; i++)
        pair->b.memory[i] = (unsigned char)(i * 2246822519u >> 24);
}

static void each_length(struct pair *pair, enum ibv_wr_opcode code, bool receives)
{
    for (int i = 0; i < LENGTHS; i++) {
        if (receives)
            recv_at(pair, (uint64_t)i + 1, AT(i), lengths[i]);
        send(pair, (struct op){.id = (uint64_t)i + 1, .code = code, FROM(AT(i), lengths[i]), .to = AT(i), .imm = 0x01020304u * (uint32_t)i});
    }
    await(pair, LENGTHS, receives ? LENGTHS : 0);
    for (int i = 0; i < LENGTHS; i++)
        same(pair, AT(i), AT(i), lengths[i]);
}

static void send_lengths(struct pair *pair) { each_length(pair, IBV_WR_SEND, true); }
static void send_imm_lengths(struct pair *pair) { each_length(pair, IBV_WR_SEND_WITH_IMM, true); }
static void write_lengths(struct pair *pair) { each_length(pair, IBV_WR_RDMA_WRITE, false); }
static void write_imm_lengths(struct pair *pair) { each_length(pair, IBV_WR_RDMA_WRITE_WITH_IMM, true); }

static void read_lengths(struct pair *pair)
{
    number_b(pair);
    each_length(pair, IBV_WR_RDMA_READ, false);
}

/* Each kind with a message of one packet and a byte. */
static void each_kind(struct pair *pair)
{
    static const enum ibv_wr_opcode kinds[] = {
        IBV_WR_SEND, IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_RDMA_READ};
    uint32_t length = (128u << pair->rules.mtu) + 1;
    number_b(pair);
    recv_at(pair, 1, AT(0), length);
    recv_at(pair, 2, AT(1), length);
    recv_at(pair, 4, 0, 0);
    for (int i = 0; i < 5; i++)
        send(pair, (struct op){.id = (uint64_t)i + 1, .code = kinds[i], FROM(AT(i), length), .to = AT(i), .imm = 77});
    await(pair, 5, 3);
    for (int i = 0; i < 5; i++)
        same(pair, AT(i), AT(i), length);
}

static uint64_t *word(struct side *side, uint32_t at) { return (uint64_t *)(void *)(side->memory + at); }

/* An exchange that takes place, one that does not, and an addition beyond the end of the numbers: what was there before comes back. */
static void atomic(struct pair *pair)
{
    *word(&pair->b, AT(1)) = 5;
    *word(&pair->b, AT(2)) = 6;
    *word(&pair->b, AT(3)) = UINT64_MAX;
    send(pair, (struct op){.id = 1, .code = IBV_WR_ATOMIC_CMP_AND_SWP, FROM(AT(1), 8), .to = AT(1), .compare_add = 5, .swap = 50});
    send(pair, (struct op){.id = 2, .code = IBV_WR_ATOMIC_CMP_AND_SWP, FROM(AT(2), 8), .to = AT(2), .compare_add = 5, .swap = 50});
    send(pair, (struct op){.id = 3, .code = IBV_WR_ATOMIC_FETCH_AND_ADD, FROM(AT(3), 8), .to = AT(3), .compare_add = 3});
    await(pair, 3, 0);
    noted(pair, *word(&pair->a, AT(1)) == 5 && *word(&pair->b, AT(1)) == 50);
    noted(pair, *word(&pair->a, AT(2)) == 6 && *word(&pair->b, AT(2)) == 6);
    noted(pair, *word(&pair->a, AT(3)) == UINT64_MAX && *word(&pair->b, AT(3)) == 2);
}

/* The memory of what was posted inline is the caller's again at once. */
static void is_inline(struct pair *pair)
{
    recv_at(pair, 1, AT(0), INLINE);
    unsigned char was[INLINE];
    memcpy(was, pair->a.memory, INLINE);
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, FROM(0, INLINE), .flags = IBV_SEND_INLINE});
    memset(pair->a.memory, 0, INLINE);
    await(pair, 1, 1);
    noted(pair, memcmp(was, pair->b.memory, INLINE) == 0);
}

/* Three pieces into two others. */
static void gather(struct pair *pair)
{
    struct piece into[2] = {{.at = AT(1), .length = 500}, {.at = AT(2), .length = 600}};
    errno = side_recv(&pair->b, 1, into, 2);
    if (errno)
        die("post receive");
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, .from = {{.at = 0, .length = 300}, {.at = 300, .length = 1}, {.at = 301, .length = 749}}});
    await(pair, 1, 1);
    same(pair, 0, AT(1), 500);
    same(pair, 500, AT(2), 550);
}

/* One completion for three. */
static void unsignaled(struct pair *pair)
{
    for (int i = 1; i <= 3; i++)
        recv_at(pair, (uint64_t)i, AT(i), 100);
    for (int i = 1; i <= 3; i++)
        send(pair, (struct op){.id = (uint64_t)i, .code = IBV_WR_SEND, FROM(AT(i), 100), .flags = i < 3 ? QUIET : 0});
    await(pair, 1, 3);
    for (int i = 1; i <= 3; i++)
        same(pair, AT(i), AT(i), 100);
}

/* Message numbers that begin again at zero in the midst of a message. */
static void wrap(struct pair *pair)
{
    recv_at(pair, 1, 0, 1000);
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, FROM(0, 1000)});
    send(pair, (struct op){.id = 2, .code = IBV_WR_RDMA_READ, FROM(AT(1), 1000), .to = AT(1)});
    await(pair, 2, 1);
    same(pair, 0, 0, 1000);
    same(pair, AT(1), AT(1), 1000);
}

/* More reads than may be under way. */
static void many_reads(struct pair *pair)
{
    number_b(pair);
    for (int i = 1; i <= 6; i++)
        send(pair, (struct op){.id = (uint64_t)i, .code = IBV_WR_RDMA_READ, FROM(AT(i), 300), .to = AT(i)});
    await(pair, 6, 0);
    for (int i = 1; i <= 6; i++)
        same(pair, AT(i), AT(i), 300);
}

/* What a fenced write sends has been read before. */
static void fence(struct pair *pair)
{
    number_b(pair);
    send(pair, (struct op){.id = 1, .code = IBV_WR_RDMA_READ, FROM(AT(1), 700), .to = AT(1)});
    send(pair, (struct op){.id = 2, .code = IBV_WR_RDMA_WRITE, FROM(AT(1), 700), .to = AT(2), .flags = IBV_SEND_FENCE});
    await(pair, 2, 0);
    same(pair, AT(1), AT(1), 700);
    same(pair, AT(1), AT(2), 700);
}

static void shared_queue(struct pair *pair)
{
    recv_at(pair, 1, AT(1), 100);
    recv_at(pair, 2, AT(2), 100);
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, FROM(AT(1), 100)});
    send(pair, (struct op){.id = 2, .code = IBV_WR_SEND_WITH_IMM, FROM(AT(2), 90), .imm = 9});
    await(pair, 2, 2);
    same(pair, AT(1), AT(1), 100);
    same(pair, AT(2), AT(2), 90);
}

static void both_ways(struct pair *pair)
{
    recv_at(pair, 1, AT(1), 100);
    errno = side_recv(&pair->a, 11, &(struct piece){.at = AT(2), .length = 100}, 1);
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, FROM(AT(1), 100)});
    await(pair, 1, 1);
    if (errno || side_send(pair, &pair->b, (struct op){.id = 12, .code = IBV_WR_SEND, FROM(AT(1), 100)}))
        die("post at b");
    await(pair, 2, 2);
    same(pair, AT(1), AT(1), 100);
    same(pair, AT(2), AT(1), 100);
}

/* Nothing is written, so that no key is looked at. */
static void empty_write(struct pair *pair)
{
    send(pair, (struct op){.id = 1, .code = IBV_WR_RDMA_WRITE, .rkey = 1, .to = -1});
    await(pair, 1, 0);
    untouched(pair, &pair->b);
}

static void megabyte(struct pair *pair)
{
    enum { MIB = 1 << 20 };
    number_b(pair);
    recv_at(pair, 1, 0, MIB);
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, FROM(0, MIB)});
    await(pair, 1, 1);
    same(pair, 0, 0, MIB);
    send(pair, (struct op){.id = 2, .code = IBV_WR_RDMA_WRITE, FROM(0, MIB), .to = MIB});
    await(pair, 2, 1);
    same(pair, 0, MIB, MIB);
    number_b(pair);
    send(pair, (struct op){.id = 3, .code = IBV_WR_RDMA_READ, FROM(0, MIB), .to = MIB});
    await(pair, 3, 1);
    same(pair, 0, MIB, MIB);
}

/* The receive is posted after b has said that it is not ready, which takes no time; a repeats after 41 ms. */
static void late_receive(struct pair *pair)
{
    send(pair, (struct op){.id = 1, .code = IBV_WR_SEND, FROM(0, 100)});
    usleep(10000);
    recv_at(pair, 1, 0, 100);
    await(pair, 1, 1);
    same(pair, 0, 0, 100);
}

const struct verbs_case data_cases[] = {
    {.name = "data.send", .run = send_lengths, .rules = {.mtu = IBV_MTU_256}},
    {.name = "data.send_imm", .run = send_imm_lengths, .rules = {.mtu = IBV_MTU_256}},
    {.name = "data.write", .run = write_lengths, .rules = {.mtu = IBV_MTU_256}},
    {.name = "data.write_imm", .run = write_imm_lengths, .rules = {.mtu = IBV_MTU_256}},
    {.name = "data.read", .run = read_lengths, .rules = {.mtu = IBV_MTU_256}},
    {.name = "data.mtu_512", .run = each_kind, .rules = {.mtu = IBV_MTU_512}},
    {.name = "data.mtu_1024", .run = each_kind, .rules = {.mtu = IBV_MTU_1024}},
    {.name = "data.mtu_2048", .run = each_kind, .rules = {.mtu = IBV_MTU_2048}},
    {.name = "data.mtu_4096", .run = each_kind, .rules = {.mtu = IBV_MTU_4096}},
    {.name = "data.atomic", .run = atomic},
    {.name = "data.inline", .run = is_inline},
    {.name = "data.gather", .run = gather},
    {.name = "data.unsignaled", .run = unsignaled},
    {.name = "data.psn_wrap", .run = wrap, .rules = {.mtu = IBV_MTU_256, .psn = 0xfffffe}},
    {.name = "data.many_reads", .run = many_reads, .rules = {.depth = 2}},
    {.name = "data.fence", .run = fence},
    {.name = "data.srq", .run = shared_queue, .rules = {.srq = true}},
    {.name = "data.both_ways", .run = both_ways},
    {.name = "data.empty_write", .run = empty_write},
    {.name = "data.megabyte", .run = megabyte, .rules = {.mtu = IBV_MTU_4096}, .uncaptured = true},
    {.name = "data.late_receive", .run = late_receive},
    {.name = NULL},
};
