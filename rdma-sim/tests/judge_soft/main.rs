//! The cases that `ci/roce-guest/judge.c` tries on the kernel's Soft-RoCE, on the software device: what comes of them is the same, but
//! for what is listed here.

mod cases;
mod pair;

use std::collections::BTreeMap;
use std::path::Path;

use cases::Case;
use pair::{error_name, Pair, RULES};

/// Where this device says something else, and why.
const DIFFERENT: [(&str, &str); 6] = [
    // The manual of ibv_poll_cq has this status for keys; Soft-RoCE takes some for a broken request.
    ("local.key", "a1=LOC_PROT_ERR a.qp=ERR b.qp=RTS data=right"),
    ("local.key_of_receive", "a1=REM_OP_ERR b1=LOC_PROT_ERR a.qp=ERR b.qp=ERR data=right"),
    // As adapters: it is the sender whose request was wrong, and the length that was.
    ("length.short_receive", "a1=REM_INV_REQ_ERR b1=LOC_LEN_ERR a.qp=ERR b.qp=ERR"),
    ("length.short_receive_of_two", "a1=REM_INV_REQ_ERR b1=LOC_LEN_ERR a.qp=ERR b.qp=ERR"),
    // Soft-RoCE takes any length, since it looks for the kind of a packet in the wrong place.
    ("length.longer_packets", "a1=REM_INV_REQ_ERR b1=WR_FLUSH_ERR a.qp=ERR b.qp=ERR"),
    // Soft-RoCE of Linux 6.1 forgets receives that are posted in ERR.
    ("flush.posted_in_error", "a1=WR_FLUSH_ERR b1=WR_FLUSH_ERR a.qp=ERR b.qp=ERR data=right"),
];

/// What the kernel did, by case; none where nobody has asked it.
fn expected() -> Option<BTreeMap<String, String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/rxe.txt");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: what the kernel's Soft-RoCE does: there is no {}", path.display());
        return None;
    };
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    Some(lines.map(|(name, words)| (name.to_owned(), words.to_owned())).collect())
}

fn judge(cases: Vec<Case>) {
    let Some(expected) = expected() else { return };
    let mut wrong = Vec::new();
    for (name, rules, run) in cases {
        let mut pair = Pair::open(rules);
        run(&mut pair);
        let own = DIFFERENT.iter().find(|(other, _)| *other == name).map(|(_, words)| (*words).to_owned());
        let Some(right) = own.or_else(|| expected.get(name).cloned()) else {
            println!("SKIPPED: {name}: the kernel was not asked");
            continue;
        };
        if pair.text() != right {
            wrong.push(format!("{name}\n  is  {}\n  not {right}", pair.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operations_that_succeed() {
    judge(cases::data());
}

#[test]
fn memory_that_must_not_be_reached() {
    judge(cases::refused());
}

#[test]
fn operations_that_fail() {
    judge(cases::failed());
}

/// The state that a name of the judge means, and how it is reached from the one before it on the usual way.
mod states {
    use gridnet_rdma_sim::attr::{Access, Change, InitAttr, State};

    use super::{Pair, RULES};

    pub const ALL: [(&str, State); 6] = [
        ("RESET", State::Reset),
        ("INIT", State::Init),
        ("RTR", State::Rtr),
        ("RTS", State::Rts),
        ("SQD", State::Sqd),
        ("ERR", State::Err),
    ];

    /// A move, as libibverbs has it: to RTS there are two here.
    pub fn change(pair: &Pair, from: State, to: State) -> Change {
        match to {
            State::Reset => Change::Reset,
            State::Init => Change::Init(InitAttr { access: Access::ALL }),
            State::Rtr => Change::Rtr(pair.rtr_a()),
            State::Rts if matches!(from, State::Rts | State::Sqd) => Change::Resume,
            State::Rts => Change::Rts(pair.rts(100)),
            State::Sqd => Change::Sqd,
            State::Err => Change::Err,
        }
    }

    /// A pair whose side a is in this state.
    pub fn bring(to: State) -> Pair {
        let pair = Pair::open(RULES);
        pair.a.qp.change(Change::Reset).expect("always");
        for (_, next) in &ALL[1..] {
            let from = pair.a.qp.state();
            if from == to || (to == State::Err && from == State::Init) {
                break;
            }
            pair.a.qp.change(change(&pair, from, *next)).expect("the usual way");
        }
        if to == State::Err {
            pair.a.qp.change(Change::Err).expect("ERR");
        }
        pair
    }
}

#[test]
fn states_and_what_is_posted_in_them() {
    let Some(expected) = expected() else { return };
    let word = |name: &str, outcome: Result<(), gridnet_rdma_sim::Error>| {
        format!("{name}={}", outcome.map_or_else(error_name, |()| "ok"))
    };
    let mut lines = BTreeMap::new();
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    for (name, from) in states::ALL {
        let moves = states::ALL.map(|(to_name, to)| {
            let pair = states::bring(from);
            word(to_name, pair.a.qp.change(states::change(&pair, from, to)))
        });
        lines.insert(format!("state.{name}"), moves.join(" "));
        let pair = states::bring(from);
        receives.push(word(name, pair.a.recv(1, &[(0, 8, 0)])));
        sends.push(word(name, pair.post(&pair.a, &pair.b, cases::write_of_8())));
    }
    lines.insert("post.receive".to_owned(), receives.join(" "));
    lines.insert("post.send".to_owned(), sends.join(" "));
    for (name, words) in lines {
        assert_eq!(Some(&words), expected.get(&name), "{name}");
    }
}
