#!/usr/bin/env bash
# Every listen() of a run is on the list ci/listens/list.txt: seen by strace.
. "$(dirname "$0")/lib.sh"

need strace strace || exit $EXIT_SKIPPED
need python3 python3-minimal || exit $EXIT_SKIPPED
strace -o /dev/null true 2>/dev/null || { skipped "listens" "the system does not allow to trace processes"; exit $EXIT_SKIPPED; }

cargo build --quiet -p gridnet-cli
# Members that ask one another something: no command does.
roles=$(cargo test --quiet -p gridnet-meta --test lab --no-run --message-format=json |
    sed -n 's/.*"kind":\["test"\].*"name":"lab".*"executable":"\([^"]*\)".*/\1/p')
exec ci/listens.py "$TARGET_DIR/debug/gridnet" "$roles"
