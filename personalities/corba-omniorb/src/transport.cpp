/* What omniORB finds when this library is loaded: the transport giop:gridnet.
 *
 * | file | concept |
 * |---|---|
 * | `transport.cpp` | registration |
 * | `options.h`, `rules.h` | configuration; transport rules |
 * | `place.h` | hosts and ports, and how they are written |
 * | `component.h` | what references say |
 * | `address.h`, `call.h`, `strangers.h` | calling a server |
 * | `endpoint.h`, `acceptor.h`, `greeting.h` | being called |
 * | `connection.h`, `collection.h` | connections, and those of callers together |
 * | `stream.h` | bytes, with deadlines |
 * | `readiness.h`, `doorbell.h` | connections in omniORB's poll() |
 * | `fabric.h`, `watch.h` | the fabrics of the process, and the thread that looks after them */

#include "address.h"
#include "component.h"
#include "endpoint.h"
#include "log.h"
#include "options.h"
#include "rules.h"

#include <initialiser.h>
#include <iostream>
#include <memory>

namespace gridnet_giop {

namespace {

class Transport : public omni::giopTransportImpl {
public:
    Transport() : giopTransportImpl(TYPE) {}

    omni::giopEndpoint *toEndpoint(const char *param) override
    {
        Place place;
        if (parse_endpoint(param, place))
            return new Endpoint(place);
        log_line(1, std::string("not an endpoint: ") + TYPE + ":" + param + "; accepted: [host][:port], port 1 to 65535");
        return nullptr;
    }

    omni::giopAddress *toAddress(const char *param) override
    {
        Place place;
        if (parse_address(param, place))
            return new Address(place, std::nullopt);
        log_line(1, std::string("not an address: ") + TYPE + ":" + (param == nullptr ? "" : param) + "; accepted: host:port");
        return nullptr;
    }

    CORBA::Boolean isValid(const char *param) override
    {
        Place place;
        return parse_address(param, place);
    }

    CORBA::Boolean addToIOR(const char *param, omni::IORPublish *eps) override
    {
        Place place;
        if (eps != nullptr) {
            log_line(1, "EndPointPublishPolicy does not know gridnet: the endpoint is not published by it");
            return 0;
        }
        if (!parse_address(param, place))
            return 0;
        publish_component(place, std::nullopt);
        return 1;
    }

    const omnivector<const char *> *getInterfaceAddress() override
    {
        static omnivector<const char *> none;
        return &none;
    }
};

/* omniORB makes no references without a host for IIOP. A server that is reached by gridnet alone gets this one; an endpoint for TCP takes its
 * place, as the port is 0. */
void have_some_iiop_address()
{
    IIOP::Address address;
    address.host = CORBA::string_dup(own_host().c_str());
    address.port = 0;
    omniIOR::add_IIOP_ADDRESS(address, nullptr);
}

void report()
{
    Totals all = totals();
    std::string text = "gridnet: connections made " + std::to_string(all.connections) + ", accepted " + std::to_string(all.accepted) +
                       ", bytes sent " + std::to_string(all.bytes_sent) + ", received " + std::to_string(all.bytes_received);
    if (options().report)
        std::cerr << text + "\n";
    else
        log_line(10, text.substr(std::string("gridnet: ").size()));
}

/* Called by omniORB: after its own transports are there, and before they go. */
class Initialiser : public omni::omniInitialiser {
public:
    Initialiser()
    {
        register_options();
        install(this);
    }

    void attach() override
    {
        transport_ = std::make_unique<Transport>();
        if (options().extend_rules)
            extend_default_rules();
        have_some_iiop_address();
        install_component_interceptors();
    }

    void detach() override
    {
        remove_component_interceptors();
        forget_components();
        transport_.reset();
        Fabric::release_all();
        report();
    }

private:
    std::unique_ptr<Transport> transport_;
};

Initialiser the_initialiser;

} // namespace

} // namespace gridnet_giop
