//! A peer that dies after any step of any protocol: the survivor hears of it, hangs nowhere, and has everything back.
//!
//! The sources name the steps (`kill_point!`). For each of them a child goes through all protocols with the survivor and
//! kills itself there; a child that does not come by shows that the list, or this test, is not complete.

mod common;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::dialogue::{Doomed, Survivor};
use common::process::{descriptors, files_below, mappings, role, spawn};
use common::{Party, Scratch};
use gridnet::core::testing::kill;
use gridnet::ThreadLevel;
use gridnet_testbed::testing::skip;

/// Where the child kills itself, and the how manieth time it comes by.
const POINT: &str = "TEST_KILL_POINT";
const VISIT: &str = "TEST_KILL_VISIT";
/// How many visits of each point are tried.
const VISITS: &str = "TEST_KILL_VISITS";
/// How long a child and what follows from its end may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

static LEFT: AtomicU32 = AtomicU32::new(0);

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((role, dir)) = role() else { return };
    assert_eq!(role, "doomed");
    if let (Ok(_), Ok(visit)) = (std::env::var(POINT), std::env::var(VISIT)) {
        LEFT.store(visit.parse().expect("a number"), Ordering::Relaxed);
        kill::on_reached(die_there);
    }
    Doomed::open(&dir).run();
}

fn die_there(name: &'static str) {
    if std::env::var(POINT).is_ok_and(|point| point == name) && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        nix::sys::signal::raise(nix::sys::signal::SIGKILL).expect("a process may kill itself");
    }
}

#[test]
fn a_peer_that_dies_at_any_step_leaves_nothing_behind() {
    let visits = std::env::var(VISITS).map_or(1, |text| text.parse().expect("a number"));
    let scratch = Scratch::new();
    let mut survivor = Survivor::open(&scratch.0);
    // Children that go through everything: whatever is opened or taken for good is so after that.
    for _ in 0..2 {
        let status = live_through(&mut survivor, &scratch.0, &[]);
        assert!(status.success(), "a child that is not killed ends with {status}");
    }
    survivor.settle(LIMIT);
    let baseline = account(&survivor);
    let points = points();
    assert!(points.len() > 30, "only {} points are found in the sources", points.len());
    for point in &points {
        for visit in 1..=visits {
            let variables = [(POINT, point.as_str()), (VISIT, &visit.to_string())];
            let status = live_through(&mut survivor, &scratch.0, &variables);
            // Later visits of some points do not come.
            let died = status.signal() == Some(nix::libc::SIGKILL);
            assert!(died || visit > 1 && status.success(), "{point} was not reached: {status}");
            // A connection of the dead that waits to be heard goes in a moment.
            let start = Instant::now();
            while account(&survivor) != baseline {
                survivor.serve();
                let now = account(&survivor);
                assert!(
                    start.elapsed() < LIMIT,
                    "{now:?}, not {baseline:?} after a death at {point}, visit {visit}"
                );
            }
        }
        check_files(&survivor, &scratch.0, point);
    }
    println!("RESULT {} kill points, {visits} visits each", points.len());
}

/// A child from its start to its end, and everything that the survivor has to do with it.
fn live_through(survivor: &mut Survivor, dir: &Path, variables: &[(&str, &str)]) -> std::process::ExitStatus {
    let start = Instant::now();
    let mut child = spawn("doomed", dir, variables);
    loop {
        survivor.serve();
        if let Some(status) = child.ended() {
            while !survivor.is_alone() {
                survivor.serve();
                assert!(
                    start.elapsed() < LIMIT,
                    "the survivor waits for a dead peer: {survivor:?} {variables:?}"
                );
            }
            return status;
        }
        assert!(start.elapsed() < LIMIT, "the child hangs: {variables:?}");
    }
}

/// What the survivor has: descriptors, mappings, memory.
fn account(survivor: &Survivor) -> (usize, usize, String) {
    (descriptors(), mappings(), survivor.usage())
}

/// The next start removes the files of the dead, but for a socket that was just being made: that one has a minute.
fn check_files(survivor: &Survivor, dir: &Path, point: &str) {
    drop(Party::open(dir, None, ThreadLevel::Single, &[]));
    let node = survivor.address().node;
    let own = [format!("{node}.sock"), format!("{node}.page"), "survivor.name".into(), "lock".into()];
    let mut left = files_below(dir);
    left.retain(|name| !own.contains(name) && !name.ends_with(".new"));
    assert!(left.is_empty(), "who died at {point} left {left:?}");
}

/// The points that the sources name.
fn points() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let mut points = BTreeSet::new();
    for folder in ["core/src", "shm/src", "fabric/src"] {
        collect(&root.join(folder), &mut points);
    }
    if !may_copy() {
        skip("kill points of the single copy", "the system forbids it to children (ptrace_scope)");
        points.retain(|point| !point.starts_with("rendezvous.copy"));
    }
    points
}

fn collect(dir: &Path, points: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, points);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            let names = text.split("kill_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            points.extend(names.map(str::to_owned));
        }
    }
}

/// Whether a child may read its parent's memory.
fn may_copy() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    nix::unistd::geteuid().is_root() || scope.is_ok_and(|scope| scope.trim() == "0")
}
