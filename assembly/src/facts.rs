//! What is known of a node when a stack to it is chosen.
//!
//! Cluster, label and addresses are what a node says of itself; only its id is proved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::record::fields;
use crate::stack::{Filter, Method, Reach, Stack};

/// Most addresses that a node tells.
pub const ADDRESSES_MAX: usize = 8;
/// Most methods, and filters, that are looked at.
const OFFERS_MAX: usize = 32;

/// A node, as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Who it is.
    pub node: NodeId,
    /// What it says of itself, for people.
    pub label: Name,
    /// The cluster that it says it belongs to.
    pub cluster: Name,
    /// Whether it leads its cluster.
    pub leads: bool,
    /// Where it is, and what it can do.
    pub offer: Offer,
}

/// Where a node is, and what it can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Its host: nodes that name the same one can share memory.
    pub host: Option<Name>,
    /// The user whose process it is.
    pub uid: u32,
    /// Its addresses; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<IpAddr>,
    /// Methods that it has.
    pub methods: Vec<Method>,
    /// Filters that it has.
    pub filters: Vec<Filter>,
}

/// As it goes through the directory. Methods and filters go by name: those of later versions are skipped.
#[derive(Serialize, Deserialize)]
struct Wire {
    host: Option<Name>,
    uid: u32,
    addresses: Vec<IpAddr>,
    methods: Vec<String>,
    filters: Vec<String>,
}

impl Offer {
    /// One with all methods and filters of this version.
    pub fn all(host: Option<Name>, uid: u32, addresses: Vec<IpAddr>) -> Offer {
        Offer { host, uid, addresses, methods: Method::ALL.to_vec(), filters: Filter::ALL.to_vec() }
    }

    /// For others to read. Addresses beyond [`ADDRESSES_MAX`] are left out.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            host: self.host.clone(),
            uid: self.uid,
            addresses: self.addresses.iter().copied().take(ADDRESSES_MAX).collect(),
            methods: self.methods.iter().map(|method| method.name().to_owned()).collect(),
            filters: self.filters.iter().map(|filter| filter.name().to_owned()).collect(),
        };
        // Into memory, and of plain fields: it does not fail.
        postcard::to_stdvec(&wire).unwrap_or_default()
    }

    /// What somebody says of itself; `None` when it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<Offer> {
        let Wire { host, uid, addresses, methods, filters } = fields(bytes).ok()?;
        if addresses.len() > ADDRESSES_MAX || methods.len() > OFFERS_MAX || filters.len() > OFFERS_MAX {
            return None;
        }
        let methods = methods.iter().filter_map(|name| Method::of_name(name)).collect();
        let filters = filters.iter().filter_map(|name| Filter::of_name(name)).collect();
        Some(Offer { host, uid, addresses, methods, filters })
    }

    /// The first part of a stack that is not there.
    pub fn lacks(&self, stack: &Stack) -> Option<&'static str> {
        let filter = stack.filters().iter().find(|filter| !self.filters.contains(filter));
        let method = (!self.methods.contains(&stack.method())).then_some(stack.method());
        filter.map(|filter| filter.name()).or(method.map(Method::name))
    }
}

impl Facts {
    /// How far apart two nodes are.
    pub fn reach(&self, other: &Facts) -> Reach {
        let is_one_host = self.offer.host.is_some() && self.offer.host == other.offer.host;
        match (is_one_host, self.offer.uid == other.offer.uid) {
            (true, true) => Reach::SameUser,
            (true, false) => Reach::SameHost,
            (false, _) => Reach::Apart,
        }
    }

