//! Which rank a process is, as its launcher says: carried in addresses, so that the log of another rank can name it.
//!
//! It has three bytes that are 0 in addresses of gridnet, plus 1; they are taken out before those are read.

use gridnet::core::wire::ADDRESS_BYTES;

/// What launchers tell a process: Open MPI's, MPICH's and others of its interface, PMIx, Slurm.
const NAMES: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"];
/// Where the rank is.
const PLACE: std::ops::Range<usize> = 1..4;
/// Ranks from here on have no room.
const TOO_LARGE: u32 = (1 << 24) - 1;

/// That of this process.
pub(crate) fn own() -> Option<u32> {
    NAMES.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Puts a rank into an address, if it is not too large.
pub(crate) fn write(bytes: &mut [u8; ADDRESS_BYTES], rank: Option<u32>) {
    if let Some(rank) = rank.filter(|rank| *rank < TOO_LARGE) {
        bytes[PLACE].copy_from_slice(&(rank + 1).to_le_bytes()[..3]);
    }
}

/// An address without its rank, and the rank.
pub(crate) fn split(bytes: &[u8; ADDRESS_BYTES]) -> ([u8; ADDRESS_BYTES], Option<u32>) {
    let number = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], 0]);
    let mut plain = *bytes;
    plain[PLACE].fill(0);
    (plain, number.checked_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet::core::wire::{Address, NetAddresses, NodeId};

    #[test]
    fn ranks_go_with_addresses() {
        let networks = [std::net::IpAddr::from([0xff; 16]), [10, 0, 0, 1].into()];
        let network = NetAddresses::new(7, networks);
        let node = NodeId::new([7; 16]).unwrap();
        let address = Address { uid: 1, host: 2, node, incarnation: 3, network };
        for (rank, told) in [
            (None, None),
            (Some(0), Some(0)),
            (Some(70_000), Some(70_000)),
            (Some(TOO_LARGE - 1), Some(TOO_LARGE - 1)),
            (Some(TOO_LARGE), None),
            (Some(u32::MAX), None),
        ] {
            let mut bytes = address.to_bytes();
            write(&mut bytes, rank);
            let (plain, read) = split(&bytes);
            assert_eq!((Address::parse(&plain), read), (Ok(address), told), "{rank:?}");
        }
    }
}
