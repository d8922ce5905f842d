#!/usr/bin/env bash
# The Rust tests under the address and the thread sanitizer, which need a nightly compiler.
. "$(dirname "$0")/lib.sh"

if ! cargo +nightly --version >/dev/null 2>&1; then
    skipped "address and thread sanitizer" "no nightly toolchain is installed"
    exit $EXIT_SKIPPED
fi
HOST=$(rustc -vV | sed -n 's/^host: //p')
STD_SOURCE=$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library
failed=0

# Members with the same features in each call: otherwise each would build anew what the one before has built.
export CARGO_RESOLVER_FEATURE_UNIFICATION=workspace

# sanitize NAME FLAGS CARGO-ARGUMENT...: without documentation tests, which do not take the flags.
sanitize() {
    local name=$1 flags=$2
    shift 2
    RUSTFLAGS=$flags CARGO_TARGET_DIR=$TARGET_DIR/san-$name \
        cargo +nightly -Zfeature-unification test --no-fail-fast --target "$HOST" "$@" || failed=1
}

# tests_of FOLDER: the integration tests of a member, as cargo is told.
tests_of() {
    local path
    for path in "$1"/tests/*.rs "$1"/tests/*/main.rs; do
        [ -e "$path" ] || continue
        path=${path#"$1/tests/"} path=${path%/main.rs}
        echo "--test=${path%.rs}"
    done
}

say "address sanitizer"
# Tests leak on purpose: rings that outlive both ends, all memory of a parent in its forked child. Some ask for more memory
# than there is, and are to be told so, not ended.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1 ${ASAN_OPTIONS:-}"
# Sanitizers keep memory that was given back: tests that measure it leave themselves out, and say so.
export TEST_SANITIZED=1
# In a short run without the tests of sessions, whose memory the compiler looks after.
TESTS=(--tests)
if [ "${TEST_SOAK:-}" != 1 ]; then
    mapfile -t TESTS < <(tests_of core && tests_of shm)
    for name in kill_points kills loans processes quick region_close regressions streams tcp threads two_rails waiting; do
        TESTS+=("--test=$name")
    done
fi
sanitize address "-Zsanitizer=address" --lib "${TESTS[@]}" -p gridnet-core -p gridnet-shm -p gridnet
sanitize address "-Zsanitizer=address" --lib --test hostile --test hostile_frames --test forged --test health -p gridnet-uring-tcp
# Packets of chance at the verbs device; a million of them in a long run.
sanitize address "-Zsanitizer=address" --lib --test noise --test shm -p gridnet-rdma-sim
sanitize address "-Zsanitizer=address" --lib --test beside -p gridnet-verbs

say "thread sanitizer"
export TSAN_OPTIONS="halt_on_error=1 allocator_may_return_null=1 suppressions=$PWD/ci/tsan.supp ${TSAN_OPTIONS:-}"
THREAD="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg gridnet_visible_lock"
# The integration tests of core run in one thread and virtual time: nothing to see there.
sanitize thread "$THREAD" --lib -p gridnet-core
sanitize thread "$THREAD" --lib --tests -p gridnet-shm
# Threads at the levels SERIALIZED and MULTIPLE, with a lock that is seen (fabric/src/lock.rs).
sanitize thread "$THREAD" --test threads -p gridnet
if [ -d "$STD_SOURCE" ]; then
    sanitize thread-std "-Zsanitizer=thread" -Zbuild-std --lib --tests -p gridnet
else
    skipped "thread sanitizer of the other tests of gridnet" "they use locks of std, which only rust-src makes visible"
fi
exit $failed
