/* bench_client FILE PINGS PUTS [-ORB...]: measures the server whose reference is in FILE, and prints one line:
 * ping p50 and p99 in us, us of a put and of a get of 1 MiB (p50), calls per second of 4 threads. */

#include "bench.hh"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr CORBA::ULong MIB = 1 << 20;
constexpr int THREADS = 4;

double us(Clock::duration span)
{
    return std::chrono::duration<double, std::micro>(span).count();
}

/* Times of so many calls, after a tenth as many that are not counted; sorted. */
template <class Call> std::vector<double> times(long count, Call call)
{
    std::vector<double> all;
    for (long i = -count / 10; i < count; i++) {
        Clock::time_point start = Clock::now();
        call();
        if (i >= 0)
            all.push_back(us(Clock::now() - start));
    }
    std::sort(all.begin(), all.end());
    return all;
}

double part(const std::vector<double> &sorted, double share)
{
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
}

/* Calls per second of all threads together. */
double rate(Bench::Server_ptr server, long count)
{
    std::vector<std::thread> all;
    Clock::time_point start = Clock::now();
    for (int t = 0; t < THREADS; t++)
        all.emplace_back([server, count] {
            for (long i = 0; i < count; i++)
                server->ping();
        });
    for (std::thread &one : all)
        one.join();
    return static_cast<double>(THREADS * count) / (us(Clock::now() - start) / 1e6);
}

} // namespace

int main(int argc, char **argv)
{
    try {
        CORBA::ORB_var orb = CORBA::ORB_init(argc, argv);
        if (argc != 4)
            return 2;
        std::string reference;
        std::ifstream(argv[1]) >> reference;
        CORBA::Object_var object = orb->string_to_object(reference.c_str());
        Bench::Server_var server = Bench::Server::_unchecked_narrow(object);
        long pings = std::atol(argv[2]), puts = std::atol(argv[3]);
        auto ping = times(pings, [&] { server->ping(); });
        Bench::Bytes data(MIB);
        data.length(MIB);
        auto put = times(puts, [&] { server->put(data); });
        auto get = times(puts, [&] { Bench::Bytes_var got = server->get(MIB); });
        double calls = rate(server, pings / THREADS);
        std::printf("%.2f %.2f %.1f %.1f %.0f\n", part(ping, 0.5), part(ping, 0.99), part(put, 0.5), part(get, 0.5), calls);
        server->stop();
        server = Bench::Server::_nil();
        orb->destroy();
        return 0;
    } catch (const CORBA::SystemException &error) {
        std::cerr << "exception " << error._name() << "\n";
        return 3;
    }
}
