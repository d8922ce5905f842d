/* The first bytes of a stream, from the caller: that GIOP follows, in which version of this transport, and what the caller's host is called.
 *
 *   0  4  "GNGP"
 *   4  1  version, 1
 *   5  1  length of the host's name, 1 to 255
 *   6     the name
 *
 * A server that does not speak the version says "GNGP" and its own, and ends the stream; otherwise its first bytes are those of GIOP.
 * The watch of the server's fabric reads them as they come: whoever says nothing holds nobody up, and is sent away in the end. */

#pragma once

#include "stream.h"
#include "watch.h"

#include <chrono>
#include <deque>
#include <optional>
#include <string>

namespace gridnet_giop {

/* The version of the greeting. */
constexpr int GREETING_VERSION = 1;

/* What a caller says first. */
std::string greeting_of(const std::string &host);

/* The server's version, if that is what it has said first instead of GIOP. */
std::optional<int> version_in_refusal(const char *data, std::size_t size);

/* A caller that has said who it is. */
struct Caller {
    std::unique_ptr<Stream> stream;
    std::string host;
};

/* Callers that wait for the endpoint's thread, and the doorbell that tells it. */
class Arrivals {
public:
    const Doorbell &bell() const { return bell_; }

    void put(Caller caller);

    /* The first of them; without a stream when there is none. Quiets the bell when it was the last. */
    Caller take();

private:
    Doorbell bell_;
    std::mutex lock_;
    std::deque<Caller> callers_;
};

/* Reads the greeting of one stream. */
class Greeting : public Watched {
public:
    Greeting(std::unique_ptr<Stream> stream, std::shared_ptr<Arrivals> arrivals);

    bool look() override;
    bool is_waited_for() override { return true; }
    bool arm() override;
    int fd() override;

private:
    bool is_wrong() const;
    bool is_whole() const;
    void refuse();

    std::unique_ptr<Stream> stream_;
    std::shared_ptr<Arrivals> arrivals_;
    std::string said_;
    std::chrono::steady_clock::time_point end_;
};

} // namespace gridnet_giop
