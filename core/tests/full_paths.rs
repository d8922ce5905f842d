//! Several users, and a path on which enough is on its way: what waits at the sender is shared, what the path has taken is not.

use std::cell::Cell;
use std::rc::Rc;

use gridnet_core::endpoint::{CqId, SendArgs, Sent};
use gridnet_core::forward_rail;
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::mem::Iov;
use gridnet_core::rail::{LinkId, PathId, Rail};
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::{Fixture, Pair};
use gridnet_core::time::Time;
use gridnet_core::wire::Address;

const LARGE: usize = 4 << 20;

/// A rail that takes segments, but says that none had better go while the path is full.
struct Filled {
    rail: LoopbackRail,
    is_full: Rc<Cell<bool>>,
}

macro_rules! each {
    ($self:ident, $rail:ident => $call:expr) => {
        match $self {
            Filled { rail: $rail, .. } => $call,
        }
    };
}

impl Rail for Filled {
    forward_rail!(each => frames);

    fn name(&self) -> &'static str {
        self.rail.name()
    }

    fn segment_len(&self, total: u64) -> usize {
        self.rail.segment_len(total)
    }

    fn short_segment_len(&mut self, link: LinkId) -> usize {
        if self.is_full.get() {
            return 0;
        }
        self.rail.short_segment_len(link)
    }

    fn short_segment_len_on(&mut self, path: PathId) -> usize {
        self.short_segment_len(path.link)
    }

    fn disarm(&mut self) {
        self.rail.disarm();
    }
}

/// Rails that are full or not, all at a time.
struct Filling {
    rails: Loopback,
    is_full: Rc<Cell<bool>>,
}

impl Fixture for Filling {
    type Rail = Filled;

    fn rail(&mut self, address: &Address) -> Filled {
        Filled { rail: self.rails.rail(address), is_full: self.is_full.clone() }
    }

    fn tick(&mut self) -> Time {
        self.rails.tick()
    }
}

/// Large messages of so many users from `a` to `b`, which waits for all of them, while the path is full; how many have come by the
/// time that nothing happens any more, and after the path was empty again.
fn received(users: usize) -> [usize; 2] {
    let is_full = Rc::new(Cell::new(false));
    let mut pair = Pair::new(Filling { rails: Loopback::new(0, false), is_full: is_full.clone() });
    is_full.set(true);
    let receives: Vec<_> = (0..2u64).map(|tag| pair.b.receive(exactly(pair.to_a, tag), LARGE)).collect();
    let queues: Vec<_> = (0..users).map(|_| pair.a.engine().create_cq(16)).collect();
    (0..2).for_each(|tag| send_as(&mut pair, queues[tag % users], tag as u64));
    [true, false].map(|full| {
        is_full.set(full);
        pair.run_until_quiet();
        receives.iter().filter(|receive| pair.b.is_finished(**receive)).count()
    })
}

fn send_as(pair: &mut Pair<Filling>, cq: CqId, tag: u64) {
    let bytes = Vec::leak(vec![tag as u8; LARGE]);
    // SAFETY: the memory is never freed, and nobody else has it.
    let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
    let args =
        SendArgs { cq, owner: 7, context: tag, tag, immediate: None, sync: false, always_complete: true };
    let sent = pair.a.engine().send_iov(pair.to_b, &[iov], &args);
    assert!(matches!(sent, Ok(Sent::InProgress(_))));
}

#[test]
fn several_users_put_nothing_more_into_a_full_path() {
    assert_eq!(received(2), [0, 2]);
}

#[test]
fn one_user_gives_the_path_what_it_takes() {
    assert_eq!(received(1), [2, 2]);
}
