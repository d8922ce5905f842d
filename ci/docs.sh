#!/usr/bin/env bash
# The documentation: a page for each call, code that compiles, tables that agree with their sources, links that lead
# somewhere.
. "$(dirname "$0")/lib.sh"

have python3 || { skipped "documentation" "no python3"; exit $EXIT_SKIPPED; }
have gcc || { skipped "documentation" "no gcc"; exit $EXIT_SKIPPED; }
exec python3 ci/docs.py
