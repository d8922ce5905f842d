//! What watches idle sockets: io_uring where it is allowed, epoll where it is not, and sleep that no message gets past.

mod common;

use common::{forbid, Tcp};
use gridnet_core::error::Error;
use gridnet_core::rail::{Armed, PeerId, Rail};
use gridnet_core::testing::pair::{Fixture, Pair};
use gridnet_core::wire::{Address, NetAddresses, NodeId};
use gridnet_uring_tcp::Engine;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

/// All that there are; `common` puts epoll in the place of those that the system does not allow.
const ENGINES: [Engine; 4] = [Engine::IoUring, Engine::Epoll, Engine::IoUringRecv, Engine::IoUringSqpoll];

#[test]
fn where_io_uring_is_forbidden_epoll_takes_its_place() {
    let used = std::thread::spawn(|| {
        forbid_io_uring();
        let mut pair = Pair::new(Tcp::new(Engine::Auto));
        let receive = pair.b.receive(gridnet_core::testing::node::anything(), 8);
        pair.a.send(pair.to_b, b"anyway", 1);
        assert_eq!(pair.finish_b(receive).bytes[..6], *b"anyway");
        let address = pair.fixture.address(5);
        assert!(gridnet_uring_tcp::io_uring().is_err(), "the filter has no effect");
        pair.fixture.rail(&address).engine()
    });
    assert_eq!(used.join().unwrap(), "epoll");
}

/// A call that cannot be watched has failed, and nothing of it is left that would come about later.
#[test]
fn where_no_more_can_be_watched_a_call_leaves_nothing() {
    if common::allowed(Engine::IoUring) != Engine::IoUring {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let at = listener.local_addr().expect("it has one");
    std::thread::spawn(move || {
        let mut fixture = Tcp::new(Engine::IoUring);
        let own = fixture.address(1);
        let mut rail = fixture.rail(&own);
        // The ring is there, and takes no requests any more.
        forbid(libc::SYS_io_uring_enter);
        for number in 0..5000_u32 {
            let mut node = [7; 16];
            node[..4].copy_from_slice(&number.to_le_bytes());
            let node = NodeId::new(node).expect("not zero");
            let network = NetAddresses::new(at.port(), [at.ip()]);
            let peer = PeerId::new(number);
            if let Err(refusal) = rail.connect(peer, &Address { node, network, ..own }) {
                assert_eq!(refusal.error, Error::Limit, "{}", refusal.reason);
                assert_eq!(rail.link_with(node), None);
                return;
            }
            assert!(rail.link_with(node).is_some());
        }
        panic!("the filter has no effect");
    })
    .join()
    .unwrap();
}

#[test]
fn whatever_comes_ends_sleep() {
    for engine in ENGINES {
        let mut pair = Pair::new(Tcp::new(engine));
        for round in 0..50u64 {
            // Armed only when nothing is there.
            while pair.b.engine().arm() == Armed::Busy {
                pair.step();
            }
            assert!(!is_readable(&mut pair, PollTimeout::ZERO), "round {round}: awake without a reason");
            let large = vec![round as u8; 400_000];
            let message: &[u8] = if round % 2 == 0 { b"wake up" } else { &large };
            let send = pair.a.send(pair.to_b, message, round);
            let now = pair.fixture.tick();
            pair.a.drive(now);
            assert!(is_readable(&mut pair, PollTimeout::from(8000u16)), "round {round}: asleep for ever");
            pair.b.engine().disarm();
            let receive = pair.b.receive(gridnet_core::testing::node::anything(), 400_000);
            let outcome = pair.finish_b(receive);
            assert_eq!(outcome.completion.unwrap().length, message.len() as u64);
            pair.finish_a(send);
        }
    }
}

#[test]
fn a_new_peer_ends_sleep() {
    for engine in ENGINES {
        let mut pair = Pair::new(Tcp::new(engine));
        while pair.b.engine().arm() == Armed::Busy {
            pair.step();
        }
        let mut third = pair.stranger(3, gridnet_core::testing::pair::Setup::default());
        let address = *pair.b.address();
        third.engine().open(&address).expect("the call starts");
        assert!(is_readable(&mut pair, PollTimeout::from(8000u16)));
    }
}

/// Whether the descriptor that `b` sleeps on is readable within `timeout`.
fn is_readable(pair: &mut Pair<Tcp>, timeout: PollTimeout) -> bool {
    let handle = pair.b.engine().rails()[0].wait_handle().expect("the rail has a descriptor");
    // SAFETY: the rail, which the pair owns, keeps the descriptor open.
    let file = unsafe { std::os::fd::BorrowedFd::borrow_raw(handle) };
    poll(&mut [PollFd::new(file, PollFlags::POLLIN)], timeout).is_ok_and(|count| count > 0)
}

/// Has the system refuse io_uring to this thread from now on.
fn forbid_io_uring() {
    forbid(libc::SYS_io_uring_setup);
}
