//! Frames out of slots. Each word is read once, and checked before it leads anywhere.

use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::rail::{PeerId, Refusal, Sink};
use gridnet_core::ring::slot::Ready;
use gridnet_core::sync::{prefetch, Ordering};
use gridnet_core::wire::{extension_words, Incoming, Kind, FLAG_IMMEDIATE, FLAG_SOURCE, MAX_EXTENSION};

use crate::arena::MAX_STAGING;
use crate::layout::{loan_range, StagingRef};
use crate::link::MAX_EAGER;
use crate::segment::PeerSegment;
use crate::staging::FLAG_STAGED;

/// Where the payload of a frame was.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// In the slot.
    Slot,
    /// In a staging buffer, of so many bytes.
    Staged(usize),
    /// In memory that the peer lends, and that is read on if it is kept.
    Loan { kept: bool },
}

/// Hands the frame of one slot over; says where its payload was.
pub(crate) fn take_slot<S: Sink>(
    segment: &PeerSegment,
    peer: PeerId,
    ready: &Ready<'_>,
    sink: &mut S,
) -> Result<Content, Refusal> {
    if ready.header().kind == Kind::Loan as u8 {
        return take_loan(segment, peer, ready, sink).map(|kept| Content::Loan { kept });
    }
    take_extended(segment, peer, ready, sink)
}

/// Hands the loan of one slot over: memory of the peer's segment. True when it is kept.
#[inline(never)]
fn take_loan<S: Sink>(
    segment: &PeerSegment,
    peer: PeerId,
    ready: &Ready<'_>,
    sink: &mut S,
) -> Result<bool, Refusal> {
    let header = ready.header();
    let word = |i: usize| ready.body().get(i).map_or(0, |word| word.load(Ordering::Relaxed));
    let (immediate, first) = match header.flags {
        0 => (None, 0),
        FLAG_IMMEDIATE => (Some(word(0)), 1),
        _ => return Err(misbehaved("loan with flags that a loan does not have")),
    };
    if header.len > 0 {
        return Err(misbehaved("loan with a payload beside it"));
    }
    let (loan, position, len) = (word(first), word(first + 1), word(first + 2));
    let base = loan_range(position, len, segment.lendable())
        .and_then(|(start, len)| segment.bytes(start, len))
        .ok_or_else(|| misbehaved("loan outside the segment"))?;
    // The program reads these lines next, and they are at the peer.
    prefetch(base);
    prefetch(base.wrapping_add(len.saturating_sub(1) as usize));
    // SAFETY: inside the peer's mapping, which stays while the link is live, and after that while loans are read.
    let message = unsafe { PeerBytes::raw(base, len as usize) };
    Ok(sink.loan(peer, ready.word(), immediate, loan, message))
}

fn take_extended<S: Sink>(
    segment: &PeerSegment,
    peer: PeerId,
    ready: &Ready<'_>,
    sink: &mut S,
) -> Result<Content, Refusal> {
    let header = ready.header();
    let mut frame = Incoming {
        kind: header.kind,
        flags: header.flags,
        word: ready.word(),
        extension: [0; MAX_EXTENSION],
        payload: PeerBytes::EMPTY,
    };
    let staged = unpack(segment, ready, &mut frame)?;
    if segment.is_foreign() && frame.kind == Kind::Rts as u8 && frame.flags & FLAG_SOURCE != 0 {
        return Err(misbehaved("memory to be fetched from a process of another user"));
    }
    sink.frame(peer, frame).map_err(|error| Refusal::new(error, "frame that breaks the protocol"))?;
    Ok(if staged > 0 { Content::Staged(staged) } else { Content::Slot })
}

/// Fills in extension words and payload; the length of the staging buffer, if there is one.
fn unpack<'a>(
    segment: &'a PeerSegment,
    ready: &Ready<'a>,
    frame: &mut Incoming<'a>,
) -> Result<usize, Refusal> {
    let staged = frame.flags & FLAG_STAGED != 0;
    frame.flags &= !FLAG_STAGED;
    let words = extension_words(frame.kind, frame.flags).map_err(|e| misbehaved(e.0))?;
    let body = ready.body();
    for (to, from) in frame.extension.iter_mut().zip(body).take(words) {
        *to = from.load(Ordering::Relaxed);
    }
    let rest = body.get(words..).unwrap_or_default();
    if !staged {
        let len = usize::from(ready.header().len);
        if len > rest.len() * 8 {
            return Err(misbehaved("slot that is longer than a slot"));
        }
        frame.payload = PeerBytes::Words(rest, len);
        return Ok(0);
    }
    let reference = rest.first().map_or(0, |word| word.load(Ordering::Relaxed));
    let (start, len) = StagingRef::unpack(reference, segment.len())
        .filter(|(_, len)| *len <= if frame.kind == Kind::Eager as u8 { MAX_EAGER } else { MAX_STAGING })
        .ok_or_else(|| {
            misbehaved("staging buffer outside the segment, or longer than such a frame may be")
        })?;
    let base = segment.bytes(start, len).ok_or_else(|| misbehaved("staging buffer outside the segment"))?;
    // SAFETY: inside the peer's mapping, which outlives the frame: the link is not dropped while it is delivered.
    frame.payload = unsafe { PeerBytes::raw(base, len) };
    // An empty buffer is one all the same.
    Ok(len.max(1))
}

#[cold]
fn misbehaved(why: &str) -> Refusal {
    Refusal::new(Error::PeerMisbehaved, why)
}
