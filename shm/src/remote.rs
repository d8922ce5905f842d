//! Regions on this rail: own ones shown to peers, and peers' reached without them.
//!
//! Each own region has a record in the own segment, which peers map read-only: whether it lives, where it is, how long, with
//! which rights. Allocated regions lie in the heap, which peers map writable: they store and load there. Registered ones
//! are reached by `process_vm_readv` and `process_vm_writev`, where the system allows it. Either way an access is
//! announced (`gridnet_core::region::Watch`), so that the owner can end a region and know that nobody is inside.

use std::time::{Duration, Instant};

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{Lent, Offered, Refusal};
use gridnet_core::region::{check_bounds, Access, RemoteKey, Watch, Window, PART};
use gridnet_core::sync::AtomicU64;
use gridnet_core::sync::{fence, relax, Ordering};

use crate::barrier;
use crate::heap::{room_for_heap, OwnHeap, PeerHeap};
use crate::layout::{Record, RecordPlace, RECORD_WORDS};
use crate::process::{Process, Reach, Way};
use crate::rail::{Link, ShmRail};
use crate::socket::{self, Packet};
use crate::stopped::may_be_held_up;

/// How long the end of a fabric waits for peers in the middle of an access to its program's memory.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long a peer may be inside of a region that has ended, if nobody holds it up. An access that is announced is a copy of
/// at most [`PART`] bytes: some ten thousand times less.
const LONGEST_ACCESS: Duration = Duration::from_secs(10);

/// The record of an own region.
#[derive(Debug)]
pub(crate) struct OwnRecord {
    /// Its position in lines.
    line: u32,
    /// When the region was ended first, if somebody was inside.
    ended: Option<Instant>,
}

impl ShmRail {
    /// Memory for a region, from the heap, which is made at the first time.
    pub(crate) fn allocate_region(&mut self, len: usize, numa_node: u32) -> Result<Lent, Refusal> {
        if self.heap.is_none() {
            self.heap = Some(OwnHeap::create(self.config.heap_size, self.config.huge_pages)?);
            for index in 0..self.links.len() {
                self.show_heap_to(index as u32);
            }
        }
        match &mut self.heap {
            Some(heap) => heap.allocate(len, numa_node),
            None => Err(Refusal::new(Error::Internal, "the heap has gone")),
        }
    }

    /// Hands the heap to the peer of a live link. A key travels later than this, so who has the key has the heap.
    pub(crate) fn show_heap_to(&self, index: u32) {
        let Some(link) = self.links.get(index as usize) else { return };
        if link.pair.is_some() {
            return;
        }
        if let (Some(heap), Some(stream), Some(_)) = (&self.heap, &link.socket, &link.live) {
            let sent = socket::send_heap(stream, heap.file());
            kill_point!("region.heap");
            if let Err(refusal) = sent {
                // The peer's operations go by messages.
                tracing::debug!(reason = %refusal.reason, "heap not handed over");
            }
        }
    }

