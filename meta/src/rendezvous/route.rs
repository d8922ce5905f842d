//! How the rendez-vous node passes packets on.

use std::time::Instant;

use super::Shared;
use crate::clock::Moment;
use crate::error::Refusal;
use crate::hub::{Said, Visitor};
use crate::message::Message;
use crate::packet::Packet;

impl Shared {
    /// Passes a packet on to its node or to that one's leader; what its sender is told if not.
    pub(super) fn pass_on(&self, visitor: &Visitor, packet: Packet) -> Said {
        let mut state = self.lock();
        let session = self.store.session();
        let state = &mut *state;
        // Of pipes bytes are counted, of each sender.
        let is_piped = packet.is_piped();
        if !is_piped && !state.register.may_send(visitor.node, Instant::now()) {
            state.register.count(Refusal::Rate);
            let told = packet.undelivered(session, Refusal::Rate);
            return Said::TooMuch(told.map(Message::Packet));
        }
        if !state.register.comes_from(&packet, visitor.node) {
            // Its node may just have moved: no reason to end the connection.
            state.register.count(Refusal::Malformed);
            let why = format!("a packet of node {}, which is not there", packet.from);
            state.audit.refused(visitor.who(), Refusal::Malformed, &why, Moment::now());
            return Said::TooMuch(None);
        }
        let to = packet.to;
        let outcome = packet.passed_on(session).and_then(|packet| {
            let next = state.register.next_hop(to).filter(|next| *next != visitor.node);
            let Some(link) = next.and_then(|next| state.links.get(&next)) else {
                return Err((packet, Refusal::NoRoute));
            };
            link.queue.pass(packet, false)
        });
        match outcome {
            Ok(()) => {
                state.packets.passed_on += 1;
                Said::Nothing
            }
            Err((packet, why)) => {
                state.packets.undelivered += 1;
                let is_own = packet.from == visitor.node;
                let told = packet.undelivered(session, why).map(Message::Packet);
                // A leader is not to be slowed down by one below it, unless it says far too much.
                if is_piped && (is_own || !state.register.may_send(visitor.node, Instant::now())) {
                    return Said::TooMuch(told);
                }
                told.map_or(Said::Nothing, Said::Answer)
            }
        }
    }
}
