//! Who is in the session of a fabric, and who comes and goes.

use std::collections::VecDeque;

use gridnet_core::rail::Refusal;
use gridnet_core::wire::NodeId;
use gridnet_meta::directory::Event;

use crate::fabric::Fabric;

pub use gridnet_meta::directory::{Departure, Entry};

/// What has happened to the nodes of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// A node came, or says something else of itself.
    Joined(Box<Entry>),
    /// A node went, for this reason.
    Left(NodeId, Departure),
    /// Events were dropped since nobody took them: [`Fabric::nodes`] says who is there now.
    Missed,
}

/// The events of a fabric that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    is_on: bool,
    waiting: VecDeque<NodeEvent>,
}

impl Fabric {
    /// Who is in the session, this fabric among them, by node id, as far as it knows. From the first call on, what changes is
    /// told by [`Self::take_node_events`]; between two calls an event may tell what the second shows already.
    ///
    /// # Errors
    /// [`Error::Config`](gridnet_core::error::Error::Config) when the fabric has joined no session.
    pub fn watch_nodes(&mut self) -> Result<Vec<Entry>, Refusal> {
        let (member, watch) = self.membership_mut()?.watching()?;
        match std::mem::replace(&mut watch.is_on, true) {
            true => Ok(member.nodes()),
            false => Ok(member.watch_nodes()),
        }
    }

    /// Takes what has changed since the first [`Self::watch_nodes`], oldest first, at most `room` events.
    ///
    /// # Errors
    /// As there.
    pub fn take_node_events(&mut self, room: usize) -> Result<Vec<NodeEvent>, Refusal> {
        let (member, watch) = self.membership_mut()?.watching()?;
        if watch.waiting.len() < room && watch.is_on {
            let (events, missed) = member.take_events();
            // What was dropped was older than what is left.
            watch.waiting.extend(missed.then_some(NodeEvent::Missed));
            watch.waiting.extend(events.into_iter().map(|event| match event {
                Event::Joined(entry) => NodeEvent::Joined(Box::new(entry)),
                Event::Left(node, why) => NodeEvent::Left(node, why),
            }));
        }
        let count = room.min(watch.waiting.len());
        Ok(watch.waiting.drain(..count).collect())
    }
}
