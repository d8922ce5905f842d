/* parts: who is told, and when, that a connection can be read. Plays the collection's thread and omniORB's workers, in orders that they
 * seldom have. Exit code 0: all was right. */

#include "../src/connection.h"
#include "../src/fabric.h"
#include "../src/strangers.h"

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace gridnet_giop;

namespace {

constexpr std::int64_t LONG_NS = 20000000000;
/* How long anything may take on a busy machine. */
constexpr std::chrono::seconds PATIENCE(20);
/* Scans in which nothing is to happen. */
constexpr int QUIET_SCANS = 4;

void check(bool right, const char *what)
{
    if (right)
        return;
    std::cout << "wrong: " << what << std::endl;
    std::exit(1);
}

/* Counts what is handed on. */
class Counting : public omni::SocketCollection {
public:
    CORBA::Boolean notifyReadable(omni::SocketHolder *holder) override
    {
        auto *connection = static_cast<Connection *>(holder);
        if (before_)
            std::exchange(before_, nullptr)();
        handed_on_ += connection->noticed() ? 1 : 0;
        return 1;
    }

    /* To be done when it has seen something, before it hands it on. */
    void before(std::function<void()> what) { before_ = std::move(what); }

    void scan_until(const std::function<bool()> &is_so, const char *what)
    {
        auto end = std::chrono::steady_clock::now() + PATIENCE;
        while (!is_so() && std::chrono::steady_clock::now() < end)
            Select();
        check(is_so(), what);
    }

    void scan_until_handed_on(int count)
    {
        scan_until([&] { return handed_on_ >= count; }, "it was not handed on");
        check(handed_on_ == count, "it was handed on twice");
    }

    void scan_quietly()
    {
        int before = handed_on_;
        for (int i = 0; i < QUIET_SCANS; i++)
            Select();
        check(handed_on_ == before, "handed on what nobody has sent");
    }

    int handed_on() const { return handed_on_; }

private:
    int handed_on_ = 0;
    std::function<void()> before_;
};

/* Knows how often the watch has looked at all. */
class Looks : public Watched {
public:
    bool look() override { return ++count_ > 0; }
    bool is_waited_for() override { return false; }
    bool arm() override { return true; }
    int fd() override { return -1; }

    void await_another(Watch &watch)
    {
        /* The one under way may have begun before. */
        long end = count_ + 2;
        while (count_ < end) {
            watch.poke();
            std::this_thread::yield();
        }
    }

private:
    std::atomic<long> count_{0};
};

/* Holds the watch as long as it is there: nobody moves what is on its way to this fabric. */
class Holding : public Watched {
public:
    bool look() override
    {
        is_held = true;
        while (!is_over)
            std::this_thread::yield();
        return false;
    }
    bool is_waited_for() override { return false; }
    bool arm() override { return true; }
    int fd() override { return -1; }

    std::atomic<bool> is_held{false}, is_over{false};
};

struct Scene {
    std::shared_ptr<Fabric> server, client;
    std::shared_ptr<Looks> looks = std::make_shared<Looks>();
    Counting *collection = new Counting;
    gridnet_stream *caller = nullptr;
    Connection *connection = nullptr;

    Scene()
    {
        static int scenes = 0;
        std::string name = "parts-" + std::to_string(++scenes);
        Fault fault;
        gridnet_address address;
        gridnet_listener *listener;
        gridnet_endpoint *endpoint;
        gridnet_stream *called;
        server = Fabric::named(name + "-server", fault);
        client = Fabric::named(name + "-client", fault);
        check(server != nullptr && client != nullptr, fault.text.c_str());
        check(gridnet_fabric_address(server->handle(), &address) >= 0, "address");
        check(gridnet_listener_open(server->handle(), "parts", 0, &listener) >= 0, "listener");
        check(gridnet_endpoint_open(client->queue(), &address, &endpoint) >= 0, "endpoint");
        check(gridnet_stream_connect(endpoint, "parts", LONG_NS, &caller) >= 0, "call");
        check(gridnet_listener_accept(listener, LONG_NS, &called) >= 0, "acceptance");
        server->watch().add(looks);
        connection = new Connection(std::make_unique<Stream>(server, called), *collection, Place{"here", 1}, Place{"there", 2});
    }

