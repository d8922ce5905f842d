//! Bytes that stay in their writer's memory until the reader has fetched them: one part of a stream at a time, in the order of the stream.
//!
//! The writer shows a part, and waits: nothing else of the stream is sent meanwhile. The reader fetches what it has room for, in as many
//! parts as it likes, and says once how far it came: to the end, or as far as it could. What is behind that is sent as all bytes are.
//! The end of the stream takes the part back.

use super::one::One;
use super::{ring, Say, StreamId, Streams};
use crate::error::Error;
use crate::rail::{LinkId, PeerId, RemoteSource};
use crate::wire::{Message, Said};

/// Memory that was exposed on a rail, for the peer of a link.
pub(crate) type Exposed = (usize, LinkId, RemoteSource);

/// A part of the peer's bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulling {
    len: u64,
    /// How many of them were read.
    done: u64,
    /// Where they are; none when they have to be asked for.
    source: Option<RemoteSource>,
}

/// A part of the own bytes.
#[derive(Debug)]
pub(super) struct Showing {
    len: u64,
    /// None when the link has broken for which it was exposed.
    exposed: Option<Exposed>,
}

/// The own side's parts.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The one that the peer reads.
    showing: Option<Showing>,
    /// It was taken back, and the peer may have answered before it heard of that.
    taken_back: bool,
    /// The peer's answer, until the writer has it.
    answer: Option<u64>,
    /// The peer cannot fetch over the present link, though it was told where the bytes are.
    refused: bool,
}

impl Shown {
    /// Nothing else of the stream may be sent.
    pub(super) fn is_pending(&self) -> bool {
        self.showing.is_some() || self.answer.is_some()
    }
}

impl One {
    /// The peer shows a part.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] for one before the last was answered, and where it may send none.
    fn take_pull(&mut self, len: u64, source: Option<RemoteSource>) -> Result<(), Error> {
        if self.remote.is_none() || self.in_ended || self.pulling.is_some() {
            return Err(Error::PeerMisbehaved);
        }
        // Of a stream that was aborted nobody reads any more: the peer is told so.
        if self.failed.is_none() {
            self.pulling = Some(Pulling { len, done: 0, source });
        }
        Ok(())
    }

    /// The peer has read so many bytes of a part; where that was exposed.
    fn take_pulled(&mut self, bytes: u64) -> Result<Option<Exposed>, Error> {
        let Some(showing) = self.shown.showing.take_if(|showing| bytes <= showing.len) else {
            let was_taken_back = self.shown.showing.is_none() && std::mem::take(&mut self.shown.taken_back);
            return if was_taken_back { Ok(None) } else { Err(Error::PeerMisbehaved) };
        };
        self.shown.answer = Some(bytes);
        self.shown.refused |= bytes < showing.len && showing.exposed.is_some();
        Ok(showing.exposed)
    }
}

impl Streams {
    /// Where a part of `len` bytes may be shown; none where it may go as other bytes do.
    pub(crate) fn place_to_show(&self, id: StreamId, len: usize) -> Option<(PeerId, u64)> {
        let one = self.streams.get(id.0)?;
        let is_open = one.failed.is_none() && !one.is_output_over() && !one.shown.is_pending();
        // What the peer has room for is written without waiting for it to read.
        let may = is_open && one.has_room_below(len) && !one.shown.refused;
        one.remote.filter(|_| may).map(|remote| (one.peer, remote))
    }

    /// A part is shown.
    pub(crate) fn show(&mut self, id: StreamId, len: usize, exposed: Exposed) {
        if let Some(one) = self.streams.get_mut(id.0) {
            one.shown.showing = Some(Showing { len: len as u64, exposed: Some(exposed) });
            self.bytes_shown += len as u64;
        }
    }

