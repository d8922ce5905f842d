#include "address.h"

#include "call.h"
#include "collection.h"
#include "greeting.h"
#include "log.h"
#include "options.h"

namespace gridnet_giop {

namespace {

constexpr unsigned long MS_PER_S = 1000, NS_PER_MS = 1000000;
/* A call with less time left has none. */
constexpr std::int64_t ALMOST_OVER_NS = 10000000;

/* When a connection has to stand for calls that may take as long as they like. */
omni_time_t end_of_patience()
{
    unsigned long s, ns, ms = options().connect_timeout_ms;
    omni_thread::get_time(&s, &ns, ms / MS_PER_S, ms % MS_PER_S * NS_PER_MS);
    return omni_time_t(s, ns);
}

/* Whether somebody has to set something else before calls can go this way: then it is said at omniORB's own level, too. */
bool is_for_good(gridnet_status status)
{
    return status == GRIDNET_ERR_CONFIG || status == GRIDNET_ERR_INVALID || status == GRIDNET_ERR_VERSION || status == GRIDNET_ERR_PERMISSION;
}

/* A connection to the server whose fabric is `known`, greeted; null: `fault` says why. */
omni::giopActiveConnection *connect(const Place &place, const Place &shown, const std::optional<Origin> &known,
                                    const omni_time_t &end, Fault &fault)
{
    std::shared_ptr<Fabric> fabric = Fabric::any(left_ns(end), fault);
    if (fabric == nullptr)
        return nullptr;
    gridnet_stream *stream = Call(fabric, place, end).connect(known, fault);
    if (stream == nullptr)
        return nullptr;
    auto holder = std::make_unique<Stream>(fabric, stream);
    std::string greeting = greeting_of(own_host());
    if (holder->write(greeting.data(), greeting.size(), end) != static_cast<int>(greeting.size())) {
        fault = Fault{GRIDNET_ERR_CLOSED, "the server does not take the greeting"};
        return nullptr;
    }
    count_connection(false);
    return new ActiveConnection(std::move(holder), Place{own_host(), 0}, shown);
}

} // namespace

omni::giopActiveConnection *Address::Connect(const omni_time_t &deadline, CORBA::ULong, CORBA::Boolean &timed_out) const
{
    Fault fault;
    bool is_limited = deadline;
    omni::giopActiveConnection *connection = connect(place_, shown_, known_, is_limited ? deadline : end_of_patience(), fault);
    if (connection != nullptr)
        return connection;
    /* Only the call's own time: of what has taken too long for another reason omniORB tries the next address. */
    timed_out = is_limited && left_ns(deadline) < ALMOST_OVER_NS;
    log_line(is_for_good(fault.status) ? 1 : 5, "no connection to " + uri_ + ": " + fault.text);
    return nullptr;
}

} // namespace gridnet_giop
