//! What comes over a path beside the first of a link: segments, and nothing else.

use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, PeerBytes};
use gridnet_core::rail::{LinkId, PathId, PeerId, Refusal, Sink};
use gridnet_core::wire::{Incoming, Kind, NodeId};

use crate::conn::Conn;
use crate::frame_in::Ended;

/// Reads a connection that is a further path of a link; as [`Conn::receive`].
pub(crate) fn receive_on<S: Sink>(
    conn: &mut Conn,
    path: PathId,
    scratch: &mut [u8],
    peer: PeerId,
    sink: &mut S,
) -> Result<(usize, bool), Ended> {
    let mut on = OnPath { sink, path, is_broken: false };
    let received = conn.receive(scratch, peer, &mut on)?;
    on.check(conn)?;
    Ok(received)
}

/// Delivers what has come by another way; as [`Conn::feed`].
pub(crate) fn feed_on<S: Sink>(
    conn: &mut Conn,
    path: PathId,
    bytes: &[u8],
    scratch: &mut [u8],
    peer: PeerId,
    sink: &mut S,
) -> Result<usize, Ended> {
    let mut on = OnPath { sink, path, is_broken: false };
    let taken = conn.feed(bytes, scratch, peer, &mut on)?;
    on.check(conn)?;
    Ok(taken)
}

/// Delivers what came behind the handshake; as [`Conn::begin`].
pub(crate) fn begin_on<S: Sink>(
    conn: &mut Conn,
    path: PathId,
    rest: &[u8],
    peer: PeerId,
    sink: &mut S,
) -> Result<(), Ended> {
    let mut on = OnPath { sink, path, is_broken: false };
    conn.begin(rest, peer, &mut on)?;
    on.check(conn)
}

/// Who listens to the rail, as a path sees it.
struct OnPath<'a, S> {
    sink: &'a mut S,
    path: PathId,
    /// Something has come that no path carries.
    is_broken: bool,
}

impl<S> OnPath<'_, S> {
    fn check(&self, conn: &Conn) -> Result<(), Ended> {
        if !self.is_broken && conn.inbox.paths_over.is_empty() {
            return Ok(());
        }
        let why = "a frame that only the first path of a link carries";
        Err(Ended::Misbehaved(Refusal::new(Error::PeerMisbehaved, why)))
    }
}

impl<S: Sink> Sink for OnPath<'_, S> {
    fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {
        self.is_broken = true;
    }

    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        if frame.kind != Kind::Segment as u8 || frame.flags != 0 {
            return Err(Error::PeerMisbehaved);
        }
        self.sink.segment_on(peer, self.path, frame.word, frame.extension[0], &frame.payload)
    }

    fn place(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        self.sink.place_on(peer, self.path, op, offset, len)
    }

    fn placed(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        self.sink.placed_on(peer, self.path, op, offset, len)
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        self.is_broken = true;
        false
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, _: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        Err(Refusal::new(Error::Unsupported, "a path makes no link"))
    }

    fn up(&mut self, _: PeerId) {}

    fn down(&mut self, _: PeerId, _: LinkId, _: Refusal) {}
}
