//! What programs prove who they are by, and know others by, on connections of their own: the node of a directory that
//! `gridnet session join --keep` writes, or a member of the same process.
//!
//! Several programs, and several fabrics of each, can be one node. A fabric has a node id of its own all the same, the first half
//! of which is that of the node ([`fabric_id`]): so one certificate speaks for all fabrics of its node, and for no other.
//!
//! The directory, or the member, is looked at before each connection: a certificate that was renewed, or a node that was revoked, counts from
//! the next one on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridnet_core::sync::{AtomicU64, Ordering};
use gridnet_core::wire::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, ServerConfig,
    ServerConnection, SignatureScheme,
};
use zeroize::Zeroize;

use crate::authority::{Authority, NODE_DOMAIN};
use crate::clock::Moment;
use crate::directory::Version;
use crate::error::Error;
use crate::identity::{Certificate, NodeKey};
use crate::kept::{self, Kept};
use crate::member::Present;
use crate::strangers::{Hellos, Lines};
use crate::tls;

/// Bytes of a node id that all fabrics of a node have in common: random ones, which the authority has drawn.
const COMMON_BYTES: usize = 8;
/// Bytes of a text of a stranger that are shown.
const TEXT_BYTES_MAX: usize = 200;

/// The node id of a fabric of `node`, with the second half of `random`.
pub fn fabric_id(node: NodeId, random: NodeId) -> NodeId {
    let mut bytes = *random.bytes();
    let (common, _) = bytes.split_at_mut(COMMON_BYTES);
    common.copy_from_slice(node.bytes().get(..COMMON_BYTES).unwrap_or_default());
    // An id is not all zero, and random in both halves: the other case will not come.
    NodeId::new(bytes).unwrap_or(node)
}

/// Whether this node may speak for this fabric.
fn is_fabric_of(fabric: NodeId, node: NodeId) -> bool {
    fabric.bytes().get(..COMMON_BYTES) == node.bytes().get(..COMMON_BYTES)
}

/// Where they come from.
enum Source {
    Dir(PathBuf),
    Member(Present),
}

/// What changes with what comes from there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Dir(kept::Stamp),
    Member(Moment, Version),
}

impl Source {
    fn stamp(&self) -> Stamp {
        match self {
            Source::Dir(dir) => Stamp::Dir(kept::stamp(dir)),
            Source::Member(member) => {
                let (until, version) = member.stamp();
                Stamp::Member(until, version)
            }
        }
    }

    fn read(&self) -> Result<Kept, Error> {
        match self {
            Source::Dir(dir) => kept::read(dir),
            Source::Member(member) => Ok(member.kept()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dir(dir) => write!(f, "session {}", dir.display()),
            Source::Member(member) => write!(f, "member {}", member.node()),
        }
    }
}

/// See the [module](self).
pub struct Credentials {
    source: Source,
    node: NodeId,
    state: Mutex<State>,
    refused: AtomicU64,
    hellos: Hellos,
    lines: Mutex<Lines>,
}

struct State {
    /// Of what was read last,
    stamp: Stamp,
    /// and of what could not be read.
    failed: Option<Stamp>,
    kept: Kept,
    loaded: Loaded,
}

#[derive(Clone)]
struct Loaded {
    until: Moment,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    revoked: Arc<BTreeMap<NodeId, Moment>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.node)
    }
}

impl Credentials {
    /// Those of a directory.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no node, or one whose certificate has ended; [`Error::Permission`] when others can look
    /// into the directory.
    pub fn open(dir: &Path) -> Result<Credentials, Error> {
        Credentials::of(Source::Dir(dir.to_owned()))
    }

    /// Those of a member of this process.
    pub(crate) fn of_member(member: Present) -> Result<Credentials, Error> {
        Credentials::of(Source::Member(member))
    }

    fn of(source: Source) -> Result<Credentials, Error> {
        // Looked at first: what is written meanwhile is read again.
        let stamp = source.stamp();
        let kept = source.read()?;
        let (node, loaded) = (kept.node, Loaded::of(&kept)?);
        loaded.check_time(node)?;
        Ok(Credentials {
            source,
            node,
            state: Mutex::new(State { stamp, failed: None, kept, loaded }),
            refused: AtomicU64::new(0),
            hellos: Hellos::default(),
            lines: Mutex::default(),
        })
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Until when it can prove that, as far as is known now.
    pub fn until(&self) -> Moment {
        self.current().until
    }

    /// The caller's side of a connection to a fabric. It takes nobody who may not speak for that.
    ///
    /// # Errors
    /// [`Error::Config`] when the certificate has ended.
    pub fn call(&self, fabric: NodeId) -> Result<ClientConnection, Error> {
        let loaded = self.current();
        loaded.check_time(self.node)?;
        let failed = |e: rustls::Error| Error::System(format!("TLS: {e}"));
        ClientConnection::new(loaded.client, tls::node(fabric)?).map_err(failed)
    }

    /// The called side of a connection.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn answer(&self) -> Result<ServerConnection, Error> {
        let loaded = self.current();
        loaded.check_time(self.node)?;
        ServerConnection::new(loaded.server).map_err(|e| Error::System(format!("TLS: {e}")))
    }

