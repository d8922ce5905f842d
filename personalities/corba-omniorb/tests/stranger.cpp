/* stranger PORT BYTES: calls the server of this port as the transport does, says BYTES (with \xHH for any byte), and is killed.
 * Exit code 2: it could not. */

#include <gridnet.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <unistd.h>

namespace {

constexpr std::int64_t LONG_NS = 20000000000;

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

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    gridnet_fabric_params params = {};
    params.size = sizeof params;
    gridnet_fabric *fabric;
    gridnet_cq *queue;
    gridnet_address address;
    gridnet_endpoint *endpoint;
    gridnet_stream *stream;
    std::string port = argv[1], bytes = bytes_of(argv[2]);
    char byte;
    std::size_t count;
    check(gridnet_fabric_open(&params, &fabric));
    check(gridnet_cq_create(fabric, 0, &queue));
    check(gridnet_fabric_lookup(fabric, ("giop-" + port).c_str(), LONG_NS, &address));
    check(gridnet_endpoint_open(queue, &address, &endpoint));
    check(gridnet_stream_connect(endpoint, ("giop-" + port).c_str(), LONG_NS, &stream));
    check(gridnet_stream_write_all(stream, bytes.data(), bytes.size(), LONG_NS));
    /* Until they are there; who is sent away hears it. */
    gridnet_stream_read(stream, &byte, 1, 200000000, &count);
    kill(getpid(), SIGKILL);
}
