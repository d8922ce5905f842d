# Wires for jobs in the guest: sourced, not run.
# The kernel's Soft-RoCE of these versions sends and receives in the first network namespace only. So both ends of a wire between two
# of its devices are there, and rules take care that what one end sends to the other does not go by the loopback device.

MTU=9000
LEFT=10.77.0.1
RIGHT=10.77.0.2

# end NAME MAC ADDRESS: sets up one end of a pair.
end() {
    ip link set "$1" address "$2" mtu $MTU
    ip addr add "$3/24" dev "$1"
    ip link set "$1" up
}

# The devices roce0 and roce1 over left and right, the two ends of one wire.
wire_of_two() {
    ip link add left type veth peer name right
    end left 02:00:00:00:00:01 $LEFT
    end right 02:00:00:00:00:02 $RIGHT
    one_way left $RIGHT 02:00:00:00:00:02 101
    one_way right $LEFT 02:00:00:00:00:01 102
    ip rule add pref 300 lookup local
    ip rule del pref 0
    device roce0 left
    device roce1 right
}

# one_way FROM TO MAC TABLE: what is sent by FROM for TO goes over the wire, though TO is an address of this host.
one_way() {
    sysctl -q -w net.ipv4.conf."$1".accept_local=1 net.ipv4.conf."$1".rp_filter=0
    ip route add "$2/32" dev "$1" table "$4"
    ip rule add pref "$4" oif "$1" lookup "$4"
    ip neigh replace "$2" lladdr "$3" dev "$1" nud permanent
}

# The device roce0 over left; right, the other end, is in the namespace "ours", where port 4791 is free.
wire_to_ours() {
    ip netns add ours
    ip link add left type veth peer name right netns ours
    end left 02:00:00:00:00:01 $LEFT
    ip netns exec ours sh -c ". /job/wire.sh; ip link set lo up; end right 02:00:00:00:00:02 $RIGHT"
    device roce0 left
}

# device NAME NETDEV: makes a Soft-RoCE device and waits until it has the GIDs of its addresses: 0 of IPv6, 1 of IPv4.
device() {
    local gids=/sys/class/infiniband/$1/ports/1/gids tries=0
    rdma link add "$1" type rxe netdev "$2" || return 1
    until [ "$(cat $gids/1)" != 0000:0000:0000:0000:0000:0000:0000:0000 ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "$1: no GID of IPv4"; return 1; }
        usleep 100000
    done
}
