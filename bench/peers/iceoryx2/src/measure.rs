//! The loops of `gridnet perf`, and of the C programs beside this one.

use crate::pipe::{Loan, Pipe};
use std::error::Error;
use std::time::Instant;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the command line asks for.
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) size: usize,
    pub(crate) ms: f64,
    pub(crate) cores: (usize, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Half a round trip, from private memory to private memory.
    Latency,
    /// Half a round trip of a loan.
    LoanLatency,
    /// A window of messages, then one acknowledgement.
    Stream,
}

impl Op {
    pub(crate) fn named(name: &str) -> Option<Op> {
        match name {
            "tag_lat" => Some(Op::Latency),
            "loan_lat" => Some(Op::LoanLatency),
            "tag_bw" | "tag_rate" => Some(Op::Stream),
            _ => None,
        }
    }
}

/// Measures about as long as the call says; the result as JSON.
pub(crate) fn lead(pipe: &Pipe, call: &Call) -> Outcome<String> {
    let mut end = End::new(pipe, call, 0x11, 0x66);
    let mut rounds = FIRST_TRIAL;
    let rounds = loop {
        let trial = end.lead(1, rounds)?;
        let p50_ns = trial.percentile(50) * trial.messages as f64;
        if p50_ns >= TRIAL_NS || rounds >= MOST_ROUNDS {
            // A trial that was interrupted is long on average only; one that is always so must not take for ever.
            let round_ns = p50_ns.max(trial.total_ns / 8.0) / rounds as f64;
            break ((call.ms * 1e6 / round_ns) as u64).clamp(FIRST_TRIAL, MOST_ROUNDS);
        }
        rounds *= 10;
    };
    let samples = end.lead((rounds / 10).clamp(1, 10_000), rounds)?;
    end.order(0, 0)?;
    Ok(format!(
        "{{\"p50_ns\": {:.2}, \"p99_ns\": {:.2}, \"avg_ns\": {:.2}, \"messages\": {}}}",
        samples.percentile(50),
        samples.percentile(99),
        samples.total_ns / samples.messages as f64,
        samples.messages
    ))
}

/// Takes part in what the leader orders.
pub(crate) fn follow(pipe: &Pipe, call: &Call) -> Outcome<()> {
    let mut end = End::new(pipe, call, 0x66, 0x11);
    loop {
        let mut order = [0; 16];
        pipe.take(&mut order)?;
        let number = |at: usize| u64::from_le_bytes(order[at..at + 8].try_into().expect("8 bytes"));
        let (warmup, rounds) = (number(0), number(8));
        end.wipe();
        pipe.send(&NOTE)?;
        if rounds == 0 {
            return Ok(());
        }
        for _ in 0..warmup + rounds {
            end.answer()?;
        }
        end.verify()?;
    }
}

/// One end of what is measured.
struct End<'a> {
    pipe: &'a Pipe,
    op: Op,
    out: Vec<u8>,
    incoming: Vec<u8>,
    incoming_seed: u8,
    /// What the leader has not given back yet.
    held: Option<Loan>,
}

