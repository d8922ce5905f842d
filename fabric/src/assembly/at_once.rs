//! Endpoints to nodes of this host with which there is a line: they are agreed on by whoever polls the fabric, and no other thread is
//! waited for.
//!
//! Where memory in common does not do, a thread goes on with what was begun.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::Arc;
use std::time::Instant;

use gridnet_assembly::call::Path;
use gridnet_assembly::Builder;
use gridnet_core::endpoint::Engine;
use gridnet_core::rail::PeerId;
use gridnet_meta::member::{Assembler, Bell, LineState, Member, Need, Pending};

use super::builder::rail_of;
use super::desk::{AskedBy, Call, Desk, Ended, Wish};
use super::opening::{open_call, Calling};
use super::worker::settle;
use crate::rails::AnyRail;

/// Hears how a call went: the peer, and the rail by which it is reached.
type Told = Receiver<Result<(PeerId, &'static str), String>>;

/// What is noted of one.
const WAY: &str = "agreed on by the program's own calls, over a line within the host";

/// Those that are being agreed on. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct AtOnce(Vec<One>);

#[derive(Debug)]
struct One {
    wish: Wish,
    pending: Pending,
    /// The path that is being made, and what will be said of it.
    making: Option<(Path, Told)>,
    /// The one that stands.
    stands: Option<Path>,
    /// The other side was asked, and what can be done meanwhile was begun.
    is_foreseen: bool,
}

/// How far one is.
enum Step {
    Waits,
    Ended(Ended),
    /// A thread is to go on, with this path first.
    Hand(Box<Path>),
}

impl AtOnce {
    /// Begins to agree, if it can be done so; else the wish is for a thread.
    pub(crate) fn begin(
        &mut self,
        (member, assembler): (&Member, &Assembler),
        desk: &Arc<Desk>,
        wish: Wish,
    ) -> Option<Wish> {
        let is_near = |state| matches!(state, LineState::Up { stack: "unix", .. });
        // Rules of another host's file are looked at by a thread that may wait.
        let is_quick = Builder::is_quick(&**desk) && matches!(wish.asked_by, AskedBy::Program(..));
        if !is_quick || !is_near(member.line(wish.node)) {
            return Some(wish);
        }
        let (wanted, of_bell) = (wish.wanted.clone(), desk.clone());
        let bell: Bell = Arc::new(move || of_bell.ring());
        let limit = wish.deadline.saturating_duration_since(Instant::now());
        match assembler.begin(wish.node, wanted, limit, bell) {
            Ok(pending) => {
                self.0.push(One { wish, pending, making: None, stands: None, is_foreseen: false });
                // A thread that sleeps is to go on with it, and to know its times.
                desk.ring();
                None
            }
            // A thread waits for its turn, and says what cannot be.
            Err(_) => Some(wish),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does what there is to do; what has ended, and what a thread is to go on with.
    pub(crate) fn step(
        &mut self,
        engine: &mut Engine<AnyRail>,
        desk: &Desk,
        calling: &mut Vec<Calling>,
    ) -> (Vec<Ended>, Vec<Wish>) {
        let (mut ended, mut handed) = (Vec::new(), Vec::new());
        for mut one in std::mem::take(&mut self.0) {
            match one.step(engine, desk, calling) {
                Step::Waits => self.0.push(one),
                Step::Ended(outcome) => ended.push(outcome),
                Step::Hand(path) => {
                    handed.push(Wish { begun: Some(Box::new((one.pending, *path))), ..one.wish });
                }
            }
        }
        (ended, handed)
    }

    /// When to look again if nothing happens.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.0.iter().filter_map(|one| one.pending.next_look()).min()
    }

    /// Whoever polls goes to sleep.
    pub(crate) fn rest(&mut self) {
        self.0.iter_mut().for_each(|one| one.pending.rest());
    }

    /// Ends all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl One {
    fn step(&mut self, engine: &mut Engine<AnyRail>, desk: &Desk, calling: &mut Vec<Calling>) -> Step {
        loop {
            self.hear(desk);
            match self.pending.need() {
                None => {
                    self.foresee(engine);
                    return Step::Waits;
                }
                Some(Need::Connect(path)) => match desk.way(self.wish.node, &path) {
                    Ok((rail @ "shm", address)) if self.making.is_none() => {
                        let (tell, told) = std::sync::mpsc::channel();
                        let (stack, security) = (path.stack.clone(), path.security);
                        let deadline = self.wish.deadline;
                        calling.extend(open_call(
                            engine,
                            Call { address, preface: None, rail, stack, security, deadline, tell },
                        ));
                        self.making = Some((path, told));
                    }
                    _ => return Step::Hand(Box::new(path)),
                },
                Some(Need::Close(number)) => self.close(number, engine, desk),
                Some(Need::Nothing(outcome)) => {
                    let outcome = settle(desk, &self.wish, outcome.map(|agreed| *agreed), Some(WAY));
                    return Step::Ended(Ended { wish: self.wish.anew(), outcome });
                }
            }
        }
    }

    /// Begins what needs no answer, while that is on its way.
    fn foresee(&mut self, engine: &mut Engine<AnyRail>) {
        if std::mem::replace(&mut self.is_foreseen, true) || self.making.is_some() {
            return;
        }
        if self.pending.first_choice().is_some_and(|stack| rail_of(stack) == Ok("shm")) {
            engine.foresee(self.wish.node, "shm");
        }
    }

    /// Says how the path went that was being made, when that is known.
    fn hear(&mut self, desk: &Desk) {
        let Some((path, told)) = self.making.take() else { return };
        let outcome = match told.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Empty) => return self.making = Some((path, told)),
            Err(TryRecvError::Disconnected) => Err("the fabric is closing".to_owned()),
        };
        let number = path.number;
        if let Ok((peer, _)) = outcome {
            desk.stands(self.wish.node, &path, peer);
            self.stands = Some(path);
        }
        self.pending.connected(number, outcome.map(drop));
    }

    fn close(&mut self, number: u32, engine: &mut Engine<AnyRail>, desk: &Desk) {
        // Nobody hears how it went: then it is closed.
        self.making.take_if(|(path, _)| path.number == number);
        let stood = self.stands.take_if(|path| path.number == number);
        let peer = stood.and_then(|path| desk.take_path(self.wish.node, &path));
        peer.into_iter().for_each(|peer| engine.close(peer));
    }
}
