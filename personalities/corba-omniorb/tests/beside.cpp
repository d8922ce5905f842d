/* beside WHO SECONDS LEAST [-ORB...], started by an MPI with two ranks: MPI and CORBA in one process. WHO names the users of the network, with plus
 * signs between them: ping (MPI, 8 bytes there and back), bulk (MPI, 1 MiB one way) and call (CORBA). All work at one time, for SECONDS,
 * and until each has done LEAST. Rank 0 asks, rank 1 answers; both check what they get. Prints what each has done, and how long one took. */

#include "poa.h"
#include "trial.hh"

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

enum Tag { REFERENCE = 1, PING, PONG, BULK, STOP };

/* Messages of bulk under way at a time. */
constexpr int WINDOW = 2;
constexpr int BULK_WORDS = (1 << 20) / 8;

void check(bool right, const char *what)
{
    if (right)
        return;
    std::printf("wrong: %s\n", what);
    std::fflush(stdout);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* What one user of the network has done: written by its own thread; the others read how much it is. */
class Done {
public:
    void one(Clock::time_point begin)
    {
        us_.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
        count_.store(static_cast<long>(us_.size()), std::memory_order_relaxed);
    }

    long count() const { return count_.load(std::memory_order_relaxed); }

    void print(const char *name, double seconds)
    {
        std::sort(us_.begin(), us_.end());
        std::printf("%s %ld in %.3f s, p50 %.2f us, p99 %.2f us\n", name, count(), seconds, at(0.5), at(0.99));
    }

private:
    double at(double share) const { return us_.empty() ? 0 : us_[static_cast<size_t>(share * static_cast<double>(us_.size() - 1))]; }

    std::vector<double> us_;
    std::atomic<long> count_{0};
};

struct Plan {
    bool pings, bulk, calls;
    double seconds;
    long least;
};

/* A word that tells its message and its place. */
uint64_t word(long message, int place) { return static_cast<uint64_t>(message) << 32 | static_cast<uint32_t>(place); }

/* Large messages, a few under way at a time. */
class Sender {
public:
    explicit Sender(bool used)
    {
        for (int i = 0; used && i < WINDOW; i++) {
            data_[i].resize(BULK_WORDS);
            begin(i);
        }
    }

    /* Takes note of what has been sent, and goes on; with `wait`, it waits for one. */
    void turn(bool wait)
    {
        int which, ended = 1;
        if (wait)
            MPI_Waitany(WINDOW, requests_, &which, MPI_STATUS_IGNORE);
        else
            MPI_Testany(WINDOW, requests_, &which, &ended, MPI_STATUS_IGNORE);
        if (!ended || which == MPI_UNDEFINED)
            return;
        done.one(began_[which]);
        begin(which);
    }

    /* Waits for all, and says how many there were. */
    long end()
    {
        MPI_Waitall(WINDOW, requests_, MPI_STATUSES_IGNORE);
        return begun_;
    }

    Done done;

private:
    void begin(int which)
    {
        for (int place = 0; place < BULK_WORDS; place += 512)
            data_[which][place] = word(begun_, place);
        began_[which] = Clock::now();
        MPI_Isend(data_[which].data(), BULK_WORDS, MPI_UINT64_T, 1, BULK, MPI_COMM_WORLD, &requests_[which]);
        begun_++;
    }

    std::vector<uint64_t> data_[WINDOW];
    MPI_Request requests_[WINDOW] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    Clock::time_point began_[WINDOW];
    long begun_ = 0;
};

void ping(Done &done)
{
    int64_t there = done.count(), back = -1;
    Clock::time_point begin = Clock::now();
    MPI_Send(&there, 1, MPI_INT64_T, 1, PING, MPI_COMM_WORLD);
    MPI_Recv(&back, 1, MPI_INT64_T, 1, PONG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    done.one(begin);
    check(back == there + 1, "answer to a ping");
}

void call(Trial::Server_ptr server, const std::atomic<bool> &stop, Done &done)
{
    try {
        while (!stop) {
            CORBA::Long number = static_cast<CORBA::Long>(done.count());
            Clock::time_point begin = Clock::now();
            CORBA::Long sum = server->add(number, 1);
            done.one(begin);
            check(sum == number + 1, "sum");
        }
    } catch (const CORBA::SystemException &error) {
        check(false, error._name());
    }
}

Trial::Server_ptr received_reference(CORBA::ORB_ptr orb)
{
    MPI_Status status;
    int length;
    MPI_Probe(1, REFERENCE, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_CHAR, &length);
    std::string text(static_cast<size_t>(length), '\0');
    MPI_Recv(text.data(), length, MPI_CHAR, 1, REFERENCE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CORBA::Object_var object = orb->string_to_object(text.c_str());
    return Trial::Server::_narrow(object);
}

/* Rank 0. */
void ask(CORBA::ORB_ptr orb, const Plan &plan)
{
    Trial::Server_var server = received_reference(orb);
    std::atomic<bool> stop{false};
    Done pings, calls;
    std::printf("begins in process %d\n", static_cast<int>(getpid()));
    std::fflush(stdout);
    Clock::time_point begin = Clock::now();
    auto took = [begin] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    Sender bulk(plan.bulk);
    std::thread caller;
    if (plan.calls)
        caller = std::thread(call, server.in(), std::cref(stop), std::ref(calls));
    auto is_done = [&plan](bool used, const Done &done) { return !used || done.count() >= plan.least; };
    while (took() < plan.seconds || !is_done(plan.pings, pings) || !is_done(plan.bulk, bulk.done) || !is_done(plan.calls, calls)) {
        if (plan.pings)
            ping(pings);
        if (plan.bulk)
            bulk.turn(!plan.pings);
        if (!plan.pings && !plan.bulk)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    double seconds = took();
    stop = true;
    if (caller.joinable())
        caller.join();
    long sent = bulk.end();
    MPI_Send(&sent, 1, MPI_LONG, 1, STOP, MPI_COMM_WORLD);
    pings.print("ping", seconds);
    bulk.done.print("bulk", seconds);
    calls.print("call", seconds);
}

class Adder : public POA_Trial::Server {
public:
    CORBA::Long add(CORBA::Long a, CORBA::Long b) override { return a + b; }
    Trial::Bytes *echo(const Trial::Bytes &data) override { return new Trial::Bytes(data); }
    void tell(CORBA::Long) override {}
    CORBA::Long told() override { return 0; }
    void call_back(Trial::Listener_ptr, CORBA::Long) override {}
    void hold(CORBA::ULong) override {}
    void mark() override {}
    CORBA::ULongLong memory() override { return 0; }
    void stop() override {}
};

/* What rank 1 waits for. */
class Answers {
public:
    Answers()
    {
        MPI_Irecv(&ping_, 1, MPI_INT64_T, 0, PING, MPI_COMM_WORLD, &requests_[WINDOW]);
        MPI_Irecv(&sent_, 1, MPI_LONG, 0, STOP, MPI_COMM_WORLD, &requests_[WINDOW + 1]);
        for (int i = 0; i < WINDOW; i++) {
            data_[i].resize(BULK_WORDS);
            expect(i);
        }
    }

    void run()
    {
        while (!stopped_ || taken_ < sent_) {
            int which;
            MPI_Waitany(WINDOW + 2, requests_, &which, MPI_STATUS_IGNORE);
            if (which == WINDOW)
                answer();
            else if (which == WINDOW + 1)
                stopped_ = true;
            else
                take(which);
        }
        for (MPI_Request &one : requests_) {
            if (one == MPI_REQUEST_NULL)
                continue;
            MPI_Cancel(&one);
            MPI_Wait(&one, MPI_STATUS_IGNORE);
        }
    }

private:
    void expect(int which)
    {
        numbers_[which] = expected_++;
        MPI_Irecv(data_[which].data(), BULK_WORDS, MPI_UINT64_T, 0, BULK, MPI_COMM_WORLD, &requests_[which]);
    }

    void take(int which)
    {
        for (int place = 0; place < BULK_WORDS; place += 512)
            check(data_[which][place] == word(numbers_[which], place), "a word of bulk");
        taken_++;
        expect(which);
    }

    void answer()
    {
        int64_t back = ping_ + 1;
        MPI_Irecv(&ping_, 1, MPI_INT64_T, 0, PING, MPI_COMM_WORLD, &requests_[WINDOW]);
        MPI_Send(&back, 1, MPI_INT64_T, 0, PONG, MPI_COMM_WORLD);
    }

    std::vector<uint64_t> data_[WINDOW];
    long numbers_[WINDOW];
    MPI_Request requests_[WINDOW + 2];
    int64_t ping_ = 0;
    long sent_ = 0, taken_ = 0, expected_ = 0;
    bool stopped_ = false;
};

/* Rank 1. */
void answer(CORBA::ORB_ptr orb)
{
    CORBA::Object_var found = orb->resolve_initial_references("RootPOA");
    PortableServer::POA_var poa = PortableServer::POA::_narrow(found);
    PortableServer::POAManager_var manager = poa->the_POAManager();
    manager->activate();
    PortableServer::Servant_var<Adder> servant = new Adder;
    PortableServer::ObjectId_var id = poa->activate_object(servant);
    CORBA::Object_var object = poa->id_to_reference(id);
    CORBA::String_var reference = orb->object_to_string(object);
    std::string text(reference.in());
    MPI_Send(text.data(), static_cast<int>(text.size()), MPI_CHAR, 0, REFERENCE, MPI_COMM_WORLD);
    Answers().run();
}

Plan plan(char **argv)
{
    std::string who = std::string("+") + argv[1] + "+";
    auto has = [&who](const char *one) { return who.find(std::string("+") + one + "+") != std::string::npos; };
    return {has("ping"), has("bulk"), has("call"), std::atof(argv[2]), std::atol(argv[3])};
}

} // namespace

int main(int argc, char **argv)
{
    int level, rank, ranks;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    check(level >= MPI_THREAD_FUNNELED, "level of threads");
    try {
        CORBA::ORB_var orb = CORBA::ORB_init(argc, argv);
        check(argc == 4 && ranks == 2, "beside WHO SECONDS LEAST, in two ranks");
        if (rank == 0)
            ask(orb, plan(argv));
        else
            answer(orb);
        MPI_Barrier(MPI_COMM_WORLD);
        orb->destroy();
    } catch (const CORBA::SystemException &error) {
        check(false, error._name());
    }
    MPI_Finalize();
    return 0;
}
