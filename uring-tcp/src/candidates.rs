//! Addresses: which of this host's are used, and in which order those of a peer are tried.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;

use crate::own::{own_addresses, OwnAddress};
use crate::socket::source_towards;

/// Interfaces with such names lead to containers and virtual machines of this host: others would not get there.
const INNER: [&str; 10] =
    ["docker", "veth", "br-", "virbr", "cni", "flannel", "cali", "podman", "lxc", "kube"];

/// Which addresses of this host are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    rules: Vec<Rule>,
    /// Own addresses that are known to be used: looking for them takes longer than connecting does.
    known: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// All of the interface of this name.
    Name(String),
    /// All of the network of this prefix.
    Network(IpAddr, u8),
}

impl Interfaces {
    /// Those that lead to other hosts, as far as one can tell.
    pub const AUTOMATIC: Interfaces = Interfaces { rules: Vec::new(), known: Vec::new() };

    /// Reads names of interfaces, addresses and networks (`10.1.0.0/16`), with commas between them; nothing at all is
    /// [`Self::AUTOMATIC`]. `None` for what is none of these.
    pub fn parse(text: &str) -> Option<Interfaces> {
        if text.is_empty() {
            return Some(Interfaces::AUTOMATIC);
        }
        let rules = text.split(',').map(|item| Rule::parse(item.trim())).collect::<Option<_>>()?;
        Some(Interfaces { rules, known: Vec::new() })
    }

    /// True when nothing was asked for.
    pub fn is_automatic(&self) -> bool {
        self.rules.is_empty()
    }

    /// The addresses of this host that are used, IPv4 first, each kind in the order of the system.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none, with the reason for each.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Refusal> {
        let all = own_addresses()?;
        let mut chosen: Vec<IpAddr> = Vec::new();
        let mut reasons = Vec::new();
        for own in &all {
            match self.judge(own) {
                Ok(()) if !chosen.contains(&own.ip) => chosen.push(own.ip),
                Ok(()) => {}
                Err(why) => reasons.push(format!("{} {} {why}", own.name, own.ip)),
            }
        }
        if chosen.is_empty() {
            let asked = if self.is_automatic() { "" } else { " that GRIDNET_NET_INTERFACES allows" };
            let mut why = format!("no usable network address{asked}");
            if !reasons.is_empty() {
                why += &format!(" ({})", reasons.join("; "));
            }
            if self.is_automatic() {
                why += ": GRIDNET_NET_INTERFACES=lo uses the loopback interface";
            }
            return Err(Refusal::new(Error::Config, why));
        }
        chosen.sort_by_key(|ip| ip.is_ipv6());
        Ok(chosen)
    }

    /// Takes note of what [`Self::addresses`] has found.
    pub(crate) fn remember(&mut self, addresses: &[IpAddr]) {
        self.known = addresses.to_vec();
    }

    /// Number of the interfaces whose addresses are known to be used, and that lead to other hosts.
    pub(crate) fn count(&self) -> usize {
        let own = own_addresses().unwrap_or_default();
        let is_used = |own: &&OwnAddress| !own.ip.is_loopback() && self.known.contains(&own.ip);
        let used = own.iter().filter(is_used).map(|own| own.name.as_str());
        used.collect::<std::collections::HashSet<_>>().len()
    }

    /// Whether this host may be left towards `to`.
    pub(crate) fn allows_way_to(&self, to: SocketAddr) -> bool {
        // An own address is reached from itself.
        if self.is_automatic() || self.known.contains(&to.ip()) {
            return true;
        }
        source_towards(to).is_some_and(|ip| self.allows_source(ip))
    }

    fn allows_source(&self, ip: IpAddr) -> bool {
        if self.known.contains(&ip) {
            return true;
        }
        own_addresses().is_ok_and(|all| all.iter().any(|own| own.ip == ip && self.judge(own).is_ok()))
    }

    fn judge(&self, own: &OwnAddress) -> Result<(), &'static str> {
        if !own.is_up {
            return Err("is down");
        }
        // An address of this kind means nothing without the interface, for which there is no room where it is told.
        if matches!(own.ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err("is link-local");
        }
        if !self.is_automatic() {
            let allowed = self.rules.iter().any(|rule| rule.covers(own));
            return if allowed { Ok(()) } else { Err("was not asked for") };
        }
        match own.ip {
            ip if ip.is_loopback() => Err("is loopback"),
            IpAddr::V4(v4) if v4.is_link_local() => Err("is link-local"),
            ip if ip.is_unspecified() || ip.is_multicast() => Err("is no address of a host"),
            _ if INNER.iter().any(|prefix| own.name.starts_with(prefix)) => Err("leads to containers"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.rules.iter().map(Rule::to_string).collect();
        f.pad(&items.join(","))
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Rule> {
        if let Some((ip, bits)) = text.split_once('/') {
            let (ip, bits) = (ip.parse::<IpAddr>().ok()?, bits.parse().ok()?);
            return (bits <= width(ip)).then_some(Rule::Network(ip, bits));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Rule::Network(ip, width(ip)));
        }
        // Names of interfaces are at most 15 bytes (IFNAMSIZ).
        let is_name = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ',' | ':' | '^' | '*');
        (!text.is_empty() && text.len() <= 15 && text.chars().all(is_name))
            .then(|| Rule::Name(text.to_owned()))
    }

    fn covers(&self, own: &OwnAddress) -> bool {
        match self {
            Rule::Name(name) => *name == own.name,
            Rule::Network(network, bits) => shares_prefix(*network, own.ip, *bits),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Name(name) => f.write_str(name),
            Rule::Network(ip, bits) if *bits == width(*ip) => write!(f, "{ip}"),
            Rule::Network(ip, bits) => write!(f, "{ip}/{bits}"),
        }
    }
}

