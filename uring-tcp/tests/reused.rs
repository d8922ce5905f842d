//! Where the ring receives, a further path takes the number of one before: what the ring still has of that one is not taken for
//! its own, however close they follow one another.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{allowed, Tcp};
use gridnet_core::rail::LinkId;
use gridnet_core::testing::node::{anything, exactly};
use gridnet_core::testing::pair::{Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::wire::{Address, NetAddresses};
use gridnet_uring_tcp::{Engine, Multirail, TcpRail, Tuning};

/// The place of the first further path in the rail's table, behind the link.
const PLACE: LinkId = LinkId(1);
/// How the extension of the handshake begins that a further path has.
const OF_PATH: [u8; 4] = [4, 0, 36, 0];
const ROUNDS: u64 = 5;
/// Messages among which a sender looks at what has come.
const MANY: usize = 200;
const PATIENCE: Duration = Duration::from_secs(100);

#[test]
fn the_end_of_a_path_is_not_that_of_its_successor() {
    if allowed(Engine::IoUringRecv) != Engine::IoUringRecv {
        return;
    }
    let mut scene = Scene::new();
    for round in 0..ROUNDS {
        scene.until("the ring receives over the path", |scene| {
            further(&mut scene.pair) == [1, 1] && scene.is_received(PLACE)
        });
        // What is shorter than 128 KiB comes over the link alone, which is then read by calls.
        scene.transfer(2 * round, 100_000);
        let link = scene.link();
        assert_eq!([link, PLACE].map(|place| scene.is_received(place)), [false, true]);
        scene.replace_path();
        scene.transfer(2 * round + 1, 1 << 20);
    }
}

struct Scene {
    pair: Pair<Tcp>,
    relay: Relay,
}

impl Scene {
    /// Two nodes, whose connections lead through a relay.
    fn new() -> Scene {
        let tuning = Tuning { keep_alive: Some(Duration::from_secs(1)), ..Tuning::default() };
        let fixture = Tcp { multirail: Multirail::Alike(2), tuning, ..Tcp::new(Engine::IoUringRecv) };
        let mut pair = Pair::strangers(fixture, Default::default());
        let address = *pair.b.address();
        let relay = Relay::new(address.network.iter().next().expect("it listens"));
        let through = Address { network: relay.at(), ..address };
        pair.to_b = pair.a.engine().open(&through).expect("the call starts");
        let mut scene = Scene { pair, relay };
        let send = scene.pair.a.send(scene.pair.to_b, b"", u64::MAX);
        let receive = scene.pair.b.receive(anything(), 0);
        scene.until("they meet", |scene| scene.pair.a.is_finished(send) && scene.pair.b.is_finished(receive));
        scene.pair.to_a = scene.pair.b.peer_of(scene.pair.a.address().node).expect("it has called");
        scene
    }

    /// Ends the path, and has the ring tell of its end in one go with the call for the next one, and behind it.
    fn replace_path(&mut self) {
        let paths = self.relay.paths();
        // The called side is to hear of the end from the link.
        self.relay.held = paths.last().copied();
        let node = self.pair.b.address().node;
        let rail = &mut self.pair.a.engine().rails_mut()[0];
        let link = rail.link_with(node).expect("there is a link");
        rail.cut_path(link);
        let start = Instant::now();
        while self.relay.paths().len() == paths.len() {
            // Who is called looks at nothing meanwhile.
            self.pair.fixture.skipped += Duration::from_micros(100);
            let now = self.pair.fixture.tick();
            self.pair.a.drive(now);
            self.relay.pump();
            assert!(start.elapsed() < PATIENCE, "no path is called for");
        }
        // Who sends much looks at the link, and only then at what the ring has: the call for a path is there, and behind it
        // comes the end of the path that was closed just now.
        let to_a = self.pair.to_a;
        let sends: Vec<_> = (0..MANY).map(|_| self.pair.b.send(to_a, b"", u64::MAX)).collect();
        self.relay.held = None;
        for send in sends {
            let receive = self.pair.a.receive(anything(), 0);
            self.until("the messages come", |scene| {
                scene.pair.a.is_finished(receive) && scene.pair.b.is_finished(send)
            });
        }
        self.until("there is another path", |scene| further(&mut scene.pair) == [1, 1]);
        // Had it ended, there would be one more.
        for _ in 0..3 {
            self.pair.fixture.skipped += Duration::from_secs(10);
            (0..200).for_each(|_| self.step());
        }
        assert_eq!(self.relay.paths().len(), paths.len() + 1, "the path has ended with the one before");
        assert_eq!(self.pair.a.engine().breaks(self.pair.to_b), (0, 0));
    }

    /// The link at the side that is called.
    fn link(&mut self) -> LinkId {
        let node = self.pair.a.address().node;
        self.pair.b.engine().rails()[0].link_with(node).expect("there is a link")
    }

    /// Whether the ring of that side receives at this place.
    fn is_received(&mut self, place: LinkId) -> bool {
        self.pair.b.engine().rails_mut()[0].is_received(place)
    }

    fn transfer(&mut self, tag: u64, len: usize) {
        let bytes = Random::new(tag).bytes(len);
        let receive = self.pair.b.receive(exactly(self.pair.to_a, tag), bytes.len());
        let send = self.pair.a.send(self.pair.to_b, &bytes, tag);
        self.until("the message comes", |scene| {
            scene.pair.a.is_finished(send) && scene.pair.b.is_finished(receive)
        });
        assert!(self.pair.b.take(receive).expect("just seen").bytes == bytes);
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Scene) -> bool) {
        let start = Instant::now();
        while !done(self) {
            self.step();
            assert!(start.elapsed() < PATIENCE, "not so far: {what}");
        }
    }

    fn step(&mut self) {
        self.relay.pump();
        self.pair.step();
    }
}

