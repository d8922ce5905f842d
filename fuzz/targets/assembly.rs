//! What assembly reads: stacks, rules, offers, and what two nodes say to each other, from a peer that says anything.

#![no_main]

use gridnet_assembly::cache::Cache;
use gridnet_assembly::call::{Call, Wish};
use gridnet_assembly::called::{Called, Step, View};
use gridnet_assembly::choice::Choice;
use gridnet_assembly::facts::{Facts, Offer};
use gridnet_assembly::message::{Ask, Reply};
use gridnet_assembly::rules::{Pair, Rules};
use gridnet_assembly::stack::{Security, Stack};
use libfuzzer_sys::fuzz_target;
use std::time::{Duration, Instant};

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match which % 6 {
        0 => {
            if let Ok(stack) = text.parse::<Stack>() {
                assert_eq!(stack.to_string(), text);
            }
        }
        1 => drop(text.parse::<Rules>()),
        2 => {
            drop(Facts::describe(&text));
            if let Some(offer) = Offer::decode(bytes) {
                assert_eq!(Offer::decode(&offer.encode()), Some(offer));
            }
        }
        3 => {
            drop(Ask::decode(bytes).map(|ask| ask.encode().expect("what was read can be written")));
            drop(Reply::decode(bytes).map(|reply| reply.encode().expect("what was read can be written")));
        }
        4 => asked(bytes),
        _ => answered(bytes),
    }
});

fn facts() -> [Facts; 2] {
    ["a@A/h1", "b@B/h2"].map(|text| Facts::describe(text).expect("it is one"))
}

/// Requests, one after the other, each with its length in front.
fn asked(mut bytes: &[u8]) {
    let ([from, own], rules, now) = (facts(), Rules::default(), Instant::now());
    let mut called = Called::new(1);
    called.serve("files".parse().expect("it is a name"));
    while let Some((&len, rest)) = bytes.split_first() {
        let (request, rest) = rest.split_at(usize::from(len).min(rest.len()));
        bytes = rest;
        let view = View { rules: &rules, own: &own, from: Some(&from) };
        let mut step = called.take(from.node, request, &view, now);
        while let Step::Build(order) = step {
            assert_eq!(order.security, Security::Encrypted);
            let outcome = if len % 3 == 0 { Err("no".into()) } else { Ok(vec![len]) };
            step = called.built(&order.key, outcome, &view, now);
        }
        if let Step::Answer(answer) | Step::Close(_, answer) | Step::Built { answer, .. } = step {
            Reply::decode(&answer).expect("an answer makes sense");
        }
    }
}

/// Answers to a call, one after the other.
fn answered(mut bytes: &[u8]) {
    let ([from, to], service, now) = (facts(), "files".parse().expect("it is a name"), Instant::now());
    let choice = Choice::new(&Rules::default(), &Pair { from: &from, to: &to, service: &service }, Security::Plain);
    let (deadline, hints, first) = (now + Duration::from_secs(9), Default::default(), vec![1].into());
    let mut cache = Cache::default();
    let (mut call, _) = Call::begin(Wish { to: to.node, service, choice, hints, first, deadline }, (1, 1), &mut cache, now);
    while let Some((&len, rest)) = bytes.split_first() {
        let (answer, rest) = rest.split_at(usize::from(len).min(rest.len()));
        bytes = rest;
        drop(call.heard(answer, &mut cache, now));
        if len % 5 == 0 {
            drop(call.connected(u32::from(len / 5), Err("no".into()), &mut cache, now));
        }
    }
    call.look(deadline);
    assert!(call.is_over(), "a call ends in time");
}
