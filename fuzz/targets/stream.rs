//! What comes over a TCP connection, from strangers and from peers, in pieces of any length.

#![no_main]

use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov, PeerBytes};
use gridnet_core::rail::{LinkId, PeerId, Refusal, Sink};
use gridnet_core::wire::{is_sequenced, Incoming, Kind, Message, NodeId};
use gridnet_uring_tcp::testing::{hear_handshake, Ear};
use libfuzzer_sys::fuzz_target;

/// Longest payload of a frame.
const MOST: usize = 256 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 8 {
        0 => assert!(!hear_handshake(false, true, bytes), "a stranger came through without the key"),
        1 => assert!(!hear_handshake(true, true, bytes), "a stranger was taken for a peer without the key"),
        2 => drop(hear_handshake(false, false, bytes)),
        3 => drop(hear_handshake(true, false, bytes)),
        _ => frames(bytes, usize::from(which / 8) * 7 + 1),
    }
});

/// Says all bytes in pieces of one length.
fn frames(bytes: &[u8], piece: usize) {
    let mut ear = Ear::new().expect("there are sockets");
    let mut mind = Mind { place: vec![0; MOST].into_boxed_slice(), piece: None, asked: None, sequenced: 0 };
    for part in bytes.chunks(piece) {
        if !ear.say(part, &mut mind) {
            break;
        }
    }
    assert_eq!(ear.delivered(), mind.sequenced);
}

/// Believes nothing, as an engine does, and has places for some segments.
struct Mind {
    place: Box<[u8]>,
    piece: Option<Iov>,
    /// What was asked for: operation, offset, length.
    asked: Option<(u64, u64, usize)>,
    sequenced: u64,
}

impl Sink for Mind {
    fn message(&mut self, _: PeerId, _: u64, payload: PeerBytes<'_>) {
        assert!(payload.len() <= 8192);
        self.sequenced += 1;
        drop(payload.to_vec());
    }

    fn frame(&mut self, _: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        assert!(frame.payload.len() <= MOST);
        drop(frame.payload.to_vec());
        if frame.kind != Kind::Segment as u8 {
            Message::parse(&frame).map_err(|_| Error::PeerMisbehaved)?;
            self.sequenced += u64::from(is_sequenced(frame.kind));
        }
        Ok(())
    }

    fn place(&mut self, _: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        assert!((1..=MOST).contains(&len));
        if op % 2 == 0 {
            return None;
        }
        self.asked = Some((op, offset, len));
        // SAFETY: the place stays, and is read by nobody, until it is asked for again.
        self.piece = Some(unsafe { Iov::new(self.place.as_mut_ptr(), len) });
        self.piece.as_ref().map(Gather::one)
    }

    fn placed(&mut self, _: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        let (asked_op, asked_offset, most) = self.asked.take().expect("a place was asked for");
        assert!((op, offset) == (asked_op, asked_offset) && (1..=most).contains(&len));
        if offset > 1 << 40 {
            return Err(Error::PeerMisbehaved);
        }
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        unreachable!("this rail carries no loans as such")
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, _: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        Err(Refusal::new(Error::Unsupported, "nobody calls here"))
    }

    fn up(&mut self, _: PeerId) {}

    fn down(&mut self, _: PeerId, _: LinkId, _: Refusal) {}
}
