//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use gridnet_assembly::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Communication between the processes of parallel and distributed programs.
#[derive(Debug, Parser)]
#[command(name = "gridnet", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what this host offers: rails, core distance, huge pages, limits
    Info {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Show every variable: value, default, unit, origin and what it does
    Config {
        /// Print one JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show what a running program does with gridnet, and why; without a name, list the fabrics of this user. With --rules, show
    /// which stacks two nodes may use
    Explain(ExplainArgs),
    /// Watch the fabrics of this user: peers, rates, queues, waits, errors; q ends it
    Top(TopArgs),
    /// Measure how fast two processes of this host talk to each other
    Perf(PerfArgs),
    /// Hosts, sites and bad links on this machine, to try things on; nobody needs to be root
    Lab(crate::lab::LabArgs),
    /// Sessions: the processes of several hosts that trust and know each other
    Session(crate::session::SessionArgs),
    /// Print the environment that puts an MPI on gridnet: eval "$(gridnet mpirun-env)"
    MpirunEnv(crate::mpi::EnvArgs),
    /// Run an MPI program over gridnet, by the MPI's own launcher
    Run(crate::mpi::RunArgs),
    /// Check how something is set up, and explain it
    Doctor(crate::mpi::DoctorArgs),
    /// The other process of `perf`, which starts it itself
    #[command(hide = true)]
    PerfPeer(PeerArgs),
    /// The other process of `perf --op establish`
    #[command(hide = true)]
    PerfOpened(OpenedArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Process number, or name of a fabric; with --rules the node that asks
    #[arg(value_name = "PID|NAME")]
    pub(crate) fabric: Option<String>,

    /// One of its peers only: its number, name, process number, or node [default: all]; with --rules the node that is asked
    #[arg(value_name = "PEER")]
    pub(crate) peer: Option<String>,

    /// Show what these rules lead to between two nodes, each described as LABEL[@CLUSTER[/HOST]][,ADDRESS]...
    #[arg(long, value_name = "FILE", requires = "fabric", requires = "peer")]
    pub(crate) rules: Option<PathBuf>,

    /// The rules of the node that is asked [default: nothing is said of them]
    #[arg(long, value_name = "FILE", requires = "rules")]
    pub(crate) peer_rules: Option<PathBuf>,

    /// For which service
    #[arg(long, value_name = "NAME", default_value = "default", requires = "rules")]
    pub(crate) service: Name,

    /// Directory of a session that is served here: the nodes are its members, by id or label
    #[arg(long, value_name = "DIR", requires = "rules")]
    pub(crate) session: Option<PathBuf>,

    /// Print JSON instead of text: an array, with --rules an object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Process number, or name of a fabric [default: all of this user]
    #[arg(value_name = "PID|NAME")]
    pub(crate) fabric: Option<String>,

    /// Print one JSON object a line instead of tables
    #[arg(long)]
    pub(crate) json: bool,

    /// End after so many refreshes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Seconds between two refreshes, from 0.01 to 3600
    #[arg(long, value_name = "S", default_value = "1", value_parser = interval)]
    pub(crate) interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.01..=3600.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "accepted are seconds from 0.01 to 3600".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct PerfArgs {
    /// Rails that may be used, as in GRIDNET_RAILS
    #[arg(long, value_name = "R")]
    pub(crate) rails: Option<String>,

    /// What to measure [default: messages and connections]
    #[arg(long, value_name = "OP,..", value_delimiter = ',')]
    pub(crate) op: Vec<Op>,

    /// Message sizes in bytes, with or without suffix k, m, g [default: 8,1k,64k,1m]
    #[arg(long, value_name = "S,..", value_delimiter = ',')]
    pub(crate) size: Vec<Size>,

    /// Round trips, messages or connections of each measurement [default: as many as take a quarter of a second]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_ITERS))]
    pub(crate) iters: Option<u64>,

    /// How many of them go before, unmeasured [default: a tenth]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=MOST_ITERS))]
    pub(crate) warmup: Option<u64>,

    /// Messages in flight in tag_bw and tag_rate
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MOST_WINDOW))]
    pub(crate) window: u64,

    /// Peers in the operations peers_*
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=i64::from(MOST_PEERS)))]
    pub(crate) peers: u32,

    /// Cores of the two processes: A,B, or `same` for one core, or `none` [default: the first two]; between hosts, the core
    /// of this side's process, or `none` [default: none]
    #[arg(long, value_name = "A,B|A|same|none")]
    pub(crate) pin: Option<Pin>,

    /// What a waiting process does, as in GRIDNET_WAIT_MODE
    #[arg(long, value_enum)]
    pub(crate) wait: Option<Wait>,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// Draw latency and bandwidth against size [sizes by default: 8 to 4m]
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,

    /// Seconds that either side waits for the other [default: 20]; with --serve: for a client [default: 600]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub(crate) timeout: Option<u64>,

    #[command(flatten)]
    pub(crate) hosts: HostsArgs,
}

