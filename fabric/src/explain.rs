//! What a program is told of the path to a peer, and of what waits there.

use std::fmt::Write as _;

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::{Path, PeerId};
use gridnet_meta::member::{LineState, MetaLine};

use crate::fabric::Fabric;
use crate::rails::AnyRail;
use crate::verdict::Verdict;
use crate::words::{self, Waiting};

impl Fabric {
    /// What is to be said of the path to a peer: the rails, which was chosen, and why; where links lead, and what waits.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a peer.
    pub fn explain(&self, peer: PeerId) -> Result<String, Error> {
        let (node, incarnation, state, candidates) = self.engine.peer(peer)?;
        let (number, state) = (peer.number(), state_words(state, self.engine.is_stalled(peer)));
        let mut lines = vec![format!("peer {number} node {node} incarnation {incarnation}"), state];
        let (breaks, replays) = self.engine.breaks(peer);
        lines.extend(words::breaks(breaks, replays));
        let moves = self.engine.moves(peer);
        if moves > 0 {
            lines.push(format!("moved {moves} times to another rail while the path was up"));
        }
        let chosen = self.engine.rail_name(peer).unwrap_or("none");
        lines.extend(Verdict::all(candidates, chosen, &self.config.rails).iter().map(words::verdict));
        lines.extend(self.node_story(node).into_iter().flatten());
        lines.extend(self.missing.iter().map(|(rail, why)| format!("rail {rail} not used: {why}")));
        let refused = self.refusals().filter(|count| *count > 0);
        lines.extend(
            refused
                .map(|count| format!("rail tcp has refused {count} connections: no members of the session")),
        );
        lines.extend(self.lines().ok().map(|all| meta_lines(&all)));
        self.explain_links(peer, &mut lines);
        if let Some(counters) = self.engine.peer_counters(peer) {
            lines.push(words::exchanged(&counters));
            lines.extend(words::regions(&counters));
            lines.extend(words::streams(&counters));
        }
        lines.extend(self.engine.gauges(peer).into_iter().flat_map(|gauges| Waiting::from(gauges).lines()));
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }

    /// How often the rail tcp has refused somebody who is no member of the session; nothing without a session. The log says who and
    /// why (target `gridnet::audit`).
    pub fn refusals(&self) -> Option<u64> {
        self.engine.rails().iter().find_map(|rail| match rail {
            AnyRail::Tcp(tcp) => tcp.refusals(),
            AnyRail::Shm(_) | AnyRail::Verbs(_) | AnyRail::Own(_) => None,
        })
    }

    /// Where the links lead, and how they were found.
    fn explain_links(&self, peer: PeerId, lines: &mut Vec<String>) {
        for (rail, path) in self.engine.paths(peer) {
            lines.push(link(rail, &path));
            lines.extend(path.tried.iter().map(|why| format!("tried {rail} {why}")));
        }
        let last_call = self.engine.last_call(peer);
        lines.extend(last_call.map(|why| format!("last call failed: {}", why.reason)));
    }
}

/// How many lines of the meta-channel there are, to whomever.
fn meta_lines(all: &[MetaLine]) -> String {
    let up = all.iter().filter(|line| matches!(line.state, LineState::Up { .. })).count();
    let made = all.iter().filter(|line| line.state == LineState::Making).count();
    format!("meta-channel: {up} lines stand, {made} are being made")
}

fn state_words(state: &PeerState, is_stalled: bool) -> String {
    match state {
        PeerState::Connecting => "state connecting: the peer has not answered yet".to_owned(),
        PeerState::Up if is_stalled => {
            "state stalled: its host answers, the process takes nothing".to_owned()
        }
        PeerState::Up => "state up".to_owned(),
        PeerState::Broken(why) if is_stalled => {
            format!("state stalled: its host answers, the process does not; before that: {}", why.reason)
        }
        PeerState::Broken(why) => format!("state broken: {}; another path is sought", why.reason),
        PeerState::Gone(why) => format!("state gone: {}", why.reason),
    }
}

fn link(rail: &str, path: &Path) -> String {
    let [local, remote] = [&path.local, &path.remote].map(|end| end.as_deref().unwrap_or_default());
    let mut words = words::link(rail, local, remote) + &words::security(path.security);
    if let Some(ns) = path.round_trip_ns {
        // Writing to a string does not fail.
        let _ = write!(words, ", {} us there and back", ns as f64 / 1000.0);
    }
    words + &path.moved.map_or(String::new(), words::moved)
}
