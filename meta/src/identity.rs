//! Who a node is: its key, which never leaves the process, and the certificate that its session gave it.

use std::sync::Arc;

use gridnet_core::wire::NodeId;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::SignatureScheme;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use zeroize::{Zeroize, Zeroizing};

use crate::authority::{self, NODE_DOMAIN};
use crate::clock::Moment;
use crate::error::Error;

/// A fresh key and the request for a certificate.
pub struct NodeKey {
    key: KeyPair,
    request: Vec<u8>,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

impl NodeKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`Error::System`] when there are no random numbers.
    pub fn create() -> Result<NodeKey, Error> {
        let key = authority::key()?;
        let failed = |e: rcgen::Error| Error::System(format!("making a request for a certificate: {e}"));
        let request = CertificateParams::default().serialize_request(&key).map_err(failed)?;
        Ok(NodeKey { request: request.der().to_vec(), key })
    }

    /// The request for a certificate, signed by the key (PKCS #10, RFC 2986), in DER.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Joins the key with the certificate that was given for it.
    ///
    /// # Errors
    /// [`Error::Peer`] when the certificate is not for this node and this key.
    pub fn certified(self, node: NodeId, certificate: &[u8]) -> Result<Identity, Error> {
        let wrong = |why: &str| Error::Peer(format!("the certificate that was given {why}"));
        let read = Certificate::read(certificate)?;
        if read.node != Some(node) {
            return Err(wrong("is not for this node"));
        }
        if read.public_key != self.key.public_key_raw() {
            return Err(wrong("is not for this key"));
        }
        Ok(Identity {
            node,
            key: Arc::new(self.key),
            certificate: CertificateDer::from(certificate.to_vec()),
            valid: (read.from, read.until),
        })
    }
}

/// A node of a session, as it can prove it.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    key: Arc<KeyPair>,
    certificate: CertificateDer<'static>,
    valid: (Moment, Moment),
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}, until {})", self.node, self.valid.1)
    }
}

impl Identity {
    /// One that was written down: its key (PKCS #8) and its certificate.
    ///
    /// # Errors
    /// [`Error::Config`] when it is none.
    pub(crate) fn from_der(key: &[u8], certificate: &[u8]) -> Result<Identity, Error> {
        let wrong = |e: String| Error::Config(format!("the node that was kept: {e}"));
        let node = Certificate::read(certificate)?.node;
        let node = node.ok_or_else(|| wrong("its certificate names no node".into()))?;
        let key = KeyPair::try_from(key).map_err(|e| wrong(e.to_string()))?;
        NodeKey { key, request: Vec::new() }.certified(node, certificate).map_err(|e| wrong(e.to_string()))
    }

    /// Who it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Until when it is valid.
    pub fn until(&self) -> Moment {
        self.valid.1
    }

    /// How long it is valid in all.
    pub(crate) fn span(&self) -> std::time::Duration {
        self.valid.0.after(authority::CLOCK_SKEW).until(self.valid.1)
    }

    /// Whether a new one should be asked for: two thirds of the time have passed.
    pub fn is_to_be_renewed(&self, now: Moment) -> bool {
        now >= self.valid.0.after(authority::CLOCK_SKEW).after(self.span() * 2 / 3)
    }

    /// Its key (PKCS #8, RFC 5958) and its certificate, in DER.
    pub(crate) fn to_der(&self) -> (Zeroizing<Vec<u8>>, &CertificateDer<'static>) {
        (Zeroizing::new(self.key.serialize_der()), &self.certificate)
    }

    /// Signs what a node says where there is no TLS. What is signed begins with a label that nothing begins with that TLS or a request
    /// for a certificate has signed.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.key.sign(bytes).map_err(|e| Error::System(format!("signing: {e}")))
    }

    pub(crate) fn certified_key(&self, authority: &CertificateDer<'static>) -> Result<CertifiedKey, Error> {
        certified_key(&self.key, self.certificate.clone(), authority)
    }
}

/// A key as TLS uses it, with the chain up to the authority.
pub(crate) fn certified_key(
    key: &KeyPair,
    certificate: CertificateDer<'static>,
    authority: &CertificateDer<'static>,
) -> Result<CertifiedKey, Error> {
    // What is wiped here is this copy; the libraries below keep theirs.
    let mut der: PrivateKeyDer<'static> =
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()));
    let signer = rustls::crypto::ring::sign::any_supported_type(&der);
    der.zeroize();
    let signer = signer.map_err(|e| Error::System(format!("key for TLS: {e}")))?;
    Ok(CertifiedKey::new(vec![certificate, authority.clone()], signer))
}

/// What gridnet reads of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node that it names.
    pub node: Option<NodeId>,
    /// The number that the authority gave it.
    pub serial: Vec<u8>,
    /// Its public key, as it stands there.
    pub public_key: Vec<u8>,
    /// From when it is valid.
    pub from: Moment,
    /// Until when.
    pub until: Moment,
}

