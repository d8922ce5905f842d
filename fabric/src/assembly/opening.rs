//! The fabric's part: opens addresses that were agreed on, tells how that went, and completes.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use gridnet_core::completion::{Completion, OpKind};
use gridnet_core::endpoint::{Candidate, CqId, Engine, PeerState, ACCEPTED};
use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Rail, Refusal};
use gridnet_core::wire::{Address, NodeId};
use gridnet_meta::member::{Assembler, Passage, Wanted};

use super::desk::{AskedBy, Call, Desk, Ended, Wish, Work};
use super::edges::Edges;
use super::gate::allowed;
use super::lookout::Lookout;
use super::requirements::{is_more, Requirements};
use super::{PLAIN, RELAY};
use crate::config::KNOWN_RAILS;
use crate::fabric::Fabric;
use crate::rails::AnyRail;

/// How long agreeing takes at most, whatever was asked for.
const LIMIT_MAX: Duration = Duration::from_secs(60);

/// An address that is being opened.
#[derive(Debug)]
pub(crate) struct Calling {
    peer: PeerId,
    rail: &'static str,
    chosen: String,
    deadline: Instant,
    /// The peer is reached through the bootstrap tree, and is called to be moved.
    moves: bool,
    tell: Sender<Result<(PeerId, &'static str), String>>,
}

impl Fabric {
    /// Begins to open an endpoint to the fabric that is this node of the session, over the first stack that the rules of both
    /// sides allow and that comes up. At most `limit` (a minute at most) later there is a completion in `cq`, of kind
    /// [`OpKind::Open`]: with status 0 its source is the peer, to be opened by [`Engine::open_known`]; otherwise
    /// [`Self::node_story`] has all reasons.
    ///
    /// # Errors
    /// [`Error::Config`] when the fabric has joined no session; [`Error::Handle`] without such a queue, [`Error::Again`] when
    /// that is full; [`Error::System`] when there are no threads.
    pub fn open_node(
        &mut self,
        cq: CqId,
        node: NodeId,
        limit: Duration,
        context: u64,
    ) -> Result<(), Refusal> {
        self.open_node_for(cq, node, &Requirements::of_fabric()?, limit, context)
    }

    /// As [`Self::open_node`], for a service of the node, and at least so safe, now and as long as the conversation lasts. One that is there
    /// already over less is not used, nor replaced: it has to end before.
    ///
    /// # Errors
    /// As [`Self::open_node`].
    pub fn open_node_for(
        &mut self,
        cq: CqId,
        node: NodeId,
        requirements: &Requirements,
        limit: Duration,
        context: u64,
    ) -> Result<(), Refusal> {
        self.begin_to_open(cq, (node, requirements.wanted()), limit, (context, 0))
    }

    /// The same, with this context and this tag in the completion.
    pub(super) fn begin_to_open(
        &mut self,
        cq: CqId,
        (node, wanted): (NodeId, Wanted),
        limit: Duration,
        (context, tag): (u64, u64),
    ) -> Result<(), Refusal> {
        self.membership()?;
        let queue = self.engine.cq(cq).filter(|queue| !queue.is_closed());
        let queue = queue.ok_or_else(|| Refusal::new(Error::Handle, "no such completion queue"))?;
        if !queue.reserve() {
            return Err(Refusal::new(Error::Again, "the completion queue is full"));
        }
        let asked_by = AskedBy::Program(cq, context, tag);
        let deadline = Instant::now() + limit.min(LIMIT_MAX);
        let is_edge = !is_more(&wanted);
        let wish = Wish { node, wanted, deadline, asked_by, begun: None };
        if node == self.engine.local().node {
            return self.open_own(&wish);
        }
        let begun = match &mut self.membership {
            Some(membership) => membership.want(wish).map(|()| {
                if is_edge {
                    membership.edges.begun(node);
                }
            }),
            None => Ok(()),
        };
        // What there is to be asked is asked with the next round.
        self.look_soon();
        begun.inspect_err(|_| {
            if let Some(queue) = self.engine.cq(cq) {
                queue.unreserve();
            }
        })
    }

    /// The fabric itself: nothing is to be agreed on.
    fn open_own(&mut self, wish: &Wish) -> Result<(), Refusal> {
        let own = *self.engine.local();
        let outcome = self.engine.open(&own);
        if let (Err(why), Some(membership)) = (&outcome, &self.membership) {
            membership.desk().tell_of(wish.node, vec![why.reason.clone()]);
        }
        complete(&mut self.engine, wish, outcome.map_err(|why| why.error));
        Ok(())
    }

