//! The rules of verbs, on each wire.

mod bed;
mod cases;

use gridnet_testbed::{lab_test, testing};

/// Runs the cases on a bed; `open` says none where it cannot be had.
macro_rules! suite {
    ($wire:ident, $open:expr, $($case:ident)*) => {
        mod $wire {
            $(
                #[test]
                fn $case() {
                    if let Some(mut bed) = $open {
                        crate::cases::$case(&mut bed);
                    }
                }
            )*
        }
    };
}

/// What succeeds, whatever the network loses: given to `$do`, behind what else it wants.
macro_rules! succeeding {
    ($do:ident! $($more:tt)*) => {
        $do! {
            $($more)*
            sends_of_all_sizes writes_of_all_sizes writes_with_immediate_data reads_of_all_sizes atomic_operations
            pieces_and_inline_data order_in_both_directions unsignaled_requests a_receive_that_is_late
        }
    };
}

/// What fails, and how: as above.
macro_rules! failing {
    ($do:ident! $($more:tt)*) => {
        $do! {
            $($more)*
            wrong_key_to_write wrong_key_to_read wrong_key_to_add wrong_key_to_swap beyond_the_end_to_write
            before_the_start_to_read a_region_that_is_read_only a_region_without_atomic_operations
            a_region_that_was_deregistered a_receive_that_is_too_short
            a_wrong_local_key a_read_into_memory_that_must_not_be_written flushes
        }
    };
}

macro_rules! successes {
    ($($wire:ident: $open:expr,)*) => {
        $(succeeding! { suite! $wire, $open, })*
    };
}

macro_rules! failures {
    ($($wire:ident: $open:expr,)*) => {
        $(failing! { suite! $wire, $open, })*
    };
}

successes! {
    net: crate::bed::NetBed::open(),
    lossy_net: crate::bed::NetBed::lossy(),
    udp: crate::bed::RealBed::udp4(),
    udp6: crate::bed::RealBed::udp6(),
    udp_segments: crate::bed::RealBed::udp4_segments(),
    shm: crate::bed::RealBed::shm(),
}

failures! {
    net_failures: crate::bed::NetBed::open(),
    udp_failures: crate::bed::RealBed::udp4(),
    udp6_failures: crate::bed::RealBed::udp6(),
    shm_failures: crate::bed::RealBed::shm(),
}

/// Cases by name.
type Case = (&'static str, fn(&mut dyn bed::Bed));

macro_rules! table {
    ($($case:ident)*) => {
        [$((stringify!($case), |bed| cases::$case(bed))),*]
    };
}

const SUCCEEDING: [Case; 9] = succeeding! { table! };
const FAILING: [Case; 13] = failing! { table! };

lab_test! {
    /// Over AF_XDP all run in one lab, which takes longer to make than most of them.
    fn xdp() {
        let lab = bed::lab();
        for (name, case) in SUCCEEDING.into_iter().chain(FAILING) {
            match bed::RealBed::xdp(&lab) {
                Ok(mut bed) => case(&mut bed),
                Err(error) => return testing::skip("verbs over AF_XDP", &error.to_string()),
            }
            println!("{name}: ok");
        }
    }
}
