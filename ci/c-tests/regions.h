/* What the tests of regions share. */
#ifndef REGIONS_H
#define REGIONS_H

#include "test.h"

static inline gridnet_region_params region_params(void *base, size_t len, uint32_t access)
{
    gridnet_region_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.base = base;
    params.len = len;
    params.access = access;
    params.memory_kind = GRIDNET_MEMORY_HOST;
    params.numa_node = GRIDNET_NUMA_UNKNOWN;
    return params;
}

static const uint32_t ALL = GRIDNET_ACCESS_REMOTE_READ | GRIDNET_ACCESS_REMOTE_WRITE | GRIDNET_ACCESS_REMOTE_ATOMIC;

static inline gridnet_region *allocate(struct node *node, size_t len, uint32_t access, void **pointer)
{
    gridnet_region *region;
    gridnet_region_params params = region_params(NULL, len, access);
    CHECK_OK(gridnet_region_allocate(node->fabric, &params, &region, pointer));
    return region;
}

static inline gridnet_region *register_memory(struct node *node, void *base, size_t len, uint32_t access)
{
    gridnet_region *region;
    gridnet_region_params params = region_params(base, len, access);
    CHECK_OK(gridnet_region_register(node->fabric, &params, &region));
    return region;
}

/* The end of an operation, wherever it is told. */
static inline gridnet_status end(struct node *node, gridnet_status status)
{
    if (status != GRIDNET_IN_PROGRESS)
        return status;
    gridnet_completion entry = node_wait(node);
    CHECK(entry.op_kind >= GRIDNET_OP_PUT && entry.op_kind <= GRIDNET_OP_FLUSH);
    return entry.status;
}

static inline gridnet_atomic_params add(uint64_t offset, uint64_t operand, void *result)
{
    gridnet_atomic_params params;
    memset(&params, 0, sizeof params);
    params.size = sizeof params;
    params.op = GRIDNET_ATOMIC_ADD;
    params.width = 8;
    params.offset = offset;
    params.operand = operand;
    params.result = result;
    return params;
}

#endif
