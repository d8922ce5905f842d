//! What is wrong with a link.

use crate::units::{Bytes, Loss, Rate, Span};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// What is wrong with a link, in each direction. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Impairment {
    /// One-way delay.
    pub delay: Span,
    /// Each packet is late by up to this much more, at random, evenly. Packets stay in order.
    pub jitter: Span,
    /// Bits a second, Ethernet headers included.
    pub rate: Option<Rate>,
    /// Packets that are lost, each for itself.
    pub loss: Loss,
    /// Bytes that wait for their turn at `rate`; what comes then is dropped. By default what goes in 100 ms or in twice
    /// the delay, if that is more, and at least 64k.
    pub queue: Option<Bytes>,
}

/// What of a link changes; the rest stays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// See [`Impairment::delay`].
    pub delay: Option<Span>,
    /// See [`Impairment::jitter`].
    pub jitter: Option<Span>,
    /// See [`Impairment::rate`].
    pub rate: Option<Rate>,
    /// See [`Impairment::loss`].
    pub loss: Option<Loss>,
    /// See [`Impairment::queue`].
    pub queue: Option<Bytes>,
}

impl Impairment {
    /// With a one-way delay.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Span(delay);
        self
    }

    /// With jitter.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = Span(jitter);
        self
    }

    /// With a rate in million bits a second.
    #[must_use]
    pub fn mbit(mut self, mbit: u64) -> Self {
        self.rate = Some(Rate::mbit(mbit));
        self
    }

    /// With so many packets of a hundred lost.
    #[must_use]
    pub fn loss_percent(mut self, percent: f64) -> Self {
        self.loss = Loss::percent(percent);
        self
    }

    /// With a queue of so many bytes.
    #[must_use]
    pub fn queue(mut self, bytes: u64) -> Self {
        self.queue = Some(Bytes(bytes));
        self
    }

    /// Whether there is anything wrong.
    pub fn is_none(&self) -> bool {
        *self == Impairment::default()
    }

    /// The same with `change`.
    #[must_use]
    pub fn changed(self, change: &Change) -> Self {
        Impairment {
            delay: change.delay.unwrap_or(self.delay),
            jitter: change.jitter.unwrap_or(self.jitter),
            rate: change.rate.or(self.rate),
            loss: change.loss.unwrap_or(self.loss),
            queue: change.queue.or(self.queue),
        }
    }

    /// Whether the kernel's own means will not do: it has no delay line everywhere.
    pub(crate) fn needs_relay(&self) -> bool {
        self.delay != Span::default() || self.jitter != Span::default() || self.queue.is_some()
    }

    /// Bytes that may wait at `rate`.
    pub(crate) fn queue_bytes(&self, rate: Rate) -> u64 {
        let deep = (2 * self.delay.0).max(Duration::from_millis(100));
        self.queue.map_or_else(|| rate.bytes_in(deep).max(64 << 10), |queue| queue.0)
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.delay != Span::default() {
            parts.push(format!("delay {}", self.delay));
        }
        if self.jitter != Span::default() {
            parts.push(format!("jitter {}", self.jitter));
        }
        parts.extend(self.rate.map(|rate| format!("rate {rate}")));
        if !self.loss.is_none() {
            parts.push(format!("loss {}", self.loss));
        }
        parts.extend(self.queue.map(|queue| format!("queue {queue}")));
        f.pad(&if parts.is_empty() { "-".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_queue_follows_rate_and_delay() {
        let bytes = |impairment: Impairment| impairment.queue_bytes(impairment.rate.unwrap());
        assert_eq!(bytes(Impairment::default().mbit(1)), 64 << 10);
        assert_eq!(bytes(Impairment::default().mbit(100)), 1_250_000);
        assert_eq!(bytes(Impairment::default().mbit(100).delay(Duration::from_millis(100))), 2_500_000);
        assert_eq!(bytes(Impairment::default().mbit(100).queue(9000)), 9000);
    }
}
