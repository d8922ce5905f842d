//! Two sides that call in any order, over a wire that keeps the order; and one side that hears anything.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::mem::{Iov, PeerBytes};
use crate::rail::{LinkId, RemoteSource};
use crate::testing::random::Random;

const PEER: PeerId = PeerId::new(0);
const SERVICE: &str = "echo";

/// What the test knows of one end of a stream.
#[derive(Debug, Default)]
struct End {
    /// Seed of the bytes that it writes; the other end's is known by `partner`.
    written: u64,
    read: u64,
    shut: bool,
    closed: bool,
    saw_end: bool,
}

/// One side: its streams, and frames on their way to the other.
struct Side {
    streams: Streams,
    ends: BTreeMap<u64, (StreamId, End)>,
    listener: Option<ListenerId>,
    line: VecDeque<Line>,
    wire: VecDeque<(Message, Vec<u8>)>,
}

impl Side {
    fn new(window: u32) -> Side {
        Side {
            streams: Streams::new(window),
            ends: BTreeMap::new(),
            listener: None,
            line: VecDeque::new(),
            wire: VecDeque::new(),
        }
    }

    fn settle(&mut self) {
        while let Some(say) = self.streams.says.pop_front() {
            match say {
                Say::Now(_, message) => self.wire.push_back((message, Vec::new())),
                Say::InLine(_, line) => self.line.push_back(line),
            }
        }
        self.streams.rings.clear();
    }

    fn move_line(&mut self) {
        if let Some(line) = self.line.pop_front() {
            let len = if matches!(line.message, Message::Bytes { .. }) { line.payload.len() } else { 0 };
            self.wire.push_back((line.message, line.payload.into_vec()));
            self.streams.left_line(line.stream, len);
        }
    }

    fn take(&mut self, (message, payload): (Message, Vec<u8>)) -> Result<(), Error> {
        let payload = PeerBytes::from_slice(&payload);
        // The other side has parsed frames, not messages.
        let parsed = crate::wire::Incoming {
            kind: message.frame(crate::mem::Gather::EMPTY).kind as u8,
            flags: 0,
            word: message.frame(crate::mem::Gather::EMPTY).word,
            extension: message.frame(crate::mem::Gather::EMPTY).extension,
            payload,
        };
        assert_eq!(Message::parse(&parsed), Ok(message));
        match message {
            Message::Bytes { stream } => self.streams.take_bytes(PEER, stream, &payload),
            Message::Stream { stream, said } => self.streams.take_said(PEER, stream, said, &payload),
            other => panic!("not of streams: {other:?}"),
        }
    }

    fn write(&mut self, id: StreamId, at: u64, len: usize, random: &mut Random) -> Result<usize, Error> {
        let room = self.streams.room(id)?;
        let len = len.min(room.most);
        let bytes: Vec<u8> = (at..at + len as u64).map(byte_at).collect();
        let in_line = !self.line.is_empty() || random.chance(0.5);
        self.streams.wrote(id, len, in_line);
        let message = Message::Bytes { stream: room.remote };
        if in_line {
            self.line.push_back(Line { stream: id, message, payload: bytes.into() });
        } else {
            self.wire.push_back((message, bytes));
        }
        Ok(len)
    }
}

/// Both directions carry the same endless text: places are told apart by a prime.
fn byte_at(place: u64) -> u8 {
    (place % 251) as u8
}

struct Test {
    sides: [Side; 2],
    /// Which end of the other side each end talks to, by the caller's number on its side.
    pairs: Vec<[Option<u64>; 2]>,
    random: Random,
    window: u32,
}

impl Test {
    fn new(seed: u64) -> Test {
        let mut random = Random::new(seed);
        let window = 1 + random.below(300) as u32;
        Test { sides: [Side::new(window), Side::new(window)], pairs: Vec::new(), random, window }
    }

    fn step(&mut self) {
        let who = self.random.below(2) as usize;
        match self.random.below(11) {
            0 => self.connect(who),
            1 => self.listen_or_not(who),
            2 => self.accept(who),
            3 | 4 => self.write(who),
            5 | 6 => self.read(who),
            7 if self.random.chance(0.2) => self.shut_down(who),
            8 if self.random.chance(0.1) => self.close(who),
            9 => self.sides[who].move_line(),
            _ => self.deliver(who),
        }
        self.sides[0].settle();
        self.sides[1].settle();
    }

