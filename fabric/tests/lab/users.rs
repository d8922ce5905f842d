//! Users of one fabric, each with a completion queue of its own, and with messages of which each has its number and its bytes.

use std::os::fd::BorrowedFd;

use gridnet::core::completion::{Completion, OpKind};
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::rail::{Armed, PeerId};
use nix::poll::{poll, PollFd, PollFlags};

use crate::common::{exactly, from_any, Buffer, Party};
use crate::cuts::linger;
use crate::hosts::Noise;

/// How long a sleep is at most: a program that sleeps has a look now and then, as the pages say.
const LONGEST_SLEEP_MS: u16 = 100;
/// Tag of the last message, which says how many there were of each user. Those of users are 0, 1, ...
const END: u64 = 1000;
/// Bits of the context of a receive that say which buffer it has; the others are the number of its message.
const SLOT_BITS: u32 = 8;

/// A user, as both sides know it.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    /// Messages under way.
    pub depth: usize,
    /// Their length, in a list as [`Noise`] wants it.
    pub len: &'static [usize],
    /// A message is over when it has come back; else when its send has ended.
    pub is_answered: bool,
}

/// A user on one side.
struct User {
    kind: Kind,
    party: Party,
    tag: u64,
    noise: Noise,
    buffers: Vec<Buffer>,
    sent: u64,
    posted: u64,
    came: u64,
}

impl User {
    /// The next message.
    fn send(&mut self, to: PeerId) {
        let bytes = self.noise.message(self.sent);
        self.sent += 1;
        let follows = self.party.send(to, bytes, self.tag, false).expect("the peer lives");
        assert!(follows || self.kind.is_answered, "a large message waits for its receiver");
    }

    fn post(&mut self, from: Source, slot: usize) {
        let context = self.posted << SLOT_BITS | slot as u64;
        self.posted += 1;
        let pattern = Pattern { source: from, tag: self.tag, ignore: 0 };
        let iov = self.buffers[slot].iov();
        self.party.enter().engine.receive(self.party.cq, &pattern, iov, context).expect("there is room");
    }

    /// A receive has ended: in the order of the messages it has been posted for this one. The buffer that is free now.
    fn check(&mut self, completion: &Completion) -> usize {
        let (number, slot) =
            (completion.context >> SLOT_BITS, completion.context as usize % (1 << SLOT_BITS));
        let (name, expected) = (self.kind.name, self.noise.message(number));
        assert_eq!((completion.tag, completion.length), (self.tag, expected.len() as u64), "{name} {number}");
        assert!(self.buffers[slot].to_vec() == expected, "{name}: message {number} is another one");
        if self.kind.is_answered {
            assert_eq!(number, self.came, "{name}: small messages end in their order");
        }
        self.came += 1;
        slot
    }
}

/// All users of one side.
pub struct Users {
    all: Vec<User>,
}

impl Users {
    /// Of the fabric of `party`; each has so many times as many receives as messages are under way.
    fn new(party: &Party, kinds: &[Kind], times: usize) -> Users {
        let user = |(tag, kind): (usize, &Kind)| User {
            kind: *kind,
            party: party.with_own_queue(),
            tag: tag as u64,
            noise: Noise::new(kind.len),
            buffers: (0..times * kind.depth).map(|_| Buffer::new(kind.len[0])).collect(),
            sent: 0,
            posted: 0,
            came: 0,
        };
        Users { all: kinds.iter().enumerate().map(user).collect() }
    }

    /// What has ended, and of which user; sleeps as a program with an event loop does until there is something.
    fn take(&self) -> Vec<(usize, Completion)> {
        let taken = self.look();
        if !taken.is_empty() || !self.arm() {
            return taken;
        }
        let descriptor = |user: &User| user.party.enter().cq_descriptor(user.party.cq).expect("it has one");
        // SAFETY: the descriptors belong to queues that are open.
        let borrow = |user| unsafe { BorrowedFd::borrow_raw(descriptor(user)) };
        let mut files: Vec<_> =
            self.all.iter().map(|user| PollFd::new(borrow(user), PollFlags::POLLIN)).collect();
        poll(&mut files, LONGEST_SLEEP_MS).expect("it may sleep");
        self.look()
    }

