#!/usr/bin/env bash
# CORBA programs on three hosts of the lab, two of them behind gateways that let nothing in: ci/corba-hosts.sh
# In a session calls reach servers by node; without one, those whose address can be called.
. "$(dirname "$0")/lib.sh"
. ci/corba/transport.sh
. ci/on-lab.sh

# What runs on the hosts. The server "open" and who calls it are in no session.
scripts() {
    script bash way <<END
export LD_LIBRARY_PATH='$LD_LIBRARY_PATH' LD_PRELOAD='$TRANSPORT' GRIDNET_LOG=info
if [ "\$1" = open ]; then
    export GRIDNET_NET_INSECURE=on
else
    export GRIDNET_SESSION='$ON_LAB/session/ticket' GRIDNET_SESSION_TIMEOUT=60s
fi
END
    script bash server <<END
. '$ON_LAB/way' "\$1"
exec '$BUILT/bin/trial_server' '$ON_LAB/'"\$1" -ORBendPoint giop:gridnet: >'$ON_LAB/'"\$1.log" 2>&1
END
    # The server may not have joined yet.
    script bash client <<END
until [ -s '$ON_LAB/'"\$2" ]; do sleep 0.05; done
. '$ON_LAB/way' "\$2"
for what in 'add 20' echo 'threads 4 20'; do
    timeout -k 5 80 '$BUILT/bin/trial_client' '$ON_LAB/'"\$2" \$what -ORBgridnetReport 1 -ORBtraceLevel 10 2>&1 || exit
done
END
}

# went FROM TO RAIL: all calls of FROM at TO were right, and went over that rail.
went() {
    local part
    part=$(sed -n "/client $1 $2\$/,/client [^ ]* [^ ]*\$/p" "$ON_LAB/said" | sed '$!b; /client [^ ]* [^ ]*$/d')
    [ "$(grep -ac ' right$' <<<"$part")" = 3 ] && [ "$(grep -ac "connected to .*; rail $3 in use" <<<"$part")" -ge 3 ] &&
        ! grep -a 'connected to' <<<"$part" | grep -aqv "; rail $3 in use" ||
        { echo "$part"; die "$1 did not call $2 over $3"; }
    echo "$1 called $2 over $3"
}

tools
build
need_lab "$PREFIX/bin/gridnet" "CORBA on hosts of the lab"
session_for "$PREFIX/bin/gridnet"
scripts
on_lab "$PREFIX/bin/gridnet" ci/corba/hosts.toml
went b1 a1 relay
went b1 p tcp
went p a1 relay
went b1 open tcp
