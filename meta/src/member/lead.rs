//! A member that leads its cluster: it listens for the others, and is their way to the rendez-vous node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, Instant};
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use super::post::Origin;
use super::state::Shared;
use crate::channel::{broken, prepare, Inbox};
use crate::clock::Moment;
use crate::directory::{Departure, Version};
use crate::door::{Door, Place};
use crate::error::{Error, Refusal};
use crate::hub::{refuse, unexpected, Encoded, Hub, Said, Served, Visitor};
use crate::message::{Absent, Attach, Message, Present};
use crate::outbox::Outbox;
use crate::packet::Packet;
use crate::queue::{queue, Queue};
use crate::register::Denied;
use crate::rendezvous::{LONGEST_OF_MEMBER, LONGEST_OF_STRANGER};
use crate::tls;
use crate::wire::begins_tls;

/// Callers that have not said who they are, at a time.
const STRANGERS_MAX: usize = 64;
/// A member of which nothing is heard for so long is lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// Changes are told together when they come faster than this; and for each member there is, this later.
const UPDATE_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_micros(100));

/// What one that leads knows of those it leads.
pub(super) struct Leading {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) members: BTreeMap<NodeId, Below>,
    connections: u64,
    /// Of whom the rendez-vous node is to be told: that it is here, or why it is not any more.
    reports: BTreeMap<NodeId, Option<Departure>>,
    accepting: AbortHandle,
}

/// A member that is connected to this one.
pub(super) struct Below {
    connection: u64,
    pub(super) queue: Queue,
    pub(super) present: Present,
}

impl Drop for Leading {
    fn drop(&mut self) {
        // With it go the connections.
        self.accepting.abort();
    }
}

/// Listens for the cluster, unless it does already; where.
pub(super) fn begin(shared: &Arc<Shared>, own: IpAddr) -> Result<Vec<SocketAddr>, Error> {
    if let Some(leading) = &shared.lock().leading {
        return Ok(leading.addresses.clone());
    }
    let at = shared.about.listen.unwrap_or_else(|| match shared.about.cluster.is_some() {
        true => SocketAddr::new(own, 0),
        // All of it is on this host.
        false => SocketAddr::from(([127, 0, 0, 1], 0)),
    });
    if at.ip().is_unspecified() {
        return Err(Error::Config(format!("{at} are all addresses of this host: a leader needs one")));
    }
    let failed = |e: std::io::Error| Error::System(format!("listening at {at}: {e}"));
    let listener = std::net::TcpListener::bind(at).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listening = listener.local_addr().map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let tls = tls::leader(&shared.authority, shared.key.clone())?;
    let mut state = shared.lock();
    let task = tokio::spawn(accept(listener, shared.clone(), tls));
    let (addresses, accepting) = (vec![listening], task.abort_handle());
    state.follower.keep_changes();
    state.leading = Some(Leading {
        addresses: addresses.clone(),
        members: BTreeMap::new(),
        connections: 0,
        reports: BTreeMap::new(),
        accepting,
    });
    tracing::info!("session: this node leads its cluster, at {listening}");
    Ok(addresses)
}

/// Leads no more: those below go elsewhere.
pub(super) fn end(shared: &Shared) {
    drop(shared.lock().leading.take());
}

/// The rendez-vous node does not know a member that is here.
pub(super) fn drop_member(shared: &Shared, node: NodeId) {
    if let Some(leading) = &mut shared.lock().leading {
        leading.members.remove(&node);
    }
    shared.versions.send_modify(|version| *version += 1);
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Arc<rustls::ServerConfig>) {
    let door = Door::new(STRANGERS_MAX);
    let mut visits = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let place = door.enter(from.ip());
                drop(visits.spawn(visit(shared.clone(), tls.clone(), stream, from, place)));
            }
            Err(e) => {
                tracing::warn!("session: accepting: {e}");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while visits.try_join_next().is_some() {}
    }
}

async fn visit(
    shared: Arc<Shared>,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
    mut place: Place,
) {
    prepare(&stream);
    if let Err((refusal, why)) = place.first_word(&stream, from.ip(), &shared.hellos).await {
        return shared.refused_stranger(from, refusal, &why);
    }
    if shared.about.passes_joins && matches!(begins_tls(&stream).await, Ok(false)) {
        if let Err((refusal, why)) = pass_on(&shared, stream, place).await {
            shared.refused_stranger(from, refusal, &why);
        }
        return;
    }
    let greeting = place.hear(greet(&shared, tls, stream, from)).await;
    drop(place);
    match greeting {
        Ok(mut member) => {
            let ended = member.serve(&shared).await;
            let Visitor { node, connection, .. } = member.visitor;
            tracing::debug!("session: node {node} below: {ended:?}");
            let why = if ended.is_ok() { Departure::Left } else { Departure::Lost };
            shared.member_gone(node, connection, why);
        }
        Err((refusal, why)) => shared.refused_stranger(from, refusal, &why),
    }
}

