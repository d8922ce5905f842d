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
fn a_session_without_tls_says_so_everywhere() {
    let mut session = Session::new("x-insecure");
    session.dir = session.dir.with_extension("plain");
    let _ = std::fs::remove_dir_all(&session.dir);
    let new = ["session", "new", "--insecure", "--listen", &session.address, "--dir", session.dir()];
    let says = |text: &str| assert!(text.contains("insecure = true"), "{text}");
    says(&succeed(&new));
    let mut served = Running::start(&["session", "serve", "--dir", session.dir()]);
    says(&served.line());
    let watch = ["session", "join", &session.file("ticket"), "--watch", "--json"];
    let mut watcher = Running::start(&watch);
    let joined: Value = serde_json::from_str(&watcher.line()).unwrap();
    assert_eq!(joined["insecure"].as_bool(), Some(true));
    says(&succeed(&["session", "join", &session.file("ticket")]));
    says(&succeed(&["session", "status", "--dir", session.dir()]));
    let status = session.status();
    assert_eq!(
        (status["insecure"].as_bool(), status["links"][0]["stack"].as_str()),
        (Some(true), Some("tcp"))
    );
    let more = session.file("more");
    says(&succeed(&["session", "ticket", &more, "--via", "10.0.0.1:7412", "--dir", session.dir()]));
    let ticket = std::fs::read_to_string(&more).unwrap();
    assert!(
        ticket.contains("insecure = true\n") && ticket.contains("via = [\"10.0.0.1:7412\"]\n"),
        "{ticket}"
    );
    assert_eq!(std::fs::metadata(&more).unwrap().permissions().mode() & 0o777, 0o600);
    let info = gridnet(&["info"]).env("GRIDNET_SESSION", session.file("ticket")).output().unwrap();
    says(&String::from_utf8_lossy(&info.stdout));
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

#[test]
fn who_keeps_its_certificate_is_a_node_for_other_programs() {
    let session = Session::new("keep");
    let _served = session.serve();
    let (node, kept) = (session.file("node"), session.dir.join("node"));
    let ticket = session.file("ticket");
    let mut watcher = Running::start(&["session", "join", &ticket, "--keep", &node, "--watch", "--json"]);
    let joined: Value = serde_json::from_str(&watcher.line()).unwrap();
    let id = joined["node"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&kept).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let info = |env: &[(&str, &str)]| {
        let mut command = gridnet(&["info"]);
        command.env("GRIDNET_NET_INTERFACES", "lo").envs(env.iter().copied());
        let (code, out, err) = run(&mut command);
        assert_eq!(code, Some(0), "{err}");
        out
    };
    let out = info(&[("GRIDNET_SESSION", &node)]);
    assert!(out.contains(&format!("by a session, as node {id}")) && out.contains("TLS 1.3"), "{out}");
    assert!(info(&[("GRIDNET_NET_INSECURE", "1")]).contains("data is plain"));
    let out = info(&[("GRIDNET_SESSION", &node), ("GRIDNET_NET_INSECURE", "1")]);
    assert!(out.contains("GRIDNET_SESSION and GRIDNET_NET_INSECURE exclude each other"), "{out}");
    // Who is revoked is written down as soon as it is known.
    let other = succeed(&["session", "join", &ticket]);
    let other = other.split_whitespace().nth(3).unwrap().trim_end_matches(',').to_owned();
    succeed(&["session", "revoke", &other, "--dir", session.dir()]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(kept.join("revoked")).unwrap().contains(&other) {
        assert!(Instant::now() < deadline, "it is not written");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let wrong = ["session", "join", &ticket, "--keep", session.dir()];
    let (code, _, err) = run(&mut gridnet(&wrong));
    assert!(code == Some(2) && err.contains("authority"), "{code:?} {err}");
}

/// All that others of the host may see of a process, or may be written down somewhere: arguments, environment, names of threads, mappings
/// and descriptors.
fn shown(pid: u32) -> String {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut text = String::new();
    for name in ["cmdline", "environ", "maps"] {
        text += &String::from_utf8_lossy(&std::fs::read(proc.join(name)).unwrap());
    }
    for task in std::fs::read_dir(proc.join("task")).unwrap() {
        text += &std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
    }
    for fd in std::fs::read_dir(proc.join("fd")).unwrap() {
        let leads_to = std::fs::read_link(fd.unwrap().path()).unwrap_or_default();
        text += leads_to.to_str().unwrap();
    }
    text
}

#[test]
fn no_secret_is_seen_of_a_process_nor_logged() {
    let session = Session::new("no-secret");
    let logged = |name: &str, args: &[&str]| {
        let log = std::fs::File::create(session.dir.join(name)).unwrap();
        let mut child =
            gridnet(args).env("GRIDNET_LOG", "trace").stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Running { child, lines };
        (running.line(), running)
    };
    let (served, serves) = logged("serve.log", &["session", "serve", "--dir", session.dir()]);
    let (ticket, node) = (session.file("ticket"), session.file("node"));
    let join = ["session", "join", &ticket, "--keep", &node, "--watch", "--json"];
    let (joined, joins) = logged("join.log", &join);
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} = \""))).unwrap();
        line.trim_end_matches('"').to_owned()
    };
    let read = |name: &str| std::fs::read_to_string(session.dir.join(name)).unwrap();
    // Of a key that is written so, these digits are the private part.
    let key = value(&read("node/node"), "key")[72..136].to_owned();
    let authority = read("authority.key").lines().nth(2).unwrap().to_owned();
    let secrets = [value(&read("ticket"), "secret"), key, authority];
    let quick = format!(
        "cat /proc/self/environ; GRIDNET_NET_INTERFACES=lo GRIDNET_LOG=trace \
         GRIDNET_SESSION={node} {} info 2>&1",
        env!("CARGO_BIN_EXE_gridnet")
    );
    let (code, child, _) = run(&mut gridnet(&["session", "quick", "--", "sh", "-c", &quick]));
    assert!(code == Some(0) && child.contains("GRIDNET_SESSION=/"), "{child}");
    let status = succeed(&["session", "status", "--json", "--dir", session.dir()]);
    let processes = [&serves, &joins].map(|running| shown(running.child.id()));
    assert!(processes[1].contains("--keep"), "it is seen what there is to see");
    assert_eq!((joins.end(), serves.end()), (Some(0), Some(0)));
    let logs = [read("serve.log"), read("join.log")];
    let all = [&processes[..], &logs, &[served, joined, child, status]].concat();
    for secret in secrets {
        assert!(secret.len() >= 24, "{secret}");
        assert!(all.iter().all(|text| !text.contains(&secret)), "it is seen");
    }
}

