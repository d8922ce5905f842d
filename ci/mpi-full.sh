#!/usr/bin/env bash
# Everything that MPIs are tried with: the small programs, HPC Challenge and LAMMPS, and the tests of mpi4py with 2, 3 and 4 ranks, beside what the MPIs
# have themselves. Takes some hours. What came of the tests is in ci/results/mpi-last.txt.
. "$(dirname "$0")/lib.sh"

ci/mpi.sh
ci/mpi-debian.sh
ci/mpi-hosts.sh --spawn
RESULTS=ci/results/mpi-last.txt
failed=0

# tests RANKS WAY [THAN]: goes on when they fail, and fails at the end.
tests() {
    ci/mpi-suite.sh "$@" 2>&1 | tee "$LOGS/suite" || failed=1
    sed "s/^the tests of .*/& ($(git describe --always --dirty))/" "$LOGS/suite" >>"$RESULTS"
}

printf 'gridnet %s, ci/mpi-full.sh\ncores   %s\nkernel  %s\n' "$(version)" "$(nproc)" "$(uname -sr)" >"$RESULTS"
for ranks in 2 3 4; do
    tests $ranks mpich-libfabric mpich-libfabric
    tests $ranks mpich-shm mpich-libfabric
    tests $ranks mpich-veth mpich-libfabric
done
for ranks in 2 3; do
    for mpi in openmpi debian; do
        tests $ranks $mpi-own $mpi-own
        tests $ranks $mpi $mpi-own
    done
done
exit $failed
