//! First bytes that travel with the request for a connection, between two members of this host that poll: they are there before there is a
//! connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::node::LIMIT;
use crate::cores;
use crate::failure::Failure;
use gridnet::core::wire::NodeId;
use gridnet_assembly::call::Path;
use gridnet_assembly::called::{Key, Order};
use gridnet_assembly::facts::Offer;
use gridnet_assembly::name::Name;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::Security;
use gridnet_assembly::Builder;
use gridnet_meta::member::{About, Assembler, LineState, Member, Need, Wanted, ECHO};
use gridnet_meta::ticket::Ticket;

/// How long both poll before it is measured.
const SETTLES: Duration = Duration::from_millis(30);
const SERVICE: &str = "perf";
const HOST: &str = "perf";
const WORD: &[u8] = b"hello...";

/// Builds nothing, and says when first bytes have come.
struct Stamps(Mutex<Sender<Instant>>);

impl Builder for Stamps {
    fn build(&self, _: &Order) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn begin(&self, _: &Order, first: Vec<u8>) {
        let now = Instant::now();
        if first == WORD {
            // Who measures may have given up.
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(now);
        }
    }

    fn close(&self, _: &Key) {}

    fn connect(&self, _: NodeId, _: &Path, _: Instant) -> Result<(), String> {
        Ok(())
    }

    fn disconnect(&self, _: NodeId, _: &Path) {}

    fn revoke_grants(&self) {}
}

/// A member, and when first bytes have come to it.
struct Party {
    member: Member,
    assembler: Assembler,
    arrived: Receiver<Instant>,
}

impl Party {
    fn join(ticket: &Ticket, label: &str) -> Result<Party, Failure> {
        let label = label.parse().map_err(Failure::Run)?;
        let host = HOST.parse::<Name>().map_err(Failure::Run)?;
        let uid = rustix::process::geteuid().as_raw();
        let about = About { offer: Some(Offer::all(Some(host), uid, Vec::new())), ..About::new(label) };
        let member = Member::join(ticket.clone(), about, LIMIT)?;
        let (tell, arrived) = channel();
        let assembler = member.assemble(Rules::default(), Arc::new(Stamps(Mutex::new(tell))));
        assembler.serve(SERVICE.parse().map_err(Failure::Run)?);
        Ok(Party { member, assembler, arrived })
    }
}

/// The two.
pub(super) struct First {
    here: Party,
    /// The other node, and when bytes have come there.
    there: (NodeId, Receiver<Instant>),
    is_over: Arc<AtomicBool>,
    polls: Option<JoinHandle<()>>,
    core: Option<usize>,
}

impl First {
    /// Both join, and have a line; the other one polls on a thread of its own from then on.
    pub(super) fn open(ticket: &Ticket, [own, other]: [Option<usize>; 2]) -> Result<First, Failure> {
        let (here, there) = (Party::join(ticket, "first-a")?, Party::join(ticket, "first-b")?);
        let node = there.member.node();
        warm(&here.member, node)?;
        let Party { member, assembler, arrived } = there;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let polls = move || {
            // Of its parts this is the last that goes.
            let _assembler = assembler;
            if other.is_none_or(|core| cores::pin(core).is_ok()) {
                while !over.load(Ordering::Relaxed) {
                    member.attend();
                }
            }
        };
        let polls = std::thread::Builder::new().name("establish-first".into()).spawn(polls)?;
        Ok(First { here, there: (node, arrived), is_over, polls: Some(polls), core: own })
    }

    /// How long it takes until the first bytes of a connection have come, to one with which nothing was agreed on.
    pub(super) fn begin(&self) -> Result<Duration, Failure> {
        let before = cores::allowed()?;
        if let Some(core) = self.core {
            cores::pin(core)?;
        }
        let took = self.begin_here();
        cores::allow(&before)?;
        took
    }

    fn begin_here(&self) -> Result<Duration, Failure> {
        let Party { member, assembler, .. } = &self.here;
        let (node, arrived) = &self.there;
        assembler.broken(*node);
        let settles = Instant::now();
        while settles.elapsed() < SETTLES {
            member.attend();
        }
        let service = SERVICE.parse().map_err(Failure::Run)?;
        let wanted = Wanted { service, min_security: Security::Plain, first: WORD.to_vec() };
        let failed = |why: &dyn std::fmt::Display| Failure::Run(format!("first bytes: {why}"));
        let begun = Instant::now();
        let pending = assembler.begin(*node, wanted, LIMIT, Arc::new(|| ()));
        let mut pending = pending.map_err(|why| failed(&why))?;
        loop {
            member.attend();
            match pending.need() {
                None | Some(Need::Close(_)) => {}
                Some(Need::Connect(path)) => pending.connected(path.number, Ok(())),
                Some(Need::Nothing(outcome)) => break outcome.map(drop).map_err(|why| failed(&why))?,
            }
        }
        let at = arrived.recv_timeout(LIMIT).map_err(|_| failed(&"they have not come"))?;
        Ok(at.saturating_duration_since(begun))
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(polls) = self.polls.take() {
            // It has not panicked, or is over all the same.
            let _ = polls.join();
        }
    }
}

/// Waits until the two ask each other over a line within the host.
fn warm(member: &Member, node: NodeId) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        // The other one may not be in the directory yet.
        let _ = member.ask(node, ECHO, &[], LIMIT);
        if matches!(member.line(node), LineState::Up { stack: "unix", .. }) {
            return Ok(());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Err(Failure::Run(format!("no line between two members: {}", member.line(node))))
}