#[test]
fn a_keeper_that_is_started_again_goes_on_as_the_same_node() {
    let session = Session::new("again");
    let _served = session.serve();
    let (node, ticket) = (session.file("node"), session.file("ticket"));
    let watch = ["session", "join", &ticket, "--keep", &node, "--watch", "--json"];
    let id = |running: &mut Running| {
        let joined: Value = serde_json::from_str(&running.line()).unwrap();
        joined["node"].as_str().unwrap().to_owned()
    };
    let kept = || std::fs::read_to_string(session.dir.join("node/node")).unwrap();
    let mut first = Running::start(&watch);
    let (known, certified) = (id(&mut first), kept());
    let (code, _, err) = run(&mut gridnet(&watch));
    assert!(code == Some(2) && err.contains("another process keeps the node in"), "{code:?} {err}");
    assert_eq!(kept(), certified, "it has changed nothing");
    // Killed, it leaves no lock.
    drop(first);
    let mut again = Running::start(&watch);
    assert_eq!(id(&mut again), known);
    assert_ne!(kept(), certified, "with a new certificate");
    assert_eq!(session.status()["joined"].as_u64(), Some(1));
    assert_eq!(again.end(), Some(0));
    // Neither does it need a ticket that is good, nor may it be revoked.
    let number = std::fs::read_to_string(session.dir.join("tickets.toml")).unwrap();
    let number = number.split('"').find(|part| part.len() == 32).unwrap().to_owned();
    succeed(&["session", "revoke", &number, "--ticket", "--dir", session.dir()]);
    assert!(succeed(&["session", "join", &ticket, "--keep", &node]).contains(&known));
    succeed(&["session", "revoke", &known, "--dir", session.dir()]);
    let (code, _, err) = run(&mut gridnet(&["session", "join", &ticket, "--keep", &node]));
    assert!(code == Some(1) && err.contains("revoked"), "{code:?} {err}");
    let other = Session::new("other");
    let (code, _, err) = run(&mut gridnet(&["session", "join", &other.file("ticket"), "--keep", &node]));
    assert!(code == Some(2) && err.contains("of another session"), "{code:?} {err}");
}

