//! Operations on peers' memory: reads, writes, atomic operations.
//!
//! An errand is what a program has started; its steps are operations of the engine, one for each piece of memory or element. It ends
//! when the last of them has. The engine keeps the order of the steps, and with it that of errands to one peer.

use std::collections::HashMap;

use gridnet::core::endpoint::{RemoteArgs, SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::matching::{Key, Pattern, Slab, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::PeerId;
use gridnet::core::region::Element;

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::FiAddr;
use crate::addresses::Addresses;
use crate::endpoint::{Copied, Endpoint};
use crate::info::MOST_OPERATIONS;
use crate::memory::number_of;
use crate::op::{event, is_misuse, Kind, Op, UNTAGGED};
use crate::queue::{Event, Failure};
use crate::state::{Reports, Side};

/// Tag of the engine of what tells a peer that its memory was written.
pub(crate) const NOTICE: u64 = UNTAGGED | 1;
/// Keys of peers that are remembered; more begin again with none.
const MOST_KEYS: usize = 1 << 12;

/// What a program has asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) peer: FiAddr,
    pub(crate) context: usize,
    /// Of the operation.
    pub(crate) flags: u64,
    /// What its completion says that it was.
    pub(crate) kind: u64,
    /// For the peer's completion queue.
    pub(crate) data: Option<u64>,
    /// Success is not reported even when asked for (`fi_inject_write`).
    pub(crate) silent: bool,
    pub(crate) len: usize,
}

/// One operation of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) act: Act,
    /// Where in the peer's memory.
    pub(crate) addr: u64,
    pub(crate) key: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Write(Iov),
    Read(Iov),
    /// What was there before goes to the memory, if there is any.
    Change(Element, Option<Iov>),
    /// The peer is told, with this.
    Tell(u64),
}

/// An errand under way.
#[derive(Debug)]
pub(crate) struct Errand {
    peer: PeerId,
    order: Order,
    /// Steps that have not ended.
    left: usize,
    failure: Option<Failure>,
    copy: Option<Copied>,
}

/// What an endpoint knows of memory of its peers.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    errands: Slab<Errand>,
    /// Steps that the engine had no room for, in their order.
    stalled: std::collections::VecDeque<(Key, Step)>,
    /// Errands whose peers are to be told, by peers, in their order.
    to_tell: HashMap<u32, std::collections::VecDeque<Key>>,
    /// The engine's keys, by peers and the program's keys.
    keys: HashMap<(u32, u64), Key>,
}

impl Remote {
    pub(crate) fn is_busy(&self) -> bool {
        !self.errands.is_empty()
    }

    pub(crate) fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// The engine's keys, which are forgotten here.
    pub(crate) fn forget_keys(&mut self) -> impl Iterator<Item = Key> + '_ {
        self.keys.drain().map(|(_, key)| key)
    }
}

impl Endpoint {
    /// Starts an errand. With [`INJECT`], what is written was copied to `copy`.
    ///
    /// # Errors
    /// `EAGAIN`, when nothing has happened; what is wrong with the arguments. What the peer says is an event.
    pub(crate) fn start_errand(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &mut Reports,
        order: Order,
        steps: &mut dyn Iterator<Item = Step>,
        copy: Option<Copied>,
    ) -> Result<(), i32> {
        self.check_enabled()?;
        let has_room = reports.has_room(&self.tx) && self.remote.errands.len() < MOST_OPERATIONS;
        if !has_room || !self.resume_stalled(reports) {
            return Err(errno::EAGAIN);
        }
        let peer = match self.peer(vectors, order.peer) {
            Ok(peer) => peer,
            Err(Error::Again) => return Err(errno::EAGAIN),
            Err(error) if is_misuse(error) => return Err(errno::of(error)),
            Err(error) => {
                self.report_errand(reports, &order, Some(Failure::of(error)));
                return Ok(());
            }
        };
        // One more than there are, so that it does not end before its last step was started.
        let errand = Errand { peer, order, left: 1, failure: None, copy };
        let tells = errand.order.data.is_some();
        let id = self.remote.errands.insert(errand);
        if tells {
            self.remote.to_tell.entry(peer.number()).or_default().push_back(id);
        }
        let mut is_first = true;
        for step in steps {
            match self.take_step(id, &step) {
                Err(error) if is_first && (error == Error::Again || is_misuse(error)) => {
                    if let Some(errand) = self.remote.errands.remove(id) {
                        self.give_spare(errand.copy);
                    }
                    if let Some(line) = self.remote.to_tell.get_mut(&peer.number()).filter(|_| tells) {
                        line.pop_back();
                    }
                    return Err(errno::of(error));
                }
                Err(Error::Again) => self.stall(id, step),
                Err(error) => {
                    self.fail_errand(id, Failure::of(error));
                    break;
                }
                Ok(()) => {}
            }
            is_first = false;
        }
        self.step_ended(reports, id);
        if let Some(helper) = self.helper.as_ref().filter(|_| self.remote.is_busy()) {
            helper.wake();
        }
        Ok(())
    }

