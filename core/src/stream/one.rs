//! One stream, as one of its sides sees it.

use super::buffer::Buffer;
use super::pull::{Pulling, Shown};
use super::{ring, Bells, Ready, Room};
use crate::endpoint::CqId;
use crate::error::Error;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::PeerId;

/// Part of the window that is read before the peer is told: few words for many bytes, and never all of the window.
const TOLD_EVERY: u32 = 4;

#[derive(Debug)]
pub(super) struct One {
    pub(super) peer: PeerId,
    /// The peer's number of the stream, once it has accepted.
    pub(super) remote: Option<u64>,
    /// The peer has gone, or has refused.
    pub(super) failed: Option<Error>,
    pub(super) bells: Bells,
    /// What has come.
    buffer: Buffer,
    /// Where it goes while somebody waits for it: his memory, and how much of that is filled.
    lent: Option<(Iov, usize)>,
    window: u32,
    /// Bytes that the peer may still send,
    granted: u32,
    /// and that were read since it was told how many.
    owed: u32,
    /// The peer sends no more.
    pub(super) in_ended: bool,
    /// Bytes that may still be sent.
    credit: u64,
    /// Bytes that stand in line.
    in_line: usize,
    /// This side sends no more.
    pub(super) out_ended: bool,
    /// The peer reads no more.
    out_stopped: bool,
    /// Behind the buffer: what is read from the peer's memory.
    pub(super) pulling: Option<Pulling>,
    /// What the peer reads from the own memory.
    pub(super) shown: Shown,
}

impl One {
    /// A stream that a peer is asked for.
    pub(super) fn calling(peer: PeerId, window: u32, bells: Bells) -> One {
        One {
            peer,
            remote: None,
            failed: None,
            bells,
            buffer: Buffer::default(),
            lent: None,
            window,
            granted: window,
            owed: 0,
            in_ended: false,
            credit: 0,
            in_line: 0,
            out_ended: false,
            out_stopped: false,
            pulling: None,
            shown: Shown::default(),
        }
    }

    /// The two sides know each other.
    pub(super) fn meet(&mut self, remote: u64, credit: u32) {
        (self.remote, self.credit) = (Some(remote), credit.into());
    }

    /// Bytes have come.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] for none, and for those that the peer may not send, now or ever.
    pub(super) fn take(&mut self, bytes: &PeerBytes<'_>) -> Result<(), Error> {
        let len = u32::try_from(bytes.len()).ok().filter(|len| (1..=self.granted).contains(len));
        let may = self.remote.is_some() && !self.in_ended && self.pulling.is_none();
        let len = len.filter(|_| may).ok_or(Error::PeerMisbehaved)?;
        self.granted -= len;
        // Of a stream that was aborted nobody reads any more.
        if self.failed.is_none() && !self.fill(bytes) {
            self.buffer.push(bytes);
        }
        Ok(())
    }

    /// Copies bytes to who waits for them; not when others wait before them, or when only some have room.
    fn fill(&mut self, bytes: &PeerBytes<'_>) -> bool {
        let Some((memory, filled)) = &mut self.lent else { return false };
        if self.buffer.len() > 0 || bytes.len() > memory.len() - *filled {
            return false;
        }
        *filled += bytes.copy_to(&Gather::one(memory).window(*filled, bytes.len()));
        true
    }

    /// What comes goes to this memory from now on; false when somebody else waits already.
    pub(super) fn lend(&mut self, memory: Iov) -> bool {
        let is_free = self.lent.is_none();
        if is_free {
            self.lent = Some((memory, 0));
        }
        is_free
    }

    /// The end of that: how many bytes have come there, and how many the peer is to be told that it may send.
    pub(super) fn take_back(&mut self) -> (usize, Option<u32>) {
        let len = self.lent.take().map_or(0, |(_, filled)| filled);
        (len, self.repay(len))
    }

