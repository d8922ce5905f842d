//! How much of large messages may be on its way while small ones come and go.
//!
//! What was sent waits in the kernel, and then at the narrowest place of the network: a small message behind a MiB of a large one
//! waits for all of it. So segments are held back while more is on its way than keeps the path full: twice what passes in the time
//! there and back of an empty path, as BBR has it (Cardwell et al. 2016). Half of that is a queue at most, and a small message
//! takes about twice as long as alone. Where the path could carry more, more passes, and the bound grows with what passes.
//!
//! To ask the kernel is a call. When it has said that too much is on its way, it is not asked again before some of that can have
//! arrived; and where nothing arrives, as at a peer that is stopped, ever more seldom, until the peer says something.

use std::time::{Duration, Instant};

/// What the kernel knows of the path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Bytes that were given to the kernel, and that the other side's has not acknowledged.
    pub(crate) on_the_way: u64,
    /// Bytes that it has.
    pub(crate) acknowledged: u64,
    /// Microseconds there and back, at best; 0 when that is not known.
    pub(crate) least_us: u32,
    /// Bytes a second, as the kernel has measured them.
    pub(crate) rate: u64,
    /// Bytes of a packet.
    pub(crate) packet: u32,
}

/// A path is not taken for a shorter one: a process that slept needs about as long to send more, and the path would run dry.
const LEAST_TRIP: Duration = Duration::from_millis(1);
/// Spans that are remembered: of the last ones the best counts, as in a bad one there may have been nothing to send.
const SPANS: usize = 8;
/// Times there and back that a span has at least,
const SPAN_TRIPS: u32 = 4;
/// and at most, if anything is to be learnt from it.
const LONGEST_SPAN_TRIPS: u32 = 64;
/// A span is not shorter, since acknowledgements come in bursts.
const SHORTEST_SPAN: Duration = Duration::from_millis(2);
/// Where something arrives, the kernel is asked again after so many times there and back, whatever was reckoned: a segment may be so
/// long against the path that nothing would be learnt from the time until it has passed, and the path meanwhile be a better one.
const HOLD_TRIPS: u32 = LONGEST_SPAN_TRIPS / 4;
/// Whatever was estimated, and however long nothing has arrived, the kernel is asked again after so long: a peer that goes on after
/// a while has to wait for the next segment no longer.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Shallow {
    /// When the span began, and what was acknowledged by then.
    began: Option<(Instant, u64)>,
    /// Bytes a second in the last spans.
    rates: [u64; SPANS],
    next: usize,
    /// Nothing more goes.
    hold: Option<Hold>,
    /// Since when nothing has been acknowledged while there was no room, and what had been by then.
    stuck: Option<(Instant, u64)>,
}

/// How long nothing more goes.
#[derive(Debug, Clone, Copy)]
struct Hold {
    /// Whatever the kernel would say: so long takes what has to pass first, or a word of a peer that had been silent.
    least: Instant,
    /// Unless the peer says something before: then it goes on, and has perhaps acknowledged.
    most: Instant,
    /// What the peer had said by then.
    heard: u64,
}

impl Hold {
    fn is_over(&self, now: Instant, heard: u64) -> bool {
        now >= self.most || now >= self.least && heard != self.heard
    }
}

/// What may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A segment of so many bytes.
    Bytes(usize),
    /// Nothing, for about as long.
    After(Duration),
}

impl Shallow {
    /// Room for a segment of at most `most` bytes, where `heard` frames have come so far. `ask` is a call to the kernel, which is
    /// made only when something may have changed since the last one; without an answer nothing is held back.
    pub(crate) fn room(
        &mut self,
        now: Instant,
        most: usize,
        heard: u64,
        ask: impl FnOnce() -> Option<Flow>,
    ) -> Room {
        if let Some(hold) = self.hold.filter(|hold| !hold.is_over(now, heard)) {
            return Room::After(hold.most - now);
        }
        self.hold = None;
        ask().map_or(Room::Bytes(most), |flow| self.room_in(&flow, now, most, heard))
    }

