//! Beginning and end: without root, in company, and after the worst kill.

mod common;

use common::{connected, ms, receive, send, PATIENCE};
use gridnet_testbed::{
    lab_test, sandbox, testing, Error, Impairment, Lab, LinkSpec, Site, SiteKind, Topology,
};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn two() -> Topology {
    let impairment = Impairment::default().delay(ms(2)).mbit(100);
    Topology::new().host("a").host("b").link(LinkSpec::between("a", "b").with(impairment))
}

fn transfer(lab: &Lab) {
    let [mut near, mut far] = connected(lab, "a", "b");
    std::thread::scope(|scope| {
        scope.spawn(|| send(&mut near, 0, 500_000).unwrap());
        receive(&mut far, 0, 500_000).unwrap();
    });
}

#[test]
fn an_ordinary_user_gets_all_of_it() {
    let uid = nix::unistd::geteuid().is_root().then_some(NOBODY);
    testing::isolated_as(uid, "life::an_ordinary_user_gets_all_of_it", || {
        let users = fs::read_to_string("/proc/self/uid_map").unwrap();
        let words: Vec<&str> = users.split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("0", "1"), "root of a user namespace with one user");
        assert_ne!(words[1], "0", "and nobody outside of it");
        let masquerading = Site::new("s", SiteKind::Masquerading);
        let lab = Lab::open(two().site(masquerading)).unwrap();
        transfer(&lab);
        lab.link("a-b").unwrap().blackout(true).unwrap();
        lab.link("a-b").unwrap().blackout(false).unwrap();
        transfer(&lab);
    });
}

