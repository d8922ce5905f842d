//! Three users of one fabric on one path, each with a completion queue of its own on both sides: a ping-pong, many small calls, and
//! large messages. Each alone, then all together, in several rounds: how much of a third of its own each keeps, and how long the
//! ping-pong takes. Medians of the rounds.
//!
//! `cargo bench -p gridnet-bench --bench sharing -- shm` or `tcp`. Both sides are threads of this process, on two cores.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet::config::Config;
use gridnet::Fabric;
use gridnet_core::completion::Completion;
use gridnet_core::endpoint::{CqId, SendArgs, Sent};
use gridnet_core::matching::{Pattern, Source};
use gridnet_core::mem::Iov;
use gridnet_core::rail::PeerId;
use gridnet_core::wire::Address;

const SMALL: usize = 8;
const LARGE: usize = 1 << 20;
/// Calls that wait for their answer,
const CALLS: usize = 64;
/// and large messages under way.
const LARGES: usize = 4;
/// How long each is measured,
const SPAN: Duration = Duration::from_millis(500);
/// and how often.
const ROUNDS: usize = 7;

/// Who sends: tag, and completion queue.
const PING: usize = 0;
const CALL: usize = 1;
const BULK: usize = 2;
const NAMES: [&str; 3] = ["ping-pong", "calls", "bulk"];

fn open(rail: &str, dir: &std::path::Path) -> Fabric {
    let settings = [
        ("GRIDNET_RAILS", rail),
        ("GRIDNET_RUN_DIR", dir.to_str().expect("a plain path")),
        ("GRIDNET_NET_INSECURE", "1"),
        ("GRIDNET_NET_INTERFACES", "lo"),
    ];
    let settings: Vec<_> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let config = Config::from_sources(std::iter::empty(), &settings).expect("the settings are valid");
    Fabric::open_for(config, None, true).expect("the fabric opens")
}

/// Memory that is there for as long as the process is.
fn memory(len: usize) -> Iov {
    let bytes = Vec::leak(vec![1u8; len]);
    // SAFETY: never freed, and nobody else has it. What is received there is looked at by nobody.
    unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) }
}

/// A queue for each user.
fn queues(fabric: &mut Fabric) -> [CqId; 3] {
    [(); 3].map(|()| fabric.engine.create_cq(1 << 12))
}

fn post(fabric: &mut Fabric, cq: CqId, tag: usize, iov: Iov) {
    let pattern = Pattern { source: Source::Any, tag: tag as u64, ignore: 0 };
    fabric.engine.receive(cq, &pattern, iov, tag as u64).expect("there is room");
}

/// Sends; whether a completion follows.
fn send(fabric: &mut Fabric, cq: CqId, to: PeerId, tag: usize, iov: Iov) -> bool {
    if fabric.engine.send_now(to, iov, tag as u64) {
        return false;
    }
    let args = SendArgs {
        cq,
        owner: 0,
        context: u64::MAX,
        tag: tag as u64,
        immediate: None,
        sync: false,
        always_complete: false,
    };
    let sent = fabric.engine.send_iov(to, &[iov], &args).expect("the peer lives");
    matches!(sent, Sent::InProgress(_))
}

/// The other side: answers what is small, and receives what is large.
fn serve(mut fabric: Fabric, is_over: &AtomicBool) {
    let cqs = queues(&mut fabric);
    let (small, large) = (memory(SMALL), memory(LARGE));
    let answer = memory(SMALL);
    (0..2).for_each(|_| post(&mut fabric, cqs[PING], PING, small));
    (0..2 * CALLS).for_each(|_| post(&mut fabric, cqs[CALL], CALL, small));
    (0..2 * LARGES).for_each(|_| post(&mut fabric, cqs[BULK], BULK, large));
    let mut came: Vec<Completion> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        fabric.poll_round();
        for cq in cqs {
            fabric.engine.take_completions(cq, |completion| {
                came.push(completion);
                true
            });
        }
        for Completion { context, source, .. } in came.drain(..).filter(|c| c.context != u64::MAX) {
            let tag = context as usize;
            post(&mut fabric, cqs[tag], tag, if tag == BULK { large } else { small });
            if tag != BULK {
                send(&mut fabric, cqs[tag], PeerId::new(source), tag, answer);
            }
        }
    }
}

/// The side that calls, with a queue for each user.
struct Caller {
    fabric: Fabric,
    to: PeerId,
    cqs: [CqId; 3],
    small: Iov,
    large: Iov,
}

