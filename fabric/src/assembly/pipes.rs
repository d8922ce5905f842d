//! Connections through the bootstrap tree for the rail `relay`: to and from nodes with which that was agreed on, and no others.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{Address, NodeId};
use gridnet_meta::member::Member;
use gridnet_uring_tcp::{Adopter, Way};

use super::desk::Desk;
use super::permits::Direction;
use super::{RELAY, SERVICE};

/// How long the other side may take to answer whether it takes a pipe: as long as the rail waits for it.
const LIMIT: Duration = Duration::from_secs(10);

/// The way of a member to the fabrics of others.
#[derive(Debug)]
pub(crate) struct Pipes {
    desk: Arc<Desk>,
    /// It ends with the membership, whoever has this still.
    member: Weak<Member>,
}

impl Pipes {
    pub(crate) fn new(desk: Arc<Desk>, member: &Arc<Member>) -> Pipes {
        Pipes { desk, member: Arc::downgrade(member) }
    }

    fn begin(&self, node: NodeId) -> Result<OwnedFd, Refusal> {
        let refused = |why: String| Refusal::new(Error::Unreachable, why);
        if !self.desk.allows(RELAY, node, Direction::Calls) {
            return Err(refused("no stack was agreed on that goes through the bootstrap channel".to_owned()));
        }
        let member = self.member.upgrade().ok_or_else(|| refused("the session is over".to_owned()))?;
        let pipe = member.begin_relay(node, SERVICE.as_bytes(), LIMIT).map_err(|e| refused(e.to_string()))?;
        Ok(pipe.into_parts().0.into())
    }
}

impl Way for Pipes {
    fn name(&self) -> &'static str {
        RELAY
    }

    /// Always this way or none: an address says nothing of it.
    fn connect(&self, address: &Address) -> Option<Result<OwnedFd, Refusal>> {
        Some(self.begin(address.node))
    }
}

/// Gives the rail the pipes that others ask for, from now on.
pub(crate) fn take_pipes(member: &Member, desk: &Arc<Desk>, adopter: Adopter) {
    let desk = desk.clone();
    member.serve_relays(move |from, about, pipe| {
        if about != SERVICE.as_bytes() {
            return Err("there is no such service".to_owned());
        }
        if !desk.allows(RELAY, from, Direction::IsCalled) {
            return Err("it was not agreed on".to_owned());
        }
        adopter.adopt(from, pipe.into_parts().0.into()).map_err(|why| why.reason)
    });
}
