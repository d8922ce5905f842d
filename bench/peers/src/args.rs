//! The command line.

use crate::cores;
use crate::op::{self, Op, Task};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Over what is measured, and so who is there to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// Shared memory of one host
    Shm,
    /// TCP over the loopback interface
    Tcp,
    /// Programs of libfabric and MPI on one host, over gridnet's provider and over their own
    Mpi,
}

/// Measures gridnet beside other libraries, in turns
#[derive(Debug, Parser)]
#[command(name = "gridnet-bench-peers", version, args_override_self = true)]
pub(crate) struct Args {
    /// Folder of the peers, as bench/peers/run makes it
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// The `gridnet` command
    #[arg(long, value_name = "FILE")]
    pub(crate) gridnet: PathBuf,

    /// Over what the peers talk; `gridnet` must do the same by itself
    #[arg(long, value_enum, default_value = "shm")]
    pub(crate) table: Table,

    /// Peers to measure beside gridnet [default: all]
    #[arg(long, value_name = "PEER,..", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Operations [default: all]
    #[arg(long, value_name = "OP,..", value_delimiter = ',', value_parser = op::named)]
    pub(crate) op: Vec<&'static Op>,

    /// Message sizes in bytes, for all operations [default: as the operation says]
    #[arg(long, value_name = "S,..", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) size: Vec<u64>,

    /// How often each peer has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// About how long one run measures, in ms; gridnet itself takes 250
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) ms: u32,

    /// Time limit of one run, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) limit: u32,

    /// Cores of the two processes [default: the first two that may be used]
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1)]
    pub(crate) pin: Vec<usize>,

    /// Folder of the results
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// Name of the results, without extension
    #[arg(long, value_name = "NAME", default_value = "peers")]
    pub(crate) stem: String,

    /// Page whose marked part becomes the summary of this run
    #[arg(long, value_name = "FILE")]
    pub(crate) readme: Option<PathBuf>,

    /// Line of the description of the machine; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Vec<String>,
}

impl Args {
    /// The two cores: those asked for, else the first two that this process may use.
    pub(crate) fn cores(&self) -> Result<(usize, usize), String> {
        match self.pin[..] {
            [a, b] if a != b && a.max(b) < MOST_CORES => return Ok((a, b)),
            [] => {}
            _ => return Err("--pin takes two different cores, A,B".into()),
        }
        match cores::allowed().map_err(|error| error.to_string())?[..] {
            [a, b, ..] => Ok((a, b)),
            _ => Err("two cores are needed, and there is one".into()),
        }
    }

    /// Everything that is to be measured, in the order of the table.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        let wanted = |op: &&Op| match self.op[..] {
            [] => true,
            ref some => some.iter().any(|other| other.name == op.name),
        };
        let sizes = |op: &'static Op| match self.size[..] {
            [] => op.sizes.to_vec(),
            ref some => some.to_vec(),
        };
        let tasks = |op| sizes(op).into_iter().map(move |size| Task { op, size });
        let here = |op: &&Op| op.tables.contains(&self.table);
        op::OPS.iter().filter(here).filter(wanted).flat_map(tasks).collect()
    }
}

/// Cores that the kernel's calls of the usual size can name.
const MOST_CORES: usize = rustix::thread::CpuSet::MAX_CPU;

#[cfg(test)]
mod tests {
    use super::*;

    fn args(more: &[&str]) -> Args {
        let least = ["x", "--dir", "d", "--gridnet", "g", "--out", "o"];
        Args::try_parse_from(least.iter().chain(more)).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn every_default_operation_has_its_sizes() {
        let tasks = args(&[]).tasks();
        let names: Vec<String> = tasks.iter().map(Task::to_string).collect();
        assert_eq!(
            names,
            [
                "tag_lat 8 B",
                "tag_lat 1 KiB",
                "tag_lat 64 KiB",
                "tag_lat 1 MiB",
                "tag_rate 8 B",
                "tag_bw 1 MiB",
                "put_lat 8 B",
                "loan_lat 1 MiB"
            ]
        );
    }

    #[test]
    fn tables_have_operations_of_their_own() {
        let names: Vec<&str> = args(&["--table", "tcp"]).tasks().iter().map(|task| task.op.name).collect();
        assert!(names.contains(&"put_lat") && !names.contains(&"loan_lat"));
    }

    #[test]
    fn operations_and_sizes_may_be_chosen() {
        let tasks = args(&["--op", "loan_lat,tag_lat", "--size", "64,128"]).tasks();
        let names: Vec<String> = tasks.iter().map(Task::to_string).collect();
        assert_eq!(names, ["tag_lat 64 B", "tag_lat 128 B", "loan_lat 64 B", "loan_lat 128 B"]);
    }

    #[test]
    fn two_different_cores_or_none() {
        assert_eq!(args(&["--pin", "3,1"]).cores(), Ok((3, 1)));
        assert!(args(&["--pin", "1"]).cores().is_err());
        assert!(args(&["--pin", "1,1"]).cores().is_err());
        assert!(args(&["--pin", "0,99999"]).cores().is_err());
    }
}
