//! Leaders that have gone wild: certified, appointed, and saying anything to those below them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use super::{About, Connection, Member};
use crate::channel::{send, send_encoded, Inbox};
use crate::clock::Moment;
use crate::cluster::Will;
use crate::directory::{Change, Entry, Part, Record, Still, Update};
use crate::message::{Message, MESSAGE_BYTES_MAX};
use crate::testing::{attach, in_runtime, Session, LONG};
use crate::tls::{self, CurrentKey};

/// A leader of cluster `c`, in a thread of its own.
struct Leader {
    node: NodeId,
    /// What it says next to the one below it.
    say: mpsc::UnboundedSender<Vec<u8>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// What the rendez-vous node has told it.
    updates: Mutex<Vec<Update>>,
    came: AtomicUsize,
    went: AtomicUsize,
}

type Below = (Inbox<ReadHalf<TlsStream<TcpStream>>>, WriteHalf<TlsStream<TcpStream>>);

impl Leader {
    fn start(session: &Session, node: NodeId, lifetime: Duration) -> Leader {
        let (say, said) = mpsc::unbounded_channel();
        let seen = Arc::new(Seen::default());
        let (identity, authority) = (session.identity(node, lifetime), session.store.authority().unwrap());
        let key = Arc::new(CurrentKey::new(identity.certified_key(authority.certificate()).unwrap()));
        let tls = tls::leader(authority.certificate(), key).unwrap();
        let (address, of_thread) = (session.rendezvous.listening()[0], seen.clone());
        let uplink = tls::member(authority.certificate(), &identity).unwrap();
        std::thread::spawn(move || in_runtime(lead((address, uplink), tls, said, &of_thread)));
        Leader { node, say, seen }
    }

    fn say(&self, message: &Message) {
        self.say.send(message.encode().unwrap()).unwrap();
    }

    fn came(&self) -> usize {
        self.seen.came.load(Ordering::Relaxed)
    }

    fn went(&self) -> usize {
        self.seen.went.load(Ordering::Relaxed)
    }
}

/// Until who has started it is gone.
async fn lead(
    (rendezvous, uplink): (SocketAddr, Arc<rustls::ClientConfig>),
    tls: Arc<rustls::ServerConfig>,
    mut said: mpsc::UnboundedReceiver<Vec<u8>>,
    seen: &Seen,
) {
    let mut up = attach(rendezvous, uplink, "c", Will::Configured).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut below, mut is_up): (Option<Below>, bool) = (None, true);
    loop {
        tokio::select! {
            message = up.reader.next(), if is_up => match message {
                Ok(Message::Lead(())) => {
                    let leading = Message::Leading(vec![listener.local_addr().unwrap()]);
                    send(&mut up.writer, &leading).await.unwrap();
                }
                Ok(Message::Update(update)) => seen.updates.lock().unwrap().push(update),
                Ok(_) => (),
                // It goes on without.
                Err(_) => is_up = false,
            },
            accepted = listener.accept() => {
                if let Ok(stream) = TlsAcceptor::from(tls.clone()).accept(accepted.unwrap().0).await {
                    let (reader, writer) = tokio::io::split(stream);
                    below = Some((Inbox::new(reader, MESSAGE_BYTES_MAX), writer));
                    seen.came.fetch_add(1, Ordering::Relaxed);
                }
            }
            is_there = hear(&mut below) => {
                if !is_there {
                    below = None;
                    seen.went.fetch_add(1, Ordering::Relaxed);
                }
            }
            next = said.recv() => match (next, &mut below) {
                (Some(bytes), Some((_, writer))) => drop(send_encoded(writer, &bytes).await),
                (Some(_), None) => (),
                (None, _) => return,
            }
        }
    }
}

