//! Somebody who calls, and has not proved yet that it may.

use std::net::SocketAddr;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::time::Time;

use crate::call::Side;
use crate::hello::{refuse, Hello, Pair, Role, Transcript, HELLO, OFFER, REFUSAL};
use crate::wire::{Heard, Wire};

/// How long it may take.
pub(crate) const VISIT_NS: u64 = 5_000_000_000;
/// How many there may be; the oldest goes when one more comes.
pub(crate) const MAX_VISITORS: usize = 64;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) wire: Wire,
    transcript: Transcript,
    hello: Option<Hello>,
    /// Since when; none before the first look at the clock.
    pub(crate) since: Option<Time>,
}

/// How a visit goes.
#[derive(Debug)]
pub(crate) enum Visit {
    /// More has to come.
    Waits(Visitor),
    /// It may have a link.
    Known(Known),
    /// It was sent away, or has gone.
    Over,
}

/// Who has proved that it may have a link.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) wire: Wire,
    pub(crate) transcript: Transcript,
    pub(crate) hello: Hello,
    pub(crate) pair: Pair,
}

impl Visitor {
    /// Somebody new.
    pub(crate) fn new(wire: Wire) -> Visitor {
        Visitor { wire, transcript: Transcript::default(), hello: None, since: None }
    }

    /// Where it calls from, for people.
    pub(crate) fn name(&self) -> String {
        self.wire.peer().map_or_else(|| "somebody".to_owned(), |from: SocketAddr| from.to_string())
    }

    /// Hears what it says.
    pub(crate) fn step(mut self, side: &Side<'_>) -> Visit {
        loop {
            let heard = self.wire.hear();
            let (what, said) = match heard {
                Heard::Packet(what, said) => (what, said),
                Heard::Nothing => return Visit::Waits(self),
                Heard::End | Heard::Broken(_) => return Visit::Over,
            };
            let answered = match (what, self.hello) {
                (HELLO, None) => self.greet(&said, side),
                (OFFER, Some(hello)) => match self.transcript.accept(&said, Role::Caller, side.security) {
                    Ok(pair) => {
                        let Visitor { wire, transcript, .. } = self;
                        return Visit::Known(Known { wire, transcript, hello, pair });
                    }
                    Err(refusal) => Err(refusal),
                },
                _ => Err(Refusal::new(Error::PeerMisbehaved, "a packet that does not belong there")),
            };
            if let Err(refusal) = answered {
                tracing::warn!(from = self.name(), reason = %refusal.reason, "call refused");
                send_away(&mut self.wire, &refusal);
                return Visit::Over;
            }
        }
    }

    fn greet(&mut self, said: &[u8], side: &Side<'_>) -> Result<(), Refusal> {
        let hello = Hello::parse(said)?;
        side.security.check(hello.security)?;
        let local = side.local;
        if hello.node == local.node {
            return Err(Refusal::new(Error::PeerMisbehaved, "the peer has our own node id"));
        }
        if hello.target.0 != local.node {
            return Err(Refusal::new(Error::PeerGone, "another process listens here"));
        }
        if hello.target.1 != local.incarnation {
            return Err(Refusal::new(Error::PeerGone, "unknown incarnation"));
        }
        let answer = side.hello((hello.node, hello.incarnation), hello.generation)?.to_bytes();
        self.transcript.note(said);
        self.transcript.note(&answer);
        self.hello = Some(hello);
        self.wire.say(HELLO, &answer).map_err(|_| Refusal::new(Error::Unreachable, "the caller hangs up"))
    }
}

/// Says why there will be no link, and hangs up.
pub(crate) fn send_away(wire: &mut Wire, refusal: &Refusal) {
    // An error says that it has gone.
    let _ = wire.say(REFUSAL, &refuse(refusal));
    wire.end();
}
