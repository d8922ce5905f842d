//! Files that belong to one user, and that nobody else can read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::error::Error;

/// Longest file that is read.
const BYTES_MAX: u64 = 16 << 20;

/// Makes a directory of mode 0700, or takes an empty one of this user's.
pub(crate) fn create_dir(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            check_dir(dir)?;
            match std::fs::read_dir(dir).map_err(|e| failed(dir, &e))?.next() {
                None => Ok(()),
                Some(_) => Err(Error::Config(format!("{} is not empty", dir.display()))),
            }
        }
        Err(e) => Err(failed(dir, &e)),
    }
}

/// Whether a directory is one of this user's into which nobody else can write.
pub(crate) fn check_dir(dir: &Path) -> Result<(), Error> {
    let meta = std::fs::metadata(dir).map_err(|e| failed(dir, &e))?;
    if !meta.is_dir() {
        return Err(Error::Config(format!("{} is no directory", dir.display())));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        let why = format!("{} is open to others: it is to be yours, with mode 0700", dir.display());
        return Err(Error::Permission(why));
    }
    Ok(())
}

/// Writes a file of mode 0600 in place of the one there was: readers see one or the other.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = Path::new(&temporary);
    let _ = std::fs::remove_file(temporary);
    let written = create_new(temporary, content).and_then(|()| {
        std::fs::rename(temporary, path)?;
        // Only then it stays so when the power goes.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    });
    written.map_err(|e| {
        let _ = std::fs::remove_file(temporary);
        failed(path, &e)
    })
}

/// Writes a file of mode 0600 where there is none.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), Error> {
    create_new(path, content).map_err(|e| failed(path, &e))
}

fn create_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a file that is this user's, and that nobody else can read or write.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    // A FIFO would wait for somebody who writes, and is refused below.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(|e| failed(path, &e))?;
    let meta = file.metadata().map_err(|e| failed(path, &e))?;
    if !meta.is_file() {
        return Err(Error::Config(format!("{} is no file", path.display())));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        let why = format!("{} can be read by others: it is to be yours, with mode 0600", path.display());
        return Err(Error::Permission(why));
    }
    // Room for all of it: what grows leaves copies behind.
    let mut text =
        Zeroizing::new(String::with_capacity(usize::try_from(meta.len().min(BYTES_MAX)).unwrap_or(0) + 1));
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| failed(path, &e))?;
    match text.len() as u64 > BYTES_MAX {
        true => Err(Error::Config(format!("{} is longer than {BYTES_MAX} bytes", path.display()))),
        false => Ok(text),
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidData => {
            Error::Config(text)
        }
        io::ErrorKind::PermissionDenied => Error::Permission(text),
        _ => Error::System(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_can_read_is_refused() {
        let scratch = Scratch::new("private");
        let path = scratch.path("ticket");
        write_new(&path, b"text").unwrap();
        assert_eq!(read(&path).unwrap().as_str(), "text");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(&error, Error::Permission(text) if text.contains("0600")), "{mode:o}: {error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let scratch = Scratch::new("fifo");
        let path = scratch.path("ticket");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&path), Err(Error::Config(why)) if why.contains("is no file")));
        assert!(matches!(read(&scratch.path("none")), Err(Error::Config(_))));
    }

    #[test]
    fn a_file_is_replaced_whole_and_none_is_overwritten_by_mistake() {
        let scratch = Scratch::new("replace");
        let path = scratch.path("state");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_str(), "two");
        assert!(matches!(write_new(&path, b"three"), Err(Error::Config(_))));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn directories_are_empty_or_new_and_closed_to_others() {
        let scratch = Scratch::new("dirs");
        let dir = scratch.path("session");
        create_dir(&dir).unwrap();
        create_dir(&dir).unwrap();
        write_new(&dir.join("file"), b"").unwrap();
        assert!(create_dir(&dir).unwrap_err().to_string().contains("is not empty"));
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(check_dir(&dir), Err(Error::Permission(_))));
        assert!(check_dir(&dir.join("file")).unwrap_err().to_string().contains("no directory"));
    }
}
