#!/usr/bin/env bash
# Debian's own MPI programs, as they are, over gridnet: ci/mpi-debian.sh [--short]
# HPC Challenge comes to its end with all checks passed; LAMMPS prints, to the last digit, what it prints over Open MPI's own transport.
# --short: two ranks over shm only.
. "$(dirname "$0")/lib.sh"
. ci/mpi/provider.sh

WORK=$(mktemp -d)
trap 'rm -rf "$WORK" "$LOGS"' EXIT

# launch RANKS ARGUMENT...: by Debian's Open MPI.
launch() {
    local ranks=$1
    shift
    timeout -k 5 200 mpiexec.openmpi --allow-run-as-root --map-by :OVERSUBSCRIBE -n "$ranks" "$@"
}

# over RAIL RANKS PROGRAM...: over that rail of gridnet, and no other.
over() {
    local rail=$1 ranks=$2 insecure=off
    shift 2
    [ "$rail" = shm ] || insecure=on
    GRIDNET_LOG=info GRIDNET_RAILS=$rail,self GRIDNET_NET_INSECURE=$insecure FI_PROVIDER_PATH=$PROVIDER_DIR FI_PROVIDER=gridnet \
        launch "$ranks" --mca pml cm --mca mtl ofi --mca btl self --mca mtl_ofi_provider_include gridnet "$@"
}

# prove NAME RANKS RAIL BYTES: that so many bytes at least went through gridnet; reads what the ranks said.
prove() {
    local text
    text=$(cat "$WORK/said")
    printf '%s\npayload %s ranks %s %s\n' "$text" "$4" "$2" "$1" | python3 ci/mpi/proof.py "$2" "$3"
}

# challenge RANKS RAIL: HPC Challenge on small problems. It reads and writes files where it is started.
challenge() {
    local folder=$WORK/hpcc-$1-$2
    mkdir "$folder"
    sed "s/@RANKS@/$1/" ci/mpi/hpccinf.txt >"$folder/hpccinf.txt"
    (cd "$folder" && over "$2" "$1" hpcc) >"$WORK/said" 2>&1 || { cat "$WORK/said"; die "hpcc, $1 ranks, $2: failed"; }
    grep -qx 'Success=1' "$folder/hpccoutf.txt" && grep -q PASSED "$folder/hpccoutf.txt" &&
        ! grep -E 'FAILED|[1-9][0-9]* tests completed and failed' "$folder/hpccoutf.txt" ||
        { cat "$folder/hpccoutf.txt"; die "hpcc, $1 ranks, $2: a check did not pass"; }
    prove hpcc "$1" "$2" 100000000
}

# thermo LOG: the table that LAMMPS has written.
thermo() { sed -n '/^ *Step/,/^Loop/{/^Loop/d;p}' "$1"; }

# melt RANKS RAIL: the table over gridnet is that over Open MPI's shared memory.
melt() {
    launch "$1" --mca pml ob1 --mca btl self,vader lmp -in ci/mpi/melt.lammps -log "$WORK/own" >"$WORK/said" 2>&1 ||
        { cat "$WORK/said"; die "LAMMPS, $1 ranks: failed without gridnet"; }
    over "$2" "$1" lmp -in ci/mpi/melt.lammps -log "$WORK/through" >"$WORK/said" 2>&1 ||
        { cat "$WORK/said"; die "LAMMPS, $1 ranks, $2: failed"; }
    [ "$(thermo "$WORK/own" | wc -l)" = 12 ] || { cat "$WORK/own"; die "LAMMPS, $1 ranks: no table of 11 rows"; }
    diff <(thermo "$WORK/own") <(thermo "$WORK/through") || die "LAMMPS, $1 ranks, $2: another table than without gridnet"
    prove LAMMPS "$1" "$2" 1000000
}

need hpcc hpcc || exit $EXIT_SKIPPED
need lmp lammps || exit $EXIT_SKIPPED
need mpiexec.openmpi openmpi-bin || exit $EXIT_SKIPPED
build
challenge 2 shm
melt 2 shm
[ "${1:-}" != --short ] || exit 0
challenge 4 shm
challenge 2 tcp
melt 4 shm
melt 3 tcp
