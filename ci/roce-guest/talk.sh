#!/bin/sh
# In the guest: our device over UDP and the kernel's Soft-RoCE talk with each other; both ask for everything.
. /job/wire.sh
PORT=18515
wire_to_ours || exit 1

mkdir -p /out/captures
record left /out/captures/talk.pcap &
recorder=$!
verbs_peer roce0 1 $PORT &
theirs=$!
tries=0
until [ -e /out/captures/talk.pcap ] && netstat -ltn | grep -q ":$PORT "; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo "the kernel's side does not listen, or nothing records"; exit 1; }
    usleep 100000
done
ip netns exec ours peer call $RIGHT $LEFT $PORT || { kill $theirs; grep -v '^0$' /sys/class/infiniband/roce0/ports/1/hw_counters/*; exit 1; }
wait $theirs || exit 1
kill $recorder
wait $recorder
