#include "doorbell.h"

#include <cstdint>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace gridnet_giop {

Doorbell::Doorbell() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Doorbell::~Doorbell()
{
    if (fd_ >= 0)
        close(fd_);
}

void Doorbell::ring() const
{
    std::uint64_t one = 1;
    /* It fails only when it has been rung 2^64 times and nobody heard: then it is readable. */
    (void)!write(fd_, &one, sizeof one);
}

void Doorbell::hear() const
{
    std::uint64_t count;
    (void)!read(fd_, &count, sizeof count);
}

void Doorbell::wait(int timeout_ms) const
{
    pollfd file = {fd_, POLLIN, 0};
    if (poll(&file, 1, timeout_ms) > 0)
        hear();
}

} // namespace gridnet_giop
