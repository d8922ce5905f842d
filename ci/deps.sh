#!/usr/bin/env bash
# The direction of dependencies between the members, and no wildcard versions.
. "$(dirname "$0")/lib.sh"

if ! have python3; then
    skipped "dependency directions" "no python3"
    exit $EXIT_SKIPPED
fi
cargo metadata --format-version 1 --no-deps | python3 ci/deps.py
