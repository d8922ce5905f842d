/* Where a server is: a host and a port, as in giop:gridnet:<host>:<port>. The port is a number of gridnet's own, not one of TCP. */

#pragma once

#include <cstdint>
#include <gridnet.h>
#include <optional>
#include <string>

namespace gridnet_giop {

struct Place {
    std::string host; /* in lower case, without the brackets of IPv6 */
    std::uint16_t port = 0;
};

/* What a reference says of the fabric that has made it. */
struct Origin {
    gridnet_address address;
    /* Whether that was in a session; nothing is known where the reference is of an older library. */
    std::optional<bool> is_member;
};

/* What transports are called in omniORB, and the action of transport rules. */
constexpr const char TYPE[] = "giop:gridnet";
constexpr const char ACTION[] = "gridnet";

/* Reads "host:port" or "[host]:port". False for anything else, also for port 0 and hosts longer than 255 bytes. */
bool parse_address(const char *text, Place &out);

/* Reads what follows giop:gridnet: in an endpoint: as an address, but host and port may be left out: no host is this one, no port any. */
bool parse_endpoint(const char *text, Place &out);

/* giop:gridnet:<host>:<port>. */
std::string uri_of(const Place &place);

/* The name by which the server's fabric is found on its host. */
std::string fabric_name_of(const Place &place);

/* The service that the server's listener takes calls for. */
std::string service_of(const Place &place);

/* This host's name in lower case. */
std::string own_host();

/* Whether a host is this one, by what it is called. */
bool is_own_host(const std::string &host);

} // namespace gridnet_giop
