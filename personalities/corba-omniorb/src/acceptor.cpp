#include "acceptor.h"

#include "log.h"

namespace gridnet_giop {

Acceptor::Acceptor(const std::shared_ptr<Fabric> &fabric, std::shared_ptr<Arrivals> arrivals)
    : fabric_(fabric), arrivals_(std::move(arrivals))
{
}

std::shared_ptr<Acceptor> Acceptor::open(std::shared_ptr<Fabric> fabric, const std::string &service,
                                         std::shared_ptr<Arrivals> arrivals, Fault &fault)
{
    std::shared_ptr<Acceptor> acceptor(new Acceptor(fabric, std::move(arrivals)));
    gridnet_status status = gridnet_listener_open(fabric->handle(), service.c_str(), 0, &acceptor->listener_);
    if (status < 0) {
        fault = fault_of(status);
        return nullptr;
    }
    fabric->watch().add(acceptor);
    return acceptor;
}

Acceptor::~Acceptor()
{
    close();
}

void Acceptor::close()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (listener_ != nullptr)
        gridnet_listener_close(listener_);
    listener_ = nullptr;
}

bool Acceptor::look()
{
    std::lock_guard<std::mutex> guard(lock_);
    std::shared_ptr<Fabric> fabric = fabric_.lock();
    if (listener_ == nullptr || fabric == nullptr)
        return false;
    gridnet_stream *stream;
    gridnet_status status;
    while ((status = gridnet_listener_accept(listener_, 0, &stream)) >= 0) {
        auto greeting = std::make_shared<Greeting>(std::make_unique<Stream>(fabric, stream), arrivals_);
        if (greeting->look())
            fabric->watch().add(greeting);
    }
    if (status == GRIDNET_ERR_AGAIN)
        return true;
    log_line(1, "no more callers are taken: " + fault_of(status).text);
    return false;
}

bool Acceptor::arm()
{
    std::lock_guard<std::mutex> guard(lock_);
    /* Where it fails, looking again would not help. */
    return listener_ != nullptr && gridnet_listener_arm(listener_) != GRIDNET_BUSY;
}

int Acceptor::fd()
{
    std::lock_guard<std::mutex> guard(lock_);
    int fd = -1;
    if (listener_ != nullptr)
        gridnet_listener_fd(listener_, &fd);
    return fd;
}

} // namespace gridnet_giop
