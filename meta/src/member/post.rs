//! Packets and requests of a member: where they go, and who takes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::sync::{watch, Notify};

use super::lines::LINE;
use super::state::Shared;
use super::Member;
use crate::clock::Moment;
use crate::error::{Error, Refusal};
use crate::handlers::Handlers;
use crate::office::{Call, Office, Tell, ToLine, Told, LIMIT_MAX, REQUEST_BYTES_MAX};
use crate::packet::{Packet, Trail};

/// The service that every member has: it answers with what it was asked.
pub const ECHO: u16 = 0;

/// Whoever answers requests for a service: who asks, and what; the answer, or why there is none.
pub type Handler = Arc<dyn Fn(NodeId, &[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// A service of a member.
#[derive(Clone)]
struct Service {
    handler: Handler,
    /// Whether the handler does not wait, as it is now.
    is_quick: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// An answer, and how it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What was answered.
    pub body: Vec<u8>,
    /// By whom it has come.
    pub trail: Trail,
}

/// Where a packet has come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Here,
    Uplink,
    Below(NodeId),
}

/// What a member asks and answers.
pub(super) struct Post {
    office: Mutex<Office>,
    handlers: Mutex<HashMap<u16, Service>>,
    /// Held from taking packets out of the office until they are in queues: a conversation ends where pieces pass one another.
    /// Nobody takes it who holds the office or the state.
    sending: Mutex<()>,
    /// Turns of those who answer.
    turns: Arc<Handlers>,
    /// The office is to be looked at earlier.
    due: Notify,
}

impl Post {
    pub(super) fn new(office: Office, turns: Arc<Handlers>) -> Post {
        Post {
            office: Mutex::new(office),
            handlers: Mutex::default(),
            sending: Mutex::default(),
            turns,
            due: Notify::new(),
        }
    }

    pub(super) fn office(&self) -> MutexGuard<'_, Office> {
        self.office.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Has it looked at what is due.
    pub(super) fn look_soon(&self) {
        self.due.notify_one();
    }

    fn handlers(&self) -> MutexGuard<'_, HashMap<u16, Service>> {
        self.handlers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Member {
    /// Asks another member for something, over the bootstrap channel, and waits for the answer. The request takes effect once, or
    /// not at all; when there was no answer in time, that is not known. What is asked and answered is sealed between the two.
    ///
    /// `body` has at most 20 KiB, `limit` is at most a minute.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the other, or somebody on the way, says: [`Refusal::NoRoute`] when nobody knows the way,
    /// [`Refusal::Service`] when the other does not answer such requests, [`Refusal::Late`] when no answer came in time, or the way
    /// was lost after the request may have come there: only then it is not known whether it was done.
    /// [`Error::Config`] when it cannot be asked at all.
    pub fn ask(&self, to: NodeId, service: u16, body: &[u8], limit: Duration) -> Result<Answered, Error> {
        let (tell, told) = std::sync::mpsc::sync_channel::<Told>(1);
        self.begin_to_ask(to, (service, body), limit, Box::new(move |outcome| drop(tell.send(outcome))))?;
        // Nobody may poll meanwhile.
        self.rest();
        // The office ends what is late; this is for one whose thread has ended.
        match told.recv_timeout(limit + Duration::from_secs(1)) {
            Ok(Told { outcome, trail }) => outcome.map(|body| Answered { body, trail }),
            Err(_) => Err(Error::Refused(Refusal::Late, "this member has ended".into())),
        }
    }

    /// Asks, and does not wait: `tell` hears what became of it. It must not ask anything of this member.
    pub(super) fn begin_to_ask(
        &self,
        to: NodeId,
        (service, body): (u16, &[u8]),
        limit: Duration,
        tell: Tell,
    ) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::Config(why.to_owned()));
        if to == self.node() {
            return wrong("a member does not ask itself");
        }
        if body.len() > REQUEST_BYTES_MAX || limit > LIMIT_MAX {
            return wrong("a request has at most 20 KiB, and takes at most a minute");
        }
        if self.is_revoked(to) {
            return Err(Error::Refused(Refusal::Revoked, format!("node {to} was revoked")));
        }
        let now = Instant::now();
        self.shared.post.office().ask(to, (service, body.to_vec()), (now, now + limit), tell);
        self.shared.send_all();
        Ok(())
    }

    /// Answers requests for a service from now on; each is done once. The handler runs in a thread of its own, of which there are
    /// four for all members of a driver, and two at most for one that asks: while so many wait, other requests do. When it panics, [`Refusal::Trouble`] is the answer.
    pub fn serve<F>(&self, service: u16, handler: F)
    where
        F: Fn(NodeId, &[u8]) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    {
        let service_of = Service { handler: Arc::new(handler), is_quick: Arc::new(|| false) };
        self.shared.post.handlers().insert(service, service_of);
    }

    /// The same; while `is_quick` says so, the handler is run by whoever hears the request, and must not wait.
    pub(super) fn serve_quickly<F, Q>(&self, service: u16, handler: F, is_quick: Q)
    where
        F: Fn(NodeId, &[u8]) -> Result<Vec<u8>, String> + Send + Sync + 'static,
        Q: Fn() -> bool + Send + Sync + 'static,
    {
        let service_of = Service { handler: Arc::new(handler), is_quick: Arc::new(is_quick) };
        self.shared.post.handlers().insert(service, service_of);
    }
}

