//! Pipes of bytes between members, through leaders and the rendez-vous node.

mod common;

use common::{calm, led, two_clusters, until, Scene, LONG};
use gridnet_core::wire::NodeId;
use gridnet_meta::driver::Driver;
use gridnet_meta::error::{Error, Refusal};
use gridnet_meta::member::{About, Fate, Member, Relay, ECHO};
use gridnet_meta::{Rules, Shares};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

/// What the system keeps of what is written to a socket, and the pipe of what it has read of it: 128 KiB in each of three places.
const ON_THE_WAY: usize = 2 << 20;

fn bytes(count: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Pipes that others ask this one for.
fn relays_of(member: &Member) -> Receiver<(NodeId, Vec<u8>, Relay)> {
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    member.serve_relays(move |from, about, relay| match about {
        b"no" => Err("not that one".into()),
        _ => tell.lock().unwrap().send((from, about.to_vec(), relay)).map_err(|e| e.to_string()),
    });
    told
}

/// A pipe from one to the other.
fn pipe(from: &Member, to: &Member, told: &Receiver<(NodeId, Vec<u8>, Relay)>) -> [(UnixStream, Fate); 2] {
    let ours = from.relay(to.node(), b"a pipe", LONG).unwrap();
    let (who, about, theirs) = told.recv_timeout(LONG).unwrap();
    assert_eq!((who, about.as_slice()), (from.node(), &b"a pipe"[..]));
    [ours, theirs].map(|relay| {
        relay.stream().set_read_timeout(Some(LONG)).unwrap();
        relay.stream().set_write_timeout(Some(LONG)).unwrap();
        relay.into_parts()
    })
}

fn below(members: &[Member]) -> &Member {
    members.iter().find(|member| member.leader().is_some()).unwrap()
}

#[test]
fn bytes_come_through_two_leaders_as_they_were_sent() {
    let scene = Scene::without_lines("pipe");
    let [a, b] = two_clusters(&scene);
    let (from, to) = (below(&a), below(&b));
    let told = relays_of(to);
    let ends = pipe(from, to, &told);
    let sent = [bytes(3_000_000, 1), bytes(1_234_567, 2)];
    std::thread::scope(|scope| {
        for end in 0..2 {
            let (stream, sent) = (&ends[end].0, &sent);
            scope.spawn(move || {
                (&*stream).write_all(&sent[end]).unwrap();
                // The other direction goes on.
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut come = Vec::new();
                (&*stream).read_to_end(&mut come).unwrap();
                assert_eq!(come.len(), sent[1 - end].len());
                assert_eq!(Sha256::digest(&come), Sha256::digest(&sent[1 - end]));
            });
        }
    });
    for (_, fate) in &ends {
        until("both sides have ended it", || fate.end().is_some());
        assert_eq!((fate.end(), fate.hops()), (Some(Ok(())), 4));
    }
    let status = scene.rendezvous().status();
    let relayed = |member: &Member| {
        let id = member.node().to_string();
        status.relayed.iter().find(|relayed| relayed.node == id).unwrap().bytes as usize
    };
    assert!(relayed(from) > sent[0].len() && relayed(to) > sent[1].len());
    // Within a cluster, and with a leader itself, it is shorter.
    let leader = a.iter().find(|member| member.leads_at().is_some()).unwrap();
    let told = relays_of(leader);
    let [(mut ours, _), (mut theirs, fate)] = pipe(from, leader, &told);
    ours.write_all(b"short").unwrap();
    theirs.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(fate.hops(), 1);
}

#[test]
fn one_that_does_not_read_stops_only_its_own_pipe() {
    let scene = Scene::without_lines("pipe-slow");
    let [a, b] = two_clusters(&scene);
    let (from, to) = (below(&a), below(&b));
    let told = relays_of(to);
    let [(mut slow, slow_fate), (mut unread, _)] = pipe(from, to, &told);
    let [(mut ours, _), (mut theirs, _)] = pipe(from, to, &told);
    let sent = bytes(ON_THE_WAY, 3);
    slow.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut written = 0;
    let stopped = loop {
        match slow.write(&sent[written..]) {
            Ok(count) if count > 0 => written += count,
            other => break other,
        }
    };
    assert!(stopped.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "{written} bytes are taken");
    std::thread::scope(|scope| {
        scope.spawn(|| ours.write_all(&sent).unwrap());
        let mut come = vec![0; sent.len()];
        theirs.read_exact(&mut come).unwrap();
        assert!(come == sent);
    });
    assert_eq!(from.ask(to.node(), ECHO, b"?", LONG).unwrap().body, b"?");
    // What was taken comes once it is read.
    assert_eq!(slow_fate.end(), None);
    let mut come = vec![0; written];
    unread.read_exact(&mut come).unwrap();
    assert!(come == sent[..written]);
}

#[test]
fn a_pipe_is_refused_by_name_and_there_are_so_many() {
    let scene = Scene::without_lines("pipe-refused");
    let (a, b) = (scene.join_alone("a").unwrap(), scene.join_alone("b").unwrap());
    let open = |about: &[u8]| a.relay(b.node(), about, LONG);
    assert!(a.wait_for_count(LONG, 2));
    assert!(matches!(open(b""), Err(Error::Refused(Refusal::Service, _))));
    let told = relays_of(&b);
    assert!(matches!(open(b"no"), Err(Error::Refused(Refusal::Other, why)) if why == "not that one"));
    assert!(matches!(open(&[0; 1025]), Err(Error::Config(_))));
    let nobody = NodeId::new([9; 16]).unwrap();
    let no_way = a.relay(nobody, b"", Duration::from_millis(200));
    assert!(matches!(no_way, Err(Error::Refused(Refusal::NoRoute, _))), "{no_way:?}");
    // Who does not wait for it learns it by the end of the socket.
    let (mut unwanted, fate) = a.begin_relay(b.node(), b"no", LONG).unwrap().into_parts();
    unwanted.write_all(b"already").unwrap();
    until("it has not come about", || fate.end().is_some());
    let why = fate.end().unwrap().unwrap_err().to_string();
    assert!(why.contains("not that one"), "{why}");
    assert!(unwanted.read(&mut [0; 1]).is_ok_and(|count| count == 0) || unwanted.write(b"x").is_err());
    let (mut wanted, fate) = a.begin_relay(b.node(), b"yes", LONG).unwrap().into_parts();
    wanted.write_all(b"at once").unwrap();
    let (mut come, relay) = ([0; 7], told.recv_timeout(LONG).unwrap().2);
    relay.into_parts().0.read_exact(&mut come).unwrap();
    assert_eq!(&come, b"at once");
    drop(wanted);
    until("it is over", || fate.end().is_some());
    let held: Vec<Relay> = (0..8).map(|_| open(b"one more").unwrap()).collect();
    let full = open(b"too many");
    assert!(matches!(&full, Err(Error::Refused(_, why)) if why.contains("as many")), "{full:?}");
    drop((held, told));
    until("others have ended", || open(b"").is_err_and(|e| !e.to_string().contains("as many")));
}

#[test]
fn what_ends_ends_for_both_and_says_why() {
    let mut scene = Scene::without_lines("pipe-ends");
    let [a, mut b] = two_clusters(&scene);
    let (from, told) = (below(&a), relays_of(below(&b)));
    // The other side goes away, in the middle.
    let [(mut ours, fate), theirs] = pipe(from, below(&b), &told);
    ours.write_all(b"hello").unwrap();
    drop(theirs);
    let has_ended = |fate: &Fate, why| {
        until("it is over", || fate.end().is_some());
        assert!(matches!(fate.end(), Some(Err(Error::Refused(is, _))) if is == why), "{:?}", fate.end());
    };
    until("nobody reads", || ours.write_all(b"more").is_err());
    has_ended(&fate, Refusal::Ended);
    assert!(ours.read(&mut [0; 9]).is_ok_and(|count| count == 0) || fate.end().is_some());
    // A leader goes away.
    let [(mut ours, fate), theirs] = pipe(from, below(&b), &told);
    let leader = led(&b);
    drop(b.remove(b.iter().position(|member| member.node() == leader).unwrap()));
    has_ended(&fate, Refusal::NoRoute);
    has_ended(&theirs.1, Refusal::NoRoute);
    assert!(ours.write_all(b"lost").is_err());
    // The rail above asks for another one, once there is a way again.
    led(&b);
    let to = b.iter().find(|member| member.leader().is_some()).unwrap_or(&b[0]);
    let told = relays_of(to);
    until("there is a way again", || from.ask(to.node(), ECHO, b"", LONG).is_ok());
    let [(mut ours, fate), (mut theirs, _)] = pipe(from, to, &told);
    theirs.write_all(b"again").unwrap();
    ours.read_exact(&mut [0; 5]).unwrap();
    // The rendez-vous node goes away.
    scene.stop();
    has_ended(&fate, Refusal::NoRoute);
}

/// Two members below two leaders, of which the first may be dropped; what a member sends waits at the rendez-vous node.
fn slowly(what: &str) -> (Scene, [Vec<Member>; 2], Member) {
    let relay = Shares { member_bytes_per_second: 256 << 10, ..Shares::default() };
    let scene = Scene::with(what, Rules { relay, ..calm() }, None);
    let [mut a, b] = two_clusters(&scene);
    let at = a.iter().position(|member| member.leader().is_some()).unwrap();
    let from = a.remove(at);
    (scene, [a, b], from)
}

#[test]
fn what_was_sent_last_comes_although_the_member_leaves() {
    let (_scene, [_a, b], from) = slowly("pipe-last");
    let told = relays_of(below(&b));
    let [(mut ours, _), (mut theirs, fate)] = pipe(&from, below(&b), &told);
    let sent = bytes(60_000, 4);
    ours.write_all(&sent).unwrap();
    // First what the pipe goes through, as a program that has closed its end does.
    drop((ours, from));
    let mut come = Vec::new();
    theirs.read_to_end(&mut come).unwrap();
    assert!(come == sent, "{} of {} bytes come", come.len(), sent.len());
    until("it is over", || fate.end().is_some());
}

#[test]
fn what_has_come_is_read_although_the_member_has_left_long_ago() {
    let (_scene, [_a, b], from) = slowly("pipe-unread");
    let told = relays_of(below(&b));
    let [(mut ours, _), (mut theirs, _)] = pipe(&from, below(&b), &told);
    let sent = bytes(ON_THE_WAY, 5);
    ours.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut written = 0;
    while let Ok(count @ 1..) = ours.write(&sent[written..]) {
        written += count;
    }
    // Nobody reads: a part of it cannot leave in time, but half of it and more is there.
    let begun = Instant::now();
    let (left, node) = (below(&b), from.node());
    drop((ours, from));
    assert!(begun.elapsed() < LONG / 2, "leaving took {:?}", begun.elapsed());
    assert!(left.wait_for_nodes(LONG, |entries| entries.iter().all(|entry| entry.node != node)));
    let mut come = Vec::new();
    theirs.read_to_end(&mut come).unwrap();
    assert!(2 * come.len() > written && come == sent[..come.len()], "{} of {written} bytes", come.len());
}

#[test]
fn shares_are_kept_and_others_join_meanwhile() {
    const SHARE: u64 = 512 << 10;
    const JOINS: usize = 50;
    let relay = Shares { member_bytes_per_second: SHARE, ..Shares::default() };
    let scene = Scene::with("pipe-share", Rules { relay, ..calm() }, None);
    let [a, b] = two_clusters(&scene);
    let (from, to) = (below(&a), below(&b));
    let told = relays_of(to);
    let ends: Vec<[(UnixStream, Fate); 2]> = (0..4).map(|_| pipe(from, to, &told)).collect();
    let (begun, is_over) = (Instant::now(), std::sync::atomic::AtomicBool::new(false));
    let driver = Driver::start().unwrap();
    let (come, took) = std::thread::scope(|scope| {
        let is_over = &is_over;
        let over = || is_over.load(std::sync::atomic::Ordering::Relaxed);
        let readers: Vec<_> = ends
            .iter()
            .map(|[(ours, _), (theirs, _)]| {
                scope.spawn(move || while !over() && (&*ours).write_all(&[7; 4096]).is_ok() {});
                scope.spawn(move || {
                    let (mut some, mut come) = (vec![0; 1 << 16], 0);
                    while let Ok(count @ 1..) = (&*theirs).read(&mut some) {
                        come += count as u64;
                    }
                    (come, begun.elapsed())
                })
            })
            .collect();
        let joins = Instant::now();
        let join = |number: usize| {
            let label = format!("n{number}");
            let about = About { cluster: Some(label.parse().unwrap()), ..About::new(label.parse().unwrap()) };
            let member = Member::join_by(&driver, scene.ticket.clone(), about, LONG).unwrap();
            assert_eq!(member.ask(to.node(), ECHO, b"there", LONG).unwrap().body, b"there");
            member
        };
        let members: Vec<Member> = (0..JOINS).map(join).collect();
        let joined = joins.elapsed();
        println!("RESULT relay: {JOINS} joins beside pipes within {} ms", joined.as_millis());
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(members);
        ends.iter().for_each(|[(ours, _), _]| drop(ours.shutdown(Shutdown::Write)));
        // One after the other, each with a request through the leader whose connection is full.
        assert!(joined < LONG, "{joined:?}");
        let results: Vec<(u64, Duration)> =
            readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        (results.iter().map(|(come, _)| come).sum::<u64>(), results.iter().map(|(_, at)| *at).max().unwrap())
    });
    for [_, (theirs, _)] in &ends {
        let _ = theirs.shutdown(Shutdown::Write);
    }
    for (_, fate) in ends.iter().flatten() {
        until("both sides have ended it", || fate.end().is_some());
        // On a busy machine a leader may be lost.
        let end = fate.end().unwrap();
        let is_lost = |why| matches!(why, Refusal::NoRoute | Refusal::Late | Refusal::Ended);
        assert!(
            !end.as_ref().is_err_and(|e| !matches!(e, Error::Refused(why, _) if is_lost(*why))),
            "{end:?}"
        );
    }
    let most = SHARE as f64 * (took.as_secs_f64() + 0.1);
    println!("RESULT relay: {come} bytes within {} ms, of at most {most:.0}", took.as_millis());
    assert!(come as f64 <= most && come > 0, "{come} bytes within {took:?}");
}