/// Passes on what a newcomer says to the rendez-vous node. It stands at the door until it has asked for that, and may.
async fn pass_on(shared: &Shared, mut stream: TcpStream, mut place: Place) -> Result<(), Denied> {
    let admitted = tokio::select! {
        admitted = shared.tunnels.admit(&mut stream) => admitted?,
        denied = place.is_lost() => return Err(denied),
    };
    drop(place);
    shared.tunnels.pass_on(&shared.rendezvous.addresses, stream, admitted).await
}

async fn greet(
    shared: &Shared,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<Served<TlsStream<TcpStream>>, Error> {
    let stream = TlsAcceptor::from(tls).accept(stream).await.map_err(|e| broken(&e))?;
    let certificate = tls::shown(stream.get_ref().1.peer_certificates())?;
    let certified = certificate.and_then(|certificate| Some((certificate.node?, certificate.until)));
    let (node, until) = certified.ok_or_else(|| Error::Peer("shows no certificate of a node".into()))?;
    let (reader, mut writer) = tokio::io::split(stream);
    let (attach, reader) = attach(reader).await?;
    let (known, (sender, queue)) = (attach.known, queue(&shared.freight));
    match shared.member_came(Present { node, about: attach }, sender) {
        Ok(connection) => {
            shared.hellos.proved(from.ip());
            let visitor = Visitor { node, connection, from, until, is_plain: false };
            Ok(Served { visitor, reader, outbox: Outbox::new(writer), known, queue })
        }
        Err(denied) => {
            refuse(&mut writer, &denied).await?;
            Err(Error::Refused(denied.0, denied.1))
        }
    }
}

/// Takes the first message of a caller. It goes on to the rendez-vous node, with more around it than it came with.
async fn attach<Stream>(reader: Stream) -> Result<(Attach, Inbox<Stream>), Error>
where
    Stream: AsyncRead + Unpin,
{
    let mut reader = Inbox::new(reader, LONGEST_OF_STRANGER);
    match reader.next().await? {
        // Who is below one leads nobody.
        Message::Attach(attach) => {
            Ok((Attach { leads: Vec::new(), ..attach }, reader.longest(LONGEST_OF_MEMBER)))
        }
        other => Err(unexpected(&other)),
    }
}

impl Shared {
    /// Judges whether a node may be below this one, which the rendez-vous node judges, too; the number of its connection.
    pub(super) fn member_came(&self, present: Present, queue: Queue) -> Result<u64, Denied> {
        let mut state = self.lock();
        let state = &mut *state;
        let node = present.node;
        if state.follower.directory().is_revoked(node) {
            return Err((Refusal::Revoked, format!("node {node} was revoked")));
        }
        if !state.asked.allows(node, std::time::Instant::now()) {
            return Err((Refusal::Rate, format!("node {node} comes too often")));
        }
        let stands = state.uplink.is_some();
        let Some(leading) = &mut state.leading else {
            return Err((Refusal::NoRoute, "this node leads nobody".into()));
        };
        leading.connections += 1;
        let connection = leading.connections;
        if !stands {
            let _ = Message::Uplink(false).encode().map(|bytes| queue.try_send(bytes));
        }
        leading.members.insert(node, Below { connection, queue, present });
        leading.reports.insert(node, None);
        self.report.notify_one();
        Ok(connection)
    }

    pub(super) fn member_gone(&self, node: NodeId, connection: u64, why: Departure) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(leading) = &mut state.leading else { return };
        if leading.members.get(&node).is_some_and(|below| below.connection == connection) {
            leading.members.remove(&node);
            leading.reports.insert(node, Some(why));
            self.report.notify_one();
        }
    }

    /// What the rendez-vous node is to be told of those below; of all of them when it has not heard anything yet.
    pub(super) fn reports(&self, is_all: bool) -> Vec<Message> {
        let mut state = self.lock();
        let Some(leading) = &mut state.leading else { return Vec::new() };
        let reports = std::mem::take(&mut leading.reports);
        let of_node = |(node, gone): (NodeId, Option<Departure>)| match (gone, leading.members.get(&node)) {
            (Some(why), None) => Some(Message::Absent(Absent { node, why })),
            (_, below) => Some(Message::Present(below?.present.clone())),
        };
        match is_all {
            true => leading.members.values().map(|below| Message::Present(below.present.clone())).collect(),
            false => reports.into_iter().filter_map(of_node).collect(),
        }
    }

    /// Tells those below whether this leader has a connection to the rendez-vous node.
    pub(super) fn tell_below(&self, stands: bool) {
        let state = self.lock();
        let (Some(leading), Ok(message)) = (&state.leading, Message::Uplink(stands).encode()) else { return };
        leading.members.values().for_each(|below| _ = below.queue.try_send(message.clone()));
    }

    /// Takes a part of a pipe of one that is below. One that says too much is not listened to for a moment.
    fn take_piped(self: &Arc<Shared>, from: NodeId, packet: Packet) -> Said {
        let (is_here, bytes) = (packet.to == self.node, packet.load.len());
        let is_passed_on = self.receive(packet, Origin::Below(from));
        let is_too_much = is_here && self.freight.is_too_much(from, bytes, std::time::Instant::now());
        match is_passed_on && !is_too_much {
            true => Said::Nothing,
            false => Said::TooMuch(None),
        }
    }

    /// Notes somebody of whom nothing is known.
    pub(super) fn refused_stranger(&self, from: SocketAddr, refusal: Refusal, why: &str) {
        let now = (std::time::Instant::now(), Moment::now());
        self.lock().audit.refused_at(from, refusal, why, now);
    }

    /// Notes somebody who was refused here.
    pub(super) fn refused_one(&self, who: String, refusal: Refusal, why: &str) {
        self.lock().audit.refused(who, refusal, why, Moment::now());
    }
}