/// Answers a request; one who answers and panics has refused it.
fn run(handler: &Handler, call: &Call) -> Result<Vec<u8>, (Refusal, String)> {
    let answer = std::panic::AssertUnwindSafe(|| handler(call.from, &call.body));
    match std::panic::catch_unwind(answer) {
        Ok(answer) => answer.map_err(|why| (Refusal::Other, why)),
        Err(_) => Err((Refusal::Trouble, format!("service {} has failed: it panicked", call.service))),
    }
}

/// Says again what was not answered, until the member is stopped.
pub(super) async fn look_after(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    loop {
        let next = shared.post.office().next_look();
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            () = shared.post.due.notified() => continue,
            () = tokio::time::sleep_until(next.into()) => (),
        }
        shared.post.office().look((Instant::now(), Moment::now()));
        shared.send_all();
    }
}

impl Shared {
    /// Takes a packet that is for this node, or passes it on; whether it could.
    pub(super) fn receive(self: &Arc<Shared>, packet: Packet, origin: Origin) -> bool {
        if packet.to == self.node {
            self.deliver(&packet);
            return true;
        }
        let passed_on = packet.passed_on(self.node).and_then(|packet| self.route(packet, origin));
        let Err((packet, why)) = passed_on else { return true };
        let told = packet.undelivered(self.node, why);
        let back = told.map(|told| match origin {
            Origin::Below(_) => self.route(told, Origin::Uplink),
            Origin::Uplink | Origin::Here => self.route(told, Origin::Here),
        });
        drop(back);
        false
    }

    fn deliver(self: &Arc<Shared>, packet: &Packet) {
        let is_revoked = self.lock().follower.directory().is_revoked(packet.from);
        if self.take_relayed(packet, is_revoked) {
            return;
        }
        let now = (Instant::now(), Moment::now());
        let (calls, answered) = {
            let mut office = self.post.office();
            (office.take(packet, is_revoked, now), office.take_answered())
        };
        calls.into_iter().for_each(|call| self.serve(call));
        self.send_all();
        // Those who answer are there: the next that is asked of them may go a shorter way.
        answered.into_iter().for_each(|node| self.seek_line(node));
    }

    pub(super) fn serve(self: &Arc<Shared>, call: Call) {
        if call.service == ECHO {
            return self.post.office().answer(&call, Ok(call.body.clone()), Instant::now());
        }
        if call.service == LINE {
            let outcome = self.answer_line(call.from, &call.body);
            return self.post.office().answer(&call, outcome, Instant::now());
        }
        let service = self.post.handlers().get(&call.service).cloned();
        let Some(Service { handler, is_quick }) = service else {
            let why = (Refusal::Service, format!("node {} has no service {}", self.node, call.service));
            return self.post.office().answer(&call, Err(why), Instant::now());
        };
        if is_quick() {
            let outcome = run(&handler, &call);
            return self.post.office().answer(&call, outcome, Instant::now());
        }
        let (shared, turns) = (self.clone(), self.post.turns.clone());
        tokio::spawn(async move {
            let turn = tokio::time::timeout_at(call.deadline.into(), turns.turn(call.from)).await;
            // Nobody waits for the answer any more: better not begun.
            let Ok(Some(turn)) = turn else { return };
            tokio::task::spawn_blocking(move || {
                let outcome = run(&handler, &call);
                drop(turn);
                shared.post.office().answer(&call, outcome, Instant::now());
                shared.send_all();
            });
        });
    }

    /// Sends what the office has to say.
    pub(super) fn send_all(&self) {
        let sending = self.post.sending.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            let (packets, to_lines) = {
                let mut office = self.post.office();
                (office.take_packets(), office.take_to_lines())
            };
            if packets.is_empty() && to_lines.is_empty() {
                break;
            }
            for ToLine { line, message } in to_lines {
                if !self.lines.say(line, &message) {
                    self.post.office().line_ended(line, Instant::now());
                }
            }
            for packet in packets {
                if let Err((packet, why)) = self.route(packet, Origin::Here) {
                    self.post.office().undelivered(&packet, why, Instant::now());
                }
            }
        }
        drop(sending);
        // Else it is looked at within some milliseconds, and no thread is woken for it now.
        if !self.lines.attended.looks_after() {
            self.post.look_soon();
        }
    }

    /// Puts a packet into the queue of the next hop.
    pub(super) fn route(&self, packet: Packet, origin: Origin) -> Result<(), (Packet, Refusal)> {
        let state = self.lock();
        let below = state.leading.as_ref().and_then(|leading| leading.members.get(&packet.to));
        let queue = match (below, &state.uplink, origin) {
            (Some(below), ..) => &below.queue,
            (None, Some(uplink), Origin::Here | Origin::Below(_)) => &uplink.queue,
            _ => return Err((packet, Refusal::NoRoute)),
        };
        // What comes from above has had its share there.
        queue.pass(packet, !matches!(origin, Origin::Below(_)))
    }
}

#[cfg(test)]
mod tests;
