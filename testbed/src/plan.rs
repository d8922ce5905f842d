//! From a topology to hosts, interfaces, addresses, routes and rules; nothing is touched here.

mod rules;
mod sites;

use crate::error::{Error, Result};
use crate::impairment::Impairment;
use crate::topology::{Action, HostSpec, LinkSpec, Login, SiteKind, Topology};
use std::net::IpAddr;

/// All that is to be set up.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) hosts: Vec<HostPlan>,
    pub(crate) links: Vec<LinkPlan>,
    pub(crate) sites: Vec<SitePlan>,
}

/// One host: a network namespace and what is in it.
#[derive(Debug, Default)]
pub(crate) struct HostPlan {
    pub(crate) name: String,
    /// The site that it is in, or the gateway of.
    pub(crate) site: Option<usize>,
    pub(crate) forwards: bool,
    /// Whether it has a bridge `lan`.
    pub(crate) bridges: bool,
    /// Addresses of no link, each with its interface.
    pub(crate) addresses: Vec<(&'static str, String)>,
    /// What follows `ip route add`.
    pub(crate) routes: Vec<String>,
    /// What `nft` gets.
    pub(crate) rules: String,
    interfaces: usize,
}

/// A link and its two ends.
#[derive(Clone, Debug)]
pub(crate) struct LinkPlan {
    pub(crate) name: String,
    pub(crate) ends: [EndPlan; 2],
    pub(crate) impairment: Impairment,
    pub(crate) relayed: bool,
}

/// One end of a link.
#[derive(Clone, Debug)]
pub(crate) struct EndPlan {
    pub(crate) host: usize,
    pub(crate) interface: String,
    /// What follows `ip address add`; none for a port of a bridge.
    pub(crate) addresses: Vec<String>,
    /// Whether it is a port of the bridge `lan`.
    pub(crate) port: bool,
}

/// Where the hosts of a site are.
#[derive(Debug)]
pub(crate) struct SitePlan {
    pub(crate) name: String,
    pub(crate) kind: SiteKind,
    pub(crate) login: Option<Login>,
    pub(crate) gateway: usize,
    pub(crate) hosts: Vec<usize>,
}

/// The host between all sites and public hosts.
pub(crate) const INTERNET: &str = "internet";
/// Its own address, reached from wherever there is a way.
pub(crate) const INTERNET_ADDRESS: &str = "192.0.2.1";
/// The bridge of a gateway.
pub(crate) const LAN: &str = "lan";
/// The interface of a gateway to `internet`: its first one.
pub(crate) const WAN: &str = "eth0";

impl Plan {
    /// Lays out `topology`.
    pub(crate) fn new(topology: &Topology) -> Result<Plan> {
        let mut plan = Plan { hosts: Vec::new(), links: Vec::new(), sites: Vec::new() };
        let has_internet =
            !topology.sites.is_empty() || topology.hosts.iter().any(|host| host.public.is_some());
        if has_internet {
            plan.add_internet()?;
        }
        for (index, site) in topology.sites.iter().enumerate() {
            plan.add_site(index + 1, site)?;
        }
        for host in &topology.hosts {
            plan.add_host(host)?;
        }
        if plan.hosts.is_empty() {
            return Err(Error::Topology("it has no host: it needs a [[site]] or a [[host]]".to_owned()));
        }
        for (index, link) in topology.links.iter().enumerate() {
            plan.add_link(index, link)?;
        }
        plan.check_references(topology)?;
        Ok(plan)
    }

    /// The host of that name.
    pub(crate) fn host(&self, name: &str) -> Result<usize> {
        let found = self.hosts.iter().position(|host| host.name == name);
        found.ok_or_else(|| Error::NoSuch {
            kind: "host",
            name: name.to_owned(),
            known: self.hosts.iter().map(|host| host.name.clone()).collect(),
        })
    }

    /// The link of that name; `b-a` is `a-b`.
    pub(crate) fn link(&self, name: &str) -> Result<usize> {
        let turned = |link: &LinkPlan| {
            let [a, b] = &link.ends;
            format!("{}-{}", self.hosts[b.host].name, self.hosts[a.host].name) == name
        };
        let found = self.links.iter().position(|link| link.name == name);
        found.or_else(|| self.links.iter().position(turned)).ok_or_else(|| Error::NoSuch {
            kind: "link",
            name: name.to_owned(),
            known: self.links.iter().map(|link| link.name.clone()).collect(),
        })
    }

