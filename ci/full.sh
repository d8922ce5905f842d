#!/usr/bin/env bash
# The long run: ci/full.sh [PART...]. Everything of test.sh with full counts, soaks and big files, or these parts of it.
# What came out of each part goes to ci/results/full-last.txt as soon as it has ended, with the commit; results of other parts
# stay there if they are of the same machine. Of times only the seconds of `members` are kept.
FUZZ_SECONDS=900
. "$(dirname "$0")/lib.sh"

# Not GRIDNET_*: gridnet refuses variables that it does not know.
export TEST_SOAK=1 TEST_BIG=1 CI_ONCE=1
PART_LIMIT=${CI_PART_LIMIT:-14400}
RESULT=ci/results/full-last.txt
PARTS+=(
    "model env TEST_SEEDS=20000 cargo test --release -p gridnet-core --test matching_model"
    "kills env TEST_KILL_ROUNDS=2000 TEST_KILL_VISITS=12 cargo test --release -p gridnet
        --test kills --test kill_points --test processes --test loans -- --nocapture"
    "members cargo test --release -p gridnet-meta --test many -- --nocapture"
    "hosts cargo test -p gridnet --test lab -- --nocapture"
    "copier ci/copier.sh 1000000000"
    "corba-all ci/corba.sh"
    "peers ci/peers.sh"
    "roce-guest ci/roce-guest.sh"
)

machine() {
    echo "gridnet $(version), ci/full.sh"
    echo "cores   $(nproc)"
    echo "cpu     $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    echo "memory  $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
    echo "kernel  $(uname -sr)"
    echo "rust    $(rustc --version)"
}

# Lines of a part in a result begin with its name.
part_ended() {
    local ended=$1 part name old
    old=$(mktemp -p "$LOGS")
    if [ "$(head -6 "$RESULT" 2>/dev/null)" = "$(machine)" ]; then cp "$RESULT" "$old"; fi
    {
        machine
        echo
        for part in "${PARTS[@]}"; do
            name=${part%% *}
            if [ "$name" != "$ended" ]; then
                grep -a "^$name: " "$old" || true
                continue
            fi
            echo "$name: ${verdicts[$name]} ($COMMIT)"
            grep -ah -e '^RESULT' -e '^SKIPPED' "$LOGS/$name" | sed "s/^/$name: /" || true
        done
    } >"$RESULT.new"
    mv "$RESULT.new" "$RESULT"
}

COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo "no commit")
git diff --quiet HEAD -- . ':!ci/results' 2>/dev/null || COMMIT+=", changed"
mkdir -p "$(dirname "$RESULT")"
run_parts "$@"
finish
