//! A line within a host that stands, and another member at its other end that says what it likes.

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::packets::Listener;
use super::super::stages::Side;
use super::super::At;
use super::*;
use crate::driver::Driver;
use crate::member::{About, ECHO};
use crate::message::Request;
use crate::testing::{in_runtime, Parties, LONG};

/// A member with an end of a line to another one, and what that one has.
async fn line(parties: &Parties, until: Moment) -> (Driver, Arc<Shared>, Direct, Packets) {
    let driver = Driver::start().unwrap();
    let about = About::new("tests".parse().unwrap());
    let shared = Shared::new(Vec::new(), about, parties.member(0), driver.common()).unwrap();
    let (listener, name) = Listener::open().unwrap();
    let theirs = Packets::connect(name).unwrap();
    let ours = listener.accept().await.unwrap();
    let line = (parties.node(1), 1);
    shared.post.office().line_stands(line, Instant::now());
    (driver, Arc::new(shared), Direct::new(ours, line, until, (1, false)), theirs)
}

fn never() -> Moment {
    Moment::from_unix(i64::MAX)
}

fn echo(id: u64) -> Vec<u8> {
    let request = Request { id, done: id, service: ECHO, left_ms: 1000, body: b"x".to_vec() };
    Message::Request(request).encode().unwrap()
}

#[test]
fn what_is_no_message_of_a_line_ends_it() {
    let parties = Parties::new();
    in_runtime(async {
        let (long, ping) =
            (vec![1; LENGTH_BYTES + LONGEST_OF_MEMBER + 1], Message::Ping(1).encode().unwrap());
        let two = [ping.clone(), ping.clone()].concat();
        let malformed = [Message::Line(1), Message::Lead(())].map(|message| message.encode().unwrap());
        for wrong in malformed.iter().chain([&long, &two, &ping[..3].to_vec()]) {
            let (_driver, shared, direct, theirs) = line(&parties, never()).await;
            assert!(theirs.try_say(wrong).unwrap());
            let (_wants, wanted) = mpsc::channel(1);
            let why = timeout(LONG, run(&direct, &shared, wanted)).await.unwrap();
            assert!(matches!(why, Error::Peer(_)), "{why}");
        }
    });
}

#[test]
fn it_ends_with_the_other_process_with_its_certificate_and_when_it_is_not_wanted() {
    let parties = Parties::new();
    in_runtime(async {
        let over = |until, is_wanted: bool, stays: bool| {
            let parties = &parties;
            async move {
                let (_driver, shared, direct, theirs) = line(parties, until).await;
                let (wants, wanted) = mpsc::channel(1);
                let (_wants, theirs) = (is_wanted.then_some(wants), stays.then_some(theirs));
                let why = timeout(LONG, run(&direct, &shared, wanted)).await.unwrap().to_string();
                drop(theirs);
                why
            }
        };
        for (why, what) in [
            (over(never(), true, false).await, "closed"),
            (over(Moment::from_unix(1), true, true).await, "certificate has ended"),
            (over(never(), false, true).await, "not wanted"),
        ] {
            assert!(why.contains(what), "{why}");
        }
    });
}

#[test]
fn who_polls_answers_without_the_thread_of_the_member() {
    let parties = Parties::new();
    in_runtime(async {
        let (_driver, shared, direct, theirs) = line(&parties, never()).await;
        // As it is known of one that stands.
        let direct = Arc::new(direct);
        let (of, at, now) = ((parties.node(1), 1), (At::Process(1), false), Instant::now());
        let _wanted = {
            let mut stages = shared.lines.stages();
            stages.begin(of, Side::Theirs, shared.node, now).unwrap();
            stages.stands(of, at, Some(direct.clone()), now).unwrap()
        };
        assert_eq!(direct.take_some(&shared), 0);
        assert!(theirs.try_say(&echo(1)).unwrap() && theirs.try_say(&echo(2)).unwrap());
        // Nobody runs it.
        assert_eq!(direct.take_some(&shared), 2);
        let mut room = [0; 4096];
        for _ in 0..2 {
            assert!(theirs.try_hear(&mut room).unwrap().is_some_and(|len| len > 0), "an answer");
        }
        drop(theirs);
        assert_eq!(direct.take_some(&shared), 0);
        let (_wants, wanted) = mpsc::channel(1);
        let why = timeout(LONG, run(&direct, &shared, wanted)).await.unwrap();
        assert!(why.to_string().contains("closed"), "{why}");
    });
}

#[test]
fn one_that_says_too_much_is_heard_more_slowly() {
    let parties = Parties::new();
    in_runtime(async {
        let (_driver, shared, direct, theirs) = line(&parties, never()).await;
        let ping = Message::Ping(1).encode().unwrap();
        let (mut said, mut taken) = (0, 0);
        // Until it is put off: it is, as far fewer can be taken in a second than are said.
        while direct.marks().calm_until.is_none() {
            said += usize::from(theirs.try_say(&ping).unwrap());
            let mut room = [0; 64];
            while theirs.try_hear(&mut room).unwrap().is_some() {}
            taken += direct.take_some(&shared);
            assert!(said < 1_000_000, "nobody puts it off");
        }
        assert!(taken >= MESSAGES_PER_SECOND as usize, "{taken}");
    });
}

#[test]
fn what_finds_no_room_is_said_in_its_order_when_there_is() {
    let parties = Parties::new();
    in_runtime(async {
        let (_driver, shared, direct, theirs) = line(&parties, never()).await;
        let (_wants, wanted) = mpsc::channel(1);
        let ask = |id| {
            let request = Request { id, done: 0, service: ECHO, left_ms: 1000, body: vec![1; 20_000] };
            direct.say(&Message::Request(request).encode().unwrap())
        };
        assert!((0..UNSAID_MAX as u64).all(ask));
        assert!(!direct.unsaid().is_empty(), "there is room for all");
        let hears = async {
            let mut room = vec![0; LENGTH_BYTES + LONGEST_OF_MEMBER];
            let mut next = 0;
            while next < UNSAID_MAX as u64 {
                let heard = theirs.when_come(|| theirs.try_hear(&mut room).transpose()).await.unwrap();
                let Some(len) = heard.transpose().unwrap() else { continue };
                // It is asked now and then whether it is there.
                if let Some(Message::Request(request)) = Message::decode(&room[LENGTH_BYTES..len]).unwrap() {
                    assert_eq!(request.id, next);
                    next += 1;
                }
            }
        };
        tokio::select! {
            why = run(&direct, &shared, wanted) => panic!("{why}"),
            heard = timeout(LONG, hears) => heard.unwrap(),
        }
        assert!(direct.unsaid().is_empty());
        // Who never hears anything costs so much and no more.
        assert!((0..10 * UNSAID_MAX as u64).all(ask) && direct.unsaid().len() == UNSAID_MAX);
        drop(theirs);
        assert!(!direct.say_waiting().is_ok_and(|all| all), "nobody is there");
    });
}
