//! One connection over which frames flow.

use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Posted, Sink};
use gridnet_core::wire::{Frame, Header, Kind};

use crate::config::Window;
use crate::frame_in::{Ended, In};
use crate::out::{Out, Taken, RECORD_ACK, RECORD_BYE};
use crate::socket::Stream;
use crate::watch::Want;

/// Frames after which the peer is told that they have come, when nothing else is said to it.
const ACK_FRAMES: u64 = 256;
/// The same in bytes. Both are a quarter of the smallest window, so that the peer need not wait.
const ACK_BYTES: usize = 64 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) stream: Stream,
    pub(crate) out: Out,
    pub(crate) inbox: In,
    /// Delivered frames of which the peer was told.
    told: u64,
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

impl Conn {
    pub(crate) fn new(stream: Stream, window: Window) -> Conn {
        Conn {
            stream,
            out: Out::new(window),
            inbox: In::default(),
            told: 0,
            empty: 0,
            is_hot: false,
            is_dirty: false,
            is_owing: false,
            watched: None,
            has_ended: false,
            broken: None,
        }
    }

    /// Takes a frame.
    #[inline]
    pub(crate) fn post(&mut self, frame: &Frame<'_>) -> Posted {
        if frame.kind == Kind::Segment {
            return self.post_segment(frame);
        }
        if !self.out.has_room() || self.broken.is_some() {
            return Posted::NoResource;
        }
        self.tell();
        if let Err(error) = self.out.append(frame) {
            return Posted::Failed(error);
        }
        // Nobody knows whether there will be another call soon: what was posted leaves.
        if !self.out.is_full() {
            self.flush();
        }
        Posted::Done
    }

    fn post_segment(&mut self, frame: &Frame<'_>) -> Posted {
        if self.broken.is_some() {
            return Posted::NoResource;
        }
        let Ok(header) = Header::of(frame) else { return Posted::Failed(Error::Invalid) };
        self.tell();
        match self.out.send_segment(&self.stream, &header, &frame.payload) {
            Ok(Taken::Yes) => Posted::Done,
            Ok(Taken::No) => Posted::NoResource,
            Err(e) => {
                self.broken = Some(e);
                Posted::NoResource
            }
        }
    }

    /// Tells the peer, with whatever is sent next, which frames have come.
    #[inline]
    fn tell(&mut self) {
        if self.told != self.inbox.delivered && !self.out.is_full() {
            self.told = self.inbox.delivered;
            self.inbox.bytes = 0;
            self.out.append_record(RECORD_ACK, self.told);
        }
    }

    /// Tells the peer now, if there is something to tell.
    pub(crate) fn acknowledge(&mut self) {
        self.tell();
        self.flush();
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
            self.broken = self.out.flush(&self.stream).err();
        }
    }

    /// Whether something waits to be sent, or for the kernel to have room again.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        (self.out.unsent() > 0 || self.out.is_full()) && self.broken.is_none()
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
        let (taken, more) = self.inbox.receive(&self.stream, scratch, peer, &mut self.out, sink)?;
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
        self.inbox.begin(rest, peer, &mut self.out, sink)
    }

    /// Says the last word, and hangs up as far as the kernel takes it; [`Self::finish_hanging_up`] does the rest.
    pub(crate) fn hang_up(&mut self, code: u64) {
        self.tell();
        self.out.append_record(RECORD_BYE, code);
        self.finish_hanging_up();
    }

    /// Goes on hanging up; true when nothing more can be done. What was sent before the last word still arrives.
    pub(crate) fn finish_hanging_up(&mut self) -> bool {
        self.flush();
        if self.broken.is_some() {
            return true;
        }
        if self.out.unsent() > 0 {
            return false;
        }
        if !self.has_ended {
            self.has_ended = true;
            self.stream.end_sending();
            self.stream.discard(DISCARD_BYTES);
        }
        self.stream.unacknowledged() == 0
    }
}

/// Bytes of a peer that are read to nowhere when its link ends.
const DISCARD_BYTES: usize = 4 << 20;