/// Further paths, as both sides see them.
fn further(pair: &mut Pair<Tcp>) -> [usize; 2] {
    let nodes = [pair.a.address().node, pair.b.address().node];
    let count = |rail: &TcpRail, other| rail.link_with(other).map_or(0, |link| rail.further(link));
    [count(&pair.a.engine().rails()[0], nodes[1]), count(&pair.b.engine().rails()[0], nodes[0])]
}

/// Passes on what is said over connections, but over one that is held.
struct Relay {
    listener: TcpListener,
    to: SocketAddr,
    wires: Vec<Wire>,
    held: Option<usize>,
}

struct Wire {
    ends: [TcpStream; 2],
    /// What is still to be said, from the caller to the called, and back.
    lines: [Vec<u8>; 2],
    /// The called has heard that it is a further path.
    is_path: bool,
    is_over: [bool; 2],
}

impl Relay {
    fn new(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        listener.set_nonblocking(true).expect("it can be set");
        Relay { listener, to, wires: Vec::new(), held: None }
    }

    fn at(&self) -> NetAddresses {
        let at = self.listener.local_addr().expect("it listens");
        NetAddresses::new(at.port(), [at.ip()])
    }

    /// Connections that are further paths.
    fn paths(&self) -> Vec<usize> {
        (0..self.wires.len()).filter(|number| self.wires[*number].is_path).collect()
    }

    fn pump(&mut self) {
        while let Ok((near, _)) = self.listener.accept() {
            let ends = [near, TcpStream::connect(self.to).expect("it listens")];
            for end in &ends {
                end.set_nonblocking(true).expect("it can be set");
                end.set_nodelay(true).expect("it can be set");
            }
            self.wires.push(Wire { ends, lines: Default::default(), is_path: false, is_over: [false; 2] });
        }
        let held = self.held;
        for (_, wire) in self.wires.iter_mut().enumerate().filter(|(number, _)| Some(*number) != held) {
            wire.pump();
        }
    }
}

impl Wire {
    fn pump(&mut self) {
        for way in 0..2 {
            let mut buffer = [0; 4096];
            while !self.is_over[way] && self.lines[way].len() < 1 << 20 {
                match self.ends[way].read(&mut buffer) {
                    Ok(len) if len > 0 => self.lines[way].extend_from_slice(&buffer[..len]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    _ => self.is_over[way] = true,
                }
            }
            while !self.lines[way].is_empty() {
                match self.ends[1 - way].write(&self.lines[way]) {
                    Ok(len) => {
                        let said = self.lines[way].drain(..len).collect::<Vec<u8>>();
                        self.is_path |= way == 0 && said.windows(4).any(|bytes| bytes == OF_PATH);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => self.lines[way].clear(),
                }
            }
            if self.is_over[way] && self.lines[way].is_empty() {
                // An error says that it has ended.
                let _ = self.ends[1 - way].shutdown(Shutdown::Write);
            }
        }
    }
}
