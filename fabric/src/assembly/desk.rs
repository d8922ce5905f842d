//! What the threads that agree, and the fabric, which one thread at a time uses, lay down for each other.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridnet_assembly::call::Path;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::{Security, Stack};
use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Refusal};
use gridnet_core::sync::{AtomicU32, Ordering};
use gridnet_core::wire::{Address, NodeId, Preface};
use gridnet_meta::member::{Pending, Wanted};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::builder::Here;
use super::permits::{Direction, Permits, Try, NODES_MAX};
use super::rules_file::RulesFile;
use super::stories::Stories;
use super::{PLAIN, RELAY, TCP};

/// Somebody wants an endpoint to a node.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) node: NodeId,
    /// For what, and what it has to be.
    pub(crate) wanted: Wanted,
    pub(crate) deadline: Instant,
    pub(crate) asked_by: AskedBy,
    /// What was begun, and is to go on with this path.
    pub(crate) begun: Option<Box<(Pending, Path)>>,
}

impl Wish {
    /// The same, of which nothing was begun.
    pub(crate) fn anew(&self) -> Wish {
        Wish { wanted: self.wanted.clone(), begun: None, ..*self }
    }
}

/// Who is to hear how a wish has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AskedBy {
    /// The program, by a completion with this context and this tag.
    Program(CqId, u64, u64),
    /// Who looks for a better way than the one that there is.
    Lookout,
}

/// The fabric is to open an address.
#[derive(Debug)]
pub(crate) struct Call {
    pub(super) address: Address,
    /// What the other fabric has said of itself with it, if it has.
    pub(super) preface: Option<Preface>,
    pub(super) rail: &'static str,
    pub(super) stack: Stack,
    pub(super) security: Security,
    pub(super) deadline: Instant,
    /// Hears of the peer, and over which rail it is reached.
    pub(super) tell: Sender<Result<(PeerId, &'static str), String>>,
}

/// How a wish has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) wish: Wish,
    pub(crate) outcome: Result<PeerId, Error>,
}

/// A thread that is needed for a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    /// One that agrees. It is counted.
    Worker,
    /// One that ends those for which nobody has had time.
    Clock,
}

/// What there is for the fabric to do.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(super) calls: Vec<Call>,
    /// Endpoints that are not needed.
    pub(super) unused: Vec<PeerId>,
    pub(super) ended: Vec<Ended>,
}

/// Names a path of a connection.
type PathKey = (NodeId, u64, u16, u32);

fn key_of(to: NodeId, path: &Path) -> PathKey {
    (to, path.connection, path.attempt, path.number)
}

