#!/usr/bin/env bash
# Unmodified CORBA programs over gridnet, by the omniORB transport of personalities/corba-omniorb: ci/corba.sh [--short]
# --short: fewer calls, and without omniORB's own examples.
. "$(dirname "$0")/lib.sh"

SHORT=
[ "${1:-}" != --short ] || SHORT=1
WORK=$(mktemp -d)
SERVERS=()
trap 'stop_all; rm -rf "$WORK" "$LOGS"' EXIT
PREFIX=$WORK/prefix
SOURCE=personalities/corba-omniorb
# Seconds for a client: a busy machine has some 1000 calls a second.
LIMIT=$([ -n "$SHORT" ] && echo 100 || echo 900)
# Calls of each of four threads, and connections that are killed.
CALLS=$([ -n "$SHORT" ] && echo 5000 || echo 100000)
CYCLES=$([ -n "$SHORT" ] && echo 40 || echo 1000)

stop_all() {
    local pid
    for pid in "${SERVERS[@]}"; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -KILL "$pid" 2>/dev/null || true
    done
}

tools() {
    need pkg-config pkg-config && need g++ g++ && need make make || exit $EXIT_SKIPPED
    pkg-config --exists omniORB4 || need no-such-command libomniorb4-dev >/dev/null || true
    pkg-config --exists omniORB4 && need omniidl omniidl && need omniNames omniorb-nameserver && need nameclt omniorb ||
        { skipped corba "no omniORB"; exit $EXIT_SKIPPED; }
}

build() {
    ci/install.sh "$PREFIX"
    export PKG_CONFIG_PATH=$PREFIX/lib/pkgconfig LD_LIBRARY_PATH=$PREFIX/lib
    make --quiet -j2 -C $SOURCE BUILD="$WORK/transport" PREFIX="$PREFIX" install
    make --quiet -j2 -C $SOURCE/tests BUILD="$WORK/bin"
    make --quiet -j2 -C $SOURCE/tests BUILD="$WORK/linked" LIBS="-L$PREFIX/lib -Wl,--no-as-needed -lomniGridnetTP $(pkg-config --libs omniORB4 gridnet)"
    export GRIDNET_RUN_DIR=$WORK/run
    mkdir -m 700 "$GRIDNET_RUN_DIR"
}

# with COMMAND...: with the transport; without it, COMMAND is called as it is.
with() { LD_PRELOAD=$PREFIX/lib/libomniGridnetTP.so "$@"; }

# client FILE ARGUMENT...: a client with the transport, which prints what went over gridnet.
client() { with timeout -k 5 "$LIMIT" "$WORK/bin/trial_client" "$@" -ORBgridnetReport 1 2>&1; }

# serve FILE COMMAND...: starts a server that writes its reference to FILE, and waits for that. Its output is FILE.log, its process $SERVER.
serve() {
    local file=$1 tries=0
    shift
    rm -f "$file"
    "$@" >"$file.log" 2>&1 &
    SERVER=$!
    SERVERS+=($SERVER)
    until [ -s "$file" ]; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] && kill -0 $SERVER 2>/dev/null || { cat "$file.log"; die "$file: the server did not start"; }
        sleep 0.02
    done
}

# server FILE ARGUMENT...: a server with the transport.
server() {
    local file=$1
    shift
    serve "$file" env LD_PRELOAD="$PREFIX/lib/libomniGridnetTP.so" "$WORK/bin/trial_server" "$file" "$@" -ORBgridnetReport 1
}

# ended FILE: the server has been told to stop, and ends well.
ended() {
    wait $SERVER || { cat "$1.log"; die "$1: the server failed"; }
}

# says TEXT WHAT: WHAT was printed.
says() {
    grep -q -e "$2" <<<"$1" || { echo "$1"; die "not said: $2"; }
}

