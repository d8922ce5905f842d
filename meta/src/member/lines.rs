//! Lines: ways of their own between two members, by which they ask each other without leaders and the rendez-vous node.
//!
//! A line is agreed on over the bootstrap channel once somebody has been asked something ([`LINE`]). It is TLS 1.3 over TCP, both
//! sides certified; between two processes of one user on one host it is a Unix socket, without TLS. Requests go over it while it
//! stands, and over the bootstrap channel otherwise.
//!
//! | file | concept |
//! |---|---|
//! | `stages.rs` | how far each line is, without I/O |
//! | `agree.rs` | how two members agree on one |
//! | `door.rs`, `dial.rs` | the one that is called, and the one that calls |
//! | `run.rs` | a line that stands |
//! | `inside.rs` | the same within a host: how the two come together, and know each other |
//! | `packets.rs` | sockets of packets between two processes of a host |
//! | `direct.rs`, `attended.rs` | a line within a host that stands; those that polling looks at |

mod agree;
pub(super) mod attended;
mod dial;
mod direct;
mod door;
mod inside;
mod packets;
mod run;
mod stages;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridnet_assembly::choice::{self, Span};
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::Reach;
use gridnet_core::wire::NodeId;
use tokio::runtime::Handle;

use super::state::Shared;
use super::Member;
use crate::error::Refusal;
use crate::message::Message;
use crate::rate::Rates;
use attended::Attended;
use direct::Direct;
use packets::knows_users;
use run::Stood;
use stages::{Side, Stages};

/// The service of requests between members by which lines are agreed on.
pub const LINE: u16 = 3;
/// The service by which rules name lines.
pub const META: &str = "meta";

/// Requests for a line that one member may make, per second.
const ASKS_PER_SECOND: u32 = 4;
/// Addresses at which one that waits for a call listens: that towards the rendez-vous node, and that towards the leader.
const PLACES_MAX: usize = 2;

/// How this member asks another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The other one.
    pub node: NodeId,
    /// How far it is.
    pub state: LineState,
}

/// Where the other end of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// There, by TLS over TCP.
    Address(SocketAddr),
    /// In this process of this host and this user, by a Unix socket; 0 for one of another process namespace.
    Process(u32),
}

impl At {
    /// What a line there is made of.
    fn stack(self) -> &'static str {
        match self {
            At::Address(_) => "tls/tcp",
            At::Process(_) => "unix",
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Address(at) => write!(f, "{at}"),
            At::Process(pid) => write!(f, "process {pid}"),
        }
    }
}

/// How far a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineState {
    /// It stands, and requests go over it.
    Up {
        /// What it is made of.
        stack: &'static str,
        /// Where the other one is.
        at: At,
        /// Whether this member has called; otherwise the other one has.
        has_called: bool,
        /// For how long it stands.
        age: Duration,
        /// Requests and answers that went over it, of both.
        messages: u64,
    },
    /// It is being made; requests go over the bootstrap channel.
    Making,
    /// There is none; requests go over the bootstrap channel.
    Bootstrap {
        /// Why there is none.
        why: String,
        /// When it is tried again at the earliest, once something is asked.
        again_in: Duration,
    },
}

impl std::fmt::Display for LineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineState::Up { stack, at, has_called, age, messages } => {
                let by = if *has_called { "called at" } else { "called from" };
                write!(f, "{stack}, {by} {at}, {} s old, {messages} messages", age.as_secs())
            }
            LineState::Making => f.write_str("the bootstrap channel: a line is being made"),
            LineState::Bootstrap { why, again_in } if again_in.is_zero() => {
                write!(f, "the bootstrap channel: {why}")
            }
            LineState::Bootstrap { why, again_in } => {
                write!(
                    f,
                    "the bootstrap channel: {why}; not tried again for {} s",
                    again_in.as_secs_f64().ceil()
                )
            }
        }
    }
}

/// A line that was made.
enum Made {
    Sealed(Box<Stood>),
    Direct(Arc<Direct>),
}

impl From<Stood> for Made {
    fn from(stood: Stood) -> Made {
        Made::Sealed(Box::new(stood))
    }
}

impl From<Direct> for Made {
    fn from(direct: Direct) -> Made {
        Made::Direct(Arc::new(direct))
    }
}

/// The lines of a member.
pub(super) struct Lines {
    stages: Mutex<Stages>,
    /// Who asks for them how often.
    asks: Mutex<Rates<NodeId>>,
    /// None before they are known: then there is no line.
    rules: Mutex<Option<Arc<Rules>>>,
    handle: Handle,
    pub(super) attended: Attended,
    /// As if nobody got in within the host.
    #[cfg(test)]
    blocked: std::sync::atomic::AtomicBool,
}

