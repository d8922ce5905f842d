//! One end of a pipe of bytes between two members, through those who pass packets on.
//!
//! No socket, no clock: parts come in and go out. Each side says how much may be sent to it, so that neither who reads slowly nor
//! the way there has to keep more than [`WINDOW_BYTES`] of it. Parts that pass one another (where the way changes) are put in order;
//! one that is lost ends the pipe.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::error::Refusal;
use crate::packet::Part;

/// Bytes that may be on their way, and wait to be read.
pub(crate) const WINDOW_BYTES: usize = 128 << 10;
/// Pipes of one member at a time.
pub(crate) const PIPES_MAX: usize = 64;
/// Bytes of a part. What is not of a pipe waits for one or two of them at each hop.
pub(crate) const PART_BYTES: usize = 8 << 10;
/// A short part counts as so many bytes: it costs as much to pass on.
pub(crate) const LEAST_BYTES: usize = 512;
/// Parts that came before others that are missing; of no more than [`WINDOW_BYTES`].
const AHEAD_MAX: usize = 1024;
/// Room is told when it has grown by so much.
const TELL_BYTES: u64 = WINDOW_BYTES as u64 / 4;
/// A side says this often that it is there.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// One that is missing is waited for so long when others have come.
const GAP_LIMIT: Duration = Duration::from_secs(5);
/// A pipe ends when nothing is heard for so long, or nothing of what was sent has come.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Pipe {
    outgoing: Outgoing,
    incoming: Incoming,
    /// When something was heard, and said.
    heard: Instant,
    said: Instant,
}

#[derive(Debug)]
struct Outgoing {
    sent: u64,
    /// So many may be.
    until: u64,
    /// So many have come.
    received: u64,
    /// Where the parts end that may be on their way, and what they count,
    parts: VecDeque<(u64, usize)>,
    /// in total.
    on_way: usize,
    /// When more has come, or something was sent after all had come.
    moved: Instant,
    is_finished: bool,
}

#[derive(Debug, Default)]
struct Incoming {
    received: u64,
    /// Read by the program.
    taken: u64,
    waiting: VecDeque<u8>,
    /// By where they begin.
    ahead: BTreeMap<u64, Vec<u8>>,
    ahead_bytes: usize,
    /// Since when one is missing.
    gap: Option<Instant>,
    /// So many come in all.
    end: Option<u64>,
    /// What was told last: received, and how many may be sent.
    told: (u64, u64),
    /// What the parts count that have come since.
    untold: usize,
}

impl Pipe {
    pub(crate) fn new(now: Instant) -> Pipe {
        let until = WINDOW_BYTES as u64;
        let outgoing = Outgoing {
            sent: 0,
            until,
            received: 0,
            parts: VecDeque::new(),
            on_way: 0,
            moved: now,
            is_finished: false,
        };
        let incoming = Incoming { told: (0, until), ..Incoming::default() };
        Pipe { outgoing, incoming, heard: now, said: now }
    }

    /// The other side has taken it: silence counts from now on.
    pub(crate) fn opened(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Bytes that may be sent in one part now.
    pub(crate) fn room(&self) -> usize {
        let Outgoing { sent, until, on_way, is_finished, .. } = self.outgoing;
        // Of short parts there are fewer bytes on the way: those who pass them on count them so, too.
        let uncounted = WINDOW_BYTES - on_way;
        let left = if is_finished || uncounted < LEAST_BYTES { 0 } else { until.saturating_sub(sent) };
        usize::try_from(left).map_or(PART_BYTES, |left| left.min(PART_BYTES)).min(uncounted)
    }

    /// Sends bytes, for which there is room.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, now: Instant) -> Part {
        let at = self.outgoing.sent;
        if self.outgoing.received == at {
            self.outgoing.moved = now;
        }
        let counts = bytes.len().max(LEAST_BYTES);
        self.outgoing.sent += bytes.len() as u64;
        self.outgoing.parts.push_back((self.outgoing.sent, counts));
        self.outgoing.on_way += counts;
        Part::Bytes { at, bytes }
    }

    /// Nothing more is sent.
    pub(crate) fn finish(&mut self) -> Part {
        self.outgoing.is_finished = true;
        Part::Finish { at: self.outgoing.sent }
    }

    /// Takes what the other side says.
    ///
    /// # Errors
    /// Why the pipe is over.
    pub(crate) fn take(&mut self, part: Part, now: Instant) -> Result<(), Refusal> {
        self.heard = now;
        match part {
            Part::Bytes { at, bytes } => self.incoming.take(at, bytes, now),
            Part::Finish { at } => self.incoming.finish(at),
            Part::Room { received, until } => self.outgoing.take(received, until, now),
            Part::Over { why } => Err(why),
        }
    }