# listens PID: whether a process listens for TCP.
listens() {
    local inode
    for inode in $(awk '$4 == "0A" { print $10 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null); do
        if readlink /proc/"$1"/fd/* 2>/dev/null | grep -qF "socket:[$inode]"; then return 0; fi
    done
    return 1
}

# went LOG BYTES: the process said that it received at least so many bytes over gridnet.
went() {
    local received
    received=$(sed -n 's/^gridnet: connections .*received \([0-9]*\)$/\1/p' <<<"$1" | tail -1)
    [ "${received:-0}" -ge "$2" ] || { echo "$1"; die "of $2 bytes ${received:-none} came over gridnet"; }
}

# Calls of all kinds, with the transport linked and preloaded; no listener for TCP; and what went over gridnet.
calls() {
    local file=$WORK/calls said
    server "$file" -ORBendPoint giop:gridnet:
    listens $SERVER && die "the server listens for TCP"
    said=$(client "$file" add 1000)
    went "$said" 20000
    said=$(client "$file" echo)
    went "$said" 3000000
    client "$file" tell 1000 >/dev/null
    said=$(client "$file" threads 4 "$CALLS")
    went "$said" $((4 * CALLS * 20))
    client "$file" back 100 -ORBendPoint giop:gridnet: >/dev/null
    said=$(timeout -k 5 100 "$WORK/linked/trial_client" "$file" stop -ORBgridnetReport 1 2>&1)
    says "$said" 'connections made 1'
    ended "$file"
    went "$(cat "$file.log")" 3000000
    serve "$file" "$WORK/linked/trial_server" "$file" -ORBendPoint giop:gridnet:
    client "$file" add 10 >/dev/null
    client "$file" stop >/dev/null
    ended "$file"
    echo "calls: sums, sequences, calls without an answer, 4 threads x $CALLS, call back; linked and preloaded"
}

# Few threads for many connections: omniORB watches them in its poll().
pool() {
    local file=$WORK/pool
    server "$file" -ORBendPoint giop:gridnet: -ORBthreadPerConnectionPolicy 0
    client "$file" add 2000 >/dev/null
    client "$file" echo >/dev/null
    client "$file" threads 4 1000 >/dev/null
    client "$file" stop >/dev/null
    ended "$file"
    # A call that takes long does not keep another of the same connection from being served.
    server "$file" -ORBendPoint giop:gridnet:
    client "$file" threads 8 500 -ORBmaxGIOPConnectionPerServer 1 -ORBoneCallPerConnection 0 >/dev/null
    client "$file" stop >/dev/null
    ended "$file"
    echo "pool: threads shared by connections, and connections by calls"
}

# The call back comes over the connection that the client has made: it is the only one. omniORB names the client by an address of TCP for that.
bidir() {
    local file=$WORK/bidir said
    server "$file" -ORBendPoint giop:gridnet: -ORBacceptBiDirectionalGIOP 1 -ORBserverTransportRule '* gridnet,bidir'
    said=$(client "$file" back 100 -ORBofferBiDirectionalGIOP 1 -ORBclientTransportRule '* gridnet,bidir' -ORBendPoint giop:gridnet: \
        -ORBendPoint giop:tcp:127.0.0.1:)
    says "$said" 'back right'
    says "$said" 'connections made 1, accepted 0'
    client "$file" stop >/dev/null
    ended "$file"
    says "$(cat "$file.log")" 'connections made 0'
    echo "bidir: calls both ways over one connection"
}

# Debian's own programs, without a listener for TCP.
names() {
    local reference tries=0 file=$WORK/names
    mkdir "$WORK/names.d"
    LD_PRELOAD=$PREFIX/lib/libomniGridnetTP.so omniNames -start 5123 -logdir "$WORK/names.d" -ORBendPoint giop:gridnet: \
        -ignoreport >"$file.log" 2>&1 &
    SERVER=$!
    SERVERS+=($SERVER)
    until reference=$(grep -ao 'IOR:[0-9a-f]*' "$file.log" | head -1) && [ -n "$reference" ]; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] && kill -0 $SERVER 2>/dev/null || { cat "$file.log"; die "omniNames did not start"; }
        sleep 0.02
    done
    listens $SERVER && die "omniNames listens for TCP"
    with timeout 20 nameclt -ORBInitRef "NameService=$reference" bind_new_context ctx >/dev/null
    says "$(with timeout 20 nameclt -ORBInitRef "NameService=$reference" list)" '^ctx/$'
    kill $SERVER
    wait $SERVER 2>/dev/null || true
    echo "names: omniNames and nameclt without TCP"
}

# Who does not know gridnet uses IIOP; rules that are set, and the option, keep it from being used.
fallback() {
    local file=$WORK/fallback said
    server "$file" -ORBendPoint giop:gridnet: -ORBendPoint giop:tcp:127.0.0.1:
    says "$(timeout 20 "$WORK/bin/trial_client" "$file" add 10)" 'add right'
    said=$(client "$file" add 10)
    says "$said" 'connections made 1'
    said=$(client "$file" add 10 -ORBgridnetExtendRules 0)
    says "$said" 'connections made 0'
    said=$(client "$file" add 10 -ORBclientTransportRule '* tcp')
    says "$said" 'connections made 0'
    client "$file" stop >/dev/null
    ended "$file"
    echo "fallback: IIOP without the transport, and where rules say so"
}

# A server that ends, and one that stops.
ends() {
    local file=$WORK/ends said tries=0 caller
    server "$file" -ORBendPoint giop:gridnet:
    env LD_PRELOAD="$PREFIX/lib/libomniGridnetTP.so" timeout -k 5 100 "$WORK/bin/trial_client" "$file" hold 60000 >"$WORK/held" 2>&1 &
    caller=$!
    SERVERS+=($caller)
    until grep -q holding "$file.log"; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || die "the call did not come"
        sleep 0.02
    done
    kill -KILL $SERVER
    wait $caller && die "the call came back"
    says "$(cat "$WORK/held")" 'exception COMM_FAILURE'
    says "$(client "$file" add 1 || true)" 'exception TRANSIENT'
    server "$file" -ORBendPoint giop:gridnet:
    kill -STOP $SERVER
    said=$(client "$file" add 1 -ORBclientCallTimeOutPeriod 500 || true)
    says "$said" 'exception T'
    kill -CONT $SERVER
    said=$(client "$file" hold 60000 -ORBclientCallTimeOutPeriod 300 || true)
    says "$said" 'exception TIMEOUT'
    kill -KILL $SERVER
    # One that is started again on its port is found by old references.
    server "$file" -ORBendPoint giop:gridnet::4711 -ORBpoaUniquePersistentSystemIds 0
    cp "$file" "$file.old"
    client "$file" stop >/dev/null
    ended "$file"
    server "$file" -ORBendPoint giop:gridnet::4711
    said=$(client "$file.old" add 1 || true)
    # The object is another one, but the server answers.
    says "$said" 'exception OBJECT_NOT_EXIST'
    client "$file" stop >/dev/null
    ended "$file"
    echo "ends: killed, stopped, started again"
}

# fetch: omniORB's own source, for its examples; by a list of our own, since most systems have none for sources.
fetch() {
    local at=$WORK/source suite options
    have dpkg-source || { skipped "omniORB's examples" "no dpkg-source (package dpkg-dev)"; return 1; }
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mkdir -p "$at"/{lists/partial,cache/archives/partial}
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" >"$at/list"
    options=(-o "Dir::Etc::sourcelist=$at/list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$at/lists" -o "Dir::Cache=$at/cache")
    (timeout 60 apt-get "${options[@]}" update && cd "$at" && timeout 60 apt-get "${options[@]}" source omniorb-dfsg) >"$at/log" 2>&1 || {
        skipped "omniORB's examples" "their source cannot be had: $(tail -1 "$at/log")"
        return 1
    }
    EXAMPLES=$(echo "$at"/omniorb-dfsg-*/src/examples)
}

