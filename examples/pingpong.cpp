// The ping-pong in C++11: each handle belongs to an object, failures are exceptions.
// It speaks with the one in C, too.
//
//   pingpong_cpp server NAME &
//   pingpong_cpp client NAME [ITERATIONS] [BYTES]

#include <gridnet.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t patience_ns = 20 * INT64_C(1000000000);
constexpr std::uint64_t tag_hello = 1, tag_ball = 2, warmup = 1000;

gridnet_status check(gridnet_status status, const char *call)
{
    if (status < 0)
        throw std::runtime_error(std::string(call) + ": " + gridnet_status_name(status) + ": " + gridnet_last_error());
    return status;
}

// Closes a handle when its owner goes. What refers to another handle is declared after it, and so goes first.
template <typename Handle, gridnet_status (*close)(Handle *)> struct Closer {
    void operator()(Handle *handle) const { close(handle); }
};

class Fabric {
  public:
    explicit Fabric(const std::string &name = std::string())
    {
        gridnet_fabric_params params = gridnet_fabric_params();
        params.size = sizeof params;
        params.name = name.empty() ? nullptr : name.c_str();
        params.thread_level = GRIDNET_THREAD_SINGLE;
        gridnet_fabric *fabric;
        check(gridnet_fabric_open(&params, &fabric), "gridnet_fabric_open");
        handle.reset(fabric);
    }

    gridnet_address lookup(const std::string &name) const
    {
        gridnet_address address;
        check(gridnet_fabric_lookup(handle.get(), name.c_str(), patience_ns, &address), "gridnet_fabric_lookup");
        return address;
    }

    gridnet_fabric *get() const { return handle.get(); }

  private:
    std::unique_ptr<gridnet_fabric, Closer<gridnet_fabric, gridnet_fabric_close>> handle;
};

class Queue {
  public:
    explicit Queue(const Fabric &fabric)
    {
        gridnet_cq *cq;
        check(gridnet_cq_create(fabric.get(), 0, &cq), "gridnet_cq_create");
        handle.reset(cq);
    }

    // The next entry; an operation that failed is an exception.
    gridnet_completion wait() const
    {
        gridnet_completion entry;
        check(gridnet_cq_wait(handle.get(), &entry, 1, patience_ns), "gridnet_cq_wait");
        if (entry.status < 0)
            throw std::runtime_error(gridnet_status_text(entry.status));
        return entry;
    }

    void wait(int entries) const
    {
        while (entries-- > 0)
            wait();
    }

    gridnet_cq *get() const { return handle.get(); }

  private:
    std::unique_ptr<gridnet_cq, Closer<gridnet_cq, gridnet_cq_destroy>> handle;
};

using Ball = std::vector<char>;

class Endpoint {
  public:
    Endpoint(const Queue &queue, const gridnet_address &address) : cq(queue.get())
    {
        gridnet_endpoint *endpoint;
        check(gridnet_endpoint_open(cq, &address, &endpoint), "gridnet_endpoint_open");
        handle.reset(endpoint);
    }

    Endpoint(const Queue &queue, std::uint32_t source) : cq(queue.get())
    {
        gridnet_endpoint *endpoint;
        check(gridnet_endpoint_open_source(cq, source, &endpoint), "gridnet_endpoint_open_source");
        handle.reset(endpoint);
    }

    // Both return the number of completion entries to come; the memory must stay until then.
    int send(const void *data, std::size_t length, std::uint64_t tag) const
    {
        return check(gridnet_tag_send(handle.get(), data, length, tag, nullptr), "gridnet_tag_send");
    }

    int receive(void *data, std::size_t length, std::uint64_t tag) const
    {
        return check(gridnet_tag_recv(cq, handle.get(), data, length, tag, 0, nullptr), "gridnet_tag_recv");
    }

  private:
    gridnet_cq *cq;
    std::unique_ptr<gridnet_endpoint, Closer<gridnet_endpoint, gridnet_endpoint_close>> handle;
};

static_assert(GRIDNET_OK == 0 && GRIDNET_IN_PROGRESS == 1, "a status counts the entries to come");

// The first message of the client: what is going to be played.
struct Hello {
    std::uint64_t throws;
    std::uint64_t bytes;
};

void serve(const std::string &name)
{
    Fabric fabric(name);
    Queue queue(fabric);
    Hello hello = Hello();
    check(gridnet_tag_recv(queue.get(), nullptr, &hello, sizeof hello, tag_hello, 0, nullptr), "gridnet_tag_recv");
    Endpoint client(queue, queue.wait().source);

    Ball ball(hello.bytes);
    for (std::uint64_t i = 0; i < hello.throws; i++) {
        queue.wait(client.receive(ball.data(), ball.size(), tag_ball));
        queue.wait(client.send(ball.data(), ball.size(), tag_ball));
    }
}

void play(const std::string &name, std::uint64_t iterations, std::uint64_t bytes)
{
    using Clock = std::chrono::steady_clock;
    Fabric fabric;
    Queue queue(fabric);
    Endpoint server(queue, fabric.lookup(name));
    const Hello hello = {iterations + warmup, bytes};
    queue.wait(server.send(&hello, sizeof hello, tag_hello));

    const Ball ball(bytes, 'o');
    Ball caught(bytes);
    Clock::time_point start;
    for (std::uint64_t i = 0; i < hello.throws; i++) {
        if (i == warmup)
            start = Clock::now();
        int entries = server.receive(caught.data(), caught.size(), tag_ball);
        entries += server.send(ball.data(), ball.size(), tag_ball);
        queue.wait(entries);
    }
    const std::chrono::duration<double, std::micro> elapsed = Clock::now() - start;
    if (caught != ball)
        throw std::runtime_error("the ball came back changed");
    std::cout << bytes << " bytes: " << elapsed.count() / static_cast<double>(iterations) / 2 << " us one way\n";
}

} // namespace

int main(int argc, char **argv)
{
    const std::vector<std::string> args(argv + 1, argv + argc);
    try {
        if (args.size() == 2 && args[0] == "server") {
            serve(args[1]);
            return EXIT_SUCCESS;
        }
        const std::uint64_t iterations = args.size() > 2 ? std::strtoull(args[2].c_str(), nullptr, 10) : 100000;
        const std::uint64_t bytes = args.size() > 3 ? std::strtoull(args[3].c_str(), nullptr, 10) : 8;
        if (args.size() >= 2 && args.size() <= 4 && args[0] == "client" && iterations > 0 && bytes > 0) {
            play(args[1], iterations, bytes);
            return EXIT_SUCCESS;
        }
    } catch (const std::exception &error) {
        std::cerr << "error: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    std::cerr << "usage: pingpong_cpp server NAME\n"
                 "       pingpong_cpp client NAME [ITERATIONS] [BYTES]\n";
    return 2;
}
