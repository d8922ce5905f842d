#!/usr/bin/env bash
# The kernel's Soft-RoCE (rdma_rxe) as a judge of our verbs, in a Linux that qemu emulates: no module is loaded here, nothing needs KVM.
#   ci/roce-guest.sh                        the part of ci/full.sh: what the kernel does is what rdma-sim/tests/judge/rxe.txt says,
#                                           and it understands our device, and our device it
#   ci/roce-guest.sh talk                   the second half of that
#   ci/roce-guest.sh adapter                the suites of verbs and of the rail through libibverbs, which is part of that, too
#   ci/roce-guest.sh update                 writes that file, and rdma-sim/tests/captures, anew
#   ci/roce-guest.sh run SCRIPT [FILE...]   runs a shell script in the guest; files lie beside it, with their libraries
# See "Soft-RoCE in a guest" in ci/README.md.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Seconds for a run in the guest: ten times what ours take on an idle machine.
LIMIT=${ROCE_GUEST_LIMIT:-300}
PATH=$PATH:/usr/sbin:/sbin
SOURCES=$PWD/ci/roce-guest
CACHE=$TARGET_DIR/roce-guest
HEADER=/usr/include/infiniband/verbs.h
EXPECTED=rdma-sim/tests/judge/rxe.txt
CAPTURES=rdma-sim/tests/captures
# What the guest's kernel needs and Debian has as modules, by folder or file below kernel/.
MODULES=(drivers/infiniband/core drivers/infiniband/sw/rxe drivers/net/veth.ko drivers/net/dummy.ko net/ipv4/udp_tunnel.ko
    net/ipv6/ip6_udp_tunnel.ko crypto/crc32_generic.ko arch/x86/crypto/crc32-pclmul.ko)
# What a job finds in the guest's PATH, beside the applets of busybox.
TOOLS=(/bin/sh ip rdma ibv_devinfo ibv_rc_pingpong)

main() {
    case ${1:-} in
        run)
            [ $# -ge 2 ] || die "usage: ci/roce-guest.sh run SCRIPT [FILE...]"
            local files=() file
            for file in "${@:2}"; do files+=("$(cd "$OLDPWD" && realpath -e "$file")"); done
            prepare
            in_guest "${files[@]}"
            ;;
        update) prepare; judged; renew ;;
        talk) prepare; talk ;;
        adapter) prepare; adapter ;;
        "") prepare; judged; compare; talk; adapter ;;
        *) die "usage: ci/roce-guest.sh [update | talk | adapter | run SCRIPT [FILE...]]" ;;
    esac
}

# --- what the host has to have ---

prepare() {
    [ "$(uname -m)" = x86_64 ] || { skipped "Soft-RoCE guest" "made for x86_64 only"; exit $EXIT_SKIPPED; }
    have apt-get || { skipped "Soft-RoCE guest" "the kernel comes from Debian, and this is none"; exit $EXIT_SKIPPED; }
    mkdir -p "$CACHE"
    need qemu-system-x86_64 qemu-system-x86 || exit $EXIT_SKIPPED
    need busybox busybox-static || exit $EXIT_SKIPPED
    need ip iproute2 || exit $EXIT_SKIPPED
    need ibv_rc_pingpong ibverbs-utils ibverbs-providers || exit $EXIT_SKIPPED
    need xz xz-utils || exit $EXIT_SKIPPED
    [ -e "$CACHE/kernel/complete" ] || kernel
}

# Debian's kernel: fetched and unpacked, not installed. What is there is kept until somebody removes the folder.
kernel() {
    local package
    rm -rf "$CACHE/kernel" "$CACHE/fetch"
    mkdir -p "$CACHE/kernel" "$CACHE/fetch"
    package=$(fetch_kernel) || package=$(update_lists && fetch_kernel) ||
        { skipped "Soft-RoCE guest" "the package of linux-image-amd64 could not be fetched"; exit $EXIT_SKIPPED; }
    echo "unpacking $(basename "$package")"
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$CACHE/kernel" ./boot ./lib/modules
    rm -rf "$CACHE/fetch"
    ls "$CACHE/kernel/lib/modules" >"$CACHE/kernel/version"
    keep_modules "$(cat "$CACHE/kernel/version")"
    unpacked_kernel "$CACHE"/kernel/boot/vmlinuz-*
    touch "$CACHE/kernel/complete"
}

