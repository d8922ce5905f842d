//! Runs this program again in namespaces of its own: network, mounts, processes, and users when it is not root.
//!
//! Whatever happens in there ends with it. Three processes stand between the caller and the program: the one that was
//! spawned *waits* (a new process namespace is for its children only), its child is the *first* process of the
//! namespace and collects orphans, its child becomes the program. When the caller dies the kernel kills the waiting one,
//! then the first one, and with that one all processes of the namespace.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Whether this process runs in a sandbox already.
pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Whether a sandbox can be had: makes one, and lets it end.
///
/// # Errors
/// As [`spawn`].
pub fn probe() -> Result<()> {
    let made = spawn(|| Command::new("true"))?.wait()?;
    if made.success() {
        Ok(())
    } else {
        Err(Error::Unavailable(format!("a sandbox ended by itself: {made}")))
    }
}

/// Starts the command that `make` makes in a sandbox, with the rights of root in there. It ends, with all that it
/// started, no later than the thread that called.
///
/// # Errors
/// [`Error::Unavailable`] when namespaces are forbidden here; it says which step was refused, and why.
pub fn spawn(make: impl Fn() -> Command) -> Result<Child> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    // As root in a container a user namespace may be allowed where the others alone are not.
    match spawn_once(make(), (uid != 0).then_some([uid, gid])) {
        Err(Error::Unavailable(_)) if uid == 0 => spawn_once(make(), Some([uid, gid])),
        other => other,
    }
}

/// As [`spawn`], by another user; for root only.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_as(uid: u32, mut command: Command) -> Result<Child> {
    command.uid(uid).gid(uid);
    spawn_once(command, Some([uid, uid]))
}

/// `users`, if given, are the user and the group that are root in a user namespace.
fn spawn_once(mut command: Command, users: Option<[u32; 2]>) -> Result<Child> {
    let (report, reporter) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let entry = Entry::new(users, reporter.as_raw_fd());
    command.env(MARK, "1");
    // SAFETY: what runs between fork and exec are system calls on values made before, and `fork` itself; nothing
    // allocates, locks or unwinds.
    unsafe { command.pre_exec(move || entry.enter()) };
    let child = command.spawn();
    drop(reporter);
    let mut said = Vec::new();
    // Ends when all but the program have closed it, and that one does by executing.
    File::from(report).read_to_end(&mut said)?;
    let mut child = child?;
    let Some((step, errno)) = said.split_first() else { return Ok(child) };
    child.wait()?;
    let step = STEPS.get(usize::from(*step)).copied().unwrap_or("a step");
    let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
    Err(Error::Unavailable(format!("{step} is refused: {}", io::Error::from_raw_os_error(errno))))
}

/// What is known before the fork, so that nothing has to be made after it.
struct Entry {
    parent: libc::pid_t,
    reporter: RawFd,
    flags: libc::c_int,
    /// Lines of `uid_map` and `gid_map`.
    maps: Option<[String; 2]>,
}

impl Entry {
    fn new(users: Option<[u32; 2]>, reporter: RawFd) -> Entry {
        let new_users = if users.is_some() { libc::CLONE_NEWUSER } else { 0 };
        Entry {
            parent: nix::unistd::getpid().as_raw(),
            reporter,
            flags: new_users
                | libc::CLONE_NEWNET
                | libc::CLONE_NEWNS
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWIPC,
            maps: users.map(|ids| ids.map(|id| format!("0 {id} 1\n"))),
        }
    }

