//! The rules of verbs, on each wire.

mod bed;
mod cases;
mod end;
#[macro_use]
mod list;

use gridnet_testbed::{lab_test, testing};
use list::{FAILING, SUCCEEDING};

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
