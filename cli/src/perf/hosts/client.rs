//! The client: finds the server, and says why not when it does not.

use super::greeting::{self, Wish};
use super::options;
use crate::args::PerfArgs;
use crate::failure::Failure;
use crate::perf::link::patience;
use crate::perf::peer::Peer;
use crate::perf::plan::Plan;
use gridnet::config::Config;
use gridnet::proof::Key;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// The peer process at the server `to`. What the fabrics of this side need to meet its own becomes part of the plan.
pub(in crate::perf) fn call(to: &str, args: &PerfArgs, plan: &mut Plan) -> Result<Peer, Failure> {
    let key_path = std::path::absolute(args.hosts.key.as_deref().unwrap_or(Path::new("")))?;
    let key = Key::read(&key_path).map_err(|refusal| Failure::Run(refusal.reason))?;
    let config = Config::from_process(&[])?;
    let (stream, at) = dial(to)?;
    // As the options of the plan, without their names.
    let option = |name: &str| {
        plan.options.iter().find_map(|option| Some(option.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    };
    let wish = Wish {
        largest: plan.largest(),
        rails: option("GRIDNET_RAILS"),
        wait: option("GRIDNET_WAIT_MODE"),
        timeout: patience().as_secs(),
    };
    let reports = greeting::call(&stream, &key, &key_path.display().to_string(), &wish, patience())
        .map_err(|failure| failure.during(&at.to_string()))?;
    plan.options.extend(options(stream.local_addr()?.ip(), &key_path, &config)?);
    Ok(Peer::remote(at, File::from(OwnedFd::from(stream)), reports))
}

/// A connection to the first address that answers.
fn dial(to: &str) -> Result<(TcpStream, SocketAddr), Failure> {
    let usage = |why: &str| Failure::Usage(format!("--connect {to}: {why}; accepted is HOST:PORT"));
    let addresses = to.to_socket_addrs().map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => usage(&error.to_string()),
        _ => Failure::Run(format!("{to}: the address is not to be found: {error}")),
    })?;
    let mut reasons = Vec::new();
    for at in addresses.take(MOST_ADDRESSES) {
        match TcpStream::connect_timeout(&at, ATTEMPT.min(patience())) {
            Ok(stream) if stream.local_addr().ok() != Some(at) => return Ok((stream, at)),
            // A call to a port of this host where nobody listens can meet itself.
            Ok(_) => reasons.push(format!("{at}: {}", why_not(ErrorKind::ConnectionRefused))),
            Err(error) => {
                let why = why_not(error.kind());
                reasons.push(format!("{at}: {}", if why.is_empty() { error.to_string() } else { why }));
            }
        }
    }
    Err(Failure::Run(if reasons.is_empty() {
        format!("{to}: it has no address")
    } else {
        reasons.join("; ")
    }))
}

/// What the commoner errors mean here.
fn why_not(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::ConnectionRefused => {
            "nobody listens there: does `gridnet perf --serve` still run, and is that its port?".to_owned()
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            format!("no answer within {:?}: a firewall may be in the way", ATTEMPT.min(patience()))
        }
        _ => String::new(),
    }
}

/// Time for one address.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Of a name that has very many.
const MOST_ADDRESSES: usize = 8;
