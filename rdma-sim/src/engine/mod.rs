//! One queue pair, without I/O and without a clock: packets, work requests and the time come in; packets, completions and the next
//! deadline go out.
//!
//! | file | concept |
//! |---|---|
//! | `requester.rs` | the send queue: packets of requests, answers, sending again |
//! | `wqe.rs` | one work request of the send queue, as packets |
//! | `window.rs` | how many packets may be under way |
//! | `requester/recovery.rs` | what is done about packets that the peer misses |
//! | `responder.rs` | requests of the peer: checks, effects |
//! | `parked.rs` | those that came before one that is missing |
//! | `reply.rs` | what is said to them, now and when they come again |
//! | `receives.rs` | the receives of a queue pair, or of several |

mod parked;
mod receives;
mod reply;
mod requester;
mod responder;
mod window;
mod wqe;

use std::net::SocketAddr;
use std::time::Duration;

use crate::attr::{Access, Change, InitAttr, RtrAttr, State, MAX_RD_ATOMIC, RNR_RETRY_FOREVER};
use crate::mr::{PdId, Regions};
use crate::wire::{Bth, Header, Packet, QpNum};
use crate::wr::{Data, RecvWr, SendWr, Wc, WcOpcode, WcStatus};

pub(crate) use receives::Receives;
use requester::Requester;
use responder::Responder;

/// Longest message: what verbs allow.
pub(crate) const MAX_MESSAGE: u32 = 1 << 31;

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The queue pair's state does not allow it.
    State,
    /// An attribute or a length is out of range.
    Invalid,
    /// The queue is full.
    Full,
    /// No random numbers, no descriptors: the system refused.
    System,
}

/// Something that no completion tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QpEvent {
    /// SQD: what was begun is finished.
    SqDrained,
    /// The queue pair came into ERR through a request of its peer that breaks a rule.
    ReqErr,
    /// The same, through a request for memory that it must not have.
    AccessErr,
    /// A queue pair with a shared receive queue came into ERR, and takes no more from it.
    LastWqeReached,
}

/// The time, asked for when it is needed: most packets need none, and a look at the clock costs as much as some of them.
pub(crate) struct Clock {
    /// The last look.
    seen: Duration,
    /// What is later than that is no affair of this call: it was told, or has looked.
    is_fresh: bool,
    read: Option<Box<dyn Fn() -> Duration + Send>>,
}

impl Clock {
    /// One that `read` looks at, or else one that is told.
    pub(crate) fn new(read: Option<Box<dyn Fn() -> Duration + Send>>) -> Clock {
        Clock { seen: Duration::ZERO, is_fresh: true, read }
    }

    /// It is so late, or later.
    pub(crate) fn tell(&mut self, now: Duration) {
        self.seen = self.seen.max(now);
        self.is_fresh = true;
    }

    /// Time has passed.
    pub(crate) fn pass(&mut self) {
        self.is_fresh = self.read.is_none();
    }

    /// The time. Does not change until that has [passed](Self::pass).
    pub(crate) fn now(&mut self) -> Duration {
        if !self.is_fresh {
            self.look();
        }
        self.seen
    }

    #[cold]
    fn look(&mut self) {
        let now = self.read.as_ref().map_or(self.seen, |read| read());
        self.tell(now);
    }

    /// The last look.
    pub(crate) fn seen(&self) -> Duration {
        self.seen
    }
}

/// What a queue pair reaches while it works.
pub(crate) struct Host<'a> {
    pub(crate) clock: &'a mut Clock,
    pub(crate) regions: &'a Regions,
    pub(crate) receives: &'a mut Receives,
    pub(crate) effects: &'a mut Effects,
}

/// What is to be told to the user, in order.
#[derive(Default)]
pub(crate) struct Effects {
    /// For the send queue's completion queue.
    pub(crate) sent: Vec<Wc>,
    /// For the receive queue's; true is a solicited event.
    pub(crate) received: Vec<(Wc, bool)>,
    pub(crate) events: Vec<QpEvent>,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.received.is_empty() && self.events.is_empty()
    }
}

/// What both halves of a queue pair know about it.
#[derive(Clone, Copy)]
pub(crate) struct Ident {
    pub(crate) num: QpNum,
    pub(crate) pd: PdId,
}