#[derive(Debug)]
struct State {
    here: Option<Here>,
    is_closed: bool,
    wishes: VecDeque<Wish>,
    workers: usize,
    /// A thread ends wishes that have waited for too long.
    is_timed: bool,
    work: Work,
    stood: BTreeMap<PathKey, PeerId>,
    stories: Stories,
    /// By rail, of those that are not for everybody; the rail tcp is not, where there are rules.
    permits: [(&'static str, Permits); 3],
    /// Over how many connections of the rail tcp the stack goes that was agreed on last, where it says so.
    streams: BTreeMap<NodeId, u8>,
}

impl Default for State {
    fn default() -> State {
        State {
            here: None,
            is_closed: false,
            wishes: VecDeque::new(),
            workers: 0,
            is_timed: false,
            work: Work::default(),
            stood: BTreeMap::new(),
            stories: Stories::default(),
            permits: [(RELAY, Permits::default()), (PLAIN, Permits::default()), (TCP, Permits::by_address())],
            streams: BTreeMap::new(),
        }
    }
}

impl State {
    /// Of a rail that is not for everybody.
    fn permits_of(&mut self, rail: &str) -> Option<&mut Permits> {
        self.permits.iter_mut().find(|(of, _)| *of == rail).map(|(_, permits)| permits)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    /// 1 when there is work for the fabric.
    busy: AtomicU32,
    /// Wakes who sleeps on the fabric.
    bell: EventFd,
    /// Where rules come from, if they may change.
    rules: Option<RulesFile>,
}

impl Desk {
    pub(crate) fn new() -> Result<Desk, Refusal> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Refusal::new(Error::System, format!("eventfd: {}", e.desc())))?;
        let (state, changed, busy) = (Mutex::default(), Condvar::new(), AtomicU32::new(0));
        Ok(Desk { state, changed, busy, bell, rules: None })
    }

    /// The same, for rules that come from this file, if they do.
    pub(crate) fn with_rules(self, file: Option<RulesFile>, rules: &Rules) -> Desk {
        let desk = Desk { rules: file, ..self };
        desk.go_by(rules);
        desk
    }

    /// These rules are in force: where they are not those that are built in, nobody comes by an address alone.
    pub(super) fn go_by(&self, rules: &Rules) {
        if let Some(permits) = self.lock().permits_of(TCP) {
            permits.bind(*rules != Rules::default());
        }
    }

    /// The file of rules, for people, if there is one.
    pub(crate) fn rules_path(&self) -> Option<&std::path::Path> {
        self.rules.as_ref().map(RulesFile::path)
    }

    /// Whether there is a file of rules that can be looked at where nothing may wait.
    pub(crate) fn has_rules_near(&self) -> bool {
        self.rules.as_ref().is_some_and(RulesFile::is_near)
    }

    pub(super) fn rules(&self) -> Option<&RulesFile> {
        self.rules.as_ref()
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is there is whole, whoever has panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fabric is open: this is where others connect.
    pub(crate) fn open(&self, here: Here) {
        self.lock().here = Some(here);
        self.changed.notify_all();
    }

    /// Where others connect; waits for it a moment, when the fabric is being opened.
    pub(super) fn here(&self, limit: Duration) -> Option<Here> {
        let wait = self.changed.wait_timeout_while(self.lock(), limit, |state| state.here.is_none());
        wait.unwrap_or_else(PoisonError::into_inner).0.here.clone()
    }

    /// Nobody waits for the fabric any more, and nothing is begun.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.wishes.clear();
        // Who waits for a call hears that nobody will say how it went.
        state.work = Work::default();
        self.changed.notify_all();
    }

    /// Adds a wish; which other thread is needed for it.
    pub(super) fn add(&self, wish: Wish, workers_max: usize) -> Option<Hand> {
        let mut state = self.lock();
        state.wishes.push_back(wish);
        if state.workers < workers_max {
            state.workers += 1;
            return Some(Hand::Worker);
        }
        // It may be due before the others.
        self.changed.notify_all();
        let is_timed = std::mem::replace(&mut state.is_timed, true);
        (!is_timed).then_some(Hand::Clock)
    }

    /// Wishes that have waited for too long: waits for them. None when no wish waits any more, and the clock ends.
    pub(super) fn overdue(&self) -> VecDeque<Wish> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let all = std::mem::take(&mut state.wishes).into_iter();
            let (overdue, waiting): (VecDeque<Wish>, VecDeque<Wish>) =
                all.partition(|wish| wish.deadline <= now);
            let first = waiting.iter().map(|wish| wish.deadline).min();
            state.wishes = waiting;
            if let (Some(first), true) = (first, overdue.is_empty()) {
                let woken = self.changed.wait_timeout(state, first.saturating_duration_since(now));
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.is_timed = !overdue.is_empty();
            return overdue;
        }
    }

    /// There is no thread for the clock.
    pub(super) fn not_timed(&self) {
        self.lock().is_timed = false;
    }

    /// The next wish for a thread; without one it ends, and is not counted any more.
    pub(super) fn next(&self) -> Option<Wish> {
        let mut state = self.lock();
        let next = state.wishes.pop_front();
        state.workers -= usize::from(next.is_none());
        next
    }

    /// A thread that was counted could not be started: takes the last wish back when there is no other one for it.
    pub(super) fn not_started(&self) -> Option<Wish> {
        let mut state = self.lock();
        state.workers -= 1;
        if state.workers == 0 {
            state.wishes.pop_back()
        } else {
            None
        }
    }