    /// The peer of a live link has handed its heap over.
    pub(crate) fn take_heap(&mut self, index: u32, file: &std::os::fd::OwnedFd) -> Result<(), Refusal> {
        let mapped = self.links.iter().filter_map(|link| Some(link.live.as_ref()?.heap()?.len())).sum();
        let most = room_for_heap(self.config.heap_size, mapped);
        let Some(live) = self.links.get_mut(index as usize).and_then(|link| link.live.as_mut()) else {
            return Ok(());
        };
        if live.heap().is_some() {
            return Err(Refusal::new(Error::PeerMisbehaved, "second heap on a link"));
        }
        match PeerHeap::map(file, most) {
            Ok(heap) => {
                live.set_heap(heap);
                kill_point!("region.mapped");
            }
            // No room in the address space: operations go by messages.
            Err(refusal) if refusal.error == Error::Limit => {
                tracing::warn!(reason = %refusal.reason, "peer's heap not mapped");
            }
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    /// Enters a region into a record; its position.
    pub(crate) fn enter_record(&mut self, region: &Offered) -> Result<u64, Refusal> {
        let place = match region.token {
            Some(token) => self.heap.as_ref().and_then(|heap| heap.offset_of(token)).map(RecordPlace::Heap),
            None if region.may_fault => Some(RecordPlace::Address(region.base as u64)),
            // Memory that another rail has lent.
            None => None,
        };
        let Some(place) = place else { return Ok(0) };
        let Offered { number, len, access, .. } = *region;
        let line = self.arena.take_record()?;
        let words = self.arena.segment().words(line);
        let record = Record { number, place, len, access };
        for (word, value) in words.iter().zip(record.words()) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: who finds the number finds the rest (`record_of`).
        words[0].store(number, Ordering::Release);
        self.records.insert(number, OwnRecord { line, ended: None });
        Ok(u64::from(line))
    }

    /// Ends a region; false while a peer is inside, which is to be asked again. A peer that does not come out is cut off.
    pub(crate) fn end_record(&mut self, number: u64) -> bool {
        let Some(record) = self.records.get_mut(&number) else { return true };
        let line = record.line;
        let ended = *record.ended.get_or_insert_with(Instant::now);
        self.arena.segment().words(line)[0].store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // For peers that announce without a fence. Should it fail (forbidden since it was tried at opening), nobody knows
        // who is inside.
        if self.needs_barrier() && !barrier::run() {
            return false;
        }
        if self.is_anybody_inside(number, ended) {
            return false;
        }
        self.records.remove(&number);
        self.arena.give_record(line);
        true
    }

    /// Whether a peer is inside of a region that was ended then, and may come out.
    fn is_anybody_inside(&mut self, number: u64, ended: Instant) -> bool {
        let mut inside = (0u32..).zip(&self.links).filter(|(_, link)| is_inside(link, number)).peekable();
        if inside.peek().is_none() || ended.elapsed() < LONGEST_ACCESS {
            return inside.peek().is_some();
        }
        let (held_up, lying): (Vec<_>, Vec<_>) = inside.partition(|(_, link)| {
            link.socket.as_ref().is_none_or(|stream| may_be_held_up(socket::peer_pid(stream)))
        });
        let waits = !held_up.is_empty();
        let lying: Vec<u32> = lying.into_iter().map(|(index, _)| index).collect();
        for index in lying {
            let why = "the peer stays inside of a region that has ended";
            self.broken.push((index, Refusal::new(Error::PeerMisbehaved, why)));
        }
        waits
    }

    /// The fabric ends, and with it the promise that registered memory stays: peers in the middle of an access are waited
    /// for, for a while.
    pub(crate) fn end_all_records(&mut self) {
        let numbers: Vec<u64> = self.records.keys().copied().collect();
        if numbers.is_empty() {
            return;
        }
        // All at once: who stays inside of one region keeps nobody else in the others.
        for record in self.records.values() {
            self.arena.segment().words(record.line)[0].store(0, Ordering::Relaxed);
        }
        let end = Instant::now() + END_PATIENCE;
        for number in numbers {
            while !self.end_record(number) {
                if Instant::now() >= end {
                    tracing::warn!(
                        "a peer is in the middle of an access to a region of a fabric that closes"
                    );
                    return;
                }
                relax();
            }
        }
    }

    /// A window over a region of a peer's heap.
    pub(crate) fn open_window(&mut self, index: u32, key: &RemoteKey) -> Option<Window> {
        let link = self.links.get(index as usize).filter(|link| link.pair.is_none())?;
        let record = record_of(link.live.as_ref()?.segment().words(key.hint)?, key.number)?;
        let RecordPlace::Heap(offset) = record.place else { return None };
        self.hear_of_heap(index);
        let live = self.links.get(index as usize)?.live.as_ref()?;
        let words = live.segment().words(key.hint)?;
        let heap = live.heap()?;
        let base = heap.bytes(offset, record.len)?;
        // SAFETY: inside the peer's heap (checked), which the window keeps mapped, and which nobody borrows.
        Some(unsafe {
            let watch = live.watch(key.number, &words[0]);
            Window::new(base, record.len, record.access, watch, heap.clone())
        })
    }

    /// Takes the heap off the socket of a link, if that is what is there: it was sent before the key was.
    fn hear_of_heap(&mut self, index: u32) {
        let Some(link) = self.links.get(index as usize) else { return };
        let (Some(stream), Some(live)) = (&link.socket, &link.live) else { return };
        if live.heap().is_some() || !socket::is_heap_next(stream) {
            return;
        }
        if let Ok(Packet::Heap(file)) = socket::receive(stream) {
            if let Err(refusal) = self.take_heap(index, &file) {
                tracing::warn!(reason = %refusal.reason, "peer's heap refused");
            }
        }
    }

    /// Copies between `here` and a peer's registered memory; `None` when that is out of reach.
    pub(crate) fn copy(
        &mut self,
        index: u32,
        key: &RemoteKey,
        offset: u64,
        way: Way,
        here: &Iov,
    ) -> Option<Result<(), Error>> {
        let link = self.links.get_mut(index as usize).filter(|link| link.pair.is_none())?;
        let pid = link.reach()?;
        let live = link.live.as_ref()?;
        let words = live.segment().words(key.hint)?;
        let record = record_of(words, key.number)?;
        let RecordPlace::Address(base) = record.place else { return None };
        let right = if way == Way::Out { Access::REMOTE_WRITE } else { Access::REMOTE_READ };
        if !record.access.allows(right) {
            return Some(Err(Error::Access));
        }
        let offset = record.access.offset_of(offset, base);
        let process = Process::new(pid, live.segment().header());
        let watch = live.watch(key.number, &words[0]);
        let done = check_bounds(offset, here.len(), record.len).and_then(|()| {
            copy_in_parts(&watch, (words, record), &process, way, here, base.wrapping_add(offset))
        });
        if let Err(error) = done {
            link.give_up_reach(error);
        }
        (link.reach != Reach::No).then_some(done)
    }
}

impl Link {
    /// The number of the peer's process, once it was made sure that memory there is the peer's.
    pub(crate) fn reach(&mut self) -> Option<i32> {
        if self.reach == Reach::Unknown {
            self.reach = self.try_reach().map_or(Reach::No, Reach::Process);
        }
        match self.reach {
            Reach::Process(pid) => Some(pid),
            Reach::Unknown | Reach::No => None,
        }
    }

    fn try_reach(&self) -> Option<i32> {
        let (stream, live) = (self.socket.as_ref()?, self.live.as_ref()?);
        let pid = Some(socket::peer_pid(stream)).filter(|pid| *pid > 0)?;
        Process::new(pid, live.segment().header()).look().is_ok().then_some(pid)
    }

    /// After an access has failed. What is forbidden now will not be allowed later; and where another program is, the link
    /// will soon be over. Until then, and if it is not, everything goes by messages.
    pub(crate) fn give_up_reach(&mut self, error: Error) {
        if matches!(error, Error::Permission | Error::NotFound) {
            self.reach = Reach::No;
        }
    }
}

/// Copies between `here` and the address `there` of a process. Each part is announced by itself, so that the end of the
/// region has to wait for no more than one. In each the record, which stays as it is then, is read again: an owner that has chosen a
/// number may have registered other memory under it, and have got the same line.
fn copy_in_parts(
    watch: &Watch,
    (words, record): (&[AtomicU64; RECORD_WORDS], Record),
    process: &Process<'_>,
    way: Way,
    here: &Iov,
    there: u64,
) -> Result<(), Error> {
    let all = Gather::one(here);
    let mut done = 0;
    loop {
        let part = all.window(done, PART);
        let at = there.wrapping_add(done as u64);
        watch.during(|| match way {
            _ if record_of(words, record.number) != Some(record) => Err(Error::Key),
            // SAFETY: if the owner is in this process, what is there is its registered memory.
            Way::Out => unsafe { process.write(&part, at) },
            Way::In => process.read(at, &part),
        })?;
        done += part.len();
        if done >= here.len() {
            return Ok(());
        }
    }
}

/// Whether the peer of a live link is inside a region, and lives to come out. One of another user reaches none.
fn is_inside(link: &Link, number: u64) -> bool {
    let inside = link.pair.is_none() && link.live.as_ref().is_some_and(|live| live.is_peer_inside(number));
    inside && link.socket.as_ref().is_none_or(socket::is_peer_alive)
}

/// The record of a region, if it is that of this number.
fn record_of(words: &[AtomicU64; RECORD_WORDS], number: u64) -> Option<Record> {
    // Acquire: pairs with the Release of `enter_record`.
    let mut copied = [0; RECORD_WORDS];
    copied[0] = words[0].load(Ordering::Acquire);
    for (to, from) in copied.iter_mut().zip(words).skip(1) {
        *to = from.load(Ordering::Relaxed);
    }
    // The line may have been given to another region meanwhile: then the number has changed.
    fence(Ordering::Acquire);
    let is_same = words[0].load(Ordering::Relaxed) == number;
    Record::parse(&copied).filter(|record| is_same && record.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::{address, open_rail, Open};
    use gridnet_core::mem::NUMA_UNKNOWN;
    use gridnet_core::rail::{PeerId, Rail};
    use gridnet_core::time::Time;
    use gridnet_core::wire::NodeId;

    /// Two rails with a link, the second of which owns regions.
    struct Scene {
        dir: std::path::PathBuf,
        initiator: ShmRail,
        owner: ShmRail,
        node: NodeId,
    }

    impl Scene {
        fn new(name: &str) -> Scene {
            let dir = std::env::temp_dir().join(format!("gridnet-test-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            let (mut initiator, mut owner) = (open_rail(&dir, 1), open_rail(&dir, 2));
            initiator.connect(PeerId::new(0), &address(2)).unwrap();
            let (mut a, mut b) = (Open::default(), Open::default());
            for _ in 0..1000 {
                owner.maintain(Time(0), &mut b);
                initiator.maintain(Time(0), &mut a);
            }
            assert_eq!((a.up, b.up), (1, 1));
            Scene { dir, initiator, owner, node: address(2).node }
        }

        fn offer(&mut self, number: u64, base: *mut u8, len: u64, token: Option<u64>) -> RemoteKey {
            let access = Access::ALL;
            let region = Offered { number, base, len, access, token, may_fault: token.is_none() };
            let hint = self.owner.offer(&region).unwrap();
            assert_ne!(hint, 0);
            RemoteKey { node: self.node, number, len, access, align: 8, hint }
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn a_region_does_not_end_while_a_peer_is_inside() {
        let mut scene = Scene::new("inside");
        let lent = scene.owner.allocate_region(64, NUMA_UNKNOWN).unwrap();
        let key = scene.offer(5, lent.base, 64, Some(lent.token));
        let other = scene.offer(6, lent.base, 64, Some(lent.token));
        let live = scene.initiator.links[0].live.as_ref().unwrap();
        let words = live.segment().words(key.hint).unwrap();
        let owner = &mut scene.owner;
        let mut entered = false;
        let during = live.watch(5, &words[0]).during(|| {
            entered = true;
            assert!(owner.end_record(6), "a peer inside another region is in nobody's way");
            assert!(!owner.end_record(5) && !owner.end_record(5));
            Ok(())
        });
        assert!(entered && during.is_ok());
        assert_eq!(live.watch(5, &words[0]).during(|| Ok(())), Err(Error::Key), "nobody else comes in");
        assert!(owner.end_record(5) && owner.end_record(5));
        assert!(
            scene.initiator.open_window(0, &other).is_none()
                && scene.initiator.open_window(0, &key).is_none()
        );
    }

    #[test]
    fn a_peer_that_stays_inside_is_cut_off() {
        let mut scene = Scene::new("stays");
        let lent = scene.owner.allocate_region(64, NUMA_UNKNOWN).unwrap();
        let key = scene.offer(5, lent.base, 64, Some(lent.token));
        let live = scene.initiator.links[0].live.as_ref().unwrap();
        let words = live.segment().words(key.hint).unwrap();
        let (owner, mut sink) = (&mut scene.owner, Open::default());
        let during = live.watch(5, &words[0]).during(|| {
            assert!(!owner.end_record(5));
            owner.poll(8, &mut sink);
            assert!(sink.down.is_empty(), "it has time to come out");
            let record = owner.records.get_mut(&5).expect("the region has not ended");
            record.ended = Instant::now().checked_sub(LONGEST_ACCESS);
            assert!(record.ended.is_some(), "the clock began before this test");
            // Threads of this process, which the peer belongs to, may wait for a device now and then.
            while !owner.end_record(5) {
                std::thread::yield_now();
            }
            owner.poll(8, &mut sink);
            Ok(())
        });
        assert_eq!(during, Ok(()));
        assert_eq!(sink.down, [Error::PeerMisbehaved]);
        assert!(scene.owner.end_record(5));
    }

    #[test]
    fn windows_lead_where_the_record_says_and_nowhere_else() {
        let mut scene = Scene::new("windows");
        let lent = scene.owner.allocate_region(64, NUMA_UNKNOWN).unwrap();
        let key = scene.offer(5, lent.base, 64, Some(lent.token));
        let window = scene.initiator.open_window(0, &key).expect("the heap came with the link");
        // SAFETY: a literal of 8 bytes.
        unsafe { window.put(8, b"straight".as_ptr(), 8) }.unwrap();
        // SAFETY: memory of an open region, which nobody writes now.
        assert_eq!(unsafe { std::slice::from_raw_parts(lent.base.add(8), 8) }, b"straight");
        for forged in [
            RemoteKey { hint: 0, ..key },
            RemoteKey { hint: key.hint + 1, ..key },
            RemoteKey { hint: u64::MAX, ..key },
            RemoteKey { hint: u64::MAX / 64, ..key },
            RemoteKey { number: 6, ..key },
        ] {
            assert!(scene.initiator.open_window(0, &forged).is_none(), "{forged:?}");
            let byte = Iov::EMPTY;
            assert_eq!(scene.initiator.copy(0, &forged, 0, Way::Out, &byte), None, "{forged:?}");
        }
        // A record beyond the end of the heap: the owner lies.
        let line = scene.owner.records[&5].line;
        scene.owner.arena.segment().words(line)[2].store(1 << 20, Ordering::Relaxed);
        assert!(scene.initiator.open_window(0, &key).is_none());
    }

    #[test]
    fn who_has_read_the_record_of_an_earlier_region_does_not_reach_its_memory() {
        let mut scene = Scene::new("earlier");
        let mut memories = [[1u64; 8], [2; 8]];
        let [old, new] = memories.each_mut().map(|memory| memory.as_mut_ptr().cast::<u8>());
        let key = scene.offer(5, old, 64, None);
        let record = {
            let live = scene.initiator.links[0].live.as_ref().unwrap();
            record_of(live.segment().words(key.hint).unwrap(), 5).unwrap()
        };
        assert!(scene.owner.end_record(5));
        assert_eq!(scene.offer(5, new, 64, None).hint, key.hint, "the same line");
        let live = scene.initiator.links[0].live.as_ref().unwrap();
        let words = live.segment().words(key.hint).unwrap();
        let watch = live.watch(5, &words[0]);
        let process = Process::new(std::process::id() as i32, live.segment().header());
        let mut bytes = [3; 8];
        // SAFETY: a private array.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), 8) };
        for way in [Way::Out, Way::In] {
            let done = copy_in_parts(&watch, (words, record), &process, way, &iov, old as u64);
            assert_eq!(done, Err(Error::Key));
        }
        assert_eq!((memories, bytes), ([[1; 8], [2; 8]], [3; 8]));
    }

    #[test]
    fn registered_memory_is_reached_in_the_right_process_only() {
        let mut scene = Scene::new("reach");
        let mut memory = [0u64; 8];
        let key = scene.offer(5, memory.as_mut_ptr().cast(), 64, None);
        let mut bytes = *b"8 bytes!";
        // SAFETY: a private array.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), 8) };
        let Some(done) = scene.initiator.copy(0, &key, 8, Way::Out, &iov) else {
            eprintln!("SKIPPED: this system forbids process_vm_writev");
            return;
        };
        assert_eq!((done, memory[1].to_ne_bytes()), (Ok(()), bytes));
        assert_eq!(scene.initiator.copy(0, &key, 60, Way::Out, &iov), Some(Err(Error::Bounds)));
        assert_eq!(scene.initiator.copy(0, &key, u64::MAX, Way::In, &iov), Some(Err(Error::Bounds)));
        // Where the header is not where the peer says, it is another process, or another program of the same.
        assert_eq!(scene.initiator.links[0].reach, Reach::Process(std::process::id() as i32));
        scene.owner.arena.segment().words(0)[5].fetch_add(4096, Ordering::Relaxed);
        for way in [Way::Out, Way::In] {
            memory[1] = 0;
            scene.initiator.links[0].reach = Reach::Process(std::process::id() as i32);
            assert_eq!(scene.initiator.copy(0, &key, 8, way, &iov), None);
            assert_eq!((memory[1], scene.initiator.links[0].reach), (0, Reach::No));
        }
        scene.initiator.links[0].reach = Reach::Unknown;
        assert_eq!(scene.initiator.copy(0, &key, 8, Way::Out, &iov), None, "nor at the first access");
    }
}
