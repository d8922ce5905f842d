//! Calling peers again whose link has broken, and giving those up that no path leads to.

use super::peer::{Peer, PeerState};
use super::recover::rail_bit;
use super::Engine;
use crate::error::Error;
use crate::rail::{PeerId, Rail, Refusal};
use crate::time::Time;

/// How long to wait after the first call that failed; doubled after each further one.
const FIRST_PAUSE_NS: u64 = 1_000_000;
/// The longest wait between two calls.
const LONGEST_PAUSE_NS: u64 = 250_000_000;
/// The side that was called first leaves the other so much time to call again.
const GIVE_WAY_NS: u64 = 100_000_000;
/// However long nobody had answered before a link broke, so much time is left to find another path: for a packet that is lost,
/// or an address that does not lead there any more.
const LAST_CHANCE_NS: u64 = 2_000_000_000;
/// Links over which a peer may say nothing, one after the other. One that is stopped makes none.
const MUTE_LINKS: u32 = 3;

impl<R: Rail> Engine<R> {
    /// How often the link to a peer has broken, and how many frames were sent again for it.
    pub fn breaks(&self, peer: PeerId) -> (u64, u64) {
        let recovery = self.state.peers.get(peer.index()).and_then(|p| p.recovery.as_ref());
        recovery.map_or((0, 0), |recovery| (recovery.breaks, recovery.replays))
    }

    /// How often the conversation with a peer has left a link that was up for one over another rail.
    pub fn moves(&self, peer: PeerId) -> u64 {
        let recovery = self.state.peers.get(peer.index()).and_then(|p| p.recovery.as_ref());
        recovery.map_or(0, |recovery| recovery.moves)
    }

    /// Whether a peer takes nothing any more, or does not answer, while its host does.
    pub fn is_stalled(&self, peer: PeerId) -> bool {
        self.state.peers.get(peer.index()).is_some_and(Peer::is_stalled)
    }

