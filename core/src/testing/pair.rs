//! Two nodes over two rails, driven step by step.

use super::node::{Node, Outcome, Ticket};
use super::random::Random;
use crate::endpoint::Limits;
use crate::rail::{PeerId, Rail};
use crate::time::Time;
use crate::wire::{Address, NetAddresses, NodeId};

/// Where rails of one kind can be had, and how time passes there.
pub trait Fixture {
    /// The rail.
    type Rail: Rail;

    /// Opens a rail for the fabric at `address`. Rails of one fixture reach one another.
    fn rail(&mut self, address: &Address) -> Self::Rail;

    /// Opens all rails for the fabric at `address`, in order of preference.
    fn rails(&mut self, address: &Address) -> Vec<Self::Rail> {
        vec![self.rail(address)]
    }

    /// Address by which others reach the fabric at `address` over its rail.
    fn reached_at(&self, rail: &Self::Rail, address: Address) -> Address {
        let _ = rail;
        address
    }

    /// Lets time pass, on rails in virtual time; returns the time.
    fn tick(&mut self) -> Time;

    /// Number of steps without an event after which none will come.
    fn quiet_steps(&self) -> usize {
        64
    }

    /// Number of such steps after which something that has to come is given up: more, where a busy machine lets it wait.
    fn patience(&self) -> usize {
        self.quiet_steps()
    }

    /// Most messages that can still arrive from a peer after it was told to stop, when it is driven after every
    /// [`BURST`] sends: what is on its way, and what it sends until it hears.
    fn overshoot(&self) -> usize {
        1024
    }

    /// How often a test of chance repeats itself, of `all` times: fewer, where each takes long.
    fn times(&self, all: u64) -> u64 {
        all
    }

    /// User id of the addresses that rails accept.
    fn uid(&self) -> u32 {
        0
    }

    /// Address of the node of this number.
    fn address(&self, number: u8) -> Address {
        address_of(number, self.uid())
    }

    /// User id under which each engine believes to run. When it is another, all peers count as another user's.
    fn own_uid(&self) -> u32 {
        self.uid()
    }
}

/// A fixture whose links can be broken. Its rails retain.
pub trait Cutting: Fixture {
    /// Breaks the link between two nodes, if there is one: of what is under way in each direction some still arrives, and each
    /// side notices at once or later, as the dice say. The rails are those of the two nodes.
    fn cut(&mut self, rails: [&mut Self::Rail; 2], between: [NodeId; 2], random: &mut Random);

    /// Whether what a cut loses is up to the dice alone. Where a kernel has its say, some runs lose nothing.
    fn is_exact(&self) -> bool {
        true
    }
}

/// Sends between two steps that [`Fixture::overshoot`] counts on.
pub const BURST: usize = 16;

/// Bounds of a test.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Limits of each engine.
    pub limits: Limits,
    /// Capacity of each completion queue.
    pub cq_capacity: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { limits: Limits::default(), cq_capacity: 1 << 18 }
    }
}

/// Most steps of one wait. A million steps move more frames than any test sends.
const MAX_STEPS: usize = 1_000_000;

/// Two nodes.
#[derive(Debug)]
pub struct Pair<F: Fixture> {
    /// The one that calls.
    pub a: Node<F::Rail>,
    /// The one that is called.
    pub b: Node<F::Rail>,
    /// What `a` calls `b`.
    pub to_b: PeerId,
    /// What `b` calls `a`.
    pub to_a: PeerId,
    /// The fixture, for further nodes.
    pub fixture: F,
}

impl<F: Fixture> Pair<F> {
    /// Two connected nodes with default bounds.
    pub fn new(fixture: F) -> Pair<F> {
        Pair::with(fixture, Setup::default())
    }

    /// Two connected nodes.
    ///
    /// # Panics
    /// When no connection comes about.
    pub fn with(fixture: F, setup: Setup) -> Pair<F> {
        let mut pair = Pair::strangers(fixture, setup);
        pair.meet();
        pair
    }

