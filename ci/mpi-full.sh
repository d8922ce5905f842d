#!/usr/bin/env bash
# Everything that MPIs are tried with: the small programs, HPC Challenge and LAMMPS, and the tests of mpi4py with 2, 3 and 4 ranks. Takes the better part of an hour.
. "$(dirname "$0")/lib.sh"

ci/mpi.sh
ci/mpi-debian.sh
for ranks in 2 3 4; do
    ci/mpi.sh --suite "$ranks"
done
