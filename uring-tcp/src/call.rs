//! A link that is being made by this side: the addresses of the peer are tried in turn, each for a bounded time.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use gridnet_core::error::Error;
use gridnet_core::rail::{Path, Refusal};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NetAddresses, NodeId, Preface};

use crate::candidates::in_order;
use crate::config::TcpConfig;
use crate::handshake::{Agreed, Caller, Inbox, Purpose, Standing, Step, Ticket};
use crate::socket::{refusal_of, Moved, Stream};
use crate::watch::{Want, READING, WRITING};

/// How long one address is tried, from the first packet to the end of the handshake: TCP asks anew after 1 s, so that one lost
/// packet is not the end.
const ATTEMPT_NS: u64 = 3_000_000_000;
/// The least that a call which is one of several gives to each address, when there are others to be tried in the time of one.
const SHORTEST_NS: u64 = 1_200_000_000;
/// How long a peer that is known may take for the handshake at the last address, while its host answers. It may be stopped; a
/// call that ends leaves a connection in its queue, which has an end.
const PATIENCE_NS: u64 = 60_000_000_000;
/// How long a connection that somebody else makes may take.
const WAY_NS: u64 = 10_000_000_000;
/// Bytes that are read at once while the handshake goes on.
pub(crate) const HANDSHAKE_READ: usize = 2048;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Call {
    target: (NodeId, u64),
    generation: u32,
    purpose: Purpose,
    /// The peer was reached before.
    is_known: bool,
    /// How long each address is tried.
    attempt_ns: u64,
    /// What the peer has said of itself by another way, if frames may go before it says so here.
    unheard: Option<Preface>,
    /// Whether the listener of the rail was told that the peer's host answers.
    told: bool,
    /// The address of this side, if that is not left to the system.
    from: Option<IpAddr>,
    /// All addresses of the peer, and those that were not tried yet.
    there: NetAddresses,
    left: VecDeque<SocketAddr>,
    attempt: Option<Attempt>,
    /// How far the other side was at the address that was tried last.
    standing: Standing,
    /// Why each address that was tried did not do.
    failures: Vec<String>,
    error: Error,
}

#[derive(Debug)]
struct Attempt {
    to: Target,
    stream: Stream,
    /// None until TCP is connected.
    handshake: Option<(Caller, Inbox)>,
    /// Since when; none before the first look at the clock.
    since: Option<Time>,
    /// What came of it, when that will not change.
    outcome: Option<Outcome>,
}

/// Where an attempt leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    At(SocketAddr),
    /// Wherever a way of this name does.
    Way(&'static str),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::At(address) => address.fmt(f),
            Target::Way(name) => f.write_str(name),
        }
    }
}

/// How a call goes.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It is to be looked at when its socket is ready.
    Waits(Want),
    /// The peer wants the link: [`Call::into_parts`].
    Linked,
    /// The peer is who was called, and may be sent frames, whatever it says: [`Call::into_unheard`].
    Unheard,
    /// The peer has called, too, and that call counts.
    Crossed,
    /// No address does.
    Failed(Refusal),
}

/// How one attempt goes.
#[derive(Debug, Clone)]
enum Outcome {
    Waits(Want),
    Linked,
    Unheard,
    Crossed,
    Failed(Refusal),
}

impl Call {
    /// A call to the fabric at `address`, which was reached before if it `is_known`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when that listens nowhere.
    pub(crate) fn new(
        address: &Address,
        generation: u32,
        config: &TcpConfig,
        is_known: bool,
    ) -> Result<Call, Refusal> {
        let left: VecDeque<SocketAddr> = in_order(address.network.iter(), &config.interfaces).into();
        if left.is_empty() {
            return Err(Refusal::new(Error::Unreachable, "the peer listens on no network"));
        }
        let share = ATTEMPT_NS / left.len().max(1) as u64;
        let attempt_ns = if is_known { share.max(SHORTEST_NS) } else { ATTEMPT_NS };
        let target = (address.node, address.incarnation);
        let there = address.network;
        Ok(Call { is_known, attempt_ns, there, left, ..Call::to(target, generation, Purpose::Link) })
    }

