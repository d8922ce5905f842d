//! `explain` and `top`: what they say of a process that is well, hangs, is stopped, or has gone.
//!
//! The tests start their own binary again as the program that is looked at; an environment variable gives it its role.

mod common;

use common::{gridnet, run};
use gridnet::config::Config;
use gridnet::core::endpoint::{CqId, SendArgs};
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::{Shared, ThreadLevel};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROLE: &str = "TEST_ROLE";
const DIR: &str = "TEST_DIR";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    let dir = Path::new(&dir);
    match role.as_str() {
        "waiting" => wait_for_ever(dir),
        "hanging" => hang(dir),
        "hidden" => drop((open(dir, None, &[("GRIDNET_PAGE", "off")]), ready(), until_told())),
        other => panic!("unknown role {other}"),
    }
}

/// Has two receives posted, and waits for them.
fn wait_for_ever(dir: &Path) {
    let (shared, cq) =
        open(dir, Some("waiting"), &[("GRIDNET_WAIT_MODE", "block"), ("GRIDNET_EAGER_MAX", "2k")]);
    for tag in [1, 2] {
        receive(&shared, cq, tag);
    }
    send_three(&shared, cq);
    ready();
    let _ = shared.wait(cq, None, |_| false);
}

/// Says something, and then does not call gridnet any more.
fn hang(dir: &Path) {
    let (shared, cq) = open(dir, Some("hanging"), &[]);
    send_three(&shared, cq);
    ready();
    until_told();
}

fn send_three(shared: &Shared, cq: CqId) {
    let address = shared.lookup("parent", Some(PATIENCE)).expect("the parent is there");
    let peer = shared.enter().unwrap().engine.open(&address).unwrap();
    let args =
        SendArgs { cq, owner: 0, context: 0, tag: 9, immediate: None, sync: false, always_complete: true };
    for _ in 0..3 {
        shared.enter().unwrap().engine.send_iov(peer, &[memory(8)], &args).unwrap();
        shared.wait(cq, Some(PATIENCE), |_| false).expect("the message goes");
    }
}

fn ready() {
    println!("{ROLE} ready");
}

fn until_told() {
    let _ = std::io::stdin().lines().next();
}

