#!/usr/bin/env bash
# The example copier moves a big file between two processes: ci/copier.sh BYTES
. "$(dirname "$0")/lib.sh"

BYTES=${1:-1000000000}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK" "$LOGS"' EXIT

ci/install.sh "$WORK/prefix"
export PKG_CONFIG_PATH=$WORK/prefix/lib/pkgconfig LD_LIBRARY_PATH=$WORK/prefix/lib
make --quiet -C examples BUILD="$WORK/bin"
head -c "$BYTES" /dev/urandom >"$WORK/file"

timeout 600 "$WORK/bin/copier" recv "copier.$$" "$WORK/copy" &
timeout 600 "$WORK/bin/copier" send "copier.$$" "$WORK/file"
wait $!
cmp "$WORK/file" "$WORK/copy"
echo "RESULT copier $BYTES bytes, sha256 $(sha256sum <"$WORK/copy" | cut -c 1-64), equal on both sides"
