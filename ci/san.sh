#!/usr/bin/env bash
# The Rust tests under the address and the thread sanitizer, which need a nightly compiler.
. "$(dirname "$0")/lib.sh"

HOST=$(rustc -vV | sed -n 's/^host: //p')
if ! cargo +nightly --version >/dev/null 2>&1; then
    skipped "address and thread sanitizer" "no nightly toolchain is installed"
    exit $EXIT_SKIPPED
fi

# sanitize NAME FLAGS: without documentation tests, which do not take the flags.
sanitize() {
    say "$1 sanitizer"
    RUSTFLAGS=$2 CARGO_TARGET_DIR=$TARGET_DIR/san-$1 \
        cargo +nightly test --no-fail-fast --target "$HOST" --lib --tests \
        --package gridnet-core --package gridnet-shm --package gridnet
}

# Tests leak on purpose: rings that outlive both ends, all memory of a parent in its forked child.
export ASAN_OPTIONS="detect_leaks=0 ${ASAN_OPTIONS:-}"
failed=0
sanitize address "-Zsanitizer=address" || failed=1
export TSAN_OPTIONS="suppressions=$PWD/ci/tsan.supp ${TSAN_OPTIONS:-}"
sanitize thread "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" || failed=1
exit $failed
