//! Two rails that take each other for another user's.

use super::*;
use crate::config::SingleCopy;
use crate::segment::PeerSegment;
use crate::users::Users;
use gridnet_core::conformance_tests;
use gridnet_core::mem::{Gather, Iov, PeerBytes, NUMA_UNKNOWN};
use gridnet_core::rail::{Armed, Offered, Posted, Rail, RemoteSource};
use gridnet_core::region::{Access, RemoteKey};
use gridnet_core::testing::pair::{address_of, Fixture};
use gridnet_core::wire::{Frame, Hello, Incoming, Message};
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::unistd::{ftruncate, geteuid};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

conformance_tests!(other_users, Others::new(64, 64 << 10, SingleCopy::Always));

/// What a rail tells.
#[derive(Default)]
struct Told {
    users: Vec<Option<u32>>,
    up: usize,
    frames: usize,
    down: Vec<Refusal>,
}

impl Sink for Told {
    fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {
        self.frames += 1;
    }

    fn frame(&mut self, _: PeerId, _: Incoming<'_>) -> Result<(), Error> {
        self.frames += 1;
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        panic!("loans are not for other users");
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, link: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        self.users.push(None);
        Ok(PeerId::new(link.0))
    }

    fn accept_foreign(&mut self, link: LinkId, _: NodeId, _: u64, user: u32) -> Result<PeerId, Refusal> {
        self.users.push(Some(user));
        Ok(PeerId::new(link.0))
    }

    fn up(&mut self, _: PeerId) {
        self.up += 1;
    }

    fn down(&mut self, _: PeerId, _: LinkId, reason: Refusal) {
        self.down.push(reason);
    }
}

/// Two rails that take each other for another user's, and what they tell.
struct Scene {
    others: Others,
    caller: ShmRail,
    called: ShmRail,
    of_caller: Told,
    of_called: Told,
}

impl Scene {
    fn new() -> Scene {
        let mut others = Others::new(64, 64 << 10, SingleCopy::Always);
        let (caller, called) = (others.open(1), others.open(2));
        Scene { others, caller, called, of_caller: Told::default(), of_called: Told::default() }
    }

    fn linked() -> Scene {
        let mut scene = Scene::new();
        scene.caller.connect(PeerId::new(0), &scene.others.address(2)).unwrap();
        scene.run();
        assert_eq!((scene.of_caller.up, scene.of_called.up), (1, 1));
        assert_eq!(scene.of_called.users, [Some(scene.others.uid())]);
        scene
    }

    /// Long enough for whatever is under way.
    fn run(&mut self) {
        for _ in 0..20 {
            for (rail, told) in
                [(&mut self.caller, &mut self.of_caller), (&mut self.called, &mut self.of_called)]
            {
                rail.maintain(Time(0), told);
                rail.poll(64, told);
            }
        }
    }
}

const LINK: LinkId = LinkId(0);

#[test]
fn a_pair_has_a_segment_of_its_own_and_nothing_else() {
    let mut scene = Scene::linked();
    let lent = scene.called.allocate_region(64, NUMA_UNKNOWN).unwrap();
    let access = Access::ALL;
    let region =
        Offered { number: 5, base: lent.base, len: 64, access, token: Some(lent.token), may_fault: false };
    let hint = scene.called.offer(&region).unwrap();
    scene.run();
    let live = scene.caller.links[0].live.as_ref().unwrap();
    assert_eq!(live.segment().len(), pair_size(64, 64 << 10));
    assert!(live.segment().is_foreign() && live.heap().is_none());
    assert_eq!(live.segment().header().address, 0, "where it lies is nobody's business");
    let key = RemoteKey { node: scene.others.address(2).node, number: 5, len: 64, access, align: 8, hint };
    assert!(scene.caller.window(LINK, &key).is_none());
    let mut byte = [0u8];
    // SAFETY: a private array, which outlives the calls.
    let iov = unsafe { Iov::new(byte.as_mut_ptr(), 1) };
    assert_eq!(scene.caller.copy_to(LINK, &key, 0, &iov), None);
    assert_eq!(scene.caller.copy_from(LINK, &key, 0, &iov), None);
    assert_eq!(scene.caller.expose(LINK, &Gather::one(&iov)), None);
    let source = RemoteSource { rkey: 0, address: byte.as_ptr() as u64 };
    assert!(matches!(scene.caller.get(LINK, source, &Gather::one(&iov)), Posted::Failed(_)));
    // An announcement of theirs does not keep a region of ours open.
    let pair = scene.caller.links[0].pair.as_ref().unwrap();
    let line = scene.caller.links[0].block + crate::layout::announcement_line(64);
    pair.arena.segment().words(line)[0].store(5, Ordering::SeqCst);
    assert!(scene.called.withdraw(5, hint));
}

