//! Who is measured, and how each is called.
//!
//! A peer is a program of its name in `bin/` of the folder that `bench/peers/run` makes: it finds its libraries by
//! itself and says its version when it is called with `version`. Where there is none, `why/` has the reason. A new
//! peer is a new entry of [`KNOWN`], and a step of `run`.

use crate::args::{Args, Table};
use crate::child::{self, Spec};
use crate::op::{Op, Shows, Task};
use crate::parse::{self, Times};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

/// A peer, and whether it can be measured.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    speech: Speech,
    table: Table,
    program: PathBuf,
    /// What it says of itself, or why it cannot run.
    pub(crate) version: Result<String, String>,
}

/// How a program is called, and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    /// `gridnet perf`
    Gridnet,
    /// A program of this folder: `OP SIZE MS CORE_A,CORE_B`, both processes in one.
    Own,
    /// `ucx_perftest`, a server and a client.
    Ucx,
}

/// What stays the same in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub(crate) cores: (usize, usize),
    pub(crate) ms: u32,
    pub(crate) limit: Duration,
}

/// The name of the first peer, to which all others are compared.
pub(crate) const GRIDNET: &str = "gridnet";

/// The bare socket: what the operating system can do, to which all over TCP are compared.
pub(crate) const RAW: &str = "raw";

const KNOWN: &[(&str, Speech, Table)] = &[
    ("ucx", Speech::Ucx, Table::Shm),
    ("ucx-debian", Speech::Ucx, Table::Shm),
    ("libfabric", Speech::Own, Table::Shm),
    ("libfabric-debian", Speech::Own, Table::Shm),
    ("mpich", Speech::Own, Table::Shm),
    ("mpich-debian", Speech::Own, Table::Shm),
    ("openmpi", Speech::Own, Table::Shm),
    ("openmpi-debian", Speech::Own, Table::Shm),
    ("iceoryx2", Speech::Own, Table::Shm),
    ("zeromq", Speech::Own, Table::Shm),
    (RAW, Speech::Own, Table::Tcp),
    ("ucx-tcp", Speech::Ucx, Table::Tcp),
    ("ucx-debian-tcp", Speech::Ucx, Table::Tcp),
    ("libfabric-tcp", Speech::Own, Table::Tcp),
    ("openmpi-tcp", Speech::Own, Table::Tcp),
    ("openmpi-debian-tcp", Speech::Own, Table::Tcp),
    ("iperf3", Speech::Own, Table::Tcp),
    ("libfabric", Speech::Own, Table::Mpi),
    ("libfabric-gridnet", Speech::Own, Table::Mpi),
    ("mpich", Speech::Own, Table::Mpi),
    ("mpich-gridnet", Speech::Own, Table::Mpi),
    ("openmpi", Speech::Own, Table::Mpi),
    ("openmpi-gridnet", Speech::Own, Table::Mpi),
    ("mpich-tcp", Speech::Own, Table::Mpi),
    ("mpich-gridnet-tcp", Speech::Own, Table::Mpi),
];

impl Peer {
    /// gridnet, and the peers that are asked for.
    pub(crate) fn all(args: &Args) -> Result<Vec<Peer>, String> {
        let known = || KNOWN.iter().filter(|(_, _, table)| *table == args.table);
        let strange = |name: &&String| *name != GRIDNET && known().all(|(known, ..)| known != name);
        if let Some(name) = args.only.iter().find(strange) {
            let names: Vec<&str> = known().map(|(name, ..)| *name).collect();
            return Err(format!("--only {name}: there is no such peer; there are {}", names.join(", ")));
        }
        let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
        let program = |name: &str| args.dir.join("bin").join(name);
        let gridnet = (GRIDNET, Speech::Gridnet, args.gridnet.clone());
        let others = known().filter(|(name, ..)| wanted(name));
        let others = others.map(|(name, speech, _)| (*name, *speech, program(name)));
        let peer = |(name, speech, program)| {
            let mut peer = Peer { name, speech, table: args.table, program, version: Err(String::new()) };
            peer.version = peer.ask_version(args);
            peer
        };
        Ok(std::iter::once(gridnet).chain(others).map(peer).collect())
    }

    /// Whether it has this operation at all.
    pub(crate) fn does(&self, op: &Op) -> bool {
        op.is_of(self.name, self.table)
    }

    /// Runs it once.
    pub(crate) fn run(&self, task: Task, here: Circumstances) -> Result<Times, String> {
        match self.speech {
            Speech::Gridnet => parse::gridnet(&self.call(gridnet_args(task, here), here)?),
            Speech::Own => parse::own(&self.call(own_args(task, here), here)?),
            Speech::Ucx => self.run_ucx(task, here),
        }
    }

