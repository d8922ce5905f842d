#!/usr/bin/env bash
# The fuzz targets under the address sanitizer, which need a nightly compiler: ci/fuzz.sh [SECONDS [TARGET...]]
# First the committed corpus, then new inputs for so long per target. What is found goes to fuzz/artifacts.
. "$(dirname "$0")/lib.sh"

SPAN=${1:-15}
TARGETS=("${@:2}")
[ ${#TARGETS[@]} != 0 ] || TARGETS=(wire stream operations scribble assembly roce)

if ! cargo +nightly --version >/dev/null 2>&1; then
    skipped "fuzz targets" "no nightly toolchain is installed"
    exit $EXIT_SKIPPED
fi
need g++ g++ || exit $EXIT_SKIPPED
HOST=$(rustc -vV | sed -n 's/^host: //p')

# The flags of `cargo fuzz`, which need not be installed: coverage for the fuzzer, the sanitizer, overflow checks.
COVERAGE="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
RUSTFLAGS="$COVERAGE -Zsanitizer=address --cfg fuzzing -Ccodegen-units=1" CARGO_TARGET_DIR=$TARGET_DIR/fuzz \
    cargo +nightly build --quiet --release --target "$HOST" --manifest-path fuzz/Cargo.toml --locked

# Peers may announce messages of any length: memory that cannot be had is an answer, not an error. Rails that a play leaves
# to the sanitizer's quarantine are no leaks.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048 ${ASAN_OPTIONS:-}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK" "$LOGS"' EXIT
export TMPDIR=$WORK
failed=0
for target in "${TARGETS[@]}"; do
    say "$target, $SPAN s"
    mkdir -p "fuzz/artifacts/$target" "$WORK/$target"
    "$TARGET_DIR/fuzz/$HOST/release/$target" -max_total_time="$SPAN" -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="fuzz/artifacts/$target/" "$WORK/$target" "fuzz/corpus/$target" >"$WORK/out" 2>&1 ||
        { failed=1; tail -60 "$WORK/out"; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$WORK/out")
    echo "RESULT fuzz $target: ${runs:-0} inputs, $(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$WORK/out" | tail -1) edges"
done
exit $failed
