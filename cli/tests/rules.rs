//! `gridnet explain A B --rules FILE`.

mod common;

use common::{gridnet, run, succeed};
use serde_json::Value;
use std::path::PathBuf;

/// A file of rules, removed at the end.
struct Rules(PathBuf);

impl Rules {
    fn new(what: &str, text: &str) -> Rules {
        let path = std::env::temp_dir().join(format!("gridnet-cli-rules-{what}-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Rules(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn candidates_come_in_order_and_all_others_with_a_reason() {
    let rules =
        Rules::new("order", "[[rule]]\nservice = 'files'\nuse = ['tls/tcp(streams=4)', 'tls/relay']\n");
    let of_files = ["explain", "a@A", "b@B", "--rules", rules.path(), "--service", "files"];
    assert_eq!(
        succeed(&of_files),
        "a of cluster A asks b of cluster B for service files\n\
         the rule of line 1: use tls/tcp(streams=4), tls/relay, min_security encrypted\n\
         1. tls/tcp(streams=4): encrypted\n2. tls/relay: encrypted\nnot shm: the rule does not name it\n"
    );
    let json: Value = serde_json::from_str(&succeed(&[&of_files[..], &["--json"]].concat())).unwrap();
    assert_eq!((&json["line"], &json["min_security"]), (&1.into(), &"encrypted".into()));
    assert_eq!(json["candidates"][0]["stack"], "tls/tcp(streams=4)");
    assert_eq!(json["left_out"][0]["reason"], "the rule does not name it");
    let out = succeed(&["explain", "a@A", "b@B", "--rules", rules.path()]);
    assert!(out.contains("no rule matches: scheme direct"), "{out}");
}

#[test]
fn the_node_that_is_asked_has_rules_of_its_own() {
    let (ours, theirs) = (Rules::new("ours", ""), Rules::new("theirs", "scheme = 'relay-only'"));
    let both = ["explain", "a@A", "b@B", "--rules", ours.path(), "--peer-rules", theirs.path()];
    let out = succeed(&both);
    let said = "b goes by: no rule matches: scheme relay-only, min_security encrypted\n\
                b refuses tls/tcp: scheme relay-only has no such method\nb accepts tls/relay\n";
    assert!(out.ends_with(said), "{out}");
    let json: Value = serde_json::from_str(&succeed(&[&both[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["candidates"][0]["peer_refuses"], "scheme relay-only has no such method");
    assert_eq!(json["candidates"][1]["peer_refuses"], Value::Null);
}

#[test]
fn what_is_wrong_is_said_and_ends_with_2() {
    let wrong = Rules::new("wrong", "scheme = 'direct'\n[[rule]]\nuse = ['tls/tpc']\n");
    let good = Rules::new("good", "");
    for (args, said) in [
        (&["explain", "a", "b", "--rules", wrong.path()][..], "wrong-"),
        (
            &["explain", "a", "b", "--rules", wrong.path()],
            "line 3, column 8: stack \"tls/tpc\": character 5: there is no method",
        ),
        (&["explain", "a", "b", "--rules", "/nowhere/rules.toml"], "No such file"),
        (&["explain", "a", "b c", "--rules", good.path()], "accepted is LABEL[@CLUSTER"),
        (&["explain", "a", "--rules", good.path()], "<PEER>"),
        (&["explain", "a", "b", "--service", "x"], "--rules"),
        (&["explain", "a", "b", "--session", "x"], "--rules"),
    ] {
        let (code, out, err) = run(&mut gridnet(args));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?} {err}");
        assert!(err.contains(said), "{args:?} {err}");
    }
}