lab_test! {
    fn two_labs_of_the_same_topology_live_side_by_side() {
        let labs = [(); 2].map(|()| Lab::open_unchecked(two()).unwrap());
        std::thread::scope(|scope| {
            for lab in &labs {
                scope.spawn(|| transfer(lab));
            }
        });
        let [first, second] = labs;
        first.link("a-b").unwrap().blackout(true).unwrap();
        transfer(&second);
        drop(first);
        transfer(&second);
    }

    fn a_lab_that_is_dropped_leaves_no_thread_and_no_descriptor() {
        let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        drop(Lab::open_unchecked(two().site(Site::new("s", SiteKind::ProxyOnly))).unwrap());
        let before = ["task", "fd"].map(count);
        drop(Lab::open_unchecked(two().site(Site::new("s", SiteKind::ProxyOnly))).unwrap());
        let end = Instant::now() + PATIENCE;
        // A thread that was joined may be seen for a moment.
        while ["task", "fd"].map(count) != before {
            assert!(Instant::now() < end, "{before:?} before, {:?} after", ["task", "fd"].map(count));
            std::thread::yield_now();
        }
    }

    fn hosts_have_memory_and_sockets_of_their_own() {
        let lab = Lab::open_unchecked(two()).unwrap();
        let run = |host: &str, line: &str| lab.host(host).unwrap().shell(line).output(PATIENCE).unwrap().success().unwrap();
        run("a", "echo here >/dev/shm/probe; echo here >$XDG_RUNTIME_DIR/probe");
        assert_eq!(run("a", "cat /dev/shm/probe $XDG_RUNTIME_DIR/probe"), "here\nhere\n");
        assert_eq!(run("b", "ls /dev/shm"), "");
        assert_eq!(run("b", "ls /sys/class/net"), "eth0\nlo\n");
        assert!(run("b", "cat /etc/hosts").contains("172.16.0.1 a\n"));
    }

    fn commands_end_in_time_and_say_what_they_said() {
        let lab = Lab::open_unchecked(two()).unwrap();
        let a = lab.host("a").unwrap();
        let finished = a.shell("echo out; echo err >&2; exit 3").output(PATIENCE).unwrap();
        assert_eq!((finished.status.code(), &*finished.stdout, &*finished.stderr), (Some(3), "out\n", "err\n"));
        assert!(finished.success().unwrap_err().to_string().contains("err"));
        let slow = a.shell("echo begun; sleep 1000").output(ms(300)).unwrap_err();
        assert!(matches!(&slow, Error::Timeout { said, .. } if said == "begun"), "{slow}");
        let running = a.shell("echo ready; sleep 1000 & echo $!; wait").spawn().unwrap();
        running.wait_for("ready\n", PATIENCE).unwrap();
        running.wait_for("\n", PATIENCE).unwrap();
        let end = Instant::now() + PATIENCE;
        let child = loop {
            assert!(Instant::now() < end);
            if let Some(child) = running.said()[0].lines().nth(1) {
                break child.to_owned();
            }
        };
        assert!(running.wait_for("never", ms(100)).is_err());
        drop(running);
        while is_alive(&child) {
            assert!(Instant::now() < end, "what a command has started outlives it");
        }
        let short = a.shell("echo only").spawn().unwrap();
        assert!(matches!(short.wait_for("more", PATIENCE), Err(Error::Setup(_))), "it has ended");
    }

    fn a_test_can_play_a_part_in_a_host() {
        let lab = Lab::open_unchecked(two()).unwrap();
        let b = lab.host("b").unwrap();
        let server = b.test("plays_the_server").unwrap().env(UP_FILE, "part").spawn().unwrap();
        server.wait_for("listening\n", PATIENCE).unwrap();
        let mut near = common::connect(lab.host("a").unwrap(), (b.address().unwrap(), PORT).into(), PATIENCE).unwrap();
        send(&mut near, 0, 10_000).unwrap();
        let said = server.wait(PATIENCE).unwrap().success().unwrap();
        assert!(said.contains("1 passed"), "{said}");
    }

    #[ignore = "is started by the test above, in a host"]
    fn plays_the_server() {
        if std::env::var_os(UP_FILE).is_none() {
            return;
        }
        let listener = std::net::TcpListener::bind(("0.0.0.0", PORT)).unwrap();
        println!("listening");
        let (mut far, _) = listener.accept().unwrap();
        receive(&mut far, 0, 10_000).unwrap();
    }

    #[ignore = "is started by the tests below, and killed"]
    fn holds_a_lab() {
        let Some(file) = std::env::var_os(UP_FILE) else { return };
        let lab = Lab::open_unchecked(two().site(Site::new("s", SiteKind::Masquerading))).unwrap();
        // One that would not be found by its parent.
        let orphan = lab.host("a").unwrap().shell("setsid sleep 1000 >/dev/null 2>&1 & echo started");
        let running = orphan.spawn().unwrap();
        running.wait_for("started", PATIENCE).unwrap();
        fs::write(file, "up").unwrap();
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_kill_leaves_nothing() {
    if let Err(Error::Unavailable(why)) = sandbox::probe() {
        return testing::skip("a_kill_leaves_nothing", &why);
    }
    let before = outside();
    // The process that asked for the sandbox, the one that waits for it, its first process, the one with the lab.
    for victim in 0..4 {
        let file = std::env::temp_dir().join(format!("testbed-up-{}-{victim}", std::process::id()));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["holds_a_lab", "--exact", "--ignored", "--nocapture"]).env(UP_FILE, &file);
        let mut asked = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + PATIENCE;
        while !file.exists() {
            assert_eq!(asked.try_wait().unwrap(), None, "it ended before it was up");
            assert!(Instant::now() < end, "it does not come up");
            std::thread::sleep(ms(5));
        }
        let line = lineage(asked.id());
        assert!(line.len() >= 5, "waiting, first, lab, command: {line:?}");
        let networks: HashSet<u64> = line.iter().filter_map(|pid| network(*pid)).collect();
        assert!(networks.len() >= 2, "the lab's own network and a host's");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(line[victim] as i32),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        while line[1..].iter().any(|pid| is_alive(&pid.to_string())) {
            assert!(Instant::now() < end, "victim {victim}: some of {line:?} are left");
        }
        asked.wait().unwrap();
        let own = network(std::process::id()).unwrap();
        let left: Vec<u32> = processes()
            .filter(|pid| network(*pid).is_some_and(|net| net != own && networks.contains(&net)))
            .collect();
        assert_eq!(left, [0_u32; 0], "victim {victim}: processes in the lab's networks");
        fs::remove_file(&file).unwrap();
    }
    assert_eq!(outside(), before, "interfaces and mounts of the machine itself");
}

/// What must not change outside: interfaces, mounts, named networks.
fn outside() -> [String; 3] {
    let interfaces = fs::read_to_string("/proc/net/dev").unwrap();
    let names = interfaces.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let named = fs::read_dir("/run/netns").map_or(0, Iterator::count);
    [names.collect::<Vec<_>>().join(" "), mounts, named.to_string()]
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process and all that descend from it, oldest first.
fn lineage(first: u32) -> Vec<u32> {
    let mut line = vec![first];
    let mut next = 0;
    while let Some(parent) = line.get(next).copied() {
        line.extend(processes().filter(|pid| parent_of(*pid) == Some(parent)));
        next += 1;
    }
    line
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split_whitespace().nth(1)?.parse().ok()
}

fn network(pid: u32) -> Option<u64> {
    let path: PathBuf = Path::new("/proc").join(pid.to_string()).join("ns/net");
    fs::metadata(path).ok().map(|meta| meta.ino())
}

const PORT: u16 = 7000;
const NOBODY: u32 = 65534;
const UP_FILE: &str = "TESTBED_UP_FILE";
