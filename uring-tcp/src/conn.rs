//! One connection over which frames flow.

use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Posted, Sink};
use gridnet_core::wire::{Frame, Header, Kind};

use crate::config::Window;
use crate::courier::Courier;
use crate::frame_in::{Ended, In};
use crate::line::Line;
use crate::out::{Out, Taken, RECORD_ACK, RECORD_BYE};
use crate::socket::Stream;
use crate::watch::Want;

/// Frames after which the peer is told that they have come, when nothing else is said to it.
const ACK_FRAMES: u64 = 256;
/// Frames after which the peer is told with whatever is sent next: telling it of each would cost each some nanoseconds.
const ACK_ALONG_FRAMES: u64 = 16;
/// Bytes, for [`ACK_FRAMES`]. Both are a quarter of the smallest window, so that the peer need not wait.
const ACK_BYTES: usize = 64 << 10;

/// Bytes that wait at most for others to be sent with: more would gain nothing.
const BATCH_BYTES: usize = 16 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) line: Arc<Line>,
    pub(crate) inbox: In,
    /// Delivered frames of which the peer was told.
    told: u64,
    /// Delivered frames at the last look whether more come.
    seen: u64,
    /// The round of polling in which a frame was sent at once.
    round: u32,
    /// Looks since something came.
    pub(crate) empty: u32,
    /// It is looked at in each round, and watched by nothing.
    pub(crate) is_hot: bool,
    /// It is in the rail's list of those with something to send.
    pub(crate) is_dirty: bool,
    /// It is in the rail's list of those whose peer is to be told of frames.
    pub(crate) is_owing: bool,
    /// What its watch waits for, if it has one.
    pub(crate) watched: Option<Want>,
    /// The last word was said.
    has_ended: bool,
    /// Why nothing can be sent any more.
    broken: Option<std::io::Error>,
}

/// What became of a frame.
pub(crate) struct Outcome {
    pub(crate) posted: Posted,
    /// Something waits to be sent, or for the kernel to have room again.
    pub(crate) waits: bool,
}

impl Conn {
    pub(crate) fn new(stream: Stream, window: Window) -> Conn {
        Conn {
            line: Arc::new(Line::new(stream, Out::new(window))),
            inbox: In::default(),
            told: 0,
            seen: 0,
            round: u32::MAX,
            empty: 0,
            is_hot: false,
            is_dirty: false,
            is_owing: false,
            watched: None,
            has_ended: false,
            broken: None,
        }
    }

    /// Takes a frame; `round` is the number of the round of polling.
    #[inline]
    pub(crate) fn post(&mut self, frame: &Frame<'_>, round: u32, courier: &mut Courier) -> Outcome {
        let Conn { line, inbox, told, broken, .. } = self;
        let mut out = line.out();
        if broken.is_some() {
            return Outcome { posted: Posted::NoResource, waits: false };
        }
        if frame.kind == Kind::Segment {
            tell(told, inbox, &mut out, ACK_ALONG_FRAMES);
            let posted = post_segment(&mut out, &line.stream, frame, broken);
            return Outcome { posted, waits: waits(&out, broken.is_some()) };
        }
        if !out.has_room() {
            return Outcome { posted: Posted::NoResource, waits: waits(&out, false) };
        }
        tell(told, inbox, &mut out, ACK_ALONG_FRAMES);
        if let Err(error) = out.append(frame) {
            return Outcome { posted: Posted::Failed(error), waits: waits(&out, false) };
        }
        // The first frame of a round leaves at once. Those that follow wait for the next round, or for more to go with.
        let is_first = std::mem::replace(&mut self.round, round) != round;
        if !out.is_full() && (is_first || out.unsent() >= BATCH_BYTES || !courier.take(line)) {
            *broken = out.flush(&line.stream).err();
        }
        Outcome { posted: Posted::Done, waits: waits(&out, broken.is_some()) }
    }

    /// Tells the peer now, if there is something to tell.
    pub(crate) fn acknowledge(&mut self) {
        tell(&mut self.told, &mut self.inbox, &mut self.line.out(), 1);
        self.flush();
    }

