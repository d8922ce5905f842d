//! A peer that sends whatever frames it is told to, and keeps those that come.

use crate::error::Error;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{LinkId, PathId, PeerId, Posted, Rail, Refusal, Sink};
use crate::time::Time;
use crate::wire::{Address, Frame, Incoming, Kind, Message, NodeId, FLAG_IMMEDIATE, MAX_EXTENSION};

/// A frame that owns its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// Number of the kind; those that are none cannot be posted.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Tag or operation.
    pub word: u64,
    /// Extension words.
    pub extension: [u64; MAX_EXTENSION],
    /// Payload.
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// Copies a frame that is to be posted.
    pub fn of(frame: &Frame<'_>) -> RawFrame {
        let mut payload = vec![0; frame.payload.len()];
        // SAFETY: the vector is as long as the payload, and private.
        unsafe { frame.payload.copy_out(payload.as_mut_ptr()) };
        RawFrame {
            kind: frame.kind as u8,
            flags: frame.flags,
            word: frame.word,
            extension: frame.extension,
            payload,
        }
    }

    /// Posts it to a rail. The payload is used until the rail says otherwise, as for [`Rail::post`].
    pub fn post<R: Rail>(&mut self, rail: &mut R, link: LinkId) -> Posted {
        self.post_with(|frame| rail.post(link, frame))
    }

    /// The same, in whatever way.
    pub fn post_with(&mut self, post: impl FnOnce(&Frame<'_>) -> Posted) -> Posted {
        let Some(kind) = Kind::from_number(self.kind) else {
            return Posted::Down;
        };
        // Frames that break the rules have all words, for rails that carry them.
        let extension_len = crate::wire::extension_words(self.kind, self.flags).unwrap_or(MAX_EXTENSION);
        // SAFETY: `self` keeps the bytes, and its owner keeps `self` for as long as the rail may read it.
        let iov = unsafe { Iov::new(self.payload.as_mut_ptr(), self.payload.len()) };
        post(&Frame {
            kind,
            flags: self.flags,
            word: self.word,
            extension: self.extension,
            extension_len,
            payload: Gather::one(&iov),
        })
    }
}

/// A rail without an engine.
#[derive(Debug)]
pub struct RawPeer<R> {
    rail: R,
    link: LinkId,
    /// Frames that came and were not looked at.
    pub frames: Vec<RawFrame>,
    up: bool,
    down: bool,
    /// A link over a rail that retains begins with a Resume, as that of an engine does.
    pub greets: bool,
    // Declared after the rail, and so dropped after it.
    /// Frames whose memory the rail may still read.
    lent: Vec<RawFrame>,
}

impl<R: Rail> RawPeer<R> {
    /// Connects `rail` to the fabric at `address`.
    ///
    /// # Errors
    /// As [`Rail::connect`].
    pub fn connect(mut rail: R, address: &Address) -> Result<RawPeer<R>, Refusal> {
        let link = rail.connect(PeerId::new(0), address)?;
        let greets = rail.capabilities().retains;
        Ok(RawPeer { rail, link, frames: Vec::new(), up: false, down: false, greets, lent: Vec::new() })
    }

    /// Calls once more, after the link has broken.
    ///
    /// # Errors
    /// As [`Rail::connect`].
    pub fn call_again(&mut self, address: &Address) -> Result<(), Refusal> {
        self.link = self.rail.connect(PeerId::new(0), address)?;
        (self.up, self.down) = (false, false);
        Ok(())
    }

    /// One round of maintenance and polling.
    pub fn drive(&mut self, now: Time) -> usize {
        let mut heard = Heard { frames: &mut self.frames, up: &mut self.up, down: &mut self.down };
        let moved = self.rail.maintain(now, &mut heard) + self.rail.poll(64, &mut heard);
        if self.greets && self.up {
            let resume = Message::Resume { delivered: 0, conversation: 1, yours: 0 };
            self.greets = !self.post(&RawFrame::of(&resume.frame(Gather::EMPTY)));
        }
        moved
    }

    /// Posts a frame; false when the rail did not take it.
    pub fn post(&mut self, frame: &RawFrame) -> bool {
        let mut frame = frame.clone();
        match frame.post(&mut self.rail, self.link) {
            Posted::Done => true,
            Posted::Accepted(_) => {
                self.lent.push(frame);
                true
            }
            Posted::NoResource | Posted::Down | Posted::Failed(_) => false,
        }
    }

    /// The rail, to misuse it.
    pub fn rail(&mut self) -> &mut R {
        &mut self.rail
    }

    /// True while frames can flow.
    pub fn is_up(&self) -> bool {
        self.up && !self.down
    }

    /// True when the link is over.
    pub fn is_down(&self) -> bool {
        self.down
    }
}

struct Heard<'a> {
    frames: &'a mut Vec<RawFrame>,
    up: &'a mut bool,
    down: &'a mut bool,
}

impl Sink for Heard<'_> {
    fn message(&mut self, _peer: PeerId, tag: u64, payload: PeerBytes<'_>) {
        let (kind, payload) = (Kind::Eager as u8, payload.to_vec());
        self.frames.push(RawFrame { kind, flags: 0, word: tag, extension: [0; MAX_EXTENSION], payload });
    }

    fn frame(&mut self, _peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        let Incoming { kind, flags, word, extension, payload } = frame;
        self.frames.push(RawFrame { kind, flags, word, extension, payload: payload.to_vec() });
        Ok(())
    }

    fn segment_on(
        &mut self,
        _peer: PeerId,
        _path: PathId,
        op: u64,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        let (kind, payload) = (Kind::Segment as u8, payload.to_vec());
        self.frames.push(RawFrame { kind, flags: 0, word: op, extension: [offset, 0, 0, 0, 0], payload });
        Ok(())
    }

    fn loan(
        &mut self,
        _peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: PeerBytes<'_>,
    ) -> bool {
        // Position and length are the rail's affair: what is kept of a loan is its number.
        let words = immediate.into_iter().chain([loan]);
        let mut extension = [0; MAX_EXTENSION];
        extension.iter_mut().zip(words).for_each(|(to, word)| *to = word);
        let flags = if immediate.is_some() { FLAG_IMMEDIATE } else { 0 };
        let (kind, payload) = (Kind::Loan as u8, message.to_vec());
        self.frames.push(RawFrame { kind, flags, word: tag, extension, payload });
        false
    }

    fn sent(&mut self, _peer: PeerId, _token: u64) {}

    fn accept(&mut self, _link: LinkId, _node: NodeId, _incarnation: u64) -> Result<PeerId, Refusal> {
        Err(Refusal::new(Error::Unsupported, "this peer only calls"))
    }

    fn up(&mut self, _peer: PeerId) {
        *self.up = true;
    }

    fn down(&mut self, _peer: PeerId, _link: LinkId, _reason: Refusal) {
        *self.down = true;
    }
}