    /// A node that somebody describes: `LABEL[@CLUSTER[/HOST]]`, and behind commas addresses, `leads`, `uid=N`, `offers=shm+tcp+tls`.
    ///
    /// What is not said: cluster `default`, a host of its own, address 192.0.2.1, user 0, all methods and filters. The host `-` is not
    /// known, `nowhere` is no address, `offers=none` nothing. The id of a label of 32 hexadecimal digits is what they say, that of
    /// any other one is made of its letters. It is what a node prints as, but for the id.
    ///
    /// # Errors
    /// What is wrong, and what would be accepted.
    pub fn describe(text: &str) -> Result<Facts, String> {
        let mut parts = text.split(',');
        let who = parts.next().unwrap_or("");
        let (label, place) = who.split_once('@').map_or((who, None), |(label, place)| (label, Some(place)));
        let (cluster, host) = match place {
            Some(place) => {
                place.split_once('/').map_or((place, None), |(cluster, host)| (cluster, Some(host)))
            }
            None => ("default", None),
        };
        let form = |what: String| {
            format!("node {text:?}: {what}; accepted is LABEL[@CLUSTER[/HOST]][,ADDRESS][,leads][,uid=N][,offers=shm+tcp+relay+tls]")
        };
        let name = |text: &str| text.parse::<Name>().map_err(form);
        let (label, cluster) = (name(label)?, name(cluster)?);
        let host = match host {
            Some("-") => None,
            Some(host) => Some(name(host)?),
            None => Some(label.clone()),
        };
        let mut facts = Facts {
            node: node_of(&label).ok_or_else(|| form("no id can be made of its label".into()))?,
            label,
            cluster,
            leads: false,
            offer: Offer::all(host, 0, Vec::new()),
        };
        parts.try_for_each(|part| facts.describe_more(part)).map_err(form)?;
        let is_nowhere = text.split(',').any(|part| part == "nowhere");
        if facts.offer.addresses.is_empty() && !is_nowhere {
            facts.offer.addresses.push(Ipv4Addr::new(192, 0, 2, 1).into());
        }
        Ok(facts)
    }

    fn describe_more(&mut self, part: &str) -> Result<(), String> {
        if part == "nowhere" {
            self.offer.addresses.clear();
        } else if part == "leads" {
            self.leads = true;
        } else if let Some(uid) = part.strip_prefix("uid=") {
            self.offer.uid = uid.parse().map_err(|_| format!("{uid:?} is no user"))?;
        } else if let Some(offers) = part.strip_prefix("offers=") {
            (self.offer.methods, self.offer.filters) = (Vec::new(), Vec::new());
            for name in offers.split('+').filter(|name| *name != "none") {
                match (Method::of_name(name), Filter::of_name(name)) {
                    (Some(method), _) => self.offer.methods.push(method),
                    (_, Some(filter)) => self.offer.filters.push(filter),
                    _ => return Err(format!("{name:?} is no method or filter")),
                }
            }
        } else {
            self.offer.addresses.push(part.parse().map_err(|_| format!("{part:?} is no address"))?);
        }
        Ok(())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Offer { host, uid, addresses, methods, filters } = &self.offer;
        write!(f, "{}@{}/{}", self.label, self.cluster, host.as_ref().map_or("-", Name::as_str))?;
        addresses.iter().try_for_each(|address| write!(f, ",{address}"))?;
        if addresses.is_empty() {
            f.write_str(",nowhere")?;
        }
        if self.leads {
            f.write_str(",leads")?;
        }
        let names =
            methods.iter().map(|method| method.name()).chain(filters.iter().map(|filter| filter.name()));
        let names: Vec<&str> = names.collect();
        write!(f, ",uid={uid},offers={}", if names.is_empty() { "none".into() } else { names.join("+") })
    }
}

