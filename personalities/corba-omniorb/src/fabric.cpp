#include "fabric.h"

#include "log.h"

#include <mutex>
#include <vector>

namespace gridnet_giop {

namespace {

/* Never destroyed: threads of the ORB may use them until the process ends. */
struct Opened {
    std::mutex lock;
    std::vector<std::shared_ptr<Fabric>> fabrics;
};

Opened &opened()
{
    static Opened *all = new Opened;
    return *all;
}

} // namespace

Fault fault_of(gridnet_status status)
{
    return Fault{status, std::string(gridnet_status_name(status)) + ": " + gridnet_last_error()};
}

std::shared_ptr<Fabric> Fabric::any(Fault &fault)
{
    std::lock_guard<std::mutex> guard(opened().lock);
    if (!opened().fabrics.empty())
        return opened().fabrics.front();
    return open(nullptr, fault);
}

std::shared_ptr<Fabric> Fabric::named(const std::string &name, Fault &fault)
{
    std::lock_guard<std::mutex> guard(opened().lock);
    return open(name.c_str(), fault);
}

void Fabric::release_all()
{
    std::vector<std::shared_ptr<Fabric>> fabrics;
    std::lock_guard<std::mutex> guard(opened().lock);
    fabrics.swap(opened().fabrics);
}

std::shared_ptr<Fabric> Fabric::open(const char *name, Fault &fault)
{
    gridnet_fabric_params params = {};
    params.size = sizeof params;
    params.name = name;
    params.thread_level = GRIDNET_THREAD_MULTIPLE;
    std::shared_ptr<Fabric> fabric(new Fabric, end);
    gridnet_status status = gridnet_fabric_open(&params, &fabric->fabric_);
    if (status >= 0)
        status = gridnet_cq_create(fabric->fabric_, 0, &fabric->queue_);
    if (status < 0) {
        fault = fault_of(status);
        return nullptr;
    }
    fabric->watch_ = std::make_unique<Watch>(fabric->fabric_);
    if (!fabric->watch_->start(fault.text)) {
        fault.status = GRIDNET_ERR_SYSTEM;
        return nullptr;
    }
    log_line(10, std::string("fabric open, ") + (name == nullptr ? "without a name" : name));
    opened().fabrics.push_back(fabric);
    return fabric;
}

/* What the watch held may have been the last of a fabric. It cannot wait for its own end: somebody else does. */
void Fabric::end(Fabric *fabric)
{
    if (fabric->watch_ != nullptr && fabric->watch_->is_own_thread())
        std::thread([fabric] { delete fabric; }).detach();
    else
        delete fabric;
}

Fabric::~Fabric()
{
    watch_.reset();
    if (fabric_ != nullptr)
        gridnet_fabric_close(fabric_);
}

std::optional<gridnet_address> Fabric::address() const
{
    gridnet_address address;
    if (gridnet_fabric_address(fabric_, &address) < 0)
        return std::nullopt;
    return address;
}

} // namespace gridnet_giop
