//! How receives start, and messages are looked for.

use gridnet::core::error::Error;
use gridnet::core::matching::{Key, Pattern, Slab, Source};
use gridnet::core::mem::Iov;

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::{FiAddr, ADDR_UNSPEC};
use crate::addresses::Addresses;
use crate::endpoint::Endpoint;
use crate::op::{event, is_misuse, length, Kind, Op, UNTAGGED};
use crate::queue::{Event, Failure};
use crate::state::Reports;

/// What a program receives.
pub(crate) struct Wish<'a> {
    pub(crate) iov: &'a [Iov],
    pub(crate) peer: FiAddr,
    /// Tag, and bits that do not count.
    pub(crate) tag: Option<(u64, u64)>,
    pub(crate) context: usize,
    pub(crate) flags: u64,
}

impl Endpoint {
    /// Starts a receive, a peek, or the receive of a message that was claimed.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn receive(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &mut Reports,
        wish: &Wish<'_>,
    ) -> Result<(), i32> {
        self.check_enabled()?;
        if !reports.has_room(&self.rx) {
            return Err(errno::EAGAIN);
        }
        let kind = if wish.tag.is_some() { TAGGED } else { MSG };
        if wish.flags & (PEEK | CLAIM) == CLAIM {
            return self.receive_claimed(reports, wish, kind);
        }
        let done = event(wish.context, RECV | kind, 0);
        let posted = self.pattern(vectors, wish).and_then(|pattern| match wish.flags & PEEK {
            0 => self.post(&pattern, wish, kind),
            _ => self.peek(vectors, reports, &pattern, wish),
        });
        match posted {
            Ok(()) => Ok(()),
            Err(Error::Again) => Err(errno::EAGAIN),
            Err(error) if is_misuse(error) => Err(errno::of(error)),
            Err(error) => {
                let tag = wish.tag.map_or(0, |(tag, _)| tag);
                let uncounted = self.rx.uncounted();
                let side = if wish.flags & PEEK == 0 { &self.rx } else { &uncounted };
                reports.failed(side, Event { tag, ..done }, Failure::of(error));
                Ok(())
            }
        }
    }

    fn pattern(&mut self, vectors: &Slab<Addresses>, wish: &Wish<'_>) -> Result<Pattern, Error> {
        let source = match wish.peer {
            ADDR_UNSPEC => Source::Any,
            number => Source::Peer(self.peer(vectors, number)?),
        };
        Ok(match wish.tag {
            None => Pattern { source, tag: UNTAGGED, ignore: 0 },
            Some((tag, ignore)) => Pattern { source, tag: tag & !UNTAGGED, ignore: ignore & !UNTAGGED },
        })
    }

    fn post(&mut self, pattern: &Pattern, wish: &Wish<'_>, kind: u64) -> Result<(), Error> {
        let buffer = wish.iov.first().map_or(0, |piece| piece.base() as usize);
        let room = length(wish.iov);
        let is_multi = wish.flags & MULTI_RECV != 0;
        let op = Op {
            context: wish.context,
            flags: RECV | kind,
            reports: self.rx.reports(wish.flags),
            number: 0,
            kind: match is_multi {
                true => Kind::Multi { buffer, room, used: 0, source: pattern.source },
                false => Kind::Receive { buffer, room },
            },
        };
        if is_multi && (wish.iov.len() != 1 || wish.tag.is_some()) {
            return Err(Error::Invalid);
        }
        let key = self.ops.insert(op);
        let posted = self
            .shared
            .enter()
            .and_then(|mut guard| guard.engine.receive_iov(self.cq, pattern, wish.iov, key.to_bits()));
        self.note(key, posted)
    }

    /// Keeps the number of an operation that was started, or drops one that was not.
    fn note(&mut self, key: Key, posted: Result<u64, Error>) -> Result<(), Error> {
        match (posted, self.ops.get_mut(key)) {
            (Ok(number), Some(op)) => op.number = number,
            _ => self.drop_op(key),
        }
        posted.map(drop)
    }

    /// Looks for a message; one that is found is claimed, discarded, or left where it is.
    fn peek(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &mut Reports,
        pattern: &Pattern,
        wish: &Wish<'_>,
    ) -> Result<(), Error> {
        let takes = wish.flags & (CLAIM | DISCARD) != 0;
        let (probe, held) = {
            let mut guard = self.shared.enter()?;
            let found = match takes {
                true => guard.engine.matched_probe(pattern).map(|(probe, key)| (probe, Some(key))),
                false => guard.engine.probe(pattern).map(|probe| (probe, None)),
            };
            found.ok_or_else(|| {
                // Only now: MPICH 5 may probe the message of another rank and then receive, of any source, what the rank has sent to
                // itself. The fresher what a peek finds, the more often that happens.
                guard.poll_round();
                guard.engine.source_error(pattern).unwrap_or(Error::NoMessage)
            })?
        };
        match held {
            Some(key) if wish.flags & DISCARD != 0 => self.discard(key, wish.context)?,
            Some(key) => {
                self.claimed.insert(wish.context, key);
            }
            None => {}
        }
        let data = probe.immediate.map_or(0, |_| REMOTE_CQ_DATA);
        let kind = if wish.tag.is_some() { TAGGED } else { MSG };
        let found = Event {
            data: probe.immediate.unwrap_or(0),
            tag: probe.tag & !UNTAGGED,
            source: self.source(vectors, probe.source.number()),
            ..event(wish.context, RECV | kind | data, probe.len as usize)
        };
        reports.done(&self.rx.uncounted(), Some(found));
        Ok(())
    }

    /// Receives a message that a peek has claimed, or discards it.
    fn receive_claimed(&mut self, reports: &mut Reports, wish: &Wish<'_>, kind: u64) -> Result<(), i32> {
        let key = *self.claimed.get(&wish.context).ok_or(libc::EINVAL)?;
        if wish.flags & DISCARD != 0 {
            self.discard(key, wish.context).map_err(errno::of)?;
            self.claimed.remove(&wish.context);
            let gone = event(wish.context, RECV | kind, 0);
            reports.done(&self.rx.uncounted(), self.rx.reports(wish.flags).then_some(gone));
            return Ok(());
        }
        let [piece] = wish.iov else { return Err(libc::EOPNOTSUPP) };
        let op = Op {
            context: wish.context,
            flags: RECV | kind,
            reports: self.rx.reports(wish.flags),
            number: 0,
            kind: Kind::Receive { buffer: piece.base() as usize, room: piece.len() },
        };
        let op = self.ops.insert(op);
        let posted = self
            .shared
            .enter()
            .and_then(|mut guard| guard.engine.receive_held(self.cq, key, *piece, op.to_bits()));
        self.note(op, posted).map_err(errno::of)?;
        self.claimed.remove(&wish.context);
        Ok(())
    }

    /// Receives a held message to nowhere.
    fn discard(&mut self, held: Key, context: usize) -> Result<(), Error> {
        let op = Op { context, flags: RECV, reports: false, number: 0, kind: Kind::Discard };
        let op = self.ops.insert(op);
        let mut guard = self.shared.enter()?;
        let posted = guard.engine.receive_held(self.cq, held, Iov::EMPTY, op.to_bits());
        if posted.is_err() {
            self.ops.remove(op);
        }
        posted.map(|_| ())
    }

    /// Cancels the operation of this context.
    ///
    /// # Errors
    /// `ENOENT` when there is none, or its message is already coming in.
    pub(crate) fn cancel(&mut self, context: usize) -> Result<(), i32> {
        let of_context = self.ops.iter().find(|(_, op)| op.context == context && op.is_receive());
        let number = of_context.map(|(_, op)| op.number).ok_or(libc::ENOENT)?;
        let mut guard = self.shared.enter().map_err(errno::of)?;
        guard.engine.cancel(number).map_err(errno::of)
    }
}
