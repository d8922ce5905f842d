/* Regions between processes: put, get, atomic operations, flush; what is refused, and what unmapping, fork, closing and
 * killing do. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, syscall numbers */
#include "forbid.h"
#include "regions.h"

#include <signal.h>
#include <sys/mman.h>

enum { KEYS = 1, GO = 2, LEN = 1 << 20, PAGE = 4096 };

static gridnet_rkey *import(gridnet_endpoint *endpoint, gridnet_region *region)
{
    gridnet_key key;
    gridnet_rkey *rkey;
    CHECK_OK(gridnet_region_key(region, &key));
    CHECK_OK(gridnet_rkey_import(endpoint, &key, &rkey));
    return rkey;
}

/* The same where the other side is this process: both are driven. */
static gridnet_status end_both(struct node *node, struct node *other, gridnet_status status)
{
    gridnet_completion entry;
    if (status != GRIDNET_IN_PROGRESS)
        return status;
    while (gridnet_cq_poll(node->cq, &entry, 1) == 0)
        CHECK(gridnet_fabric_progress(other->fabric) >= 0);
    return entry.status;
}

/* The owner of two regions: one allocated, one registered. Serves until it is told to end. */
static void owner(void *name)
{
    struct node node = node_open(name);
    void *memory[2];
    gridnet_region *region[2];
    region[0] = allocate(&node, LEN, ALL, &memory[0]);
    memory[1] = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory[1] != MAP_FAILED);
    region[1] = register_memory(&node, memory[1], LEN, ALL);
    gridnet_completion hello = node_recv(&node, NULL, NULL, 0, GO);
    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open_source(node.cq, hello.source, &peer));
    for (int i = 0; i < 2; i++) {
        gridnet_key key;
        CHECK_OK(gridnet_region_key(region[i], &key));
        node_send(&node, peer, &key, sizeof key, KEYS);
    }
    /* After the peer's puts. */
    node_recv(&node, NULL, NULL, 0, GO);
    for (int i = 0; i < 2; i++) {
        CHECK(filled(memory[i], LEN - 64, 7));
        CHECK(*(uint64_t *)((char *)memory[i] + LEN - 64) == 1000);
    }
    /* The memory of the second goes while the peer holds its key. */
    CHECK(munmap(memory[1], LEN) == 0);
    node_send(&node, peer, NULL, 0, GO);
    node_recv(&node, NULL, NULL, 0, GO);
    CHECK_OK(gridnet_region_close(region[1]));
    CHECK_OK(gridnet_region_close(region[0]));
    node_send(&node, peer, NULL, 0, GO);
    node_recv(&node, NULL, NULL, 0, GO);
    node_close(&node);
}

