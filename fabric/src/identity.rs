//! Who and where a fabric is.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{Address, NetAddresses, NodeId};
use nix::unistd::geteuid;

/// The address of a new fabric: a fresh node id in the first moment of its life.
pub(crate) fn new_address(host_id: Option<&str>) -> Result<Address, Refusal> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Address {
        uid: geteuid().as_raw(),
        host: host_number(host_id),
        node: random_node()?,
        incarnation: since_epoch.as_nanos() as u64,
        network: NetAddresses::NONE,
    })
}

/// Processes with equal numbers can share memory: the same boot of the same kernel, seen from the same network
/// namespace, unless a host id was given.
fn host_number(host_id: Option<&str>) -> u64 {
    match host_id {
        Some(text) => fnv1a(b"given:", text.as_bytes()),
        None => {
            let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let network = std::fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino());
            fnv1a(&boot, &network.to_le_bytes())
        }
    }
}

fn random_node() -> Result<NodeId, Refusal> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| Refusal::new(Error::System, format!("/dev/urandom: {e}")))?;
    // UUID version 4, variant 1 (RFC 9562, section 5.4).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    NodeId::new(bytes).ok_or_else(|| Refusal::new(Error::System, "/dev/urandom gave zeroes"))
}

/// FNV-1a, 64 bits: names a host, protects nothing.
fn fnv1a(first: &[u8], second: &[u8]) -> u64 {
    first
        .iter()
        .chain(second)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fabric_has_another_node_id_and_all_of_a_host_its_number() {
        let (a, b) = (new_address(None).unwrap(), new_address(None).unwrap());
        assert_ne!(a.node, b.node);
        assert_eq!(a.host, b.host);
        assert_eq!(new_address(Some("x")).unwrap().host, new_address(Some("x")).unwrap().host);
        assert_ne!(new_address(Some("x")).unwrap().host, new_address(Some("y")).unwrap().host);
    }
}
