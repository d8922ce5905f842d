//! What makes a host: namespaces that are held by descriptors. They have no name, and go when the descriptors do.

use crate::error::{Error, Result};
use nix::mount::{mount, MsFlags};
use nix::sched::{setns, unshare, CloneFlags};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

/// Network, mounts, host name and System V memory of one host.
#[derive(Clone, Debug)]
pub(crate) struct Namespaces(Arc<[(OwnedFd, CloneFlags); 4]>);

impl Namespaces {
    /// New ones, with `/run`, `/dev/shm`, `/sys` and `/etc/hosts` of their own. `names` is what `/etc/hosts` says.
    pub(crate) fn create(host: &str, names: &str) -> Result<Namespaces> {
        // A thread can leave its namespaces for new ones; when it ends the descriptors hold them.
        let made = thread::scope(|scope| scope.spawn(|| create_here(host, names)).join());
        let namespaces =
            made.map_err(|_| Error::setup("namespaces", "the thread that makes them panicked"))??;
        Ok(Namespaces(Arc::new(namespaces)))
    }

    /// The network, as a path for `ip ... netns PATH`.
    pub(crate) fn network_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0[0].0.as_raw_fd())
    }

    /// The numbers of the descriptors, in the order of [`KINDS`].
    pub(crate) fn numbers(&self) -> [i32; 4] {
        self.0.each_ref().map(|(namespace, _)| namespace.as_raw_fd())
    }

    /// Lets `command` run in there, in the directory of the caller.
    pub(crate) fn enter_with(&self, command: &mut Command) -> Result<()> {
        let held = self.clone();
        let directory = match command.get_current_dir() {
            Some(directory) => directory.to_owned(),
            None => std::env::current_dir()?,
        };
        let directory = CString::new(directory.as_os_str().as_bytes())
            .map_err(|_| Error::setup("the current directory", "its name has a zero byte"))?;
        // SAFETY: what runs between fork and exec are system calls on descriptors and a string that were made before.
        unsafe {
            command.pre_exec(move || {
                for (namespace, kind) in held.0.iter() {
                    setns(namespace, *kind)?;
                }
                // With the mounts the directory went back to the root; a directory that the host does not have is
                // no reason to fail.
                libc::chdir(directory.as_ptr());
                Ok(())
            });
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own in the network of this host. Files are those of the caller.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter_network()?;
                Ok(work())
            });
            thread.join()
        });
        // A panic in there is the caller's own: an assertion of a test.
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread into this network, for good.
    pub(crate) fn enter_network(&self) -> Result<()> {
        let (network, kind) = &self.0[0];
        setns(network, *kind).map_err(|e| Error::setup("to enter the network of a host", e))
    }
}

fn create_here(host: &str, names: &str) -> Result<[(OwnedFd, CloneFlags); 4]> {
    let all = KINDS.iter().fold(CloneFlags::empty(), |all, (_, kind)| all | *kind);
    unshare(all)
        .map_err(|e| Error::Unavailable(format!("to make the namespaces of a host is refused: {e}")))?;
    nix::unistd::sethostname(host).map_err(|e| Error::setup("host name", e))?;
    mount_own(names)?;
    let open = |(name, kind): (&str, CloneFlags)| -> io::Result<_> {
        Ok((OwnedFd::from(File::open(format!("/proc/thread-self/ns/{name}"))?), kind))
    };
    let [net, mnt, uts, ipc] = KINDS.map(open);
    Ok([net?, mnt?, uts?, ipc?])
}

/// Mounts what a host has for itself; seen by this thread's mount namespace only.
fn mount_own(names: &str) -> Result<()> {
    let none: Option<&str> = None;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e| Error::Unavailable(format!("to mount {what} for a host is refused: {e}"))
    };
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("/ privately"))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (place, mode) in [("/run", "mode=755"), ("/dev/shm", "mode=1777")] {
        mount(Some("tmpfs"), place, Some("tmpfs"), safe, Some(mode)).map_err(failed(place))?;
    }
    let safe = safe | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), safe, none).map_err(failed("/sys"))?;
    fs::write("/run/hosts", names).map_err(|e| Error::setup("/run/hosts", e))?;
    mount(Some("/run/hosts"), "/etc/hosts", none, MsFlags::MS_BIND, none).map_err(failed("/etc/hosts"))
}

/// What a host has of its own, by the names of /proc/PID/ns.
pub(crate) const KINDS: [(&str, CloneFlags); 4] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
];
