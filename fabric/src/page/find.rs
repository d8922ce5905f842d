//! The pages of this user.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gridnet_shm::RunDir;
use nix::unistd::geteuid;

use super::place::{self, Place};
use super::reader::{PageView, ReadError, Who};

/// Most pages that are looked at.
const MOST_PAGES: usize = 4096;
/// Most directories of hosts.
const MOST_HOSTS: usize = 64;

/// A page, open.
#[derive(Debug)]
pub struct Found {
    /// Whose it is.
    pub who: Who,
    file: File,
}

impl Found {
    /// What it says now.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self) -> Result<PageView, ReadError> {
        PageView::read(&self.file)
    }

    /// Whether its fabric is still open, as far as can be known. An exec keeps the process, but not the fabric.
    pub fn is_alive(&self) -> bool {
        self.who.is_foreign()
            || self.who.may_be_alive() && place::is_mapped_by(self.who.pid, &self.file) != Some(false)
    }
}

/// Why there is no page to be shown.
#[derive(Debug)]
pub enum Missing {
    /// There is no such process.
    NoProcess(u32),
    /// The process belongs to another user.
    OtherUser(u32, u32),
    /// The process is of this user, and the system does not let us look all the same.
    Forbidden(u32),
    /// The process has no fabric, or none with a page.
    NoFabric(u32),
    /// No fabric of this name; these there are.
    NoName(String, Vec<String>),
    /// There is a page, and it cannot be read.
    Unreadable(String, ReadError),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NoProcess(pid) => write!(f, "there is no process {pid}"),
            Missing::OtherUser(pid, uid) => write!(
                f,
                "process {pid} belongs to user {uid}, this is user {}: only that user and root may look",
                geteuid()
            ),
            Missing::Forbidden(pid) => write!(
                f,
                "process {pid} has privileges that keep this one from looking; accepted: root, or the name of its fabric"
            ),
            Missing::NoFabric(pid) => write!(
                f,
                "process {pid} has no open fabric, or one that keeps no page (GRIDNET_PAGE=off)"
            ),
            Missing::NoName(name, known) if known.is_empty() => {
                write!(f, "no fabric is named {name:?}: there is none with a name here")
            }
            Missing::NoName(name, known) => {
                write!(f, "no fabric is named {name:?}; accepted: a process number, or {}", known.join(", "))
            }
            Missing::Unreadable(what, why) => write!(f, "{what}: {why}"),
        }
    }
}

impl std::error::Error for Missing {}

/// The pages of all living fabrics below `base` (the automatic place without one), by process; and those that cannot be
/// read.
pub fn all(base: Option<&Path>) -> (Vec<Found>, Vec<Missing>) {
    let base = base.map_or_else(RunDir::default_base, Path::to_owned);
    let hosts = std::fs::read_dir(&base).into_iter().flatten().take(MOST_HOSTS).flatten();
    let entries = hosts.flat_map(|host| std::fs::read_dir(host.path()).into_iter().flatten().flatten());
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for place in entries.filter_map(|e| Place::of_entry(&e.path(), geteuid().as_raw())).take(MOST_PAGES) {
        match look(&place.file) {
            Ok(page) if page.is_alive() => found.push(page),
            // Left by the dead, being made, or gone meanwhile.
            Ok(_) | Err(ReadError::NotAPage(_)) => {}
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => missing.push(Missing::Unreadable(place.file.display().to_string(), e)),
        }
    }
    found.sort_by_key(|page| (page.who.pid, page.who.incarnation));
    (found, missing)
}

/// The pages of the fabrics of a process, wherever their run directory is.
///
/// # Errors
/// See [`Missing`].
pub fn of_process(base: Option<&Path>, pid: u32) -> Result<Vec<Found>, Missing> {
    let process = std::fs::metadata(format!("/proc/{pid}")).map_err(|_| Missing::NoProcess(pid))?;
    let (found, _) = all(base);
    let mut own: Vec<Found> =
        found.into_iter().filter(|page| page.who.pid == pid && !page.who.is_foreign()).collect();
    // Mapped files of processes are shown to their user and to root.
    let mapped = match place::mapped_pages(pid) {
        Ok(mapped) => mapped,
        Err(_) if !own.is_empty() => Vec::new(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Missing::NoProcess(pid)),
        Err(_) if process.uid() == geteuid().as_raw() => return Err(Missing::Forbidden(pid)),
        Err(_) => return Err(Missing::OtherUser(pid, process.uid())),
    };
    let mut last = None;
    for path in mapped {
        match look(&path) {
            Ok(page)
                if (page.who.pid == pid || page.who.is_foreign())
                    && own.iter().all(|p| p.who.node != page.who.node) =>
            {
                own.push(page);
            }
            Ok(_) | Err(ReadError::NotAPage(_)) => {}
            Err(e) => last = Some(Missing::Unreadable(format!("process {pid}"), e)),
        }
    }
    match (own.is_empty(), last) {
        (false, _) => Ok(own),
        (true, Some(why)) => Err(why),
        (true, None) => Err(Missing::NoFabric(pid)),
    }
}

/// The page of the fabric of a name.
///
/// # Errors
/// See [`Missing`].
pub fn of_name(base: Option<&Path>, name: &str) -> Result<Found, Missing> {
    let (found, _) = all(base);
    let mut known: Vec<String> = found.iter().filter_map(|page| page.who.name.clone()).collect();
    known.sort();
    let wanted = found.into_iter().find(|page| page.who.name.as_deref() == Some(name));
    wanted.ok_or_else(|| Missing::NoName(name.to_owned(), known))
}

fn look(path: &Path) -> Result<Found, ReadError> {
    let file = place::open(path)?;
    let meta = file.metadata()?;
    let uid = geteuid().as_raw();
    // Another user's file could say anything; root looks at everybody's.
    if meta.is_file() && uid != 0 && meta.uid() != uid {
        return Err(ReadError::NotAPage("it belongs to another user"));
    }
    Ok(Found { who: PageView::read_who(&file)?, file })
}