    fn room_in(&mut self, flow: &Flow, now: Instant, most: usize, heard: u64) -> Room {
        let trip = Duration::from_micros(flow.least_us.into());
        self.measure(flow, now, trip);
        let rate = self.rates.iter().copied().max().filter(|rate| *rate > 0).unwrap_or(flow.rate);
        if rate == 0 || trip.is_zero() {
            return Room::Bytes(most);
        }
        let passes = (u128::from(rate) * trip.max(LEAST_TRIP).as_micros() / 1_000_000) as u64;
        let bound = (2 * passes).max(4 * u64::from(flow.packet));
        // A few parts, so that the path does not run dry between two.
        let part = most.min((bound / 4) as usize).max(flow.packet as usize).min(most);
        if flow.on_the_way + part as u64 <= bound {
            self.stuck = None;
            return Room::Bytes(part);
        }
        let beyond = (flow.on_the_way + part as u64 - bound).max(bound / 8);
        let passes = u64::try_from(u128::from(beyond) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
        let passes = Duration::from_nanos(passes).min(least_span(trip) * (HOLD_TRIPS / SPAN_TRIPS));
        // Who has taken nothing for a while is left alone for half as long again.
        let stuck = self.stuck.filter(|(_, acknowledged)| *acknowledged == flow.acknowledged);
        let (since, _) = *self.stuck.insert(stuck.unwrap_or((now, flow.acknowledged)));
        let quiet = now.saturating_duration_since(since);
        let passes = passes.min(LONGEST_HOLD);
        let span = passes.max(quiet / 2).min(LONGEST_HOLD);
        let least = if span > passes { passes.min(trip.max(LEAST_TRIP)) } else { passes };
        self.hold = Some(Hold { least: now + least, most: now + span, heard });
        Room::After(span)
    }

    fn measure(&mut self, flow: &Flow, now: Instant, trip: Duration) {
        let Some((began, before)) = self.began else {
            self.began = Some((now, flow.acknowledged));
            return;
        };
        let took = now.saturating_duration_since(began);
        let least = least_span(trip);
        if took < least {
            return;
        }
        self.began = Some((now, flow.acknowledged));
        if took <= least * (LONGEST_SPAN_TRIPS / SPAN_TRIPS) {
            let passed = flow.acknowledged.saturating_sub(before);
            self.rates[self.next] = (u128::from(passed) * 1_000_000_000 / took.as_nanos().max(1)) as u64;
            self.next = (self.next + 1) % SPANS;
        }
    }
}

fn least_span(trip: Duration) -> Duration {
    (trip * SPAN_TRIPS).max(SHORTEST_SPAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 32 << 10;
    const STEP: Duration = Duration::from_micros(10);

    /// A path of so many bytes a second: what is sent is acknowledged after the queue and the way there and back.
    struct PathModel {
        rate: u64,
        trip: Duration,
        now: Instant,
        /// When the queue is empty again, and what is acknowledged when.
        free: Instant,
        under_way: std::collections::VecDeque<(Instant, u64)>,
        flow: Flow,
        /// The longest time that a byte took.
        longest: Duration,
        /// How often it was asked how full it is.
        asked: usize,
        /// Frames of the peer.
        heard: u64,
        /// Bytes that go where there is room, instead of as many as there is room for.
        segment: Option<u64>,
    }

    impl PathModel {
        fn new(rate: u64, trip: Duration) -> PathModel {
            let now = Instant::now();
            let flow =
                Flow { least_us: trip.as_micros() as u32, packet: 1448, rate: rate / 20, ..Flow::default() };
            let (free, under_way) = (now, std::collections::VecDeque::new());
            PathModel {
                rate,
                trip,
                now,
                free,
                under_way,
                flow,
                longest: Duration::ZERO,
                asked: 0,
                heard: 0,
                segment: None,
            }
        }

        /// Sends packets, each of which is acknowledged.
        fn send(&mut self, mut bytes: u64) {
            while bytes > 0 {
                let packet = bytes.min(self.flow.packet.into());
                self.send_packet(packet);
                bytes -= packet;
            }
        }

        fn send_packet(&mut self, bytes: u64) {
            self.free = self.free.max(self.now) + Duration::from_nanos(bytes * 1_000_000_000 / self.rate);
            let arrives = self.free + self.trip;
            self.longest = self.longest.max(arrives - self.now);
            self.under_way.push_back((arrives, bytes));
            self.flow.on_the_way += bytes;
        }

        fn step(&mut self) {
            self.now += STEP;
            while let Some((_, bytes)) = self.under_way.pop_front_if(|(at, _)| *at <= self.now) {
                self.flow.on_the_way -= bytes;
                self.flow.acknowledged += bytes;
            }
        }

        fn room(&mut self, shallow: &mut Shallow) -> Room {
            let PathModel { now, flow, asked, heard, .. } = self;
            shallow.room(*now, MOST, *heard, || {
                *asked += 1;
                Some(*flow)
            })
        }

        /// Sends as much as there is room for, by somebody who looks all the time; what was acknowledged a second.
        fn run(&mut self, shallow: &mut Shallow, span: Duration) -> u64 {
            let (began, before) = (self.now, self.flow.acknowledged);
            while self.now - began < span {
                self.step();
                while let Room::Bytes(len) = self.room(shallow) {
                    self.send(self.segment.unwrap_or(len as u64));
                }
            }
            ((self.flow.acknowledged - before) as f64 / span.as_secs_f64()) as u64
        }
    }

    #[test]
    fn a_path_is_full_and_has_no_long_queue() {
        for (mbit, trip_us) in [(100, 1000), (300, 4000), (1000, 200), (10_000, 100), (20, 50_000)] {
            let trip = Duration::from_micros(trip_us);
            let mut path = PathModel::new(mbit * 125_000, trip);
            let mut shallow = Shallow::default();
            path.run(&mut shallow, trip * 200 + Duration::from_millis(50));
            path.longest = Duration::ZERO;
            let rate = path.run(&mut shallow, trip * 100 + Duration::from_millis(50));
            assert!(rate * 10 > path.rate * 9, "{mbit} mbit, {trip_us} us: {rate} of {} bytes/s", path.rate);
            assert!(
                path.longest < trip + trip.max(LEAST_TRIP) * 2,
                "{mbit} mbit, {trip_us} us: {:?}",
                path.longest
            );
        }
    }

    #[test]
    fn the_bound_follows_a_path_that_changes() {
        let trip = Duration::from_millis(2);
        let mut path = PathModel::new(100 * 125_000, trip);
        let mut shallow = Shallow::default();
        path.run(&mut shallow, Duration::from_secs(1));
        path.rate *= 8;
        path.run(&mut shallow, Duration::from_secs(1));
        let rate = path.run(&mut shallow, Duration::from_secs(1));
        assert!(rate * 10 > path.rate * 9, "{rate} of {} bytes/s", path.rate);
        path.rate /= 8;
        path.run(&mut shallow, Duration::from_secs(1));
        path.longest = Duration::ZERO;
        path.run(&mut shallow, Duration::from_secs(1));
        assert!(path.longest < trip * 5 / 2, "{:?}", path.longest);
    }

    /// Users that share a path send more than there is room for.
    #[test]
    fn long_segments_keep_nobody_from_learning_what_passes() {
        for trip_us in [100, 500, 2000, 20_000] {
            let trip = Duration::from_micros(trip_us);
            let mut path = PathModel::new(1_000_000, trip);
            path.segment = Some(256 << 10);
            let mut shallow = Shallow::default();
            path.run(&mut shallow, Duration::from_secs(2));
            path.rate *= 100;
            path.run(&mut shallow, Duration::from_secs(2));
            let rate = path.run(&mut shallow, Duration::from_secs(1));
            assert!(rate * 10 > path.rate * 9, "{trip_us} us: {rate} of {} bytes/s", path.rate);
        }
    }

    #[test]
    fn what_is_not_known_bounds_nothing() {
        let mut shallow = Shallow::default();
        let now = Instant::now();
        for flow in
            [Flow::default(), Flow { rate: 1000, ..Flow::default() }, Flow { least_us: 9, ..Flow::default() }]
        {
            let flow = Flow { on_the_way: 1 << 30, packet: 1448, ..flow };
            assert_eq!(shallow.room(now, MOST, 0, || Some(flow)), Room::Bytes(MOST));
        }
        assert_eq!(shallow.room(now, MOST, 0, || None), Room::Bytes(MOST));
    }

    /// Who looks in each round does not ask in each.
    #[test]
    fn the_kernel_is_asked_when_something_may_have_changed() {
        for (mbit, trip_us) in [(100, 1000), (1000, 4000), (20, 50_000)] {
            let trip = Duration::from_micros(trip_us);
            let mut path = PathModel::new(mbit * 125_000, trip);
            let mut shallow = Shallow::default();
            path.run(&mut shallow, trip * 20);
            path.asked = 0;
            let (span, before) = (trip * 40, path.flow.acknowledged);
            path.run(&mut shallow, span);
            let segments = ((path.flow.acknowledged - before) / u64::from(path.flow.packet)) as usize;
            let rounds = (span.as_micros() / STEP.as_micros()) as usize;
            // Once for each segment, which is a packet at least, and at most eight times while as much passes as may be on its way.
            let most = (segments + 40 * 8).min(rounds / 2);
            assert!(path.asked <= most, "{mbit} mbit, {trip_us} us: {} of {rounds} rounds", path.asked);
        }
    }

    /// A sleeper is woken for a peer that is stopped only now and then, and soon for one that goes on.
    #[test]
    fn a_peer_that_takes_nothing_is_looked_at_ever_more_seldom() {
        let trip = Duration::from_micros(100);
        let mut path = PathModel::new(10_000 * 125_000, trip);
        let mut shallow = Shallow::default();
        path.run(&mut shallow, Duration::from_millis(100));
        // It is stopped: nothing is acknowledged any more.
        let (began, mut woken, mut segments) = (path.now, 0, 0);
        path.asked = 0;
        while path.now - began < Duration::from_secs(10) {
            match path.room(&mut shallow) {
                Room::Bytes(len) => {
                    path.send(len as u64);
                    segments += 1;
                }
                Room::After(span) => {
                    assert!(span <= LONGEST_HOLD, "{span:?}");
                    path.now += span;
                    woken += 1;
                }
            }
        }
        assert!(woken <= 10 * 10 + 30 && segments < 200, "woken {woken} times, {segments} segments");
        assert!(path.asked <= woken + segments, "asked {} times", path.asked);
        path.step();
        assert!(matches!(path.room(&mut shallow), Room::Bytes(_)), "all has arrived");
    }

    /// Who was stopped and says something again does not wait as long as it was stopped.
    #[test]
    fn a_peer_that_speaks_again_is_looked_at_soon() {
        for speaks in [false, true] {
            let mut path = PathModel::new(10_000 * 125_000, Duration::from_micros(100));
            let mut shallow = Shallow::default();
            path.run(&mut shallow, Duration::from_millis(100));
            let stopped = path.now;
            while path.now - stopped < Duration::from_secs(1) {
                match path.room(&mut shallow) {
                    Room::Bytes(len) => path.send(len as u64),
                    Room::After(span) => path.now += span,
                }
            }
            while let Room::Bytes(len) = path.room(&mut shallow) {
                path.send(len as u64);
            }
            // It goes on: all is acknowledged.
            let (went_on, asked) = (path.now, path.asked);
            path.step();
            path.heard += u64::from(speaks);
            while matches!(path.room(&mut shallow), Room::After(_)) {
                path.step();
            }
            let waited = path.now - went_on;
            assert_eq!(waited < Duration::from_millis(5), speaks, "{waited:?}");
            assert_eq!(path.asked, asked + 1, "once there may be room");
        }
    }
}
