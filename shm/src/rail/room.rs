//! Room in the common segment: what peers have finished with is taken back when some frame finds none.

use gridnet_core::rail::{LinkId, Posted};
use gridnet_core::wire::Frame;

use super::ShmRail;
use crate::link::Live;

impl ShmRail {
    /// Whether a frame waits, or room has come that a frame of ours waits for.
    pub(super) fn has_news(&mut self) -> bool {
        let mut starving = false;
        for index in self.hot.iter().chain(&self.cold) {
            let Some(link) = self.links.get_mut(*index as usize) else { continue };
            let Some(live) = &mut link.live else { continue };
            if live.has_news(link.wants_room) {
                link.wants_room = false;
                return true;
            }
            starving |= link.wants_room && self.arena.shortage().is_some();
        }
        starving && self.reclaim_all()
    }

    /// Takes back what any peer has finished with; whether there was something.
    fn reclaim_all(&mut self) -> bool {
        let mut any = false;
        for index in self.hot.iter().chain(&self.cold) {
            let link = self.links.get_mut(*index as usize).filter(|link| link.pair.is_none());
            any |= link.and_then(|link| link.live.as_mut()).is_some_and(|live| live.reclaim(&mut self.arena));
        }
        any
    }

    /// The segment is full: buffers that other links have finished with are taken first. When no peer holds any, none
    /// will ever come.
    #[cold]
    pub(super) fn post_with_what_others_have(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        self.reclaim_all();
        let posted = self.post_again(link, frame);
        match self.arena.shortage() {
            Some(error) if posted == Posted::NoResource && !self.sharing().any(Live::lends) => {
                if self.leftovers.give_all_back(&mut self.arena, &self.poller) {
                    return self.post_with_what_others_have(link, frame);
                }
                Posted::Failed(error)
            }
            _ => posted,
        }
    }

    fn post_again(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let Some(link) = self.links.get_mut(link.0 as usize) else { return Posted::Down };
        let Some(live) = &mut link.live else { return Posted::Down };
        live.post(&mut self.arena, self.config.link_window, frame)
    }

    /// The links whose peers hold parts of the common segment.
    fn sharing(&self) -> impl Iterator<Item = &Live> {
        let own = self.links.iter().filter(|link| link.pair.is_none());
        own.filter_map(|link| link.live.as_ref().or(link.kept.as_deref()))
    }
}
