/* How much of the heap is in use. */

#pragma once

#include <cstddef>
#include <dlfcn.h>
#include <malloc.h>

/* Bytes that were allocated and not freed. The address sanitizer, where it is loaded, has a heap of its own. */
inline std::size_t allocated_bytes()
{
    using Count = std::size_t (*)();
    if (auto of_sanitizer = reinterpret_cast<Count>(dlsym(RTLD_DEFAULT, "__sanitizer_get_current_allocated_bytes")))
        return of_sanitizer();
    struct mallinfo2 all = mallinfo2();
    return all.uordblks + all.hblkhd;
}
