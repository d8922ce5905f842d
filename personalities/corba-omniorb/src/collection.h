/* Connections that this process has made. omniORB watches those that can carry calls in both directions. */

#pragma once

#include "connection.h"

namespace gridnet_giop {

class Collection : public omni::giopActiveCollection, public omni::SocketCollection {
public:
    /* The only one of this process; never destroyed, as connections may outlive all else. */
    static Collection &the();

    const char *type() const override { return TYPE; }
    void Monitor(omni::giopConnection::notifyReadable_t call, void *cookie) override;
    CORBA::Boolean isEmpty() const override;
    void deactivate() override;

    /* One more, or one less, is to be watched. */
    void enter();
    void leave();

protected:
    CORBA::Boolean notifyReadable(omni::SocketHolder *holder) override;

private:
    Collection() = default;

    mutable std::mutex lock_;
    std::size_t watched_ = 0;
    bool stopped_ = false;
    omni::giopConnection::notifyReadable_t call_ = nullptr;
    void *cookie_ = nullptr;
};

class ActiveConnection : public omni::giopActiveConnection, public Connection {
public:
    ActiveConnection(std::unique_ptr<Stream> stream, const Place &mine, const Place &peers);
    ~ActiveConnection() override;

    omni::giopActiveCollection *registerMonitor() override;
    omni::giopConnection &getConnection() override { return *this; }

    /* As that of all connections; a server of another version says so instead of its first answer. */
    int Recv(void *data, size_t size, const omni_time_t &deadline) override;

private:
    /* Used by the thread that reads. */
    bool heard_ = false;
    bool watched_ = false;
};

} // namespace gridnet_giop
