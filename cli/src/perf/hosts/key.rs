//! The key of one time, in a file.

use crate::failure::Failure;
use gridnet::config::Config;
use gridnet::proof::{self, Key};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A fresh key in a file of mode 0600, which is removed when this is dropped, and locked until then: so others see that it is
/// in use, whatever they can see of this process.
pub(super) struct KeyFile {
    path: PathBuf,
    _locked: File,
}

impl KeyFile {
    /// Writes one, to `path` or into the run directory.
    pub(super) fn create(path: Option<&Path>, config: &Config) -> Result<KeyFile, Failure> {
        let path = match path {
            Some(path) => std::path::absolute(path)?,
            None => {
                let dir = gridnet::run_dir(config).map_err(|refusal| Failure::Run(refusal.reason))?;
                remove_left_over(&dir);
                dir.join(name(std::process::id()))
            }
        };
        let failed = |error: std::io::Error| Failure::Run(format!("key file {}: {error}", path.display()));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| {
                match error.kind() {
                    ErrorKind::AlreadyExists => Failure::Run(format!(
                        "key file {} is there already: --serve writes a new one; remove it, or name another",
                        path.display()
                    )),
                    _ => failed(error),
                }
            })?;
        // Where files cannot be locked, the number of the process has to do.
        let _ = file.try_lock();
        let written = text().and_then(|text| file.write_all(text.as_bytes()).map_err(failed));
        let created = KeyFile { path: path.clone(), _locked: file };
        written.map(|()| created)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<Key, Failure> {
        Key::read(&self.path).map_err(|refusal| Failure::Run(refusal.reason))
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!("gridnet: key file {} could not be removed: {error}", self.path.display());
        }
    }
}

/// A line that may be copied by hand.
fn text() -> Result<String, Failure> {
    let nonce = proof::nonce().map_err(|refusal| Failure::Run(refusal.reason))?;
    Ok(format!("{}\n", super::greeting::hex(&nonce)))
}

fn name(process: u32) -> String {
    format!("perf-{process}.key")
}

/// Removes the keys of servers that were killed.
fn remove_left_over(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let process = file
            .to_str()
            .and_then(|name| name.strip_prefix("perf-")?.strip_suffix(".key")?.parse::<u32>().ok());
        let is_over =
            |process: u32| process == std::process::id() || !Path::new(&format!("/proc/{process}")).exists();
        if process.is_some_and(is_over) && !is_locked(&entry.path()) {
            // Another server may have been faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a server uses the key, which may be in a container that shares the directory, where processes have other numbers.
fn is_locked(path: &Path) -> bool {
    let looked = File::open(path).map(|file| file.try_lock());
    matches!(looked, Ok(Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_key_is_private_fresh_and_gone_at_the_end() {
        let dir = std::env::temp_dir().join(format!("gridnet-key-file-{}", std::process::id()));
        let run_dir = ("GRIDNET_RUN_DIR".to_owned(), dir.to_str().unwrap().to_owned());
        let config = Config::from_sources([run_dir].into_iter(), &[]).unwrap();
        let made = KeyFile::create(None, &config).unwrap();
        let first = std::fs::read(made.path()).unwrap();
        assert_eq!((std::fs::metadata(made.path()).unwrap().mode() & 0o777, first.len()), (0o600, 65));
        made.read().unwrap();
        let path = made.path().to_owned();
        let Err(Failure::Run(text)) = KeyFile::create(Some(&path), &config) else { panic!("made twice") };
        assert!(text.contains("is there already"), "{text}");
        drop(made);
        assert!(!path.exists());
        // That of a process that has ended, and what is no key.
        let others = [dir.join(name(u32::MAX)), dir.join("perf-x.key"), dir.join("other")];
        others.iter().for_each(|path| std::fs::write(path, "x").unwrap());
        let second = KeyFile::create(None, &config).unwrap();
        assert_ne!(std::fs::read(second.path()).unwrap(), first);
        assert_eq!(others.each_ref().map(|path| path.exists()), [false, true, true]);
        drop(second);
        // The number of no process here, but a server in another namespace.
        let elsewhere = KeyFile::create(Some(&others[0]), &config).unwrap();
        let third = KeyFile::create(None, &config).unwrap();
        assert!(elsewhere.path().exists());
        drop((elsewhere, third));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
