//! Where peers call: one socket for each address of this host that is used, all with the same port.

use std::net::{IpAddr, SocketAddr};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::NetAddresses;
use socket2::Socket;

use crate::config::{PortRange, Tuning};
use crate::socket::listen_at;

/// Ports that the system proposes before we give up: each is free at one address, and may be taken at the others.
const PROPOSALS: usize = 32;

/// The sockets that listen.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) sockets: Vec<Socket>,
    /// Where each of them listens.
    ips: Vec<IpAddr>,
    pub(crate) addresses: NetAddresses,
}

impl Listeners {
    /// The address at which the socket of this place listens.
    pub(crate) fn ip(&self, place: u32) -> Option<IpAddr> {
        self.ips.get(place as usize).copied()
    }

    /// Listens at all of `addresses` that can be told to others, never at all addresses of the host at once.
    ///
    /// # Errors
    /// [`Error::Limit`] when no port is free at all of them, [`Error::System`] when the system refuses.
    pub(crate) fn open(
        addresses: &[IpAddr],
        ports: Option<PortRange>,
        tuning: &Tuning,
    ) -> Result<Listeners, Refusal> {
        // Any port but 0 will do to learn which there is room for.
        let told: Vec<IpAddr> =
            NetAddresses::new(1, addresses.iter().copied()).iter().map(|a| a.ip()).collect();
        let mut last = None;
        let proposals: Box<dyn Iterator<Item = u16>> = match ports {
            Some(range) => Box::new(range.shuffled()),
            None => Box::new(std::iter::repeat_n(0, PROPOSALS)),
        };
        for port in proposals {
            match listen_at_all(&told, port, tuning) {
                Ok((listening, port)) => {
                    let (ips, sockets): (Vec<IpAddr>, Vec<Socket>) = listening.into_iter().unzip();
                    let addresses = NetAddresses::new(port, ips.iter().copied());
                    return Ok(Listeners { sockets, ips, addresses });
                }
                Err((at, e)) if e.kind() == std::io::ErrorKind::AddrInUse => last = Some((at, e)),
                Err((at, e)) => return Err(Refusal::new(Error::System, format!("listening at {at}: {e}"))),
            }
        }
        let range = ports.map_or(String::new(), |range| {
            format!(" of {} to {} (GRIDNET_NET_PORTS)", range.first(), range.last())
        });
        let example = last.map_or(String::new(), |(at, e)| format!(", as at {at}: {e}"));
        Err(Refusal::new(Error::Limit, format!("every port{range} is taken{example}")))
    }
}

type At = (SocketAddr, std::io::Error);

/// Listens at all addresses with one port; the system chooses it when it is 0. An address that is just coming or going is left
/// out, unless it is the only one.
fn listen_at_all(
    addresses: &[IpAddr],
    port: u16,
    tuning: &Tuning,
) -> Result<(Vec<(IpAddr, Socket)>, u16), At> {
    let mut port = port;
    let mut listening = Vec::new();
    let mut left_out = None;
    for ip in addresses {
        let at = SocketAddr::new(*ip, port);
        match listen_at(at, tuning) {
            Ok(socket) => {
                port = socket.local_addr().ok().and_then(|a| a.as_socket()).map_or(port, |a| a.port());
                listening.push((*ip, socket));
            }
            Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => left_out = Some((at, e)),
            Err(e) => return Err((at, e)),
        }
    }
    match left_out {
        Some(why) if listening.is_empty() => Err(why),
        _ => Ok((listening, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_have_one_port_and_none_is_everybodys() {
        let ips: Vec<IpAddr> = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().unwrap()).into();
        let listeners = Listeners::open(&ips, None, &Tuning::default()).unwrap();
        assert_eq!(listeners.sockets.len(), 3);
        let at: Vec<SocketAddr> =
            listeners.sockets.iter().map(|s| s.local_addr().unwrap().as_socket().unwrap()).collect();
        assert_eq!(at, listeners.addresses.iter().collect::<Vec<_>>());
        assert!(at.iter().all(|a| a.port() == at[0].port() && !a.ip().is_unspecified()));
        // The port is taken now, and no other is allowed.
        let only = PortRange::new(at[0].port(), at[0].port());
        let refusal = Listeners::open(&ips, only, &Tuning::default()).unwrap_err();
        assert_eq!(refusal.error, Error::Limit);
        assert!(refusal.reason.contains("is taken"), "{}", refusal.reason);
    }
}