static void use_regions(const char *options[])
{
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("owner"));
    pid_t pid = test_spawn(owner, name);
    gridnet_fabric_params params = test_params(NULL);
    params.options = options;
    struct node node;
    CHECK_OK(gridnet_fabric_open(&params, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    gridnet_endpoint *peer = node_connect(&node, name);
    gridnet_rkey *rkey[2];
    static unsigned char bytes[LEN], back[LEN];
    fill(bytes, LEN - 64, 7);
    node_send(&node, peer, NULL, 0, GO);
    for (int i = 0; i < 2; i++) {
        gridnet_key key;
        node_recv(&node, peer, &key, sizeof key, KEYS);
        CHECK_OK(gridnet_rkey_import(peer, &key, &rkey[i]));
        CHECK_OK(end(&node, gridnet_put(peer, bytes, LEN - 64, rkey[i], 0, NULL)));
        CHECK_OK(end(&node, gridnet_get(peer, back, LEN - 64, rkey[i], 0, NULL)));
        CHECK(memcmp(bytes, back, LEN - 64) == 0);
        for (uint64_t k = 0; k < 1000; k++) {
            uint64_t old = UINT64_MAX;
            gridnet_atomic_params one = add(LEN - 64, 1, &old);
            CHECK_OK(end(&node, gridnet_atomic(peer, rkey[i], &one)));
            CHECK(old == k);
        }
    }
    CHECK_OK(end(&node, gridnet_flush(peer, NULL)));
    gridnet_counters all, of_peer;
    all.size = of_peer.size = sizeof all;
    CHECK_OK(gridnet_fabric_counters(node.fabric, &all));
    CHECK_OK(gridnet_endpoint_counters(peer, &of_peer));
    CHECK(of_peer.puts == 2 && of_peer.gets == 2 && of_peer.atomics == 2000);
    CHECK(of_peer.bytes_put == 2 * (LEN - 64) && of_peer.bytes_got == of_peer.bytes_put);
    CHECK(memcmp(&all.puts, &of_peer.puts, sizeof all - offsetof(gridnet_counters, puts)) == 0);
    /* Atomic operations on registered memory do. */
    CHECK(all.operations_by_message >= 1000 && all.operations_served == 0);
    node_send(&node, peer, NULL, 0, GO);
    node_recv(&node, peer, NULL, 0, GO);
    /* Unmapped there: an error here, nothing at the owner, and the other region is as it was. */
    gridnet_atomic_params one = add(LEN - 64, 1, NULL);
    CHECK_STATUS(GRIDNET_ERR_FAULT, end(&node, gridnet_put(peer, bytes, 8, rkey[1], 0, NULL)));
    CHECK_STATUS(GRIDNET_ERR_FAULT, end(&node, gridnet_get(peer, back, LEN, rkey[1], 0, NULL)));
    CHECK_STATUS(GRIDNET_ERR_FAULT, end(&node, gridnet_atomic(peer, rkey[1], &one)));
    CHECK_OK(end(&node, gridnet_put(peer, bytes, LEN, rkey[0], 0, NULL)));
    node_send(&node, peer, NULL, 0, GO);
    node_recv(&node, peer, NULL, 0, GO);
    for (int i = 0; i < 2; i++) {
        CHECK_STATUS(GRIDNET_ERR_KEY, end(&node, gridnet_put(peer, bytes, 8, rkey[i], 0, NULL)));
        CHECK_STATUS(GRIDNET_ERR_KEY, end(&node, gridnet_get(peer, back, 8, rkey[i], 0, NULL)));
        CHECK_STATUS(GRIDNET_ERR_KEY, end(&node, gridnet_atomic(peer, rkey[i], &one)));
        CHECK_OK(gridnet_rkey_close(rkey[i]));
    }
    node_send(&node, peer, NULL, 0, GO);
    test_join(pid);
    node_close(&node);
}

static void refuses_bad_input(void)
{
    struct node a = node_open(NULL), b = node_open(NULL), c = node_open(NULL);
    gridnet_endpoint *to_b = node_link(&a, &b), *to_c = node_link(&a, &c), *c_to_b = node_link(&c, &b);
    void *memory = NULL;
    gridnet_region *region = allocate(&b, 100, ALL, &memory);
    gridnet_key key, damaged;
    CHECK_OK(gridnet_region_key(region, &key));
    gridnet_rkey *rkey = import(to_b, region), *other = NULL;
    CHECK_STATUS(GRIDNET_ERR_KEY, gridnet_rkey_import(to_c, &key, &other));
    damaged = key;
    damaged.bytes[30] ^= 4;
    CHECK_STATUS(GRIDNET_ERR_KEY, gridnet_rkey_import(to_b, &damaged, &other));
    CHECK(other == NULL);
    CHECK_STATUS(GRIDNET_ERR_KEY, gridnet_put(to_c, "x", 1, rkey, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_KEY, gridnet_put(c_to_b, "x", 1, rkey, 0, NULL));
    unsigned char bytes[200] = {0};
    CHECK_STATUS(GRIDNET_ERR_BOUNDS, gridnet_put(to_b, bytes, 101, rkey, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_BOUNDS, gridnet_put(to_b, bytes, 1, rkey, 100, NULL));
    CHECK_STATUS(GRIDNET_ERR_BOUNDS, gridnet_get(to_b, bytes, 8, rkey, UINT64_MAX - 3, NULL));
    CHECK_STATUS(GRIDNET_ERR_NULL, gridnet_put(to_b, NULL, 1, rkey, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_NULL, gridnet_put(to_b, bytes, 1, NULL, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_NULL, gridnet_get(NULL, bytes, 1, rkey, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_get(to_b, bytes, 1, (gridnet_rkey *)to_b, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_get(to_b, bytes, SIZE_MAX, rkey, 0, NULL));
    gridnet_atomic_params one = add(4, 1, NULL);
    CHECK_STATUS(GRIDNET_ERR_MISALIGNED, gridnet_atomic(to_b, rkey, &one));
    one = add(96, 1, NULL);
    CHECK_STATUS(GRIDNET_ERR_BOUNDS, gridnet_atomic(to_b, rkey, &one));
    one = add(0, 1, NULL);
    one.op = 7;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_atomic(to_b, rkey, &one));
    one = add(0, 1, NULL);
    one.width = 2;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_atomic(to_b, rkey, &one));
    one = add(0, 1, NULL);
    one.flags = 1;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_atomic(to_b, rkey, &one));
    one.size = 8;
    CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_atomic(to_b, rkey, &one));
    CHECK_STATUS(GRIDNET_ERR_NULL, gridnet_atomic(to_b, rkey, NULL));

    gridnet_region *bad = NULL;
    gridnet_region_params params = region_params(bytes, 8, ALL);
    const size_t sizes[] = {0, 1, sizeof params - 1, 1 << 20, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        params.size = sizes[i];
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_region_register(a.fabric, &params, &bad));
        CHECK_STATUS(GRIDNET_ERR_STRUCT_SIZE, gridnet_region_allocate(a.fabric, &params, &bad, &memory));
    }
    params = region_params(bytes, 8, ALL);
    params.flags = 1;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_region_register(a.fabric, &params, &bad));
    params = region_params(bytes, 0, ALL);
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_region_register(a.fabric, &params, &bad));
    params = region_params(NULL, 8, ALL);
    CHECK_STATUS(GRIDNET_ERR_NULL, gridnet_region_register(a.fabric, &params, &bad));
    params = region_params(bytes, 8, 16);
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_region_register(a.fabric, &params, &bad));
    params = region_params(bytes, 8, ALL);
    params.memory_kind = GRIDNET_MEMORY_DEVICE;
    CHECK_STATUS(GRIDNET_ERR_UNSUPPORTED, gridnet_region_register(a.fabric, &params, &bad));
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_region_allocate(a.fabric, &params, &bad, &memory));
    params = region_params(NULL, SIZE_MAX / 4, ALL);
    CHECK_STATUS(GRIDNET_ERR_LIMIT, gridnet_region_allocate(a.fabric, &params, &bad, &memory));
    params = region_params(NULL, 100, ALL);
    params.numa_node = 4000;
    CHECK_STATUS(GRIDNET_ERR_INVALID, gridnet_region_allocate(a.fabric, &params, &bad, &memory));
    void *gone = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(gone != MAP_FAILED && munmap((char *)gone + PAGE, PAGE) == 0);
    params = region_params(gone, 2 * PAGE, ALL);
    CHECK_STATUS(GRIDNET_ERR_FAULT, gridnet_region_register(a.fabric, &params, &bad));
    CHECK(bad == NULL);
    CHECK(munmap(gone, PAGE) == 0);

    CHECK_OK(gridnet_region_close(region));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_region_close(region));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_region_key(region, &key));
    CHECK_STATUS(GRIDNET_ERR_KEY, end_both(&a, &b, gridnet_put(to_b, bytes, 8, rkey, 0, NULL)));
    CHECK_OK(gridnet_rkey_close(rkey));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_put(to_b, bytes, 8, rkey, 0, NULL));
    CHECK_STATUS(GRIDNET_ERR_HANDLE, gridnet_rkey_close(rkey));
    node_close(&a);
    node_close(&b);
    node_close(&c);
}

