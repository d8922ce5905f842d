//! A measurement under way: the peer process, the path to it, and the rules for a row.

use super::link::{Link, Side};
use super::ops::{self, connect, raw};
use super::peer::Peer;
use super::plan::{PeerState, Plan, Spec};
use super::row::Row;
use super::scale::Scale;
use super::serve::{greet, until_asleep, HELLO};
use super::stats::Samples;
use super::task::{Here, Order, Task};
use crate::args::Op;
use crate::cabi::{Address, Buffer, Fabric, Kind};
use crate::canary;
use crate::failure::Failure;
use crate::raw_tcp;
use gridnet::proof;
use std::time::Duration;

/// Both processes, connected.
pub(crate) struct Session<'a> {
    pub(super) plan: &'a Plan,
    pub(super) link: Link,
    pub(super) small: Buffer,
    rails: String,
    // Last: the path is closed before the peer ends.
    pub(super) peer: Peer,
}

impl<'a> Session<'a> {
    /// Connects to the peer, which has a fabric.
    pub(crate) fn start(plan: &'a Plan, mut peer: Peer, here: &Here) -> Result<Session<'a>, Failure> {
        let link = match connect_to(&here.address, plan) {
            Ok(link) => link,
            Err(failure) => return Err(peer.cause(failure)),
        };
        peer.done()?;
        let rails = rails_of(&link.explain()?);
        Ok(Session { plan, link, small: Buffer::new(connect::SIZE, 0), rails, peer })
    }

    /// Measures one row, again if the cores moved meanwhile.
    pub(crate) fn measure(&mut self, spec: Spec) -> Result<Row, Failure> {
        let (samples, canary_ns, stable) = until_stable(|| {
            let before = self.canary(spec.op)?;
            let samples = self.samples(spec)?;
            Ok((samples, before.zip(self.canary(spec.op)?)))
        })?;
        Row::new(self.plan, &self.rails, spec, samples, canary_ns, !stable)
    }

    fn samples(&mut self, spec: Spec) -> Result<(Samples, Scale), Failure> {
        let what = format!("{} of {} bytes", spec.op, spec.size);
        let plain = |samples| (samples, Scale::default());
        let samples = match (spec.op, spec.peer) {
            (Op::PeersOpen | Op::PeersMemory | Op::PeersLat | Op::IdleCpu, _) => self.scale(spec),
            (Op::Canary, _) => self.canary_samples().map(plain),
            (Op::RawTcp, _) => self.raw_samples(spec.size).map(plain),
            (_, Some(state)) => self.connections(state).map(plain),
            _ => self.messages(spec).map(plain),
        };
        samples.map_err(|failure| failure.during(&what))
    }

    /// The distance of the cores, where it matters.
    fn canary(&self, op: Op) -> Result<Option<f64>, Failure> {
        let pair = self.plan.placement.pair().filter(|_| !matches!(op, Op::PeersMemory | Op::IdleCpu));
        Ok(pair.map(|(a, b)| canary::median(a, b)).transpose()?)
    }

    fn canary_samples(&self) -> Result<Samples, Failure> {
        let mut samples = Samples::default();
        if let Some((a, b)) = self.plan.placement.pair() {
            let batches = canary::measure(a, b, CANARY_BATCHES)?;
            batches.into_iter().for_each(|one_way_ns| samples.add(one_way_ns, 1.0));
        }
        Ok(samples)
    }

    fn raw_samples(&mut self, size: usize) -> Result<Samples, Failure> {
        let mut samples = Samples::default();
        let measured = if self.peer.id().is_some() {
            let rounds = self.plan.counts.iters.unwrap_or(RAW_ROUNDS);
            raw_tcp::measure(self.plan.placement.pair(), size.max(1), rounds as usize)?
        } else {
            self.raw_between_hosts(size.max(1))?
        };
        measured.into_iter().for_each(|one_way_ns| samples.add(one_way_ns, 1.0));
        Ok(samples)
    }

    fn raw_between_hosts(&mut self, size: usize) -> Result<Vec<f64>, Failure> {
        let nonce = proof::nonce().map_err(|refusal| Failure::Run(refusal.reason))?;
        let token: [u8; 16] = std::array::from_fn(|at| nonce[at]);
        self.peer.order(&Order::Raw { size, token })?;
        let at = self.peer.listens()?;
        let measured = raw::lead(at, size, token, self.plan.counts.iters, rounds_for)
            .map_err(|error| self.peer.cause(error))?;
        self.peer.done()?;
        Ok(measured)
    }

    /// A row of `connect_lat`.
    fn connections(&mut self, state: PeerState) -> Result<Samples, Failure> {
        let count = self.plan.counts.iters.unwrap_or(CONNECTIONS);
        let warmup = self.plan.counts.warmup.unwrap_or(count / 10);
        let mut samples = Samples::with_capacity(count);
        for round in 0..warmup + count {
            let elapsed_ns = self.connection(state)?;
            if round >= warmup {
                samples.add(elapsed_ns, 1.0);
            }
        }
        Ok(samples)
    }

    fn connection(&mut self, state: PeerState) -> Result<f64, Failure> {
        let asleep = state == PeerState::Asleep;
        self.peer.order(&Order::Answer { asleep })?;
        let address = address_of(&self.peer.at()?)?;
        let settled = || match self.peer.id() {
            _ if !asleep => Ok(()),
            Some(id) => until_asleep(id),
            None => self.peer.asleep(),
        };
        let elapsed_ns = connect::lead(&address, &self.plan.options, self.small, settled)
            .map_err(|error| self.peer.cause(error))?;
        self.peer.done()?;
        Ok(elapsed_ns)
    }

    /// A row that sends messages over the path.
    fn messages(&mut self, spec: Spec) -> Result<Samples, Failure> {
        let window = match spec.op {
            Op::TagLat | Op::HandedLat | Op::LoanLat | Op::PutLat | Op::GetLat | Op::AtomicLat => 1,
            _ => self.plan.counts.window,
        };
        let task = |warmup, rounds| Task { op: spec.op, size: spec.size, warmup, rounds, window };
        let in_rounds = |messages: u64| messages.div_ceil(window);
        let rounds = match self.plan.counts.iters {
            Some(iters) => in_rounds(iters),
            None => self.rounds(|rounds| task(1, rounds))?,
        };
        let warmup = self.plan.counts.warmup.map_or_else(|| (rounds / 10).clamp(1, 10_000), in_rounds);
        self.run(task(warmup, rounds))
    }

    /// How many rounds take about [`ROW_TIME`], found by trials that grow until they say something.
    pub(super) fn rounds(&mut self, task: impl Fn(u64) -> Task) -> Result<u64, Failure> {
        // Where a round takes long, one says enough.
        let mut rounds = 1;
        loop {
            let trial_ns = self.run(task(rounds))?.total_ns;
            // One round may have met with something that the others do not.
            let enough = if rounds == 1 { ROW_TIME } else { TRIAL_TIME };
            if trial_ns >= enough.as_nanos() as f64 {
                return Ok(rounds_for(trial_ns / rounds as f64));
            }
            rounds = FEW_ROUNDS.max(rounds * 10);
        }
    }

    pub(super) fn run(&mut self, task: Task) -> Result<Samples, Failure> {
        self.peer.order(&Order::Run(task))?;
        self.peer.ready()?;
        let samples = ops::lead(&self.link, task).map_err(|error| self.peer.cause(error))?;
        self.peer.done()?;
        Ok(samples)
    }
}

/// Opens this side's fabric and exchanges greetings with the peer.
fn connect_to(address: &[u8], plan: &Plan) -> Result<Link, Failure> {
    let fabric = Fabric::open(None, &plan.options)?;
    let cq = fabric.cq()?;
    let endpoint = cq.connect(&address_of(address)?)?;
    let link = Link::new(Side::Parent, cq, endpoint, plan.largest());
    link.post(0, HELLO)?;
    greet(&link)?;
    while link.wait()?.kind != Kind::Recv {}
    Ok(link)
}

fn address_of(bytes: &[u8]) -> Result<Address, Failure> {
    let bytes = bytes.try_into().map_err(|_| Failure::Run("an address has another length".into()))?;
    Ok(Address::from_bytes(bytes))
}

/// The rails that the library says are in use.
fn rails_of(explanation: &str) -> String {
    let in_use = |line: &str| {
        let (rail, rest) = line.strip_prefix("rail ")?.split_once(' ')?;
        rest.starts_with("in use").then(|| rail.to_owned())
    };
    explanation.lines().filter_map(in_use).collect::<Vec<_>>().join(",")
}

/// Rounds that take about [`ROW_TIME`]: not many fewer than [`FEW_ROUNDS`], unless those take very long.
fn rounds_for(round_ns: f64) -> u64 {
    let in_time = |time: Duration| (time.as_nanos() as f64 / round_ns.max(1.0)) as u64;
    in_time(ROW_TIME).clamp(in_time(LONG_ROW_TIME).clamp(1, FEW_ROUNDS), 1_000_000)
}

/// What is measured between two canaries that agree, or the last of several attempts; the canaries' mean; whether they agree.
fn until_stable<T>(
    mut measure: impl FnMut() -> Result<(T, Option<(f64, f64)>), Failure>,
) -> Result<(T, Option<f64>, bool), Failure> {
    let mut tries = 0;
    loop {
        let (samples, canaries) = measure()?;
        let stable = canaries.is_none_or(|(before, after)| agree(before, after));
        if stable || tries == REPETITIONS {
            return Ok((samples, canaries.map(|(before, after)| (before + after) / 2.0), stable));
        }
        tries += 1;
    }
}

/// Whether the cores were in the same place before and after.
fn agree(before: f64, after: f64) -> bool {
    (before - after).abs() <= 0.15 * before.min(after)
}

/// Round trips over the raw socket: some tenths of a second.
const RAW_ROUNDS: u64 = 50_000;

/// How often a row is measured again while the cores move.
const REPETITIONS: u32 = 5;

/// Time that a row takes, if the number of rounds is left to us.
const ROW_TIME: Duration = Duration::from_millis(250);

/// A trial as long as this says how long a round takes.
const TRIAL_TIME: Duration = Duration::from_millis(5);

/// A row of fewer rounds says little.
const FEW_ROUNDS: u64 = 20;

/// Time that a row of few rounds may take.
const LONG_ROW_TIME: Duration = Duration::from_secs(5);

const CONNECTIONS: u64 = 50;

/// Samples of the operation `canary`.
const CANARY_BATCHES: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_agree_within_15_percent() {
        assert!(agree(100.0, 115.0) && agree(115.0, 100.0));
        assert!(!agree(100.0, 116.0) && !agree(55.0, 250.0));
    }

