//! Random operations between two nodes, against a list searched from the front.

use std::collections::BTreeMap;

use super::loans::read;
use super::loopback::Loopback;
use super::node::{Node, SendOptions, Ticket};
use super::pair::{Fixture, Pair};
use super::random::Random;
use crate::error::Error;
use crate::matching::{Key, Pattern, Source};
use crate::rail::PeerId;

/// Room of a receive whose message is lent.
const LENT: usize = usize::MAX;

#[derive(Debug, Clone)]
struct Message {
    send: Ticket,
    tag: u64,
    bytes: Vec<u8>,
    options: SendOptions,
    /// The send ends only when its message is received.
    waits: bool,
}

#[derive(Debug)]
struct Posted {
    receive: Ticket,
    pattern: Pattern,
    room: usize,
}

/// What one side has posted and what has come for it.
#[derive(Debug, Default)]
struct Inbox {
    posted: Vec<Posted>,
    arrived: Vec<Message>,
    held: Vec<(Key, Message)>,
    /// What receives have to end with.
    expected: BTreeMap<Ticket, (Result<Message, Error>, usize)>,
    /// What sends to this side have to end with; those that are missing have to be pending.
    sends: BTreeMap<Ticket, Result<(), Error>>,
}

impl Inbox {
    fn arrive(&mut self, source: PeerId, message: Message) {
        if !message.waits {
            self.sends.insert(message.send, Ok(()));
        }
        match self.posted.iter().position(|p| p.pattern.accepts(source, message.tag)) {
            Some(at) => {
                let Posted { receive, room, .. } = self.posted.remove(at);
                self.deliver(receive, room, message);
            }
            None => self.arrived.push(message),
        }
    }

    fn post(&mut self, source: PeerId, posted: Posted) {
        match self.arrived.iter().position(|m| posted.pattern.accepts(source, m.tag)) {
            Some(at) => {
                let message = self.arrived.remove(at);
                self.deliver(posted.receive, posted.room, message);
            }
            None => self.posted.push(posted),
        }
    }

    fn deliver(&mut self, receive: Ticket, room: usize, message: Message) {
        self.sends.entry(message.send).or_insert(Ok(()));
        self.expected.insert(receive, (Ok(message), room));
    }
}

/// A pair with the model of both sides: of what `a` receives, and of what `b` receives.
#[derive(Debug)]
pub struct Run {
    pair: Pair<Loopback>,
    inboxes: [Inbox; 2],
    random: Random,
    eager_max: usize,
}

impl Run {
    /// Two connected nodes over loopback; `random` decides what happens, and whether the rail can fetch.
    ///
    /// # Panics
    /// When no connection comes about.
    pub fn new(mut random: Random) -> Run {
        let fixture = Loopback::new(random.pick(&[0, 0, 3_000]), random.chance(0.5));
        let pair = Pair::new(fixture);
        Run { pair, inboxes: Default::default(), random, eager_max: 8192 }
    }

    /// True when whatever decided has nothing left to decide.
    pub fn is_out_of_script(&self) -> bool {
        self.random.is_out_of_script()
    }

    /// One operation of one side, or a few steps of both.
    ///
    /// # Panics
    /// When an answer is not that of the model.
    pub fn act(&mut self) {
        let at = self.random.below(2) as usize;
        match self.random.below(100) {
            0..35 => self.send(at),
            35..65 => self.post(at),
            65..80 => {
                let steps = self.random.below(6) as usize;
                self.pair.run_steps(steps);
            }
            80..85 => self.probe(at),
            85..90 => self.hold(at),
            90..94 => self.receive_held(at),
            94..97 => self.cancel_receive(at),
            _ => self.cancel_send(at),
        }
    }

