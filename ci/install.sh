#!/usr/bin/env bash
# Builds gridnet in release mode and installs it: ci/install.sh PREFIX [--mpi]
# --mpi: also the libfabric provider, by which MPI programs use it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

{ [ $# = 1 ] || [ "$*" = "$1 --mpi" ]; } || { echo "usage: ci/install.sh PREFIX [--mpi]" >&2; exit 2; }
WITH_MPI=${2:-}
case $1 in
    /*) PREFIX=$1 ;;
    *) PREFIX=$OLDPWD/$1 ;;
esac
VERSION=$(version)
SONAME=libgridnet.so.0
CC=${CC:-cc}
LIBS="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"

main() {
    cargo build --quiet --release --package gridnet-capi --package gridnet-cli
    mkdir -p "$PREFIX"/{bin,include,lib/pkgconfig,lib/cmake/gridnet}
    install_libraries
    # -C: what is the same stays as old as it is, and what was built with it, too.
    install -C -m 644 include/gridnet.h "$PREFIX/include/"
    install -m 755 "$TARGET_DIR/release/gridnet" "$PREFIX/bin/"
    fill ci/install/gridnet.pc.in "$PREFIX/lib/pkgconfig/gridnet.pc"
    fill ci/install/gridnetConfig.cmake.in "$PREFIX/lib/cmake/gridnet/gridnetConfig.cmake"
    fill ci/install/gridnetConfigVersion.cmake.in "$PREFIX/lib/cmake/gridnet/gridnetConfigVersion.cmake"
    check_symbols "$PREFIX/lib/libgridnet.so.$VERSION"
    [ -z "$WITH_MPI" ] || install_provider
    echo "gridnet $VERSION is installed in $PREFIX"
}

# rustc does not pass a version map on for a cdylib: the shared library is linked from the static one.
install_libraries() {
    local archive=$TARGET_DIR/release/libgridnet_capi.a
    install -m 644 "$archive" "$PREFIX/lib/libgridnet.a"
    # shellcheck disable=SC2086
    $CC -shared -o "$PREFIX/lib/libgridnet.so.$VERSION" \
        -Wl,--whole-archive "$archive" -Wl,--no-whole-archive \
        -Wl,--version-script=capi/gridnet.map -Wl,-soname,$SONAME \
        -Wl,-z,defs -Wl,-z,relro -Wl,-z,now -Wl,--gc-sections $LIBS
    ln -sf "libgridnet.so.$VERSION" "$PREFIX/lib/$SONAME"
    ln -sf $SONAME "$PREFIX/lib/libgridnet.so"
}

# In a folder of its own: libfabric loads all that it finds in FI_PROVIDER_PATH.
install_provider() {
    cargo build --quiet --release --package gridnet-mpi-ofi
    mkdir -p "$PREFIX/lib/gridnet"
    install -m 755 "$TARGET_DIR/release/libgridnet_fi.so" "$PREFIX/lib/gridnet/libgridnet-fi.so"
    nm -D --defined-only "$PREFIX/lib/gridnet/libgridnet-fi.so" | grep -q ' fi_prov_ini$' || die "the provider has no entry"
}

fill() {
    sed -e "s|@VERSION@|$VERSION|g" -e "s|@LIBS@|$LIBS|g" "$1" >"$2"
    chmod 644 "$2"
}

# Each function of the header is exported with its version, and nothing else is.
check_symbols() {
    local exported declared
    exported=$(nm -D --defined-only --with-symbol-versions "$1" | awk '$2 != "A" { print $3 }' | sort)
    declared=$(sed -n 's/.*\b\(gridnet_[a-z0-9_]*\)(.*/\1@@GRIDNET_0/p' include/gridnet.h | sort -u)
    diff <(echo "$declared") <(echo "$exported") ||
        die "$1: exported (>) and declared (<) symbols differ"
    readelf -d "$1" | grep -q "SONAME.*\[$SONAME\]" || die "$1: no soname $SONAME"
}

main