#[test]
fn what_is_for_one_user_only_is_misbehaviour() {
    let source = Some(RemoteSource { rkey: 0, address: 4096 });
    let rts = Message::Rts { tag: 1, len: 9000, op: 1, immediate: None, source, ahead: 0 };
    let inside = crate::layout::ARENA_OFFSET as u64;
    for case in 0..5 {
        let mut scene = Scene::linked();
        let stream = scene.caller.links[0].socket.as_ref().unwrap();
        let (segment, bell) = (scene.caller.arena.segment().file(), scene.caller.bell_file.as_fd());
        let hello = Hello::new(scene.others.address(1).node, 1, 1);
        match case {
            0 => assert_eq!(scene.caller.post(LINK, &Frame::loan(1, 1, inside, 64)), Posted::Done),
            1 => assert_eq!(scene.caller.post(LINK, &rts.frame(Gather::EMPTY)), Posted::Done),
            2 => socket::send_heap(stream, segment).unwrap(),
            3 => socket::send_hello(stream, &hello, [segment, bell]).unwrap(),
            _ => socket::send_foreign(stream, &hello, segment).unwrap(),
        }
        scene.run();
        let [refusal] = &scene.of_called.down[..] else { panic!("case {case} is not noticed") };
        assert_eq!(refusal.error, Error::PeerMisbehaved, "case {case}: {refusal:?}");
    }
}

#[test]
fn a_sleeper_is_woken_by_whoever_has_a_pair_with_it() {
    let mut scene = Scene::linked();
    let mut handle = [PollFd::new(
        // SAFETY: open as long as the rail, which outlives this.
        unsafe { BorrowedFd::borrow_raw(scene.called.wait_handle().unwrap()) },
        PollFlags::POLLIN,
    )];
    for round in 1..4 {
        // The doorbell of the own user's peers is watched for changes; what is left of the last round goes first.
        scene.run();
        assert_eq!(scene.called.arm(), Armed::Yes);
        assert_eq!(poll(&mut handle, PollTimeout::ZERO), Ok(0), "nothing has happened");
        assert_eq!(scene.caller.post(LINK, &Frame::eager(1, Gather::EMPTY)), Posted::Done);
        assert_eq!(poll(&mut handle, PollTimeout::ZERO), Ok(1), "it was not woken");
        assert_eq!(scene.called.arm(), Armed::Busy);
        scene.called.disarm();
        scene.run();
        assert_eq!((scene.of_called.frames, scene.caller.wakeups_sent()), (round, round as u64));
    }
}

#[test]
fn one_side_is_not_enough() {
    let mut scene = Scene::new();
    let (own, uid) = (scene.others.own_uid(), scene.others.uid());
    let address = scene.others.address(2);
    let names_both = |refusal: &Refusal| {
        assert_eq!(refusal.error, Error::Permission);
        let (own, uid) = (format!("user {own}"), format!("user {uid}"));
        let parts = ["GRIDNET_SHM_ALLOW_UIDS", &own, &uid];
        assert!(parts.iter().all(|part| refusal.reason.contains(part)), "{refusal:?}");
    };
    scene.called.users = Users::pretending(own, vec![uid + 2]);
    scene.caller.connect(PeerId::new(0), &address).unwrap();
    scene.run();
    names_both(&scene.of_caller.down[0]);
    assert!(scene.called.links.is_empty() && scene.of_called.users.is_empty());
    scene.caller.users = Users::pretending(own, vec![uid + 2]);
    names_both(&scene.caller.connect(PeerId::new(1), &address).unwrap_err());
    // One whose list is empty does not listen.
    scene.caller.users = Users::pretending(own, vec![uid]);
    scene.called.foreign = None;
    names_both(&scene.caller.connect(PeerId::new(2), &address).unwrap_err());
    drop(scene.called);
    assert_eq!(scene.caller.connect(PeerId::new(3), &address).unwrap_err().error, Error::Unreachable);
}

