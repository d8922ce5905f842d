//! A link that is being made by this side.

use std::net::{IpAddr, SocketAddr};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};

use crate::config::{Ports, Security};
use crate::conn::Conn;
use crate::device::{Device, QpNum, Wc};
use crate::hello::{refused, Hello, Role, Transcript, HELLO, OFFER, READY, REFUSAL};
use crate::wire::{refusal_of, Heard, Wire};

/// How long a peer may take to answer.
const ANSWER_NS: u64 = 3_000_000_000;
/// The same for one that is known, once its host has answered: it may be stopped, or busy.
const PATIENCE_NS: u64 = 60_000_000_000;

/// What a caller says of its side.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    pub(crate) local: &'a Address,
    pub(crate) security: &'a Security,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Call {
    stage: Stage,
    transcript: Transcript,
    to: SocketAddr,
    target: (NodeId, u64),
    generation: u32,
    /// The peer was reached before,
    is_known: bool,
    /// and the engine was told that its host answers.
    told: bool,
    /// Since when; none before the first look at the clock.
    since: Option<Time>,
}

/// How far a call is.
#[derive(Debug)]
enum Stage {
    Connecting(Wire),
    Greeting(Wire),
    Offered(Box<Conn>),
    /// A message is on its way that shows whether others will come through.
    Proving(Box<Conn>),
    Over,
}

/// How it goes.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing came.
    Waits,
    /// The connection was made: from now on only reading is waited for.
    Connected,
    /// From now on completions of this queue pair are waited for, for [`Call::complete`].
    Proving(QpNum),
    /// The link is there.
    Linked(Box<Conn>),
    /// The peer has called, too, and that call counts.
    Crossed,
    /// There will be none: the peer's device does not answer.
    Deaf(Refusal),
    /// There will be none.
    Failed(Refusal),
}

impl Call {
    /// Begins to call, from one of these ports.
    pub(crate) fn begin(
        (from, ports, to): (IpAddr, Option<Ports>, SocketAddr),
        target: (NodeId, u64),
        generation: u32,
        is_known: bool,
    ) -> Result<Call, Refusal> {
        let wire = Wire::call(to, (from, ports)).map_err(|e| at(to, refusal_of(&e)))?;
        let stage = Stage::Connecting(wire);
        let transcript = Transcript::default();
        Ok(Call { stage, transcript, to, target, generation, is_known, told: false, since: None })
    }

    /// The connection that is waited for.
    pub(crate) fn wire(&self) -> Option<&Wire> {
        match &self.stage {
            Stage::Connecting(wire) | Stage::Greeting(wire) => Some(wire),
            Stage::Offered(conn) | Stage::Proving(conn) => Some(&conn.wire),
            Stage::Over => None,
        }
    }

    /// Where it is made to.
    pub(crate) fn to(&self) -> SocketAddr {
        self.to
    }

    /// Whether the host of a known peer has answered; once.
    pub(crate) fn tell(&mut self) -> bool {
        let has_answered = matches!(self.stage, Stage::Greeting(_) | Stage::Offered(_) | Stage::Proving(_));
        has_answered && self.is_known && !std::mem::replace(&mut self.told, true)
    }

