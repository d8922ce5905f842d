//! What a lab is to be, as data: built here, or read from a file (`file.rs`).

use crate::impairment::{Change, Impairment};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Hosts, sites and links, and what happens to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Sites behind gateways, each with an uplink to the host `internet`.
    pub sites: Vec<Site>,
    /// Hosts that belong to no site.
    pub hosts: Vec<HostSpec>,
    /// Links between hosts, besides those that sites and public hosts bring along.
    pub links: Vec<LinkSpec>,
    /// What happens while the lab is up; see [`Lab::play`](crate::Lab::play).
    pub events: Vec<Event>,
    /// Commands that `gridnet lab run` runs.
    pub runs: Vec<Run>,
    /// Where the dice of losses and jitter begin. The positions of losses also depend on when packets come.
    pub seed: u64,
}

/// A site: some hosts on a local network, and the gateway `gw-NAME` between it and `internet`.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its name; hosts are called NAME1, NAME2, ..., the uplink NAME-internet.
    pub name: String,
    /// What the gateway does.
    pub kind: SiteKind,
    /// How many hosts.
    pub hosts: u8,
    /// Whether the gateway answers with a TCP reset what it does not let in; otherwise it is silent.
    pub reject: bool,
    /// What the proxies ask for; nothing if it is none.
    pub login: Option<Login>,
    /// The link to `internet`.
    pub uplink: Impairment,
}

/// User and password for the proxies of a site. They are no secret: a lab's proxies are for tests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// 1 to 255 bytes, without a colon.
    pub user: String,
    /// 1 to 255 bytes.
    pub password: String,
}

/// What the gateway of a site does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Everything passes, both ways.
    Open,
    /// Connections may be opened from inside only.
    Firewalled,
    /// As firewalled, and connections come from the gateway's address, with the port of the host where it is free.
    Masquerading,
    /// As masquerading, with a random port for each connection.
    RandomMasquerading,
    /// Nothing passes, and hosts have no route: only the gateway itself, a host of both networks, reaches the outside.
    NoWayOut,
    /// Nothing passes, and the gateway has a SOCKS5 proxy (port 1080) and an HTTP proxy (CONNECT, port 3128).
    ProxyOnly,
}

/// A host that belongs to no site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// Whether, and by what link, it is on the public network (203.0.113.0/24).
    pub public: Option<Impairment>,
    /// Whether it forwards packets.
    pub router: bool,
    /// Routes besides those of its links, as in `ip route add`: `10.9.0.0/24 via 172.16.0.2`.
    pub routes: Vec<String>,
}

/// A link between two hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSpec {
    /// Its name; by default the hosts' names with `-` between.
    pub name: Option<String>,
    /// The hosts.
    pub between: [String; 2],
    /// Their addresses with prefix length, as 192.168.7.1/24; by default out of 172.16.0.0/12 and fd00:172::/32.
    pub addresses: Option<[String; 2]>,
    /// Whether packets go through the relay even where nothing of what is asked needs it, so that a delay can come later.
    pub relay: bool,
    /// What is wrong with it.
    pub impairment: Impairment,
}

/// Something that happens a while after the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// What can be done to a lab.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing passes a link any more, silently; or it does again.
    Blackout {
        /// The link.
        link: String,
        /// Whether it begins.
        on: bool,
    },
    /// A link changes.
    Change {
        /// The link.
        link: String,
        /// To what.
        change: Change,
    },
    /// The TCP connections between two hosts are reset.
    Reset {
        /// The hosts.
        between: [String; 2],
    },
    /// A host loses an address.
    RemoveAddress {
        /// The host.
        host: String,
        /// The address, without prefix length.
        address: String,
    },
    /// A host gets an address.
    AddAddress {
        /// The host.
        host: String,
        /// The interface.
        interface: String,
        /// The address with prefix length.
        address: String,
    },
}

/// A command of the topology's file.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Where it runs.
    pub host: String,
    /// What a shell gets.
    pub command: String,
    /// Whether the next one starts at once; it is killed at the end of the lab.
    pub background: bool,
    /// How long it may take.
    pub timeout: Duration,
}

impl Topology {
    /// Nothing yet.
    pub fn new() -> Topology {
        Topology { seed: 1, ..Topology::default() }
    }

    /// Adds a site.
    #[must_use]
    pub fn site(mut self, site: Site) -> Self {
        self.sites.push(site);
        self
    }

