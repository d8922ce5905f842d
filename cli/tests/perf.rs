//! `perf`: the shape of what it prints, and what becomes of its peer. Never how fast it is.

mod common;

use common::{gridnet, run, succeed};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FIELDS: [&str; 19] = [
    "op",
    "rails",
    "size",
    "p50_us",
    "p99_us",
    "avg_us",
    "gb_per_s",
    "mmsg_per_s",
    "canary_ns",
    "ratio_to_canary",
    "pin",
    "wait",
    "peer",
    "unstable",
    "peers",
    "ratio_to_one_peer",
    "kib_per_peer",
    "fds_per_peer",
    "cpu_percent",
];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["perf", "--iters", "20", "--warmup", "2", "--window", "4"], more].concat()
}

fn rows(args: &[&str]) -> Vec<Value> {
    let out = succeed(&quick(&[&["--format", "json"], args].concat()));
    out.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

#[test]
fn json_has_an_object_a_line_with_every_field() {
    let rows = rows(&["--size", "8,64k"]);
    let seen: Vec<(&str, u64)> =
        rows.iter().map(|row| (row["op"].as_str().unwrap(), row["size"].as_u64().unwrap())).collect();
    let (lat, loan, bw, rate) = ("tag_lat", "loan_lat", "tag_bw", "tag_rate");
    let connect = [("connect_lat", 8), ("connect_lat", 8)];
    let sized = |op| [(op, 8), (op, 65536)];
    let messages = [sized(lat), sized(loan), sized(bw), sized(rate)].concat();
    let (times, bandwidths) =
        ([sized("put_lat"), sized("get_lat")].concat(), [sized("put_bw"), sized("get_bw")].concat());
    let regions = [&times[..], &[("atomic_lat", 8)], &bandwidths].concat();
    assert_eq!(seen, [&messages[..], &regions, &connect].concat());
    for row in &rows {
        assert!(FIELDS.iter().all(|field| row.get(field).is_some()), "{row}");
        assert!(
            row["p50_us"].as_f64().unwrap() > 0.0 && row["p99_us"].as_f64() >= row["p50_us"].as_f64(),
            "{row}"
        );
        assert_eq!((&row["rails"], &row["wait"]), (&"shm".into(), &"adaptive".into()));
        assert_eq!(row["canary_ns"].is_number(), row["pin"] != "same", "{row}");
        let op = row["op"].as_str().unwrap();
        let carries = ["tag_", "put_", "get_", "atomic_"].iter().any(|kind| op.starts_with(kind));
        assert_eq!(row["gb_per_s"].is_number(), carries, "{row}");
    }
    assert_eq!((&rows[17]["peer"], &rows[18]["peer"]), (&"polling".into(), &"asleep".into()));
}

#[test]
fn each_wait_mode_and_each_placement_works() {
    for args in [
        &["--op", "tag_lat", "--size", "8", "--pin", "same"][..],
        &["--op", "loan_lat", "--size", "0", "--pin", "none"],
        &["--op", "loan_lat", "--wait", "block"],
        &["--op", "tag_bw", "--size", "1m", "--pin", "none"],
        &["--op", "tag_lat", "--size", "0", "--wait", "block"],
        &["--op", "tag_rate", "--wait", "spin", "--rails", "shm"],
        &["--op", "put_lat", "--size", "64k", "--pin", "same"],
        &["--op", "atomic_lat", "--pin", "none"],
        &["--op", "get_bw", "--size", "8", "--wait", "block"],
    ] {
        let rows = rows(args);
        assert_eq!(rows.len(), 1, "{args:?}");
        if args.contains(&"--pin") {
            assert!(rows[0]["canary_ns"].is_null() && rows[0]["ratio_to_canary"].is_null());
            assert_eq!(rows[0]["pin"], args[args.len() - 1]);
        }
        if args.contains(&"block") {
            assert_eq!(rows[0]["wait"], "block");
        }
    }
}

#[test]
fn many_peers_are_opened_counted_and_left_idle() {
    let rows = rows(&["--op", "peers_open,peers_memory,peers_lat", "--peers", "6"]);
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row["peers"] == 6 && row["rails"] == "shm"), "{rows:?}");
    let [open, memory, lat] = &rows[..] else { unreachable!() };
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
    assert!(number(open, "p50_us") > 0.0 && open["kib_per_peer"].is_null(), "{open}");
    // A peer has two rings at least, and a connection: what costs nothing was not measured.
    assert!(number(memory, "kib_per_peer") >= 2.0 * 64.0 * 64.0 / 1024.0, "{memory}");
    assert!((1.0..=2.0).contains(&number(memory, "fds_per_peer")), "{memory}");
    assert!(memory["p50_us"].is_null() && memory["canary_ns"].is_null(), "{memory}");
    assert!(number(lat, "ratio_to_one_peer") > 0.0 && number(lat, "p50_us") > 0.0, "{lat}");
}

#[test]
fn a_wait_that_sleeps_takes_less_of_the_processor_than_one_that_spins() {
    let percent = |wait| {
        let rows = rows(&["--op", "idle_cpu", "--wait", wait]);
        assert!(rows[0]["p50_us"].is_null(), "{rows:?}");
        rows[0]["cpu_percent"].as_f64().expect("a number")
    };
    let (asleep, spinning) = (percent("block"), percent("spin"));
    assert!(asleep < spinning / 4.0, "{asleep} % and {spinning} %");
}