/// Measuring between hosts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Between hosts")]
pub(crate) struct HostsArgs {
    /// Be the other side of one measurement of another host, and say what is to be run there
    #[arg(long, conflicts_with_all = ["connect", "rails", "op", "size", "iters", "warmup", "window", "peers", "wait", "format", "plot"])]
    pub(crate) serve: bool,

    /// Measure with the host where `gridnet perf --serve` runs
    #[arg(long, value_name = "HOST:PORT", requires = "key")]
    pub(crate) connect: Option<String>,

    /// With --serve: the file to write the key to [default: one in the run directory]; with --connect: a copy of it
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// With --serve: the port to listen at [default: one of GRIDNET_NET_PORTS, or any]
    #[arg(long, value_name = "P", requires = "serve", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// With --serve: the address to listen at, with or without a port [default: those that GRIDNET_NET_INTERFACES allows]
    #[arg(long, value_name = "ADDR[:P]", requires = "serve", value_parser = listening)]
    pub(crate) listen: Option<(IpAddr, Option<u16>)>,

    /// With --serve: go on after a measurement, until a signal comes
    #[arg(long, requires = "serve")]
    pub(crate) keep: bool,
}

fn listening(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let alone = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip| (ip, None));
    let with_port = || text.parse::<SocketAddr>().map(|at| (at.ip(), Some(at.port())));
    alone.or_else(|_| with_port()).map_err(|_| {
        "accepted is an address of this host, as 10.1.0.2, 10.1.0.2:4711, fd00::2 or [fd00::2]:4711"
            .to_owned()
    })
}

/// What the parent tells its peer process; not for users.
#[derive(Debug, Args)]
pub(crate) struct PeerArgs {
    /// Name of the fabric to open
    #[arg(long)]
    pub(crate) name: String,
    /// Process id of the parent; the peer ends with it
    #[arg(long)]
    pub(crate) parent: u32,
    /// Core to run on
    #[arg(long)]
    pub(crate) core: Option<usize>,
    /// Bytes of the largest message
    #[arg(long)]
    pub(crate) largest: usize,
    /// Seconds that it waits for the other
    #[arg(long)]
    pub(crate) timeout: u64,
    /// Orders come from another host
    #[arg(long)]
    pub(crate) remote: bool,
    /// Variables that beat the environment, NAME=value
    #[arg(long)]
    pub(crate) option: Vec<String>,
}

/// What the parent tells the process whose fabric it opens; not for users.
#[derive(Debug, Args)]
pub(crate) struct OpenedArgs {
    /// The session that it joins
    #[arg(long)]
    pub(crate) ticket: PathBuf,
    /// Core to poll on
    #[arg(long)]
    pub(crate) core: Option<usize>,
}

/// Something that `perf` measures.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Op {
    /// One-way time of a tagged message, half a round trip
    TagLat,
    /// The same while the calling thread changes
    HandedLat,
    /// One-way time of a loan of which both sides touch the first and the last line
    LoanLat,
    /// Bandwidth with many tagged messages in flight
    TagBw,
    /// Rate of small tagged messages with many in flight
    TagRate,
    /// One-way time of a put into an allocated region, half a round trip
    PutLat,
    /// Time of a get from an allocated region
    GetLat,
    /// One-way time of an atomic add to an allocated region, half a round trip
    AtomicLat,
    /// Bandwidth of puts into an allocated region
    PutBw,
    /// Bandwidth of gets from an allocated region
    GetBw,
    /// From opening an endpoint to the first echo
    ConnectLat,
    /// Joining a session and making connections in it, by each of the ways there are: of one host, alone, in a session of its own or in
    /// that of the ticket of GRIDNET_SESSION
    Establish,
    /// From opening endpoints to many fabrics of one process to the last first echo
    PeersOpen,
    /// Memory and descriptors of a peer that is idle
    PeersMemory,
    /// One-way time of a tagged message while many other peers are idle, and with one peer
    PeersLat,
    /// Processor time of a process that waits
    IdleCpu,
    /// Raw cache-line ping-pong between the two cores, without gridnet
    Canary,
    /// Raw ping-pong over a TCP socket, without gridnet
    RawTcp,
}

