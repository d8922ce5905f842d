#!/usr/bin/env bash
# mpi4py's own tests: ci/mpi-suite.sh [--only MODULES] RANKS WAY [THAN]
# WAY: mpich-shm, mpich-veth (over the rail tcp, ranks in two network namespaces), openmpi, debian: over gridnet;
# mpich-libfabric, debian-libfabric: over libfabric's provider tcp; openmpi-own, debian-own: over what the MPI has itself.
# THAN: a way that was tested before: tests that fail there may fail. --only: of these modules, by a regular expression.
# Without those of process topologies on MPICH, and of the wheel: see docs/mpi.md. Verdicts stay in mpi-suite/ of the target folder.
. "$(dirname "$0")/lib.sh"
. ci/mpi/provider.sh

# A release, since programs without one are timed beside it. MPI_SUITE_PROVIDER: the folder of one that is there already.
PROVIDER_DIR=${MPI_SUITE_PROVIDER:-$TARGET_DIR/mpi-release}
VERDICTS=$TARGET_DIR/mpi-suite
# Modules that need not be run: by name, as the tests of mpi4py take it.
LEFT_OUT=(-e mpiabi)
FIRST_ADDRESS=10.79.61.1
SECOND_ADDRESS=10.79.61.2
SPACES=
# Of these, tests that are left out though other ways have them.
LEFT_TESTS=()

release() {
    [ -z "${MPI_SUITE_PROVIDER:-}" ] || return 0
    cargo build --quiet --release -p gridnet-mpi-ofi
    mkdir -p "$PROVIDER_DIR"
    cp "$TARGET_DIR/release/libgridnet_fi.so" "$PROVIDER_DIR/libgridnet-fi.so"
}

# over RAIL: the environment that leads to gridnet, and no other rail of it.
over() {
    export FI_PROVIDER_PATH=$PROVIDER_DIR FI_PROVIDER=gridnet GRIDNET_LOG=info GRIDNET_RAILS=$1,self
    [ "$1" != tcp ] || export GRIDNET_NET_INSECURE=on
}

# by_tcp PROVIDER: libfabric's own provider, over the loopback interface.
by_tcp() { export FI_PROVIDER=$1 FI_TCP_IFACE=lo; }

# Two network namespaces with a wire between them.
spaces() {
    SPACES=gn-suite-$$
    ip netns add $SPACES-1
    ip netns add $SPACES-2
    trap 'ip netns del $SPACES-1; ip netns del $SPACES-2; rm -rf "$LOGS"' EXIT
    ip link add wire0 netns $SPACES-1 type veth peer name wire0 netns $SPACES-2
    ip -n $SPACES-1 addr add $FIRST_ADDRESS/24 dev wire0
    ip -n $SPACES-2 addr add $SECOND_ADDRESS/24 dev wire0
    for space in $SPACES-1 $SPACES-2; do
        ip -n "$space" link set lo up
        ip -n "$space" link set wire0 up
    done
    # For what takes the place of ssh.
    export MPI_SPACE_OF_HOST="$FIRST_ADDRESS=$SPACES-1 $SECOND_ADDRESS=$SPACES-2"
}

# The command that starts ranks goes to `launcher`, that of a rank to `python`.
way() {
    local mpi=$HOME_OF_MPI/${1%%-*} open=(--allow-run-as-root --map-by :OVERSUBSCRIBE)
    local ofi=(--mca pml cm --mca mtl ofi --mca mtl_ofi_provider_include gridnet)
    python=$mpi/bin/python launcher=("$mpi/bin/mpiexec")
    case $1 in
        mpich-*) export MPIR_CVAR_CH4_NETMOD=ofi MPIR_CVAR_NOLOCAL=1 && LEFT_OUT+=(-e comm_topo) ;;
        # Over its mtl ofi these tests crash, or never end, also with libfabric's own provider.
        debian*) LEFT_TESTS+=(testAlltoallwBottom testCancel) LEFT_OUT+=(-e util_pkl5) python=$HOME_OF_MPI/openmpi/bin/python launcher=(mpiexec.openmpi)
            # Nor does a synchronous send end that a matched probe has received, which mpi4py uses in pkl5, and else for all receives of objects.
            export MPI4PY_RC_RECV_MPROBE=false MPI4PY_MPIABI=openmpi MPI4PY_LIBMPI=/usr/lib/$(uname -m)-linux-gnu/libmpi.so.40 ;;
    esac
    case $1 in
        mpich-shm) over shm ;;
        mpich-veth)
            spaces
            # Ranks that join call each other at the name of the host, of which there is one.
            LEFT_TESTS+=(testJoin)
            over tcp
            launcher=(ip netns exec $SPACES-1 "$mpi/bin/mpiexec" -iface wire0 -launcher ssh
                -launcher-exec "$PWD/ci/mpi/in-space.sh" -hosts "$FIRST_ADDRESS,$SECOND_ADDRESS") ;;
        mpich-libfabric) by_tcp tcp ;;
        openmpi) over shm && launcher+=("${open[@]}" "${ofi[@]}") ;;
        debian) over shm && launcher+=("${open[@]}" "${ofi[@]}" --mca btl self) ;;
        debian-libfabric) by_tcp 'tcp;ofi_rxm' && launcher+=("${open[@]}" "${ofi[@]/%gridnet/tcp;ofi_rxm}" --mca btl self) ;;
        openmpi-own | debian-own) launcher+=("${open[@]}") ;;
        *) die "no way $1" ;;
    esac
}

# proof WAY LOG: what went through gridnet.
proof() {
    case $1 in *-own | *-libfabric) return 0 ;; esac
    python3 ci/mpi/proof.py --sums <"$2"
}

only=.
[ "${1:-}" != --only ] || { only=$2 && shift 2; }
ranks=${1:?RANKS} name=${2:?WAY} than=${3:-}
[ -x "$HOME_OF_MPI/mpich/bin/pip" ] || { skipped "the tests of mpi4py" "no MPI: ci/mpi.sh installs them"; exit $EXIT_SKIPPED; }
fetch_tests || exit $EXIT_SKIPPED
case $name in
    debian*) need mpiexec.openmpi openmpi-bin || exit $EXIT_SKIPPED ;;
    *-veth) [ "$(id -u)" = 0 ] && have ip || { skipped "the tests of mpi4py, veth" "not root, or no ip"; exit $EXIT_SKIPPED; } ;;
esac
release
way "$name"
for test in "${LEFT_TESTS[@]}"; do LEFT_OUT+=(-x "$test"); done
mkdir -p "$VERDICTS"
file=$VERDICTS/$name-$ranks
rm -f "$file".[0-9]*
echo "the tests of mpi4py $MPI4PY, $name, $ranks ranks"
started=$SECONDS code=0
timeout -k 5 "${MPI_SUITE_LIMIT:-1800}" "${launcher[@]}" -n "$ranks" "$python" ci/mpi/tests.py "$TESTS_OF_MPI4PY/test" "$file" --no-builddir -i "$only" \
    "${LEFT_OUT[@]}" >"$VERDICTS/log-$name-$ranks" 2>&1 </dev/null || code=$?
python3 ci/mpi/verdicts.py "$file" "$ranks" $((SECONDS - started)) ${than:+"$VERDICTS/$than-$ranks" "${LEFT_TESTS[@]}"}
# 1 says that tests have failed, which was judged above.
[ $code -le 1 ] || die "the launcher ended with $code"
proof "$name" "$VERDICTS/log-$name-$ranks"
