//! TLS 1.3 (RFC 8446) as sessions use it: always with certificates of the session's authority.
//!
//! | who calls | knows the peer by | shows |
//! |---|---|---|
//! | one who joins | the authority's fingerprint in the ticket, and the name of the rendez-vous node | nothing: it proves the secret inside |
//! | a member | the authority, and the name of the rendez-vous node, of its leader, or of the member that it asks | its certificate |
//!
//! No session is resumed, so every connection has proved its certificate anew, and revocation works from the next connection on.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::authority::{fingerprint, node_name, RENDEZVOUS_NAME};
use crate::error::Error;
use crate::identity::{Certificate, Identity};
use crate::ticket::Fingerprint;
use gridnet_core::wire::NodeId;

/// What is spoken inside: joining.
pub(crate) const ALPN_JOIN: &[u8] = b"gridnet-join/1";
/// What is spoken inside: control messages of members with the rendez-vous node.
pub(crate) const ALPN_CONTROL: &[u8] = b"gridnet-control/1";
/// The same with a leader.
const ALPN_LEADER: &[u8] = b"gridnet-leader/1";
/// What is sealed in packets: requests of members, and answers.
const ALPN_SEALED: &[u8] = b"gridnet-sealed/1";
/// The same requests and answers, over a line between two members.
const ALPN_LINE: &[u8] = b"gridnet-line/1";
/// Frames of a rail.
const ALPN_RAIL: &[u8] = b"gridnet-rail/1";

/// Label of the keying material that a proof is bound to (RFC 8446, 7.5).
const EXPORTER: &[u8] = b"EXPORTER-gridnet-join";

/// Bytes of keying material.
pub(crate) const KEYING_BYTES: usize = 32;

/// The caller's side of one that wants to join.
pub(crate) fn joining(authority: Fingerprint) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(internal)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority }))
        .with_no_client_auth();
    finish(&mut config, ALPN_JOIN);
    Ok(Arc::new(config))
}

/// The caller's side of a member that calls the rendez-vous node.
pub(crate) fn member(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, Error> {
    client(authority, identity, ALPN_CONTROL)
}

/// The same, of one that calls its leader.
pub(crate) fn below(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, Error> {
    client(authority, identity, ALPN_LEADER)
}

/// The same, of one that asks another inside of packets.
pub(crate) fn asking(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, Error> {
    client(authority, identity, ALPN_SEALED)
}

/// The same, of one that calls another for a line.
pub(crate) fn calling_line(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, Error> {
    client(authority, identity, ALPN_LINE)
}

/// The side of a member that is called for a line, which takes members only.
pub(crate) fn called_line(
    authority: &CertificateDer<'static>,
    key: Arc<CurrentKey>,
) -> Result<Arc<ServerConfig>, Error> {
    members_only(authority, key, ALPN_LINE)
}

/// The side of a leader, which takes members only.
pub(crate) fn leader(
    authority: &CertificateDer<'static>,
    key: Arc<CurrentKey>,
) -> Result<Arc<ServerConfig>, Error> {
    members_only(authority, key, ALPN_LEADER)
}

/// The side of a member that is asked inside of packets.
pub(crate) fn asked(
    authority: &CertificateDer<'static>,
    key: Arc<CurrentKey>,
) -> Result<Arc<ServerConfig>, Error> {
    members_only(authority, key, ALPN_SEALED)
}

/// Both sides of a rail, which add to what TLS finds of a certificate what `judge` does.
pub(crate) fn rail(
    authority: &CertificateDer<'static>,
    key: CertifiedKey,
    judge: impl Fn(Arc<dyn ServerCertVerifier>, Arc<dyn ClientCertVerifier>) -> Judges,
) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), Error> {
    let called = WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider()).build();
    let caller = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider()).build();
    let (called, caller) = judge(called.map_err(internal)?, caller.map_err(internal)?);
    let key: Arc<SingleCertAndKey> = Arc::new(key.into());
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(internal)?
        .dangerous()
        .with_custom_certificate_verifier(called)
        .with_client_cert_resolver(key.clone());
    finish(&mut client, ALPN_RAIL);
    Ok((Arc::new(client), serving(caller, key, &[ALPN_RAIL])?))
}

/// Who judges the certificates of those who are called, and of those who call.
pub(crate) type Judges = (Arc<dyn ServerCertVerifier>, Arc<dyn ClientCertVerifier>);

fn client(
    authority: &CertificateDer<'static>,
    identity: &Identity,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider())
        .build()
        .map_err(internal)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(internal)?
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key(authority)?)));
    finish(&mut config, alpn);
    Ok(Arc::new(config))
}