#[test]
fn a_stopped_process_is_explained_by_number_and_by_name() {
    let scratch = Scratch::new();
    let _parent = Parent::open(&scratch.0);
    let child = Observed::start("waiting", &scratch.0);
    let waits = |view: &Value| view[0]["waits"][0]["asleep"] == true;
    until(|| explain(&scratch.0, &child.pid()).1, waits);
    child.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", child.pid());
    let is_stopped = |stat: &String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"));
    until(|| std::fs::read_to_string(&stat).unwrap(), is_stopped);

    let by_name = explain(&scratch.0, "waiting").1;
    // By its number it is found wherever its run directory is.
    let by_number = explain(Path::new("/nonexistent"), &child.pid()).1;
    for view in [&by_name[0], &by_number[0]] {
        assert_eq!((&view["name"], view["pid"].to_string()), (&"waiting".into(), child.pid()));
        assert_eq!(view["waits"][0]["call"], "gridnet_cq_wait");
        assert_eq!(view["activity"]["receives_posted"], 2);
        assert_eq!(view["peers"][0]["counters"]["messages_sent"], 3);
        assert_eq!((&view["peers"][0]["state"], &view["peers"][0]["rail"]), (&"up".into(), &"shm".into()));
        assert_eq!(view["peers"][0]["pid"], std::process::id());
        assert_eq!(view["peers"][0]["rails"][0]["in_use"], true);
        assert_eq!(view["peers"][0]["rails"][1]["in_use"], false);
    }
    assert_eq!(by_name[0]["peers"][0]["name"], "parent");

    let (code, text, err) = run(at(&scratch.0, &["explain", &child.pid()]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for part in [
        "fabric waiting in process",
        "GRIDNET_EAGER_MAX=2k (by the program; default 8k)",
        "in gridnet_cq_wait for",
        "rail shm in use: first in the order of preference",
        "rail self not used: not needed",
        "2 receives posted",
        "sent 3 messages (24 B",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let node = by_name[0]["peers"][0]["node"].as_str().unwrap();
    for peer in ["0", "parent", &std::process::id().to_string(), node] {
        let (code, text, err) = run(at(&scratch.0, &["explain", "waiting", peer]));
        assert!(code == Some(0) && text.contains("peer 0 parent"), "{peer}: {text}{err}");
    }
    let (code, _, err) = run(at(&scratch.0, &["explain", "waiting", "nobody"]));
    assert!(code == Some(1) && err.contains("no peer is \"nobody\""), "{err}");
}

#[test]
fn counters_of_a_process_that_hangs_in_its_own_code_are_those_of_its_last_call() {
    let scratch = Scratch::new();
    let parent = Parent::open(&scratch.0);
    let child = Observed::start("hanging", &scratch.0);
    let view = explain(&scratch.0, "hanging").1;
    assert_eq!(view[0]["activity"]["counters"]["messages_sent"], 3);
    assert_eq!(view[0]["waits"], Value::Array(vec![]));
    parent.receive_all(3);
    let view = explain(&scratch.0, "parent").1;
    assert_eq!(view[0]["activity"]["counters"]["messages_received"], 3);
    assert_eq!(view[0]["activity"]["unexpected"], 3);
    assert_eq!(view[0]["peers"][0]["pid"].to_string(), child.pid());
    assert_eq!(view[0]["peers"][0]["name"], "hanging");
}

#[test]
fn what_cannot_be_explained_is_said_by_name() {
    let scratch = Scratch::new();
    let _parent = Parent::open(&scratch.0);
    let hidden = Observed::start("hidden", &scratch.0);
    let other = Observed::start("hanging", &scratch.0);
    let fails = |what: &str, expected: &[&str]| {
        let (code, out, err) = run(at(&scratch.0, &["explain", what]));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{what}: {err}");
        assert!(expected.iter().all(|part| err.contains(part)), "{what}: {err}");
    };
    fails("4194305", &["there is no process 4194305"]);
    fails(&hidden.pid(), &["has no open fabric", "GRIDNET_PAGE=off"]);
    fails("nobody", &["no fabric is named \"nobody\"", "hanging, parent"]);
    // A page of another version says so.
    let page = pages_of(&scratch.0).into_iter().find(|page| {
        let text = std::fs::read(page).unwrap();
        String::from_utf8_lossy(&text[..4096]).contains("name\thanging")
    });
    let page = page.expect("it has a page");
    let file = std::fs::OpenOptions::new().write(true).open(page).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &7u64.to_ne_bytes(), 8).unwrap();
    fails(&other.pid(), &["version 7", "reads version 3"]);
    let (code, _, err) = run(at(&scratch.0, &["explain"]).env("GRIDNET_PAGE", "perhaps"));
    assert_eq!(code, Some(2));
    assert!(err.contains("GRIDNET_PAGE") && err.contains("on or off"), "{err}");
}

#[test]
fn the_list_has_the_living_only() {
    let scratch = Scratch::new();
    let list = || {
        let (code, out, err) = run(at(&scratch.0, &["explain", "--json"]));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        let all: Vec<Value> = serde_json::from_str(&out).unwrap();
        let mut names: Vec<String> = all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let (_, out, _) = run(at(&scratch.0, &["explain"]));
    assert_eq!(out, "no fabric of this user is open here\n");
    let parent = Parent::open(&scratch.0);
    let mut child = Observed::start("hanging", &scratch.0);
    assert_eq!(list(), ["hanging", "parent"]);
    child.kill();
    assert_eq!(pages_of(&scratch.0).len(), 2, "the killed one could not remove its page");
    assert_eq!(list(), ["parent"]);
    let (_, out, _) = run(at(&scratch.0, &["explain"]));
    assert!(out.lines().count() == 2 && out.contains("parent"), "{out}");
    drop(parent);
    assert_eq!(list(), Vec::<String>::new());
    drop(open(&scratch.0, None, &[]));
    assert_eq!(
        pages_of(&scratch.0),
        Vec::<PathBuf>::new(),
        "the next start removes what the killed one left"
    );
}

#[test]
fn top_prints_rates_an_object_a_line() {
    let scratch = Scratch::new();
    let _parent = Parent::open(&scratch.0);
    let _child = Observed::start("hanging", &scratch.0);
    let args = ["top", "--json", "--count", "2", "--interval", "0.05"];
    let (code, out, err) = run(at(&scratch.0, &args));
    assert_eq!((code, err.as_str(), out.lines().count()), (Some(0), "", 2));
    for line in out.lines() {
        let one: Value = serde_json::from_str(line).unwrap();
        assert!(one["interval_ns"].as_u64().unwrap() >= 50_000_000 && one["time_ns"].is_u64(), "{one}");
        assert_eq!(one["fabrics"].as_array().unwrap().len(), 2);
        let hanging = one["fabrics"].as_array().unwrap().iter().find(|f| f["name"] == "hanging").unwrap();
        assert_eq!(hanging["peers"][0]["rates"]["messages_sent"], 0.0);
        assert_eq!(hanging["peers"][0]["counters"]["messages_sent"], 3);
    }
    let (code, out, _) = run(at(&scratch.0, &["top", "hanging", "--count", "1", "--interval", "0.05"]));
    assert_eq!(code, Some(0));
    assert!(out.contains("outB/s") && out.contains("pending") && out.contains("parent"), "{out}");
    let (code, _, err) = run(at(&scratch.0, &["top", "nobody", "--count", "1"]));
    assert!(code == Some(1) && err.contains("no fabric is named"), "{err}");
    let (code, _, err) = run(at(&scratch.0, &["top", "--interval", "0"]));
    assert!(code == Some(2) && err.contains("0.01 to 3600"), "{err}");
}

/// A key and a signal end it, and the terminal is as it was: `stty -g` says the same before and after.
#[test]
fn top_gives_the_terminal_back() {
    let scratch = Scratch::new();
    let _parent = Parent::open(&scratch.0);
    for end in [&b"q"[..], b"\x03", b"TERM"] {
        let top = format!("{} top --interval 0.05", env!("CARGO_BIN_EXE_gridnet"));
        // In the background first: so the test learns the number of the process to be ended.
        let shell = format!("stty -g; {top} & echo pid $!; fg >/dev/null; echo code $?; stty -g");
        let mut child = Command::new("script")
            .args(["-qec", &format!("set -m; {shell}"), "/dev/null"])
            .env("SHELL", "/bin/bash")
            .env("GRIDNET_RUN_DIR", &scratch.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is there: it is essential on Debian");
        let mut keys = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut seen = read_until(&mut out, "q ends");
        if end == b"TERM" {
            let pid = seen.split("pid ").nth(1).unwrap().split_whitespace().next().unwrap();
            kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        } else {
            keys.write_all(end).unwrap();
        }
        out.read_to_string(&mut seen).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(seen.contains("code 0"), "{seen:?}");
        let leave = seen.rfind("\x1b[?1049l").expect("the second screen is left");
        assert!(seen.find("\x1b[?1049h").is_some_and(|enter| enter < leave) && seen.contains("parent"));
        let settings = |line: &str| line.matches(':').count() > 10;
        let modes: Vec<&str> = seen.lines().map(str::trim).filter(|line| settings(line)).collect();
        let last = |line: &str| line.rsplit('l').next().unwrap_or_default().to_owned();
        assert_eq!(modes.len(), 2, "{seen:?}");
        assert_eq!(last(modes[0]), last(modes[1]));
    }
}

fn read_until(out: &mut impl Read, mark: &str) -> String {
    let mut seen = Vec::new();
    let mut some = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(mark) {
        let count = out.read(&mut some).unwrap();
        assert!(count > 0, "ended early: {:?}", String::from_utf8_lossy(&seen));
        seen.extend(&some[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn at(dir: &Path, args: &[&str]) -> &'static mut Command {
    let mut command = gridnet(args);
    command.env("GRIDNET_RUN_DIR", dir);
    Box::leak(Box::new(command))
}

fn explain(dir: &Path, what: &str) -> (Option<i32>, Value) {
    let (code, out, err) = run(at(dir, &["explain", "--json", what]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{what}");
    (code, serde_json::from_str(&out).unwrap())
}

fn until<T: std::fmt::Debug>(look: impl Fn() -> T, is_good: impl Fn(&T) -> bool) {
    let start = Instant::now();
    loop {
        let seen = look();
        if is_good(&seen) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "still {seen:?}");
        std::thread::yield_now();
    }
}

fn open(dir: &Path, name: Option<&str>, options: &[(&str, &str)]) -> (Arc<Shared>, CqId) {
    let run_dir = ("GRIDNET_RUN_DIR", dir.to_str().unwrap());
    let settings: Vec<(String, String)> = [&run_dir, &("GRIDNET_SHM_SEGMENT_SIZE", "16m")]
        .into_iter()
        .chain(options)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let config = Config::from_sources(std::iter::empty(), &settings).unwrap();
    let shared = Shared::open(config, name, ThreadLevel::Single).unwrap();
    let cq = shared.enter().unwrap().engine.create_cq(64);
    (shared, cq)
}

fn receive(shared: &Shared, cq: CqId, tag: u64) {
    let any = Pattern { source: Source::Any, tag, ignore: 0 };
    shared.enter().unwrap().engine.receive(cq, &any, memory(8), 0).unwrap();
}

/// Memory that stays for ever.
fn memory(len: usize) -> Iov {
    let bytes = Box::leak(vec![0u8; len].into_boxed_slice());
    // SAFETY: leaked memory, which nobody looks at.
    unsafe { Iov::new(bytes.as_mut_ptr(), len) }
}

fn pages_of(dir: &Path) -> Vec<PathBuf> {
    let hosts = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = hosts.flat_map(|host| std::fs::read_dir(host.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "page")).collect()
}

/// The fabric of this process; a thread answers for it.
struct Parent {
    stop: Arc<AtomicU32>,
    taken: Arc<AtomicU32>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Parent {
    fn open(dir: &Path) -> Parent {
        let (stop, taken) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (dir, heard, told) = (dir.to_owned(), stop.clone(), taken.clone());
        let (is_open, open_now) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (shared, _) = open(&dir, Some("parent"), &[]);
            is_open.send(()).unwrap();
            while heard.load(Ordering::Relaxed) == 0 {
                let mut guard = shared.enter().unwrap();
                guard.maintain();
                guard.poll_round();
                told.store(guard.engine.counters().unexpected_now as u32, Ordering::Relaxed);
                drop(guard);
                std::thread::yield_now();
            }
        });
        open_now.recv().expect("the fabric opens");
        Parent { stop, taken, thread: Some(thread) }
    }

    fn receive_all(&self, count: u32) {
        until(|| self.taken.load(Ordering::Relaxed), |taken| *taken == count);
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A program that is looked at; it does not outlive its test.
struct Observed(Child);

impl Observed {
    fn start(role: &str, dir: &Path) -> Observed {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test starts itself");
        let mut observed = Observed(child);
        let out = observed.0.stdout.take().unwrap();
        let ready = BufReader::new(out).lines().map_while(Result::ok).any(|line| line.contains("ready"));
        assert!(ready, "the child in the role {role} ended early");
        observed
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // Fails when it was killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gridnet-look-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
