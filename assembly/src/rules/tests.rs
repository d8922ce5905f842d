use super::*;
use proptest::prelude::*;

fn error(text: &str) -> String {
    text.parse::<Rules>().unwrap_err().to_string()
}

fn policy(rules: &str, [from, to]: [&str; 2], service: &str) -> String {
    let (from, to) = (Facts::describe(from).unwrap(), Facts::describe(to).unwrap());
    let rules: Rules = rules.parse().unwrap();
    rules.policy(&Pair { from: &from, to: &to, service: &service.parse().unwrap() }).to_string()
}

const EXAMPLE: &str = r#"
scheme = "cluster"
min_security = "authenticated"

[networks]
lab = ["10.1.0.0/16", "2001:db8::/32"]
one = ["192.0.2.7"]

[[rule]]
from = { node = "a2" }
to = { cluster = "B", network = "lab" }
use = ["tls/tcp(streams=4)", "tls/relay"]

[[rule]]
service = "files"
min_security = "encrypted"

[[rule]]
to.node = "000102030405060708090a0b0c0d0e0f"
scheme = "relay-only"

[[rule]]
from.network = "one"
scheme = "direct"
"#;

#[test]
fn the_first_rule_that_matches_decides() {
    for (pair, service, said) in [
        (
            ["a2@A", "b1@B,10.1.2.3"],
            "x",
            "the rule of line 9: use tls/tcp(streams=4), tls/relay, min_security authenticated",
        ),
        (
            ["a2@A", "b1@B,2001:db8::9"],
            "files",
            "the rule of line 9: use tls/tcp(streams=4), tls/relay, min_security authenticated",
        ),
        (["a2@A", "b1@B,10.2.0.1"], "files", "the rule of line 14: scheme cluster, min_security encrypted"),
        (["a2@A", "b1@C,10.1.2.3"], "x", "no rule matches: scheme cluster, min_security authenticated"),
        (["b1@B,10.1.2.3", "a2@A"], "x", "no rule matches: scheme cluster, min_security authenticated"),
        (
            ["a@A", "000102030405060708090a0b0c0d0e0f"],
            "x",
            "the rule of line 18: scheme relay-only, min_security authenticated",
        ),
        (["a@A,192.0.2.7", "b"], "x", "the rule of line 22: scheme direct, min_security authenticated"),
        (["a@A,192.0.2.8", "b"], "x", "no rule matches: scheme cluster, min_security authenticated"),
    ] {
        assert_eq!(policy(EXAMPLE, pair, service), said, "{pair:?} {service}");
    }
    assert_eq!(policy("", ["a", "b"], "x"), "no rule matches: scheme direct, min_security encrypted");
}

#[test]
fn what_is_wrong_is_said_with_line_and_column() {
    for (text, said) in [
        (
            "scheme = \"dirct\"",
            "line 1, column 10: there is no scheme \"dirct\"; accepted are direct, cluster, relay-only",
        ),
        (
            "\n min_security = \"high\"",
            "line 2, column 17: there is no security \"high\"; accepted are plain, authenticated, encrypted",
        ),
        ("colour = 1", "line 1, column 1: unknown field `colour`"),
        ("scheme = 1", "line 1, column 10: invalid type"),
        ("scheme = \"direct", "line 1, column 17: "),
        (
            "[[rule]]\nuse = [\"shm\",\n  \"tls/tpc\"]",
            "line 3, column 3: stack \"tls/tpc\": character 5: there is no method \"tpc\"; accepted are",
        ),
        (
            "[[rule]]\nuse = [\"tcp\"]",
            "line 2, column 8: tcp is plain, and min_security encrypted asks for more",
        ),
        ("[[rule]]\nuse = [\"shm\", \"shm\"]", "line 2, column 15: shm is there twice"),
        ("[[rule]]\nuse = []", "line 2, column 7: a rule uses 1 to"),
        (
            "[[rule]]\nuse = [\"shm\"]\nscheme = \"direct\"",
            "line 2, column 7: a rule has a scheme or stacks to use, not both",
        ),
        ("[[rule]]\nto.cluster = \"x\"", "line 1, column 1: the rule says nothing"),
        (
            "[[rule]]\nto.network = \"x\"\nuse = [\"shm\"]",
            "line 2, column 14: there is no network \"x\"; [networks] names none",
        ),
        (
            "[networks]\na = [\"::1\"]\n[[rule]]\nto.network = \"x\"\nuse = [\"shm\"]",
            "line 4, column 14: there is no network \"x\"; accepted are a",
        ),
        ("[networks]\na = [\"10.1.0.0/8\"]", "line 2, column 6: \"10.1.0.0/8\" has more bits than it says"),
        ("[networks]\na = [\"10.0.0.0/33\"]", "line 2, column 6: \"10.0.0.0/33\" is no network"),
        ("[networks]\na = []", "line 2, column 1: a network has 1 to"),
        ("[networks]\n\"a b\" = [\"::\"]", "line 2, column 1: \"a b\" is no name"),
        ("[[rule]]\nto.host = \"x\"\nuse = [\"shm\"]", "line 2, column 4: unknown field `host`"),
        ("[[rule]]\nto.node = \"x y\"\nuse = [\"shm\"]", "line 2, column 11: \"x y\" is no name"),
        (
            "[[rule]]\nuse = [\"shm\"]\n[[rule]]\nuse = [\"shm\"]",
            "line 3, column 1: nothing comes as far as this rule: that of line 1 matches everything",
        ),
        ("# gr\u{f6}\u{df}e\n  \u{fc} = 1", "line 2, column 3: "),
    ] {
        let error = error(text);
        assert!(error.starts_with(said), "{text}\n{error}\n{said}");
    }
    assert!(error(&" ".repeat(RULES_BYTES_MAX + 1)).contains("at most"));
}

#[test]
fn networks_are_the_addresses_with_the_same_first_bits() {
    let has = |network: &str, address: &str| {
        let rules =
            format!("[networks]\nn = [\"{network}\"]\n[[rule]]\nto.network = \"n\"\nscheme = \"relay-only\"");
        policy(&rules, ["a", &format!("b,{address}")], "s").starts_with("the rule")
    };
    for (network, yes, no) in [
        ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
        ("10.1.2.0/31", "10.1.2.1", "10.1.2.2"),
        ("0.0.0.0/0", "255.1.2.3", "::1"),
        ("::/0", "ffff::", "1.2.3.4"),
        ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
    ] {
        assert!(has(network, yes) && !has(network, no), "{network}");
    }
}

proptest! {
    #[test]
    fn any_text_is_borne(text in "(scheme|min_security|use|rule|networks|\\[|\\]|=|\"|direct|shm|tls/tcp|\n|,|\\{|\\}|to\\.|node|ö){0,20}") {
        if let Err(error) = text.parse::<Rules>() {
            prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1 && error.column >= 1);
        }
    }
}
