//! The rows about many peers, and about waiting: what a fabric costs that is not busy.

use super::ops::{self, peers::Caller};
use super::plan::Spec;
use super::row::rounded;
use super::session::Session;
use super::stats::{median, Samples};
use super::task::{Order, Task};
use crate::args::Op;
use crate::failure::Failure;
use rustix::time::{clock_gettime, ClockId};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What these rows say besides times; what does not apply is null.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Scale {
    /// Peers that were connected.
    pub(crate) peers: Option<usize>,
    /// Median over that with one peer.
    pub(crate) ratio_to_one_peer: Option<f64>,
    /// Memory of a further peer, of both processes, in 1024 bytes.
    pub(crate) kib_per_peer: Option<f64>,
    /// Descriptors of a further peer, in the process that has more.
    pub(crate) fds_per_peer: Option<f64>,
    /// Processor time over time.
    pub(crate) cpu_percent: Option<f64>,
}

impl Scale {
    /// Whether there is a figure that is no time.
    pub(crate) fn says_something(&self) -> bool {
        self.kib_per_peer.is_some() || self.cpu_percent.is_some()
    }

    /// The figures for the end of a table's line.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        [
            self.peers.map(|count| format!("{count} peers")),
            self.ratio_to_one_peer.map(|ratio| format!("{ratio:.3} x one peer")),
            self.kib_per_peer.map(|kib| format!("{kib:.1} KiB a peer")),
            self.fds_per_peer.map(|count| format!("{count:.2} descriptors a peer")),
            self.cpu_percent.map(|percent| format!("{percent:.3} % of a core")),
        ]
        .into_iter()
        .flatten()
    }
}

impl Session<'_> {
    /// A row of one of the operations of this file.
    pub(super) fn scale(&mut self, spec: Spec) -> Result<(Samples, Scale), Failure> {
        let row = match spec.op {
            Op::PeersOpen => self.peers_open(),
            Op::PeersMemory => self.peers_memory(),
            Op::PeersLat => self.peers_lat(spec),
            _ => self.idle_cpu(),
        };
        // The next row finds neither their memory nor their descriptors.
        if spec.op != Op::IdleCpu && row.is_ok() {
            self.order(&Order::Disperse)?;
            self.peer.done()?;
        }
        row
    }

    /// The time until all fabrics of a fresh crowd are called and have answered.
    fn peers_open(&mut self) -> Result<(Samples, Scale), Failure> {
        let peers = self.plan.peers;
        let count = self.plan.counts.iters.unwrap_or(OPENINGS).min(MOST_OPENINGS);
        let mut samples = Samples::with_capacity(count);
        for _ in 0..count {
            let mut caller = self.gather(peers)?;
            let elapsed =
                self.echoing(0, peers, 1, |caller, buffer| caller.call(peers, buffer), &mut caller)?;
            samples.add(elapsed.as_nanos() as f64, 1.0);
        }
        Ok((samples, Scale { peers: Some(peers), ..Scale::default() }))
    }

    /// What all peers but the first cost, after every slot of their rings was used. The crowd has worked for another caller
    /// before, so that its fabrics have taken what they take for themselves.
    fn peers_memory(&mut self) -> Result<(Samples, Scale), Failure> {
        let peers = self.plan.peers;
        let mut earlier = self.gather(peers)?;
        self.connect_and_use(0, peers, &mut earlier)?;
        let mut caller = earlier.another(&self.plan.options)?;
        self.connect_and_use(0, 1, &mut caller)?;
        let before = self.footprint()?;
        self.connect_and_use(1, peers - 1, &mut caller)?;
        let after = self.footprint()?;
        let per_peer =
            |before: u64, after: u64| rounded(after.saturating_sub(before) as f64 / (peers - 1) as f64);
        let pss_kib = |both: [Footprint; 2]| both.iter().map(|footprint| footprint.pss_kib).sum();
        let fds = before.into_iter().zip(after).map(|(before, after)| per_peer(before.fds, after.fds));
        let scale = Scale {
            peers: Some(peers),
            kib_per_peer: Some(per_peer(pss_kib(before), pss_kib(after))),
            fds_per_peer: fds.reduce(f64::max),
            ..Scale::default()
        };
        Ok((Samples::default(), scale))
    }

    fn connect_and_use(&mut self, first: usize, count: usize, caller: &mut Caller) -> Result<(), Failure> {
        self.echoing(first, count, 1, |caller, buffer| caller.call(count, buffer), caller)?;
        self.echoing(
            first,
            count,
            ROUNDS_OF_USE,
            |caller, buffer| caller.exchange(first, ROUNDS_OF_USE, buffer),
            caller,
        )
    }

    /// The latency with one peer and with all, in turn.
    fn peers_lat(&mut self, spec: Spec) -> Result<(Samples, Scale), Failure> {
        let peers = self.plan.peers;
        let mut caller = self.gather(peers)?;
        self.echoing(0, peers, 1, |caller, buffer| caller.call(peers, buffer), &mut caller)?;
        let (many, _idle) = caller.into_link(self.plan.largest())?;
        let task = |warmup, rounds| Task { op: Op::TagLat, size: spec.size, warmup, rounds, window: 1 };
        let rounds = match self.plan.counts.iters {
            Some(iters) => iters,
            None => self.rounds(|rounds| task(1, rounds))?.div_ceil(PARTS),
        };
        let task = task(rounds.div_ceil(10), rounds);
        let mut samples = Samples::with_capacity(PAIRS);
        let mut ratios = Vec::new();
        for _ in 0..PAIRS {
            let one = self.run(task)?.summary();
            self.order(&Order::RunGathered(task))?;
            self.peer.ready()?;
            let all = ops::lead(&many, task).map_err(|error| self.peer.cause(error))?.summary();
            self.peer.done()?;
            if let Some((one, all)) = one.zip(all) {
                samples.add(all.p50_ns, 1.0);
                ratios.push(all.p50_ns / one.p50_ns);
            }
        }
        let scale =
            Scale { peers: Some(peers), ratio_to_one_peer: median(ratios).map(rounded), ..Scale::default() };
        Ok((samples, scale))
    }

    /// The share of a core that a wait takes.
    fn idle_cpu(&mut self) -> Result<(Samples, Scale), Failure> {
        let timeout = idle_wait(self.plan.counts.iters);
        let (start, cpu) = (Instant::now(), processor_time());
        if !self.link.wait_in_vain(timeout)? {
            return Err(Failure::Run("an entry came to a queue without operations".into()));
        }
        let (elapsed, cpu) = (start.elapsed(), processor_time().saturating_sub(cpu));
        let percent = rounded(100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64());
        Ok((Samples::default(), Scale { cpu_percent: Some(percent), ..Scale::default() }))
    }

    /// A crowd in the peer process, and a fabric of this one that is to call it.
    fn gather(&mut self, count: usize) -> Result<Caller, Failure> {
        self.order(&Order::Gather { count })?;
        let addresses = self.peer.gathered()?;
        self.peer.done()?;
        Caller::open(&self.plan.options, &addresses)
    }

    /// Does something while part of the crowd answers.
    fn echoing<T>(
        &mut self,
        first: usize,
        count: usize,
        rounds: u64,
        lead: impl FnOnce(&mut Caller, crate::cabi::Buffer) -> Result<T, Failure>,
        caller: &mut Caller,
    ) -> Result<T, Failure> {
        self.order(&Order::Echo { first, count, rounds })?;
        self.peer.ready()?;
        let done = lead(caller, self.small).map_err(|error| self.peer.cause(error))?;
        self.peer.done()?;
        Ok(done)
    }

    fn order(&mut self, order: &Order) -> Result<(), Failure> {
        self.peer.order(order)
    }

    /// What both processes hold.
    fn footprint(&mut self) -> Result<[Footprint; 2], Failure> {
        self.order(&Order::Weigh)?;
        let there = self.peer.weighed()?;
        self.peer.done()?;
        Ok([Footprint::own()?, there])
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Footprint {
    /// Memory; a page that two processes have mapped counts half in each.
    pss_kib: u64,
    /// Descriptors.
    fds: u64,
}

impl Footprint {
    /// Of this process.
    pub(crate) fn own() -> Result<Footprint, Failure> {
        let maps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let pss_kib = pss_kib(&maps).ok_or_else(|| Failure::Run("smaps_rollup has no Pss".into()))?;
        Ok(Footprint { pss_kib, fds: std::fs::read_dir("/proc/self/fd")?.count() as u64 })
    }
}

fn pss_kib(maps: &str) -> Option<u64> {
    maps.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())
}

