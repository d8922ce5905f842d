//! The driver with peers that are shell scripts: the whole way from the folder of the peers to the results.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of peers, gone at the end.
struct Fakes {
    dir: PathBuf,
}

impl Fakes {
    fn new(test: &str) -> Fakes {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        ["bin", "why", "out"].iter().for_each(|name| fs::create_dir_all(dir.join(name)).unwrap());
        let fakes = Fakes { dir };
        fakes.program(
            "gridnet",
            r#"[ "$1" = --version ] && echo "gridnet 9.9.9" || echo '{"op":"tag_lat","p50_us":0.1,"avg_us":0.2}'"#,
        );
        fakes
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.dir.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, more: &[&str]) -> Output {
        let path = |name: &str| self.dir.join(name);
        Command::new(env!("CARGO_BIN_EXE_gridnet-bench-peers"))
            .arg("--dir")
            .arg(&self.dir)
            .arg("--gridnet")
            .arg(path("bin/gridnet"))
            .arg("--out")
            .arg(path("out"))
            .args(["--rounds", "2"])
            .args(more)
            .output()
            .unwrap()
    }

    fn rows(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.dir.join("out/peers.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where there is one core only there is nothing to measure, and the driver says so.
fn one_core() -> bool {
    std::thread::available_parallelism().unwrap().get() < 2
}

#[test]
fn peers_are_measured_and_missing_ones_say_why() {
    let fakes = Fakes::new("measured");
    if one_core() {
        let output = fakes.run(&[]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("two cores are needed"));
        return;
    }
    fakes.program(
        "zeromq",
        r#"case $* in version) echo "ZeroMQ 1.2" ;; "tag_lat 8 250 "*,*) echo '{"p50_ns": 300, "avg_ns": 400}' ;; *) exit 1 ;; esac"#,
    );
    fakes.program("mpich", r#"[ "$1" = version ] && echo "MPICH 1" || { echo "it broke" >&2; exit 3; }"#);
    fs::write(fakes.dir.join("why/openmpi"), "no mpicc\n").unwrap();
    let page = fakes.dir.join("page.md");
    fs::write(
        &page,
        "a\n<!-- bench/peers: begin, written by the command -->\n<!-- bench/peers: end -->\nz\n",
    )
    .unwrap();
    let more = ["--only", "mpich,openmpi,zeromq", "--op", "tag_lat", "--size", "8", "--readme"];
    let output = fakes.run(&[&more[..], &[page.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
    let rows = fakes.rows();
    let of = |peer: &str| rows.iter().find(|row| row["peer"] == peer).unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!((&of("gridnet")["time_us"], &of("gridnet")["runs"]), (&0.1.into(), &2.into()));
    assert_eq!(of("zeromq")["ratio_to_gridnet"], 3.0);
    assert_eq!(of("zeromq")["version"], "ZeroMQ 1.2");
    assert_eq!(of("openmpi")["not_run"], "no mpicc");
    let why = of("mpich")["not_run"].as_str().unwrap();
    assert!(why.contains("it broke") && why.contains("3"), "{why}");
    for name in ["out/peers.md", "page.md"] {
        let text = fs::read_to_string(fakes.dir.join(name)).unwrap();
        assert!(text.contains("| ZeroMQ 1.2 | 0.300 us (3.00 x)"), "{text}");
    }
    let svg = fs::read_to_string(fakes.dir.join("out/peers.svg")).unwrap();
    assert!(roxmltree::Document::parse(&svg).is_ok());
}

#[test]
fn a_server_and_its_client_meet_on_a_port() {
    let fakes = Fakes::new("ucx");
    if one_core() {
        return;
    }
    // The server is ready when it listens; the test's own interpreter is the one that every Debian has.
    fakes.program(
        "ucx",
        r#"case $1 in
version) echo "UCX 9" ;;
-p) exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 1) or die; $s->accept' "$2" ;;
*) perl -MIO::Socket::INET -e 'IO::Socket::INET->new(PeerAddr => "127.0.0.1:$ARGV[0]") or die "nobody listens"' "$3" || exit 1
   printf 'iterations,50.0_percentile_lat,avg_lat,overall_lat\n 100,0.050,9,9,1,1,1,1\n' ;;
esac"#,
    );
    let output = fakes.run(&["--only", "ucx", "--op", "tag_lat", "--size", "8"]);
    assert!(output.status.success(), "{output:?}");
    let row = &fakes.rows()[1];
    assert_eq!((&row["peer"], &row["not_run"]), (&"ucx".into(), &serde_json::Value::Null));
    assert_eq!((&row["ratio_to_gridnet"], &row["runs"]), (&0.5.into(), &2.into()));
}

#[test]
fn over_tcp_there_are_other_peers_and_a_bare_socket() {
    let fakes = Fakes::new("tcp");
    if one_core() {
        return;
    }
    let own = |version: &str, ns: u32| {
        format!(r#"[ "$1" = version ] && echo "{version}" || echo '{{"p50_ns": {ns}, "avg_ns": {ns}}}'"#)
    };
    fakes.program("raw", &own("bare socket", 80));
    fakes.program("iperf3", &own("iperf 3.12", 50));
    let more = ["--table", "tcp", "--only", "raw,iperf3", "--op", "tag_lat,tag_bw", "--size", "8"];
    let output = fakes.run(&more);
    assert!(output.status.success(), "{output:?}");
    let rows = fakes.rows();
    let names: Vec<&str> = rows.iter().map(|row| row["peer"].as_str().unwrap()).collect();
    assert_eq!(names, ["gridnet", "raw", "gridnet", "raw", "iperf3"], "a stream has no latency");
    assert_eq!((&rows[0]["ratio_to_raw"], &rows[1]["ratio_to_raw"]), (&1.25.into(), &1.0.into()));
    assert_eq!(rows[4]["ratio_to_gridnet"], 0.25);
    let page = fs::read_to_string(fakes.dir.join("out/peers.md")).unwrap();
    assert!(page.contains("| gridnet x raw | 1.25 x | 2.50 x |"), "{page}");
    // The peers of one table are unknown in the other.
    assert!(!fakes.run(&["--table", "tcp", "--only", "zeromq"]).status.success());
}

#[test]
fn a_peer_that_hangs_is_stopped_with_all_that_it_started() {
    let fakes = Fakes::new("hangs");
    if one_core() {
        return;
    }
    let pids = fakes.dir.join("pids");
    let script = r#"[ "$1" = version ] && echo "it hangs" && exit
(setsid sh -c 'echo $$ >>PIDS; exec sleep 1000') &
echo $$ >>PIDS
exec sleep 1000"#;
    fakes.program("zeromq", &script.replace("PIDS", pids.to_str().unwrap()));
    let only = ["--only", "zeromq", "--op", "tag_lat", "--size", "8", "--limit", "3"];
    let output = fakes.run(&only);
    assert!(output.status.success(), "{output:?}");
    let row = &fakes.rows()[1];
    assert_eq!(row["not_run"], "not done within 3 s");
    let pids = fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 2, "one round only, and both processes: {pids}");
    for pid in pids.lines() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert_ne!(name.trim(), "sleep", "{pid} is still there");
    }
}

#[test]
fn an_unknown_peer_is_an_error_that_names_the_known_ones() {
    let output = Fakes::new("unknown").run(&["--only", "nonsense"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("nonsense"), "{text}");
    assert!(one_core() || text.contains("zeromq"), "{text}");
}
