//! Regions under numbers that their owner has chosen, and atomic operations on elements.

use crate::error::Error;
use crate::matching::Key;
use crate::mem::MEMORY_HOST;
use crate::region::{Access, Element, ElementOp, ElementType};
use crate::testing::pair::{Fixture, Pair};

const NUMBER: u64 = 1 << 63 | 5;

fn finish<F: Fixture>(
    pair: &mut Pair<F>,
    ticket: Result<crate::testing::node::Ticket, Error>,
) -> Result<Vec<u8>, Error> {
    let outcome = pair.finish_a(ticket?);
    outcome.status.map(|()| outcome.bytes)
}

/// Registers memory of `b` under [`NUMBER`].
fn register<F: Fixture>(pair: &mut Pair<F>, memory: &mut [u64]) -> Key {
    let (base, len) = (memory.as_mut_ptr().cast(), size_of_val(memory));
    let region = pair.b.engine().register_as(base, len, Access::ALL, MEMORY_HOST, Some(NUMBER));
    region.expect("the number is free")
}

/// Sums of many under a number, each of which is told what was there; also of elements that are less than a word.
pub fn elements_are_changed_once_under_a_number<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let mut memory = vec![0u64; 4];
    let region = register(&mut pair, &mut memory);
    let rkey = pair.a.engine().import_number(to_b, NUMBER).expect("the peer is there");
    for (kind, offset) in [(ElementType::U8, 3), (ElementType::I16, 10), (ElementType::F64, 16)] {
        let one = if kind == ElementType::F64 { 1f64.to_bits() } else { 1 };
        let add = Element::new(kind, ElementOp::Sum, one, 0).expect("a sum");
        for count in 0..100u64 {
            let expected = if kind == ElementType::F64 { (count as f64).to_bits() } else { count };
            let before = pair.a.element(to_b, rkey, offset, &add);
            let before = finish(&mut pair, before).expect("it is allowed");
            assert_eq!(before, expected.to_le_bytes()[..kind.bytes()], "{kind:?}");
        }
    }
    assert_eq!(pair.b.engine().close_region(region), Ok(()));
    assert_eq!(memory, [100 << 24, 100 << 16, 100f64.to_bits(), 0]);
}

/// A number is taken until its region is closed; then it names nothing, and after that another region. Puts and gets reach what it
/// names, by messages and, where the rail can, by itself.
pub fn a_number_names_one_region_at_a_time<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let mut memories = [vec![0u64; 2], vec![0u64; 2]];
    let rkey = pair.a.engine().import_number(to_b, NUMBER).expect("the peer is there");
    assert_eq!(pair.a.engine().import_number(to_b, 0), Err(Error::Key));
    for memory in &mut memories {
        let put = pair.a.put(to_b, rkey, 0, &[1; 8]);
        assert_eq!(finish(&mut pair, put), Err(Error::Key), "nothing has the number");
        let region = register(&mut pair, memory);
        let base = memory.as_mut_ptr().cast();
        for number in [NUMBER, 0] {
            let again = pair.b.engine().register_as(base, 8, Access::ALL, MEMORY_HOST, Some(number));
            let expected = if number == 0 { Error::Invalid } else { Error::InUse };
            assert_eq!(again.err().map(|refusal| refusal.error), Some(expected));
        }
        for round in 1..4u8 {
            let put = pair.a.put(to_b, rkey, 3, &[round; 13]);
            assert_eq!(finish(&mut pair, put), Ok(Vec::new()));
            let get = pair.a.get(to_b, rkey, 3, 13);
            assert_eq!(finish(&mut pair, get), Ok(vec![round; 13]));
            let put = pair.a.put(to_b, rkey, 4, &[round; 13]);
            assert_eq!(finish(&mut pair, put), Err(Error::Bounds), "the owner knows how long it is");
        }
        assert_eq!(pair.b.engine().close_region(region), Ok(()));
    }
    for memory in memories {
        assert_eq!(memory[0].to_le_bytes(), [0, 0, 0, 3, 3, 3, 3, 3]);
    }
}

