# Shared by the scripts that run MPI programs over gridnet: sourced after lib.sh.

# Where MPIs are installed, once for all clones.
HOME_OF_MPI=${GRIDNET_CI_MPI_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/gridnet-ci-mpi}
MPI4PY=4.1.2
# For FI_PROVIDER_PATH: libfabric loads all that it finds there.
PROVIDER_DIR=$TARGET_DIR/mpi

# The provider, and the command.
build() {
    cargo build --quiet -p gridnet-mpi-ofi -p gridnet-cli
    mkdir -p "$PROVIDER_DIR"
    cp "$TARGET_DIR/debug/libgridnet_fi.so" "$PROVIDER_DIR/libgridnet-fi.so"
}

# What the tests of mpi4py are in.
TESTS_OF_MPI4PY=$HOME_OF_MPI/mpi4py-$MPI4PY

# Fetches the tests of mpi4py, once.
fetch_tests() {
    [ ! -d "$TESTS_OF_MPI4PY" ] || return 0
    timeout 300 "$HOME_OF_MPI/mpich/bin/pip" download -q --no-binary mpi4py --no-deps -d "$HOME_OF_MPI" "mpi4py==$MPI4PY" &&
        tar xzf "$TESTS_OF_MPI4PY.tar.gz" -C "$HOME_OF_MPI" ||
        { skipped "the tests of mpi4py" "could not be had from PyPI"; return 1; }
}
