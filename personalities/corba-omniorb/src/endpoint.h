/* Where a server is called: giop:gridnet:<host>:<port>. */

#pragma once

#include "acceptor.h"
#include "connection.h"

#include <omniORB4/omniServer.h>

namespace gridnet_giop {

class Endpoint : public omni::giopEndpoint, public omni::SocketCollection, public omni::SocketHolder {
public:
    explicit Endpoint(const Place &place);
    ~Endpoint() override;

    const char *type() const override { return TYPE; }
    const char *address() const override;
    const omni::orbServer::EndpointList *addresses() const override { return &addresses_; }
    CORBA::Boolean publish(const omni::orbServer::PublishSpecs &specs, CORBA::Boolean all_specs, CORBA::Boolean all_endpoints,
                           omni::orbServer::EndpointList &published) override;
    CORBA::Boolean Bind() override;
    omni::giopConnection *AcceptAndMonitor(omni::giopConnection::notifyReadable_t call, void *cookie) override;
    void Poke() override;
    void Shutdown() override;

protected:
    CORBA::Boolean notifyReadable(omni::SocketHolder *holder) override;

private:
    bool bind_to(std::uint16_t port, Fault &fault);
    bool publish_as(const char *spec, omni::orbServer::EndpointList &published);
    omni::giopConnection *new_connection(Caller caller);

    Place place_;
    std::shared_ptr<Fabric> fabric_;
    std::shared_ptr<Arrivals> arrivals_;
    std::shared_ptr<Acceptor> acceptor_;
    omni::orbServer::EndpointList addresses_;
    omni::giopConnection::notifyReadable_t call_ = nullptr;
    void *cookie_ = nullptr;
    Caller caller_;
    std::atomic<bool> poked_{false};
};

} // namespace gridnet_giop
