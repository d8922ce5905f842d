/* Tells omniORB's poll() that a connection can be read: the watch looks, and rings a doorbell. Connections that omniORB does not watch, and
 * that is most of the time, cost nothing. */

#pragma once

#include "stream.h"
#include "watch.h"

namespace gridnet_giop {

class Readiness : public Watched {
public:
    explicit Readiness(Stream &stream) : stream_(&stream) {}

    const Doorbell &bell() const { return bell_; }

    /* From now on the bell is rung once when there is something to be read. */
    void begin();

    /* It is not rung any more, and is quiet. Whether it was to be rung, or was. */
    bool end();

    /* The stream goes: to be called before it does. */
    void forget();

    bool look() override;
    bool is_waited_for() override;
    bool arm() override;
    int fd() override;

private:
    enum class State { Idle, Waiting, Rung };

    Doorbell bell_;
    /* What `state_` is, for those who need not know exactly. */
    std::atomic<bool> waiting_{false};
    std::mutex lock_;
    Stream *stream_;
    State state_ = State::Idle;
};

} // namespace gridnet_giop
