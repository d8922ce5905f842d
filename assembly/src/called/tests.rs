use super::*;
use crate::message::{Level, Wanted};

struct Scene {
    called: Called,
    own: Facts,
    from: Facts,
    rules: Rules,
    now: Instant,
}

fn wanted(stack: &str) -> Wanted {
    Wanted { stack: stack.to_owned(), hint: vec![1] }
}

fn ask(connection: u64, attempt: u16, stacks: &[&str]) -> Ask {
    Ask {
        incarnation: 7,
        connection,
        attempt,
        left_ms: 10_000,
        service: "files".parse().unwrap(),
        min_security: Level(0),
        candidates: stacks.iter().map(|stack| wanted(stack)).collect(),
        again: None,
        first: b"first".to_vec().into(),
    }
}

impl Scene {
    fn new(rules: &str) -> Scene {
        let mut called = Called::new(100);
        called.serve("files".parse().unwrap());
        let [own, from] = ["b@B/h2", "a@A/h1"].map(|text| Facts::describe(text).unwrap());
        Scene { called, own, from, rules: rules.parse().unwrap(), now: Instant::now() }
    }

    fn take_bytes(&mut self, bytes: &[u8]) -> Step {
        let view = View { rules: &self.rules, own: &self.own, from: Some(&self.from) };
        self.called.take(self.from.node, bytes, &view, self.now)
    }

    fn take(&mut self, ask: &Ask) -> Step {
        self.take_bytes(&ask.encode().unwrap())
    }