/// The order in which the addresses of a peer are tried: first those in a network of ours, then as the peer lists them; on this
/// host IPv4 first, which takes the kernel less.
pub(crate) fn in_order(of_peer: impl Iterator<Item = SocketAddr>, used: &Interfaces) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = of_peer.collect();
    if all.iter().all(|to| used.known.contains(&to.ip())) {
        all.sort_by_key(SocketAddr::is_ipv6);
        return all;
    }
    let own = own_addresses().unwrap_or_default();
    let is_near = |to: &SocketAddr| own.iter().any(|own| shares_prefix(own.ip, to.ip(), own.prefix));
    all.sort_by_key(|to| !is_near(to));
    all
}

/// Pairs of addresses between which further paths to a peer may lead: each of another interface of this host, and to another
/// address of the peer, than those of `taken` and of one another. First those in a network of ours. None to this host, and none with
/// an address of a loopback interface, which leads to no other.
pub(crate) fn further_pairs(
    own: &[OwnAddress],
    taken: &[(IpAddr, IpAddr)],
    there: impl Iterator<Item = SocketAddr>,
    used: &Interfaces,
) -> Vec<(IpAddr, SocketAddr)> {
    pairs_of(own, taken, there.collect(), |own| used.judge(own).is_ok())
}

fn pairs_of(
    own: &[OwnAddress],
    taken: &[(IpAddr, IpAddr)],
    there: Vec<SocketAddr>,
    may_be_used: impl Fn(&OwnAddress) -> bool,
) -> Vec<(IpAddr, SocketAddr)> {
    let mut left = there;
    // Each host has these, and they say nothing about which it is.
    left.retain(|to| !to.ip().is_loopback());
    if left.iter().any(|to| own.iter().any(|own| own.ip == to.ip())) {
        return Vec::new();
    }
    let is_taken = |own: &&OwnAddress| taken.iter().any(|(from, _)| *from == own.ip);
    let mut busy: Vec<&str> = own.iter().filter(is_taken).map(|own| own.name.as_str()).collect();
    left.retain(|to| taken.iter().all(|(_, taken)| *taken != to.ip()));
    let mut pairs = Vec::new();
    for is_near in [true, false] {
        for own in own.iter().filter(|own| !own.ip.is_loopback() && may_be_used(own)) {
            let fits = |to: &SocketAddr| {
                to.is_ipv4() == own.ip.is_ipv4() && (!is_near || shares_prefix(own.ip, to.ip(), own.prefix))
            };
            let Some(at) = left.iter().position(fits).filter(|_| !busy.contains(&own.name.as_str())) else {
                continue;
            };
            busy.push(&own.name);
            pairs.push((own.ip, left.remove(at)));
        }
    }
    pairs
}