    fn ask_version(&self, args: &Args) -> Result<String, String> {
        if !self.program.exists() {
            let why = fs::read_to_string(args.dir.join("why").join(self.name));
            return Err(why.map_or("not installed".to_owned(), |why| why.trim().to_owned()));
        }
        let word = if self.speech == Speech::Gridnet { "--version" } else { "version" };
        let spec = Spec { program: self.program.clone(), args: vec![word.into()], core: None };
        let text = child::run(&spec, VERSION_LIMIT)?;
        parse::version(&text).ok_or_else(|| "it does not say its version".into())
    }

    fn call(&self, args: Vec<String>, here: Circumstances) -> Result<String, String> {
        child::run(&Spec { program: self.program.clone(), args, core: None }, here.limit)
    }

    fn run_ucx(&self, task: Task, here: Circumstances) -> Result<Times, String> {
        let test = task.op.ucx.ok_or("ucx_perftest has no such test")?;
        let port = free_port()?;
        let spec = |args, core| Spec { program: self.program.clone(), args, core: Some(core) };
        let server = spec(vec!["-p".into(), port.to_string()], here.cores.1);
        let client =
            spec(ucx_args(test, task, port, ucx_iterations(task, here.ms, self.table)), here.cores.0);
        parse::ucx(&child::run_both(&server, &client, || listens(port), here.limit)?)
    }
}

fn gridnet_args(task: Task, here: Circumstances) -> Vec<String> {
    let pin = format!("{},{}", here.cores.0, here.cores.1);
    ["perf", "--op", task.op.name, "--size", &task.size.to_string(), "--pin", &pin, "--format", "json"]
        .map(str::to_owned)
        .to_vec()
}

fn own_args(task: Task, here: Circumstances) -> Vec<String> {
    let pin = format!("{},{}", here.cores.0, here.cores.1);
    vec![task.op.name.to_owned(), task.size.to_string(), here.ms.to_string(), pin]
}

fn ucx_args(test: &str, task: Task, port: u16, count: u64) -> Vec<String> {
    let warmup = (count / 10).clamp(1, 10_000);
    let numbers = [
        ("-p", port.to_string()),
        ("-t", test.to_owned()),
        ("-s", task.size.to_string()),
        ("-n", count.to_string()),
        ("-w", warmup.to_string()),
    ];
    let flags = ["-f", "-v"].map(str::to_owned);
    let numbers = numbers.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    std::iter::once("127.0.0.1".to_owned()).chain(numbers).chain(flags).collect()
}

/// ucx_perftest wants a number, not a time: about as many messages as take `ms` by what machines of today do.
fn ucx_iterations(task: Task, ms: u32, table: Table) -> u64 {
    let round_ns = match (table, task.op.shows) {
        (Table::Shm | Table::Mpi, Shows::Latency) => 2 * (200 + task.size / 10),
        (Table::Shm | Table::Mpi, _) => 100 + task.size / 10,
        (Table::Tcp, Shows::Latency) => 2 * (5_000 + task.size / 8),
        (Table::Tcp, _) => 4_000 + task.size / 8,
    };
    (u64::from(ms) * 1_000_000 / round_ns).clamp(100, 10_000_000)
}

/// A port that nobody listens on at the moment.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

/// Whether somebody listens on a port: a server that takes one connection only must not be asked by connecting.
fn listens(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).any(|line| is_listener(line, port))
}

/// Whether a line of `/proc/net/tcp` is a listener on `port`.
fn is_listener(line: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':'));
    local.is_some_and(|(_, found)| found == format!("{port:04X}")) && fields.nth(1) == Some(LISTEN)
}

const VERSION_LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
impl Peer {
    /// A peer that is only talked about.
    pub(crate) fn fixed(name: &'static str, version: Result<String, String>) -> Peer {
        Peer { name, speech: Speech::Own, table: Table::Shm, program: PathBuf::new(), version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op;

    #[test]
    fn listeners_are_found_in_the_table_of_the_kernel() {
        let line = "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 1 1 0";
        assert!(is_listener(line, 8080) && !is_listener(line, 8081));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 8080));
        assert!(!is_listener("  sl  local_address rem_address   st", 8080));
    }

    #[test]
    fn a_port_is_listened_on_when_the_kernel_says_so() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(listens(listener.local_addr().unwrap().port()));
    }

    #[test]
    fn ucx_gets_a_number_that_takes_about_the_time() {
        let task = |op, size| Task { op: op::named(op).unwrap(), size };
        let count = |op, size, ms| ucx_iterations(task(op, size), ms, Table::Shm);
        assert_eq!(count("tag_lat", 8, 250), 625_000);
        assert_eq!(count("tag_lat", 1 << 20, 250), 1_189);
        assert_eq!(count("tag_bw", 1 << 30, 1), 100);
        assert_eq!(ucx_iterations(task("tag_lat", 8), 250, Table::Tcp), 24_995);
        let args = ucx_args("tag_lat", task("tag_lat", 8), 4000, count("tag_lat", 8, 1));
        let text = args.join(" ");
        assert_eq!(text, "127.0.0.1 -p 4000 -t tag_lat -s 8 -n 2500 -w 250 -f -v");
    }
}
