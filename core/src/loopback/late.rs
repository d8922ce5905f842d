//! Fetches that take their time, as those of a network do.

use std::collections::VecDeque;

use super::memory::pieces_of;
use super::LoopbackRail;
use crate::error::Error;
use crate::mem::{Gather, Iov};
use crate::rail::{LinkId, Posted, RemoteSource, Sink};

/// Polls that a fetch takes.
const POLLS: u32 = 3;
/// Fetches that may be under way.
const MOST: usize = 4;

/// Fetches of a rail.
#[derive(Debug, Default)]
pub(super) struct Late {
    fetches: VecDeque<Fetch>,
    last: u64,
}

#[derive(Debug)]
struct Fetch {
    token: u64,
    link: LinkId,
    from: RemoteSource,
    to: Vec<Iov>,
    polls: u32,
}

impl Late {
    /// Begins one.
    pub(super) fn begin(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        if self.fetches.len() >= MOST {
            return Posted::NoResource;
        }
        self.last += 1;
        self.fetches.push_back(Fetch { token: self.last, link, from, to: pieces_of(to), polls: POLLS });
        Posted::Accepted(self.last)
    }

    pub(super) fn abort(&mut self, token: u64) {
        self.fetches.retain(|fetch| fetch.token != token);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fetches.is_empty()
    }

    /// The next one that has taken its time.
    fn next(&mut self) -> Option<Fetch> {
        self.fetches.pop_front_if(|fetch| fetch.polls == 0)
    }
}

impl LoopbackRail {
    /// Ends the fetches that have taken their time; those of links that are over are forgotten.
    pub(super) fn finish_late<S: Sink>(&mut self, sink: &mut S) -> usize {
        let mut moved = self.late.fetches.len();
        let links = &self.links;
        let is_over = |link: LinkId| links.get(link.0 as usize).is_none_or(|link| link.over);
        self.late.fetches.retain(|fetch| !is_over(fetch.link));
        self.late.fetches.iter_mut().for_each(|fetch| fetch.polls = fetch.polls.saturating_sub(1));
        while let Some(fetch) = self.late.next() {
            moved += 1;
            let has_come = self.hub.lock().memory.get(fetch.from, &Gather::all(&fetch.to));
            let outcome = if has_come { Ok(()) } else { Err(Error::Access) };
            if let Some(link) = self.links.get(fetch.link.0 as usize) {
                sink.fetched(link.peer, fetch.token, outcome);
            }
        }
        moved
    }
}
