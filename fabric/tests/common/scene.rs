//! A session that is served on this host, which fabrics join with its ticket.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gridnet::core::rail::{PeerId, Refusal};
use gridnet::ThreadLevel;
use gridnet_meta::clock::Moment;
use gridnet_meta::member::{About, Member};
use gridnet_meta::rendezvous::Rendezvous;
use gridnet_meta::store::{NewSession, NewTicket, Store};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Rules;

use super::{exactly, from_any, Buffer, Party, Scratch, PATIENCE};

const DAY: Duration = Duration::from_secs(86_400);
pub const LO: (&str, &str) = ("GRIDNET_NET_INTERFACES", "127.0.0.1");

/// The rendez-vous node and its directory.
pub struct Scene {
    pub scratch: Scratch,
    rendezvous: Option<Rendezvous>,
}

impl Scene {
    pub fn new() -> Scene {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).unwrap();
        let ticket = NewTicket { lifetime: DAY, uses: None };
        let new = NewSession { listen: vec![free_address()], addresses: Vec::new(), insecure: false, ticket };
        let mut scene = Scene { scratch, rendezvous: None };
        Store::create(&scene.dir(), &new, Moment::now()).unwrap();
        scene.start();
        scene
    }

    pub fn dir(&self) -> PathBuf {
        self.scratch.0.join("session")
    }

    pub fn ticket(&self) -> String {
        self.dir().join("ticket").to_str().unwrap().to_owned()
    }

    pub fn start(&mut self) {
        // Nobody is lost because a machine is busy.
        let rules = Rules { silence: Duration::from_secs(60), ..Rules::default() };
        self.rendezvous = Some(Rendezvous::start(Store::open(&self.dir()).unwrap(), rules).unwrap());
    }

    pub fn stop(&mut self) {
        self.rendezvous = None;
    }

    pub fn store(&self) -> Store {
        Store::open(&self.dir()).unwrap()
    }

    /// A fabric that joins.
    pub fn party(&self, level: ThreadLevel, options: &[(&str, &str)]) -> Party {
        self.try_party(level, options).expect("the fabric joins and opens")
    }

    pub fn try_party(&self, level: ThreadLevel, options: &[(&str, &str)]) -> Result<Party, Refusal> {
        let ticket = self.ticket();
        let own = [LO, ("GRIDNET_SESSION", ticket.as_str()), ("GRIDNET_SESSION_TIMEOUT", "60s")];
        Party::try_open(&self.scratch.0.join("run"), None, level, &[&own, options].concat())
    }

    /// Somebody who watches.
    pub fn watcher(&self) -> Member {
        let ticket = Ticket::read(self.ticket().as_ref()).unwrap();
        let cluster = Some("watchers".parse().unwrap());
        Member::join(ticket, About { cluster, ..About::new("watcher".parse().unwrap()) }, 4 * PATIENCE)
            .unwrap()
    }
}

/// What one says as the `n`th message, and how long it is.
fn message(n: usize) -> (u8, usize) {
    (n as u8, [0, 8, 5000, 300_000][n % 4])
}

/// So many messages there and back, in order.
pub fn converse(a: &Party, to: PeerId, b: &Party, count: usize) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..count {
                let (_, len) = message(n);
                let buffer = Buffer::new(len);
                b.receive(from_any(1), buffer).unwrap();
                let received = b.wait_received();
                assert_eq!(received.length as usize, len);
                b.send_buffer(PeerId::new(received.source), buffer, 2).unwrap();
            }
            while !over.load(Ordering::Relaxed) {
                let _ = b.wait(Duration::from_millis(5));
            }
        });
        for n in 0..count {
            let (word, len) = message(n);
            let (out, back) = (Buffer::new(len), Buffer::new(len));
            out.fill(word);
            a.receive(exactly(to, 2), back).unwrap();
            a.send_buffer(to, out, 1).unwrap();
            assert_eq!(a.wait_received().length as usize, len);
            assert!(back.to_vec().iter().all(|byte| *byte == word), "message {n}");
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// A port below those that the system gives to connections.
fn free_address() -> SocketAddr {
    static TRIED: AtomicU64 = AtomicU64::new(0);
    let seed = u64::from(std::process::id()) * 7919;
    loop {
        let next = seed + TRIED.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + u16::try_from(next % 12_000).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