/* Each operation at both widths, with and without its result, on memory of both kinds. */
static void every_atomic_operation(void)
{
    static const struct {
        uint32_t op;
        uint64_t after;
    } cases[] = {{GRIDNET_ATOMIC_ADD, 0xf0 + 0x3c}, {GRIDNET_ATOMIC_AND, 0x30},  {GRIDNET_ATOMIC_OR, 0xfc},
                 {GRIDNET_ATOMIC_XOR, 0xcc},        {GRIDNET_ATOMIC_SWAP, 0x3c}, {GRIDNET_ATOMIC_COMPARE_SWAP, 0x3c}};
    struct node a = node_open(NULL), b = node_open(NULL);
    gridnet_endpoint *to_b = node_link(&a, &b);
    static uint64_t own[4];
    void *memory[2] = {NULL, own};
    gridnet_region *region[2] = {allocate(&b, sizeof own, ALL, &memory[0]), register_memory(&b, own, sizeof own, ALL)};
    for (int kind = 0; kind < 2; kind++) {
        gridnet_rkey *rkey = import(to_b, region[kind]);
        uint64_t *words = memory[kind];
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (uint32_t width = 4; width <= 8; width += 4)
                for (int fetching = 0; fetching < 2; fetching++) {
                    uint64_t beside = UINT64_C(0xabcdef00000000), high = width == 4 ? beside : 0, old = 0;
                    gridnet_atomic_params params = add(8, 0x3c, fetching ? &old : NULL);
                    params.op = cases[i].op;
                    params.width = width;
                    params.compare = 0xf0;
                    words[1] = high | 0xf0;
                    CHECK_OK(end_both(&a, &b, gridnet_atomic(to_b, rkey, &params)));
                    CHECK(words[0] == 0 && words[1] == (high | cases[i].after) && words[2] == 0);
                    CHECK(old == (fetching ? 0xf0 : 0));
                }
        /* What differs is not replaced. */
        uint64_t old = 0;
        gridnet_atomic_params params = add(8, 1, &old);
        params.op = GRIDNET_ATOMIC_COMPARE_SWAP;
        params.compare = words[1] = 77;
        params.compare++;
        CHECK_OK(end_both(&a, &b, gridnet_atomic(to_b, rkey, &params)));
        CHECK(words[1] == 77 && old == 77);
        CHECK_OK(gridnet_rkey_close(rkey));
    }
    node_close(&a);
    node_close(&b);
}