pub(crate) fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() {
        32
    } else {
        128
    }
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Whether two addresses of one kind have their first `bits` bits in common.
fn shares_prefix(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let number = |ip: IpAddr| octets(ip).iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    let differing = number(one) ^ number(other);
    one.is_ipv4() == other.is_ipv4()
        && differing.checked_shr(u32::from(width(one).saturating_sub(bits))).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, ip: &str) -> OwnAddress {
        OwnAddress { name: name.into(), ip: ip.parse().unwrap(), prefix: 24, is_up: true }
    }

    #[test]
    fn what_leads_nowhere_is_used_only_when_it_is_asked_for() {
        let inner = [("lo", "127.0.0.1"), ("docker0", "172.17.0.1"), ("eth0", "169.254.3.4")];
        for (name, ip) in inner {
            assert!(Interfaces::AUTOMATIC.judge(&own(name, ip)).is_err(), "{name} {ip}");
            assert!(Interfaces::parse(name).unwrap().judge(&own(name, ip)).is_ok(), "{name} {ip}");
        }
        assert!(Interfaces::parse("eth0").unwrap().judge(&own("eth0", "fe80::1")).is_err());
        for (name, ip) in [("eth0", "192.168.7.1"), ("ib0", "fd00::2"), ("wlan0", "8.8.8.8")] {
            assert_eq!(Interfaces::AUTOMATIC.judge(&own(name, ip)), Ok(()));
        }
        let down = OwnAddress { is_up: false, ..own("eth0", "10.0.0.1") };
        assert!(Interfaces::AUTOMATIC.judge(&down).is_err());
    }

    #[test]
    fn networks_addresses_and_names_are_told_apart() {
        let some = Interfaces::parse("eth0, 10.1.0.0/16,fd00::2,lo").unwrap();
        assert_eq!(some.to_string(), "eth0,10.1.0.0/16,fd00::2,lo");
        for (name, ip, allowed) in [
            ("eth0", "1.2.3.4", true),
            ("eth1", "10.1.255.9", true),
            ("eth1", "10.2.0.1", false),
            ("eth1", "fd00::2", true),
            ("eth1", "fd00::3", false),
            ("lo", "::1", true),
        ] {
            assert_eq!(some.judge(&own(name, ip)).is_ok(), allowed, "{name} {ip}");
        }
        for bad in [",", "eth0,", "10.0.0.0/33", "a name", "much-too-long-a-name", "^eth0", "10.0.0.0/x"] {
            assert_eq!(Interfaces::parse(bad), None, "{bad:?}");
        }
        assert!(Interfaces::parse("").unwrap().is_automatic());
    }

    #[test]
    fn prefixes_are_compared_bit_by_bit() {
        let shares = |a: &str, b: &str, bits| shares_prefix(a.parse().unwrap(), b.parse().unwrap(), bits);
        assert!(shares("10.0.0.1", "10.0.0.255", 24) && !shares("10.0.0.1", "10.0.1.0", 24));
        assert!(shares("10.0.0.1", "10.0.1.0", 23) && shares("1.1.1.1", "9.9.9.9", 0));
        assert!(shares("::1", "ffff::", 0) && !shares("::1", "::2", 128) && !shares("::1", "0.0.0.1", 0));
    }

    #[test]
    fn on_this_host_ipv4_is_first_and_elsewhere_the_peer_says() {
        let there: Vec<SocketAddr> = ["[::1]:7", "127.0.0.1:7"].map(|at| at.parse().unwrap()).into();
        let mut used = Interfaces::parse("127.0.0.1,::1").unwrap();
        used.remember(&["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
        assert_eq!(in_order(there.iter().copied(), &used), [there[1], there[0]]);
        let far: Vec<SocketAddr> = ["[2001:db8::1]:7", "203.0.113.7:7"].map(|at| at.parse().unwrap()).into();
        assert_eq!(in_order(far.iter().copied(), &used), far);
    }

    #[test]
    fn each_further_path_has_its_own_interface_and_address() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let own: Vec<OwnAddress> = [
            ("eth0", "10.0.0.1"),
            ("eth0", "10.0.9.1"),
            ("eth1", "10.0.1.1"),
            ("eth2", "10.0.2.1"),
            ("eth1", "fd00::1"),
        ]
        .map(|(name, ip)| self::own(name, ip))
        .into();
        let pairs = |taken: &[(&str, &str)], there: &[&str]| -> Vec<(String, String)> {
            let taken: Vec<_> = taken.iter().map(|(a, b)| (ip(a), ip(b))).collect();
            let there = there.iter().map(|to| SocketAddr::new(ip(to), 7)).collect();
            let found = pairs_of(&own, &taken, there, |own| own.name != "eth2");
            found.into_iter().map(|(a, b)| (a.to_string(), b.ip().to_string())).collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let first = [("10.0.0.1", "10.0.0.2")];
        assert_eq!(pairs(&first, &["10.0.0.2", "10.0.1.2"]), [pair("10.0.1.1", "10.0.1.2")]);
        // A further address of the same interface is none of another one.
        assert_eq!(pairs(&first, &["10.0.0.2"]), []);
        assert_eq!(
            pairs(&[("10.0.1.1", "10.0.1.2")], &["10.0.1.2", "10.0.9.2"]),
            [pair("10.0.9.1", "10.0.9.2")]
        );
        // Whoever is far is reached from wherever there is an interface left.
        assert_eq!(pairs(&first, &["10.0.0.2", "192.0.2.7", "192.0.2.8"]), [pair("10.0.1.1", "192.0.2.7")]);
        assert_eq!(pairs(&first, &["10.0.0.2", "fd00::2"]), [pair("fd00::1", "fd00::2")]);
        assert_eq!(pairs(&first, &["10.0.0.2", "10.0.1.1"]), [], "it is this host");
        // The first path is between addresses that are gone.
        let gone = [("10.0.7.1", "10.0.7.2")];
        let both = [pair("10.0.0.1", "10.0.0.2"), pair("10.0.1.1", "10.0.1.2")];
        assert_eq!(pairs(&gone, &["10.0.7.2", "10.0.0.2", "10.0.1.2"]), both);
    }

    #[test]
    fn the_loopback_interface_leads_to_no_other_host() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let own: Vec<OwnAddress> =
            [("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "10.0.0.1"), ("eth1", "10.0.1.1")]
                .map(|(name, ip)| self::own(name, ip))
                .into();
        let used = Interfaces::parse("lo,eth0,eth1").unwrap();
        let pairs = |there: &[&str]| {
            let there = there.iter().map(|to| SocketAddr::new(ip(to), 7));
            further_pairs(&own, &[(ip("10.0.0.1"), ip("10.0.0.2"))], there, &used)
        };
        assert_eq!(pairs(&["10.0.0.2", "192.0.2.7"]), [(ip("10.0.1.1"), "192.0.2.7:7".parse().unwrap())]);
        let both = ["127.0.0.1", "10.0.0.2", "10.0.1.2", "::1"];
        assert_eq!(pairs(&both), [(ip("10.0.1.1"), "10.0.1.2:7".parse().unwrap())]);
        let mut some = Interfaces::parse("lo").unwrap();
        some.remember(&[ip("127.0.0.1"), ip("::1")]);
        assert_eq!(some.count(), 0);
    }

    #[test]
    fn the_loopback_interface_is_there_when_asked_for() {
        let addresses = Interfaces::parse("127.0.0.1").unwrap().addresses().unwrap();
        assert_eq!(addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        let refusal = Interfaces::parse("203.0.113.7").unwrap().addresses().unwrap_err();
        assert!(refusal.error == Error::Config && refusal.reason.contains("was not asked for"));
        let to = "127.0.0.1:9".parse().unwrap();
        assert!(Interfaces::parse("127.0.0.1").unwrap().allows_way_to(to));
        assert!(!Interfaces::parse("eth0").unwrap().allows_way_to(to));
        let mut some = Interfaces::parse("127.0.0.1").unwrap();
        some.remember(&addresses);
        assert!(some.allows_way_to(to) && !some.allows_way_to("203.0.113.7:9".parse().unwrap()));
    }
}
