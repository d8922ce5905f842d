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
        self.until_the_last(bell, timeout, |fabric, _| attempt(fabric))
    }

    /// As [`Self::until`]; `attempt` is told whether it is the last one, which leaves nothing behind. When this ends otherwise, nobody can go
    /// into the fabric any more.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub(crate) fn until_the_last<T>(
        &self,
        bell: CqId,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&mut Fabric, bool) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut guard = self.enter()?;
        let looks_once = timeout == Some(Duration::ZERO);
        match attempt(&mut guard, looks_once) {
            Err(Error::Again) => {}
            done => return done,
        }
        if looks_once {
            guard.poll_round();
            return attempt(&mut guard, true);
        }
        guard.engine.take_completions(bell, |_| true);
        if guard.poll_at_first(bell) {
            match attempt(&mut guard, false) {
                Err(Error::Again) => {}
                done => return done,
            }
        }
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        let waiting = Waiting::begin(self.page(), Call::Stream, timeout);
        loop {
            // Entries are old news: what they told of is looked at now. Whoever else waits for the same finds the same.
            guard.engine.take_completions(bell, |_| true);
            guard = self.spin(guard, bell, end)?;
            let is_over = end.is_some_and(|end| Instant::now() >= end);
            match attempt(&mut guard, is_over) {
                Err(Error::Again) if is_over => return Err(Error::Timeout),
                Err(Error::Again) => {}
                done => return done,
            }
            if guard.completions(bell) == 0 && guard.config().wait_mode != WaitMode::Spin {
                waiting.set_asleep(true);
                guard = self.sleep(guard, Some(bell), end, None)?;
                waiting.set_asleep(false);
                match attempt(&mut guard, false) {
                    Err(Error::Again) => {}
                    done => return done,
                }
            }
        }
    }
}
