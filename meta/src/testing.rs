//! What tests of this crate share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

use crate::authority::Authority;
use crate::channel::{send, Inbox};
use crate::clock::Moment;
use crate::cluster::Will;
use crate::conversation::Talk;
use crate::directory::Version;
use crate::error::Error;
use crate::identity::{Identity, NodeKey};
use crate::message::{Attach, Message, MESSAGE_BYTES_MAX};
use crate::record::Extras;
use crate::rendezvous::Rendezvous;
use crate::store::{NewSession, NewTicket, Store};
use crate::ticket::Ticket;
use crate::tls::{self, CurrentKey};
use crate::Rules;

/// Far longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A session that is served, and in which anybody can be certified.
pub(crate) struct Session {
    pub(crate) rendezvous: Rendezvous,
    pub(crate) store: Store,
    scratch: Scratch,
}

impl Session {
    pub(crate) fn new(what: &str) -> Session {
        Session::with(what, Rules { silence: LONG, ..Rules::default() })
    }

    pub(crate) fn with(what: &str, rules: Rules) -> Session {
        let scratch = Scratch::new(what);
        let (dir, listen) = (scratch.path("s"), vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        let ticket = NewTicket { lifetime: LONG, uses: None };
        let new = NewSession { listen, addresses: vec!["127.0.0.1:1".into()], insecure: false, ticket };
        Store::create(&dir, &new, Moment::now()).unwrap();
        let rendezvous = Rendezvous::start(Store::open(&dir).unwrap(), rules).unwrap();
        Session { rendezvous, store: Store::open(&dir).unwrap(), scratch }
    }

    /// By which one joins.
    pub(crate) fn ticket(&self) -> Ticket {
        let ticket = Ticket::read(&self.scratch.path("s").join("ticket")).unwrap();
        Ticket { addresses: vec![self.rendezvous.listening()[0].to_string()], ..ticket }
    }

    pub(crate) fn identity(&self, node: NodeId, lifetime: Duration) -> Identity {
        self.identity_of(node, Moment::now(), lifetime)
    }

    /// One that was certified then.
    pub(crate) fn identity_of(&self, node: NodeId, then: Moment, lifetime: Duration) -> Identity {
        let key = NodeKey::create().unwrap();
        let authority = self.store.authority().unwrap();
        let certificate = authority.certify(node, key.request(), then, lifetime).unwrap();
        key.certified(node, &certificate).unwrap()
    }

    /// One that is attached, in a cluster of its own.
    pub(crate) async fn member(&self, node: NodeId) -> Wild {
        let (authority, identity) = (self.store.authority().unwrap(), self.identity(node, 60 * LONG));
        let tls = tls::member(authority.certificate(), &identity).unwrap();
        attach(self.rendezvous.listening()[0], tls, &format!("c{node}"), Will::Unwilling).await
    }
}

/// Attaches to a rendez-vous node.
pub(crate) async fn attach(
    rendezvous: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    cluster: &str,
    will: Will,
) -> Wild {
    let stream = TcpStream::connect(rendezvous).await.unwrap();
    let stream = TlsConnector::from(tls).connect(tls::rendezvous().unwrap(), stream).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let (cluster, label) = (cluster.parse().unwrap(), "wild".parse().unwrap());
    let (known, leads, more) = (Version::default(), Vec::new(), Extras::default());
    let attach = Attach { cluster, label, known, will, leads, pass: None, more };
    send(&mut writer, &Message::Attach(attach)).await.unwrap();
    Wild { reader: Inbox::new(reader, MESSAGE_BYTES_MAX), writer }
}

/// A member that says what it likes.
pub(crate) struct Wild {
    pub(crate) reader: Inbox<ReadHalf<TlsStream<TcpStream>>>,
    pub(crate) writer: WriteHalf<TlsStream<TcpStream>>,
}

impl Wild {
    /// Whether it is answered.
    pub(crate) async fn is_heard(&mut self) -> bool {
        let heard = async {
            send(&mut self.writer, &Message::Ping(77)).await?;
            while self.reader.next().await? != Message::Pong(77) {}
            Ok::<_, Error>(())
        };
        timeout(LONG, heard).await.is_ok_and(|heard| heard.is_ok())
    }
}

pub(crate) fn in_runtime<Out>(future: impl std::future::Future<Output = Out>) -> Out {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

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

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
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

    /// A word of their rendez-vous node.
    pub(crate) fn still(&self, version: Version) -> crate::directory::Still {
        crate::directory::Still::sign(version, Moment::now(), &self.authority).unwrap()
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
