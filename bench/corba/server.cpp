/* bench_server FILE [-ORB...]: writes its reference to FILE, and serves until it is told to stop. */

#include "bench.hh"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

namespace {

class Server : public POA_Bench::Server {
public:
    explicit Server(CORBA::ORB_ptr orb) : orb_(CORBA::ORB::_duplicate(orb)) {}
    void ping() override {}
    void put(const Bench::Bytes &) override {}

    Bench::Bytes *get(CORBA::ULong size) override
    {
        auto *data = new Bench::Bytes(size);
        data->length(size);
        return data;
    }

    void stop() override { orb_->shutdown(0); }

private:
    CORBA::ORB_var orb_;
};

} // namespace

int main(int argc, char **argv)
{
    try {
        CORBA::ORB_var orb = CORBA::ORB_init(argc, argv);
        if (argc != 2)
            return 2;
        CORBA::Object_var object = orb->resolve_initial_references("RootPOA");
        PortableServer::POA_var poa = PortableServer::POA::_narrow(object);
        PortableServer::Servant_var<Server> servant = new Server(orb);
        PortableServer::ObjectId_var id = poa->activate_object(servant);
        object = poa->id_to_reference(id);
        CORBA::String_var reference = orb->object_to_string(object);
        std::string name = argv[1];
        std::ofstream(name + ".new") << reference;
        std::rename((name + ".new").c_str(), name.c_str());
        poa->the_POAManager()->activate();
        orb->run();
        orb->destroy();
        return 0;
    } catch (const CORBA::SystemException &error) {
        std::cerr << "exception " << error._name() << "\n";
        return 3;
    }
}