    /// Gives a step to the engine, unless others wait before it.
    fn take_step(&mut self, id: Key, step: &Step) -> Result<(), Error> {
        if self.remote.has_stalled() {
            return Err(Error::Again);
        }
        let Some(errand) = self.remote.errands.get_mut(id) else { return Ok(()) };
        errand.left += 1;
        let given = self.give_step(id, step);
        if !matches!(given, Ok(Sent::InProgress(_))) {
            if let Some(errand) = self.remote.errands.get_mut(id) {
                errand.left -= 1;
            }
        }
        given.map(drop)
    }

    fn give_step(&mut self, id: Key, step: &Step) -> Result<Sent, Error> {
        let Some(errand) = self.remote.errands.get(id) else { return Ok(Sent::Done) };
        let (peer, order) = (errand.peer, errand.order);
        let rkey = match step.act {
            Act::Tell(_) => None,
            _ => Some(self.remote_key(peer, step)?),
        };
        let (context, flags) = (order.context, order.kind);
        let op = self.ops.insert(Op { context, flags, reports: false, number: 0, kind: Kind::Step(id) });
        let args = RemoteArgs { cq: self.cq, owner: 0, context: op.to_bits() };
        let given = self.shared.enter().and_then(|mut guard| match (step.act, rkey) {
            (Act::Write(from), Some(rkey)) => guard.engine.put(peer, rkey, step.addr, from, &args),
            (Act::Read(to), Some(rkey)) => guard.engine.get(peer, rkey, step.addr, to, &args),
            (Act::Change(element, result), Some(rkey)) => {
                guard.engine.element(peer, rkey, step.addr, &element, result, &args)
            }
            (Act::Tell(data), _) => guard.engine.send_iov(peer, &[Iov::EMPTY], &notice(data, &order, &args)),
            (_, None) => Err(Error::Key),
        });
        if !matches!(given, Ok(Sent::InProgress(_))) {
            self.ops.remove(op);
        }
        given
    }

    /// The engine's key for the program's key of a step.
    fn remote_key(&mut self, peer: PeerId, step: &Step) -> Result<Key, Error> {
        let key = step.key;
        if let Some(known) = self.remote.keys.get(&(peer.number(), key)) {
            return Ok(*known);
        }
        let number = number_of(key).map_err(|_| Error::Key)?;
        let mut guard = self.shared.enter()?;
        if self.remote.keys.len() >= MOST_KEYS {
            self.remote.forget_keys().for_each(|old| guard.engine.close_key(old));
        }
        let rkey = guard.engine.import_number(peer, number)?;
        // A get of nothing: with its answer the rail may reach the memory by itself.
        let op = Op { context: 0, flags: 0, reports: false, number: 0, kind: Kind::Question };
        let op = self.ops.insert(op);
        let args = RemoteArgs { cq: self.cq, owner: 0, context: op.to_bits() };
        let asked = guard.engine.get(peer, rkey, step.addr, Iov::EMPTY, &args);
        if !matches!(asked, Ok(Sent::InProgress(_))) {
            self.ops.remove(op);
        }
        if let Err(error) = asked {
            guard.engine.close_key(rkey);
            return Err(error);
        }
        self.remote.keys.insert((peer.number(), key), rkey);
        Ok(rkey)
    }

    fn stall(&mut self, id: Key, step: Step) {
        if let Some(errand) = self.remote.errands.get_mut(id) {
            errand.left += 1;
            self.remote.stalled.push_back((id, step));
        }
    }

    /// Goes on with steps that there was no room for; whether none is left.
    pub(crate) fn resume_stalled(&mut self, reports: &mut Reports) -> bool {
        while let Some((id, step)) = self.remote.stalled.pop_front() {
            match self.give_step(id, &step) {
                Ok(Sent::InProgress(_)) => {}
                Ok(Sent::Done) => self.step_ended(reports, id),
                Err(Error::Again) => {
                    self.remote.stalled.push_front((id, step));
                    return false;
                }
                Err(error) => {
                    self.fail_errand(id, Failure::of(error));
                    self.step_ended(reports, id);
                }
            }
        }
        true
    }

    /// Notes why an errand fails: the first reason is the one that counts.
    pub(crate) fn fail_errand(&mut self, id: Key, failure: Failure) {
        if let Some(errand) = self.remote.errands.get_mut(id) {
            errand.failure.get_or_insert(failure);
        }
    }

