/* Ways to a server's fabric: a stream to its service, by what is known of where it is. */

#pragma once

#include "fabric.h"
#include "place.h"

#include <gridnet.h>
#include <memory>
#include <omniORB4/CORBA.h>
#include <optional>

namespace gridnet_giop {

class Call {
public:
    /* To the service of `place`, until then at most. */
    Call(const std::shared_ptr<Fabric> &fabric, const Place &place, const omni_time_t &end) : fabric_(fabric), place_(place), end_(end) {}

    /* The stream to a server of whose fabric a reference has told the address, or, without one, to that of this host with the port.
     *
     * A reference of this host leads to the fabric that has made it, and when that is not there any more, to who has its port now. One of
     * another host, whatever that is called, leads there only: by node when both are in a session, wherever the server is, else by its
     * network addresses. Null: `fault` says why. */
    gridnet_stream *connect(const std::optional<Origin> &known, Fault &fault);

private:
    gridnet_stream *by_name(Fault &fault);
    gridnet_stream *by_address(const gridnet_address &address, Fault &fault);
    gridnet_stream *by_node(const gridnet_node &node, Fault &fault);
    gridnet_status open_node(const gridnet_node &node, gridnet_endpoint **endpoint, Fault &fault);
    gridnet_stream *service_of(gridnet_endpoint *endpoint, Fault &fault);

    std::shared_ptr<Fabric> fabric_;
    const Place &place_;
    omni_time_t end_;
};

} // namespace gridnet_giop
