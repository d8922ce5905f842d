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
    let network = "/proc/self/ns/net";
    let network = std::fs::read_link(network).map_err(|e| failed(network, e))?;
    let digest = Sha256::digest(format!("{} {}", boot.trim(), network.display()));
    Name::try_from(format!("host-{}", crate::hex::encode(&digest[..8]))).map_err(Error::System)
}
