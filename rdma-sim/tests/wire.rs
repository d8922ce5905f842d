//! Packets and bytes: there and back, and as adapters have sent them.

use std::net::SocketAddr;

use gridnet_rdma_sim::wire::{
    Aeth, AtomicEth, Bth, Flow, Header, Ipv4Fields, Malformed, Packet, Psn, QpNum, Reth, Syndrome, ICRC_BYTES,
};
use proptest::prelude::*;

/// A congestion notification that a ConnectX-4 Lx has sent (regression tests of Scapy, `test/contrib/roce.uts`): the UDP payload,
/// with its ICRC.
const NOTIFICATION: [u8; 32] = [
    0x81, 0x00, 0xff, 0xff, 0x40, 0x00, 0x01, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0x82, 0xfd, 0x00, 0x2a,
];

/// A packet of the unreliable service, from the same place: 18 bytes and 2 of padding.
const UNRELIABLE: &[u8] =
    b"\x24\x60\xff\xff\x00\x00\x00\xd3\x00\xcf\x17\x10F0\x81\x8b\xe2\x895\xd9\x0e\x9a\x95PT\x01\
    \xbe\x88^P\x00\x00\x78\xf3\x53\xf3";

fn flow(source: &str, destination: &str, identification: u16) -> Flow {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let fields = Ipv4Fields { identification, ..Ipv4Fields::UNFRAGMENTED };
    Flow::new(address(source), address(destination), fields).expect("one family")
}

#[test]
fn the_icrc_is_what_others_compute() {
    let captured = flow("10.0.17.1:0", "10.0.18.1:4791", 0x718c);
    assert_eq!(captured.open(&NOTIFICATION), Some(&NOTIFICATION[..28]));
    let other = flow("192.168.0.7:49152", "192.168.0.7:4791", 1144);
    assert_eq!(other.open(UNRELIABLE), Some(&UNRELIABLE[..32]));
    let mut sealed = UNRELIABLE[..32].to_vec();
    other.seal(&mut sealed);
    assert_eq!(sealed, UNRELIABLE);
}

#[test]
fn other_services_are_refused() {
    assert_eq!(Packet::decode(&NOTIFICATION[..28]), Err(Malformed::Service));
    assert_eq!(Packet::decode(&UNRELIABLE[..32]), Err(Malformed::Service));
}

