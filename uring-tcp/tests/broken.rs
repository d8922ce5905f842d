//! Connections that break: what the peer has not got is known, and handed out.

mod common;

use std::os::fd::BorrowedFd;

use common::{tls, Tcp};
use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov, PeerBytes};
use gridnet_core::rail::{Armed, LinkId, PeerId, Posted, Rail, Refusal, Sink};
use gridnet_core::testing::pair::Fixture;
use gridnet_core::testing::random::Random;
use gridnet_core::wire::{Address, Frame, Incoming, NodeId};
use gridnet_uring_tcp::{Engine, Security, TcpRail};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

#[test]
fn what_has_not_come_is_retained_whenever_the_connection_breaks() {
    is_retained_whenever_the_connection_breaks(300, &Security::Insecure);
}

#[test]
fn what_was_sealed_and_has_not_come_is_retained_too() {
    is_retained_whenever_the_connection_breaks(100, &tls());
}

fn is_retained_whenever_the_connection_breaks(rounds: u64, security: &Security) {
    for round in 0..rounds {
        let engine = if round % 2 == 0 { Engine::Auto } else { Engine::Epoll };
        let mut ends = Ends::connect(&mut Tcp { security: security.clone(), ..Tcp::new(engine) });
        let mut random = Random::new(round);
        let (mut sent, actions) = (0, random.below(60));
        for _ in 0..actions {
            match random.below(4) {
                0 | 1 => sent += u64::from(ends.caller.post(sent, random.below(8000) as usize)),
                2 => ends.called.drive(&mut ends.fixture),
                _ => ends.caller.drive(&mut ends.fixture),
            }
        }
        let (from_caller, cut) = (random.chance(0.5), random.chance(0.9));
        let end = if from_caller { &mut ends.caller } else { &mut ends.called };
        if cut {
            end.rail.cut(end.link);
        }
        ends.drive_until(cut, |ends| ends.caller.heard.broken && ends.called.heard.broken);
        if !cut {
            continue;
        }
        // Exactly what has not come is handed out, in order, and the link is fenced.
        let (caller, called) = (&mut ends.caller, &mut ends.called);
        let came = called.rail.delivered(called.link);
        assert_eq!(called.heard.tags, (0..came).collect::<Vec<_>>(), "round {round}");
        let mut missing = Vec::new();
        caller.rail.retained(caller.link, came, &mut |frame| missing.push(frame.word)).unwrap();
        assert_eq!(missing, (came..sent).collect::<Vec<_>>(), "round {round}");
        assert!(!caller.post(sent, 1));
        let beyond = caller.rail.retained(caller.link, sent + 1, &mut |_| {});
        assert_eq!(beyond, Err(Error::PeerMisbehaved));
        caller.rail.disconnect(caller.link);
        assert!(caller.rail.retained(caller.link, came, &mut |_| {}).is_err());
    }
}

#[test]
fn a_peer_that_calls_again_has_lost_its_link() {
    for security in [Security::Insecure, tls()] {
        calls_again(&mut Tcp { security, ..Tcp::new(Engine::Auto) });
    }
}

fn calls_again(fixture: &mut Tcp) {
    let mut ends = Ends::connect(fixture);
    assert!(ends.caller.post(0, 100));
    // The caller's end is gone; the called has not noticed when the next call comes.
    ends.caller.rail.cut(ends.caller.link);
    let old = ends.called.link;
    while !ends.caller.heard.broken {
        ends.caller.drive(&mut ends.fixture);
    }
    let address = ends.called.address;
    ends.caller.heard = Heard::default();
    ends.caller.link = ends.caller.rail.connect(PeerId::new(0), &address).unwrap();
    ends.drive_until(true, |ends| ends.caller.heard.up && ends.called.heard.link != Some(old));
    assert!(ends.called.heard.broken, "the old link was not fenced first");
    let came = ends.called.rail.delivered(old);
    assert_eq!(came, ends.called.heard.tags.len() as u64);
    ends.called.link = ends.called.heard.link.unwrap();
    ends.called.heard = Heard::default();
    assert!(ends.caller.post(5, 100));
    ends.drive_until(true, |ends| ends.called.heard.tags == [5]);
    assert_eq!((ends.called.rail.delivered(ends.called.link), ends.called.rail.delivered(old)), (1, came));
}

