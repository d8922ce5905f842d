/* libfabric: tagged messages between two reliable endpoints of one provider, fi_tinject where a message fits. */

#include "program.h"
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_tagged.h>
#include <sys/socket.h>
#include <sys/wait.h>

static struct {
    struct fid_ep *ep;
    struct fid_cq *sent, *received;
    fi_addr_t other;
    size_t inject_size;
    struct fi_context2 contexts[4 * WINDOW]; /* more than operations that are under way at once */
    unsigned posted, done, taken, sending;
} fab;

enum { TAG = 1 };

static void must(long status, const char *what) {
    if (status >= 0) return;
    fprintf(stderr, "%s: %s\n", what, fi_strerror((int)-status));
    exit(1);
}

static unsigned completions(struct fid_cq *cq) {
    struct fi_cq_tagged_entry entries[16];
    ssize_t n = fi_cq_read(cq, entries, 16);
    if (n == -FI_EAGAIN) return 0;
    must(n, "fi_cq_read");
    return (unsigned)n;
}

static inline struct fi_context2 *context(void) {
    static unsigned used;
    return &fab.contexts[used++ % (4 * WINDOW)];
}

/* Where there is no room, both queues are read: that is what makes room. */
static void progress(long status, const char *what) {
    if (status != -FI_EAGAIN) must(status, what);
    fab.sending -= completions(fab.sent);
    fab.done += completions(fab.received);
}

static inline void tr_post(void *buf, size_t len) {
    ssize_t status;
    struct fi_context2 *at = context();
    while ((status = fi_trecv(fab.ep, buf, len, NULL, fab.other, TAG, 0, at)) != 0) progress(status, "fi_trecv");
}

static inline void tr_take(void) {
    while (fab.done == fab.taken) fab.done += completions(fab.received);
    fab.taken++;
}

static inline void tr_start(const void *buf, size_t len) {
    ssize_t status;
    if (len <= fab.inject_size) {
        while ((status = fi_tinject(fab.ep, buf, len, fab.other, TAG)) != 0) progress(status, "fi_tinject");
        return;
    }
    struct fi_context2 *at = context();
    while ((status = fi_tsend(fab.ep, buf, len, NULL, fab.other, TAG, at)) != 0) progress(status, "fi_tsend");
    fab.sending++;
}

static inline void tr_send(const void *buf, size_t len) { tr_start(buf, len); }

static inline void tr_drain(void) {
    while (fab.sending > 0) progress(-FI_EAGAIN, "");
}

#include "measure.h"

static struct fi_info *wanted(const char *provider) {
    struct fi_info *hints = fi_allocinfo(), *info = NULL;
    if (hints == NULL) fail("fi_allocinfo");
    hints->caps = FI_TAGGED;
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->ep_attr->type = FI_EP_RDM;
    hints->tx_attr->msg_order = FI_ORDER_SAS;
    hints->rx_attr->msg_order = FI_ORDER_SAS;
    hints->domain_attr->threading = FI_THREAD_DOMAIN;
    hints->domain_attr->mr_mode = FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    hints->domain_attr->resource_mgmt = FI_RM_ENABLED;
    hints->fabric_attr->prov_name = strdup(provider);
    must(fi_getinfo(FI_VERSION(1, 17), NULL, NULL, 0, hints, &info), "fi_getinfo");
    fi_freeinfo(hints);
    return info;
}

/* Opens an endpoint, and tells the other process its address over `wire`. */
static void open_endpoint(const char *provider, int wire) {
    struct fi_info *info = wanted(provider);
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_av *av;
    struct fi_av_attr av_attr = {.type = FI_AV_TABLE, .count = 2};
    struct fi_cq_attr cq_attr = {.format = FI_CQ_FORMAT_TAGGED, .size = 8 * WINDOW};
    char mine[256] = {0}, theirs[256];
    size_t len = sizeof mine;
    must(fi_fabric(info->fabric_attr, &fabric, NULL), "fi_fabric");
    must(fi_domain(fabric, info, &domain, NULL), "fi_domain");
    must(fi_av_open(domain, &av_attr, &av, NULL), "fi_av_open");
    must(fi_cq_open(domain, &cq_attr, &fab.sent, NULL), "fi_cq_open");
    must(fi_cq_open(domain, &cq_attr, &fab.received, NULL), "fi_cq_open");
    must(fi_endpoint(domain, info, &fab.ep, NULL), "fi_endpoint");
    must(fi_ep_bind(fab.ep, &av->fid, 0), "fi_ep_bind");
    must(fi_ep_bind(fab.ep, &fab.sent->fid, FI_TRANSMIT), "fi_ep_bind");
    must(fi_ep_bind(fab.ep, &fab.received->fid, FI_RECV), "fi_ep_bind");
    must(fi_enable(fab.ep), "fi_enable");
    must(fi_getname(&fab.ep->fid, mine, &len), "fi_getname");
    if (write(wire, mine, sizeof mine) != sizeof mine || recv(wire, theirs, sizeof theirs, MSG_WAITALL) != sizeof theirs)
        fail("the addresses could not be exchanged");
    if (fi_av_insert(av, theirs, 1, &fab.other, 0, NULL) != 1) fail("fi_av_insert");
    fab.inject_size = info->tx_attr->inject_size;
}

static int version(void) {
    printf("libfabric %s\n", fi_tostr("1", FI_TYPE_VERSION));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) return version();
    struct call call = parse(argc, argv);
    const struct op *op = op_named(call.op);
    int wires[2];
    if (op == NULL) fail("no such operation here");
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, wires) != 0) fail("socketpair");
    int leads = split(&call);
    close(wires[leads]);
    open_endpoint(*call.transport ? call.transport : "shm", wires[!leads]);
    measure(leads, op, call.size, call.ms);
    fi_close(&fab.ep->fid);
    if (!leads) return 0;
    int status = 1;
    wait(&status);
    return status != 0;
}
