//! Members that have gone wild: certified, and saying anything.

use super::*;
use crate::channel::{send, send_encoded, Inbox};
use crate::cluster::Will;
use crate::identity::{Identity, NodeKey};
use crate::message::tests::some;
use crate::message::{Attach, MESSAGE_BYTES_MAX};
use crate::packet::{Load, Packet};
use crate::record::Extras;
use crate::store::{NewSession, NewTicket};
use crate::testing::Scratch;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

const LONG: Duration = Duration::from_secs(60);

struct Scene {
    rendezvous: Rendezvous,
    store: Store,
    _scratch: Scratch,
}

impl Scene {
    fn new(what: &str) -> Scene {
        let scratch = Scratch::new(what);
        let (dir, listen) = (scratch.path("s"), vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        let ticket = NewTicket { lifetime: LONG, uses: None };
        let new = NewSession { listen, addresses: vec!["127.0.0.1:1".into()], ticket };
        Store::create(&dir, &new, Moment::now()).unwrap();
        let rules = Rules { silence: LONG, ..Rules::default() };
        let rendezvous = Rendezvous::start(Store::open(&dir).unwrap(), rules).unwrap();
        Scene { rendezvous, store: Store::open(&dir).unwrap(), _scratch: scratch }
    }

    fn identity(&self, node: NodeId) -> Identity {
        let key = NodeKey::create().unwrap();
        let authority = self.store.authority().unwrap();
        let certificate = authority.certify(node, key.request(), Moment::now(), 60 * LONG).unwrap();
        key.certified(node, &certificate).unwrap()
    }

    async fn member(&self, node: NodeId) -> Wild {
        let (authority, identity) = (self.store.authority().unwrap(), self.identity(node));
        let stream = TcpStream::connect(self.rendezvous.listening()[0]).await.unwrap();
        let connector = TlsConnector::from(tls::member(authority.certificate(), &identity).unwrap());
        let stream = connector.connect(tls::rendezvous().unwrap(), stream).await.unwrap();
        let (reader, mut writer) = tokio::io::split(stream);
        let (cluster, label) = (format!("c{node}").parse().unwrap(), "wild".parse().unwrap());
        let (known, will, leads, more) = (Version::default(), Will::Unwilling, Vec::new(), Extras::default());
        let attach = Attach { cluster, label, known, will, leads, pass: None, more };
        send(&mut writer, &Message::Attach(attach)).await.unwrap();
        Wild { reader: Inbox::new(reader, MESSAGE_BYTES_MAX), writer }
    }
}

struct Wild {
    reader: Inbox<ReadHalf<TlsStream<TcpStream>>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
}

impl Wild {
    /// Whether it is answered.
    async fn is_heard(&mut self) -> bool {
        let heard = async {
            send(&mut self.writer, &Message::Ping(77)).await?;
            while self.reader.next().await? != Message::Pong(77) {}
            Ok::<_, Error>(())
        };
        timeout(LONG, heard).await.is_ok_and(|heard| heard.is_ok())
    }
}

fn in_runtime<Out>(future: impl std::future::Future<Output = Out>) -> Out {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn id(number: u128) -> NodeId {
    NodeId::new((number + 1).to_be_bytes()).unwrap()
}

#[test]
fn whatever_a_member_says_the_others_are_served() {
    let count = if std::env::var_os("TEST_SOAK").is_some() { 20_000 } else { 300 };
    let scene = Scene::new("anything");
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        let (mut wild, mut connections) = (scene.member(id(1)).await, 1u128);
        // Numbers that are the same in each run (Knuth's generator, MMIX).
        let mut state = 20_260_101u64;
        let mut number = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let messages = some();
        for _ in 0..count {
            let mut bytes = messages[number(messages.len())].encode().unwrap();
            for _ in 0..number(4) {
                let at = number(bytes.len());
                bytes[at] ^= 1 << number(8);
            }
            if number(2) == 0 {
                // A length that fits, so that the rest is looked at.
                let len = bytes.len() as u32 - 4;
                bytes[..4].copy_from_slice(&len.to_le_bytes());
            }
            let is_sent = send_encoded(&mut wild.writer, &bytes).await.is_ok();
            if !is_sent || number(8) == 0 {
                connections += 1;
                wild = scene.member(id(connections)).await;
            }
        }
        assert!(good.is_heard().await);
    });
    assert!(scene.rendezvous.is_running());
    assert!(scene.rendezvous.status().refusals["malformed"] > 0);
}

#[test]
fn a_member_that_floods_is_put_off_and_the_others_are_served() {
    let scene = Scene::new("flood");
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        let mut wild = scene.member(id(1)).await;
        assert!(good.is_heard().await && wild.is_heard().await);
        let packet = |number| Packet::new(id(1), id(0), number, &Load::Other(9));
        for number in 0..3000 {
            send(&mut wild.writer, &Message::Packet(packet(number))).await.unwrap();
            if number % 500 == 0 {
                assert!(good.is_heard().await);
            }
        }
        // It is told of some that did not get there.
        let told = async {
            loop {
                if let Message::Packet(told) = wild.reader.next().await.unwrap() {
                    return told.load();
                }
            }
        };
        let told = timeout(LONG, told).await.unwrap();
        assert!(matches!(told, Some(Load::Undelivered { why: Refusal::Rate, .. })), "{told:?}");
        assert!(good.is_heard().await);
    });
    assert!(scene.rendezvous.status().refusals["rate"] > 0);
}

#[test]
fn nobody_sends_in_the_name_of_another() {
    let scene = Scene::new("forged");
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        let mut wild = scene.member(id(1)).await;
        assert!(good.is_heard().await && wild.is_heard().await);
        let forged = Packet::new(id(2), id(0), 1, &Load::Other(9));
        send(&mut wild.writer, &Message::Packet(forged)).await.unwrap();
        let honest = Packet::new(id(1), id(0), 2, &Load::Other(9));
        send(&mut wild.writer, &Message::Packet(honest)).await.unwrap();
        let first = async {
            loop {
                if let Message::Packet(packet) = good.reader.next().await.unwrap() {
                    return packet;
                }
            }
        };
        let first = timeout(LONG, first).await.unwrap();
        assert_eq!((first.from, first.number, first.trail.nodes()), (id(1), 2, &[scene.store.session()][..]));
    });
    let status = scene.rendezvous.status();
    assert!(status.refused.iter().any(|line| line.refusal == "malformed" && line.why.contains("not there")));
}