/* A key gives the rights of its region, and no others; those of a region in the same memory do not help. */
static void rights_are_kept(void)
{
    static const uint32_t rights[] = {GRIDNET_ACCESS_LOCAL, GRIDNET_ACCESS_REMOTE_READ, GRIDNET_ACCESS_REMOTE_WRITE,
                                      GRIDNET_ACCESS_REMOTE_ATOMIC};
    struct node a = node_open(NULL), b = node_open(NULL);
    gridnet_endpoint *to_b = node_link(&a, &b);
    static uint64_t own[8];
    gridnet_region *whole = register_memory(&b, own, sizeof own, ALL);
    for (size_t i = 0; i < sizeof rights / sizeof *rights; i++) {
        void *memory;
        gridnet_region *region[2] = {allocate(&b, 64, rights[i], &memory), register_memory(&b, own, 32, rights[i])};
        for (int kind = 0; kind < 2; kind++) {
            gridnet_rkey *rkey = import(to_b, region[kind]);
            uint64_t word = 1;
            gridnet_atomic_params one = add(0, 1, NULL);
            gridnet_status get = end_both(&a, &b, gridnet_get(to_b, &word, 8, rkey, 0, NULL));
            gridnet_status put = end_both(&a, &b, gridnet_put(to_b, &word, 8, rkey, 0, NULL));
            gridnet_status atomic = end_both(&a, &b, gridnet_atomic(to_b, rkey, &one));
            CHECK_STATUS(rights[i] == GRIDNET_ACCESS_REMOTE_READ ? GRIDNET_OK : GRIDNET_ERR_ACCESS, get);
            CHECK_STATUS(rights[i] == GRIDNET_ACCESS_REMOTE_WRITE ? GRIDNET_OK : GRIDNET_ERR_ACCESS, put);
            CHECK_STATUS(rights[i] == GRIDNET_ACCESS_REMOTE_ATOMIC ? GRIDNET_OK : GRIDNET_ERR_ACCESS, atomic);
            CHECK_OK(gridnet_rkey_close(rkey));
            CHECK_OK(gridnet_region_close(region[kind]));
        }
    }
    gridnet_rkey *rkey = import(to_b, whole);
    uint64_t word = 5;
    CHECK_OK(end_both(&a, &b, gridnet_put(to_b, &word, 8, rkey, 56, NULL)));
    CHECK(own[7] == 5);
    node_close(&a);
    node_close(&b);
}

