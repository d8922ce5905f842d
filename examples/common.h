/* What the C examples share: stop with a sentence when something fails, a clock, and waiting. */
#ifndef EXAMPLE_COMMON_H
#define EXAMPLE_COMMON_H

#include <gridnet.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* No example waits for ever: whoever is not there after this time will not come. */
static const int64_t PATIENCE_NS = 20 * INT64_C(1000000000);

/* Ends the program when a call failed; otherwise hands the status on. */
static inline gridnet_status check(gridnet_status status, const char *call)
{
    if (status < 0) {
        fprintf(stderr, "%s: %s: %s\n", call, gridnet_status_name(status), gridnet_last_error());
        exit(EXIT_FAILURE);
    }
    return status;
}

static inline void fail(const char *why)
{
    fprintf(stderr, "error: %s\n", why);
    exit(EXIT_FAILURE);
}

/* Waits for the next entry of the queue; an operation that failed ends the program. */
static inline gridnet_completion next_completion(gridnet_cq *cq)
{
    gridnet_completion entry;
    check(gridnet_cq_wait(cq, &entry, 1, PATIENCE_NS), "gridnet_cq_wait");
    if (entry.status < 0) {
        fprintf(stderr, "%s failed: %s: %s\n", entry.op_kind == GRIDNET_OP_SEND ? "send" : "receive",
                gridnet_status_name(entry.status), gridnet_status_text(entry.status));
        exit(EXIT_FAILURE);
    }
    return entry;
}

/* Opens a fabric; others on this host find it by `name`, when that is not NULL. */
static inline gridnet_fabric *open_fabric(const char *name)
{
    gridnet_fabric_params params = {0};
    params.size = sizeof params;
    params.name = name;
    params.thread_level = GRIDNET_THREAD_SINGLE;
    gridnet_fabric *fabric;
    check(gridnet_fabric_open(&params, &fabric), "gridnet_fabric_open");
    return fabric;
}

/* Finds the process of that name, which may start later than this one. */
static inline gridnet_endpoint *connect_by_name(gridnet_fabric *fabric, gridnet_cq *cq, const char *name)
{
    gridnet_address address;
    gridnet_endpoint *endpoint;
    check(gridnet_fabric_lookup(fabric, name, PATIENCE_NS, &address), "gridnet_fabric_lookup");
    check(gridnet_endpoint_open(cq, &address, &endpoint), "gridnet_endpoint_open");
    return endpoint;
}

static inline int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A positive decimal number up to `most`, or 0. */
static inline uint64_t parse_number(const char *text, uint64_t most)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    return *text != '-' && *end == '\0' && value <= most ? value : 0;
}

#endif