impl Lines {
    /// What the tasks of lines run on.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn new(handle: Handle) -> Lines {
        Lines {
            stages: Mutex::default(),
            asks: Mutex::new(Rates::new(ASKS_PER_SECOND)),
            rules: Mutex::default(),
            handle,
            attended: Attended::new(),
            #[cfg(test)]
            blocked: Default::default(),
        }
    }

    // What is there is whole, whoever has panicked.
    fn stages(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> MutexGuard<'_, Option<Arc<Rules>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_ask(&self, node: NodeId) -> bool {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).allows(node, Instant::now())
    }

    /// Says something over a line; whether it stands. What finds no room is lost, and said again in time.
    pub(super) fn say(&self, line: (NodeId, u64), message: &Message) -> bool {
        let Ok(bytes) = message.encode() else { return true };
        let direct = self.stages().direct(line);
        if let Some(direct) = direct {
            return direct.say(&bytes);
        }
        self.stages().say(line, bytes)
    }

    /// A member was revoked, or rules allow no line to it any more.
    pub(super) fn end(&self, node: NodeId) {
        self.stages().end(node);
    }

    /// The member ends.
    pub(super) fn end_all(&self) {
        self.stages().close();
    }
}

impl Member {
    /// How this member asks others, of those that it was in touch with lately.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lines.stages().list(Instant::now())
    }

    /// How this member asks another one.
    pub fn line(&self, node: NodeId) -> LineState {
        let known = self.shared.lines.stages().state(node, Instant::now());
        let why = || match self.shared.is_beside(node) {
            true => "it leads there at once",
            false => "it was not asked for anything yet",
        };
        known.unwrap_or_else(|| LineState::Bootstrap { why: why().to_owned(), again_in: Duration::ZERO })
    }
}

impl Shared {
    /// Whether the bootstrap channel to a member leads through nobody else.
    fn is_beside(&self, node: NodeId) -> bool {
        let state = self.lock();
        let is_leader = state.uplink.as_ref().is_some_and(|uplink| uplink.leader == Some(node));
        is_leader || state.leading.as_ref().is_some_and(|leading| leading.members.contains_key(&node))
    }

    /// A member has answered: from now on it is to be asked over a line, if there can be one.
    pub(super) fn seek_line(self: &Arc<Shared>, node: NodeId) {
        let now = Instant::now();
        if !self.about.lines || !self.lines.stages().is_due(node, now) {
            return;
        }
        // What leads there at once already is worth another way within a host only.
        if self.is_beside(node) && !(self.may_be_inside(node) && self.is_near(node)) {
            return;
        }
        let span = match self.span(node) {
            Ok(span) => span,
            Err((_, why)) => return self.lines.stages().refused(node, why, now),
        };
        let Ok(number) = crate::random::word() else { return };
        if self.lines.stages().begin((node, number), Side::Ours, self.node, now).is_err() {
            return;
        }
        let shared = self.clone();
        self.agreed((node, number), async move { shared.make_line((node, number), span).await });
    }

    /// A line is agreed on: has it made, and uses it when it stands.
    fn agreed<Making>(self: &Arc<Shared>, line: (NodeId, u64), making: Making)
    where
        Making: std::future::Future<Output = Result<Made, String>> + Send + 'static,
    {
        let shared = self.clone();
        let task = self.lines.handle.spawn(async move {
            match making.await {
                Ok(made) => shared.line_stands(line, made),
                Err(why) => {
                    tracing::debug!("session: no line to node {}: {why}", line.0);
                    shared.lines.stages().failed(line, why, Instant::now());
                }
            }
        });
        self.lines.stages().made_by(line, task.abort_handle());
    }

    /// A line stands; it is used until it ends.
    fn line_stands(self: &Arc<Shared>, line: (NodeId, u64), made: Made) {
        let ((at, has_called), direct) = match &made {
            Made::Sealed(stood) => ((At::Address(stood.at), stood.has_called), None),
            Made::Direct(direct) => ((At::Process(direct.pid), direct.has_called), Some(direct.clone())),
        };
        // Another one may have been agreed on meanwhile, or the node been revoked.
        if let Err(why) = self.judge_line(line.0, at) {
            return self.lines.stages().failed(line, why, Instant::now());
        }
        let taken = self.lines.stages().stands(line, (at, has_called), direct, Instant::now());
        let Some(queue) = taken else { return };
        tracing::debug!("session: a line to node {} stands, {at}", line.0);
        self.post.office().line_stands(line, Instant::now());
        let shared = self.clone();
        drop(self.lines.handle.spawn(async move {
            shared.send_all();
            let why = match made {
                Made::Sealed(stood) => run::run(&shared, line, *stood, queue).await,
                Made::Direct(direct) => {
                    shared.lines.attended.add(&direct);
                    let why = direct::run(&direct, &shared, queue).await;
                    shared.lines.attended.remove(&direct);
                    why
                }
            };
            tracing::debug!("session: the line to node {} is over: {why}", line.0);
            shared.lines.stages().down(line, why.to_string(), Instant::now());
            shared.post.office().line_ended(line, Instant::now());
            shared.send_all();
        }));
    }

