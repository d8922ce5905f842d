//! A node's key and certificate in a directory of mode 0700, for the programs of one user that speak as this node.
//!
//! | file | holds |
//! |---|---|
//! | `node` | key and certificate of the node, certificate of the authority; replaced as a whole |
//! | `revoked` | revoked nodes, one a line, and when their last certificates end (seconds after 1970 began) |
//! | `lock` | locked by the process that keeps it |

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use gridnet_core::wire::NodeId;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::clock::Moment;
use crate::error::Error;
use crate::identity::{Certificate, Identity};
use crate::private;

const VERSION: u32 = 1;
const NODE: &str = "node";
const REVOKED: &str = "revoked";

/// What is read from such a directory.
pub(crate) struct Kept {
    pub(crate) node: NodeId,
    pub(crate) until: Moment,
    /// In DER, as PKCS #8.
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) revoked: BTreeMap<NodeId, Moment>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    authority: String,
    certificate: String,
    key: Zeroizing<String>,
}

/// Makes the directory of a node, or takes one of this user's that nobody else can look into.
pub(crate) fn create(dir: &Path) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Config(format!("{}: {e}", dir.display())));
        }
        _ => private::check_dir(dir)?,
    }
    // Where the authority is, everything of it is at hand: programs are not to be pointed there.
    match dir.join("session.toml").exists() {
        true => Err(Error::Config(format!("{} is the directory of a session's authority", dir.display()))),
        false => Ok(()),
    }
}

/// Writes who a node is, in place of what was there.
pub(crate) fn write_node(
    dir: &Path,
    identity: &Identity,
    authority: &CertificateDer<'_>,
) -> Result<(), Error> {
    let (key, certificate) = identity.to_der();
    let key = Zeroizing::new(crate::hex::encode(&key));
    // Room for all of it: what grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    text.push_str("# A node of a gridnet session, for GRIDNET_SESSION. Whoever has this file is the node.\n");
    text.push_str(&format!("version = {VERSION}\nauthority = \"{}\"\n", crate::hex::encode(authority)));
    text.push_str(&format!("certificate = \"{}\"\nkey = \"", crate::hex::encode(certificate)));
    text.push_str(&key);
    text.push_str("\"\n");
    write_if_new(&dir.join(NODE), &text)
}

/// Writes which nodes were revoked, in place of what was there.
pub(crate) fn write_revoked(dir: &Path, revoked: &BTreeMap<NodeId, Moment>) -> Result<(), Error> {
    let line = |(node, until): (&NodeId, &Moment)| format!("{node} {}\n", until.unix());
    write_if_new(&dir.join(REVOKED), &revoked.iter().map(line).collect::<String>())
}

/// Writes a file, unless it says the same already: who reads it looks whether it is another one.
fn write_if_new(path: &Path, text: &str) -> Result<(), Error> {
    match private::read(path) {
        Ok(before) if before.as_str() == text => Ok(()),
        _ => private::write(path, text.as_bytes()),
    }
}

/// Whether a node is there.
pub(crate) fn is_there(dir: &Path) -> bool {
    // What cannot be looked at may be one.
    !matches!(std::fs::symlink_metadata(dir.join(NODE)), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

/// Reads it.
pub(crate) fn read(dir: &Path) -> Result<Kept, Error> {
    private::check_dir(dir)?;
    let path = dir.join(NODE);
    let wrong = |why: &str| Error::Config(format!("{}: {why}", path.display()));
    // What the parser shows of the text could be the key.
    let file: File = toml::from_str(&private::read(&path)?).map_err(|e| wrong(e.message()))?;
    if file.version != VERSION {
        return Err(wrong(&format!("version {}: this program reads version {VERSION}", file.version)));
    }
    let bytes = |what: &str, text: &str| {
        crate::hex::decode_all(text).ok_or_else(|| wrong(&format!("{what}: hexadecimal digits")))
    };
    let der = |what, text: &str| Ok(CertificateDer::from(bytes(what, text)?.to_vec()));
    let certificate = der("certificate", &file.certificate)?;
    let read = Certificate::read(&certificate).map_err(|e| wrong(&e.to_string()))?;
    Ok(Kept {
        node: read.node.ok_or_else(|| wrong("the certificate names no node"))?,
        until: read.until,
        key: bytes("key", &file.key)?,
        certificate,
        authority: der("authority", &file.authority)?,
        revoked: read_revoked(&dir.join(REVOKED))?,
    })
}

fn read_revoked(path: &Path) -> Result<BTreeMap<NodeId, Moment>, Error> {
    // One that cannot be looked at may hold something.
    if matches!(std::fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(BTreeMap::new());
    }
    let text = private::read(path)?;
    let entry = |(at, line): (usize, &str)| {
        let node = line
            .split_once(' ')
            .and_then(|(node, until)| Some((node.parse().ok()?, Moment::from_unix(until.parse().ok()?))));
        let expected = "32 hexadecimal digits, and a number of seconds";
        node.ok_or_else(|| Error::Config(format!("{}, line {}: {expected}", path.display(), at + 1)))
    };
    text.lines().enumerate().map(entry).collect()
}

/// What changes when a file of the directory is replaced: its number, and when it was written.
pub(crate) type Stamp = [Option<(u64, i64, i64)>; 2];

/// That of a directory.
pub(crate) fn stamp(dir: &Path) -> Stamp {
    let of = |path: PathBuf| std::fs::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
    [NODE, REVOKED].map(|name| of(dir.join(name)))
}
