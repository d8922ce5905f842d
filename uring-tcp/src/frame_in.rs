//! What comes in over one connection: frames are put together and handed over, segments are read straight to their place.
//!
//! Bytes are read into a buffer that all connections of the rail share; a connection keeps only what is not a whole frame yet.

use std::mem::MaybeUninit;

use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, PeerBytes};
use gridnet_core::rail::{PeerId, Refusal, Sink};
use gridnet_core::wire::{is_sequenced, Header, Incoming, Kind, HEADER_BYTES};
use socket2::MaybeUninitSlice;

use crate::out::{Out, RECORD_ACK, RECORD_BYE, RECORD_PATH_OVER};
use crate::rail::{MAX_EAGER, MAX_SEGMENT};
use crate::socket::{Moved, Stream};

/// Bytes that are read at once, unless they are known to have a place.
const READ_BYTES: usize = 16 << 10;
/// Bytes of the buffer that the connections of a rail share: what one has kept, and what it reads.
pub(crate) const SCRATCH_BYTES: usize = 2 * READ_BYTES;
/// Bytes that are read at once behind a segment, to see what comes next: another segment,
const BEHIND_BYTES: usize = 256;
/// or small frames, where such came between segments before.
const MIXED_BYTES: usize = 2 << 10;
/// Bytes of segments that are read before other connections have their turn.
const TURN_BYTES: usize = 512 << 10;
/// Pieces of a place that are read to at once.
const PIECES: usize = 16;

/// Why nothing more comes.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer has said so: 0, or the number of an error.
    Bye(u64),
    /// Not the link, but its path of this number, as the peer says.
    Path(u64),
    /// The peer broke the protocol.
    Misbehaved(Refusal),
    /// The other side's end of the connection is closed, without a word.
    Closed,
    /// The connection is broken.
    Broken(std::io::Error),
}

/// The rest of a segment, of which the header has come.
#[derive(Debug, Clone, Copy)]
struct Rest {
    op: u64,
    offset: u64,
    left: usize,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct In {
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// A frame too long for the common buffer, of which the first `filled` bytes have come.
    long: Vec<u8>,
    filled: usize,
    segment: Option<Rest>,
    /// A segment was the last that came: another one may be next, whose bytes had better be read to their place.
    is_behind_segment: bool,
    /// Small frames come between segments.
    is_mixed: bool,
    /// Something of a segment has come since that was asked last.
    had_segment: bool,
    /// Sequenced frames that were delivered.
    pub(crate) delivered: u64,
    /// Those of them that are no plain messages.
    others: u64,
    /// Bytes that came since the peer was told of frames.
    pub(crate) bytes: usize,
    /// Paths of the link that are over, as the peer says, and that nobody has looked at.
    pub(crate) paths_over: Vec<u64>,
}

impl In {
    /// Delivers what came behind the handshake.
    pub(crate) fn begin<S: Sink>(
        &mut self,
        rest: &[u8],
        peer: PeerId,
        out: &mut Out,
        sink: &mut S,
    ) -> Result<(), Ended> {
        self.take(rest, peer, out, sink, &mut 0)
    }

    /// Reads and delivers what is there; returns the number of frames, or parts of segments, and whether there may be more.
    pub(crate) fn receive<S: Sink>(
        &mut self,
        stream: &Stream,
        scratch: &mut [u8],
        peer: PeerId,
        out: &mut Out,
        sink: &mut S,
    ) -> Result<(usize, bool), Ended> {
        let (mut taken, mut bytes, before) = (0, 0, self.messages());
        let mut has_segments = self.segment.is_some();
        loop {
            let (len, asked) = match self.segment {
                Some(rest) => self.read_segment(stream, scratch, peer, rest, out, sink, &mut taken)?,
                None if !self.long.is_empty() => self.read_long(stream, peer, out, sink, &mut taken)?,
                None => self.read_frames(stream, scratch, peer, out, sink, &mut taken)?,
            };
            bytes += len;
            let has_news = self.messages() != before;
            has_segments |= self.segment.is_some();
            self.is_mixed = bytes < TURN_BYTES && (self.is_mixed || has_news && has_segments);
            if len < asked {
                return Ok((taken, false));
            }
            // Small frames take turns with other work after each read, messages so that they are answered before more comes of what
            // is long. Else that is better read to its end.
            if has_news || self.segment.is_none() && self.long.is_empty() || bytes >= TURN_BYTES {
                return Ok((taken, true));
            }
        }
    }

