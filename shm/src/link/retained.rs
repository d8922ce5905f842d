//! What a peer has not got when a link breaks: the slots of the own ring that it has not consumed, and the staging buffers that
//! they name. Nothing is kept besides: who sends over a link that never breaks pays nothing for it.

use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::ring::slot::Ready;
use gridnet_core::sync::Ordering;
use gridnet_core::wire::{extension_words, is_sequenced, Incoming, MAX_EXTENSION};

use super::Live;
use crate::arena::{Arena, MAX_STAGING};
use crate::layout::StagingRef;
use crate::staging::FLAG_STAGED;

impl Live {
    /// Sequenced frames that have come and were delivered.
    pub fn delivered(&self) -> u64 {
        self.ends().consumer.taken_ever() - self.loose_in
    }

    /// Hands out the sequenced frames that were posted after the first `after` ones. `arena` is the own end of the link.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when there cannot be as many: fewer were posted, or more were consumed.
    pub fn retained(
        &mut self,
        arena: &Arena,
        after: u64,
        each: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        let posted = self.ends().producer.sent_ever() - self.loose_out;
        // Its consumed count is not looked at any more: by now the word may belong to another link of the peer. What was
        // known of it is enough, since nothing of what seemed unconsumed was written over.
        let producer = &self.ends().producer;
        let sequenced = || producer.unconsumed().filter(|ready| is_sequenced(ready.header().kind));
        let consumed = posted - sequenced().count() as u64;
        if after < consumed || after > posted {
            return Err(Error::PeerMisbehaved);
        }
        for ready in sequenced().skip((after - consumed) as usize) {
            each(frame_of(arena, &ready).ok_or(Error::Internal)?);
        }
        Ok(())
    }
}

/// The frame in a slot of the own ring.
fn frame_of<'a>(arena: &'a Arena, ready: &Ready<'a>) -> Option<Incoming<'a>> {
    let header = ready.header();
    let flags = header.flags & !FLAG_STAGED;
    let words = extension_words(header.kind, flags).ok()?;
    let mut extension = [0; MAX_EXTENSION];
    for (to, from) in extension.iter_mut().zip(ready.body()).take(words) {
        *to = from.load(Ordering::Relaxed);
    }
    let rest = ready.body().get(words..)?;
    let payload = if header.flags & FLAG_STAGED == 0 {
        PeerBytes::Words(rest, usize::from(header.len).min(rest.len() * 8))
    } else {
        let segment = arena.segment();
        let (start, len) = StagingRef::unpack(rest.first()?.load(Ordering::Relaxed), segment.len())?;
        // SAFETY: inside the own segment, which is mapped as long as the arena lives; the buffer stays as it is until the
        // link gives it back.
        unsafe { PeerBytes::raw(segment.at(start).as_ptr(), len.min(MAX_STAGING)) }
    };
    Some(Incoming { kind: header.kind, flags, word: ready.word(), extension, payload })
}
