//! Long parts of streams by a single copy: the reader fetches them from the writer's memory ([`crate::stream`]), where the rail can.
//!
//! Only what the peer has no room for goes this way: whoever writes it has to wait for the reader in any case. The reader is woken
//! once, copies once, and wakes the writer once; by frames it would have to be there for each of them.

use super::streams::may_go_now;
use super::Engine;
use crate::error::Error;
use crate::mem::{Gather, Iov};
use crate::rail::{Posted, Rail};
use crate::stream::StreamId;
use crate::wire::Message;

/// Shorter parts go by frames: two of them are copied as fast as the peer finds out where they are.
const SHORTEST: usize = 64 << 10;

impl<R: Rail> Engine<R> {
    /// Lets the peer fetch bytes of a stream where they lie, as all that is written next: until [`Self::stream_shown`] says how many it has
    /// read, or [`Self::stream_hide`], which is the end of the operation that the promise of [`Iov::new`] is about. False when they are to
    /// be written.
    pub fn stream_show(&mut self, id: StreamId, memory: &Iov) -> bool {
        let len = memory.len();
        let place = self.state.streams.place_to_show(id, len).filter(|_| len >= SHORTEST);
        let Some((peer, stream)) = place else { return false };
        let Some(p) = self.state.peers.get_mut(peer.index()).filter(|p| may_go_now(p)) else { return false };
        let rail = &mut self.rails[p.rail];
        if !rail.capabilities().get || !rail.pulls(p.link) {
            return false;
        }
        let Some(source) = rail.expose(p.link, &Gather::one(memory)) else { return false };
        let message = Message::Pull { stream, len: len as u64, source: Some(source) };
        if rail.post(p.link, &message.frame(Gather::EMPTY)) != Posted::Done {
            rail.conceal(p.link, source);
            return false;
        }
        self.state.streams.show(id, len, (p.rail, p.link, source));
        true
    }

    /// How many bytes of what was shown the peer has read; those behind them are to be written.
    ///
    /// # Errors
    /// [`Error::Again`] as long as the peer has not answered; [`Error::Closed`], or why not, when it will not: then
    /// [`Self::stream_hide`] is due.
    pub fn stream_shown(&mut self, id: StreamId) -> Result<usize, Error> {
        let (peer, read) = self.state.streams.shown(id)?;
        self.settle_and_flush();
        if let Some(p) = self.state.peers.get(peer.index()) {
            p.counts.cells.stream_bytes_sent.add(read as u64);
        }
        Ok(read)
    }

    /// Takes back what was shown: from now on a peer that copies finds that it has got nothing. The stream ends, unless it has: nobody
    /// knows how much the peer has read.
    pub fn stream_hide(&mut self, id: StreamId) {
        if self.state.streams.hide(id) {
            // There is such a stream.
            let _ = self.state.streams.abort(id);
        }
        self.settle_and_flush();
    }

    /// Reads what the peer shows.
    pub(super) fn stream_pull(&mut self, id: StreamId, to: &mut [u8]) -> Result<usize, Error> {
        let (peer, source, left) = self.state.streams.pulling(id).ok_or(Error::Again)?;
        let p = self.state.peers.get(peer.index()).ok_or(Error::Again)?;
        let rail = &mut self.rails[p.rail];
        let capabilities = rail.capabilities();
        // Others wait while they are copied.
        let most = to.len().min(capabilities.max_get);
        let to = &mut to[..usize::try_from(left).map_or(most, |left| left.min(most))];
        // SAFETY: the memory is borrowed for the call, and nobody else touches it. A rail that would write there later is not asked.
        let memory = unsafe { Iov::new(to.as_mut_ptr(), to.len()) };
        let pulls = capabilities.get && rail.pulls(p.link);
        let source = source.filter(|_| pulls);
        let fetched =
            source.is_some_and(|source| rail.get(p.link, source, &Gather::one(&memory)) == Posted::Done);
        self.state.streams.pulled(id, fetched.then_some(to.len()));
        if self.state.streams.has_work() {
            self.settle_and_flush();
        }
        if !fetched {
            return Err(Error::Again);
        }
        if let Some(p) = self.state.peers.get(peer.index()) {
            p.counts.cells.stream_bytes_received.add(to.len() as u64);
        }
        Ok(to.len())
    }
}
