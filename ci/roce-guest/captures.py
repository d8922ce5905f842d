"""Looks through captures of RoCEv2 packets: captures.py FOLDER

Prints for each file how many packets of which kinds it has, and fails where an invariant CRC is wrong, a kind of packet is in
none of the files, or a file is too large for a repository. Shares no code with the codec that the captures are to judge.
"""

import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

LARGEST = 40_000

# Opcodes of the reliable connection.
OPCODES = {
    0: "SEND_FIRST", 1: "SEND_MIDDLE", 2: "SEND_LAST", 3: "SEND_LAST_IMM", 4: "SEND_ONLY", 5: "SEND_ONLY_IMM",
    6: "WRITE_FIRST", 7: "WRITE_MIDDLE", 8: "WRITE_LAST", 9: "WRITE_LAST_IMM", 10: "WRITE_ONLY", 11: "WRITE_ONLY_IMM",
    12: "READ_REQUEST", 13: "READ_RESPONSE_FIRST", 14: "READ_RESPONSE_MIDDLE", 15: "READ_RESPONSE_LAST", 16: "READ_RESPONSE_ONLY",
    17: "ACKNOWLEDGE", 18: "ATOMIC_ACKNOWLEDGE", 19: "COMPARE_SWAP", 20: "FETCH_ADD",
}
ACKNOWLEDGE = 17
NAKS = {0: "NAK_PSN_SEQUENCE", 1: "NAK_INVALID_REQUEST", 2: "NAK_REMOTE_ACCESS", 3: "NAK_REMOTE_OPERATION"}
# Kinds that must be there. Of sequence errors only a busy wire is sure to have some.
WANTED = (set(OPCODES.values()) - {"ACKNOWLEDGE"}) | {"ACK", "RNR_NAK"} | set(NAKS.values()) - {"NAK_PSN_SEQUENCE"}


def packets(path):
    """Yields the packets of a pcap file with Ethernet headers."""
    data = path.read_bytes()
    magic, link = struct.unpack_from("<I16xI", data)
    assert (magic, link) == (0xA1B2C3D4, 1), f"{path}: not pcap of this byte order with Ethernet headers"
    at = 24
    while at < len(data):
        kept, length = struct.unpack_from("<8xII", data, at)
        assert kept == length, f"{path}: a packet is cut off"
        yield data[at + 16:at + 16 + kept]
        at += 16 + kept


def invariant_crc(packet):
    """The CRC of a packet, with all that routers may change replaced by ones, as bytes of the wire."""
    ip = bytearray(packet[14:])
    if packet[12:14] == b"\x08\x00":
        udp = 4 * (ip[0] & 15)
        ip[1] = ip[8] = ip[10] = ip[11] = 0xFF
    else:
        udp = 40
        ip[0] |= 0x0F
        ip[1] = ip[2] = ip[3] = ip[7] = 0xFF
    ip[udp + 6] = ip[udp + 7] = 0xFF
    ip[udp + 8 + 4] = 0xFF
    return zlib.crc32(b"\xff" * 8 + ip[:-4]).to_bytes(4, "little")


def kind(packet):
    transport = packet[14 + (20 if packet[12:14] == b"\x08\x00" else 40) + 8:]
    opcode, syndrome = transport[0], transport[12]
    if opcode != ACKNOWLEDGE:
        return OPCODES.get(opcode, f"opcode {opcode}")
    return {0: "ACK", 1: "RNR_NAK", 3: NAKS.get(syndrome & 31, f"NAK {syndrome & 31}")}[syndrome >> 5]


def main():
    seen, faults = Counter(), []
    for path in sorted(Path(sys.argv[1]).glob("*.pcap")):
        found = Counter()
        for number, packet in enumerate(packets(path)):
            found[kind(packet)] += 1
            if invariant_crc(packet) != packet[-4:]:
                faults.append(f"{path.name}: packet {number}: wrong CRC")
        if path.stat().st_size > LARGEST:
            faults.append(f"{path.name}: {path.stat().st_size} bytes")
        seen += found
        print(f"{path.name}: " + ", ".join(f"{count} {name}" for name, count in found.items()))
    faults += [f"no {name} in any file" for name in sorted(WANTED - set(seen))]
    print(f"{sum(seen.values())} packets, {len(seen)} kinds")
    for fault in faults:
        print(f"error: {fault}")
    return bool(faults)


sys.exit(main())
