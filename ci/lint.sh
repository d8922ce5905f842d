#!/usr/bin/env bash
# Formatting, clippy and documentation, each without a warning.
. "$(dirname "$0")/lib.sh"

cargo fmt --all -- --check -l || die "not formatted: run cargo fmt"
cargo clippy --workspace --all-targets --quiet -- -D warnings -D clippy::too_many_lines
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
echo "format, clippy and documentation are clean"
