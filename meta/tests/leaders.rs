//! Clusters, their leaders, and what members say to each other through them.

mod common;

use common::{calm, ids, led, two_clusters, until, Scene, DAY, LONG};
use gridnet_core::wire::NodeId;
use gridnet_meta::clock::Moment;
use gridnet_meta::cluster::Will;
use gridnet_meta::directory::{Departure, Event};
use gridnet_meta::error::{Error, Refusal};
use gridnet_meta::member::{About, Connection, Member, ECHO};
use gridnet_meta::Rules;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is asked in tests.
const SERVICE: u16 = 1000;

/// All ask all; the most hops.
fn all_ask_all(members: &[Member]) -> usize {
    let mut most = 0;
    for from in members {
        for to in members.iter().filter(|to| to.node() != from.node()) {
            let nonce = [from.node().bytes().as_slice(), to.node().bytes(), &[7; 968]].concat();
            let answer = from.ask(to.node(), ECHO, &nonce, LONG).unwrap();
            assert_eq!(answer.body, nonce);
            most = most.max(answer.trail.hops());
        }
    }
    most
}

#[test]
fn clusters_have_leaders_and_all_reach_all_by_them() {
    let scene = Scene::without_lines("tree");
    let [a, b] = two_clusters(&scene);
    let leaders = [led(&a), led(&b)];
    let all: Vec<Member> = a.into_iter().chain(b).collect();
    until("only leaders are connected to the rendez-vous node", || {
        scene.rendezvous().status().links.len() == 2
    });
    let status = scene.rendezvous().status();
    assert_eq!(status.leaders.iter().map(|leader| leader.nodes).collect::<Vec<_>>(), [2, 2]);
    assert!(status.links.iter().all(|link| leaders.iter().any(|leader| leader.to_string() == link.node)));
    assert_eq!(all_ask_all(&all), 4);
    let ways =
        |from: &Member, to: &Member| from.ask(to.node(), ECHO, b"", LONG).unwrap().trail.nodes().to_vec();
    let below = |cluster: &str| {
        let of_it = all.iter().filter(|m| m.cluster().as_str() == cluster && m.leader().is_some());
        of_it.collect::<Vec<_>>()
    };
    let (a, b) = (below("a"), below("b"));
    assert_eq!(ways(a[0], a[1]), [leaders[0]], "within a cluster");
    let session = scene.ticket.session;
    assert_eq!(ways(a[0], b[0]), [leaders[1], session, leaders[0]], "the answer comes back that way");
    assert!(scene.rendezvous().status().packets.passed_on > 0);
}

/// What leaders refuse is counted, and whoever runs the session sees it.
#[test]
fn strangers_at_the_doors_of_leaders_are_counted_in_the_status() {
    let scene = Scene::without_lines("counted");
    let clusters = two_clusters(&scene);
    let status = scene.rendezvous().status();
    assert!(status.leaders.iter().all(|leader| leader.refusals.is_empty()), "{:?}", status.leaders);
    let (leader, address) = (&status.leaders[0].node, &status.leaders[0].addresses[0]);
    let refused = |reason: &str| {
        let status = scene.rendezvous().status();
        let mut all = status.leaders.iter().map(|leader| (&leader.node, leader.refusals.get(reason)));
        let of_it = all.find(|(node, _)| *node == leader).and_then(|(_, count)| count.copied());
        let others = status.leaders.iter().filter(|other| other.node != *leader);
        assert!(others.map(|other| other.refusals.len()).all(|reasons| reasons == 0));
        of_it.unwrap_or(0)
    };
    for count in 1..=2 {
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(b"\x16\x03\x01\x00\x05hello").unwrap();
        drop(stranger);
        until("it is told", || refused("stranger") >= count);
    }
    assert_eq!(scene.rendezvous().status().refusals.get("stranger"), None, "they were not refused there");
    drop(clusters);
}

