use super::*;
use crate::socket::pair;
use gridnet_core::mem::Iov;
use gridnet_core::wire::{Kind, Message};
use proptest::prelude::*;

fn out() -> Out {
    Out::new(Window { bytes: 1 << 20, frames: 8192 }, true)
}

fn append(out: &mut Out, tag: u64, len: usize) {
    let mut bytes = vec![tag as u8; len];
    // SAFETY: the vector outlives the call, after which nothing uses the memory.
    let iov = unsafe { Iov::new(bytes.as_mut_ptr(), len) };
    out.append(&Frame::eager(tag, Gather::one(&iov))).unwrap();
}

/// Tags of what is handed out, whose payloads are compared.
fn retained(out: &Out, after: u64) -> Result<Vec<u64>, Error> {
    let mut tags = Vec::new();
    out.retained(after, &mut |frame| {
        assert!(frame.payload.to_vec().iter().all(|byte| *byte == frame.word as u8));
        tags.push(frame.word);
    })?;
    Ok(tags)
}

#[test]
fn frames_are_kept_until_they_are_acknowledged() {
    let (one, _other) = pair();
    let mut out = out();
    for tag in 0..10 {
        append(&mut out, tag, tag as usize * 10);
        out.append_record(RECORD_ACK, 7);
    }
    assert_eq!(out.acknowledge(1), Err(Error::PeerMisbehaved), "nothing was sent");
    out.flush(&one).unwrap();
    assert_eq!(retained(&out, 0).unwrap(), (0..10).collect::<Vec<_>>());
    out.acknowledge(4).unwrap();
    assert_eq!(retained(&out, 4).unwrap(), (4..10).collect::<Vec<_>>());
    assert_eq!(retained(&out, 9).unwrap(), [9]);
    assert_eq!(retained(&out, 3), Err(Error::PeerMisbehaved));
    assert_eq!(retained(&out, 11), Err(Error::PeerMisbehaved));
    assert_eq!(out.acknowledge(3), Err(Error::PeerMisbehaved));
    assert_eq!(out.acknowledge(11), Err(Error::PeerMisbehaved));
    // What waits is kept, too, and cannot have come.
    append(&mut out, 10, 5);
    assert_eq!(out.acknowledge(11), Err(Error::PeerMisbehaved));
    assert_eq!(retained(&out, 10).unwrap(), [10]);
    out.flush(&one).unwrap();
    out.acknowledge(11).unwrap();
    assert_eq!((out.bytes.len(), out.head, out.sent), (0, 0, 0));
    assert_eq!(retained(&out, 11).unwrap(), []);
}

#[test]
fn without_reliability_what_was_sent_is_forgotten() {
    let (one, other) = pair();
    let mut out = Out::new(Window { bytes: 1000, frames: 3 }, false);
    append(&mut out, 0, 1000);
    assert!(!out.has_room(), "what waits is bounded");
    out.flush(&one).unwrap();
    assert!(out.has_room());
    assert_eq!((out.bytes.len(), out.head, out.sent, out.unsent()), (0, 0, 0, 0));
    (1..3).for_each(|tag| append(&mut out, tag, 100));
    out.flush(&one).unwrap();
    assert!(!out.has_room(), "frames under way are bounded");
    assert_eq!((out.acknowledge(4), out.acknowledge(2)), (Err(Error::PeerMisbehaved), Ok(())));
    assert!(out.has_room());
    assert_eq!(out.acknowledge(1), Err(Error::PeerMisbehaved));
    assert!(matches!(other.receive(&mut [0; 4096]), Moved::Bytes(_)));
}

#[test]
fn the_window_has_an_end() {
    let mut out = Out::new(Window { bytes: 1000, frames: 3 }, true);
    append(&mut out, 1, 900);
    assert!(out.has_room());
    append(&mut out, 2, 100);
    assert!(!out.has_room(), "bytes");
    let mut out = Out::new(Window { bytes: 1000, frames: 3 }, true);
    (0..3).for_each(|tag| append(&mut out, tag, 0));
    assert!(!out.has_room(), "frames");
}

#[test]
fn frames_that_are_not_sequenced_are_not_counted() {
    let mut out = out();
    let resume = Message::Resume { delivered: 5, conversation: 1, yours: 0 };
    out.append(&resume.frame(Gather::EMPTY)).unwrap();
    append(&mut out, 1, 3);
    assert_eq!((out.posted, retained(&out, 0).unwrap()), (1, vec![1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Frames, and segments that the kernel takes in part, arrive as one stream in the order of their posts.
    #[test]
    fn everything_goes_out_in_order(posts in prop::collection::vec((any::<bool>(), 0..200_000usize), 1..20)) {
        let (one, other) = pair();
        let (mut out, mut sent, mut came) = (out(), Vec::new(), Vec::new());
        let mut buffer = vec![0; 50_000];
        for (i, (is_segment, len)) in posts.into_iter().enumerate() {
            let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + i) as u8).collect();
            // SAFETY: the vector outlives the calls, after which nothing uses the memory.
            let iov = unsafe { Iov::new(bytes.as_mut_ptr(), len) };
            let kind = if is_segment { Kind::Segment } else { Kind::Put };
            let message = if is_segment {
                Message::Segment { op: i as u64, offset: 3 }
            } else {
                Message::Put { region: 1, op: 2, offset: 3, last: false }
            };
            let frame = message.frame(Gather::one(&iov));
            prop_assert_eq!(frame.kind, kind);
            let header = Header::of(&frame).unwrap();
            header.encode(&mut sent).unwrap();
            sent.extend_from_slice(&bytes);
            if !is_segment {
                out.append(&frame).unwrap();
                out.flush(&one).unwrap();
                continue;
            }
            while out.send_segment(&one, &header, &frame.payload).unwrap() == Taken::No {
                if let Moved::Bytes(len) = other.receive(&mut buffer) {
                    came.extend_from_slice(&buffer[..len]);
                }
            }
        }
        while came.len() < sent.len() {
            out.flush(&one).unwrap();
            if let Moved::Bytes(len) = other.receive(&mut buffer) {
                came.extend_from_slice(&buffer[..len]);
            }
        }
        prop_assert!(came == sent);
    }
}
