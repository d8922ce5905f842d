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
        cargo +nightly test --target "$HOST" --lib --tests \
        --package gridnet-core --package gridnet-shm --package gridnet
}

sanitize address "-Zsanitizer=address"
export TSAN_OPTIONS="suppressions=$PWD/ci/tsan.supp ${TSAN_OPTIONS:-}"
sanitize thread "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