# Prints the file of the package that linux-image-amd64 stands for.
fetch_kernel() {
    local name
    name=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -1)
    [ -n "$name" ] || return 1
    (cd "$CACHE/fetch" && apt-get download "$name" >/dev/null 2>&1) || return 1
    ls "$CACHE"/fetch/*.deb
}

update_lists() {
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo -n)
    "${root[@]}" apt-get update >/dev/null 2>&1
}

# keep_modules VERSION: makes $CACHE/kernel/modules of the few that are needed; the other 300 MB go.
keep_modules() {
    local from=$CACHE/kernel/lib/modules/$1 to=$CACHE/kernel/modules/lib/modules/$1 module
    for module in "${MODULES[@]}"; do
        # Some are built into the kernel, which differs between versions.
        [ -e "$from/kernel/$module" ] || continue
        mkdir -p "$(dirname "$to/kernel/$module")"
        cp -r "$from/kernel/$module" "$to/kernel/$module"
    done
    cp "$from"/modules.builtin* "$from/modules.order" "$to/"
    busybox depmod -b "$CACHE/kernel/modules" "$1"
    rm -rf "$CACHE/kernel/lib"
}

# The kernel without its shell: it would need ten emulated seconds to unpack itself.
unpacked_kernel() {
    local at
    at=$(LC_ALL=C grep -aobP '\xfd7zXZ\x00' "$1" | LC_ALL=C sed -n '1s/:.*//p')
    # What follows the stream is left, so that tail may find nobody who reads.
    if { tail -c +$((${at:-0} + 1)) "$1" || true; } | xz -dc --single-stream >"$CACHE/kernel/vmlinux" 2>/dev/null; then
        rm "$1"
    else
        echo "the kernel is in no xz stream: it unpacks itself, which takes longer"
        mv "$1" "$CACHE/kernel/vmlinux"
    fi
}

# --- a run ---

# in_guest SCRIPT FILE...: runs the script; what it left in /out is in $CACHE/out then. Exits as the script did.
in_guest() {
    local tree code=0
    tree=$(mktemp -d -p "$LOGS")
    rm -rf "$CACHE/out" "$CACHE/out.tar"
    mkdir -p "$CACHE/out"
    plant "$tree" "$@"
    (cd "$tree" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) >"$CACHE/initramfs"
    timeout --kill-after=10 "$LIMIT" qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 512 -nodefaults -no-user-config -nic none \
        -display none -no-reboot -kernel "$CACHE/kernel/vmlinux" -initrd "$CACHE/initramfs" \
        -append "console=ttyS0 loglevel=1 panic=-1 mitigations=off random.trust_cpu=on" \
        -chardev stdio,id=console,signal=off -serial chardev:console -serial "file:$CACHE/out.tar" </dev/null |
        tr -d '\r' || code=${PIPESTATUS[0]}
    [ $code != 124 ] || die "the guest did not come to its end in $LIMIT s"
    tar -x -C "$CACHE/out" -f "$CACHE/out.tar" 2>/dev/null && [ -e "$CACHE/out/exit" ] || die "the guest ended without a result (qemu: $code)"
    return "$(cat "$CACHE/out/exit")"
}

# plant TREE SCRIPT FILE...: makes the guest's file system.
plant() {
    local tree=$1 tool file version
    version=$(cat "$CACHE/kernel/version")
    mkdir -p "$tree"/{bin,sbin,proc,sys,dev,run,tmp,out,job,etc,usr/bin} "$tree/lib/modules"
    cp -r "$CACHE/kernel/modules/lib/modules/$version" "$tree/lib/modules/"
    cp "$(command -v busybox)" "$tree/bin/busybox"
    ln -s ../bin/busybox "$tree/sbin/modprobe"
    for tool in "${TOOLS[@]}"; do
        tool=$(command -v "$tool") || { skipped "in the guest" "no $tool"; continue; }
        with_libraries "$tree" "$tool" "$tree/usr/bin/$(basename "$tool")"
    done
    ln -s ../usr/bin/sh "$tree/bin/sh"
    # What a program opens by itself, so that ldd does not tell.
    for file in /etc/libibverbs.d/rxe.driver /usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav*.so /lib/x86_64-linux-gnu/libgcc_s.so.1; do
        with_libraries "$tree" "$file" "$tree$file"
    done
    install -m 755 "$SOURCES/init" "$tree/init"
    install -m 644 "$SOURCES/wire.sh" "$tree/job/wire.sh"
    install -m 755 "$2" "$tree/job/script"
    for file in "${@:3}"; do
        with_libraries "$tree" "$file" "$tree/job/$(basename "$file")"
    done
}

