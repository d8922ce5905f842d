//! What the fabric's rails do for assembly.
//!
//! Nothing is built for one connection: the place is the address of the fabric, where its rails listen all the time. Which rail
//! the stack means both sides know from its text; the side that connects asks that rail alone, and reduces the address to it, whatever
//! was written there, so that it comes by no other one later either.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use gridnet_assembly::call::Path;
use gridnet_assembly::called::{Key, Order};
use gridnet_assembly::facts::{Offer, ADDRESSES_MAX};
use gridnet_assembly::name::Name;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::{Filter, Method, Security, Stack};
use gridnet_assembly::Builder;
use gridnet_core::rail::PeerId;
use gridnet_core::wire::{Address, NetAddresses, NodeId};
use gridnet_uring_tcp::MAX_PATHS;

use super::desk::{Call, Desk};
use super::rules_file::RulesFile;
use super::{preface, PLAIN, RELAY, SERVICE, TCP};
use crate::config::Config;

/// How long somebody who asks while the fabric is being opened waits for that.
const OPENING_LIMIT: Duration = Duration::from_secs(1);

/// Where others connect.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) address: Address,
    /// Where the rail for plain connections is called, if it is there.
    pub(crate) plain: NetAddresses,
    /// The rails that are there.
    pub(crate) rails: Vec<&'static str>,
}

impl Here {
    /// The rail of a stack, if it is there.
    fn rail(&self, stack: &Stack) -> Result<&'static str, String> {
        let rail = rail_of(stack)?;
        let is_there = self.rails.contains(&rail);
        is_there.then_some(rail).ok_or_else(|| format!("the fabric has no rail {rail}"))
    }

    /// The address of this fabric, for this rail.
    fn place(&self, rail: &str) -> Address {
        match rail {
            PLAIN => Address { network: self.plain, ..self.address },
            _ => self.address,
        }
    }

    /// The address of another fabric, for this rail alone.
    fn reduce(&self, address: Address, rail: &str) -> Address {
        match rail {
            "shm" => Address { network: NetAddresses::NONE, ..address },
            RELAY => Address { host: !self.address.host, network: NetAddresses::NONE, ..address },
            // Whatever host it names: not this one.
            _ => Address { host: !self.address.host, ..address },
        }
    }
}

/// What a fabric of this configuration says that it can do, at this address.
pub(crate) fn offer(config: &Config, local: &Address) -> Offer {
    let addresses = config.net_interfaces.addresses().unwrap_or_default();
    let mut offer = Offer {
        host: format!("{:016x}", local.host).parse().ok(),
        uid: local.uid,
        addresses: addresses.into_iter().take(ADDRESSES_MAX).collect(),
        methods: Vec::new(),
        filters: Vec::new(),
    };
    if config.rails.allows("shm") {
        offer.methods.push(Method::Shm);
    }
    if config.rails.allows("tcp") {
        offer.methods.extend([Method::Tcp, Method::Relay]);
        offer.filters.push(Filter::Tls);
    }
    offer
}

/// The rail that a stack means.
pub(super) fn rail_of(stack: &Stack) -> Result<&'static str, String> {
    check_streams(stack)?;
    match (stack.method(), stack.filters()) {
        (Method::Shm, []) => Ok("shm"),
        (Method::Tcp, [Filter::Tls]) => Ok(TCP),
        (Method::Tcp, []) => Ok(PLAIN),
        (Method::Relay, [Filter::Tls]) => Ok(RELAY),
        (Method::Relay, []) => Err("between members pipes are always encrypted: tls/relay".into()),
        _ => Err(format!("no rail of this version makes {stack}")),
    }
}

/// Whether the rails have so many streams as a stack asks for.
///
/// # Errors
/// Why not, for people.
pub(super) fn check_streams(stack: &Stack) -> Result<(), String> {
    match (stack.filters(), stack.streams().map(u32::from)) {
        ([], Some(2..)) => {
            Err(format!("{stack}: a plain connection is one, only tls/tcp has several streams"))
        }
        (_, Some(streams)) if streams > MAX_PATHS => {
            Err(format!("{stack}: the rail tcp has at most {MAX_PATHS} streams to one peer"))
        }
        _ => Ok(()),
    }
}

