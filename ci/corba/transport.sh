# Shared by the scripts that run omniORB's programs over gridnet: sourced after lib.sh.

# Built once for all of them.
BUILT=$TARGET_DIR/corba
PREFIX=$BUILT/prefix
TRANSPORT=$PREFIX/lib/libomniGridnetTP.so
SOURCE=personalities/corba-omniorb

# What it needs; ends the script without.
tools() {
    need pkg-config pkg-config && need g++ g++ && need make make || exit $EXIT_SKIPPED
    pkg-config --exists omniORB4 || need no-such-command libomniorb4-dev >/dev/null || true
    pkg-config --exists omniORB4 && need omniidl omniidl && need omniNames omniorb-nameserver && need nameclt omniorb ||
        { skipped corba "no omniORB"; exit $EXIT_SKIPPED; }
}

# The library, the transport and the programs of its tests: those of bin know nothing of it, those of linked are linked with it.
build() {
    ci/install.sh "$PREFIX"
    export PKG_CONFIG_PATH=$PREFIX/lib/pkgconfig LD_LIBRARY_PATH=$PREFIX/lib
    make --quiet -j2 -C $SOURCE BUILD="$BUILT/transport" PREFIX="$PREFIX" install
    make --quiet -j2 -C $SOURCE/tests BUILD="$BUILT/bin" TRANSPORT="$BUILT/transport" LINKED="$BUILT/linked" \
        LINKED_LIBS="-L$PREFIX/lib -Wl,--no-as-needed -lomniGridnetTP $(pkg-config --libs omniORB4 gridnet)"
}