    /// The addresses of a host, the most public one first.
    pub(crate) fn addresses(&self, host: usize) -> Vec<IpAddr> {
        let own = self.hosts[host].addresses.iter().map(|(_, address)| address);
        let ends = self.links.iter().flat_map(|link| &link.ends).filter(|end| end.host == host);
        let mut found: Vec<IpAddr> =
            ends.flat_map(|end| &end.addresses).chain(own).filter_map(|text| bare(text)).collect();
        // The bridge's address of a gateway comes last by itself; the one of `internet` is to come first.
        if self.hosts[host].name == INTERNET {
            found.sort_by_key(|address| address.to_string() != INTERNET_ADDRESS);
        }
        found
    }

    /// Adds a host; its name is to be new and fit for a host.
    fn push_host(&mut self, host: HostPlan) -> Result<usize> {
        check_name("host", &host.name)?;
        if self.hosts.iter().any(|other| other.name == host.name) {
            return Err(Error::Topology(format!("two hosts are called {:?}", host.name)));
        }
        self.hosts.push(host);
        Ok(self.hosts.len() - 1)
    }

    /// The next interface of a host.
    fn end(&mut self, host: usize, addresses: Vec<String>) -> EndPlan {
        let number = self.hosts[host].interfaces;
        self.hosts[host].interfaces += 1;
        EndPlan { host, interface: format!("eth{number}"), addresses, port: false }
    }

    fn push_link(
        &mut self,
        name: String,
        ends: [EndPlan; 2],
        impairment: Impairment,
        relay: bool,
    ) -> Result<()> {
        if self.links.iter().any(|other| other.name == name) {
            return Err(Error::Topology(format!(
                "two links are called {name:?}: give one a name of its own"
            )));
        }
        if impairment.queue.is_some() && impairment.rate.is_none() {
            return Err(Error::Topology(format!("link {name:?}: a queue goes with a rate only")));
        }
        let relayed = relay || impairment.needs_relay();
        self.links.push(LinkPlan { name, ends, impairment, relayed });
        Ok(())
    }

    fn add_host(&mut self, spec: &HostSpec) -> Result<()> {
        let host = self.push_host(HostPlan {
            name: spec.name.clone(),
            forwards: spec.router,
            routes: spec.routes.clone(),
            ..HostPlan::default()
        })?;
        match spec.public {
            Some(uplink) => self.make_public(host, uplink),
            None => Ok(()),
        }
    }

    fn add_link(&mut self, index: usize, spec: &LinkSpec) -> Result<()> {
        let [a, b] = [self.host(&spec.between[0])?, self.host(&spec.between[1])?];
        let name = spec.name.clone().unwrap_or_else(|| spec.between.join("-"));
        if a == b {
            return Err(Error::Topology(format!("link {name:?} leads from a host to itself")));
        }
        if index >= MOST_LINKS {
            return Err(Error::Topology(format!("more than {MOST_LINKS} links")));
        }
        let addresses = match &spec.addresses {
            Some(given) => {
                given.iter().try_for_each(|address| check_address(address))?;
                given.clone().map(|address| vec![address])
            }
            None => [1, 2].map(|end| {
                vec![
                    format!("172.{}.{}.{end}/24", 16 + index / 256, index % 256),
                    format!("fd00:172:{index:x}::{end}/64"),
                ]
            }),
        };
        let [of_a, of_b] = addresses;
        let ends = [self.end(a, of_a), self.end(b, of_b)];
        self.push_link(name, ends, spec.impairment, spec.relay)
    }

    /// What events and commands name exists.
    fn check_references(&self, topology: &Topology) -> Result<()> {
        for event in &topology.events {
            match &event.action {
                Action::Blackout { link, .. } => drop(self.link(link)?),
                Action::Change { link, change } => {
                    let link = &self.links[self.link(link)?];
                    link.check_change(&link.impairment.changed(change))?;
                }
                Action::Reset { between } => between.iter().try_for_each(|host| self.host(host).map(drop))?,
                Action::RemoveAddress { host, address } => {
                    self.host(host)?;
                    address.parse::<IpAddr>().map_err(|_| no_address(address, "192.168.7.1"))?;
                }
                Action::AddAddress { host, address, .. } => {
                    self.host(host)?;
                    check_address(address)?;
                }
            }
        }
        topology.runs.iter().try_for_each(|run| self.host(&run.host).map(drop))
    }
}

impl LinkPlan {
    /// Whether the link, as it was made, can become so.
    pub(crate) fn check_change(&self, to: &Impairment) -> Result<()> {
        if to.needs_relay() && !self.relayed {
            return Err(Error::Topology(format!(
                "link {:?} has no relay, so that it can have no delay, jitter or queue: say relay = true",
                self.name
            )));
        }
        if to.queue.is_some() && to.rate.is_none() {
            return Err(Error::Topology(format!("link {:?}: a queue goes with a rate only", self.name)));
        }
        Ok(())
    }
}

/// The address in `192.0.2.1/24` or `192.0.2.1 peer 192.0.2.2/32`.
pub(crate) fn bare(text: &str) -> Option<IpAddr> {
    text.split([' ', '/']).next()?.parse().ok()
}

fn check_address(text: &str) -> Result<()> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        length.parse::<u8>().ok().filter(|length| (1..=longest).contains(length))
    });
    parsed.map(drop).ok_or_else(|| no_address(text, "192.168.7.1/24"))
}