impl Builder for Desk {
    fn hint(&self, _: NodeId, stack: &Stack) -> Vec<u8> {
        preface::hint(stack)
    }

    /// Two fabrics have one conversation, and messages go over it, whatever it was opened for.
    fn shared(&self) -> Option<Name> {
        SERVICE.parse().ok()
    }

    fn build(&self, order: &Order) -> Result<Vec<u8>, String> {
        let here = self.here(OPENING_LIMIT).ok_or("the fabric is being opened")?;
        let rail = here.rail(&order.stack)?;
        self.allow(rail, order.key.from, (&order.key).into(), order.deadline);
        self.prepare_streams(order.key.from, rail, &order.stack);
        let (stack, security, service) = (&order.stack, order.security.name(), &order.service);
        let story = format!("stack {stack}: {security}, as the node has asked for service {service}");
        self.tell_asked(order.key.from, rail, story);
        let behind = preface::answer(rail, &order.hint);
        let mut place = here.place(rail).to_bytes().to_vec();
        place.extend(behind.into_iter().flatten());
        Ok(place)
    }

    fn is_quick(&self) -> bool {
        self.is_open() && self.rules().is_none_or(RulesFile::is_near)
    }

    /// Endpoints have no first data: what is said over them are messages.
    fn begin(&self, order: &Order, _: Vec<u8>) {
        if let Ok(rail) = rail_of(&order.stack) {
            self.agreed(rail, order.key.from, (&order.key).into());
        }
    }

    /// Nothing was built for this try alone; but pipes may have been allowed for it, or plain connections.
    fn close(&self, key: &Key) {
        self.withdraw(key.from, key.into());
    }

    fn connect(&self, to: NodeId, path: &Path, deadline: Instant) -> Result<(), String> {
        let (rail, address) = self.way(to, path)?;
        self.allow(rail, to, path.into(), deadline);
        self.prepare_streams(to, rail, &path.stack);
        let outcome = self.call(rail, address, path, deadline);
        match outcome {
            Ok((_, over)) if over == rail => self.keep(rail, to, path.into()),
            // Where there is a safer link already, nothing plain is to come.
            Ok(_) | Err(_) => self.withdraw(to, path.into()),
        }
        self.stands(to, path, outcome?.0);
        Ok(())
    }

    fn disconnect(&self, to: NodeId, path: &Path) {
        self.withdraw(to, path.into());
        if let Some(peer) = self.take_path(to, path) {
            self.give(|work| work.unused.push(peer));
        }
    }

    fn new_rules(&self) -> Option<Rules> {
        self.rules()?.changed().inspect(|rules| self.go_by(rules))
    }

    /// Who connects again goes where everybody connects, and proves there who it is; but pipes and plain
    /// connections are to be agreed on anew, and so are all where there are rules.
    fn revoke_grants(&self) {
        self.revoke_permits();
    }
}

impl Desk {
    /// Links of the rail tcp go over as many connections as the stack says that was agreed on last, on both sides.
    fn prepare_streams(&self, node: NodeId, rail: &str, stack: &Stack) {
        if rail == TCP {
            self.note_streams(node, stack.streams());
        }
    }

    /// The rail of a path, and the address to which it leads by that alone.
    pub(super) fn way(&self, to: NodeId, path: &Path) -> Result<(&'static str, Address), String> {
        let here = self.here(Duration::ZERO).ok_or("the fabric is being opened")?;
        let rail = here.rail(&path.stack)?;
        let address = read_place(&path.place, to)?;
        if rail == "shm" && path.security == Security::Encrypted && address.uid != here.address.uid {
            return Err(format!("its process is said to be of user {}, and is not to be", address.uid));
        }
        Ok((rail, here.reduce(address, rail)))
    }

