//! Several threads that wait for one fabric: who of them looks after the rails, and who is woken for whom.
//!
//! A thread that waits polls first, and then sleeps on a bell of its own, outside the lock of the fabric. At each moment somebody looks after
//! the rails for those who sleep:
//!
//! 1. who polls: whatever it finds for others, it rings for them. Nobody else needs to;
//! 2. else one of those who sleep, the *sentry*: it *watches*, which is to sleep on the rails as well, after they were armed, and no longer than
//!    to their next timer;
//! 3. or it *dozes*: while others come back to poll soon, it only looks for itself after a while, so that peers need not ring, and the
//!    rails are not armed for each call.
//!
//! When the lock is given back, [`Company::call`] names the thread that is to be rung for when that is not so any more: the sentry has left
//! (served, in time, or cancelled) and nobody polls; what it was armed for was taken by somebody else's polling; or a timer is due before it
//! would wake. Who was *called* is the sentry until it has come.
//!
//! All of this is under the lock. It waits for nothing and wakes nobody: it says what is to be done.

use crate::endpoint::CqId;
use crate::time::Time;

/// The number of a sleeper, and of its bell: small, and used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

impl Place {
    /// Its index among bells.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a thread does for the rails while it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: somebody else looks after them.
    Nothing,
    /// It looks again soon.
    Doze,
    /// It is woken by the rails, which have to be armed, and by their timers.
    Watch,
}

/// Who looks after the rails while nobody polls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sentry {
    #[default]
    Nobody,
    Dozes(Place),
    /// Until then at most.
    Watches(Place, Time),
    Called(Place),
}

/// Threads inside of waits.
#[derive(Debug, Default)]
pub struct Company {
    polling: u32,
    sleepers: Vec<(Place, Option<CqId>)>,
    sentry: Sentry,
    places: usize,
    free: Vec<Place>,
    /// Waits that have ended by polling,
    finds: u64,
    /// whose the last of them was,
    finder: usize,
    /// and what `finds` was when a thread last asked for its duty.
    finds_seen: u64,
}

impl Company {
    /// Whether somebody sleeps.
    #[inline(always)]
    pub fn has_sleepers(&self) -> bool {
        !self.sleepers.is_empty()
    }

    /// How many poll.
    #[inline]
    pub fn polling(&self) -> u32 {
        self.polling
    }

    /// A thread begins to poll: it comes by again before it sleeps or leaves.
    pub fn begin_polling(&mut self) {
        self.polling += 1;
    }

    /// It polls no more.
    pub fn end_polling(&mut self) {
        self.polling = self.polling.saturating_sub(1);
    }

    /// A thread, by any number of its own, has found by polling what it waited for.
    pub fn note_find(&mut self, thread: usize) {
        self.finds = self.finds.wrapping_add(1);
        self.finder = thread;
    }

    /// A place to sleep at; to be [given back](Self::give_back).
    pub fn take_place(&mut self) -> Place {
        self.free.pop().unwrap_or_else(|| {
            self.places += 1;
            Place(self.places - 1)
        })
    }

    /// Nobody sleeps at this place any more.
    pub fn give_back(&mut self, place: Place) {
        self.free.push(place);
    }

    /// As [`Self::give_back`], for the newest place, where nobody can sleep after all.
    pub fn forget(&mut self, place: Place) {
        if place.0 + 1 == self.places {
            self.places = place.0;
        } else {
            self.give_back(place);
        }
    }

    /// What a thread has to do for the rails while it sleeps. `has_dozed`: it has just ended a doze.
    pub fn duty(&mut self, thread: usize, has_dozed: bool) -> Duty {
        let found = std::mem::replace(&mut self.finds_seen, self.finds) != self.finds;
        let is_busy = self.polling > 0 || found && self.finder != thread;
        match self.sentry {
            Sentry::Watches(..) | Sentry::Called(_) => Duty::Nothing,
            // Who has just come sleeps less long than the one that dozes, and takes its place.
            Sentry::Dozes(_) if has_dozed => Duty::Nothing,
            _ if is_busy => Duty::Doze,
            _ => Duty::Watch,
        }
    }

    /// A thread falls asleep that waits for an entry of `cq` (none: for anything), with this duty, until then at most.
    pub fn fall_asleep(&mut self, place: Place, cq: Option<CqId>, duty: Duty, until: Time) {
        self.sleepers.push((place, cq));
        match duty {
            Duty::Nothing => {}
            Duty::Doze => self.sentry = Sentry::Dozes(place),
            Duty::Watch => self.sentry = Sentry::Watches(place, until),
        }
    }

