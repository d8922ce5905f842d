//! The doorbell between a receiver that sleeps and senders that publish: no wake-up is lost, and no word is
//! written by both sides.
//!
//! The receiver owns one word, the *arming*: odd while it sleeps or is about to, even while it polls; it only
//! grows. Senders read it after each publication and ring (write the receiver's eventfd) when it is odd and
//! other than the one they rang for last. So a sender rings at most once for each sleep, and since nobody but
//! the receiver writes the word, a late sender cannot undo a later arming (a flag that senders clear can lose
//! a wake-up that way).
//!
//! Proof obligation: sender `publish; look`, receiver `arm; recheck`. Both are a store followed by a load of
//! another location, so without more, each side may miss the other (the store-buffer litmus). One of two
//! ways closes it, agreed on when the link is made:
//!
//! * [`Order::Fence`]: the sender has a sequentially consistent fence between publication and look, the
//!   receiver one between arming and recheck. In the total order of fences one comes first, and the other
//!   side's load then sees the store before it (C++20 [atomics.order] 31.4). It costs the sender
//!   the drain of its store buffer for each message: a seventh of the message rate.
//! * [`Order::Barrier`]: the sender has a compiler fence only, and the receiver runs a process-wide memory
//!   barrier (`membarrier(2)`, GLOBAL_EXPEDITED) between arming and recheck, which acts as a full fence at some
//!   point of each running thread of every registered process. The model test below stands it in by fences.
//!
//! On aarch64 the same argument holds: it needs no property of x86.

use std::sync::atomic::compiler_fence;

use crate::sync::{fence, AtomicU32, Ordering};

/// How the sender orders its publication before its look at the arming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By a fence for each message.
    Fence,
    /// By the receiver's process-wide barrier; the sender pays nothing.
    Barrier,
}

/// The receiver's end: arms before it sleeps, disarms after.
#[derive(Debug, Default)]
pub struct Bell {
    arming: u32,
}

impl Bell {
    /// Announces the sleep in `word`. The caller then runs the barrier that its links need ([`Order`]), checks
    /// everything once more, and sleeps only if there is nothing.
    pub fn arm(&mut self, word: &AtomicU32) {
        if self.arming.is_multiple_of(2) {
            self.arming = self.arming.wrapping_add(1);
            word.store(self.arming, Ordering::Relaxed);
        }
        // Orders the arming before the recheck for senders of `Order::Fence`.
        fence(Ordering::SeqCst);
    }

    /// Announces that the receiver polls again.
    pub fn disarm(&mut self, word: &AtomicU32) {
        if self.arming % 2 == 1 {
            self.arming = self.arming.wrapping_add(1);
            word.store(self.arming, Ordering::Relaxed);
        }
    }

    /// True between [`Self::arm`] and [`Self::disarm`].
    pub fn is_armed(&self) -> bool {
        self.arming % 2 == 1
    }
}

/// A sender's end for one receiver.
#[derive(Debug, Default)]
pub struct Ringer {
    rung_for: u32,
}

impl Ringer {
    /// To be called after each publication: true when the receiver has to be woken.
    #[inline(always)]
    #[must_use]
    pub fn must_ring(&mut self, word: &AtomicU32, order: Order) -> bool {
        match order {
            Order::Fence => fence(Ordering::SeqCst),
            // The processor's part is done by the receiver; the compiler must not swap the two either.
            Order::Barrier => compiler_fence(Ordering::SeqCst),
        }
        let arming = word.load(Ordering::Relaxed);
        if arming.is_multiple_of(2) || arming == self.rung_for {
            return false;
        }
        self.rung_for = arming;
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sender_rings_once_for_each_sleep() {
        let word = AtomicU32::new(0);
        let (mut bell, mut ringer) = (Bell::default(), Ringer::default());
        assert!(!ringer.must_ring(&word, Order::Fence));
        for _ in 0..3 {
            bell.arm(&word);
            bell.arm(&word);
            assert!(ringer.must_ring(&word, Order::Fence));
            assert!(!ringer.must_ring(&word, Order::Barrier));
            bell.disarm(&word);
            assert!(!ringer.must_ring(&word, Order::Fence));
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    /// Two senders, a receiver that sleeps twice; `order` as agreed. The receiver "sleeps" by waiting for the
    /// eventfd counter to change; loom reports a deadlock when no wake-up comes.
    fn no_wakeup_is_lost(senders: u32, messages: u32) {
        loom::model(move || {
            let word = Arc::new(AtomicU32::new(0));
            let published = Arc::new(AtomicU32::new(0));
            let eventfd = Arc::new((loom::sync::Mutex::new(0u32), loom::sync::Condvar::new()));
            let threads: Vec<_> = (0..senders)
                .map(|_| {
                    let (word, published, eventfd) = (word.clone(), published.clone(), eventfd.clone());
                    loom::thread::spawn(move || {
                        let mut ringer = Ringer::default();
                        for _ in 0..messages {
                            // Relaxed: the litmus is about the look that follows, not about data.
                            published.fetch_add(1, Ordering::Relaxed);
                            if ringer.must_ring(&word, Order::Fence) {
                                *eventfd.0.lock().unwrap() += 1;
                                eventfd.1.notify_one();
                            }
                        }
                    })
                })
                .collect();
            let mut bell = Bell::default();
            let mut rings_seen = 0;
            while published.load(Ordering::Relaxed) < senders * messages {
                bell.arm(&word);
                if published.load(Ordering::Relaxed) < senders * messages {
                    let mut rings = eventfd.0.lock().unwrap();
                    while *rings == rings_seen {
                        rings = eventfd.1.wait(rings).unwrap();
                    }
                    rings_seen = *rings;
                }
                bell.disarm(&word);
            }
            for t in threads {
                t.join().unwrap();
            }
        });
    }

    #[test]
    fn loom_one_sender_two_messages() {
        no_wakeup_is_lost(1, 2);
    }

    #[test]
    fn loom_two_senders() {
        no_wakeup_is_lost(2, 1);
    }
}
