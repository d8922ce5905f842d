/* Where a client calls. */

#pragma once

#include "place.h"

#include <omniORB4/CORBA.h>
#include <omniORB4/giopEndpoint.h>
#include <optional>

namespace gridnet_giop {

class Address : public omni::giopAddress {
public:
    /* `known` is the server's fabric, if the reference says which. */
    Address(const Place &place, const std::optional<Origin> &known) : Address(place, place, known) {}

    const char *type() const override { return TYPE; }
    const char *address() const override { return uri_.c_str(); }
    const char *host() const override { return shown_.host.c_str(); }
    omni::giopActiveConnection *Connect(const omni_time_t &deadline, CORBA::ULong strand_flags, CORBA::Boolean &timed_out) const override;
    omni::giopAddress *duplicate() const override { return new Address(place_, shown_, known_); }
    /* The same server: omniORB only wants to compare the host's address with its rules. */
    omni::giopAddress *duplicate(const char *host) const override { return new Address(place_, Place{host, place_.port}, known_); }

private:
    Address(const Place &place, const Place &shown, const std::optional<Origin> &known)
        : place_(place), shown_(shown), known_(known), uri_(uri_of(shown))
    {
    }

    Place place_, shown_;
    std::optional<Origin> known_;
    std::string uri_;
};

} // namespace gridnet_giop
