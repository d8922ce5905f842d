/* trial_client FILE WHAT [NUMBER [NUMBER]] [-ORB...]: calls the server whose reference is in FILE, and checks what it answers.
 * Exit code 0: all was right; 3: "exception NAME" was printed; 1: a wrong answer. */

#include "memory.h"
#include "poa.h"
#include "trial.hh"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

struct Call {
    CORBA::ORB_var orb;
    const char *file;
    Trial::Server_var server;
    long first, second;
};

Trial::Server_ptr server_of(CORBA::ORB_ptr orb, const char *file)
{
    std::string reference;
    std::ifstream(file) >> reference;
    CORBA::Object_var object = orb->string_to_object(reference.c_str());
    return Trial::Server::_unchecked_narrow(object);
}

void check(bool right, const char *what)
{
    if (right)
        return;
    std::cout << "wrong: " << what << std::endl;
    std::exit(1);
}

void add(Call &call)
{
    for (CORBA::Long i = 0; i < call.first; i++)
        check(call.server->add(i, 1) == i + 1, "sum");
}

/* Says when it has begun, and goes on for ever. */
void steady(Call &call)
{
    check(call.server->add(1, 1) == 2, "sum");
    std::cout << "calling" << std::endl;
    for (;;)
        check(call.server->add(1, 1) == 2, "sum");
}

/* Calls of both kinds for so many seconds. */
void during(Call &call)
{
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(call.first);
    Trial::Bytes data(100000);
    data.length(100000);
    CORBA::Long count = 0;
    for (; std::chrono::steady_clock::now() < end; count++) {
        data[0] = static_cast<CORBA::Octet>(count);
        check(call.server->add(count, 1) == count + 1, "sum");
        Trial::Bytes_var back = call.server->echo(data);
        check(back->length() == data.length() && back[0u] == data[0], "bytes");
    }
    std::cout << "calls " << 2 * count << std::endl;
}

/* Sizes around the limits of omniORB's buffers, gridnet's frames and windows. */
void echo(Call &call)
{
    for (CORBA::ULong size : {0u, 1u, 7u, 1000u, 8191u, 8192u, 16383u, 16384u, 32769u, 262144u, 262145u, 1048576u, 2000001u}) {
        Trial::Bytes data(size);
        data.length(size);
        for (CORBA::ULong i = 0; i < size; i++)
            data[i] = static_cast<CORBA::Octet>(i * 7 + size);
        Trial::Bytes_var back = call.server->echo(data);
        check(back->length() == size, "length");
        for (CORBA::ULong i = 0; i < size; i++)
            check(back[i] == data[i], "byte");
    }
}

void threads(Call &call)
{
    std::vector<std::thread> all;
    std::atomic<bool> failed{false};
    for (long t = 0; t < call.first; t++)
        all.emplace_back([&call, &failed, t] {
            try {
                for (CORBA::Long i = 0; i < call.second; i++)
                    check(call.server->add(i, static_cast<CORBA::Long>(t)) == i + t, "sum");
            } catch (const CORBA::SystemException &error) {
                std::cout << "exception " << error._name() << std::endl;
                failed = true;
            }
        });
    for (std::thread &one : all)
        one.join();
    check(!failed, "a thread had an exception");
}

/* Calls without an answer arrive, all of them, also when the client says nothing more. */
void tell(Call &call)
{
    CORBA::Long before = call.server->told();
    for (long i = 0; i < call.first; i++)
        call.server->tell(1);
    /* Calls of one connection are in order; over another they may be overtaken. */
    for (int tries = 0; call.server->told() != before + call.first; tries++)
        check(tries < 100000, "calls were lost");
}

/* A call of so many bytes with a time limit, when the input has ended. */
void stall(Call &call)
{
    check(call.server->add(1, 1) == 2, "sum");
    omniORB::setClientCallTimeout(300);
    CORBA::ULong size = static_cast<CORBA::ULong>(call.first);
    Trial::Bytes data(size);
    data.length(size);
    std::cout << "ready" << std::endl;
    std::cin.ignore(std::numeric_limits<std::streamsize>::max());
    Trial::Bytes_var back = call.server->echo(data);
}

/* Rounds of so many calls, between marks for who traces the threads that make and serve them. */
void marked(Call &call)
{
    for (long round = 0; round <= call.first; round++) {
        call.server->mark();
        getppid();
        for (CORBA::Long i = 0; round < call.first && i < call.second; i++)
            check(call.server->add(i, 1) == i + 1, "sum");
    }
}

/* For each line of the input a call to the server whose reference is in the file then, which may be gone, and what memory is in use. */
void again(Call &call)
{
    std::string line;
    while (std::getline(std::cin, line)) {
        const char *outcome = "right";
        try {
            call.server = server_of(call.orb, call.file);
            check(call.server->add(1, 1) == 2, "sum");
        } catch (const CORBA::SystemException &error) {
            outcome = error._name();
        }
        std::cout << line << " " << outcome << " memory " << allocated_bytes() << std::endl;
    }
}

class Listener : public POA_Trial::Listener {
public:
    void heard(CORBA::Long number) override { check(++heard_ == number, "order"); }
    CORBA::Long heard() const { return heard_; }

private:
    std::atomic<CORBA::Long> heard_{0};
};

void call_back(Call &call)
{
    PortableServer::POA_var poa = both_ways(call.orb);
    PortableServer::Servant_var<Listener> listener = new Listener;
    PortableServer::ObjectId_var id = poa->activate_object(listener);
    CORBA::Object_var object = poa->id_to_reference(id);
    Trial::Listener_var reference = Trial::Listener::_narrow(object);
    call.server->call_back(reference, static_cast<CORBA::Long>(call.first));
    check(listener->heard() == call.first, "number of calls");
}

const std::map<std::string, std::function<void(Call &)>> TRIALS = {
    {"add", add},
    {"steady", steady},
    {"during", during},
    {"echo", echo},
    {"threads", threads},
    {"tell", tell},
    {"stall", stall},
    {"back", call_back},
    {"marked", marked},
    {"again", again},
    {"memory", [](Call &call) { std::cout << "memory " << call.server->memory() << std::endl; }},
    {"hold", [](Call &call) { call.server->hold(static_cast<CORBA::ULong>(call.first)); }},
    {"stop", [](Call &call) { call.server->stop(); }},
};

} // namespace

int main(int argc, char **argv)
{
    try {
        CORBA::ORB_var orb = CORBA::ORB_init(argc, argv);
        if (argc < 3 || TRIALS.count(argv[2]) == 0)
            return 2;
        auto number = [&](int i) { return argc > i ? std::atol(argv[i]) : 1; };
        Call call{orb, argv[1], server_of(orb, argv[1]), number(3), number(4)};
        TRIALS.at(argv[2])(call);
        call.server = Trial::Server::_nil();
        orb->destroy();
        std::cout << argv[2] << " right" << std::endl;
        return 0;
    } catch (const CORBA::SystemException &error) {
        std::cout << "exception " << error._name() << std::endl;
        return 3;
    }
}