    /// A step has ended, and with the last of them the errand.
    pub(crate) fn step_ended(&mut self, reports: &mut Reports, id: Key) {
        let Some(errand) = self.remote.errands.get_mut(id) else { return };
        errand.left -= 1;
        let (left, tells, peer) = (errand.left, errand.order.data.is_some(), errand.peer);
        match left {
            0 if tells => self.tell_in_order(reports, peer),
            0 => self.errand_ended(reports, id),
            _ => {}
        }
    }

    /// Tells a peer of what has ended, in the order in which it was begun: errands that the kernel does may end before those that go by
    /// messages.
    fn tell_in_order(&mut self, reports: &mut Reports, peer: PeerId) {
        loop {
            let Some(line) = self.remote.to_tell.get_mut(&peer.number()) else { return };
            let Some(id) = line.front().copied() else { return };
            let first = self.remote.errands.get_mut(id).map(|errand| (errand.left, errand));
            let told = match first {
                Some((0, errand)) => errand.order.data.take().filter(|_| errand.failure.is_none()),
                Some(_) => return,
                None => None,
            };
            line.pop_front();
            match told {
                Some(data) => self.tell(reports, id, data),
                None => self.errand_ended(reports, id),
            }
        }
    }

    fn errand_ended(&mut self, reports: &mut Reports, id: Key) {
        let Some(Errand { order, failure, copy, peer, .. }) = self.remote.errands.remove(id) else { return };
        self.give_spare(copy);
        if failure.is_some_and(|failure| failure.errno == errno::ENOKEY) {
            self.forget_keys_of(peer);
        }
        self.report_errand(reports, &order, failure);
    }

    /// What was written is there: the peer is told.
    fn tell(&mut self, reports: &mut Reports, id: Key, data: u64) {
        let step = Step { act: Act::Tell(data), addr: 0, key: 0 };
        if let Some(errand) = self.remote.errands.get_mut(id) {
            errand.left += 1;
        }
        match self.take_step(id, &step) {
            Ok(()) => {}
            Err(Error::Again) => self.stall(id, step),
            Err(error) => self.fail_errand(id, Failure::of(error)),
        }
        self.step_ended(reports, id);
    }

    /// A key may name other memory by now, which is to be found anew.
    fn forget_keys_of(&mut self, peer: PeerId) {
        let Ok(mut guard) = self.shared.enter() else { return };
        self.remote.keys.retain(|(number, _), rkey| {
            let stays = *number != peer.number();
            if !stays {
                guard.engine.close_key(*rkey);
            }
            stays
        });
    }

    fn report_errand(&mut self, reports: &mut Reports, order: &Order, failure: Option<Failure>) {
        let counter = if order.kind & READ != 0 { self.reads } else { self.writes };
        let side = Side { counter, ..self.tx.uncounted() };
        let end = event(order.context, order.kind, order.len);
        match failure {
            None => {
                let does_report = !order.silent && self.tx.reports(order.flags);
                reports.done(&side, does_report.then_some(end));
            }
            Some(failure) => reports.failed(&side, end, failure),
        }
    }

    /// Waits for the next peer that tells of having written.
    ///
    /// # Errors
    /// What the engine says.
    pub(crate) fn await_notice(&mut self) -> Result<(), Error> {
        let op = Op { context: 0, flags: 0, reports: false, number: 0, kind: Kind::Notice };
        let key = self.ops.insert(op);
        let pattern = Pattern { source: Source::Any, tag: NOTICE, ignore: 0 };
        let posted = self
            .shared
            .enter()
            .and_then(|mut guard| guard.engine.receive(self.cq, &pattern, Iov::EMPTY, key.to_bits()));
        if posted.is_err() {
            self.ops.remove(key);
        }
        posted.map(drop)
    }

    /// Waits for the next notice while there is room for what it says; else the engine holds peers back.
    pub(crate) fn listen(&mut self, reports: &Reports) {
        self.is_deaf = !reports.has_room(&self.rx) || self.await_notice().is_err();
    }

    /// A peer has written.
    pub(crate) fn noticed(&mut self, reports: &mut Reports, data: u64, source: FiAddr) {
        let kind = RMA | REMOTE_WRITE | REMOTE_CQ_DATA;
        let told = Event { data, source, ..event(0, kind, 0) };
        reports.done(&self.rx.uncounted(), Some(told));
    }
}

fn notice(data: u64, order: &Order, args: &RemoteArgs) -> SendArgs {
    SendArgs {
        cq: args.cq,
        owner: 0,
        context: args.context,
        tag: NOTICE,
        immediate: Some(data),
        sync: order.flags & DELIVERY_COMPLETE != 0,
        always_complete: false,
    }
}