/* Memory that goes and comes again is registered anew; a forked child has no regions. */
static void survives_unmapping_and_fork(void)
{
    struct node a = node_open(NULL), b = node_open(NULL);
    gridnet_endpoint *to_b = node_link(&a, &b);
    unsigned char byte = 1;
    for (int round = 0; round < 20; round++) {
        unsigned char *memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(memory != MAP_FAILED);
        gridnet_region *region = register_memory(&b, memory, LEN, ALL);
        gridnet_rkey *rkey = import(to_b, region);
        CHECK_OK(end_both(&a, &b, gridnet_put(to_b, &byte, 1, rkey, LEN - 1, NULL)));
        CHECK(memory[LEN - 1] == 1);
        bool early = round % 2 == 0;
        if (early)
            CHECK_OK(gridnet_region_close(region));
        CHECK(munmap(memory, LEN) == 0);
        gridnet_status status = end_both(&a, &b, gridnet_put(to_b, &byte, 1, rkey, 0, NULL));
        CHECK(status == (early ? GRIDNET_ERR_KEY : GRIDNET_ERR_FAULT));
        gridnet_region *none = NULL;
        gridnet_region_params params = region_params(memory, LEN, ALL);
        CHECK_STATUS(GRIDNET_ERR_FAULT, gridnet_region_register(b.fabric, &params, &none));
        if (!early)
            CHECK_OK(gridnet_region_close(region));
        CHECK_OK(gridnet_rkey_close(rkey));
    }
    void *memory;
    gridnet_region *region = allocate(&b, 64, ALL, &memory);
    gridnet_rkey *rkey = import(to_b, region);
    CHECK_OK(end_both(&a, &b, gridnet_put(to_b, &byte, 1, rkey, 0, NULL)));
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        gridnet_key key;
        gridnet_region *none;
        gridnet_region_params params = region_params(&byte, 1, ALL);
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_put(to_b, &byte, 1, rkey, 0, NULL));
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_region_key(region, &key));
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_region_close(region));
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_region_register(b.fabric, &params, &none));
        CHECK_STATUS(GRIDNET_ERR_FORKED, gridnet_flush(to_b, NULL));
        _exit(0);
    }
    test_join(child);
    byte = 2;
    CHECK_OK(end_both(&a, &b, gridnet_put(to_b, &byte, 1, rkey, 0, NULL)));
    CHECK(*(unsigned char *)memory == 2);
    node_close(&a);
    node_close(&b);
}

