//! What those may cost who have not said who they are: hellos, each of which makes this side sign, and lines of the log. Both are
//! limited by network, so that who has one address pays for all that go with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::rate::Rates;

/// Hellos of one network that are answered in a second, without those that were proved: as many as are heard at a time. A signature
/// takes some 50 us: that is 1 % of a core.
const HELLOS_PER_SECOND: u32 = 256;
/// Lines of one network in a second.
const LINES_PER_SECOND: u32 = 10;
/// Networks that have lines in a second.
const LINED_MAX: usize = 64;

/// The addresses that are in one hand with this one, by the first of them: an IPv6 network of 64 bits, all of the host's own.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        own if own.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// Limits hellos.
#[derive(Debug)]
pub(crate) struct Hellos(Mutex<Rates<IpAddr>>);

impl Default for Hellos {
    fn default() -> Hellos {
        Hellos(Mutex::new(Rates::new(HELLOS_PER_SECOND)))
    }
}

impl Hellos {
    fn rates(&self) -> MutexGuard<'_, Rates<IpAddr>> {
        // What is there is whole, whoever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a hello from there is answered.
    pub(crate) fn may_come(&self, from: IpAddr, now: Instant) -> bool {
        self.rates().allows(network(from), now)
    }

    /// One from there has proved who it is: that hello is not counted.
    pub(crate) fn proved(&self, from: IpAddr) {
        self.rates().give_back(&network(from));
    }

    /// Why others do not come.
    pub(crate) fn why() -> String {
        format!("more than {HELLOS_PER_SECOND} a second from there have not said who they are")
    }
}

/// Limits lines of the log.
#[derive(Debug)]
pub(crate) struct Lines {
    rates: Rates<IpAddr>,
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { rates: Rates::new(LINES_PER_SECOND).callers(LINED_MAX), left_out: 0 }
    }
}

impl Lines {
    /// Whether there is a line of somebody from there: what it ends with, which says how many there were not before it.
    pub(crate) fn next(&mut self, from: IpAddr, now: Instant) -> Option<String> {
        if !self.rates.allows(network(from), now) {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        match std::mem::take(&mut self.left_out) {
            0 => Some(String::new()),
            count => Some(format!(" ({count} more had no line)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_has_one_address_of_a_network_has_all() {
        for (one, other) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
            ("127.0.0.1", "127.255.3.4"),
            ("::1", "127.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(network(ip(one)), network(ip(other)));
        }
        for (one, other) in [("2001:db8:1:2::1", "2001:db8:1:3::1"), ("10.0.0.1", "10.0.0.2")] {
            assert_ne!(network(ip(one)), network(ip(other)));
        }
    }

    #[test]
    fn hellos_that_nobody_proves_are_limited_by_network() {
        let (hellos, now) = (Hellos::default(), Instant::now());
        let came = |n: u16| hellos.may_come(ip(&format!("2001:db8::{n:x}")), now);
        assert_eq!((0..1000).filter(|n| came(*n)).count(), HELLOS_PER_SECOND as usize);
        assert!(hellos.may_come(ip("2001:db8:0:1::1"), now), "another network");
        hellos.proved(ip("2001:db8::7"));
        assert!(came(1) && !came(2), "who has proved who it is has its hello back");
        // Of those who prove it any number comes.
        let proves = |_: &u32| {
            hellos.may_come(ip("10.0.0.1"), now) && {
                hellos.proved(ip("10.0.0.1"));
                true
            }
        };
        assert_eq!((0..10_000).filter(proves).count(), 10_000);
        (0..10).for_each(|_| hellos.proved(ip("10.0.0.1")));
        let more = (0..1000).filter(|_| hellos.may_come(ip("10.0.0.1"), now)).count();
        assert_eq!(more, HELLOS_PER_SECOND as usize, "no more is saved up");
    }

    #[test]
    fn lines_are_limited_and_what_is_left_out_is_counted() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let count = (0..1000).filter(|_| lines.next(ip("10.0.0.1"), now).is_some()).count();
        assert_eq!(count, LINES_PER_SECOND as usize);
        assert_eq!(lines.next(ip("10.0.0.2"), now).as_deref(), Some(" (990 more had no line)"));
        assert_eq!(lines.next(ip("10.0.0.2"), now).as_deref(), Some(""));
        let of_many =
            (0..1000u32).filter(|n| lines.next(Ipv4Addr::from(n + (20 << 24)).into(), now).is_some());
        assert_eq!(of_many.count(), LINED_MAX - 2, "however many networks there are");
        assert!(lines.next(ip("10.0.0.3"), now + Duration::from_secs(2)).is_some());
    }
}
