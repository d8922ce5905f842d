//! Everything that a device has, and its work: packets in, timers, packets out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::cq::{CqId, CqState, Overrun};
use crate::engine::{Clock, Effects, Engine, Error, Host, QpEvent, Receives};
use crate::mr::{PdId, Regions};
use crate::number::ByNumber;
use crate::port::{Port, Received};
use crate::wire::{Packet, QpNum};
use crate::wr::{RecvWr, SendWr, Wc};

/// Packets that are taken from the port at a time: acknowledgements for them become one.
const RECEIVE_BATCH: usize = 64;
/// Packets that one queue pair sends before the next has its turn.
const TURN: usize = 16;
/// Packets that are sent at a time.
const SEND_BATCH: usize = 128;
/// Calls of `progress` of which one asks the clock whether a timer is due: few, as for who calls seldom timers are late by so many.
const ASK_EACH: u32 = 4;
/// Events that are kept for who does not ask; the oldest are dropped.
const MAX_EVENTS: usize = 1024;

/// Something that no completion tells, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Of a queue pair.
    Qp(QpNum, QpEvent),
    /// A completion queue was full.
    CqErr(CqId),
    /// A shared receive queue has fewer receives than was asked for.
    SrqLimitReached(SrqId),
}

/// Number of a shared receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SrqId(pub(crate) u32);

/// What a device has counted since it was opened, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Sent.
    pub sent: u64,
    /// Received, with a right ICRC.
    pub received: u64,
    /// Dropped: wrong ICRC.
    pub corrupt: u64,
    /// Not packets, but times that the port could not receive.
    pub failed: u64,
    /// Dropped: no packet of the reliable connected service.
    pub malformed: u64,
    /// Dropped: for a queue pair that there is not, or that has another peer.
    pub strange: u64,
}

/// A queue pair, and where its completions and receives are.
pub(super) struct Pair {
    pub(super) engine: Engine,
    pub(super) send_cq: CqId,
    pub(super) recv_cq: CqId,
    pub(super) source: Source,
    /// It is among those that may have something to send.
    is_active: bool,
}

impl Pair {
    pub(super) fn new(engine: Engine, send_cq: CqId, recv_cq: CqId, source: Source) -> Pair {
        Pair { engine, send_cq, recv_cq, source, is_active: false }
    }
}

/// Where receives come from.
pub(super) enum Source {
    Own(Receives),
    Shared(SrqId),
}

impl Source {
    /// The receives; none of a shared queue that is gone.
    fn receives<'a>(&'a mut self, srqs: &'a mut ByNumber<u32, Receives>) -> Option<&'a mut Receives> {
        match self {
            Source::Own(receives) => Some(receives),
            Source::Shared(id) => srqs.get_mut(&id.0),
        }
    }
}

/// The state of a device.
pub(super) struct Core {
    pub(super) port: Box<dyn Port>,
    pub(super) regions: Regions,
    pub(super) cqs: ByNumber<u32, CqState>,
    pub(super) srqs: ByNumber<u32, Receives>,
    pub(super) pairs: ByNumber<u32, Pair>,
    pub(super) events: VecDeque<Event>,
    pub(super) counters: Counters,
    clock: Clock,
    /// Calls since the clock was asked whether a timer is due.
    unasked: u32,
    /// Last number that was given to something.
    last_id: u32,
    /// Last number of a protection domain; none has that of another one, ever.
    last_pd: u64,
    /// Queue pairs that may have something to send, the one whose turn is next first. Each is in it once; some may be gone.
    active: VecDeque<u32>,
    /// No queue pair has a deadline before this moment.
    quiet_until: Option<Duration>,
    effects: Effects,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Where `outgoing` goes, while the port has no room for it.
    held: Option<SocketAddr>,
    /// The port could not let leave everything that it has taken.
    is_stuck: bool,
}

