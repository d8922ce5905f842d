/* What can be configured: -ORBgridnetXxx on the command line, ORBgridnetXxx in the environment, gridnetXxx in omniORB.cfg. */

#pragma once

#include <cstdint>

namespace gridnet_giop {

struct Options {
    /* Whether transport rules that are the default get "gridnet" as their first action. */
    bool extend_rules = true;
    /* How long a connection may take to be made when the call has no deadline, in milliseconds. */
    std::uint32_t connect_timeout_ms = 10000;
    /* How long a caller may take to say who it is, in milliseconds. It does so in one piece, right after it was let in. */
    std::uint32_t greeting_timeout_ms = 5000;
    /* Whether counters are printed when the ORB is destroyed, at any trace level. */
    bool report = false;
};

/* The options in force; written while the ORB is initialised, read afterwards. */
Options &options();

/* Makes them known to omniORB; once, before the first ORB_init. */
void register_options();

} // namespace gridnet_giop
