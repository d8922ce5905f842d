#include "readiness.h"

namespace gridnet_giop {

void Readiness::begin()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (state_ == State::Idle)
        state_ = State::Waiting;
    /* Who was rung for is not waited for: nothing would be armed. */
    waiting_.store(state_ == State::Waiting, std::memory_order_relaxed);
}

bool Readiness::end()
{
    std::lock_guard<std::mutex> guard(lock_);
    State before = state_;
    state_ = State::Idle;
    waiting_.store(false, std::memory_order_relaxed);
    if (before == State::Rung)
        bell_.hear();
    return before != State::Idle;
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
    if (state_ == State::Waiting && stream_->wait_readable(0)) {
        state_ = State::Rung;
        waiting_.store(false, std::memory_order_relaxed);
        bell_.ring();
    }
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
