//! What can go wrong, by who can do something about it.

use std::fmt;

/// Why something of a session failed. The text says what, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A file, a ticket or an argument is not what it should be.
    Config(String),
    /// A file belongs to another user, or can be read by others.
    Permission(String),
    /// The operating system refused.
    System(String),
    /// Nobody answers, or the connection broke.
    Unreachable(String),
    /// The other side refused, and said why.
    Refused(Refusal, String),
    /// The other side is not who it should be, or broke the protocol.
    Peer(String),
}

/// Why somebody is refused; numbers of the control protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(from = "u16", into = "u16")]
#[non_exhaustive]
#[repr(u16)]
pub enum Refusal {
    /// A reason that this version does not know.
    Other = 0,
    /// The proof is wrong: the secret is not that of the ticket.
    Secret = 1,
    /// The ticket has expired.
    Expired = 2,
    /// So many have joined with the ticket as may.
    UsedUp = 3,
    /// There is no such ticket (any more).
    Ticket = 4,
    /// The node was revoked.
    Revoked = 5,
    /// Too many have asked, too fast.
    Rate = 6,
    /// The request makes no sense.
    Malformed = 7,
    /// There is no room for more.
    Limit = 8,
    /// The rendez-vous node has a trouble of its own.
    Trouble = 9,
    /// The connection ended before somebody was known: no TLS, no certificate, silence.
    Stranger = 10,
    /// Nobody knows the way to that node.
    NoRoute = 11,
    /// A packet has come too far.
    Hops = 12,
    /// The node does not answer such requests.
    Service = 13,
    /// No answer has come in time.
    Late = 14,
    /// A node that was not sent to that leader.
    Pass = 15,
    /// The other side has ended it.
    Ended = 16,
}

impl From<Refusal> for u16 {
    fn from(refusal: Refusal) -> u16 {
        refusal as u16
    }
}

impl From<u16> for Refusal {
    fn from(number: u16) -> Refusal {
        use Refusal::{
            Ended, Expired, Hops, Late, Limit, Malformed, NoRoute, Pass, Rate, Revoked, Secret, Service,
            Stranger, Ticket, Trouble, UsedUp,
        };
        let known = [
            Secret, Expired, UsedUp, Ticket, Revoked, Rate, Malformed, Limit, Trouble, Stranger, NoRoute,
            Hops, Service, Late, Pass, Ended,
        ];
        known.into_iter().find(|refusal| *refusal as u16 == number).unwrap_or(Refusal::Other)
    }
}

impl Refusal {
    /// What it is called in audit lines and counters.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Secret => "secret",
            Refusal::Expired => "expired",
            Refusal::UsedUp => "used_up",
            Refusal::Ticket => "ticket",
            Refusal::Revoked => "revoked",
            Refusal::Rate => "rate",
            Refusal::Malformed => "malformed",
            Refusal::Limit => "limit",
            Refusal::Trouble => "trouble",
            Refusal::Stranger => "stranger",
            Refusal::NoRoute => "no_route",
            Refusal::Hops => "hops",
            Refusal::Service => "service",
            Refusal::Late => "late",
            Refusal::Pass => "pass",
            Refusal::Ended => "ended",
            Refusal::Other => "other",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(text)
            | Error::Permission(text)
            | Error::System(text)
            | Error::Unreachable(text)
            | Error::Peer(text) => f.write_str(text),
            Error::Refused(refusal, text) => write!(f, "refused ({}): {text}", refusal.name()),
        }
    }
}

impl std::error::Error for Error {}