    /// Delivers what has come by another way than [`Self::receive`]; returns the number of frames, or parts of segments.
    pub(crate) fn feed<S: Sink>(
        &mut self,
        bytes: &[u8],
        scratch: &mut [u8],
        peer: PeerId,
        out: &mut Out,
        sink: &mut S,
    ) -> Result<usize, Ended> {
        let (mut left, mut taken) = (bytes, 0);
        self.bytes += left.len();
        if !self.long.is_empty() {
            let room = self.long.get_mut(self.filled..).unwrap_or_default();
            let (now, later) = left.split_at(room.len().min(left.len()));
            room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
            left = later;
            self.filled += now.len();
            if self.filled < self.long.len() {
                return Ok(0);
            }
            let whole = std::mem::take(&mut self.long);
            self.take(&whole, peer, out, sink, &mut taken)?;
        }
        let kept = self.partial.len();
        // There is room for what may be kept, and as much again.
        let room = scratch.get_mut(..kept + left.len()).filter(|_| kept > 0);
        if let Some(whole) = room {
            whole[..kept].copy_from_slice(&self.partial);
            whole[kept..].copy_from_slice(left);
            left = whole;
            self.partial.clear();
        }
        if !left.is_empty() {
            self.take(left, peer, out, sink, &mut taken)?;
        }
        self.is_behind_segment = self.segment.is_some();
        Ok(taken)
    }

    /// Bytes that are still to come of a segment.
    pub(crate) fn segment_left(&self) -> usize {
        self.segment.map_or(0, |rest| rest.left)
    }

    /// Whether something of a segment has come since this was asked last.
    pub(crate) fn take_had_segment(&mut self) -> bool {
        std::mem::take(&mut self.had_segment) || self.segment.is_some()
    }

    /// Whole messages that were delivered.
    #[inline]
    fn messages(&self) -> u64 {
        self.delivered - self.others
    }

    /// Bytes that are read behind a segment.
    fn behind(&self) -> usize {
        if self.is_mixed {
            MIXED_BYTES
        } else {
            BEHIND_BYTES
        }
    }

    /// Reads any frames; bytes read, and bytes asked for.
    #[inline]
    fn read_frames<S: Sink>(
        &mut self,
        stream: &Stream,
        scratch: &mut [u8],
        peer: PeerId,
        out: &mut Out,
        sink: &mut S,
        taken: &mut usize,
    ) -> Result<(usize, usize), Ended> {
        let kept = self.partial.len();
        let (before, behind) = scratch.split_at_mut(kept.min(READ_BYTES));
        before.copy_from_slice(&self.partial);
        let most = if self.is_behind_segment { self.behind() } else { READ_BYTES };
        let buffer = behind.get_mut(..most).unwrap_or_default();
        let len = read(stream.receive(buffer))?;
        self.bytes += len;
        if len > 0 {
            self.partial.clear();
            let bytes = scratch.get(..kept + len).unwrap_or_default();
            self.take(bytes, peer, out, sink, taken)?;
            self.is_behind_segment = self.segment.is_some();
        }
        Ok((len, most))
    }

    /// Reads the rest of a long frame.
    fn read_long<S: Sink>(
        &mut self,
        stream: &Stream,
        peer: PeerId,
        out: &mut Out,
        sink: &mut S,
        taken: &mut usize,
    ) -> Result<(usize, usize), Ended> {
        let buffer = self.long.get_mut(self.filled..).unwrap_or_default();
        let asked = buffer.len();
        let len = read(stream.receive(buffer))?;
        self.bytes += len;
        self.filled += len;
        if len == asked {
            let whole = std::mem::take(&mut self.long);
            self.take(&whole, peer, out, sink, taken)?;
        }
        Ok((len, asked))
    }

