//! Connections that others make: to peers that no address leads to.
//!
//! Whoever knows another way gives the rail connected stream sockets, one for each connection: the rail asks for those that it calls by
//! ([`Way`]), and is given those that are for it ([`Adopter`]). They are secured by the session as any other, and made anew in the same
//! way when they break. They are not sockets of TCP: nothing is asked of TCP about them.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gridnet_core::error::Error;
use gridnet_core::rail::{Refusal, Sink};
use gridnet_core::wire::{Address, NodeId};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::auth::Security;
use crate::rail::TcpRail;
use crate::socket::Stream;
use crate::visitor::Visitor;
use crate::watch::{Watched, READING};

/// Connections that wait to be taken by a rail; more are refused.
const WAITING_MAX: usize = 64;

/// Leads to peers in another way than by their addresses.
pub trait Way: fmt::Debug + Send + Sync {
    /// What it is called where people are told how a peer is reached.
    fn name(&self) -> &'static str;

    /// A connection to the fabric of this address; `None` when its addresses are to be called. It is asked for again when it breaks.
    ///
    /// It must not wait: the socket may be connected before the other side knows of it, and is closed when nothing comes of it.
    fn connect(&self, address: &Address) -> Option<Result<OwnedFd, Refusal>>;
}

/// Gives a rail connections that others have made to it. Clones are the same; any thread may use one.
#[derive(Debug, Clone)]
pub struct Adopter(Arc<Door>);

#[derive(Debug)]
struct Door {
    name: &'static str,
    /// None when the rail is over.
    waiting: Mutex<Option<Vec<(NodeId, OwnedFd)>>>,
    bell: EventFd,
}

impl Adopter {
    /// Gives the rail a connected stream socket, by which the fabric `from` calls it, and nobody else: another one is refused, whatever
    /// it proves. What does not say who it is within 5 s is closed, as is all that waits when the rail is over.
    ///
    /// # Errors
    /// [`Error::Limit`] when too many wait, [`Error::Handle`] when the rail is over.
    pub fn adopt(&self, from: NodeId, socket: OwnedFd) -> Result<(), Refusal> {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.as_mut() else {
            return Err(Refusal::new(Error::Handle, "the rail is over"));
        };
        if waiting.len() >= WAITING_MAX {
            return Err(Refusal::new(Error::Limit, "too many connections wait to be taken"));
        }
        waiting.push((from, socket));
        // An error says that the bell rings already.
        let _ = self.0.bell.write(1);
        Ok(())
    }

    fn take(&self) -> Vec<(NodeId, OwnedFd)> {
        // First the bell: what comes from now on rings again. An error says that it does not ring.
        let _ = self.0.bell.read();
        self.waiting().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The rail is over: closes what waits, and takes nothing more.
    pub(crate) fn close(&self) {
        *self.waiting() = None;
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<(NodeId, OwnedFd)>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TcpRail {
    /// Has peers called by this way from now on, where it leads to them.
    pub fn lead_by(&mut self, way: Arc<dyn Way>) {
        self.way = Some(way);
    }

    /// By which connections are given to this rail, which are of a way of this name.
    ///
    /// # Errors
    /// [`Error::Permission`] where peers are not known by a session, [`Error::System`] when there is no descriptor.
    pub fn adopter(&mut self, name: &'static str) -> Result<Adopter, Refusal> {
        check(&self.config.security)?;
        if let Some(adopter) = &self.adopter {
            return Ok(adopter.clone());
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_flags(flags)
            .map_err(|e| Refusal::new(Error::System, format!("eventfd: {}", e.desc())))?;
        let adopter = Adopter(Arc::new(Door { name, waiting: Mutex::new(Some(Vec::new())), bell }));
        self.watcher.watch(&adopter.0.bell, Watched::Door, READING)?;
        self.watcher.submit();
        self.adopter = Some(adopter.clone());
        Ok(adopter)
    }

    /// The connection by which the fabric of this address is called, if that is not done by its addresses.
    pub(crate) fn by_way(&self, address: &Address) -> Result<Option<Stream>, Refusal> {
        let Some(way) = &self.way else { return Ok(None) };
        let Some(socket) = way.connect(address) else { return Ok(None) };
        check(&self.config.security)?;
        adopted(socket?, way.name()).map(Some)
    }

    /// Takes the connections that were given to the rail.
    pub(crate) fn take_adopted<S: Sink>(&mut self, sink: &mut S) -> usize {
        let Some(adopter) = self.adopter.clone() else { return 0 };
        let sockets = adopter.take();
        let count = sockets.len();
        for (from, socket) in sockets {
            self.stay_awake();
            let readied = adopted(socket, adopter.0.name).and_then(|mut stream| {
                self.config.security.begin_answer(&mut stream)?;
                Ok(stream)
            });
            match readied {
                Ok(stream) => self.hear(None, Visitor::new(stream, None).of(from), sink),
                Err(why) => tracing::warn!(reason = %why.reason, "connection dropped"),
            }
        }
        if let Err(refusal) = self.watcher.watch(&adopter.0.bell, Watched::Door, READING) {
            tracing::warn!(reason = %refusal.reason, "no more connections are taken of others");
        }
        count
    }
}

/// Whoever is on such a way could be anybody.
fn check(security: &Security) -> Result<(), Refusal> {
    match security {
        Security::Session(_) => Ok(()),
        Security::Key(_) | Security::Insecure => {
            let why = "connections that others make need a session (GRIDNET_SESSION)";
            Err(Refusal::new(Error::Permission, why))
        }
    }
}

fn adopted(socket: OwnedFd, way: &'static str) -> Result<Stream, Refusal> {
    let refused = |e: std::io::Error| Refusal::new(Error::Unreachable, format!("{way}: {e}"));
    Stream::adopt(socket, way).map_err(refused)
}
