//! TLS 1.3 (RFC 8446) as sessions use it: always with certificates of the session's authority.
//!
//! | who calls | knows the peer by | shows |
//! |---|---|---|
//! | one who joins | the authority's fingerprint in the ticket, and the name of the rendez-vous node | nothing: it proves the secret inside |
//! | a member | the authority, and the name of the node or of the rendez-vous node | its certificate |
//!
//! No session is resumed, so every connection has proved its certificate anew, and revocation works from the next connection on.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::authority::{fingerprint, RENDEZVOUS_NAME};
use crate::error::Error;
use crate::identity::{Certificate, Identity};
use crate::ticket::Fingerprint;

/// What is spoken inside: joining.
pub(crate) const ALPN_JOIN: &[u8] = b"gridnet-join/1";
/// What is spoken inside: control messages of members.
pub(crate) const ALPN_CONTROL: &[u8] = b"gridnet-control/1";

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

/// The caller's side of a member.
pub(crate) fn member(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider())
        .build()
        .map_err(internal)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(internal)?
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key(authority)?)));
    finish(&mut config, ALPN_CONTROL);
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
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(internal)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(key);
    config.alpn_protocols = vec![ALPN_CONTROL.to_vec(), ALPN_JOIN.to_vec()];
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

/// The certificate that the other side has shown; TLS has found it valid.
pub(crate) fn shown(certificates: Option<&[CertificateDer<'_>]>) -> Result<Option<Certificate>, Error> {
    certificates.and_then(<[_]>::first).map(|der| Certificate::read(der)).transpose()
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
