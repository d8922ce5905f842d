//! Endpoints by node id between two fabrics of this host, both polling.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::LIMIT;
use crate::failure::Failure;
use gridnet::config::Config;
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{CqId, SendArgs};
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::core::wire::NodeId;
use gridnet::{Shared, ThreadLevel};
use gridnet_meta::member::LineState;

/// How long both poll before it is measured: some turns of the scheduler.
const SETTLES: Duration = Duration::from_millis(30);

/// One fabric, which opens endpoints to others.
pub(super) struct Fabrics {
    config: Vec<(String, String)>,
    own: Arc<Shared>,
    cq: CqId,
}

fn refused(refusal: Refusal) -> Failure {
    Failure::Run(refusal.reason)
}

fn unusable(error: gridnet::core::error::Error) -> Failure {
    Failure::Run(error.text().to_owned())
}

impl Fabrics {
    pub(super) fn open(ticket: &Path) -> Result<Fabrics, Failure> {
        let ticket = std::path::absolute(ticket)?.to_string_lossy().into_owned();
        let config = vec![("GRIDNET_SESSION".to_owned(), ticket)];
        let own = open(&config)?;
        let cq = own.enter().map_err(unusable)?.engine.create_cq(64);
        Ok(Fabrics { config, own, cq })
    }

    /// How long it takes until a first word has come by an endpoint to a fabric that nothing was ever agreed on with; where it is
    /// `warm`, the two have a line already over which they ask each other.
    pub(super) fn open_other(&self, warm: bool) -> Result<Duration, Failure> {
        let other = open(&self.config)?;
        let node = other.enter().map_err(unusable)?.address().node;
        self.knows(node)?;
        if warm {
            self.warm(&other, node)?;
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let hears = scope.spawn(|| hear(&other, &over));
            self.settle();
            let begun = Instant::now();
            let told = self.begin(node).and_then(|peer| self.say(peer));
            // One that will hear nothing ends all the same.
            over.store(told.is_err(), Ordering::Relaxed);
            let arrived = hears.join().map_err(|_| Failure::Run("a thread has failed".into()))?;
            told.and(arrived).map(|at| at.duration_since(begun))
        })
    }

    /// Waits until the directory has it, where it stays: below the leader of this host.
    fn knows(&self, node: NodeId) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            let nodes = self.own.enter().map_err(unusable)?.nodes().map_err(refused)?;
            if nodes.iter().any(|entry| entry.node == node && entry.via.is_some()) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Err(Failure::Run("the directory does not have the other fabric".into()))
    }

    /// Waits until both ask each other over a line.
    fn warm(&self, other: &Shared, node: NodeId) -> Result<(), Failure> {
        let own = self.own.enter().map_err(unusable)?.address().node;
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            let is_up = |from: &Shared, to| -> Result<bool, Failure> {
                let state = from.enter().map_err(unusable)?.ask_node(to, LIMIT).map_err(refused)?;
                Ok(matches!(state, LineState::Up { .. }))
            };
            if is_up(&self.own, node)? && is_up(other, own)? {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Err(Failure::Run("no line between the two fabrics".into()))
    }

    /// Polls for a moment, so that both do, each where it stays.
    fn settle(&self) {
        let begun = Instant::now();
        while begun.elapsed() < SETTLES {
            if let Ok(mut fabric) = self.own.enter() {
                fabric.poll_round();
            }
        }
    }

    fn begin(&self, node: NodeId) -> Result<PeerId, Failure> {
        self.own.enter().map_err(unusable)?.open_node(self.cq, node, LIMIT, 0).map_err(refused)?;
        let completion = poll(&self.own, self.cq, &AtomicBool::new(false))?;
        let mut fabric = self.own.enter().map_err(unusable)?;
        match completion.status {
            0 => fabric.engine.open_known(PeerId::new(completion.source)).map_err(unusable),
            _ => Err(Failure::Run(fabric.node_story(node).unwrap_or_default().join("; "))),
        }
    }

    /// Says one word, and polls until it is on its way.
    fn say(&self, peer: PeerId) -> Result<(), Failure> {
        let args = SendArgs {
            cq: self.cq,
            owner: 0,
            context: 0,
            tag: 0,
            immediate: Some(1),
            sync: false,
            always_complete: true,
        };
        self.own.enter().map_err(unusable)?.engine.send_iov(peer, &[], &args).map_err(unusable)?;
        poll(&self.own, self.cq, &AtomicBool::new(false))?;
        self.own.enter().map_err(unusable)?.engine.close(peer);
        Ok(())
    }
}

/// When the first word has come.
fn hear(fabric: &Shared, over: &AtomicBool) -> Result<Instant, Failure> {
    let cq = {
        let mut fabric = fabric.enter().map_err(unusable)?;
        let cq = fabric.engine.create_cq(4);
        let any = Pattern { source: Source::Any, tag: 0, ignore: 0 };
        fabric.engine.receive(cq, &any, Iov::EMPTY, 0).map_err(unusable)?;
        cq
    };
    poll(fabric, cq, over).map(|_| Instant::now())
}

/// Polls until something has completed, or it is over.
fn poll(fabric: &Shared, cq: CqId, over: &AtomicBool) -> Result<Completion, Failure> {
    let mut ended = None;
    while !over.load(Ordering::Relaxed) {
        let mut fabric = fabric.enter().map_err(unusable)?;
        fabric.poll_round();
        fabric.take(cq, |completion| {
            ended = Some(completion);
            true
        });
        if let Some(completion) = ended.take() {
            return Ok(completion);
        }
    }
    Err(Failure::Run("nothing has come".into()))
}

fn open(config: &[(String, String)]) -> Result<Arc<Shared>, Failure> {
    let config = Config::from_process(config).map_err(|e| Failure::Run(e.to_string()))?;
    Shared::open(config, None, ThreadLevel::Serialized).map_err(refused)
}