/// Takes a message of the one below; whether that is still there.
async fn hear(below: &mut Option<Below>) -> bool {
    let Some((reader, writer)) = below else { return std::future::pending().await };
    match reader.next().await {
        Ok(Message::Ping(word)) => send(writer, &Message::Pong(word)).await.is_ok(),
        Ok(_) => true,
        Err(_) => false,
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn id(byte: u8) -> NodeId {
    NodeId::new([byte; 16]).unwrap()
}

fn entry(node: NodeId) -> Entry {
    let (cluster, label) = ("c".parse().unwrap(), "forged".parse().unwrap());
    let more = crate::record::Extras::default();
    Entry { node, cluster, label, since: 0, order: 0, leads: false, via: None, more }
}

fn is_attached(member: &Member) -> bool {
    member.leader().is_none() && member.connection() == Connection::Attached
}

/// A member of the cluster of a wild leader, once it is below that one.
fn below(session: &Session, leader: &Leader) -> Member {
    until("the leader is there", || session.rendezvous.status().nodes.len() == 1);
    let about = About { cluster: Some("c".parse().unwrap()), ..About::new("m".parse().unwrap()) };
    let member = Member::join(session.ticket(), About { will: Will::Unwilling, ..about }, LONG).unwrap();
    until("it is below", || member.leader() == Some(leader.node));
    member
}

/// It is left, also when the rendez-vous node sends somebody there once more.
fn is_left_for_good(session: &Session, leader: &Leader, member: &Member) {
    until("it is left", || leader.went() == 1);
    until("the member is there by itself", || {
        is_attached(member)
            && session.rendezvous.status().links.iter().any(|link| link.node == member.node().to_string())
    });
    // Whatever it was told to do then has been done when it sees the next change.
    let other = Member::join(session.ticket(), About::new("other".parse().unwrap()), LONG).unwrap();
    until("it sees another", || member.nodes().iter().any(|entry| entry.node == other.node()));
    assert_eq!((member.leader(), leader.came()), (None, 1));
}

#[test]
fn a_leader_that_forges_changes_is_left_and_nothing_of_it_stays() {
    let session = Session::new("forges");
    let leader = Leader::start(&session, id(7), 60 * LONG);
    let member = below(&session, &leader);
    until("the leader has a directory", || !leader.seen.updates.lock().unwrap().is_empty());
    // What it was told itself, with one more node than there are, and later than all that is known.
    let mut update = leader.seen.updates.lock().unwrap()[0].clone();
    update.head.version.number += 1000;
    update.head.size += 1;
    let (Part::Changes { records, .. } | Part::Snapshot { records, .. }) = &mut update.part;
    records.push(Record::from(&Change::Joined(entry(id(99)))));
    leader.say(&Message::Update(update));
    is_left_for_good(&session, &leader, &member);
    assert!(member.nodes().iter().all(|entry| entry.node != id(99)));
}

#[test]
fn a_leader_that_was_revoked_is_left() {
    let session = Session::new("revoked-leader");
    let leader = Leader::start(&session, id(7), 60 * LONG);
    let member = below(&session, &leader);
    assert!(session.rendezvous.revoke(leader.node).unwrap());
    // The leader passes on what a third one has heard: so it was said, and signed.
    let update = in_runtime(async {
        let mut other = session.member(id(8)).await;
        loop {
            if let Message::Update(update) = other.reader.next().await.unwrap() {
                return update;
            }
        }
    });
    leader.say(&Message::Update(update));
    until("it knows", || member.is_revoked(leader.node));
    is_left_for_good(&session, &leader, &member);
}

#[test]
fn a_leader_that_hides_that_it_was_revoked_is_left() {
    let session = Session::new("hides");
    let leader = Leader::start(&session, id(7), 60 * LONG);
    let member = below(&session, &leader);
    // The connection by which it came is heard for some seconds more.
    let name = member.node().to_string();
    until("nothing else is heard", || session.rendezvous.status().links.iter().all(|link| link.node != name));
    assert!(session.rendezvous.revoke(leader.node).unwrap());
    // It goes on as if nothing was, and passes on no word of the rendez-vous node.
    member.shared.lock().fresh.lag_max = Duration::ZERO;
    until("it looks for itself", || member.is_revoked(leader.node));
    is_left_for_good(&session, &leader, &member);
}

#[test]
fn a_word_that_nobody_has_signed_is_a_forgery() {
    let session = Session::new("word");
    let leader = Leader::start(&session, id(7), 60 * LONG);
    let member = below(&session, &leader);
    let other = crate::authority::Authority::create(id(1), Moment::now()).unwrap();
    leader.say(&Message::Still(Still::sign(member.version(), Moment::now(), &other).unwrap()));
    is_left_for_good(&session, &leader, &member);
}

#[test]
fn a_leader_whose_certificate_has_ended_is_left() {
    let session = Session::new("expired-leader");
    let (begun, lifetime) = (Moment::now(), Duration::from_secs(10));
    let leader = Leader::start(&session, id(7), lifetime);
    let member = below(&session, &leader);
    until("it is left", || leader.went() == 1);
    assert!(Moment::now() >= begun.after(lifetime), "not before");
    until("the member is there by itself", || is_attached(&member));
    // For TLS a certificate is good for the whole of its last second: who comes once more in that is sent away by the member.
    until("nobody is below it", || leader.went() == leader.came());
    assert!(leader.came() <= 2);
}
