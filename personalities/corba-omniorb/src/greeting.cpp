#include "greeting.h"

#include "log.h"
#include "options.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace gridnet_giop {

namespace {

constexpr char MAGIC[] = "GNGP";
constexpr std::size_t MAGIC_BYTES = 4;
constexpr char VERSION = GREETING_VERSION;
constexpr std::size_t HEAD_BYTES = 6;
constexpr std::size_t REFUSAL_BYTES = 5;

/* The bytes in a form that can be logged. */
std::string hex(const std::string &bytes)
{
    std::string text;
    char digits[4];
    for (unsigned char byte : bytes) {
        std::snprintf(digits, sizeof digits, "%02x ", byte);
        text += digits;
    }
    return text;
}

} // namespace

std::string greeting_of(const std::string &host)
{
    std::string name = host.substr(0, UINT8_MAX);
    return std::string(MAGIC, MAGIC_BYTES) + VERSION + static_cast<char>(name.size()) + name;
}

std::optional<int> version_in_refusal(const char *data, std::size_t size)
{
    if (size < REFUSAL_BYTES || std::memcmp(data, MAGIC, MAGIC_BYTES) != 0)
        return std::nullopt;
    return static_cast<unsigned char>(data[MAGIC_BYTES]);
}

void Arrivals::put(Caller caller)
{
    std::lock_guard<std::mutex> guard(lock_);
    callers_.push_back(std::move(caller));
    bell_.ring();
}

Caller Arrivals::take()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (callers_.empty())
        return Caller();
    Caller first = std::move(callers_.front());
    callers_.pop_front();
    if (callers_.empty())
        bell_.hear();
    return first;
}

Greeting::Greeting(std::unique_ptr<Stream> stream, std::shared_ptr<Arrivals> arrivals)
    : stream_(std::move(stream)), arrivals_(std::move(arrivals)),
      end_(std::chrono::steady_clock::now() + std::chrono::milliseconds(options().greeting_timeout_ms))
{
}

bool Greeting::is_wrong() const
{
    std::size_t known = std::min(said_.size(), MAGIC_BYTES);
    return said_.compare(0, known, MAGIC, known) != 0 || (said_.size() > 4 && said_[4] != VERSION) ||
           (said_.size() > 5 && said_[5] == 0);
}

bool Greeting::is_whole() const
{
    return said_.size() >= HEAD_BYTES && said_.size() == HEAD_BYTES + static_cast<unsigned char>(said_[5]);
}

/* Who speaks another version is told of this one; who speaks something else would not understand. */
void Greeting::refuse()
{
    log_line(1, "a caller was sent away: it speaks another protocol, or another version than " + std::to_string(VERSION) + ": " +
                    hex(said_));
    if (said_.size() > MAGIC_BYTES && said_.compare(0, MAGIC_BYTES, MAGIC) == 0) {
        std::string refusal = std::string(MAGIC, MAGIC_BYTES) + VERSION;
        stream_->try_write(refusal.data(), refusal.size());
    }
}

bool Greeting::look()
{
    while (!is_whole()) {
        char part[HEAD_BYTES + UINT8_MAX];
        std::size_t whole = said_.size() < HEAD_BYTES ? HEAD_BYTES : HEAD_BYTES + static_cast<unsigned char>(said_[5]);
        int count = stream_->try_read(part, whole - said_.size());
        if (count < 0) {
            log_line(5, "a caller went before it had said who it is");
            return false;
        }
        if (count == 0) {
            if (std::chrono::steady_clock::now() < end_)
                return true;
            log_line(1, "a caller that does not say who it is was sent away");
            return false;
        }
        said_.append(part, static_cast<std::size_t>(count));
        if (is_wrong()) {
            refuse();
            return false;
        }
    }
    arrivals_->put(Caller{std::move(stream_), said_.substr(HEAD_BYTES)});
    return false;
}

bool Greeting::arm()
{
    return stream_->arm();
}

int Greeting::fd()
{
    return stream_->fd();
}

} // namespace gridnet_giop