/// The side that is called. Callers without a certificate can do nothing but join.
pub(crate) fn server(
    authority: &CertificateDer<'static>,
    key: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(internal)?;
    serving(verifier, key, &[ALPN_CONTROL, ALPN_JOIN])
}

fn members_only(
    authority: &CertificateDer<'static>,
    key: Arc<CurrentKey>,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider());
    serving(verifier.build().map_err(internal)?, key, &[alpn])
}

fn serving(
    verifier: Arc<dyn ClientCertVerifier>,
    key: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(internal)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(key);
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The key of the rendez-vous node, always the same one.
pub(crate) fn always(key: CertifiedKey) -> Arc<dyn ResolvesServerCert> {
    Arc::new(SingleCertAndKey::from(key))
}

/// The name by which the rendez-vous node is called.
pub(crate) fn rendezvous() -> Result<ServerName<'static>, Error> {
    ServerName::try_from(RENDEZVOUS_NAME).map_err(internal)
}

/// The name of a node.
pub(crate) fn node(node: NodeId) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(node_name(node)).map_err(internal)
}

/// The key of a member, which is renewed while it listens.
#[derive(Debug)]
pub(crate) struct CurrentKey(Mutex<Arc<CertifiedKey>>);

impl CurrentKey {
    pub(crate) fn new(key: CertifiedKey) -> CurrentKey {
        CurrentKey(Mutex::new(Arc::new(key)))
    }

    /// Shows another one from now on.
    pub(crate) fn set(&self, key: CertifiedKey) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for CurrentKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

/// The certificate that the other side has shown; TLS has found it valid.
pub(crate) fn shown(certificates: Option<&[CertificateDer<'_>]>) -> Result<Option<Certificate>, Error> {
    certificates.and_then(<[_]>::first).map(|der| Certificate::read(der)).transpose()
}

/// Judges a certificate that was shown without TLS: whether it is that of a node.
pub(crate) fn judge_node(
    authority: &CertificateDer<'static>,
    shown: &CertificateDer<'_>,
) -> Result<Certificate, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider()).build();
    let judged = verifier.map_err(internal)?.verify_client_cert(shown, &[], UnixTime::now());
    judged.map_err(|e| Error::Peer(format!("its certificate: {e}")))?;
    Certificate::read(shown)
}

/// The same of the rendez-vous node, which shows that of its authority, too.
pub(crate) fn judge_rendezvous(
    authority: Fingerprint,
    [shown, above]: &[CertificateDer<'static>; 2],
) -> Result<Certificate, Error> {
    let above = std::slice::from_ref(above);
    let judged = Pinned { authority }.verify_server_cert(shown, above, &rendezvous()?, &[], UnixTime::now());
    judged.map_err(|e| Error::Peer(format!("its certificate: {e}")))?;
    Certificate::read(shown)
}

/// Keying material of a connection, the same on both sides and on no other connection.
pub(crate) fn keying<Data>(connection: &rustls::ConnectionCommon<Data>) -> Result<[u8; KEYING_BYTES], Error> {
    connection.export_keying_material([0; KEYING_BYTES], EXPORTER, None).map_err(internal)
}

fn finish(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Names of nodes are nobody's business.
    config.enable_sni = false;
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|e| Error::Config(format!("certificate of the authority: {e}")))?;
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn internal<E: std::fmt::Display>(error: E) -> Error {
    Error::System(format!("TLS: {error}"))
}

/// Takes a server whose chain ends at the authority of this fingerprint, and that has the name of a rendez-vous node.
#[derive(Debug)]
struct Pinned {
    authority: Fingerprint,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|certificate| fingerprint(certificate) == self.authority);
        let Some(pinned) = pinned else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let failed = |e: Error| rustls::Error::General(e.to_string());
        let roots = roots(&pinned.clone().into_owned()).map_err(failed)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