    /// Goes on as far as that is possible now.
    pub(crate) fn step(&mut self, side: &Side<'_>, device: &mut dyn Device) -> Progress {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let (stage, progress) = match stage {
            Stage::Connecting(wire) => self.connecting(wire, side),
            Stage::Greeting(wire) => self.greeting(wire, side, device),
            Stage::Offered(conn) => self.offered(conn, side, device),
            Stage::Proving(conn) => self.proving(conn, device),
            Stage::Over => (Stage::Over, Progress::Waits),
        };
        self.stage = stage;
        match progress {
            Progress::Failed(refusal) => Progress::Failed(at(self.to, refusal)),
            other => other,
        }
    }

    fn connecting(&mut self, wire: Wire, side: &Side<'_>) -> (Stage, Progress) {
        let begun = match wire.is_connected() {
            Ok(false) => return (Stage::Connecting(wire), Progress::Waits),
            // A call to a port of this host where nobody listens can meet itself.
            Ok(true) if wire.local() == Some(self.to) => {
                Err(Refusal::new(Error::Unreachable, "nobody listens there"))
            }
            Ok(true) => self.greet(&wire, side),
            Err(e) => Err(refusal_of(&e)),
        };
        match begun {
            Ok(()) => (Stage::Greeting(wire), Progress::Connected),
            Err(refusal) => (Stage::Over, Progress::Failed(refusal)),
        }
    }

    fn greet(&mut self, wire: &Wire, side: &Side<'_>) -> Result<(), Refusal> {
        let hello = side.hello(self.target, self.generation)?.to_bytes();
        self.transcript.note(&hello);
        wire.say(HELLO, &hello).map_err(|e| refusal_of(&e))
    }

    fn greeting(&mut self, mut wire: Wire, side: &Side<'_>, device: &mut dyn Device) -> (Stage, Progress) {
        match self.hear(&mut wire, HELLO) {
            Ok(None) => (Stage::Greeting(wire), Progress::Waits),
            Ok(Some(said)) => match self.offer(wire, &said, side, device) {
                Ok(conn) => (Stage::Offered(conn), Progress::Waits),
                Err(refusal) => (Stage::Over, Progress::Failed(refusal)),
            },
            Err(progress) => (Stage::Over, progress),
        }
    }

    fn offer(
        &mut self,
        wire: Wire,
        said: &[u8],
        side: &Side<'_>,
        device: &mut dyn Device,
    ) -> Result<Box<Conn>, Refusal> {
        let theirs = Hello::parse(said)?;
        side.security.check(theirs.security)?;
        if (theirs.node, theirs.incarnation) != self.target {
            return Err(Refusal::new(Error::PeerGone, "another process listens there"));
        }
        self.transcript.note(said);
        let conn = Conn::open(device, wire, Role::Caller)?;
        let offer = self.transcript.offer(conn.pair(device), Role::Caller, side.security);
        match conn.wire.say(OFFER, &offer) {
            Ok(()) => Ok(Box::new(conn)),
            Err(e) => {
                drop(conn.fence(device));
                Err(refusal_of(&e))
            }
        }
    }

    fn offered(
        &mut self,
        mut conn: Box<Conn>,
        side: &Side<'_>,
        device: &mut dyn Device,
    ) -> (Stage, Progress) {
        let said = match self.hear(&mut conn.wire, OFFER) {
            Ok(None) => return (Stage::Offered(conn), Progress::Waits),
            Ok(Some(said)) => said,
            Err(progress) => {
                drop(conn.fence(device));
                return (Stage::Over, progress);
            }
        };
        let accepted = self.transcript.accept(&said, Role::Called, side.security);
        let connected =
            accepted.and_then(|pair| conn.connect(device, &pair).and_then(|()| conn.prove(device, &pair)));
        match connected {
            Ok(()) => {
                let qp = conn.qp;
                (Stage::Proving(conn), Progress::Proving(qp))
            }
            Err(refusal) => {
                drop(conn.fence(device));
                (Stage::Over, Progress::Failed(refusal))
            }
        }
    }

    /// The peer has nothing to say meanwhile, but that it gives up.
    fn proving(&mut self, mut conn: Box<Conn>, device: &mut dyn Device) -> (Stage, Progress) {
        match self.hear(&mut conn.wire, READY) {
            Ok(None) => (Stage::Proving(conn), Progress::Waits),
            Ok(Some(_)) => {
                drop(conn.fence(device));
                let why = "a packet that does not belong there";
                (Stage::Over, Progress::Failed(Refusal::new(Error::PeerMisbehaved, why)))
            }
            Err(progress) => {
                drop(conn.fence(device));
                (Stage::Over, progress)
            }
        }
    }

    /// Something has come of the message that shows whether others will come through.
    pub(crate) fn complete(&mut self, wc: &Wc, device: &mut dyn Device) -> Progress {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let Stage::Proving(mut conn) = stage else {
            self.stage = stage;
            return Progress::Waits;
        };
        if let Err(refusal) = conn.is_proved(wc) {
            drop(conn.fence(device));
            return Progress::Deaf(at(self.to, refusal));
        }
        match conn.wire.say(READY, &[]) {
            Ok(()) => Progress::Linked(conn),
            Err(e) => {
                drop(conn.fence(device));
                Progress::Failed(at(self.to, refusal_of(&e)))
            }
        }
    }

    /// What the peer says, if it is `wanted`; the end of the call, if it is something else.
    fn hear(&self, wire: &mut Wire, wanted: u8) -> Result<Option<Vec<u8>>, Progress> {
        let refusal = match wire.hear() {
            Heard::Nothing => return Ok(None),
            Heard::Packet(what, body) if what == wanted => return Ok(Some(body)),
            Heard::Packet(REFUSAL, body) => refused(&body),
            Heard::Packet(..) => Refusal::new(Error::PeerMisbehaved, "a packet that does not belong there"),
            Heard::End => {
                Refusal::new(Error::Unreachable, "whoever listens there hangs up during the handshake")
            }
            Heard::Broken(e) => refusal_of(&e),
        };
        Err(if refusal.error == Error::InUse { Progress::Crossed } else { Progress::Failed(refusal) })
    }

    /// Gives it up; what it held goes back to the device.
    pub(crate) fn give_up(self, device: &mut dyn Device) {
        if let Stage::Offered(conn) | Stage::Proving(conn) = self.stage {
            drop(conn.fence(device));
        }
    }

    /// Why it takes too long, if it does.
    pub(crate) fn is_late(&mut self, now: Time) -> Option<Refusal> {
        let since = *self.since.get_or_insert(now);
        let most = self.patience_ns();
        if now.since(since) < most {
            return None;
        }
        let (error, what) = match self.stage {
            Stage::Connecting(_) => (Error::Unreachable, "no answer"),
            _ => (Error::Timeout, "no handshake"),
        };
        Some(at(self.to, Refusal::new(error, format!("{what} within {} s", most / 1_000_000_000))))
    }

    /// When [`Self::is_late`] is to be asked.
    pub(crate) fn deadline(&self) -> Time {
        self.since.map_or(Time(0), |since| since.after(self.patience_ns()))
    }

    fn patience_ns(&self) -> u64 {
        match self.stage {
            Stage::Connecting(_) => ANSWER_NS,
            _ if self.is_known => PATIENCE_NS,
            _ => ANSWER_NS,
        }
    }
}

impl Side<'_> {
    /// What this side says of itself to `target`.
    pub(crate) fn hello(&self, target: (NodeId, u64), generation: u32) -> Result<Hello, Refusal> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::new(Error::System, "no random numbers"))?;
        Ok(Hello {
            security: self.security.number(),
            node: self.local.node,
            incarnation: self.local.incarnation,
            uid: self.local.uid,
            generation,
            target,
            listens: self.local.network,
            nonce,
        })
    }
}

fn at(to: SocketAddr, refusal: Refusal) -> Refusal {
    Refusal::new(refusal.error, format!("{to}: {}", refusal.reason))
}