    void say()
    {
        std::size_t count;
        check(gridnet_stream_write(caller, "x", 1, LONG_NS, &count) >= 0 && count == 1, "write");
    }

    void hear()
    {
        char byte;
        check(connection->Recv(&byte, 1, omni_time_t()) == 1 && byte == 'x', "read");
    }
};

/* A worker that ends asks to be told at once. What another worker has been given is not meant. */
void what_another_reads_is_not_told_again(Scene &scene)
{
    int before = scene.collection->handed_on();
    scene.connection->setSelectable(1, 0);
    scene.say();
    scene.collection->scan_until_handed_on(before + 1);
    scene.connection->setSelectable(2, 0);
    scene.looks->await_another(scene.server->watch());
    scene.collection->scan_quietly();
    scene.hear();
    scene.connection->setSelectable(1, 0);
    scene.collection->scan_quietly();
    scene.connection->clearSelectable();
}

void who_peeks_has_it_alone(Scene &scene)
{
    int before = scene.collection->handed_on();
    bool peeked = false;
    scene.connection->setSelectable(1, 0);
    scene.collection->before([&] { peeked = scene.connection->Peek(); });
    scene.say();
    scene.collection->scan_until([&] { return peeked; }, "peek");
    check(scene.collection->handed_on() == before, "peeked, and handed on");
    scene.hear();
    scene.collection->scan_quietly();
}

/* Between the collection's look and its word another worker has read all, and wants to be told of more. */
void a_notice_that_is_late_is_taken_back(Scene &scene)
{
    int before = scene.collection->handed_on();
    bool begun = false;
    scene.connection->setSelectable(1, 0);
    scene.collection->before([&] {
        scene.hear();
        scene.connection->setSelectable(0, 0);
        begun = true;
    });
    scene.say();
    scene.collection->scan_until([&] { return begun; }, "nothing was seen");
    scene.collection->scan_quietly();
    check(scene.collection->handed_on() == before, "handed on what was read");
    scene.say();
    scene.collection->scan_until_handed_on(before + 1);
    scene.hear();
}

void what_omniorb_has_read_is_told_without_the_stream(Scene &scene)
{
    int before = scene.collection->handed_on();
    scene.connection->setSelectable(1, 1);
    scene.collection->scan_until_handed_on(before + 1);
    scene.connection->setSelectable(0, 1);
    check(scene.connection->Peek(), "peek");
    scene.collection->scan_quietly();
    check(!scene.connection->Peek(), "peek at what is not watched");
}

/* A watch that sleeps wakes up for who wants to be told, also when not at once, and for who calls. */
void a_watch_that_sleeps_is_woken(Scene &scene, const std::function<void()> &call, const char *what)
{
    Watch &watch = scene.server->watch();
    long before = watch.roused();
    /* It wakes up by itself now and then, too, and may have done so just before. */
    for (int tries = 0; watch.roused() == before && tries < 100; tries++) {
        auto end = std::chrono::steady_clock::now() + PATIENCE;
        while (!watch.is_drowsy() && std::chrono::steady_clock::now() < end)
            std::this_thread::yield();
        check(watch.is_drowsy(), "the watch does not sleep");
        call();
    }
    check(watch.roused() > before, what);
}

void who_needs_the_watch_wakes_it(Scene &scene)
{
    auto begin = [&] {
        scene.connection->setSelectable(0, 0);
        scene.connection->clearSelectable();
    };
    a_watch_that_sleeps_is_woken(scene, begin, "the watch sleeps on while a connection is waited for");
    auto call = [&] {
        char byte;
        omni_time_t passed(1);
        check(scene.connection->Recv(&byte, 1, passed) == 0, "read");
    };
    a_watch_that_sleeps_is_woken(scene, call, "the watch sleeps on while there are calls");
}

/* What found no room on its way leaves later, though the client calls nothing any more: its watch sees to it. */
void what_waits_in_a_silent_client_leaves(Scene &scene)
{
    auto holding = std::make_shared<Holding>();
    scene.server->watch().add(holding);
    while (!holding->is_held)
        std::this_thread::yield();
    long said = 0;
    std::size_t count;
    while (gridnet_stream_write(scene.caller, "x", 1, 0, &count) >= 0)
        said++;
    /* The stream itself has room for more: it is the path that is full, and the last word waits behind it. */
    check(said < 100000, "the path is never full");
    holding->is_over = true;
    unsigned long s, ns;
    omni_thread::get_time(&s, &ns, PATIENCE.count(), 0);
    omni_time_t deadline(s, ns);
    std::vector<char> bytes(said);
    for (int len; said > 0; said -= len) {
        len = scene.connection->Recv(bytes.data(), bytes.size(), deadline);
        check(len > 0, "the last word of a silent client has not come");
    }
}

/* Whether a thread of this process sleeps in the system. */
bool is_asleep(long thread)
{
    std::string text;
    std::getline(std::ifstream("/proc/self/task/" + std::to_string(thread) + "/stat"), text);
    std::size_t name = text.rfind(')');
    return name != std::string::npos && text.size() > name + 2 && text[name + 2] == 'S';
}

/* Who waits without a deadline is told when another thread ends the connection. */
void an_end_from_another_thread_is_told(const std::function<int(Connection &)> &wait, const char *what)
{
    Scene scene;
    std::atomic<long> waiter{0};
    std::atomic<bool> is_told{false};
    int outcome = 0;
    std::thread thread([&] {
        waiter = syscall(SYS_gettid);
        outcome = wait(*scene.connection);
        is_told = true;
    });
    auto until = [](const std::function<bool()> &is_so) {
        auto end = std::chrono::steady_clock::now() + PATIENCE;
        while (!is_so() && std::chrono::steady_clock::now() < end)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return is_so();
    };
    check(until([&] { return waiter != 0 && is_asleep(waiter); }) && !is_told, "nobody waits");
    scene.connection->Shutdown();
    check(until([&] { return is_told.load(); }), what);
    thread.join();
    check(outcome == -1, "a connection that was ended goes on");
}

void an_end_from_another_thread_is_told_to_all()
{
    auto receive = [](Connection &connection) {
        char byte;
        return connection.Recv(&byte, 1, omni_time_t());
    };
    an_end_from_another_thread_is_told(receive, "who receives is not told of the end");
    /* Nobody reads: first by frames, until the path is full, then as long ones go. */
    for (std::size_t size : {std::size_t(1000), std::size_t(400000), std::size_t(2000000)}) {
        std::vector<char> bytes(size);
        auto send = [&](Connection &connection) {
            int count;
            while ((count = connection.Send(bytes.data(), bytes.size(), omni_time_t())) > 0)
                ;
            return count;
        };
        an_end_from_another_thread_is_told(send, "who sends is not told of the end");
    }
}

gridnet_node node_of(std::size_t number)
{
    return gridnet_node{{static_cast<std::uint8_t>(number), static_cast<std::uint8_t>(number >> 8), 1}};
}

void strangers_are_remembered_for_a_while()
{
    Strangers all;
    auto now = Strangers::Clock::now();
    auto second = std::chrono::seconds(1);
    check(!all.has(node_of(1), now), "a stranger nobody has looked for");
    all.add(node_of(1), now);
    check(all.has(node_of(1), now + Strangers::MEMORY - second) && !all.has(node_of(2), now), "a stranger that is forgotten");
    check(!all.has(node_of(1), now + Strangers::MEMORY), "a stranger for ever");
    all.add(node_of(1), now + second);
    check(all.has(node_of(1), now + Strangers::MEMORY), "looked for again, and forgotten");
    all.remove(node_of(1));
    check(!all.has(node_of(1), now), "one that was found is a stranger");
    for (std::size_t number = 0; number <= Strangers::MOST; number++)
        all.add(node_of(number), now);
    check(!all.has(node_of(0), now) && all.has(node_of(1), now) && all.has(node_of(Strangers::MOST), now), "not the last ones");
}

} // namespace

int main()
{
    strangers_are_remembered_for_a_while();
    Scene scene;
    what_another_reads_is_not_told_again(scene);
    who_peeks_has_it_alone(scene);
    a_notice_that_is_late_is_taken_back(scene);
    what_omniorb_has_read_is_told_without_the_stream(scene);
    who_needs_the_watch_wakes_it(scene);
    what_waits_in_a_silent_client_leaves(scene);
    an_end_from_another_thread_is_told_to_all();
    std::cout << "parts right" << std::endl;
    /* What is left goes with the process, threads and all. */
    std::_Exit(0);
}
