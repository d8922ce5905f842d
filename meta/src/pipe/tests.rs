use super::*;
use proptest::prelude::*;

/// Two ends, and what is on its way from each, in order.
struct Scene {
    ends: [Pipe; 2],
    ways: [VecDeque<Part>; 2],
    now: Instant,
}

impl Scene {
    fn new() -> Scene {
        let now = Instant::now();
        Scene { ends: [Pipe::new(now), Pipe::new(now)], ways: Default::default(), now }
    }

    /// Sends what there is room for; how much.
    fn send(&mut self, from: usize, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.ends[from].room());
        if count > 0 {
            let part = self.ends[from].send(bytes[..count].to_vec(), self.now);
            self.ways[from].push_back(part);
        }
        count
    }

    /// The next thing that is on its way from one comes.
    fn come(&mut self, from: usize) -> Result<(), Refusal> {
        self.ways[from].pop_front().map_or(Ok(()), |part| self.ends[1 - from].take(part, self.now))
    }

    fn read(&mut self, at: usize, most: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.ends[at].waiting().iter().copied().take(most).collect();
        self.ends[at].taken(bytes.len());
        bytes
    }

    fn tell(&mut self, at: usize) {
        self.ends[at].tell(self.now).into_iter().for_each(|part| self.ways[at].push_back(part));
    }
}

