//! The seam to a network: how packets leave a device, and come to it.

use std::net::SocketAddr;

/// What a port had for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing for now.
    Nothing,
    /// A packet from this address.
    Packet(SocketAddr),
    /// A packet whose ICRC was wrong, or that was none: it is dropped and counted.
    Corrupt,
    /// The system refused, for now or for good: counted, and tried again in the next call of `progress`.
    Failed,
}

/// A port of a device: carries packets unreliably, in any order. Whoever implements it adds and checks the ICRC where packets go
/// over a network, as only it knows the addresses that it covers.
pub trait Port: Send {
    /// Where peers send to.
    fn address(&self) -> SocketAddr;

    /// Takes a packet, from BTH to padding, for the device at `to`; false when there is no room now, and then the packet is as it
    /// was. Otherwise its content is used up, and it leaves by the next call of [`flush`](Self::flush) at the latest. What cannot be sent at all is dropped, as a network would.
    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool;

    /// Puts the next packet, from BTH to padding, into `packet`, whose content is replaced.
    fn receive(&mut self, packet: &mut Vec<u8>) -> Received;

    /// Whether a packet for the device at `to` has room, as far as is known. Asked before the packet is made, so that a peer which
    /// takes nothing keeps packets for others from nothing.
    fn has_room(&mut self, _to: SocketAddr) -> bool {
        true
    }

    /// Lets leave what was sent since the last call, where packets are gathered. The device calls it when it has sent all that it could.
    /// False when the system takes no more for now, and this is to be called again.
    fn flush(&mut self) -> bool {
        true
    }

    /// The device is about to wait for the descriptor of this port, and calls nothing meanwhile. False when it must not, as
    /// something has come. Ports whose descriptor is readable in any case need not know.
    fn arm(&mut self) -> bool {
        true
    }

    /// Whether what came since [`Self::arm`] still makes the descriptor readable: not where the device has called meanwhile, which ends it.
    fn is_armed(&self) -> bool {
        true
    }
}

impl Port for Box<dyn Port> {
    fn address(&self) -> SocketAddr {
        (**self).address()
    }

    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        (**self).send(to, packet)
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        (**self).receive(packet)
    }

    fn has_room(&mut self, to: SocketAddr) -> bool {
        (**self).has_room(to)
    }

    fn flush(&mut self) -> bool {
        (**self).flush()
    }

    fn arm(&mut self) -> bool {
        (**self).arm()
    }

    fn is_armed(&self) -> bool {
        (**self).is_armed()
    }
}
