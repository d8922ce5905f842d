#!/bin/sh
# In the guest: the cases of the judge between two devices of the kernel, with captures; some over IPv6, for the captures alone.
. /job/wire.sh
wire_of_two || exit 1
mkdir -p /out/captures
cat /proc/version
judge roce0 roce1 1 left /out/captures >/out/judge.txt || code=$?
cat /out/judge.txt
[ -z "$code" ] || exit $code
mkdir /tmp/v6
judge roce0 roce1 0 left /tmp/v6 data.send data.write_imm data.read data.atomic key.write >/tmp/v6.txt || exit 1
cat /tmp/v6.txt
for file in /tmp/v6/*.pcap; do mv $file /out/captures/ipv6-${file##*/}; done
