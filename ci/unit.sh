#!/usr/bin/env bash
# All Rust tests, unit, integration and documentation.
. "$(dirname "$0")/lib.sh"

cargo test --workspace