    fn any_end(&mut self, who: usize) -> Option<u64> {
        let open: Vec<u64> =
            self.sides[who].ends.iter().filter(|(_, (_, e))| !e.closed).map(|(k, _)| *k).collect();
        (!open.is_empty()).then(|| self.random.pick(&open))
    }

    fn connect(&mut self, who: usize) {
        let side = &mut self.sides[who];
        if side.ends.len() < 12 {
            let id = side.streams.connect(PEER, SERVICE, Bells::default()).unwrap();
            side.ends.insert(id.0.to_bits(), (id, End::default()));
        }
    }

    fn listen_or_not(&mut self, who: usize) {
        let side = &mut self.sides[who];
        match side.listener {
            None => side.listener = Some(side.streams.listen(SERVICE, 3, Bells::default()).unwrap()),
            Some(id) if self.random.chance(0.1) => {
                side.streams.close_listener(id);
                side.listener = None;
            }
            Some(_) => assert_eq!(side.streams.listen(SERVICE, 3, Bells::default()), Err(Error::NameInUse)),
        }
    }

    fn accept(&mut self, who: usize) {
        let side = &mut self.sides[who];
        let Some(listener) = side.listener else { return };
        match side.streams.accept(listener, Bells::default()) {
            Ok((id, _)) => {
                let remote = side.streams.streams.get(id.0).unwrap().remote.unwrap();
                side.ends.insert(id.0.to_bits(), (id, End::default()));
                let mut pair = [None; 2];
                (pair[who], pair[1 - who]) = (Some(id.0.to_bits()), Some(remote));
                self.pairs.push(pair);
            }
            Err(error) => assert_eq!(error, Error::Again),
        }
    }

    fn write(&mut self, who: usize) {
        let Some(number) = self.any_end(who) else { return };
        let len = 1 + self.random.below(100) as usize;
        let side = &mut self.sides[who];
        let (id, at) = side.ends.get(&number).map(|(id, end)| (*id, end.written)).unwrap();
        match side.write(id, at, len, &mut self.random) {
            Ok(len) => side.ends.get_mut(&number).unwrap().1.written += len as u64,
            Err(error) => assert!(
                matches!(error, Error::Again | Error::Closed | Error::NotFound | Error::Limit),
                "{error:?}"
            ),
        }
    }

    fn read(&mut self, who: usize) {
        let Some(number) = self.any_end(who) else { return };
        let mut to = vec![0; 1 + self.random.below(150) as usize];
        let side = &mut self.sides[who];
        let (id, end) = side.ends.get_mut(&number).unwrap();
        let len = match side.streams.read(*id, &mut to) {
            Ok(0) => {
                end.saw_end = true;
                return self.check_end(who, number);
            }
            Ok(len) => len,
            Err(error) => return assert!(matches!(error, Error::Again | Error::NotFound | Error::Limit)),
        };
        assert!(!end.saw_end, "bytes after the end");
        assert!(to[..len].iter().enumerate().all(|(i, byte)| *byte == byte_at(end.read + i as u64)));
        end.read += len as u64;
    }

    /// The end has been read: it is behind the last byte, and somebody has ended the stream.
    fn check_end(&self, who: usize, number: u64) {
        let Some(pair) = self.pairs.iter().find(|pair| pair[who] == Some(number)) else { return };
        let (_, other) = &self.sides[1 - who].ends[&pair[1 - who].unwrap()];
        assert!(other.shut || other.closed);
        assert_eq!(self.sides[who].ends[&number].1.read, other.written, "all that was written");
    }

    fn shut_down(&mut self, who: usize) {
        let Some(number) = self.any_end(who) else { return };
        let side = &mut self.sides[who];
        let (id, end) = side.ends.get_mut(&number).unwrap();
        if side.streams.shut_down(*id).is_ok() {
            end.shut = true;
            assert_eq!(side.streams.room(*id).map(|_| ()), Err(Error::Closed));
        }
    }

    fn close(&mut self, who: usize) {
        let Some(number) = self.any_end(who) else { return };
        let side = &mut self.sides[who];
        let (id, end) = side.ends.get_mut(&number).unwrap();
        end.closed = true;
        assert!(side.streams.close(*id).is_some());
        assert_eq!(side.streams.read(*id, &mut [0]), Err(Error::Handle));
    }

