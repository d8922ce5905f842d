#include "watch.h"

#include <algorithm>
#include <poll.h>
#include <pthread.h>
#include <csignal>
#include <system_error>

namespace gridnet_giop {

namespace {

/* How often the watch looks in while calls go on: a newcomer waits no longer, and it costs less than a hundredth of a core. */
constexpr int TICK_MS = 1;
/* The longest sleep: timers of the fabric are looked at meanwhile. */
constexpr int LONGEST_SLEEP_MS = 500;

} // namespace

Watch::Watch(std::function<gridnet_fabric *()> open) : open_(std::move(open)) {}

Watch::~Watch()
{
    stop_ = true;
    bell_.ring();
    if (thread_.joinable())
        thread_.join();
}

bool Watch::start(std::string &why)
{
    if (bell_.fd() < 0) {
        why = "no descriptors are left";
        return false;
    }
    /* Signals are for the program's threads: this one is born with all of them blocked. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error &error) {
        why = error.what();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread_.joinable();
}

void Watch::add(std::shared_ptr<Watched> watched)
{
    {
        std::lock_guard<std::mutex> guard(lock_);
        watched_.push_back(std::move(watched));
    }
    poke();
}

std::vector<std::shared_ptr<Watched>> Watch::all()
{
    std::lock_guard<std::mutex> guard(lock_);
    return watched_;
}

void Watch::look_at_all()
{
    std::vector<std::shared_ptr<Watched>> over;
    for (auto &one : all())
        if (!one->look())
            over.push_back(one);
    if (!over.empty()) {
        std::lock_guard<std::mutex> guard(lock_);
        for (auto &one : over)
            watched_.erase(std::remove(watched_.begin(), watched_.end(), one), watched_.end());
    }
}

/* Sleeps until something happens to what is waited for. */
Watch::Slept Watch::sleep_on_rails()
{
    std::vector<pollfd> files{{bell_.fd(), POLLIN, 0}};
    for (auto &one : all()) {
        if (!one->is_waited_for())
            continue;
        if (!one->arm())
            return Slept::LookFirst;
        files.push_back({one->fd(), POLLIN, 0});
    }
    if (files.size() == 1)
        return Slept::NothingToWaitFor;
    poll(files.data(), files.size(), LONGEST_SLEEP_MS);
    bell_.hear();
    return Slept::Yes;
}

void Watch::run()
{
    fabric_ = open_();
    if (fabric_ == nullptr)
        return;
    int quiet_ms = TICK_MS;
    while (!stop_) {
        look_at_all();
        gridnet_fabric_progress(fabric_);
        if (busy_.exchange(false)) {
            quiet_ms = TICK_MS;
            bell_.wait(quiet_ms);
            continue;
        }
        drowsy_ = true;
        /* A call may have come before it could know that somebody has to be woken. */
        if (busy_.load()) {
            drowsy_ = false;
            continue;
        }
        quiet_ms = std::min(2 * quiet_ms, LONGEST_SLEEP_MS);
        if (sleep_on_rails() == Slept::NothingToWaitFor)
            bell_.wait(quiet_ms);
        drowsy_ = false;
    }
}

} // namespace gridnet_giop
