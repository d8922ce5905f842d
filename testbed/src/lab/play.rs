//! What happens while a lab is up.

use super::Lab;
use crate::error::Result;
use crate::topology::{Action, Event};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

impl Lab {
    /// Lets the events of the topology happen, each at its time from now on, until all have or `stop` says something
    /// (or nobody is left to say it). `tell` hears of each one that was tried.
    pub fn play(&self, stop: &Receiver<()>, tell: &mut dyn FnMut(&Event, Result<()>)) {
        let start = Instant::now();
        for event in &self.topology.events {
            let left = event.at.saturating_sub(start.elapsed());
            if stop.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            tell(event, self.act(&event.action));
        }
    }

    /// Does one thing now.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn act(&self, action: &Action) -> Result<()> {
        match action {
            Action::Blackout { link, on } => self.link(link)?.blackout(*on),
            Action::Change { link, change } => self.link(link)?.change(change),
            Action::Reset { between: [a, b] } => self.reset(a, b, RESET_SPAN).map(drop),
            Action::RemoveAddress { host, address } => self.host(host)?.remove_address(address),
            Action::AddAddress { host, interface, address } => {
                self.host(host)?.add_address(interface, address)
            }
        }
    }
}

/// How long connections may go on in silence before their own kernels end them.
const RESET_SPAN: Duration = Duration::from_millis(100);
