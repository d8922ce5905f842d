//! A member that agrees on connections by assembly, and makes them by TCP and TLS 1.3, both sides certified, none resumed.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use gridnet::core::wire::NodeId;
use gridnet_assembly::call::Path;
use gridnet_assembly::called::{Key, Order};
use gridnet_assembly::facts::Offer;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::Security;
use gridnet_assembly::Builder;
use gridnet_meta::credentials::Credentials;
use gridnet_meta::member::{About, Assembler, Member, Wanted};
use gridnet_meta::name::Name;
use gridnet_meta::ticket::Ticket;
use rustls::{ClientConnection, Stream};

/// How long anything here may take.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
const SERVICE: &str = "perf";
const RULES: &str = "[[rule]]\nuse = ['tls/tcp']";
const WORD: [u8; 8] = *b"hello...";

/// What came up, by node, until it is used.
type Up = Arc<Mutex<BTreeMap<NodeId, Line>>>;

fn lock(up: &Up) -> MutexGuard<'_, BTreeMap<NodeId, Line>> {
    up.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the [module](self).
pub(super) struct Node {
    member: Member,
    assembler: Assembler,
    credentials: Credentials,
    place: SocketAddr,
    /// When first bytes came.
    arrived: Receiver<Instant>,
    up: Up,
}

struct Sockets {
    credentials: Credentials,
    place: SocketAddr,
    up: Up,
}

impl Builder for Sockets {
    fn build(&self, _: &Order) -> Result<Vec<u8>, String> {
        Ok(self.place.to_string().into_bytes())
    }

    fn begin(&self, _: &Order, _: Vec<u8>) {}

    fn close(&self, _: &Key) {}

    fn connect(&self, to: NodeId, path: &Path, _: Instant) -> Result<(), String> {
        let place = std::str::from_utf8(&path.place).map_err(|e| e.to_string())?;
        let place = place.parse().map_err(|_| "the place is no address".to_owned())?;
        let line = Line::dial(&self.credentials, to, place).map_err(|e| e.to_string())?;
        lock(&self.up).insert(to, line);
        Ok(())
    }

    fn disconnect(&self, to: NodeId, _: &Path) {
        lock(&self.up).remove(&to);
    }

    fn revoke_grants(&self) {}
}

/// A connection that stands.
struct Line {
    socket: TcpStream,
    tls: ClientConnection,
}

impl Line {
    fn dial(credentials: &Credentials, to: NodeId, at: SocketAddr) -> io::Result<Line> {
        let mut socket = dial(at)?;
        let mut tls = credentials.call(to).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Line { socket, tls })
    }

    /// Says something, and hears something.
    fn talk(mut self) -> io::Result<()> {
        let mut stream = Stream::new(&mut self.tls, &mut self.socket);
        stream.write_all(&WORD)?;
        stream.flush()?;
        stream.read_exact(&mut WORD.clone())
    }
}

fn dial(at: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&at, LIMIT)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// Answers each who connects, and tells when its first byte was there. It ends with the process.
fn answer(listener: &TcpListener, credentials: &Credentials, tell: &Sender<Instant>) {
    for socket in listener.incoming() {
        let talk = || -> io::Result<()> {
            let mut socket = socket?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(LIMIT))?;
            let mut tls = credentials.answer().map_err(io::Error::other)?;
            let mut stream = Stream::new(&mut tls, &mut socket);
            stream.read_exact(&mut WORD.clone())?;
            tell.send(Instant::now()).map_err(io::Error::other)?;
            stream.write_all(&WORD)?;
            stream.flush()
        };
        if let Err(e) = talk() {
            tracing::debug!("establish: a caller failed: {e}");
        }
    }
}

impl Node {
    /// A member of this cluster, with this address for others.
    pub(super) fn start(ticket: &Ticket, cluster: &str, label: &str) -> Result<Node, Failure> {
        let name = |text: &str| text.parse::<Name>().map_err(Failure::Run);
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let place = listener.local_addr()?;
        let offer = Some(Offer::all(Some(name(label)?), 0, vec![place.ip()]));
        let about = About { cluster: Some(name(cluster)?), offer, ..About::new(name(label)?) };
        let member = Member::join(ticket.clone(), about, LIMIT)?;
        let (tell, arrived) = channel();
        let (credentials, called) = (member.credentials()?, member.credentials()?);
        std::thread::Builder::new()
            .name("establish".into())
            .spawn(move || answer(&listener, &called, &tell))?;
        let up = Up::default();
        let builder = Sockets { credentials: member.credentials()?, place, up: up.clone() };
        let rules: Rules = RULES.parse().map_err(|e| Failure::Run(format!("rules: {e}")))?;
        let assembler = member.assemble(rules, Arc::new(builder));
        assembler.serve(name(SERVICE)?);
        Ok(Node { member, assembler, credentials, place, arrived, up })
    }

    pub(super) fn member(&self) -> &Member {
        &self.member
    }

    /// The time until the first byte has come there, of a connection to an address that is known.
    pub(super) fn direct(&self, to: &Node) -> Result<Duration, Failure> {
        let begun = Instant::now();
        Line::dial(&self.credentials, to.member.node(), to.place)?.talk()?;
        to.took(begun)
    }

    /// The same of one that is agreed on.
    pub(super) fn assembled(&self, to: &Node) -> Result<Duration, Failure> {
        let service = SERVICE.parse().map_err(Failure::Run)?;
        let wanted = Wanted { service, min_security: Security::Encrypted, first: Vec::new() };
        let begun = Instant::now();
        let path = self.assembler.connect(to.member.node(), wanted, LIMIT);
        path.map_err(|e| Failure::Run(format!("assembly: {e}")))?;
        let line = lock(&self.up).remove(&to.member.node());
        line.ok_or_else(|| Failure::Run("assembly: there is no connection".into()))?.talk()?;
        to.took(begun)
    }

    /// The same as if the two had never agreed on any.
    pub(super) fn agreed_anew(&self, to: &Node) -> Result<Duration, Failure> {
        self.assembler.broken(to.member.node());
        self.assembled(to)
    }

    fn took(&self, begun: Instant) -> Result<Duration, Failure> {
        let late = |_| Failure::Run("establish: nothing has arrived".into());
        Ok(self.arrived.recv_timeout(LIMIT).map_err(late)?.duration_since(begun))
    }
}
