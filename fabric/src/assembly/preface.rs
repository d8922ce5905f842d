//! What two fabrics say of themselves while they agree, so that the one that calls need not wait for the other's greeting
//! ([`Preface`]): that of the asker is its hint for the stack, that of the asked stands behind the address, if the hint asks for it.

use gridnet_assembly::stack::Stack;
use gridnet_core::wire::{Preface, ADDRESS_BYTES, PREFACE_BYTES};

use super::builder::rail_of;
use super::TCP;

/// What the fabric that is asked for a stack is told.
pub(super) fn hint(stack: &Stack) -> Vec<u8> {
    match rail_of(stack) {
        Ok(TCP) => Preface::OWN.to_bytes().to_vec(),
        _ => Vec::new(),
    }
}

/// What goes behind the address for one who has told that. Whoever tells nothing takes no more than an address.
pub(super) fn answer(rail: &str, hint: &[u8]) -> Option<[u8; PREFACE_BYTES]> {
    (rail == TCP && hint.len() >= PREFACE_BYTES).then(|| Preface::OWN.to_bytes())
}

/// An address, and what stands behind it; nothing when the bytes cannot be that.
pub(super) fn split(place: &[u8]) -> Option<(&[u8; ADDRESS_BYTES], Option<Preface>)> {
    let (address, behind) = place.split_first_chunk()?;
    match behind {
        [] => Some((address, None)),
        behind => Some((address, Some(Preface::parse(behind.try_into().ok()?)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_say_what_they_are_where_both_know_of_it() {
        let stack = |text: &str| text.parse::<Stack>().unwrap();
        for other in ["shm", "tls/relay", "tcp"] {
            assert!(hint(&stack(other)).is_empty(), "{other}");
        }
        let asked = hint(&stack("tls/tcp(streams=2)"));
        assert_eq!(answer(TCP, &asked), Some(Preface::OWN.to_bytes()));
        assert_eq!(answer(TCP, &[asked.as_slice(), &[1; 9]].concat()), answer(TCP, &asked), "a later one");
        for (rail, hint) in [("shm", asked.as_slice()), (TCP, &[]), (TCP, &asked[1..])] {
            assert_eq!(answer(rail, hint), None, "{rail} {hint:?}");
        }
        let address = [7; ADDRESS_BYTES];
        assert_eq!(split(&address), Some((&address, None)), "an older one");
        let said = Preface { features: u64::MAX, ..Preface::OWN };
        let place = [&address[..], &said.to_bytes()].concat();
        assert_eq!(split(&place), Some((&address, Some(said))));
        for wrong in [&place[1..], &place[..ADDRESS_BYTES + 1], &[place.as_slice(), &[0]].concat(), &[]] {
            assert_eq!(split(wrong), None, "{} bytes", wrong.len());
        }
    }
}
