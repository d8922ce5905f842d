/* The fabrics of this process: one, as a rule. A server's fabric has a name, by which callers of the host find it; a further endpoint takes
 * a further fabric, since a fabric has one name. */

#pragma once

#include "place.h"
#include "watch.h"

#include <gridnet.h>
#include <memory>
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
    /* A fabric to call others with; opened if there is none. Null: `fault` says why. */
    static std::shared_ptr<Fabric> any(Fault &fault);

    /* A fabric of that name, to be called by. Null: `fault` says why, GRIDNET_ERR_NAME_IN_USE among it. */
    static std::shared_ptr<Fabric> named(const std::string &name, Fault &fault);

    /* Lets go of all of them; each closes when the last endpoint and connection over it has ended. */
    static void release_all();

    Fabric(const Fabric &) = delete;
    Fabric &operator=(const Fabric &) = delete;

    gridnet_fabric *handle() const { return fabric_; }
    gridnet_cq *queue() const { return queue_; }
    Watch &watch() { return *watch_; }

    /* Its address; none when the fabric cannot be used any more. */
    std::optional<gridnet_address> address() const;

private:
    Fabric() = default;
    ~Fabric();
    static void end(Fabric *fabric);
    static std::shared_ptr<Fabric> open(const char *name, Fault &fault);

    gridnet_fabric *fabric_ = nullptr;
    gridnet_cq *queue_ = nullptr;
    std::unique_ptr<Watch> watch_;
};

} // namespace gridnet_giop
