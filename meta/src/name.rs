//! Names that users give, and the one of a host.

use sha2::{Digest, Sha256};

use crate::error::Error;

pub use gridnet_assembly::name::{Name, NAME_BYTES_MAX};

/// The cluster of a node that declares none: that of all processes that share this host's memory and network.
///
/// # Errors
/// [`Error::System`] when the host does not tell what it is.
pub fn of_host() -> Result<Name, Error> {
    let failed = |what: &str, e: std::io::Error| Error::System(format!("{what}: {e}"));
    let boot = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(boot).map_err(|e| failed(boot, e))?;
    // That of this thread: one process may have several.
    let network = "/proc/thread-self/ns/net";
    let network = std::fs::read_link(network).map_err(|e| failed(network, e))?;
    let digest = Sha256::digest(format!("{} {}", boot.trim(), network.display()));
    Name::try_from(format!("host-{}", crate::hex::encode(&digest[..8]))).map_err(Error::System)
}

/// The label of a node that was given none: the name of the host, and the number of the process.
///
/// # Errors
/// [`Error::System`], which cannot be as long as labels may have 40 letters and a number.
pub fn of_process() -> Result<Name, Error> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    let host = if host.is_empty() { "host" } else { &host };
    Name::try_from(format!("{host}.{}", std::process::id())).map_err(Error::System)
}
