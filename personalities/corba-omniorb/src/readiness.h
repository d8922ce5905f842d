/* Tells omniORB's poll() that a connection can be read: the watch looks, and rings a doorbell. Connections that omniORB does not watch, and
 * that is most of the time, cost nothing.
 *
 * What has come is handed on once: to the thread that peeks, or by the collection, never to both. omniORB's own sockets see to that with
 * one lock around all; here the holder's words are said under the lock of the state, and a notice that came too late is taken back. */

#pragma once

#include "stream.h"
#include "watch.h"

#include <SocketCollection.h>

namespace gridnet_giop {

class Readiness : public Watched {
public:
    /* `holder` is the connection, as its collection knows it. */
    Readiness(Stream &stream, omni::SocketHolder &holder) : stream_(&stream), holder_(&holder) {}

    const Doorbell &bell() const { return bell_; }

    /* From now on the bell is rung once when there is something to be read; it is rung at once when `buffered`: there is, in omniORB's own
     * memory. `now`: the collection is told at once. */
    void begin(bool now, bool buffered);

    /* As `begin` with `now`, for those that were begun and nobody was told. */
    void hasten();

    /* It is not rung any more, and is quiet. */
    void end();

    /* The collection has seen it rung. True: that is to be handed on. False: it was, to another, or there is nothing. */
    bool noticed();

    /* Looks so many nanoseconds, while nobody else is told. True: there is something to be read, for the caller. */
    bool peek(std::int64_t timeout_ns);

    /* The stream goes: to be called before it does. */
    void forget();

    bool look() override;
    bool is_waited_for() override;
    bool arm() override;
    int fd() override;

private:
    enum class State { Idle, Waiting, Rung, Peeked };

    void become(State state);
    void ring_if_readable();
    void tell_at_once();

    Doorbell bell_;
    /* Whether `state_` is Waiting, for those who need not know exactly. */
    std::atomic<bool> waiting_{false};
    std::mutex lock_;
    Stream *stream_;
    omni::SocketHolder *holder_;
    State state_ = State::Idle;
    /* What is to be read is with omniORB already. */
    bool buffered_ = false;
};

} // namespace gridnet_giop
