//! Who talks to the victim all the while, and has to notice nothing.

use gridnet_core::endpoint::PeerState;
use gridnet_core::rail::PeerId;
use gridnet_core::region::Access;
use gridnet_core::stream::{ListenerId, StreamId};
use gridnet_core::testing::node::{exactly, from_any, Ticket};
use gridnet_core::testing::pair::Pair;
use gridnet_core::testing::random::Random;
use gridnet_core::wire::Address;

use crate::common::Tcp;
use crate::forge::{Forge, Memory};
use crate::land::Land;
use crate::talk::{Side, SERVICE};
use crate::tap::Tap;

/// Messages and puts under way at a time, in bytes each.
const LEN: usize = 40_000;
/// Steps until what was said arrives. More than the ten of a round, at whose start the forger hears what there is to be named: so
/// the same can be named in several rounds.
const LAG: u64 = 30;
/// Most operations under way.
const MOST: usize = 10;
/// The tags of a friend are its own.
const TAGS: u64 = 1 << 40;

/// An operation of the victim's or the friend's, with what a receive or get has to hold.
type Expected = (Ticket, Option<Vec<u8>>);

/// The second node of the pair.
pub struct Friend {
    /// Passes on what it says and hears, as it is.
    tap: Tap,
    land: Land,
    /// How the victim reaches it.
    side: Side,
    at_victim: Vec<Expected>,
    at_friend: Vec<Expected>,
    next: u64,
    streams: [StreamId; 2],
    /// Bytes written and read by the friend.
    written: u64,
    read: u64,
    steps: u64,
}

impl Friend {
    /// Has the victim call it.
    pub fn new(pair: &mut Pair<Tcp>, listener: ListenerId) -> Friend {
        let address = *pair.b.address();
        let at = address.network.iter().next().expect("it listens");
        let mut tap = Tap::new(at, false, Forge::new(0));
        pair.to_b = pair.a.engine().open(&Address { network: tap.at(), ..address }).expect("the call starts");
        let send = pair.a.send(pair.to_b, b"", TAGS);
        let receive = pair.b.receive(from_any(TAGS), 0);
        let has_come = pair.run_until(|pair| {
            tap.pump();
            pair.a.is_finished(send) && pair.b.is_finished(receive)
        });
        assert!(has_come, "they do not meet");
        pair.a.take(send);
        let completion = pair.b.take(receive).and_then(|outcome| outcome.completion);
        pair.to_a = PeerId::new(completion.expect("of a receive").source);
        let land = Land::of(&mut pair.b, LEN, Access::ALL, 0);
        let key = land.key(&mut pair.b);
        let side = Side::new(&mut pair.a, pair.to_b, &[key], LEN);
        let (far, _) = pair.b.engine().stream_connect(pair.to_a, SERVICE).expect("the peer is there");
        let mut near = None;
        let is_open = pair.run_until(|pair| {
            tap.pump();
            near = near.or_else(|| pair.a.engine().stream_accept(listener).ok().map(|(id, ..)| id));
            near.is_some() && pair.b.engine().stream_connected(far).is_ok()
        });
        let near = near.filter(|_| is_open).expect("it is accepted");
        let (at_victim, at_friend) = (Vec::new(), Vec::new());
        Friend {
            tap,
            land,
            side,
            at_victim,
            at_friend,
            next: TAGS,
            streams: [near, far],
            written: 0,
            read: 0,
            steps: 0,
        }
    }

    /// Starts something, unless enough is under way.
    pub fn talk(&mut self, pair: &mut Pair<Tcp>, random: &mut Random) {
        self.settle(pair);
        if self.at_victim.len() + self.at_friend.len() > MOST {
            return;
        }
        self.next += 1;
        let bytes = Random::new(self.next).bytes(random.pick(&[20, 5000, LEN, LEN]));
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        match random.below(3) {
            0 => {
                let receive = pair.a.receive(exactly(to_b, self.next), bytes.len());
                self.at_friend.push((pair.b.send(to_a, &bytes, self.next), None));
                self.at_victim.push((receive, Some(bytes)));
            }
            1 => {
                let receive = pair.b.receive(exactly(to_a, self.next), bytes.len());
                self.at_victim.push((pair.a.send(to_b, &bytes, self.next), None));
                self.at_friend.push((receive, Some(bytes)));
            }
            _ => {
                let rkey = self.side.rkeys[0];
                let put = pair.a.put(to_b, rkey, 0, &bytes).expect("the peer is there");
                self.at_victim.push((put, None));
                let get = pair.a.get(to_b, rkey, 0, bytes.len()).expect("the peer is there");
                self.at_victim.push((get, Some(bytes)));
            }
        }
    }

    /// What the victim said to it last.
    pub fn overheard(&self) -> Memory {
        self.tap.forge.heard.clone()
    }

    /// Sends bytes through the victim, which returns them.
    pub fn go_on(&mut self, pair: &mut Pair<Tcp>) {
        self.steps += 1;
        if self.steps.is_multiple_of(LAG) {
            self.tap.pump();
        }
        let [near, far] = self.streams;
        let mut buffer = [0; 2000];
        if let Ok(len) = pair.a.engine().stream_read(near, &mut buffer) {
            let returned =
                pair.a.engine().stream_write(near, &buffer[..len]).expect("there is room for as much");
            assert_eq!(returned, len, "no more is under way than there is room for");
        }
        if let Ok(len) = pair.b.engine().stream_read(far, &mut buffer) {
            for byte in &buffer[..len] {
                assert_eq!(*byte, self.read as u8, "byte {} of a stream", self.read);
                self.read += 1;
            }
        }
        if self.written - self.read < 4000 {
            let more: Vec<u8> = (self.written..).take(500).map(|at| at as u8).collect();
            self.written += pair.b.engine().stream_write(far, &more).expect("it is open") as u64;
        }
    }

    /// Takes what has ended.
    fn settle(&mut self, pair: &mut Pair<Tcp>) {
        for (node, expected) in [(&mut pair.a, &mut self.at_victim), (&mut pair.b, &mut self.at_friend)] {
            expected.retain(|(ticket, bytes)| {
                let Some(outcome) = node.take(*ticket) else { return true };
                assert_eq!(outcome.status, Ok(()), "the friend is disturbed: {ticket:?} {outcome:?}");
                assert!(
                    bytes.as_ref().is_none_or(|bytes| *bytes == outcome.bytes),
                    "bytes of the friend differ"
                );
                false
            });
        }
    }

    /// All that is under way ends well.
    pub fn check(&mut self, pair: &mut Pair<Tcp>) {
        let is_over = pair.run_until(|pair| {
            self.tap.pump();
            self.settle(pair);
            self.at_victim.is_empty() && self.at_friend.is_empty()
        });
        assert!(is_over, "operations of the friend do not end");
        let read = self.read;
        let goes_on = pair.run_until(|pair| {
            self.go_on(pair);
            self.read > read
        });
        assert!(goes_on, "the friend's stream is stuck");
        let to_b = pair.to_b;
        assert_eq!(pair.a.state(to_b), PeerState::Up);
        self.land.check();
    }
}
