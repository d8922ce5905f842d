//! Who may speak: a key that both sides have, a session that has certified both, or the word of both that they need none.
//!
//! Each side proves that it has the key by an HMAC-SHA256 (RFC 2104) over its role and both greetings, which hold a fresh
//! random number of each. A proof is of no use in another role or for another connection. What follows is not encrypted. Of a
//! session it is [TLS](crate::tls) that knows its members, and all of this is said inside.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::NodeId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::Multirail;
use crate::socket::Stream;
use crate::tls::{Failed, Session};

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// Bytes of the random number in a greeting.
pub const NONCE_BYTES: usize = 32;
/// Shortest key: as long as a proof.
const KEY_BYTES_MIN: usize = 32;
/// Longest key that is read.
const KEY_BYTES_MAX: usize = 4096;

/// A secret that the processes which may talk to one another have in common.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// The key of these bytes.
    ///
    /// # Errors
    /// [`Error::Config`] when there are fewer than 32, or more than 4096.
    pub fn new(bytes: &[u8]) -> Result<Key, Refusal> {
        if bytes.len() < KEY_BYTES_MIN || bytes.len() > KEY_BYTES_MAX {
            let why =
                format!("a key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, this one has {}", bytes.len());
            return Err(Refusal::new(Error::Config, why));
        }
        Ok(Key(bytes.to_vec()))
    }

    /// Reads a key from a file that nobody else can read.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such file, or it is too short or too long; [`Error::Permission`] when others can
    /// read or write it.
    pub fn read(path: &Path) -> Result<Key, Refusal> {
        let failed =
            |e: std::io::Error| Refusal::new(Error::Config, format!("key file {}: {e}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let user = nix::unistd::geteuid().as_raw();
        if meta.mode() & 0o077 != 0 || meta.uid() != user {
            let why = format!("key file {} can be read by others: its mode is to be 0600", path.display());
            return Err(Refusal::new(Error::Permission, why));
        }
        let mut bytes = Vec::new();
        file.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        Key::new(&bytes).map_err(|refusal| {
            Refusal::new(refusal.error, format!("key file {}: {}", path.display(), refusal.reason))
        })
    }

    /// A proof that whoever made it has the key. `purpose` says what it is good for, and is another for each use and side;
    /// `texts` are what is proven to have been said.
    pub fn sign(&self, purpose: &str, texts: &[&[u8]]) -> [u8; PROOF_BYTES] {
        self.mac(purpose, texts).map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    /// Whether a proof of [`Self::sign`] is right. Takes the same time wherever it is wrong.
    pub fn accepts(&self, purpose: &str, texts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(purpose, texts).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }

    /// The proof of the side of this role.
    pub(crate) fn prove(&self, role: Role, greetings: [&[u8]; 2]) -> [u8; PROOF_BYTES] {
        self.sign(role.purpose(), &greetings)
    }

    /// Whether a proof is right. Takes the same time wherever it is wrong.
    pub(crate) fn verifies(&self, role: Role, greetings: [&[u8]; 2], proof: &[u8; PROOF_BYTES]) -> bool {
        self.accepts(role.purpose(), &greetings, proof)
    }

    fn mac(&self, purpose: &str, texts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        // HMAC takes a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(purpose.as_bytes());
        for text in texts {
            mac.update(&(text.len() as u64).to_le_bytes());
            mac.update(text);
        }
        Some(mac)
    }
}

/// Which side of a connection somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that connected.
    Caller,
    /// The one that accepted.
    Called,
}

impl Role {
    fn purpose(self) -> &'static str {
        match self {
            Role::Caller => "gridnet tcp 1 caller",
            Role::Called => "gridnet tcp 1 called",
        }
    }
}

/// What a rail asks of its peers.
#[derive(Debug, Clone)]
pub enum Security {
    /// That they prove to have this key.
    Key(Key),
    /// Nothing, if they ask for nothing either.
    Insecure,
    /// That they prove to be of this session, by TLS 1.3, before anything else is said.
    Session(Arc<dyn Session>),
}

impl Security {
    /// As a greeting says it.
    pub(crate) fn number(&self) -> u8 {
        match self {
            Security::Insecure => 0,
            Security::Key(_) => 1,
            Security::Session(session) if session.unseals() => 3,
            Security::Session(_) => 2,
        }
    }

    /// Whether peers are known by a session, and all that they say is sealed.
    pub(crate) fn seals_all(&self) -> bool {
        matches!(self, Security::Session(session) if !session.unseals())
    }

    /// Readies a connection over which both have greeted one another for what follows.
    pub(crate) fn unseal(&self, mut stream: Stream) -> Result<Stream, Refusal> {
        match self {
            Security::Session(session) if session.unseals() && !stream.unseal() => {
                Err(Refusal::new(Error::PeerMisbehaved, "what was to be plain goes on sealed"))
            }
            _ => Ok(stream),
        }
    }

    /// Refuses a peer that asks for something else.
    pub(crate) fn check(&self, theirs: u8) -> Result<(), Refusal> {
        let why = match (self, theirs) {
            (Security::Insecure, 0) | (Security::Key(_), 1) => return Ok(()),
            (Security::Session(_), 2 | 3) if self.number() == theirs => return Ok(()),
            (Security::Session(_), 2 | 3) => "one side wants it plain, the other sealed",
            (Security::Key(_), 0) => {
                "one side has a key (GRIDNET_NET_KEY_FILE), the other none (GRIDNET_NET_INSECURE)"
            }
            (Security::Insecure, 1) => {
                "one side has no key (GRIDNET_NET_INSECURE), the other one (GRIDNET_NET_KEY_FILE)"
            }
            _ => "the sides agree on no way to prove who they are",
        };
        Err(Refusal::new(Error::Permission, why))
    }

