//! `gridnet lab` as a user would run it.

mod common;

use common::{gridnet, run};
use gridnet_testbed::sandbox;
use gridnet_testbed::testing::skip;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

const TOPOLOGY: &str = r#"
[[host]]
name = "x"
[[host]]
name = "y"
[[link]]
between = ["x", "y"]
delay = "5ms"
blackout = ["0s..0.2s"]
[[event]]
at = "0.3s"
reset = ["x", "y"]
[[run]]
host = "x"
command = "sleep 1000"
background = true
[[run]]
host = "y"
command = "hostname; echo to-err >&2; sleep 1"
"#;

/// Runs the command; nothing where labs cannot be had.
fn lab(test: &str, args: &[&str]) -> Option<(Option<i32>, String, String)> {
    let (code, out, err) = run(&mut gridnet(&[&["lab"], args].concat()));
    if err.contains("no lab can be had here") {
        skip(test, err.trim());
        return None;
    }
    Some((code, out, err))
}

fn file(name: &str, text: &str) -> String {
    // A folder of this build, where files may stay.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lab-{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_run_shows_hosts_links_events_and_commands() {
    let file = file("run", TOPOLOGY);
    let args = ["run", &file, "--json", "--host", "x", "--", "echo", "{}"];
    let Some((code, out, err)) = lab("a_run_shows_hosts_links_events_and_commands", &args) else { return };
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(of("host").len(), 2);
    assert_eq!((&of("link")[0]["link"], &of("link")[0]["relay"]), (&"x-y".into(), &true.into()));
    assert!(of("check").iter().all(|check| check["as_asked"] == true) && of("check").len() == 4, "{out}");
    let events: Vec<&str> = of("event").iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        ["link x-y: blackout", "link x-y: blackout ends", "connections between x and y: reset"]
    );
    let ran = of("run");
    assert_eq!(ran.len(), 1, "what runs in the background has not ended by itself");
    let text = |key: &str| ran[0][key].as_str().unwrap();
    assert_eq!((text("host"), text("stdout"), text("stderr")), ("y", "y\n", "to-err\n"));
    assert!(lines.contains(&Value::Object(serde_json::Map::new())), "the command of the line");
    assert_eq!(of("counts").len(), 2);
}