    /// Those of these fabrics whose nodes were revoked, as the directory says now.
    pub fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId> {
        let loaded = self.current();
        let common = |id: &NodeId| id.bytes().first_chunk::<COMMON_BYTES>().copied();
        let revoked: BTreeSet<_> = loaded.revoked.keys().map(common).collect();
        fabrics.iter().copied().filter(|fabric| revoked.contains(&common(fabric))).collect()
    }

    /// Whether who has shown these certificates, which TLS has found good, may speak for this fabric.
    ///
    /// # Errors
    /// [`Error::Peer`], with both.
    pub fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Error> {
        match tls::shown(Some(shown))?.and_then(|certificate| certificate.node) {
            // It may have been revoked since it has shown them.
            Some(node) if !self.revoked_of(&[node]).is_empty() => {
                Err(Error::Peer(format!("node {node} was revoked")))
            }
            Some(node) if is_fabric_of(fabric, node) => Ok(()),
            Some(node) => {
                Err(Error::Peer(format!("node {node} speaks for {fabric}, which is none of its fabrics")))
            }
            None => Err(Error::Peer("the certificate names no node".into())),
        }
    }

    /// Whether a caller from this address is heard, which makes this side sign. So many a second are of each that have not
    /// proved who they are; IPv6 networks of 64 bits count as one address.
    pub fn may_come(&self, from: IpAddr) -> bool {
        self.hellos.may_come(from, Instant::now())
    }

    /// One from this address has proved who it is: it is not counted.
    pub fn proved(&self, from: IpAddr) {
        self.hellos.proved(from);
    }

    /// Counts a refusal, and notes it in the log: who, which is an address, and why. What is too much of one address is counted
    /// only.
    pub fn refused(&self, who: &str, why: &str) {
        let from = who.parse::<SocketAddr>().map_or(Ipv4Addr::UNSPECIFIED.into(), |from| from.ip());
        let line = self.lines.lock().unwrap_or_else(PoisonError::into_inner).next(from, Instant::now());
        // Relaxed: a counter, which orders nothing.
        let count = self.refused.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if let Some(rest) = line {
            let why: String = why.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect();
            tracing::warn!(target: "gridnet::audit", "rail tcp refused {who}: {why} ({count} so far){rest}");
        }
    }

    /// How often somebody was refused.
    pub fn refusals(&self) -> u64 {
        // Relaxed: see above.
        self.refused.load(Ordering::Relaxed)
    }

    /// What the directory holds now; what it held before, when that cannot be read.
    fn current(&self) -> Loaded {
        let stamp = self.source.stamp();
        let mut state = self.lock();
        if state.stamp != stamp {
            match self.source.read().and_then(|kept| state.renew(kept)) {
                Ok(()) => (state.stamp, state.failed) = (stamp, None),
                // It is tried again at the next connection, and said once.
                Err(_) if state.failed == Some(stamp) => {}
                Err(e) => {
                    state.failed = Some(stamp);
                    tracing::warn!("{}: {e}; what was read before counts", self.source);
                }
            }
        }
        state.loaded.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is there is whole, whoever has panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes what was read. Of another node of the same session, which has come into the directory, the revocations count; and who
    /// was revoked once stays so.
    fn renew(&mut self, mut kept: Kept) -> Result<(), Error> {
        kept.revoked.extend(self.kept.revoked.iter().map(|(node, until)| (*node, *until)));
        if kept.authority != self.kept.authority {
            return Err(Error::Config("it is of another session now".into()));
        }
        let is_same =
            |kept: &Kept| (&kept.certificate, &kept.revoked) == (&self.kept.certificate, &self.kept.revoked);
        if is_same(&kept) {
            // Something else has changed: a member's directory, most of the time.
            return Ok(());
        }
        if kept.node != self.kept.node {
            tracing::warn!("the directory of node {} holds node {} now", self.kept.node, kept.node);
            self.kept.revoked = kept.revoked;
        } else {
            self.kept = kept;
        }
        self.loaded = Loaded::of(&self.kept)?;
        Ok(())
    }
}

impl Loaded {
    fn of(kept: &Kept) -> Result<Loaded, Error> {
        // What is wiped here is this copy; the library below keeps its own.
        let mut key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(kept.key.to_vec()));
        let signer = rustls::crypto::ring::sign::any_supported_type(&key);
        key.zeroize();
        let wrong = |_| Error::Config("the key of the node is none that gridnet has written".into());
        let chain = vec![kept.certificate.clone(), kept.authority.clone()];
        let key = CertifiedKey::new(chain, signer.map_err(wrong)?);
        key.keys_match()
            .map_err(|_| Error::Config("the certificate is not for the key of the node".into()))?;
        let revoked = Arc::new(kept.revoked.clone());
        let (client, server) = tls::rail(&kept.authority, key, |called, caller| {
            let called = Called { chain: called, revoked: revoked.clone() };
            (Arc::new(called), Arc::new(Caller { chain: caller, revoked: revoked.clone() }))
        })?;
        Ok(Loaded { until: kept.until, client, server, revoked })
    }

