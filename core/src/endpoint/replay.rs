//! Frames that were lost with a link, until they are sent again, perhaps over a rail that carries less in one, or not all.

use std::collections::VecDeque;

use super::loan_table::Loaned;
use super::op::{CqId, IovList, OpId, SendOp, Stage};
use super::Engine;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{LinkId, PeerId, Posted, Rail};
use crate::wire::{
    extension_words, Frame, Incoming, Kind, Message, FLAG_AHEAD, FLAG_LAST, FLAG_SOURCE, MAX_EXTENSION,
};

/// A copy of a frame.
#[derive(Debug)]
pub(super) struct LostFrame {
    kind: Kind,
    flags: u8,
    word: u64,
    extension: [u64; MAX_EXTENSION],
    extension_len: usize,
    payload: Box<[u8]>,
}

impl LostFrame {
    /// Copies a frame of our own that a rail hands out; `None` for one that no engine has posted.
    pub(super) fn of(frame: &Incoming<'_>) -> Option<LostFrame> {
        let kind = Kind::from_number(frame.kind)?;
        // What the lost link let the peer fetch it has to ask for, and what came behind the announcement there.
        let flags = match kind {
            Kind::Rts | Kind::Pull => frame.flags & !(FLAG_SOURCE | FLAG_AHEAD),
            _ => frame.flags,
        };
        Some(LostFrame {
            kind,
            flags,
            word: frame.word,
            extension: frame.extension,
            extension_len: extension_words(frame.kind, flags).ok()?,
            payload: frame.payload.to_vec().into_boxed_slice(),
        })
    }

    fn of_message(message: &Message, payload: &[u8]) -> LostFrame {
        let Frame { kind, flags, word, extension, extension_len, .. } = message.frame(Gather::EMPTY);
        LostFrame { kind, flags, word, extension, extension_len, payload: payload.into() }
    }

    pub(super) fn post<R: Rail>(&mut self, rail: &mut R, link: LinkId) -> Posted {
        let LostFrame { kind, flags, word, extension, extension_len, .. } = *self;
        // SAFETY: the bytes are ours for as long as the call takes, and a rail that retains copies what it is given of
        // sequenced frames before it returns.
        let iov = unsafe { Iov::new(self.payload.as_mut_ptr(), self.payload.len()) };
        let payload = Gather::one(&iov);
        rail.post(link, &Frame { kind, flags, word, extension, extension_len, payload })
    }

    /// Where in the extension the place of the payload stands, for kinds whose payload may be divided.
    fn place(&self) -> Option<usize> {
        match self.kind {
            Kind::Put => Some(1),
            Kind::Data => Some(0),
            _ => None,
        }
    }

    /// Parts of at most `most` bytes that do what the frame does.
    fn split(self, most: usize, into: &mut VecDeque<LostFrame>) {
        let Some(place) = self.place().filter(|_| self.payload.len() > most) else {
            return into.push_back(self);
        };
        let count = self.payload.len().div_ceil(most);
        for (i, part) in self.payload.chunks(most).enumerate() {
            let mut extension = self.extension;
            extension[place] = extension[place].wrapping_add((i * most) as u64);
            let flags = if i + 1 < count { self.flags & !FLAG_LAST } else { self.flags };
            into.push_back(LostFrame { extension, flags, payload: part.into(), ..self });
        }
    }
}

impl<R: Rail> Engine<R> {
    /// Makes what is to be sent again fit for the present rail of a peer.
    pub(super) fn fit_replay(&mut self, peer: PeerId) {
        let p = &mut self.state.peers[peer.index()];
        let (most, lends) = (self.rails[p.rail].capabilities().max_segment, p.lends);
        let Some(recovery) = &mut p.recovery else { return };
        let lost = std::mem::take(&mut recovery.replay);
        let mut fit = VecDeque::with_capacity(lost.len());
        for frame in lost {
            match frame.kind {
                Kind::Loan if !lends => fit.extend(self.copy_lost_loan(peer, &frame)),
                _ => frame.split(most, &mut fit),
            }
        }
        if let Some(recovery) = &mut self.state.peers[peer.index()].recovery {
            recovery.replay = fit;
        }
    }

    /// A loan that the peer has not heard of, and cannot reach any more: it goes as any message of its length. None for one that
    /// nobody holds.
    fn copy_lost_loan(&mut self, peer: PeerId, frame: &LostFrame) -> Option<LostFrame> {
        let parsed = Incoming {
            kind: frame.kind as u8,
            flags: frame.flags,
            word: frame.word,
            extension: frame.extension,
            payload: PeerBytes::EMPTY,
        };
        let Ok(Message::Loan { tag, immediate, loan, len, .. }) = Message::parse(&parsed) else {
            return None;
        };
        let hold = crate::matching::Key::from_bits(loan);
        let base = self.state.loans.memory_of(hold)?;
        let size = usize::try_from(len).ok()?;
        if size <= self.state.peers[peer.index()].eager_max {
            // SAFETY: memory of a loan of ours, which the hold keeps, and which the program does not write after it was sent.
            let bytes = unsafe { PeerBytes::raw(base, size) }.to_vec();
            self.state.end_hold(hold, peer);
            return Some(LostFrame::of_message(&Message::Eager { tag, immediate, sync: None }, &bytes));
        }
        // SAFETY: as above; the hold ends with the send.
        let iov = unsafe { Iov::new(base, size) };
        let key = self.state.sends.insert(SendOp {
            peer,
            // No handle: it is sent for good.
            owner: u64::MAX,
            // It was reported when the frame that named it had gone.
            cq: CqId::from_bits(0),
            context: 0,
            iov: IovList::of_loan(Loaned { iov, hold, position: None }),
            len,
            tag,
            immediate,
            sync: false,
            stage: Stage::Announced { pieces: VecDeque::new(), source: None, ahead: 0 },
        });
        self.state.engine.sends_now.set(self.state.sends.len() as u64);
        let op = OpId::Send(key).to_bits();
        Some(LostFrame::of_message(&Message::Rts { tag, len, op, immediate, source: None, ahead: 0 }, &[]))
    }
}
