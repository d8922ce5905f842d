/* Four processes on hosts of two sites of the lab, behind gateways that let nothing in, are a group of nodes: each edge is opened at its
 * first use, over the stack that the places of both lead to. */
#include "session.h"

enum { RANKS = 4, LAST = RANKS - 1, BYTES = 1024, ALL = 0x100, HERE = 0x200, GO = 0x300 };

/* Where each rank runs: a host of site a twice, its other host, and one of site b. */
static const char *const places[RANKS] = {"a1", "a1", "a2", "b1"};

/* One of the group. */
struct member {
    struct node node;
    gridnet_group *group;
    gridnet_node nodes[RANKS];
    gridnet_endpoint *peers[RANKS];
    size_t own;
    unsigned char heard[RANKS][BYTES];
    bool here[RANKS], all[RANKS], go;
};

/* The ids of all, in the order of their ranks. */
static void find_all(struct member *m)
{
    char label[8];
    gridnet_node_info infos[RANKS];
    size_t count = 0;
    while (gridnet_nodes(m->node.fabric, infos, RANKS, &count) != GRIDNET_OK || count != RANKS)
        poll(NULL, 0, 5);
    for (size_t rank = 0; rank < RANKS; rank++) {
        snprintf(label, sizeof label, "r%d", (int)rank);
        m->nodes[rank] = session_find(m->node.fabric, label);
    }
}

/* While one of both is on its way to the leader of its site, nobody knows where it is, and what is under way to it is lost: the next use
 * of the edge begins anew. What stands in the log of this rank says why. */
static void begin_anew(struct member *m, const gridnet_completion *entry)
{
    static char why[4096];
    CHECK(entry->status == GRIDNET_ERR_NOT_FOUND || entry->status == GRIDNET_ERR_UNREACHABLE);
    if (gridnet_node_explain(m->node.fabric, &m->nodes[entry->tag], why, sizeof why, NULL) >= 0)
        fputs(why, stderr);
    poll(NULL, 0, 10);
}

/* One completion, whatever it is of. */
static void step(struct member *m)
{
    gridnet_completion entry = node_wait(&m->node);
    size_t rank;
    if (entry.op_kind == GRIDNET_OP_OPEN && entry.status != GRIDNET_OK) {
        begin_anew(m, &entry);
        return;
    }
    CHECK_OK(entry.status);
    if (entry.op_kind != GRIDNET_OP_RECV)
        return;
    CHECK_OK(gridnet_group_rank(m->group, entry.source, &rank));
    CHECK(rank == (entry.tag & 0xff));
    m->all[rank] |= (entry.tag & ~UINT64_C(0xff)) == ALL;
    m->here[rank] |= (entry.tag & ~UINT64_C(0xff)) == HERE;
    m->go |= (entry.tag & ~UINT64_C(0xff)) == GO;
}

static void hear(struct member *m, size_t from, uint64_t kind, void *data, size_t length)
{
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(m->node.cq, NULL, data, length, kind | from, 0, NULL));
}

static void say(struct member *m, size_t to, uint64_t kind, const void *data, size_t length)
{
    CHECK_SENT(gridnet_tag_send(m->peers[to], data, length, kind | m->own, NULL));
}

/* The endpoint of each rank: the first use of an edge begins it, whoever comes first. */
static void open_edges(struct member *m)
{
    gridnet_status status;
    for (size_t rank = 0; rank < RANKS; rank++) {
        while ((status = gridnet_group_endpoint(m->group, rank, &m->peers[rank])) == GRIDNET_IN_PROGRESS)
            step(m);
        CHECK_OK(status);
    }
}

/* Each says something else to each. */
static void all_to_all(struct member *m)
{
    static unsigned char words[RANKS][BYTES];
    size_t rank;
    for (rank = 0; rank < RANKS; rank++) {
        fill(words[rank], BYTES, m->own * RANKS + rank);
        say(m, rank, ALL, words[rank], BYTES);
    }
    for (rank = 0; rank < RANKS; rank++) {
        while (!m->all[rank])
            step(m);
        CHECK(filled(m->heard[rank], BYTES, rank * RANKS + m->own));
    }
}

/* By which rail each edge goes, and that TLS is on it between hosts. */
static void check_stacks(struct member *m)
{
    static char why[8192];
    for (size_t rank = 0; rank < RANKS; rank++) {
        const char *from = places[m->own], *to = places[rank];
        bool is_near = strcmp(from, to) == 0;
        char text[64];
        if (rank == m->own)
            continue;
        CHECK_OK(gridnet_endpoint_explain(m->peers[rank], why, sizeof why, NULL));
        snprintf(text, sizeof text, "rail %s in use: ", from[0] != to[0] ? "relay" : is_near ? "shm" : "tcp");
        if (strstr(why, text) == NULL || (strstr(why, ", TLS 1.3") == NULL) != is_near)
            test_failed(__FILE__, __LINE__, why, text);
    }
}

