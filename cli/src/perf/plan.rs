//! What is to be measured, checked before anything is started.

use super::link::patience;
use super::scale::idle_wait;
use crate::args::{Format, Op, PerfArgs, Pin, Wait};
use crate::cores;
use crate::failure::Failure;
use gridnet::config::Config;
use std::path::PathBuf;

/// A measurement, valid as a whole.
pub(crate) struct Plan {
    pub(crate) specs: Vec<Spec>,
    pub(crate) counts: Counts,
    /// Peers in the operations that have many.
    pub(crate) peers: usize,
    pub(crate) placement: Placement,
    /// Variables for both processes, `NAME=value`.
    pub(crate) options: Vec<String>,
    /// Wait mode in force.
    pub(crate) wait: String,
    pub(crate) format: Format,
    pub(crate) plot: Option<PathBuf>,
}

/// One row of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) op: Op,
    pub(crate) size: usize,
    /// For `connect_lat`: how the peer waits.
    pub(crate) peer: Option<PeerState>,
}

/// What the peer does while it waits for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerState {
    Polling,
    Asleep,
}

impl PeerState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            PeerState::Polling => "polling",
            PeerState::Asleep => "asleep",
        }
    }
}

/// How often things are done; `None` leaves it to the measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) iters: Option<u64>,
    pub(crate) warmup: Option<u64>,
    pub(crate) window: u64,
}

/// Where the processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) pin: Pin,
    /// Core of the parent.
    pub(crate) parent: Option<usize>,
    /// Core of its peer.
    pub(crate) peer: Option<usize>,
}

impl Plan {
    /// Checks the arguments against each other, the configuration and this host.
    pub(crate) fn new(args: &PerfArgs) -> Result<Plan, Failure> {
        let overrides = overrides(args);
        let config = Config::from_process(&overrides)?;
        let remote = args.hosts.connect.is_some();
        if !["shm", "tcp", "verbs"].iter().any(|rail| config.rails.allows(rail)) {
            let why = format!("GRIDNET_RAILS={} (--rails) has no rail between two processes", config.rails);
            return Err(Failure::Usage(format!("{why}: accepted are shm, tcp, verbs")));
        }
        let wait = config.entries().into_iter().find(|entry| entry.name == "GRIDNET_WAIT_MODE");
        let specs = specs(args);
        if args.plot.is_some() && !specs.iter().any(|spec| matches!(spec.op, Op::TagLat | Op::TagBw)) {
            return Err(Failure::Usage(
                "--plot draws tag_lat and tag_bw: --op has to name one of them".into(),
            ));
        }
        let placement = if remote {
            between_hosts(&specs, args)?;
            alone(args.pin, &cores::allowed()?)?
        } else {
            placement(args.pin, &cores::allowed()?)?
        };
        if !remote && placement.parent == placement.peer && args.op == [Op::Canary] {
            return Err(Failure::Usage("the canary runs between two cores: --pin A,B".into()));
        }
        Ok(Plan {
            specs,
            peers: args.peers as usize,
            counts: Counts { iters: args.iters, warmup: args.warmup, window: args.window },
            placement,
            options: overrides.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            wait: wait.map(|entry| entry.value).unwrap_or_default(),
            format: args.format,
            plot: args.plot.clone(),
        })
    }

    /// Bytes of the largest message.
    pub(crate) fn largest(&self) -> usize {
        self.specs.iter().map(|spec| spec.size).max().unwrap_or(0)
    }
}

impl Placement {
    /// The two cores, if they are two.
    pub(crate) fn pair(&self) -> Option<(usize, usize)> {
        self.parent.zip(self.peer).filter(|(a, b)| a != b)
    }
}

fn overrides(args: &PerfArgs) -> Vec<(String, String)> {
    let wait = args.wait.map(|wait| match wait {
        Wait::Adaptive => "adaptive",
        Wait::Spin => "spin",
        Wait::Block => "block",
    });
    let given = [("GRIDNET_RAILS", args.rails.as_deref()), ("GRIDNET_WAIT_MODE", wait)];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
}

