/* The fabrics of this process: one, as a rule. A server's fabric has a name, by which callers of the host find it; a further endpoint takes
 * a further fabric, since a fabric has one name. */

#pragma once

#include "place.h"
#include "watch.h"

#include <condition_variable>
#include <gridnet.h>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace gridnet_giop {

/* What went wrong in a call of gridnet: its status, and in words. */
struct Fault {
    gridnet_status status = GRIDNET_OK;
    std::string text;
};

/* The last error of gridnet in this thread. */
Fault fault_of(gridnet_status status);

class Fabric {
public:
    /* A fabric to call others with; opened if there is none. That may take long, as where a session is joined: after `timeout_ns` (negative: for
     * ever) it goes on without the caller. Null: `fault` says why, GRIDNET_ERR_TIMEOUT among it. */
    static std::shared_ptr<Fabric> any(std::int64_t timeout_ns, Fault &fault);

    /* A fabric of that name, to be called by. Null: `fault` says why, GRIDNET_ERR_NAME_IN_USE among it. */
    static std::shared_ptr<Fabric> named(const std::string &name, Fault &fault);

    /* Nobody is given it any more: it closes, and its name is free, when the last connection over it has ended. */
    static void release(const std::shared_ptr<Fabric> &fabric);

    /* The same of all. */
    static void release_all();

    Fabric(const Fabric &) = delete;
    Fabric &operator=(const Fabric &) = delete;

    gridnet_fabric *handle() const { return fabric_; }
    gridnet_cq *queue() const { return queue_; }
    Watch &watch() { return *watch_; }

    /* What references say of it; nothing when the fabric cannot be used any more. */
    std::optional<Origin> origin() const;

    /* Whether it has joined a session: then it has all its life. */
    bool is_member() const { return is_member_; }

private:
    enum class State { Opening, Open, Failed };

    Fabric() = default;
    ~Fabric();
    static void end(Fabric *fabric);
    static std::shared_ptr<Fabric> begin(const char *name);
    gridnet_fabric *open(const std::optional<std::string> &name);
    bool await(std::int64_t timeout_ns, Fault &fault);
    bool is_opening();

    gridnet_fabric *fabric_ = nullptr;
    gridnet_cq *queue_ = nullptr;
    bool is_member_ = false;
    std::unique_ptr<Watch> watch_;
    /* How far it is; the others above stay as they are once it is open. */
    std::mutex lock_;
    std::condition_variable changed_;
    State state_ = State::Opening;
    Fault fault_;
};

} // namespace gridnet_giop
