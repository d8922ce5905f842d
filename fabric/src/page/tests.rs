//! Pages written, read, scribbled over, and left behind.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use gridnet_core::endpoint::{Candidate, PeerState};
use gridnet_core::error::Error;
use gridnet_core::ledger::{Ledger, PeerNote, Row};
use gridnet_core::rail::{Capabilities, Path, PeerId, Refusal};
use gridnet_core::stats::PeerCounters;
use gridnet_core::wire::{Address, NetAddresses, NodeId};
use proptest::prelude::*;

use super::layout::{Live, PeerRow, LIVE_OFFSET, PAGE_BYTES, ROWS, ROWS_OFFSET, VERSION};
use super::place::{self, Place};
use super::reader::{PageView, ReadError};
use super::waits::{Call, Waiting};
use super::writer::{Identity, Page, PageLedger};
use crate::config::{Config, RailSelection};

/// A directory for links to pages, which goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("gridnet-page-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn page(&self, byte: u8) -> Arc<Page> {
        let config = Config::from_sources(
            [("GRIDNET_EAGER_MAX".to_owned(), "4k".to_owned())].into_iter(),
            &[("GRIDNET_WAIT_MODE".to_owned(), "spin".to_owned())],
        );
        let missing = [("tcp", "it needs a key".to_owned())];
        let (local, config) = (&address(byte), &config.unwrap());
        let who = Identity { local, name: Some("service"), config, missing: &missing };
        Page::create(&self.0, &who).unwrap()
    }

    fn file(&self, byte: u8) -> File {
        let entry = self.0.join(format!("{}.page", node(byte)));
        place::open(&Place::of_entry(&entry, nix::unistd::geteuid().as_raw()).unwrap().file).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn node(byte: u8) -> NodeId {
    // Files in memory are shared by all test processes: the number of this one keeps them apart.
    let mut bytes = [byte; 16];
    bytes[..4].copy_from_slice(&std::process::id().to_le_bytes());
    NodeId::new(bytes).unwrap()
}

fn address(byte: u8) -> Address {
    Address { uid: 0, host: 1, node: node(byte), incarnation: 5, network: NetAddresses::NONE }
}

fn ledger(page: &Arc<Page>) -> PageLedger {
    PageLedger::new(page.clone(), vec![("shm", Capabilities::minimal())], RailSelection::Auto)
}

fn note<'a>(peer: u32, state: &'a PeerState, candidates: &'a [Candidate]) -> PeerNote<'a> {
    PeerNote {
        peer: PeerId::new(peer),
        node: node(99),
        incarnation: 7,
        process: Some(4711),
        rail: 0,
        eager_max: 8192,
        state,
        stalled: false,
        candidates,
        paths: &[],
        breaks: (0, 0),
        last_call: None,
    }
}

#[test]
fn a_reader_sees_where_links_lead_and_what_became_of_them() {
    let scratch = Scratch::new("links");
    let page = scratch.page(1);
    let mut ledger = ledger(&page);
    let (row, _counts) = ledger.open().unwrap();
    let path = |number: u64, tried: &[&str]| Path {
        local: Some(format!("10.0.0.1:{number}")),
        remote: Some(format!("10.0.0.2:{number}")),
        round_trip_ns: Some(number * 1000),
        security: (number == 8).then_some("TLS 1.3"),
        moved: (number == 8).then_some([5, 6]),
        tried: tried.iter().map(|why| (*why).to_owned()).collect(),
    };
    let paths = [("tcp", path(7, &["10.0.0.3:1: refused", "10.0.0.4:1: no answer"])), ("tcp", path(8, &[]))];
    let broken = PeerState::Broken(Refusal::new(Error::PeerGone, "cut"));
    let last = Refusal::new(Error::Timeout, "no answer");
    ledger.note(
        row,
        &PeerNote { paths: &paths, breaks: (3, 12), last_call: Some(&last), ..note(0, &broken, &[]) },
    );
    let view = PageView::read(&scratch.file(1)).unwrap();
    assert_eq!(view.who.missing, [("tcp".to_owned(), "it needs a key".to_owned())]);
    let peer = &view.peers[0];
    let ends: Vec<_> = peer.links.iter().map(|l| (l.ends[0].as_str(), l.round_trip_ns)).collect();
    assert_eq!(ends, [("10.0.0.1:7", Some(7000)), ("10.0.0.1:8", Some(8000))]);
    assert_eq!(peer.links.iter().map(|link| link.moved).collect::<Vec<_>>(), [None, Some([5, 6])]);
    assert_eq!(
        peer.links.iter().map(|link| link.security.as_deref()).collect::<Vec<_>>(),
        [None, Some("TLS 1.3")]
    );
    assert_eq!((peer.breaks, peer.replays, peer.state.as_str()), (3, 12, "broken"));
    assert_eq!(peer.last_call, Some((Error::Timeout.code(), "no answer".to_owned())));
    assert_eq!(peer.links[0].tried, ["10.0.0.3:1: refused", "10.0.0.4:1: no answer"]);
    assert!(peer.links[1].tried.is_empty());
}

#[test]
fn a_reader_sees_who_and_what_and_why() {
    let scratch = Scratch::new("sees");
    let page = scratch.page(1);
    let mut ledger = ledger(&page);
    let engine = ledger.engine();
    let (row, counts) = ledger.open().unwrap();
    engine.peers_total.add(1);
    engine.receives_posted.add(5);
    engine.receives_withdrawn.add(1);
    counts.cells.messages_received.add(3);
    counts.cells.unexpected_total.add(1);
    counts.cells.bytes_sent.add(100);
    counts.cells.puts.add(4);
    counts.cells.bytes_served.add(7);
    counts.gauges.pending.set(9);
    let candidates = [
        Candidate { rail: "shm", verdict: Ok(()) },
        Candidate { rail: "self", verdict: Err("not needed".to_owned()) },
    ];
    ledger.note(row, &note(0, &PeerState::Up, &candidates));
    let waiting = Waiting::begin(Some(&page), Call::Lookup, None);
    waiting.set_asleep(true);

    let view = PageView::read(&scratch.file(1)).unwrap();
    assert_eq!(view.who.name.as_deref(), Some("service"));
    assert_eq!((view.who.pid, view.who.node.clone()), (std::process::id(), node(1).to_string()));
    assert!(view.who.may_be_alive());
    let settings: Vec<_> =
        view.who.config.iter().map(|s| [&s.name, &s.value, &s.default, &s.origin]).collect();
    assert_eq!(
        settings,
        [
            ["GRIDNET_WAIT_MODE", "spin", "adaptive", "program"],
            ["GRIDNET_EAGER_MAX", "4k", "8k", "environment"]
        ]
    );
    let peer = &view.peers[0];
    assert_eq!((peer.peer, peer.pid, peer.state.as_str(), peer.rail.as_str()), (0, Some(4711), "up", "shm"));
    assert_eq!((peer.waiting.pending, peer.counters.bytes_sent, peer.torn), (9, 100, false));
    assert_eq!((peer.counters.puts, view.activity.peers.bytes_served), (4, 7));
    let verdicts: Vec<_> = peer.verdicts.iter().map(|v| (v.rail.as_str(), v.in_use)).collect();
    assert_eq!(verdicts, [("shm", true), ("self", false)]);
    assert!(peer.figures.contains(&("eager_max".to_owned(), 8192)));
    assert_eq!((view.activity.posted, view.more_peers), (Some(2), 0));
    let wait = &view.waits[0];
    assert_eq!((wait.call.as_str(), wait.asleep, wait.timeout_ns), ("gridnet_fabric_lookup", true, None));

    drop(waiting);
    let broken = PeerState::Broken(Refusal::new(Error::Unreachable, "the connection was reset"));
    ledger.note(row, &note(0, &broken, &candidates));
    let peer = &PageView::read(&scratch.file(1)).unwrap().peers[0];
    let why = (Error::Unreachable.code(), "the connection was reset".to_owned());
    assert_eq!((peer.state.as_str(), peer.error.clone()), ("broken", Some(why)));
    let gone = PeerState::Gone(Refusal::new(Error::PeerGone, "the peer process has ended\n\x1b[2J"));
    ledger.note(row, &note(0, &gone, &candidates));
    let view = PageView::read(&scratch.file(1)).unwrap();
    let error = view.peers[0].error.clone().unwrap();
    assert_eq!(error, (Error::PeerGone.code(), "the peer process has ended  [2J".to_owned()));
    assert!(view.waits.is_empty());
}

#[test]
fn the_file_is_private_and_goes_with_its_fabric() {
    let scratch = Scratch::new("private");
    let page = scratch.page(2);
    let file = scratch.file(2);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(place::is_mapped_by(std::process::id(), &file), Some(true));
    let counts = ledger(&page).open().unwrap().1;
    drop(page);
    assert!(std::fs::read_dir(&scratch.0).unwrap().next().is_some(), "counters keep the page");
    drop(counts);
    assert!(std::fs::read_dir(&scratch.0).unwrap().next().is_none());
    assert_eq!(place::is_mapped_by(std::process::id(), &file), Some(false));
}

#[test]
fn rows_are_bounded_and_given_back() {
    let scratch = Scratch::new("rows");
    let page = scratch.page(3);
    let mut ledger = ledger(&page);
    let engine = ledger.engine();
    let rows: Vec<_> = std::iter::from_fn(|| ledger.open()).collect();
    assert_eq!(rows.len(), ROWS);
    for (row, _) in &rows {
        ledger.note(*row, &note(row.0, &PeerState::Up, &[]));
    }
    engine.peers_total.set(ROWS as u64 + 4);
    engine.receives_posted.add(1);
    let view = PageView::read(&scratch.file(3)).unwrap();
    assert_eq!((view.peers.len(), view.more_peers, view.activity.posted), (ROWS, 4, None));
    let last = PeerCounters { messages_sent: 8, ..PeerCounters::default() };
    rows[500].1.cells.messages_sent.add(8);
    ledger.close(rows[500].0, &last);
    let view = PageView::read(&scratch.file(3)).unwrap();
    assert_eq!((view.peers.len(), view.activity.peers.messages_sent), (ROWS - 1, 8));
    assert_eq!(
        ledger.open().map(|(row, counts)| (row, counts.cells.snapshot())),
        Some((Row(500), PeerCounters::default()))
    );
    assert!(ledger.open().is_none());
}

#[test]
fn a_row_that_a_stopped_writer_left_is_shown_as_torn() {
    let scratch = Scratch::new("torn");
    let page = scratch.page(4);
    let mut ledger = ledger(&page);
    let (row, _counts) = ledger.open().unwrap();
    ledger.note(row, &note(6, &PeerState::Connecting, &[]));
    let file = writable(&scratch, 4);
    let turn = (ROWS_OFFSET + std::mem::offset_of!(PeerRow, turn)) as u64;
    file.write_all_at(&7u64.to_ne_bytes(), turn).unwrap();
    let view = PageView::read(&file).unwrap();
    assert_eq!((view.peers[0].peer, view.peers[0].torn), (6, true));
    ledger.note(row, &note(6, &PeerState::Up, &[]));
    assert!(!PageView::read(&file).unwrap().peers[0].torn, "the next change mends it");
}

#[test]
fn what_the_dead_left_is_removed_and_what_lives_is_not() {
    let scratch = Scratch::new("stale");
    let page = scratch.page(5);
    let mut child = Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().unwrap();
    let (pid, start) = (child.id(), place::start_of(child.id()).unwrap());
    // Pages that say they are of the child: of its life, and of another process that had its number before.
    for (byte, start) in [(6, start), (7, start - 1)] {
        let (_, file) = Place::create(&scratch.0, node(byte)).unwrap();
        forge(&file, pid, start, VERSION.into());
    }
    // One of another version is judged by the same words.
    let (_, file) = Place::create(&scratch.0, node(8)).unwrap();
    forge(&file, pid, start - 1, 77);
    let entries = || std::fs::read_dir(&scratch.0).unwrap().count();
    place::clean(&scratch.0);
    assert_eq!(entries(), 2, "the living one, and that of the child");
    let living = scratch.file(6);
    assert!(PageView::read_who(&living).unwrap().may_be_alive());
    assert_eq!(place::is_mapped_by(pid, &living), Some(false), "as after an exec");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!PageView::read_who(&living).unwrap().may_be_alive());
    place::clean(&scratch.0);
    assert_eq!(entries(), 1);
    // One whose run directory has gone, which nothing leads to.
    let (forgotten, file) = Place::create(&scratch.0, node(12)).unwrap();
    forge(&file, pid, start, VERSION.into());
    std::fs::rename(scratch.0.join(format!("{}.page", node(12))), scratch.0.join("elsewhere")).unwrap();
    place::clean(&scratch.0);
    // Where the run directory itself is in memory there is no second file that could be left.
    assert!(!forgotten.file.exists());
    std::fs::remove_file(scratch.0.join("elsewhere")).unwrap();
    drop(page);
    assert_eq!(entries(), 0);
}