    /// Whether nothing has come since this was asked last.
    pub(crate) fn is_silent(&mut self) -> bool {
        std::mem::replace(&mut self.seen, self.inbox.delivered) == self.inbox.delivered
    }

    /// Whether the peer is to be told of frames, some time.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        self.told != self.inbox.delivered
    }

    /// Sends what waits, as far as the kernel takes it. What goes wrong is told by [`Self::receive`], after everything that
    /// has come.
    pub(crate) fn flush(&mut self) {
        if self.broken.is_none() {
            self.broken = self.line.out().flush(&self.line.stream).err();
        }
    }

    /// How far the peer is, if it has something to take: frames that it has acknowledged, and bytes that went out.
    pub(crate) fn owed(&self) -> Option<[u64; 2]> {
        let out = self.line.out();
        let is_owed = out.is_kept() || out.unsent() > 0 || out.is_full();
        is_owed.then(|| out.progress())
    }

    /// Whether something waits to be sent, or for the kernel to have room again.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        waits(&self.line.out(), self.is_broken())
    }

    /// Whether nothing can be sent any more.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Delivers what has come; how many frames, and whether there may be more.
    #[inline]
    pub(crate) fn receive<S: Sink>(
        &mut self,
        scratch: &mut [u8],
        peer: PeerId,
        sink: &mut S,
    ) -> Result<(usize, bool), Ended> {
        let Line { stream, .. } = &*self.line;
        let (taken, more) = self.inbox.receive(stream, scratch, peer, &mut self.line.out(), sink)?;
        if taken == 0 && !more {
            if let Some(e) = self.broken.take() {
                return Err(Ended::Broken(e));
            }
        }
        if self.inbox.delivered - self.told >= ACK_FRAMES || self.inbox.bytes >= ACK_BYTES {
            self.acknowledge();
        }
        Ok((taken, more))
    }

    /// Delivers what came behind the handshake.
    pub(crate) fn begin<S: Sink>(&mut self, rest: &[u8], peer: PeerId, sink: &mut S) -> Result<(), Ended> {
        self.inbox.begin(rest, peer, &mut self.line.out(), sink)
    }

    /// Says the last word, and hangs up as far as the kernel takes it; [`Self::finish_hanging_up`] does the rest.
    pub(crate) fn hang_up(&mut self, code: u64) {
        let mut out = self.line.out();
        tell(&mut self.told, &mut self.inbox, &mut out, 1);
        out.append_record(RECORD_BYE, code);
        drop(out);
        self.finish_hanging_up();
    }

    /// Goes on hanging up; true when nothing more can be done. What was sent before the last word still arrives.
    pub(crate) fn finish_hanging_up(&mut self) -> bool {
        self.flush();
        if self.broken.is_some() {
            return true;
        }
        if self.line.out().unsent() > 0 {
            return false;
        }
        if !self.has_ended {
            self.has_ended = true;
            self.line.stream.end_sending();
            self.line.stream.discard(DISCARD_BYTES);
        }
        self.line.stream.unacknowledged() == 0
    }
}

/// Tells the peer, with whatever is sent next, which frames have come, if they are `enough`.
#[inline]
fn tell(told: &mut u64, inbox: &mut In, out: &mut Out, enough: u64) {
    if inbox.delivered - *told >= enough && !out.is_full() {
        *told = inbox.delivered;
        inbox.bytes = 0;
        out.append_record(RECORD_ACK, *told);
    }
}

#[inline]
fn waits(out: &Out, is_broken: bool) -> bool {
    (out.unsent() > 0 || out.is_full()) && !is_broken
}

fn post_segment(
    out: &mut Out,
    stream: &Stream,
    frame: &Frame<'_>,
    broken: &mut Option<std::io::Error>,
) -> Posted {
    let Ok(header) = Header::of(frame) else { return Posted::Failed(Error::Invalid) };
    match out.send_segment(stream, &header, &frame.payload) {
        Ok(Taken::Yes) => Posted::Done,
        Ok(Taken::No) => Posted::NoResource,
        Err(e) => {
            *broken = Some(e);
            Posted::NoResource
        }
    }
}

/// Bytes of a peer that are read to nowhere when its link ends.
const DISCARD_BYTES: usize = 4 << 20;