    /// Bytes for the program.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.incoming.waiting.as_slices().0
    }

    /// It has read so many of them.
    pub(crate) fn taken(&mut self, count: usize) {
        drop(self.incoming.waiting.drain(..count));
        self.incoming.taken += count as u64;
    }

    /// Whether the program has read all that will ever come.
    pub(crate) fn is_read(&self) -> bool {
        self.incoming.end == Some(self.incoming.taken)
    }

    /// Whether all has come that will ever come.
    pub(crate) fn has_all(&self) -> bool {
        self.incoming.end == Some(self.incoming.received)
    }

    /// Whether nothing more is sent, and the other side has all that was.
    pub(crate) fn is_delivered(&self) -> bool {
        let Outgoing { sent, received, is_finished, .. } = self.outgoing;
        is_finished && received == sent
    }

    /// Whether it is over, both sides having said so.
    pub(crate) fn is_over(&self) -> bool {
        self.is_read() && self.is_delivered() && self.incoming.told.0 == self.incoming.received
    }

    /// What the other side is to be told, if anything is.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<Part> {
        let Incoming { received, taken, told, untold, end, .. } = self.incoming;
        let until = taken + WINDOW_BYTES as u64;
        let is_news = untold as u64 >= TELL_BYTES
            || until - told.1 >= TELL_BYTES
            || (end == Some(received) && told.0 != received);
        if !is_news && now < self.said + TELL_INTERVAL {
            return None;
        }
        (self.incoming.told, self.incoming.untold, self.said) = ((received, until), 0, now);
        Some(Part::Room { received, until })
    }

    /// When [`Pipe::tell`] and [`Pipe::check`] are to be called if nothing happens.
    pub(crate) fn next_look(&self) -> Instant {
        let gap = self.incoming.gap.map(|since| since + GAP_LIMIT);
        gap.map_or(self.said + TELL_INTERVAL, |at| at.min(self.said + TELL_INTERVAL))
    }

    /// # Errors
    /// [`Refusal::Late`] when the other side is silent, or something was lost.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Refusal> {
        let Outgoing { sent, received, moved, .. } = self.outgoing;
        let is_silent = now >= self.heard + SILENCE_LIMIT;
        let is_lost = received < sent && now >= moved + SILENCE_LIMIT;
        let is_missing = self.incoming.gap.is_some_and(|since| now >= since + GAP_LIMIT);
        if is_silent || is_lost || is_missing {
            Err(Refusal::Late)
        } else {
            Ok(())
        }
    }

    /// Bytes that it keeps.
    #[cfg(test)]
    fn kept(&self) -> usize {
        self.incoming.waiting.len() + self.incoming.ahead_bytes
    }
}

impl Outgoing {
    fn take(&mut self, received: u64, until: u64, now: Instant) -> Result<(), Refusal> {
        if received > self.sent || until > received.saturating_add(WINDOW_BYTES as u64) {
            return Err(Refusal::Malformed);
        }
        // What was said earlier may come later.
        if received > self.received {
            (self.received, self.moved) = (received, now);
        }
        while let Some((_, counts)) = self.parts.pop_front_if(|(end, _)| *end <= received) {
            self.on_way -= counts;
        }
        self.until = self.until.max(until);
        Ok(())
    }
}

impl Incoming {
    fn take(&mut self, at: u64, bytes: Vec<u8>, now: Instant) -> Result<(), Refusal> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Refusal::Malformed)?;
        let is_allowed = end <= self.told.1.min(self.end.unwrap_or(u64::MAX));
        if bytes.is_empty() || at < self.received || !is_allowed {
            return Err(Refusal::Malformed);
        }
        if at > self.received {
            self.ahead_bytes += bytes.len();
            let is_full = self.ahead.len() >= AHEAD_MAX || self.ahead_bytes > WINDOW_BYTES;
            if is_full || self.ahead.insert(at, bytes).is_some() {
                return Err(Refusal::Malformed);
            }
            self.gap.get_or_insert(now);
            return Ok(());
        }
        self.add(&bytes);
        while let Some(next) = self.ahead.first_entry() {
            match next.key().cmp(&self.received) {
                std::cmp::Ordering::Greater => break,
                // Two that overlap.
                std::cmp::Ordering::Less => return Err(Refusal::Malformed),
                std::cmp::Ordering::Equal => {
                    let bytes = next.remove();
                    self.ahead_bytes -= bytes.len();
                    self.add(&bytes);
                }
            }
        }
        self.gap = (!self.ahead.is_empty()).then_some(now);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        self.untold += bytes.len().max(LEAST_BYTES);
        self.waiting.extend(bytes);
    }

    fn finish(&mut self, at: u64) -> Result<(), Refusal> {
        let ahead = self.ahead.last_key_value().map(|(at, bytes)| at + bytes.len() as u64);
        let is_possible = at >= ahead.unwrap_or(self.received) && at <= self.told.1;
        if !is_possible || self.end.is_some_and(|end| end != at) {
            return Err(Refusal::Malformed);
        }
        self.end = Some(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
