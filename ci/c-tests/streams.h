/* What the C tests of byte streams share. */
#ifndef STREAMS_H
#define STREAMS_H

#include "test.h"

static inline void write_all(gridnet_stream *stream, const void *data, size_t size)
{
    size_t count;
    CHECK_OK(gridnet_stream_write(stream, data, size, WAIT_NS, &count));
    CHECK(count == size);
}

static inline void read_exactly(gridnet_stream *stream, void *data, size_t size)
{
    for (size_t done = 0, count; done < size; done += count) {
        CHECK_OK(gridnet_stream_read(stream, (char *)data + done, size - done, WAIT_NS, &count));
        CHECK(count > 0);
    }
}

static inline void reads_end(gridnet_stream *stream)
{
    char byte;
    size_t count = 7;
    CHECK_OK(gridnet_stream_read(stream, &byte, 1, WAIT_NS, &count));
    CHECK(count == 0);
}

#endif
