use super::*;
use crate::testing::Parties;
use proptest::prelude::*;
use std::sync::mpsc::{channel, Receiver};

/// Two members, and a way between them that may lose what is on it.
struct Scene {
    offices: [Office; 2],
    now: Instant,
    /// How often each number was said by a request that was done.
    done: HashMap<Vec<u8>, u32>,
}

fn parties() -> &'static Parties {
    static PARTIES: std::sync::OnceLock<Parties> = std::sync::OnceLock::new();
    PARTIES.get_or_init(Parties::new)
}

impl Scene {
    fn new() -> Scene {
        let parties = parties();
        let office = |party| Office::new(parties.node(party), parties.sealing(party));
        Scene { offices: [office(0), office(1)], now: Instant::now(), done: HashMap::new() }
    }

    fn ask(&mut self, body: &[u8], limit: Duration) -> Receiver<Told> {
        let (tell, told) = channel();
        let (to, times) = (self.offices[1].node, (self.now, self.now + limit));
        self.offices[0].ask(to, (7, body.to_vec()), times, Box::new(move |outcome| drop(tell.send(outcome))));
        told
    }

    /// Carries what both have to say, until they are silent; `fate` says of each packet whether it gets there.
    fn run(&mut self, mut fate: impl FnMut(&Packet) -> Fate) {
        loop {
            let packets: Vec<Packet> = self.offices.iter_mut().flat_map(Office::take_packets).collect();
            if packets.is_empty() {
                return;
            }
            for packet in packets {
                let from = usize::from(packet.from != self.offices[0].node);
                match fate(&packet) {
                    Fate::Arrives => self.arrive(1 - from, &packet),
                    Fate::Lost => (),
                    Fate::Told => self.offices[from].undelivered(&packet, Refusal::NoRoute, self.now),
                }
            }
        }
    }

    fn arrive(&mut self, at: usize, packet: &Packet) {
        let times = (self.now, Moment::now());
        let calls = self.offices[at].take(packet, false, times);
        self.answer(at, calls);
    }

    fn answer(&mut self, at: usize, calls: Vec<Call>) {
        for call in calls {
            *self.done.entry(call.body.clone()).or_default() += 1;
            let answer = call.body.iter().rev().copied().collect();
            self.offices[at].answer(&call, Ok(answer), self.now);
        }
    }

    /// A line of that number stands between the two.
    fn join(&mut self, number: u64) {
        let nodes = [0, 1].map(|at: usize| self.offices[at].node);
        (0..2).for_each(|at| self.offices[at].line_stands((nodes[1 - at], number), self.now));
    }