# with_libraries TREE FILE TO: copies a file, and if it is a program, the shared libraries that it names to their places.
with_libraries() {
    local library
    mkdir -p "$(dirname "$3")"
    cp -L "$2" "$3"
    ldd "$2" >/dev/null 2>&1 || return 0
    ldd "$2" | sed -n 's|[^/]*\(/[^ ]*\).*|\1|p' | while IFS= read -r library; do
        [ ! -e "$1$library" ] || continue
        mkdir -p "$1$(dirname "$library")"
        cp -L "$library" "$1$library"
    done
}

# --- the judge ---

# Builds the programs of the guest.
programs() {
    need gcc gcc libc6-dev && need make make || exit $EXIT_SKIPPED
    # A header is no command: `need` is told of one that is nowhere, so that it installs.
    [ -e "$HEADER" ] || need "no $HEADER" libibverbs-dev || exit $EXIT_SKIPPED
    make --quiet -C "$SOURCES" BUILD="$CACHE/bin"
}

# Runs the cases of the judge; $CACHE/out has judge.txt and captures/ then.
judged() {
    programs
    in_guest "$SOURCES/judge.sh" "$CACHE/bin/judge"
}

renew() {
    mkdir -p "$(dirname "$EXPECTED")" "$CAPTURES"
    rm -f "$CAPTURES"/*.pcap
    cp "$CACHE/out/judge.txt" "$EXPECTED"
    cp "$CACHE"/out/captures/*.pcap "$CAPTURES/"
    python3 "$SOURCES/captures.py" "$CAPTURES"
    echo "$EXPECTED: $(grep -c : "$EXPECTED") cases; $CAPTURES: $(ls "$CAPTURES" | grep -c pcap) captures"
}

compare() {
    if have python3; then
        python3 "$SOURCES/captures.py" "$CACHE/out/captures" | tail -1
    else
        skipped "CRCs of the captures" "no python3"
    fi
    dissected "$CACHE/out/captures"
    diff "$EXPECTED" "$CACHE/out/judge.txt" || die "the kernel's Soft-RoCE does not do what $EXPECTED says"
    echo "$(grep -c : "$EXPECTED") cases, as $EXPECTED says"
}

# dissected FOLDER: Wireshark takes each packet of the captures for RoCEv2, and finds no fault in it.
dissected() {
    local all=$CACHE/all.pcap file complaints options
    need tshark tshark || return 0
    set -- "$1"/*.pcap
    head -c 24 "$1" >"$all"
    for file in "$@"; do tail -c +25 "$file" >>"$all"; done
    # Checksums of UDP that are 0 also over IPv6 are the kernel's way; RPC over RDMA is what some of our numbers look like.
    options=(-n -o udp.ignore_ipv6_zero_checksum:TRUE --disable-protocol rpcordma)
    complaints=$(tshark "${options[@]}" -r "$all" -Y '_ws.malformed || _ws.expert.severity >= "Warning" || !infiniband.bth' 2>/dev/null)
    [ -z "$complaints" ] || die "tshark does not like $complaints"
    echo "tshark knows all $(tshark "${options[@]}" -r "$all" -Y infiniband.bth 2>/dev/null | wc -l) packets"
}

# --- our device and the kernel's ---

# Messages of 1 byte to 1 MiB by all operations, both ways.
talk() {
    have cargo || { skipped "our device and Soft-RoCE" "no cargo"; exit $EXIT_SKIPPED; }
    programs
    # Emulated, the other profile takes three times as long.
    cargo build --quiet --release --package gridnet-rdma-sim --example peer
    in_guest "$SOURCES/talk.sh" "$CACHE/bin/record" "$CACHE/bin/verbs_peer" "$TARGET_DIR/release/examples/peer"
    dissected "$CACHE/out/captures"
}

# --- the rail over the kernel's device ---

# Longer than the others: some hundred small conversations, each of which waits until nothing comes any more.
adapter() {
    have cargo || { skipped "the rail on Soft-RoCE" "no cargo"; exit $EXIT_SKIPPED; }
    local test
    test=$(cargo test --quiet --release --package gridnet-verbs --test adapter --no-run --message-format json |
        sed -n 's|.*"executable":"\([^"]*/adapter-[^"]*\)".*|\1|p' | tail -1)
    mkdir -p "$CACHE/bin"
    cp "$test" "$CACHE/bin/adapter"
    LIMIT=$((4 * LIMIT)) in_guest "$SOURCES/adapter.sh" "$CACHE/bin/adapter"
}

main "$@"