    fn deliver(&mut self, who: usize) {
        if let Some(frame) = self.sides[who].wire.pop_front() {
            let taken = self.sides[1 - who].take(frame);
            assert_eq!(taken, Ok(()), "nobody misbehaves");
        }
        for one in self.sides[1 - who].streams.streams.values_mut() {
            assert!(one.waiting() <= self.window as usize, "more than a window");
        }
    }

    /// Everybody reads all there is; nothing is left on the way.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            for who in 0..2 {
                self.sides[who].move_line();
                self.sides[who].settle();
                self.deliver(who);
                self.read(who);
                self.sides[0].settle();
                self.sides[1].settle();
            }
            if self.sides.iter().all(|side| side.wire.is_empty() && side.line.is_empty()) && self.all_read() {
                return;
            }
        }
        panic!("bytes that never come");
    }

    fn all_read(&self) -> bool {
        self.pairs.iter().all(|pair| {
            let ends = [0, 1].map(|who| &self.sides[who].ends[&pair[who].unwrap()].1);
            [(0, 1), (1, 0)]
                .into_iter()
                .all(|(to, from)| ends[to].closed || ends[to].read == ends[from].written)
        })
    }
}

#[test]
fn whatever_the_order_of_calls_bytes_come_once_in_order_and_the_end_behind_them() {
    let mut bytes = 0;
    for seed in 0..300 {
        let mut test = Test::new(seed);
        (0..1500).for_each(|_| test.step());
        test.finish();
        bytes += test.sides.iter().flat_map(|s| s.ends.values()).map(|(_, end)| end.read).sum::<u64>();
    }
    assert!(bytes > 100_000, "the runs have carried {bytes} bytes");
}

/// A side with one stream that the peer has accepted as number 77, and the number of the own.
fn met(window: u32) -> (Streams, StreamId) {
    let mut streams = Streams::new(window);
    let id = streams.connect(PEER, SERVICE, Bells::default()).unwrap();
    let accept = Said::Accept { stream: 77, window: 10 };
    streams.take_said(PEER, id.0.to_bits(), accept, &PeerBytes::EMPTY).unwrap();
    streams.says.clear();
    (streams, id)
}

#[test]
fn a_peer_that_sends_more_than_it_may_is_cut_off() {
    let (mut streams, id) = met(100);
    let number = id.0.to_bits();
    let send = |streams: &mut Streams, len: usize| {
        streams.take_bytes(PEER, number, &PeerBytes::from_slice(&vec![1; len]))
    };
    assert_eq!(send(&mut streams, 0), Err(Error::PeerMisbehaved), "nothing");
    assert_eq!(send(&mut streams, 101), Err(Error::PeerMisbehaved), "more than the window");
    assert_eq!(send(&mut streams, 90), Ok(()));
    assert_eq!(send(&mut streams, 11), Err(Error::PeerMisbehaved), "more than is left");
    assert_eq!(streams.read(id, &mut [0; 24]), Ok(24));
    assert_eq!(send(&mut streams, 11), Err(Error::PeerMisbehaved), "it was not told yet");
    assert_eq!(streams.read(id, &mut [0; 1]), Ok(1));
    assert!(matches!(
        streams.says.pop_front(),
        Some(Say::Now(_, Message::Stream { stream: 77, said: Said::Credit { bytes: 25 } }))
    ));
    assert_eq!(send(&mut streams, 35), Ok(()));
}

#[test]
fn words_that_do_not_fit_cut_the_peer_off() {
    let tell = |said: Said| {
        let (mut streams, id) = met(100);
        streams.take_said(PEER, id.0.to_bits(), said, &PeerBytes::EMPTY)
    };
    assert_eq!(tell(Said::Accept { stream: 78, window: 1 }), Err(Error::PeerMisbehaved), "again");
    assert_eq!(tell(Said::Refuse { error: Error::NotFound }), Err(Error::PeerMisbehaved), "after that");
    assert_eq!(tell(Said::Credit { bytes: u32::MAX - 10 }), Ok(()));
    assert_eq!(tell(Said::Credit { bytes: u32::MAX - 9 }), Err(Error::PeerMisbehaved), "too much");
    for said in [Said::End, Said::Stop] {
        let (mut streams, id) = met(100);
        let mut tell = |peer| streams.take_said(peer, id.0.to_bits(), said, &PeerBytes::EMPTY);
        assert_eq!(tell(PeerId::new(1)), Err(Error::PeerMisbehaved), "another's stream");
        assert_eq!(tell(PEER), Ok(()));
        assert_eq!(tell(PEER), Err(Error::PeerMisbehaved), "twice");
    }
    let (mut streams, id) = met(100);
    streams.take_said(PEER, id.0.to_bits(), Said::End, &PeerBytes::EMPTY).unwrap();
    let more = streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"x"));
    assert_eq!(more, Err(Error::PeerMisbehaved), "after the end");
    let early = streams.connect(PEER, SERVICE, Bells::default()).unwrap();
    for (said, why) in
        [(Said::End, "no stream yet"), (Said::Refuse { error: Error::Again }, "would wait for ever")]
    {
        let told = streams.take_said(PEER, early.0.to_bits(), said, &PeerBytes::EMPTY);
        assert_eq!(told, Err(Error::PeerMisbehaved), "{why}");
    }
}

