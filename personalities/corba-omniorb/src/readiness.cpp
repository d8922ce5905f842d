#include "readiness.h"

namespace gridnet_giop {

/* The bell is rung in the state Rung, and quiet in all others. */
void Readiness::become(State state)
{
    if (state == State::Rung && state_ != State::Rung)
        bell_.ring();
    if (state != State::Rung && state_ == State::Rung)
        bell_.hear();
    if (state == State::Idle)
        buffered_ = false;
    state_ = state;
    waiting_.store(state == State::Waiting, std::memory_order_relaxed);
}

void Readiness::ring_if_readable()
{
    if (state_ == State::Waiting && stream_->wait_readable(0))
        become(State::Rung);
}

/* Whoever looks at the bell has it in his list from now on, and the watch looks at the stream. */
void Readiness::tell_at_once()
{
    ring_if_readable();
    holder_->setSelectable(1, 0);
    if (state_ == State::Waiting)
        stream_->fabric().watch().poke();
}

void Readiness::begin(bool now, bool buffered)
{
    std::lock_guard<std::mutex> guard(lock_);
    buffered_ = buffered_ || buffered;
    /* Who peeks looks on: there is somebody to see what comes. */
    if (buffered_)
        become(State::Rung);
    else if (state_ != State::Peeked)
        become(State::Waiting);
    if (now || buffered_)
        tell_at_once();
    else {
        holder_->setSelectable(0, 0);
        /* A watch that sleeps does not know of this one. */
        stream_->fabric().watch().busy();
    }
}

void Readiness::hasten()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (state_ == State::Waiting || state_ == State::Rung)
        tell_at_once();
}

void Readiness::end()
{
    std::lock_guard<std::mutex> guard(lock_);
    become(State::Idle);
    holder_->clearSelectable();
}

bool Readiness::noticed()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (state_ == State::Rung) {
        become(State::Idle);
        holder_->clearSelectable();
        return true;
    }
    /* It was begun again meanwhile, or somebody peeks; the collection has forgotten it. */
    if (state_ == State::Waiting)
        tell_at_once();
    else if (state_ == State::Peeked)
        holder_->setSelectable(1, 0);
    return false;
}

bool Readiness::peek(std::int64_t timeout_ns)
{
    std::unique_lock<std::mutex> guard(lock_);
    if (state_ == State::Idle || state_ == State::Peeked)
        return false;
    bool readable = state_ == State::Rung;
    become(State::Peeked);
    if (!readable) {
        Stream &stream = *stream_;
        guard.unlock();
        readable = stream.wait_readable(timeout_ns);
        guard.lock();
    }
    /* It was ended, or somebody else is told, meanwhile. */
    if (state_ != State::Peeked)
        return false;
    become(readable ? State::Idle : State::Waiting);
    if (readable)
        holder_->clearSelectable();
    return readable;
}

void Readiness::forget()
{
    std::lock_guard<std::mutex> guard(lock_);
    stream_ = nullptr;
}

bool Readiness::look()
{
    if (!waiting_.load(std::memory_order_relaxed)) {
        std::lock_guard<std::mutex> guard(lock_);
        return stream_ != nullptr;
    }
    std::lock_guard<std::mutex> guard(lock_);
    if (stream_ == nullptr)
        return false;
    ring_if_readable();
    return true;
}

bool Readiness::is_waited_for()
{
    return waiting_.load(std::memory_order_relaxed);
}

bool Readiness::arm()
{
    std::lock_guard<std::mutex> guard(lock_);
    return stream_ == nullptr || state_ != State::Waiting || stream_->arm();
}

int Readiness::fd()
{
    std::lock_guard<std::mutex> guard(lock_);
    return stream_ == nullptr ? -1 : stream_->fd();
}

} // namespace gridnet_giop
