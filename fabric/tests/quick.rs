//! The short way in: what it takes comes in order with what polling takes, and nobody waits for ever behind a stream.

mod common;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use common::{exactly, from_any, Buffer, Party, Scratch, RECEIVE};
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{PeerState, Quick, SendArgs};
use gridnet::core::error::Error;
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::{LinkId, PeerId, Posted, Rail};
use gridnet::core::testing::random::Random;
use gridnet::{AnyRail, Outlet, ThreadLevel};

/// What `gridnet_cq_poll` does for one entry; whether the short way was it.
fn poll(party: &Party) -> Option<(Completion, bool)> {
    let mut entry = MaybeUninit::uninit();
    let out = NonNull::from(&mut entry).cast();
    let mut fabric = party.enter();
    let waited = fabric.completions(party.cq) > 0;
    // SAFETY: room for one entry, as is said.
    let quick = unsafe { fabric.take_quick(party.cq, out, 1, 1) }.0 == 1;
    // SAFETY: as above; and whoever says that it took one has written it.
    (quick || unsafe { fabric.take_into(party.cq, out, 1, 1) } == 1)
        .then(|| (unsafe { entry.assume_init() }, quick && !waited))
}

fn open(scratch: &Scratch) -> Party {
    Party::open(&scratch.0, None, ThreadLevel::Serialized, &[])
}

/// Connects, and tells the receiver who that is.
fn meet(from: &Party, to: &Party) -> (PeerId, PeerId) {
    let there = from.connect(&to.address());
    from.send(there, b"hello", 1, false).unwrap();
    to.receive(from_any(1), Buffer::new(8)).unwrap();
    loop {
        from.enter().poll_round();
        if let Some((completion, _)) = poll(to) {
            return (there, PeerId::new(completion.source));
        }
    }
}

