//! Whole conversations in virtual time: messages are lost, repeated, late, out of order or changed, builds and paths fail, rules
//! change. Whatever happens: each call ends in time, first bytes come to the service once at most, and nothing is built or used that is
//! less safe than both sides want.

use gridnet_assembly::cache::Cache;
use gridnet_assembly::call::{Action, Call, Path, Wish};
use gridnet_assembly::called::{Called, Key, Order, Step, View};
use gridnet_assembly::choice::Choice;
use gridnet_assembly::facts::Facts;
use gridnet_assembly::name::Name;
use gridnet_assembly::rules::{Pair, Rules};
use gridnet_assembly::stack::Security;
use gridnet_core::testing::random::Random;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const CALLS: usize = 12;
const LIMIT: Duration = Duration::from_secs(20);

/// How often things go wrong, in percent.
#[derive(Debug, Clone, Copy)]
struct Faults {
    lost: u64,
    repeated: u64,
    changed: u64,
    build: u64,
    connect: u64,
    rules: u64,
    restart: u64,
}

enum Event {
    Begin(usize),
    Asked(usize, Vec<u8>),
    Answered(usize, Vec<u8>),
    Built(Box<Order>, Result<Vec<u8>, String>),
    Connected(usize, Path),
    Look(usize),
}

struct Caller {
    facts: Facts,
    call: Option<Call>,
    connection: u64,
    paths: BTreeMap<u32, Path>,
    /// Which life of the other node each of them has reached.
    reached: BTreeMap<u32, u64>,
    begun: Instant,
    took: Duration,
    /// How it has ended.
    end: Option<Result<Path, String>>,
}

/// How long things take, in milliseconds: at random up to this, or exactly so.
#[derive(Debug, Clone, Copy)]
struct Spans {
    message: u64,
    build: u64,
    connect: u64,
    is_exact: bool,
}

const ANY: Spans = Spans { message: 1500, build: 200, connect: 300, is_exact: false };

struct World {
    dice: Random,
    spans: Spans,
    faults: Faults,
    start: Instant,
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    called: Called,
    own: Facts,
    rules: [Rules; 2],
    in_force: usize,
    callers: Vec<Caller>,
    cache: Cache,
    /// What stands, by the place that is told, and for whom.
    places: BTreeMap<Vec<u8>, Vec<Order>>,
    /// Which life of the node that is asked it is.
    life: u64,
    /// Connections whose first bytes the service has, by its life.
    begun: Vec<(u64, u64)>,
    ordered: BTreeSet<(u64, Key, String)>,
}

impl World {
    fn new(seed: u64, faults: Faults) -> World {
        let now = Instant::now();
        let facts = Facts::describe("a@A/h1").unwrap();
        let caller = |n: usize| Caller {
            facts: facts.clone(),
            call: None,
            connection: n as u64 + 1,
            paths: BTreeMap::new(),
            reached: BTreeMap::new(),
            begun: now,
            took: Duration::ZERO,
            end: None,
        };
        let rules =
            ["", "[[rule]]\nuse = ['tls/relay', 'tls/tcp(streams=2)']"].map(|text| text.parse().unwrap());
        let mut world = World {
            dice: Random::new(seed),
            spans: ANY,
            faults,
            start: now,
            now,
            events: BTreeMap::new(),
            count: 0,
            called: called(5),
            own: Facts::describe("b@B/h1,uid=3").unwrap(),
            rules,
            in_force: 0,
            callers: (0..CALLS).map(caller).collect(),
            cache: Cache::default(),
            places: BTreeMap::new(),
            life: 5,
            begun: Vec::new(),
            ordered: BTreeSet::new(),
        };
        for n in 0..CALLS {
            world.after(n as u64 * 700, Event::Begin(n));
        }
        world
    }

