#!/usr/bin/env bash
# All Rust tests, unit, integration and documentation; those of the lab itself are in lab.sh.
. "$(dirname "$0")/lib.sh"

# Where ordinary users do not look, and some tests do: those of labs.
PATH=$PATH:/usr/sbin:/sbin
need ip iproute2 || true
need nft nftables || true
need ping iputils-ping || true
need ethtool ethtool || true

cargo_test --workspace --exclude gridnet-testbed