# example FOLDER IDL PROGRAM...: builds programs of the examples, as they are.
example() {
    local folder=$1 idl=$2 at=$WORK/examples/$1 program flags=()
    shift 2
    mkdir -p "$at"
    [ "$folder" != ami ] || flags=(-Wbami)
    omniidl -bcxx "${flags[@]}" -C"$at" "$idl"
    idl=$(basename "$idl" .idl)
    for program in "$@"; do
        # shellcheck disable=SC2046
        g++ -w -DHAVE_STD -o "$at/$program" -I"$at" "$EXAMPLES/$folder/$program.cc" "$at/${idl}SK.cc" \
            $(pkg-config --cflags --libs omniORB4) -lomniDynamic4 -lpthread
    done
}

# reference LOG PROGRAM ARGUMENT...: starts a server that prints its reference, which is $REFERENCE then.
reference() {
    local log=$1 tries=0
    shift
    LD_PRELOAD=$PREFIX/lib/libomniGridnetTP.so "$@" -ORBgridnetReport 1 -ORBendPoint giop:gridnet: >"$log" 2>&1 &
    SERVER=$!
    SERVERS+=($SERVER)
    until REFERENCE=$(grep -ao 'IOR:[0-9a-f]*' "$log" | head -1) && [ -n "$REFERENCE" ]; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] && kill -0 $SERVER 2>/dev/null || { cat "$log"; die "$1 did not start"; }
        sleep 0.02
    done
}