    /// Sends to the side `at`.
    fn send(&mut self, at: usize) {
        let len = match self.random.below(8) {
            0..5 => self.random.below(100) as usize,
            5 => self.random.below(10_000) as usize,
            _ => self.random.below(200_000) as usize,
        };
        let bytes = self.random.bytes(len);
        let tag = self.random.below(5);
        let options = SendOptions {
            immediate: self.random.chance(0.2).then(|| self.random.next_u64()),
            sync: self.random.chance(0.2),
            always_complete: self.random.chance(0.2),
        };
        let middle = self.random.below(len as u64 + 1) as usize;
        let cut = self.random.chance(0.3);
        let lent = self.random.chance(0.3);
        let (sender, peer, _) = self.sides(at);
        let (head, tail) = bytes.split_at(if cut { middle } else { 0 });
        let pieces = if cut { vec![head, tail] } else { vec![&bytes[..]] };
        let send = match lent && options == SendOptions::default() {
            // Matched as any message; over this rail it is copied as any, too.
            true => sender.send_as_loan(peer, &bytes, tag),
            false => sender.send_with(peer, &pieces, tag, options).expect("nothing is full"),
        };
        let waits = options.sync || len > self.eager_max;
        let source = self.source(at);
        self.inboxes[at].arrive(source, Message { send, tag, bytes, options, waits });
    }

    fn post(&mut self, at: usize) {
        let pattern = self.pattern(at);
        let room = match self.random.below(4) {
            0 => self.random.below(100) as usize,
            _ => 200_000,
        };
        // What is lent has all the room it needs.
        let lent = self.random.chance(0.2);
        let room = if lent { LENT } else { room };
        let (_, _, receiver) = self.sides(at);
        let receive = if lent { receiver.receive_loan(pattern) } else { receiver.receive(pattern, room) };
        let source = self.source(at);
        self.inboxes[at].post(source, Posted { receive, pattern, room });
    }

    fn probe(&mut self, at: usize) {
        self.pair.run_until_quiet();
        let (pattern, source) = (self.pattern(at), self.source(at));
        let (_, _, receiver) = self.sides(at);
        let found = receiver.engine().probe(&pattern).map(|probe| (probe.tag, probe.len, probe.immediate));
        let first = self.inboxes[at].arrived.iter().find(|m| pattern.accepts(source, m.tag));
        assert_eq!(found, first.map(|m| (m.tag, m.bytes.len() as u64, m.options.immediate)));
    }

    fn hold(&mut self, at: usize) {
        self.pair.run_until_quiet();
        let (pattern, source) = (self.pattern(at), self.source(at));
        let (_, _, receiver) = self.sides(at);
        let found = receiver.engine().matched_probe(&pattern);
        let inbox = &mut self.inboxes[at];
        let first = inbox.arrived.iter().position(|m| pattern.accepts(source, m.tag));
        assert_eq!(found.is_some(), first.is_some());
        if let (Some((probe, key)), Some(first)) = (found, first) {
            let message = inbox.arrived.remove(first);
            assert_eq!((probe.tag, probe.len), (message.tag, message.bytes.len() as u64));
            inbox.held.push((key, message));
        }
    }

    fn receive_held(&mut self, at: usize) {
        let Some((key, message)) = self.inboxes[at].held.pop() else {
            return;
        };
        let (_, _, receiver) = self.sides(at);
        let receive = receiver.receive_held(key, 200_000).expect("the message is held");
        self.inboxes[at].deliver(receive, 200_000, message);
    }

    fn cancel_receive(&mut self, at: usize) {
        self.pair.run_until_quiet();
        let waiting = self.inboxes[at].posted.len() as u64;
        if waiting == 0 {
            return;
        }
        let place = self.random.below(waiting) as usize;
        if self.inboxes[at].posted[place].room == LENT {
            // Nodes post these the shortest way, which gives them no number.
            return;
        }
        let Posted { receive, room, .. } = self.inboxes[at].posted.remove(place);
        let (_, _, receiver) = self.sides(at);
        receiver.cancel(receive).expect("the receive waits");
        self.inboxes[at].expected.insert(receive, (Err(Error::Canceled), room));
    }

    /// Cancels a send whose message waits at the other side: a large one is never received then, one that went whole
    /// is.
    fn cancel_send(&mut self, at: usize) {
        self.pair.run_until_quiet();
        let inbox = &self.inboxes[at];
        let waiting = inbox.arrived.iter().filter(|m| m.waits && !inbox.sends.contains_key(&m.send));
        let candidates: Vec<_> = waiting.map(|m| m.send).collect();
        if candidates.is_empty() {
            return;
        }
        let send = self.random.pick(&candidates);
        let (sender, ..) = self.sides(at);
        sender.cancel(send).expect("the send waits");
        let eager_max = self.eager_max;
        let inbox = &mut self.inboxes[at];
        inbox.sends.insert(send, Err(Error::Canceled));
        if let Some(message) = inbox.arrived.iter_mut().find(|m| m.send == send && m.bytes.len() > eager_max)
        {
            message.waits = false;
        }
    }

