//! Frames that were lost with a link, until they are sent again.

use crate::mem::{Gather, Iov};
use crate::rail::{LinkId, Posted, Rail};
use crate::wire::{extension_words, Frame, Incoming, Kind, MAX_EXTENSION};

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
        Some(LostFrame {
            kind: Kind::from_number(frame.kind)?,
            flags: frame.flags,
            word: frame.word,
            extension: frame.extension,
            extension_len: extension_words(frame.kind, frame.flags).ok()?,
            payload: frame.payload.to_vec().into_boxed_slice(),
        })
    }

    pub(super) fn post<R: Rail>(&mut self, rail: &mut R, link: LinkId) -> Posted {
        let LostFrame { kind, flags, word, extension, extension_len, .. } = *self;
        // SAFETY: the bytes are ours for as long as the call takes, and a rail that retains copies what it is given of
        // sequenced frames before it returns.
        let iov = unsafe { Iov::new(self.payload.as_mut_ptr(), self.payload.len()) };
        let payload = Gather::one(&iov);
        rail.post(link, &Frame { kind, flags, word, extension, extension_len, payload })
    }
}
