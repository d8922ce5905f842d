/* A stream of gridnet as omniORB's connections want it: calls with an absolute deadline, and an end from any thread. */

#pragma once

#include "fabric.h"

#include <gridnet.h>
#include <memory>
#include <omniORB4/CORBA.h>

namespace gridnet_giop {

/* How many nanoseconds are left until `deadline`, 0 when it has passed; -1, for ever, when there is none. */
std::int64_t left_ns(const omni_time_t &deadline);

class Stream {
public:
    /* Takes the stream. */
    Stream(std::shared_ptr<Fabric> fabric, gridnet_stream *stream);

    /* Closes it; nobody may be using it. */
    ~Stream();
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    /* Both: how many bytes, at least one; 0: the deadline has passed; -1: the stream is over, or broken. One thread may read while another writes. */
    int write(const void *data, std::size_t size, const omni_time_t &deadline);
    int read(void *data, std::size_t size, const omni_time_t &deadline);

    /* Reads without waiting: how many bytes, 0 when none have come, -1 as above. */
    int try_read(void *data, std::size_t size);

    /* Writes what there is room for at once, if there is any. */
    void try_write(const void *data, std::size_t size);

    /* Waits until there is something to be read, or the end. */
    bool wait_readable(std::int64_t timeout_ns);

    /* Ends it: who reads or writes returns -1. From any thread. */
    void abort();

    /* For `Watched`. */
    bool arm();
    int fd();

    Fabric &fabric() { return *fabric_; }

private:
    int write_all(const void *data, std::size_t size, std::int64_t timeout_ns);

    std::shared_ptr<Fabric> fabric_;
    gridnet_stream *stream_;
};

/* Bytes of all streams and connections made so far: proof of the way that they went. */
struct Totals {
    std::uint64_t connections, accepted, bytes_sent, bytes_received;
};
Totals totals();

/* One more connection that was made, or accepted. */
void count_connection(bool accepted);

} // namespace gridnet_giop
