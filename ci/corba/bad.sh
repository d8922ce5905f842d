# Bad input, each with the exception or the line of the log that names it: sourced by ci/corba.sh.

# stranger FILE PORT BYTES HOW: one that stays, or serves, in the background as $STRANGER, when it is so far; what it says is in FILE.
stranger() {
    : >"$1"
    "$BUILT/bin/stranger" "$2" "$3" "$4" >"$1" 2>&1 &
    STRANGER=$!
    SERVERS+=($STRANGER)
    await "$1" "$([ "$4" = stays ] && echo there || echo serving)"
}

# refused TEXT ARGUMENT...: a server with these arguments does not start, and says why.
refused() {
    local text=$1 said
    shift
    said=$(with timeout 20 "$BUILT/bin/trial_server" "$WORK/refused" "$@" 2>&1 || true)
    says "$said" 'exception INITIALIZE'
    says "$said" "$text"
}

bad_endpoints() {
    local text file=$WORK/bad
    for text in host:0x7 host:70000 'ho st:1' '[::1:5'; do
        refused 'not an endpoint' -ORBendPoint "giop:gridnet:$text"
    done
    for text in host:70000 '[::1:5'; do
        refused "endPointPublish specification 'giop:gridnet:" -ORBendPoint giop:gridnet: -ORBendPointPublish "giop:gridnet:$text"
    done
    GRIDNET_SESSION=$WORK/nothing refused 'GRIDNET_ERR_CONFIG: session: ' -ORBendPoint giop:gridnet:
    server "$file" -ORBendPoint giop:gridnet::4712
    refused NAME_IN_USE -ORBendPoint giop:gridnet::4712
    client "$file" stop >/dev/null
    ended "$file"
    echo "bad endpoints: malformed, published so, in a session that is not there, in use"
}

# A reference with a component that cannot be read leads nowhere by gridnet; one that can be read, to no server, neither.
bad_references() {
    local file=$WORK/references said text
    server "$file" -ORBendPoint giop:gridnet::4712
    # A component of another version, and one whose host is longer than all of it. Tag, length, byte order, version, padding, length of the host.
    sed 's/01004e47\(.\{8\}\)0101/01004e47\1017f/' "$file" >"$file.version"
    sed 's/01004e47\(.\{8\}\)0101\(.\{4\}\).\{8\}/01004e47\10101\2ffffff00/' "$file" >"$file.length"
    for text in short empty 'address 63' 'address 65' rubbish 'host a%20b!' 'host ' 'port 0'; do
        # shellcheck disable=SC2086
        have python3 && python3 ci/corba/forge.py "$file" ${text% *} "${text#* }" >"$file.${text%% *}${text##* }" ||
            skipped "a reference with $text" "no python3"
    done
    for text in "$file".*; do
        [ "$text" != "$file.log" ] || continue
        cmp -s "$file" "$text" && die "the reference was not changed"
        said=$(client "$text" add 1 || true)
        says "$said" 'exception TRANSIENT'
        case $text in
            *.rubbish*) says "$said" 'no connection to .*: GRIDNET_ERR_INVALID: ' ;;
            *) says "$said" 'component of .* bytes for gridnet that cannot be read' ;;
        esac
    done
    # What an older library has written is shorter, and right.
    have python3 && { python3 ci/corba/forge.py "$file" address 64 >"$WORK/older"; client "$WORK/older" add 1 >/dev/null; }
    said=$(GRIDNET_SESSION=$WORK/nothing client "$file" add 1 || true)
    says "$said" 'exception TRANSIENT'
    says "$said" 'GRIDNET_ERR_CONFIG: session: '
    client "$file" stop >/dev/null
    ended "$file"
    echo "bad references: components of $(ls "$file".* | grep -vc 'log$') kinds, a session that is not there"
}

