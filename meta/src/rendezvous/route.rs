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
        if !state.register.may_send(visitor.node, Instant::now()) {
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
            let message = Message::Packet(packet);
            let sent = message.encode().ok().map(|bytes| link.queue.try_send(bytes));
            match (sent, message) {
                (Some(Ok(())), _) => Ok(()),
                (_, Message::Packet(packet)) => Err((packet, Refusal::Rate)),
                _ => Ok(()),
            }
        });
        match outcome {
            Ok(()) => {
                state.packets.passed_on += 1;
                Said::Nothing
            }
            Err((packet, why)) => {
                state.packets.undelivered += 1;
                packet
                    .undelivered(session, why)
                    .map_or(Said::Nothing, |told| Said::Answer(Message::Packet(told)))
            }
        }
    }
}
