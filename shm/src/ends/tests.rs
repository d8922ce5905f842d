//! Links that end while others go on, between rails of one process.

use super::*;
use crate::open::{open_rail, Open, Scratch};
use gridnet_core::mem::Gather;
use gridnet_core::rail::{PeerId, Posted, Rail};
use gridnet_core::time::Time;
use gridnet_core::wire::Frame;

/// Whom the caller calls each time.
const PEER: PeerId = PeerId::new(0);

/// Two rails, and what they say.
struct Two {
    caller: ShmRail,
    called: ShmRail,
    heard: [Open; 2],
    _dir: Scratch,
}

impl Two {
    fn new(name: &str) -> Two {
        let dir = Scratch::new(name);
        let (caller, called) = (open_rail(&dir.0, 1), open_rail(&dir.0, 2));
        let heard = [Open { keeps: true, ..Open::default() }, Open::default()];
        Two { caller, called, heard, _dir: dir }
    }

    fn call(&mut self) -> LinkId {
        let address = self.called.config.local;
        self.caller.connect(PEER, &address).unwrap()
    }

    fn run(&mut self) {
        for _ in 0..1000 {
            for (rail, heard) in [&mut self.called, &mut self.caller].into_iter().zip(&mut self.heard) {
                rail.maintain(Time(0), heard);
                rail.poll(8, heard);
            }
        }
    }

    /// A new link, the same for both.
    fn link(&mut self) -> LinkId {
        let link = self.call();
        let before = self.heard[0].up;
        self.run();
        assert_eq!(self.heard[0].up, before + 1);
        link
    }

    /// The called side is sent a loan, which it keeps.
    fn lend(&mut self, link: LinkId) {
        let memory = self.caller.lend(64).unwrap();
        assert_eq!(self.caller.post_loan(link, 1, [7, memory.position, 64]), Posted::Done);
        self.run();
    }

    fn older(&self, link: LinkId) -> usize {
        self.called.links[link.0 as usize].live.as_ref().map_or(0, Live::older)
    }
}

#[test]
fn who_is_refused_has_never_had_a_link() {
    let mut two = Two::new("refused");
    let free = two.called.arena.in_use();
    two.heard[0].refuses = true;
    two.call();
    two.run();
    assert_eq!((two.heard[1].up, two.heard[0].up), (0, 0));
    assert!(two.called.links.is_empty());
    assert_eq!(two.called.arena.in_use(), free);
}

/// A peer that takes a link back for which it has no use is not gone.
#[test]
fn a_link_that_is_refused_late_is_broken() {
    let mut two = Two::new("late");
    let link = two.link();
    let stream = two.called.links[0].socket.as_ref().unwrap();
    socket::send_reject(stream, &Refusal::new(Error::InUse, "another link counts")).unwrap();
    two.caller.maintain(Time(0), &mut two.heard[1]);
    assert_eq!(two.heard[1].down, [Error::Unreachable]);
    assert!(two.caller.links[link.0 as usize].kept.is_some());
}

#[test]
fn what_is_retained_does_not_depend_on_the_memory_of_the_peer() {
    let mut two = Two::new("retained");
    let link = two.link();
    assert_eq!(two.caller.post(link, &Frame::eager(1, Gather::EMPTY)), Posted::Done);
    two.caller.fence(link);
    // The peer has given its end back, and something else is there now.
    // SAFETY: the rail lives as long as the test.
    let scribbler = unsafe { two.called.scribbler() };
    let block = two.called.blocks().next().unwrap();
    scribbler.scribble(block, u64::MAX / 3);
    let mut frames = 0;
    assert_eq!(two.caller.retained(link, 0, &mut |_| frames += 1), Ok(()));
    assert_eq!(frames, 1);
}

/// One loan is read on and on, while links break: only the segment that it lies in stays mapped.
#[test]
fn links_that_break_do_not_pile_up_behind_a_loan() {
    let mut two = Two::new("pile");
    let link = two.link();
    two.lend(link);
    let mut last = link;
    for _ in 0..5 {
        two.caller.fence(last);
        two.called.fence(last);
        last = two.link();
        assert_eq!(two.older(last), 1);
    }
    two.called.release_loan(last);
    assert_eq!(two.older(last), 0);
}

/// A link is dropped that was never broken, and another made: the program still reads what came over the first.
#[test]
fn a_loan_outlives_a_link_that_is_given_back_at_once() {
    let mut two = Two::new("outlives");
    let link = two.link();
    two.lend(link);
    two.called.disconnect(link);
    two.run();
    assert!(two.called.links[0].read.is_some());
    let next = two.link();
    assert_eq!((two.older(next), two.called.links[0].read.is_some()), (1, false));
}

/// A call that another has made superfluous is dropped before it was answered: its maker lives.
#[test]
fn a_call_that_is_dropped_is_not_the_end_of_the_caller() {
    let mut two = Two::new("dropped");
    let link = two.call();
    two.caller.fence(link);
    two.caller.disconnect(link);
    two.run();
    assert_eq!((two.heard[0].up, two.heard[0].down.as_slice()), (1, [Error::Unreachable].as_slice()));
}
