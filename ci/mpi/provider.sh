# Shared by the scripts that run MPI programs over gridnet: sourced after lib.sh.

# Where MPIs are installed, once for all clones.
HOME_OF_MPI=${GRIDNET_CI_MPI_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/gridnet-ci-mpi}
# For FI_PROVIDER_PATH: libfabric loads all that it finds there.
PROVIDER_DIR=$TARGET_DIR/mpi

# The provider, and the command.
build() {
    cargo build --quiet -p gridnet-mpi-ofi -p gridnet-cli
    mkdir -p "$PROVIDER_DIR"
    cp "$TARGET_DIR/debug/libgridnet_fi.so" "$PROVIDER_DIR/libgridnet-fi.so"
}
