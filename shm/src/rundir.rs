//! The run directory: where the fabrics of one user on one host find each other.
//!
//! `DIR/HOST/NODE.sock` is the socket of a fabric, or `NODE.here` where it takes no links by it; `DIR/HOST/NAME.name` is a symbolic link whose target is the address
//! of the fabric of that name, in hexadecimal digits. Files of processes that were killed are removed by whoever
//! comes across them: a socket that refuses connections belongs to nobody.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{Address, NodeId, ADDRESS_BYTES};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::socket::{self, Probe};

/// How long a start waits for another that registers a name.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest run directory in bytes: the path of a Unix socket has 107, of which `/HOST/NODE.sock` takes 55.
const MOST_BYTES: usize = 52;
/// Most files that one start looks through for leftovers.
const CLEANING_BOUND: usize = 4096;

/// An open run directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Opens, and makes if needed, the directory of `host` below `base`.
    ///
    /// # Errors
    /// [`Error::Permission`] when a directory on the way belongs to another user or others may write it, [`Error::Config`]
    /// when its path is too long.
    pub fn open(base: &Path, host: u64) -> Result<RunDir, Refusal> {
        check_length(base)?;
        let path = base.join(format!("{host:016x}"));
        for dir in [base, &path] {
            RunDir::make(dir)?;
        }
        let dir = RunDir { path };
        dir.clean();
        Ok(dir)
    }

    /// Makes a directory, unless it is there, that nobody else may write.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn make(dir: &Path) -> Result<(), Refusal> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Refusal::new(Error::System, format!("making {}: {e}", dir.display())))?;
        check_private(dir)
    }

    /// Says why [`Self::open`] would fail, if it would, and leaves nothing behind.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn examine(base: &Path) -> Result<(), Refusal> {
        check_length(base)?;
        let mut nearest = base;
        if base.symlink_metadata().is_ok() {
            check_private(base)?;
        } else {
            nearest = base.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        }
        let probe = nearest.join(format!(".gridnet-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&probe);
        made.map_err(|e| {
            Refusal::new(Error::System, format!("nothing can be made in {}: {e}", nearest.display()))
        })?;
        let _ = std::fs::remove_dir(probe);
        Ok(())
    }

    /// The automatic place: `$XDG_RUNTIME_DIR/gridnet`, or `/tmp/gridnet-UID`.
    pub fn default_base() -> PathBuf {
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => Path::new(&dir).join("gridnet"),
            None => PathBuf::from(format!("/tmp/gridnet-{}", geteuid())),
        }
    }

    /// Where the socket of a node is.
    pub fn socket_of(&self, node: NodeId) -> PathBuf {
        self.path.join(format!("{node}.sock"))
    }

    /// Where the socket of a node is that only shows that it lives.
    fn witness_of(&self, node: NodeId) -> PathBuf {
        self.path.join(format!("{node}.here"))
    }

    /// Gives the fabric at `address`, which has no rail here, a name for as long as the answer lives.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn hold_name(&self, name: &str, address: &Address) -> Result<NameHolder, Refusal> {
        let witness = socket::listen_at(&self.witness_of(address.node))?;
        let holder = NameHolder {
            dir: self.clone(),
            node: address.node,
            name: name.to_owned(),
            witness,
            process: std::process::id(),
        };
        self.register(name, address)?;
        Ok(holder)
    }

    /// The directory, to watch it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the fabric at `address` a name.
    ///
    /// # Errors
    /// [`Error::NameInUse`] when a living fabric has it, [`Error::Invalid`] when no fabric can have it.
    pub fn register(&self, name: &str, address: &Address) -> Result<(), Refusal> {
        let file = self.name_file(name)?;
        let _lock = self.lock()?;
        if self.find(&file, |remove| remove()).is_some() {
            return Err(Refusal::new(
                Error::NameInUse,
                format!("another fabric of this host is named {name:?}"),
            ));
        }
        std::os::unix::fs::symlink(hex(&address.to_bytes()), &file)
            .map_err(|e| Refusal::new(Error::System, format!("making {}: {e}", file.display())))
    }

    /// The address of the living fabric of this name; a dead one's name is removed.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no fabric can have the name.
    pub fn lookup(&self, name: &str) -> Result<Option<Address>, Refusal> {
        let file = self.name_file(name)?;
        // Names come and go under the lock only: what is removed is what was judged. Who does not get it leaves the name.
        Ok(self.find(&file, |remove| {
            if let Ok(_lock) = self.lock() {
                remove();
            }
        }))
    }

    /// The address in a name's file, if it is of a living fabric; else `removing` is told how to remove the file.
    fn find(&self, file: &Path, removing: impl FnOnce(&dyn Fn())) -> Option<Address> {
        let target = std::fs::read_link(file).ok()?;
        let address = target.to_str().and_then(unhex).and_then(|bytes| Address::parse(&bytes).ok());
        if let Some(address) = address.filter(|address| self.has_living(address.node)) {
            return Some(address);
        }
        removing(&|| {
            // Only if it is still what was judged: a newer one may have come.
            if std::fs::read_link(file).is_ok_and(|now| now == target) {
                let _ = std::fs::remove_file(file);
            }
        });
        None
    }

    fn has_living(&self, node: NodeId) -> bool {
        is_alive(&self.socket_of(node)) || is_alive(&self.witness_of(node))
    }

    /// Removes the files of a fabric that closes.
    pub fn unregister(&self, node: NodeId, name: Option<&str>) {
        let _ = std::fs::remove_file(self.socket_of(node));
        let _ = std::fs::remove_file(self.witness_of(node));
        if let Some(file) = name.and_then(|name| self.name_file(name).ok()) {
            let ours = std::fs::read_link(&file).ok().and_then(|t| t.to_str().and_then(unhex));
            if ours.and_then(|bytes| Address::parse(&bytes).ok()).is_some_and(|address| address.node == node)
            {
                let _ = std::fs::remove_file(file);
            }
        }
    }

    /// Removes what killed processes left. The living are not disturbed, however many they are.
    fn clean(&self) {
        let (Ok(entries), Ok(probe)) = (std::fs::read_dir(&self.path), Probe::new()) else {
            return;
        };
        for path in entries.take(CLEANING_BOUND).flatten().map(|entry| entry.path()) {
            match path.extension().and_then(|e| e.to_str()) {
                Some("sock" | "here") if probe.is_abandoned(&path) => drop(std::fs::remove_file(&path)),
                // A socket that is not yet moved to its place: its maker has a minute.
                Some("new") if is_old(&path) => drop(std::fs::remove_file(&path)),
                Some("name") if self.is_abandoned(&path, &probe) => {
                    drop(path.file_stem().and_then(|n| n.to_str()).map(|name| self.lookup(name)));
                }
                _ => {}
            }
        }
    }

    /// Whether a name's file leads to nobody.
    fn is_abandoned(&self, file: &Path, probe: &Probe) -> bool {
        let Ok(target) = std::fs::read_link(file) else { return false };
        let address = target.to_str().and_then(unhex).and_then(|bytes| Address::parse(&bytes).ok());
        address.is_none_or(|Address { node, .. }| {
            probe.is_abandoned(&self.socket_of(node)) && probe.is_abandoned(&self.witness_of(node))
        })
    }

    fn name_file(&self, name: &str) -> Result<PathBuf, Refusal> {
        if is_valid_name(name) {
            return Ok(self.path.join(format!("{name}.name")));
        }
        Err(Refusal::new(
            Error::Invalid,
            format!(
                "{name:?} is no name of a fabric: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot"
            ),
        ))
    }

    fn lock(&self) -> Result<Flock<OwnedFd>, Refusal> {
        let path = self.path.join("lock");
        let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file =
            OwnedFd::from(open.map_err(|e| Refusal::new(Error::System, format!("{}: {e}", path.display())))?);
        let start = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((_, _)) if start.elapsed() > LOCK_PATIENCE => {
                    let why = format!("{} is held by another process for {LOCK_PATIENCE:?}", path.display());
                    return Err(Refusal::new(Error::Timeout, why));
                }
                Err((back, _)) => file = back,
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A name of a fabric that takes no links at a socket here. It is free again when this is dropped.
#[derive(Debug)]
pub struct NameHolder {
    dir: RunDir,
    node: NodeId,
    name: String,
    /// Nobody accepts there: whoever connects learns that we live.
    witness: OwnedFd,
    process: u32,
}

impl Drop for NameHolder {
    fn drop(&mut self) {
        // In a forked child the files still belong to the parent.
        if self.process == std::process::id() {
            self.dir.unregister(self.node, Some(&self.name));
            socket::hang_up(&self.witness);
        }
    }
}

/// Whether a fabric can have this name.
pub fn is_valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether somebody listens at a socket. Whoever does sees a connection that ends without a word.
fn is_alive(path: &Path) -> bool {
    match socket::connect_to(path) {
        Ok(stream) => socket::is_peer_alive(&stream),
        // Whatever else went wrong (no descriptors left, say) is no proof of death.
        Err(refusal) => refusal.error != Error::Unreachable,
    }
}

fn is_old(path: &Path) -> bool {
    let age = path.symlink_metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(60))
}

