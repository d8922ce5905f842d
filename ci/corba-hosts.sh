#!/usr/bin/env bash
# CORBA programs on three hosts of the lab, two of them behind gateways that let nothing in: ci/corba-hosts.sh
# In a session calls reach servers by node; without one, those whose address can be called.
. "$(dirname "$0")/lib.sh"
. ci/corba/transport.sh

export CORBA_LAB
CORBA_LAB=$(mktemp -d)
trap 'rm -rf "$CORBA_LAB" "$LOGS"' EXIT

# script NAME: makes a program of standard input, for the lab.
script() {
    { echo '#!/usr/bin/env bash' && cat; } >"$CORBA_LAB/$1"
    chmod +x "$CORBA_LAB/$1"
}

# What runs on the hosts. The server "open" and who calls it are in no session.
scripts() {
    script session-serve <<END
exec '$PREFIX/bin/gridnet' session serve --dir '$CORBA_LAB/session'
END
    script way <<END
export LD_LIBRARY_PATH='$LD_LIBRARY_PATH' LD_PRELOAD='$TRANSPORT' GRIDNET_LOG=info
if [ "\$1" = open ]; then
    export GRIDNET_NET_INSECURE=on
else
    export GRIDNET_SESSION='$CORBA_LAB/session/ticket' GRIDNET_SESSION_TIMEOUT=60s
fi
END
    script server <<END
. '$CORBA_LAB/way' "\$1"
exec '$BUILT/bin/trial_server' '$CORBA_LAB/'"\$1" -ORBendPoint giop:gridnet: >'$CORBA_LAB/'"\$1.log" 2>&1
END
    # The server may not have joined yet.
    script client <<END
until [ -s '$CORBA_LAB/'"\$2" ]; do sleep 0.05; done
. '$CORBA_LAB/way' "\$2"
for what in 'add 20' echo 'threads 4 20'; do
    timeout -k 5 80 '$BUILT/bin/trial_client' '$CORBA_LAB/'"\$2" \$what -ORBgridnetReport 1 -ORBtraceLevel 10 2>&1 || exit
done
END
}

# went FROM TO RAIL: all calls of FROM at TO were right, and went over that rail.
went() {
    local part
    part=$(sed -n "/client $1 $2\$/,/client [^ ]* [^ ]*\$/p" "$CORBA_LAB/said" | sed '$!b; /client [^ ]* [^ ]*$/d')
    [ "$(grep -ac ' right$' <<<"$part")" = 3 ] && [ "$(grep -ac "connected to .*; rail $3 in use" <<<"$part")" -ge 3 ] &&
        ! grep -a 'connected to' <<<"$part" | grep -aqv "; rail $3 in use" ||
        { echo "$part"; die "$1 did not call $2 over $3"; }
    echo "$1 called $2 over $3"
}

tools
need ip iproute2 && need nft nftables && need tc iproute2 || exit $EXIT_SKIPPED
build
"$PREFIX/bin/gridnet" lab check --sites masq >"$CORBA_LAB/said" 2>&1 || {
    skipped "CORBA on hosts of the lab" "there is no lab: $(tail -1 "$CORBA_LAB/said")"
    exit $EXIT_SKIPPED
}
scripts
# 203.0.113.1 is the first public host of a lab.
"$PREFIX/bin/gridnet" session new --dir "$CORBA_LAB/session" --listen 203.0.113.1:7411 >"$CORBA_LAB/said"
timeout -k 5 250 "$PREFIX/bin/gridnet" lab run ci/corba/hosts.toml >"$CORBA_LAB/said" 2>&1 ||
    { cat "$CORBA_LAB/said" "$CORBA_LAB"/*.log; die "calls between hosts failed"; }
went b1 a1 relay
went b1 p tcp
went p a1 relay
went b1 open tcp