fn no_address(text: &str, example: &str) -> Error {
    Error::Topology(format!("{text:?} is no address: accepted are such as {example}"))
}

fn check_name(kind: &str, name: &str) -> Result<()> {
    let fits = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        return Ok(());
    }
    Err(Error::Topology(format!(
        "{name:?} is no name for a {kind}: accepted are up to {LONGEST_NAME} small letters, digits and -, a letter first"
    )))
}

/// So that `gw-NAME` is a host name, too, and tables keep their shape.
const LONGEST_NAME: usize = 32;
/// As many as there are networks of 256 addresses in 172.16.0.0/12.
const MOST_LINKS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Site;

    #[test]
    fn two_hosts_and_a_link_get_addresses() {
        let topology = Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"));
        let plan = Plan::new(&topology).unwrap();
        assert_eq!(plan.links[0].ends[1].addresses, ["172.16.0.2/24", "fd00:172:0::2/64"]);
        assert_eq!((plan.link("a-b").unwrap(), plan.link("b-a").unwrap()), (0, 0));
        assert!(!plan.links[0].relayed);
    }

    #[test]
    fn sites_have_gateways_and_uplinks() {
        let topology = Topology::new()
            .site(Site::new("a", SiteKind::Masquerading).hosts(2))
            .site(Site::new("b", SiteKind::Open))
            .host(HostSpec::new("p").public(Impairment::default()));
        let plan = Plan::new(&topology).unwrap();
        let names: Vec<&str> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["internet", "gw-a", "a1", "a2", "gw-b", "b1", "p"]);
        let links: Vec<&str> = plan.links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(links, ["a-internet", "a1-lan", "a2-lan", "b-internet", "b1-lan", "p-internet"]);
        let routes = &plan.hosts[0].routes;
        assert!(routes.contains(&"10.2.0.0/24 via 198.18.2.2".to_owned()), "{routes:?}");
        assert!(
            !routes.iter().any(|route| route.starts_with("10.1.")),
            "private addresses are not known outside"
        );
        assert_eq!(plan.addresses(6)[0].to_string(), "203.0.113.1");
        assert_eq!(plan.addresses(0)[0].to_string(), INTERNET_ADDRESS);
        assert!(plan.hosts[1].rules.contains("masquerade") && plan.hosts[4].rules.is_empty());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let two = || Topology::new().host("a").host("b");
        let link = || LinkSpec::between("a", "b");
        let blackout = |link: &str| Action::Blackout { link: link.to_owned(), on: true };
        let mut delayed = Topology::new();
        delayed.events = Topology::parse("[[event]]\nat = '1s'\nlink = 'a-b'\ndelay = '1ms'").unwrap().events;
        for (topology, part) in [
            (Topology::new(), "no host"),
            (Topology::new().site(Site::new("s", SiteKind::Open).login("u", "p")), "proxy-only"),
            (Topology::new().site(Site::new("s", SiteKind::ProxyOnly).login("u:", "p")), "no colon"),
            (two().host("a"), "\"a\""),
            (two().host("A"), "\"A\""),
            (two().link(LinkSpec::between("a", "c")), "\"c\""),
            (two().link(LinkSpec::between("a", "a")), "itself"),
            (two().link(link()).link(link()), "\"a-b\""),
            (two().link(link().addresses("10.0.0.1", "10.0.0.2/8")), "10.0.0.1/24"),
            (two().link(link().addresses("10.0.0.1/33", "10.0.0.2/8")), "10.0.0.1/33"),
            (two().link(link().with(Impairment::default().queue(9000))), "rate"),
            (two().link(link()).event(std::time::Duration::ZERO, blackout("x")), "\"x\""),
            (Topology { events: delayed.events, ..two().link(link()) }, "relay = true"),
        ] {
            let said = Plan::new(&topology).unwrap_err().to_string();
            assert!(said.replace("192.168.7", "10.0.0").contains(part), "{part}: {said}");
        }
    }
}
