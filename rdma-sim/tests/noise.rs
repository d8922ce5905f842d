//! Packets of chance, many of them with right numbers and keys: nothing panics, what is sent is well formed, and memory that no peer
//! may have stays as it is. `ci/san.sh` runs it under the address sanitizer, and with `TEST_SOAK=1` a million packets.

mod common;

use std::time::Duration;

use common::{address, connect, Options, Side};
use gridnet_rdma_sim::attr::{Access, Mtu, State};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_rdma_sim::wire::{Packet, BTH_BYTES};
use gridnet_rdma_sim::wr::SendOp;
use gridnet_rdma_sim::Port;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// Bytes of each region.
const LEN: usize = 4096;
/// Packets that one queue pair hears at most.
const PACKETS: usize = 200;
/// Packets of a run; and of one with `TEST_SOAK=1`.
const SHORT: usize = 10_000;
const SOAK: usize = 1_000_000;

/// Opcodes whose extended headers begin with an address, and how long such a packet is without payload.
const WITH_ADDRESS: [(u8, usize); 6] =
    [(0x06, 28), (0x0a, 28), (0x0b, 32), (0x0c, 28), (0x13, 40), (0x14, 40)];

/// A packet of chance that is taken: for the queue pair always, for the peer's memory and of the right length mostly.
fn packet(random: &mut TestRng, side: &Side, psn: u32) -> Vec<u8> {
    let mut bytes = vec![0; (BTH_BYTES + random.next_u32() as usize % 300) & !3];
    random.fill_bytes(&mut bytes);
    // Mostly what may come at any time.
    let usual = [0x04, 0x05, 0x0a, 0x0b, 0x0c, 0x13, 0x14, 0x11];
    let opcode =
        if random.next_u32().is_multiple_of(8) { bytes[0] % 0x16 } else { usual[usize::from(bytes[0]) % 8] };
    (bytes[0], bytes[1]) = (opcode, bytes[1] & 0xc0);
    bytes[5..8].copy_from_slice(&side.qp.num().value().to_be_bytes()[1..]);
    bytes[9..12].copy_from_slice(&psn.to_be_bytes()[1..]);
    if random.next_u32().is_multiple_of(16) {
        return bytes;
    }
    if let Some((opcode, headers)) = WITH_ADDRESS.into_iter().find(|(opcode, _)| *opcode == bytes[0]) {
        let len = if matches!(opcode, 0x0a | 0x0b) { (bytes.len() % 256) & !3 } else { 0 };
        let remote = side.mr.remote(u64::from(bytes[11]) * 8);
        bytes.resize(headers + len, 1);
        bytes[12..20].copy_from_slice(&remote.address.to_be_bytes());
        bytes[20..24].copy_from_slice(&remote.rkey.0.to_be_bytes());
        let asked = if opcode == 0x0c { 700 } else { len as u32 };
        if opcode < 0x13 {
            bytes[24..28].copy_from_slice(&asked.to_be_bytes());
        }
    }
    if matches!(bytes[0], 0x04 | 0x05) {
        bytes.truncate(256);
    }
    // An acknowledgement that says yes.
    if bytes[0] == 0x11 {
        bytes.resize(BTH_BYTES + 4, 0);
        bytes[12] = 0x1f;
    }
    bytes
}

/// Spoils some bytes, whatever they mean.
fn spoil(random: &mut TestRng, bytes: &mut [u8]) {
    for _ in 0..1 + random.next_u32() % 3 {
        let at = random.next_u32() as usize % bytes.len();
        bytes[at] = random.next_u32() as u8;
    }
}

/// A queue pair that hears packets of chance until it is in ERR, at most so many. How many it has heard, and whether one of them has
/// changed the memory that the peer may change.
fn play(round: u64) -> (usize, bool) {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&round.to_le_bytes());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let net = Net::new(1, Faults::NONE);
    let options = Options { psn: 0, mtu: Mtu::B256, memory: LEN, ..Options::default() };
    let side = Side::new(&net, address(1), &options);
    let own = side.pd.allocate(LEN, Access::LOCAL_WRITE).expect("memory");
    own.write(0, &[7; LEN]).expect("room");
    let mut port = net.port(address(2));
    connect(&side.qp, address(2), &side.qp, &options);
    (0..8).for_each(|id| side.post_recv(id, id * 300, 300));
    let remote = side.mr.remote(0);
    for (op, len) in
        [(SendOp::Send, 700), (SendOp::RdmaRead(remote), 3000), (SendOp::FetchAdd { remote, add: 1 }, 8)]
    {
        side.post(1, op, 64, len);
    }
    let (mut next, mut heard) = (0, 0);
    while heard < PACKETS && side.qp.state() != State::Err {
        heard += 1;
        // The number that is expected, roughly, and those beside it.
        let psn = next + random.next_u32() % 3;
        next += u32::from(random.next_u32().is_multiple_of(2));
        let mut bytes = packet(&mut random, &side, psn);
        if random.next_u32().is_multiple_of(8) {
            spoil(&mut random, &mut bytes);
        }
        port.send(side.device.address(), &mut bytes);
        net.set_now(net.now() + Duration::from_micros(50));
        side.device.progress(net.now());
        let mut answer = Vec::new();
        while port.receive(&mut answer) != gridnet_rdma_sim::Received::Nothing {
            assert!(Packet::decode(&answer).is_ok(), "{answer:x?}");
        }
    }
    assert_eq!(own.read(0, LEN), Ok(vec![7; LEN]), "round {round}");
    (heard, side.mr.read(0, LEN) != Ok(vec![0; LEN]))
}

#[test]
fn packets_of_chance() {
    let most = if std::env::var("TEST_SOAK").is_ok_and(|value| value == "1") { SOAK } else { SHORT };
    let (mut heard, mut rounds, mut effects) = (0, 0, 0);
    while heard < most {
        let (packets, has_changed) = play(rounds);
        rounds += 1;
        heard += packets;
        effects += u64::from(has_changed);
    }
    println!("{heard} packets at {rounds} queue pairs, {effects} of them with an effect");
    assert!(effects > rounds / 8, "only {effects} of {rounds} rounds had an effect: this is no test");
}