fn specs(args: &PerfArgs) -> Vec<Spec> {
    let ops: &[Op] = match (&args.op[..], &args.plot) {
        ([], None) => &[
            Op::TagLat,
            Op::LoanLat,
            Op::TagBw,
            Op::TagRate,
            Op::PutLat,
            Op::GetLat,
            Op::AtomicLat,
            Op::PutBw,
            Op::GetBw,
            Op::ConnectLat,
        ],
        ([], Some(_)) => &[Op::TagLat, Op::TagBw],
        (named, _) => named,
    };
    ops.iter().flat_map(|op| specs_of(*op, args)).collect()
}

fn specs_of(op: Op, args: &PerfArgs) -> Vec<Spec> {
    let given: Vec<usize> = args.size.iter().map(|size| size.0).collect();
    let sized = |sizes: Vec<usize>| sizes.into_iter().map(|size| Spec { op, size, peer: None }).collect();
    match op {
        Op::AtomicLat => sized(vec![8]),
        op if op.is_onesided() && !given.is_empty() => sized(given),
        Op::PutLat | Op::GetLat => sized(vec![8]),
        Op::PutBw | Op::GetBw => sized(vec![1 << 20]),
        Op::TagLat | Op::HandedLat | Op::LoanLat | Op::TagBw | Op::TagRate | Op::RawTcp
            if !given.is_empty() =>
        {
            sized(given)
        }
        Op::TagLat | Op::TagBw if args.plot.is_some() => sized(PLOT_SIZES.map(|shift| 1 << shift).collect()),
        Op::TagLat | Op::TagBw => sized(vec![8, 1 << 10, 64 << 10, 1 << 20]),
        Op::LoanLat => sized(vec![1 << 20]),
        Op::HandedLat
        | Op::TagRate
        | Op::Canary
        | Op::RawTcp
        | Op::PeersOpen
        | Op::PeersMemory
        | Op::PeersLat => sized(vec![8]),
        // The last is measured in another way, alone.
        Op::IdleCpu | Op::Establish => sized(vec![0]),
        Op::ConnectLat => [PeerState::Polling, PeerState::Asleep]
            .map(|peer| Spec { op, size: super::ops::connect::SIZE, peer: Some(peer) })
            .to_vec(),
    }
}

/// Refuses what is not to be had between hosts.
fn between_hosts(specs: &[Spec], args: &PerfArgs) -> Result<(), Failure> {
    if specs.iter().any(|spec| spec.op == Op::Canary) {
        let why = "the canary runs between two cores of one host: not with --connect";
        return Err(Failure::Usage(why.into()));
    }
    let idle = specs.iter().any(|spec| spec.op == Op::IdleCpu).then(|| idle_wait(args.iters));
    match idle.filter(|idle| *idle > patience()) {
        Some(idle) => Err(Failure::Usage(format!(
            "idle_cpu waits for {idle:?}, and the other side for {:?} at most: --timeout",
            patience()
        ))),
        None => Ok(()),
    }
}

/// Where a process runs whose peer is on another host.
pub(super) fn alone(pin: Option<Pin>, allowed: &[usize]) -> Result<Placement, Failure> {
    let parent = match pin.unwrap_or(Pin::None) {
        Pin::One(core) => Some(core),
        Pin::None => None,
        pin => {
            return Err(Failure::Usage(format!(
                "--pin {pin}: each host has one process: accepted are one core, or none"
            )))
        }
    };
    is_allowed(pin.unwrap_or(Pin::None), parent, None, allowed)
}

pub(super) fn placement(pin: Option<Pin>, allowed: &[usize]) -> Result<Placement, Failure> {
    let pin = pin.unwrap_or(match allowed {
        [a, b, ..] => Pin::Cores(*a, *b),
        _ => Pin::Same,
    });
    let (parent, peer) = match pin {
        Pin::Cores(a, b) => (Some(a), Some(b)),
        Pin::Same => (allowed.first().copied(), allowed.first().copied()),
        Pin::None => (None, None),
        Pin::One(_) => {
            let why = format!("--pin {pin}: there are two processes: accepted are A,B, same and none");
            return Err(Failure::Usage(why));
        }
    };
    is_allowed(pin, parent, peer, allowed)
}