    /// Connects `a` to `b`.
    ///
    /// # Panics
    /// When no connection comes about.
    pub fn meet(&mut self) {
        let (address_a, address_b) = (*self.a.address(), *self.b.address());
        self.to_b = self.a.engine().open(&address_b).expect("the rail leads to its peer");
        // A message that was matched: both sides are up.
        let ping = self.a.send(self.to_b, b"", u64::MAX);
        let received = self.b.receive(super::node::from_any(u64::MAX), 0);
        let outcome = self.finish_b(received);
        let source = outcome.completion.expect("receives have completions").source;
        self.finish_a(ping);
        self.to_a = PeerId::new(source);
        assert_eq!(self.b.peer_of(address_a.node), Some(self.to_a));
    }

    /// Two nodes that do not know each other yet: the numbers of peers mean nothing.
    pub fn strangers(mut fixture: F, setup: Setup) -> Pair<F> {
        let a = new_node(&mut fixture, 1, setup);
        let b = new_node(&mut fixture, 2, setup);
        Pair { a, b, to_b: PeerId::new(u32::MAX), to_a: PeerId::new(u32::MAX), fixture }
    }

    /// A further node, which nobody drives but the caller.
    pub fn stranger(&mut self, number: u8, setup: Setup) -> Node<F::Rail> {
        new_node(&mut self.fixture, number, setup)
    }

    /// A rail for a further node, without an engine.
    pub fn open_rail(&mut self, number: u8) -> F::Rail {
        let address = self.fixture.address(number);
        self.fixture.rail(&address)
    }

    /// Whether loans go without a copy: not to other users.
    pub fn lends(&mut self) -> bool {
        self.fixture.own_uid() == self.fixture.uid() && self.a.engine().rails()[0].capabilities().loans
    }

    /// One step of time and of both nodes; returns how much happened.
    pub fn step(&mut self) -> usize {
        let now = self.fixture.tick();
        self.a.drive(now) + self.b.drive(now)
    }

    /// Runs so many steps.
    pub fn run_steps(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Runs until `done`; false when nothing happens any more before.
    #[must_use = "what was waited for may not have come"]
    pub fn run_until(&mut self, done: impl FnMut(&mut Self) -> bool) -> bool {
        self.run(self.fixture.patience(), done)
    }

    /// Runs until nothing happens any more.
    pub fn run_until_quiet(&mut self) {
        self.run(self.fixture.quiet_steps(), |_| false);
    }

    fn run(&mut self, most_idle: usize, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let (mut idle, mut busy) = (0, 0);
        while busy < MAX_STEPS {
            if done(self) {
                return true;
            }
            if self.step() > 0 {
                (idle, busy) = (0, busy + 1);
                continue;
            }
            idle += 1;
            if idle > most_idle {
                return done(self);
            }
        }
        panic!("no end after {MAX_STEPS} steps in which something happened");
    }

    /// Runs until an operation of `a` has ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish_a(&mut self, ticket: Ticket) -> Outcome {
        let done = self.run_until(|pair| pair.a.is_finished(ticket));
        assert!(done, "operation {ticket:?} of a does not end");
        self.a.take(ticket).expect("it has ended")
    }

    /// Runs until an operation of `b` has ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish_b(&mut self, ticket: Ticket) -> Outcome {
        let done = self.run_until(|pair| pair.b.is_finished(ticket));
        assert!(done, "operation {ticket:?} of b does not end");
        self.b.take(ticket).expect("it has ended")
    }
}

impl<F: Cutting> Pair<F> {
    /// Breaks the link between the two, if there is one.
    pub fn cut(&mut self, random: &mut Random) {
        let between = [self.a.address().node, self.b.address().node];
        let rails = [&mut self.a, &mut self.b].map(|node| &mut node.engine().rails_mut()[0]);
        self.fixture.cut(rails, between, random);
    }
}

/// The address of the node of this number.
pub fn address_of(number: u8, uid: u32) -> Address {
    let node = NodeId::new([number; 16]).expect("node numbers begin with 1");
    Address { uid, host: 1, node, incarnation: 1, network: NetAddresses::NONE }
}

fn new_node<F: Fixture>(fixture: &mut F, number: u8, setup: Setup) -> Node<F::Rail> {
    let address = fixture.address(number);
    let rails = fixture.rails(&address);
    let address = rails.iter().fold(address, |address, rail| fixture.reached_at(rail, address));
    let local = Address { uid: fixture.own_uid(), ..address };
    Node::over(local, rails, setup.limits, setup.cq_capacity).known_as(address)
}
