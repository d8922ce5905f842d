#include "connection.h"

#include <omnithread.h>

namespace gridnet_giop {

namespace {

/* As long as omniORB itself looks at a connection before a thread of its pool goes. */
std::int64_t peek_ns()
{
    const omni_time_t &interval = omni::SocketCollection::scan_interval;
    return static_cast<std::int64_t>(interval.s) * 1000000000 + static_cast<std::int64_t>(interval.ns);
}

} // namespace

Connection::Connection(std::unique_ptr<Stream> stream, omni::SocketCollection &collection, const Place &mine, const Place &peers)
    : SocketHolder(-1), stream_(std::move(stream)), readiness_(std::make_shared<Readiness>(*stream_, *this)), mine_(uri_of(mine)),
      peers_(uri_of(peers))
{
    pd_socket = readiness_->bell().fd();
    collection.addSocket(this);
    stream_->fabric().watch().add(readiness_);
}

Connection::~Connection()
{
    clearSelectable();
    pd_belong_to->removeSocket(this);
    readiness_->forget();
}

int Connection::Send(void *data, size_t size, const omni_time_t &deadline)
{
    return stream_->write(data, size, deadline);
}

int Connection::Recv(void *data, size_t size, const omni_time_t &deadline)
{
    return stream_->read(data, size, deadline);
}

void Connection::Shutdown()
{
    pd_shutdown = 1;
    stream_->abort();
    stream_->fabric().watch().poke();
}

void Connection::setSelectable(int now, CORBA::Boolean data_in_buffer)
{
    /* 2 is for those that are selectable already. */
    if (now == 2)
        readiness_->hasten();
    else
        readiness_->begin(now != 0, data_in_buffer);
}

void Connection::clearSelectable()
{
    readiness_->end();
}

CORBA::Boolean Connection::Peek()
{
    bool readable = readiness_->peek(peek_ns());
    stream_->fabric().watch().busy();
    return readable;
}

} // namespace gridnet_giop
