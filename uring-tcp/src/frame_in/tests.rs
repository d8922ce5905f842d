use super::*;
use crate::config::Window;
use crate::ring::BUFFER_BYTES;
use crate::socket::pair;
use gridnet_core::mem::Iov;
use gridnet_core::rail::LinkId;
use gridnet_core::wire::{extension_words, NodeId};
use proptest::prelude::*;

/// Kind, word and payload.
type Meant = (u8, u64, Vec<u8>);

/// Keeps what comes; parts of a segment are put together again.
#[derive(Default)]
struct Kept {
    frames: Vec<Meant>,
    /// The segment that is coming: its operation, where the next part begins, and what has come.
    segment: Option<(u64, u64, Vec<u8>)>,
    /// Whether segments have a place; which must not move.
    places: bool,
    place: Vec<u8>,
}

impl Kept {
    fn part(&mut self, op: u64, offset: u64, bytes: &[u8]) {
        match &mut self.segment {
            Some((known, next, so_far)) if (*known, *next) == (op, offset) => {
                *next += bytes.len() as u64;
                so_far.extend_from_slice(bytes);
            }
            _ => {
                self.close();
                self.segment = Some((op, offset + bytes.len() as u64, bytes.to_vec()));
            }
        }
    }

    fn close(&mut self) {
        if let Some((op, _, bytes)) = self.segment.take() {
            self.frames.push((Kind::Segment as u8, op, bytes));
        }
    }
}

impl Sink for Kept {
    fn message(&mut self, _: PeerId, tag: u64, payload: PeerBytes<'_>) {
        self.close();
        self.frames.push((1, tag, payload.to_vec()));
    }

    fn frame(&mut self, _: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        if frame.kind == Kind::Segment as u8 && !frame.payload.is_empty() {
            self.part(frame.word, frame.extension[0], &frame.payload.to_vec());
            return Ok(());
        }
        self.close();
        self.frames.push((frame.kind, frame.word, frame.payload.to_vec()));
        Ok(())
    }

    fn place(&mut self, _: PeerId, _: u64, _: u64, len: usize) -> Option<Gather<'_>> {
        if !self.places {
            return None;
        }
        self.place = vec![0; len];
        // SAFETY: the vector stays where it is until the next call; `Box::leak` gives the list of one piece a home.
        let iov = unsafe { Iov::new(self.place.as_mut_ptr(), len) };
        Some(Gather::one(Box::leak(Box::new(iov))))
    }

    fn placed(&mut self, _: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        let bytes = self.place[..len].to_vec();
        self.part(op, offset, &bytes);
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        false
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, _: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        Err(Refusal::new(Error::Internal, "nobody calls"))
    }

    fn up(&mut self, _: PeerId) {}

    fn down(&mut self, _: PeerId, _: LinkId, _: Refusal) {}
}

fn new_out() -> Out {
    Out::new(Window::default(), true)
}

/// The frames as they are on the wire; each segment has an operation of its own.
fn encode(frames: &[(u8, usize)]) -> (Vec<u8>, Vec<Meant>) {
    let (mut bytes, mut meant) = (Vec::new(), Vec::new());
    for (i, (kind, len)) in frames.iter().enumerate() {
        let payload: Vec<u8> = (0..*len).map(|at| (at * 3 + i) as u8).collect();
        let header =
            Header { payload_len: *len as u32, kind: *kind, flags: 0, word: i as u64, extension: [0; 5] };
        header.encode(&mut bytes).unwrap();
        bytes.extend_from_slice(&payload);
        meant.push((*kind, i as u64, payload));
    }
    (bytes, meant)
}