/* Puts, gets and counts without end. */
static void initiator(void *name)
{
    struct node node = node_open(NULL);
    gridnet_endpoint *peer = node_connect(&node, name);
    static unsigned char bytes[LEN];
    gridnet_rkey *rkey[2];
    node_send(&node, peer, NULL, 0, GO);
    for (int i = 0; i < 2; i++) {
        gridnet_key key;
        node_recv(&node, peer, &key, sizeof key, KEYS);
        CHECK_OK(gridnet_rkey_import(peer, &key, &rkey[i]));
    }
    node_send(&node, peer, NULL, 0, GO);
    gridnet_status status = GRIDNET_OK;
    for (unsigned i = 0; status >= 0; i++) {
        gridnet_atomic_params one = add(LEN - 8, 1, NULL);
        fill(bytes, LEN - 8, i);
        status = end(&node, gridnet_put(peer, bytes, LEN - 8, rkey[i % 2], 0, NULL));
        if (status >= 0)
            status = end(&node, gridnet_get(peer, bytes, LEN, rkey[i % 2], 0, NULL));
        if (status >= 0)
            status = end(&node, gridnet_atomic(peer, rkey[i % 2], &one));
    }
    /* The owner has closed the regions, or has been killed. */
    CHECK(status == GRIDNET_ERR_KEY || status == GRIDNET_ERR_PEER_GONE);
}

/* The initiator is killed at any moment, or the regions are closed under it: the owner can close them and use its memory
 * again, which nobody writes any more. */
static void initiators_are_killed(int lives)
{
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("killed"));
    struct node node = node_open(name);
    static unsigned char own[LEN];
    int descriptors = 0;
    for (int life = 0; life < lives; life++) {
        void *memory;
        gridnet_region *region[2];
        region[0] = allocate(&node, LEN, ALL, &memory);
        region[1] = register_memory(&node, own, LEN, ALL);
        pid_t pid = test_spawn(initiator, name);
        gridnet_endpoint *peer;
        gridnet_completion hello = node_recv(&node, NULL, NULL, 0, GO);
        CHECK_OK(gridnet_endpoint_open_source(node.cq, hello.source, &peer));
        for (int i = 0; i < 2; i++) {
            gridnet_key key;
            CHECK_OK(gridnet_region_key(region[i], &key));
            node_send(&node, peer, &key, sizeof key, KEYS);
        }
        node_recv(&node, peer, NULL, 0, GO);
        for (int i = 0; i < life * 37 % 4000; i++)
            CHECK(gridnet_fabric_progress(node.fabric) >= 0);
        bool killed = life % 3 != 0;
        if (killed)
            CHECK(kill(pid, SIGKILL) == 0);
        CHECK_OK(gridnet_region_close(region[1]));
        memset(own, 0x5a, LEN);
        CHECK_OK(gridnet_region_close(region[0]));
        int status;
        if (killed) {
            CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
        } else {
            while (waitpid(pid, &status, WNOHANG) == 0)
                CHECK(gridnet_fabric_progress(node.fabric) >= 0);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
        for (size_t i = 0; i < LEN; i++)
            CHECK(own[i] == 0x5a);
        /* Until the end of the peer is noticed. */
        while (gridnet_tag_send(peer, NULL, 0, GO, NULL) >= 0)
            CHECK(gridnet_fabric_progress(node.fabric) >= 0);
        gridnet_completion entry;
        while (gridnet_cq_poll(node.cq, &entry, 1) > 0)
            continue;
        CHECK_OK(gridnet_endpoint_close(peer));
        if (life == 0)
            descriptors = open_descriptors();
        CHECK(open_descriptors() == descriptors);
    }
    node_close(&node);
}

/* An owner that serves until it is killed. */
static void mortal(void *name)
{
    struct node node = node_open(name);
    static unsigned char own[LEN];
    void *memory;
    gridnet_region *region[2];
    region[0] = allocate(&node, LEN, ALL, &memory);
    region[1] = register_memory(&node, own, LEN, ALL);
    gridnet_completion hello = node_recv(&node, NULL, NULL, 0, GO);
    gridnet_endpoint *peer;
    CHECK_OK(gridnet_endpoint_open_source(node.cq, hello.source, &peer));
    for (int i = 0; i < 2; i++) {
        gridnet_key key;
        CHECK_OK(gridnet_region_key(region[i], &key));
        node_send(&node, peer, &key, sizeof key, KEYS);
    }
    for (;;)
        CHECK(gridnet_fabric_progress(node.fabric) >= 0);
}