impl Ident {
    fn failed(&self, wr_id: u64, status: WcStatus, opcode: WcOpcode) -> Wc {
        Wc { wr_id, status, opcode, byte_len: 0, imm: None, qp: self.num }
    }

    pub(crate) fn failed_receive(&self, wr_id: u64, status: WcStatus) -> (Wc, bool) {
        // Who waits for solicited events is to hear of failures, too.
        (self.failed(wr_id, status, WcOpcode::Recv), true)
    }
}

/// How a queue pair was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) max_send_wr: usize,
    pub(crate) max_inline: usize,
    pub(crate) max_sge: usize,
    /// Each send work request has a completion, whether it asks for it or not.
    pub(crate) signal_all: bool,
    pub(crate) shared_receives: bool,
}

/// A queue pair.
pub(crate) struct Engine {
    ident: Ident,
    shape: Shape,
    state: State,
    access: Access,
    peer: Option<RtrAttr>,
    /// The last packet was an answer: a request is next, if there is one.
    request_next: bool,
    requester: Requester,
    responder: Responder,
}

impl Engine {
    pub(crate) fn new(ident: Ident, shape: Shape) -> Engine {
        Engine {
            ident,
            shape,
            state: State::Reset,
            access: Access::default(),
            peer: None,
            request_next: false,
            requester: Requester::new(ident, shape),
            responder: Responder::new(ident),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Address of the peer's device, from RTR on.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.peer.map(|peer| peer.remote)
    }

    pub(crate) fn change(&mut self, change: Change, host: &mut Host<'_>) -> Result<(), Error> {
        match (change, self.state) {
            (Change::Reset, _) => self.reset(host),
            (Change::Err, State::Reset) => return Err(Error::State),
            (Change::Err, _) => {
                self.responder.silence();
                self.fail(host);
            }
            (Change::Init(InitAttr { access }), State::Reset | State::Init) => {
                self.access = access;
                self.state = State::Init;
            }
            (Change::Rtr(peer), State::Init) => {
                if peer.max_dest_rd_atomic > MAX_RD_ATOMIC {
                    return Err(Error::Invalid);
                }
                self.responder.start(&peer);
                self.peer = Some(peer);
                self.state = State::Rtr;
            }
            (Change::Rts(attr), State::Rtr) => {
                let Some(peer) = &self.peer else { return Err(Error::State) };
                if attr.retry_cnt > 7
                    || attr.rnr_retry > RNR_RETRY_FOREVER
                    || attr.max_rd_atomic > MAX_RD_ATOMIC
                {
                    return Err(Error::Invalid);
                }
                self.requester.start(&attr, peer.path_mtu);
                self.state = State::Rts;
            }
            (Change::Sqd, State::Rts) => {
                self.requester.drain(host.effects);
                self.state = State::Sqd;
            }
            (Change::Sqd, State::Sqd) | (Change::Resume, State::Rts) => {}
            (Change::Resume, State::Sqd) => {
                self.requester.resume();
                self.state = State::Rts;
            }
            _ => return Err(Error::State),
        }
        Ok(())
    }

    fn reset(&mut self, host: &mut Host<'_>) {
        if !self.shape.shared_receives {
            host.receives.clear();
        }
        *self = Engine::new(self.ident, self.shape);
    }

    pub(crate) fn post_send(&mut self, wr: SendWr, host: &mut Host<'_>) -> Result<(), Error> {
        self.requester.check(&wr)?;
        match self.state {
            State::Rts | State::Sqd => self.requester.post(wr),
            State::Err => {
                self.requester.flush_one(&wr, host.effects);
                Ok(())
            }
            State::Reset | State::Init | State::Rtr => Err(Error::State),
        }
    }

    /// Not for queue pairs with a shared receive queue.
    pub(crate) fn post_recv(&mut self, wr: RecvWr, host: &mut Host<'_>) -> Result<(), Error> {
        if wr.sges.len() > self.shape.max_sge {
            return Err(Error::Invalid);
        }
        match self.state {
            State::Reset => Err(Error::State),
            State::Err => {
                host.effects.received.push(self.ident.failed_receive(wr.wr_id, WcStatus::WrFlushErr));
                Ok(())
            }
            _ => host.receives.post(wr),
        }
    }

    /// A packet from the peer's address for this queue pair.
    pub(crate) fn handle_packet(&mut self, packet: &Packet<'_>, host: &mut Host<'_>) {
        let Some(peer) = self.peer else { return };
        match (self.state, packet.header.is_response()) {
            (State::Rtr | State::Rts | State::Sqd, false) => {
                if let Err(event) = self.responder.request(packet, &peer, self.access, host) {
                    host.effects.events.push(event);
                    self.fail(host);
                }
            }
            (State::Rts | State::Sqd, true) => {
                let outcome = self.requester.response(packet, host);
                self.after(outcome, host);
            }
            _ => {}
        }
    }

    /// The next moment at which [`handle_timer`](Self::handle_timer) has something to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Rts | State::Sqd => self.requester.deadline(),
            _ => None,
        }
    }

    pub(crate) fn handle_timer(&mut self, host: &mut Host<'_>) {
        if matches!(self.state, State::Rts | State::Sqd) {
            let outcome = self.requester.timer(host);
            self.after(outcome, host);
        }
    }

    /// False when [`next_packet`](Self::next_packet) would find nothing.
    pub(crate) fn may_send(&self) -> bool {
        self.responder.may_send() || self.requester.may_send()
    }

    /// Appends the next packet to `out`, which is empty; false when there is none for now.
    pub(crate) fn next_packet(&mut self, host: &mut Host<'_>, out: &mut Vec<u8>) -> bool {
        let Some(peer) = self.peer else { return false };
        // Each half has every other packet: a peer that reads without end keeps no request of this side from leaving.
        if self.request_next && self.next_request(&peer, host, out) {
            self.request_next = false;
            return true;
        }
        if self.next_reply(&peer, host, out) {
            self.request_next = true;
            return true;
        }
        // In the other order both were asked.
        !self.request_next && self.next_request(&peer, host, out)
    }

    fn next_reply(&mut self, peer: &RtrAttr, host: &mut Host<'_>, out: &mut Vec<u8>) -> bool {
        match self.responder.next_reply(peer, host, out) {
            Ok(some) => some,
            Err(event) => {
                out.clear();
                host.effects.events.push(event);
                self.fail(host);
                self.responder.next_reply(peer, host, out).unwrap_or(false)
            }
        }
    }

    fn next_request(&mut self, peer: &RtrAttr, host: &mut Host<'_>, out: &mut Vec<u8>) -> bool {
        if !matches!(self.state, State::Rts | State::Sqd) {
            return false;
        }
        let outcome = self.requester.next_request(peer.dest_qp, host, out);
        let sent = matches!(outcome, Ok(true));
        if !sent {
            // A head whose payload cannot be read.
            out.clear();
        }
        self.after(outcome.map(drop), host);
        sent
    }

    /// A work request at the head of the send queue has failed, or not.
    fn after(&mut self, outcome: Result<(), WcStatus>, host: &mut Host<'_>) {
        if let Err(status) = outcome {
            self.requester.fail_head(status, host.effects);
            self.responder.silence();
            self.fail(host);
        }
    }

    /// To ERR: everything is flushed. What the responder has still to say is said.
    fn fail(&mut self, host: &mut Host<'_>) {
        if self.state == State::Err {
            return;
        }
        self.state = State::Err;
        self.requester.flush(host.effects);
        self.responder.flush(host);
        if self.shape.shared_receives {
            host.effects.events.push(QpEvent::LastWqeReached);
            return;
        }
        while let Some(wr) = host.receives.take() {
            host.effects.received.push(self.ident.failed_receive(wr.wr_id, WcStatus::WrFlushErr));
        }
    }

    /// A completion queue of this queue pair has no room: nothing can be told any more.
    pub(crate) fn overrun(&mut self, host: &mut Host<'_>) {
        self.responder.silence();
        self.fail(host);
    }
}

/// Writes one packet to the peer.
fn encode(bth: Bth, header: Header, payload: &[u8], out: &mut Vec<u8>) {
    Packet { bth, header, payload }.encode(out);
}

/// Length of the bytes of a work request, if it is one that can be sent.
fn length_of(data: &Data) -> Option<u32> {
    let len = match data {
        Data::Sges(sges) => crate::mr::total(sges),
        Data::Inline(bytes) => bytes.len() as u64,
    };
    u32::try_from(len).ok().filter(|len| *len <= MAX_MESSAGE)
}