    /// Everything has ended that must have, as it must have, and nothing else.
    ///
    /// # Panics
    /// When it has not.
    pub fn check(&mut self) {
        self.pair.run_until_quiet();
        for at in 0..2 {
            let inbox = std::mem::take(&mut self.inboxes[at]);
            let cancelled: Vec<Ticket> =
                inbox.sends.iter().filter(|(_, end)| end.is_err()).map(|(send, _)| *send).collect();
            for (receive, (message, room)) in &inbox.expected {
                self.check_receive(at, *receive, message, *room, &cancelled);
            }
            let (sender, _, receiver) = self.sides(at);
            for posted in &inbox.posted {
                assert!(!receiver.is_finished(posted.receive), "{posted:?} ended without a message");
            }
            for (send, end) in &inbox.sends {
                let outcome = sender.take(*send).unwrap_or_else(|| panic!("send {send:?} does not end"));
                assert_eq!(outcome.status, *end);
            }
            let waiting = inbox.arrived.iter().chain(inbox.held.iter().map(|(_, m)| m));
            for message in waiting.filter(|m| m.waits && !inbox.sends.contains_key(&m.send)) {
                assert!(!sender.is_finished(message.send), "send {:?} ended without a match", message.send);
            }
        }
    }

    fn check_receive(
        &mut self,
        at: usize,
        receive: Ticket,
        message: &Result<Message, Error>,
        room: usize,
        cancelled: &[Ticket],
    ) {
        let eager_max = self.eager_max;
        let (_, _, receiver) = self.sides(at);
        let outcome = receiver.take(receive).unwrap_or_else(|| panic!("receive {receive:?} does not end"));
        let message = match message {
            Ok(message) if cancelled.contains(&message.send) && message.bytes.len() > eager_max => {
                // With room for nothing there is nothing to ask the sender for.
                let ends = if room == 0 { Error::Truncated } else { Error::Canceled };
                return assert_eq!(outcome.status, Err(ends));
            }
            Ok(message) => message,
            Err(error) => return assert_eq!(outcome.status, Err(*error)),
        };
        let fits = message.bytes.len() <= room;
        assert_eq!(outcome.status, if fits { Ok(()) } else { Err(Error::Truncated) });
        let completion = outcome.completion.expect("receives have completions");
        assert_eq!((completion.tag, completion.length), (message.tag, message.bytes.len() as u64));
        let immediate = (completion.flags & 1 != 0).then_some(completion.immediate);
        assert_eq!(immediate, message.options.immediate);
        let len = message.bytes.len().min(room);
        let bytes = match outcome.lent {
            Some(lent) => {
                let bytes = read(&lent);
                receiver.engine().give_back(lent.loan).expect("it was received");
                bytes
            }
            None => outcome.bytes,
        };
        assert!(bytes[..len] == message.bytes[..len], "{len} bytes differ");
    }

    /// Sender, what it calls the receiver, and the receiver of what goes to side `at`.
    fn sides(&mut self, at: usize) -> (&mut TestNode, PeerId, &mut TestNode) {
        let Pair { a, b, to_a, to_b, .. } = &mut self.pair;
        match at {
            0 => (b, *to_a, a),
            _ => (a, *to_b, b),
        }
    }

    /// What the receiver at `at` calls the sender.
    fn source(&self, at: usize) -> PeerId {
        [self.pair.to_b, self.pair.to_a][at]
    }

    fn pattern(&mut self, at: usize) -> Pattern {
        let source = if self.random.chance(0.3) { Source::Any } else { Source::Peer(self.source(at)) };
        Pattern { source, tag: self.random.below(5), ignore: self.random.pick(&[0, 0, 0, 1, 2, u64::MAX]) }
    }
}

type TestNode = Node<<Loopback as Fixture>::Rail>;
