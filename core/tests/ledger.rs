//! What a ledger with few rows is told while peers come and go.

use std::sync::{Arc, Mutex};

use gridnet_core::endpoint::{Engine, Limits, PeerState, SendArgs, Sent};
use gridnet_core::error::Error;
use gridnet_core::ledger::{EngineCells, Kept, Ledger, PeerCounts, PeerNote, Row};
use gridnet_core::loopback::{Hub, LoopbackRail};
use gridnet_core::matching::{Pattern, Source};
use gridnet_core::mem::Iov;
use gridnet_core::stats::PeerCounters;
use gridnet_core::wire::{Address, NetAddresses, NodeId};

/// Two rows, and a journal.
#[derive(Debug, Default)]
struct Book {
    rows: [Option<Arc<PeerCounts>>; 2],
    /// Peer and state by row, as last noted.
    noted: [Option<(u32, u32)>; 2],
    departed: Vec<PeerCounters>,
    engine: Arc<EngineCells>,
}

#[derive(Debug, Clone, Default)]
struct Small(Arc<Mutex<Book>>);

impl Ledger for Small {
    fn engine(&mut self) -> Kept<EngineCells> {
        let cells = self.0.lock().unwrap().engine.clone();
        let at = std::ptr::NonNull::from(&*cells);
        // SAFETY: the Arc keeps its value where it is.
        unsafe { Kept::within(cells, at) }
    }

    fn open(&mut self) -> Option<(Row, Kept<PeerCounts>)> {
        let mut book = self.0.lock().unwrap();
        let free = book.rows.iter().position(Option::is_none)?;
        let counts = Arc::new(PeerCounts::default());
        book.rows[free] = Some(counts.clone());
        let at = std::ptr::NonNull::from(&*counts);
        // SAFETY: the Arc keeps its value where it is.
        Some((Row(free as u32), unsafe { Kept::within(counts, at) }))
    }

    fn close(&mut self, row: Row, last: &PeerCounters) {
        let mut book = self.0.lock().unwrap();
        book.rows[row.0 as usize] = None;
        book.noted[row.0 as usize] = None;
        book.departed.push(*last);
    }

    fn note(&mut self, row: Row, note: &PeerNote<'_>) {
        self.0.lock().unwrap().noted[row.0 as usize] = Some((note.peer.number(), note.state.number()));
    }
}

fn address(byte: u8) -> Address {
    Address {
        uid: 0,
        host: 1,
        node: NodeId::new([byte; 16]).unwrap(),
        incarnation: 1,
        network: NetAddresses::NONE,
    }
}

fn engine(hub: &Hub, byte: u8, book: &Small) -> Engine<LoopbackRail> {
    let rails = vec![hub.rail(&address(byte))];
    Engine::with_ledger(address(byte), rails, Limits::default(), Box::new(book.clone()))
}

fn settle(engines: &mut [&mut Engine<LoopbackRail>]) {
    for _ in 0..20 {
        for engine in engines.iter_mut() {
            engine.progress();
            engine.maintain(gridnet_core::time::Time(0));
        }
    }
}

#[test]
fn rows_follow_the_peers_and_those_who_left_make_room() {
    let (hub, book) = (Hub::new(), Small::default());
    let mut center = engine(&hub, 1, &book);
    let mut others: Vec<_> = (2..5).map(|byte| engine(&hub, byte, &Small::default())).collect();
    for other in &mut others[..2] {
        center.open(&address(other.local().node.bytes()[0])).unwrap();
        settle(&mut [&mut center, other]);
    }
    assert_eq!(book.0.lock().unwrap().noted, [Some((0, 2)), Some((1, 2))]);
    // A third has no row while both live, and is counted all the same.
    let third = center.open(&address(4)).unwrap();
    settle(&mut [&mut center, &mut others[2]]);
    send(&mut center, third);
    assert_eq!(center.peer_counters(third).unwrap().messages_sent, 1);
    assert_eq!(book.0.lock().unwrap().engine.peers_total.value(), 3);

    let first = gridnet_core::rail::PeerId::new(0);
    send(&mut center, first);
    drop(others.remove(0));
    settle(&mut [&mut center]);
    assert!(matches!(center.peer(first).unwrap().2, PeerState::Gone(_)));
    assert_eq!(book.0.lock().unwrap().noted[0], Some((0, 3)), "who has gone stays to be seen");
    // The next one takes the place of the one that has gone, whose counters are not lost.
    let mut fourth = engine(&hub, 9, &Small::default());
    center.open(&address(9)).unwrap();
    settle(&mut [&mut center, &mut fourth]);
    let book = book.0.lock().unwrap();
    assert_eq!(book.noted[0], Some((3, 2)));
    assert_eq!(book.departed[0].messages_sent, 1);
    assert_eq!(center.peer_counters(first).unwrap().messages_sent, 1);
}

fn send(engine: &mut Engine<LoopbackRail>, to: gridnet_core::rail::PeerId) {
    let cq = engine.create_cq(8);
    let args =
        SendArgs { cq, owner: 0, context: 0, tag: 1, immediate: None, sync: false, always_complete: false };
    assert_eq!(engine.send_iov(to, &[Iov::EMPTY], &args), Ok(Sent::Done));
}

#[test]
fn gauges_say_what_waits() {
    let (hub, books) = (Hub::new(), [Small::default(), Small::default()]);
    let (mut a, mut b) = (engine(&hub, 1, &books[0]), engine(&hub, 2, &books[1]));
    let to = a.open(&address(2)).unwrap();
    settle(&mut [&mut a, &mut b]);
    let cq = b.create_cq(8);
    let any = |tag| Pattern { source: Source::Any, tag, ignore: 0 };
    let withdrawn = b.receive(cq, &any(7), Iov::EMPTY, 0).unwrap();
    b.receive(cq, &any(8), Iov::EMPTY, 0).unwrap();
    b.cancel(withdrawn).unwrap();
    send(&mut a, to);
    settle(&mut [&mut a, &mut b]);
    let posted = |book: &Small| {
        let book = book.0.lock().unwrap();
        let cells = book.rows[0].as_ref().unwrap().cells.snapshot();
        let matched = cells.messages_received - cells.unexpected_total;
        book.engine.receives_posted.value() - book.engine.receives_withdrawn.value() - matched
    };
    let unexpected = |book: &Small| {
        let book = book.0.lock().unwrap();
        (book.engine.unexpected_now.value(), book.rows[0].as_ref().unwrap().gauges.unexpected.value())
    };
    assert_eq!((posted(&books[1]), unexpected(&books[1])), (1, (1, 1)));
    b.receive(cq, &any(1), Iov::EMPTY, 0).unwrap();
    assert_eq!((posted(&books[1]), unexpected(&books[1])), (1, (0, 0)));
    // An operation that ends with its peer is a failure; one that was cancelled is none.
    let failures = |book: &Small| book.0.lock().unwrap().rows[0].as_ref().unwrap().gauges.failures.value();
    assert_eq!(failures(&books[1]), 0);
    let from_a = Pattern { source: Source::Peer(gridnet_core::rail::PeerId::new(0)), tag: 3, ignore: 0 };
    b.receive(cq, &from_a, Iov::EMPTY, 0).unwrap();
    drop(a);
    settle(&mut [&mut b]);
    assert_eq!(b.source_error(&from_a), Some(Error::PeerGone));
    assert_eq!((failures(&books[1]), posted(&books[1])), (1, 1));
}