/// Whether the rail reaches by itself what a number names, once it has heard where that is.
fn is_reached_by_rail<F: Fixture>(pair: &mut Pair<F>, rkey: Key, value: u8) -> bool {
    let to_b = pair.to_b;
    let mut counts = [0; 2];
    for count in &mut counts {
        let put = pair.a.put(to_b, rkey, 0, &[value; 8]);
        assert_eq!(finish(pair, put), Ok(Vec::new()));
        *count = pair.a.engine().peer_counters(to_b).expect("it is a peer").by_message;
    }
    counts[0] == counts[1]
}

/// A number names another region, for which the rail has another place: it is reached as the one before was.
pub fn a_number_that_has_moved_is_found_again<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let mut memories = [vec![0u64; 2], vec![0u64; 2], vec![0u64; 2]];
    let rkey = pair.a.engine().import_number(to_b, NUMBER).expect("the peer is there");
    let old = register(&mut pair, &mut memories[0]);
    let is_reached = is_reached_by_rail(&mut pair, rkey, 1);
    assert_eq!(pair.b.engine().close_region(old), Ok(()));
    // It gets the place of the old one.
    let base = memories[1].as_mut_ptr().cast();
    let other = pair.b.engine().register_as(base, 16, Access::ALL, MEMORY_HOST, None).expect("it is mapped");
    let new = register(&mut pair, &mut memories[2]);
    assert_eq!(is_reached_by_rail(&mut pair, rkey, 2), is_reached);
    for region in [other, new] {
        assert_eq!(pair.b.engine().close_region(region), Ok(()));
    }
    assert_eq!(memories.map(|memory| memory[0].to_ne_bytes()), [[1; 8], [0; 8], [2; 8]]);
}

/// Peers may name places by their addresses at the owner: by messages and, where the rail can, by itself.
pub fn places_may_be_addresses<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let mut memory = vec![0u64; 4];
    let (base, access) = (memory.as_mut_ptr().cast::<u8>(), Access::ALL.and(Access::BY_ADDRESS));
    let region =
        pair.b.engine().register_as(base, 32, access, MEMORY_HOST, Some(NUMBER)).expect("it is mapped");
    assert_eq!(pair.b.engine().region_key(region).err(), Some(Error::Unsupported));
    let rkey = pair.a.engine().import_number(to_b, NUMBER).expect("the peer is there");
    let start = base as u64;
    let add = Element::new(ElementType::U64, ElementOp::Sum, 1, 0).expect("a sum");
    for round in 1..4u8 {
        let put = pair.a.put(to_b, rkey, start + 3, &[round; 8]);
        assert_eq!(finish(&mut pair, put), Ok(Vec::new()));
        let get = pair.a.get(to_b, rkey, start + 3, 8);
        assert_eq!(finish(&mut pair, get), Ok(vec![round; 8]));
        let before = pair.a.element(to_b, rkey, start + 24, &add);
        assert_eq!(finish(&mut pair, before), Ok(u64::from(round - 1).to_ne_bytes().to_vec()));
        for beyond in [start - 1, start + 25, 0, 3, u64::MAX] {
            let put = pair.a.put(to_b, rkey, beyond, &[9; 8]);
            assert_eq!(finish(&mut pair, put), Err(Error::Bounds), "{round}: {beyond:x} of {start:x}");
            let get = pair.a.get(to_b, rkey, beyond, 8);
            assert_eq!(finish(&mut pair, get), Err(Error::Bounds), "{round}: {beyond:x} of {start:x}");
        }
    }
    assert_eq!(pair.b.engine().close_region(region), Ok(()));
    assert_eq!(memory.iter().flat_map(|word| word.to_ne_bytes()).filter(|byte| *byte == 3).count(), 9);
}
