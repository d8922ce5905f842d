//! What a rail is opened with.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::Address;

use crate::device::Device;

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

/// A key that processes have in common, as whoever opens the rail keeps it.
pub trait Secret: Send + Sync {
    /// A proof that whoever made it has the key. `purpose` says what it is good for, `texts` what is proven to have been said.
    fn sign(&self, purpose: &str, texts: &[&[u8]]) -> [u8; PROOF_BYTES];

    /// Whether a proof of [`Self::sign`] is right, in the same time wherever it is wrong.
    fn accepts(&self, purpose: &str, texts: &[&[u8]], proof: &[u8]) -> bool;
}

/// What a rail asks of its peers before it makes a queue pair for them. What goes over that is neither sealed nor signed: RoCE has
/// nothing of the kind.
#[derive(Clone)]
pub enum Security {
    /// That they prove to have this key.
    Key(Arc<dyn Secret>),
    /// Nothing, if they ask for nothing either.
    Insecure,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Security::Key(_) => "Key(..)",
            Security::Insecure => "Insecure",
        })
    }
}

/// Ports from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    count: u16,
}

impl Ports {
    /// The ports from `first` to `last`; none when `first` is 0 or beyond `last`.
    pub fn new(first: u16, last: u16) -> Option<Ports> {
        (first > 0 && first <= last).then(|| Ports { first, count: (last - first).saturating_add(1) })
    }

    /// Every port once, from another place each time: processes that share a range seldom meet. Port 0, which is any, without one.
    pub(crate) fn shuffled(range: Option<Ports>) -> impl Iterator<Item = u16> {
        let Ports { first, count } = range.unwrap_or(Ports { first: 0, count: 1 });
        let start = RandomState::new().hash_one(first) % u64::from(count);
        (0..count).map(move |step| first + ((start + u64::from(step)) % u64::from(count)) as u16)
    }
}

/// What a rail is opened with.
#[derive(Debug)]
pub struct VerbsConfig {
    /// The fabric.
    pub local: Address,
    /// The device, which the rail owns.
    pub device: Box<dyn Device>,
    /// Where it listens for calls: an address of this host, any port.
    pub listen: IpAddr,
    /// Ports of the listener and of calls, if not any.
    pub ports: Option<Ports>,
    /// What peers have to prove.
    pub security: Security,
    /// How often the systems of both sides ask each other whether they are there, when nothing is said; none: never.
    pub keep_alive: Option<Duration>,
    /// Links that break are made again, and nothing is lost.
    pub retains: bool,
}
