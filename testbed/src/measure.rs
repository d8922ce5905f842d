//! How programs that measure on a machine which others use, too, get figures that can be compared: all subjects take turns in each
//! round, so that other load, and cores that the hypervisor moves, meet all of them; what is told is the medians of the rounds. And
//! what the machine does without what is measured: one line between two cores, a bare socket.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;

/// What is measured, with its unit, and how; not a number where that is not there.
pub type Subject = (&'static str, fn() -> f64);

/// Measures, as the arguments of the program say (`[ROUNDS [PART-OF-A-NAME]]`), and prints a line for each subject.
///
/// # Panics
/// When the number of rounds is none.
pub fn in_turns(subjects: &[Subject], rounds: usize) {
    let word = |at| std::env::args().nth(at);
    let rounds = word(1).map_or(rounds, |word| word.parse().expect("a number of rounds"));
    let wanted = word(2).unwrap_or_default();
    let subjects: Vec<&Subject> = subjects.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    let mut results = vec![Vec::new(); subjects.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in subjects.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    for ((name, _), results) in subjects.iter().zip(results) {
        let Quarters([least, lower, median, upper]) = Quarters::of(results);
        println!("{name:50} median {median:9.2}   quarters {lower:9.2} {upper:9.2}   least {least:9.2}");
    }
}

/// The least of some figures, a quarter, the half, and three quarters of the way up.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quarters([f64; 4]);

impl Quarters {
    fn of(mut figures: Vec<f64>) -> Quarters {
        figures.sort_by(f64::total_cmp);
        let last = figures.len().saturating_sub(1);
        Quarters([0, 1, 2, 3].map(|part| figures.get(last * part / 4).copied().unwrap_or(f64::NAN)))
    }
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    // Where there is no such core, the figures say so.
    let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

/// Runs `other` on another core until `own` is through; what that says.
pub fn beside<R>(other: impl FnOnce(&AtomicBool) + Send, own: impl FnOnce() -> R) -> R {
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

/// Nanoseconds of one way, of so many round trips; a tenth more warms up.
pub fn one_way(trips: u32, mut trip: impl FnMut()) -> f64 {
    (0..trips / 10).for_each(|_| trip());
    let start = Instant::now();
    (0..trips).for_each(|_| trip());
    start.elapsed().as_nanos() as f64 / f64::from(trips) / 2.0
}

#[repr(align(128))]
#[derive(Default)]
struct Flag(AtomicU64);

/// Nanoseconds that one cache line takes to the other core: what any message takes at least.
pub fn canary() -> f64 {
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
        one_way(20_000, || {
            number += 1;
            ping.0.store(number, Ordering::Release);
            while pong.0.load(Ordering::Acquire) != number {}
        })
    })
}

/// Nanoseconds that 8 bytes take from one of these sockets to the other, which are not connected, and asked all the time.
///
/// # Panics
/// When they do not lead to each other.
pub fn raw_udp(near: &UdpSocket, far: &UdpSocket, trips: u32) -> f64 {
    for socket in [near, far] {
        socket.set_nonblocking(true).expect("it is a socket");
    }
    let there = far.local_addr().expect("it has an address");
    let answer = |stop: &AtomicBool| {
        let mut bytes = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((len, from)) = far.recv_from(&mut bytes) {
                far.send_to(&bytes[..len], from).expect("there is room");
            }
        }
    };
    beside(answer, || {
        let mut bytes = [0; 64];
        one_way(trips, || {
            near.send_to(&bytes[..8], there).expect("there is room");
            while near.recv_from(&mut bytes).is_err() {}
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_places_in_the_order() {
        let figures = [5.0, 1.0, 9.0, 3.0, 7.0];
        assert_eq!(Quarters::of(figures.to_vec()), Quarters([1.0, 3.0, 5.0, 7.0]));
        assert_eq!(Quarters::of(vec![4.0]), Quarters([4.0; 4]));
        assert!(Quarters::of(Vec::new()).0.iter().all(|figure| figure.is_nan()));
    }
}
