/* One message of more than 2^31 bytes between two processes. */
#include "test.h"

#define LENGTH ((UINT64_C(1) << 31) + 4096)
#define STRIDE 999983

static unsigned char spot(uint64_t offset)
{
    return (unsigned char)(offset / STRIDE * 31 + 1);
}

static void receiver(void *name)
{
    struct node node = node_open(name);
    unsigned char *in = calloc(LENGTH, 1); /* pages that are not written are not spent */
    CHECK(in != NULL);
    CHECK(node_recv(&node, NULL, in, LENGTH, 1).length == LENGTH);
    for (uint64_t i = 0; i < LENGTH; i += STRIDE)
        CHECK(in[i] == spot(i) && (i + 1 == LENGTH || in[i + 1] == 0));
    CHECK(in[LENGTH - 1] == 0xee);
    node_close(&node);
    free(in);
}

static double available_gib(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "MemAvailable: %llu", &kib) != 1)
        continue;
    fclose(file);
    return (double)kib / (1 << 20);
}

int main(void)
{
    if (!test_wants("TEST_BIG") || available_gib() < 12) {
        printf("SKIPPED: message of 2 GiB: needs TEST_BIG=1 and 12 GiB of memory\n");
        return EXIT_SUCCESS;
    }
    test_limit(100);
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("big"));
    pid_t child = test_spawn(receiver, name);
    struct node node = node_open(NULL);
    gridnet_endpoint *to = node_connect(&node, name);
    unsigned char *out = calloc(LENGTH, 1);
    CHECK(out != NULL);
    for (uint64_t i = 0; i < LENGTH; i += STRIDE)
        out[i] = spot(i);
    out[LENGTH - 1] = 0xee;
    node_send(&node, to, out, LENGTH, 1);
    test_join(child);
    node_close(&node);
    free(out);
    return EXIT_SUCCESS;
}
