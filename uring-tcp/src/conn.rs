//! One connection over which frames flow.

use std::sync::Arc;
use std::time::Instant;

use gridnet_core::error::Error;
use gridnet_core::mem::Iov;
use gridnet_core::rail::{PeerId, Posted, Sink};
use gridnet_core::wire::{Frame, Header, Kind};

use crate::config::Window;
use crate::courier::Courier;
use crate::frame_in::{Ended, In};
use crate::line::Line;
use crate::out::{Out, Taken, RECORD_ACK, RECORD_BYE, RECORD_PATH_OVER};
use crate::shallow::{Room, Shallow};
use crate::socket::Stream;
use crate::watch::{Turn, Want};

/// Frames after which the peer is told that they have come, when nothing else is said to it.
const ACK_FRAMES: u64 = 256;
/// Frames after which the peer is told with whatever is sent next: telling it of each would cost each some nanoseconds.
const ACK_ALONG_FRAMES: u64 = 16;
/// Frames after a sleep for which that does not count: a few bytes more in each are less than one packet more before the next
/// sleep, which would wake a peer that sleeps, too.
pub(crate) const CALM_FRAMES: u32 = 32;
/// Bytes, for [`ACK_FRAMES`]. Both are a quarter of the smallest window, so that the peer need not wait.
const ACK_BYTES: usize = 64 << 10;

/// Rounds after which frames of a burst leave: the engine polls in the middle of a long one, too.
const GATHERING_ROUNDS: u32 = 2;
/// Bytes that wait at most for others to be sent with: more would gain nothing.
const BATCH_BYTES: usize = 16 << 10;

