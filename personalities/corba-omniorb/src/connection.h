/* A connection of omniORB over a stream of gridnet. */

#pragma once

#include "place.h"
#include "readiness.h"
#include "stream.h"

#include <SocketCollection.h>
#include <omniORB4/giopEndpoint.h>

namespace gridnet_giop {

class Connection : public omni::giopConnection, public omni::SocketHolder {
public:
    /* `mine` and `peers` are addresses, for rules and logs. */
    Connection(std::unique_ptr<Stream> stream, omni::SocketCollection &collection, const Place &mine, const Place &peers);
    ~Connection() override;

    int Send(void *data, size_t size, const omni_time_t &deadline) override;
    int Recv(void *data, size_t size, const omni_time_t &deadline) override;
    void Shutdown() override;
    const char *myaddress() override { return mine_.c_str(); }
    const char *peeraddress() override { return peers_.c_str(); }

    /* Called by omniORB for each call that it serves, so that it may look for the next one meanwhile: cheap, and without a system call as
     * a rule. */
    void setSelectable(int now, CORBA::Boolean data_in_buffer) override;
    void clearSelectable() override;
    CORBA::Boolean isSelectable() override { return 1; }
    CORBA::Boolean Peek() override;

    /* The collection has found the doorbell rung. Whether that is to be handed on. */
    bool noticed() { return readiness_->noticed(); }

private:
    std::unique_ptr<Stream> stream_;
    std::shared_ptr<Readiness> readiness_;
    std::string mine_, peers_;
};

} // namespace gridnet_giop
