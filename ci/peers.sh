#!/usr/bin/env bash
# gridnet beside other libraries, a short run. A peer that is missing is no failure.
. "$(dirname "$0")/lib.sh"

[ "$(nproc)" -ge 2 ] || { skipped "peers" "two cores are needed"; exit $EXIT_SKIPPED; }
bench/peers/run --quick --out "$TARGET_DIR/peers/results"
for why in "$TARGET_DIR"/peers/why/*; do
    [ ! -s "$why" ] || skipped "$(basename "$why")" "$(head -1 "$why")"
done