    #[test]
    fn a_row_is_measured_again_while_the_cores_move_but_not_for_ever() {
        // After so many attempts the cores hold still.
        let attempts = |moving: usize| {
            let mut made = 0;
            let measured = until_stable(|| {
                made += 1;
                Ok((made, Some((60.0, if made <= moving { 240.0 } else { 62.0 }))))
            });
            measured.expect("nothing fails")
        };
        assert_eq!(attempts(0), (1, Some(61.0), true));
        assert_eq!(attempts(3), (4, Some(61.0), true));
        assert_eq!(attempts(5), (6, Some(61.0), true));
        assert_eq!(attempts(6), (6, Some(150.0), false));
        assert_eq!(until_stable(|| Ok(((), None))).expect("nothing fails"), ((), None, true));
    }

    #[test]
    fn the_rails_in_use_are_found_in_the_explanation() {
        let text = "peer 1\nstate up\nrail shm in use: preferred\nrail self not used: another process\n";
        assert_eq!(rails_of(text), "shm");
    }

    #[test]
    fn a_row_takes_its_time_within_limits() {
        assert_eq!(rounds_for(1_000.0), 250_000);
        assert_eq!(rounds_for(1.0), 1_000_000);
        assert_eq!(rounds_for(100e6), 20);
        assert_eq!((rounds_for(1e9), rounds_for(100e9)), (5, 1));
    }
}