    /// A call for a further path of a link of this generation, between these two addresses.
    pub(crate) fn further(
        (from, to): (IpAddr, SocketAddr),
        target: (NodeId, u64),
        generation: u32,
        ticket: Ticket,
    ) -> Call {
        let left = VecDeque::from([to]);
        Call { from: Some(from), left, ..Call::to(target, generation, Purpose::Path(ticket)) }
    }

    /// A call for the pulse of a link of this generation, to where that leads.
    pub(crate) fn pulse(to: SocketAddr, target: (NodeId, u64), generation: u32) -> Call {
        Call { left: VecDeque::from([to]), ..Call::to(target, generation, Purpose::Pulse) }
    }

    /// A call by a connection that somebody else makes.
    pub(crate) fn by_way(stream: Stream, target: (NodeId, u64), generation: u32) -> Call {
        let to = Target::Way(stream.way().unwrap_or_default());
        let attempt = Some(Attempt { to, stream, handshake: None, since: None, outcome: None });
        Call { attempt, attempt_ns: WAY_NS, ..Call::to(target, generation, Purpose::Link) }
    }

    fn to(target: (NodeId, u64), generation: u32, purpose: Purpose) -> Call {
        Call {
            target,
            generation,
            purpose,
            is_known: false,
            attempt_ns: ATTEMPT_NS,
            unheard: None,
            told: false,
            from: None,
            there: NetAddresses::NONE,
            left: VecDeque::new(),
            attempt: None,
            standing: Standing::Stranger,
            failures: Vec::new(),
            error: Error::Unreachable,
        }
    }

    /// Frames may go as soon as it is known that the peer is who was called. It has said this of itself.
    pub(crate) fn go_unheard(&mut self, preface: Preface) {
        self.unheard = Some(preface).filter(|preface| preface.may_go_unheard() && !self.is_known);
    }

    /// Whether the host of a known peer has answered, and nobody was told.
    pub(crate) fn is_to_tell(&self) -> bool {
        self.is_known && !self.told && self.has_answered()
    }

    /// The same, once.
    pub(crate) fn tell(&mut self) -> bool {
        let is_to_tell = self.is_to_tell();
        self.told |= is_to_tell;
        is_to_tell
    }

