//! `config`, `info`, and what the command line refuses.

mod common;

use common::{gridnet, run, succeed};
use gridnet::config::VARIABLES;
use serde_json::Value;
use std::process::Stdio;

#[test]
fn config_lists_every_variable() {
    let out = succeed(&["config"]);
    for variable in &VARIABLES {
        let line = out.lines().find(|line| line.split_whitespace().next() == Some(variable.name));
        let line = line.unwrap_or_else(|| panic!("no line for {}", variable.name));
        assert!(
            line.contains(variable.default) && line.contains("default") && line.ends_with(variable.sentence)
        );
    }
    assert_eq!(out.lines().count(), 1 + VARIABLES.len());
}

#[test]
fn config_says_where_a_value_is_from() {
    let (code, out, _) = run(gridnet(&["config", "--json"]).env("GRIDNET_EAGER_MAX", "4096"));
    assert_eq!(code, Some(0));
    let entries: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(entries.len(), VARIABLES.len());
    let of = |name| entries.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(
        (&of("GRIDNET_EAGER_MAX")["value"], &of("GRIDNET_EAGER_MAX")["origin"]),
        (&"4k".into(), &"environment".into())
    );
    assert_eq!(of("GRIDNET_LOG")["origin"], "default");
}

#[test]
fn a_bad_environment_is_shown_and_ends_with_2() {
    for (name, value, expected) in [
        ("GRIDNET_RAIL", "shm", "GRIDNET_RAIL: no such variable, did you mean GRIDNET_RAILS?"),
        ("GRIDNET_WAIT_SPIN", "long", "GRIDNET_WAIT_SPIN: bad value \"long\""),
    ] {
        for command in ["config", "info", "perf"] {
            let (code, out, err) = run(gridnet(&[command]).env(name, value));
            assert_eq!((code, out.as_str()), (Some(2), ""), "{command} {err}");
            assert!(err.contains(expected), "{err}");
        }
    }
}

#[test]
fn the_command_line_refuses_by_name_and_ends_with_2() {
    for (args, bad, accepted) in [
        (&["perf", "--op", "tag_speed"][..], "tag_speed", "tag_lat"),
        (&["perf", "--size", "8,big"], "big", "0 to 1g"),
        (&["perf", "--size", "2g"], "2g", "0 to 1g"),
        (&["perf", "--pin", "0"], "--pin 0", "A,B"),
        (&["perf", "--pin", "0,1023"], "1023", "accepted are"),
        (&["perf", "--wait", "idle"], "idle", "adaptive"),
        (&["perf", "--rails", "udp"], "udp", "shm"),
        (&["perf", "--rails", "shm,^self"], "shm,^self", "exclude"),
        (&["perf", "--rails", "self"], "GRIDNET_RAILS=self", "accepted are shm, tcp"),
        (&["perf", "--format", "xml"], "xml", "json"),
        (&["perf", "--iters", "0"], "'0'", "1..="),
        (&["perf", "--window", "0"], "'0'", "1..="),
        (&["perf", "--op", "tag_rate", "--plot", "x.svg"], "--plot", "tag_lat"),
        (&["perf", "--plot", "/nonexistent/x.svg"], "/nonexistent/x.svg", "cannot be written"),
        (
            &["perf-peer", "--name", "x", "--parent", "1", "--largest", "8", "--timeout", "9"],
            "perf-peer",
            "gridnet perf",
        ),
        (&["tune"], "tune", "Usage"),
    ] {
        let (code, out, err) = run(&mut gridnet(args));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains(bad) && err.contains(accepted), "{args:?}: {err}");
    }
}

#[test]
fn info_shows_rails_and_limits() {
    let out = succeed(&["info"]);
    for part in
        ["rails", "shm", "self", "core distance", "huge pages", "RLIMIT_NOFILE", "cgroup memory", "Linux"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
}

#[test]
fn info_as_json_says_why_a_rail_is_not_available() {
    let (code, out, _) = run(gridnet(&["info", "--json"]).env("GRIDNET_RAILS", "self"));
    assert_eq!(code, Some(0));
    let info: Value = serde_json::from_str(&out).unwrap();
    let shm = info["rails"].as_array().unwrap().iter().find(|rail| rail["name"] == "shm").unwrap();
    assert_eq!((&shm["available"], &shm["why"]), (&false.into(), &"excluded by GRIDNET_RAILS=self".into()));
    let cores = info["host"]["cores_allowed"].as_array().unwrap().len().min(8);
    assert_eq!(info["core_distance"].as_array().unwrap().len(), cores * (cores - 1) / 2);
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let mut child = gridnet(&["config"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
