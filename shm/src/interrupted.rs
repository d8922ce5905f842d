//! Looks that a signal cuts short say nothing, and above all not that a peer has ended.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::poll::{poll, PollTimeout};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};

use crate::socket::{has_ended, has_left, is_peer_alive, peer_process};

/// Has each poll of this thread fail with EINTR from now on, as if a signal came each time; false where the system does not
/// let a filter do it.
fn interrupt_polls() -> bool {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let first = libc::SYS_poll as u32;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86")))]
    let first = libc::SYS_ppoll as u32;
    let mut steps = [
        // The number of the call is the first word.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 1, 0, first),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_ppoll as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EINTR as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the program is valid during the call, which copies it; it concerns this thread alone.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    }
}

#[test]
fn a_signal_does_not_make_a_living_peer_look_dead() {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (stream, _other): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let process = peer_process(&stream).expect("this process lives");
    let looks = move || {
        if !interrupt_polls() {
            eprintln!("SKIPPED: this system forbids filters of system calls");
            return;
        }
        assert_eq!(poll(&mut [], PollTimeout::ZERO), Err(Errno::EINTR), "the filter works");
        assert!(!has_ended(&process));
        assert!(is_peer_alive(&stream) && !has_left(&stream));
    };
    // The filter stays as long as its thread.
    std::thread::spawn(looks).join().expect("the looks say nothing");
}
