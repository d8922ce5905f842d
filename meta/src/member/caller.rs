//! One call for a connection: what it hears, and what there is to do; on the thread that waits for it, or for one who does not wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gridnet_assembly::call::{Action, Call, Path};
use gridnet_assembly::stack::Stack;
use gridnet_assembly::Builder;
use gridnet_core::sync::Ordering;
use gridnet_core::wire::NodeId;
use tokio::task::AbortHandle;

use super::assemble::{Agreed, Inner, NoPath, Wanted, ASSEMBLY};
use super::state::Shared;
use super::turn::Turn;
use crate::error::{Error, Refusal};
use crate::office::Told;

/// Tells one who does not wait that there is something to do. It must not ask anything of the member.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// What a call hears.
pub(super) enum Heard {
    Answer(Result<Vec<u8>, Error>),
    Path(u32, Result<(), String>),
    Closed,
}

/// The paths of a call that are wanted, by number, and whether each stands.
#[derive(Default)]
struct Wanting(Mutex<BTreeMap<u32, (Path, bool)>>);

impl Wanting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, (Path, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, path: Path) {
        self.lock().insert(path.number, (path, false));
    }

    fn connect(&self, builder: &dyn Builder, to: NodeId, path: &Path, by: Instant) -> Result<(), String> {
        let outcome = builder.connect(to, path, by);
        let is_wanted = match self.lock().get_mut(&path.number) {
            Some((_, stands)) => {
                *stands = outcome.is_ok();
                true
            }
            None => false,
        };
        if outcome.is_ok() && !is_wanted {
            builder.disconnect(to, path);
        }
        outcome
    }

    /// Ends one. What does not stand yet ends when it does.
    fn end(&self, builder: &dyn Builder, to: NodeId, number: u32) {
        let ended = self.lock().remove(&number);
        if let Some((path, true)) = ended {
            builder.disconnect(to, &path);
        }
    }
}

/// See the [module](self).
pub(super) struct Caller {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
    call: Call,
    deadline: Instant,
    paths: Arc<Wanting>,
    tell: Sender<Heard>,
    told: Receiver<Heard>,
    bell: Option<Bell>,
    /// By which others know it.
    number: u64,
    _turn: Turn,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.inner.callers().as_mut().and_then(|callers| callers.remove(&self.number));
    }
}

impl Caller {
    /// Begins one, which has until the first time, and waits for its turn until the other.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        (to, wanted): (NodeId, Wanted),
        (deadline, turn_by): (Instant, Instant),
        bell: Option<Bell>,
    ) -> Result<(Caller, Vec<Action>), NoPath> {
        let late = |why: &str| NoPath::Session(Error::Refused(Refusal::Late, why.into()));
        let gone = || late("this member has ended");
        let shared = inner.shared.upgrade().ok_or_else(gone)?;
        let turn = inner.turns.wait(to, turn_by);
        let turn = turn.ok_or_else(|| late("others connect there, and had the turn"))?;
        let now = Instant::now();
        let wish = inner.wish(&shared, to, wanted, deadline)?;
        let (call, actions) = Call::begin(wish, (inner.incarnation, turn.number), &mut inner.cache(), now);
        let (tell, told) = std::sync::mpsc::channel();
        // Relaxed: a number that nobody else has.
        let number = inner.last_caller.fetch_add(1, Ordering::Relaxed);
        inner.callers().as_mut().ok_or_else(gone)?.insert(number, tell.clone());
        let (inner, paths) = (inner.clone(), Arc::default());
        Ok((Caller { inner, shared, call, deadline, paths, tell, told, bell, number, _turn: turn }, actions))
    }

    /// Goes on until it is over, on this thread.
    pub(super) fn run(mut self, mut actions: Vec<Action>) -> Result<Agreed, NoPath> {
        loop {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Up(path) => return Ok(self.agreed(*path)),
                    Action::Failed(why) => return Err(NoPath::Stacks(why)),
                    Action::Say(body) => self.say(body),
                    Action::Connect(path) => self.connect(path),
                    Action::Close(number) => {
                        self.paths.end(&*self.inner.builder, self.call.to(), number);
                    }
                }
            }
            let next = self.call.next_look().unwrap_or(self.deadline);
            let heard = self.told.recv_timeout(next.saturating_duration_since(Instant::now()));
            actions = match heard {
                Ok(heard) => self.hear(heard),
                Err(_) => self.call.look(Instant::now()),
            };
        }
    }

    fn agreed(&self, path: Path) -> Agreed {
        Agreed { path, failure: self.call.failure().clone() }
    }

    fn hear(&mut self, heard: Heard) -> Vec<Action> {
        let now = Instant::now();
        let mut cache = self.inner.cache();
        match heard {
            Heard::Answer(Ok(body)) => self.call.heard(&body, &mut cache, now),
            Heard::Path(number, outcome) => self.call.connected(number, outcome, &mut cache, now),
            Heard::Answer(Err(why)) => match why {
                Error::Refused(Refusal::Service, _) => self.call.unserved(&why.to_string(), &mut cache, now),
                // Nothing that is asked later would be heard.
                Error::Refused(Refusal::Revoked, _) | Error::Config(_) => {
                    self.call.give_up(&why.to_string(), &mut cache)
                }
                _ => {
                    self.call.lost(&why.to_string());
                    Vec::new()
                }
            },
            Heard::Closed => self.call.give_up("this side is closing", &mut cache),
        }
    }

    /// Asks the other member, until it would be asked again.
    fn say(&self, body: Vec<u8>) {
        let now = Instant::now();
        let until = self.call.next_look().unwrap_or(self.deadline).max(now);
        let (tell, bell) = (self.tell.clone(), self.bell.clone());
        let tell = Box::new(move |Told { outcome, .. }| {
            drop(tell.send(Heard::Answer(outcome)));
            bell.iter().for_each(|bell| bell());
        });
        self.shared.post.office().ask(self.call.to(), (ASSEMBLY, body), (now, until), tell);
        self.shared.send_all();
    }

    /// Connects. Where somebody may say meanwhile that it leads elsewhere, another thread does.
    fn connect(&self, path: Path) {
        let (to, deadline, number) = (self.call.to(), self.deadline, path.number);
        self.paths.add(path.clone());
        let (builder, paths, tell) = (self.inner.builder.clone(), self.paths.clone(), self.tell.clone());
        let is_again = path.again.is_some();
        let connect = move || {
            let outcome = paths.connect(&*builder, to, &path, deadline);
            drop(tell.send(Heard::Path(number, outcome)));
        };
        if !is_again {
            return connect();
        }
        let mut beside = self.inner.beside();
        let Some(beside) = beside.as_mut() else {
            return drop(self.tell.send(Heard::Path(number, Err("this side is closing".to_owned()))));
        };
        beside.retain(|thread| !thread.is_finished());
        match std::thread::Builder::new().name("gridnet-connect".into()).spawn(connect) {
            Ok(thread) => beside.push(thread),
            Err(why) => drop(self.tell.send(Heard::Path(number, Err(format!("no thread: {why}"))))),
        }
    }
}

