#!/usr/bin/env bash
# Licences, origins and versions of the dependencies.
. "$(dirname "$0")/lib.sh"

VERSION=0.20.2
if ! have cargo-deny; then
    echo "installing cargo-deny $VERSION"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked cargo-deny --version $VERSION ||
        { skipped "cargo-deny" "cargo install failed"; exit $EXIT_SKIPPED; }
fi

cargo deny --workspace check bans licenses sources

# The database of advisories is a git repository: taken when a copy is here, fetched only when asked.
if [ -n "${CI_FETCH:-}" ]; then
    cargo deny --workspace check advisories
elif [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
    cargo deny --workspace check --disable-fetch advisories
else
    skipped "advisories" "no copy of the database here; CI_FETCH=1 fetches it"
fi
