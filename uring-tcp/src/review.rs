//! Whether those to whom there are links are still members of the session.
//!
//! A connection is judged when it is made. One that stands for days has to end when its peer is revoked.

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::time::Time;
use gridnet_core::wire::NodeId;

use crate::auth::Security;
use crate::frame_in::Ended;
use crate::rail::TcpRail;

/// Time between two looks. Each may wake a process that sleeps.
const REVIEW_NS: u64 = 5_000_000_000;

impl TcpRail {
    /// Ends the links to those that were revoked.
    pub(crate) fn review_members(&mut self, now: Time) {
        let Security::Session(session) = &self.config.security else { return };
        if now < *self.next_review.get_or_insert(now.after(REVIEW_NS)) {
            return;
        }
        self.next_review = Some(now.after(REVIEW_NS));
        let nodes: Vec<NodeId> = self.by_node.keys().copied().collect();
        for node in session.revoked_of(&nodes) {
            let why = "its node was revoked";
            session.refused(&node.to_string(), why);
            if let Some(&index) = self.by_node.get(&node) {
                self.ended.push((index, Ended::Misbehaved(Refusal::new(Error::Permission, why))));
            }
        }
    }

    /// When [`Self::review_members`] has to be called.
    pub(crate) fn next_review(&self) -> Option<Time> {
        let is_needed = matches!(self.config.security, Security::Session(_)) && !self.by_node.is_empty();
        is_needed.then(|| self.next_review.unwrap_or(Time(0)))
    }
}
