# omniORB's own examples, as they are: sourced by ci/corba.sh.

# fetch: omniORB's own source, for its examples; by a list of our own, since most systems have none for sources. It stays in the target
# folder, as all that is built.
fetch() {
    local at=$BUILT/source suite options
    if [ ! -d "$at" ]; then
        rm -rf "$at.new"
        have dpkg-source || { skipped "omniORB's examples" "no dpkg-source (package dpkg-dev)"; return 1; }
        suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        mkdir -p "$at.new"/{lists/partial,cache/archives/partial}
        echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" >"$at.new/list"
        options=(-o "Dir::Etc::sourcelist=$at.new/list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$at.new/lists" -o "Dir::Cache=$at.new/cache")
        (timeout 60 apt-get "${options[@]}" update && cd "$at.new" && timeout 60 apt-get "${options[@]}" source omniorb-dfsg) >"$WORK/fetched" 2>&1 || {
            skipped "omniORB's examples" "their source cannot be had: $(tail -1 "$WORK/fetched")"
            return 1
        }
        mv "$at.new" "$at"
    fi
    EXAMPLES=$(echo "$at"/omniorb-dfsg-*/src/examples)
}

# example FOLDER IDL PROGRAM...: builds programs of the examples, as they are.
example() {
    local folder=$1 idl=$2 at=$BUILT/examples/$1 program flags=()
    shift 2
    mkdir -p "$at"
    [ "$folder" != ami ] || flags=(-Wbami)
    omniidl -bcxx "${flags[@]}" -C"$at" "$idl"
    idl=$(basename "$idl" .idl)
    for program in "$@"; do
        [ ! "$at/$program" -nt "$EXAMPLES/$folder/$program.cc" ] || continue
        # shellcheck disable=SC2046
        g++ -w -DHAVE_STD -o "$at/$program" -I"$at" "$EXAMPLES/$folder/$program.cc" "$at/${idl}SK.cc" \
            $(pkg-config --cflags --libs omniORB4) -lomniDynamic4 -lpthread
    done
}

# reference LOG PROGRAM ARGUMENT...: starts a server that prints its reference, which is $REFERENCE then.
reference() {
    local log=$1
    shift
    LD_PRELOAD=$TRANSPORT "$@" -ORBgridnetReport 1 -ORBendPoint giop:gridnet: >"$log" 2>&1 &
    referred "$log" "$1" $!
}

# What they print shows that they worked, and the report which way they went.
MADE='connections made [1-9]'

example_echo() {
    local at=$BUILT/examples/echo said
    example echo "$EXAMPLES/../../idl/echo.idl" eg2_impl eg2_clt
    reference "$WORK/example" "$at/eg2_impl"
    listens $SERVER && die "eg2_impl listens for TCP"
    said=$(with timeout 20 "$at/eg2_clt" -ORBgridnetReport 1 "$REFERENCE" 2>&1)
    [ "$(grep -c 'The Echo object replied, "Hello!"' <<<"$said")" = 10 ] || { echo "$said"; die "eg2_clt"; }
    says "$said" "$MADE"
}

# Of the server of echo.
example_ami() {
    local at=$BUILT/examples/ami program said
    example ami "$EXAMPLES/ami/echo_ami.idl" echo_callback echo_poller
    for program in echo_callback echo_poller; do
        said=$(with timeout 20 "$at/$program" -ORBgridnetReport 1 -ORBendPoint giop:gridnet: "$REFERENCE" 2>&1)
        says "$said" 'return'
        says "$said" "$MADE"
    done
}

example_call_back() {
    local at=$BUILT/examples/call_back said
    example call_back "$EXAMPLES/call_back/echo_callback.idl" cb_server cb_client cb_shutdown
    reference "$WORK/example" "$at/cb_server"
    said=$(with timeout 20 "$at/cb_client" -ORBgridnetReport 1 -ORBendPoint giop:gridnet: "$REFERENCE" 1 3 2>&1)
    says "$said" 'cb_client: call_back("Hello!")'
    says "$said" "$MADE, accepted [1-9]"
    with timeout 20 "$at/cb_shutdown" "$REFERENCE" >/dev/null
    wait $SERVER || die "cb_server failed"
}

example_bidir() {
    local at=$BUILT/examples/bidir said
    example bidir "$EXAMPLES/bidir/echo_callback.idl" bd_server bd_client bd_shutdown
    reference "$WORK/example" "$at/bd_server" -ORBacceptBiDirectionalGIOP 1 -ORBserverTransportRule '* gridnet,bidir'
    said=$(with timeout 20 "$at/bd_client" -ORBgridnetReport 1 -ORBofferBiDirectionalGIOP 1 -ORBclientTransportRule '* gridnet,bidir' \
        -ORBendPoint giop:gridnet: -ORBendPoint giop:tcp:127.0.0.1: "$REFERENCE" 1 3 2>&1)
    says "$said" 'cb_client: call_back("Hello!")'
    says "$said" "$MADE, accepted 0"
    with timeout 20 "$at/bd_shutdown" "$REFERENCE" >/dev/null
    wait $SERVER || die "bd_server failed"
}

# Programs of omniORB's threads, which make no calls: the transport is loaded, and in nobody's way. The one that ends by itself.
example_thread() {
    local at=$BUILT/examples/thread
    mkdir -p "$at"
    # shellcheck disable=SC2046
    [ "$at/thrspecdata" -nt "$EXAMPLES/thread/thrspecdata.cc" ] ||
        g++ -w -DHAVE_STD -o "$at/thrspecdata" "$EXAMPLES/thread/thrspecdata.cc" $(pkg-config --cflags --libs omniORB4) -lpthread
    says "$(with timeout 20 "$at/thrspecdata" 2>&1)" 'joined - got return value 4'
}

examples() {
    fetch || return 0
    example_echo
    if [ -n "$SHORT" ]; then
        kill $SERVER
        example_bidir
        echo "examples: echo and bidir, as omniORB has them"
        return
    fi
    example_ami
    kill $SERVER
    example_call_back
    example_bidir
    example_thread
    echo "examples: echo, ami, call back, bidir and thread, as omniORB has them"
}
