#include "collection.h"

#include "greeting.h"
#include "log.h"

namespace gridnet_giop {

Collection &Collection::the()
{
    static Collection *one = new Collection;
    return *one;
}

void Collection::Monitor(omni::giopConnection::notifyReadable_t call, void *cookie)
{
    {
        std::lock_guard<std::mutex> guard(lock_);
        call_ = call;
        cookie_ = cookie;
    }
    while (!isEmpty() && Select())
        ;
}

CORBA::Boolean Collection::notifyReadable(omni::SocketHolder *holder)
{
    auto *connection = static_cast<Connection *>(holder);
    if (connection->noticed())
        call_(cookie_, connection);
    return 1;
}

CORBA::Boolean Collection::isEmpty() const
{
    std::lock_guard<std::mutex> guard(lock_);
    return watched_ == 0 || stopped_;
}

void Collection::deactivate()
{
    {
        std::lock_guard<std::mutex> guard(lock_);
        stopped_ = true;
    }
    wakeUp();
}

void Collection::enter()
{
    std::lock_guard<std::mutex> guard(lock_);
    watched_++;
    stopped_ = false;
}

void Collection::leave()
{
    std::lock_guard<std::mutex> guard(lock_);
    watched_--;
}

ActiveConnection::ActiveConnection(std::unique_ptr<Stream> stream, const Place &mine, const Place &peers)
    : Connection(std::move(stream), Collection::the(), mine, peers)
{
}

ActiveConnection::~ActiveConnection()
{
    if (watched_)
        Collection::the().leave();
}

int ActiveConnection::Recv(void *data, size_t size, const omni_time_t &deadline)
{
    int count = Connection::Recv(data, size, deadline);
    if (heard_ || count <= 0)
        return count;
    heard_ = true;
    std::optional<int> version = version_in_refusal(static_cast<const char *>(data), static_cast<std::size_t>(count));
    if (!version)
        return count;
    log_line(1, std::string(peeraddress()) + " speaks version " + std::to_string(*version) + " of this transport; this is version " +
                    std::to_string(GREETING_VERSION));
    return -1;
}

omni::giopActiveCollection *ActiveConnection::registerMonitor()
{
    if (!watched_) {
        watched_ = true;
        Collection::the().enter();
    }
    return &Collection::the();
}

} // namespace gridnet_giop
