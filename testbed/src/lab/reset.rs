//! Resets of TCP connections, as a box between two hosts sends them.

use super::Lab;
use crate::error::Result;
use crate::tool;
use std::collections::HashSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A connection as one side sees it: its own address, the other one.
type Pair = (SocketAddr, SocketAddr);

pub(super) fn reset(lab: &Lab, a: usize, b: usize, span: Duration) -> Result<usize> {
    let sides = [(a, faces(lab, b)), (b, faces(lab, a))];
    let doomed = sides.each_ref().map(|(host, others)| connections(lab, *host, others));
    let [of_a, of_b] = doomed;
    let doomed = [of_a?, of_b?];
    let count = doomed[0].len().max(doomed[1].len());
    if count == 0 {
        return Ok(0);
    }
    // Whatever comes for one of them is answered by a reset, as of the host that it came to.
    for ((host, _), pairs) in sides.iter().zip(&doomed) {
        tool::nft(&lab.namespaces[*host], &rules(pairs))?;
    }
    let end = Instant::now() + span;
    while Instant::now() < end && any_left(lab, &sides, &doomed)? {
        // A condition in the kernel that nobody tells us of.
        sleep(Duration::from_millis(2));
    }
    for (host, _) in &sides {
        tool::nft(&lab.namespaces[*host], DELETE)?;
    }
    // Connections on which nothing was said: one side ends, and its kernel sends the reset to the other.
    for ((host, others), pairs) in sides.iter().zip(&doomed) {
        let left = connections(lab, *host, others)?;
        for (own, other) in left.intersection(pairs) {
            tool::ss(&lab.namespaces[*host], &format!("-tKnH src {own} dst {other}"))?;
        }
    }
    Ok(count)
}

/// All addresses under which others may see `host`.
fn faces(lab: &Lab, host: usize) -> HashSet<IpAddr> {
    let mut faces: HashSet<IpAddr> = lab.plan.addresses(host).into_iter().collect();
    let site = lab.plan.hosts[host].site.map(|site| &lab.plan.sites[site]);
    if let Some(site) = site.filter(|site| !site.kind.is_routed()) {
        faces.extend(lab.plan.addresses(site.gateway));
    }
    faces
}

/// The connections of `host` with `others`.
fn connections(lab: &Lab, host: usize, others: &HashSet<IpAddr>) -> Result<HashSet<Pair>> {
    let said = tool::ss(&lab.namespaces[host], "-tnH")?;
    Ok(said.lines().filter_map(pair).filter(|(_, other)| others.contains(&other.ip())).collect())
}

/// The addresses in a line of `ss -tnH`: state, two queues, own address, other address.
fn pair(line: &str) -> Option<Pair> {
    let mut words = line.split_whitespace().skip(3);
    let mut address = || -> Option<SocketAddr> {
        let address: SocketAddr = words.next()?.parse().ok()?;
        // A socket of both families shows IPv4 addresses in IPv6's clothes.
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    Some((address()?, address()?))
}

fn any_left(lab: &Lab, sides: &[(usize, HashSet<IpAddr>); 2], doomed: &[HashSet<Pair>; 2]) -> Result<bool> {
    for ((host, others), pairs) in sides.iter().zip(doomed) {
        if !connections(lab, *host, others)?.is_disjoint(pairs) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn rules(pairs: &HashSet<Pair>) -> String {
    let mut rules = "table inet doomed {
 chain input {
  type filter hook input priority -300; policy accept;
"
    .to_owned();
    for (own, other) in pairs {
        let family = if own.is_ipv4() { "ip" } else { "ip6" };
        _ = writeln!(
            rules,
            "  {family} saddr {} {family} daddr {} tcp sport {} tcp dport {} reject with tcp reset",
            other.ip(),
            own.ip(),
            other.port(),
            own.port()
        );
    }
    rules + " }\n}\n"
}

const DELETE: &str = "delete table inet doomed\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ss_are_read() {
        let line = "ESTAB 0      0      203.0.113.1:5000 203.0.113.254:42354";
        let pair_of = |own: &str, other: &str| Some((own.parse().unwrap(), other.parse().unwrap()));
        assert_eq!(pair(line), pair_of("203.0.113.1:5000", "203.0.113.254:42354"));
        let line = "ESTAB 0 0 [::ffff:10.0.0.1]:5000 [::ffff:10.0.0.2]:6000";
        assert_eq!(pair(line), pair_of("10.0.0.1:5000", "10.0.0.2:6000"));
        assert_eq!(pair("ESTAB 0 0 [fd00::1]:1 [fd00::2]:2"), pair_of("[fd00::1]:1", "[fd00::2]:2"));
        assert_eq!(pair("State Recv-Q"), None);
    }
}
