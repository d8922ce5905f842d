/* Lines in omniORB's log. Levels are omniORB's: 1 what is wrong, 5 what is configured, 10 and more what happens. */

#pragma once

#include <omniORB4/CORBA.h>
#include <string>

namespace gridnet_giop {

inline void log_line(int level, const std::string &text)
{
    if (omniORB::trace(level)) {
        omniORB::logger log;
        log << "gridnet: " << text.c_str() << "\n";
    }
}

} // namespace gridnet_giop
