//! Sends of loans: a frame that names the memory where the rail lends, a copy as of any message where it does not.

use super::flush::Step;
use super::loan_table::{Loaned, Sending};
use super::op::{IovList, OpId, SendOp, Stage};
use super::send::{must_listen, SendArgs, Sent};
use super::state::{send_completion, State};
use super::Engine;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{Gather, Iov};
use crate::rail::{PeerId, Posted, Rail};
use crate::wire::Message;

impl<R: Rail> Engine<R> {
    /// Sends the first `len` bytes of a loan if that can be done at once: the hot path. False when it cannot, and nothing
    /// has happened: [`Self::send_loan`] then does it, or says why not. Unless `keep`, the handle names nothing afterwards.
    #[inline(always)]
    pub fn send_loan_now(&mut self, peer: PeerId, loan: u64, len: usize, tag: u64, keep: bool) -> bool {
        !self.state.peers.get(peer.index()).is_none_or(must_listen)
            && self.post_loan_now(peer, loan, len, tag, keep)
    }

    #[inline(always)]
    fn post_loan_now(&mut self, peer: PeerId, loan: u64, len: usize, tag: u64, keep: bool) -> bool {
        let State { peers, loans, .. } = &mut self.state;
        let Some(p) = peers.get_mut(peer.index()) else { return false };
        if !p.direct || !p.lends {
            return false;
        }
        let Ok(sending) = loans.begin_send(loan, len, peer, &mut p.first_hold) else { return false };
        kill_point!("loan.hold");
        let posted = match (self.rails.get_mut(p.rail), sending.position) {
            (Some(rail), Some(position)) => {
                rail.post_loan(p.link, tag, [sending.hold.to_bits(), position, len as u64])
            }
            _ => Posted::NoResource,
        };
        if posted != Posted::Done {
            loans.end_hold(sending.hold, peer, &mut p.first_hold);
            return false;
        }
        if !keep {
            loans.let_go(sending.loan);
        }
        kill_point!("loan.send");
        p.counts.cells.messages_sent.add(1);
        p.counts.cells.bytes_sent.add(len as u64);
        crate::probes::send_posted(peer, tag, len as u64);
        true
    }

    /// Sends the first `len` bytes of a loan. Unless `keep`, the handle names nothing afterwards; when the call fails, it
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Engine::send_iov`]; [`Error::Invalid`] for a loan of another engine or one that is shorter, [`Error::Handle`] for
    /// one that was sent or given back, [`Error::Unsupported`] for one that was received.
    pub fn send_loan(
        &mut self,
        peer: PeerId,
        loan: u64,
        len: usize,
        keep: bool,
        args: &SendArgs,
    ) -> Result<Sent, Error> {
        if self.state.peers.get(peer.index()).is_some_and(must_listen) {
            self.listen_to(peer);
        }
        if args.immediate.is_none() && self.post_loan_now(peer, loan, len, args.tag, keep) {
            return Ok(Sent::Done);
        }
        let State { peers, loans, .. } = &mut self.state;
        let p = peers.get_mut(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        let lends = p.lends;
        let sending = loans.begin_send(loan, len, peer, &mut p.first_hold)?;
        let sent = match sending.position {
            Some(position) if lends => self.send_lent(peer, sending, position, len, args),
            _ => self.send_copied(peer, sending, len, args),
        };
        match sent {
            Ok(_) if !keep => self.state.loans.let_go(sending.loan),
            Ok(_) => {}
            Err(_) => self.state.end_hold(sending.hold, peer),
        }
        sent
    }

    /// Over the rail that lends: a frame that names the memory, now or in its turn.
    fn send_lent(
        &mut self,
        peer: PeerId,
        sending: Sending,
        position: u64,
        len: usize,
        args: &SendArgs,
    ) -> Result<Sent, Error> {
        self.state.admit(args.cq)?;
        // SAFETY: the memory of the loan stays until the hold ends, which is not before the send does. The program does not
        // write it after it was sent; whoever reads copies, or is a peer.
        let iov = unsafe { Iov::new(sending.base, len) };
        let loaned = Loaned { iov, hold: sending.hold, position: Some(position) };
        let key = self.state.sends.insert(SendOp {
            peer,
            owner: args.owner,
            cq: args.cq,
            context: args.context,
            iov: IovList::of_loan(loaned),
            len: len as u64,
            tag: args.tag,
            immediate: args.immediate,
            sync: false,
            stage: Stage::Queued,
        });
        let p = &mut self.state.peers[peer.index()];
        p.counts.cells.messages_sent.add(1);
        p.counts.cells.bytes_sent.add(len as u64);
        crate::probes::send_queued(peer, args.tag, len as u64);
        p.pending.push_back(key);
        p.publish();
        let alone = p.direct;
        p.set_direct(false);
        self.state.engine.sends_now.set(self.state.sends.len() as u64);
        self.state.schedule(peer);
        if alone {
            self.flush();
        }
        Ok(Sent::InProgress(OpId::Send(key).to_bits()))
    }

    /// Over a rail that does not lend: as any message. The hold ends with the send.
    fn send_copied(
        &mut self,
        peer: PeerId,
        sending: Sending,
        len: usize,
        args: &SendArgs,
    ) -> Result<Sent, Error> {
        // SAFETY: as in `send_lent`.
        let iov = unsafe { Iov::new(sending.base, len) };
        let sent = self.send_iov(peer, std::slice::from_ref(&iov), args)?;
        let under_way = match sent {
            Sent::InProgress(number) => match OpId::from_bits(number) {
                OpId::Send(key) => self.state.sends.get_mut(key),
                _ => None,
            },
            Sent::Done => None,
        };
        match under_way {
            Some(op) => op.iov = IovList::of_loan(Loaned { iov, hold: sending.hold, position: None }),
            None => self.state.end_hold(sending.hold, peer),
        }
        Ok(sent)
    }

    /// The turn of a send that names its memory.
    pub(super) fn flush_loan(&mut self, peer: PeerId, key: Key) -> Step {
        let State { peers, sends, engine, .. } = &mut self.state;
        let p = &mut peers[peer.index()];
        let Some((op, loaned, position)) = sends.get(key).and_then(lent) else {
            return Step::Idle;
        };
        let loan = loaned.hold.to_bits();
        let message = Message::Loan { tag: op.tag, loan, position, len: op.len, immediate: op.immediate };
        match self.rails[p.rail].post(p.link, &message.frame(Gather::EMPTY)) {
            Posted::Done | Posted::Accepted(_) => {
                p.pending.pop_front();
                // The hold stays until the peer gives the loan back.
                if let Some(op) = sends.remove(key) {
                    engine.sends_now.set(sends.len() as u64);
                    self.state.complete(op.cq, send_completion(&op, OpId::Send(key).to_bits(), Ok(())));
                }
                Step::Moved(0)
            }
            Posted::Failed(error) => {
                self.state.abandon_send(key, error);
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down => Step::Full,
        }
    }
}

/// The parts of a send that names its memory.
fn lent(op: &SendOp) -> Option<(&SendOp, &Loaned, u64)> {
    let loaned = op.iov.loaned()?;
    Some((op, loaned, loaned.position?))
}

impl SendOp {
    /// The rail that lends does not lead to the peer any more.
    pub(super) fn forget_position(&mut self) {
        self.iov.forget_position();
    }

    /// True when the frame of this send names its memory instead of carrying it.
    pub(super) fn is_lent(&self) -> bool {
        lent(self).is_some()
    }
}
