# Shared by the scripts of this folder: sourced, not run.
# A part exits 0 when it passed, 77 when it could not run at all, otherwise it failed.
# Whatever a part leaves out, it says in a line that begins with "SKIPPED:"; a test that failed only once in a line with "FLAKY:".

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

EXIT_SKIPPED=77
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
case $TARGET_DIR in /*) ;; *) TARGET_DIR=$PWD/$TARGET_DIR ;; esac

# Everything is built once here: what a second build would reuse is five gigabytes.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
skipped() { printf 'SKIPPED: %s: %s\n' "$1" "$2"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# room GIGABYTES: ends the script where the target folder cannot grow to so much. A full disk fails everywhere, and nowhere says so.
room() {
    local free used
    mkdir -p "$TARGET_DIR"
    free=$(df -Pk "$TARGET_DIR" | awk 'NR == 2 { print $4 }')
    used=$(du -sk "$TARGET_DIR" | cut -f1)
    [ $(((free + used) / 1048576)) -ge "$1" ] ||
        die "$TARGET_DIR: takes up to $1 GiB, and $((free / 1048576)) are free: make room, or set CARGO_TARGET_DIR"
}

# The version of the workspace, from its one source.
version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

# need COMMAND PACKAGE...: installs the Debian packages when the command is missing.
need() {
    local command=$1
    shift
    have "$command" && return 0
    have apt-get || { skipped "$command" "not installed, and this is no Debian: install $*"; return 1; }
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo -n)
    echo "installing $* for $command"
    "${root[@]}" apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { "${root[@]}" apt-get update >/dev/null 2>&1 &&
            "${root[@]}" apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1; } ||
        { skipped "$command" "package $* could not be installed"; return 1; }
}

# Most tests that are tried again: more than these have one cause, which is no accident.
MOST_AGAIN=3

# cargo_test ARGUMENT...: runs tests. The machine is shared: a target in which some fail is run once more, as it was, and those that
# pass then are said to be FLAKY, with what was wrong. That is a fault, too, but holds nothing else up. CI_ONCE=1 runs nothing again.
cargo_test() {
    local log code=0
    log=$(mktemp -p "$LOGS")
    cargo test --no-fail-fast "$@" 2>&1 | tee "$log" || code=${PIPESTATUS[0]}
    [ "$code" != 0 ] || return 0
    [ -z "${CI_ONCE:-}" ] && test_again "$log" || return "$code"
}

# test_again LOG: whether the targets with tests that failed pass now. Not tried when a test ended its process.
test_again() {
    local names targets target again name
    mapfile -t names < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$1" | sort -u)
    mapfile -t targets < <(sed -n '/^error: [0-9]* targets\? failed:/,$ s/^ *`\(-p .*\)`$/\1/p' "$1")
    [ ${#names[@]} -ge 1 ] && [ ${#names[@]} -le $MOST_AGAIN ] || return 1
    [ "$(grep -ac '^test result: FAILED' "$1")" = ${#targets[@]} ] || return 1
    again=$(mktemp -p "$LOGS")
    for target in "${targets[@]}"; do
        # shellcheck disable=SC2086
        cargo test $target 2>&1 | tee -a "$again" || return 1
    done
    for name in "${names[@]}"; do
        grep -aqxF "test $name ... ok" "$again" || return 1
        echo "FLAKY: $name: passed when its target was run again: $(grep -a -A2 "^thread '$name'.* panicked at" "$1" | tr '\n' ' ')"
    done
}

# --- runner of parts, used by test.sh and full.sh ---

PART_LIMIT=${CI_PART_LIMIT:-2400}
passed=0 failed=0 left_out=0
summary=() skips=() faults=()
declare -A verdicts
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT

# run_part NAME COMMAND...: runs one part under a time limit and notes how it went.
run_part() {
    local name=$1 start=$SECONDS code=0 verdict
    shift
    say "$name"
    timeout --kill-after=20 "$PART_LIMIT" "$@" </dev/null 2>&1 | tee "$LOGS/$name" || code=${PIPESTATUS[0]}
    case $code in
        0) verdict=passed passed=$((passed + 1)) ;;
        "$EXIT_SKIPPED") verdict=skipped left_out=$((left_out + 1)) ;;
        *) verdict="FAILED (exit $code)" failed=$((failed + 1)) ;;
    esac
    summary+=("$(printf '%-10s %5d s  %s' "$name" $((SECONDS - start)) "$verdict")")
    local line
    while IFS= read -r line; do skips+=("$name: $line"); done < <(grep -aE '^(SKIPPED|FLAKY)' "$LOGS/$name" || true)
    case $verdict in
        FAILED*) while IFS= read -r line; do faults+=("$name: $line"); done < <(what_failed "$LOGS/$name") ;;
    esac
    verdicts[$name]=$verdict
}

# The lines of a log that say what failed and why, so that the end of the output has them; if there are none, its last lines.
what_failed() {
    grep -a -A3 -E '^test .*FAILED$|panicked at|^error|^FAILED|Sanitizer: ' "$1" | grep -av '^--$' | head -60 | grep . || tail -15 "$1"
}

# Prints what was run; the last line is the verdict, the exit code follows it.
finish() {
    say "summary ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
    printf '%s\n' "${summary[@]}"
    [ ${#skips[@]} = 0 ] || { echo; printf '!! %s\n' "${skips[@]}"; }
    [ ${#faults[@]} = 0 ] || { echo; printf '>> %s\n' "${faults[@]}"; }
    echo
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$left_out"
    [ "$failed" = 0 ]
}

# The parts of every run, in the order of what is learnt soonest: name and command.
PARTS=(
    "deps ci/deps.sh"
    "lint ci/lint.sh"
    "header ci/header.sh"
    "docs ci/docs.sh"
    "unit ci/unit.sh"
    "lab ci/lab.sh"
    "listens ci/listens.sh"
    "c ci/c.sh"
    "abi ci/abi.sh"
    "fuzz ci/fuzz.sh ${FUZZ_SECONDS:-8}"
    "loom ci/loom.sh"
    "san ci/san.sh"
    "mpi ci/mpi.sh --short"
    "programs ci/mpi-debian.sh --short"
    "mpi-hosts ci/mpi-hosts.sh"
    "corba ci/corba.sh --short"
    "corba-hosts ci/corba-hosts.sh"
    "beside ci/beside.sh"
    "deny ci/deny.sh"
)

# run_parts [NAME...]: runs the parts of these names, or all.
run_parts() {
    local part name
    for name in "$@"; do
        printf '%s\n' "${PARTS[@]}" | grep -q "^$name " ||
            die "no part $name; there are: $(printf '%s ' "${PARTS[@]%% *}")"
    done
    for part in "${PARTS[@]}"; do
        name=${part%% *}
        case " $* " in
            "  " | *" $name "*)
                # shellcheck disable=SC2086
                run_part $part
                part_ended "$name"
                ;;
        esac
    done
}

# What a script does when a part has ended.
part_ended() { :; }