    fn has_answered(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.handshake.is_some())
    }

    /// How far the other side has come at the address of the moment, or at the last one.
    pub(crate) fn standing(&self) -> Standing {
        self.attempt.as_ref().map_or(self.standing, Attempt::standing)
    }

    /// All addresses of the peer, if it was called by them.
    pub(crate) fn there(&self) -> NetAddresses {
        self.there
    }

    /// Where the call is.
    pub(crate) fn path(&self) -> Path {
        let remote = self.attempt.as_ref().map(|attempt| attempt.to.to_string());
        Path { remote, tried: self.failures.clone(), ..Path::default() }
    }

    /// The socket that is waited for.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        self.attempt.as_ref().map(|attempt| &attempt.stream)
    }

    /// Leaves the connection to the process that this one was forked from.
    pub(crate) fn leave(self) {
        if let Some(attempt) = self.attempt {
            attempt.stream.leave();
        }
    }

    /// Goes on as far as that is possible now.
    pub(crate) fn step(&mut self, config: &TcpConfig) -> Progress {
        loop {
            let Some(attempt) = &mut self.attempt else {
                match self.left.pop_front() {
                    Some(to) => match Attempt::begin(self.from, to, config) {
                        Ok(attempt) => self.attempt = Some(attempt),
                        Err(refusal) => self.note(Target::At(to), refusal),
                    },
                    None => return Progress::Failed(Refusal::new(self.error, self.failures.join("; "))),
                }
                continue;
            };
            let (said, may_go) = ((self.generation, self.purpose), self.unheard.is_some());
            match attempt.step(config, self.target, said, may_go) {
                Outcome::Waits(want) => return Progress::Waits(want),
                Outcome::Crossed => return Progress::Crossed,
                Outcome::Failed(refusal) => self.give_up(refusal),
                Outcome::Linked => return Progress::Linked,
                Outcome::Unheard => return Progress::Unheard,
            }
        }
    }

    /// The connection, what came behind the handshake, and what both sides know; none unless the peer wants the link.
    pub(crate) fn into_parts(self) -> Option<(Stream, Vec<u8>, Option<Agreed>)> {
        let Attempt { stream, handshake: Some((caller, inbox)), outcome: Some(Outcome::Linked), .. } =
            self.attempt?
        else {
            return None;
        };
        Some((stream, inbox.into_rest(), caller.into_agreed()))
    }

    /// The same of a peer that has not answered: the connection, what is to be heard, and what the peer has said of itself.
    pub(crate) fn into_unheard(self) -> Option<(Stream, (Caller, Inbox), Preface)> {
        let Attempt { stream, handshake: Some(handshake), outcome: Some(Outcome::Unheard), .. } =
            self.attempt?
        else {
            return None;
        };
        Some((stream, handshake, self.unheard?))
    }

    /// Gives an attempt up that takes too long; whether there was one.
    pub(crate) fn check_time(&mut self, now: Time) -> bool {
        let patience = self.patience_ns();
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.outcome.is_none()) else {
            return false;
        };
        let since = *attempt.since.get_or_insert(now);
        if now.since(since) < patience {
            return false;
        }
        let (error, stage) = match attempt.handshake {
            Some(_) => (Error::Timeout, "no handshake"),
            None => (Error::Unreachable, "no answer"),
        };
        let seconds = patience as f64 / 1e9;
        self.give_up(Refusal::new(error, format!("{stage} within {seconds} s")));
        true
    }

    /// How long the present attempt may take.
    fn patience_ns(&self) -> u64 {
        match self.purpose {
            // That the host answers is all that is wanted.
            Purpose::Pulse if self.has_answered() => u64::MAX,
            Purpose::Link if self.has_answered() && self.is_known && self.left.is_empty() => PATIENCE_NS,
            _ => self.attempt_ns,
        }
    }

    /// When [`Self::check_time`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.outcome.is_none())?;
        Some(attempt.since.map_or(Time(0), |since| since.after(self.patience_ns())))
    }

    fn give_up(&mut self, refusal: Refusal) {
        if let Some(attempt) = self.attempt.take() {
            self.standing = attempt.standing();
            self.note(attempt.to, refusal);
        }
    }

    fn note(&mut self, to: Target, refusal: Refusal) {
        tracing::debug!(address = %to, reason = %refusal.reason, "address does not lead to the peer");
        self.failures.push(format!("{to}: {}", refusal.reason));
        // What a peer that answers says is worth more than that others do not. It has gone if all say so: an address can belong
        // to another host in another network.
        self.error = match (self.failures.len(), refusal.error) {
            (1, error) => error,
            (_, Error::PeerGone) if self.error != Error::PeerGone => self.error,
            (_, error) if self.error == Error::PeerGone || rank(error) > rank(self.error) => error,
            _ => self.error,
        };
    }
}

fn rank(error: Error) -> u8 {
    match error {
        Error::Unreachable => 0,
        Error::Timeout | Error::System => 1,
        _ => 2,
    }
}