    /// The peer, and how many bytes of the part that was shown it has read.
    ///
    /// # Errors
    /// [`Error::Again`] as long as it reads; [`Error::Closed`] and why not, when it reads none any more: [`Self::hide`] ends it then.
    pub(crate) fn shown(&mut self, id: StreamId) -> Result<(PeerId, usize), Error> {
        let one = self.streams.get_mut(id.0).ok_or(Error::Handle)?;
        if let Some(bytes) = one.shown.answer.take() {
            // Others may have been woken by the answer, and have found that nothing may be written yet.
            ring(&mut self.rings, one.bells.output, one.bells.any);
            return Ok((one.peer, usize::try_from(bytes).unwrap_or(usize::MAX)));
        }
        match one.failed {
            Some(error) => Err(error),
            None if one.is_output_over() => Err(Error::Closed),
            None => Err(Error::Again),
        }
    }

    /// Takes a part back that the peer has not answered. Whether the stream goes on without it, with bytes that are missing.
    pub(crate) fn hide(&mut self, id: StreamId) -> bool {
        let Some(one) = self.streams.get_mut(id.0) else { return false };
        one.shown.answer = None;
        let Some(showing) = one.shown.showing.take() else { return false };
        one.shown.taken_back = true;
        let goes_on = one.failed.is_none() && !one.is_output_over();
        self.conceal(&showing);
        goes_on
    }

    /// The part that is to be read next, after what has come: whose it is, where, and how many bytes are left of it.
    pub(crate) fn pulling(&self, id: StreamId) -> Option<(PeerId, Option<RemoteSource>, u64)> {
        let one = self.streams.get(id.0)?;
        let Pulling { len, done, source } = one.pulling?;
        let source = source.map(|from| RemoteSource { address: from.address.wrapping_add(done), ..from });
        Some((one.peer, source, len - done))
    }

    /// So many bytes of that were fetched; none, and no more can be. Tells the peer when that is the end of it.
    pub(crate) fn pulled(&mut self, id: StreamId, len: Option<usize>) {
        let Some(one) = self.streams.get_mut(id.0) else { return };
        let Some(pulling) = &mut one.pulling else { return };
        pulling.done += len.unwrap_or(0) as u64;
        if len.is_some() && pulling.done < pulling.len {
            return;
        }
        let said = Said::Pulled { bytes: pulling.done };
        one.pulling = None;
        if let Some(stream) = one.remote {
            self.says.push_back(Say::Now(one.peer, Message::Stream { stream, said }));
        }
    }

    /// Takes a part that a peer shows.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`]: the peer is to be cut off.
    pub(crate) fn take_pull(
        &mut self,
        peer: PeerId,
        stream: u64,
        len: u64,
        source: Option<RemoteSource>,
    ) -> Result<(), Error> {
        if let Some(one) = super::arrive::own(&mut self.streams, peer, stream)? {
            one.take_pull(len, source)?;
            ring(&mut self.rings, one.bells.input, one.bells.any);
        }
        Ok(())
    }

    /// Takes the answer to a part that was shown.
    pub(super) fn take_pulled(&mut self, id: StreamId, bytes: u64) -> Result<(), Error> {
        let Some(one) = self.streams.get_mut(id.0) else { return Ok(()) };
        let before = one.shown.showing.as_ref().map_or(0, |showing| showing.len);
        let exposed = one.take_pulled(bytes)?;
        ring(&mut self.rings, one.bells.output, one.bells.any);
        self.bytes_shown = self.bytes_shown.saturating_sub(before);
        self.concealed.extend(exposed);
        Ok(())
    }

    /// The link to a peer has broken: what was exposed for it cannot be fetched any more, and has to be asked for.
    pub(crate) fn forget_exposed(&mut self, peer: PeerId) {
        for one in self.streams.values_mut().filter(|one| one.peer == peer) {
            if let Some(pulling) = &mut one.pulling {
                pulling.source = None;
            }
            one.shown.refused = false;
            let exposed = one.shown.showing.as_mut().and_then(|showing| showing.exposed.take());
            self.concealed.extend(exposed);
        }
    }

    fn conceal(&mut self, showing: &Showing) {
        self.bytes_shown = self.bytes_shown.saturating_sub(showing.len);
        self.concealed.extend(showing.exposed);
    }
}