    fn span(&mut self, most: u64) -> u64 {
        if self.spans.is_exact {
            return most;
        }
        self.dice.next_u64() % most
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + Duration::from_millis(ms), self.count), event);
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            assert!(self.count < 200_000, "it does not end");
            self.now = at;
            if self.dice.below(100) < self.faults.rules {
                self.in_force = 1 - self.in_force;
                self.called.rules_changed();
            }
            if self.dice.below(100) < self.faults.restart {
                self.life += 1;
                self.called = called(self.life);
                self.places.clear();
            }
            match event {
                Event::Begin(n) => self.begin(n),
                Event::Asked(n, bytes) => self.asked(n, &bytes),
                Event::Answered(n, bytes) => self.drive(n, |call, cache, now| call.heard(&bytes, cache, now)),
                Event::Built(order, outcome) => self.built(&order, outcome),
                Event::Connected(n, path) => self.connected(n, &path),
                Event::Look(n) => self.drive(n, |call, _, now| call.look(now)),
            }
        }
    }

    fn begin(&mut self, n: usize) {
        let caller = &self.callers[n];
        let pair = Pair { from: &caller.facts, to: &self.own, service: &service() };
        let own_rules: Rules = "[[rule]]\nuse = ['shm', 'tls/tcp', 'tls/relay', 'tls/shm']".parse().unwrap();
        let wish = Wish {
            to: self.own.node,
            service: service(),
            choice: Choice::new(&own_rules, &pair, Security::Plain),
            hints: BTreeMap::new(),
            first: caller.connection.to_le_bytes().to_vec().into(),
            deadline: self.now + LIMIT,
        };
        let (call, actions) = Call::begin(wish, (9, caller.connection), &mut self.cache, self.now);
        self.callers[n].call = Some(call);
        self.callers[n].begun = self.now;
        self.act(n, actions);
    }

    fn drive(&mut self, n: usize, what: impl FnOnce(&mut Call, &mut Cache, Instant) -> Vec<Action>) {
        let Some(call) = &mut self.callers[n].call else { return };
        let actions = what(call, &mut self.cache, self.now);
        self.act(n, actions);
    }

    fn act(&mut self, n: usize, actions: Vec<Action>) {
        for action in actions {
            assert!(self.callers[n].end.is_none(), "nothing is done after the end");
            match action {
                Action::Say(bytes) => self.send(bytes, |bytes| Event::Asked(n, bytes)),
                Action::Connect(path) => {
                    assert!(self.callers[n].paths.is_empty(), "one path at a time");
                    self.callers[n].paths.insert(path.number, path.clone());
                    let ms = self.span(self.spans.connect);
                    self.after(ms, Event::Connected(n, path));
                }
                Action::Close(number) => drop(self.callers[n].paths.remove(&number).unwrap()),
                Action::Up(path) => {
                    self.callers[n].took = self.now - self.callers[n].begun;
                    assert!(self.callers[n].paths.contains_key(&path.number));
                    self.callers[n].end = Some(Ok(*path));
                }
                Action::Failed(why) => self.callers[n].end = Some(Err(why.to_string())),
            }
        }
        let next = self.callers[n].call.as_ref().and_then(Call::next_look);
        if let Some(next) = next.filter(|next| *next > self.now) {
            self.count += 1;
            self.events.insert((next, self.count), Event::Look(n));
        }
    }

    /// Sends a message over a bad network.
    fn send(&mut self, bytes: Vec<u8>, event: impl Fn(Vec<u8>) -> Event) {
        let copies = if self.dice.below(100) < self.faults.repeated { 3 } else { 1 };
        for _ in 0..copies {
            if self.dice.below(100) < self.faults.lost {
                continue;
            }
            let mut bytes = bytes.clone();
            if self.dice.below(100) < self.faults.changed {
                let at = self.dice.next_u64() as usize % bytes.len();
                bytes[at] = self.dice.next_u64() as u8;
            }
            let ms = self.span(self.spans.message);
            self.after(ms, event(bytes));
        }
    }

    fn asked(&mut self, n: usize, bytes: &[u8]) {
        let facts = &self.callers[n].facts;
        let view = View { rules: &self.rules[self.in_force], own: &self.own, from: Some(facts) };
        let step = self.called.take(facts.node, bytes, &view, self.now);
        self.step(n, None, step);
    }

    fn step(&mut self, n: usize, order: Option<&Order>, step: Step) {
        match step {
            Step::Answer(bytes) => self.send(bytes, |bytes| Event::Answered(n, bytes)),
            Step::Close(key, bytes) => {
                self.places.values_mut().for_each(|orders| orders.retain(|order| order.key != key));
                self.send(bytes, |bytes| Event::Answered(n, bytes));
            }
            Step::Built { first, answer } => {
                if !first.is_empty() && self.faults.changed == 0 {
                    self.begun.push((self.life, u64::from_le_bytes(first[..].try_into().unwrap())));
                }
                assert!(order.is_some());
                self.send(answer, |bytes| Event::Answered(n, bytes));
            }
            Step::Build(order) => {
                assert_eq!(order.security, Security::Encrypted, "the rules of both sides want it");
                assert!(self.ordered.insert((self.life, order.key, order.stack.to_string())), "built once");
                let fails = self.dice.below(100) < self.faults.build;
                let place = order.stack.to_string().into_bytes();
                let outcome = if fails { Err("no port is left".to_owned()) } else { Ok(place) };
                let ms = self.span(self.spans.build);
                self.after(ms, Event::Built(order, outcome));
            }
            Step::Malformed(_) => assert!(self.faults.changed > 0),
            Step::Unwanted => (),
        }
    }

    fn built(&mut self, order: &Order, outcome: Result<Vec<u8>, String>) {
        let n = self.callers.iter().position(|caller| caller.connection == order.key.connection);
        let from = Facts { node: order.key.from, ..self.callers[n.unwrap_or(0)].facts.clone() };
        let view = View { rules: &self.rules[self.in_force], own: &self.own, from: Some(&from) };
        let step = self.called.built(&order.key, outcome.clone(), &view, self.now);
        if let (Step::Built { .. }, Ok(place)) = (&step, outcome) {
            self.places.entry(place).or_default().push(order.clone());
        }
        // A changed number is that of nobody.
        self.step(n.unwrap_or(0), Some(order), step);
    }

    fn connected(&mut self, n: usize, path: &Path) {
        if self.callers[n].paths.get(&path.number) != Some(path) {
            return;
        }
        // Who connects proves which connection it is, or shows a grant of this life.
        let is_let_in = |order: &Order| match path.again {
            Some(grant) => grant.incarnation == self.life,
            None => (order.key.connection, &order.stack) == (path.connection, &path.stack),
        };
        let stands = self.places.get(&path.place).is_some_and(|orders| orders.iter().any(is_let_in));
        let outcome = match stands && self.dice.below(100) >= self.faults.connect {
            true => Ok(()),
            false => Err("connection refused".to_owned()),
        };
        match outcome {
            Ok(()) => drop(self.callers[n].reached.insert(path.number, self.life)),
            Err(_) => drop(self.callers[n].paths.remove(&path.number)),
        }
        self.drive(n, |call, cache, now| call.connected(path.number, outcome, cache, now));
    }

    fn check(&self) {
        for caller in &self.callers {
            match caller.end.as_ref().expect("each call ends") {
                Ok(path) => {
                    assert_eq!((path.security, caller.paths.len()), (Security::Encrypted, 1));
                    if self.faults.changed == 0 {
                        let reached = (caller.reached[&path.number], caller.connection);
                        assert!(
                            self.begun.contains(&reached),
                            "the service that was reached has the first bytes"
                        );
                    }
                }
                Err(why) => assert!(!why.is_empty() && caller.paths.is_empty(), "{why}"),
            }
        }
        let unique: BTreeSet<(u64, u64)> = self.begun.iter().copied().collect();
        assert_eq!(unique.len(), self.begun.len(), "first bytes come once");
        assert!(self.now - self.start < LIMIT * 3, "nothing goes on after the end");
    }
}