    /// How the last endpoint to a node came about, or why it did not: lines for people. Nothing for a node that was never
    /// asked for, and has not asked. The last line says by which way the two members ask each other.
    pub fn node_story(&self, node: NodeId) -> Option<Vec<String>> {
        let rail = self.engine.find(node).and_then(|peer| self.engine.rail_name(peer));
        let membership = self.membership.as_ref()?;
        let story = membership.desk().story(node, rail)?;
        let asked = membership.line(node).map(|line| format!("requests to the node go over {line}"));
        Some(story.into_iter().chain(asked).collect())
    }
}

/// Does what lies on the desk; how much happened. Called with each look at descriptors.
pub(crate) fn tend(
    engine: &mut Engine<AnyRail>,
    desk: &Desk,
    calling: &mut Vec<Calling>,
    (assembler, lookout, edges): (Option<&Assembler>, &mut Lookout, &mut Edges),
    ended: Vec<Ended>,
) -> usize {
    for node in engine.take_departed() {
        desk.gone(node);
        edges.gone(node);
    }
    if !desk.is_busy() && calling.is_empty() && ended.is_empty() {
        return 0;
    }
    // To take it asks the system.
    let work = if desk.is_busy() { desk.take() } else { Work::default() };
    let mut happened = work.calls.len() + work.ended.len() + ended.len();
    for call in work.calls {
        calling.extend(open_call(engine, call));
    }
    let before = calling.len();
    calling.retain(|call| !settle(engine, call));
    happened += before - calling.len();
    for peer in work.unused {
        engine.close(peer);
    }
    for mut ended in work.ended.into_iter().chain(ended) {
        let node = ended.wish.node;
        if matches!(ended.wish.asked_by, AskedBy::Program(..)) {
            ended.outcome =
                ended.outcome.and_then(|peer| confine(engine, assembler, (desk, &ended.wish), peer));
            // What was asked for with more may fail where an edge does not.
            if !is_more(&ended.wish.wanted) {
                edges.ended(node, ended.outcome);
            }
        }
        match (ended.wish.asked_by, ended.outcome) {
            (AskedBy::Lookout, _) => lookout.ended(node, Instant::now()),
            // Where it ends with its link, there is nothing to be looked for.
            (AskedBy::Program(..), Ok(peer)) if engine.can_move(peer) => {
                lookout.add(&ended.wish, peer, engine.rail_name(peer), Instant::now());
            }
            (AskedBy::Program(..), _) => {}
        }
        complete(engine, &ended.wish, ended.outcome);
    }
    happened
}

/// An endpoint that was asked for with requirements goes on only where they are met, whatever becomes of its link.
fn confine(
    engine: &mut Engine<AnyRail>,
    assembler: Option<&Assembler>,
    (desk, wish): (&Desk, &Wish),
    peer: PeerId,
) -> Result<PeerId, Error> {
    let Some(assembler) = assembler.filter(|_| is_more(&wish.wanted)) else { return Ok(peer) };
    let (service, least) = (wish.wanted.service.as_str(), wish.wanted.min_security);
    let rails: Vec<&'static str> = engine.rails().iter().map(|rail| rail.name()).collect();
    let Some((user, present)) = engine.reached_by(peer) else { return Err(Error::NotFound) };
    let passage = Passage { other: wish.node, user, is_called: false, service, least };
    match allowed(assembler, &passage, &rails, present) {
        Ok(rails) => {
            engine.confine(peer, rails);
            Ok(peer)
        }
        Err(denied) => {
            let why = format!("service {service}, {} at least: {}", least.name(), denied.why);
            desk.tell_of(wish.node, vec![format!("no endpoint to node {}:", wish.node), why]);
            engine.close(peer);
            Err(Error::Permission)
        }
    }
}

/// Opens an address; nothing when that cannot be, and who has asked knows.
pub(super) fn open_call(engine: &mut Engine<AnyRail>, call: Call) -> Option<Calling> {
    let Call { address, preface, rail, stack, security, deadline, tell } = call;
    let opened = match sealed_peer(engine, &address).filter(|_| rail == PLAIN) {
        // Its link is not to be made again where frames are plain.
        Some(peer) => engine.open_known(peer).map_err(|error| Refusal::new(error, error.text())),
        None => match preface {
            Some(preface) => engine.open_unheard(&address, rail, preface),
            None => engine.open_over(&address, rail),
        },
    };
    let opened = opened.and_then(|peer| {
        // What others have agreed on for the same conversation may be safer than plain.
        let moves = rail != RELAY && rail != PLAIN && is_relayed(engine, peer);
        match moves.then(|| engine.call_over(peer, rail, &address)) {
            Some(Err(refusal)) => {
                engine.close(peer);
                Err(refusal)
            }
            _ => Ok((peer, moves)),
        }
    });
    match opened {
        Ok((peer, moves)) => {
            let chosen = format!("stack {stack}, {}, was agreed on", security.name());
            Some(Calling { peer, rail, chosen, deadline, moves, tell })
        }
        Err(refusal) => {
            // Who has asked may not wait any more.
            let _ = tell.send(Err(refusal.reason));
            None
        }
    }
}

/// The peer at an address, if there is a conversation with it already that is not plain.
fn sealed_peer(engine: &Engine<AnyRail>, address: &Address) -> Option<PeerId> {
    let peer = engine.find(address.node)?;
    let is_it = matches!(engine.peer(peer), Ok((_, incarnation, _, _)) if incarnation == address.incarnation);
    (is_it && engine.rail_name(peer) != Some(PLAIN)).then_some(peer)
}

/// Whether frames flow to a peer through the bootstrap tree.
fn is_relayed(engine: &Engine<AnyRail>, peer: PeerId) -> bool {
    let is_up = matches!(engine.peer(peer), Ok((_, _, PeerState::Up, _)));
    is_up && engine.rail_name(peer) == Some(RELAY)
}

/// Tells how a call went, when that is known; whether it is.
fn settle(engine: &mut Engine<AnyRail>, call: &Calling) -> bool {
    let state = match engine.peer(call.peer) {
        Ok((_, _, state, _)) => state.clone(),
        Err(error) => PeerState::Gone(Refusal::new(error, error.text())),
    };
    let outcome = match state {
        PeerState::Up => match engine.rail_name(call.peer) {
            Some(rail) if rail == call.rail => Ok((call.peer, rail)),
            // Safer than was asked for.
            Some(rail @ "tcp") if call.rail == PLAIN => Ok((call.peer, rail)),
            Some(_) if call.moves && engine.is_calling(call.peer) && Instant::now() < call.deadline => {
                return false
            }
            Some(_) if call.moves => {
                // Else it might move after all, while it is told that it does not.
                engine.cancel_call(call.peer);
                let why = engine.why_not_called(call.peer).map(|why| why.reason.clone());
                Err(why.unwrap_or_else(|| "it did not come up in time".into()))
            }
            rail => {
                Err(format!("there is a conversation with it already, over rail {}", rail.unwrap_or("none")))
            }
        },
        PeerState::Gone(why) => Err(why.reason),
        PeerState::Connecting | PeerState::Broken(_) if Instant::now() < call.deadline => return false,
        PeerState::Connecting | PeerState::Broken(_) => Err("it did not come up in time".into()),
    };
    let is_up = outcome.is_ok();
    if is_up {
        note(engine, call.peer, call);
    }
    // Who has asked may not wait any more.
    let is_told = call.tell.send(outcome).is_ok();
    match (is_up, is_told) {
        (true, true) => {}
        (true, false) => engine.close(call.peer),
        // No link is to come of it that nobody has asked for any more.
        (false, _) => engine.abandon(call.peer),
    }
    true
}

/// Notes for people why the peer has its rail.
fn note(engine: &mut Engine<AnyRail>, peer: PeerId, call: &Calling) {
    let others = engine.rails().iter().map(|rail| rail.name()).filter(|name| *name != call.rail);
    let others = others.filter(|name| [RELAY, PLAIN].contains(name) || KNOWN_RAILS.contains(name));
    let why = Err("the stack that was agreed on does not have it".to_owned());
    let mut candidates: Vec<Candidate> =
        others.map(|rail| Candidate { rail, verdict: why.clone() }).collect();
    candidates.insert(0, Candidate { rail: ACCEPTED, verdict: Err(call.chosen.clone()) });
    engine.note_choice(peer, candidates);
}

fn complete(engine: &mut Engine<AnyRail>, wish: &Wish, outcome: Result<PeerId, Error>) {
    let AskedBy::Program(cq, context, tag) = wish.asked_by else {
        return outcome.into_iter().for_each(|peer| engine.close(peer));
    };
    let completion = Completion {
        context,
        length: 0,
        tag,
        immediate: 0,
        op: 0,
        status: outcome.err().map_or(0, Error::code),
        source: outcome.map_or(0, PeerId::number),
        kind: OpKind::Open as u32,
        flags: 0,
    };
    engine.complete(cq, completion);
    if let Ok(peer) = outcome {
        // The link stays for the handle that the program makes of it.
        engine.close(peer);
    }
}
