/* stranger PORT BYTES [HOW]: calls the server of this port as the transport does, says BYTES (with \xHH for any byte), and is killed. HOW:
 *   stays    is not killed, says "there", and waits until it is sent away: then "told", and what it was told, in hex
 *   serves   is the server of this port instead: takes one caller, says BYTES when that has called, and is killed
 * Exit code 2: it could not. */

#include <gridnet.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <unistd.h>

namespace {

constexpr std::int64_t LONG_NS = 20000000000;
/* For so long nothing comes before it is killed. */
constexpr std::int64_t QUIET_NS = 200000000;

void check(gridnet_status status)
{
    if (status >= 0)
        return;
    std::cout << gridnet_status_name(status) << ": " << gridnet_last_error() << std::endl;
    std::_Exit(2);
}

std::string bytes_of(const std::string &text)
{
    std::string bytes;
    for (std::size_t i = 0; i < text.size(); i++) {
        bool is_hex = text.compare(i, 2, "\\x") == 0;
        bytes += is_hex ? static_cast<char>(std::stoi(text.substr(i + 2, 2), nullptr, 16)) : text[i];
        i += is_hex ? 3 : 0;
    }
    return bytes;
}

/* What is given to it, in hex. */
std::string hex(const std::string &bytes)
{
    std::string text;
    char digits[4];
    for (unsigned char byte : bytes) {
        std::snprintf(digits, sizeof digits, " %02x", byte);
        text += digits;
    }
    return text;
}

/* All that comes until the stream ends, or for so long nothing does. */
std::string read_all(gridnet_stream *stream, std::int64_t quiet_ns, bool &ended)
{
    std::string all;
    char part[4096];
    std::size_t count;
    gridnet_status status;
    while ((status = gridnet_stream_read(stream, part, sizeof part, quiet_ns, &count)) >= 0 && count > 0)
        all.append(part, count);
    ended = status != GRIDNET_ERR_TIMEOUT;
    return all;
}

gridnet_stream *call(gridnet_fabric *fabric, const std::string &name)
{
    gridnet_cq *queue;
    gridnet_address address;
    gridnet_endpoint *endpoint;
    gridnet_stream *stream;
    check(gridnet_cq_create(fabric, 0, &queue));
    check(gridnet_fabric_lookup(fabric, name.c_str(), LONG_NS, &address));
    check(gridnet_endpoint_open(queue, &address, &endpoint));
    check(gridnet_stream_connect(endpoint, name.c_str(), LONG_NS, &stream));
    return stream;
}

/* A caller, when it has said something. */
gridnet_stream *accept(gridnet_fabric *fabric, const std::string &name)
{
    gridnet_listener *listener;
    gridnet_stream *stream;
    std::uint32_t events;
    check(gridnet_listener_open(fabric, name.c_str(), 0, &listener));
    std::cout << "serving" << std::endl;
    check(gridnet_listener_accept(listener, LONG_NS, &stream));
    check(gridnet_stream_wait(stream, GRIDNET_STREAM_READABLE, LONG_NS, &events));
    return stream;
}

} // namespace

int main(int argc, char **argv)
{
    std::string how = argc > 3 ? argv[3] : "";
    if (argc < 3 || argc > 4)
        return 2;
    std::string name = std::string("giop-") + argv[1], bytes = bytes_of(argv[2]);
    bool serves = how == "serves", ended;
    gridnet_fabric_params params = {};
    params.size = sizeof params;
    params.name = serves ? name.c_str() : nullptr;
    gridnet_fabric *fabric;
    check(gridnet_fabric_open(&params, &fabric));
    gridnet_stream *stream = serves ? accept(fabric, name) : call(fabric, name);
    if (!bytes.empty())
        check(gridnet_stream_write_all(stream, bytes.data(), bytes.size(), LONG_NS));
    if (how == "stays") {
        std::cout << "there" << std::endl;
        std::string told = read_all(stream, LONG_NS, ended);
        if (!ended)
            return 2;
        std::cout << "told" << hex(told) << std::endl;
        return 0;
    }
    /* Until they are there; who is sent away hears it. */
    read_all(stream, QUIET_NS, ended);
    kill(getpid(), SIGKILL);
}
