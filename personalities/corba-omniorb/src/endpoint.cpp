#include "endpoint.h"

#include "component.h"
#include "log.h"

#include <cstring>
#include <objectAdapter.h>
#include <random>

namespace gridnet_giop {

namespace {

/* Ports that are taken when none was asked for, as the system does for TCP. */
constexpr std::uint16_t FIRST_FREE_PORT = 49152;
/* With so many tries in vain more than half of those ports are taken. */
constexpr int MOST_TRIES = 64;

std::uint16_t any_port()
{
    static std::random_device source;
    return static_cast<std::uint16_t>(std::uniform_int_distribution<int>(FIRST_FREE_PORT, UINT16_MAX)(source));
}

/* Callers are told apart by a number, where other transports have a port. */
std::uint16_t next_number()
{
    static std::atomic<std::uint32_t> last{0};
    return static_cast<std::uint16_t>(last++ % UINT16_MAX + 1);
}

} // namespace

Endpoint::Endpoint(const Place &place) : SocketHolder(-1), place_(place) {}

Endpoint::~Endpoint() = default;

const char *Endpoint::address() const
{
    return addresses_.length() == 0 ? TYPE : static_cast<const char *>(addresses_[0]);
}

CORBA::Boolean Endpoint::Bind()
{
    Fault fault;
    bool bound = false;
    if (place_.port != 0)
        bound = bind_to(place_.port, fault);
    for (int tries = 0; place_.port == 0 && tries < MOST_TRIES; tries++) {
        std::uint16_t port = any_port();
        bound = bind_to(port, fault);
        if (bound)
            place_.port = port;
        else if (fault.status != GRIDNET_ERR_NAME_IN_USE)
            break;
    }
    if (bound && arrivals_->bell().fd() < 0) {
        fault = Fault{GRIDNET_ERR_SYSTEM, "there are no descriptors left"};
        bound = false;
    }
    if (!bound) {
        /* The port is free again. */
        acceptor_.reset();
        if (fabric_ != nullptr)
            Fabric::release(fabric_);
        fabric_.reset();
        log_line(1, "no endpoint " + uri_of(place_) + ": " + fault.text);
        return 0;
    }
    addresses_.length(1);
    addresses_[0] = uri_of(place_).c_str();
    pd_socket = arrivals_->bell().fd();
    addSocket(this);
    return 1;
}

bool Endpoint::bind_to(std::uint16_t port, Fault &fault)
{
    Place place{place_.host, port};
    arrivals_ = std::make_shared<Arrivals>();
    fabric_ = Fabric::named(fabric_name_of(place), fault);
    if (fabric_ != nullptr)
        acceptor_ = Acceptor::open(fabric_, service_of(place), arrivals_, fault);
    return acceptor_ != nullptr;
}

omni::giopConnection *Endpoint::AcceptAndMonitor(omni::giopConnection::notifyReadable_t call, void *cookie)
{
    call_ = call;
    cookie_ = cookie;
    SocketHolder::setSelectable(1, 0);
    while (Select() && !poked_)
        if (caller_.stream != nullptr)
            return new_connection(std::move(caller_));
    return nullptr;
}

omni::giopConnection *Endpoint::new_connection(Caller caller)
{
    /* What the caller says of its host is used for rules and logs only, and only if it is a host. */
    Place peers;
    if (!parse_address((caller.host + ":1").c_str(), peers) && !parse_address(("[" + caller.host + "]:1").c_str(), peers))
        peers.host = "unknown";
    peers.port = next_number();
    count_connection(true);
    return new Connection(std::move(caller.stream), *this, place_, peers);
}

CORBA::Boolean Endpoint::notifyReadable(omni::SocketHolder *holder)
{
    if (holder != this) {
        auto *connection = static_cast<Connection *>(holder);
        if (connection->noticed())
            call_(cookie_, connection);
        return 1;
    }
    if (caller_.stream == nullptr)
        caller_ = arrivals_->take();
    SocketHolder::setSelectable(1, 0);
    return 1;
}

void Endpoint::Poke()
{
    poked_ = true;
    wakeUp();
}

void Endpoint::Shutdown()
{
    if (acceptor_ != nullptr)
        acceptor_->close();
    /* The port is free again once the connections have ended, too. */
    if (fabric_ != nullptr)
        Fabric::release(fabric_);
    fabric_.reset();
    removeSocket(this);
    decrRefCount();
    log_line(20, "endpoint shut down");
}

bool Endpoint::publish_as(const char *spec, omni::orbServer::EndpointList &published)
{
    Place place = place_;
    std::size_t type = std::strlen(TYPE);
    if (std::strncmp(spec, TYPE, type) == 0 && spec[type] == ':') {
        /* Another name of this host, say. What is left out is as it is. */
        if (spec[type + 1] != '\0' && !parse_endpoint(spec + type + 1, place))
            return false;
        if (place.port == 0)
            place.port = place_.port;
    } else if (no_publish() || std::strcmp(spec, "addr") != 0) {
        return false;
    }
    CORBA::String_var uri = uri_of(place).c_str();
    if (omni::omniObjAdapter::endpointInList(uri, published))
        return true;
    publish_component(place, fabric_->origin());
    published.length(published.length() + 1);
    published[published.length() - 1] = uri._retn();
    return true;
}

CORBA::Boolean Endpoint::publish(const omni::orbServer::PublishSpecs &specs, CORBA::Boolean all_specs, CORBA::Boolean,
                                 omni::orbServer::EndpointList &published)
{
    bool any = false;
    for (CORBA::ULong i = 0; i < specs.length() && (all_specs || !any); i++)
        any = publish_as(specs[i], published) || any;
    return any;
}

} // namespace gridnet_giop