#[test]
fn parts_to_be_fetched_that_do_not_fit_cut_the_peer_off() {
    let source = Some(RemoteSource { rkey: 1, address: 2 });
    let misbehaved = Err(Error::PeerMisbehaved);
    let show = |streams: &mut Streams, id: StreamId| streams.take_pull(PEER, id.0.to_bits(), 1000, source);
    let (mut streams, id) = met(100);
    let early = streams.connect(PEER, SERVICE, Bells::default()).unwrap();
    assert_eq!(show(&mut streams, early), misbehaved, "no stream yet");
    assert_eq!(streams.take_pull(PeerId::new(1), id.0.to_bits(), 9, source), misbehaved, "another's stream");
    assert_eq!(streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"first")), Ok(()));
    assert_eq!(show(&mut streams, id), Ok(()));
    assert_eq!(show(&mut streams, id), misbehaved, "a second one");
    assert_eq!(
        streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"x")),
        misbehaved,
        "bytes behind it"
    );
    assert_eq!(streams.read(id, &mut [0; 9]), Ok(5));
    assert_eq!(streams.pulling(id), Some((PEER, source, 1000)));
    streams.pulled(id, Some(400));
    assert_eq!(streams.pulling(id), Some((PEER, Some(RemoteSource { rkey: 1, address: 402 }), 600)));
    streams.says.clear();
    streams.pulled(id, None);
    assert_eq!(streams.says.pop_front().and_then(said_of), Some(Said::Pulled { bytes: 400 }));
    assert_eq!(streams.take_said(PEER, id.0.to_bits(), Said::End, &PeerBytes::EMPTY), Ok(()));
    assert_eq!(show(&mut streams, id), misbehaved, "after the end");
}

#[test]
fn answers_to_what_was_not_shown_cut_the_peer_off() {
    let misbehaved = Err(Error::PeerMisbehaved);
    let exposed = (0, LinkId(1), RemoteSource { rkey: 1, address: 2 });
    let answer = |streams: &mut Streams, id: StreamId, bytes| {
        streams.take_said(PEER, id.0.to_bits(), Said::Pulled { bytes }, &PeerBytes::EMPTY)
    };
    let (mut streams, id) = met(100);
    assert_eq!(answer(&mut streams, id, 0), misbehaved, "nothing was shown");
    assert_eq!(streams.place_to_show(id, 10), None, "there is room");
    assert_eq!(streams.place_to_show(id, 11), Some((PEER, 77)));
    streams.show(id, 11, exposed);
    assert_eq!(streams.place_to_show(id, 11), None, "one at a time");
    assert_eq!(streams.room(id).map(|room| room.most), Err(Error::Again));
    assert_eq!(answer(&mut streams, id, 12), misbehaved, "more than there was");
    assert_eq!(streams.shown(id), Err(Error::Again));
    assert_eq!(answer(&mut streams, id, 5), Ok(()));
    assert_eq!((streams.concealed.pop(), streams.bytes_shown), (Some(exposed), 0));
    assert_eq!(answer(&mut streams, id, 5), misbehaved, "twice");
    assert_eq!(streams.shown(id), Ok((PEER, 5)));
    assert_eq!(streams.place_to_show(id, 11), None, "the peer cannot fetch");
    assert_eq!(streams.room(id).map(|room| room.most), Ok(10), "the rest is written");
}

