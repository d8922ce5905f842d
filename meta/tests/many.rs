//! Very many members: all of them in this process, by the real protocol.
//!
//! 60 as a rule; `TEST_SOAK=1` makes it 400, and 2,000 in a release build, which are to take 512 MiB at most, and a minute where nothing
//! else runs:
//! `TEST_SOAK=1 cargo test --release -p gridnet-meta --test many -- --nocapture`.

mod common;

use common::{until, Scene, LONG};
use gridnet_core::wire::NodeId;
use gridnet_meta::directory::Entry;
use gridnet_meta::driver::Driver;
use gridnet_meta::member::{About, Member, ECHO};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Nodes of one cluster.
const CLUSTER: usize = 20;
/// In so long the directory is to be right at all of 2,000 members, on two cores that do nothing else.
const ASKED_FOR: Duration = Duration::from_secs(60);
/// Threads that join; the rendez-vous node has one of its own.
const JOINING: usize = 8;

#[test]
fn very_many_members_have_the_same_directory() {
    let is_soak = std::env::var_os("TEST_SOAK").is_some();
    let count = match (is_soak, cfg!(debug_assertions)) {
        (true, false) => 2000,
        (true, true) => 400,
        (false, _) => 60,
    };
    let mut scene = Scene::new("many");
    let driver = Driver::start().unwrap();
    let begun = Instant::now();
    let join = |number: usize| {
        let cluster = Some(format!("c{}", number / CLUSTER).parse().unwrap());
        let about = About { cluster, ..About::new(format!("n{number}").parse().unwrap()) };
        Member::join_by(&driver, scene.ticket.clone(), about, 5 * LONG).unwrap()
    };
    let members: Vec<Member> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..JOINING)
            .map(|thread| {
                let join = &join;
                scope.spawn(move || (thread..count).step_by(JOINING).map(join).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let joined = begun.elapsed();
    let all: BTreeSet<NodeId> = members.iter().map(Member::node).collect();
    assert_eq!(all.len(), count, "no number was given twice");
    for member in &members {
        assert!(member.wait_for_count(5 * LONG, count));
    }
    let known = begun.elapsed();
    // On a busy machine some may be lost and come back: in the end all have the same, and are led.
    let is_right = |nodes: &[Entry]| {
        let leaders = nodes.iter().filter(|entry| entry.leads).count();
        let is_led =
            leaders == count / CLUSTER && nodes.iter().all(|entry| entry.leads != entry.via.is_some());
        is_led && nodes.iter().map(|entry| entry.node).eq(all.iter().copied())
    };
    for member in &members {
        assert!(member.wait_for_nodes(5 * LONG, is_right));
    }
    let settled = begun.elapsed();
    until("the rendez-vous node has it, too", || {
        let status = scene.rendezvous().status();
        (status.nodes.len(), status.leaders.len()) == (count, count / CLUSTER)
    });
    // Across all of it.
    let [first, last] = [&members[0], &members[count - 1]];
    assert!(first.ask(last.node(), ECHO, b"x", LONG).unwrap().trail.hops() <= 4);
    let memory = memory_mib();
    let slow = if settled > ASKED_FOR { "; MORE THAN THE MINUTE THAT IS ASKED FOR" } else { "" };
    let seconds = settled.as_secs_f64();
    println!("RESULT members: {count} nodes, right at all of them after {seconds:.1} s, at most {memory} MiB{slow}");
    println!("{count} nodes: joined in {joined:?}, known to all after {known:?}, led after {settled:?}");
    if is_soak && !cfg!(debug_assertions) {
        // How long it takes is for people to read: a busy machine is no fault.
        // They share the directory: each with one of its own takes more than a GiB.
        assert!(memory < 512, "{memory} MiB");
    }
    // All at once: the last of so many would see each of the others leave.
    scene.stop();
    drop(driver);
}

/// The most memory that this process has had.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