/// Two rails that are linked.
struct Ends {
    fixture: Tcp,
    caller: End,
    called: End,
}

/// One of them.
struct End {
    rail: TcpRail,
    address: Address,
    link: LinkId,
    heard: Heard,
}

impl Ends {
    fn connect(fixture: &mut Tcp) -> Ends {
        let end = |fixture: &mut Tcp, number| {
            let address = fixture.address(number);
            let rail = fixture.rail(&address);
            let address = fixture.reached_at(&rail, address);
            End { rail, address, link: LinkId(0), heard: Heard::default() }
        };
        let (mut caller, called) = (end(fixture, 1), end(fixture, 2));
        caller.link = caller.rail.connect(PeerId::new(0), &called.address).unwrap();
        let fixture = Tcp::new(fixture.engine);
        let mut ends = Ends { fixture, caller, called };
        ends.drive_until(true, |ends| ends.caller.heard.up && ends.called.heard.up);
        ends.called.link = ends.called.heard.link.unwrap();
        ends
    }

    /// One more that calls, and takes the place of the caller; the one before.
    fn add(&mut self, fixture: &mut Tcp, number: u8) -> End {
        let address = fixture.address(number);
        let rail = fixture.rail(&address);
        let mut end = End { rail, address, link: LinkId(0), heard: Heard::default() };
        end.link = end.rail.connect(PeerId::new(0), &self.called.address).unwrap();
        self.called.heard.up = false;
        let before = std::mem::replace(&mut self.caller, end);
        self.drive_until(true, |ends| ends.caller.heard.up && ends.called.heard.up);
        before
    }

    /// Drives both until `done`, which must come about if it `must`.
    fn drive_until(&mut self, must: bool, done: impl Fn(&Ends) -> bool) {
        for _ in 0..if must { 2_000_000 } else { 100 } {
            if done(self) {
                return;
            }
            self.caller.drive(&mut self.fixture);
            self.called.drive(&mut self.fixture);
        }
        assert!(!must, "it does not come about");
    }
}

impl End {
    fn post(&mut self, tag: u64, len: usize) -> bool {
        let mut bytes = vec![tag as u8; len];
        // SAFETY: the vector outlives the call; the rail keeps no memory.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), len) };
        self.rail.post(self.link, &Frame::eager(tag, Gather::one(&iov))) == Posted::Done
    }

    fn drive(&mut self, fixture: &mut Tcp) {
        self.rail.maintain(fixture.tick(), &mut self.heard);
        self.rail.poll(64, &mut self.heard);
    }
}

/// What a rail has said.
#[derive(Default)]
struct Heard {
    link: Option<LinkId>,
    up: bool,
    broken: bool,
    tags: Vec<u64>,
}

impl Sink for Heard {
    fn message(&mut self, _: PeerId, tag: u64, payload: PeerBytes<'_>) {
        assert!(!self.broken, "a frame came through a link that is over");
        assert!(payload.to_vec().iter().all(|byte| *byte == tag as u8));
        self.tags.push(tag);
    }

    fn frame(&mut self, _: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        panic!("nobody has sent a frame of kind {}", frame.kind);
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        false
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, link: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        self.link = Some(link);
        Ok(PeerId::new(0))
    }

    fn up(&mut self, _: PeerId) {
        self.up = true;
    }

    fn down(&mut self, _: PeerId, _: LinkId, reason: Refusal) {
        panic!("the link is over: {}", reason.reason);
    }

    fn broken(&mut self, _: PeerId, _: LinkId, _: Refusal) {
        self.broken = true;
    }
}

