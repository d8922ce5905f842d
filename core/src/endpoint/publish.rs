//! What the ledger is told: rows of peers, gauges, changes. Slow paths only.

use super::peer::{Peer, PeerState};
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::ledger::{Kept, PeerCounts, PeerGauges, PeerNote, Row};
use crate::rail::{LinkId, Path, PeerId, Rail, Refusal};
use crate::time::Time;

/// Time between two looks at how much paths have carried: each takes some calls to the system.
const SHOW_NS: u64 = 1_000_000_000;

impl<R: Rail> Engine<R> {
    /// Tells the ledger of peers whose link has just come up; only now does the rail know their process.
    pub(super) fn introduce(&mut self) {
        while let Some(peer) = self.state.fresh.pop() {
            let paths = self.paths(peer);
            let Some(p) = self.state.peers.get_mut(peer.index()) else { continue };
            p.process = self.rails.get(p.rail).and_then(|rail| rail.process(p.link));
            p.paths = paths;
            self.state.announce(peer);
        }
    }

    /// Tells the ledger now and then how much each path has carried, of links that have several. Nobody is woken for that.
    pub(super) fn show_paths(&mut self, now: Time) {
        if now < self.state.show_at {
            return;
        }
        self.state.show_at = now.after(SHOW_NS);
        let State { wide, peers, fresh, .. } = &mut self.state;
        wide.retain(|peer| peers.get(peer.index()).is_some_and(Peer::is_wide));
        fresh.extend(wide.iter());
    }

    /// Where the links to a peer lead now, by the names of their rails. May take calls to the system.
    pub fn paths(&self, peer: PeerId) -> Vec<(&'static str, Path)> {
        let Some(p) = self.state.peers.get(peer.index()) else { return Vec::new() };
        // The present link, and one that is being made in its place.
        let attempt = p.recovery.as_ref().and_then(|recovery| recovery.attempt);
        let present = p.live_link().filter(|present| Some(*present) != attempt);
        let path = |(rail, link): (usize, LinkId)| {
            let rail = self.rails.get(rail)?;
            let all = std::iter::once(rail.path(link)).chain(rail.further_paths(link));
            Some(all.map(|path| (rail.name(), path)))
        };
        present
            .into_iter()
            .chain(attempt)
            .filter_map(path)
            .flatten()
            .filter(|(_, path)| *path != Path::default())
            .collect()
    }

    /// How much waits in the conversation with a peer.
    pub fn gauges(&self, peer: PeerId) -> Option<&PeerGauges> {
        self.state.peers.get(peer.index()).map(|p| &p.counts.gauges)
    }

    /// Why the last call to a peer failed, while another path to it is sought.
    pub fn last_call(&self, peer: PeerId) -> Option<&Refusal> {
        self.state.peers.get(peer.index())?.last_call()
    }
}

impl Peer {
    fn is_wide(&self) -> bool {
        self.stripes.as_ref().is_some_and(|stripes| stripes.is_wide())
    }

    fn last_call(&self) -> Option<&Refusal> {
        let recovery = self.recovery.as_ref().filter(|_| matches!(self.state, PeerState::Broken(_)));
        recovery?.refusal.as_ref()
    }

    /// To be called after each change of what waits.
    pub(super) fn publish(&self) {
        let gauges = &self.counts.gauges;
        gauges.pending.set(self.pending.len() as u64);
        gauges.bulk.set(self.bulk.len() as u64);
        gauges.stopped.set(u64::from(self.stopped));
        gauges.stopping.set(u64::from(self.stopping));
    }
}

impl State {
    /// Counters for a new peer: in the ledger, in place of the peer that has been gone longest if need be, else in
    /// private memory.
    pub(super) fn open_row(&mut self) -> (Option<Row>, Kept<PeerCounts>) {
        self.engine.peers_total.add(1);
        loop {
            if let Some((row, counts)) = self.ledger.open() {
                return (Some(row), counts);
            }
            let Some(gone) = self.gone.pop_front() else {
                return (None, Kept::private(PeerCounts::default()));
            };
            self.close_row(gone);
        }
    }

    /// Moves the counters of a peer that has gone out of the ledger.
    fn close_row(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let Some(row) = p.row.take() else { return };
        let last = p.counts.cells.snapshot();
        let private = PeerCounts::default();
        private.cells.add(&last);
        p.counts = Kept::private(private);
        self.ledger.close(row, &last);
    }

    /// Tells the ledger how a peer is now.
    pub(super) fn announce(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get(peer.index()) else { return };
        p.publish();
        let Some(row) = p.row else { return };
        let note = PeerNote {
            peer,
            node: p.node,
            incarnation: p.incarnation,
            process: p.process,
            rail: p.rail,
            eager_max: p.eager_max,
            state: &p.state,
            stalled: p.is_stalled(),
            candidates: &p.candidates,
            paths: &p.paths,
            breaks: p.recovery.as_ref().map_or((0, 0), |recovery| (recovery.breaks, recovery.replays)),
            last_call: p.last_call(),
        };
        self.ledger.note(row, &note);
    }

    /// Tells the ledger of a peer that has just gone.
    pub(super) fn announce_gone(&mut self, peer: PeerId) {
        self.engine.peers_gone.add(1);
        self.announce(peer);
        self.gone.push_back(peer);
    }

    /// To be called after each change of the unexpected store.
    pub(super) fn publish_unexpected(&self, peer: PeerId) {
        self.engine.unexpected_now.set(self.unexpected.len() as u64);
        self.engine.unexpected_bytes_now.set(self.unexpected_bytes as u64);
        if let Some(p) = self.peers.get(peer.index()) {
            p.counts.gauges.unexpected.set(p.early_messages as u64);
            p.counts.gauges.unexpected_bytes.set(p.early_bytes as u64);
        }
    }

    /// An operation with a peer has ended with an error; one that the program cancelled is none.
    #[cold]
    pub(super) fn note_failure(&self, peer: PeerId, error: Error) {
        if let Some(p) = self.peers.get(peer.index()).filter(|_| error != Error::Canceled) {
            p.counts.gauges.failures.add(1);
        }
    }
}

impl PeerState {
    /// The state as a number, for ledgers: 1 connecting, 2 up, 3 gone, 4 broken.
    pub fn number(&self) -> u32 {
        match self {
            PeerState::Connecting => 1,
            PeerState::Up => 2,
            PeerState::Gone(_) => 3,
            PeerState::Broken(_) => 4,
        }
    }
}