#[test]
fn a_stream_that_was_closed_before_it_was_accepted_ends_at_the_peer() {
    let mut streams = Streams::new(100);
    let id = streams.connect(PEER, SERVICE, Bells::default()).unwrap();
    streams.close(id);
    streams.says.clear();
    let accept = Said::Accept { stream: 5, window: 10 };
    assert_eq!(streams.take_said(PEER, id.0.to_bits(), accept, &PeerBytes::EMPTY), Ok(()));
    let said: Vec<_> = streams
        .says
        .drain(..)
        .map(|say| match say {
            Say::Now(_, Message::Stream { stream: 5, said }) => said,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, [Said::End, Said::Stop]);
}

#[test]
fn a_stream_that_is_aborted_tells_both_sides_and_drops_what_comes() {
    let (mut streams, id) = met(100);
    streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"early")).unwrap();
    streams.rings.clear();
    streams.abort(id).unwrap();
    assert_eq!(streams.read(id, &mut [0; 8]), Err(Error::Canceled));
    assert_eq!(streams.room(id).unwrap_err(), Error::Canceled);
    let said: Vec<Said> = streams.says.drain(..).filter_map(said_of).collect();
    assert!(said.contains(&Said::End) && said.contains(&Said::Stop), "{said:?}");
    // What was on its way already is no offence, and is not kept.
    streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"late")).unwrap();
    assert_eq!(streams.read(id, &mut [0; 8]), Err(Error::Canceled));
    streams.close(id);
    assert!(streams.says.is_empty(), "said twice");
}

#[test]
fn a_stream_that_is_aborted_does_not_seem_to_have_been_read_to_its_end() {
    let (mut streams, id) = met(100);
    let nothing = PeerBytes::from_slice(&[]);
    streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"early")).unwrap();
    streams.take_said(PEER, id.0.to_bits(), Said::End, &nothing).unwrap();
    streams.abort(id).unwrap();
    assert_eq!(streams.read(id, &mut [0; 8]), Err(Error::Canceled));
}

/// Memory to lend.
fn memory_of(bytes: &mut [u8]) -> Iov {
    // SAFETY: nobody looks at the bytes before they are taken back.
    unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) }
}

#[test]
fn what_comes_goes_to_lent_memory_as_long_as_it_fits_and_in_order() {
    let (mut streams, id) = met(100);
    let come = |streams: &mut Streams, bytes: &[u8]| {
        streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(bytes)).unwrap();
    };
    let (mut memory, mut rest) = ([0; 10], [0; 30]);
    assert!(streams.lend(id, memory_of(&mut memory)));
    assert!(!streams.lend(id, memory_of(&mut rest)), "lent twice");
    come(&mut streams, b"one ");
    come(&mut streams, b"two ");
    // These have no room, and those after them must not overtake them.
    come(&mut streams, b"three ");
    come(&mut streams, b"4");
    assert_eq!(streams.take_back(id), 8);
    assert_eq!(&memory, b"one two \0\0");
    // What waits is read first.
    assert!(streams.lend(id, memory_of(&mut memory)));
    come(&mut streams, b" five");
    assert_eq!(streams.take_back(id), 0);
    assert_eq!(streams.read(id, &mut rest), Ok(12));
    assert_eq!(&rest[..12], b"three 4 five");
    assert_eq!(streams.read(id, &mut rest), Err(Error::Again));
}

#[test]
fn what_came_to_lent_memory_is_paid_back_to_the_peer_and_dropped_by_an_abort() {
    let (mut streams, id) = met(100);
    let mut memory = [0; 60];
    for _ in 0..5 {
        assert!(streams.lend(id, memory_of(&mut memory)));
        streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(&[7; 60])).unwrap();
        assert_eq!(streams.take_back(id), 60);
        let said: Vec<Said> = streams.says.drain(..).filter_map(said_of).collect();
        assert_eq!(said, [Said::Credit { bytes: 60 }]);
    }
    assert!(streams.lend(id, memory_of(&mut memory)));
    streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"early")).unwrap();
    streams.abort(id).unwrap();
    assert_eq!(streams.take_back(id), 0);
    assert_eq!(streams.read(id, &mut memory), Err(Error::Canceled));
}

#[test]
fn a_stream_that_is_aborted_before_it_was_accepted_ends_at_the_peer() {
    let mut streams = Streams::new(100);
    let id = streams.connect(PEER, SERVICE, Bells::default()).unwrap();
    streams.says.clear();
    streams.abort(id).unwrap();
    assert_eq!(streams.connected(id), Err(Error::Canceled));
    let accept = Said::Accept { stream: 9, window: 100 };
    streams.take_said(PEER, id.0.to_bits(), accept, &PeerBytes::from_slice(&[])).unwrap();
    let said: Vec<Said> = streams.says.drain(..).filter_map(said_of).collect();
    assert_eq!(said, [Said::End, Said::Stop]);
    streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"late")).unwrap();
    streams.close(id);
    assert!(streams.says.is_empty(), "said twice");
}