#[test]
fn a_request_takes_effect_once_and_is_refused_by_name() {
    let scene = Scene::new("requests");
    let [a, b] = two_clusters(&scene);
    let (asker, answerer) = (&a[2], &b[2]);
    let done = Arc::new(Mutex::new(Vec::new()));
    let (from, list) = (asker.node(), done.clone());
    answerer.serve(SERVICE, move |who, body| {
        assert_eq!(who, from);
        list.lock().unwrap().push(body.to_vec());
        match body {
            b"no" => Err("because".into()),
            body => Ok(body.repeat(2)),
        }
    });
    for n in 0..100u8 {
        assert_eq!(asker.ask(answerer.node(), SERVICE, &[n], LONG).unwrap().body, [n, n]);
    }
    assert!(done.lock().unwrap().iter().map(|body| body[0]).eq(0..100));
    let ask = |to, service, body: &[u8], limit| asker.ask(to, service, body, limit).unwrap_err();
    let no = ask(answerer.node(), SERVICE, b"no", LONG);
    assert!(matches!(&no, Error::Refused(Refusal::Other, why) if why == "because"), "{no}");
    assert!(matches!(ask(answerer.node(), 9, b"", LONG), Error::Refused(Refusal::Service, _)));
    let nobody = NodeId::new([9; 16]).unwrap();
    let short = Duration::from_millis(300);
    assert!(matches!(ask(nobody, ECHO, b"", short), Error::Refused(Refusal::NoRoute, _)));
    assert!(matches!(ask(answerer.node(), SERVICE, &[0; 21_000], LONG), Error::Config(_)));
    assert!(matches!(ask(asker.node(), ECHO, b"", LONG), Error::Config(_)));
    // One that does not answer in time: the error says that it is not known whether it was done.
    answerer.serve(SERVICE + 1, |_, _| {
        std::thread::park_timeout(Duration::from_secs(2));
        Ok(Vec::new())
    });
    let begun = Instant::now();
    assert!(matches!(ask(answerer.node(), SERVICE + 1, b"", short), Error::Refused(Refusal::Late, _)));
    assert!(begun.elapsed() >= short);
    // Long ones, from both sides at once.
    std::thread::scope(|scope| {
        for (from, to) in [(asker, answerer), (answerer, asker), (&a[0], &b[0]), (&b[1], &a[1])] {
            scope.spawn(move || {
                let body = vec![from.node().bytes()[0]; 20_000];
                assert_eq!(from.ask(to.node(), ECHO, &body, LONG).unwrap().body, body);
            });
        }
    });
}

#[test]
fn a_leader_that_goes_is_replaced_and_its_cluster_told() {
    let scene = Scene::new("replaced");
    let [mut a, b] = two_clusters(&scene);
    let first = led(&a);
    b.iter().for_each(|member| assert!(member.wait_for_count(LONG, 6)));
    b.iter().for_each(|member| drop(member.watch_nodes()));
    let at = a.iter().position(|member| member.node() == first).unwrap();
    drop(a.remove(at));
    let second = led(&a);
    assert_ne!(first, second);
    let ours: BTreeSet<NodeId> = a.iter().map(Member::node).chain([first]).collect();
    for member in &b {
        assert!(member.wait_for_count(LONG, 5));
        until("the leader is gone", || !ids(member).contains(&first));
        let (events, _) = member.take_events();
        let left: Vec<NodeId> = events
            .iter()
            .filter_map(|event| match event {
                Event::Left(node, _) => Some(*node),
                Event::Joined(_) => None,
            })
            .collect();
        assert!(left.contains(&first) && left.iter().all(|node| ours.contains(node)), "{events:?}");
    }
    let all: Vec<Member> = a.into_iter().chain(b).collect();
    assert!(all_ask_all(&all) <= 4);
}

