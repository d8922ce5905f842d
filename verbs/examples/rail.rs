//! How fast two engines are over the rail verbs, within a host, beside what the machine does without them: `cargo run --release -p
//! gridnet-verbs --example rail [ROUNDS [PART-OF-A-NAME]]`. Two threads on two cores, without sleep.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gridnet_core::endpoint::{CqId, Engine, Limits, SendArgs};
use gridnet_core::matching::{Pattern, Source};
use gridnet_core::mem::Iov;
use gridnet_core::rail::PeerId;
use gridnet_core::testing::pair::address_of;
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_testbed::measure::{self, beside, canary, in_turns, one_way, Subject};
use gridnet_verbs::{Security, SoftDevice, VerbsConfig, VerbsRail};

/// Round trips of one measurement, and large ones.
const TRIPS: u32 = 5000;
const LARGE_TRIPS: u32 = 60;
const LARGE: usize = 1 << 20;

fn main() {
    let subjects: [Subject; 7] = [
        ("canary: one line each way, ns", canary),
        ("raw UDP, busy, 8 B one way, ns", raw_udp),
        ("udp: message of 8 B one way, ns", || trips(udp, 8, TRIPS)),
        ("shm: message of 8 B one way, ns", || trips(shm, 8, TRIPS)),
        ("udp: messages of 1 MiB there and back, GB/s", || bandwidth(udp)),
        ("shm: messages of 1 MiB there and back, GB/s", || bandwidth(shm)),
        ("canary again, ns", canary),
    ];
    in_turns(&subjects, 11);
}

fn udp() -> SoftDevice {
    SoftDevice::over_udp([127, 0, 0, 1].into(), None).expect("a device")
}

fn shm() -> SoftDevice {
    SoftDevice::over_shm().expect("a device")
}

fn raw_udp() -> f64 {
    let open = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
    measure::raw_udp(&open(), &open(), TRIPS)
}

/// One fabric.
struct Side {
    engine: Engine<VerbsRail>,
    cq: CqId,
    peer: PeerId,
    start: Instant,
    rounds: u32,
}

impl Side {
    fn open(number: u8, device: SoftDevice) -> (Side, Address) {
        let local = address_of(number, 0);
        let config = VerbsConfig {
            local,
            device: Box::new(device),
            listen: [127, 0, 0, 1].into(),
            ports: None,
            security: Security::Insecure,
            keep_alive: Some(Duration::from_secs(1)),
            retains: true,
        };
        let rail = VerbsRail::open(config).expect("the rail opens");
        let address = Address { network: rail.listens_at(), ..local };
        let mut engine = Engine::new(address, vec![rail], Limits::default());
        let cq = engine.create_cq(64);
        (Side { engine, cq, peer: PeerId::new(0), start: Instant::now(), rounds: 0 }, address)
    }

    fn step(&mut self) {
        self.engine.progress();
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(512) || self.engine.is_connecting() {
            let now = self.start.elapsed().as_nanos() as u64;
            self.engine.maintain(Time(now));
        }
    }

    /// Posts a receive into this memory.
    fn receive(&mut self, bytes: &mut [u8]) {
        // SAFETY: whoever calls keeps the memory, and leaves it alone, until the receive has completed, or nobody calls the engine.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
        let pattern = Pattern { source: Source::Any, tag: 0, ignore: u64::MAX };
        self.engine.receive(self.cq, &pattern, iov, 0).expect("there is room");
    }

    fn send(&mut self, bytes: &mut [u8]) {
        // SAFETY: as above; a send does not write.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
        let args = SendArgs {
            cq: self.cq,
            owner: 0,
            context: 0,
            tag: 1,
            immediate: None,
            sync: false,
            always_complete: true,
        };
        self.engine.send_iov(self.peer, &[iov], &args).expect("there is room");
    }

    /// How many operations have completed since the last call.
    fn completed(&mut self) -> u32 {
        self.step();
        let (cq, mut all) = (self.cq, 0);
        self.engine.take_completions(cq, |completion| {
            assert_eq!(completion.status, 0, "an operation failed");
            all += 1;
            true
        });
        all
    }
}

/// Nanoseconds of one way of a message of `len` bytes.
fn trips(device: fn() -> SoftDevice, len: usize, count: u32) -> f64 {
    let ((mut near, _), (mut far, there)) = (Side::open(1, device()), Side::open(2, device()));
    near.peer = near.engine.open(&there).expect("the rail leads there");
    let answer = |stop: &AtomicBool| {
        let (mut bytes, mut out) = (vec![0; len], vec![0; len]);
        far.receive(&mut bytes);
        let mut left = 1;
        while !stop.load(Ordering::Relaxed) {
            left -= far.completed();
            if left == 0 {
                far.receive(&mut bytes);
                far.send(&mut out);
                left = 2;
            }
        }
    };
    beside(answer, || {
        let (mut bytes, mut out) = (vec![0; len], vec![0; len]);
        one_way(count, || {
            near.receive(&mut bytes);
            near.send(&mut out);
            let mut left = 2;
            while left > 0 {
                left -= near.completed();
            }
        })
    })
}

fn bandwidth(device: fn() -> SoftDevice) -> f64 {
    LARGE as f64 / trips(device, LARGE, LARGE_TRIPS)
}
