#!/usr/bin/env bash
# The lab: hosts, sites and bad links out of network namespaces, as root and as an ordinary user.
. "$(dirname "$0")/lib.sh"

# Where ordinary users do not look.
PATH=$PATH:/usr/sbin:/sbin
need ip iproute2 || exit $EXIT_SKIPPED
need nft nftables || exit $EXIT_SKIPPED
need ping iputils-ping || exit $EXIT_SKIPPED

# The command's own tests (cli/tests/lab.rs) are in unit.sh.
cargo_test -p gridnet-testbed
