#include "stream.h"

#include "log.h"

#include <atomic>
#include <climits>
#include <omnithread.h>

namespace gridnet_giop {

namespace {

constexpr std::int64_t NS_PER_S = 1000000000;
/* So long ones go in one call, in which the peer may read them from the caller's memory. */
constexpr std::size_t LONG = 64 << 10;

struct Counters {
    std::atomic<std::uint64_t> connections{0}, accepted{0}, bytes_sent{0}, bytes_received{0};
};

Counters &counters()
{
    static Counters *all = new Counters;
    return *all;
}

/* What omniORB is told of a call that has moved no bytes. Whoever ends a connection himself need not be told why. */
int outcome(gridnet_status status, const char *what)
{
    if (status == GRIDNET_ERR_TIMEOUT || status == GRIDNET_ERR_AGAIN)
        return 0;
    if (status != GRIDNET_ERR_CANCELED && status != GRIDNET_ERR_CLOSED)
        log_line(status == GRIDNET_ERR_PEER_GONE ? 10 : 1, std::string(what) + ": " + fault_of(status).text);
    return -1;
}

} // namespace

std::int64_t left_ns(const omni_time_t &deadline)
{
    if (!deadline)
        return -1;
    unsigned long s, ns;
    omni_thread::get_time(&s, &ns);
    std::int64_t whole = static_cast<std::int64_t>(deadline.s) - static_cast<std::int64_t>(s);
    /* Far deadlines are cut off, so that the product fits. */
    if (whole > INT32_MAX)
        whole = INT32_MAX;
    std::int64_t left = whole * NS_PER_S + static_cast<std::int64_t>(deadline.ns) - static_cast<std::int64_t>(ns);
    return left > 0 ? left : 0;
}

Stream::Stream(std::shared_ptr<Fabric> fabric, gridnet_stream *stream) : fabric_(std::move(fabric)), stream_(stream) {}

Stream::~Stream()
{
    gridnet_stream_close(stream_);
}

int Stream::write(const void *data, std::size_t size, const omni_time_t &deadline)
{
    std::int64_t timeout = left_ns(deadline);
    std::size_t count = 0;
    if (size > INT_MAX)
        size = INT_MAX;
    if (size >= LONG && timeout != 0)
        return write_all(data, size, timeout);
    gridnet_status status = timeout == 0 ? GRIDNET_ERR_TIMEOUT : gridnet_stream_write(stream_, data, size, timeout, &count);
    fabric_->watch().busy();
    if (status < 0)
        return outcome(status, "send");
    counters().bytes_sent.fetch_add(count, std::memory_order_relaxed);
    return static_cast<int>(count);
}

/* As omniORB gives up a connection over which not all of a message went in time, it may as well be over then. */
int Stream::write_all(const void *data, std::size_t size, std::int64_t timeout_ns)
{
    gridnet_status status = gridnet_stream_write_all(stream_, data, size, timeout_ns);
    fabric_->watch().busy();
    if (status < 0)
        return outcome(status, "send");
    counters().bytes_sent.fetch_add(size, std::memory_order_relaxed);
    return static_cast<int>(size);
}

int Stream::read(void *data, std::size_t size, const omni_time_t &deadline)
{
    std::int64_t timeout = left_ns(deadline);
    std::size_t count = 0;
    if (size > INT_MAX)
        size = INT_MAX;
    gridnet_status status = timeout == 0 ? GRIDNET_ERR_TIMEOUT : gridnet_stream_read(stream_, data, size, timeout, &count);
    fabric_->watch().busy();
    if (status < 0)
        return outcome(status, "receive");
    counters().bytes_received.fetch_add(count, std::memory_order_relaxed);
    return count == 0 ? -1 : static_cast<int>(count);
}

int Stream::try_read(void *data, std::size_t size)
{
    std::size_t count = 0;
    gridnet_status status = gridnet_stream_read(stream_, data, size, 0, &count);
    if (status < 0)
        return outcome(status, "receive");
    return count == 0 ? -1 : static_cast<int>(count);
}

void Stream::try_write(const void *data, std::size_t size)
{
    std::size_t count;
    gridnet_stream_write(stream_, data, size, 0, &count);
}

bool Stream::wait_readable(std::int64_t timeout_ns)
{
    std::uint32_t events;
    gridnet_status status = gridnet_stream_wait(stream_, GRIDNET_STREAM_READABLE, timeout_ns, &events);
    /* An error is something to be read, too. */
    return status != GRIDNET_ERR_AGAIN && status != GRIDNET_ERR_TIMEOUT;
}

void Stream::abort()
{
    gridnet_stream_abort(stream_);
}

bool Stream::arm()
{
    return gridnet_stream_arm(stream_, GRIDNET_STREAM_READABLE) != GRIDNET_BUSY;
}

int Stream::fd()
{
    int fd = -1;
    gridnet_stream_fd(stream_, &fd);
    return fd;
}

Totals totals()
{
    Counters &all = counters();
    return Totals{all.connections, all.accepted, all.bytes_sent, all.bytes_received};
}

void count_connection(bool accepted)
{
    (accepted ? counters().accepted : counters().connections).fetch_add(1, std::memory_order_relaxed);
}

} // namespace gridnet_giop
