//! Which rank a process is, as its launcher says: carried in addresses, so that the log of another rank can name it.
//!
//! It has the last four bytes of an address, plus 1, where the addresses of networks leave them free: whoever reads those ignores them.

use gridnet::core::wire::ADDRESS_BYTES;

/// What launchers tell a process: Open MPI's, MPICH's and others of its interface, PMIx, Slurm.
const NAMES: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"];
/// Where the rank is.
const PLACE: std::ops::Range<usize> = ADDRESS_BYTES - 4..ADDRESS_BYTES;
/// Where the numbers of addresses are, of 16 and of 4 bytes, and room for them beside a rank.
const COUNTS: [(usize, usize); 2] = [(42, 16), (43, 4)];
const ROOM: usize = 16;

/// That of this process.
pub(crate) fn own() -> Option<u32> {
    NAMES.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Puts a rank into an address, if there is room.
pub(crate) fn write(bytes: &mut [u8; ADDRESS_BYTES], rank: Option<u32>) {
    if let Some(number) = rank.and_then(|rank| rank.checked_add(1)).filter(|_| has_room(bytes)) {
        bytes[PLACE].copy_from_slice(&number.to_le_bytes());
    }
}

/// The rank in an address.
pub(crate) fn read(bytes: &[u8; ADDRESS_BYTES]) -> Option<u32> {
    let number = bytes.last_chunk().map(|number| u32::from_le_bytes(*number))?;
    number.checked_sub(1).filter(|_| has_room(bytes))
}

fn has_room(bytes: &[u8; ADDRESS_BYTES]) -> bool {
    COUNTS.iter().map(|(at, len)| usize::from(bytes[*at]) * len).sum::<usize>() <= ROOM
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet::core::wire::{Address, NetAddresses, NodeId};

    #[test]
    fn ranks_go_with_addresses_that_have_room_for_them() {
        let four = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3], [10, 0, 0, 4]].map(std::net::IpAddr::from);
        let v6 = std::net::IpAddr::from([0xff; 16]);
        let all: [(&[std::net::IpAddr], bool); 5] = [
            (&[], true),
            (&four, true),
            (&[v6], true),
            (&[v6, four[0]], false),
            (&[four[0], four[1], four[2], four[3], [255; 4].into()], false),
        ];
        for (networks, has_room) in all {
            let network = NetAddresses::new(7, networks.iter().copied());
            let node = NodeId::new([7; 16]).unwrap();
            let address = Address { uid: 1, host: 2, node, incarnation: 3, network };
            for rank in [None, Some(0), Some(9), Some(u32::MAX)] {
                let mut bytes = address.to_bytes();
                write(&mut bytes, rank);
                assert_eq!(Address::parse(&bytes), Ok(address));
                let expected = rank.filter(|rank| has_room && *rank < u32::MAX);
                assert_eq!(read(&bytes), expected, "{networks:?} {rank:?}");
            }
        }
    }
}
