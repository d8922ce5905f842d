/* Takes calls for an endpoint's service, without ever waiting for a caller. */

#pragma once

#include "greeting.h"

namespace gridnet_giop {

class Acceptor : public Watched {
public:
    /* Begins to listen. Null: `fault` says why. */
    static std::shared_ptr<Acceptor> open(std::shared_ptr<Fabric> fabric, const std::string &service,
                                          std::shared_ptr<Arrivals> arrivals, Fault &fault);
    ~Acceptor() override;

    /* Takes no more calls. From any thread. */
    void close();

    bool look() override;
    bool is_waited_for() override { return true; }
    bool arm() override;
    int fd() override;

private:
    Acceptor(const std::shared_ptr<Fabric> &fabric, std::shared_ptr<Arrivals> arrivals);

    /* The fabric owns its watch, which knows this: so not the other way round. */
    std::weak_ptr<Fabric> fabric_;
    std::shared_ptr<Arrivals> arrivals_;
    std::mutex lock_;
    gridnet_listener *listener_ = nullptr;
};

} // namespace gridnet_giop