    /// A thread is awake.
    pub fn wake(&mut self, place: Place) {
        self.sleepers.retain(|(of, _)| *of != place);
        match self.sentry {
            Sentry::Dozes(of) | Sentry::Watches(of, _) | Sentry::Called(of) if of == place => {
                self.sentry = Sentry::Nobody;
            }
            _ => {}
        }
    }

    /// The places to ring at, of those for whom `has_entries` says that what they wait for is there.
    pub fn served<'a>(
        &'a self,
        mut has_entries: impl FnMut(CqId) -> bool + 'a,
    ) -> impl Iterator<Item = Place> + 'a {
        let served =
            move |(place, cq): &(Place, Option<CqId>)| cq.is_some_and(&mut has_entries).then_some(*place);
        self.sleepers.iter().filter_map(served)
    }

    /// Where to ring so that the rails are looked after; to be asked whenever the lock is given back. `is_armed`: rails that were armed still are.
    /// `due`: when timers have to be looked at.
    pub fn call(
        &mut self,
        is_armed: impl FnOnce() -> bool,
        due: impl FnOnce() -> Option<Time>,
    ) -> Option<Place> {
        let called = match self.sentry {
            Sentry::Watches(place, until) if !is_armed() || due().is_some_and(|due| due < until) => place,
            // Who polls comes by here when it leaves.
            Sentry::Nobody if self.polling == 0 => self.sleepers.last()?.0,
            _ => return None,
        };
        self.sentry = Sentry::Called(called);
        Some(called)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ONE: usize = 1;
    const OTHER: usize = 2;

    fn sleeper(company: &mut Company, duty: Duty) -> Place {
        let place = company.take_place();
        company.fall_asleep(place, None, duty, Time(100));
        place
    }

    /// Who is called when rails that were armed still are, and no timer is due.
    fn called(company: &mut Company) -> Option<Place> {
        company.call(|| true, || None)
    }

    #[test]
    fn the_rails_are_not_armed_while_another_thread_finds_by_polling() {
        let mut company = Company::default();
        assert_eq!(company.duty(ONE, false), Duty::Watch, "alone");
        company.note_find(ONE);
        assert_eq!(company.duty(ONE, false), Duty::Watch, "who sleeps found it itself");
        company.note_find(OTHER);
        assert_eq!(company.duty(ONE, false), Duty::Doze);
        assert_eq!(company.duty(ONE, true), Duty::Watch, "nothing was found since");
        company.begin_polling();
        assert_eq!(company.duty(ONE, true), Duty::Doze, "another one polls");
        company.end_polling();
        assert_eq!(company.duty(ONE, true), Duty::Watch);
    }

    #[test]
    fn one_looks_after_the_rails_and_newcomers_relieve_who_dozes() {
        let mut company = Company::default();
        let first = sleeper(&mut company, Duty::Doze);
        assert_eq!(
            company.duty(ONE, false),
            Duty::Watch,
            "nothing would wake the newcomer before the doze is over"
        );
        assert_eq!(company.duty(ONE, true), Duty::Nothing, "one that dozes is enough");
        let second = sleeper(&mut company, Duty::Watch);
        company.wake(first);
        assert_eq!(
            company.duty(ONE, false),
            Duty::Nothing,
            "it was relieved, and leaves the post to the other"
        );
        assert_eq!(company.call(|| false, || None), Some(second));
        assert_eq!(company.duty(ONE, false), Duty::Nothing, "who was called comes");
    }

    #[test]
    fn the_sentry_is_called_once_when_its_arming_is_used_up() {
        let mut company = Company::default();
        let sentry = sleeper(&mut company, Duty::Watch);
        sleeper(&mut company, Duty::Nothing);
        assert_eq!(called(&mut company), None, "all is well");
        assert_eq!(company.call(|| false, || None), Some(sentry));
        assert_eq!(company.call(|| false, || None), None, "it comes");
    }

    #[test]
    fn the_sentry_is_called_when_a_timer_is_due_before_it_would_wake() {
        let mut company = Company::default();
        let sentry = sleeper(&mut company, Duty::Watch);
        assert_eq!(company.call(|| true, || Some(Time(100))), None, "it looks then");
        assert_eq!(company.call(|| true, || Some(Time(99))), Some(sentry));
    }

    #[test]
    fn another_takes_the_place_of_a_sentry_that_leaves_unless_somebody_polls() {
        let mut company = Company::default();
        let (sentry, other) = (sleeper(&mut company, Duty::Watch), sleeper(&mut company, Duty::Nothing));
        company.wake(sentry);
        company.begin_polling();
        assert_eq!(called(&mut company), None, "who polls looks after the rails");
        company.end_polling();
        assert_eq!(called(&mut company), Some(other));
        company.wake(other);
        assert_eq!(called(&mut company), None, "nobody sleeps");
        assert!(!company.has_sleepers());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::ring::bell::{Bell, Order, Ringer};
    use crate::sync::{AtomicU32, Ordering};
    use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

    /// A rail whose arming is good for one wake-up, which whoever polls may use up.
    #[derive(Default)]
    struct Fabric {
        company: Company,
        bell: Bell,
        is_armed: bool,
        /// Messages that were taken from the rail, a bit for each thread.
        taken: u32,
    }

    /// What sleepers are woken by.
    #[derive(Default)]
    struct Kernel {
        rail: bool,
        bells: [bool; 2],
    }

    struct World {
        fabric: Mutex<Fabric>,
        kernel: Mutex<Kernel>,
        woken: Condvar,
        word: AtomicU32,
        published: AtomicU32,
    }

    impl World {
        fn poll(&self, fabric: &mut Fabric) {
            let published = self.published.load(Ordering::Acquire);
            if published != fabric.taken {
                fabric.taken = published;
                // One event for one arming.
                self.kernel.lock().unwrap().rail = false;
                fabric.is_armed = false;
            }
        }

        fn give_back(&self, mut fabric: MutexGuard<'_, Fabric>) {
            let Fabric { company, is_armed, taken, .. } = &mut *fabric;
            let mut rung: Vec<usize> = (0..2).filter(|at| *taken & 1 << at != 0).collect();
            rung.extend(company.call(|| *is_armed, || None).map(Place::index));
            if !rung.is_empty() {
                let mut kernel = self.kernel.lock().unwrap();
                rung.iter().for_each(|at| kernel.bells[*at] = true);
                self.woken.notify_all();
            }
        }

        fn send(&self, ringer: &mut Ringer, message: u32) {
            self.published.fetch_or(message, Ordering::Release);
            if ringer.must_ring(&self.word, Order::Fence) {
                self.kernel.lock().unwrap().rail = true;
                self.woken.notify_all();
            }
        }

        /// Waits for the message of this thread, whose place has the same number.
        fn wait(&self, thread: usize, polls: bool) {
            let mut fabric = self.fabric.lock().unwrap();
            let mut has_dozed = false;
            if polls {
                fabric.company.begin_polling();
                self.poll(&mut fabric);
                self.give_back(fabric);
                fabric = self.fabric.lock().unwrap();
                fabric.company.end_polling();
            }
            loop {
                self.poll(&mut fabric);
                if fabric.taken & 1 << thread != 0 {
                    fabric.company.note_find(thread);
                    return self.give_back(fabric);
                }
                let duty = fabric.company.duty(thread, has_dozed);
                if duty == Duty::Watch {
                    self.kernel.lock().unwrap().rail = false;
                    fabric.bell.disarm(&self.word);
                    fabric.bell.arm(&self.word);
                    fabric.is_armed = true;
                    if self.published.load(Ordering::Acquire) != fabric.taken {
                        continue;
                    }
                }
                fabric.company.fall_asleep(Place(thread), None, duty, Time(0));
                self.give_back(fabric);
                self.sleep(thread, duty);
                fabric = self.fabric.lock().unwrap();
                fabric.company.wake(Place(thread));
                has_dozed = duty == Duty::Doze;
            }
        }

        fn sleep(&self, thread: usize, duty: Duty) {
            if duty == Duty::Doze {
                return loom::thread::yield_now();
            }
            let mut kernel = self.kernel.lock().unwrap();
            while !(kernel.bells[thread] || duty == Duty::Watch && kernel.rail) {
                kernel = self.woken.wait(kernel).unwrap();
            }
            kernel.bells[thread] = false;
        }
    }

    /// Two threads wait for a message each: loom says when one is not woken.
    fn both_are_woken(polls: [bool; 2], first: u32) {
        let mut model = loom::model::Builder::new();
        // One more takes minutes.
        model.preemption_bound = Some(2);
        model.check(move || {
            let world = Arc::new(World {
                fabric: Mutex::new(Fabric::default()),
                kernel: Mutex::new(Kernel::default()),
                woken: Condvar::new(),
                word: AtomicU32::new(0),
                published: AtomicU32::new(0),
            });
            let other = world.clone();
            let waiting = loom::thread::spawn(move || other.wait(1, polls[1]));
            let peer = world.clone();
            let sending = loom::thread::spawn(move || {
                let mut ringer = Ringer::default();
                peer.send(&mut ringer, first);
                peer.send(&mut ringer, 3 - first);
            });
            world.wait(0, polls[0]);
            waiting.join().unwrap();
            sending.join().unwrap();
        });
    }

    #[test]
    fn loom_one_of_two_sleepers_is_served_first() {
        both_are_woken([false, false], 1);
    }

    #[test]
    fn loom_one_polls_and_the_other_sleeps() {
        both_are_woken([true, false], 1);
        both_are_woken([true, false], 2);
    }
}