    /// Reads the rest of a segment to its place, if it has one.
    #[expect(clippy::too_many_arguments, reason = "parts of a connection, of its rail and of the call")]
    fn read_segment<S: Sink>(
        &mut self,
        stream: &Stream,
        scratch: &mut [u8],
        peer: PeerId,
        rest: Rest,
        out: &mut Out,
        sink: &mut S,
        taken: &mut usize,
    ) -> Result<(usize, usize), Ended> {
        let Rest { op, offset, left } = rest;
        let Some(place) = sink.place(peer, op, offset, left) else {
            // Nobody wants it there: whoever takes it says what is wrong with it.
            let buffer = scratch.get_mut(..left.min(READ_BYTES)).unwrap_or_default();
            let asked = buffer.len();
            let len = read(stream.receive(buffer))?;
            if len > 0 {
                self.take(scratch.get(..len).unwrap_or_default(), peer, out, sink, taken)?;
            }
            return Ok((len, asked));
        };
        let behind = scratch.get_mut(..self.behind()).unwrap_or_default();
        let (len, asked) = read_to(stream, &place, behind)?;
        let placed = len.min(left);
        if placed > 0 {
            *taken += 1;
            self.had_segment = true;
            sink.placed(peer, op, offset, placed).map_err(misbehaved)?;
            let rest = Rest { op, offset: offset.wrapping_add(placed as u64), left: left - placed };
            self.segment = (rest.left > 0).then_some(rest);
            self.is_behind_segment = true;
        }
        if len > left {
            self.take(scratch.get(..len - left).unwrap_or_default(), peer, out, sink, taken)?;
        }
        Ok((len, asked))
    }

