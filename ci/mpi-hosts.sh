#!/usr/bin/env bash
# One job of MPICH on three hosts of the lab, two of them behind gateways that let nothing in, in a session: ci/mpi-hosts.sh
# MPICH's own launcher starts the ranks, with a stand-in for ssh.
. "$(dirname "$0")/lib.sh"
. ci/mpi/provider.sh

MPICH=$HOME_OF_MPI/mpich/bin
export MPI_LAB_GRIDNET=$TARGET_DIR/debug/gridnet MPI_LAB_DIR
MPI_LAB_DIR=$(mktemp -d)
trap 'rm -rf "$MPI_LAB_DIR" "$LOGS"' EXIT

# script NAME: makes a program of standard input, for the lab.
script() {
    { echo '#!/bin/sh' && cat; } >"$MPI_LAB_DIR/$1"
    chmod +x "$MPI_LAB_DIR/$1"
}

# How Hydra names the hosts is up to us: it only hands the names on.
job() {
    script command <<'END'
exec sh -c "$ON_HOST"
END
    script serve <<END
exec '$MPI_LAB_GRIDNET' session serve --dir '$MPI_LAB_DIR/session'
END
    script job <<END
export GRIDNET_SESSION='$MPI_LAB_DIR/session/ticket' GRIDNET_SESSION_TIMEOUT=60s GRIDNET_LOG=info
export FI_PROVIDER_PATH='$PROVIDER_DIR' FI_PROVIDER=gridnet MPIR_CVAR_CH4_NETMOD=ofi MPIR_CVAR_NOLOCAL=1
exec timeout -k 5 150 '$MPICH/mpiexec' -launcher ssh -launcher-exec '$PWD/ci/mpi/on-host.sh' -hosts p,b1,a1 -n 3 \\
    '$MPICH/python' '$PWD/ci/mpi/exchange.py'
END
}

[ -x "$MPICH/mpiexec" ] || { skipped "MPI on hosts of the lab" "no MPICH: ci/mpi.sh installs it"; exit $EXIT_SKIPPED; }
need ip iproute2 && need nft nftables && need tc iproute2 || exit $EXIT_SKIPPED
build
"$MPI_LAB_GRIDNET" lab check --sites masq >"$MPI_LAB_DIR/said" 2>&1 || {
    skipped "MPI on hosts of the lab" "there is no lab: $(tail -1 "$MPI_LAB_DIR/said")"
    exit $EXIT_SKIPPED
}
job
# 203.0.113.1 is the first public host of a lab.
"$MPI_LAB_GRIDNET" session new --dir "$MPI_LAB_DIR/session" --listen 203.0.113.1:7411 >"$MPI_LAB_DIR/said"
timeout -k 5 250 "$MPI_LAB_GRIDNET" lab run ci/mpi/hosts.toml >"$MPI_LAB_DIR/said" 2>&1 ||
    { cat "$MPI_LAB_DIR/said"; die "the job failed"; }
python3 ci/mpi/proof.py 3 tcp,relay <"$MPI_LAB_DIR/said"
# The third may, too, where the gateway had the other call.
[ "$(grep -a 'endpoint closed' "$MPI_LAB_DIR/said" | grep -c relay)" -ge 2 ] ||
    { cat "$MPI_LAB_DIR/said"; die "the two ranks behind gateways did not talk over tls/relay"; }
