#!/usr/bin/env bash
# Unmodified CORBA programs over gridnet, by the omniORB transport of personalities/corba-omniorb: ci/corba.sh [--short] [PART...]
# --short: fewer calls, and of omniORB's own examples two. PART: one of those below.
. "$(dirname "$0")/lib.sh"
. ci/corba/transport.sh
. ci/corba/bad.sh
. ci/corba/traced.sh
. ci/corba/examples.sh
. ci/corba/page.sh

SHORT=
[ "${1:-}" != --short ] || { SHORT=1; shift; }
PARTS=(parts calls pool bidir names fallback ends full freed hosts outside joining bad resets traced cycles servers_gone page examples)
[ $# = 0 ] || PARTS=("$@")
WORK=$(mktemp -d)
SERVERS=()
trap 'stop_all; rm -rf "$WORK" "$LOGS"' EXIT
# Seconds for a client: a busy machine has some 1000 calls a second.
LIMIT=$([ -n "$SHORT" ] && echo 100 || echo 900)
# Calls of each of four threads, and connections that are killed.
CALLS=$([ -n "$SHORT" ] && echo 5000 || echo 100000)
CYCLES=$([ -n "$SHORT" ] && echo 20 || echo 1000)
# Bytes that a peer may leave: gridnet numbers peers and links for good, which takes 1 to 2 KiB for each. Few peers tell less exactly.
MOST_LEFT=$([ -n "$SHORT" ] && echo 12000 || echo 3000)

stop_all() {
    local pid
    for pid in "${SERVERS[@]}"; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -KILL "$pid" 2>/dev/null || true
    done
}

# with COMMAND...: with the transport; without it, COMMAND is called as it is.
with() { LD_PRELOAD=$TRANSPORT "$@"; }

# client FILE ARGUMENT...: a client with the transport, which prints what went over gridnet.
client() { with timeout -k 5 "$LIMIT" "$BUILT/bin/trial_client" "$@" -ORBgridnetReport 1 2>&1; }

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
    serve "$file" env LD_PRELOAD="$TRANSPORT" "$BUILT/bin/trial_server" "$file" "$@" -ORBgridnetReport 1
}

# ended FILE: the server has been told to stop, and ends well.
ended() {
    wait $SERVER || { cat "$1.log"; die "$1: the server failed"; }
}

