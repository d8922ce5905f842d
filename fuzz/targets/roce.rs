//! Packets of RoCEv2 from anybody: refused, or understood as something that would be written in the same way.

#![no_main]

use gridnet_rdma_sim::wire::{Flow, Ipv4Fields, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let address = ([127, 0, 0, 1], 4791).into();
    let flow = Flow::new(address, address, Ipv4Fields::UNFRAGMENTED).expect("one family");
    let _ = flow.open(bytes);
    let Ok(packet) = Packet::decode(bytes) else { return };
    let mut again = Vec::new();
    packet.encode(&mut again);
    assert_eq!(Packet::decode(&again), Ok(packet));
    flow.seal(&mut again);
    assert!(flow.open(&again).is_some());
});