#[test]
fn a_text_that_changes_while_it_is_read_is_one_or_the_other() {
    let scratch = Scratch::new("turns");
    let page = scratch.page(13);
    let mut ledger = ledger(&page);
    let (row, _counts) = ledger.open().unwrap();
    ledger.note(row, &note(1, &PeerState::Up, &[]));
    let stop = Arc::new(gridnet_core::sync::AtomicU32::new(0));
    let heard = stop.clone();
    let writer = std::thread::spawn(move || {
        let gone = PeerState::Gone(Refusal::new(Error::PeerGone, "y".repeat(160)));
        while heard.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            ledger.note(row, &note(1, &PeerState::Up, &[]));
            ledger.note(row, &note(2, &gone, &[]));
        }
    });
    let file = scratch.file(13);
    for _ in 0..3000 {
        let view = PageView::read(&file).unwrap();
        let peer = &view.peers[0];
        if !peer.torn {
            let expected = if peer.peer == 1 { ("up", None) } else { ("gone", Some("y".repeat(160))) };
            assert_eq!((peer.state.as_str(), peer.error.clone().map(|e| e.1)), expected);
        }
    }
    stop.store(1, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(!PageView::read(&file).unwrap().peers[0].torn);
}

#[test]
fn a_process_of_another_namespace_is_listed_and_left_alone() {
    let scratch = Scratch::new("foreign");
    let host = scratch.0.join("0000000000000001");
    std::fs::create_dir(&host).unwrap();
    let (place, file) = Place::create(&host, node(14)).unwrap();
    forge_in(&file, u64::MAX, std::process::id(), 1, VERSION.into());
    place::clean(&host);
    let listed = super::all(Some(&scratch.0)).0;
    assert_eq!(listed.len(), 1);
    // Its number is that of a process here, which has nothing to do with it.
    assert!(super::of_process(Some(&scratch.0), std::process::id()).is_err());
    place.remove();
}