    fn check_time(&self, node: NodeId) -> Result<(), Error> {
        if Moment::now() < self.until {
            return Ok(());
        }
        let until = self.until;
        Err(Error::Config(format!("the certificate of node {node} ended at {until}: it is to join again")))
    }
}

/// Whether the node of a certificate was not revoked.
fn check_unrevoked(
    shown: &CertificateDer<'_>,
    revoked: &BTreeMap<NodeId, Moment>,
) -> Result<(), rustls::Error> {
    let read = Certificate::read(shown).map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
    match read.node {
        Some(node) if revoked.contains_key(&node) => Err(CertificateError::Revoked.into()),
        Some(_) => Ok(()),
        // That of the rendez-vous node, which has no business here.
        None => Err(CertificateError::NotValidForName.into()),
    }
}

/// Judges those who are called: the name that is asked for is a fabric's.
#[derive(Debug)]
struct Called {
    chain: Arc<dyn ServerCertVerifier>,
    revoked: Arc<BTreeMap<NodeId, Moment>>,
}

impl ServerCertVerifier for Called {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let node = Certificate::read(shown).ok().and_then(|certificate| certificate.node);
        let node = node.ok_or(rustls::Error::from(CertificateError::NotValidForName))?;
        let own_name = tls::node(node).map_err(|e| rustls::Error::General(e.to_string()))?;
        // First of all whether the session says who it is: of others nothing is to be believed.
        let verified = self.chain.verify_server_cert(shown, intermediates, &own_name, ocsp, now)?;
        check_unrevoked(shown, &self.revoked)?;
        match fabric_of(name).filter(|fabric| is_fabric_of(*fabric, node)) {
            Some(_) => Ok(verified),
            None => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn fabric_of(name: &ServerName<'_>) -> Option<NodeId> {
    let ServerName::DnsName(name) = name else { return None };
    name.as_ref().strip_suffix(NODE_DOMAIN)?.strip_suffix('.')?.parse().ok()
}

/// Judges those who call: which fabric they speak for they say later.
#[derive(Debug)]
struct Caller {
    chain: Arc<dyn ClientCertVerifier>,
    revoked: Arc<BTreeMap<NodeId, Moment>>,
}

impl ClientCertVerifier for Caller {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(shown, intermediates, now)?;
        check_unrevoked(shown, &self.revoked)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Writes the directory of a node that an authority certifies at `now` for so long: where nobody is to join.
///
/// # Errors
/// As [`Credentials::open`], and [`Error::System`] when there are no random numbers.
pub fn keep_certified(
    dir: &Path,
    authority: &Authority,
    now: Moment,
    lifetime: Duration,
) -> Result<NodeId, Error> {
    let node = crate::random::id()?;
    let key = NodeKey::create()?;
    let certificate = authority.certify(node, key.request(), now, lifetime)?;
    kept::create(dir)?;
    kept::write_node(dir, &key.certified(node, &certificate)?, authority.certificate())?;
    kept::write_revoked(dir, &BTreeMap::new())?;
    Ok(node)
}

/// Notes in such a directory that nodes were revoked, and that their certificates end then.
///
/// # Errors
/// As [`Credentials::open`].
pub fn keep_revoked(dir: &Path, revoked: &BTreeMap<NodeId, Moment>) -> Result<(), Error> {
    kept::write_revoked(dir, revoked)
}

#[cfg(test)]
mod tests;