    /// Calls peers again whose link has broken, and gives those up that no path leads to.
    pub(super) fn mend(&mut self, now: Time) {
        // How silent it was before a link broke is learnt there.
        self.settle_links();
        let mut next: Option<Time> = None;
        for peer in std::mem::take(&mut self.state.mending) {
            let look = match self.state.peers[peer.index()].state {
                PeerState::Broken(_) => self.mend_peer(peer, now),
                PeerState::Up => self.seek_preferred(peer, now),
                _ => None,
            };
            if let Some(at) = look {
                if !self.state.mending.contains(&peer) {
                    self.state.mending.push(peer);
                }
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        self.state.mend_at = next;
    }

    /// The next time to look; none when the peer was given up.
    fn mend_peer(&mut self, peer: PeerId, now: Time) -> Option<Time> {
        let timeout = self.state.limits.peer_timeout_ns;
        let p = &mut self.state.peers[peer.index()];
        let recovery = p.recovery.as_mut()?;
        if recovery.came_up {
            return self.await_resume(peer, now);
        }
        if recovery.attempt.is_some() && recovery.host_answers {
            // Whoever is slow is not gone. The call ends by itself when nobody answers any more.
            recovery.since = None;
            return Some(now.after(timeout));
        }
        if recovery.since.is_none() {
            let silent_ns = std::mem::take(&mut recovery.silent_ns);
            recovery.since = Some(begin_of_silence(now, silent_ns, timeout));
            if let Some(other) = other_rail(p.rail, recovery.carried).filter(|_| silent_ns > 0) {
                recovery.next_rail = other;
            }
            let pause = if recovery.gives_way { GIVE_WAY_NS } else { 0 };
            recovery.next_call = recovery.next_call.max(now.after(pause));
        }
        let end = recovery.since.unwrap_or(now).after(timeout);
        if now >= end {
            let why = no_path(p, timeout);
            self.state.peer_down(peer, &why);
            return None;
        }
        if recovery.address.is_none() || recovery.attempt.is_some() {
            return Some(end);
        }
        if now >= recovery.next_call {
            recovery.pause_ns = (recovery.pause_ns * 2).clamp(FIRST_PAUSE_NS, LONGEST_PAUSE_NS);
            recovery.next_call = now.after(recovery.pause_ns);
            self.call_again(peer);
        }
        let next = self.state.peers[peer.index()].recovery.as_ref()?.next_call;
        Some(next.min(end))
    }

    /// A path leads there, and the peer has to say how far it came. It is not given up for being slow; but one that makes links,
    /// so that it is not stopped, and says nothing over them, is cut off.
    fn await_resume(&mut self, peer: PeerId, now: Time) -> Option<Time> {
        let timeout = self.state.limits.peer_timeout_ns;
        let p = &mut self.state.peers[peer.index()];
        let (rail, link) = (p.rail, p.link);
        let recovery = p.recovery.as_mut()?;
        let end = recovery.up_since.get_or_insert(now).after(timeout);
        if now < end || recovery.heard.is_some() {
            return Some(end.max(now.after(timeout / 2)));
        }
        recovery.mute_links += 1;
        let is_last = recovery.mute_links >= MUTE_LINKS;
        self.rails[rail].fence(link);
        let why = "the peer makes links, and says nothing over them";
        if is_last {
            self.state.give_up(peer, &Refusal::new(Error::PeerMisbehaved, why));
        } else {
            self.state.link_broken(peer, rail, link, &Refusal::new(Error::Timeout, why));
            if let Some(recovery) = &mut self.state.peers[peer.index()].recovery {
                recovery.next_rail = rail + 1;
            }
        }
        self.settle_links();
        (!is_last).then_some(now)
    }

    fn call_again(&mut self, peer: PeerId) {
        let p = &mut self.state.peers[peer.index()];
        let (is_own, allowed) = (p.user.is_none(), p.rails);
        let Some(recovery) = &mut p.recovery else { return };
        let Some(address) = &recovery.address else { return };
        let (first, count) = (recovery.next_rail, self.rails.len());
        for index in (first..first + count).map(|index| index % count) {
            // Rails tell users apart in different ways: one who was known to be another's is not, over another rail.
            let is_known = is_own || recovery.carried & rail_bit(index) != 0;
            let may = is_known && allowed & rail_bit(index) != 0;
            if !may || !self.state.retains.get(index).is_some_and(|retains| *retains) {
                continue;
            }
            // If this does not come about, the others have their turn.
            recovery.next_rail = index + 1;
            match self.rails[index].connect(peer, address) {
                Ok(link) => {
                    recovery.attempt = Some((index, link));
                    recovery.host_answers = false;
                    recovery.was_called = false;
                    return;
                }
                Err(refusal) if refusal.error == Error::PeerGone => {
                    return self.state.peer_down(peer, &refusal);
                }
                Err(refusal) => {
                    if refusal.error == Error::Again {
                        // Too many calls wait there already: the peer is slow.
                        recovery.since = None;
                    }
                    recovery.refusal = Some(refusal);
                }
            }
        }
    }
}

/// Since when nobody answers: since before the break, if that was noticed late.
fn begin_of_silence(now: Time, silent_ns: u64, timeout_ns: u64) -> Time {
    Time(now.0.saturating_sub(silent_ns.min(timeout_ns.saturating_sub(LAST_CHANCE_NS))))
}

/// Another rail that has carried the conversation. Where nobody had answered before the break it is asked first: to find out that nobody
/// does still may take all the time that is left.
fn other_rail(broken: usize, carried: u64) -> Option<usize> {
    let others = carried & !rail_bit(broken);
    (others != 0).then_some(others.trailing_zeros() as usize)
}

fn no_path(p: &Peer, timeout_ns: u64) -> Refusal {
    let PeerState::Broken(broken) = &p.state else { return Refusal::new(Error::PeerGone, "") };
    let last = p.recovery.as_ref().and_then(|recovery| recovery.refusal.as_ref());
    let last = last.map_or(String::new(), |refusal| format!("; {}", refusal.reason));
    let ms = timeout_ns / 1_000_000;
    Refusal::new(Error::PeerGone, format!("no path to the peer for {ms} ms: {}{last}", broken.reason))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn another_rail_is_one_that_has_carried_the_conversation() {
        for (carried, other) in [(0b0010, None), (0b1010, Some(3)), (0b1011, Some(0)), (0b1000, Some(3))] {
            assert_eq!(other_rail(1, carried), other, "{carried:b}");
        }
    }

    #[test]
    fn silence_counts_from_before_the_break_as_long_as_there_is_time_for_another_path() {
        let second = 1_000_000_000;
        let left = |silent, timeout| {
            let now = Time(100 * second);
            begin_of_silence(now, silent * second, timeout * second).after(timeout * second).since(now)
                / second
        };
        assert_eq!((left(0, 5), left(2, 5), left(3, 5)), (5, 3, 2));
        assert_eq!((left(4, 5), left(60, 5), left(60, 2), left(3, 1)), (2, 2, 2, 1));
    }
}