impl Op {
    /// Operations on regions.
    pub(crate) fn is_onesided(self) -> bool {
        matches!(self, Op::PutLat | Op::GetLat | Op::AtomicLat | Op::PutBw | Op::GetBw)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Op::TagLat => "tag_lat",
            Op::HandedLat => "handed_lat",
            Op::LoanLat => "loan_lat",
            Op::TagBw => "tag_bw",
            Op::TagRate => "tag_rate",
            Op::PutLat => "put_lat",
            Op::GetLat => "get_lat",
            Op::AtomicLat => "atomic_lat",
            Op::PutBw => "put_bw",
            Op::GetBw => "get_bw",
            Op::ConnectLat => "connect_lat",
            Op::Establish => "establish",
            Op::PeersOpen => "peers_open",
            Op::PeersMemory => "peers_memory",
            Op::PeersLat => "peers_lat",
            Op::IdleCpu => "idle_cpu",
            Op::Canary => "canary",
            Op::RawTcp => "raw_tcp",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// Spin briefly, then sleep
    Adaptive,
    /// Never sleep
    Spin,
    /// Sleep at once
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One object a line
    Json,
    /// One heading line, then a line for each measurement
    Csv,
}

/// A message size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = [("k", 10), ("m", 20), ("g", 30)]
            .into_iter()
            .find_map(|(suffix, shift)| text.strip_suffix(suffix).map(|digits| (digits, shift)))
            .unwrap_or((text, 0));
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<usize>().ok());
        plain
            .flatten()
            .and_then(|number| number.checked_mul(1 << shift))
            .filter(|bytes| *bytes <= LARGEST)
            .map(Size)
            .ok_or_else(|| "accepted is a size from 0 to 1g, with or without suffix k, m, g".to_owned())
    }
}

/// Where the two processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// Each on its core.
    Cores(usize, usize),
    /// One process, on this core; the other is on another host.
    One(usize),
    /// Both on the first core that this process may use.
    Same,
    /// Wherever the scheduler puts them.
    None,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || "accepted is two cores A,B, or one, or same, or none".to_owned();
        match text {
            "same" => Ok(Pin::Same),
            "none" => Ok(Pin::None),
            _ => {
                let core = |text: &str| text.parse().map_err(|_| accepted());
                match text.split_once(',') {
                    Some((a, b)) => Ok(Pin::Cores(core(a)?, core(b)?)),
                    None => core(text).map(Pin::One),
                }
            }
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Cores(a, b) => write!(f, "{a},{b}"),
            Pin::One(core) => core.fmt(f),
            Pin::Same => f.pad("same"),
            Pin::None => f.pad("none"),
        }
    }
}

/// Largest message that can be asked for: both processes hold two of them.
pub(crate) const LARGEST: usize = 1 << 30;

pub(crate) const MOST_ITERS: u64 = 1_000_000_000;

pub(crate) const MOST_WINDOW: u64 = 65536;

/// Each needs several descriptors, and a fabric in the peer process.
pub(crate) const MOST_PEERS: u32 = 4096;

/// Longest wait that can be asked for: a day.
pub(crate) const MOST_SECONDS: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_take_suffixes() {
        for (text, bytes) in
            [("0", 0), ("8", 8), ("1k", 1024), ("64k", 65536), ("1m", 1 << 20), ("1g", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in ["", "k", "-1", "+1", "1.5k", "1K", "2g", "1kb", "18446744073709551616", "17179869184g"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn pins_are_two_cores_or_a_word() {
        assert_eq!("0,1".parse(), Ok(Pin::Cores(0, 1)));
        assert_eq!("same".parse(), Ok(Pin::Same));
        assert_eq!("none".parse(), Ok(Pin::None));
        assert_eq!("3".parse(), Ok(Pin::One(3)));
        for text in ["", "0,", "0,1,2", "a,b", "-1,0"] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_to_listen_at_may_have_a_port() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (text, at) in [
            ("10.1.0.2", (ip("10.1.0.2"), None)),
            ("10.1.0.2:47", (ip("10.1.0.2"), Some(47))),
            ("fd00::2", (ip("fd00::2"), None)),
            ("[fd00::2]", (ip("fd00::2"), None)),
            ("[fd00::2]:47", (ip("fd00::2"), Some(47))),
        ] {
            assert_eq!(listening(text), Ok(at), "{text}");
        }
        for text in ["", "eth0", "10.1.0.2:", "10.1.0.2:65536", ":47"] {
            assert!(listening(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_side_has_options_of_its_own() {
        let parse = |line: &str| {
            Cli::try_parse_from(["gridnet", "perf"].into_iter().chain(line.split_whitespace())).is_ok()
        };
        assert!(parse("--serve --port 4711 --key k --keep --timeout 5 --pin 1") && parse("--serve"));
        assert!(parse("--connect x:1 --key k --op tag_lat --rails shm,tcp"));
        for wrong in ["--connect x:1", "--serve --connect x:1", "--serve --op tag_lat", "--keep", "--port 1"]
        {
            assert!(!parse(wrong), "{wrong}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let cli =
            Cli::try_parse_from(["gridnet", "perf", "--op", "tag_lat,canary", "--size", "8,1k"]).unwrap();
        let Command::Perf(perf) = cli.command else { panic!("not perf") };
        assert_eq!(perf.op, [Op::TagLat, Op::Canary]);
        assert_eq!(perf.size, [Size(8), Size(1024)]);
    }
}
