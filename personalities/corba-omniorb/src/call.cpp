#include "call.h"

#include "log.h"
#include "strangers.h"
#include "stream.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

namespace gridnet_giop {

namespace {

/* So long the directory of a session may be behind, as the server has just joined; but no more than half of the time there is: it may
   not be in the session at all, and other profiles have their turn. */
constexpr std::chrono::seconds UNKNOWN_LIMIT(2);
/* Then it is looked up again. */
constexpr std::chrono::milliseconds UNKNOWN_PAUSE(20);
/* What may come later than asked for, on a busy machine, before something is wrong. */
constexpr std::int64_t GRACE_NS = 10000000000;

/* Whether an error says that nobody is at an address any more. */
bool is_gone(gridnet_status status)
{
    return status == GRIDNET_ERR_UNREACHABLE || status == GRIDNET_ERR_PEER_GONE || status == GRIDNET_ERR_NOT_FOUND;
}

/* What gridnet says in some lines, in one. */
std::string explanation(const std::function<gridnet_status(char *, std::size_t)> &ask)
{
    std::vector<char> text(1 << 14);
    gridnet_status status = ask(text.data(), text.size());
    std::string story = status < 0 && status != GRIDNET_ERR_TRUNCATED ? "" : text.data();
    while (!story.empty() && story.back() == '\n')
        story.pop_back();
    for (std::size_t end; (end = story.find('\n')) != std::string::npos;)
        story.replace(end, 1, "; ");
    return story;
}

/* All that was tried on the way to a node. */
std::string story_of(gridnet_fabric *fabric, const gridnet_node &node)
{
    return explanation([&](char *text, std::size_t size) { return gridnet_node_explain(fabric, &node, text, size, nullptr); });
}

/* By which rail the peer of an endpoint is reached, and why. */
std::string way_of(gridnet_endpoint *endpoint)
{
    return explanation([&](char *text, std::size_t size) { return gridnet_endpoint_explain(endpoint, text, size, nullptr); });
}

} // namespace

gridnet_stream *Call::connect(const std::optional<Origin> &known, Fault &fault)
{
    if (!known) {
        if (is_own_host(place_.host))
            return by_name(fault);
        fault = Fault{GRIDNET_ERR_NOT_FOUND, "a server of another host is reached by a reference that it has made, not by its name"};
        return nullptr;
    }
    gridnet_location where;
    gridnet_status status = gridnet_fabric_locate(fabric_->handle(), &known->address, &where);
    if (status < 0) {
        fault = fault_of(status);
        return nullptr;
    }
    if (where.flags & GRIDNET_LOCATION_HERE) {
        gridnet_stream *stream = by_address(known->address, fault);
        bool gone = is_gone(fault.status);
        if (stream == nullptr && fault.status == GRIDNET_ERR_PERMISSION) {
            /* Where a session has rules, an address leads to processes of this user only: others are reached as nodes. */
            Fault other;
            stream = by_node(where.node, other);
            gone = other.status == GRIDNET_ERR_NOT_FOUND;
        }
        /* Started again it has the same name. Who refuses is there: the name could be that of another one, of this user. */
        if (stream != nullptr || !gone)
            return stream;
        std::string before = fault.text;
        stream = by_name(fault);
        fault.text = before + "; by its name: " + fault.text;
        return stream;
    }
    if (known->is_member == false && fabric_->is_member()) {
        fault = Fault{GRIDNET_ERR_NOT_FOUND, "this process is in a session, and the server was in none when it made the reference"};
        return nullptr;
    }
    gridnet_stream *stream = by_node(where.node, fault);
    /* Where there is no session there are no nodes. What its rules have refused is not tried in another way. */
    return stream != nullptr || fault.status != GRIDNET_ERR_CONFIG ? stream : by_address(known->address, fault);
}

gridnet_stream *Call::by_name(Fault &fault)
{
    gridnet_address found;
    gridnet_status status = gridnet_fabric_lookup(fabric_->handle(), fabric_name_of(place_).c_str(), 0, &found);
    if (status >= 0)
        return by_address(found, fault);
    fault = fault_of(status);
    return nullptr;
}

gridnet_stream *Call::by_address(const gridnet_address &address, Fault &fault)
{
    gridnet_endpoint *endpoint;
    gridnet_status status = gridnet_endpoint_open(fabric_->queue(), &address, &endpoint);
    if (status >= 0)
        return service_of(endpoint, fault);
    fault = fault_of(status);
    return nullptr;
}

gridnet_stream *Call::by_node(const gridnet_node &node, Fault &fault)
{
    auto since = std::chrono::steady_clock::now();
    auto limit = std::min<std::chrono::nanoseconds>(UNKNOWN_LIMIT, std::chrono::nanoseconds(left_ns(end_) / 2));
    if (strangers().has(node))
        limit = limit.zero();
    for (;;) {
        gridnet_endpoint *endpoint;
        gridnet_status status = open_node(node, &endpoint, fault);
        if (status >= 0) {
            strangers().remove(node);
            return service_of(endpoint, fault);
        }
        bool may_come = status == GRIDNET_ERR_NOT_FOUND && std::chrono::steady_clock::now() - since < limit;
        if (!may_come || left_ns(end_) == 0) {
            /* Less time says less. */
            if (status == GRIDNET_ERR_NOT_FOUND && limit >= UNKNOWN_LIMIT)
                strangers().add(node);
            return nullptr;
        }
        std::this_thread::sleep_for(UNKNOWN_PAUSE);
    }
}

/* Waits for the end of it in a queue of its own: other threads may be opening others. */
gridnet_status Call::open_node(const gridnet_node &node, gridnet_endpoint **endpoint, Fault &fault)
{
    gridnet_cq *queue;
    gridnet_completion ended;
    std::int64_t left = left_ns(end_);
    gridnet_status status = gridnet_cq_create(fabric_->handle(), 1, &queue);
    if (status < 0) {
        fault = fault_of(status);
        return status;
    }
    status = gridnet_endpoint_open_node(queue, &node, left, nullptr);
    if (status >= 0)
        status = gridnet_cq_wait(queue, &ended, 1, left + GRACE_NS);
    if (status < 0) {
        fault = fault_of(status);
    } else if (ended.status < 0) {
        status = ended.status;
        fault = Fault{status, std::string(gridnet_status_name(status)) + ": " + story_of(fabric_->handle(), node)};
    } else {
        status = gridnet_endpoint_open_source(fabric_->queue(), ended.source, endpoint);
        if (status < 0)
            fault = fault_of(status);
    }
    gridnet_cq_destroy(queue);
    return status;
}

/* The endpoint is closed; the stream stays. */
gridnet_stream *Call::service_of(gridnet_endpoint *endpoint, Fault &fault)
{
    gridnet_stream *stream = nullptr;
    std::int64_t left = left_ns(end_);
    gridnet_status status = GRIDNET_ERR_TIMEOUT;
    if (left == 0)
        fault = Fault{status, "the time is over"};
    else if ((status = gridnet_stream_connect(endpoint, gridnet_giop::service_of(place_).c_str(), left, &stream)) < 0)
        fault = fault_of(status);
    else if (omniORB::trace(10))
        log_line(10, "connected to " + uri_of(place_) + " by " + way_of(endpoint));
    gridnet_endpoint_close(endpoint);
    return status < 0 ? nullptr : stream;
}

} // namespace gridnet_giop
