/* The watch of a fabric: a thread that looks after what no call is waiting for: callers, greetings, connections that omniORB has given to
 * its poll(), and bytes of calls without an answer.
 *
 * While calls go on, they move everything themselves, and the watch looks in now and then only. It does not sleep on the rails then: peers
 * would have to wake it for each message. When all is quiet, it does, if there is somebody to wait for. */

#pragma once

#include "doorbell.h"

#include <atomic>
#include <functional>
#include <gridnet.h>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace gridnet_giop {

/* Something that the watch looks after. Called by the watch's thread alone. */
class Watched {
public:
    virtual ~Watched() = default;

    /* Does what can be done without waiting. False: it is over, and is forgotten. */
    virtual bool look() = 0;

    /* Whether there is something to sleep for, see below. */
    virtual bool is_waited_for() = 0;

    /* Prepares `fd` for sleep. False: look again first. */
    virtual bool arm() = 0;

    /* A descriptor that becomes readable when there is something to look at; -1 without one. */
    virtual int fd() = 0;
};

class Watch {
public:
    /* `open` is called by the watch's thread first, and may take long; it gives null when there is nothing to watch after all. The thread that
     * opens a fabric is then one that does not end before it. */
    explicit Watch(std::function<gridnet_fabric *()> open);

    /* Ends the thread, and forgets all. Waits for `open`. */
    ~Watch();

    /* False when there can be no thread: `why` says it. */
    bool start(std::string &why);

    void add(std::shared_ptr<Watched> watched);

    /* Whether the calling thread is the watch: it cannot end itself. */
    bool is_own_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

    /* Wakes it: there is something new to look at. */
    void poke() { bell_.ring(); }

    /* A call uses the fabric: it looks after itself for a while. Or there is somebody more to wait for. One side writes `busy_` and then reads `drowsy_`, the other writes `drowsy_`
     * and then reads `busy_`: in one order for all, so that one of them sees the other. */
    void busy()
    {
        if (!busy_.load(std::memory_order_relaxed))
            busy_.store(true);
        if (drowsy_.load() && drowsy_.exchange(false)) {
            roused_.fetch_add(1, std::memory_order_relaxed);
            bell_.ring();
        }
    }

    /* Whether it sleeps for longer than a tick, and how often it was woken from that by `busy`. */
    bool is_drowsy() const { return drowsy_; }
    long roused() const { return roused_; }

private:
    void run();
    void look_at_all();
    enum class Slept { Yes, LookFirst, NothingToWaitFor };
    Slept sleep_on_rails();
    std::vector<std::shared_ptr<Watched>> all();

    std::function<gridnet_fabric *()> open_;
    /* Known to the watch's thread alone. */
    gridnet_fabric *fabric_ = nullptr;
    Doorbell bell_;
    std::atomic<bool> stop_{false};
    std::atomic<bool> busy_{false};
    /* Asleep for longer than a tick: whoever calls says so. */
    std::atomic<bool> drowsy_{false};
    std::atomic<long> roused_{0};
    std::mutex lock_;
    std::vector<std::shared_ptr<Watched>> watched_;
    std::thread thread_;
};

} // namespace gridnet_giop
