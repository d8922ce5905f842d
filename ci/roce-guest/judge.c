/* Runs cases of verbs between two devices of libibverbs, and prints a line for each: rdma-sim/tests/judge/README.md has the format.

       judge DEVICE-A DEVICE-B GID-INDEX INTERFACE FOLDER [CASE...]

   What passes the network interface during each case goes to FOLDER/CASE.pcap. */
#include "capture.h"
#include "cases.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A case that does not come to its end is a fault of the device; each one waits some seconds at most. */
enum { LONGEST_S = 60 };

static const char *status_name(enum ibv_wc_status status)
{
    static const char *const names[] = {
        "SUCCESS", "LOC_LEN_ERR", "LOC_QP_OP_ERR", "LOC_EEC_OP_ERR", "LOC_PROT_ERR", "WR_FLUSH_ERR", "MW_BIND_ERR", "BAD_RESP_ERR",
        "LOC_ACCESS_ERR", "REM_INV_REQ_ERR", "REM_ACCESS_ERR", "REM_OP_ERR", "RETRY_EXC_ERR", "RNR_RETRY_EXC_ERR"};
    return status < sizeof names / sizeof *names ? names[status] : "OTHER";
}

static const char *opcode_name(enum ibv_wc_opcode opcode)
{
    switch (opcode) {
    case IBV_WC_SEND:
        return "SEND";
    case IBV_WC_RDMA_WRITE:
        return "RDMA_WRITE";
    case IBV_WC_RDMA_READ:
        return "RDMA_READ";
    case IBV_WC_COMP_SWAP:
        return "COMP_SWAP";
    case IBV_WC_FETCH_ADD:
        return "FETCH_ADD";
    case IBV_WC_RECV:
        return "RECV";
    case IBV_WC_RECV_RDMA_WITH_IMM:
        return "RECV_RDMA_WITH_IMM";
    default:
        return "OTHER";
    }
}

static const char *state_name(enum ibv_qp_state state)
{
    static const char *const names[] = {"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"};
    return state < sizeof names / sizeof *names ? names[state] : "OTHER";
}

/* Of a failure only id and status are defined, of what was sent no length. */
static void print_completions(const struct side *side)
{
    for (int i = 0; i < side->seen; i++) {
        const struct ibv_wc *wc = &side->log[i];
        printf(" %c%" PRIu64 "=%s", side->letter, wc->wr_id, status_name(wc->status));
        if (wc->status != IBV_WC_SUCCESS)
            continue;
        printf("/%s", opcode_name(wc->opcode));
        /* Soft-RoCE has the flag of immediate data on what was sent, too, where it says nothing. */
        if (!(wc->opcode & IBV_WC_RECV))
            continue;
        printf("/%" PRIu32, wc->byte_len);
        if (wc->wc_flags & IBV_WC_WITH_IMM)
            printf("/imm:%08" PRIx32, be32toh(wc->imm_data));
    }
}

static void run(struct pair *pair, const struct verbs_case *one, const char *interface, const char *folder)
{
    char path[4096];
    struct capture *capture = one->uncaptured ? NULL : capture_start(interface);
    snprintf(path, sizeof path, "%s/%s.pcap", folder, one->name);
    printf("%s:", one->name);
    alarm(LONGEST_S);
    pair_open(pair, &one->rules);
    one->run(pair);
    if (!one->plain) {
        if (pair->refused)
            printf(" post=%s", error_name(pair->refused));
        print_completions(&pair->a);
        print_completions(&pair->b);
        printf(" a.qp=%s", state_name(side_state(&pair->a)));
        printf(" b.qp=%s", state_name(side_state(&pair->b)));
        if (pair->data)
            printf(" data=%s", pair->data);
    }
    printf("\n");
    fflush(stdout);
    if (capture)
        capture_save(capture, path);
    pair_close(pair);
    alarm(0);
}

static bool wanted(const char *name, char **names, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return count == 0;
}

int main(int argc, char **argv)
{
    static const struct verbs_case *const lists[] = {state_cases, data_cases, error_cases};
    static struct pair pair;
    if (argc < 6) {
        fprintf(stderr, "usage: judge DEVICE-A DEVICE-B GID-INDEX INTERFACE FOLDER [CASE...]\n");
        return 2;
    }
    side_open(&pair.a, 'a', argv[1], atoi(argv[3]));
    side_open(&pair.b, 'b', argv[2], atoi(argv[3]));
    for (int i = 0; i < 3; i++)
        for (const struct verbs_case *one = lists[i]; one->name; one++)
            if (wanted(one->name, argv + 6, argc - 6))
                run(&pair, one, argv[4], argv[5]);
    return 0;
}
