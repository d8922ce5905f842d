//! Rails of another fixture, with faults.

use super::{FaultPlan, Faulty};
use crate::testing::pair::{Cutting, Fixture};
use crate::testing::random::Random;
use crate::time::Time;
use crate::wire::{Address, NodeId};

/// What wraps each rail of a fixture in a [`Faulty`].
#[derive(Debug)]
pub struct Faults<F> {
    inner: F,
    plan: FaultPlan,
    opened: u64,
}

impl<F> Faults<F> {
    /// Rails of `inner` with these faults. No two of them throw the same dice.
    pub fn new(inner: F, plan: FaultPlan) -> Faults<F> {
        Faults { inner, plan, opened: 0 }
    }

    /// Calls, each after a longer pause, until one is not refused for sure.
    fn calls(&self) -> usize {
        if self.plan.refuse > 0.0 {
            4
        } else {
            1
        }
    }

    /// Polls for which something may be held back or not be heard.
    fn pause(&self) -> usize {
        2 * (self.plan.delay_polls + self.plan.deaf_polls) as usize
    }
}

impl<F: Fixture> Fixture for Faults<F> {
    type Rail = Faulty<F::Rail>;

    fn rail(&mut self, address: &Address) -> Self::Rail {
        self.opened += 1;
        let plan = FaultPlan { seed: self.plan.seed ^ self.opened << 32, ..self.plan };
        Faulty::new(self.inner.rail(address), plan)
    }

    fn reached_at(&self, rail: &Self::Rail, address: Address) -> Address {
        self.inner.reached_at(&rail.inner, address)
    }

    fn tick(&mut self) -> Time {
        self.inner.tick()
    }

    fn quiet_steps(&self) -> usize {
        self.calls() * self.inner.quiet_steps() + 16 + 4 * self.pause()
    }

    fn patience(&self) -> usize {
        self.calls() * self.inner.patience() + 16 + 4 * self.pause()
    }

    fn overshoot(&self) -> usize {
        // What is held back, or comes while nobody listens, is beside what is on its way.
        self.inner.overshoot() + 256 + 64 * self.pause()
    }

    fn times(&self, all: u64) -> u64 {
        self.inner.times(all)
    }

    fn uid(&self) -> u32 {
        self.inner.uid()
    }

    fn address(&self, number: u8) -> Address {
        self.inner.address(number)
    }

    fn own_uid(&self) -> u32 {
        self.inner.own_uid()
    }
}

impl<F: Cutting> Cutting for Faults<F> {
    /// In turn as the rail inside breaks, and by a loss on either side.
    fn cut(&mut self, [a, b]: [&mut Self::Rail; 2], between: [NodeId; 2], random: &mut Random) {
        match random.below(4) {
            0 => a.lose_link_with(between[1]),
            1 => b.lose_link_with(between[0]),
            _ => self.inner.cut([&mut a.inner, &mut b.inner], between, random),
        }
    }

    fn is_exact(&self) -> bool {
        self.inner.is_exact()
    }
}