#[test]
fn the_rendezvous_node_goes_and_comes_and_members_of_a_cluster_stay_together() {
    let mut scene = Scene::new("again");
    let [a, b] = two_clusters(&scene);
    let leaders = [led(&a), led(&b)];
    let all: Vec<&Member> = a.iter().chain(&b).collect();
    all.iter().for_each(|member| assert!(member.wait_for_count(LONG, 6)));
    all.iter().for_each(|member| drop(member.watch_nodes()));
    scene.stop();
    let is_lost = |connection: &Connection| matches!(connection, Connection::Lost(..));
    for member in all.iter().filter(|member| leaders.contains(&member.node())) {
        assert!(member.wait_for_connection(LONG, is_lost));
    }
    // Within a cluster it goes on.
    let below: Vec<&Member> = a.iter().filter(|member| member.leader().is_some()).collect();
    assert_eq!(below[0].ask(below[1].node(), ECHO, b"x", LONG).unwrap().body, b"x");
    // To the other it is tried until it can be done.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| below[0].ask(b[1].node(), ECHO, b"y", LONG));
        scene.start();
        assert_eq!(waits.join().unwrap().unwrap().body, b"y");
    });
    until("the directory is full again", || scene.rendezvous().status().nodes.len() == 6);
    until("both lead again", || scene.rendezvous().status().leaders.len() == 2);
    assert_eq!([led(&a), led(&b)], leaders);
    for member in all {
        until("it knows the new life", || {
            member.nodes().iter().filter(|entry| entry.order < 100).count() == 6
        });
        let (events, _) = member.take_events();
        assert!(!events.iter().any(|event| matches!(event, Event::Left(..))), "nobody went: {events:?}");
    }
}

#[test]
fn a_configured_leader_takes_over_and_unwilling_ones_never_lead() {
    let scene = Scene::new("configured");
    let join = |label: &str, will| {
        let cluster = Some("c".parse().unwrap());
        let about = About { cluster, will, ..About::new(label.parse().unwrap()) };
        Member::join(scene.ticket.clone(), about, LONG).unwrap()
    };
    let mut members = vec![join("never", Will::Unwilling), join("elected", Will::Willing)];
    assert_eq!(led(&members), members[1].node());
    members.push(join("configured", Will::Configured));
    let configured = members[2].node();
    until("it has taken over", || {
        members.iter().all(|m| m.node() == configured || m.leader() == Some(configured))
    });
    assert_eq!(led(&members), configured);
    assert!(members[1].leads_at().is_none());
    assert!(all_ask_all(&members) <= 2);
}

#[test]
fn a_revoked_node_is_put_out_by_its_leader_and_heard_by_nobody() {
    let scene = Scene::new("put-out");
    let [a, b] = two_clusters(&scene);
    let leader = led(&a);
    let out = a.iter().find(|member| member.node() != leader).unwrap();
    assert_eq!(out.ask(b[0].node(), ECHO, b"", LONG).unwrap().body, b"");
    a.iter().chain(&b).for_each(|member| drop(member.watch_nodes()));
    assert!(scene.rendezvous().revoke(out.node()).unwrap());
    let is_refused = |connection: &Connection| {
        matches!(connection, Connection::Refused(Error::Refused(Refusal::Revoked, _)))
    };
    assert!(out.wait_for_connection(LONG, is_refused));
    for member in b.iter().chain(a.iter().filter(|member| member.node() != out.node())) {
        until("it knows", || member.is_revoked(out.node()));
        let refused = member.ask(out.node(), ECHO, b"", LONG).unwrap_err();
        assert!(matches!(refused, Error::Refused(Refusal::Revoked, _)));
        let (events, _) = member.take_events();
        assert!(events.contains(&Event::Left(out.node(), Departure::Revoked)), "{events:?}");
    }
}