fn check_length(base: &Path) -> Result<(), Refusal> {
    if base.as_os_str().len() <= MOST_BYTES {
        return Ok(());
    }
    let why = "is too long for the sockets in it; set GRIDNET_RUN_DIR to another";
    let text = format!("run directory {} {why} of at most {MOST_BYTES} bytes", base.display());
    Err(Refusal::new(Error::Config, text))
}

fn check_private(dir: &Path) -> Result<(), Refusal> {
    let meta = std::fs::symlink_metadata(dir)
        .map_err(|e| Refusal::new(Error::System, format!("{}: {e}", dir.display())))?;
    let why = if !meta.is_dir() {
        "it is no directory"
    } else if meta.uid() != geteuid().as_raw() {
        "it belongs to another user"
    } else if meta.mode() & 0o022 != 0 {
        "others may write it (want mode 0700)"
    } else {
        return Ok(());
    };
    let text = format!("run directory {} is refused: {why}; set GRIDNET_RUN_DIR to another", dir.display());
    Err(Refusal::new(Error::Permission, text))
}

fn hex(bytes: &[u8; ADDRESS_BYTES]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; ADDRESS_BYTES]> {
    let mut bytes = [0; ADDRESS_BYTES];
    if text.len() != ADDRESS_BYTES * 2 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(i * 2..i * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(what: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("gridnet-test-{what}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn address(byte: u8) -> Address {
        let node = NodeId::new([byte; 16]).unwrap();
        Address { uid: 0, host: 1, node, incarnation: 2, network: gridnet_core::wire::NetAddresses::NONE }
    }

    #[test]
    fn names_lead_to_the_living_and_are_taken_from_the_dead() {
        let scratch = Scratch::new("names");
        let dir = RunDir::open(&scratch.0, 1).unwrap();
        let first = socket::listen_at(&dir.socket_of(address(1).node)).unwrap();
        dir.register("svc", &address(1)).unwrap();
        assert_eq!(dir.lookup("svc").unwrap(), Some(address(1)));
        assert_eq!(dir.register("svc", &address(2)).unwrap_err().error, Error::NameInUse);
        drop(first);
        let _second = socket::listen_at(&dir.socket_of(address(2).node)).unwrap();
        dir.register("svc", &address(2)).unwrap();
        assert_eq!(dir.lookup("svc").unwrap(), Some(address(2)));
        dir.unregister(address(1).node, Some("svc"));
        assert_eq!(dir.lookup("svc").unwrap(), Some(address(2)), "another's name is not removed");
        dir.unregister(address(2).node, Some("svc"));
        assert_eq!(dir.lookup("svc").unwrap(), None);
    }

    #[test]
    fn the_next_start_removes_what_the_dead_left() {
        let scratch = Scratch::new("clean");
        let dir = RunDir::open(&scratch.0, 1).unwrap();
        let dead = dir.socket_of(address(3).node);
        drop(socket::listen_at(&dead).unwrap());
        dir.register("dead", &address(3)).unwrap();
        let living = dir.socket_of(address(4).node);
        let listener = socket::listen_at(&living).unwrap();
        RunDir::open(&scratch.0, 1).unwrap();
        assert!(!dead.exists() && living.exists());
        assert!(socket::accept_next(&listener).unwrap().is_none(), "the living are not called");
        assert!(!dir.name_file("dead").unwrap().is_symlink());
    }

    #[test]
    fn a_name_is_held_without_a_rail_until_its_holder_goes() {
        let scratch = Scratch::new("held");
        let dir = RunDir::open(&scratch.0, 1).unwrap();
        let holder = dir.hold_name("svc", &address(5)).unwrap();
        RunDir::open(&scratch.0, 1).unwrap();
        assert_eq!(dir.lookup("svc").unwrap(), Some(address(5)));
        assert_eq!(dir.hold_name("svc", &address(6)).unwrap_err().error, Error::NameInUse);
        drop(holder);
        assert_eq!(dir.lookup("svc").unwrap(), None);
        let _next = dir.hold_name("svc", &address(6)).unwrap();
        assert_eq!(dir.lookup("svc").unwrap(), Some(address(6)));
    }

    #[test]
    fn bad_names_and_unsafe_directories_are_refused() {
        let scratch = Scratch::new("bad");
        let dir = RunDir::open(&scratch.0, 1).unwrap();
        for name in ["", ".x", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(dir.lookup(name).unwrap_err().error, Error::Invalid, "{name:?}");
        }
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(RunDir::open(&scratch.0, 1).unwrap_err().error, Error::Permission);
        assert_eq!(RunDir::examine(&scratch.0).unwrap_err().error, Error::Permission);
    }

    #[test]
    fn the_longest_directory_has_room_for_sockets() {
        let scratch = Scratch::new("long");
        let within = |bytes: usize| {
            let name = "x".repeat(bytes - scratch.0.as_os_str().len() - 1);
            scratch.0.join(name)
        };
        let longest = within(MOST_BYTES);
        RunDir::examine(&longest).unwrap();
        assert!(!scratch.0.exists(), "a look makes nothing");
        let dir = RunDir::open(&longest, u64::MAX).unwrap();
        socket::listen_at(&dir.socket_of(NodeId::new([0xff; 16]).unwrap())).unwrap();
        RunDir::examine(&longest).unwrap();
        assert_eq!(std::fs::read_dir(&longest).unwrap().count(), 1, "a look leaves nothing");
        let longer = within(MOST_BYTES + 1);
        assert_eq!(RunDir::open(&longer, 1).unwrap_err().error, Error::Config);
        assert_eq!(RunDir::examine(&longer).unwrap_err().error, Error::Config);
        assert!(!longer.exists(), "what is refused is not made");
    }
}
