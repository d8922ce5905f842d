//! A member at the end of a line over which another says what it likes.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::channel::{send, send_encoded};
use crate::driver::Driver;
use crate::member::lines::LINE;
use crate::member::{About, ECHO};
use crate::message::{Answer, Request};
use crate::mutated::{alone, count, talk, Before, Mutator};
use crate::packet::{Load, Packet};
use crate::rendezvous::LONGEST_OF_MEMBER;
use crate::testing::{Parties, LONG};

/// A member, and the driver that answers for it.
fn member(parties: &Parties) -> (Driver, Arc<Shared>) {
    let driver = Driver::start().unwrap();
    let about = About::new("tests".parse().unwrap());
    let shared = Shared::new(Vec::new(), about, parties.member(0), driver.common()).unwrap();
    (driver, Arc::new(shared))
}

/// A line over a way that is no socket, and its other end.
fn line(until: Moment) -> (Stood<DuplexStream>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(ours);
    let reader = Inbox::new(reader, LONGEST_OF_MEMBER);
    (Stood::new((reader, writer), until, (SocketAddr::from(([127, 0, 0, 1], 1)), false)), theirs)
}

/// Time is virtual.
fn in_virtual_time<Out>(future: impl std::future::Future<Output = Out>) -> Out {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(future)
}

fn never() -> Moment {
    Moment::from_unix(i64::MAX)
}

fn request(id: u64, service: u16, body: &[u8]) -> Message {
    Message::Request(Request { id, done: id, service, left_ms: 1000, body: body.to_vec() })
}

#[test]
fn a_line_ends_when_nothing_is_heard_or_asked_or_a_certificate_has_ended() {
    let parties = Parties::new();
    let (_driver, shared) = member(&parties);
    let peer = (parties.node(1), 1);
    in_virtual_time(async {
        let (_sender, queue) = mpsc::channel(1);
        let ((stood, _theirs), begun) = (line(never()), Instant::now());
        let why = run(&shared, peer, stood, queue).await;
        assert!(why.to_string().contains("nothing was heard"), "{why}");
        assert!(begun.elapsed() >= KEEP_ALIVE && begun.elapsed() < KEEP_ALIVE + 2 * SILENCE_LIMIT);
        // At once where something was said.
        let (sender, queue) = mpsc::channel(1);
        sender.send(request(1, ECHO, b"x").encode().unwrap()).await.unwrap();
        let ((stood, _theirs), begun) = (line(never()), Instant::now());
        let why = run(&shared, peer, stood, queue).await;
        assert!(why.to_string().contains("nothing was heard"), "{why}");
        assert!(begun.elapsed() >= SILENCE_LIMIT && begun.elapsed() < 2 * SILENCE_LIMIT);
        // The other side is there, and has nothing to say.
        let (_sender, queue) = mpsc::channel(1);
        let ((stood, theirs), begun) = (line(never()), Instant::now());
        let (reader, mut writer) = tokio::io::split(theirs);
        let pings = async {
            loop {
                // It may be over already.
                let _ = send(&mut writer, &Message::Ping(1)).await;
                sleep(LOOK_INTERVAL).await;
            }
        };
        let mut reader = Inbox::new(reader, MESSAGES);
        let hears = async { while reader.next().await.unwrap() != Message::Leave(()) {} };
        let why = tokio::select! {
            (why, ()) = async { tokio::join!(run(&shared, peer, stood, queue), hears) } => why,
            () = pings => unreachable!(),
        };
        assert!(why.to_string().contains("nothing was asked"), "{why}");
        assert!(begun.elapsed() >= IDLE_LIMIT && begun.elapsed() < 2 * IDLE_LIMIT);
        let (_sender, queue) = mpsc::channel(1);
        let (stood, _theirs) = line(Moment::from_unix(1));
        let why = run(&shared, peer, stood, queue).await;
        assert!(why.to_string().contains("certificate has ended"), "{why}");
        // One that is dropped here says so there.
        let (sender, queue) = mpsc::channel(1);
        let (stood, _theirs) = line(never());
        drop(sender);
        assert!(run(&shared, peer, stood, queue).await.to_string().contains("not wanted"));
    });
}

const MESSAGES: usize = crate::message::MESSAGE_BYTES_MAX;

