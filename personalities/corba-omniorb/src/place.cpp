#include "place.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <unistd.h>

namespace gridnet_giop {

namespace {

constexpr std::size_t MOST_HOST_BYTES = 255;

bool is_host(const std::string &host)
{
    return !host.empty() && host.size() <= MOST_HOST_BYTES && std::all_of(host.begin(), host.end(), [](unsigned char c) {
        return std::isalnum(c) || std::strchr("._-:%", c) != nullptr;
    });
}

/* Reads a decimal number of at most five digits, to the end of the text. */
bool parse_port(const std::string &text, std::uint16_t &out)
{
    if (text.empty() || text.size() > 5 || !std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); }))
        return false;
    unsigned long port = std::stoul(text);
    out = static_cast<std::uint16_t>(port);
    return port <= UINT16_MAX;
}

std::string lower(std::string text)
{
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

/* Parts a text at its last colon outside of brackets; without one, all of it is the host. */
void split(const std::string &text, std::string &host, std::string &port)
{
    std::size_t from = text.find(']');
    std::size_t colon = text.find(':', from == std::string::npos ? 0 : from);
    host = text.substr(0, colon);
    port = colon == std::string::npos ? "" : text.substr(colon + 1);
    if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
        host = host.substr(1, host.size() - 2);
}

} // namespace

bool parse_address(const char *text, Place &out)
{
    return text != nullptr && *text != '\0' && parse_endpoint(text, out) && out.port != 0 && std::strchr(text, ':') != text;
}

bool parse_endpoint(const char *text, Place &out)
{
    std::string host, port;
    Place place;
    split(text == nullptr ? "" : text, host, port);
    if (!port.empty() && !parse_port(port, place.port))
        return false;
    place.host = host.empty() ? own_host() : lower(host);
    if (!is_host(place.host))
        return false;
    out = place;
    return true;
}

std::string uri_of(const Place &place)
{
    bool bare = place.host.find(':') == std::string::npos;
    std::string host = bare ? place.host : "[" + place.host + "]";
    return std::string(TYPE) + ":" + host + ":" + std::to_string(place.port);
}

std::string fabric_name_of(const Place &place)
{
    return "giop-" + std::to_string(place.port);
}

std::string service_of(const Place &place)
{
    return "giop-" + std::to_string(place.port);
}

std::string own_host()
{
    char name[MOST_HOST_BYTES + 1] = "";
    if (gethostname(name, sizeof name - 1) != 0 || !is_host(name))
        return "localhost";
    return lower(name);
}

bool is_own_host(const std::string &host)
{
    std::string own = own_host();
    return host == own || host == "localhost" || host == "127.0.0.1" || host == "::1" ||
           (own.compare(0, host.size() + 1, host + ".") == 0) || (host.compare(0, own.size() + 1, own + ".") == 0);
}

} // namespace gridnet_giop
