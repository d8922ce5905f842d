#!/usr/bin/env bash
# include/gridnet.h is what the generator makes of capi/src, and compiles alone as C and as C++.
. "$(dirname "$0")/lib.sh"

HEADER=include/gridnet.h
fresh=$(mktemp)
cargo run --quiet --package gridnet-capi --features header --bin gridnet-header >"$fresh"
diff -u "$HEADER" "$fresh" || die "$HEADER differs from capi/src: write the output of gridnet-header to it"
rm -f "$fresh"

WARNINGS=(-Wall -Wextra -Wpedantic -Werror)
gcc -std=c99 "${WARNINGS[@]}" -fsyntax-only -x c "$HEADER"
g++ -std=c++11 "${WARNINGS[@]}" -fsyntax-only -x c++ "$HEADER"
echo "$HEADER is up to date and compiles alone"
