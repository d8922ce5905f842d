#include "fabric.h"

#include "log.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>
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

std::shared_ptr<Fabric> Fabric::any(std::int64_t timeout_ns, Fault &fault)
{
    std::shared_ptr<Fabric> fabric;
    {
        std::lock_guard<std::mutex> guard(opened().lock);
        if (opened().fabrics.empty())
            opened().fabrics.push_back(begin(nullptr));
        fabric = opened().fabrics.front();
    }
    return fabric->await(timeout_ns, fault) ? fabric : nullptr;
}

std::shared_ptr<Fabric> Fabric::named(const std::string &name, Fault &fault)
{
    std::shared_ptr<Fabric> fabric = begin(name.c_str());
    if (!fabric->await(-1, fault))
        return nullptr;
    std::lock_guard<std::mutex> guard(opened().lock);
    opened().fabrics.push_back(fabric);
    return fabric;
}

void Fabric::release(const std::shared_ptr<Fabric> &fabric)
{
    std::lock_guard<std::mutex> guard(opened().lock);
    auto &all = opened().fabrics;
    all.erase(std::remove(all.begin(), all.end(), fabric), all.end());
}

void Fabric::release_all()
{
    std::vector<std::shared_ptr<Fabric>> fabrics;
    std::lock_guard<std::mutex> guard(opened().lock);
    fabrics.swap(opened().fabrics);
}

std::shared_ptr<Fabric> Fabric::begin(const char *name)
{
    std::shared_ptr<Fabric> fabric(new Fabric, end);
    std::optional<std::string> copy;
    if (name != nullptr)
        copy = name;
    Fabric *raw = fabric.get();
    fabric->watch_ = std::make_unique<Watch>([raw, copy] { return raw->open(copy); });
    std::string why;
    if (!fabric->watch_->start(why)) {
        fabric->state_ = State::Failed;
        fabric->fault_ = Fault{GRIDNET_ERR_SYSTEM, why};
    }
    return fabric;
}

/* The watch's thread. Null when it fails. */
gridnet_fabric *Fabric::open(const std::optional<std::string> &name)
{
    gridnet_fabric_params params = {};
    params.size = sizeof params;
    params.name = name ? name->c_str() : nullptr;
    params.thread_level = GRIDNET_THREAD_MULTIPLE;
    gridnet_status status = gridnet_fabric_open(&params, &fabric_);
    if (status >= 0)
        status = gridnet_cq_create(fabric_, 0, &queue_);
    Fault fault = status < 0 ? fault_of(status) : Fault{};
    is_member_ = status >= 0 && gridnet_nodes(fabric_, nullptr, 0, nullptr) != GRIDNET_ERR_CONFIG;
    if (status >= 0)
        log_line(10, "fabric open, " + name.value_or("without a name"));
    std::lock_guard<std::mutex> guard(lock_);
    fault_ = fault;
    state_ = status < 0 ? State::Failed : State::Open;
    changed_.notify_all();
    return status < 0 ? nullptr : fabric_;
}

/* Whether it is open. Who finds that it is not, and will not be, sees to it that the next one tries again. */
bool Fabric::await(std::int64_t timeout_ns, Fault &fault)
{
    std::unique_lock<std::mutex> guard(lock_);
    auto is_over = [this] { return state_ != State::Opening; };
    if (timeout_ns < 0)
        changed_.wait(guard, is_over);
    else
        changed_.wait_for(guard, std::chrono::nanoseconds(timeout_ns), is_over);
    if (state_ == State::Open)
        return true;
    fault = state_ == State::Failed ? fault_ : Fault{GRIDNET_ERR_TIMEOUT, "the fabric is not open yet"};
    bool failed = state_ == State::Failed;
    guard.unlock();
    if (failed) {
        std::lock_guard<std::mutex> all(opened().lock);
        auto &list = opened().fabrics;
        list.erase(std::remove_if(list.begin(), list.end(), [this](auto &one) { return one.get() == this; }), list.end());
    }
    return false;
}

bool Fabric::is_opening()
{
    std::lock_guard<std::mutex> guard(lock_);
    return state_ == State::Opening;
}

/* What the watch held may have been the last of a fabric. It cannot wait for its own end: somebody else does, as for one that is being
 * opened still. */
void Fabric::end(Fabric *fabric)
{
    if (fabric->watch_ == nullptr || (!fabric->watch_->is_own_thread() && !fabric->is_opening())) {
        delete fabric;
        return;
    }
    try {
        std::thread([fabric] { delete fabric; }).detach();
    } catch (const std::system_error &failure) {
        log_line(1, std::string("a fabric is not closed before the process ends, as no thread can be had: ") + failure.what());
    }
}

Fabric::~Fabric()
{
    watch_.reset();
    if (fabric_ != nullptr)
        gridnet_fabric_close(fabric_);
}

std::optional<Origin> Fabric::origin() const
{
    Origin origin;
    if (gridnet_fabric_address(fabric_, &origin.address) < 0)
        return std::nullopt;
    origin.is_member = is_member_;
    return origin;
}

} // namespace gridnet_giop