    fn order(&mut self, ask: &Ask) -> Order {
        match self.take(ask) {
            Step::Build(order) => *order,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&mut self, ask: &Ask) -> Refusal {
        match self.take(ask) {
            Step::Answer(answer) => refusal(&answer),
            other => panic!("{other:?}"),
        }
    }

    fn built(&mut self, order: &Order, outcome: Result<&str, &str>) -> Step {
        let outcome = outcome.map(|place| place.as_bytes().to_vec()).map_err(str::to_owned);
        let view = View { rules: &self.rules, own: &self.own, from: Some(&self.from) };
        self.called.built(&order.key, outcome, &view, self.now)
    }

    /// Builds what is asked for; the first bytes, the stack and the grant.
    fn complete(&mut self, ask: &Ask) -> (Data, Order, Option<Grant>) {
        let order = self.order(ask);
        let Step::Built { first, answer } = self.built(&order, Ok("there")) else { panic!() };
        let Outcome::Built(built) = Reply::decode(&answer).unwrap().outcome else { panic!() };
        assert_eq!(built.place, b"there");
        (first, order, built.grant)
    }

    fn audited(&self) -> Vec<Refusal> {
        self.called.audit().lines().map(|line| line.refusal).collect()
    }
}

fn refusal(answer: &[u8]) -> Refusal {
    match Reply::decode(answer).unwrap().outcome {
        Outcome::Refused(refusal, _) => refusal,
        Outcome::Built(_) => panic!("it was built"),
    }
}

#[test]
fn a_request_takes_effect_once_and_is_answered_the_same() {
    let mut scene = Scene::new("");
    let request = ask(1, 0, &["tls/tcp"]);
    let order = scene.order(&request);
    assert_eq!((order.stack.to_string().as_str(), order.hint.as_slice()), ("tls/tcp", &[1][..]));
    assert_eq!(scene.refusal(&request), Refusal::Busy, "it is being built");
    let Step::Built { first, answer } = scene.built(&order, Ok("there")) else { panic!() };
    assert_eq!(*first, *b"first");
    for _ in 0..3 {
        assert_eq!(scene.take(&request), Step::Answer(answer.clone()));
    }
    assert_eq!(scene.built(&order, Ok("there")), Step::Unwanted, "it was answered");
    assert!(scene.audited().is_empty());
}

#[test]
fn another_try_replaces_the_one_before_and_brings_the_first_bytes_once() {
    let mut scene = Scene::new("");
    let (first, before, _) = scene.complete(&ask(1, 0, &["tls/tcp", "tls/relay"]));
    assert_eq!(*first, *b"first");
    let (first, order, _) = scene.complete(&ask(1, 1, &["tls/relay"]));
    assert_eq!((first, order.replaces), (Data::default(), Some(before.key)), "the service has them");
    assert_eq!(scene.refusal(&ask(1, 0, &["tls/tcp"])), Refusal::Replayed);
    assert_eq!(scene.audited(), [Refusal::Replayed]);
}

#[test]
fn the_first_bytes_stay_until_something_stands() {
    let mut scene = Scene::new("");
    let order = scene.order(&ask(1, 0, &["tls/tcp"]));
    let Step::Answer(answer) = scene.built(&order, Err("no port is left")) else { panic!() };
    assert_eq!(refusal(&answer), Refusal::Build);
    assert_eq!(Reply::decode(&answer).unwrap().failed[0].why, "no port is left");
    assert_eq!(*scene.complete(&ask(1, 1, &["tls/relay"])).0, *b"first");
}

#[test]
fn what_cannot_be_built_is_followed_by_the_next() {
    let mut scene = Scene::new("");
    let order = scene.order(&ask(1, 0, &["shm", "tls/tcp", "zstd/tls/tcp", "tls/relay"]));
    assert_eq!(order.stack.to_string(), "tls/tcp");
    let Step::Build(next) = scene.built(&order, Err("no port is left")) else { panic!() };
    assert_eq!(next.stack.to_string(), "tls/relay");
    let Step::Built { answer, .. } = scene.built(&next, Ok("there")) else { panic!() };
    let reply = Reply::decode(&answer).unwrap();
    let failed: Vec<(u16, Refusal)> =
        reply.failed.iter().map(|failed| (failed.index, failed.refusal)).collect();
    assert_eq!(failed, [(0, Refusal::Policy), (2, Refusal::Policy), (1, Refusal::Build)]);
    assert!(matches!(reply.outcome, Outcome::Built(Built { index: 3, .. })));
}

#[test]
fn less_than_the_rules_demand_is_refused_and_audited() {
    let mut scene = Scene::new("[[rule]]\nuse = ['shm', 'tls/tcp']");
    scene.from.offer.host = scene.own.offer.host.clone();
    scene.from.offer.uid = 5;
    assert_eq!(scene.refusal(&ask(1, 0, &["shm"])), Refusal::Security);
    assert_eq!(scene.audited(), [Refusal::Security]);
    // Beside something that will do it is refused, too, and seen.
    assert_eq!(scene.order(&ask(2, 0, &["shm", "tls/tcp"])).stack.to_string(), "tls/tcp");
    assert_eq!(scene.audited(), [Refusal::Security; 2]);
    // A plain connection, by rules of the asker that allow it.
    let mut scene = Scene::new("");
    assert_eq!(scene.refusal(&ask(1, 0, &["tcp"])), Refusal::Security);
    let higher = Ask { min_security: Level(3), ..ask(2, 0, &["tls/tcp"]) };
    assert_eq!(scene.refusal(&higher), Refusal::Security, "nothing is as safe as that");
    // By rules that allow it.
    let mut scene = Scene::new("min_security = 'plain'\n[[rule]]\nuse = ['tcp']");
    assert_eq!(scene.order(&ask(1, 0, &["tcp"])).security, Security::Plain);
    let least = Ask { min_security: Level(2), ..ask(2, 0, &["tcp"]) };
    assert_eq!(scene.refusal(&least), Refusal::Security, "the asker wants more itself");
    assert!(scene.audited().iter().all(|refusal| *refusal == Refusal::Security));
}

#[test]
fn services_and_nodes_that_are_not_known_are_refused() {
    let mut scene = Scene::new("");
    let other = Ask { service: "other".parse().unwrap(), ..ask(1, 0, &["tls/tcp"]) };
    assert_eq!(scene.refusal(&other), Refusal::Service);
    scene.called.end_service(&"files".parse().unwrap());
    assert_eq!(scene.refusal(&ask(2, 0, &["tls/tcp"])), Refusal::Service);
    let mut scene = Scene::new("");
    let view = View { rules: &scene.rules, own: &scene.own, from: None };
    let bytes = ask(1, 0, &["tls/tcp"]).encode().unwrap();
    let Step::Answer(answer) = scene.called.take(scene.from.node, &bytes, &view, scene.now) else { panic!() };
    assert_eq!(refusal(&answer), Refusal::Unknown);
    // When the directory has come, the next try is heard; those before are one line.
    let view = View { rules: &scene.rules, own: &scene.own, from: None };
    let bytes = ask(1, 1, &["tls/tcp"]).encode().unwrap();
    scene.called.take(scene.from.node, &bytes, &view, scene.now);
    assert_eq!(
        (scene.audited(), scene.called.audit().refusals(Refusal::Unknown)),
        (vec![Refusal::Unknown], 2)
    );
    assert_eq!(*scene.complete(&ask(1, 2, &["tls/tcp"])).0, *b"first");
    assert!(matches!(scene.take_bytes(b"nonsense"), Step::Malformed(_)));
    assert_eq!(scene.audited(), [Refusal::Unknown, Refusal::Malformed]);
}

#[test]
fn a_node_is_heard_so_often() {
    let mut scene = Scene::new("");
    scene.called = std::mem::replace(&mut scene.called, Called::new(1)).with_rate(10);
    let heard = |scene: &mut Scene, connection| scene.refusal(&ask(connection, 0, &["shm"])) != Refusal::Rate;
    assert_eq!((0..30).filter(|n| heard(&mut scene, *n)).count(), 10);
    assert_eq!(scene.called.audit().refusals(Refusal::Rate), 20);
    let lines = |scene: &Scene| scene.audited().iter().filter(|refusal| **refusal == Refusal::Rate).count();
    assert_eq!(lines(&scene), 1, "one line, however many there are");
    // Others are heard.
    let other = std::mem::replace(&mut scene.from, Facts::describe("c@A").unwrap());
    assert!(heard(&mut scene, 50));
    scene.from = other;
    scene.now += Duration::from_millis(350);
    assert_eq!((30..60).filter(|n| heard(&mut scene, *n)).count(), 3);
    assert_eq!(lines(&scene), 2);
    // Nonsense counts, too.
    scene.now += Duration::from_secs(5);
    (0..100).for_each(|_| drop(scene.take_bytes(b"?")));
    assert!(!heard(&mut scene, 70));
    assert_eq!(scene.called.audit().refusals(Refusal::Malformed), 10);
}

#[test]
fn earlier_lives_and_old_connections_are_over() {
    let mut scene = Scene::new("");
    scene.called = std::mem::replace(&mut scene.called, Called::new(1)).with_rate(1_000_000);
    scene.called.serve("files".parse().unwrap());
    for connection in 0..100 {
        scene.complete(&ask(connection, 0, &["tls/tcp"]));
    }
    assert_eq!(
        scene.refusal(&ask(20, 0, &["tls/tcp"])),
        Refusal::Replayed,
        "not remembered, and not done again"
    );
    assert!(matches!(scene.take(&ask(90, 0, &["tls/tcp"])), Step::Answer(_)));
    let next_life = Ask { incarnation: 8, ..ask(0, 0, &["tls/tcp"]) };
    let late = scene.order(&ask(100, 0, &["tls/tcp"]));
    scene.complete(&next_life);
    assert_eq!(scene.refusal(&ask(101, 0, &["tls/tcp"])), Refusal::Replayed, "of the life before");
    assert_eq!(scene.built(&late, Ok("there")), Step::Unwanted);
}

#[test]
fn what_takes_too_long_is_not_wanted() {
    let mut scene = Scene::new("");
    let order = scene.order(&ask(1, 0, &["tls/tcp", "tls/relay"]));
    scene.now += Duration::from_secs(10);
    assert_eq!(scene.built(&order, Ok("there")), Step::Unwanted);
    assert_eq!(scene.refusal(&ask(1, 0, &["tls/tcp"])), Refusal::Late);
    let order = scene.order(&ask(2, 0, &["tls/tcp", "tls/relay"]));
    scene.now += Duration::from_secs(10);
    let Step::Answer(answer) = scene.built(&order, Err("no")) else { panic!("nothing more is begun") };
    assert_eq!(refusal(&answer), Refusal::Build);
}

#[test]
fn what_was_granted_is_built_first_until_the_rules_change() {
    let mut scene = Scene::new("");
    let stacks = ["tls/tcp", "tls/relay"];
    let order = scene.order(&ask(1, 0, &stacks));
    let Step::Build(next) = scene.built(&order, Err("no port")) else { panic!() };
    let Step::Built { answer, .. } = scene.built(&next, Ok("there")) else { panic!() };
    let Outcome::Built(Built { grant: Some(grant), .. }) = Reply::decode(&answer).unwrap().outcome else {
        panic!()
    };
    let again = |connection| Ask { again: Some(grant), ..ask(connection, 0, &stacks) };
    let order = scene.order(&again(2));
    assert_eq!((order.stack.to_string().as_str(), order.again), ("tls/relay", Some(grant)));
    // A grant for another service, or of another node, says nothing.
    scene.called.serve("other".parse().unwrap());
    let elsewhere = Ask { service: "other".parse().unwrap(), ..again(3) };
    assert_eq!(scene.order(&elsewhere).again, None);
    let own = std::mem::replace(&mut scene.from, Facts::describe("c@A").unwrap());
    assert_eq!(scene.order(&again(3)).again, None);
    scene.from = own;
    // What is being built by the rules from before is granted to nobody.
    let order = scene.order(&again(4));
    scene.called.rules_changed();
    let Step::Built { answer, .. } = scene.built(&order, Ok("there")) else { panic!() };
    assert!(matches!(Reply::decode(&answer).unwrap().outcome, Outcome::Built(Built { grant: None, .. })));
    let order = scene.order(&again(5));
    assert_eq!((order.stack.to_string().as_str(), order.again), ("tls/tcp", None));
    // Of another life, the same number says nothing.
    scene.called = Called::new(101);
    scene.called.serve("files".parse().unwrap());
    let (.., new) = scene.complete(&ask(6, 0, &stacks));
    assert_eq!(new.unwrap().token, grant.token);
    assert_eq!(scene.order(&again(7)).again, None);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut scene = Scene::new("");
    for n in 0..ASKERS_MAX as u128 {
        scene.from.node = NodeId::new((n + 1).to_be_bytes()).unwrap();
        scene.refusal(&ask(1, 0, &["shm"]));
    }
    scene.from.node = NodeId::new([9; 16]).unwrap();
    for _ in 0..10 {
        assert_eq!(scene.refusal(&ask(1, 0, &["shm"])), Refusal::Limit);
    }
    assert_eq!(scene.audited().iter().filter(|refusal| **refusal == Refusal::Limit).count(), 1);
    assert_eq!(scene.called.audit().refusals(Refusal::Limit), 10);
    assert!(scene.called.audit().lines().len() <= 256);
    scene.now += FORGOTTEN_AFTER;
    assert_eq!(scene.refusal(&ask(1, 0, &["shm"])), Refusal::Policy);
    assert_eq!(scene.called.askers.len(), 1);
    // Also while there is room.
    scene.now += FORGOTTEN_AFTER;
    scene.from.node = NodeId::new([10; 16]).unwrap();
    assert_eq!(scene.refusal(&ask(1, 0, &["shm"])), Refusal::Policy);
    assert_eq!(scene.called.askers.len(), 1);
    scene.called.forget(scene.from.node);
    assert!(scene.called.askers.is_empty());
}

#[test]
fn rules_that_get_stricter_while_it_is_built_refuse_it() {
    let weak = "min_security = 'plain'\n[[rule]]\nuse = ['tcp', 'relay', 'tls/relay']";
    let stacks = ["tcp", "relay", "tls/relay"];
    let change = |scene: &mut Scene, rules: &str| {
        scene.rules = rules.parse().unwrap();
        scene.called.rules_changed();
    };
    let mut scene = Scene::new(weak);
    let order = scene.order(&ask(1, 0, &stacks));
    assert_eq!(order.stack.to_string(), "tcp");
    change(&mut scene, "");
    let Step::Build(next) = scene.built(&order, Ok("there")) else { panic!("it is not accepted any more") };
    assert_eq!((next.stack.to_string().as_str(), next.security), ("tls/relay", Security::Encrypted));
    let Step::Built { first, answer } = scene.built(&next, Ok("there")) else { panic!() };
    let reply = Reply::decode(&answer).unwrap();
    let failed: Vec<(u16, Refusal)> = reply.failed.iter().map(|one| (one.index, one.refusal)).collect();
    assert_eq!((failed, &*first), (vec![(1, Refusal::Security), (0, Refusal::Security)], &b"first"[..]));
    // Where nothing else is left, it is refused, and seen.
    change(&mut scene, weak);
    let order = scene.order(&ask(2, 0, &["tcp"]));
    change(&mut scene, "");
    let Step::Answer(answer) = scene.built(&order, Ok("there")) else { panic!() };
    assert_eq!((refusal(&answer), scene.audited()), (Refusal::Security, vec![Refusal::Security]));
    assert_eq!(scene.take(&ask(2, 0, &["tcp"])), Step::Answer(answer), "and stays so");
    // So it is where the service has ended.
    let order = scene.order(&ask(3, 0, &["tls/tcp", "tls/relay"]));
    scene.called.end_service(&"files".parse().unwrap());
    let Step::Answer(answer) = scene.built(&order, Ok("there")) else { panic!() };
    assert_eq!(refusal(&answer), Refusal::Service);
}

#[test]
fn what_was_built_for_a_try_is_closed_when_the_next_one_is_refused() {
    let mut scene = Scene::new("");
    let (_, before, _) = scene.complete(&ask(1, 0, &["tls/tcp", "tls/relay"]));
    let Step::Close(key, answer) = scene.take(&ask(1, 1, &["zstd/tls/tcp"])) else { panic!() };
    assert_eq!((key, refusal(&answer)), (before.key, Refusal::Policy));
    assert_eq!(scene.take(&ask(1, 1, &["zstd/tls/tcp"])), Step::Answer(answer), "once");
}

#[test]
fn nothing_that_is_printed_has_the_first_bytes_or_hints() {
    let mut scene = Scene::new("");
    let wanted = Wanted { stack: "tls/tcp".to_owned(), hint: vec![222; 3] };
    let ask = Ask { first: vec![231; 4].into(), candidates: vec![wanted], ..ask(1, 0, &[]) };
    let step = scene.take(&ask);
    let all = format!("{ask:?} {:?} {step:?}", scene.called);
    let Step::Build(order) = step else { panic!() };
    let all = format!("{all} {order:#?} {:?}", scene.built(&order, Ok("there")));
    assert!(!all.contains("231, ") && !all.contains("222, "), "{all}");
    assert!(all.contains("first: 4 bytes") && all.contains("hint: 3 bytes"), "{all}");
}