/// How long `idle_cpu` waits.
pub(super) fn idle_wait(iters: Option<u64>) -> Duration {
    WAIT_UNIT * iters.map_or(WAIT_UNITS, |iters| iters.min(MOST_WAIT_UNITS) as u32)
}

/// Time that this process has run.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Samples of `peers_open`.
const OPENINGS: u64 = 5;
const MOST_OPENINGS: u64 = 1000;

/// More messages than a ring has slots unless it was configured to: every slot is used in both directions.
const ROUNDS_OF_USE: u64 = 320;

/// Pairs of measurements in `peers_lat`.
const PAIRS: u64 = 9;
/// Each takes that part of the time of a row.
const PARTS: u64 = 4;

/// The wait of `idle_cpu`: 5 s, or a tenth of a second for each iteration that is asked for.
const WAIT_UNIT: Duration = Duration::from_millis(100);
const WAIT_UNITS: u32 = 50;
const MOST_WAIT_UNITS: u64 = 36_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proportional_size_is_found_among_its_parts() {
        let maps =
            "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  9 kB\nPss:      1234 kB\nPss_Anon:  5 kB\n";
        assert_eq!(pss_kib(maps), Some(1234));
        assert_eq!(pss_kib("Rss: 9 kB\n"), None);
    }

    #[test]
    fn notes_say_what_applies() {
        let scale = Scale {
            peers: Some(255),
            kib_per_peer: Some(17.25),
            fds_per_peer: Some(2.0),
            ..Scale::default()
        };
        let notes: Vec<String> = scale.notes().collect();
        assert_eq!(notes, ["255 peers", "17.2 KiB a peer", "2.00 descriptors a peer"]);
        assert!(scale.says_something() && !Scale::default().says_something());
    }

    #[test]
    fn processor_time_passes() {
        let start = processor_time();
        while processor_time() == start {
            std::hint::spin_loop();
        }
    }
}