/// SEND only of 3 bytes with everything set, byte by byte.
#[test]
fn a_packet_has_its_layout() {
    let bth = Bth {
        solicited: true,
        migration: true,
        pkey: 0xffff,
        fecn: true,
        becn: false,
        dest_qp: QpNum::new(0x12_3456),
        ack_request: true,
        psn: Psn::new(0xab_cdef),
    };
    let mut bytes = Vec::new();
    Packet { bth, header: Header::SendOnlyImm(0x0102_0304), payload: b"abc" }.encode(&mut bytes);
    let expected = [
        0x05, 0xd0, 0xff, 0xff, 0x80, 0x12, 0x34, 0x56, 0x80, 0xab, 0xcd, 0xef, 1, 2, 3, 4, b'a', b'b', b'c',
        0,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn what_is_cut_or_too_long_is_refused() {
    let mut bytes = Vec::new();
    let header = Header::ReadRequest(Reth { address: 1, rkey: 2, length: 3 });
    Packet { bth: Bth::new(QpNum::new(1), Psn::new(1)), header, payload: &[] }.encode(&mut bytes);
    for len in 0..bytes.len() {
        assert_eq!(Packet::decode(&bytes[..len]), Err(Malformed::Short), "{len} bytes");
    }
    assert!(Packet::decode(&bytes).is_ok());
    bytes.extend([0; 4]);
    assert_eq!(Packet::decode(&bytes), Err(Malformed::Length));
    // Three bytes of padding, and no payload that they could belong to.
    let send = [0x04, 0x70, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(Packet::decode(&send), Err(Malformed::Length));
    let version = [0x04, 0x41, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(Packet::decode(&version), Err(Malformed::Version));
}

#[test]
fn routers_may_change_what_the_icrc_leaves_out() {
    for (from, to) in [("10.0.0.1:4000", "10.0.0.2:4791"), ("[fe80::1]:4000", "[fe80::2]:4791")] {
        let flow = flow(from, to, 0);
        let mut bytes = Vec::new();
        Packet { bth: Bth::new(QpNum::new(7), Psn::new(9)), header: Header::SendOnly, payload: b"four" }
            .encode(&mut bytes);
        flow.seal(&mut bytes);
        for byte in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[byte] ^= 1 << bit;
                assert_eq!(flow.open(&changed).is_some(), byte == 4, "bit {bit} of byte {byte}");
            }
        }
        let back = flow_back(to, from);
        assert_eq!(back.open(&bytes), None, "addresses are covered");
    }
}

fn flow_back(from: &str, to: &str) -> Flow {
    flow(from, to, 0)
}

#[test]
fn two_families_have_no_flow() {
    let four = "127.0.0.1:1".parse().expect("an address");
    let six = "[::1]:1".parse().expect("an address");
    assert_eq!(Flow::new(four, six, Ipv4Fields::UNFRAGMENTED), None);
}

fn reth() -> impl Strategy<Value = Reth> {
    (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(address, rkey, length)| Reth {
        address,
        rkey,
        length,
    })
}

fn aeth() -> impl Strategy<Value = Aeth> {
    (any::<u8>(), 0..1u32 << 24).prop_map(|(byte, msn)| Aeth { syndrome: Syndrome::from_byte(byte), msn })
}

fn atomic() -> impl Strategy<Value = AtomicEth> {
    (any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>())
        .prop_map(|(address, rkey, swap_or_add, compare)| AtomicEth { address, rkey, swap_or_add, compare })
}

fn header() -> impl Strategy<Value = Header> {
    prop_oneof![
        Just(Header::SendFirst),
        Just(Header::SendMiddle),
        Just(Header::SendLast),
        any::<u32>().prop_map(Header::SendLastImm),
        Just(Header::SendOnly),
        any::<u32>().prop_map(Header::SendOnlyImm),
        reth().prop_map(Header::WriteFirst),
        Just(Header::WriteMiddle),
        Just(Header::WriteLast),
        any::<u32>().prop_map(Header::WriteLastImm),
        reth().prop_map(Header::WriteOnly),
        (reth(), any::<u32>()).prop_map(|(reth, imm)| Header::WriteOnlyImm(reth, imm)),
        reth().prop_map(Header::ReadRequest),
        aeth().prop_map(Header::ReadResponseFirst),
        Just(Header::ReadResponseMiddle),
        aeth().prop_map(Header::ReadResponseLast),
        aeth().prop_map(Header::ReadResponseOnly),
        aeth().prop_map(Header::Acknowledge),
        (aeth(), any::<u64>()).prop_map(|(aeth, original)| Header::AtomicAcknowledge(aeth, original)),
        atomic().prop_map(Header::CompareSwap),
        atomic().prop_map(Header::FetchAdd),
    ]
}

fn bth() -> impl Strategy<Value = Bth> {
    let bits = any::<[bool; 5]>();
    (bits, any::<u16>(), any::<u32>(), any::<u32>()).prop_map(|(bits, pkey, qp, psn)| {
        let [solicited, migration, fecn, becn, ack_request] = bits;
        Bth {
            solicited,
            migration,
            pkey,
            fecn,
            becn,
            dest_qp: QpNum::new(qp),
            ack_request,
            psn: Psn::new(psn),
        }
    })
}

proptest! {
    #[test]
    fn packets_come_back(bth in bth(), header in header(), payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let payload = if header.has_payload() { &payload[..] } else { &[] };
        let packet = Packet { bth, header, payload };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(Packet::decode(&bytes), Ok(packet));
        let flow = flow("[::1]:7", "[::1]:8", 0);
        let len = bytes.len();
        flow.seal(&mut bytes);
        prop_assert_eq!(bytes.len(), len + ICRC_BYTES);
        prop_assert_eq!(flow.open(&bytes), Some(&bytes[..len]));
    }

    /// Any bytes are refused, or mean something that would be written in the same way but for reserved bits.
    #[test]
    fn bytes_mean_one_thing(bytes in proptest::collection::vec(any::<u8>(), 0..80), opcode in 0..0x20u8) {
        let mut bytes = bytes;
        if let [first, flags, ..] = &mut bytes[..] {
            (*first, *flags) = (opcode, *flags & 0xf0);
        }
        if let Ok(packet) = Packet::decode(&bytes) {
            let mut again = Vec::new();
            packet.encode(&mut again);
            prop_assert_eq!(again.len() <= bytes.len(), true);
            prop_assert_eq!(Packet::decode(&again), Ok(packet));
        }
    }
}