    /// Has the fabric open an address, and waits until then for what becomes of it: the peer, and the rail by which it is reached.
    fn call(
        &self,
        rail: &'static str,
        address: Address,
        path: &Path,
        deadline: Instant,
    ) -> Result<(PeerId, &'static str), String> {
        let (tell, told) = std::sync::mpsc::channel();
        let (stack, security) = (path.stack.clone(), path.security);
        let preface = preface::split(&path.place).and_then(|(_, preface)| preface).filter(|_| rail == TCP);
        let call = Call { address, preface, rail, stack, security, deadline, tell };
        self.give(|work| work.calls.push(call));
        told.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_else(|why| {
            Err(match why {
                RecvTimeoutError::Timeout => "it did not come up in time".into(),
                RecvTimeoutError::Disconnected => "the fabric is closing".into(),
            })
        })
    }
}

/// The address that the other side has written, which must be its own.
fn read_place(place: &[u8], to: NodeId) -> Result<Address, String> {
    let (bytes, _) = preface::split(place).ok_or("its place is no address")?;
    let address = Address::parse(bytes).map_err(|e| format!("its place: {e}"))?;
    match address.node == to {
        true => Ok(address),
        false => Err(format!("its place is that of another node, {}", address.node)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::permits::{Direction, Try};
    use super::super::SERVICE;
    use gridnet_core::wire::ADDRESS_BYTES;

    use super::*;

    fn address(node: u8) -> Address {
        let network = NetAddresses::new(7, [[127, 0, 0, 1].into()]);
        Address { uid: 1, host: 2, node: NodeId::new([node; 16]).unwrap(), incarnation: 3, network }
    }

    fn here(rails: &[&'static str]) -> Here {
        Here { address: address(1), plain: NetAddresses::NONE, rails: rails.to_vec() }
    }

    #[test]
    fn a_stack_means_one_rail_or_none() {
        let plain = NetAddresses::new(8, [[127, 0, 0, 1].into()]);
        let here = Here { address: address(1), plain, rails: vec!["shm", "tcp", PLAIN, RELAY] };
        let rail = |text: &str| here.rail(&text.parse().unwrap());
        assert_eq!((rail("shm"), rail("tls/tcp"), rail("tls/relay")), (Ok("shm"), Ok("tcp"), Ok(RELAY)));
        assert_eq!((rail("tls/tcp(streams=1)"), rail("tls/tcp(streams=8)")), (Ok("tcp"), Ok("tcp")));
        assert_eq!(rail("tcp(streams=1)"), Ok(PLAIN));
        for (text, why) in [
            ("tcp(streams=2)", "a plain connection is one"),
            ("tls/tcp(streams=9)", "at most 8 streams"),
            ("relay", "always encrypted"),
            ("tls/shm", "no rail"),
        ] {
            assert!(rail(text).unwrap_err().contains(why), "{text}");
        }
        assert_eq!(
            (rail("tcp"), here.place(PLAIN).network, here.place("tcp")),
            (Ok(PLAIN), plain, address(1))
        );
        let without = Here { rails: vec!["shm"], ..here };
        assert!(without.rail(&"tls/tcp".parse().unwrap()).unwrap_err().contains("no rail tcp"));
    }

    #[test]
    fn a_place_is_that_of_the_node_and_leads_by_its_rail_only() {
        let here = Here { address: address(1), plain: NetAddresses::NONE, rails: Vec::new() };
        let other = address(9);
        let place = other.to_bytes();
        assert_eq!(read_place(&place, other.node), Ok(other));
        assert!(read_place(&place, here.address.node).unwrap_err().contains("another node"));
        for wrong in [&place[1..], &[], &[0; ADDRESS_BYTES]] {
            assert!(read_place(wrong, other.node).is_err());
        }
        assert_eq!(here.reduce(other, "shm").network, NetAddresses::NONE);
        assert_ne!(here.reduce(other, "tcp").host, here.address.host);
        assert_eq!(here.reduce(other, "tcp").network, other.network);
        let relayed = here.reduce(other, RELAY);
        assert_eq!((relayed.network, relayed.host == here.address.host), (NetAddresses::NONE, false));
    }

    #[test]
    fn what_a_peer_wrote_is_borne() {
        let desk = Desk::new().unwrap();
        desk.open(here(&["shm", "tcp"]));
        let path = |stack: &str, place: Vec<u8>| Path {
            connection: 1,
            attempt: 0,
            number: 1,
            stack: stack.parse().unwrap(),
            security: Security::Encrypted,
            place,
            again: None,
        };
        let to = address(9).node;
        let connect = |path: &Path| desk.connect(to, path, Instant::now()).unwrap_err();
        assert!(connect(&path("shm", vec![1; 2000])).contains("no address"));
        let other_user = Address { uid: 5, ..address(9) };
        assert!(connect(&path("shm", other_user.to_bytes().to_vec())).contains("of user 5"));
        // Nobody polls this fabric.
        assert!(connect(&path("tls/tcp", other_user.to_bytes().to_vec())).contains("in time"));
    }

    #[test]
    fn pipes_and_plain_connections_are_allowed_for_as_long_as_somebody_may_come() {
        let desk = Desk::new().unwrap();
        desk.open(here(&["shm", "tcp", PLAIN, RELAY]));
        let (node, later) = (address(9).node, Instant::now() + Duration::from_secs(60));
        let order = |stack: &str, deadline| Order {
            key: Key { from: node, incarnation: 1, connection: 1, attempt: 0 },
            service: SERVICE.parse().unwrap(),
            stack: stack.parse().unwrap(),
            security: Security::Plain,
            hint: Vec::new(),
            replaces: None,
            again: None,
            deadline,
        };
        for (stack, rail) in [("tls/relay", RELAY), ("tcp", PLAIN)] {
            for (stack, deadline, allows) in
                [("shm", later, false), (stack, Instant::now(), false), (stack, later, true)]
            {
                let order = order(stack, deadline);
                desk.build(&order).unwrap();
                assert_eq!(desk.allows(rail, node, Direction::IsCalled), allows, "{stack}");
            }
            Builder::close(&desk, &order(stack, later).key);
            assert!(!desk.allows(rail, node, Direction::IsCalled), "nothing has come of it");
        }
        desk.build(&order("tls/tcp", later)).unwrap();
        assert!(!desk.allows(PLAIN, node, Direction::IsCalled), "sealed is not plain");
        for (stack, streams) in [("tls/tcp(streams=3)", Some(3)), ("shm", Some(3)), ("tls/tcp", None)] {
            desk.build(&order(stack, later)).unwrap();
            assert_eq!(desk.streams(node), streams, "{stack}");
        }
        // Nobody polls this fabric: the own try comes to nothing.
        let path = Path {
            connection: 1,
            attempt: 0,
            number: 1,
            stack: "tls/relay".parse().unwrap(),
            security: Security::Encrypted,
            place: address(9).to_bytes().to_vec(),
            again: None,
        };
        let deadline = Instant::now() + Duration::from_millis(50);
        std::thread::scope(|scope| {
            let tried = scope.spawn(|| desk.connect(node, &path, deadline));
            while !desk.is_busy() {
                std::thread::yield_now();
            }
            assert!(
                desk.allows(RELAY, node, Direction::IsCalled) || Instant::now() >= deadline,
                "it is tried"
            );
            assert!(tried.join().unwrap().is_err());
        });
        desk.allow(RELAY, address(8).node, Try::from(&path), later);
        desk.disconnect(address(8).node, &path);
        assert!(
            !desk.allows(RELAY, node, Direction::IsCalled)
                && !desk.allows(RELAY, address(8).node, Direction::IsCalled)
        );
    }
}
