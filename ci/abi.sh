#!/usr/bin/env bash
# The C interface only grows: ci/abi/gridnet.abi lists what programs rely on, and it is all there.
# --update adds what is new to the list; it refuses to change or remove anything.
. "$(dirname "$0")/lib.sh"

LIST=ci/abi/gridnet.abi
WORK=$(mktemp -d)
trap 'rm -rf "$WORK" "$LOGS"' EXIT

ci/install.sh "$WORK/prefix"
{
    echo "# What programs rely on, one fact a line; see ci/abi.py. Extended by ci/abi.sh --update, never shortened."
    python3 ci/abi.py describe "$WORK/prefix/include/gridnet.h" "$WORK/prefix/lib/libgridnet.so"
} >"$WORK/gridnet.abi"

code=0
python3 ci/abi.py compare "$LIST" "$WORK/gridnet.abi" || code=$?
if [ "$code" = 2 ] && [ "${1:-}" = --update ]; then
    cp "$WORK/gridnet.abi" "$LIST"
    code=0
fi
[ "$code" = 0 ] || die "the interface is not what $LIST says"
python3 ci/abi.py test include/gridnet.h
echo "the interface has all $(grep -c '^function' "$LIST") functions and $(wc -l <"$LIST") facts that programs rely on"
