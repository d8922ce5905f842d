#!/usr/bin/env bash
# The long run: everything of test.sh with full counts, soaks and big files.
# The result goes to ci/results/full-last.txt, with a description of the machine and no times.
. "$(dirname "$0")/lib.sh"

export GRIDNET_TEST_SOAK=1 GRIDNET_TEST_BIG=1 FUZZ_SECONDS=900
PART_LIMIT=${CI_PART_LIMIT:-14400}
RESULT=ci/results/full-last.txt

machine() {
    echo "cores   $(nproc)"
    echo "cpu     $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    echo "memory  $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
    echo "kernel  $(uname -sr)"
    echo "rust    $(rustc --version)"
}

run_parts
run_part model env GRIDNET_TEST_SEEDS=20000 cargo test --release -p gridnet-core --test matching_model
run_part kills env TEST_KILL_ROUNDS=2000 TEST_KILL_VISITS=12 \
    cargo test --release -p gridnet --test kills --test kill_points --test processes --test loans -- --nocapture
run_part copier ci/copier.sh 1000000000
run_part peers ci/peers.sh

mkdir -p "$(dirname "$RESULT")"
{
    echo "gridnet $(version), ci/full.sh"
    machine
    echo
    printf '%s\n' "${summary[@]}" | sed -E 's/ [ 0-9]{5} s //'
    [ ${#skips[@]} = 0 ] || printf '%s\n' "${skips[@]}"
    grep -ah '^RESULT' "$LOGS"/* || true
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$left_out"
} >"$RESULT"
finish