fn some_frames() -> impl Strategy<Value = Vec<(u8, usize)>> {
    let any_kind = prop_oneof![
        (Just(1u8), prop_oneof![0..60usize, 8000..=MAX_EAGER]),
        (Just(4u8), prop_oneof![0..60usize, 10_000..=MAX_SEGMENT]),
        (Just(16u8), prop_oneof![0..60usize, 10_000..100_000usize]),
        (Just(3u8), Just(0)),
    ];
    prop::collection::vec(any_kind, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However the stream is cut, wherever segments go, and whoever reads it, the same frames come out of it.
    #[test]
    fn frames_come_out_whole_and_in_order(
        frames in some_frames(),
        cuts in prop::collection::vec(1..40_000usize, 1..20),
        places: bool,
        fed in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let (one, other) = pair();
        let (bytes, meant) = encode(&frames);
        let (mut inbox, mut out, mut kept) = (In::default(), new_out(), Kept { places, ..Kept::default() });
        let mut scratch = vec![0; SCRATCH_BYTES];
        let (mut left, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
        let (mut fed, mut buffer) = (fed.into_iter().cycle(), vec![0; BUFFER_BYTES]);
        let sequenced = meant.iter().filter(|(kind, ..)| is_sequenced(*kind)).count() as u64;
        // The last frame may have no bytes, and need not be sequenced either.
        while kept.count() < meant.len() || kept.bytes() < bytes.len() - header_bytes(&frames) {
            let cut = cuts.next().unwrap().min(left.len());
            if cut > 0 {
                if let Moved::Bytes(len) = one.send(&left[..cut]) {
                    left = &left[len..];
                }
            }
            if !fed.next().unwrap() {
                inbox.receive(&other, &mut scratch, PeerId::new(0), &mut out, &mut kept).unwrap();
            } else if let Moved::Bytes(len) = other.receive(&mut buffer) {
                inbox.feed(&buffer[..len], &mut scratch, PeerId::new(0), &mut out, &mut kept).unwrap();
            }
        }
        kept.close();
        prop_assert!(kept.frames == meant, "{:?}", frames);
        prop_assert_eq!(inbox.delivered, sequenced);
    }

    /// Nonsense ends the connection, or makes sense by chance; it never takes more memory than the longest frame.
    #[test]
    fn nonsense_is_borne(bytes: Vec<u8>, kind in 0..=255u8, len: u32, words in 0..7u8) {
        let (mut inbox, mut out, mut kept) = (In::default(), new_out(), Kept::default());
        let mut stream = len.to_le_bytes().to_vec();
        stream.extend([kind, 0, words, 0]);
        stream.extend(&bytes);
        let _ = inbox.begin(&stream, PeerId::new(0), &mut out, &mut kept);
        prop_assert!(inbox.long.len() <= MAX_SEGMENT + 16 + 40);
        prop_assert!(inbox.partial.len() <= READ_BYTES);
    }
}

impl Kept {
    fn count(&self) -> usize {
        self.frames.len() + usize::from(self.segment.is_some())
    }

    fn bytes(&self) -> usize {
        let coming = self.segment.as_ref().map_or(0, |(_, _, bytes)| bytes.len());
        self.frames.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>() + coming
    }
}

fn header_bytes(frames: &[(u8, usize)]) -> usize {
    frames.iter().map(|(kind, _)| HEADER_BYTES + 8 * extension_words(*kind, 0).unwrap()).sum()
}

#[test]
fn frames_longer_than_they_may_be_end_the_connection() {
    for (kind, len) in [(1, MAX_EAGER + 1), (4, MAX_SEGMENT + 1), (16, MAX_SEGMENT + 1), (16, 1 << 31)] {
        let (mut inbox, mut out, mut kept) = (In::default(), new_out(), Kept::default());
        let (header, _) = encode(&[(kind, 0)]);
        let mut bytes = header;
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        let ended = inbox.begin(&bytes, PeerId::new(0), &mut out, &mut kept);
        assert!(matches!(ended, Err(Ended::Misbehaved(_))), "{kind} {len}");
    }
}

#[test]
fn records_are_taken_and_others_refused() {
    let record = |kind: u8, word: u64| {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4] = kind;
        bytes[8..].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    let take =
        |bytes: &[u8]| In::default().begin(bytes, PeerId::new(0), &mut new_out(), &mut Kept::default());
    assert!(take(&record(RECORD_ACK, 0)).is_ok());
    assert!(matches!(take(&record(RECORD_ACK, 1)), Err(Ended::Misbehaved(_))), "nothing was sent");
    assert!(matches!(take(&record(RECORD_BYE, 7)), Err(Ended::Bye(7))));
    assert!(take(&record(0xf2, 5)).is_ok());
    assert!(matches!(take(&record(0xf3, 0)), Err(Ended::Misbehaved(_))));
    let mut flagged = record(RECORD_ACK, 0);
    flagged[5] = 1;
    assert!(matches!(take(&flagged), Err(Ended::Misbehaved(_))));
}

/// A message that comes between segments is answered before more of them is read.
#[test]
fn a_message_ends_the_turn_of_segments() {
    let (one, other) = pair();
    let frames: Vec<(u8, usize)> = [(Kind::Segment as u8, 20 << 10), (Kind::Eager as u8, 8)].repeat(8);
    let (bytes, meant) = encode(&frames);
    let (mut inbox, mut out, mut kept) = (In::default(), new_out(), Kept { places: true, ..Kept::default() });
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut left = bytes.as_slice();
    while kept.count() < meant.len() {
        // As much as there is room for: several segments.
        while let Moved::Bytes(len) = one.send(left) {
            left = &left[len..];
            if left.is_empty() {
                break;
            }
        }
        let before = inbox.messages();
        inbox.receive(&other, &mut scratch, PeerId::new(0), &mut out, &mut kept).unwrap();
        assert!(inbox.messages() - before <= 1, "{} messages in a turn", inbox.messages() - before);
    }
    assert!(kept.frames == meant);
}