    /// The member has joined: what says nothing of stacks that it offers will not say which rules there are, so that these are the
    /// default.
    pub(super) fn has_joined(&self) {
        if self.about.offer.is_none() {
            self.lines.rules().get_or_insert_default();
        }
    }

    /// These rules are in force: lines end that they do not allow, and those may be made that could not be before.
    pub(super) fn rule_lines(&self, rules: Rules) {
        *self.lines.rules() = Some(Arc::new(rules));
        let up = {
            let mut stages = self.lines.stages();
            stages.anew();
            stages.up()
        };
        for (node, at) in up {
            if self.judge_line(node, at).is_err() {
                self.lines.end(node);
            }
        }
    }

    /// Whether a line that stands may stay. One to a member that is not there for others any more may.
    fn may_stay(&self, node: NodeId, at: At) -> Result<(), String> {
        match self.facts(node) {
            Some(_) => self.judge_line(node, at),
            None => Ok(()),
        }
    }

    /// Whether there may be a line to a member that is there.
    fn judge_line(&self, node: NodeId, at: At) -> Result<(), String> {
        match (self.span(node), at) {
            (Ok(Span::Host), At::Address(at)) if !at.ip().is_loopback() => {
                Err("the rules allow a line within a host only".to_owned())
            }
            (Ok(_), At::Process(_)) if !self.may_be_inside(node) => {
                Err("the rules allow no line without TLS".to_owned())
            }
            (Ok(_), _) => Ok(()),
            (Err((_, why)), _) => Err(why),
        }
    }

    /// Whether rules of this side allow a line without TLS to a member that is there, if it is a process of this host and user.
    fn may_be_inside(&self, node: NodeId) -> bool {
        let (rules, other) = (self.lines.rules().clone(), self.facts(node));
        let (Some(rules), Some(other), Ok(service)) = (rules, other, META.parse()) else { return false };
        self.about.lines && knows_users() && choice::line_inside(&rules, &self.own_facts(), &other, &service)
    }

    /// Whether a member says of itself that it is of this host, and of this user where it says of which.
    fn is_near(&self, node: NodeId) -> bool {
        let Some(other) = self.facts(node) else { return false };
        let own = self.own_facts();
        match other.offer.host.is_some() {
            true => own.reach(&other) == Reach::SameUser,
            // Its cluster is that of the host.
            false => other.cluster == own.cluster && Some(&own.cluster) == self.lock().host.as_ref(),
        }
    }

    /// How far a line to a member may lead, by the rules of this side.
    ///
    /// # Errors
    /// Why there is to be none.
    fn span(&self, node: NodeId) -> Result<Span, (Refusal, String)> {
        if !self.about.lines {
            return Err((Refusal::Other, "this member has no lines".to_owned()));
        }
        if self.lock().follower.directory().is_revoked(node) {
            return Err((Refusal::Revoked, format!("node {node} was revoked")));
        }
        let rules = self.lines.rules().clone();
        let rules = rules.ok_or((Refusal::Other, "rules are not known yet".to_owned()))?;
        let other = self.facts(node).ok_or((Refusal::Other, "not in the directory".to_owned()))?;
        let service = META.parse().map_err(|why| (Refusal::Trouble, why))?;
        match choice::line(&rules, &self.own_facts(), &other, &service) {
            Span::Nowhere => Err((Refusal::Other, "the rules allow no other way".to_owned())),
            span => Ok(span),
        }
    }

    /// Where this member may listen for a call from this host, or from others.
    fn places(&self, is_same_host: bool) -> Vec<IpAddr> {
        if is_same_host {
            return vec![Ipv4Addr::LOCALHOST.into()];
        }
        let own = self.lock().own;
        let mut places: Vec<IpAddr> = own.into_iter().flatten().collect();
        places.retain(|ip| !ip.is_loopback() && !ip.is_unspecified());
        places.dedup();
        places.truncate(PLACES_MAX);
        places
    }
}

#[cfg(test)]
mod tests;