impl Certificate {
    /// Reads it; whether it is valid is for TLS to say.
    ///
    /// # Errors
    /// [`Error::Peer`] when it is none.
    pub fn read(der: &[u8]) -> Result<Certificate, Error> {
        let wrong = || Error::Peer("what should be a certificate is none".into());
        let (rest, parsed) = parse_x509_certificate(der).map_err(|_| wrong())?;
        if !rest.is_empty() {
            return Err(wrong());
        }
        let names = parsed.subject_alternative_name().map_err(|_| wrong())?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let node = match names {
            [GeneralName::DNSName(name)] => node_of(name),
            _ => None,
        };
        Ok(Certificate {
            node,
            serial: parsed.raw_serial().to_vec(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            from: Moment::from_unix(parsed.validity().not_before.timestamp()),
            until: Moment::from_unix(parsed.validity().not_after.timestamp()),
        })
    }

    /// Whether its key has signed this.
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        has_signed(&self.public_key, bytes, signature)
    }
}

/// Whether a key has signed this (ECDSA with P-256 and SHA-256).
pub(crate) fn has_signed(public_key: &[u8], bytes: &[u8], signature: &[u8]) -> bool {
    let known = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let algorithm =
        known.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    let algorithm = algorithm.and_then(|(_, algorithms)| algorithms.first());
    algorithm.is_some_and(|algorithm| algorithm.verify_signature(public_key, bytes, signature).is_ok())
}

fn node_of(name: &str) -> Option<NodeId> {
    name.strip_suffix(NODE_DOMAIN)?.strip_suffix('.')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use proptest::prelude::*;
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(86_400);

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 16]).unwrap()
    }

    #[test]
    fn a_node_gets_a_certificate_for_its_key_and_its_name() {
        let now = Moment::now();
        let authority = Authority::create(node(1), now).unwrap();
        let key = NodeKey::create().unwrap();
        let certificate = authority.certify(node(2), key.request(), now, DAY).unwrap();
        let identity = key.certified(node(2), &certificate).unwrap();
        assert_eq!((identity.node(), identity.until()), (node(2), now.after(DAY)));
        assert!(!identity.is_to_be_renewed(now) && !identity.is_to_be_renewed(now.after(DAY / 2)));
        assert!(identity.is_to_be_renewed(now.after(DAY * 3 / 4)));
    }

    #[test]
    fn a_certificate_for_another_node_or_key_is_refused() {
        let now = Moment::now();
        let authority = Authority::create(node(1), now).unwrap();
        let certify = |key: &NodeKey| authority.certify(node(2), key.request(), now, DAY).unwrap();
        let (one, other) = (NodeKey::create().unwrap(), NodeKey::create().unwrap());
        let of_other = certify(&other);
        assert!(one.certified(node(2), &of_other).unwrap_err().to_string().contains("not for this key"));
        assert!(other.certified(node(3), &of_other).unwrap_err().to_string().contains("not for this node"));
    }

    #[test]
    fn requests_must_be_signed_by_their_key_and_give_nothing_but_it() {
        let now = Moment::now();
        let authority = Authority::create(node(1), now).unwrap();
        let mut request = NodeKey::create().unwrap().request().to_vec();
        let certificate = authority.certify(node(2), &request, now, DAY).unwrap();
        assert_eq!(Certificate::read(&certificate).unwrap().node, Some(node(2)));
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(matches!(authority.certify(node(2), &request, now, DAY), Err(Error::Peer(_))));
        assert!(matches!(authority.certify(node(2), &[0; 5000], now, DAY), Err(Error::Peer(_))));
        // One that asks to be an authority, and another node, becomes neither.
        let key = authority::key().unwrap();
        let mut params = CertificateParams::new(vec![authority::node_name(node(9))]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let greedy = params.serialize_request(&key).unwrap();
        let certificate = authority.certify(node(2), greedy.der(), now, DAY).unwrap();
        assert_eq!(Certificate::read(&certificate).unwrap().node, Some(node(2)));
        assert!(!parse_x509_certificate(&certificate).unwrap().1.is_ca());
    }

    #[test]
    fn an_authority_is_read_as_it_was_written() {
        let authority = Authority::create(node(1), Moment::now()).unwrap();
        let (certificate, key) = authority.to_pem();
        let again = Authority::from_pem(&certificate, &key).unwrap();
        assert_eq!(again.fingerprint(), authority.fingerprint());
        assert!(Authority::from_pem(&key, &certificate).is_err());
        assert!(!format!("{authority:?} {:?}", NodeKey::create().unwrap()).contains("PRIVATE"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes: Vec<u8>) {
            static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
            let authority = AUTHORITY.get_or_init(|| Authority::create(node(1), Moment::now()).unwrap());
            let _ = Certificate::read(&bytes);
            let _ = authority.certify(node(2), &bytes, Moment::now(), DAY);
        }
    }
}
