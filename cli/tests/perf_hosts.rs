//! `perf --serve` and `perf --connect`: between two hosts of a lab, and between two processes of this one over the loopback
//! interface, as if they were on two.

mod common;

use common::{gridnet, run};
use gridnet_testbed::{lab_test, Host, Lab, LinkSpec, Topology};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

lab_test! {
    fn two_hosts_measure_all_that_makes_sense_between_them() {
        let lab = Lab::open(Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"))).unwrap();
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let key = scratch("lab").join("key");
        let key = key.to_str().unwrap();
        let serve = ["perf", "--serve", "--port", "4711", "--key", key, "--timeout", "60"];
        let server = command(b, &serve).spawn().unwrap();
        server.wait_for("waits for a client", PATIENCE).unwrap();
        let invited = format!("gridnet perf --connect {}:4711 --key", b.address().unwrap());
        assert!(server.said()[0].contains(&invited), "{:?}", server.said());
        let to = format!("{}:4711", b.address().unwrap());
        let client = command(a, &[&["perf", "--connect", &to, "--key", key][..], &EVERYTHING].concat());
        let client = client.output(PATIENCE).unwrap();
        let rows = parse(&client.clone().success().unwrap_or_else(|error| panic!("{error}; {:?}", server.said())));
        check_everything(&rows, "tcp");
        let served = server.wait(PATIENCE).unwrap();
        assert!(served.status.success(), "{served:?}");
        assert!(served.stdout.contains(": done") && !Path::new(key).exists(), "{served:?}");
    }

    fn a_wall_between_hosts_is_told_from_a_server_that_is_not_there() {
        let lab = Lab::open(Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"))).unwrap();
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let key = scratch("wall").join("key");
        std::fs::write(&key, "x".repeat(32)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let to = format!("{}:4711", b.address().unwrap());
        let why = || {
            let client = command(a, &["perf", "--connect", &to, "--key", key.to_str().unwrap(), "--timeout", "1"]);
            let client = client.output(PATIENCE).unwrap();
            assert_eq!(client.status.code(), Some(1));
            client.stderr
        };
        assert!(why().contains("nobody listens there"), "{}", why());
        lab.link("a-b").unwrap().blackout(true).unwrap();
        assert!(why().contains("no answer within 1s: a firewall"), "{}", why());
    }
}

#[test]
fn two_processes_measure_over_loopback() {
    let mut server = Server::start("loopback", &[]);
    let rows = server.measure(&[&["--rails", "tcp"][..], &EVERYTHING].concat());
    check_everything(&rows, "tcp");
    server.ends_with(0);
}

#[test]
fn on_one_host_shared_memory_is_preferred_when_it_is_allowed() {
    let mut server = Server::start("shm", &[]);
    let rows = server.measure(&["--rails", "shm,tcp", "--op", "tag_lat", "--size", "8", "--format", "json"]);
    assert_eq!((rows.len(), &rows[0]["rails"]), (1, &"shm".into()));
    server.ends_with(0);
}

#[test]
fn tables_csv_and_plots_come_as_from_one_host() {
    let mut server = Server::start("formats", &["--keep"]);
    let plot = server.dir.join("plot.svg");
    let quick = ["--op", "tag_lat", "--size", "8", "--iters", "20", "--rails", "tcp"];
    let client = |more: &[&str]| {
        let (code, out, err) = run(&mut server.client(&[&quick[..], more].concat()));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        out
    };
    let table = client(&["--plot", plot.to_str().unwrap()]);
    for part in ["between this host", &server.at, "p50 us", "half a round trip"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));
    let csv = client(&["--format", "csv"]);
    assert!(csv.starts_with("op,rails,size,") && csv.lines().count() == 2, "{csv}");
    server.signal(Signal::INT);
    server.ends_with(130);
}

#[test]
fn a_wrong_key_is_explained_and_the_right_one_still_served() {
    let mut server = Server::start("wrong", &[]);
    let other = server.dir.join("other");
    std::fs::write(&other, "y".repeat(65)).unwrap();
    let with = |mode: u32| {
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(mode)).unwrap();
        let to = ["perf", "--connect", &server.at, "--key", other.to_str().unwrap()];
        let (code, out, err) = run(&mut gridnet(&to));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        err
    };
    assert!(with(0o600).contains("is not the server's"), "{}", with(0o600));
    assert!(with(0o644).contains("0600"), "{}", with(0o644));
    assert_eq!(server.measure(&["--op", "tag_rate", "--iters", "20", "--format", "json"]).len(), 1);
    let at = server.at.clone();
    server.ends_with(0);
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    let late = ["perf", "--connect", &at, "--key", other.to_str().unwrap()];
    let (code, _, err) = run(&mut gridnet(&late));
    assert!(code == Some(1) && err.contains("nobody listens there"), "{err}");
    std::fs::remove_file(&other).unwrap();
    let (code, _, err) = run(&mut gridnet(&late));
    assert!(code == Some(1) && err.contains("No such file"), "{err}");
}

#[test]
fn a_server_that_is_kept_serves_one_after_the_other() {
    let mut server = Server::start("kept", &["--keep"]);
    let mut busy = server.client(&["--op", "tag_lat", "--iters", "1000000000", "--rails", "tcp"]);
    let mut busy = busy.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    server.says("measuring");
    let (code, _, err) = run(&mut server.client(&["--op", "tag_lat"]));
    assert!(code == Some(1) && err.contains("refuses: it measures with 127.0.0.1"), "{err}");
    busy.kill().unwrap();
    busy.wait().unwrap();
    server.says("broken off");
    for _ in 0..2 {
        assert_eq!(server.measure(&["--op", "tag_rate", "--iters", "20", "--format", "json"]).len(), 1);
        server.says("done");
    }
    assert!(server.key.exists());
    server.signal(Signal::TERM);
    server.ends_with(130);
}

#[test]
fn a_signal_ends_a_measurement_and_leaves_no_key() {
    let mut server = Server::start("signal", &[]);
    let busy = server.client(&["--op", "tag_lat", "--size", "8", "--iters", "1000000000", "--rails", "tcp"]);
    let mut busy = busy;
    let busy = busy.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.says("measuring");
    server.signal(Signal::INT);
    server.ends_with(130);
    let ended = busy.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && err.contains("the server at 127.0.0.1"), "{err}");
}