    /// Whether there is work for the fabric. For each round of maintenance.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        // Relaxed: what it is about is read behind the lock, and who sleeps is woken by the bell.
        self.busy.load(Ordering::Relaxed) != 0
    }

    /// Takes what there is for the fabric to do.
    pub(super) fn take(&self) -> Work {
        let mut state = self.lock();
        // Behind the lock, as it is rung: it must not ring on for work that is taken here. An error says that nobody has.
        let _ = self.bell.read();
        self.busy.store(0, Ordering::Relaxed);
        std::mem::take(&mut state.work)
    }

    /// Lays work down for the fabric, unless it is closed.
    pub(super) fn give(&self, lay: impl FnOnce(&mut Work)) {
        let mut state = self.lock();
        if !state.is_closed {
            lay(&mut state.work);
            self.busy.store(1, Ordering::Relaxed);
            // It is full only when nobody looks, and readable then.
            let _ = self.bell.write(1);
        }
    }

    /// Has the fabric look at what is being agreed on.
    pub(super) fn ring(&self) {
        self.give(|_| ());
    }

    /// Whether the fabric is open.
    pub(super) fn is_open(&self) -> bool {
        self.lock().here.is_some()
    }

    /// A path stands, by this endpoint.
    pub(super) fn stands(&self, to: NodeId, path: &Path, peer: PeerId) {
        self.lock().stood.insert(key_of(to, path), peer);
    }

    /// Takes the endpoint of a path.
    pub(super) fn take_path(&self, to: NodeId, path: &Path) -> Option<PeerId> {
        self.lock().stood.remove(&key_of(to, path))
    }

    /// A rail that is not for everybody is allowed to and from a node until then, and longer when a link comes of it: the rules of both
    /// sides have led to it.
    pub(super) fn allow(&self, rail: &str, node: NodeId, of: Try, until: Instant) {
        if let Some(permits) = self.lock().permits_of(rail) {
            permits.allow(node, of, until, Instant::now());
        }
    }

    /// A try has led to a link.
    pub(super) fn keep(&self, rail: &str, node: NodeId, of: Try) {
        if let Some(permits) = self.lock().permits_of(rail) {
            permits.keep(node, of);
        }
    }

    /// The other side has the answer to what it has asked for.
    pub(super) fn agreed(&self, rail: &str, node: NodeId, of: Try) {
        if let Some(permits) = self.lock().permits_of(rail) {
            permits.agreed(node, of);
        }
    }

    /// A try has come to nothing, or is over.
    pub(super) fn withdraw(&self, node: NodeId, of: Try) {
        self.lock().permits.iter_mut().for_each(|(_, permits)| permits.withdraw(node, of));
    }

    /// The conversation with a node is over: such rails are to be agreed on anew.
    pub(super) fn gone(&self, node: NodeId) {
        self.lock().permits.iter_mut().for_each(|(_, permits)| permits.gone(node));
    }

    /// Nobody is allowed such rails any more, but those between whom they stand.
    pub(super) fn revoke_permits(&self) {
        self.lock().permits.iter_mut().for_each(|(_, permits)| permits.revoke());
    }

    /// Whether a rail is allowed to or from a node; those that are for everybody are.
    pub(crate) fn allows(&self, rail: &str, node: NodeId, direction: Direction) -> bool {
        self.lock().permits_of(rail).is_none_or(|permits| permits.allows(node, direction, Instant::now()))
    }

    /// A link with a node has come up over a rail.
    pub(crate) fn linked(&self, rail: &str, node: NodeId) {
        if let Some(permits) = self.lock().permits_of(rail) {
            permits.linked(node, Instant::now());
        }
    }

    /// Notes over how many connections links with a node are to go from now on, if the stack that was agreed on says so.
    pub(super) fn note_streams(&self, node: NodeId, streams: Option<u8>) {
        let all = &mut self.lock().streams;
        match streams {
            Some(streams) => {
                if all.len() >= NODES_MAX && !all.contains_key(&node) {
                    all.pop_first();
                }
                all.insert(node, streams);
            }
            None => drop(all.remove(&node)),
        }
    }

    /// What was noted.
    pub(crate) fn streams(&self, node: NodeId) -> Option<u32> {
        self.lock().streams.get(&node).copied().map(u32::from)
    }

    /// Notes how an endpoint to a node came about, or why not, a line each.
    pub(super) fn tell_of(&self, node: NodeId, story: Vec<String>) {
        self.lock().stories.tell(node, story);
    }

    /// Notes that a node has asked for a stack of this rail.
    pub(super) fn tell_asked(&self, node: NodeId, rail: &'static str, line: String) {
        self.lock().stories.asked(node, rail, line);
    }

    /// What is noted of a node that is reached by this rail.
    pub(crate) fn story(&self, node: NodeId, rail: Option<&str>) -> Option<Vec<String>> {
        self.lock().stories.get(node, rail)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_bell_is_silent_when_there_is_no_work() {
        const ROUNDS: u32 = 200;
        let desk = Arc::new(Desk::new().unwrap());
        let (go, gone) = sync_channel(0);
        let other = desk.clone();
        let giver = std::thread::spawn(move || {
            for peer in gone {
                other.give(|work| work.unused.push(peer));
            }
        });
        for round in 0..ROUNDS {
            go.send(PeerId::new(round)).unwrap();
            while desk.take().unused.is_empty() {
                std::thread::yield_now();
            }
            assert!(!desk.is_busy());
            assert!(desk.bell.read().is_err(), "it rings for nothing in round {round}");
        }
        drop(go);
        giver.join().unwrap();
    }
}
