/* trial_server FILE [linger] [-ORB...]: writes its reference to FILE, and serves until it is told to stop. With linger it says then that it is
 * over, and keeps its ORB until FILE is removed. */

#include "memory.h"
#include "poa.h"
#include "trial.hh"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <unistd.h>

namespace {

class Server : public POA_Trial::Server {
public:
    explicit Server(CORBA::ORB_ptr orb) : orb_(CORBA::ORB::_duplicate(orb)) {}

    CORBA::Long add(CORBA::Long a, CORBA::Long b) override { return a + b; }
    Trial::Bytes *echo(const Trial::Bytes &data) override { return new Trial::Bytes(data); }
    void tell(CORBA::Long number) override { told_ += number; }
    CORBA::Long told() override { return told_; }

    void call_back(Trial::Listener_ptr who, CORBA::Long times) override
    {
        for (CORBA::Long i = 1; i <= times; i++)
            who->heard(i);
    }

    void hold(CORBA::ULong ms) override
    {
        std::cout << "holding" << std::endl;
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    }

    void mark() override { getppid(); }
    CORBA::ULongLong memory() override { return allocated_bytes(); }

    void stop() override { orb_->shutdown(0); }

private:
    CORBA::ORB_var orb_;
    std::atomic<CORBA::Long> told_{0};
};

} // namespace

int main(int argc, char **argv)
{
    try {
        CORBA::ORB_var orb = CORBA::ORB_init(argc, argv);
        bool lingers = argc == 3 && std::string(argv[2]) == "linger";
        if (argc != 2 && !lingers)
            return 2;
        PortableServer::POA_var poa = both_ways(orb);
        PortableServer::Servant_var<Server> servant = new Server(orb);
        PortableServer::ObjectId_var id = poa->activate_object(servant);
        CORBA::Object_var object = poa->id_to_reference(id);
        CORBA::String_var reference = orb->object_to_string(object);
        /* Colocated: what the reference leads to is this process, and no connection is made. */
        object = orb->string_to_object(reference);
        Trial::Server_var self = Trial::Server::_narrow(object);
        if (self->add(2, 3) != 5)
            return 1;
        self = Trial::Server::_nil();
        std::string name = argv[1];
        std::ofstream(name + ".new") << reference;
        /* It is there whole, or not at all. */
        std::rename((name + ".new").c_str(), name.c_str());
        orb->run();
        if (lingers) {
            std::cout << "over" << std::endl;
            while (std::ifstream(name).good())
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        orb->destroy();
        return 0;
    } catch (const CORBA::SystemException &error) {
        std::cout << "exception " << error._name() << std::endl;
        return 3;
    }
}