    /// Reads; also how many bytes the peer is to be told that it may send.
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<(usize, Option<u32>), Error> {
        if self.buffer.len() == 0 {
            return match self.failed {
                // What it had not read yet is gone: that is no end of the stream.
                Some(Error::Canceled) => Err(Error::Canceled),
                _ if self.in_ended => Ok((0, None)),
                Some(error) => Err(error),
                None => Err(Error::Again),
            };
        }
        let len = self.buffer.pop(to);
        Ok((len, self.repay(len)))
    }

    /// So many bytes were read: how many the peer is to be told that it may send.
    fn repay(&mut self, len: usize) -> Option<u32> {
        // Never more than the window.
        self.owed += len as u32;
        if self.owed < self.window.div_ceil(TOLD_EVERY) || self.in_ended || self.failed.is_some() {
            return None;
        }
        self.granted += self.owed;
        Some(std::mem::take(&mut self.owed))
    }

    pub(super) fn room(&self) -> Result<Room, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.is_output_over() {
            return Err(Error::Closed);
        }
        let may = self.credit > 0 && self.in_line == 0 && !self.shown.is_pending();
        let remote = self.remote.filter(|_| may).ok_or(Error::Again)?;
        Ok(Room { peer: self.peer, remote, most: usize::try_from(self.credit).unwrap_or(usize::MAX) })
    }

    /// Nothing is written any more.
    pub(super) fn is_output_over(&self) -> bool {
        self.out_ended || self.out_stopped
    }

    /// The peer has room for less than `len` bytes, and nothing stands in line before them.
    pub(super) fn has_room_below(&self, len: usize) -> bool {
        self.in_line == 0 && self.credit < len as u64
    }

    pub(super) fn wrote(&mut self, len: usize, in_line: bool) {
        self.credit = self.credit.saturating_sub(len as u64);
        self.in_line += if in_line { len } else { 0 };
    }

    pub(super) fn left_line(&mut self, len: usize) {
        self.in_line = self.in_line.saturating_sub(len);
    }

    /// The peer has read so many bytes.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when it has room for more than a window can say.
    pub(super) fn grant(&mut self, bytes: u32) -> Result<(), Error> {
        let credit = self.credit + u64::from(bytes);
        if self.remote.is_none() || credit > u64::from(u32::MAX) {
            return Err(Error::PeerMisbehaved);
        }
        self.credit = credit;
        Ok(())
    }

    /// The peer sends no more.
    pub(super) fn end_input(&mut self) -> Result<(), Error> {
        if self.remote.is_none() || std::mem::replace(&mut self.in_ended, true) {
            return Err(Error::PeerMisbehaved);
        }
        // What was shown before is taken back with that.
        self.pulling = None;
        Ok(())
    }

    /// The peer reads no more.
    pub(super) fn stop_output(&mut self) -> Result<(), Error> {
        if self.remote.is_none() || std::mem::replace(&mut self.out_stopped, true) {
            return Err(Error::PeerMisbehaved);
        }
        Ok(())
    }

    /// Nobody reads or writes any more; who waits is told.
    pub(super) fn abort(&mut self, rings: &mut Vec<CqId>) {
        (self.buffer, self.pulling) = (Buffer::default(), None);
        if let Some((_, filled)) = &mut self.lent {
            *filled = 0;
        }
        self.fail(Error::Canceled, rings);
    }

    /// This side has aborted it: no peer can refuse a stream with that.
    pub(super) fn is_aborted(&self) -> bool {
        self.failed == Some(Error::Canceled)
    }

    pub(super) fn fail(&mut self, error: Error, rings: &mut Vec<CqId>) {
        if self.failed.is_none() {
            self.failed = Some(error);
            ring(rings, self.bells.input, None);
            ring(rings, self.bells.output, self.bells.any);
        }
    }

    /// Bytes that wait to be read.
    #[cfg(all(test, not(loom)))]
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn ready(&self) -> Ready {
        let is_there = self.buffer.len() > 0 || self.pulling.is_some();
        let input = is_there || self.in_ended || self.failed.is_some();
        Ready { input, output: !matches!(self.room(), Err(Error::Again)) }
    }
}