    /// Runs in the child, before it becomes the program; returns in the process that does.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: prctl, getppid, unshare and pipe2 get valid arguments and touch no memory but `alive`.
        let alive = unsafe {
            self.step(UNSHARE, libc::unshare(self.flags));
            // After all changes of rights, which undo it.
            self.step(DIE, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL));
            if libc::getppid() != self.parent {
                libc::_exit(1);
            }
            // After a change of user the files in /proc are root's otherwise.
            self.step(DIE, libc::prctl(libc::PR_SET_DUMPABLE, 1));
            let mut alive = [0; 2];
            self.step(PIPE, libc::pipe2(alive.as_mut_ptr(), libc::O_CLOEXEC));
            alive
        };
        if let Some([uids, gids]) = &self.maps {
            self.write(c"/proc/self/setgroups", "deny");
            self.write(c"/proc/self/uid_map", uids);
            self.write(c"/proc/self/gid_map", gids);
        }
        // SAFETY: the process has one thread; both sides go on with system calls only.
        let first = unsafe { libc::fork() };
        self.step(FORK, first);
        if first != 0 {
            wait_and_end(first, Some(alive[1]));
        }
        self.begin_namespace(alive);
        // SAFETY: as above.
        let program = unsafe { libc::fork() };
        self.step(FORK, program);
        if program != 0 {
            wait_and_end(program, None);
        }
        Ok(())
    }

    /// The first process of the namespace ties its life to the one that waits, and gets its own view of processes.
    fn begin_namespace(&self, [reader, writer]: [RawFd; 2]) {
        // SAFETY: descriptors are ours, strings end with zero, `poll` gets one entry.
        unsafe {
            self.step(DIE, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL));
            libc::close(writer);
            // The one that waits may have died before it could matter: then nobody has the other end of this pipe.
            let mut gone = libc::pollfd { fd: reader, events: libc::POLLIN, revents: 0 };
            if libc::poll(&raw mut gone, 1, 0) != 0 {
                libc::_exit(1);
            }
            let none = std::ptr::null::<libc::c_char>();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            self.step(MOUNT, libc::mount(none, c"/".as_ptr(), none, private, none.cast()));
            let proc = c"proc".as_ptr();
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            self.step(PROC, libc::mount(proc, c"/proc".as_ptr(), proc, flags, none.cast()));
        }
    }

    /// Writes all of `text`, at once.
    fn write(&self, path: &std::ffi::CStr, text: &str) {
        // SAFETY: `path` ends with zero, `text` has `text.len()` bytes; the descriptor is used by nobody else.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            self.step(MAP, file);
            let written = libc::write(file, text.as_ptr().cast(), text.len());
            self.step(MAP, if written < 0 { -1 } else { 0 });
            libc::close(file);
        }
    }

    /// Reports a step that failed, and ends.
    fn step(&self, step: u8, result: libc::c_int) {
        if result >= 0 {
            return;
        }
        let errno = nix::Error::last_raw().to_ne_bytes();
        let said = [step, errno[0], errno[1], errno[2], errno[3]];
        // SAFETY: `said` is valid for its length; a pipe takes five bytes at once.
        unsafe {
            libc::write(self.reporter, said.as_ptr().cast(), said.len());
            libc::_exit(1);
        }
    }
}

/// Collects children until `last` has ended, and ends as it did. Keeps nothing open but standard streams and `keep`.
pub(crate) fn wait_and_end(last: libc::pid_t, keep: Option<RawFd>) -> ! {
    let from = if keep.is_some() { 4 } else { 3 };
    // SAFETY: system calls only; descriptors from 3 on belong to a program that this process will never be.
    unsafe {
        if let Some(keep) = keep {
            libc::dup2(keep, 3);
        }
        libc::syscall(libc::SYS_close_range, from, libc::c_uint::MAX, 0);
        loop {
            let mut status = 0;
            let ended = libc::waitpid(-1, &raw mut status, 0);
            if ended == last && libc::WIFSIGNALED(status) {
                libc::_exit(128 + libc::WTERMSIG(status));
            }
            if ended == last {
                libc::_exit(libc::WEXITSTATUS(status));
            }
            if ended < 0 && nix::Error::last_raw() != libc::EINTR {
                libc::_exit(1);
            }
        }
    }
}

/// In the environment of whatever runs in a sandbox. No variable of gridnet: those are for its users.
const MARK: &str = "TESTBED_SANDBOX";

const DIE: u8 = 0;
const UNSHARE: u8 = 1;
const PIPE: u8 = 2;
const MAP: u8 = 3;
const FORK: u8 = 4;
const MOUNT: u8 = 5;
const PROC: u8 = 6;
/// What was refused, by the number of the step.
const STEPS: [&str; 7] = [
    "to end with the parent (prctl)",
    "to make namespaces (unshare; see /proc/sys/user and kernel.apparmor_restrict_unprivileged_userns)",
    "a pipe",
    "to be root in a user namespace (uid_map; see kernel.apparmor_restrict_unprivileged_userns)",
    "a process (fork)",
    "to keep mounts to oneself (mount)",
    "to mount /proc for a process namespace (a container that masks /proc forbids it)",
];