fn called(life: u64) -> Called {
    let mut called = Called::new(life);
    called.serve(service());
    called
}

fn service() -> Name {
    "files".parse().unwrap()
}

fn any_faults() -> impl Strategy<Value = Faults> {
    let often = || prop_oneof![Just(0u64), 0..30u64];
    let seldom = || prop_oneof![Just(0u64), 0..5u64];
    (often(), often(), often(), often(), often(), (seldom(), seldom())).prop_map(
        |(lost, repeated, changed, build, connect, (rules, restart))| Faults {
            lost,
            repeated,
            changed,
            build,
            connect,
            rules,
            restart,
        },
    )
}

const NONE: Faults = Faults { lost: 0, repeated: 0, changed: 0, build: 0, connect: 0, rules: 0, restart: 0 };

#[test]
fn without_faults_all_connect_and_from_the_second_on_at_once() {
    let mut world = World::new(1, NONE);
    world.run();
    world.check();
    let ends: Vec<&Path> =
        world.callers.iter().map(|caller| caller.end.as_ref().unwrap().as_ref().unwrap()).collect();
    assert!(ends.iter().all(|path| path.stack.to_string() == "tls/tcp"));
    assert!(ends[0].again.is_none() && ends[CALLS - 1].again.is_some());
    assert_eq!(world.called.audit().lines().len(), 0);
}

#[test]
fn the_first_costs_a_round_trip_more_than_connecting_and_the_next_ones_nothing() {
    let mut world = World::new(1, NONE);
    // 100 ms there and back; TCP and TLS 1.3 take two of those.
    world.spans = Spans { message: 50, build: 0, connect: 200, is_exact: true };
    world.run();
    world.check();
    let took: Vec<u128> = world.callers.iter().map(|caller| caller.took.as_millis()).collect();
    assert_eq!((took[0], &took[1..]), (300, &[200; CALLS - 1][..]));
}

#[test]
fn calls_over_a_bad_network_mostly_succeed() {
    let faults = Faults { lost: 20, repeated: 20, build: 10, connect: 10, ..NONE };
    let ups = (0..20).map(|seed| {
        let mut world = World::new(seed, faults);
        world.run();
        world.check();
        world.callers.iter().filter(|caller| matches!(caller.end, Some(Ok(_)))).count()
    });
    let ups: usize = ups.sum();
    assert!(ups > 20 * CALLS / 2, "{ups}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("TEST_SOAK").is_some() { 20_000 } else { 200 }))]

    #[test]
    fn whatever_the_network_does_calls_end_and_nothing_is_done_twice(seed: u64, faults in any_faults()) {
        let mut world = World::new(seed, faults);
        world.run();
        world.check();
    }
}
