//! Where pages are in the file system, and whose they are.
//!
//! A page is memory that happens to have a name: it must never lie on a disk, since a store to a page that is being
//! written back waits for the disk. `NODE.page` in the run directory is the page itself where that directory is in
//! memory, else a symbolic link to a file in `/dev/shm`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gridnet_core::wire::NodeId;
use libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use nix::sys::statfs::{statfs, TMPFS_MAGIC};
use nix::unistd::geteuid;

use super::reader::PageView;

/// Where files are in memory on every Linux.
const MEMORY: &str = "/dev/shm";
/// Most files that one start looks through for leftovers.
const CLEANING_BOUND: usize = 4096;
/// How long a page may be in the making.
const MAKING: Duration = Duration::from_secs(60);

/// The files of one page.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    link: Option<PathBuf>,
}

impl Place {
    /// Makes the empty file for `node`, of mode 0600, and what leads to it from the run directory.
    pub(crate) fn create(dir: &Path, node: NodeId) -> io::Result<(Place, File)> {
        let entry = dir.join(format!("{node}.page"));
        let place = match is_memory(dir) {
            true => Place { file: entry, link: None },
            false => Place { file: in_memory(geteuid().as_raw(), node), link: Some(entry) },
        };
        if place.link.is_some() && !is_memory(Path::new(MEMORY)) {
            return Err(io::Error::other(format!("neither {} nor {MEMORY} is in memory", dir.display())));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_CLOEXEC)
            .open(&place.file)?;
        if let Some(link) = &place.link {
            if let Err(e) = std::os::unix::fs::symlink(&place.file, link) {
                let _ = std::fs::remove_file(&place.file);
                return Err(e);
            }
        }
        Ok((place, file))
    }

    /// The page that an entry of a run directory leads to; `None` for what cannot be one. No other link is followed.
    pub(crate) fn of_entry(entry: &Path, uid: u32) -> Option<Place> {
        let node = entry.file_name()?.to_str()?.strip_suffix(".page")?;
        if node.len() != 32 || !node.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        match std::fs::read_link(entry) {
            Err(_) => Some(Place { file: entry.to_owned(), link: None }),
            Ok(target) => {
                let expected = Path::new(MEMORY).join(format!("gridnet-{uid}-{node}.page"));
                (target == expected).then(|| Place { file: expected, link: Some(entry.to_owned()) })
            }
        }
    }

    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.file);
        if let Some(link) = &self.link {
            let _ = std::fs::remove_file(link);
        }
    }
}

/// Opens what should be a page, without being caught by what is none.
pub(crate) fn open(file: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC).open(file)
}

/// Removes the pages that dead processes left in the directory of a host, and those in memory whose directory has gone.
pub(crate) fn clean(dir: &Path) {
    let uid = geteuid().as_raw();
    let entries = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().take(CLEANING_BOUND).flatten();
        entries.map(|entry| entry.path())
    };
    let linked = entries(dir).filter_map(|path| Place::of_entry(&path, uid));
    let begin = format!("gridnet-{uid}-");
    let is_ours =
        |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&begin));
    let bare = entries(Path::new(MEMORY)).filter(is_ours).map(|file| Place { file, link: None });
    for place in linked.chain(bare).filter(|place| is_left_over(&place.file)) {
        place.remove();
    }
}

fn is_left_over(path: &Path) -> bool {
    let file = match open(path) {
        Ok(file) => file,
        // A link whose file has gone.
        Err(e) => return e.kind() == io::ErrorKind::NotFound,
    };
    match PageView::read_head(&file) {
        Ok((_, who)) => !who.may_be_alive(),
        Err(_) => is_old(&file),
    }
}

/// A file that is no page yet: its maker has a minute.
fn is_old(file: &File) -> bool {
    let mut start = [0; 8];
    let is_begun = file.read_exact_at(&mut start, 0).is_ok() && start != [0; 8];
    let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    !is_begun && age.is_some_and(|age| age > MAKING)
}

/// When a process started, in clock ticks after boot: together with its number it names a process for good.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may hold anything; this is the 22nd.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The namespace in which process numbers are meant.
pub(crate) fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// Whether a process has this file mapped; `None` when that cannot be known.
pub(crate) fn is_mapped_by(pid: u32, file: &File) -> Option<bool> {
    let inode = file.metadata().ok()?.ino().to_string();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    Some(maps.lines().any(|line| line.split_whitespace().nth(4) == Some(&inode) && line.contains(".page")))
}

/// Files that a process has mapped and that are named as pages are.
pub(crate) fn mapped_pages(pid: u32) -> io::Result<Vec<PathBuf>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut paths: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| path.extension().is_some_and(|e| e == "page"))
        .collect();
    paths.dedup();
    Ok(paths)
}

fn in_memory(uid: u32, node: NodeId) -> PathBuf {
    Path::new(MEMORY).join(format!("gridnet-{uid}-{node}.page"))
}

fn is_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}
