# What the system sees of calls: sourced by ci/corba.sh.

# fewest FILE: of all stretches between two marks of one thread in a trace, the fewest system calls. getppid() is the mark.
fewest() {
    awk '/ getppid\(/ { if ($1 in count && (least == "" || count[$1] < least)) least = count[$1]; count[$1] = 0; next }
        { count[$1]++ } END { print least }' "$1"
}

# read_in_place FILE: how many bytes the traced process has read out of others.
read_in_place() {
    awk '/process_vm_readv/ && $NF > 0 { bytes += $NF } END { print bytes + 0 }' "$1"
}

# While both sides are awake the transport makes no system call for a call; and what is long is read where it lies.
# Not counted is the look of an engine at its descriptors, which who waits takes once in a while: for each of those, if it was traced, the other
# side would wait longer. What is counted costs nothing where there is none of it.
traced() {
    local file=$WORK/traced rounds=50 calls=100 side few
    local trace=(strace -f --seccomp-bpf -e 'trace=!epoll_wait') set=(-E "LD_PRELOAD=$TRANSPORT" -E GRIDNET_WAIT_MODE=spin)
    need strace strace && "${trace[@]}" -o /dev/null true 2>/dev/null || { skipped "system calls of calls" "no strace, or it may not trace"; return 0; }
    serve "$file" "${trace[@]}" -o "$file.server" "${set[@]}" "$BUILT/bin/trial_server" "$file" -ORBendPoint giop:gridnet:
    "${trace[@]}" -o "$file.client" "${set[@]}" "$BUILT/bin/trial_client" "$file" marked $rounds $calls >/dev/null
    # In the best of the rounds: on a busy machine there are others, in which somebody waits, or a watch looks in.
    for side in client server; do
        few=$(fewest "$file.$side")
        [ "${few:-$calls}" -lt $((calls / 10)) ] || die "the $side makes ${few:-no marks, and} system calls for $calls calls"
        echo "traced: $calls calls take $few system calls of the thread of the $side, in the best of $rounds rounds"
    done
    [ "$(read_in_place "$file.server")" -lt 100000 ] || die "short calls were read in place"
    client "$file" echo >/dev/null
    few=$(read_in_place "$file.server")
    # The first of its long ones, a mebibyte, is always shown to the reader.
    [ "$few" -ge 1000000 ] || die "of a long sequence $few bytes were read where they lie"
    client "$file" stop >/dev/null
    ended "$file"
    echo "traced: $few bytes of long sequences were read where they lie"
}