/* The last one goes when all have heard all, as the first one tells it; the others stay until the lab ends with it. */
static void part(struct member *m)
{
    for (size_t rank = 1; rank < RANKS && m->own == 0; rank++)
        while (!m->here[rank])
            step(m);
    if (m->own == 0)
        say(m, LAST, GO, "", 0);
    else
        say(m, 0, HERE, "", 0);
    while (m->own == LAST && !m->go)
        step(m);
    while (m->own != LAST) {
        CHECK(gridnet_fabric_progress(m->node.fabric) >= 0);
        poll(NULL, 0, 1);
    }
}

/* What runs on a host. */
static int be_member(size_t own, const char *ticket)
{
    static struct member m;
    gridnet_group_params params = {sizeof params, 2 * WAIT_NS, NULL};
    char label[8];
    test_limit(110);
    snprintf(label, sizeof label, "r%d", (int)own);
    CHECK(setenv("GRIDNET_SESSION", ticket, 1) == 0 && setenv("GRIDNET_SESSION_LABEL", label, 1) == 0);
    CHECK(setenv("GRIDNET_SESSION_TIMEOUT", "60s", 1) == 0);
    m.node = node_open(NULL);
    m.own = own;
    find_all(&m);
    CHECK_OK(gridnet_group_create_nodes(m.node.cq, m.nodes, RANKS, &params, &m.group));
    for (size_t rank = 0; rank < RANKS; rank++) {
        hear(&m, rank, ALL, m.heard[rank], BYTES);
        if (own == 0 && rank != 0)
            hear(&m, rank, HERE, NULL, 0);
    }
    if (own == LAST)
        hear(&m, 0, GO, NULL, 0);
    open_edges(&m);
    all_to_all(&m);
    check_stacks(&m);
    part(&m);
    CHECK_OK(gridnet_group_destroy(m.group));
    node_close(&m.node);
    return EXIT_SUCCESS;
}

/* The hosts, and what runs there; the last rank in the foreground. */
static void write_lab(const char *file, const char *self)
{
    FILE *out = fopen(file, "w");
    CHECK(out != NULL);
    fprintf(out, "[[host]]\nname = 'p'\npublic = true\n"
                 "[[site]]\nname = 'a'\nkind = 'masquerading'\nhosts = 2\n"
                 "[[site]]\nname = 'b'\nkind = 'masquerading'\n"
                 "[[run]]\nhost = 'p'\nbackground = true\ncommand = 'exec gridnet session serve --dir %s/session'\n",
            session_dir);
    for (int rank = 0; rank < RANKS; rank++)
        fprintf(out, "[[run]]\nhost = '%s'\nbackground = %s\ntimeout = '100s'\n"
                     "command = 'exec %s %d %s >%s/rank%d.log 2>&1'\n",
                places[rank], rank < LAST ? "true" : "false", self, rank, session_ticket, session_dir, rank);
    CHECK(fclose(out) == 0);
}

static int shell(const char *format, const char *dir)
{
    char command[512];
    snprintf(command, sizeof command, format, dir, dir, dir);
    return system(command);
}

int main(int argc, char **argv)
{
    char file[96], self[1024];
    ssize_t length;
    int code;
    if (argc == 3)
        return be_member((size_t)atoi(argv[1]), argv[2]);
    if (!session_can()) {
        printf("SKIPPED group_hosts: no gridnet in PATH\n");
        return 0;
    }
    test_limit(120);
    length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0);
    self[length] = 0;
    snprintf(session_dir, sizeof session_dir, "/tmp/gridnet-c-group-%d", (int)getpid());
    snprintf(session_ticket, sizeof session_ticket, "%s/session/ticket", session_dir);
    snprintf(file, sizeof file, "%s/lab.toml", session_dir);
    /* The first public host of a lab has this address. */
    CHECK(shell("mkdir %s && gridnet session new --dir %s/session --listen 203.0.113.1:7411 >/dev/null", session_dir) == 0);
    write_lab(file, self);
    code = shell("timeout -k 5 110 gridnet lab run %s/lab.toml --no-check >%s/said 2>&1", session_dir);
    if (code != 0 && shell("grep -q 'no lab can be had here' %s/said", session_dir) == 0)
        printf("SKIPPED group_hosts: no lab can be had here\n"), code = 0;
    else if (code != 0)
        shell("tail -n +1 %s/said %s/rank*.log >&2", session_dir);
    shell("rm -rf %s", session_dir);
    return code == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