    /// Readies a connection that this side has made to a fabric, before anything is said.
    pub(crate) fn begin_call(&self, stream: &mut Stream, fabric: NodeId) -> Result<(), Refusal> {
        if let Security::Session(session) = self {
            let connection = session.call(fabric)?.into();
            match session.unseals() {
                true => stream.secure_greeting(connection),
                false => stream.secure(connection),
            }
        }
        Ok(())
    }

    /// Readies a connection that another side has made, before anything is heard.
    pub(crate) fn begin_answer(&self, stream: &mut Stream) -> Result<(), Refusal> {
        if let Security::Session(session) = self {
            let connection = session.answer()?.into();
            match session.unseals() {
                true => stream.secure_greeting(connection),
                false => stream.secure(connection),
            }
        }
        Ok(())
    }

    /// Whether the other side of a connection may speak for the fabric that it says it is.
    pub(crate) fn check_name(&self, stream: &Stream, fabric: NodeId) -> Result<(), Refusal> {
        match self {
            Security::Session(session) => session.check(&stream.shown(), fabric),
            Security::Key(_) | Security::Insecure => Ok(()),
        }
    }

    /// A link with a fabric is up.
    pub(crate) fn note_linked(&self, fabric: NodeId) {
        if let Security::Session(session) = self {
            session.linked(fabric);
        }
    }

    /// How many paths the link with a fabric is to have, when that was agreed on.
    pub(crate) fn paths(&self, fabric: NodeId) -> Option<Multirail> {
        let Security::Session(session) = self else { return None };
        session.streams(fabric).map(|streams| match streams {
            0 | 1 => Multirail::Off,
            several => Multirail::Alike(several),
        })
    }

    /// Whether a caller is listened to at all.
    pub(crate) fn may_come(&self, from: Option<SocketAddr>) -> bool {
        let (Security::Session(session), Some(from)) = (self, from) else { return true };
        let may_come = session.may_come(from.ip());
        if !may_come {
            session.refused(&from.to_string(), "too many from there have not said who they are");
        }
        may_come
    }

    /// A caller has proved who it is.
    pub(crate) fn note_proved(&self, from: Option<SocketAddr>) {
        if let (Security::Session(session), Some(from)) = (self, from) {
            session.proved(from.ip());
        }
    }

    /// Has it noted that somebody was refused: by the session, which knows how often, else by a line of the log.
    pub(crate) fn note_dropped(&self, who: &str, why: &str) {
        match self {
            Security::Session(session) => session.refused(who, why),
            Security::Key(_) | Security::Insecure => {
                tracing::warn!(from = who, "connection dropped: {why}");
            }
        }
    }

    /// Has the session note that somebody was refused, if there is one.
    pub(crate) fn note_refusal(&self, who: &str, why: &str) {
        if let Security::Session(session) = self {
            session.refused(who, why);
        }
    }

    /// The same for an error of a connection, if it is one.
    pub(crate) fn note_failure(&self, who: &str, error: &std::io::Error) {
        if let Some(failed) = Failed::of(error).filter(|failed| failed.is_refusal) {
            self.note_refusal(who, &failed.why);
        }
    }
}

/// A random number that nobody has seen before.
///
/// # Errors
/// [`Error::System`] when the system gives none.
pub fn nonce() -> Result<[u8; NONCE_BYTES], Refusal> {
    let mut bytes = [0; NONCE_BYTES];
    // SAFETY: the call writes at most so many bytes, which are private. So few come whole, once the system has any.
    let len = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(len) != Ok(bytes.len()) {
        let why = std::io::Error::last_os_error();
        return Err(Refusal::new(Error::System, format!("no random numbers: {why}")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    fn key(byte: u8) -> Key {
        Key::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_proof_is_good_for_its_key_role_and_greetings_only() {
        let proof = key(1).prove(Role::Caller, [b"one", b"two"]);
        assert!(key(1).verifies(Role::Caller, [b"one", b"two"], &proof));
        assert!(!key(2).verifies(Role::Caller, [b"one", b"two"], &proof));
        assert!(!key(1).verifies(Role::Called, [b"one", b"two"], &proof));
        assert!(!key(1).verifies(Role::Caller, [b"onet", b"wo"], &proof));
        let mut other = proof;
        other[31] ^= 1;
        assert!(!key(1).verifies(Role::Caller, [b"one", b"two"], &other));
    }

    #[test]
    fn keys_are_long_and_private() {
        assert!(Key::new(&[1; 31]).is_err() && Key::new(&[1; 4097]).is_err());
        let path = std::env::temp_dir().join(format!("gridnet-key-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        assert_eq!(Key::read(&path).unwrap_err().error, Error::Config);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(&[7; 40]).unwrap();
        assert_eq!(Key::read(&path).unwrap().0, [7; 40]);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Key::read(&path).unwrap_err().error, Error::Permission);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn sides_that_ask_for_different_things_do_not_meet() {
        assert!(Security::Insecure.check(0).is_ok() && Security::Key(key(1)).check(1).is_ok());
        for (own, theirs) in [(Security::Insecure, 1), (Security::Key(key(1)), 0), (Security::Insecure, 7)] {
            assert_eq!(own.check(theirs).unwrap_err().error, Error::Permission);
        }
    }
}
