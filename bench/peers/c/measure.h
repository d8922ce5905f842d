/* What every C program of this folder measures, and how; the same loops as those of `gridnet perf`.
 *
 * A program includes this file after it has defined its transport, for two processes of which one leads:
 *
 *   static void tr_post(void *buf, size_t len);          post a receive
 *   static void tr_take(void);                           wait until the oldest posted receive is complete
 *   static void tr_send(const void *buf, size_t len);    send; the buffer is free again, or tr_drain waits for it
 *   static void tr_start(const void *buf, size_t len);   the same with up to WINDOW sends under way
 *   static void tr_drain(void);                          wait until all sends are complete
 *
 * It prints one JSON object: times of a message in ns. */

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    HUGE_PAGE = 2 << 20,
    PAGE = 4096,
    BATCH = 16,             /* round trips between two looks at the clock where one takes less than 2 us */
    BATCH_BELOW_NS = 2000,
    FIRST_TRIAL = 20,       /* rounds */
    TRIAL_NS = 5000000,     /* a trial as long as this says how long a round takes */
    MOST_ROUNDS = 1000000,
};

struct order {
    uint64_t warmup, rounds; /* no rounds: the end */
};

static struct {
    size_t size;
    unsigned char *out, *in;
    unsigned char out_seed, in_seed;
    double *samples, total_ns;
    uint64_t count, messages;
} run;

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static unsigned char pattern(size_t at, unsigned char seed) {
    return (unsigned char)(at * 7 ^ at >> 8 ^ seed);
}

/* On a huge page where the system gives one, every page touched. */
static unsigned char *buffer(size_t len, unsigned char seed) {
    if (len < PAGE) len = PAGE;
    unsigned char *map = mmap(NULL, len + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) fail("no memory for a buffer");
    if (len >= HUGE_PAGE / 4) (void)madvise(map, len + HUGE_PAGE, MADV_HUGEPAGE);
    map += (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
    for (size_t at = 0; at < len; at++) map[at] = pattern(at, seed);
    return map;
}

static int is_edge(size_t at) { return at < PAGE || at + PAGE >= run.size; }

static void wipe(void) {
    for (size_t at = 0; at < run.size; at++)
        if (is_edge(at)) run.in[at] = (unsigned char)~pattern(at, run.in_seed);
}

static void verify(void) {
    for (size_t at = 0; at < run.size; at++)
        if (is_edge(at) && run.in[at] != pattern(at, run.in_seed)) fail("a message did not arrive as it was sent");
}

static void sample(double elapsed_ns, uint64_t messages) {
    if (run.count >= MOST_ROUNDS) fail("more samples than there is room for");
    run.samples[run.count++] = elapsed_ns / (double)messages;
    run.total_ns += elapsed_ns;
    run.messages += messages;
}

/* --- half a round trip --- */

static inline void round_trip(void) {
    tr_send(run.out, run.size);
    tr_post(run.in, run.size);
    tr_take();
    tr_drain();
}

static void lead_latency(struct order order) {
    double start = now_ns();
    for (uint64_t i = 0; i < order.warmup; i++) round_trip();
    uint64_t batch = (now_ns() - start) / (double)order.warmup < BATCH_BELOW_NS ? BATCH : 1;
    for (uint64_t left = order.rounds; left > 0;) {
        uint64_t now = batch < left ? batch : left;
        start = now_ns();
        for (uint64_t i = 0; i < now; i++) round_trip();
        sample(now_ns() - start, 2 * now);
        left -= now;
    }
}

static void post_latency(void) {
    tr_post(run.in, run.size);
}

static void follow_latency(struct order order) {
    uint64_t rounds = order.warmup + order.rounds;
    for (uint64_t i = 1; i <= rounds; i++) {
        tr_take();
        tr_send(run.out, run.size);
        if (i < rounds) tr_post(run.in, run.size);
        tr_drain();
    }
}

/* --- a window of messages, then one acknowledgement --- */

static unsigned char note[8];

static inline void send_window(void) {
    tr_post(note, sizeof note);
    for (int i = 0; i < WINDOW; i++) tr_start(run.out, run.size);
    tr_take();
    tr_drain();
}

static void lead_stream(struct order order) {
    for (uint64_t i = 0; i < order.warmup; i++) send_window();
    for (uint64_t i = 0; i < order.rounds; i++) {
        double start = now_ns();
        send_window();
        sample(now_ns() - start, WINDOW);
    }
}

static void post_stream(void) {
    for (int i = 0; i < WINDOW; i++) tr_post(run.in, run.size);
}

static void follow_stream(struct order order) {
    uint64_t windows = order.warmup + order.rounds, to_post = (windows - 1) * WINDOW;
    for (uint64_t w = 0; w < windows; w++) {
        for (int i = 0; i < WINDOW; i++) {
            tr_take();
            if (to_post > 0) {
                tr_post(run.in, run.size);
                to_post--;
            }
        }
        tr_send(note, sizeof note);
    }
    tr_drain();
}

/* --- both sides --- */

struct op {
    const char *name;
    void (*lead)(struct order), (*post)(void), (*follow)(struct order);
};

static const struct op OPS[] = {
    {"tag_lat", lead_latency, post_latency, follow_latency},
    {"tag_bw", lead_stream, post_stream, follow_stream},
    {"tag_rate", lead_stream, post_stream, follow_stream},
};

static const struct op *op_named(const char *name) {
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++)
        if (strcmp(OPS[i].name, name) == 0) return &OPS[i];
    return NULL;
}

