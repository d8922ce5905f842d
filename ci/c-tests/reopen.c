/* What is closed is given back: after many fabrics, endpoints and queues the process has no more
 * descriptors, mappings or memory than after some. */
#include "test.h"

static long count_lines(const char *path)
{
    long lines = 0;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    for (int c; (c = getc(file)) != EOF;)
        lines += c == '\n';
    fclose(file);
    return lines;
}

static long resident_kib(void)
{
    long total, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2);
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* One message to a, whose two sides have their queues in this process: each moves when polled. */
static void deliver(struct node *from, gridnet_endpoint *to_a, struct node *a, size_t length)
{
    static char out[200000], in[200000];
    gridnet_completion entry;
    int pending = 1 + CHECK_SENT(gridnet_tag_send(to_a, out, length, 1, NULL));
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(a->cq, NULL, in, sizeof in, 1, 0, NULL));
    while (pending > 0) {
        gridnet_status taken = gridnet_cq_poll(a->cq, &entry, 1);
        if (taken == 0)
            taken = gridnet_cq_poll(from->cq, &entry, 1);
        CHECK(taken >= 0 && (taken == 0 || entry.status == GRIDNET_OK));
        pending -= taken;
    }
}

/* Two fabrics, a message of each protocol, something left pending, all closed one way or the other. */
static void one_life(const char *name, bool piecewise)
{
    static char left[200000];
    struct node a = node_open(name), b = node_open(NULL);
    gridnet_endpoint *self = node_link(&a, &a), *to_a = node_link(&b, &a);
    for (size_t length = 8; length <= sizeof left; length *= 150) {
        deliver(&a, self, &a, length);
        deliver(&b, to_a, &a, length);
    }
    CHECK_STATUS(GRIDNET_IN_PROGRESS, gridnet_tag_recv(a.cq, NULL, left, sizeof left, 2, 0, NULL));
    CHECK(gridnet_tag_send(to_a, left, sizeof left, 3, NULL) >= GRIDNET_OK);
    if (piecewise) {
        CHECK_OK(gridnet_endpoint_close(self));
        CHECK_OK(gridnet_endpoint_close(to_a));
        CHECK_OK(gridnet_cq_destroy(a.cq));
        CHECK_OK(gridnet_cq_destroy(b.cq));
    }
    node_close(&a);
    node_close(&b);
}

int main(void)
{
    enum { BEFORE = 50, ROUNDS = 1000 };
    test_limit(110);
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("again"));
    for (int i = 0; i < BEFORE; i++)
        one_life(name, i % 2);
    int descriptors = open_descriptors();
    long mappings = count_lines("/proc/self/maps"), memory = resident_kib();
    for (int i = 0; i < ROUNDS; i++)
        one_life(name, i % 2);
    long growth = resident_kib() - memory;
    printf("%d rounds: %ld KiB more\n", ROUNDS, growth);
    CHECK(open_descriptors() == descriptors);
    CHECK(count_lines("/proc/self/maps") <= mappings + 4);
    CHECK(growth < 2 * ROUNDS);
    return EXIT_SUCCESS;
}
