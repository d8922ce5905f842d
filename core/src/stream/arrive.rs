//! What peers say about streams. Numbers are looked up, bytes and windows compared with what was granted; what does not fit
//! cuts the peer off. A number that names nothing is of a stream that was closed: what is said of it has crossed that.

use super::one::One;
use super::{is_service, ring, Bells, Say, StreamId, Streams};
use crate::error::Error;
use crate::matching::Key;
use crate::mem::PeerBytes;
use crate::rail::PeerId;
use crate::wire::{Message, Said};

impl Streams {
    /// Takes bytes of a stream.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`]: the peer is to be cut off.
    pub(crate) fn take_bytes(
        &mut self,
        peer: PeerId,
        stream: u64,
        bytes: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        if let Some(one) = own(&mut self.streams, peer, stream)? {
            one.take(bytes)?;
            ring(&mut self.rings, one.bells.input, one.bells.any);
        }
        Ok(())
    }

    /// Takes what is said about a stream.
    ///
    /// # Errors
    /// As [`Self::take_bytes`].
    pub(crate) fn take_said(
        &mut self,
        peer: PeerId,
        stream: u64,
        said: Said,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        match said {
            Said::Open { window } => return self.take_call(peer, (stream, window), payload),
            Said::Accept { stream: remote, window } => {
                return self.take_acceptance(peer, stream, (remote, window));
            }
            Said::Pulled { bytes } if own(&mut self.streams, peer, stream)?.is_some() => {
                return self.take_pulled(StreamId(Key::from_bits(stream)), bytes);
            }
            _ => {}
        }
        let Some(one) = own(&mut self.streams, peer, stream)? else { return Ok(()) };
        let bells = one.bells;
        match said {
            Said::Open { .. } | Said::Accept { .. } | Said::Pulled { .. } => {}
            Said::Refuse { error } => {
                if one.remote.is_some() {
                    return Err(Error::PeerMisbehaved);
                }
                one.fail(refusal(error)?, &mut self.rings);
            }
            Said::Credit { bytes } => {
                one.grant(bytes)?;
                ring(&mut self.rings, bells.output, bells.any);
            }
            Said::End => {
                one.end_input()?;
                ring(&mut self.rings, bells.input, bells.any);
            }
            Said::Stop => {
                one.stop_output()?;
                ring(&mut self.rings, bells.output, bells.any);
            }
        }
        Ok(())
    }

    /// A peer asks for a stream.
    fn take_call(
        &mut self,
        peer: PeerId,
        (remote, credit): (u64, u32),
        service: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        let name = String::from_utf8(service.to_vec()).ok().filter(|name| is_service(name));
        let name = name.ok_or(Error::PeerMisbehaved)?;
        let listener = self.services.get(name.as_str()).and_then(|id| self.listeners.get_mut(id.0));
        let said = match listener {
            None => Said::Refuse { error: Error::NotFound },
            Some(listener) if listener.waiting.len() >= listener.most => Said::Refuse { error: Error::Limit },
            Some(listener) => {
                let mut one = One::calling(peer, self.window, Bells::default());
                one.meet(remote, credit);
                let id = StreamId(self.streams.insert(one));
                listener.waiting.push_back(id);
                ring(&mut self.rings, listener.bells.input, listener.bells.any);
                Said::Accept { stream: id.0.to_bits(), window: self.window }
            }
        };
        self.says.push_back(Say::Now(peer, Message::Stream { stream: remote, said }));
        Ok(())
    }

    fn take_acceptance(
        &mut self,
        peer: PeerId,
        stream: u64,
        (remote, credit): (u64, u32),
    ) -> Result<(), Error> {
        if let Some(one) = own(&mut self.streams, peer, stream)? {
            if one.remote.is_some() || one.failed.is_some() && !one.is_aborted() {
                return Err(Error::PeerMisbehaved);
            }
            one.meet(remote, credit);
            if !one.is_aborted() {
                ring(&mut self.rings, one.bells.output, one.bells.any);
                return Ok(());
            }
        }
        // It was closed or aborted before the peer had answered.
        for said in [Said::End, Said::Stop] {
            self.says.push_back(Say::Now(peer, Message::Stream { stream: remote, said }));
        }
        Ok(())
    }
}

/// The stream of this number, if it is still there.
///
/// # Errors
/// [`Error::PeerMisbehaved`] when it is another peer's.
pub(super) fn own(
    streams: &mut crate::matching::Slab<One>,
    peer: PeerId,
    number: u64,
) -> Result<Option<&mut One>, Error> {
    match streams.get_mut(Key::from_bits(number)) {
        Some(one) if one.peer != peer => Err(Error::PeerMisbehaved),
        one => Ok(one),
    }
}

/// What a peer may refuse a stream with: nothing that would make the caller wait.
fn refusal(error: Error) -> Result<Error, Error> {
    match error {
        Error::NotFound | Error::Limit | Error::Permission | Error::Unsupported => Ok(error),
        _ => Err(Error::PeerMisbehaved),
    }
}
