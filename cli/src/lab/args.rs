//! The command line of `gridnet lab`.

use clap::{Args, Subcommand};
use gridnet_testbed::{HostSpec, Impairment, Site, SiteKind, Topology};
use std::path::PathBuf;

use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    pub(crate) command: LabCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Bring up a lab, measure it, and show what there is
    Check {
        #[command(flatten)]
        topology: TopologyArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// The same, then let its events happen while the commands of the file run, or one given here
    Run(RunArgs),
    /// A shell in a host: of a lab that is brought up for it, or of one that runs already
    Shell {
        /// The host
        #[arg(value_name = "HOST")]
        host: String,
        #[command(flatten)]
        topology: TopologyArgs,
        /// Process id of the lab to join [default: the only one of this user]
        #[arg(long, value_name = "PID", conflicts_with_all = ["file", "sites"])]
        lab: Option<u32>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) topology: TopologyArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Where the command of this line runs [default: the first host of the first site, or the first host]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// A command to run after those of the file
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TopologyArgs {
    /// The topology, in TOML
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Instead of a file: sites of these kinds, called a, b, ..., and a public host p
    #[arg(long, value_name = "KIND,..", value_delimiter = ',', conflicts_with = "file")]
    pub(crate) sites: Vec<SiteKind>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object a line instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave out the self-check
    #[arg(long)]
    pub(crate) no_check: bool,
}

impl TopologyArgs {
    /// Whether one is given at all.
    pub(crate) fn is_given(&self) -> bool {
        self.file.is_some() || !self.sites.is_empty()
    }

    /// What is to be brought up.
    pub(crate) fn read(&self) -> Result<Topology, Failure> {
        if let Some(file) = &self.file {
            return Ok(Topology::read(file)?);
        }
        if self.sites.is_empty() {
            return Err(Failure::Usage(
                "a topology is missing: give a FILE, or --sites with kinds such as masq,open".into(),
            ));
        }
        if self.sites.len() > NAMES.len() {
            return Err(Failure::Usage(format!("--sites: accepted are up to {} sites", NAMES.len())));
        }
        let topology = Topology::new().host(HostSpec::new("p").public(Impairment::default()));
        let sites = NAMES.iter().zip(&self.sites).map(|(name, kind)| Site::new(name, *kind));
        Ok(sites.fold(topology, Topology::site))
    }
}

/// Names of sites that have none. Not p: that is the public host.
const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_named_by_letters() {
        let args = TopologyArgs { file: None, sites: vec![SiteKind::Open, SiteKind::Masquerading] };
        let topology = args.read().unwrap();
        let names: Vec<(&str, SiteKind)> =
            topology.sites.iter().map(|site| (site.name.as_str(), site.kind)).collect();
        assert_eq!(names, [("a", SiteKind::Open), ("b", SiteKind::Masquerading)]);
        assert_eq!(topology.hosts[0].name, "p");
    }

    #[test]
    fn no_topology_and_too_many_sites_are_refused() {
        for sites in [Vec::new(), vec![SiteKind::Open; 13]] {
            let args = TopologyArgs { file: None, sites };
            assert!(matches!(args.read(), Err(Failure::Usage(_))));
        }
    }
}