/// How the bytes of a connection come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// They are read by calls.
    Calls,
    /// The ring receives them.
    Ring,
    /// It still does, and was asked for an end.
    RingStill,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) line: Arc<Line>,
    pub(crate) inbox: In,
    /// Delivered frames of which the peer was told.
    told: u64,
    /// Delivered frames at the last look whether more come.
    seen: u64,
    /// The last round of polling in which a frame was posted, and how many were posted in it.
    round: u32,
    in_round: u32,
    /// More than one was posted in the one before.
    comes_in_bursts: bool,
    /// The round in which the first of those was posted that wait for others.
    waits_since: u32,
    /// Looks since something came.
    pub(crate) empty: u32,
    /// The core from which the other side spoke last, if it is on this host and that was looked at.
    pub(crate) peer_core: Option<usize>,
    /// Frames with which the peer is told at once what has come, as this side slept before: traffic is slow.
    pub(crate) calm: u32,
    /// How much of large messages is on its way.
    shallow: Shallow,
    /// The other side takes bytes that it has not asked for.
    pub(crate) takes_ahead: bool,
    /// It is looked at in each round, and watched by nothing.
    pub(crate) is_hot: bool,
    /// It is in the rail's list of those with something to send.
    pub(crate) is_dirty: bool,
    /// It is in the rail's list of those whose peer is to be told of frames.
    pub(crate) is_owing: bool,
    /// What its watch waits for, if it has one.
    pub(crate) watched: Option<Want>,
    pub(crate) source: Source,
    /// The receive of the ring by which it reads, if it does.
    pub(crate) turn: Turn,
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
    /// Whether what comes of this receive of the ring is for this connection, and not for one that had its number before.
    pub(crate) fn is_received_in(&self, turn: Turn) -> bool {
        self.source != Source::Calls && self.turn == turn
    }

    pub(crate) fn new(stream: Stream, window: Window, keeps: bool) -> Conn {
        Conn {
            line: Arc::new(Line::new(stream, Out::new(window, keeps))),
            inbox: In::default(),
            told: 0,
            seen: 0,
            round: u32::MAX,
            in_round: 0,
            comes_in_bursts: false,
            waits_since: 0,
            empty: 0,
            peer_core: None,
            calm: 0,
            shallow: Shallow::default(),
            takes_ahead: false,
            is_hot: false,
            is_dirty: false,
            is_owing: false,
            watched: None,
            source: Source::Calls,
            turn: Turn::default(),
            has_ended: false,
            broken: None,
        }
    }

    /// Takes a frame; `round` is the number of the round of polling.
    #[inline]
    pub(crate) fn post(&mut self, frame: &Frame<'_>, round: u32, courier: &mut Courier) -> Outcome {
        if frame.kind != Kind::Segment {
            return self.post_with(round, courier, |out| out.append(frame));
        }
        let enough = self.enough();
        let Conn { line, inbox, told, broken, .. } = self;
        let mut out = line.out();
        if broken.is_some() {
            return Outcome { posted: Posted::NoResource, waits: false };
        }
        tell(told, inbox, &mut out, enough);
        let posted = post_segment(&mut out, &line.stream, frame, broken);
        Outcome { posted, waits: waits(&out, broken.is_some()) }
    }

    /// Whether the first bytes of a message may go unasked: they had better leave at once.
    pub(crate) fn may_go_ahead(&self) -> bool {
        let out = self.line.out();
        self.takes_ahead && self.broken.is_none() && out.is_ready() && out.has_room()
    }

    /// Takes an announcement and what goes behind it.
    pub(crate) fn post_ahead(&mut self, announcement: &Frame<'_>, segment: &Frame<'_>) -> Outcome {
        let enough = self.enough();
        let Conn { line, inbox, told, broken, .. } = self;
        let mut out = line.out();
        tell(told, inbox, &mut out, enough);
        let posted = match out.send_ahead(&line.stream, announcement, segment) {
            Ok(Taken::Yes) => Posted::Done,
            Ok(Taken::No) => Posted::NoResource,
            Err(e) => {
                // The announcement is kept: it is repeated over the next link.
                *broken = Some(e);
                Posted::Done
            }
        };
        Outcome { posted, waits: waits(&out, broken.is_some()) }
    }

    /// Room for a segment of at most `most` bytes while small messages come and go.
    pub(crate) fn room(&mut self, most: usize) -> Room {
        let stream = &self.line.stream;
        if stream.is_on_host {
            // Within a host nothing is narrower than the processes themselves.
            return Room::Bytes(most);
        }
        self.shallow.room(Instant::now(), most, self.inbox.delivered, || stream.flow())
    }

    /// Takes a whole message without any extension, as [`Self::post`]: the hot path.
    #[inline]
    pub(crate) fn post_message(
        &mut self,
        tag: u64,
        message: &Iov,
        round: u32,
        courier: &mut Courier,
    ) -> Outcome {
        self.post_with(round, courier, |out| {
            out.append_message(tag, message);
            Ok(())
        })
    }

    #[inline]
    fn post_with(
        &mut self,
        round: u32,
        courier: &mut Courier,
        append: impl FnOnce(&mut Out) -> Result<(), Error>,
    ) -> Outcome {
        let enough = self.enough();
        let Conn { line, inbox, told, broken, .. } = self;
        let mut out = line.out();
        if broken.is_some() {
            return Outcome { posted: Posted::NoResource, waits: false };
        }
        if !out.has_room() {
            return Outcome { posted: Posted::NoResource, waits: waits(&out, false) };
        }
        if out.unsent() == 0 {
            self.waits_since = round;
        }
        tell(told, inbox, &mut out, enough);
        if let Err(error) = append(&mut out) {
            return Outcome { posted: Posted::Failed(error), waits: waits(&out, false) };
        }
        // A frame that is the only one in its round, as far as one can tell, leaves at once. Others wait for the next round, or
        // for more to go with.
        if std::mem::replace(&mut self.round, round) != round {
            self.comes_in_bursts = std::mem::take(&mut self.in_round) > 1;
        }
        self.in_round += 1;
        let is_single = self.in_round == 1 && !self.comes_in_bursts;
        if !out.is_full() && (is_single || out.unsent() >= BATCH_BYTES || !courier.take(line)) {
            *broken = out.flush(&line.stream).err();
        }
        Outcome { posted: Posted::Done, waits: waits(&out, broken.is_some()) }
    }

    /// Frames after which the peer is told that they have come, with what is sent next.
    #[inline]
    fn enough(&mut self) -> u64 {
        if self.calm == 0 {
            return ACK_ALONG_FRAMES;
        }
        self.calm -= 1;
        1
    }

    /// Whether what waits had better wait until the next round: of a burst, more is coming. `round` is that of now.
    #[inline]
    pub(crate) fn is_gathering(&self, round: u32) -> bool {
        self.comes_in_bursts
            && round.wrapping_sub(self.waits_since) < GATHERING_ROUNDS
            && !self.line.out().is_full()
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
        self.acknowledge_many();
        Ok((taken, more))
    }

    /// Delivers what has come by another way than [`Self::receive`]; how many frames.
    pub(crate) fn feed<S: Sink>(
        &mut self,
        bytes: &[u8],
        scratch: &mut [u8],
        peer: PeerId,
        sink: &mut S,
    ) -> Result<usize, Ended> {
        let taken = self.inbox.feed(bytes, scratch, peer, &mut self.line.out(), sink)?;
        self.acknowledge_many();
        Ok(taken)
    }

    /// Tells the peer that much has come.
    #[inline]
    fn acknowledge_many(&mut self) {
        if self.inbox.delivered - self.told >= ACK_FRAMES || self.inbox.bytes >= ACK_BYTES {
            self.acknowledge();
        }
    }

    /// Whether a ring could as well receive what comes: nothing large has come since this was asked last.
    pub(crate) fn is_for_ring(&mut self) -> bool {
        !self.inbox.take_had_segment() && !self.line.stream.is_sealed() && !self.is_broken()
    }

    /// Delivers what came behind the handshake.
    pub(crate) fn begin<S: Sink>(&mut self, rest: &[u8], peer: PeerId, sink: &mut S) -> Result<(), Ended> {
        self.inbox.begin(rest, peer, &mut self.line.out(), sink)
    }

    /// Tells the peer that a path of the link is over.
    pub(crate) fn end_path(&mut self, number: u32) {
        self.line.out().append_record(RECORD_PATH_OVER, number.into());
        self.flush();
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
            match self.line.stream.push() {
                Ok(false) => {}
                Ok(true) => return false,
                Err(_) => return true,
            }
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

/// Bytes of a peer that are read to nowhere when its link ends, or when it is refused one.
pub(crate) const DISCARD_BYTES: usize = 4 << 20;
