//! The addresses of this host, as the system tells them.

use std::net::IpAddr;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::time::Time;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::candidates::{octets, width};

/// How long what was read is taken for what is. To read it takes a few calls, and a rail may have hundreds of links that ask.
const FRESH_NS: u64 = 1_000_000_000;

/// The same, when a path has ended since: perhaps its address has gone. However many end, all are asked for once in so long.
const DOUBTED_NS: u64 = 50_000_000;

/// An address of this host.
#[derive(Debug)]
pub(crate) struct OwnAddress {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    /// Bits that its network has in common.
    pub(crate) prefix: u8,
    pub(crate) is_up: bool,
}

/// Reads all of them.
pub(crate) fn own_addresses() -> Result<Vec<OwnAddress>, Refusal> {
    let all = getifaddrs().map_err(|e| Refusal::new(Error::System, format!("getifaddrs: {}", e.desc())))?;
    let read = |storage: &nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        let v4 = storage.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| storage.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    Ok(all
        .filter_map(|found| {
            let ip = read(found.address.as_ref()?)?;
            let mask = found.netmask.as_ref().and_then(read);
            let ones = mask.map_or(width(ip), |mask| octets(mask).iter().map(|b| b.count_ones() as u8).sum());
            let is_up = found.flags.contains(InterfaceFlags::IFF_UP);
            Some(OwnAddress { name: found.interface_name, ip, prefix: ones, is_up })
        })
        .collect())
}

/// What was read last, for all links of a rail.
#[derive(Debug, Default)]
pub(crate) struct Own {
    addresses: Vec<OwnAddress>,
    read_at: Option<Time>,
    /// An address may have gone since.
    is_doubted: bool,
    /// How often it was read.
    #[cfg(test)]
    pub(crate) reads: u32,
}

impl Own {
    /// A path has ended.
    pub(crate) fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// The addresses of this host now, or a moment ago.
    pub(crate) fn addresses(&mut self, now: Time) -> &[OwnAddress] {
        let is_good_for = if self.is_doubted { DOUBTED_NS } else { FRESH_NS };
        if self.read_at.is_none_or(|at| now.since(at) >= is_good_for) {
            (self.read_at, self.is_doubted) = (Some(now), false);
            self.addresses = own_addresses().unwrap_or_default();
            #[cfg(test)]
            {
                self.reads += 1;
            }
        }
        &self.addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_serves_for_a_moment() {
        let mut own = Own::default();
        let ms = |ms: u64| Time(ms * 1_000_000);
        for (now, reads) in [(0, 1), (1, 1), (999, 1), (1000, 2), (1500, 2), (7000, 3)] {
            let found = own.addresses(ms(now)).iter().any(|own| own.ip.is_loopback());
            assert!(found, "each host has such an address");
            assert_eq!(own.reads, reads, "at {now} ms");
        }
        // A path ends, and hundreds of others with it.
        for (now, reads) in [(7040, 3), (7050, 4), (7060, 4), (7099, 4), (7100, 5)] {
            own.doubt();
            own.addresses(ms(now));
            assert_eq!(own.reads, reads, "at {now} ms");
        }
        own.addresses(ms(7200));
        assert_eq!(own.reads, 5, "nothing has ended since");
    }
}
