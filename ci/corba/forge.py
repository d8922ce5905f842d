#!/usr/bin/env python3
"""forge.py FILE HOW: prints the reference in FILE with another component of gridnet.

HOW says what is done to it: `short` and `empty` (the component is cut off), `address BYTES` and `rubbish` (an address that is so long, or no
address at all), `host TEXT`, `port NUMBER`. What follows the address is left out, as older libraries do not know it."""

import struct
import sys

TAG = 0x474E0001
ADDRESS_BYTES = 64


class Reader:
    """An encapsulation, little-endian as those of all processors that this runs on."""

    def __init__(self, data):
        assert data[0] == 1, "big-endian"
        self.data, self.at = data, 1

    def number(self, form):
        size = struct.calcsize(form)
        self.at += -self.at % size
        self.at += size
        return struct.unpack_from("<" + form, self.data, self.at - size)[0]

    def octets(self):
        size = self.number("I")
        self.at += size
        return self.data[self.at - size : self.at]


class Writer:
    def __init__(self):
        self.data = b"\x01"

    def number(self, form, value):
        self.data += b"\0" * (-len(self.data) % struct.calcsize(form)) + struct.pack("<" + form, value)

    def octets(self, value):
        self.number("I", len(value))
        self.data += value


def forged(component, how):
    if how[0] in ("short", "empty"):
        return component[: 6 if how[0] == "short" else 0]
    old, new = Reader(component), Writer()
    new.number("B", old.number("B"))
    host, port, address = old.octets(), old.number("H"), old.octets()
    assert len(address) == ADDRESS_BYTES
    if how[0] == "address":
        address = address.ljust(int(how[1]), b"\0")[: int(how[1])]
    elif how[0] == "rubbish":
        address = bytes(range(0x80, 0x80 + ADDRESS_BYTES))
    elif how[0] == "host":
        host = how[1].encode() + b"\0"
    elif how[0] == "port":
        port = int(how[1])
    else:
        sys.exit(__doc__)
    new.octets(host)
    new.number("H", port)
    new.octets(address)
    return new.data


def profile(data, how):
    old, new = Reader(data), Writer()
    for form in "BB":
        new.number(form, old.number(form))
    new.octets(old.octets())
    new.number("H", old.number("H"))
    new.octets(old.octets())
    count = old.number("I")
    new.number("I", count)
    for _ in range(count):
        tag, component = old.number("I"), old.octets()
        new.number("I", tag)
        new.octets(forged(component, how) if tag == TAG else component)
    return new.data


def main(file, *how):
    old, new = Reader(bytes.fromhex(open(file).read().strip()[4:])), Writer()
    new.octets(old.octets())
    count = old.number("I")
    new.number("I", count)
    for _ in range(count):
        tag = old.number("I")
        new.number("I", tag)
        new.octets(profile(old.octets(), how) if tag == 0 else old.octets())
    print("IOR:" + new.data.hex())


main(*sys.argv[1:])
