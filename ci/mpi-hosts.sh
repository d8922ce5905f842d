#!/usr/bin/env bash
# One job of MPICH on three hosts of the lab, two of them behind gateways that let nothing in, in a session: ci/mpi-hosts.sh [--spawn]
# --spawn: one that starts three more processes there. MPICH's own launcher starts the ranks, with a stand-in for ssh.
. "$(dirname "$0")/lib.sh"
. ci/mpi/provider.sh
. ci/on-lab.sh

PROGRAM=exchange RANKS=3 RAILS=tcp,relay
[ "${1:-}" != --spawn ] || PROGRAM=spawn RANKS=6 RAILS=tcp,relay,shm
MPICH=$HOME_OF_MPI/mpich/bin
export ON_LAB_GRIDNET=$TARGET_DIR/debug/gridnet

# How Hydra names the hosts is up to us: it only hands the names on.
job() {
    script sh command <<'END'
exec sh -c "$ON_HOST"
END
    script sh job <<END
export GRIDNET_SESSION='$ON_LAB/session/ticket' GRIDNET_SESSION_TIMEOUT=60s GRIDNET_LOG=info
export FI_PROVIDER_PATH='$PROVIDER_DIR' FI_PROVIDER=gridnet MPIR_CVAR_CH4_NETMOD=ofi MPIR_CVAR_NOLOCAL=1
exec timeout -k 5 150 '$MPICH/mpiexec' -launcher ssh -launcher-exec '$PWD/ci/mpi/on-host.sh' -hosts p,b1,a1 -n 3 \\
    '$MPICH/python' '$PWD/ci/mpi/$PROGRAM.py'
END
}

[ -x "$MPICH/mpiexec" ] || { skipped "MPI on hosts of the lab" "no MPICH: ci/mpi.sh installs it"; exit $EXIT_SKIPPED; }
build
need_lab "$ON_LAB_GRIDNET" "MPI on hosts of the lab"
session_for "$ON_LAB_GRIDNET"
job
on_lab "$ON_LAB_GRIDNET" ci/mpi/hosts.toml
python3 ci/mpi/proof.py $RANKS "$RAILS" <"$ON_LAB/said"
# The third may, too, where the gateway had the other call.
[ "$(grep -a 'endpoint closed' "$ON_LAB/said" | grep -c relay)" -ge 2 ] ||
    { cat "$ON_LAB/said"; die "the two ranks behind gateways did not talk over tls/relay"; }