impl Hub for Arc<Shared> {
    fn changes(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    fn silence(&self) -> Duration {
        SILENCE_LIMIT
    }

    fn update_pause(&self) -> Duration {
        let members = self.lock().leading.as_ref().map_or(0, |leading| leading.members.len());
        UPDATE_PAUSE.0 + u32::try_from(members).unwrap_or(u32::MAX) * UPDATE_PAUSE.1
    }

    fn first_update_at(&self, _known: Version) -> Instant {
        Instant::now()
    }

    fn updates(&self, known: Version) -> Result<(Encoded, Version), Error> {
        let mut state = self.lock();
        let state = &mut *state;
        match state.follower.head() {
            Some(head) => state.encoder.updates(state.follower.directory(), head, known),
            None => Ok((Encoded::default(), known)),
        }
    }

    fn check(&self, visitor: &Visitor) -> Result<(), Error> {
        let state = self.lock();
        let below = state.leading.as_ref().and_then(|leading| leading.members.get(&visitor.node));
        if below.is_none_or(|below| below.connection != visitor.connection) {
            return Err(Error::Peer("not known, or here by another connection".into()));
        }
        match state.follower.directory().is_revoked(visitor.node) {
            true => Err(Error::Refused(Refusal::Revoked, format!("node {} was revoked", visitor.node))),
            false => Ok(()),
        }
    }

    fn may_ask(&self, visitor: &Visitor) -> Result<(), Denied> {
        match self.lock().asked.allows(visitor.node, std::time::Instant::now()) {
            true => Ok(()),
            false => Err((Refusal::Rate, format!("node {} asks too often", visitor.node))),
        }
    }

    fn take(&self, visitor: &mut Visitor, message: Message) -> Result<Said, Error> {
        let Message::Packet(packet) = message else {
            let why = unexpected(&message);
            self.refused_one(visitor.who(), Refusal::Malformed, &why.to_string());
            return Err(why);
        };
        if packet.from != visitor.node || !packet.trail.nodes().is_empty() {
            let why = "a packet in the name of another".to_owned();
            return Ok(Said::Denied((Refusal::Malformed, why)));
        }
        if packet.is_piped() {
            return Ok(self.take_piped(visitor.node, packet));
        }
        if !self.lock().sent.allows(visitor.node, std::time::Instant::now()) {
            let told = packet.undelivered(self.node, Refusal::Rate);
            return Ok(Said::TooMuch(told.map(Message::Packet)));
        }
        let _ = self.receive(packet, Origin::Below(visitor.node));
        Ok(Said::Nothing)
    }

    fn note(&self, visitor: &Visitor, denied: &Denied) {
        self.refused_one(visitor.who(), denied.0, &denied.1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::cluster::Will;
    use crate::driver::Driver;
    use crate::member::About;
    use crate::record::Extras;
    use crate::testing::{in_runtime, Parties, LONG};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn what_a_caller_says_first_goes_on_whatever_it_is() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let name = "n".repeat(8).parse::<crate::name::Name>().unwrap();
        let mut taken = 0;
        for count in [0, 1, 100, 300, 700, 2000, 3000, 3640, 3655] {
            let about = Attach {
                cluster: name.clone(),
                label: name.clone(),
                known: Version::default(),
                will: Will::Willing,
                leads: vec![SocketAddr::from(([9; 4], 9)); count],
                pass: None,
                more: Extras::default(),
            };
            let sent = Message::Attach(about).encode().unwrap();
            let first = runtime.block_on(async {
                let (mut to, from) = tokio::io::duplex(1 << 16);
                to.write_all(&sent).await.unwrap();
                attach(from).await
            });
            let Ok((about, _)) = first else { continue };
            let node = NodeId::new([1; 16]).unwrap();
            let told = Message::Present(Present { node, about }).encode().unwrap();
            assert!(told.len() <= LONGEST_OF_STRANGER, "{} bytes of {}", told.len(), sent.len());
            taken += 1;
        }
        assert!((1..9).contains(&taken), "{taken}: some are too long to be taken");
    }

    #[test]
    fn more_hellos_than_may_come_are_not_answered() {
        let (parties, common) = (Parties::new(), Driver::start().unwrap().common());
        let about = About::new("tests".parse().unwrap());
        let shared = Arc::new(Shared::new(Vec::new(), about, parties.member(0), common).unwrap());
        // All that may come of this address for an hour have come.
        let (own, later) =
            (IpAddr::from([127, 0, 0, 1]), std::time::Instant::now() + Duration::from_secs(3600));
        while shared.hellos.may_come(own, later) {}
        in_runtime(async {
            let at = begin(&shared, own).unwrap();
            let mut stranger = TcpStream::connect(at[0]).await.unwrap();
            stranger.write_all(&[0x16, 3, 1]).await.unwrap();
            let mut said = Vec::new();
            // Closed, by a reset when what was said had not been read.
            let _ = timeout(LONG, stranger.read_to_end(&mut said)).await.expect("it is dropped");
            assert!(said.is_empty(), "not even an alert: {said:?}");
        });
        let lines: Vec<String> = shared.lock().audit.lines().map(|line| line.refusal.clone()).collect();
        assert_eq!(lines, ["rate"]);
    }

    #[test]
    fn who_may_be_one_to_be_passed_on_stands_at_the_door_as_others_do() {
        let (parties, common) = (Parties::new(), Driver::start().unwrap().common());
        let about = About { passes_joins: true, ..About::new("tests".parse().unwrap()) };
        let shared = Arc::new(Shared::new(Vec::new(), about, parties.member(0), common).unwrap());
        in_runtime(async {
            let at = begin(&shared, IpAddr::from([127, 0, 0, 1])).unwrap();
            let mut strangers = Vec::new();
            for _ in 0..=STRANGERS_MAX {
                let mut stranger = TcpStream::connect(at[0]).await.unwrap();
                stranger.write_all(&[1]).await.unwrap();
                strangers.push(stranger);
            }
            let mut said = Vec::new();
            let _ = timeout(LONG, strangers[0].read_to_end(&mut said)).await.expect("it is dropped");
        });
        let lines: Vec<String> = shared.lock().audit.lines().map(|line| line.why.clone()).collect();
        assert!(lines.iter().any(|why| why.starts_with("made room")), "{lines:?}");
    }

    #[test]
    fn words_of_the_rendezvous_node_are_passed_on_and_no_others() {
        let (parties, common) = (Parties::new(), Driver::start().unwrap().common());
        let about = About::new("tests".parse().unwrap());
        let shared = Arc::new(Shared::new(Vec::new(), about, parties.member(0), common).unwrap());
        in_runtime(async {
            begin(&shared, IpAddr::from([127, 0, 0, 1])).unwrap();
            let (sender, mut queue) = queue(&shared.freight);
            let (node, about) = (parties.node(1), shared.attach(None));
            shared.member_came(Present { node, about }, sender).unwrap();
            let _ = queue.try_recv().expect("that there is no rendez-vous node");
            let version = Version { epoch: 1, number: 2 };
            assert!(shared.take_still(Parties::new().still(version), true).is_err());
            assert!(queue.try_recv().is_none(), "of another authority");
            let still = parties.still(version);
            shared.take_still(still.clone(), true).unwrap();
            let passed_on = queue.try_recv().expect("it is passed on");
            assert_eq!(passed_on, Message::Still(still).encode().unwrap());
        });
    }
}