#[test]
fn a_server_without_clients_ends() {
    let mut server = Server::start("nobody", &["--timeout", "1"]);
    let mut err = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("no client came in 1s"), "{err}");
    server.ends_with(1);
}

/// A server that listens on the loopback interface.
struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    at: String,
    key: PathBuf,
    dir: PathBuf,
}

impl Server {
    fn start(name: &str, more: &[&str]) -> Server {
        let dir = scratch(name);
        let args = [&["perf", "--serve", "--listen", "127.0.0.1"], more].concat();
        let mut command = gridnet(&args);
        command.env("GRIDNET_RUN_DIR", &dir).env("GRIDNET_PEER_TIMEOUT", "1s");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (at, key) = (String::new(), PathBuf::new());
        let mut server = Server { child, lines, at, key, dir };
        let line = server.says("gridnet perf --connect ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [.., at, "--key", key] = words[..] else { panic!("{line}") };
        (server.at, server.key) = (at.to_owned(), PathBuf::from(key));
        // The next line says how it ends.
        server.says("Ctrl-C");
        assert_eq!(std::fs::metadata(&server.key).unwrap().mode() & 0o777, 0o600);
        assert!(server.key.starts_with(&server.dir));
        server
    }

    /// The next line with `part` in it.
    fn says(&mut self, part: &str) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if line.contains(part) {
                return line;
            }
            line.clear();
        }
        let mut err = String::new();
        self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut err));
        panic!("the server does not say {part:?}; {err}");
    }

    fn client(&self, args: &[&str]) -> std::process::Command {
        let to = ["perf", "--connect", &self.at, "--key", self.key.to_str().unwrap()];
        let mut command = gridnet(&[&to[..], args].concat());
        command.env("GRIDNET_RUN_DIR", &self.dir).env("GRIDNET_PEER_TIMEOUT", "1s");
        command
    }

    fn measure(&self, args: &[&str]) -> Vec<Value> {
        let (code, out, err) = run(&mut self.client(args));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
        parse(&out)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// It ends in time, with this code and without its key.
    fn ends_with(&mut self, code: i32) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::yield_now();
        };
        assert_eq!(status.code(), Some(code));
        assert!(!self.key.exists(), "the key is left");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All operations between hosts, in short.
const EVERYTHING: [&str; 14] = [
    "--op",
    "tag_lat,loan_lat,tag_bw,tag_rate,put_lat,get_lat,atomic_lat,put_bw,get_bw,connect_lat,peers_open,peers_memory,peers_lat,raw_tcp,idle_cpu",
    "--size",
    "8,64k",
    "--iters",
    "4",
    "--warmup",
    "1",
    "--window",
    "4",
    "--peers",
    "3",
    "--format",
    "json",
];

/// Rows of [`EVERYTHING`].
fn check_everything(rows: &[Value], rail: &str) {
    let of = |op: &str| rows.iter().filter(|row| row["op"] == op).collect::<Vec<_>>();
    for (op, count) in [
        ("tag_lat", 2),
        ("loan_lat", 2),
        ("tag_bw", 2),
        ("tag_rate", 2),
        ("put_lat", 2),
        ("get_lat", 2),
        ("atomic_lat", 1),
        ("put_bw", 2),
        ("get_bw", 2),
        ("raw_tcp", 2),
        ("peers_open", 1),
        ("peers_lat", 1),
    ] {
        let found = of(op);
        assert_eq!(found.len(), count, "{op} in {rows:?}");
        assert!(found.iter().all(|row| row["p50_us"].as_f64().is_some_and(|us| us > 0.0)), "{found:?}");
    }
    let connect: Vec<&Value> = of("connect_lat").iter().map(|row| &row["peer"]).collect();
    assert_eq!(connect, ["polling", "asleep"]);
    assert!(of("peers_memory")[0]["fds_per_peer"].as_f64().is_some_and(|fds| fds >= 1.0), "{rows:?}");
    assert!(of("idle_cpu")[0]["cpu_percent"].is_number(), "{rows:?}");
    assert!(rows.iter().all(|row| row["rails"] == rail && row["canary_ns"].is_null()), "{rows:?}");
}

fn parse(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

fn command(host: Host<'_>, args: &[&str]) -> gridnet_testbed::HostCommand {
    host.command(env!("CARGO_BIN_EXE_gridnet")).args(args)
}

/// An empty directory for a test.
fn scratch(name: &str) -> PathBuf {
    // Short: sockets lie below it.
    let dir = std::env::temp_dir().join(format!("gn-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

const PATIENCE: Duration = Duration::from_secs(100);
