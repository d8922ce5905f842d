//! Packets that the kernel's Soft-RoCE has sent: each is understood, would be written in the same way, and has the ICRC that this side
//! computes. `captures/` says where they come from.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use gridnet_rdma_sim::wire::{Flow, Identifications, Ipv4Fields, Packet, PORT};

/// One frame: the flow, whose identification is the one on the wire, and the UDP payload.
struct Frame<'a> {
    flow: Flow,
    is_ipv4: bool,
    payload: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A frame of Ethernet with RoCEv2 in it.
fn parse(frame: &[u8]) -> Frame<'_> {
    let (kind, ip) = (u16_at(frame, 12), &frame[14..]);
    let (from, to, ipv4, udp) = match kind {
        0x0800 => {
            let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
            assert_eq!((ip[0], ip[9]), (0x45, 17), "no options, UDP");
            let fields = Ipv4Fields { identification: u16_at(ip, 4), fragment: u16_at(ip, 6) };
            (address(12), address(16), fields, &ip[20..])
        }
        0x86dd => {
            let address = |at: usize| {
                let octets: [u8; 16] = ip[at..at + 16].try_into().expect("16 bytes");
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            assert_eq!(ip[6], 17, "UDP");
            (address(8), address(24), Ipv4Fields::UNFRAGMENTED, &ip[40..])
        }
        other => panic!("a frame of kind {other:#x}"),
    };
    assert_eq!(u16_at(udp, 2), PORT);
    let (from, to) = (SocketAddr::new(from, u16_at(udp, 0)), SocketAddr::new(to, PORT));
    let payload = &udp[8..usize::from(u16_at(udp, 4))];
    Frame { flow: Flow::new(from, to, ipv4).expect("one family"), is_ipv4: from.is_ipv4(), payload }
}

/// The frames of a file: pcap, numbers with the lowest byte first, Ethernet.
fn frames(file: &[u8]) -> Vec<&[u8]> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    assert_eq!((number(0), number(20)), (0xa1b2_c3d4, 1), "pcap with Ethernet");
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let len = number(at + 8);
        assert_eq!(len, number(at + 12), "in full");
        frames.push(&file[at + 16..at + 16 + len]);
        at += 16 + len;
    }
    frames
}

#[test]
fn packets_of_the_kernel() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let Ok(entries) = fs::read_dir(&folder) else {
        return println!("SKIPPED: packets of the kernel's Soft-RoCE: there are no captures");
    };
    let files = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "pcap"));
    let (mut opcodes, mut count, mut found) = (BTreeSet::new(), 0, Identifications::default());
    for path in files {
        let file = fs::read(&path).expect("it can be read");
        for (number, bytes) in frames(&file).into_iter().enumerate() {
            let what = format!("{}, frame {number}", path.display());
            let frame = parse(bytes);
            let opened = frame.flow.open(frame.payload).unwrap_or_else(|| panic!("{what}: ICRC"));
            if frame.is_ipv4 {
                assert_eq!(
                    found.open(&frame.flow, frame.payload),
                    Some(opened),
                    "{what}: its identification is found"
                );
            }
            let packet = Packet::decode(opened).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let mut again = Vec::new();
            packet.encode(&mut again);
            assert_eq!(again, opened, "{what}: {packet:?}");
            opcodes.insert(packet.header.opcode());
            count += 1;
        }
    }
    if count == 0 {
        return println!("SKIPPED: packets of the kernel's Soft-RoCE: there are no captures");
    }
    println!("{count} packets with the opcodes {opcodes:x?}");
    assert!((0x00..=0x14).all(|opcode| opcodes.contains(&opcode)), "only {opcodes:x?}");
}
