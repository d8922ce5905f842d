//! Who waits in which call, and since when.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::sync::Ordering;
use nix::time::{clock_gettime, ClockId};
use nix::unistd::gettid;

use super::layout::WaitSlot;
use super::writer::Page;

/// A call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// gridnet_cq_wait.
    Completion = 1,
    /// gridnet_fabric_lookup.
    Lookup = 2,
    /// The progress thread.
    Progress = 3,
    /// A call on a stream or listener.
    Stream = 4,
}

impl Call {
    /// What readers say for a number.
    pub(crate) fn name(number: u64) -> &'static str {
        match number {
            1 => "gridnet_cq_wait",
            2 => "gridnet_fabric_lookup",
            3 => "progress thread",
            4 => "stream",
            _ => "unknown call",
        }
    }
}

/// A wait that the page shows as long as this lives.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// `None` without a page, or when all slots are taken.
    slot: Option<(Arc<Page>, usize)>,
}

impl Waiting {
    /// Shows that this thread waits.
    pub(crate) fn begin(page: Option<&Arc<Page>>, call: Call, timeout: Option<Duration>) -> Waiting {
        let Some(page) = page else { return Waiting { slot: None } };
        let thread = this_thread(page.process());
        let free = page.live().waits.iter().position(|slot| claim(slot, thread));
        if let Some(slot) = free.map(|index| &page.live().waits[index]) {
            slot.call.set(call as u64);
            slot.since_ns.set(now_ns());
            slot.timeout_ns
                .set(timeout.map_or(u64::MAX, |t| t.as_nanos().min(u128::from(u64::MAX) - 1) as u64));
        }
        Waiting { slot: free.map(|index| (Arc::clone(page), index)) }
    }

    /// Shows whether the thread sleeps.
    pub(crate) fn set_asleep(&self, asleep: bool) {
        if let Some((page, index)) = &self.slot {
            page.live().waits[*index].asleep.set(u64::from(asleep));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.set_asleep(false);
        if let Some((page, index)) = &self.slot {
            let slot = &page.live().waits[*index];
            slot.call.set(0);
            // Pair: `claim`. Whoever takes the slot next writes after this.
            slot.thread.store(0, Ordering::Release);
        }
    }
}

fn claim(slot: &WaitSlot, thread: u64) -> bool {
    // Acquire: the last owner's stores are over, see `Drop`.
    slot.thread.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

thread_local! {
    /// Process and number of this thread, as last asked for.
    static THREAD: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
}

/// The number of this thread, which runs in `process`. Asked for once, as that is a system call; the child of a fork is
/// another process, and asks again.
fn this_thread(process: u32) -> u64 {
    THREAD.with(|known| match known.get() {
        (home, thread) if home == process => thread,
        _ => {
            let thread = gettid().as_raw() as u64;
            known.set((process, thread));
            thread
        }
    })
}

/// CLOCK_MONOTONIC, which all processes of a host share.
pub(crate) fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| Duration::from(t).as_nanos() as u64)
}