#[test]
fn who_waits_to_write_is_told_that_this_side_has_said_its_last() {
    let (mut streams, id) = met(100);
    // Any number will do for a queue.
    let bell = id.0;
    streams.bells(id).unwrap().output = Some(bell);
    streams.shut_down(id).unwrap();
    assert_eq!(streams.rings, [bell]);
}

fn said_of(say: Say) -> Option<Said> {
    let message = match say {
        Say::Now(_, message) => message,
        Say::InLine(_, line) => line.message,
    };
    match message {
        Message::Stream { said, .. } => Some(said),
        _ => None,
    }
}

#[test]
fn what_nobody_sells_is_refused_and_so_is_a_crowd() {
    let mut streams = Streams::new(100);
    let call = |streams: &mut Streams, name: &str| {
        let name = PeerBytes::from_slice(name.as_bytes());
        streams.take_said(PEER, 9, Said::Open { window: 1 }, &name)?;
        match streams.says.pop_front() {
            Some(Say::Now(_, Message::Stream { stream: 9, said })) => Ok(said),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(call(&mut streams, SERVICE), Ok(Said::Refuse { error: Error::NotFound }));
    assert_eq!(call(&mut streams, "a\nb"), Err(Error::PeerMisbehaved), "no name");
    let id = streams.listen(SERVICE, 2, Bells::default()).unwrap();
    for _ in 0..2 {
        assert!(matches!(call(&mut streams, SERVICE), Ok(Said::Accept { .. })));
    }
    assert_eq!(call(&mut streams, SERVICE), Ok(Said::Refuse { error: Error::Limit }));
    assert!(streams.accept(id, Bells::default()).is_ok());
    assert!(matches!(call(&mut streams, SERVICE), Ok(Said::Accept { .. })));
}

#[test]
fn what_came_is_read_before_the_error() {
    let (mut streams, id) = met(100);
    streams.take_bytes(PEER, id.0.to_bits(), &PeerBytes::from_slice(b"last")).unwrap();
    streams.peer_gone(PEER, Error::PeerGone);
    let mut to = [0; 10];
    assert_eq!(streams.read(id, &mut to), Ok(4));
    assert_eq!(streams.read(id, &mut to), Err(Error::PeerGone));
    assert_eq!(streams.room(id).map(|_| ()), Err(Error::PeerGone));
}

#[test]
fn anything_that_parses_is_taken_or_refused_within_the_bounds() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (mut streams, id) = met(1000);
        let listener = streams.listen(SERVICE, 4, Bells::default()).unwrap();
        for _ in 0..300 {
            let numbers: Vec<u64> = streams.streams.iter().map(|(key, _)| key.to_bits()).collect();
            let known = random.pick(&numbers);
            let any = random.next_u64();
            let stream = random.pick(&[known, id.0.to_bits(), any, 0, 77]);
            let bytes = random.below(400) as usize;
            let payload = random.bytes(bytes);
            let value = random.pick(&[0, 1, 400, u32::MAX]);
            let errors = Error::ALL;
            let said = match random.below(8) {
                0 => Some(Said::Open { window: value }),
                1 => Some(Said::Accept { stream, window: value }),
                2 => Some(Said::Refuse { error: random.pick(&errors) }),
                3 => Some(Said::Credit { bytes: value }),
                4 => Some(Said::End),
                5 => Some(Said::Stop),
                _ => None,
            };
            let peer = PeerId::new(random.below(2) as u32);
            let _ = match said {
                Some(said @ Said::Open { .. }) => {
                    streams.take_said(peer, stream, said, &PeerBytes::from_slice(SERVICE.as_bytes()))
                }
                Some(said) => streams.take_said(peer, stream, said, &PeerBytes::EMPTY),
                None => streams.take_bytes(peer, stream, &PeerBytes::from_slice(&payload)),
            };
            if random.chance(0.1) {
                let _ = streams.accept(listener, Bells::default());
            }
            if random.chance(0.1) && known != id.0.to_bits() {
                streams.close(StreamId(Key::from_bits(known)));
            }
            assert!(streams.streams.values_mut().all(|one| one.waiting() <= 1000));
            streams.rings.clear();
        }
    }
}