#[test]
fn a_keeper_that_nobody_reads_keeps_its_directory() {
    let session = Session::new("full");
    let _served = session.serve();
    let (node, ticket) = (session.file("node"), session.file("ticket"));
    let (_reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut keeper = gridnet(&["session", "join", &ticket, "--keep", &node, "--watch"]);
    let _keeper = Served(keeper.stdout(writer).stderr(Stdio::null()).spawn().unwrap());
    let other = succeed(&["session", "join", &ticket]);
    let other = other.split_whitespace().nth(3).unwrap().trim_end_matches(',').to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait = |what: &dyn Fn() -> bool| {
        while !what() {
            assert!(Instant::now() < deadline, "it is not written");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    };
    // What it was at first is written before it says anything.
    wait(&|| session.dir.join("node/node").exists());
    succeed(&["session", "revoke", &other, "--dir", session.dir()]);
    let revoked = session.dir.join("node/revoked");
    wait(&|| std::fs::read_to_string(&revoked).is_ok_and(|text| text.contains(&other)));
}

/// A place for throw-away sessions, which is empty in the end.
struct Quick(PathBuf);

impl Quick {
    fn new(what: &str) -> Quick {
        let dir = std::env::temp_dir().join(format!("gridnet-cli-quick-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Quick(dir)
    }

    fn command(&self, script: &str) -> std::process::Command {
        let mut command = gridnet(&["session", "quick", "--", "sh", "-c", script]);
        command.env("XDG_RUNTIME_DIR", &self.0);
        command
    }

    fn left(&self) -> usize {
        // Fabrics meet in there, too.
        let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("gridnet-quick-")).count()
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_quick_session_is_there_for_its_command_and_gone_with_it() {
    let quick = Quick::new("ends");
    let perf = format!(
        "test -r $GRIDNET_SESSION/node && GRIDNET_NET_INTERFACES=lo {} perf --op tag_lat --size 8 --iters 50 --rails tcp",
        env!("CARGO_BIN_EXE_gridnet")
    );
    let (code, out, err) = run(&mut quick.command(&perf));
    assert!(code == Some(0) && out.contains("tag_lat"), "{out} {err}");
    assert_eq!(run(&mut quick.command("exit 7")).0, Some(7));
    assert_eq!(run(&mut quick.command("kill -KILL $$")).0, Some(137));
    assert_eq!(quick.left(), 0);
    let (code, _, err) =
        run(gridnet(&["session", "quick", "--", "/nonexistent"]).env("XDG_RUNTIME_DIR", &quick.0));
    assert!(code == Some(1) && err.contains("/nonexistent") && quick.left() == 0, "{code:?} {err}");
}

#[test]
fn a_quick_session_that_is_told_to_end_tells_its_command_and_one_that_was_killed_is_cleared_away() {
    let quick = Quick::new("killed");
    // It does not outlive the test, whoever is killed.
    let wait = "echo ready; while kill -0 $PPID 2>/dev/null; do sleep 1; done";
    let start = || {
        let mut child = quick.command(wait).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        (Served(child), lines)
    };
    let (mut told, mut said) = start();
    assert_eq!(quick.left(), 1);
    let name = std::fs::read_dir(&quick.0).unwrap().map(|entry| entry.unwrap().file_name());
    let name =
        name.filter_map(|name| name.to_str()?.strip_prefix("gridnet-quick-").map(str::to_owned)).next();
    let is_random = |name: &String| name.len() == 32 && name.parse::<u32>().is_err();
    assert!(name.as_ref().is_some_and(is_random), "nobody knows it before: {name:?}");
    rustix::process::kill_process(Pid::from_child(&told.0), Signal::TERM).unwrap();
    assert_eq!(told.0.wait().unwrap().code(), Some(143));
    assert_eq!((quick.left(), said.next().is_none()), (0, true));
    let (mut killed, _said) = start();
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    assert_eq!(quick.left(), 1, "nobody could remove it");
    assert_eq!(run(&mut quick.command("true")).0, Some(0));
    assert_eq!(quick.left(), 0);
}
