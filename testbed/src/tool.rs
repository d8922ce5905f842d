//! Runs `ip`, `tc`, `nft` and `ss`, which set up what the kernel does.

use crate::error::{Error, Result};
use crate::namespace::Namespaces;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// The tools, each with its Debian package.
const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("tc", "iproute2"), ("ss", "iproute2"), ("nft", "nftables")];

/// Makes sure that the tools are there.
pub(crate) fn check() -> Result<()> {
    let missing = |(tool, package): &(&str, &str)| match silent(tool).arg("-V").status() {
        Ok(_) => None,
        Err(e) => Some(format!("{tool} cannot be run ({e}): install the package {package}")),
    };
    match TOOLS.iter().find_map(missing) {
        Some(why) => Err(Error::Unavailable(why)),
        None => Ok(()),
    }
}

/// Lines for `ip`, executed in order in a host.
pub(crate) fn ip(host: &Namespaces, lines: &str) -> Result<()> {
    feed(host, silent("ip").args(["-batch", "-"]), lines).map(drop)
}

/// The same for all lines, whatever becomes of the ones before.
pub(crate) fn ip_forced(host: &Namespaces, lines: &str) -> Result<()> {
    // Fails at the end when one line did, which is expected.
    match feed(host, silent("ip").args(["-force", "-batch", "-"]), lines) {
        Err(Error::Setup(_)) | Ok(_) => Ok(()),
        Err(other) => Err(other),
    }
}

/// One line for `tc` in a host.
pub(crate) fn tc(host: &Namespaces, line: &str) -> Result<()> {
    feed(host, silent("tc").args(line.split_whitespace()), "").map(drop)
}

/// Rules for `nft` in a host: all or none of them.
pub(crate) fn nft(host: &Namespaces, rules: &str) -> Result<()> {
    feed(host, silent("nft").args(["-f", "-"]), rules).map(drop)
}

/// What `ss` says in a host.
pub(crate) fn ss(host: &Namespaces, line: &str) -> Result<String> {
    feed(host, silent("ss").args(line.split_whitespace()), "")
}

fn silent(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // They are in /sbin on some systems, where ordinary users do not look.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

/// Runs a tool in a host with `input`, and gives what it printed.
fn feed(host: &Namespaces, command: &mut Command, input: &str) -> Result<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let what = &words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    host.enter_with(command)?;
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| Error::setup(what, e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that has refused a line does not read on; its message says more than a broken pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&stderr);
    let given = if input.is_empty() { String::new() } else { format!("\ngiven was:\n{}", input.trim_end()) };
    Err(Error::setup(what, format!("{}{given}", why.trim_end())))
}
