//! What goes out over one connection, and what is kept of it until the peer has it.
//!
//! ```text
//! bytes   |  sent, not acknowledged  |  not sent yet  |
//!         head                       sent             len
//! ```
//!
//! Small frames are appended, and sent with what waits. Sequenced ones stay until the peer's rail has acknowledged them: the buffer that
//! they were put together in is the copy that is kept. Segments go out straight from the memory of the sender; what the kernel
//! did not take of one is copied to `rest`, and goes before everything else.

use std::io::IoSlice;

use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov, PeerBytes};
use gridnet_core::wire::{is_sequenced, Frame, Header, Incoming, Kind, HEADER_BYTES};

use crate::config::Window;
use crate::socket::{Moved, Stream};

/// Capacity that is given back to the allocator when nothing is kept.
const SPARE_BYTES: usize = 4 << 10;

/// Kind of a record between rails: so many sequenced frames have come.
pub(crate) const RECORD_ACK: u8 = 0xf0;
/// Kind of a record between rails: the link ends, for the reason of this number, 0 for none.
pub(crate) const RECORD_BYE: u8 = 0xf1;

/// Kind of a record between rails: the path of this number is over.
pub(crate) const RECORD_PATH_OVER: u8 = 0xf2;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Out {
    window: Window,
    bytes: Vec<u8>,
    head: usize,
    sent: usize,
    rest: Vec<u8>,
    rest_sent: usize,
    /// Sequenced frames that were posted, and that the peer has acknowledged.
    posted: u64,
    acknowledged: u64,
    /// Bytes that the kernel has taken, in all.
    handed: u64,
    /// The kernel took less than it was given.
    is_full: bool,
    /// What was sent is kept until it is acknowledged; else it is forgotten at once.
    keeps: bool,
}

/// What became of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    No,
}

impl Out {
    pub(crate) fn new(window: Window, keeps: bool) -> Out {
        Out {
            keeps,
            window,
            bytes: Vec::new(),
            head: 0,
            sent: 0,
            rest: Vec::new(),
            rest_sent: 0,
            posted: 0,
            acknowledged: 0,
            handed: 0,
            is_full: false,
        }
    }

    /// The same for another connection, by which all goes that went by this one: the peer has got nothing of it.
    pub(crate) fn anew(self) -> Out {
        Out { sent: self.head, rest: Vec::new(), rest_sent: 0, is_full: false, ..self }
    }

    /// Bytes that were not sent.
    #[inline]
    pub(crate) fn unsent(&self) -> usize {
        self.bytes.len() - self.sent + self.rest.len() - self.rest_sent
    }