/// What is wanted of one who does not wait.
#[derive(Debug)]
pub enum Need {
    /// To make this path, and to say by [`Pending::connected`] how that went.
    Connect(Path),
    /// To end the path of this number, whether it stands or is being made.
    Close(u32),
    /// Nothing more: the connection stands, by the path that was made, or does not.
    Nothing(Result<Box<Agreed>, NoPath>),
}

/// A connection that is being agreed on by one who does not wait.
pub struct Pending {
    caller: Caller,
    actions: VecDeque<Action>,
    alarm: Option<Alarm>,
}

/// Rings when a time has come: who sleeps on nothing but the bell learns it, too.
struct Alarm(AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({})", self.caller.call.to())
    }
}

impl Pending {
    pub(super) fn new(caller: Caller, actions: Vec<Action>) -> Pending {
        Pending { caller, actions: actions.into(), alarm: None }
    }

    /// Whoever asks goes to sleep: from now on the bell rings at the deadline, too, as who sleeps on nothing else has to be woken.
    pub fn rest(&mut self) {
        let (None, Some(bell)) = (&self.alarm, self.caller.bell.clone()) else { return };
        let until = self.caller.deadline;
        let rings = async move {
            tokio::time::sleep_until(until.into()).await;
            bell();
        };
        self.alarm = Some(Alarm(self.caller.shared.lines.handle().spawn(rings).abort_handle()));
    }

    /// What is wanted now, if anything. To be asked until it is nothing.
    pub fn need(&mut self) -> Option<Need> {
        loop {
            let Some(action) = self.actions.pop_front() else {
                let now = Instant::now();
                let more = match self.caller.told.try_recv() {
                    Ok(heard) => self.caller.hear(heard),
                    Err(_) if self.caller.call.next_look().is_some_and(|at| at <= now) => {
                        self.caller.call.look(now)
                    }
                    Err(_) => return None,
                };
                self.actions.extend(more);
                continue;
            };
            return Some(match action {
                Action::Say(body) => {
                    self.caller.say(body);
                    continue;
                }
                Action::Connect(path) => Need::Connect(path),
                Action::Close(number) => Need::Close(number),
                Action::Up(path) => Need::Nothing(Ok(Box::new(self.caller.agreed(*path)))),
                Action::Failed(why) => Need::Nothing(Err(NoPath::Stacks(why))),
            });
        }
    }

    /// The stack that is asked for first.
    pub fn first_choice(&self) -> Option<&Stack> {
        self.caller.call.first_choice()
    }

    /// How the path of this number went.
    pub fn connected(&mut self, number: u32, outcome: Result<(), String>) {
        let more = self.caller.hear(Heard::Path(number, outcome));
        self.actions.extend(more);
    }

    /// When [`Self::need`] is to be asked if nothing happens.
    pub fn next_look(&self) -> Option<Instant> {
        self.caller.call.next_look()
    }

    /// Goes on on this thread, which waits, with a path that was wanted and that the builder makes.
    ///
    /// # Errors
    /// As [`Assembler::agree`](super::Assembler::agree).
    pub fn run(self, first: Path) -> Result<Agreed, NoPath> {
        let Pending { mut caller, actions, alarm: _alarm } = self;
        caller.bell = None;
        caller.run([Action::Connect(first)].into_iter().chain(actions).collect())
    }
}
