# The five lines of docs/corba.md, as they stand: sourced by ci/corba.sh.

# They install into an empty home, and are run twice; in a short run only the last two. What make builds is what was built before.
page() {
    local at=$WORK/home lines said pid run=(env -u LD_LIBRARY_PATH -u PKG_CONFIG_PATH "HOME=$WORK/home" "TMPDIR=$WORK/home" "MAKEFLAGS=BUILD=$BUILT/transport"
        "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}"
        "APT_CONFIG=$WORK/home/apt")
    [ "$(id -u)" = 0 ] && have apt-get || { skipped "the first lines of docs/corba.md" "not root, or no Debian"; return 0; }
    lines=$(sed -n '/^## Try it/,/^## Servers/p' docs/corba.md | sed -n '/^```sh$/,/^```$/p' | sed '/^```/d')
    [ "$(wc -l <<<"$lines")" = 5 ] || { echo "$lines"; die "docs/corba.md: not five lines"; }
    mkdir "$at"
    # Somebody else may be installing something.
    echo 'DPkg::Lock::Timeout "120";' >"$at/apt"
    # $! is omniNames.
    said=$("${run[@]}" timeout 300 bash -e -c "trap '[ \$? = 0 ] || kill \$(jobs -p)' EXIT
        $lines
        echo first \$!
        $([ -n "$SHORT" ] && tail -2 <<<"$lines" || echo "$lines")
        echo second \$!" 2>&1) || { echo "$said"; die "docs/corba.md: its five lines fail"; }
    for pid in $(sed -n 's/^\(first\|second\) //p' <<<"$said"); do
        SERVERS+=("$pid")
        listens "$pid" && die "the omniNames of docs/corba.md listens for TCP"
    done
    [ "$(grep -c '^gridnet: connections made 1, .*sent [1-9].*received [1-9]' <<<"$said")" = 2 ] || { echo "$said"; die "docs/corba.md: no calls over gridnet"; }
    kill $(sed -n 's/^\(first\|second\) //p' <<<"$said")
    echo "page: the first five lines of docs/corba.md, and once more"
}
