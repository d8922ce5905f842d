//! The file of rules, which is read again when it has changed.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gridnet_core::sync::{AtomicU32, Ordering};

use gridnet_assembly::rules::Rules;
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use nix::sys::statfs::{self, statfs, FsType};

use super::builder::check_streams;

/// What changes with the file: inode, length, and when it was written to and made (seconds and nanoseconds).
type Stamp = (u64, u64, (i64, i64), (i64, i64));

/// File systems of this host alone: others may wait for a host that does not answer.
const LOCAL: [FsType; 6] = [
    statfs::EXT4_SUPER_MAGIC,
    statfs::XFS_SUPER_MAGIC,
    statfs::BTRFS_SUPER_MAGIC,
    statfs::F2FS_SUPER_MAGIC,
    statfs::TMPFS_MAGIC,
    // Of containers.
    statfs::OVERLAYFS_SUPER_MAGIC,
];

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct RulesFile {
    path: PathBuf,
    /// 1 when to look at it takes no time.
    is_near: AtomicU32,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    /// Of what was read last, whether it made sense or not; none where there was no file.
    stamp: Option<Stamp>,
    /// What made sense last.
    rules: Rules,
}

impl RulesFile {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such file, or it makes no sense: with line and column.
    pub(crate) fn open(path: &Path) -> Result<(RulesFile, Rules), Refusal> {
        // Before it is read: what is written meanwhile is read with the next look.
        let stamp = stamp(path);
        let rules = read(path).map_err(|why| Refusal::new(Error::Config, why))?;
        let last = Mutex::new(Last { stamp, rules: rules.clone() });
        let is_near = AtomicU32::new(u32::from(is_near(path)));
        Ok((RulesFile { path: path.to_owned(), is_near, last }, rules))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether to look at it takes no time: a file of another host is not looked at where nothing may wait.
    pub(super) fn is_near(&self) -> bool {
        // Relaxed: nothing else is said by it.
        self.is_near.load(Ordering::Relaxed) != 0
    }

    /// The rules that are there by now, if they are others. A file that makes no sense is a line of the log, once, and changes nothing.
    pub(super) fn changed(&self) -> Option<Rules> {
        // Held while it is read: whoever comes meanwhile finds what was read.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        if last.stamp == now {
            return None;
        }
        last.stamp = now;
        self.is_near.store(u32::from(is_near(&self.path)), Ordering::Relaxed);
        match read_again(&self.path) {
            Ok(rules) if rules == last.rules => None,
            Ok(rules) => {
                tracing::info!("GRIDNET_SESSION_RULES: {}: other rules are in force", self.path.display());
                last.rules = rules.clone();
                Some(rules)
            }
            Err(why) => {
                tracing::warn!("{why}; the rules that were read before stay in force");
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Rules, String> {
    parse(path, &text(path)?)
}

/// Reads what may be being written: such a file is empty for a moment.
fn read_again(path: &Path) -> Result<Rules, String> {
    match text(path)? {
        text if text.is_empty() => Err(wrong(path, &"it is empty")),
        text => parse(path, &text),
    }
}

fn text(path: &Path) -> Result<String, String> {
    // Others may wait for whoever writes.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(wrong(path, &"it is no file"));
    }
    std::fs::read_to_string(path).map_err(|e| wrong(path, &e))
}

fn parse(path: &Path, text: &str) -> Result<Rules, String> {
    let rules = text.parse::<Rules>().map_err(|e| wrong(path, &e))?;
    // Found out here, not when somebody wants to connect.
    for (line, stack) in rules.stacks() {
        check_streams(stack).map_err(|why| wrong(path, &format!("the rule of line {line}: {why}")))?;
    }
    Ok(rules)
}

fn wrong(path: &Path, why: &dyn Display) -> String {
    format!("GRIDNET_SESSION_RULES: {}: {why}", path.display())
}

/// Whether it, and all on the way to it, is of this host.
fn is_near(path: &Path) -> bool {
    let is_local = |path: &Path| statfs(path).is_ok_and(|of| LOCAL.contains(&of.filesystem_type()));
    std::path::absolute(path).is_ok_and(|path| path.ancestors().all(is_local))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_this_host_are_near_and_nobody_waits_for_a_pipe() {
        assert!(!is_near(Path::new("/proc/self/status")), "what is not known to be near");
        let dir = std::env::temp_dir().join(format!("gridnet-rules-near-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("rules");
        std::fs::write(&path, "").unwrap();
        let (file, _) = RulesFile::open(&path).unwrap();
        match statfs(&dir).is_ok_and(|of| LOCAL.contains(&of.filesystem_type())) {
            true => assert!(file.is_near()),
            false => println!("SKIPPED: a file that is near: {} is on no such file system", dir.display()),
        }
        std::os::unix::fs::symlink("/proc/self", dir.join("away")).unwrap();
        assert!(!is_near(&dir.join("away/status")), "on the way to it");
        // A file that leads elsewhere by now.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/status", &path).unwrap();
        assert!(file.changed().is_none() && !file.is_near());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(file.changed().is_none() && read(&path).unwrap_err().contains("no file"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_written_is_read_once_and_nonsense_changes_nothing() {
        let path = std::env::temp_dir().join(format!("gridnet-rules-file-{}", std::process::id()));
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("scheme = \"cluster\"\n");
        let (file, rules) = RulesFile::open(&path).unwrap();
        assert_eq!(rules, "scheme = \"cluster\"\n".parse().unwrap());
        assert!(file.changed().is_none());
        write("scheme = \"relay-only\"\n");
        assert_eq!(file.changed(), Some("scheme = \"relay-only\"\n".parse().unwrap()));
        assert!(file.changed().is_none());
        write("scheme = \"relay-only\"\nmin_security = \"none\"\n");
        assert!(file.changed().is_none() && read(&path).unwrap_err().contains("line 2"));
        for stack in ["tcp(streams=2)", "tls/tcp(streams=9)"] {
            write(&format!("min_security = 'plain'\n[[rule]]\nuse = ['tls/relay', '{stack}']\n"));
            let why = read(&path).unwrap_err();
            assert!(why.contains("line 2") && why.contains(stack) && file.changed().is_none(), "{why}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(file.changed().is_none(), "a file that is gone allows nothing new");
        write("");
        assert!(file.changed().is_none() && RulesFile::open(&path).is_ok(), "somebody may be writing it");
        write("# the same, written again\nscheme = \"relay-only\"\n");
        assert!(file.changed().is_none(), "the rules are no others");
        write("# nothing but what is without a file\n");
        assert_eq!(file.changed(), Some(Rules::default()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(RulesFile::open(&path).unwrap_err().error, Error::Config);
    }
}