/// What came of one measurement.
#[derive(Default)]
struct Outcome {
    /// Messages there and back, or one way, of each user.
    counts: [u64; 3],
    took: Duration,
    /// Times of the ping-pong.
    times: Vec<Duration>,
}

impl Outcome {
    fn rate(&self, user: usize) -> f64 {
        self.counts[user] as f64 / self.took.as_secs_f64()
    }

    fn time(&self, quantile: f64) -> f64 {
        let at = (self.times.len() as f64 * quantile) as usize;
        self.times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

impl Caller {
    fn new(mut fabric: Fabric, address: &Address) -> Caller {
        let to = fabric.engine.open(address).expect("the rail leads there");
        let cqs = queues(&mut fabric);
        Caller { fabric, to, cqs, small: memory(SMALL), large: memory(LARGE) }
    }

    /// Starts a message of a user: for small ones, with a receive for the answer.
    fn start(&mut self, user: usize) {
        if user != BULK {
            post(&mut self.fabric, self.cqs[user], user, self.small);
        }
        let iov = if user == BULK { self.large } else { self.small };
        send(&mut self.fabric, self.cqs[user], self.to, user, iov);
    }

    fn run(&mut self, users: &[usize]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut under_way = [0; 3];
        for &user in users {
            under_way[user] = [1, CALLS, LARGES][user];
            (0..under_way[user]).for_each(|_| self.start(user));
        }
        let begin = Instant::now();
        let mut sent_at = begin;
        while under_way != [0; 3] {
            self.fabric.poll_round();
            let goes_on = begin.elapsed() < SPAN;
            for &user in users {
                let mut ended = 0;
                // Of small messages the answer counts, of large ones the end of the send.
                self.fabric.engine.take_completions(self.cqs[user], |completion| {
                    ended += usize::from((user == BULK) == (completion.context == u64::MAX));
                    true
                });
                under_way[user] -= ended;
                if ended == 0 || !goes_on {
                    continue;
                }
                outcome.counts[user] += ended as u64;
                if user == PING {
                    outcome.times.push(sent_at.elapsed());
                    sent_at = Instant::now();
                }
                under_way[user] += ended;
                (0..ended).for_each(|_| self.start(user));
            }
        }
        outcome.took = begin.elapsed().min(SPAN);
        outcome.times.sort_unstable();
        outcome
    }
}

fn measure(rail: &'static str) {
    let dir = std::env::temp_dir().join(format!("gridnet-sharing-{}", std::process::id()));
    let is_over = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let server = std::thread::spawn({
        let (dir, is_over) = (dir.clone(), is_over.clone());
        move || {
            let fabric = open(rail, &dir);
            tell.send(*fabric.address()).expect("somebody listens");
            serve(fabric, &is_over);
        }
    });
    let address = told.recv().expect("the other side opens its fabric");
    let mut caller = Caller::new(open(rail, &dir), &address);
    caller.run(&[PING]);
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| ([PING, CALL, BULK].map(|user| caller.run(&[user])), caller.run(&[PING, CALL, BULK])))
        .collect();
    // Alone, together, and the ratio of the two in one round.
    let medians = |alone: &dyn Fn(&[Outcome; 3]) -> f64, together: &dyn Fn(&Outcome) -> f64| {
        let pairs = rounds.iter().map(|(one, all)| (alone(one), together(all)));
        let (one, all): (Vec<_>, Vec<_>) = pairs.unzip();
        let ratios = one.iter().zip(&all).map(|(one, all)| all / one).collect();
        [one, all, ratios].map(median)
    };
    println!("rail {rail}: messages per second alone, together, and together over a third of alone");
    for user in [PING, CALL, BULK] {
        let [one, all, ratio] = medians(&|alone| alone[user].rate(user), &|together| together.rate(user));
        println!("  {:<10} {one:>12.0} {all:>12.0} {:>8.2}", NAMES[user], ratio * 3.0);
    }
    for (what, quantile) in [("median", 0.5), ("p99", 0.99)] {
        let [one, all, ratio] = medians(&|alone| alone[PING].time(quantile), &|all| all.time(quantile));
        println!("  ping-pong {what}: {one:.2} us alone, {all:.2} us together, {ratio:.2} x");
    }
    is_over.store(true, Ordering::Relaxed);
    server.join().expect("the other side ends well");
    let _ = std::fs::remove_dir_all(dir);
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for rail in ["shm", "tcp"] {
        if chosen.is_empty() || chosen.iter().any(|name| name == rail) {
            measure(rail);
        }
    }
}