#[test]
fn nobody_takes_the_place_of_another_user() {
    let mut scene = Scene::new();
    let (own, uid) = (scene.others.own_uid(), scene.others.uid());
    // Somebody listens under the name that the address leads to, and is not who the address says.
    scene.caller.users = Users::pretending(own, vec![uid, uid + 2]);
    let address = Address { uid: uid + 2, ..scene.others.address(2) };
    let refusal = scene.caller.connect(PeerId::new(0), &address).unwrap_err();
    assert!(
        refusal.error == Error::Permission && refusal.reason.contains(&format!("user {uid}")),
        "{refusal:?}"
    );
    // Another user with the node id of an own peer is a second peer.
    scene.called.users = Users::pretending(uid, vec![uid]);
    scene.others.is_closed = true;
    let mut friend = scene.others.open(1);
    friend.users = Users::pretending(uid, vec![uid]);
    friend.connect(PeerId::new(0), &scene.others.address(2)).unwrap();
    for _ in 0..20 {
        friend.maintain(Time(0), &mut scene.of_caller);
        scene.called.maintain(Time(0), &mut scene.of_called);
    }
    scene.called.users = Users::pretending(own, vec![uid]);
    scene.caller.connect(PeerId::new(1), &scene.others.address(2)).unwrap();
    scene.run();
    assert_eq!(scene.of_called.users, [None, Some(uid)]);
    assert_eq!(scene.called.links.iter().filter(|link| link.live.is_some()).count(), 2);
}

#[test]
fn only_small_ordinary_memory_is_mapped() {
    let make = |size: usize, flags| {
        let file = memfd_create(c"x", flags | MFdFlags::MFD_ALLOW_SEALING).ok()?;
        ftruncate(&file, size as i64).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        Some(file)
    };
    let why = |file: &OwnedFd| PeerSegment::map_foreign(file, &[1; 16], 1).unwrap_err().reason;
    assert!(why(&make(257 << 20, MFdFlags::empty()).unwrap()).contains("too large"));
    // Pages that may be missing when they are touched. The file itself needs none.
    if let Some(huge) = make(2 << 20, MFdFlags::MFD_HUGETLB) {
        assert!(why(&huge).contains("not of ordinary memory"));
    }
    assert!(why(&std::fs::File::open("/dev/zero").unwrap().into()).contains("no memfd"));
    assert!(pair_size(4096, 64 << 20) <= 256 << 20, "the largest of ours");
}

#[test]
fn a_full_pair_waits_for_its_peer_and_for_nobody_else() {
    let mut scene = Scene::linked();
    let bytes = [7u8; 8192];
    // SAFETY: an array that is only read.
    let iov = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
    let frame = Frame::eager(1, Gather::one(&iov));
    let mut sent = 0;
    while scene.caller.post(LINK, &frame) == Posted::Done {
        sent += 1;
    }
    assert!(sent >= 4 && scene.caller.arena.shortage().is_none());
    scene.run();
    assert_eq!(scene.of_called.frames, sent);
    assert_eq!(scene.caller.post(LINK, &frame), Posted::Done);
}

/// Rails that take each other for another user's: each believes to run as a user that nobody is.
struct Others {
    dir: PathBuf,
    start: Instant,
    /// Tells tests apart, since names for other users are in no directory.
    host: u64,
    ring_slots: u32,
    link_window: usize,
    single_copy: SingleCopy,
    /// Rails listen for their own user only.
    is_closed: bool,
}

impl Others {
    fn open(&mut self, number: u8) -> ShmRail {
        let address = self.address(number);
        self.rail(&address)
    }

    fn new(ring_slots: u32, link_window: usize, single_copy: SingleCopy) -> Others {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gridnet-others-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let host = u64::from(std::process::id()) << 32 | u64::from(number);
        Others { dir, start: Instant::now(), host, ring_slots, link_window, single_copy, is_closed: false }
    }
}

impl Fixture for Others {
    type Rail = ShmRail;

    fn rail(&mut self, address: &Address) -> ShmRail {
        let mut rail = ShmRail::open(ShmConfig {
            local: *address,
            name: None,
            run_dir: Some(self.dir.clone()),
            segment_size: 64 << 20,
            ring_slots: self.ring_slots,
            link_window: self.link_window,
            huge_pages: false,
            heap_size: 64 << 20,
            single_copy: self.single_copy,
            allow_uids: if self.is_closed { Vec::new() } else { vec![self.uid()] },
        })
        .expect("the rail opens");
        rail.users = Users::pretending(self.own_uid(), vec![self.uid()]);
        rail
    }

    fn tick(&mut self) -> Time {
        Time(self.start.elapsed().as_nanos() as u64)
    }

    fn overshoot(&self) -> usize {
        self.ring_slots as usize + 64
    }

    fn uid(&self) -> u32 {
        geteuid().as_raw()
    }

    fn address(&self, number: u8) -> Address {
        Address { host: self.host, ..address_of(number, self.uid()) }
    }

    fn own_uid(&self) -> u32 {
        self.uid() ^ 1
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
