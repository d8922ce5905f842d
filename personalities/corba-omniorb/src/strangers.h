/* Nodes that were looked for in a session in vain. The directory may be behind, so that who opens one looks again for a while; but a
 * server that is in no session, or in another, would cost that for each connection: it is remembered, and looked for once. */

#pragma once

#include <chrono>
#include <gridnet.h>
#include <mutex>
#include <vector>

namespace gridnet_giop {

/* May be used by several threads. */
class Strangers {
public:
    using Clock = std::chrono::steady_clock;

    /* So long a node is remembered, */
    static constexpr std::chrono::seconds MEMORY{60};
    /* and so many of them, the last ones. */
    static constexpr std::size_t MOST = 256;

    /* Whether a node was looked for in vain, not long before `now`. */
    bool has(const gridnet_node &node, Clock::time_point now = Clock::now());

    void add(const gridnet_node &node, Clock::time_point now = Clock::now());

    /* It was found. */
    void remove(const gridnet_node &node);

private:
    struct Entry {
        gridnet_node node;
        Clock::time_point until;
    };

    std::mutex lock_;
    std::vector<Entry> entries_; /* the oldest first */
};

/* Those of the process. */
Strangers &strangers();

} // namespace gridnet_giop
