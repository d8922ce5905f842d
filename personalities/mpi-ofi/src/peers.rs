//! The peers of an endpoint: opened with the first operation on them, by their addresses, or, on another host of a session, by
//! their nodes, which may be behind firewalls and gateways.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gridnet::core::completion::Completion;
use gridnet::core::error::Error;
use gridnet::core::matching::{Key, Slab};
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::{Fabric, Outlet};

use crate::abi::{FiAddr, ADDR_UNSPEC};
use crate::addresses::Addresses;
use crate::endpoint::Endpoint;
use crate::op::{Kind, Op};

/// How long it may take until both sides have agreed on a stack, and that is up.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// So long the directory of the session may be behind: the other rank has just joined.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(10);
/// Then it is looked up again.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(20);

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Peers {
    /// By numbers of the address vector.
    open: Vec<Option<Outlet>>,
    /// Those that are not open yet, or have failed and nobody has heard of it.
    calls: HashMap<FiAddr, Call>,
    /// By numbers of peers.
    sources: Vec<Option<FiAddr>>,
    /// What the address vector was when all of it was right.
    changes: u64,
}

/// A node that is being opened, since then.
struct Call {
    since: Instant,
    state: Progress,
}

/// Who an operation was with, for the log.
pub(super) struct Who {
    /// In the job that its launcher has started.
    pub(super) rank: String,
    pub(super) host: String,
}

enum Progress {
    /// The fabric will say how it went.
    UnderWay,
    /// Nobody knows the node yet; to be tried again then.
    Unknown(Instant),
    /// It failed.
    Over(Error),
}

impl Endpoint {
    /// The peer of this number.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the address vector has no such number; [`Error::Again`] while it is being opened; why no rail leads
    /// there.
    #[inline]
    pub(super) fn peer(&mut self, vectors: &Slab<Addresses>, number: FiAddr) -> Result<PeerId, Error> {
        let vector = self.vector.and_then(|key| vectors.get(key)).ok_or(Error::NotFound)?;
        self.forget_old(vector);
        match self.peers.open.get(number as usize) {
            Some(Some(outlet)) => Ok(outlet.peer()),
            _ => self.open_peer(vector, number),
        }
    }

    #[cold]
    fn open_peer(&mut self, vector: &Addresses, number: FiAddr) -> Result<PeerId, Error> {
        let address = vector.get(number).ok_or(Error::NotFound)?;
        let mut guard = self.shared.enter()?;
        if address.host != self.name().host && guard.is_member() {
            drop(guard);
            return self.open_node(vector, number);
        }
        let opened = guard.engine.open(address);
        drop(guard);
        let peer = opened.map_err(|refusal| no_path(vector, number, &refusal))?;
        self.note_peer(number, peer);
        Ok(peer)
    }

    /// Begins to open the node of an address, or says how far that is.
    fn open_node(&mut self, vector: &Addresses, number: FiAddr) -> Result<PeerId, Error> {
        let address = vector.get(number).ok_or(Error::NotFound)?;
        let now = Instant::now();
        let since = match self.peers.calls.get(&number) {
            None => now,
            Some(Call { state: Progress::UnderWay, .. }) => return Err(Error::Again),
            Some(Call { state: Progress::Unknown(until), .. }) if now < *until => return Err(Error::Again),
            Some(Call { state: Progress::Unknown(_), since }) => *since,
            Some(Call { state: Progress::Over(error), .. }) => {
                let error = *error;
                // Who tries again may be luckier.
                self.peers.calls.remove(&number);
                return Err(error);
            }
        };
        let kind = Kind::Opening { number, changes: self.peers.changes };
        let key = self.ops.insert(Op { context: 0, flags: 0, reports: false, number: 0, kind });
        let mut guard = self.shared.enter()?;
        let begun = guard.open_node(self.cq, address.node, OPEN_LIMIT, key.to_bits());
        drop(guard);
        if let Err(refusal) = begun {
            self.drop_op(key);
            return Err(no_path(vector, number, &refusal));
        }
        self.peers.calls.insert(number, Call { since, state: Progress::UnderWay });
        Err(Error::Again)
    }

