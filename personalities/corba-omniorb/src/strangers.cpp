#include "strangers.h"

#include <algorithm>
#include <cstring>

namespace gridnet_giop {

namespace {

bool is_same(const gridnet_node &one, const gridnet_node &other)
{
    return std::memcmp(one.bytes, other.bytes, sizeof one.bytes) == 0;
}

} // namespace

bool Strangers::has(const gridnet_node &node, Clock::time_point now)
{
    std::lock_guard<std::mutex> guard(lock_);
    return std::any_of(entries_.begin(), entries_.end(), [&](const Entry &one) { return now < one.until && is_same(one.node, node); });
}

void Strangers::add(const gridnet_node &node, Clock::time_point now)
{
    remove(node);
    std::lock_guard<std::mutex> guard(lock_);
    if (entries_.size() >= MOST)
        entries_.erase(entries_.begin());
    entries_.push_back(Entry{node, now + MEMORY});
}

void Strangers::remove(const gridnet_node &node)
{
    std::lock_guard<std::mutex> guard(lock_);
    auto is_it = [&](const Entry &one) { return is_same(one.node, node); };
    entries_.erase(std::remove_if(entries_.begin(), entries_.end(), is_it), entries_.end());
}

Strangers &strangers()
{
    static Strangers *all = new Strangers;
    return *all;
}

} // namespace gridnet_giop
