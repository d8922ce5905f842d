#!/usr/bin/env bash
# Model checking of the small lock-free pieces: every interleaving that loom can reach.
. "$(dirname "$0")/lib.sh"

out=$(mktemp)
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$TARGET_DIR/loom \
    cargo test --package gridnet-core --release --lib loom 2>&1 | tee "$out"
models=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$out")
rm -f "$out"
[ "${models:-0}" -gt 0 ] || die "no loom model was run"
