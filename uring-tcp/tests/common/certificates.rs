//! Certificates of an authority that lives as long as a test.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name of everybody.
const NAME: &str = "all.test";

/// Who certifies.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// What one shows, and whom one takes.
#[derive(Clone, Debug)]
pub struct Configs {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// One who is certified, and takes those who are.
    pub fn member(&self) -> Configs {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let shown = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let callers = WebPkiClientVerifier::builder_with_provider(self.roots(), provider()).build().unwrap();
        let server =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
        let mut server = server
            .with_client_cert_verifier(callers)
            .with_single_cert(shown.clone(), key.clone_key())
            .unwrap();
        server.send_tls13_tickets = 0;
        let mut client = self.client().with_client_auth_cert(shown, key).unwrap();
        client.resumption = Resumption::disabled();
        Configs { client: Arc::new(client), server: Arc::new(server) }
    }

    /// One who knows the authority, and is not certified.
    pub fn stranger(&self) -> Arc<ClientConfig> {
        Arc::new(self.client().with_no_client_auth())
    }

    fn client(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let called = WebPkiServerVerifier::builder_with_provider(self.roots(), provider()).build().unwrap();
        let client =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
        client.with_webpki_verifier(called)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }
}

/// Whom a caller asks for.
pub fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