impl Core {
    pub(super) fn new(port: Box<dyn Port>, first_id: u32, clock: Clock) -> Core {
        Core {
            port,
            regions: Regions::default(),
            cqs: ByNumber::default(),
            srqs: ByNumber::default(),
            pairs: ByNumber::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            clock,
            unasked: 0,
            last_id: first_id,
            last_pd: 0,
            active: VecDeque::new(),
            quiet_until: None,
            effects: Effects::default(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            held: None,
            is_stuck: false,
        }
    }

    /// A new protection domain.
    pub(super) fn next_pd(&mut self) -> PdId {
        self.last_pd += 1;
        PdId(self.last_pd)
    }

    /// A number that nothing has.
    pub(super) fn next_id(&mut self) -> u32 {
        loop {
            self.last_id = QpNum::new(self.last_id.wrapping_add(1)).value();
            let id = self.last_id;
            // 0 and 1 are queue pairs for management.
            if id > 1
                && !self.pairs.contains_key(&id)
                && !self.cqs.contains_key(&id)
                && !self.srqs.contains_key(&id)
            {
                return id;
            }
        }
    }

    /// Lets a queue pair work, and tells the user what came of it. If it has something to send then, its turn will come. None when there
    /// is no such queue pair.
    pub(super) fn run<R>(
        &mut self,
        num: QpNum,
        work: impl FnOnce(&mut Engine, &mut Host<'_>, &mut Vec<u8>) -> R,
    ) -> Option<R> {
        let Core { pairs, srqs, regions, effects, outgoing, clock, quiet_until, active, .. } = self;
        let pair = pairs.get_mut(&num.value())?;
        let receives = pair.source.receives(srqs)?;
        let result = work(&mut pair.engine, &mut Host { clock, regions, receives, effects }, outgoing);
        *quiet_until = earlier(*quiet_until, pair.engine.deadline());
        if !pair.is_active && pair.engine.may_send() {
            pair.is_active = true;
            active.push_back(num.value());
        }
        self.settle(num);
        Some(result)
    }

    /// A work request for the send queue. No timer begins with it: the first packet starts that.
    pub(super) fn post_send(&mut self, num: QpNum, wr: SendWr) -> Result<(), Error> {
        let Core { pairs, srqs, regions, effects, clock, active, .. } = self;
        let pair = pairs.get_mut(&num.value()).ok_or(Error::State)?;
        let receives = pair.source.receives(srqs).ok_or(Error::State)?;
        let posted = pair.engine.post_send(wr, &mut Host { clock, regions, receives, effects });
        if !pair.is_active && pair.engine.may_send() {
            pair.is_active = true;
            active.push_back(num.value());
        }
        if !effects.is_empty() {
            self.settle(num);
        }
        posted
    }

    /// A receive: nothing is to be sent for it.
    pub(super) fn post_recv(&mut self, num: QpNum, wr: RecvWr) -> Result<(), Error> {
        let Core { pairs, srqs, regions, effects, clock, .. } = self;
        let pair = pairs.get_mut(&num.value()).ok_or(Error::State)?;
        let receives = pair.source.receives(srqs).ok_or(Error::State)?;
        let posted = pair.engine.post_recv(wr, &mut Host { clock, regions, receives, effects });
        if !effects.is_empty() {
            self.settle(num);
        }
        posted
    }

    /// Hands out completions of a queue, as [`Cq::poll_many`](super::Cq::poll_many) says.
    pub(super) fn poll_many(
        &mut self,
        id: CqId,
        most: usize,
        mut each: impl FnMut(Wc),
    ) -> Result<usize, Overrun> {
        let Some(queue) = self.cqs.get_mut(&id.0) else { return Ok(0) };
        for count in 0..most {
            match queue.poll() {
                Ok(Some(wc)) => each(wc),
                // What was handed out before counts; the next call says that something was lost.
                Err(overrun) if count == 0 => return Err(overrun),
                _ => return Ok(count),
            }
        }
        Ok(most)
    }

    /// Completions and events of a queue pair that has worked go to where the user finds them.
    fn settle(&mut self, num: QpNum) {
        let Core { effects, cqs, events, pairs, srqs, .. } = self;
        let Some(pair) = pairs.get_mut(&num.value()) else { return };
        if let Source::Shared(id) = &pair.source {
            if srqs.get_mut(&id.0).is_some_and(Receives::take_limit_reached) {
                push_event(events, Event::SrqLimitReached(*id));
            }
        }
        if effects.is_empty() {
            return;
        }
        let mut full = Vec::new();
        let mut push = |id: CqId, wc, solicited| {
            if cqs.get_mut(&id.0).is_some_and(|cq| !cq.push(wc, solicited)) {
                full.push(id);
            }
        };
        for wc in effects.sent.drain(..) {
            push(pair.send_cq, wc, wc.status != crate::wr::WcStatus::Success);
        }
        for (wc, solicited) in effects.received.drain(..) {
            push(pair.recv_cq, wc, solicited);
        }
        effects.events.drain(..).for_each(|event| push_event(events, Event::Qp(num, event)));
        for id in full {
            push_event(&mut self.events, Event::CqErr(id));
            self.overrun(id);
        }
    }

    /// Whether a completion queue is there, and has lost nothing.
    pub(super) fn tells(&self, id: CqId) -> bool {
        self.cqs.get(&id.0).is_some_and(|cq| !cq.has_overrun())
    }

    /// Whether both completion queues of a queue pair have lost nothing.
    pub(super) fn can_tell(&self, num: QpNum) -> bool {
        self.pairs.get(&num.value()).is_some_and(|pair| self.tells(pair.send_cq) && self.tells(pair.recv_cq))
    }

    /// All queue pairs of a completion queue that was full come into ERR. Each queue is found full once, so that this ends.
    fn overrun(&mut self, id: CqId) {
        let users: Vec<u32> = self
            .pairs
            .iter()
            .filter(|(_, pair)| pair.send_cq == id || pair.recv_cq == id)
            .map(|(num, _)| *num)
            .collect();
        for num in users {
            self.run(QpNum::new(num), |engine, host, _| engine.overrun(host));
        }
    }

    /// It is so late.
    pub(super) fn tell_time(&mut self, now: Duration) {
        self.clock.tell(now);
        // Whoever tells the time has looked already.
        self.unasked = ASK_EACH;
    }

    /// What was posted leaves, as far as there is room.
    pub(super) fn flush(&mut self) {
        self.clock.pass();
        self.transmit();
    }

    /// The caller waits now: the next call asks the clock.
    pub(super) fn arm(&mut self) -> bool {
        self.unasked = ASK_EACH;
        self.port.arm()
    }

    /// Does what can be done now; returns how many packets came or left.
    pub(super) fn progress(&mut self) -> usize {
        self.clock.pass();
        // What was posted since the last call need not wait for a look at the port, which may be a system call.
        let posted = self.transmit();
        let came = self.receive();
        self.expire();
        posted + came + self.transmit()
    }

    fn receive(&mut self) -> usize {
        let mut bytes = std::mem::take(&mut self.incoming);
        let mut came = 0;
        while came < RECEIVE_BATCH {
            match self.port.receive(&mut bytes) {
                Received::Nothing => break,
                Received::Failed => {
                    self.counters.failed += 1;
                    break;
                }
                Received::Corrupt => self.counters.corrupt += 1,
                Received::Packet(from) => self.dispatch(from, &bytes),
            }
            came += 1;
        }
        self.incoming = bytes;
        came
    }

    fn dispatch(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.counters.received += 1;
        let Ok(packet) = Packet::decode(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let is_peers = self.run(packet.bth.dest_qp, |engine, host, _| {
            // The port of the sender says nothing: adapters choose one by flow.
            let is_peers = engine.remote().is_some_and(|address| address.ip() == from.ip());
            if is_peers {
                engine.handle_packet(&packet, host);
            }
            is_peers
        });
        self.counters.strange += u64::from(is_peers != Some(true));
    }

    /// Timers are far longer than some calls, of which the others need not look at the clock.
    fn expire(&mut self) {
        let Some(until) = self.quiet_until else { return };
        self.unasked += 1;
        if self.unasked < ASK_EACH {
            return;
        }
        self.unasked = 0;
        let now = self.clock.now();
        if until > now {
            return;
        }
        let is_due = |pair: &Pair| pair.engine.deadline().is_some_and(|deadline| deadline <= now);
        let mut due: Vec<u32> =
            self.pairs.iter().filter(|(_, pair)| is_due(pair)).map(|(num, _)| *num).collect();
        due.sort_unstable();
        for num in due {
            self.run(QpNum::new(num), |engine, host, _| engine.handle_timer(host));
        }
        self.quiet_until = self.first_deadline();
    }

    fn first_deadline(&self) -> Option<Duration> {
        self.pairs.values().filter_map(|pair| pair.engine.deadline()).min()
    }

    /// The next moment at which [`progress`](Self::progress) has something to do though no packet comes.
    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.held.is_some() || self.is_stuck {
            return Some(self.clock.seen());
        }
        self.first_deadline()
    }

    /// Sends what can be sent, and lets it leave.
    fn transmit(&mut self) -> usize {
        if self.active.is_empty() && self.held.is_none() && !self.is_stuck {
            return 0;
        }
        let sent = self.send();
        if sent > 0 || self.is_stuck {
            self.is_stuck = !self.port.flush();
        }
        sent
    }

    /// Each queue pair has one turn to send some packets, until the port is full, or it was enough.
    fn send(&mut self) -> usize {
        let mut left = SEND_BATCH;
        if self.held.is_some() {
            if !self.send_held() {
                return 0;
            }
            left -= 1;
        }
        for _ in 0..self.active.len() {
            let Some(num) = self.active.pop_front() else { break };
            match self.turn(num, TURN.min(left)) {
                Turn::Gone => {}
                Turn::Idle(sent) => left -= sent,
                Turn::More(sent) => {
                    self.active.push_back(num);
                    left -= sent;
                }
                Turn::Held(sent) => {
                    self.active.push_front(num);
                    return SEND_BATCH - left + sent;
                }
            }
            if left == 0 {
                break;
            }
        }
        SEND_BATCH - left
    }

    /// A queue pair sends up to `most` packets.
    fn turn(&mut self, num: u32, most: usize) -> Turn {
        for sent in 0..most {
            let Core { pairs, srqs, regions, effects, outgoing, clock, quiet_until, port, .. } = self;
            let Some(pair) = pairs.get_mut(&num) else { return Turn::Gone };
            let Some(to) = pair.engine.remote().filter(|_| pair.engine.may_send()) else {
                pair.is_active = false;
                return Turn::Idle(sent);
            };
            if !port.has_room(to) {
                return Turn::More(sent);
            }
            let Some(receives) = pair.source.receives(srqs) else { return Turn::Gone };
            outgoing.clear();
            let made = pair.engine.next_packet(&mut Host { clock, regions, receives, effects }, outgoing);
            *quiet_until = earlier(*quiet_until, pair.engine.deadline());
            if !effects.is_empty() {
                self.settle(QpNum::new(num));
            }
            if !made {
                return self.idle(num, sent);
            }
            self.held = Some(to);
            if !self.send_held() {
                return Turn::Held(sent);
            }
        }
        Turn::More(most)
    }

    fn idle(&mut self, num: u32, sent: usize) -> Turn {
        if let Some(pair) = self.pairs.get_mut(&num) {
            pair.is_active = false;
        }
        Turn::Idle(sent)
    }

    /// Sends the packet that was held back, if there is one; false when it still is.
    fn send_held(&mut self) -> bool {
        let Some(to) = self.held else { return true };
        let sent = self.port.send(to, &mut self.outgoing);
        if sent {
            self.counters.sent += 1;
            self.held = None;
        }
        sent
    }
}

/// How a queue pair's turn to send has ended, and after how many packets.
enum Turn {
    /// There is no such queue pair any more.
    Gone,
    /// It has nothing more to send for now.
    Idle(usize),
    /// It may have more, later.
    More(usize),
    /// The port is full.
    Held(usize),
}

/// The earlier of two moments, where none is never.
fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn push_event(events: &mut VecDeque<Event>, event: Event) {
    if events.len() >= MAX_EVENTS {
        events.pop_front();
    }
    events.push_back(event);
}
