//! The command line of `gridnet session`.

use clap::{Args, Subcommand};
use gridnet::core::wire::NodeId;
use gridnet_meta::cluster::Will;
use gridnet_meta::name::Name;
use gridnet_meta::store::NewTicket;
use gridnet_meta::Shares;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    #[command(subcommand)]
    pub(crate) command: SessionCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Make a session: its authority, and a first ticket
    New {
        #[command(flatten)]
        dir: DirArgs,
        /// Where the rendez-vous node is to listen; more than once for several addresses
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7411", value_parser = listen)]
        listen: Vec<SocketAddr>,
        /// Under which address others reach it [default: where it listens]
        #[arg(long, value_name = "HOST:PORT")]
        address: Vec<String>,
        /// Have members speak to the rendez-vous node over plain TCP, which whoever is on the way can read and change; every status
        /// says so. Data between members stays encrypted
        #[arg(long)]
        insecure: bool,
        #[command(flatten)]
        ticket: TicketArgs,
    },
    /// Be the rendez-vous node of a session, until ended by ^C or SIGTERM
    Serve {
        #[command(flatten)]
        dir: DirArgs,
        #[command(flatten)]
        relay: RelayArgs,
    },
    /// Make another ticket
    Ticket {
        /// The file to write, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// A leader that passes joins on, for those who do not reach the rendez-vous node; more than once for several
        #[arg(long, value_name = "HOST:PORT")]
        via: Vec<String>,
        #[command(flatten)]
        dir: DirArgs,
        #[command(flatten)]
        ticket: TicketArgs,
    },
    /// Show who is there, and who was refused, on the host of the rendez-vous node
    Status {
        #[command(flatten)]
        dir: DirArgs,
        /// Print one JSON object instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Take a node out of a session for good, or end a ticket
    Revoke {
        /// The node, or with --ticket the ticket: 32 hexadecimal digits
        #[arg(value_name = "NODE")]
        node: NodeId,
        /// End the ticket of this number: nobody joins with it any more, who has joined stays
        #[arg(long)]
        ticket: bool,
        #[command(flatten)]
        dir: DirArgs,
    },
    /// Join with a ticket and show who is there: to try a ticket, to watch a session, or to be one of its nodes
    Join(JoinArgs),
    /// Run a command in a session of its own, of which all that it starts are one node, and which ends with it
    Quick {
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The ticket
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: PathBuf,
    /// The cluster that this process says it belongs to [default: that of its host]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<Name>,
    /// Whether it leads its cluster: if it is elected, before those that are elected, or never
    #[arg(long, value_name = "WHEN", default_value = "elected")]
    pub(crate) lead: Lead,
    /// Where it listens for its cluster when it leads [default: at the address from which it reaches the rendez-vous node, or
    /// 127.0.0.1 where the cluster is that of the host; any port]
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_any_port)]
    pub(crate) listen: Option<SocketAddr>,
    /// When it leads, pass on what newcomers say to the rendez-vous node that do not reach that themselves
    #[arg(long)]
    pub(crate) pass_joins: bool,
    /// A leader that passes joins on, to join through when the rendez-vous node is not reached; more than once for several
    /// [default: as the ticket says]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) via: Vec<String>,
    /// What it says of itself [default: HOST.PID]
    #[arg(long, value_name = "NAME")]
    pub(crate) label: Option<Name>,
    /// Keep key and certificate in this directory, for programs that are to be this node (GRIDNET_SESSION=DIR): for a day, or
    /// with --watch as long as this runs. A node that is there already goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Stay, and print who comes and goes, until ended by ^C or SIGTERM
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print one JSON object a line instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// How long to wait for the rendez-vous node, as 30s or 5m
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct DirArgs {
    /// Directory of the session
    #[arg(long, value_name = "DIR", default_value = "gridnet-session")]
    pub(crate) dir: PathBuf,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TicketArgs {
    /// How long one can join with the ticket, as 90s, 30m, 12h or 7d
    #[arg(long, value_name = "SPAN", default_value = "30d", value_parser = span)]
    expires: Duration,
    /// How many processes may join with the ticket [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    uses: Option<u64>,
}

impl From<TicketArgs> for NewTicket {
    fn from(args: TicketArgs) -> NewTicket {
        NewTicket { lifetime: args.expires, uses: args.uses }
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RelayArgs {
    /// Bytes per second that are passed on of the pipes of one member; 0: none
    #[arg(long, value_name = "BYTES", default_value_t = Shares::default().member_bytes_per_second)]
    relay_member: u64,
    /// The same for all members together
    #[arg(long, value_name = "BYTES", default_value_t = Shares::default().total_bytes_per_second)]
    relay_total: u64,
}

impl From<RelayArgs> for Shares {
    fn from(args: RelayArgs) -> Shares {
        Shares { member_bytes_per_second: args.relay_member, total_bytes_per_second: args.relay_total }
    }
}

/// Whether a process leads its cluster.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Lead {
    Elected,
    Always,
    Never,
}

impl From<Lead> for Will {
    fn from(lead: Lead) -> Will {
        match lead {
            Lead::Elected => Will::Willing,
            Lead::Always => Will::Configured,
            Lead::Never => Will::Unwilling,
        }
    }
}

fn listen_any_port(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| !address.ip().is_unspecified());
    address.ok_or_else(|| "accepted are 192.0.2.1:0 (any port) or [2001:db8::1]:7411".to_owned())
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() > 0);
    address.ok_or_else(|| "accepted are 192.0.2.1:7411 or [2001:db8::1]:7411".to_owned())
}

/// A number of seconds, minutes, hours or days; at most ten years.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "accepted are 1s to 3650d: a number and s, m, h or d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.get(..text.len() - 1).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=3650 * 86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit_and_an_end() {
        for (text, seconds) in [("1s", 1), ("30m", 1800), ("12h", 43_200), ("3650d", 315_360_000)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "5", "0s", "-1s", "1.5h", "3651d", "5w", "18446744073709551615d", "5ä"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listening_needs_an_address_and_a_port() {
        assert!(listen("[::1]:80").is_ok() && listen("10.0.0.1:1").is_ok());
        for text in ["10.0.0.1", "host:80", "10.0.0.1:0", ":80", "10.0.0.1:65536"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