    /// Adds a host.
    #[must_use]
    pub fn host(mut self, host: impl Into<HostSpec>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Adds a link.
    #[must_use]
    pub fn link(mut self, link: LinkSpec) -> Self {
        self.links.push(link);
        self
    }

    /// Lets something happen later.
    #[must_use]
    pub fn event(mut self, at: Duration, action: Action) -> Self {
        self.events.push(Event { at, action });
        self
    }
}

impl Site {
    /// A site with one host.
    pub fn new(name: &str, kind: SiteKind) -> Site {
        Site {
            name: name.to_owned(),
            kind,
            hosts: 1,
            reject: false,
            login: None,
            uplink: Impairment::default(),
        }
    }

    /// With so many hosts.
    #[must_use]
    pub fn hosts(mut self, hosts: u8) -> Self {
        self.hosts = hosts;
        self
    }

    /// With this link to `internet`.
    #[must_use]
    pub fn uplink(mut self, uplink: Impairment) -> Self {
        self.uplink = uplink;
        self
    }

    /// With proxies that ask for this.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some(Login { user: user.to_owned(), password: password.to_owned() });
        self
    }

    /// With a gateway that answers by a reset what it does not let in.
    #[must_use]
    pub fn reject(mut self) -> Self {
        self.reject = true;
        self
    }
}

impl HostSpec {
    /// A host with no link yet.
    pub fn new(name: &str) -> HostSpec {
        HostSpec { name: name.to_owned(), ..HostSpec::default() }
    }

    /// On the public network, by this link.
    #[must_use]
    pub fn public(mut self, uplink: Impairment) -> Self {
        self.public = Some(uplink);
        self
    }

    /// Forwards packets.
    #[must_use]
    pub fn router(mut self) -> Self {
        self.router = true;
        self
    }

    /// With a route, as in `ip route add`.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        self.routes.push(route.to_owned());
        self
    }
}

impl From<&str> for HostSpec {
    fn from(name: &str) -> Self {
        HostSpec::new(name)
    }
}

impl LinkSpec {
    /// A cable between two hosts.
    pub fn between(a: &str, b: &str) -> LinkSpec {
        LinkSpec {
            name: None,
            between: [a.to_owned(), b.to_owned()],
            addresses: None,
            relay: false,
            impairment: Impairment::default(),
        }
    }

    /// With this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With these addresses and prefix lengths.
    #[must_use]
    pub fn addresses(mut self, a: &str, b: &str) -> Self {
        self.addresses = Some([a.to_owned(), b.to_owned()]);
        self
    }

    /// Through the relay in any case.
    #[must_use]
    pub fn relay(mut self) -> Self {
        self.relay = true;
        self
    }

    /// With this wrong with it.
    #[must_use]
    pub fn with(mut self, impairment: Impairment) -> Self {
        self.impairment = impairment;
        self
    }
}

/// Each kind with its name and a shorter one.
const KINDS: [(SiteKind, &str, &str); 6] = [
    (SiteKind::Open, "open", "open"),
    (SiteKind::Firewalled, "firewalled", "fw"),
    (SiteKind::Masquerading, "masquerading", "masq"),
    (SiteKind::RandomMasquerading, "random-masquerading", "random"),
    (SiteKind::NoWayOut, "no-way-out", "isolated"),
    (SiteKind::ProxyOnly, "proxy-only", "proxy"),
];

impl SiteKind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = SiteKind> {
        KINDS.iter().map(|(kind, ..)| *kind)
    }

    /// Whether the site's own addresses are known outside.
    pub(crate) fn is_routed(self) -> bool {
        matches!(self, SiteKind::Open | SiteKind::Firewalled)
    }

    /// Whether the gateway passes what comes from inside.
    pub(crate) fn has_way_out(self) -> bool {
        !matches!(self, SiteKind::NoWayOut | SiteKind::ProxyOnly)
    }
}

impl FromStr for SiteKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = KINDS.iter().find(|(_, long, short)| [*long, *short].contains(&text));
        found.map(|(kind, ..)| *kind).ok_or_else(|| {
            let names: Vec<String> = KINDS
                .iter()
                .map(
                    |(_, long, short)| {
                        if long == short {
                            (*long).to_owned()
                        } else {
                            format!("{long} ({short})")
                        }
                    },
                )
                .collect();
            format!("{text:?} is no kind of site: accepted are {}", names.join(", "))
        })
    }
}

impl fmt::Display for SiteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(KINDS.iter().find(|(kind, ..)| kind == self).map_or("", |(_, long, _)| long))
    }
}

impl<'de> Deserialize<'de> for SiteKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_both_names() {
        for (kind, long, short) in KINDS {
            assert_eq!((long.parse(), short.parse()), (Ok(kind), Ok(kind)));
            assert_eq!(kind.to_string(), long);
        }
        assert!("nat".parse::<SiteKind>().unwrap_err().contains("masquerading (masq)"));
    }
}
