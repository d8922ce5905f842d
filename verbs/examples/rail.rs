//! How fast two engines are over the rail verbs, within a host, beside what the machine does without them: `cargo run --release -p
//! gridnet-verbs --example rail [ROUNDS [PART-OF-A-NAME]]`. Two threads on two cores, without sleep. All subjects take turns in each
//! round, and the medians of the rounds are printed: other load, and cores that the hypervisor moves, meet all of them.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gridnet_core::endpoint::{CqId, Engine, Limits, SendArgs};
use gridnet_core::matching::{Pattern, Source};
use gridnet_core::mem::Iov;
use gridnet_core::rail::PeerId;
use gridnet_core::testing::pair::address_of;
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_verbs::{Security, SoftDevice, VerbsConfig, VerbsRail};
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;

/// Round trips of one measurement, and large ones.
const TRIPS: u32 = 5000;
const LARGE_TRIPS: u32 = 60;
const LARGE: usize = 1 << 20;

/// What is measured, with its unit, and how.
type Subject = (&'static str, fn() -> f64);

fn main() {
    let rounds = std::env::args().nth(1).map_or(11, |word| word.parse().expect("a number of rounds"));
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let subjects: [Subject; 7] = [
        ("canary: one line each way, ns", canary),
        ("raw UDP, busy, 8 B one way, ns", raw_udp),
        ("udp: message of 8 B one way, ns", || trips(udp, 8, TRIPS)),
        ("shm: message of 8 B one way, ns", || trips(shm, 8, TRIPS)),
        ("udp: messages of 1 MiB there and back, GB/s", || bandwidth(udp)),
        ("shm: messages of 1 MiB there and back, GB/s", || bandwidth(shm)),
        ("canary again, ns", canary),
    ];
    let subjects: Vec<Subject> = subjects.into_iter().filter(|(name, _)| name.contains(&wanted)).collect();
    let mut results = vec![Vec::new(); subjects.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in subjects.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    for ((name, _), mut results) in subjects.iter().zip(results) {
        results.sort_by(f64::total_cmp);
        let at = |part: usize| results[(results.len() - 1) * part / 4];
        println!("{name:45} median {:9.2}   quarters {:9.2} {:9.2}", at(2), at(1), at(3));
    }
}

fn udp() -> SoftDevice {
    SoftDevice::over_udp([127, 0, 0, 1].into(), None).expect("a device")
}

fn shm() -> SoftDevice {
    SoftDevice::over_shm().expect("a device")
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    // Where there is no such core, the figures say so.
    let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

/// Runs `other` on another core until `own` is through; what that says.
fn beside<R>(other: impl FnOnce(&AtomicBool) + Send, own: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            other(&stop);
        });
        pin(0);
        let result = own();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Nanoseconds of one way.
fn timed(trips: u32, mut trip: impl FnMut()) -> f64 {
    (0..trips / 10).for_each(|_| trip());
    let start = Instant::now();
    (0..trips).for_each(|_| trip());
    start.elapsed().as_nanos() as f64 / f64::from(trips) / 2.0
}

#[repr(align(128))]
#[derive(Default)]
struct Flag(AtomicU64);

fn canary() -> f64 {
    let (ping, pong) = (Flag::default(), Flag::default());
    let answer = |stop: &AtomicBool| {
        let mut last = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = ping.0.load(Ordering::Acquire);
            if now != last {
                last = now;
                pong.0.store(now, Ordering::Release);
            }
        }
    };
    let mut number = 0;
    beside(answer, || {
        timed(TRIPS * 20, || {
            number += 1;
            ping.0.store(number, Ordering::Release);
            while pong.0.load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
        })
    })
}

fn raw_udp() -> f64 {
    let open = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (near, far) = (open(), open());
    for (socket, other) in [(&near, &far), (&far, &near)] {
        socket.connect(other.local_addr().expect("an address")).expect("it is there");
        socket.set_nonblocking(true).expect("it is a socket");
    }
    let answer = |stop: &AtomicBool| {
        let mut bytes = [0; 8];
        while !stop.load(Ordering::Relaxed) {
            if far.recv(&mut bytes).is_ok() {
                far.send(&bytes).expect("there is room");
            }
        }
    };
    beside(answer, || {
        timed(TRIPS, || {
            near.send(&[7; 8]).expect("there is room");
            while near.recv(&mut [0; 8]).is_err() {}
        })
    })
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
        timed(count, || {
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