impl<'a> End<'a> {
    fn new(pipe: &'a Pipe, call: &Call, seed: u8, incoming_seed: u8) -> End<'a> {
        let out: Vec<u8> = (0..call.size).map(|at| pattern(at, seed)).collect();
        End { pipe, op: call.op, incoming: out.clone(), out, incoming_seed, held: None }
    }

    fn order(&self, warmup: u64, rounds: u64) -> Outcome<()> {
        self.pipe.send(&[warmup.to_le_bytes(), rounds.to_le_bytes()].concat())?;
        self.pipe.take(&mut NOTE.clone())
    }

    fn lead(&mut self, warmup: u64, rounds: u64) -> Outcome<Samples> {
        self.order(warmup, rounds)?;
        self.wipe();
        let start = Instant::now();
        for _ in 0..warmup {
            self.ask()?;
        }
        let round_trip_ns = start.elapsed().as_nanos() as u64 / warmup;
        let batch = match self.op {
            Op::Stream => 1,
            _ if round_trip_ns < BATCH_BELOW_NS => BATCH,
            _ => 1,
        };
        let each = if self.op == Op::Stream { WINDOW as u64 } else { 2 };
        let mut samples = Samples::with_capacity(rounds.div_ceil(batch));
        let mut left = rounds;
        while left > 0 {
            let now = batch.min(left);
            let start = Instant::now();
            for _ in 0..now {
                self.ask()?;
            }
            samples.add(start.elapsed().as_nanos() as f64, now * each);
            left -= now;
        }
        if self.op == Op::Latency {
            self.verify()?;
        }
        samples.per_message_ns.sort_by(f64::total_cmp);
        Ok(samples)
    }

    /// One round of the leader.
    #[inline]
    fn ask(&mut self) -> Outcome<()> {
        match self.op {
            Op::Latency => {
                self.pipe.send(&self.out)?;
                self.pipe.take(&mut self.incoming)
            }
            Op::LoanLatency => {
                // As in gridnet: a loan goes back once the answer to it is on its way.
                self.pipe.send_loan(self.out.len(), THERE)?;
                self.held = Some(self.pipe.take_loan(BACK)?);
                Ok(())
            }
            Op::Stream => {
                for _ in 0..WINDOW {
                    self.pipe.send(&self.out)?;
                }
                self.pipe.take(&mut NOTE.clone())
            }
        }
    }

    /// One round of the follower.
    #[inline]
    fn answer(&mut self) -> Outcome<()> {
        match self.op {
            Op::Latency => {
                self.pipe.take(&mut self.incoming)?;
                self.pipe.send(&self.out)
            }
            Op::LoanLatency => {
                let _held = self.pipe.take_loan(THERE)?;
                self.pipe.send_loan(self.out.len(), BACK)
            }
            Op::Stream => {
                for _ in 0..WINDOW {
                    self.pipe.take(&mut self.incoming)?;
                }
                self.pipe.send(&NOTE)
            }
        }
    }

    fn wipe(&mut self) {
        self.incoming.fill(0);
    }

    fn verify(&self) -> Outcome<()> {
        let whole =
            self.incoming.iter().enumerate().all(|(at, byte)| *byte == pattern(at, self.incoming_seed));
        match whole || self.op == Op::LoanLatency {
            true => Ok(()),
            false => Err("a message did not arrive as it was sent".into()),
        }
    }
}

struct Samples {
    per_message_ns: Vec<f64>,
    total_ns: f64,
    messages: u64,
}

impl Samples {
    fn with_capacity(count: u64) -> Samples {
        Samples { per_message_ns: Vec::with_capacity(count as usize), total_ns: 0.0, messages: 0 }
    }

    #[inline]
    fn add(&mut self, elapsed_ns: f64, messages: u64) {
        self.per_message_ns.push(elapsed_ns / messages as f64);
        self.total_ns += elapsed_ns;
        self.messages += messages;
    }

    /// The smallest sample that `percent` of 100 do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.per_message_ns.len() * percent).div_ceil(100);
        self.per_message_ns[rank.saturating_sub(1)]
    }
}

fn pattern(at: usize, seed: u8) -> u8 {
    (at.wrapping_mul(7) as u8) ^ ((at >> 8) as u8) ^ seed
}

/// Messages under way in `tag_bw` and `tag_rate`.
pub(crate) const WINDOW: usize = 64;

/// Round trips between two looks at the clock where one takes less than [`BATCH_BELOW_NS`].
const BATCH: u64 = 16;
const BATCH_BELOW_NS: u64 = 2_000;

const FIRST_TRIAL: u64 = 20;
const MOST_ROUNDS: u64 = 1_000_000;

/// A trial as long as this says how long a round takes.
const TRIAL_NS: f64 = 5e6;

const NOTE: [u8; 8] = [1; 8];

/// What the leader and the follower write into loans.
const THERE: u8 = 0x11;
const BACK: u8 = 0x66;