# await FILE TEXT: until a file says that.
await() {
    local tries=0
    until grep -qs -e "$2" "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 1500 ] || { cat "$1"; die "$1: does not say: $2"; }
        sleep 0.02
    done
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

# What is handed on to whom, in orders that omniORB's threads seldom have.
parts() {
    says "$(timeout -k 5 100 "$BUILT/bin/parts")" 'parts right'
    echo "parts: each byte is told of once"
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
    said=$(timeout -k 5 100 "$BUILT/linked/trial_client" "$file" stop -ORBgridnetReport 1 2>&1)
    says "$said" 'connections made 1'
    ended "$file"
    went "$(cat "$file.log")" 3000000
    serve "$file" "$BUILT/linked/trial_server" "$file" -ORBendPoint giop:gridnet:
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

# referred LOG NAME PID: a server that was begun; it prints its reference, which is $REFERENCE then.
referred() {
    local tries=0
    SERVER=$3
    SERVERS+=($SERVER)
    until REFERENCE=$(grep -ao 'IOR:[0-9a-f]*' "$1" | head -1) && [ -n "$REFERENCE" ]; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] && kill -0 $SERVER 2>/dev/null || { cat "$1"; die "$2 did not start"; }
        sleep 0.02
    done
}

# Debian's own programs, without a listener for TCP.
names() {
    local file=$WORK/names
    mkdir "$WORK/names.d"
    LD_PRELOAD=$TRANSPORT omniNames -start 5123 -logdir "$WORK/names.d" -ORBendPoint giop:gridnet: \
        -ignoreport >"$file.log" 2>&1 &
    referred "$file.log" omniNames $!
    listens $SERVER && die "omniNames listens for TCP"
    with timeout 20 nameclt -ORBInitRef "NameService=$REFERENCE" bind_new_context ctx >/dev/null
    says "$(with timeout 20 nameclt -ORBInitRef "NameService=$REFERENCE" list)" '^ctx/$'
    kill $SERVER
    wait $SERVER 2>/dev/null || true
    echo "names: omniNames and nameclt without TCP"
}

# Who does not know gridnet uses IIOP; rules that are set, and the option, keep it from being used.
fallback() {
    local file=$WORK/fallback said
    server "$file" -ORBendPoint giop:gridnet: -ORBendPoint giop:tcp:127.0.0.1:
    says "$(timeout 20 "$BUILT/bin/trial_client" "$file" add 10)" 'add right'
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

# stalled FILE BYTES: a client is between two calls when the server stops; the next one, with so many bytes, ends with its time.
stalled() {
    local caller
    rm -f "$WORK/go" "$WORK/stalled"
    mkfifo "$WORK/go"
    client "$1" stall "$2" <"$WORK/go" >"$WORK/stalled" &
    caller=$!
    exec 8>"$WORK/go"
    await "$WORK/stalled" ready
    kill -STOP $SERVER
    exec 8>&-
    wait $caller && die "the call of $2 bytes came back"
    says "$(cat "$WORK/stalled")" 'exception TIMEOUT'
    kill -CONT $SERVER
}

# More bytes than may ever wait on their way to a server that stops, by frames, and as they are shown to the reader.
full() {
    local file=$WORK/full bytes
    local -x GRIDNET_RAILS GRIDNET_NET_INSECURE=on GRIDNET_NET_INTERFACES=127.0.0.1
    for GRIDNET_RAILS in shm,self tcp,self; do
        server "$file" -ORBendPoint giop:gridnet:
        for bytes in 400000 2000000; do
            stalled "$file" $bytes
        done
        kill -KILL $SERVER
    done
    echo "full: calls that find no room end with their time, over shared memory and TCP"
}

# A server that ends, and one that stops.
ends() {
    local file=$WORK/ends said caller
    server "$file" -ORBendPoint giop:gridnet:
    env LD_PRELOAD="$TRANSPORT" timeout -k 5 100 "$BUILT/bin/trial_client" "$file" hold 60000 >"$WORK/held" 2>&1 &
    caller=$!
    SERVERS+=($caller)
    await "$file.log" holding
    kill -KILL $SERVER
    wait $caller && die "the call came back"
    says "$(cat "$WORK/held")" 'exception COMM_FAILURE'
    says "$(client "$file" add 1 || true)" 'exception TRANSIENT'
    server "$file" -ORBendPoint giop:gridnet:
    kill -STOP $SERVER
    said=$(client "$file" add 1 -ORBclientCallTimeOutPeriod 500 || true)
    says "$said" 'exception TIMEOUT'
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

# A port is free again when its endpoint has ended, though the ORB has not.
freed() {
    local file=$WORK/freed first tries=0
    server "$file" linger -ORBendPoint giop:gridnet::4713
    first=$SERVER
    client "$file" stop >/dev/null
    await "$file.log" over
    # Its last connection ends in its own time.
    until with "$BUILT/bin/trial_server" "$file.2" -ORBendPoint giop:gridnet::4713 >"$file.2.log" 2>&1 &
        SERVER=$!
        SERVERS+=($SERVER)
        while [ ! -s "$file.2" ] && kill -0 $SERVER 2>/dev/null; do sleep 0.02; done
        [ -s "$file.2" ]; do
        tries=$((tries + 1))
        [ $tries -lt 20 ] || { cat "$file.2.log"; die "the port of an endpoint that has ended is not free"; }
    done
    client "$file.2" add 10 >/dev/null
    client "$file.2" stop >/dev/null
    ended "$file.2"
    rm "$file"
    wait $first || { cat "$file.log"; die "the server that lingered failed"; }
    echo "freed: the port of an endpoint that has ended"
}

# A reference leads to the server that has made it, whatever hosts are called: here two hosts have one name and the same port in use.
hosts() {
    local file=$WORK/hosts network=(GRIDNET_NET_INSECURE=1 GRIDNET_NET_INTERFACES=127.0.0.1) one
    for one in a b; do
        serve "$file.$one" env "${network[@]}" GRIDNET_HOST_ID=$one LD_PRELOAD="$TRANSPORT" \
            "$BUILT/bin/trial_server" "$file.$one" -ORBendPoint giop:gridnet:localhost:4714
    done
    for one in a b; do
        says "$(env "${network[@]}" GRIDNET_HOST_ID=b bash -c "$(declare -f with client); TRANSPORT='$TRANSPORT' BUILT='$BUILT' LIMIT=$LIMIT
            client '$file.$one' add 10" || true)" 'add right'
    done
    env "${network[@]}" GRIDNET_HOST_ID=a bash -c "$(declare -f with client); TRANSPORT='$TRANSPORT' BUILT='$BUILT' LIMIT=$LIMIT
        client '$file.a' stop; client '$file.b' stop" >/dev/null
    wait $SERVER || die "the server on host b failed"
    echo "hosts: two of one name, each with a server at the same port"
}

# Who is in a session does not look there for a server that was in none when it made the reference.
outside() {
    local file=$WORK/outside network=(GRIDNET_NET_INSECURE=1 GRIDNET_NET_INTERFACES=127.0.0.1) port=$((20000 + $$ % 12000)) said
    serve "$file" env "${network[@]}" GRIDNET_HOST_ID=a LD_PRELOAD="$TRANSPORT" "$BUILT/bin/trial_server" "$file" -ORBendPoint giop:gridnet:
    "$PREFIX/bin/gridnet" session new --dir "$file.session" --listen "127.0.0.1:$port" >/dev/null
    "$PREFIX/bin/gridnet" session serve --dir "$file.session" >"$file.serve" 2>&1 &
    SERVERS+=($!)
    says "$(GRIDNET_SESSION=$file.session/ticket GRIDNET_SESSION_TIMEOUT=60s GRIDNET_NET_INTERFACES=127.0.0.1 GRIDNET_HOST_ID=b \
        client "$file" add 1 -ORBtraceLevel 5 || true)" 'this process is in a session, and the server was in none'
    kill $!
    kill $SERVER
    echo "outside: a server that is in no session is not looked for there"
}

# Who joins a session with the first call joins it in the time of that call.
joining() {
    local file=$WORK/joining port=$((20000 + $$ % 12000)) silent
    have python3 || { skipped "a session that does not answer" "no python3"; return 0; }
    server "$file" -ORBendPoint giop:gridnet:
    python3 -c "
import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', $port)); s.listen()
print('listening', flush=True); time.sleep(300)" >"$file.silent" 2>&1 &
    silent=$!
    SERVERS+=($silent)
    await "$file.silent" listening
    "$PREFIX/bin/gridnet" session new --dir "$file.session" --listen "127.0.0.1:$port" >/dev/null
    says "$(GRIDNET_SESSION=$file.session/ticket GRIDNET_SESSION_TIMEOUT=60s with timeout -k 5 30 "$BUILT/bin/trial_client" "$file" add 1 \
        -ORBclientCallTimeOutPeriod 500 -ORBtraceLevel 5 2>&1 || true)" 'exception TIMEOUT'
    kill $silent
    client "$file" stop >/dev/null
    ended "$file"
    echo "joining: a session that does not answer holds no call longer than it may take"
}

# Each 200 ms all connections are reset: calls take longer, and none fails.
resets() {
    local file=$WORK/resets caller count=0 tries=0
    [ "$(id -u)" = 0 ] && have ss || { skipped "resets of connections" "not root, or no ss"; return 0; }
    local network=(GRIDNET_RAILS=tcp,self GRIDNET_NET_INSECURE=on GRIDNET_NET_INTERFACES=127.0.0.1 GRIDNET_NET_PORTS=7200-7299)
    serve "$file" env "${network[@]}" LD_PRELOAD="$TRANSPORT" "$BUILT/bin/trial_server" "$file" -ORBendPoint giop:gridnet:
    env "${network[@]}" LD_PRELOAD="$TRANSPORT" timeout -k 5 "$LIMIT" "$BUILT/bin/trial_client" "$file" during "$([ -n "$SHORT" ] && echo 2 || echo 4)" >"$file.said" 2>&1 &
    caller=$!
    while kill -0 $caller 2>/dev/null; do
        sleep 0.2
        [ -z "$(ss -HK state established '( sport >= :7200 and sport <= :7299 )' 2>/dev/null)" ] || count=$((count + 1))
    done
    wait $caller || { cat "$file.said"; die "after $count resets a call failed"; }
    env "${network[@]}" LD_PRELOAD="$TRANSPORT" timeout -k 5 "$LIMIT" "$BUILT/bin/trial_client" "$file" stop >/dev/null
    ended "$file"
    [ $count != 0 ] || { skipped "resets of connections" "the kernel has none for ss -K"; return 0; }
    echo "resets: $(grep '^calls' "$file.said"), right, over $count resets"
}

# WATCHED COMMAND...: with a transport that is built for the address sanitizer, which sees the library's memory, too, and what is lost in the end.
watched() {
    make --quiet -j2 -C $SOURCE BUILD="$BUILT/sanitized" CXXFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address" LDFLAGS=-fsanitize=address
    WATCHED=(env "LD_PRELOAD=$(gcc -print-file-name=libasan.so) $BUILT/sanitized/libomniGridnetTP.so" ASAN_OPTIONS=detect_leaks=1)
}

# left FILE: bytes of the heap that the server has in use.
left() { client "$1" memory | sed -n 's/^memory \([0-9]*\)$/\1/p'; }

# victims COUNT FILE: so many clients are killed, every fourth as it comes, the others while they call; CONNECTED counts those.
victims() {
    local i pid
    for i in $(seq "$1"); do
        : >"$2.victim"
        env LD_PRELOAD="$TRANSPORT" "$BUILT/bin/trial_client" "$2" steady >"$2.victim" 2>&1 &
        pid=$!
        [ $((i % 4)) = 0 ] || { await "$2.victim" calling && CONNECTED=$((CONNECTED + 1)); }
        kill -KILL $pid
        wait $pid 2>/dev/null || true
    done
}

# Clients that are killed in the middle of calls leave no descriptors, and not more memory than a fabric keeps of peers that have gone.
cycles() {
    local file=$WORK/cycles i before after memory more accepted
    CONNECTED=4
    watched
    serve "$file" "${WATCHED[@]}" "$BUILT/bin/trial_server" "$file" -ORBendPoint giop:gridnet: -ORBgridnetReport 1
    client "$file" add 10 >/dev/null
    before=$(descriptors)
    victims $((CYCLES / 5)) "$file"
    memory=$(left "$file")
    victims $((CYCLES - CYCLES / 5)) "$file"
    client "$file" add 10 >/dev/null
    # What threads that sleep at a time need stays with the fabric.
    for i in $(seq 1000); do
        after=$(descriptors)
        [ "$after" -gt $((before + 8)) ] || break
        sleep 0.01
    done
    [ "$after" -le $((before + 8)) ] || die "$CYCLES clients that were killed left $((after - before)) descriptors"
    more=$(left "$file")
    [ -n "$memory" ] && [ -n "$more" ] || die "the server does not say what it has left"
    more=$(((more - memory) / (CYCLES - CYCLES / 5)))
    [ $more -le $MOST_LEFT ] || die "each client that was killed leaves $more bytes"
    client "$file" stop >/dev/null
    ended "$file"
    accepted=$(sed -n 's/.*accepted \([0-9]*\),.*/\1/p' "$file.log")
    [ "$accepted" -ge $CONNECTED ] || die "of $CONNECTED clients only $accepted had a connection"
    echo "cycles: $CYCLES clients killed, $CONNECTED of them with a connection, $more bytes left by each, descriptors before $before, after $after"
}

# The same of servers that one client calls.
servers_gone() {
    local file=$WORK/gone i memory=() caller more rounds=$((CYCLES / 2)) warm
    mkfifo "$WORK/rounds"
    warm=$((rounds / 5))
    watched
    server "$file" -ORBendPoint giop:gridnet::4723
    timeout -k 5 "$LIMIT" "${WATCHED[@]}" "$BUILT/bin/trial_client" "$file" again <"$WORK/rounds" >"$file.said" 2>&1 &
    caller=$!
    exec 9>"$WORK/rounds"
    for i in $(seq $rounds); do
        [ "$i" = 1 ] || server "$file" -ORBendPoint giop:gridnet::4723
        echo "called $i" >&9
        await "$file.said" "^called $i right"
        kill -KILL $SERVER
        wait $SERVER 2>/dev/null || true
        echo "gone $i" >&9
        await "$file.said" "^gone $i [CT]"
    done
    exec 9>&-
    wait $caller || { cat "$file.said"; die "the client whose servers are killed failed"; }
    mapfile -t memory < <(sed -n 's/^gone .* memory //p' "$file.said")
    more=$(((memory[rounds - 1] - memory[warm]) / (rounds - 1 - warm)))
    [ $more -le $MOST_LEFT ] || { cat "$file.said"; die "each server that was killed leaves $more bytes"; }
    echo "servers gone: $rounds, $more bytes of a client left by each"
}

# descriptors: how many the server has.
descriptors() { ls "/proc/$SERVER/fd" | wc -l; }

tools
build
export GRIDNET_RUN_DIR=$WORK/run
mkdir -m 700 "$GRIDNET_RUN_DIR"
for part in "${PARTS[@]}"; do
    declare -F "$part" >/dev/null || die "no part $part"
    "$part"
done
