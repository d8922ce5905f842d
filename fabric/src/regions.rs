//! Ending regions: the wait for peers in the middle of an access, for which the engine has no clock.

use std::time::{Duration, Instant};

use gridnet_core::error::Error;
use gridnet_core::matching::Key;
use gridnet_core::rail::Refusal;

use crate::shared::Shared;

/// How long the end of a region waits. An access is a copy of some megabytes, or a system call that is one; only a peer
/// that was stopped, or that lies, takes longer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Shared {
    /// Ends a region, as [`gridnet_core::endpoint::Engine::close_region`], waiting until no peer is inside: a second at
    /// most. Other threads may go in meanwhile.
    ///
    /// # Errors
    /// [`Error::InUse`] when a peer is inside all that time: nobody else comes in, and the region is to be closed again.
    /// [`Error::Key`] when there is no such region; and as [`Self::enter`].
    pub fn close_region(&self, region: Key) -> Result<(), Refusal> {
        let end = Instant::now() + PATIENCE;
        loop {
            let closed = self.enter().and_then(|mut guard| guard.engine.close_region(region));
            match closed {
                Err(Error::InUse) if Instant::now() < end => std::thread::yield_now(),
                Err(Error::InUse) => {
                    let why =
                        "a peer is in the middle of an access; keys are void already: close the region again";
                    return Err(Refusal::new(Error::InUse, why));
                }
                other => return other.map_err(|error| Refusal::new(error, error.text())),
            }
        }
    }
}