/* The owner is killed at any moment: what was started ends, and what comes later is refused. */
static void owners_are_killed(int lives)
{
    char name[64];
    snprintf(name, sizeof name, "%s", test_name("mortal"));
    struct node node = node_open(NULL);
    static unsigned char bytes[LEN];
    for (int life = 0; life < lives; life++) {
        pid_t pid = test_spawn(mortal, name);
        gridnet_endpoint *peer = node_connect(&node, name);
        gridnet_rkey *rkey[2];
        node_send(&node, peer, NULL, 0, GO);
        for (int i = 0; i < 2; i++) {
            gridnet_key key;
            node_recv(&node, peer, &key, sizeof key, KEYS);
            CHECK_OK(gridnet_rkey_import(peer, &key, &rkey[i]));
        }
        gridnet_status status = GRIDNET_OK;
        gridnet_atomic_params one = add(LEN - 8, 1, NULL);
        bool killed = false;
        for (int i = 0; status >= 0; i++) {
            if (!killed && i >= life * 7 % 50) {
                CHECK(kill(pid, SIGKILL) == 0);
                killed = true;
            }
            status = end(&node, gridnet_put(peer, bytes, LEN, rkey[i % 2], 0, NULL));
            if (status >= 0)
                status = end(&node, gridnet_get(peer, bytes, LEN, rkey[(i + 1) % 2], 0, NULL));
            if (status >= 0)
                status = end(&node, gridnet_atomic(peer, rkey[i % 2], &one));
            CHECK(gridnet_fabric_progress(node.fabric) >= 0);
        }
        CHECK_STATUS(GRIDNET_ERR_PEER_GONE, status);
        int ended;
        CHECK(waitpid(pid, &ended, 0) == pid && WIFSIGNALED(ended));
        for (int i = 0; i < 2; i++) {
            while ((status = end(&node, gridnet_put(peer, bytes, 8, rkey[i], 0, NULL))) >= 0)
                CHECK(gridnet_fabric_progress(node.fabric) >= 0);
            CHECK_STATUS(GRIDNET_ERR_PEER_GONE, status);
            CHECK_OK(gridnet_rkey_close(rkey[i]));
        }
        CHECK_STATUS(GRIDNET_ERR_PEER_GONE, gridnet_flush(peer, NULL));
        CHECK_OK(gridnet_endpoint_close(peer));
    }
    node_close(&node);
}

/* Registered memory is out of reach: its owner answers messages, and looks itself whether it is there. */
static void without_process_vm(void *unused)
{
    (void)unused;
    forbid(SYS_process_vm_readv);
    forbid(SYS_process_vm_writev);
    use_regions(NULL);
    survives_unmapping_and_fork();
}

/* Initiators fence for themselves. */
static void without_membarrier(void *unused)
{
    (void)unused;
    forbid(SYS_membarrier);
    use_regions(NULL);
    initiators_are_killed(10);
}

int main(void)
{
    bool soak = test_wants("TEST_SOAK");
    test_limit(soak ? 1800 : 100);
    static const char *thread[] = {"GRIDNET_PROGRESS=thread", NULL};
    static const char *small[] = {"GRIDNET_SHM_RING_SLOTS=64", "GRIDNET_SHM_LINK_WINDOW=256k", NULL};
    use_regions(NULL);
    use_regions(thread);
    use_regions(small);
    refuses_bad_input();
    every_atomic_operation();
    rights_are_kept();
    survives_unmapping_and_fork();
    initiators_are_killed(soak ? 1000 : 40);
    owners_are_killed(soak ? 1000 : 40);
    test_join(test_spawn(without_process_vm, NULL));
    test_join(test_spawn(without_membarrier, NULL));
    return EXIT_SUCCESS;
}
