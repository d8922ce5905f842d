//! Waits until something can be done, where a queue gets an entry when it may be.

use std::time::{Duration, Instant};

use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;

use crate::config::WaitMode;
use crate::fabric::Fabric;
use crate::page::{Call, Waiting};
use crate::shared::Shared;

impl Shared {
    /// Tries until `attempt` gives something else than [`Error::Again`]. The queue `bell` gets an entry whenever it may. `None`
    /// for `timeout` waits for ever; zero looks once.
    ///
    /// # Errors
    /// [`Error::Again`] with a timeout of zero, [`Error::Timeout`] with another; what `attempt` gives; and as [`Self::enter`].
    pub(crate) fn until<T>(
        &self,
        bell: CqId,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&mut Fabric) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut guard = self.enter()?;
        match attempt(&mut guard) {
            Err(Error::Again) => {}
            done => return done,
        }
        if timeout == Some(Duration::ZERO) {
            guard.poll_round();
            return attempt(&mut guard);
        }
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        let waiting = Waiting::begin(self.page(), Call::Stream, timeout);
        loop {
            // Entries are old news: what they told of is looked at now. Whoever else waits for the same finds the same.
            guard.engine.take_completions(bell, |_| true);
            guard = self.spin(guard, bell, end)?;
            match attempt(&mut guard) {
                Err(Error::Again) => {}
                done => return done,
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(Error::Timeout);
            }
            if guard.completions(bell) == 0 && guard.config().wait_mode != WaitMode::Spin {
                waiting.set_asleep(true);
                guard = self.sleep(guard, Some(bell), end, None)?;
                waiting.set_asleep(false);
                match attempt(&mut guard) {
                    Err(Error::Again) => {}
                    done => return done,
                }
            }
        }
    }
}