# omniORB's examples: what they print shows that they worked, and the report which way they went.
examples() {
    local at=$WORK/examples said way='connections made [1-9]'
    fetch || return 0
    example echo "$EXAMPLES/../../idl/echo.idl" eg2_impl eg2_clt
    example call_back "$EXAMPLES/call_back/echo_callback.idl" cb_server cb_client cb_shutdown
    example bidir "$EXAMPLES/bidir/echo_callback.idl" bd_server bd_client bd_shutdown
    example ami "$EXAMPLES/ami/echo_ami.idl" echo_callback echo_poller
    reference "$at/log" "$at/echo/eg2_impl"
    listens $SERVER && die "eg2_impl listens for TCP"
    said=$(with timeout 20 "$at/echo/eg2_clt" -ORBgridnetReport 1 "$REFERENCE" 2>&1)
    [ "$(grep -c 'The Echo object replied, "Hello!"' <<<"$said")" = 10 ] || { echo "$said"; die "eg2_clt"; }
    says "$said" "$way"
    for program in echo_callback echo_poller; do
        said=$(with timeout 20 "$at/ami/$program" -ORBgridnetReport 1 -ORBendPoint giop:gridnet: "$REFERENCE" 2>&1)
        says "$said" 'return'
        says "$said" "$way"
    done
    kill $SERVER
    reference "$at/log" "$at/call_back/cb_server"
    said=$(with timeout 20 "$at/call_back/cb_client" -ORBgridnetReport 1 -ORBendPoint giop:gridnet: "$REFERENCE" 1 3 2>&1)
    says "$said" 'cb_client: call_back("Hello!")'
    says "$said" "$way, accepted [1-9]"
    with timeout 20 "$at/call_back/cb_shutdown" "$REFERENCE" >/dev/null
    wait $SERVER || die "cb_server failed"
    reference "$at/log" "$at/bidir/bd_server" -ORBacceptBiDirectionalGIOP 1 -ORBserverTransportRule '* gridnet,bidir'
    said=$(with timeout 20 "$at/bidir/bd_client" -ORBgridnetReport 1 -ORBofferBiDirectionalGIOP 1 -ORBclientTransportRule '* gridnet,bidir' \
        -ORBendPoint giop:gridnet: -ORBendPoint giop:tcp:127.0.0.1: "$REFERENCE" 1 3 2>&1)
    says "$said" 'cb_client: call_back("Hello!")'
    says "$said" "$way, accepted 0"
    with timeout 20 "$at/bidir/bd_shutdown" "$REFERENCE" >/dev/null
    wait $SERVER || die "bd_server failed"
    echo "examples: echo, ami, call back and bidir, as omniORB has them"
}

# What is wrong is said.
bad() {
    local file=$WORK/bad said text
    for text in host:0x7 host:70000 'ho st:1' '[::1:5'; do
        said=$(with timeout 20 "$WORK/bin/trial_server" "$file" -ORBendPoint "giop:gridnet:$text" || true)
        says "$said" 'exception INITIALIZE'
        says "$(with timeout 20 "$WORK/bin/trial_server" "$file" -ORBendPoint "giop:gridnet:$text" 2>&1 || true)" 'not an endpoint'
    done
    server "$file" -ORBendPoint giop:gridnet::4712
    said=$(with timeout 20 "$WORK/bin/trial_server" "$file.2" -ORBendPoint giop:gridnet::4712 2>&1 || true)
    says "$said" 'exception INITIALIZE'
    says "$said" 'NAME_IN_USE'
    # A component of another version, and one whose host is longer than all of it. Tag, length, byte order, version, padding, length of the host.
    sed 's/01004e47\(.\{8\}\)0101/01004e47\1017f/' "$file" >"$file.version"
    sed 's/01004e47\(.\{8\}\)0101\(.\{4\}\).\{8\}/01004e47\10101\2ffffff00/' "$file" >"$file.length"
    for text in version length; do
        cmp -s "$file" "$file.$text" && die "the reference was not changed"
        said=$(client "$file.$text" add 1 || true)
        says "$said" 'component of .* bytes for gridnet that cannot be read'
        says "$said" 'exception TRANSIENT'
    done
    said=$(GRIDNET_SESSION=$WORK/nothing client "$file" add 1 -ORBtraceLevel 5 || true)
    says "$said" 'exception TRANSIENT'
    says "$said" 'GRIDNET_ERR_CONFIG: session: '
    client "$file" stop >/dev/null
    ended "$file"
    echo "bad: endpoints, a port in use, references, a session that is not there"
}

# Clients that are killed in the middle of calls leave nothing.
cycles() {
    local file=$WORK/cycles i before after pid
    server "$file" -ORBendPoint giop:gridnet:
    client "$file" add 10 >/dev/null
    before=$(ls /proc/$SERVER/fd | wc -l)
    for i in $(seq "$CYCLES"); do
        env LD_PRELOAD="$PREFIX/lib/libomniGridnetTP.so" "$WORK/bin/trial_client" "$file" add 100000000 >/dev/null 2>&1 &
        pid=$!
        [ $((i % 4)) = 0 ] || until [ "$(ls /proc/$SERVER/fd 2>/dev/null | wc -l)" -gt "$before" ] || ! kill -0 $pid 2>/dev/null; do :; done
        kill -KILL $pid
        wait $pid 2>/dev/null || true
    done
    client "$file" add 10 >/dev/null
    for i in $(seq 100); do
        after=$(ls /proc/$SERVER/fd | wc -l)
        [ "$after" -gt $((before + 8)) ] || break
        sleep 0.1
    done
    [ "$after" -le $((before + 8)) ] || die "$CYCLES clients that were killed left $((after - before)) descriptors"
    client "$file" stop >/dev/null
    ended "$file"
    echo "cycles: $CYCLES clients killed, descriptors before $before, after $after"
}

tools
build
calls
pool
bidir
names
fallback
ends
bad
cycles
[ -n "$SHORT" ] || examples