#[test]
fn whoever_posts_and_never_calls_again_is_heard() {
    for (engine, security) in [Engine::Auto, Engine::Epoll].into_iter().zip([Security::Insecure, tls()]) {
        let mut ends = Ends::connect(&mut Tcp { security, ..Tcp::new(engine) });
        for burst in 1..6 {
            // Within one round of polling: the first leaves at once, the others wait for company.
            let first = burst * 100;
            (first..first + burst * 20).for_each(|tag| assert!(ends.caller.post(tag, 10)));
            let start = std::time::Instant::now();
            while ends.called.heard.tags.len() < burst as usize * 20 {
                ends.called.drive(&mut ends.fixture);
                assert!(start.elapsed().as_secs() < 20, "what was posted does not leave by itself");
            }
            assert_eq!(ends.called.heard.tags, (first..first + burst * 20).collect::<Vec<_>>());
            ends.called.heard.tags.clear();
        }
    }
}

#[test]
fn what_has_come_and_was_not_taken_keeps_its_owner_awake() {
    for (engine, security) in
        [(Engine::Auto, tls()), (Engine::Epoll, tls()), (Engine::Auto, Security::Insecure)]
    {
        // Alone, and beside as many others as are read in each round.
        for others in [0, 8] {
            let mut fixture = Tcp { security: security.clone(), ..Tcp::new(engine) };
            let mut ends = Ends::connect(&mut fixture);
            let crowd: Vec<End> = (0..others).map(|number| ends.add(&mut fixture, 10 + number)).collect();
            // Nobody falls asleep just after a call has come.
            (0..200).for_each(|_| ends.called.drive(&mut fixture));
            take_bursts(&mut ends, &mut fixture);
            drop(crowd);
        }
    }
}

/// A connection that nothing has come over for long is looked at by somebody who waits for it: what that look left is not forgotten.
#[test]
fn a_cold_connection_that_was_read_in_part_is_looked_at_again() {
    for engine in [Engine::Auto, Engine::Epoll] {
        let mut fixture = Tcp { security: tls(), ..Tcp::new(engine) };
        let mut ends = Ends::connect(&mut fixture);
        let link = ends.called.heard.link.expect("they are linked");
        for count in 17..24 {
            let called = &mut ends.called;
            called.heard.tags.clear();
            for _ in 0..10_000 {
                called.rail.poll(64, &mut called.heard);
            }
            (0..count).for_each(|tag| assert!(ends.caller.post(tag, 900)));
            (0..4).for_each(|_| ends.caller.drive(&mut fixture));
            let start = std::time::Instant::now();
            while called.heard.tags.is_empty() {
                called.rail.poll_link(link, 64, &mut called.heard);
                assert!(start.elapsed().as_secs() < 20, "nothing comes");
            }
            while called.heard.tags.len() < count as usize {
                if called.rail.arm() == Armed::Yes {
                    assert!(is_woken(&called.rail), "asleep after {} of {count}", called.heard.tags.len());
                }
                called.rail.disarm();
                called.rail.poll(64, &mut called.heard);
            }
        }
    }
}

/// All of a burst is on its way before anything is read: more than is read at once, in records of any length.
fn take_bursts(ends: &mut Ends, fixture: &mut Tcp) {
    let mut tag = 0;
    for burst in 1..40 {
        for _ in 0..burst {
            assert!(ends.caller.post(tag, 900));
            tag += 1;
            if tag % 3 == 0 {
                ends.caller.drive(fixture);
            }
        }
        (0..4).for_each(|_| ends.caller.drive(fixture));
        let called = &mut ends.called;
        while called.heard.tags.len() < tag as usize {
            // In its turn, or because somebody waits for this one.
            match called.heard.link.filter(|_| burst % 2 == 0) {
                Some(link) => called.rail.poll_link(link, 64, &mut called.heard),
                None => called.rail.poll(64, &mut called.heard),
            };
            if called.heard.tags.len() < tag as usize && called.rail.arm() == Armed::Yes {
                assert!(is_woken(&called.rail), "asleep after {} of {tag}", called.heard.tags.len());
            }
            called.rail.disarm();
            called.rail.maintain(fixture.tick(), &mut called.heard);
        }
    }
}

/// Whether the descriptor of a rail that is armed gets readable.
fn is_woken(rail: &TcpRail) -> bool {
    let fd = rail.wait_handle().expect("it has one");
    // SAFETY: the rail keeps the descriptor open, and lives longer than this borrows it.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut waits = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut waits, PollTimeout::from(10_000u16)).is_ok_and(|count| count > 0)
}
