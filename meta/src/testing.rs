//! What tests of this crate share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;

use crate::authority::Authority;
use crate::clock::Moment;
use crate::conversation::Talk;
use crate::identity::{Identity, NodeKey};
use crate::tls::{self, CurrentKey};

/// Three members of one session.
pub(crate) struct Parties {
    authority: Authority,
    identities: Vec<Identity>,
}

impl Parties {
    pub(crate) fn new() -> Parties {
        let id = |byte| NodeId::new([byte; 16]).unwrap();
        let now = Moment::now();
        let authority = Authority::create(id(255), now).unwrap();
        let identity = |byte| {
            let key = NodeKey::create().unwrap();
            let day = Duration::from_secs(86_400);
            let certificate = authority.certify(id(byte), key.request(), now, day).unwrap();
            key.certified(id(byte), &certificate).unwrap()
        };
        let identities = (1..=3).map(identity).collect();
        Parties { authority, identities }
    }

    pub(crate) fn node(&self, party: usize) -> NodeId {
        self.identities[party].node()
    }

    pub(crate) fn sealing(&self, party: usize) -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
        let (authority, identity) = (self.authority.certificate(), &self.identities[party]);
        let key = Arc::new(CurrentKey::new(identity.certified_key(authority).unwrap()));
        (tls::asking(authority, identity).unwrap(), tls::asked(authority, key).unwrap())
    }

    /// What one is, and the authority that says so.
    pub(crate) fn member(&self, party: usize) -> (Identity, rustls::pki_types::CertificateDer<'static>) {
        (self.identities[party].clone(), self.authority.certificate().clone())
    }

    /// A conversation that one begins with another, which takes it for one with `claimed`.
    pub(crate) fn talk(&self, from: usize, to: usize, claimed: usize) -> (Talk, Talk) {
        let begun = Talk::begin(self.node(to), 5, self.sealing(from).0).unwrap();
        (begun, Talk::answer(self.node(claimed), 5, self.sealing(to).1).unwrap())
    }
}

/// A directory of a test, removed at its end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(what: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("gridnet-meta-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