/// A message of a tag, by its number.
type Sent = (u64, u64, &'static [u8]);

/// Which receive gets which message: the first that accepts it, in the order of the calls on both sides. When each of them ends is
/// not said: a message that is announced may end after later ones.
#[derive(Default)]
struct Matches {
    messages: VecDeque<Sent>,
    /// Operations, the tags that they accept, and their memory.
    receives: VecDeque<(u64, Vec<u64>, Buffer)>,
    matched: Vec<(u64, Sent, Buffer)>,
}

impl Matches {
    fn under_way(&self) -> usize {
        self.messages.len() + self.matched.len()
    }

    fn send(&mut self, sent: Sent) {
        match self.receives.iter().position(|(_, tags, _)| tags.contains(&sent.0)) {
            Some(at) => {
                let (op, _, buffer) = self.receives.remove(at).unwrap();
                self.matched.push((op, sent, buffer));
            }
            None => self.messages.push_back(sent),
        }
    }

    fn receive(&mut self, op: u64, tags: Vec<u64>, buffer: Buffer) {
        match self.messages.iter().position(|(tag, ..)| tags.contains(tag)) {
            Some(at) => self.matched.push((op, self.messages.remove(at).unwrap(), buffer)),
            None => self.receives.push_back((op, tags, buffer)),
        }
    }

    fn take(&mut self, op: u64) -> (Sent, Buffer) {
        let at = self.matched.iter().position(|(known, ..)| *known == op).expect("a message is for it");
        let (_, sent, buffer) = self.matched.remove(at);
        (sent, buffer)
    }
}

#[test]
fn messages_come_in_order_by_both_ways() {
    /// Longest message that goes whole.
    const WHOLE: usize = 8192;
    let scratch = Scratch::new();
    let (a, b) = (open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let mut random = Random::new(3);
    let (mut matches, mut short, mut last) = (Matches::default(), 0, [0; 2]);
    for round in 0..30_000u64 {
        if matches.under_way() < 40 {
            let len = random.pick(&[0, 3, 8, 48, 49, 700, 20_000]);
            let bytes: &'static [u8] = Box::leak(random.bytes(len).into_boxed_slice());
            a.send(to_b, bytes, round % 2, random.chance(0.05)).unwrap();
            matches.send((round % 2, round + 1, bytes));
        }
        while matches.receives.len() < matches.messages.len() {
            // Which of the two accepts a message of what tag, in turn.
            let room = random.pick(&[2, 20_000, 20_000]);
            let buffer = Buffer::new(room);
            let (pattern, tags) = match random.below(4) {
                0 => (Pattern { source: Source::Any, tag: 0, ignore: !0 }, vec![0, 1]),
                1 => (from_any(0), vec![0]),
                2 => (exactly(from_a, 1), vec![1]),
                _ => (exactly(from_a, 0), vec![0]),
            };
            let op = b.receive(pattern, buffer).unwrap();
            matches.receive(op, tags, buffer);
        }
        a.enter().poll_round();
        a.enter().take(a.cq, |_| true);
        while let Some((completion, quick)) = poll(&b) {
            assert_eq!(completion.context, RECEIVE);
            short += u64::from(quick);
            let ((tag, number, bytes), buffer) = matches.take(completion.op);
            assert_eq!(completion.tag, tag);
            if bytes.len() <= WHOLE {
                let before = std::mem::replace(&mut last[tag as usize], number);
                assert!(before < number, "of those that come whole, a later one ended first");
            }
            let got = buffer.to_vec();
            let fits = bytes.len() <= got.len();
            assert_eq!(completion.status, if fits { 0 } else { Error::Truncated.code() });
            assert_eq!(completion.length, bytes.len() as u64);
            assert!(!fits || got[..bytes.len()] == *bytes, "the bytes differ");
        }
    }
    assert!(short > 50, "{short} messages came the short way");
}

/// One look at the short way for one entry, and how it ended.
fn look(party: &Party) -> Quick {
    let mut entry = MaybeUninit::<Completion>::uninit();
    // SAFETY: room for one entry, as is said.
    unsafe { party.enter().take_quick(party.cq, NonNull::from(&mut entry).cast(), 1, 1) }.1
}

/// A look in vain does not end there when the sender waits to hear which of its buffers are free: polling tells it.
#[test]
fn buffers_are_given_back_though_nothing_comes() {
    let scratch = Scratch::new();
    let (a, b) = (open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    b.enter().maintain();
    assert_eq!(look(&b), Quick::Nothing, "nothing is there, and nobody waits");
    for tag in [2, 3] {
        b.receive(exactly(from_a, tag), Buffer::new(700)).unwrap();
    }
    // In a buffer; and a loan, at which a round of polling ends.
    assert!(!a.send(to_b, &[7; 700], 2, false).unwrap());
    let args = SendArgs {
        cq: a.cq,
        owner: 0,
        context: 0,
        tag: 3,
        immediate: None,
        sync: false,
        always_complete: false,
    };
    let (loan, _) = a.enter().engine.take_loan(8).unwrap();
    a.enter().engine.send_loan(to_b, loan, 8, false, &args).unwrap();
    b.enter().poll_round();
    let cq = b.cq;
    assert_eq!(b.enter().take(cq, |completion| completion.status == 0), 2);
    assert_eq!(look(&b), Quick::Poll);
    b.enter().poll_round();
    assert_eq!(look(&b), Quick::Nothing);
}

#[test]
fn others_are_heard_during_a_stream() {
    let scratch = Scratch::new();
    let (a, b, c) = (open(&scratch), open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let (c_to_b, from_c) = meet(&c, &b);
    let outlet = Outlet::new(a.shared.clone(), to_b);
    outlet.refresh(&mut a.enter());
    let buffer = Buffer::new(8);
    let stream = |count: u64, ahead: u64| {
        let (mut short, mut others) = (0, 0);
        for i in 0..count + ahead {
            if i < count {
                if !outlet.send(5, Iov::EMPTY) {
                    a.send(to_b, b"", 5, false).unwrap();
                }
                b.receive(exactly(from_a, 5), buffer).unwrap();
            }
            // So many are there already that each look finds one.
            if i >= ahead {
                let (completion, quick) = poll(&b).expect("a message is there");
                short += u64::from(quick);
                others += u64::from(completion.source == from_c.number());
            }
        }
        (short, others)
    };
    // Until the other's link is an idle one.
    let mut tries = 0;
    while stream(2000, 1).0 < 1500 {
        tries += 1;
        assert!(tries < 1000, "the stream does not come the short way");
    }
    b.receive(exactly(from_c, 6), buffer).unwrap();
    c.send(c_to_b, b"it's me", 6, false).unwrap();
    assert_eq!(stream(5000, 20).1, 1, "the message of the third was not heard");
}

/// What a waiting call does for several entries before it reads the clock.
fn poll_many(party: &Party) -> Vec<Completion> {
    let mut entries = [const { MaybeUninit::<Completion>::uninit() }; 64];
    let out = NonNull::from(&mut entries).cast();
    let mut fabric = party.enter();
    // SAFETY: room for all of them.
    let mut taken = unsafe { fabric.take_quick(party.cq, out, entries.len(), 1) }.0;
    if taken == 0 {
        // SAFETY: as above.
        taken = unsafe { fabric.take_into(party.cq, out, entries.len(), 64) };
    }
    // SAFETY: so many are written.
    entries[..taken].iter().map(|entry| unsafe { entry.assume_init() }).collect()
}

/// One message after the other, until the link of `a` is the only one in use.
fn stream_alone(a: &Party, to_b: PeerId, b: &Party, from_a: PeerId) {
    for _ in 0..20_000 {
        b.receive(exactly(from_a, 5), Buffer::new(8)).unwrap();
        a.send(to_b, b"", 5, false).unwrap();
        while poll(b).is_none() {}
    }
}

/// Does something while a link is cut.
struct AtWarning<F>(F);

impl<F: Fn() + Send + Sync + 'static> tracing::Subscriber for AtWarning<F> {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, _: &tracing::Event<'_>) {
        (self.0)();
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn no_completion_is_lost_when_another_link_is_cut() {
    let scratch = Scratch::new();
    let (a, b, c) = (open(&scratch), open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let (_, from_c) = meet(&c, &b);
    stream_alone(&a, to_b, &b, from_a);
    let of_c = b.receive(exactly(from_c, 6), Buffer::new(8)).unwrap();
    let of_a = b.receive(exactly(from_a, 5), Buffer::new(8)).unwrap();
    {
        // A loan outside of its segment.
        let mut guard = c.enter();
        let rail = guard.engine.rails_mut().iter_mut().find(|rail| matches!(rail, AnyRail::Shm(_))).unwrap();
        assert_eq!(rail.post_loan(LinkId(0), 6, [1, u64::MAX / 2, 10]), Posted::Done);
    }
    let mut got = Vec::new();
    // The message of A comes in the very moment in which C is cut off.
    let sender = a.clone();
    let hook = AtWarning(move || {
        let _ = sender.send(to_b, b"", 5, false);
    });
    tracing::subscriber::with_default(hook, || {
        for _ in 0..200 {
            got.extend(poll_many(&b).iter().map(|completion| completion.op));
        }
    });
    assert!(matches!(b.enter().engine.peer(from_c).unwrap().2, PeerState::Gone(_)));
    assert!(got.contains(&of_a) && got.contains(&of_c), "got {got:?} of {of_a} and {of_c}");
}

#[test]
fn a_look_does_not_change_who_is_received_from() {
    const TAG: u64 = 0x5ee5_0123_4567_89ab;
    let scratch = Scratch::new();
    let (a, b, c) = (open(&scratch), open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let (c_to_b, _) = meet(&c, &b);
    stream_alone(&a, to_b, &b, from_a);
    let other = b.with_own_queue();
    let anything = Pattern { source: Source::Any, tag: 0, ignore: !0 };
    let op = other.receive(anything, Buffer::new(8)).unwrap();
    a.send(to_b, b"", TAG, false).unwrap();
    assert!(poll_short(&b).is_none(), "the message is for another queue");
    assert!(rewrite(TAG) > 0, "the message lies in the ring of A, which A may write");
    c.send(c_to_b, b"hi", 77, false).unwrap();
    let received = (0..100_000).find_map(|_| poll(&other)).expect("there is something for anybody").0;
    assert_eq!(received.op, op);
}

#[test]
fn an_immediate_value_comes_the_short_way_too() {
    let scratch = Scratch::new();
    let (a, b) = (open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    stream_alone(&a, to_b, &b, from_a);
    let outlet = Outlet::new(a.shared.clone(), to_b);
    outlet.refresh(&mut a.enter());
    for (len, room) in [(0, 8), (8, 8), (40, 48), (40, 39)] {
        let (from, to) = (Buffer::new(len), Buffer::new(room));
        from.fill(9);
        b.receive(exactly(from_a, 5), to).unwrap();
        assert!(outlet.send_with(5, !0, from.iov()));
        let end = poll_short(&b).expect("it comes the short way");
        let status = if len > room { Error::Truncated.code() } else { 0 };
        assert_eq!((end.length, end.immediate, end.flags, end.status), (len as u64, !0, 1, status));
        assert_eq!(to.first(len.min(room)).to_vec(), vec![9; len.min(room)]);
    }
}

/// A look at the short way only.
fn poll_short(party: &Party) -> Option<Completion> {
    let mut entry = MaybeUninit::uninit();
    // SAFETY: room for one entry; written when it says so.
    unsafe {
        let taken = party.enter().take_quick(party.cq, NonNull::from(&mut entry).cast(), 1, 1).0;
        (taken == 1).then(|| entry.assume_init())
    }
}

/// Adds one to each word of shared memory that is `word`; how many there were. Other tests unmap theirs meanwhile: it goes by
/// a file, which says so.
fn rewrite(word: u64) -> usize {
    let memory = std::fs::File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("rw-s") && line.contains("gridnet"));
    let mut changed = 0;
    let mut page = [0; 4096];
    for line in shared {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        for at in (start..end.min(start + (8 << 20))).step_by(page.len()) {
            if memory.read_exact_at(&mut page, at).is_err() {
                break;
            }
            for (index, found) in page.chunks(8).enumerate() {
                if found == word.to_ne_bytes() {
                    memory.write_all_at(&(word + 1).to_ne_bytes(), at + 8 * index as u64).unwrap();
                    changed += 1;
                }
            }
        }
    }
    changed
}

#[test]
fn taking_many_at_once_keeps_nobody_waiting_longer() {
    let scratch = Scratch::new();
    let (a, b, c) = (open(&scratch), open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let (c_to_b, from_c) = meet(&c, &b);
    stream_alone(&a, to_b, &b, from_a);
    let buffer = Buffer::new(8);
    b.receive(exactly(from_c, 6), buffer).unwrap();
    c.send(c_to_b, b"it's me", 6, false).unwrap();
    let (mut sent, mut taken) = (0, 0);
    loop {
        while sent < taken + 100 {
            a.send(to_b, b"", 5, false).unwrap();
            b.receive(exactly(from_a, 5), buffer).unwrap();
            sent += 1;
        }
        let got = poll_many(&b);
        if got.iter().any(|completion| completion.source == from_c.number()) {
            break;
        }
        taken += got.len();
        assert!(taken < 400, "{taken} messages of one, and not yet that of the other");
    }
}