    fn look(&self) -> Vec<(usize, Completion)> {
        let mut taken = Vec::new();
        for (at, User { party, .. }) in self.all.iter().enumerate() {
            party.enter().take(party.cq, |completion| {
                assert_eq!(completion.status, 0);
                taken.push((at, completion));
                true
            });
        }
        taken
    }

    /// False when something has happened meanwhile.
    fn arm(&self) -> bool {
        self.all.iter().all(|User { party, .. }| party.enter().arm_cq(party.cq).unwrap() == Armed::Yes)
    }
}

pub fn is_receive(completion: &Completion) -> bool {
    completion.kind == OpKind::Receive as u32
}

/// The side that calls.
pub struct Caller {
    users: Users,
    party: Party,
    to: PeerId,
}

impl Caller {
    pub fn new(party: Party, to: PeerId, kinds: &[Kind]) -> Caller {
        Caller { users: Users::new(&party, kinds, 1), party, to }
    }

    /// Begins with as many messages of a user as it has under way; how many.
    pub fn begin(&mut self, user: usize) -> usize {
        let depth = self.users.all[user].kind.depth;
        (0..depth).for_each(|slot| self.start(user, slot));
        depth
    }

    /// A message of a user, with the buffer for its answer.
    pub fn start(&mut self, user: usize, slot: usize) {
        let user = &mut self.users.all[user];
        if user.kind.is_answered {
            user.post(Source::Peer(self.to), slot);
        }
        user.send(self.to);
    }

    /// Messages that are over: of which user, and with which buffer the next one may start.
    pub fn take(&mut self) -> Vec<(usize, usize)> {
        let mut over = Vec::new();
        for (at, completion) in self.users.take() {
            let user = &mut self.users.all[at];
            match (is_receive(&completion), user.kind.is_answered) {
                (true, _) => over.push((at, user.check(&completion))),
                (false, false) => over.push((at, 0)),
                (false, true) => {}
            }
        }
        over
    }

    /// All is over: each answer has come, once; and the other side, which is told how many messages there were, has had each of
    /// them once.
    pub fn end(self) {
        let mut counts = Vec::new();
        for User { kind, sent, came, .. } in &self.users.all {
            assert_eq!(*came, if kind.is_answered { *sent } else { 0 }, "answers of {}", kind.name);
            counts.extend(sent.to_le_bytes());
        }
        let back = Buffer::new(counts.len());
        self.party.receive(exactly(self.to, END), back).unwrap();
        self.party.send(self.to, Vec::leak(counts.clone()), END, false).unwrap();
        self.party.wait_received();
        assert_eq!(back.to_vec(), counts);
        assert_eq!(self.party.enter().engine.counters().unexpected_now, 0, "an answer came twice");
    }
}

/// The side that answers, until it is told that this is all.
pub fn answer(party: &Party, kinds: &[Kind]) {
    let mut users = Users::new(party, kinds, 2);
    for user in &mut users.all {
        (0..user.buffers.len()).for_each(|slot| user.post(Source::Any, slot));
    }
    let told = Buffer::new(8 * kinds.len());
    party.receive(from_any(END), told).unwrap();
    let mut end = None;
    while end.is_none() || users.all.iter().map(|user| user.came).ne(counts(told)) {
        for (at, completion) in users.take() {
            let user = &mut users.all[at];
            if !is_receive(&completion) {
                continue;
            }
            let slot = user.check(&completion);
            user.post(Source::Any, slot);
            if user.kind.is_answered {
                user.send(PeerId::new(completion.source));
            }
        }
        party.enter().take(party.cq, |completion| {
            end = Some(completion.source);
            true
        });
        if end.is_some() {
            let came: Vec<u64> = users.all.iter().map(|user| user.came).collect();
            assert!(
                came.iter().zip(counts(told)).all(|(came, sent)| *came <= sent),
                "{came:?} messages have come"
            );
        }
    }
    assert_eq!(party.enter().engine.counters().unexpected_now, 0, "a message came twice");
    let to = PeerId::new(end.expect("it was told"));
    party.send_buffer(to, told, END).unwrap();
    linger(party);
}

/// What the last message says.
fn counts(told: Buffer) -> impl Iterator<Item = u64> {
    let words: Vec<u64> =
        told.to_vec().chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    words.into_iter()
}
