//! A peer that says anything: requests that were changed at random, by the hundred thousand.

use gridnet_assembly::called::{Called, Step, View};
use gridnet_assembly::facts::Facts;
use gridnet_assembly::message::{Ask, Grant, Level, Outcome, Refusal, Reply, Wanted};
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::{Method, Security};
use gridnet_core::testing::random::Random;
use std::time::{Duration, Instant};

/// A request that makes sense, and may ask for too little.
fn request(dice: &mut Random) -> Vec<u8> {
    const STACKS: [&str; 7] = ["shm", "tcp", "tls/tcp", "relay", "tls/relay", "tls/shm", "tcp(streams=3)"];
    let count = 1 + dice.below(8) as usize;
    let candidates = (0..count).map(|_| {
        let stack = STACKS[dice.below(STACKS.len() as u64) as usize].to_owned();
        Wanted { stack, hint: vec![1; dice.below(20) as usize] }
    });
    let candidates = candidates.collect();
    let ask = Ask {
        incarnation: dice.next_u64() % 3,
        connection: dice.next_u64() % 200,
        attempt: dice.next_u64() as u16 % 3,
        left_ms: dice.next_u64() as u32,
        service: "files".parse().unwrap(),
        min_security: Level(dice.next_u64() as u16 % 4),
        candidates,
        again: dice
            .next_u64()
            .is_multiple_of(2)
            .then(|| Grant { incarnation: 5, token: dice.next_u64() % 9 }),
        first: vec![0; dice.below(100) as usize].into(),
    };
    ask.encode().unwrap()
}

/// Changes some bytes, cuts some off, adds some.
fn change(bytes: &mut Vec<u8>, dice: &mut Random) {
    for _ in 0..dice.below(4) {
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] = dice.next_u64() as u8;
    }
    match dice.next_u64() % 8 {
        0 => bytes.truncate(1 + dice.below(bytes.len() as u64) as usize),
        1 => bytes.extend((0..dice.below(30)).map(|n| n as u8)),
        _ => (),
    }
}

#[test]
fn nothing_that_is_asked_gets_less_than_the_rules_demand() {
    let count = if std::env::var_os("TEST_SOAK").is_some() { 1_000_000 } else { 50_000 };
    let [own, from] = ["b@B/h", "a@A/h,uid=5"].map(|text| Facts::describe(text).unwrap());
    let (rules, mut dice, mut now) = (Rules::default(), Random::new(7), Instant::now());
    let mut called = Called::new(5).with_rate(u32::MAX);
    called.serve("files".parse().unwrap());
    let (mut built, mut malformed, mut refused) = (0, 0, 0);
    for _ in 0..count {
        now += Duration::from_millis(1);
        let mut bytes = request(&mut dice);
        change(&mut bytes, &mut dice);
        let view = View { rules: &rules, own: &own, from: Some(&from) };
        let mut step = called.take(from.node, &bytes, &view, now);
        while let Step::Build(order) = step {
            assert_eq!(order.security, Security::Encrypted);
            assert!(
                order.stack.method() != Method::Shm || !order.stack.filters().is_empty(),
                "of another user"
            );
            let outcome = if dice.below(4) == 0 { Err("no".into()) } else { Ok(vec![1]) };
            step = called.built(&order.key, outcome, &view, now);
        }
        match step {
            Step::Built { .. } => built += 1,
            Step::Malformed(_) => malformed += 1,
            Step::Answer(answer) | Step::Close(_, answer) => match Reply::decode(&answer).unwrap().outcome {
                Outcome::Refused(Refusal::Busy, _) => panic!("nothing is left half done"),
                Outcome::Refused(..) => refused += 1,
                Outcome::Built(_) => (),
            },
            Step::Build(_) | Step::Unwanted => (),
        }
    }
    // Changed requests reach all ends.
    assert!(built > 20 && malformed > count / 20 && refused > count / 20, "{built} {malformed} {refused}");
    assert!(called.audit().lines().len() <= 256 && called.audit().refusals(Refusal::Security) > 0);
}