/// The commands of the first block of a page's section.
fn commands(page: &str, section: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(section).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// What the first host does before and behind all commands but the last. To copy to the other host is to copy to its folder here.
const FIRST: [&str; 2] = [
    "mkdir -p first other bin; export PATH=$PWD/bin:$PATH GRIDNET_RUN_DIR=$PWD/run-first; cd first
    printf '#!/bin/sh\nname=${2#other:}\nexec cp -p \"$1\" \"../other/${name:-$(basename \"$1\")}\"\n' >../bin/scp
    chmod +x ../bin/scp",
    "until test -e node/node; do sleep 0.05; done
    GRIDNET_SESSION=$PWD/node gridnet perf --serve --listen 203.0.113.1:7500 --key $PWD/key",
];
/// The same of the other host and the last command: members that measure.
const OTHER: [&str; 2] = [
    "until test -e other/ticket && test -e first/key; do sleep 0.05; done
    export GRIDNET_RUN_DIR=$PWD/run-other; cd other; {",
    "} >/dev/null; until test -e node/node; do sleep 0.05; done
    gridnet session status --dir ../first/s --json
    export GRIDNET_SESSION=$PWD/node
    until gridnet perf --connect 203.0.113.1:7500 --key ../first/key --op tag_lat --size 8 --iters 10 --pin none --format json
    do sleep 0.1; done",
];

/// Two hosts that do so.
fn two_hosts(dir: &Path, commands: &[String]) -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_gridnet")).parent().unwrap();
    let (last, first) = commands.split_last().unwrap();
    let host = |name: &str, around: [&str; 2], commands: &str, more: &str| {
        let begin = format!("cd {}; PATH={}:$PATH", dir.display(), bin.display());
        let script = [begin.as_str(), around[0], commands, around[1]].join("\n");
        format!(
            "[[host]]\nname = '{name}'\npublic = true\n\
             [[run]]\nhost = '{name}'\ncommand = '''\n{script}\n'''\n{more}\n"
        )
    };
    let first = host("first", FIRST, &first.join("\n"), "background = true");
    first + &host("other", OTHER, last, "timeout = '60s'")
}

#[test]
fn two_hosts_join_a_session_by_the_five_commands_of_the_pages() {
    for (page, section) in
        [("README.md", "## Two hosts in a session"), ("docs/sessions.md", "## Two hosts in five commands")]
    {
        let commands = commands(page, section);
        assert_eq!(commands.len(), 5, "{page}: {commands:#?}");
        let dir = std::env::temp_dir().join(format!("gridnet-cli-five-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let file = file("five", &two_hosts(&dir, &commands));
        let ran =
            lab("two_hosts_join_a_session_by_the_five_commands", &["run", &file, "--json", "--no-check"]);
        let _ = std::fs::remove_dir_all(&dir);
        let Some((code, out, err)) = ran else { return };
        assert_eq!(code, Some(0), "{page}: {out} {err}");
        let mut lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ran = lines.find(|line| line["kind"] == "run" && line["host"] == "other").unwrap();
        let said = serde_json::Deserializer::from_str(ran["stdout"].as_str().unwrap()).into_iter::<Value>();
        let said: Vec<Value> = said.map_while(Result::ok).collect();
        assert!(said.iter().any(|one| one["nodes"].as_array().map(Vec::len) == Some(2)), "{page}: {ran:#}");
        assert!(said.iter().any(|one| one["op"] == "tag_lat"), "{page}: {ran:#}");
    }
}

#[test]
fn a_check_of_sites_prints_tables() {
    let args = ["check", "--sites", "masq,fw"];
    let Some((code, out, err)) = lab("a_check_of_sites_prints_tables", &args) else { return };
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for part in ["gw-a", "gateway (masquerading)", "b1", "a-internet", "self-check", "own address and port"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("NOT AS ASKED"), "{out}");
}

#[test]
fn a_command_that_fails_is_told() {
    let args = ["run", "--sites", "open", "--no-check", "--json", "--", "sh", "-c", "exit 3"];
    let Some((code, _, err)) = lab("a_command_that_fails_is_told", &args) else { return };
    assert_eq!(code, Some(1));
    assert!(err.contains("\"sh\" in host a1: exit status: 3"), "{err}");
}

#[test]
fn mistakes_are_told_before_anything_starts() {
    let unknown = file("unknown", "[[link]]\nbetween = ['a', 'b']\ndely = '1ms'");
    for (args, bad, accepted) in [
        (&["run", unknown.as_str()][..], "dely", "delay"),
        (&["check", "--sites", "nat"], "nat", "masquerading (masq)"),
        (&["check"], "missing", "--sites"),
        (&["check", "/nonexistent.toml"], "/nonexistent.toml", "No such file"),
        (&["run", "--sites", "open", "x.toml"], "cannot be used with", "--sites"),
    ] {
        let (code, out, err) = run(&mut gridnet(&[&["lab"], args].concat()));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains(bad) && err.contains(accepted), "{args:?}: {err}");
    }
}

#[test]
fn where_namespaces_are_forbidden_it_says_which_step_was_refused() {
    let name = "where_namespaces_are_forbidden_it_says_which_step_was_refused";
    // In a user namespace the number of namespaces can be limited, for whoever is in there and nobody else. The shell makes
    // sure that it is in one: outside it would be the limit of the machine.
    let script = "read first outside count </proc/self/uid_map && [ \"$outside\" != 0 ] || exit 99
        echo 0 >/proc/sys/user/max_net_namespaces && unset TESTBED_SANDBOX && exec \"$0\" lab check --sites masq";
    let command = || {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_gridnet")]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    let child = if is_root { sandbox::spawn_as(65534, command()) } else { sandbox::spawn(command) };
    let child = match child {
        Ok(child) => child,
        Err(why) => return skip(name, &why.to_string()),
    };
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    if said.contains("Permission denied") {
        return skip(name, "another user may not run the command");
    }
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.starts_with("gridnet: no lab can be had here: to make namespaces"), "{said}");
    assert!(said.contains("No space left on device") && said.contains("/proc/sys/user"), "{said}");
}

#[test]
fn a_second_terminal_joins_a_lab_that_runs() {
    let args =
        ["lab", "run", "--sites", "open", "--no-check", "--json", "--", "sh", "-c", "echo up; read line"];
    let mut held = gridnet(&args);
    let mut held = held.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(held.stdout.take().unwrap()).lines().map_while(Result::ok);
    if !lines.any(|line| line == "up") {
        let ended = held.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(err.contains("no lab can be had here"), "{err}");
        return skip("a_second_terminal_joins_a_lab_that_runs", err.trim());
    }
    // Others of this user may have labs, too: say which one.
    let wanted = ["a1", "gw-a", "internet", "p"];
    let is_ours = |pid: &u32| ancestors(*pid).contains(&held.id());
    let found =
        gridnet_testbed::attach::labs().into_iter().find(|lab| is_ours(&lab.pid)).expect("it can be found");
    assert!(wanted.iter().all(|host| found.hosts.iter().any(|name| name == host)), "{found:?}");
    let join = |host: &str, say: &str| {
        let mut command = gridnet(&["lab", "shell", "--lab", &found.pid.to_string(), host]);
        let command = command.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.stderr(Stdio::piped()).spawn().unwrap();
        // One that ends at once does not read.
        let _ = shell.stdin.take().unwrap().write_all(say.as_bytes());
        let ended = shell.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ended.status.code(), text(ended.stdout), text(ended.stderr))
    };
    assert_eq!(
        join("p", "hostname; echo $XDG_RUNTIME_DIR"),
        (Some(0), "p\n/run\n".to_owned(), String::new())
    );
    let (code, _, err) = join("q", "");
    assert!(code == Some(2) && err.contains("\"q\"") && err.contains("a1"), "{err}");
    held.stdin.take().unwrap().write_all(b"end\n").unwrap();
    assert!(held.wait().unwrap().success());
    assert!(!gridnet_testbed::attach::labs().contains(&found), "and is gone with the lab");
}

/// A process and those above it.
fn ancestors(mut pid: u32) -> Vec<u32> {
    let mut line = Vec::new();
    while pid > 1 {
        line.push(pid);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    line
}
