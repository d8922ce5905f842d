//! Whether the way to a peer is still there: beside each link a second connection, over which nothing is ever said.
//!
//! The kernel keeps a connection on which nothing is under way alive by asking, and gives it up when nobody answers. That
//! needs neither process, so a peer that is stopped, or computes for an hour, is not taken for gone. On the link itself it does
//! not work: while bytes are under way the kernel asks by sending them again, ever more rarely, and gives up after a quarter of
//! an hour (`tcp_retries2`); a peer whose buffers are full is asked once in two minutes.
//!
//! Whoever has called for the link calls for its pulse, when the link is a second old, by the same handshake. When the pulse
//! dies, and the link has been silent as well, the link is broken off: another path is sought.

use std::collections::HashMap;
use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::time::Time;

use crate::call::{say, Call, Progress};
use crate::frame_in::Ended;
use crate::handshake::{welcome, Stranger};
use crate::link::{Link, State};
use crate::rail::TcpRail;
use crate::socket::{refusal_of, Moved, Stream};
use crate::visitor::Visitor;
use crate::watch::{Want, Watched, READING};

/// How long a link lives before its pulse begins, and how long the pause is before another is tried: links that are used for
/// moments need none.
const PAUSE_NS: u64 = 1_000_000_000;
/// Questions of the kernel, a second apart, that stay without an answer. With two a lost packet is not the end.
const QUESTIONS: u32 = 2;
/// A link is silent when nothing has come for so much longer than it takes until the kernel asks on it.
const SLACK: Duration = Duration::from_millis(500);

/// The pulses of a rail: at most one for each link.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    by_number: HashMap<u32, Pulse>,
    /// Numbers of pulses by their links.
    of_link: HashMap<u32, u32>,
    /// Numbers of those that are being called, and of some that were: all others need nobody until something happens.
    calling: Vec<u32>,
    /// Links whose pulse is to begin, and when; none before the first look at the clock.
    due: Vec<(u32, Option<Time>)>,
    next: u32,
}

#[derive(Debug)]
struct Pulse {
    link: u32,
    /// This side has called for the link, and sees to its pulse.
    is_ours: bool,
    state: PulseState,
}

#[derive(Debug)]
enum PulseState {
    /// It does what it is for as soon as TCP is connected, whenever the peer's process answers.
    Calling(Box<Call>),
    /// Both sides know what it is.
    Open(Stream),
}

impl PulseState {
    fn stream(&self) -> Option<&Stream> {
        match self {
            PulseState::Calling(call) => call.stream(),
            PulseState::Open(stream) => Some(stream),
        }
    }
}

impl Pulses {
    fn enter(&mut self, pulse: Pulse) -> u32 {
        self.forget(pulse.link);
        self.next = self.next.wrapping_add(1);
        self.of_link.insert(pulse.link, self.next);
        self.by_number.insert(self.next, pulse);
        self.next
    }

    /// The link is over, or gets another pulse.
    pub(crate) fn forget(&mut self, link: u32) {
        self.due.retain(|(of, _)| *of != link);
        if let Some(number) = self.of_link.remove(&link) {
            self.by_number.remove(&number);
        }
    }

    /// Leaves the connections to the process that this one was forked from.
    pub(crate) fn leave(&mut self) {
        for (_, pulse) in self.by_number.drain() {
            match pulse.state {
                PulseState::Calling(call) => call.leave(),
                PulseState::Open(stream) => stream.leave(),
            }
        }
    }

    /// When there is something to do.
    pub(crate) fn next_time(&self) -> Option<Time> {
        let due = self.due.iter().map(|(_, at)| at.unwrap_or(Time(0)));
        let calls = self.calling.iter().filter_map(|number| match &self.by_number.get(number)?.state {
            PulseState::Calling(call) => call.deadline(),
            PulseState::Open(_) => None,
        });
        due.chain(calls).min()
    }

    /// Breaks all of them, as a network does.
    #[cfg(feature = "testing")]
    pub(crate) fn cut(&self) {
        for pulse in self.by_number.values() {
            if let PulseState::Open(stream) = &pulse.state {
                stream.reset();
            }
        }
    }

    /// Number of pulses that both sides know of.
    #[cfg(feature = "testing")]
    pub(crate) fn open(&self) -> usize {
        self.by_number.values().filter(|pulse| matches!(pulse.state, PulseState::Open(_))).count()
    }
}

impl TcpRail {
    /// A link that this side has called for takes frames, or has lost its pulse.
    pub(crate) fn expect_pulse(&mut self, link: u32) {
        if self.config.tuning.keep_alive.is_some() {
            self.pulses.due.push((link, None));
        }
    }

    /// Begins the pulses that are due, and ends calls that take too long.
    pub(crate) fn tend_pulses(&mut self, now: Time) {
        let mut begin = Vec::new();
        self.pulses.due.retain_mut(|(link, at)| {
            let is_due = *at.get_or_insert(now.after(PAUSE_NS)) <= now;
            begin.extend(is_due.then_some(*link));
            !is_due
        });
        let mut late = Vec::new();
        let Pulses { by_number, calling, .. } = &mut self.pulses;
        calling.retain(|number| match by_number.get_mut(number).map(|pulse| &mut pulse.state) {
            Some(PulseState::Calling(call)) => {
                late.extend(call.check_time(now).then_some(*number));
                true
            }
            _ => false,
        });
        begin.into_iter().for_each(|link| self.call_for_pulse(link));
        late.into_iter().for_each(|number| self.attend_pulse(number));
        self.watcher.submit();
    }