    /// Takes whole frames from `bytes`, and keeps what is left.
    fn take<S: Sink>(
        &mut self,
        bytes: &[u8],
        peer: PeerId,
        out: &mut Out,
        sink: &mut S,
        taken: &mut usize,
    ) -> Result<(), Ended> {
        let mut left = bytes;
        if let Some(rest) = self.segment {
            left = self.take_part(left, peer, rest, sink)?;
            *taken += 1;
        }
        while let Some(fixed) = left.first_chunk::<HEADER_BYTES>() {
            let payload = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]) as usize;
            let word = u64::from_le_bytes(*fixed.last_chunk().unwrap_or(&[0; 8]));
            // The hot path: a whole message without extension words.
            if fixed[4..8] == [Kind::Eager as u8, 0, 0, 0] && payload <= MAX_EAGER {
                let Some(message) = left.get(HEADER_BYTES..HEADER_BYTES + payload) else {
                    return self.keep(left, HEADER_BYTES + payload);
                };
                sink.message(peer, word, PeerBytes::from_slice(message));
                self.delivered += 1;
                *taken += 1;
                left = left.get(HEADER_BYTES + payload..).unwrap_or_default();
                continue;
            }
            if fixed[4] >= RECORD_ACK {
                self.take_record(fixed, word, out)?;
                left = left.get(HEADER_BYTES..).unwrap_or_default();
                continue;
            }
            match self.take_other(left, peer, sink)? {
                Some(behind) => left = behind,
                None => return Ok(()),
            }
            *taken += 1;
        }
        self.partial.extend_from_slice(left);
        Ok(())
    }

    fn take_record(&mut self, fixed: &[u8; HEADER_BYTES], word: u64, out: &mut Out) -> Result<(), Ended> {
        match fixed {
            [0, 0, 0, 0, RECORD_ACK, 0, 0, 0, ..] => out.acknowledge(word).map_err(misbehaved),
            [0, 0, 0, 0, RECORD_BYE, 0, 0, 0, ..] => Err(Ended::Bye(word)),
            [0, 0, 0, 0, RECORD_PATH_OVER, 0, 0, 0, ..] => {
                self.paths_over.push(word);
                Ok(())
            }
            _ => Err(Ended::Misbehaved(refusal("unknown kind of frame"))),
        }
    }

    /// Takes one frame of any kind: what comes behind it, or `None` when it is not all there.
    fn take_other<'a, S: Sink>(
        &mut self,
        bytes: &'a [u8],
        peer: PeerId,
        sink: &mut S,
    ) -> Result<Option<&'a [u8]>, Ended> {
        let parsed = Header::parse(bytes).map_err(|e| Ended::Misbehaved(refusal(e.0)))?;
        let Some((header, head)) = parsed else {
            self.partial.extend_from_slice(bytes);
            return Ok(None);
        };
        let len = header.payload_len as usize;
        let most = if header.kind == Kind::Eager as u8 { MAX_EAGER } else { MAX_SEGMENT };
        if len > most {
            return Err(Ended::Misbehaved(refusal("a frame is longer than it may be")));
        }
        let behind = bytes.get(head..).unwrap_or_default();
        if header.kind == Kind::Segment as u8 && len > 0 {
            let rest = Rest { op: header.word, offset: header.extension[0], left: len };
            self.segment = Some(rest);
            if behind.is_empty() {
                return Ok(None);
            }
            return self.take_part(behind, peer, rest, sink).map(Some);
        }
        let Some(payload) = behind.get(..len) else {
            self.keep(bytes, head + len)?;
            return Ok(None);
        };
        let Header { kind, flags, word, extension, .. } = header;
        let frame = Incoming { kind, flags, word, extension, payload: PeerBytes::from_slice(payload) };
        sink.frame(peer, frame).map_err(misbehaved)?;
        self.delivered += u64::from(is_sequenced(kind));
        self.others += u64::from(is_sequenced(kind));
        Ok(behind.get(len..))
    }

    /// Hands over the part of a segment that is there; what comes behind it.
    fn take_part<'a, S: Sink>(
        &mut self,
        bytes: &'a [u8],
        peer: PeerId,
        rest: Rest,
        sink: &mut S,
    ) -> Result<&'a [u8], Ended> {
        let Rest { op, offset, left } = rest;
        let (part, behind) = bytes.split_at(left.min(bytes.len()));
        let rest = Rest { op, offset: offset.wrapping_add(part.len() as u64), left: left - part.len() };
        self.had_segment = true;
        self.segment = (rest.left > 0).then_some(rest);
        let frame = Incoming {
            kind: Kind::Segment as u8,
            flags: 0,
            word: op,
            extension: [offset, 0, 0, 0, 0],
            payload: PeerBytes::from_slice(part),
        };
        sink.frame(peer, frame).map_err(misbehaved)?;
        Ok(behind)
    }

    /// Keeps the beginning of a frame of `total` bytes.
    fn keep(&mut self, bytes: &[u8], total: usize) -> Result<(), Ended> {
        if total <= READ_BYTES {
            self.partial.extend_from_slice(bytes);
        } else {
            self.long = vec![0; total];
            self.filled = bytes.len();
            if let Some(to) = self.long.get_mut(..bytes.len()) {
                to.copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

/// Reads to `place`, and a little of what comes next to `behind`; bytes read, and bytes asked for.
fn read_to(stream: &Stream, place: &Gather<'_>, behind: &mut [u8]) -> Result<(usize, usize), Ended> {
    let mut pieces: [MaybeUninitSlice<'_>; PIECES + 1] =
        std::array::from_fn(|_| MaybeUninitSlice::new(&mut []));
    let (mut count, mut asked) = (0, 0);
    for (slot, (base, len)) in pieces.iter_mut().take(PIECES).zip(place.pieces()) {
        // SAFETY: the piece is writable, and nothing else touches it, until the receive ends (`Iov::new`); it does not end
        // before the sink is told of these bytes. The kernel writes, and nobody reads what was there.
        let memory = unsafe { std::slice::from_raw_parts_mut(base.cast::<MaybeUninit<u8>>(), len) };
        *slot = MaybeUninitSlice::new(memory);
        count += 1;
        asked += len;
    }
    // Only behind the whole place comes what comes next.
    if asked == place.len() {
        asked += behind.len();
        // SAFETY: bytes that are initialised may be written as if they were not; the kernel writes no other kind.
        let memory = unsafe { &mut *(std::ptr::from_mut(behind) as *mut [MaybeUninit<u8>]) };
        if let Some(slot) = pieces.get_mut(count) {
            *slot = MaybeUninitSlice::new(memory);
            count += 1;
        }
    }
    let len = read(stream.receive_pieces(pieces.get_mut(..count).unwrap_or_default()))?;
    Ok((len, asked))
}

fn read(moved: Moved) -> Result<usize, Ended> {
    match moved {
        Moved::Bytes(len) => Ok(len),
        Moved::Nothing => Ok(0),
        Moved::End => Err(Ended::Closed),
        Moved::Broken(e) => Err(Ended::Broken(e)),
    }
}

fn misbehaved(error: Error) -> Ended {
    Ended::Misbehaved(Refusal::new(error, "frame that breaks the protocol"))
}

fn refusal(why: &'static str) -> Refusal {
    Refusal::new(Error::PeerMisbehaved, why)
}

#[cfg(test)]
mod tests;