#[test]
fn the_reasons_name_what_is_accepted() {
    let text = super::Missing::OtherUser(7, 99).to_string();
    assert!(text.contains("process 7 belongs to user 99") && text.contains("root may look"), "{text}");
}

#[test]
fn what_is_no_page_of_ours_is_refused_by_name() {
    let scratch = Scratch::new("refused");
    let page = scratch.page(9);
    let file = writable(&scratch, 9);
    file.write_all_at(&1u64.to_ne_bytes(), 8).unwrap();
    assert!(matches!(PageView::read(&file), Err(ReadError::Version(1))));
    file.write_all_at(&u64::from(VERSION).to_ne_bytes(), 8).unwrap();
    file.set_len(PAGE_BYTES as u64 - 1).unwrap();
    assert!(matches!(PageView::read(&file), Err(ReadError::NotAPage(_))));
    file.set_len(PAGE_BYTES as u64).unwrap();
    file.write_all_at(&[0; 8], 0).unwrap();
    assert!(matches!(PageView::read(&file), Err(ReadError::NotAPage(_))));
    assert!(matches!(PageView::read(&File::open("/dev/null").unwrap()), Err(ReadError::NotAPage(_))));
    drop(page);
    // Links that lead elsewhere are not followed.
    let entry = scratch.0.join(format!("{}.page", node(10)));
    std::os::unix::fs::symlink("/etc/passwd", &entry).unwrap();
    assert!(Place::of_entry(&entry, 0).is_none());
}