#[test]
fn one_that_says_what_it_must_not_is_left_and_noted() {
    let parties = Parties::new();
    let (_driver, shared) = member(&parties);
    in_virtual_time(async {
        let packet = Packet::new(parties.node(2), parties.node(0), 1, &Load::Other(9));
        for wrong in [Message::Packet(packet), Message::Line(1), Message::Lead(())] {
            let (_sender, queue) = mpsc::channel(1);
            let (stood, mut theirs) = line(never());
            send(&mut theirs, &wrong).await.unwrap();
            let why = run(&shared, (parties.node(1), 1), stood, queue).await;
            assert!(matches!(why, Error::Peer(_)), "{why}");
        }
    });
    assert_eq!(shared.lock().audit.lines().filter(|line| line.refusal == "malformed").count(), 3);
}

#[test]
fn one_that_says_too_much_is_heard_more_slowly() {
    let parties = Parties::new();
    let (_driver, shared) = member(&parties);
    let peer = parties.node(1);
    shared.post.office().line_stands((peer, 1), std::time::Instant::now());
    in_virtual_time(async {
        const ALL: usize = 5000;
        let (_sender, queue) = mpsc::channel(1);
        let ((stood, theirs), begun) = (line(never()), Instant::now());
        let (mut reader, mut writer) = tokio::io::split(theirs);
        let heard = AtomicUsize::new(0);
        let says = async {
            for id in 0..ALL as u64 {
                send(&mut writer, &request(id, ECHO, b"x")).await.unwrap();
                heard.fetch_add(1, Ordering::Relaxed);
            }
            send(&mut writer, &Message::Leave(())).await.unwrap();
        };
        let takes = async {
            let mut some = [0; 4096];
            while tokio::io::AsyncReadExt::read(&mut reader, &mut some).await.is_ok_and(|count| count > 0) {}
        };
        let ((), (), why) = tokio::join!(says, takes, run(&shared, (peer, 1), stood, queue));
        assert!(why.to_string().contains("the other side has ended it"), "{why}");
        assert_eq!(heard.load(Ordering::Relaxed), ALL);
        // Beyond what it may say at once, each waits.
        let least = CALM * (ALL as u32 - 2 * MESSAGES_PER_SECOND) / 2;
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    });
}

#[test]
fn whatever_is_said_over_a_line_a_member_bears_it() {
    alone("member::lines::run::tests::a_member");
}

#[test]
#[ignore = "run by whatever_is_said_over_a_line_a_member_bears_it, as a process of its own"]
fn a_member() {
    let parties = Parties::new();
    let (_driver, shared) = member(&parties);
    let peer = parties.node(1);
    let open = postcard_of(vec![SocketAddr::from(([127, 0, 0, 1], 9))]);
    let more = [
        request(1, ECHO, b"x"),
        request(2, LINE, &open),
        request(3, LINE, &postcard_of(Vec::new())),
        Message::Answer(Answer { id: 1, refusal: None, body: vec![1; 40] }),
    ];
    in_virtual_time(async {
        let (all, mut said, mut number, mut before) = (count(10), 0, 0, None);
        let mut mutator = Mutator::new(&more);
        while said < all {
            number += 1;
            let (_sender, queue) = mpsc::channel(1);
            let (stood, theirs) = line(never());
            shared.post.office().line_stands((peer, number), std::time::Instant::now());
            let serves = async {
                run(&shared, (peer, number), stood, queue).await;
                shared.post.office().line_ended((peer, number), std::time::Instant::now());
            };
            said += talk(theirs, &mut mutator, serves).await;
            if before.is_none() && said >= all / 10 {
                before = Some(Before::now());
            }
        }
        before.unwrap().is_as_before("a line", said);
        assert!(shared.lines.stages().up().is_empty());
        // One that says what makes sense is heard all the same.
        let (_sender, queue) = mpsc::channel(1);
        let (stood, mut theirs) = line(never());
        shared.post.office().line_stands((peer, 0), std::time::Instant::now());
        send_encoded(&mut theirs, &Message::Ping(7).encode().unwrap()).await.unwrap();
        let mut reader = Inbox::new(theirs, MESSAGES);
        let hears = async { while reader.next().await.unwrap() != Message::Pong(7) {} };
        let is_heard = async {
            tokio::select! { _ = run(&shared, (peer, 0), stood, queue) => false, () = hears => true }
        };
        assert!(timeout(LONG, is_heard).await.unwrap());
    });
}

/// A request for a line.
fn postcard_of(at: Vec<SocketAddr>) -> Vec<u8> {
    postcard::to_stdvec(&(7u64, None::<crate::name::Name>, at)).unwrap()
}