fn is_allowed(
    pin: Pin,
    parent: Option<usize>,
    peer: Option<usize>,
    allowed: &[usize],
) -> Result<Placement, Failure> {
    if let Some(core) = [parent, peer].into_iter().flatten().find(|core| !allowed.contains(core)) {
        return Err(Failure::Usage(format!(
            "--pin {pin}: this process may not use core {core}, accepted are {allowed:?}"
        )));
    }
    Ok(Placement { pin, parent, peer })
}

/// Powers of two of the sizes that are drawn when none are given: 8 bytes to 4 MiB.
const PLOT_SIZES: std::ops::RangeInclusive<u32> = 3..=22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(line: &str) -> PerfArgs {
        match Cli::try_parse_from(["gridnet", "perf"].into_iter().chain(line.split_whitespace()))
            .unwrap()
            .command
        {
            Command::Perf(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn by_default_everything_but_the_canary_is_measured() {
        let specs = specs(&args(""));
        let sizes = |op| specs.iter().filter(|spec| spec.op == op).map(|spec| spec.size).collect::<Vec<_>>();
        assert_eq!(sizes(Op::TagLat), [8, 1024, 65536, 1 << 20]);
        assert_eq!(sizes(Op::TagBw), [8, 1024, 65536, 1 << 20]);
        assert_eq!(sizes(Op::LoanLat), [1 << 20]);
        assert_eq!(sizes(Op::TagRate), [8]);
        assert_eq!(sizes(Op::ConnectLat), [8, 8]);
        assert!(sizes(Op::Canary).is_empty());
    }

    #[test]
    fn a_plot_sweeps_the_sizes_unless_they_are_given() {
        assert_eq!(specs(&args("--plot x.svg")).len(), 2 * 20);
        assert_eq!(specs(&args("--plot x.svg --size 8,16 --op tag_lat")).len(), 2);
    }

    #[test]
    fn a_plot_of_nothing_is_refused() {
        assert!(matches!(Plan::new(&args("--plot x.svg --op tag_rate")), Err(Failure::Usage(_))));
    }

    #[test]
    fn cores_outside_the_mask_are_refused_by_name() {
        let Err(Failure::Usage(text)) = placement(Some(Pin::Cores(0, 9)), &[0, 1]) else {
            panic!("accepted")
        };
        assert_eq!(text, "--pin 0,9: this process may not use core 9, accepted are [0, 1]");
    }

    #[test]
    fn between_hosts_each_process_has_a_place_of_its_own() {
        assert_eq!(alone(None, &[2, 5]).unwrap().parent, None);
        assert_eq!(alone(Some(Pin::One(5)), &[2, 5]).unwrap().parent, Some(5));
        for pin in [Pin::One(3), Pin::Same, Pin::Cores(2, 5)] {
            assert!(matches!(alone(Some(pin), &[2, 5]), Err(Failure::Usage(_))), "{pin}");
        }
        assert!(matches!(placement(Some(Pin::One(2)), &[2, 5]), Err(Failure::Usage(_))));
    }

    #[test]
    fn between_hosts_there_is_no_canary() {
        let remote = |op| Plan::new(&args(&format!("--connect x:1 --key k --op {op}")));
        assert!(matches!(remote("canary"), Err(Failure::Usage(_))));
        assert!(matches!(remote("idle_cpu --iters 1000"), Err(Failure::Usage(_))));
        assert_eq!(remote("idle_cpu,raw_tcp").unwrap().specs.len(), 2);
    }

    #[test]
    fn one_core_is_shared() {
        let alone = placement(None, &[3]).unwrap();
        assert_eq!((alone.pin, alone.parent, alone.peer, alone.pair()), (Pin::Same, Some(3), Some(3), None));
        assert_eq!(placement(None, &[2, 5]).unwrap().pair(), Some((2, 5)));
        assert_eq!(placement(Some(Pin::None), &[2, 5]).unwrap().pair(), None);
    }
}