impl Attempt {
    fn begin(from: Option<IpAddr>, to: SocketAddr, config: &TcpConfig) -> Result<Attempt, Refusal> {
        if from.is_none() && !config.interfaces.allows_way_to(to) {
            let why = "the way there leaves by an interface that GRIDNET_NET_INTERFACES excludes";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        let stream = Stream::call(from, to, config.ports, &config.tuning).map_err(|e| refusal_of(&e))?;
        Ok(Attempt { to: Target::At(to), stream, handshake: None, since: None, outcome: None })
    }

    fn standing(&self) -> Standing {
        self.handshake.as_ref().map_or(Standing::Stranger, |(caller, _)| caller.standing())
    }

    fn step(
        &mut self,
        config: &TcpConfig,
        target: (NodeId, u64),
        said: (u32, Purpose),
        may_go_unheard: bool,
    ) -> Outcome {
        if let Some(outcome) = &self.outcome {
            return outcome.clone();
        }
        let outcome = match self.go_on(config, target, said) {
            Outcome::Waits(_) if may_go_unheard && self.is_proved(config) => Outcome::Unheard,
            outcome => outcome,
        };
        if !matches!(outcome, Outcome::Waits(_)) {
            self.outcome = Some(outcome.clone());
        }
        outcome
    }

    /// Whether TLS has shown that the peer is who was called, and seals all that follows.
    fn is_proved(&self, config: &TcpConfig) -> bool {
        let is_direct = matches!(self.to, Target::At(_)) && self.handshake.is_some();
        is_direct && config.retains && config.security.seals_all() && self.stream.is_proved()
    }

    fn go_on(
        &mut self,
        config: &TcpConfig,
        target: (NodeId, u64),
        (generation, purpose): (u32, Purpose),
    ) -> Outcome {
        if self.handshake.is_none() {
            match self.stream.is_connected() {
                Ok(false) => return Outcome::Waits(WRITING),
                Err(e) => return Outcome::Failed(refusal_of(&e)),
                Ok(true) => {}
            }
            // A call to a port of this host where nobody listens can meet itself.
            let from = self.stream.local();
            if from.map(Target::At) == Some(self.to) {
                return Outcome::Failed(Refusal::new(Error::Unreachable, "nobody listens there"));
            }
            let to = if let Target::At(to) = self.to { Some(to.ip()) } else { None };
            if from.is_some_and(|from| Some(from.ip()) == to) {
                self.stream.stay_on_host(&config.tuning);
            }
            if let Err(refusal) = config.security.begin_call(&mut self.stream, target.0) {
                return Outcome::Failed(refusal);
            }
            match Caller::begin(&config.local, &config.security, target, generation, purpose) {
                Ok((caller, hello)) => {
                    if !say(&self.stream, &hello) {
                        return Outcome::Failed(hung_up());
                    }
                    self.handshake = Some((caller, Inbox::default()));
                }
                Err(refusal) => return Outcome::Failed(refusal),
            }
        }
        match self.converse(config) {
            Ok(outcome) => outcome,
            Err(refusal) if refusal.error == Error::InUse => Outcome::Crossed,
            Err(refusal) => Outcome::Failed(refusal),
        }
    }

    fn converse(&mut self, config: &TcpConfig) -> Result<Outcome, Refusal> {
        let Some((caller, inbox)) = &mut self.handshake else { return Ok(Outcome::Waits(WRITING)) };
        loop {
            match caller.step(inbox, &config.security)? {
                Step::Done(_) => return Ok(Outcome::Linked),
                Step::Send(bytes) if !say(&self.stream, &bytes) => return Err(hung_up()),
                Step::Send(_) => {}
                Step::Wait => {
                    let mut buffer = [0; HANDSHAKE_READ];
                    match self.stream.receive(&mut buffer) {
                        Moved::Bytes(len) => inbox.push(buffer.get(..len).unwrap_or_default()),
                        Moved::Nothing => return Ok(Outcome::Waits(READING)),
                        Moved::End => {
                            caller.hear_end();
                            return Err(hung_up());
                        }
                        Moved::Broken(e) => {
                            config.security.note_failure(&self.to.to_string(), &e);
                            return Err(refusal_of(&e));
                        }
                    }
                }
            }
        }
    }
}

/// Sends a packet of the handshake. The buffers of a new socket have room for it.
pub(crate) fn say(stream: &Stream, bytes: &[u8]) -> bool {
    bytes.is_empty() || matches!(stream.send(bytes), Moved::Bytes(len) if len == bytes.len())
}

fn hung_up() -> Refusal {
    Refusal::new(Error::Unreachable, "whoever listens there hangs up during the handshake")
}
