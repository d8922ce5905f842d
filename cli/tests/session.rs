//! `gridnet session` as a user would run it.

mod common;

use common::{gridnet, run, succeed};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// A session in a directory of its own, and where its rendez-vous node is to listen.
struct Session {
    dir: PathBuf,
    address: String,
}

impl Session {
    fn new(what: &str) -> Session {
        let dir = std::env::temp_dir().join(format!("gridnet-cli-session-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        // Below the ports that the system gives to connections; each test begins elsewhere.
        let first =
            10_000 + (std::process::id() % 500 * 16 + u32::from(what.as_bytes()[0]) % 16 * 8000 / 16) % 9000;
        let free = (first..20_000).find(|port| TcpListener::bind(("127.0.0.1", *port as u16)).is_ok());
        let session = Session { dir, address: format!("127.0.0.1:{}", free.unwrap()) };
        succeed(&["session", "new", "--listen", &session.address, "--dir", session.dir()]);
        session
    }

    fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn serve(&self) -> Running {
        let mut served = Running::start(&["session", "serve", "--dir", self.dir()]);
        let line = served.line();
        assert!(line.ends_with(&format!("rendez-vous node at {}", self.address)), "{line}");
        served
    }

    fn status(&self) -> Value {
        serde_json::from_str(&succeed(&["session", "status", "--json", "--dir", self.dir()])).unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A command that runs until it is told to end.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = gridnet(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line is printed").unwrap()
    }

    /// Ends it as ^C does; how it ended.
    fn end(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn members_see_each_other_come_and_go_until_one_is_revoked() {
    let session = Session::new("members");
    let served = session.serve();
    let watch = ["session", "join", &session.file("ticket"), "--watch", "--json", "--cluster", "c1"];
    let mut watcher = Running::start(&watch);
    let joined: Value = serde_json::from_str(&watcher.line()).unwrap();
    assert_eq!((joined["kind"].as_str(), joined["nodes"].as_array().unwrap().len()), (Some("joined"), 1));
    let other = succeed(&["session", "join", &session.file("ticket"), "--label", "guest"]);
    assert!(
        other.starts_with("joined as node ") && other.contains("c1") && other.contains("guest"),
        "{other}"
    );
    let came: Value = serde_json::from_str(&watcher.line()).unwrap();
    let went: Value = serde_json::from_str(&watcher.line()).unwrap();
    assert_eq!((came["kind"].as_str(), came["entry"]["label"].as_str()), (Some("came"), Some("guest")));
    assert_eq!((went["kind"].as_str(), went["why"].as_str()), (Some("went"), Some("left")));
    assert_eq!(went["node"], came["entry"]["node"]);
    let status = session.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    let revoked = succeed(&["session", "revoke", joined["node"].as_str().unwrap(), "--dir", session.dir()]);
    assert!(revoked.ends_with("it was there, and is told\n"), "{revoked}");
    // It says why, and ends.
    while watcher.lines.next().is_some_and(|line| !line.unwrap().contains("\"refused\"")) {}
    assert_eq!(watcher.child.wait().unwrap().code(), Some(1));
    assert_eq!(session.status()["refusals"]["revoked"].as_u64(), Some(1));
    assert_eq!(served.end(), Some(0));
    assert!(!session.dir.join("control.sock").exists());
}

#[test]
fn processes_of_one_host_get_a_leader_and_the_status_shows_it() {
    let session = Session::new("leader");
    let _served = session.serve();
    let ticket = session.file("ticket");
    let watch = |label: &str, lead: &str| {
        let args = ["session", "join", &ticket, "--watch", "--json", "--label", label, "--lead", lead];
        let mut member = Running::start(&args);
        let joined: Value = serde_json::from_str(&member.line()).unwrap();
        (member, joined["node"].as_str().unwrap().to_owned())
    };
    let (_first, follower) = watch("first", "never");
    let (_second, leader) = watch("second", "always");
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_led = |status: &Value| status["leaders"][0]["nodes"].as_u64() == Some(1);
    while !is_led(&session.status()) {
        assert!(Instant::now() < deadline, "{:#}", session.status());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let status = session.status();
    assert_eq!(status["leaders"][0]["node"].as_str(), Some(&leader[..]));
    assert!(status["leaders"][0]["addresses"][0].as_str().unwrap().starts_with("127.0.0.1:"));
    let nodes = status["nodes"].as_array().unwrap();
    let below = nodes.iter().find(|node| node["node"] == follower[..]).unwrap();
    assert_eq!((below["via"].as_str(), below["leads"].as_bool()), (Some(&leader[..]), Some(false)));
    assert!(below["cluster"].as_str().unwrap().starts_with("host-"));
    let table = succeed(&["session", "status", "--dir", session.dir()]);
    for part in
        [&format!("through {leader}"), "direct, leads", "listens at", "tls/tcp", "packets: 0 passed on"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    // What rules lead to between two members. This command has no stacks to offer.
    let rules = session.file("rules.toml");
    std::fs::write(&rules, "scheme = 'cluster'").unwrap();
    let explain = ["explain", "first", &leader, "--rules", &rules, "--session", session.dir()];
    let said = succeed(&explain);
    assert!(
        said.starts_with("first of cluster host-") && said.contains(" asks second of cluster host-"),
        "{said}"
    );
    assert!(said.contains("not tls/tcp: the node that asks has no tls\n"), "{said}");
    let (code, _, err) =
        run(&mut gridnet(&["explain", "first", "third", "--rules", &rules, "--session", session.dir()]));
    assert!(code == Some(1) && err.contains("no node \"third\" is in the session"), "{err}");
}

#[test]
fn a_rendezvous_node_that_nobody_reads_goes_on() {
    let session = Session::new("unread");
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut served = gridnet(&["session", "serve", "--dir", session.dir()]);
    let served = served.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    let mut served = Served(served);
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&session.address).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::yield_now();
    }
    let strangers = || session.status()["refusals"]["stranger"].as_u64().unwrap_or(0);
    while strangers() < 100 {
        assert!(Instant::now() < deadline, "it does not hear strangers any more");
        (0..20).for_each(|_| drop(TcpStream::connect(&session.address)));
    }
    assert!(succeed(&["session", "join", &session.file("ticket")]).starts_with("joined as node "));
    rustix::process::kill_process(Pid::from_child(&served.0), Signal::INT).unwrap();
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
    drop(reader.read(&mut [0; 1]));
}

/// A rendez-vous node whose words are not read here.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mistakes_are_named() {
    let session = Session::new("wrong");
    let ticket = session.file("ticket");
    let fails = |args: &[&str], code: i32, text: &str| {
        let (ended, out, err) = run(&mut gridnet(&[&["session"], args].concat()));
        assert!((ended, out.as_str()) == (Some(code), "") && err.contains(text), "{args:?}: {ended:?} {err}");
    };
    fails(&["join", &ticket], 1, "Connection refused");
    fails(&["status", "--dir", session.dir()], 1, "nobody serves the session");
    fails(&["serve", "--dir", "/nonexistent"], 2, "/nonexistent: No such file");
    fails(&["new", "--dir", session.dir()], 2, "is not empty");
    fails(&["new", "--dir", &session.file("x"), "--listen", "0.0.0.0:7411"], 2, "all addresses of this host");
    fails(&["new", "--listen", "host:7411"], 2, "192.0.2.1:7411");
    fails(&["ticket", &ticket, "--dir", session.dir()], 2, "there is such a file");
    fails(&["ticket", &session.file("t"), "--dir", session.dir(), "--expires", "5w"], 2, "1s to 3650d");
    fails(&["revoke", "me", "--dir", session.dir()], 2, "32 hexadecimal digits");
    std::fs::set_permissions(&ticket, std::fs::Permissions::from_mode(0o640)).unwrap();
    fails(&["join", &ticket], 1, "can be read by others");
    std::fs::set_permissions(&ticket, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _served = session.serve();
    fails(&["serve", "--dir", session.dir()], 2, "another process serves the session");
    fails(&["join", &ticket, "--label", "a b"], 2, "is no name");
}
