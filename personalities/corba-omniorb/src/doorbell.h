/* A descriptor that omniORB's poll() watches: readable while it has been rung and not heard. */

#pragma once

namespace gridnet_giop {

class Doorbell {
public:
    Doorbell();
    ~Doorbell();
    Doorbell(const Doorbell &) = delete;
    Doorbell &operator=(const Doorbell &) = delete;

    /* -1 when the process has no descriptors left. */
    int fd() const { return fd_; }

    void ring() const;

    /* Makes it quiet. */
    void hear() const;

    /* Waits until it rings, at most so many milliseconds (negative: for ever), and makes it quiet. */
    void wait(int timeout_ms) const;

private:
    int fd_;
};

} // namespace gridnet_giop