# Who does not say who it is keeps nobody from being served, and is sent away in the end.
silent_callers() {
    local file=$WORK/silent silent
    server "$file" -ORBendPoint giop:gridnet::4716 -ORBgridnetGreetingTimeOut 1000000
    stranger "$file.silent" 4716 '' stays
    silent=$STRANGER
    stranger "$file.half" 4716 'GNGP\x01' stays
    client "$file" add 10 -ORBclientCallTimeOutPeriod 60000 >/dev/null
    kill -0 $silent && kill -0 $STRANGER && ! grep -q told "$file.silent" "$file.half" || die "nobody was silent while calls were served"
    kill -KILL $silent $STRANGER
    client "$file" stop >/dev/null
    ended "$file"
    grep -q 'sent away' "$file.log" && die "who may be silent was sent away"
    server "$file" -ORBendPoint giop:gridnet::4717 -ORBgridnetGreetingTimeOut 200
    stranger "$file.silent" 4717 '' stays
    silent=$STRANGER
    stranger "$file.half" 4717 'GNGP\x01' stays
    wait $silent && wait $STRANGER || die "who is silent is not sent away"
    [ "$(grep -c 'a caller that does not say who it is was sent away' "$file.log")" = 2 ] || { cat "$file.log"; die "two were silent"; }
    client "$file" stop >/dev/null
    ended "$file"
    echo "silent callers: one with no word, one with half a greeting; others were served meanwhile, and both sent away"
}

# Callers of another version, of another protocol, and with a header or a message of GIOP that a kill has cut off, or that is none.
bad_callers() {
    local file=$WORK/callers text
    server "$file" -ORBendPoint giop:gridnet::4718 -ORBtraceLevel 25
    stranger "$file.version" 4718 'GNGP\x02\x01a' stays
    wait $STRANGER
    await "$file.log" 'another protocol, or another version than 1: 47 4e 47 50 02'
    says "$(cat "$file.version")" '^told 47 4e 47 50 01$'
    stranger "$file.protocol" 4718 'HTTP/1' stays
    wait $STRANGER
    await "$file.log" 'another protocol, or another version than 1: 48 54'
    says "$(cat "$file.protocol")" '^told$'
    while IFS='|' read -r bytes text; do
        "$BUILT/bin/stranger" 4718 'GNGP\x01\x01a'"$bytes" >"$file.stranger" 2>&1 || true
        [ ! -s "$file.stranger" ] || { cat "$file.stranger"; die "the stranger could not call"; }
        await "$file.log" "$text"
    done <<'END'
GIOP\x01\x02\x01|Error in network receive (start of message)
GIOP\x01\x02\x01\x00\x60\x00\x00\x00abc|Error in network receive (continuation of message)
GIOPGIOPGIOPGIOP|Error in network receive (continuation of message)
GET / HTTP/1.1..|Input message is not a GIOP message
END
    client "$file" add 10 >/dev/null
    client "$file" stop >/dev/null
    ended "$file"
    echo "bad callers: another version, another protocol, GIOP that is cut off, or none"
}

# The same from a server: its clients have COMM_FAILURE, and a line that says why.
bad_servers() {
    local file=$WORK/servers bytes text said
    server "$file" -ORBendPoint giop:gridnet::4719
    client "$file" stop >/dev/null
    ended "$file"
    while IFS='|' read -r bytes text; do
        stranger "$file.stranger" 4719 "$bytes" serves
        said=$(client "$file" add 1 -ORBtraceLevel 25 </dev/null || true)
        says "$said" "$text"
        says "$said" 'exception COMM_FAILURE'
        wait $STRANGER 2>/dev/null || true
    done <<'END'
GNGP\x02|giop:gridnet:.*:4719 speaks version 2 of this transport; this is version 1
HTTP/1.1 400 Bad Request|Input message is not a GIOP message
GIOP\x01\x02\x01|Error in network receive (start of message)
GIOP\x01\x02\x01\x01\x60\x00\x00\x00abc|Error in network receive (continuation of message)
END
    echo "bad servers: another version, another protocol, answers that are cut off"
}

bad() {
    bad_endpoints
    bad_references
    silent_callers
    bad_callers
    bad_servers
}