/// The node that a label is meant for.
fn node_of(label: &Name) -> Option<NodeId> {
    if let Ok(node) = label.as_str().parse() {
        return Some(node);
    }
    let mut bytes = [0u8; 16];
    for (index, byte) in label.as_str().bytes().enumerate() {
        bytes[index % 16] = byte.wrapping_add(bytes[index % 16].wrapping_mul(31));
    }
    NodeId::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nodes_are_described() {
        let facts = Facts::describe("a1@A/h1,10.1.0.2,leads,uid=7,offers=tcp+tls").unwrap();
        assert_eq!((facts.label.as_str(), facts.cluster.as_str(), facts.leads), ("a1", "A", true));
        let offer = &facts.offer;
        assert_eq!((offer.host.as_ref().map(Name::as_str), offer.uid), (Some("h1"), 7));
        assert_eq!(
            (offer.addresses.as_slice(), offer.methods.as_slice()),
            (&["10.1.0.2".parse().unwrap()][..], &[Method::Tcp][..])
        );
        assert_eq!(offer.lacks(&"tls/shm".parse().unwrap()), Some("shm"));
        assert_eq!(offer.lacks(&"tls/tcp".parse().unwrap()), None);
        let plain = Facts::describe("b").unwrap();
        assert_eq!(
            (plain.cluster.as_str(), plain.offer.addresses.len(), plain.offer.methods.len()),
            ("default", 1, 3)
        );
        assert_ne!(plain.node, Facts::describe("c").unwrap().node);
        let id = "000102030405060708090a0b0c0d0e0f";
        assert_eq!(Facts::describe(id).unwrap().node.to_string(), id);
        for (wrong, why) in [
            ("", "is no name"),
            ("a@", "is no name"),
            ("a@x/", "is no name"),
            ("a,10.1", "is no address"),
            ("a,uid=x", "is no user"),
            ("a,offers=ib", "is no method or filter"),
        ] {
            let error = Facts::describe(wrong).unwrap_err();
            assert!(error.contains(why) && error.contains("accepted is LABEL"), "{error}");
        }
    }

    #[test]
    fn nodes_are_described_as_they_print() {
        for text in [
            "a@A/h1,10.1.0.2,2001:db8::1,leads,uid=7,offers=tcp+tls",
            "a@A/-,nowhere,uid=0,offers=none",
            "_x@default/_x,192.0.2.1,uid=4294967295,offers=shm+tcp+relay+tls",
        ] {
            assert_eq!(Facts::describe(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Facts::describe("a").unwrap().to_string(),
            "a@default/a,192.0.2.1,uid=0,offers=shm+tcp+relay+tls"
        );
    }

    #[test]
    fn one_host_is_one_that_both_name() {
        let [a, b, other, far] =
            ["a@x/h", "b@y/h", "c@x/h,uid=1", "d@x/i"].map(|text| Facts::describe(text).unwrap());
        assert_eq!(
            (a.reach(&b), a.reach(&other), a.reach(&far)),
            (Reach::SameUser, Reach::SameHost, Reach::Apart)
        );
        let unknown =
            |facts: &Facts| Facts { offer: Offer { host: None, ..facts.offer.clone() }, ..facts.clone() };
        assert_eq!(unknown(&a).reach(&unknown(&b)), Reach::Apart, "two that say nothing are not on one host");
    }

    #[test]
    fn what_later_versions_offer_is_skipped() {
        let wire = Wire {
            host: None,
            uid: 5,
            addresses: vec![],
            methods: vec!["rdma".into(), "tcp".into()],
            filters: vec!["zstd".into()],
        };
        let mut bytes = postcard::to_stdvec(&wire).unwrap();
        bytes.extend(b"a later field");
        let offer = Offer::decode(&bytes).unwrap();
        assert_eq!((offer.uid, offer.methods, offer.filters), (5, vec![Method::Tcp], vec![]));
        let many = Wire { addresses: vec![[1, 2, 3, 4].into(); ADDRESSES_MAX + 1], ..wire };
        assert_eq!(Offer::decode(&postcard::to_stdvec(&many).unwrap()), None);
    }

    proptest! {
        #[test]
        fn offers_are_read_as_they_were_written(uid: u32, last: u8, host in proptest::option::of("[a-z]{1,64}")) {
            let host = host.map(|host| host.parse().unwrap());
            let offer = Offer::all(host, uid, vec![[10, 0, 0, last].into(), std::net::Ipv6Addr::from([last; 16]).into()]);
            prop_assert_eq!(Offer::decode(&offer.encode()), Some(offer));
        }

        #[test]
        fn any_offer_is_borne(bytes: Vec<u8>) {
            let _ = Offer::decode(&bytes);
        }
    }
}
