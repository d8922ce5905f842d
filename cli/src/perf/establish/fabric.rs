//! Endpoints by node id between two fabrics of this host, both polling.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::LIMIT;
use crate::failure::Failure;
use gridnet::config::Config;
use gridnet::core::endpoint::CqId;
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::core::wire::NodeId;
use gridnet::{Shared, ThreadLevel};

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

    /// How long it takes until an endpoint to a fabric stands that nothing was ever agreed on with.
    pub(super) fn open_other(&self) -> Result<Duration, Failure> {
        let other = open(&self.config)?;
        let node = other.enter().map_err(unusable)?.address().node;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(mut fabric) = other.enter() {
                        fabric.poll_round();
                    }
                }
            });
            let took = self.knows(node).and_then(|()| self.begin(node));
            over.store(true, Ordering::Relaxed);
            took
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

    fn begin(&self, node: NodeId) -> Result<Duration, Failure> {
        let begun = Instant::now();
        self.own.enter().map_err(unusable)?.open_node(self.cq, node, LIMIT, 0).map_err(refused)?;
        let mut ended = None;
        while ended.is_none() {
            let mut fabric = self.own.enter().map_err(unusable)?;
            fabric.poll_round();
            fabric.take(self.cq, |completion| {
                ended = Some(completion);
                true
            });
        }
        let took = begun.elapsed();
        match ended.filter(|completion| completion.status == 0) {
            Some(completion) => {
                let mut fabric = self.own.enter().map_err(unusable)?;
                let peer = fabric.engine.open_known(PeerId::new(completion.source)).map_err(unusable)?;
                fabric.engine.close(peer);
                Ok(took)
            }
            None => {
                let story = self.own.enter().map_err(unusable)?.node_story(node).unwrap_or_default();
                Err(Failure::Run(story.join("; ")))
            }
        }
    }
}

fn open(config: &[(String, String)]) -> Result<Arc<Shared>, Failure> {
    let config = Config::from_process(config).map_err(|e| Failure::Run(e.to_string()))?;
    Shared::open(config, None, ThreadLevel::Serialized).map_err(refused)
}
