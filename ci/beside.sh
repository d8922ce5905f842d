#!/usr/bin/env bash
# MPI and CORBA in one process, both over gridnet: ci/beside.sh
# A ping-pong, large messages (MPICH) and calls (omniORB) go on at one time; each comes forward, and is counted by itself.
. "$(dirname "$0")/lib.sh"
. ci/mpi/provider.sh

MPICH=$HOME_OF_MPI/mpich/bin
# Of each at least so many, in so many seconds at least.
LEAST=200
SECONDS_EACH=2

# beside RAIL FILE: the program, with what it says in the file.
beside() {
    GRIDNET_LOG=info GRIDNET_RAILS=$1,self GRIDNET_NET_INSECURE=on FI_PROVIDER_PATH=$PROVIDER_DIR FI_PROVIDER=gridnet \
        MPIR_CVAR_CH4_NETMOD=ofi MPIR_CVAR_NOLOCAL=1 \
        timeout -k 5 200 "$MPICH/mpiexec" -n 2 env LD_LIBRARY_PATH="$LD_LIBRARY_PATH" LD_PRELOAD="$TRANSPORT" \
        "$BUILT/bin/beside" ping+bulk+call $SECONDS_EACH $LEAST -ORBendPoint giop:gridnet: -ORBgridnetReport 1 >"$2" 2>&1
}

# shown FILE PID: once the program works, the command shows a fabric for each of the two, with what went over it.
shown() {
    local tries=0 pid=
    until [ -n "$pid" ] && "$TARGET_DIR/debug/gridnet" explain --json "$pid" 2>/dev/null | python3 ci/beside/apart.py; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] && kill -0 "$2" 2>/dev/null || return 1
        sleep 0.05
        pid=$(sed -n 's/^begins in process //p' "$1")
    done
}

# together RAIL: all at one time over that rail.
together() {
    local log program
    log=$(mktemp -p "$LOGS")
    beside "$1" "$log" &
    program=$!
    shown "$log" $program || { wait $program || true; cat "$log"; die "$1: no two fabrics with counters of their own were seen"; }
    wait $program || { cat "$log"; die "$1: failed"; }
    python3 ci/beside/proof.py $LEAST "$1" <"$log"
}

[ -x "$MPICH/mpicxx" ] || { skipped "MPI and CORBA in one process" "no MPICH: ci/mpi.sh installs it"; exit $EXIT_SKIPPED; }
build
. ci/corba/transport.sh
tools
build
make --quiet -C $SOURCE/tests BUILD="$BUILT/bin" MPICXX="$MPICH/mpicxx" "$BUILT/bin/beside"
together shm
together tcp