#[test]
fn certificates_of_nodes_below_a_leader_are_renewed_and_they_stay_there() {
    let rules = Rules { certificate_lifetime: Duration::from_secs(15), ..calm() };
    let mut scene = Scene::with("renewed-below", rules, None);
    let members: Vec<Member> = (1..=3).map(|i| scene.join_in("c", &format!("m{i}")).unwrap()).collect();
    let leader = led(&members);
    let first: Vec<Moment> = members.iter().map(Member::certified_until).collect();
    // From now on certificates are for a day.
    scene.stop();
    scene.rules.certificate_lifetime = DAY;
    scene.start();
    for (member, first) in members.iter().zip(&first) {
        until("it is renewed", || member.certified_until() > first.after(DAY / 2));
    }
    // Beyond the end of the first ones, all are where they were.
    let latest = first.iter().max().unwrap();
    until("the first certificates have ended", || Moment::now() > *latest);
    assert_eq!(led(&members), leader);
    assert!(members.iter().all(|member| member.connection() == Connection::Attached));
    assert!(all_ask_all(&members) <= 2);
}

#[test]
fn a_leader_that_was_revoked_stops_leading_and_another_takes_its_place() {
    let scene = Scene::new("revoked-leader");
    let mut members: Vec<Member> = (1..=3).map(|i| scene.join_in("c", &format!("m{i}")).unwrap()).collect();
    let first = led(&members);
    let revoked = members.remove(members.iter().position(|member| member.node() == first).unwrap());
    let address = revoked.leads_at().unwrap()[0];
    assert!(scene.rendezvous().revoke(first).unwrap());
    until("it leads no more", || revoked.leads_at().is_none());
    until("nobody listens there", || std::net::TcpStream::connect(address).is_err());
    assert_ne!(led(&members), first);
    let is_refused = |connection: &Connection| {
        matches!(connection, Connection::Refused(Error::Refused(Refusal::Revoked, _)))
    };
    assert!(revoked.wait_for_connection(LONG, is_refused));
    assert!(all_ask_all(&members) <= 2);
}