#[test]
fn rows_about_many_peers_have_their_figures_at_the_end_of_the_line() {
    let out = succeed(&quick(&["--op", "peers_memory,idle_cpu", "--peers", "2"]));
    for part in ["2 peers", "KiB a peer", "descriptors a peer", "% of a core", "peers_memory ", "idle_cpu "] {
        assert!(out.contains(part), "{part} in {out}");
    }
}

#[test]
fn the_table_names_its_columns_and_explains_them() {
    let out = succeed(&quick(&["--op", "tag_lat,tag_rate", "--size", "8"]));
    for part in ["gridnet", "wait mode adaptive", "p50 us", "Mmsg/s", "tag_lat ", "8 B", "half a round trip"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(!out.contains('\u{1b}'), "no control characters in a pipe");
}

/// `script` gives the command a terminal.
#[test]
fn a_bar_shows_progress_on_a_terminal() {
    let perf =
        format!("{} perf --op tag_lat --size 8,16 --pin none --iters 20000", env!("CARGO_BIN_EXE_gridnet"));
    let mut script = Command::new("script");
    let output = script.args(["-qec", &perf, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null()).output();
    let output = output.expect("script is there: it is essential on Debian");
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{seen}");
    assert!(["0/2  tag_lat 8 B", "1/2  tag_lat 16 B"].iter().all(|part| seen.contains(part)), "{seen:?}");
    assert!(seen.contains("half a round trip"), "{seen:?}");
}

#[test]
fn csv_has_a_heading_and_as_many_cells_in_each_line() {
    let out = succeed(&quick(&["--op", "tag_lat", "--size", "8,16", "--pin", "none", "--format", "csv"]));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines[0], FIELDS);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|cells| cells.len() == FIELDS.len()), "{out}");
}

#[test]
fn a_plot_is_well_formed_and_says_what_it_shows() {
    let file = scratch("plot.svg");
    succeed(&quick(&["--op", "tag_lat,tag_bw", "--size", "8,1k,64k", "--plot", file.to_str().unwrap()]));
    let svg = std::fs::read_to_string(&file).unwrap();
    let document = roxmltree::Document::parse(&svg).expect("well-formed XML");
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    for part in ["Latency", "Bandwidth", "message size", "GB/s"] {
        assert!(texts.contains(&part), "{part} in {texts:?}");
    }
    assert!(!file.with_extension("svg.tmp").exists());
}

#[test]
fn a_peer_that_cannot_start_is_said_to() {
    let args = quick(&["--op", "tag_lat", "--size", "8"]);
    let (code, _, err) = run(gridnet(&args).env("GRIDNET_RUN_DIR", "/proc/no-such-place"));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("the peer process did not start") && err.contains("gridnet_fabric_open"), "{err}");
}

#[test]
fn the_peer_does_not_outlive_a_killed_parent() {
    let mut parent = endless();
    let peer = peer_of(&mut parent);
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for("the end of the peer", || (!runs(peer)).then_some(()));
}

#[test]
fn the_death_of_the_peer_is_an_error_and_not_a_hang() {
    let mut parent = endless();
    let peer = peer_of(&mut parent);
    kill_process(Pid::from_raw(peer).unwrap(), Signal::KILL).unwrap();
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("the peer process"), "{err}");
}

/// A measurement that does not end by itself.
fn endless() -> Child {
    gridnet(&["perf", "--op", "tag_lat", "--size", "8", "--iters", "1000000000", "--pin", "none"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts")
}

fn peer_of(parent: &mut Child) -> i32 {
    let id = parent.id() as i32;
    wait_for("the start of the peer", || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        ids.find(|process| {
            let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            stat(*process).is_some_and(|(_, of)| of == id)
                && arguments.windows(9).any(|part| part == b"perf-peer")
        })
    })
}

/// Whether the process is there and not merely waiting to be collected.
fn runs(process: i32) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// State and parent of a process.
fn stat(process: i32) -> Option<(String, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Waits until `condition` gives a value.
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::yield_now();
    }
}

/// A path for a file of this test process.
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
    std::fs::create_dir_all(&dir).expect("the scratch directory can be made");
    dir.join(name)
}

#[test]
fn establishing_is_measured_by_each_way() {
    let text = succeed(&["perf", "--op", "establish", "--iters", "2", "--format", "json"]);
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ways: Vec<&str> = rows.iter().map(|row| row["way"].as_str().unwrap()).collect();
    for way in [
        "join a session",
        "direct",
        "by the rendez-vous node, later",
        "in the cluster, first",
        "endpoint by node",
    ] {
        assert!(ways.iter().any(|one| one.starts_with(way)), "{way}: {ways:?}");
    }
    assert!(rows.iter().all(|row| row["p50_us"].as_f64() > Some(0.0) && row["rounds"] == 2), "{text}");
    let compared = rows.iter().filter(|row| row["ratio_to_direct"].as_f64() > Some(0.0)).count();
    assert_eq!(compared, 4, "{text}");
    let table = succeed(&["perf", "--op", "establish", "--iters", "1"]);
    assert!(table.starts_with("establish") && table.lines().count() == 1 + rows.len(), "{table}");
}
