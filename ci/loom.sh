#!/usr/bin/env bash
# Model checking of the small lock-free pieces: every interleaving with at most so many preemptions.
. "$(dirname "$0")/lib.sh"

# One more multiplies the time by five: 4 take seconds, 6 two minutes.
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-$([ "${TEST_SOAK:-}" = 1 ] && echo 6 || echo 4)}

out=$(mktemp)
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$TARGET_DIR/loom \
    cargo test --package gridnet-core --release --lib loom 2>&1 | tee "$out"
models=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$out")
rm -f "$out"
[ "${models:-0}" -gt 0 ] || die "no loom model was run"