#[test]
fn strangers_do_not_shut_the_door_of_a_leader() {
    let scene = Scene::new("door");
    let mut members: Vec<Member> = (1..=2).map(|i| scene.join_in("c", &format!("m{i}")).unwrap()).collect();
    let leader = led(&members);
    let address = members.iter().find_map(Member::leads_at).unwrap()[0];
    // More than are heard at a time, and as soon as one is sent away another one comes.
    let mut strangers: Vec<std::net::TcpStream> = Vec::new();
    let come = |strangers: &mut Vec<std::net::TcpStream>| {
        let stranger = std::net::TcpStream::connect(address).unwrap();
        stranger.set_nonblocking(true).unwrap();
        strangers.push(stranger);
    };
    (0..80).for_each(|_| come(&mut strangers));
    std::thread::scope(|scope| {
        let joins = scope.spawn(|| scene.join_in("c", "late").unwrap());
        let mut late = None;
        let mut joins = Some(joins);
        until("one that joins gets in", || {
            let is_gone = |stranger: &mut std::net::TcpStream| !matches!(std::io::Read::read(stranger, &mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
            let before = strangers.len();
            strangers.retain_mut(|stranger| !is_gone(stranger));
            (strangers.len()..before).for_each(|_| come(&mut strangers));
            if joins.as_ref().is_some_and(|joins| joins.is_finished()) {
                late = joins.take().map(|joins| joins.join().unwrap());
            }
            late.as_ref().is_some_and(|late: &Member| late.leader() == Some(leader))
        });
        members.extend(late);
    });
    assert_eq!(led(&members), leader);
}

#[test]
fn those_who_wait_for_their_answers_stop_neither_names_nor_others_and_a_panic_is_an_answer() {
    let mut scene = Scene::named("waiting");
    let (asker, answerer) = (scene.join_alone("asker").unwrap(), scene.join_alone("answerer").unwrap());
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    answerer.serve(SERVICE, move |_, _| {
        let _ = gate.lock().unwrap().recv();
        Ok(b"waited".to_vec())
    });
    answerer.serve(SERVICE + 1, |_, _| panic!("on purpose"));
    for _ in 0..10 {
        let failed = asker.ask(answerer.node(), SERVICE + 1, b"", LONG).unwrap_err();
        assert!(
            matches!(&failed, Error::Refused(Refusal::Trouble, why) if why.contains("panicked")),
            "{failed}"
        );
    }
    std::thread::scope(|scope| {
        let waits = || asker.ask(answerer.node(), SERVICE, b"", LONG).unwrap().body;
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(waits)).collect();
        // What needs no thread is answered while all of them wait; so is who comes back by a name that is to be looked up.
        assert_eq!(asker.ask(answerer.node(), ECHO, b"x", LONG).unwrap().body, b"x");
        scene.stop();
        assert!(answerer.wait_for_connection(LONG, |connection| *connection != Connection::Attached));
        scene.start();
        let is_back =
            answerer.wait_for_connection(LONG / 2, |connection| *connection == Connection::Attached);
        drop(open);
        waiting.into_iter().for_each(|waits| assert_eq!(waits.join().unwrap(), b"waited"));
        assert!(is_back);
    });
}

#[test]
fn one_that_waits_may_ask_its_member() {
    let scene = Scene::new("reentrant");
    let member = Arc::new(scene.join_alone("m").unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let of_thread = member.clone();
    std::thread::spawn(move || {
        let member = of_thread;
        let is_it = member.wait_for_nodes(LONG, |nodes| nodes.len() == member.nodes().len());
        let is_attached = member.wait_for_connection(LONG, |seen| *seen == member.connection());
        tell.send((is_it, is_attached)).unwrap();
    });
    assert_eq!(told.recv_timeout(LONG), Ok((true, true)));
}

#[test]
fn a_newcomer_is_not_told_of_the_life_before() {
    let mut scene = Scene::new("newcomer");
    let mut members: Vec<Member> = (1..=3).map(|i| scene.join_in("c", &format!("m{i}")).unwrap()).collect();
    let leader = led(&members);
    let at = members.iter().position(|member| member.node() != leader).unwrap();
    let before = members[at].version().epoch;
    scene.stop();
    let gone = members.remove(at);
    let node = gone.node();
    drop(gone);
    scene.start();
    let late = scene.join_in("c", "late").unwrap();
    let leading = members.iter().find(|member| member.node() == leader).unwrap();
    until("both know the life that is", || {
        let known = late.version();
        assert!(known.epoch > before && !ids(&late).contains(&node), "{known:?} after life {before}");
        late.leader() == Some(leader) && leading.version().epoch == known.epoch
    });
}

#[test]
fn who_is_heard_of_has_what_it_prepared() {
    let scene = Scene::new("prepared");
    let asker = scene.join("asker").unwrap();
    let about = About::new("prepared".parse().unwrap());
    let (heard, found) = std::thread::scope(|threads| {
        let asks = threads.spawn(|| {
            assert!(asker.wait_for_count(LONG, 2), "nobody came");
            let new = asker.nodes().into_iter().find(|entry| entry.node != asker.node()).unwrap();
            (new.node, asker.ask(new.node, SERVICE, b"", LONG).map(|answer| answer.body))
        });
        let prepare = |member: &Member| {
            // Others would hear of it meanwhile, if they could.
            let early = asker.wait_for_count(Duration::from_millis(300), 2);
            member.serve(SERVICE, |_, _| Ok(b"here".to_vec()));
            early
        };
        let (member, early) = Member::join_prepared(scene.ticket.clone(), about, LONG, prepare).unwrap();
        assert!(!early, "heard of before it was prepared");
        let answer = asks.join().unwrap();
        assert_eq!(answer.0, member.node());
        answer
    });
    assert_eq!(found.unwrap(), b"here", "of {heard}");
}
