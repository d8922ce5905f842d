#include "address.h"

#include "collection.h"
#include "greeting.h"
#include "log.h"
#include "options.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace gridnet_giop {

namespace {

constexpr std::int64_t NS_PER_MS = 1000000;

/* Fabrics where the server may be, the most likely first. A server of this host is found by its name, also when it was started again after
 * the reference was made. */
std::vector<gridnet_address> candidates(Fabric &fabric, const Place &place, const std::optional<gridnet_address> &known, Fault &fault)
{
    std::vector<gridnet_address> all;
    if (is_own_host(place.host)) {
        gridnet_address found;
        gridnet_status status = gridnet_fabric_lookup(fabric.handle(), fabric_name_of(place).c_str(), 0, &found);
        if (status >= 0)
            all.push_back(found);
        else
            fault = fault_of(status);
    } else if (!known) {
        fault = Fault{GRIDNET_ERR_NOT_FOUND, "a server of another host is reached by a reference that it has made, not by its name"};
    }
    auto same = [&](const gridnet_address &one) { return std::memcmp(one.bytes, known->bytes, sizeof one.bytes) == 0; };
    if (known && std::none_of(all.begin(), all.end(), same))
        all.push_back(*known);
    return all;
}

gridnet_stream *call(Fabric &fabric, const gridnet_address &to, const Place &place, std::int64_t timeout_ns, Fault &fault)
{
    gridnet_endpoint *endpoint;
    gridnet_stream *stream = nullptr;
    gridnet_status status = gridnet_endpoint_open(fabric.queue(), &to, &endpoint);
    if (status >= 0) {
        status = gridnet_stream_connect(endpoint, service_of(place).c_str(), timeout_ns, &stream);
        if (status < 0)
            fault = fault_of(status);
        gridnet_endpoint_close(endpoint);
        return status < 0 ? nullptr : stream;
    }
    fault = fault_of(status);
    return nullptr;
}

} // namespace

omni::giopActiveConnection *Address::Connect(const omni_time_t &deadline, CORBA::ULong, CORBA::Boolean &timed_out) const
{
    Fault fault;
    std::shared_ptr<Fabric> fabric = Fabric::any(fault);
    if (fabric != nullptr) {
        for (const gridnet_address &to : candidates(*fabric, place_, known_, fault)) {
            std::int64_t left = left_ns(deadline);
            std::int64_t patience = options().connect_timeout_ms * NS_PER_MS;
            gridnet_stream *stream = left == 0 ? nullptr : call(*fabric, to, place_, left < 0 ? patience : left, fault);
            if (stream != nullptr) {
                auto holder = std::make_unique<Stream>(fabric, stream);
                std::string greeting = greeting_of(own_host());
                if (holder->write(greeting.data(), greeting.size(), deadline) == static_cast<int>(greeting.size())) {
                    count_connection(false);
                    return new ActiveConnection(std::move(holder), Place{own_host(), 0}, shown_);
                }
            }
            if (deadline && left_ns(deadline) == 0) {
                timed_out = 1;
                break;
            }
        }
    }
    log_line(5, "no connection to " + uri_ + ": " + (timed_out ? "the time is over" : fault.text));
    return nullptr;
}

} // namespace gridnet_giop