/* The follower says when its receives are posted: nothing that is measured arrives before. */
static double lead_run(const struct op *op, struct order order) {
    run.count = run.messages = 0;
    run.total_ns = 0;
    tr_post(note, sizeof note);
    tr_send(&order, sizeof order);
    tr_take();
    tr_drain();
    if (order.rounds > 0) op->lead(order);
    return run.total_ns;
}

static void follow(const struct op *op) {
    for (;;) {
        struct order order;
        tr_post(&order, sizeof order);
        tr_take();
        wipe();
        if (order.rounds > 0) op->post();
        tr_send(note, sizeof note);
        tr_drain();
        if (order.rounds == 0) return;
        op->follow(order);
        verify();
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The smallest sample that `percent` of 100 do not exceed. */
static double percentile(int percent) {
    uint64_t rank = (run.count * (uint64_t)percent + 99) / 100;
    return run.samples[rank > 0 ? rank - 1 : 0];
}

static void sort_samples(void) { qsort(run.samples, run.count, sizeof *run.samples, ascending); }

/* What `rounds` take where nothing interrupts them. */
static double trial(const struct op *op, uint64_t rounds) {
    lead_run(op, (struct order){1, rounds});
    sort_samples();
    return percentile(50) * (double)run.messages;
}

/* As many rounds as take `ms`, found by trials that grow until they say something. */
static void lead(const struct op *op, double ms) {
    uint64_t rounds = FIRST_TRIAL;
    double trial_ns;
    run.samples = malloc(MOST_ROUNDS * sizeof *run.samples);
    if (run.samples == NULL) fail("no memory for the samples");
    memset(run.samples, 0, MOST_ROUNDS * sizeof *run.samples);
    while ((trial_ns = trial(op, rounds)) < TRIAL_NS && rounds < MOST_ROUNDS) rounds *= 10;
    /* A trial that was interrupted is long on average only; one that is always so must not take for ever. */
    if (trial_ns < run.total_ns / 8) trial_ns = run.total_ns / 8;
    double wanted = ms * 1e6 * (double)rounds / trial_ns;
    rounds = wanted < FIRST_TRIAL ? FIRST_TRIAL : wanted > MOST_ROUNDS ? MOST_ROUNDS : (uint64_t)wanted;
    uint64_t warmup = rounds / 10 < 1 ? 1 : rounds / 10 > 10000 ? 10000 : rounds / 10;
    wipe();
    lead_run(op, (struct order){warmup, rounds});
    if (op->lead == lead_latency) verify();
    sort_samples();
    double p50 = percentile(50), p99 = percentile(99), avg = run.total_ns / (double)run.messages;
    uint64_t messages = run.messages;
    lead_run(op, (struct order){0, 0});
    printf("{\"p50_ns\": %.2f, \"p99_ns\": %.2f, \"avg_ns\": %.2f, \"messages\": %" PRIu64 "}\n", p50, p99, avg,
           messages);
}

static void measure(int leads, const struct op *op, size_t size, double ms) {
    run.size = size;
    run.out_seed = leads ? 0x11 : 0x66;
    run.in_seed = leads ? 0x66 : 0x11;
    run.out = buffer(size, run.out_seed);
    run.in = buffer(size, run.in_seed);
    if (leads)
        lead(op, ms);
    else
        follow(op);
}
