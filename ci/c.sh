#!/usr/bin/env bash
# The C programs of ci/c-tests and examples, built and run against the installed library.
. "$(dirname "$0")/lib.sh"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK" "$LOGS"' EXIT
# Where ordinary users do not look, and hosts of the lab need something.
PATH=$PATH:/usr/sbin:/sbin
PREFIX=$WORK/prefix
BIN=$WORK/bin
ran=0 broken=()

LIMIT=$([ "${TEST_SOAK:-}" = 1 ] && echo 1900 || echo 120)

main() {
    have pkg-config || { skipped "C tests" "no pkg-config"; exit $EXIT_SKIPPED; }
    ci/install.sh "$PREFIX"
    export PKG_CONFIG_PATH=$PREFIX/lib/pkgconfig LD_LIBRARY_PATH=$PREFIX/lib PATH=$PREFIX/bin:$PATH
    make --quiet -C ci/c-tests BUILD="$BIN"
    make --quiet -C examples BUILD="$BIN"
    run_c_tests
    run_examples "$BIN"
    program_of_the_readme
    probes_are_there
    cmake_builds && run_examples "$WORK/cmake"
    static_library
    echo "$ran programs run, ${#broken[@]} failed"
    [ ${#broken[@]} = 0 ] || die "failed: ${broken[*]}"
}

# run NAME COMMAND...: one program under a time limit; prints what it said when it failed.
run() {
    local name=$1 start=$SECONDS code=0
    shift
    ran=$((ran + 1))
    timeout --kill-after=5 "$LIMIT" "$@" >"$WORK/out" 2>&1 || code=$?
    [ $code = 0 ] || { broken+=("$name"); sed 's/^/    /' "$WORK/out"; }
    grep -aE '^(SKIPPED|RESULT)' "$WORK/out" || true
    printf '%-24s %s (%d s)\n' "$name" "$([ $code = 0 ] && echo ok || echo "FAILED, exit $code")" $((SECONDS - start))
}

run_c_tests() {
    local test
    for test in $(make --quiet -C ci/c-tests list); do
        run "$test" "$BIN/$test"
    done
}

# both NAME SERVER... -- CLIENT...: two processes, each must succeed; the second starts at once.
both() {
    local name=$1 server=()
    shift
    while [ "$1" != -- ]; do server+=("$1"); shift; done
    shift
    # shellcheck disable=SC2016
    run "$name" bash -c '
        n=$1; shift; server=("${@:1:n}"); shift "$n"
        "${server[@]}" & pid=$!
        "$@"; code=$?
        [ $code = 0 ] || kill $pid
        wait $pid && exit $code' both ${#server[@]} "${server[@]}" "$@"
}

run_examples() {
    local bin=$1 id=ci.$$
    head -c 67108865 /dev/urandom >"$WORK/file"
    both pingpong.c "$bin/pingpong" server "$id" -- "$bin/pingpong" client "$id" 10000 8
    both pingpong.cpp "$bin/pingpong_cpp" server "$id" -- "$bin/pingpong_cpp" client "$id" 1000 65536
    both pingpong-c-to-cpp "$bin/pingpong_cpp" server "$id" -- "$bin/pingpong" client "$id" 1000 4096
    both copier "$bin/copier" recv "$id" "$WORK/copy" -- "$bin/copier" send "$id" "$WORK/file"
    run copier-compare cmp "$WORK/file" "$WORK/copy"
    : >"$WORK/empty"
    both copier-empty "$bin/copier" recv "$id" "$WORK/copy" -- "$bin/copier" send "$id" "$WORK/empty"
    run copier-empty-compare cmp "$WORK/empty" "$WORK/copy"
    run workqueue "$bin/workqueue" 200
    run lend "$bin/lend" 40
    run counter "$bin/counter" 20000
    local example
    for example in pingpong pingpong_cpp copier workqueue lend counter; do
        run "$example-usage" bash -c '"$1" no such arguments 2>&1 | grep -q "^usage: "' usage "$bin/$example"
    done
}

# The program of the README, by its own command line, prints what the README says.
program_of_the_readme() {
    local command says
    sed -n '/^Paste this/,/^```$/p' README.md | sed '1,/^```c$/d; /^```$/d' >"$WORK/hello.c"
    command=$(sed -n 's/^cc .*hello\.c.*/&/p' README.md)
    says=$(sed -n 's/^It prints `\(.*\)`\..*/\1/p' README.md)
    [ -s "$WORK/hello.c" ] && [ -n "$command" ] && [ -n "$says" ] || die "README.md has no program as it used to"
    run hello bash -c 'cd "$1" && hello=$(eval "$2") && echo "$hello" && [ "$hello" = "$3" ]' hello "$WORK" "$command" "$says"
}

# Tracers of the system find every probe of docs/introspection.md in the installed library, and no other.
probes_are_there() {
    local listed found
    listed=$(sed -n '/^## Probes/,$s/^| `\([a-z_]*\)` |.*/\1/p' docs/introspection.md | sort)
    found=$(readelf --notes --wide "$PREFIX/lib/libgridnet.so" | sed -n '/Provider: gridnet/{n;s/.*Name: //p}' | sort -u)
    run probes diff <(echo "$listed") <(echo "$found")
}

cmake_builds() {
    if ! have cmake; then
        skipped "CMake package" "no cmake"
        return 1
    fi
    cmake -S examples -B "$WORK/cmake" -DCMAKE_PREFIX_PATH="$PREFIX" -DCMAKE_BUILD_TYPE=Release >"$WORK/out" &&
        cmake --build "$WORK/cmake" >>"$WORK/out" || { cat "$WORK/out"; die "the CMake build failed"; }
}

# The static library, too, has all that a program needs.
static_library() {
    local flags
    flags=$(pkg-config --cflags --libs --static gridnet)
    # shellcheck disable=SC2086
    gcc -std=c99 -o "$WORK/static" ci/c-tests/header_alone.c "$PREFIX/lib/libgridnet.a" ${flags/-lgridnet/}
    run static env -u LD_LIBRARY_PATH "$WORK/static"
}

main