    fn call_for_pulse(&mut self, link: u32) {
        let Some(Link { state: State::Live(conn), node, incarnation, generation, .. }) =
            self.links.get(link as usize)
        else {
            return;
        };
        let Some(to) = conn.line.stream.remote() else { return };
        let call = Call::pulse(to, (*node, *incarnation), *generation);
        let state = PulseState::Calling(Box::new(call));
        let number = self.pulses.enter(Pulse { link, is_ours: true, state });
        self.pulses.calling.push(number);
        self.attend_pulse(number);
    }

    /// A peer has called for the pulse of its link; `bytes` of the handshake are to be said.
    pub(crate) fn admit_pulse(&mut self, visitor: Visitor, who: &Stranger, bytes: &[u8]) {
        let is_meant = |link: &&Link| {
            let which = (link.incarnation, link.generation) == (who.incarnation, who.generation);
            which && matches!(link.state, State::Live(_))
        };
        let known = self.by_node.get(&who.node).copied();
        let Some(link) = known.filter(|at| self.links.get(*at as usize).filter(is_meant).is_some()) else {
            return visitor
                .refuse_after(bytes, &Refusal::new(Error::InUse, "the link is not there any more"));
        };
        let (stream, _) = visitor.into_parts();
        if say(&stream, &[bytes, &welcome()].concat()) {
            self.ask(&stream);
            let number = self.pulses.enter(Pulse { link, is_ours: false, state: PulseState::Open(stream) });
            self.attend_pulse(number);
        }
    }

    /// Something has happened to a pulse.
    pub(crate) fn attend_pulse(&mut self, number: u32) {
        let Some(Pulse { link, is_ours, state }) = self.pulses.by_number.remove(&number) else { return };
        // Nobody can be asked once it is over.
        let silence = state.stream().and_then(Stream::silence);
        let watched = self.step_pulse(state).and_then(|(state, want)| {
            let stream = state.stream();
            stream.map_or(Ok(()), |stream| self.watcher.watch(stream, Watched::Pulse(number), want))?;
            Ok(state)
        });
        match watched {
            Ok(state) => {
                self.pulses.by_number.insert(number, Pulse { link, is_ours, state });
            }
            Err(why) => {
                self.pulses.of_link.remove(&link);
                self.lose_pulse(link, is_ours, silence, why);
            }
        }
    }

    /// How a pulse goes on, and what it waits for; or why it is over.
    fn step_pulse(&self, state: PulseState) -> Result<(PulseState, Want), Refusal> {
        let stream = match state {
            PulseState::Open(stream) => stream,
            PulseState::Calling(mut call) => match call.step(&self.config) {
                Progress::Waits(want) => {
                    call.stream().into_iter().for_each(|stream| self.ask(stream));
                    return Ok((PulseState::Calling(call), want));
                }
                Progress::Failed(why) => return Err(why),
                // Only links are called so.
                Progress::Crossed | Progress::Unheard => {
                    return Err(Refusal::new(Error::InUse, "the link is not there any more"))
                }
                Progress::Linked => call.into_parts().map(|(stream, ..)| stream).ok_or_else(ended)?,
            },
        };
        match stream.receive(&mut [0; 16]) {
            Moved::Nothing => Ok((PulseState::Open(stream), READING)),
            Moved::Bytes(_) => {
                Err(Refusal::new(Error::PeerMisbehaved, "something was said where nothing is"))
            }
            Moved::End => Err(ended()),
            Moved::Broken(e) => Err(refusal_of(&e)),
        }
    }

    /// Has the kernel find out soon when nobody answers. What it does not accept it was not told before, either.
    fn ask(&self, stream: &Stream) {
        if let Some(idle) = self.config.tuning.keep_alive {
            let _ = stream.ask(idle, QUESTIONS);
        }
    }

    /// A pulse is over, on which nothing had come for so long. The link is, too, when nothing comes over that either, and nobody
    /// answers or the peer is not there any more: somebody on the way may refuse what is new, and let pass what there is.
    fn lose_pulse(&mut self, link: u32, is_ours: bool, on_pulse: Option<Duration>, why: Refusal) {
        tracing::debug!(link, reason = %why.reason, "pulse lost");
        let on_link = self.silence(link);
        let silence = match why.error {
            // The link of a peer that is full is silent for minutes before anything breaks.
            Error::Unreachable => on_link.min(on_pulse.or(on_link)),
            _ => on_link,
        };
        let usual = self.config.tuning.keep_alive.unwrap_or_default() + SLACK;
        let is_over = matches!(why.error, Error::PeerGone | Error::Unreachable)
            && silence.is_some_and(|silence| silence > usual);
        if is_over {
            let found = self.links.get_mut(link as usize).and_then(Link::whole_mut);
            if let Some(found) = found.filter(|_| why.error == Error::Unreachable) {
                found.silent_ns = silence.map_or(0, |silence| silence.as_nanos() as u64);
            }
            let text = match why.error {
                Error::PeerGone => why.reason,
                _ => format!("nobody answers there: {}", why.reason),
            };
            self.end(link, Ended::Broken(std::io::Error::other(text)));
        } else if is_ours {
            self.expect_pulse(link);
        }
    }

    /// How long nothing has come from the system at the other end of a link.
    pub(crate) fn silence(&mut self, link: u32) -> Option<Duration> {
        self.conn(link)?.line.stream.silence()
    }
}

fn ended() -> Refusal {
    Refusal::new(Error::Invalid, "the peer has ended it")
}
