//! The authority of a session: certifies who is a member, and is held by the rendez-vous node.
//!
//! Certificates are X.509 (RFC 5280), keys of P-256. A node is named by its node id, as a DNS name below [`NODE_DOMAIN`];
//! so any verifier of TLS names checks who it is. Nothing that is asked for but the key gets into a certificate.

use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SigningKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock::Moment;
use crate::error::Error;
use crate::identity::{has_signed, Certificate};
use crate::secret::JoinSecret;
use crate::ticket::Fingerprint;

/// What the names of nodes end with.
pub const NODE_DOMAIN: &str = "node.gridnet";
/// The name of the rendez-vous node.
pub const RENDEZVOUS_NAME: &str = "rendezvous.gridnet";
/// How far clocks may differ: certificates are valid so long before they are made.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Bytes of a request for a certificate that are looked at.
pub const REQUEST_BYTES_MAX: usize = 2048;

/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// See the [module](self).
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}

impl Authority {
    /// A fresh one.
    ///
    /// # Errors
    /// [`Error::System`] when there are no random numbers.
    pub fn create(session: NodeId, now: Moment) -> Result<Authority, Error> {
        let key = key()?;
        let mut params = params(now, now.after(AUTHORITY_LIFETIME), &format!("gridnet session {session}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(|e| internal(&e))?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Ok(Authority { issuer: Issuer::new(params, key), certificate: der, pem })
    }

    /// The authority of these texts, as [`Authority::to_pem`] gave them.
    ///
    /// # Errors
    /// [`Error::Config`] when they are none.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Authority, Error> {
        let wrong = |what: &str| Error::Config(format!("{what} is not one that gridnet has written"));
        let key = KeyPair::from_pem(key).map_err(|_| wrong("key of the authority"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| wrong("certificate of the authority"))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|_| wrong("certificate of the authority"))?;
        Ok(Authority { issuer, certificate: der, pem: certificate.to_owned() })
    }

    /// Its certificate and its key.
    pub fn to_pem(&self) -> (String, Zeroizing<String>) {
        (self.pem.clone(), Zeroizing::new(self.issuer.key().serialize_pem()))
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// By what it is recognised.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.certificate)
    }

    /// Certifies the key of a request for a node. What else the request asks for is left out.
    ///
    /// # Errors
    /// [`Error::Peer`] when the request is not signed by its key, or makes no sense.
    pub fn certify(
        &self,
        node: NodeId,
        request: &[u8],
        now: Moment,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, Error> {
        let wrong = |why: String| Error::Peer(format!("request for a certificate: {why}"));
        if request.len() > REQUEST_BYTES_MAX {
            return Err(wrong(format!("longer than {REQUEST_BYTES_MAX} bytes")));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|e| wrong(e.to_string()))?;
        let params = leaf(&node_name(node), now, lifetime)?;
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(|e| internal(&e))?;
        Ok(certificate.der().clone())
    }

    /// Signs what the rendez-vous node says to those who hear it from others. What is signed begins with a label that no certificate
    /// begins with.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.issuer.key().sign(bytes).map_err(|e| Error::System(format!("signing: {e}")))
    }

    /// The secret by which the rendez-vous node knows what it has said itself, in each of its lives.
    pub(crate) fn own_secret(&self) -> JoinSecret {
        let key = Zeroizing::new(self.issuer.key().serialize_der());
        JoinSecret::derived(&key)
    }

    /// A certificate of the rendez-vous node itself, for this key.
    pub(crate) fn certify_rendezvous(
        &self,
        key: &KeyPair,
        now: Moment,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, Error> {
        let params = leaf(RENDEZVOUS_NAME, now, lifetime)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(|e| internal(&e))?;
        Ok(certificate.der().clone())
    }
}

/// The public key of an authority, by which members know what it has signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorityKey(Arc<[u8]>);

impl AuthorityKey {
    /// That of a certificate.
    ///
    /// # Errors
    /// [`Error::Peer`] when it is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<AuthorityKey, Error> {
        Certificate::read(certificate).map(|certificate| AuthorityKey(certificate.public_key.into()))
    }

    /// Whether the authority has signed this (ECDSA with P-256 and SHA-256).
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        has_signed(&self.0, bytes, signature)
    }
}

/// The DNS name of a node.
pub fn node_name(node: NodeId) -> String {
    format!("{node}.{NODE_DOMAIN}")
}

/// By what a certificate is recognised.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate.as_ref()).into())
}

/// A fresh key.
pub(crate) fn key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| internal(&e))
}

fn leaf(name: &str, now: Moment, lifetime: Duration) -> Result<CertificateParams, Error> {
    let mut params = params(now, now.after(lifetime), name);
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(|e| internal(&e))?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn params(now: Moment, until: Moment, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now.before(CLOCK_SKEW).date_time();
    params.not_after = until.date_time();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn internal(error: &rcgen::Error) -> Error {
    Error::System(format!("making a certificate: {error}"))
}