    /// A node is open, or not.
    pub(crate) fn node_opened(&mut self, vectors: &Slab<Addresses>, key: Key, end: &Completion) {
        let Some(Op { kind: Kind::Opening { number, changes }, .. }) = self.ops.remove(key) else { return };
        if changes != self.peers.changes {
            // The address vector has changed meanwhile: the number may be another's.
            return;
        }
        let Some(since) = self.peers.calls.get(&number).map(|call| call.since) else { return };
        let opened = match Error::from_code(end.status) {
            Some(error) => Err(error),
            None => {
                let peer = PeerId::new(end.source);
                self.shared.enter().and_then(|mut guard| guard.engine.open_known(peer))
            }
        };
        let state = match opened {
            Ok(peer) => return self.note_peer(number, peer),
            Err(Error::NotFound) if since.elapsed() < UNKNOWN_LIMIT => {
                Progress::Unknown(Instant::now() + UNKNOWN_PAUSE)
            }
            Err(error) => {
                let Who { rank, host } = self.describe(vectors, number);
                tracing::warn!(rank, host, error = error.text(), "no path to a rank of the session");
                // A number that is not there is the program's mistake; a rank that has left is not.
                let error = if error == Error::NotFound { Error::Unreachable } else { error };
                Progress::Over(error)
            }
        };
        self.peers.calls.insert(number, Call { since, state });
    }

    /// Who has a number of the address vector, in the words of people.
    #[cold]
    pub(super) fn describe(&self, vectors: &Slab<Addresses>, number: FiAddr) -> Who {
        let vector = self.vector.and_then(|key| vectors.get(key));
        let rank = vector.map_or_else(|| "unknown".to_owned(), |vector| vector.rank_in_words(number));
        let host = match vector.and_then(|vector| vector.get(number)) {
            Some(address) if address.host == self.name().host => "this one".to_owned(),
            Some(address) => format!("{:x} {:?}", address.host, address.network),
            None => "unknown".to_owned(),
        };
        Who { rank, host }
    }

    /// Forgets what the address vector may have changed.
    #[inline]
    fn forget_old(&mut self, vector: &Addresses) {
        if self.peers.changes != vector.changes {
            self.peers.changes = vector.changes;
            self.peers.sources.clear();
            self.peers.calls.clear();
            if let Ok(mut guard) = self.shared.enter() {
                self.remote.forget_keys().for_each(|key| guard.engine.close_key(key));
                self.peers.open.drain(..).flatten().for_each(|outlet| guard.engine.close(outlet.peer()));
            }
        }
    }

    /// The number of a peer in the address vector.
    pub(super) fn source(&mut self, vectors: &Slab<Addresses>, peer: u32) -> FiAddr {
        let Some(vector) = self.vector.and_then(|key| vectors.get(key)) else { return ADDR_UNSPEC };
        self.forget_old(vector);
        match self.peers.sources.get(peer as usize) {
            Some(Some(number)) => *number,
            _ => self.find_source(vector, peer),
        }
    }

    #[cold]
    fn find_source(&mut self, vector: &Addresses, peer: u32) -> FiAddr {
        let Ok(guard) = self.shared.enter() else { return ADDR_UNSPEC };
        let Ok((node, ..)) = guard.engine.peer(PeerId::new(peer)) else { return ADDR_UNSPEC };
        let number = vector.number_of(&node);
        drop(guard);
        // The engine knows the peer, so its number is one of few.
        put(&mut self.peers.sources, peer as usize, number);
        number
    }
}

impl Endpoint {
    /// A peer is open; its number is below the length of the vector, which had it.
    fn note_peer(&mut self, number: FiAddr, peer: PeerId) {
        self.peers.calls.remove(&number);
        put(&mut self.peers.open, number as usize, Outlet::new(self.shared.clone(), peer));
    }
}

impl Peers {
    /// The short way to an open peer, if all that is remembered is of this address vector.
    #[inline(always)]
    pub(super) fn outlet(&self, vector: &Addresses, number: FiAddr) -> Option<&Outlet> {
        let open = self.open.get(usize::try_from(number).ok()?)?.as_ref();
        open.filter(|_| self.changes == vector.changes)
    }

    /// Takes note of the way that leads to a peer now.
    pub(super) fn refresh(&self, number: FiAddr, fabric: &mut Fabric) {
        if let Some(Some(outlet)) = usize::try_from(number).ok().and_then(|index| self.open.get(index)) {
            outlet.refresh(fabric);
        }
    }
}

/// Makes room for a place, and fills it.
fn put<T>(list: &mut Vec<Option<T>>, index: usize, value: T) {
    if list.len() <= index {
        list.resize_with(index + 1, || None);
    }
    list[index] = Some(value);
}

fn no_path(vector: &Addresses, number: FiAddr, refusal: &Refusal) -> Error {
    if refusal.error == Error::Again {
        // The program will ask again, perhaps at once.
        return refusal.error;
    }
    let rank = vector.rank_in_words(number);
    let address = vector.get(number);
    let node = address.map_or_else(String::new, |address| address.node.to_string());
    let network = address.map_or_else(String::new, |address| format!("{:?}", address.network));
    tracing::warn!(rank, network, node, reason = %refusal.reason, "no path to a rank");
    refusal.error
}
