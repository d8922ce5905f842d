/* A POA whose objects may be called over connections that their own process has made. */

#pragma once

#include <omniORB4/CORBA.h>

inline PortableServer::POA_ptr both_ways(CORBA::ORB_ptr orb)
{
    CORBA::Object_var object = orb->resolve_initial_references("RootPOA");
    PortableServer::POA_var root = PortableServer::POA::_narrow(object);
    PortableServer::POAManager_var manager = root->the_POAManager();
    manager->activate();
    CORBA::Any both;
    both <<= BiDirPolicy::BOTH;
    CORBA::PolicyList policies(1);
    policies.length(1);
    policies[0] = orb->create_policy(BiDirPolicy::BIDIRECTIONAL_POLICY_TYPE, both);
    return root->create_POA("both ways", manager, policies);
}