/// Writes the head of a page.
fn forge(file: &File, pid: u32, start: u64, version: u64) {
    forge_in(file, place::pid_namespace(), pid, start, version);
}

fn forge_in(file: &File, namespace: u64, pid: u32, start: u64, version: u64) {
    let text = format!("pid\t{pid}\nstart\t{start}\nnamespace\t{namespace}\n");
    let words = [super::layout::MAGIC, version, PAGE_BYTES as u64, text.len() as u64];
    let mut head: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    head.extend(text.as_bytes());
    file.write_all_at(&head, 0).unwrap();
    file.set_len(PAGE_BYTES as u64).unwrap();
}

fn writable(scratch: &Scratch, byte: u8) -> File {
    let entry = scratch.0.join(format!("{}.page", node(byte)));
    let place = Place::of_entry(&entry, nix::unistd::geteuid().as_raw()).unwrap();
    OpenOptions::new().read(true).write(true).open(place.file).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is in a page, reading it ends, with bounded results and without a control character.
    #[test]
    fn garbage_is_read_without_harm(
        pieces in prop::collection::vec((0..ROWS_OFFSET + 4 * size_of::<PeerRow>(), prop::collection::vec(any::<u8>(), 1..200)), 0..30),
        used in prop_oneof![0..5u64, any::<u64>()],
        keep_head in any::<bool>(),
        size in prop_oneof![Just(PAGE_BYTES as u64), 0..PAGE_BYTES as u64],
    ) {
        let scratch = Scratch::new("garbage");
        let page = scratch.page(11);
        let mut ledger = ledger(&page);
        let (row, _counts) = ledger.open().unwrap();
        ledger.note(row, &note(1, &PeerState::Up, &[]));
        // A copy: the writer's own file must not shrink.
        let copy = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(scratch.0.join("copy")).unwrap();
        let mut bytes = vec![0; ROWS_OFFSET + 4 * size_of::<PeerRow>()];
        scratch.file(11).read_exact_at(&mut bytes, 0).unwrap();
        for (at, piece) in &pieces {
            let at = if keep_head { (*at).max(32) } else { *at };
            let end = (at + piece.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&piece[..end - at]);
        }
        let pulse = LIVE_OFFSET + std::mem::offset_of!(Live, pulse) + std::mem::offset_of!(super::layout::Pulse, rows_used);
        bytes[pulse..pulse + 8].copy_from_slice(&used.to_ne_bytes());
        copy.write_all_at(&bytes, 0).unwrap();
        copy.set_len(size).unwrap();
        if let Ok(view) = PageView::read(&copy) {
            prop_assert!(view.peers.len() <= ROWS && view.waits.len() <= 16);
            let texts = view.peers.iter().flat_map(|p| [&p.node, &p.state, &p.rail]).chain([&view.who.program, &view.who.node]);
            prop_assert!(texts.flat_map(|text| text.chars()).all(|c| !c.is_control()));
        }
    }
}