fn numbered(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

#[test]
fn who_does_not_read_is_sent_no_more_than_a_window() {
    let mut scene = Scene::new();
    let bytes = numbered(2 * WINDOW_BYTES);
    let mut sent = 0;
    while scene.send(0, &bytes[sent..]) > 0 {
        sent += PART_BYTES;
        scene.come(0).unwrap();
        scene.tell(1);
        scene.come(1).unwrap();
    }
    assert_eq!((sent, scene.ends[1].kept()), (WINDOW_BYTES, WINDOW_BYTES));
    let mut read = Vec::new();
    while read.len() < bytes.len() {
        read.extend(scene.read(1, 1000));
        scene.tell(1);
        scene.come(1).unwrap();
        sent += scene.send(0, &bytes[sent..]);
        scene.come(0).unwrap();
    }
    assert!(read == bytes);
}

/// Short parts cost those on the way as much as longer ones: of them there are fewer, and the other side says earlier that they came.
#[test]
fn who_writes_few_bytes_at_a_time_waits_for_the_other_side() {
    let mut scene = Scene::new();
    let fill = |scene: &mut Scene| (0..).take_while(|_| scene.send(0, &[7]) > 0).count();
    assert_eq!(fill(&mut scene), WINDOW_BYTES / LEAST_BYTES);
    let mut told = 0;
    for _ in 0..WINDOW_BYTES / LEAST_BYTES {
        scene.come(0).unwrap();
        scene.tell(1);
        told += scene.ways[1].len();
        scene.come(1).unwrap();
    }
    assert_eq!((scene.read(1, 1000).len(), told as u64), (256, WINDOW_BYTES as u64 / TELL_BYTES));
    assert_eq!(fill(&mut scene), WINDOW_BYTES / LEAST_BYTES, "nothing is left of those before");
    // Mixed: long ones have the room that is left.
    let mut scene = Scene::new();
    assert_eq!(scene.send(0, &[7]), 1);
    let longer = std::iter::from_fn(|| Some(scene.send(0, &[7; PART_BYTES])).filter(|count| *count > 0));
    assert_eq!(longer.sum::<usize>(), WINDOW_BYTES - LEAST_BYTES);
}

#[test]
fn both_directions_end_by_themselves_and_then_it_is_over() {
    let mut scene = Scene::new();
    for end in 0..2 {
        assert_eq!(scene.send(end, b"last"), 4);
        let part = scene.ends[end].finish();
        assert_eq!(scene.ends[end].room(), 0);
        scene.ways[end].push_back(part);
    }
    for end in 0..2 {
        scene.come(end).unwrap();
        assert_eq!(scene.read(1 - end, 9), b"last");
        assert!(!scene.ends[1 - end].is_read(), "its end is not known");
        scene.come(end).unwrap();
        assert!(scene.ends[1 - end].is_read() && !scene.ends[1 - end].is_over());
    }
    (0..2).for_each(|end| scene.tell(end));
    assert!(!scene.ends.iter().any(Pipe::is_over), "what was sent may be lost");
    (0..2).for_each(|end| scene.come(end).unwrap());
    assert!(scene.ends.iter().all(Pipe::is_over));
}

#[test]
fn silence_and_loss_end_it() {
    let mut scene = Scene::new();
    scene.now += SILENCE_LIMIT / 2;
    assert_eq!(scene.ends[0].check(scene.now), Ok(()));
    scene.send(0, b"lost");
    scene.ways[0].clear();
    let begun = scene.now;
    while scene.now < begun + SILENCE_LIMIT {
        assert_eq!(scene.ends[0].check(scene.now), Ok(()), "the other side is there");
        scene.now = scene.ends[1].next_look();
        scene.tell(1);
        scene.come(1).unwrap();
    }
    assert_eq!(scene.ends[0].check(scene.now), Err(Refusal::Late), "and has not got it");
    assert_eq!(scene.ends[1].check(begun + SILENCE_LIMIT), Err(Refusal::Late), "it has heard nothing");
    scene.ends[1].take(Part::Bytes { at: 4, bytes: vec![1] }, scene.now).unwrap();
    assert_eq!(scene.ends[1].next_look(), scene.now + GAP_LIMIT);
    assert_eq!(scene.ends[1].check(scene.now), Ok(()), "it may come yet");
    assert_eq!(scene.ends[1].check(scene.now + GAP_LIMIT), Err(Refusal::Late));
}

#[test]
fn what_is_not_allowed_ends_it() {
    let bytes = |at, count| Part::Bytes { at, bytes: vec![0; count] };
    let window = WINDOW_BYTES as u64;
    for parts in [
        vec![bytes(0, 0)],
        vec![bytes(window - 1, 2)],
        vec![bytes(u64::MAX, 2)],
        vec![bytes(0, 4), bytes(3, 1)],
        vec![bytes(2, 4), bytes(2, 4)],
        vec![bytes(2, 4), bytes(4, 4), bytes(0, 2)],
        vec![Part::Room { received: 1, until: 9 }],
        vec![Part::Room { received: 0, until: window + 1 }],
        vec![Part::Finish { at: window + 1 }],
        vec![bytes(0, 4), Part::Finish { at: 3 }],
        vec![bytes(8, 4), Part::Finish { at: 11 }],
        vec![Part::Finish { at: 3 }, Part::Finish { at: 4 }],
        vec![Part::Finish { at: 3 }, bytes(0, 4)],
    ] {
        let now = Instant::now();
        let mut pipe = Pipe::new(now);
        let shown = format!("{parts:?}");
        let taken = parts.into_iter().try_for_each(|part| pipe.take(part, now));
        assert_eq!(taken, Err(Refusal::Malformed), "{shown}");
    }
}

fn any_part() -> impl Strategy<Value = Part> {
    let number = || prop_oneof![0..40_000u64, any::<u64>()];
    prop_oneof![
        (0..300_000u64, 0..20_000usize).prop_map(|(at, n)| Part::Bytes { at, bytes: vec![7; n] }),
        (number(), number()).prop_map(|(received, until)| Part::Room { received, until }),
        number().prop_map(|at| Part::Finish { at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is said, what is kept is bounded, and nothing is made up.
    #[test]
    fn any_part_is_borne(parts in prop::collection::vec((any_part(), 0..30_000usize), 0..60)) {
        let mut scene = Scene::new();
        for (part, most) in parts {
            scene.send(0, &[1; 5000]);
            let _ = scene.ends[0].take(part, scene.now);
            prop_assert!(scene.ends[0].kept() <= 2 * WINDOW_BYTES + 20_000);
            scene.read(0, most);
            scene.tell(0);
        }
    }

    /// Bytes come as they were sent, whoever reads how slowly, and whichever parts pass one another.
    #[test]
    fn bytes_come_in_order(
        steps in prop::collection::vec((0..6u8, 0..2usize, 1..20_000usize), 1..400),
        len in 0..400_000usize,
    ) {
        let mut scene = Scene::new();
        let bytes = numbered(len);
        let (mut sent, mut read) = ([0; 2], [Vec::new(), Vec::new()]);
        let last = (0..250).flat_map(|_| [0, 1, 4, 2]).flat_map(|what| [(what, 0, 20_000), (what, 1, 20_000)]);
        for (what, end, count) in steps.into_iter().chain(last) {
            match what {
                0 => {
                    let most = (sent[end] + count).min(len);
                    sent[end] += scene.send(end, &bytes[sent[end]..most]);
                }
                1 | 5 => scene.come(end).unwrap(),
                2 => scene.tell(end),
                // The way changes: what was said later comes first, for once.
                3 => if scene.ways[end].len() < 40 { scene.ways[end].rotate_left(1.min(scene.ways[end].len())) },
                _ => {
                    let some = scene.read(end, count);
                    read[end].extend(some);
                }
            }
            prop_assert!(scene.ends[end].kept() <= WINDOW_BYTES);
        }
        prop_assert!(read.iter().all(|read| *read == bytes));
    }
}

#[test]
fn silence_counts_from_when_the_other_side_has_taken_it() {
    let start = Instant::now();
    let mut pipe = Pipe::new(start);
    let opened = start + 2 * SILENCE_LIMIT;
    pipe.opened(opened);
    assert_eq!(pipe.check(opened), Ok(()));
    assert!(pipe.tell(opened).is_some(), "the other side has heard nothing for long, too");
    let at = |after| pipe.check(opened + after);
    assert_eq!(at(SILENCE_LIMIT - Duration::from_nanos(1)), Ok(()));
    assert_eq!(at(SILENCE_LIMIT), Err(Refusal::Late));
}