    /// Carries what waits for lines; how many there were.
    fn run_lines(&mut self) -> usize {
        let mut count = 0;
        loop {
            let said = [0, 1].map(|at: usize| self.offices[at].take_to_lines());
            if said.iter().all(Vec::is_empty) {
                return count;
            }
            for (at, ToLine { line, message }) in
                said.into_iter().enumerate().flat_map(|(at, said)| said.into_iter().map(move |one| (at, one)))
            {
                count += 1;
                let from = self.offices[at].node;
                assert_eq!(line.0, self.offices[1 - at].node);
                let calls = self.offices[1 - at].hear_line((from, line.1), message, self.now);
                self.answer(1 - at, calls);
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.offices.iter_mut().for_each(|office| office.look((self.now, Moment::now())));
    }
}

enum Fate {
    Arrives,
    Lost,
    Told,
}

const SECOND: Duration = Duration::from_secs(1);

fn body_of(told: &Receiver<Told>) -> Vec<u8> {
    told.try_recv().unwrap().outcome.unwrap()
}

#[test]
fn a_request_is_done_once_and_answered() {
    let mut scene = Scene::new();
    let (one, two) = (scene.ask(b"abc", SECOND), scene.ask(&[9; REQUEST_BYTES_MAX], SECOND));
    scene.run(|_| Fate::Arrives);
    assert_eq!((body_of(&one), body_of(&two).len()), (b"cba".to_vec(), REQUEST_BYTES_MAX));
    let three = scene.ask(b"def", SECOND);
    let mut packets = 0;
    scene.run(|_| {
        packets += 1;
        Fate::Arrives
    });
    assert_eq!((body_of(&three), packets), (b"fed".to_vec(), 2), "the conversation stands: there and back");
    assert_eq!(scene.done.values().copied().collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn an_answer_that_was_lost_is_said_again_and_nothing_is_done_twice() {
    let mut scene = Scene::new();
    let first = scene.ask(b"x", 10 * SECOND);
    scene.run(|_| Fate::Arrives);
    body_of(&first);
    let told = scene.ask(b"ab", 10 * SECOND);
    let answerer = scene.offices[1].node;
    scene.run(|packet| if packet.from == answerer { Fate::Lost } else { Fate::Arrives });
    assert!(told.try_recv().is_err());
    scene.pass(2 * SECOND);
    scene.run(|_| Fate::Arrives);
    assert_eq!((body_of(&told), scene.done[&b"ab"[..]]), (b"ba".to_vec(), 1));
}

/// What was on the way is lost: the conversation itself, a request, an answer.
#[test]
fn what_may_be_lost_with_the_way_is_said_again_at_once_when_there_is_another() {
    for (nth, peer) in [(0, true), (1, false), (2, true), (3, false)] {
        let mut scene = Scene::new();
        let told = scene.ask(b"ab", 60 * SECOND);
        let mut packets = 0;
        scene.run(|_| {
            packets += 1;
            if packets > nth {
                Fate::Lost
            } else {
                Fate::Arrives
            }
        });
        assert!(told.try_recv().is_err(), "{nth}: it had to be lost");
        let other = scene.offices[1].node;
        scene.offices[0].moved(Some(NodeId::new([99; 16]).unwrap()), scene.now);
        assert!(scene.offices[0].take_packets().is_empty(), "that is about somebody else");
        scene.offices[0].moved(peer.then_some(other), scene.now);
        scene.run(|_| Fate::Arrives);
        assert_eq!((body_of(&told), scene.done[&b"ab"[..]]), (b"ba".to_vec(), 1), "{nth}");
        // Nothing is open any more.
        scene.offices[0].moved(None, scene.now);
        assert!(scene.offices[0].take_packets().is_empty());
    }
    // A line does not go that way.
    let mut scene = Scene::new();
    scene.join(1);
    let _told = scene.ask(b"cd", SECOND);
    scene.offices[0].take_to_lines();
    scene.offices[0].moved(None, scene.now);
    assert!(scene.offices[0].take_to_lines().is_empty() && scene.offices[0].take_packets().is_empty());
}

#[test]
fn who_cannot_be_reached_is_told_with_the_reason_when_time_is_over() {
    let mut scene = Scene::new();
    let told = scene.ask(b"ab", 3 * SECOND);
    scene.run(|_| Fate::Told);
    for _ in 0..60 {
        scene.pass(SECOND / 20);
        scene.run(|_| Fate::Told);
    }
    let outcome = told.try_recv().unwrap().outcome;
    assert!(matches!(&outcome, Err(Error::Refused(Refusal::NoRoute, _))), "{outcome:?}");
    let told = scene.ask(b"cd", 3 * SECOND);
    scene.run(|_| Fate::Lost);
    scene.pass(3 * SECOND);
    let outcome = told.try_recv().unwrap().outcome;
    assert!(matches!(&outcome, Err(Error::Refused(Refusal::Late, _))), "{outcome:?}");
    // When the way is there again, so is the other.
    let told = scene.ask(b"ef", 30 * SECOND);
    for _ in 0..6 {
        scene.pass(2 * SECOND);
        scene.run(|_| Fate::Arrives);
    }
    assert_eq!(body_of(&told), b"fe");
    assert!(scene.offices[0].next_look().is_none());
}

#[test]
fn one_that_was_started_again_is_spoken_to_anew() {
    let mut scene = Scene::new();
    let first = scene.ask(b"x", SECOND);
    scene.run(|_| Fate::Arrives);
    body_of(&first);
    // It has forgotten its conversations, as one does that had too many.
    scene.offices[1].talks.clear();
    let told = scene.ask(b"ab", SECOND);
    scene.run(|_| Fate::Arrives);
    assert_eq!((body_of(&told), scene.done[&b"ab"[..]]), (b"ba".to_vec(), 1), "within the same second");
}

#[test]
fn only_what_was_surely_not_done_is_said_to_have_failed() {
    let mut scene = Scene::new();
    let answerer = scene.offices[1].node;
    for is_first in [true, false] {
        let told = scene.ask(&[u8::from(is_first)], 3 * SECOND);
        // It is done, and from then on the other cannot be reached.
        let mut is_done = false;
        let of_answer = |packet: &Packet| packet.from == answerer;
        let mut hello = is_first;
        scene.run(|packet| match of_answer(packet) {
            true if std::mem::take(&mut hello) => Fate::Arrives,
            from_answerer => {
                is_done |= from_answerer;
                if from_answerer {
                    Fate::Lost
                } else {
                    Fate::Arrives
                }
            }
        });
        assert!(is_done && scene.done[&[u8::from(is_first)][..]] == 1);
        for _ in 0..60 {
            scene.pass(SECOND / 20);
            scene.run(|_| Fate::Told);
        }
        let outcome = told.try_recv().unwrap().outcome;
        let is_unsure = |why: &str| why.contains("not known") && why.contains(Refusal::NoRoute.name());
        assert!(matches!(&outcome, Err(Error::Refused(Refusal::Late, why)) if is_unsure(why)), "{outcome:?}");
        // The conversation stands again.
        let told = scene.ask(b"x", 30 * SECOND);
        for _ in 0..6 {
            scene.run(|_| Fate::Arrives);
            scene.pass(2 * SECOND);
        }
        body_of(&told);
    }
}

#[test]
fn nothing_is_said_to_one_who_only_claims_to_be_the_other() {
    let mut scene = Scene::new();
    // Somebody on the way begins a conversation in the name of another.
    let (victim, claimed) = (scene.offices[1].node, scene.offices[0].node);
    scene.offices[0] = Office::new(claimed, parties().sealing(2));
    let told = scene.ask(b"x", SECOND);
    let hello = scene.offices[0].take_packets();
    hello.iter().for_each(|packet| scene.arrive(1, packet));
    let (now, clock) = (scene.now, Moment::now());
    scene.offices[1].ask(claimed, (7, b"secret".to_vec()), (now, now + SECOND), Box::new(drop));
    for _ in 0..10 {
        for at in [0, 1] {
            for packet in scene.offices[1 - at].take_packets() {
                let heard = scene.offices[at].take(&packet, false, (now, clock));
                assert!(heard.is_empty(), "{heard:?}");
            }
        }
    }
    assert!(told.try_recv().is_err() && victim != claimed);
}

#[test]
fn nobody_breaks_a_conversation_who_has_not_seen_its_packets() {
    let mut scene = Scene::new();
    let told = scene.ask(b"ab", SECOND);
    let (node, now) = (scene.offices[0].node, (scene.now, Moment::now()));
    for number in 0..2 * LAST_MAX as u64 {
        let load = Load::Undelivered { number, why: Refusal::NoRoute };
        let stranger = NodeId::new([77; 16]).unwrap();
        scene.offices[0].take(&Packet::new(stranger, node, 0, &load), false, now);
    }
    assert_eq!(scene.offices[0].talks.len(), 1);
    scene.run(|_| Fate::Arrives);
    assert_eq!(body_of(&told), b"ba");
}

#[test]
fn requests_wait_for_their_turn_and_fail_when_the_other_is_revoked() {
    let mut scene = Scene::new();
    let told: Vec<_> = (0..3 * OPEN_MAX).map(|n| scene.ask(&n.to_le_bytes(), SECOND)).collect();
    scene.run(|_| Fate::Arrives);
    assert!(told.iter().all(|told| told.try_recv().unwrap().outcome.is_ok()));
    assert_eq!(scene.done.values().filter(|count| **count == 1).count(), told.len());
    let waits = scene.ask(b"x", SECOND);
    let node = scene.offices[1].node;
    scene.offices[0].forget(node, &Error::Refused(Refusal::Revoked, String::new()));
    // It was said by a conversation that stands.
    let outcome = waits.try_recv().unwrap().outcome;
    assert!(
        matches!(&outcome, Err(Error::Refused(Refusal::Late, why)) if why.contains("revoked")),
        "{outcome:?}"
    );
    let mut scene = Scene::new();
    let waits = scene.ask(b"y", SECOND);
    scene.run(|_| Fate::Lost);
    scene.offices[0].forget(node, &Error::Refused(Refusal::Revoked, String::new()));
    assert!(matches!(waits.try_recv().unwrap().outcome, Err(Error::Refused(Refusal::Revoked, _))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is lost, refused, or comes twice: each request is done at most once, and ends in time.
    #[test]
    fn each_is_done_at_most_once_and_ends(fates in prop::collection::vec(0..12u8, 1..200), count in 1..20u64) {
        let mut scene = Scene::new();
        let mut fates = fates.into_iter();
        let told: Vec<_> = (0..count).map(|n| scene.ask(&n.to_le_bytes(), 20 * SECOND)).collect();
        for _ in 0..40 {
            let mut again = Vec::new();
            scene.run(|packet| match fates.next() {
                Some(0 | 1) => Fate::Lost,
                Some(2) => Fate::Told,
                Some(3) => {
                    again.push(packet.clone());
                    Fate::Arrives
                }
                _ => Fate::Arrives,
            });
            for packet in again {
                let at = usize::from(packet.to != scene.offices[0].node);
                scene.arrive(at, &packet);
            }
            scene.pass(SECOND / 2);
        }
        for (n, told) in (0..count).zip(&told) {
            let outcome = told.try_recv().unwrap().outcome;
            let is_done = scene.done.contains_key(&n.to_le_bytes()[..]);
            match &outcome {
                Ok(_) => prop_assert!(is_done),
                Err(Error::Refused(Refusal::Late, _)) => (),
                Err(_) => prop_assert!(!is_done, "{:?}", outcome),
            }
        }
        prop_assert!(scene.done.values().all(|count| *count == 1));
    }
}

#[test]
fn whatever_a_member_asks_and_answers_the_other_bears_it() {
    crate::mutated::alone("office::tests::in_a_process_of_its_own");
}

#[test]
#[ignore = "run by whatever_a_member_asks_and_answers_the_other_bears_it, as a process of its own"]
fn in_a_process_of_its_own() {
    use crate::mutated::{count, Before, Mutator};
    let requests = [
        Message::Request(Request { id: 1, done: 1, service: 2, left_ms: 3000, body: vec![4; 5] }),
        Message::Answer(Answer { id: 1, refusal: None, body: vec![4; 5] }),
    ];
    let (mut scene, mut mutator) = (Scene::new(), Mutator::new(&[&requests[..]; 10].concat()));
    let (all, mut before, to) = (count(10), None, scene.offices[1].node);
    for said in 0..all {
        if !scene.offices[0].say_raw(to, &mutator.next()) {
            // The last conversation has ended: a question opens another one. Who has lied about its numbers is not answered.
            drop(scene.ask(b"ab", SECOND));
            scene.run(|_| Fate::Arrives);
            assert!(scene.offices[0].say_raw(to, &Message::Ping(1).encode().unwrap()), "after {said}");
        }
        scene.run(|_| Fate::Arrives);
        if said % 64 == 0 {
            scene.pass(SECOND);
            scene.run(|_| Fate::Arrives);
            scene.done.clear();
        }
        assert!(scene.offices.iter().all(|office| office.talks.len() <= TALKS_OF_PEER_MAX));
        if said == all / 10 {
            before = Some(Before::now());
        }
    }
    before.unwrap().is_as_before("one that is asked", all);
}

#[test]
fn one_that_begins_many_conversations_ends_none_of_others() {
    let (mut scene, parties) = (Scene::new(), parties());
    let (to, mut third) = (scene.offices[1].node, Office::new(parties.node(2), parties.sealing(2)));
    let times = (scene.now, Moment::now());
    let (tell, told) = channel();
    let tell = Box::new(move |outcome| drop(tell.send(outcome)));
    third.ask(to, (7, b"ab".to_vec()), (scene.now, scene.now + SECOND), tell);
    loop {
        let packets = third.take_packets();
        if packets.is_empty() {
            break;
        }
        packets.iter().for_each(|packet| scene.arrive(1, packet));
        scene.offices[1].take_packets().iter().for_each(|packet| drop(third.take(packet, false, times)));
    }
    assert_eq!(body_of(&told), b"ba");
    let of_third =
        |scene: &Scene| scene.offices[1].talks.keys().filter(|key| key.0 == parties.node(2)).count();
    assert_eq!(of_third(&scene), 1);
    for number in 0..TALKS_MAX as u64 + 10 {
        let mut talk = Talk::begin(to, number, parties.sealing(0).0).unwrap();
        let piece = talk.pieces().remove(0);
        scene.arrive(1, &Packet::new(parties.node(0), to, number, &piece));
        scene.offices[1].take_packets();
    }
    assert_eq!(scene.offices[1].talks.len(), TALKS_OF_PEER_MAX + 1);
    assert_eq!(of_third(&scene), 1);
}

#[test]
fn requests_go_over_a_line_and_are_said_again_elsewhere_when_it_is_over() {
    let mut scene = Scene::new();
    let first = scene.ask(b"ab", 10 * SECOND);
    scene.run(|_| Fate::Arrives);
    assert_eq!(body_of(&first), b"ba");
    let [one, other] = [0, 1].map(|at: usize| scene.offices[at].node);
    assert_eq!((scene.offices[0].take_answered(), scene.offices[1].take_answered()), (vec![other], vec![]));
    scene.join(5);
    let over = scene.ask(b"cd", 10 * SECOND);
    assert_eq!((scene.run_lines(), body_of(&over)), (2, b"dc".to_vec()));
    assert!(scene.offices.iter_mut().all(|office| office.take_packets().is_empty()), "nothing else was said");
    assert!(scene.offices[0].take_answered().is_empty());
    // What is on it when it breaks does not get there, or its answer does not get back.
    for is_heard in [false, true] {
        scene.join(6);
        let cut = scene.ask(&[is_heard.into()], 10 * SECOND);
        if is_heard {
            let [said] = &scene.offices[0].take_to_lines()[..] else { panic!("one request") };
            let calls = scene.offices[1].hear_line((one, 6), said.message.clone(), scene.now);
            scene.answer(1, calls);
        }
        for (at, peer) in [(0, other), (1, one)] {
            scene.offices[at].take_to_lines();
            scene.offices[at].line_ended((peer, 5), scene.now);
            assert!(scene.offices[at].take_packets().is_empty(), "an earlier one is over");
            scene.offices[at].line_ended((peer, 6), scene.now);
        }
        scene.run(|_| Fate::Arrives);
        assert_eq!(body_of(&cut), [u8::from(is_heard)]);
    }
    assert!(scene.done.values().all(|count| *count == 1), "{:?}", scene.done);
}

#[test]
fn an_answer_goes_another_way_where_its_own_is_over() {
    let mut scene = Scene::new();
    let first = scene.ask(b"ab", 10 * SECOND);
    scene.run(|_| Fate::Arrives);
    body_of(&first);
    scene.join(5);
    let told = scene.ask(b"cd", 10 * SECOND);
    let [said] = &scene.offices[0].take_to_lines()[..] else { panic!("one request") };
    let one = scene.offices[0].node;
    let calls = scene.offices[1].hear_line((one, 5), said.message.clone(), scene.now);
    let other = scene.offices[1].node;
    scene.offices[0].line_ended((other, 5), scene.now);
    scene.offices[1].line_ended((one, 5), scene.now);
    scene.run(|_| Fate::Arrives);
    // It was said again, and is being done: nothing more is said until it is.
    assert!(told.try_recv().is_err());
    scene.answer(1, calls);
    scene.run(|_| Fate::Arrives);
    assert_eq!((body_of(&told), scene.done[&b"cd"[..]]), (b"dc".to_vec(), 1));
}

#[test]
fn so_many_requests_of_one_are_done_at_a_time_whatever_it_says_of_them() {
    let mut scene = Scene::new();
    scene.join(5);
    let one = scene.offices[0].node;
    let ask = |scene: &mut Scene, id| {
        // As if it knew of all that it has asked before.
        let request = Request { id, done: id, service: 7, left_ms: 1000, body: vec![1] };
        scene.offices[1].hear_line((one, 5), Message::Request(request), scene.now)
    };
    let mut calls: Vec<Call> = (1..=4 * OPEN_MAX).flat_map(|id| ask(&mut scene, id)).collect();
    assert_eq!(calls.len(), OPEN_MAX as usize);
    let (first, next) = (calls.remove(0), 4 * OPEN_MAX + 1);
    scene.answer(1, vec![first]);
    assert_eq!((ask(&mut scene, next).len(), ask(&mut scene, next + 1).len()), (1, 0), "in the place of one");
    // Nobody answers what nobody waits for any more.
    scene.now += SECOND;
    let later: Vec<Call> = (next + 2..next + 2 + 2 * OPEN_MAX).flat_map(|id| ask(&mut scene, id)).collect();
    assert_eq!(later.len(), OPEN_MAX as usize);
}