    /// Whether there is room for another frame.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() - self.head < self.window.bytes
            && self.posted - self.acknowledged < self.window.frames
    }

    /// Frames that the peer has acknowledged, and bytes that the kernel has taken.
    pub(crate) fn progress(&self) -> [u64; 2] {
        [self.acknowledged, self.handed]
    }

    /// Whether there are others.
    pub(crate) fn is_kept(&self) -> bool {
        self.posted > self.acknowledged
    }

    /// The kernel takes no more for now.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a frame that cannot be.
    #[inline]
    pub(crate) fn append(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let header = Header::of(frame).map_err(|_| Error::Invalid)?;
        header.encode(&mut self.bytes).map_err(|_| Error::Invalid)?;
        append_payload(&mut self.bytes, &frame.payload);
        self.posted += u64::from(is_sequenced(header.kind));
        Ok(())
    }

    /// Appends a whole message of at most [`MAX_EAGER`](crate::rail::MAX_EAGER) bytes without any extension, as [`Self::append`]
    /// does: the hot path.
    #[inline]
    pub(crate) fn append_message(&mut self, tag: u64, message: &Iov) {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(message.len() as u32).to_le_bytes());
        header[4] = Kind::Eager as u8;
        header[8..].copy_from_slice(&tag.to_le_bytes());
        self.bytes.reserve(HEADER_BYTES + message.len());
        self.bytes.extend_from_slice(&header);
        append_payload(&mut self.bytes, &Gather::one(message));
        self.posted += 1;
    }

    /// Appends a record between rails.
    #[inline]
    pub(crate) fn append_record(&mut self, kind: u8, word: u64) {
        let mut record = [0; HEADER_BYTES];
        record[4] = kind;
        record[8..].copy_from_slice(&word.to_le_bytes());
        self.bytes.extend_from_slice(&record);
    }

    /// Sends what waits, as far as the kernel takes it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn flush(&mut self, stream: &Stream) -> Result<(), std::io::Error> {
        if self.is_full {
            if !stream.is_writable() {
                return Ok(());
            }
            // What was taken before comes first.
            self.is_full = stream.push()?;
            if self.is_full {
                return Ok(());
            }
        }
        while let Some(waiting) = self.rest.get(self.rest_sent..).filter(|bytes| !bytes.is_empty()) {
            let asked = waiting.len();
            let len = moved(stream.send(waiting))?;
            self.rest_sent += len;
            self.handed += len as u64;
            if len < asked {
                self.is_full = true;
                return Ok(());
            }
            self.is_full = stream.is_clogged();
            self.rest.clear();
            self.rest_sent = 0;
        }
        let waiting = self.bytes.get(self.sent..).unwrap_or_default();
        if !waiting.is_empty() {
            let len = moved(stream.send(waiting))?;
            self.is_full = len < waiting.len() || stream.is_clogged();
            self.handed += len as u64;
            self.note_sent(len);
        }
        Ok(())
    }

    /// So many of the bytes have gone.
    fn note_sent(&mut self, len: usize) {
        self.sent += len;
        if !self.keeps {
            self.head = self.sent;
            self.drop_head();
        }
    }

    /// The kernel takes more, as far as one knows, and hardly anything waits for that.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_full && self.rest.is_empty() && self.bytes.len() - self.sent <= SPARE_BYTES
    }

    /// Sends what waits, an announcement, and the first bytes of the message behind it: these are taken together, or not at all.
    ///
    /// # Errors
    /// When the connection is broken, after the announcement was taken.
    pub(crate) fn send_ahead(
        &mut self,
        stream: &Stream,
        announcement: &Frame<'_>,
        segment: &Frame<'_>,
    ) -> Result<Taken, std::io::Error> {
        let Ok(header) = Header::of(segment) else { return Ok(Taken::No) };
        if !self.is_ready() || self.append(announcement).is_err() {
            return Ok(Taken::No);
        }
        if self.send_segment(stream, &header, &segment.payload)? == Taken::No {
            // The kernel did not even take all that was before: what belongs behind it goes there.
            self.append(segment).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        }
        Ok(Taken::Yes)
    }

    /// Sends what waits and a segment behind it, all of which is taken or nothing.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn send_segment(
        &mut self,
        stream: &Stream,
        header: &Header,
        payload: &Gather<'_>,
    ) -> Result<Taken, std::io::Error> {
        if self.is_full {
            self.flush(stream)?;
        }
        if self.is_full || !self.rest.is_empty() {
            return Ok(Taken::No);
        }
        let mut head = Vec::with_capacity(HEADER_BYTES * 2);
        if header.encode(&mut head).is_err() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let waiting = self.bytes.get(self.sent..).unwrap_or_default();
        let before = waiting.len();
        let total = before + head.len() + payload.len();
        let mut pieces = vec![IoSlice::new(waiting), IoSlice::new(&head)];
        // The kernel takes no more pieces at once (IOV_MAX).
        pieces.extend(payload.pieces().take(1000).map(|(base, len)| {
            // SAFETY: the piece is readable until the call that posts it returns, by the promise of `Iov::new`.
            IoSlice::new(unsafe { std::slice::from_raw_parts(base, len) })
        }));
        let len = moved(stream.send_pieces(&mut pieces))?;
        self.is_full = len < total || stream.is_clogged();
        self.handed += len as u64;
        self.note_sent(len.min(before));
        if len <= before {
            return Ok(Taken::No);
        }
        if len < total {
            self.keep_rest(&head, payload, len - before);
        }
        Ok(Taken::Yes)
    }

    /// Keeps what the kernel did not take of a segment, beyond the first `done` bytes.
    #[cold]
    fn keep_rest(&mut self, head: &[u8], payload: &Gather<'_>, done: usize) {
        self.rest.clear();
        self.rest.extend_from_slice(head.get(done..).unwrap_or_default());
        self.rest_sent = 0;
        let from = done.saturating_sub(head.len());
        append_payload(&mut self.rest, &payload.window(from, usize::MAX));
    }

    /// Gives memory back that only a stream of segments needs.
    pub(crate) fn trim(&mut self) {
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
    }

    /// The peer's rail has `count` frames.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when it cannot have as many, or had more before.
    pub(crate) fn acknowledge(&mut self, count: u64) -> Result<(), Error> {
        if count < self.acknowledged || count > self.posted {
            return Err(Error::PeerMisbehaved);
        }
        if !self.keeps {
            self.acknowledged = count;
            return Ok(());
        }
        while self.acknowledged < count {
            let (kind, len) = self.frame_at(self.head).ok_or(Error::PeerMisbehaved)?;
            if self.head + len > self.sent {
                return Err(Error::PeerMisbehaved);
            }
            self.head += len;
            self.acknowledged += u64::from(is_counted(kind));
        }
        self.drop_acknowledged();
        Ok(())
    }

    fn drop_acknowledged(&mut self) {
        // Records need no acknowledgement: nothing else may be left.
        while let Some((kind, len)) = self.frame_at(self.head) {
            if is_counted(kind) || self.head + len > self.sent {
                break;
            }
            self.head += len;
        }
        self.drop_head();
    }

    /// Gives back the room of what lies before the head.
    fn drop_head(&mut self) {
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(SPARE_BYTES);
        } else if self.head >= 32 << 10 && self.head * 2 >= self.bytes.len() {
            self.bytes.drain(..self.head);
        } else {
            return;
        }
        self.sent -= self.head;
        self.head = 0;
    }

    /// Kind and length of the frame or record that begins at `at`: we wrote it.
    fn frame_at(&self, at: usize) -> Option<(u8, usize)> {
        let fixed = self.bytes.get(at..)?.first_chunk::<HEADER_BYTES>()?;
        let payload = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
        Some((fixed[4], HEADER_BYTES + usize::from(fixed[6]) * 8 + payload as usize))
    }

    /// Hands out the sequenced frames after the first `after` ones.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when fewer were posted, or more acknowledged.
    pub(crate) fn retained(&self, after: u64, each: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Error> {
        if after < self.acknowledged || after > self.posted {
            return Err(Error::PeerMisbehaved);
        }
        let (mut at, mut count) = (self.head, self.acknowledged);
        while let Some((kind, len)) = self.frame_at(at) {
            let bytes = self.bytes.get(at..at + len).ok_or(Error::Internal)?;
            at += len;
            if !is_counted(kind) {
                continue;
            }
            count += 1;
            if count > after {
                let (header, head) = Header::parse(bytes).ok().flatten().ok_or(Error::Internal)?;
                let payload = PeerBytes::from_slice(bytes.get(head..).unwrap_or_default());
                let Header { kind, flags, word, extension, .. } = header;
                each(Incoming { kind, flags, word, extension, payload });
            }
        }
        Ok(())
    }
}

/// Whether a frame or record of this kind is counted and kept.
#[inline]
fn is_counted(kind: u8) -> bool {
    is_sequenced(kind) && kind < RECORD_ACK
}

#[inline]
fn append_payload(bytes: &mut Vec<u8>, payload: &Gather<'_>) {
    let start = bytes.len();
    bytes.reserve(payload.len());
    // SAFETY: there is room for the payload behind `start`, all of which is written before the length says so; the vector is
    // private, so it overlaps none of the pieces.
    unsafe {
        payload.copy_out(bytes.as_mut_ptr().add(start));
        bytes.set_len(start + payload.len());
    }
}

fn moved(moved: Moved) -> Result<usize, std::io::Error> {
    match moved {
        Moved::Bytes(len) => Ok(len),
        Moved::Nothing => Ok(0),
        Moved::End => Err(std::io::ErrorKind::BrokenPipe.into()),
        Moved::Broken(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
