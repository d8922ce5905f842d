//! Loans between processes that are killed: what the dead held comes back, what they lent stays readable, and nothing of
//! them is left when that was given back.

mod common;

use std::path::Path;
use std::ptr::NonNull;

use common::process::{descriptors, mappings, role, start};
use common::{exactly, from_any, Buffer, Party, Scratch, PATIENCE, SEND};
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::loan::{Lent, LentSlot};
use gridnet::core::rail::PeerId;
use gridnet::core::testing::loans::read;
use gridnet::core::testing::random::Random;
use gridnet::ThreadLevel;

/// How often a peer is killed.
const ROUNDS: &str = "TEST_KILL_ROUNDS";
const LEN: usize = 20_000;
/// From the peer to the survivor, and back.
const THERE: u64 = 2;
const BACK: u64 = 4;
/// Loans that each side keeps for a while.
const KEPT: usize = 6;

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    match role() {
        Some((role, dir)) if role == "lend" => lend(&dir),
        Some((role, _)) => panic!("unknown role {role}"),
        None => {}
    }
}

#[test]
fn loans_survive_whoever_is_killed() {
    let rounds = std::env::var(ROUNDS).map_or(30, |text| text.parse().expect("a number"));
    let scratch = Scratch::new();
    let survivor = Party::open(&scratch.0, Some("survivor"), ThreadLevel::Single, &[]);
    let mut baseline = None;
    for round in 0..rounds {
        survive(&survivor, &scratch.0, &mut Random::new(round));
        assert_eq!(survivor.enter().engine.loans(), 0, "after round {round}");
        survivor.settle();
        // The first round has opened whatever is opened once.
        let now = (descriptors(), mappings());
        assert_eq!(*baseline.get_or_insert(now), now, "after round {round}");
    }
}

/// Loans in both directions, until the peer is killed at some point.
fn survive(party: &Party, dir: &Path, random: &mut Random) {
    party.receive(from_any(1), Buffer::new(8)).unwrap();
    let mut peer = start("lend", dir);
    let source = PeerId::new(party.wait_received().source);
    let mut side = Side::new(party, source);
    let before_kill = random.below(300) as usize;
    while side.received < before_kill {
        side.receive(THERE).expect("the peer lives");
        side.send(BACK);
        side.take_completion().expect("the peer lives");
    }
    peer.kill();
    // What the dead had sent is in the store: it is read, too. Then the survivor hears of the death.
    let mut known = false;
    while !known {
        known = side.receive(THERE).is_err();
        side.send(BACK);
        while side.pending > 0 {
            let _ = side.take_completion();
        }
    }
    for lent in std::mem::take(&mut side.kept) {
        check(&lent);
        party.enter().engine.give_back(lent.loan).expect("it was received");
        assert_eq!(party.enter().engine.give_back(lent.loan), Err(Error::Handle));
    }
}

/// The peer: sends and receives loans until it is killed.
fn lend(dir: &Path) {
    let party = Party::open(dir, None, ThreadLevel::Single, &[]);
    let address = party.shared.lookup("survivor", Some(PATIENCE)).expect("the survivor is there");
    let peer = party.connect(&address);
    println!("the peer is ready");
    let mut side = Side::new(&party, peer);
    side.pending += usize::from(party.send(peer, b"hello", 1, false).expect("the survivor lives"));
    loop {
        side.send(THERE);
        // The survivor has gone when it is refused, or what was posted fails.
        if side.receive(BACK).is_err() || side.take_completion().is_err() {
            return;
        }
    }
}

/// One end of the traffic.
struct Side<'a> {
    party: &'a Party,
    peer: PeerId,
    /// Where receives write what they got, when no receive uses them.
    places: Vec<NonNull<Lent>>,
    kept: Vec<Lent>,
    pending: usize,
    received: usize,
    sent: u64,
}

impl<'a> Side<'a> {
    fn new(party: &'a Party, peer: PeerId) -> Side<'a> {
        Side { party, peer, places: Vec::new(), kept: Vec::new(), pending: 0, received: 0, sent: 0 }
    }

    fn receive(&mut self, tag: u64) -> Result<(), Error> {
        let place = self.places.pop().unwrap_or_else(|| NonNull::from(Box::leak(Box::new(Lent::NONE))));
        // SAFETY: the place is never freed, and used by one receive at a time.
        let slot = unsafe { LentSlot::new(place) };
        let (cq, context) = (self.party.cq, place.as_ptr() as u64);
        let posted = self.party.enter().engine.receive_loan(cq, &exactly(self.peer, tag), slot, context);
        match posted {
            Ok(_) => self.pending += 1,
            Err(_) => self.places.push(place),
        }
        posted.map(drop)
    }

    /// Sends a loan, of which every third is kept by a second handle for a moment; without memory or peer, nothing.
    fn send(&mut self, tag: u64) {
        let args = SendArgs {
            cq: self.party.cq,
            owner: 0,
            context: SEND,
            tag,
            immediate: None,
            sync: false,
            always_complete: false,
        };
        let mut guard = self.party.enter();
        let Ok((loan, base)) = guard.engine.take_loan(LEN) else { return };
        self.sent += 1;
        // SAFETY: the loan has as many bytes, and is ours alone.
        unsafe { std::ptr::write_bytes(base.as_ptr(), self.sent as u8, LEN) };
        let keep = self.sent.is_multiple_of(3);
        let sent = guard.engine.send_loan(self.peer, loan, LEN, keep, &args);
        self.pending += usize::from(matches!(sent, Ok(Sent::InProgress(_))));
        if keep || sent.is_err() {
            guard.engine.give_back(loan).expect("it is ours");
        }
    }

    fn take_completion(&mut self) -> Result<(), Error> {
        let Completion { context, status, .. } = self.party.wait(PATIENCE)?;
        self.pending -= 1;
        if context == SEND {
            // A receive is posted besides.
            return if status == 0 { self.take_completion() } else { Err(Error::PeerGone) };
        }
        let place = NonNull::new(context as *mut Lent).expect("the context of a receive is its place");
        // SAFETY: one of `places`, whose receive has completed.
        let lent = unsafe { place.read() };
        self.places.push(place);
        if status != 0 {
            assert_eq!(status, Error::PeerGone.code());
            return Err(Error::PeerGone);
        }
        self.received += 1;
        check(&lent);
        self.kept.push(lent);
        if self.kept.len() > KEPT {
            let old = self.kept.remove(self.received % KEPT);
            check(&old);
            self.party.enter().engine.give_back(old.loan).expect("it was received");
        }
        Ok(())
    }
}

/// Every byte of a loan is the same.
fn check(lent: &Lent) {
    let bytes = read(lent);
    assert_eq!(bytes.len(), LEN);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a loan changed while it was read");
}
