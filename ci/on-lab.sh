# Sourced by scripts that run programs on hosts of the lab: what such a run needs beside them. ON_LAB is its folder.

export ON_LAB
ON_LAB=$(mktemp -d)
trap 'rm -rf "$ON_LAB" "$LOGS"' EXIT

# script SHELL NAME: makes a program of standard input, for the lab.
script() {
    { echo "#!/usr/bin/env $1" && cat; } >"$ON_LAB/$2"
    chmod +x "$ON_LAB/$2"
}

# need_lab GRIDNET WHAT: ends the script, as one that did not run, where there can be no lab with gateways.
need_lab() {
    need ip iproute2 && need nft nftables && need tc iproute2 || exit $EXIT_SKIPPED
    "$1" lab check --sites masq >"$ON_LAB/said" 2>&1 || {
        skipped "$2" "there is no lab: $(tail -1 "$ON_LAB/said")"
        exit $EXIT_SKIPPED
    }
}

# session_for GRIDNET: makes a session, and the program "session-serve" that runs its rendez-vous node.
session_for() {
    # 203.0.113.1 is the first public host of a lab.
    "$1" session new --dir "$ON_LAB/session" --listen 203.0.113.1:7411 >"$ON_LAB/said"
    script sh session-serve <<END
exec '$1' session serve --dir '$ON_LAB/session'
END
}

# on_lab GRIDNET FILE: runs what the file says; all that was said is in "said" then, and shown with the logs when it failed.
on_lab() {
    timeout -k 5 250 "$1" lab run "$2" >"$ON_LAB/said" 2>&1 || {
        tail -n +1 "$ON_LAB/said" "$ON_LAB"/*.log 2>/dev/null
        die "$2: failed"
    }
}
