#!/usr/bin/env bash
# All Rust tests, unit, integration and documentation; those of the lab are in lab.sh.
. "$(dirname "$0")/lib.sh"

cargo test --workspace --exclude gridnet-testbed
