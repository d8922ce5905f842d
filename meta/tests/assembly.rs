//! Members that agree on stacks: real requests over a session, paths that are only promised.

mod common;

use common::{until, Scene, LONG};
use gridnet_assembly::call::Path;
use gridnet_assembly::called::{Key, Order};
use gridnet_assembly::facts::Offer;
use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::Security;
use gridnet_assembly::standing::Standing;
use gridnet_assembly::Builder;
use gridnet_core::wire::NodeId;
use gridnet_meta::error::{Error, Refusal};
use gridnet_meta::member::{About, Assembler, Member, NoPath, Passage, Wanted};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Where paths of a test lead: what was built, by place, and what has happened there.
#[derive(Default)]
struct Halls {
    halls: HashMap<Vec<u8>, Vec<Key>>,
    begun: Vec<(Key, Vec<u8>)>,
    builds: Vec<String>,
    closed: Vec<Key>,
    disconnected: Vec<String>,
    /// Stacks that cannot be built, and that cannot be connected to.
    unbuilt: Vec<String>,
    unreached: Vec<String>,
    /// The one whose builder panics.
    torn: Option<String>,
    /// Where paths to known places wait.
    gate: Option<Arc<Barrier>>,
    /// The rules that a node reads.
    reading: Option<(NodeId, Arc<Reading>)>,
}

/// Rules that change while they are read: who reads first has the older ones, and takes a long time.
#[derive(Default)]
struct Reading {
    /// How many have read, and how many rules have come into force meanwhile.
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Reading {
    const RULES: [&str; 2] = ["[[rule]]\nuse = ['tls/relay']", "[[rule]]\nuse = ['tls/tcp']"];
    /// How long the first one waits for others, who are not to pass it: they have enough time to.
    const MOMENT: Duration = Duration::from_millis(500);

    fn read(&self) -> Option<Rules> {
        let mut state = self.state.lock().unwrap();
        let number = state.0;
        state.0 += 1;
        self.changed.notify_all();
        if number == 0 {
            let waited =
                self.changed.wait_timeout_while(state, Reading::MOMENT, |(_, in_force)| *in_force == 0);
            drop(waited.unwrap());
        }
        Reading::RULES.get(number).map(|text| text.parse().unwrap())
    }

    fn in_force(&self) {
        self.state.lock().unwrap().1 += 1;
        self.changed.notify_all();
    }
}

/// The rails of one member.
struct Rails {
    node: NodeId,
    halls: Arc<Mutex<Halls>>,
}

impl Builder for Rails {
    fn build(&self, order: &Order) -> Result<Vec<u8>, String> {
        let mut halls = self.halls.lock().unwrap();
        let stack = order.stack.to_string();
        if halls.torn.as_ref() == Some(&stack) {
            drop(halls);
            panic!("torn");
        }
        if halls.unbuilt.contains(&stack) {
            return Err("no room".into());
        }
        // One place for each node and stack: a grant leads there again.
        let place = format!("{} {stack}", self.node).into_bytes();
        halls.halls.entry(place.clone()).or_default().push(order.key);
        halls.builds.push(stack);
        Ok(place)
    }

    fn begin(&self, order: &Order, first: Vec<u8>) {
        self.halls.lock().unwrap().begun.push((order.key, first));
    }

    fn close(&self, key: &Key) {
        self.halls.lock().unwrap().closed.push(*key);
    }

    fn connect(&self, _: NodeId, path: &Path, _: Instant) -> Result<(), String> {
        let gate = self.halls.lock().unwrap().gate.clone().filter(|_| path.again.is_some());
        if let Some(gate) = gate {
            gate.wait();
        }
        let halls = self.halls.lock().unwrap();
        let known = halls.halls.get(&path.place).ok_or("nobody there")?;
        let is_mine =
            |key: &Key| key.from == self.node && (path.again.is_some() || key.connection == path.connection);
        match known.iter().any(is_mine) && !halls.unreached.contains(&path.stack.to_string()) {
            true => Ok(()),
            false => Err("connection refused".into()),
        }
    }

    fn disconnect(&self, _: NodeId, path: &Path) {
        self.halls.lock().unwrap().disconnected.push(path.stack.to_string());
    }

    fn new_rules(&self) -> Option<Rules> {
        self.reading()?.read()
    }

    fn revoke_grants(&self) {
        if let Some(reading) = self.reading() {
            reading.in_force();
        }
    }
}

impl Rails {
    fn reading(&self) -> Option<Arc<Reading>> {
        let reading = self.halls.lock().unwrap().reading.clone();
        reading.filter(|(node, _)| *node == self.node).map(|(_, reading)| reading)
    }
}

/// A member that agrees on stacks.
struct Party {
    member: Member,
    assembler: Assembler,
}

impl Party {
    fn join(scene: &Scene, label: &str, host: &str, rules: &str, halls: &Arc<Mutex<Halls>>) -> Party {
        let offer = Offer::all(Some(host.parse().unwrap()), 0, vec![[127, 0, 0, 1].into()]);
        let cluster = Some(label.parse().unwrap());
        let about = About { cluster, offer: Some(offer), ..About::new(label.parse().unwrap()) };
        let member = Member::join(scene.ticket.clone(), about, LONG).unwrap();
        let rails = Rails { node: member.node(), halls: halls.clone() };
        let assembler = member.assemble(rules.parse().unwrap(), Arc::new(rails));
        assembler.serve("files".parse().unwrap());
        Party { member, assembler }
    }

    fn connect(&self, to: &Party) -> Result<Path, NoPath> {
        let wanted = Wanted {
            service: "files".parse().unwrap(),
            min_security: Security::Plain,
            first: b"first".to_vec(),
        };
        self.assembler.connect(to.member.node(), wanted, LONG)
    }
}

struct Two {
    _scene: Scene,
    a: Party,
    b: Party,
    halls: Arc<Mutex<Halls>>,
}

impl Two {
    fn new(what: &str, hosts: [&str; 2], rules: [&str; 2]) -> Two {
        let scene = Scene::new(what);
        let halls = Arc::new(Mutex::new(Halls::default()));
        let a = Party::join(&scene, "a", hosts[0], rules[0], &halls);
        let b = Party::join(&scene, "b", hosts[1], rules[1], &halls);
        for party in [&a, &b] {
            assert!(party.member.wait_for_count(LONG, 2));
        }
        Two { _scene: scene, a, b, halls }
    }

    /// First data as the services have it.
    fn begun(&self) -> Vec<Vec<u8>> {
        self.halls.lock().unwrap().begun.iter().map(|(_, first)| first.clone()).collect()
    }
}

#[test]
fn two_members_agree_on_the_best_stack_and_the_next_time_at_once() {
    let two = Two::new("agree", ["h1", "h2"], ["", ""]);
    let path = two.a.connect(&two.b).unwrap();
    assert_eq!((path.stack.to_string().as_str(), path.security), ("tls/tcp", Security::Encrypted));
    assert!(path.again.is_none());
    let path = two.a.connect(&two.b).unwrap();
    assert_eq!(path.stack.to_string(), "tls/tcp");
    assert!(path.again.is_some() && path.number == 1, "it was made while the other side was asked");
    assert_eq!(two.begun(), [b"first", b"first"]);
    // The other way round it is another agreement.
    assert!(two.b.connect(&two.a).unwrap().again.is_none());
    // By other rules, nothing is taken for granted.
    let rules = "[[rule]]\nuse = ['tls/relay', 'tls/tcp']".parse::<Rules>().unwrap();
    two.a.assembler.change_rules(rules);
    let path = two.a.connect(&two.b).unwrap();
    assert_eq!((path.stack.to_string().as_str(), path.again), ("tls/relay", None));
    assert_eq!(two.halls.lock().unwrap().builds, ["tls/tcp", "tls/tcp", "tls/tcp", "tls/relay"]);
    assert!(two.halls.lock().unwrap().disconnected.is_empty());
}

#[test]
fn rules_of_the_other_side_that_changed_lead_elsewhere() {
    let two = Two::new("elsewhere", ["h1", "h2"], ["", ""]);
    two.a.connect(&two.b).unwrap();
    two.b.assembler.change_rules("scheme = 'relay-only'".parse().unwrap());
    let path = two.a.connect(&two.b).unwrap();
    assert_eq!((path.stack.to_string().as_str(), path.again), ("tls/relay", None));
    // It may have come up only now.
    two.a.assembler.close();
    assert_eq!(
        two.halls.lock().unwrap().disconnected,
        ["tls/tcp"],
        "the path that was made at once is closed"
    );
    assert_eq!(two.begun().len(), 2);
}

#[test]
fn a_path_that_comes_up_when_nobody_wants_it_is_ended_and_waited_for() {
    let two = Two::new("late", ["h1", "h2"], ["", ""]);
    two.a.connect(&two.b).unwrap();
    two.b.assembler.change_rules("scheme = 'relay-only'".parse().unwrap());
    let gate = Arc::new(Barrier::new(2));
    two.halls.lock().unwrap().gate = Some(gate.clone());
    assert_eq!(two.a.connect(&two.b).unwrap().stack.to_string(), "tls/relay");
    assert!(two.halls.lock().unwrap().disconnected.is_empty(), "there is nothing yet");
    gate.wait();
    two.a.assembler.close();
    assert_eq!(two.halls.lock().unwrap().disconnected, ["tls/tcp"]);
    // Nobody connects after that.
    assert!(two.a.connect(&two.b).is_err());
}

#[test]
fn processes_of_one_host_share_memory() {
    let two = Two::new("memory", ["h1", "h1"], ["", ""]);
    let path = two.a.connect(&two.b).unwrap();
    assert_eq!((path.stack.to_string().as_str(), path.security), ("shm", Security::Encrypted));
}

#[test]
fn less_than_the_other_side_demands_is_refused_and_audited_there() {
    let weak = "min_security = 'plain'\n[[rule]]\nuse = ['tcp']";
    let two = Two::new("demands", ["h1", "h2"], [weak, ""]);
    let NoPath::Stacks(why) = two.a.connect(&two.b).unwrap_err() else { panic!() };
    let refused: Vec<Option<Reason>> = why.tried.iter().map(|tried| tried.refusal).collect();
    assert_eq!(refused, [Some(Reason::Security); 2], "{why}");
    let lines = two.b.assembler.refused();
    assert_eq!((lines.len(), lines[0].who, lines[0].refusal), (1, two.a.member.node(), Reason::Security));
    assert!(lines[0].why.contains("plain between these two, encrypted is asked for"), "{}", lines[0].why);
    assert_eq!(two.b.assembler.refusals(Reason::Security), 1);
    assert!(two.halls.lock().unwrap().builds.is_empty() && two.begun().is_empty());
    // When both allow less, it may be less.
    two.b.assembler.change_rules(weak.parse().unwrap());
    assert_eq!(two.a.connect(&two.b).unwrap().security, Security::Plain);
}

#[test]
fn what_goes_over_a_path_that_stands_is_judged_by_direction_and_by_who_is_known() {
    let rules = "[[rule]]\nfrom.cluster = 'a'\nservice = 'files'\nmin_security = 'plain'\nuse = ['tcp']";
    let two = Two::new("standing", ["h1", "h2"], ["", rules]);
    let plain = [Standing { name: "rail", stack: "tcp".parse().ok(), security: Security::Plain }];
    let admit = |other, user, is_called, service| {
        let passage = Passage { other, user, is_called, service, least: Security::Plain };
        two.b.assembler.admit(&passage, &plain).remove(0).map_err(|denied| denied.refusal)
    };
    let (a, nobody) = (two.a.member.node(), NodeId::new([5; 16]).unwrap());
    assert_eq!(admit(a, None, true, "files"), Ok(()));
    assert_eq!(admit(a, None, false, "files"), Err(Reason::Security), "no rule is about that direction");
    assert_eq!(admit(a, None, true, "secrets"), Err(Reason::Security));
    // It has said that it is of user 0.
    assert_eq!(admit(a, Some(0), true, "files"), Ok(()));
    assert_eq!(admit(a, Some(7), true, "files"), Err(Reason::Policy));
    assert_eq!(admit(nobody, None, true, "files"), Err(Reason::Unknown));
    assert!(!two.a.assembler.has_rules() && two.b.assembler.has_rules());
}

#[test]
fn of_two_that_read_rules_at_a_time_the_later_ones_stay() {
    let two = Two::new("reading", ["h1", "h2"], ["", ""]);
    let reading = Arc::new(Reading::default());
    two.halls.lock().unwrap().reading = Some((two.a.member.node(), reading.clone()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| two.a.connect(&two.b).map(drop));
        until("the first one reads", || reading.state.lock().unwrap().0 > 0);
        two.a.connect(&two.b).unwrap();
        first.join().unwrap().unwrap();
    });
    assert!(reading.state.lock().unwrap().0 >= 2, "both have read");
    assert_eq!(two.a.connect(&two.b).unwrap().stack.to_string(), "tls/tcp", "by the later rules");
}

#[test]
fn the_next_stack_is_tried_and_the_service_has_the_first_data_once() {
    let two = Two::new("next", ["h1", "h1"], ["", ""]);
    two.halls.lock().unwrap().unbuilt = vec!["shm".into()];
    two.halls.lock().unwrap().unreached = vec!["tls/tcp".into()];
    let path = two.a.connect(&two.b).unwrap();
    assert_eq!((path.stack.to_string().as_str(), path.attempt), ("tls/relay", 1));
    assert_eq!(two.begun(), [&b"first"[..], b""], "once");
    let closed: Vec<u16> = two.halls.lock().unwrap().closed.iter().map(|key| key.attempt).collect();
    assert_eq!(closed, [0], "what was built for the first try is not needed");
    two.halls.lock().unwrap().unreached.push("tls/relay".into());
    let why = two.a.connect(&two.b).unwrap_err().to_string();
    let mut reasons: Vec<&str> = why.split("; ").collect();
    // What came up last time comes first.
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["shm: refused (build): no room", "tls/relay: connection refused", "tls/tcp: connection refused"]
    );
}

#[test]
fn a_builder_that_panics_has_not_built() {
    let two = Two::new("torn", ["h1", "h1"], ["", ""]);
    two.halls.lock().unwrap().torn = Some("shm".into());
    assert_eq!(two.a.connect(&two.b).unwrap().stack.to_string(), "tls/tcp");
    assert_eq!(two.begun(), [b"first"]);
    let closed: Vec<u16> = two.halls.lock().unwrap().closed.iter().map(|key| key.attempt).collect();
    assert_eq!(closed, [0], "nobody knows what it has left behind");
}

#[test]
fn a_service_that_starts_a_moment_later_is_reached() {
    let two = Two::new("later", ["h1", "h2"], ["", ""]);
    let service = || "files".parse().unwrap();
    two.b.assembler.end_service(&service());
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| two.a.connect(&two.b).map(|path| path.stack.to_string()));
        until("it was refused once", || two.b.assembler.refusals(Reason::Service) > 0);
        two.b.assembler.serve(service());
        assert_eq!(connecting.join().unwrap().as_deref(), Ok("tls/tcp"));
    });
    assert_eq!(two.begun(), [b"first"], "once");
}

#[test]
fn who_cannot_be_asked_is_named_at_once() {
    let two = Two::new("named", ["h1", "h2"], ["", ""]);
    let silent = two._scene.join_in("c", "c").unwrap();
    assert!(two.a.member.wait_for_count(LONG, 3));
    let wanted = |service: &str| Wanted {
        service: service.parse().unwrap(),
        min_security: Security::Plain,
        first: vec![],
    };
    let NoPath::Stacks(why) = two.a.assembler.connect(silent.node(), wanted("files"), LONG).unwrap_err()
    else {
        panic!()
    };
    assert!(why.to_string().starts_with("no stack is allowed"), "it offers none: {why}");
    let nobody = NodeId::new([9; 16]).unwrap();
    let why = two.a.assembler.connect(nobody, wanted("files"), LONG).unwrap_err();
    assert!(matches!(why, NoPath::Session(Error::Refused(Refusal::NoRoute, _))), "{why}");
    let why = two.a.assembler.connect(two.a.member.node(), wanted("files"), LONG).unwrap_err();
    assert!(matches!(why, NoPath::Session(Error::Config(_))), "{why}");
    let why = two.a.assembler.connect(two.b.member.node(), wanted("other"), LONG).unwrap_err();
    assert!(why.to_string().starts_with("refused (service): there is no service other"), "{why}");
    // One that offers stacks and does not answer for them.
    let offer = Offer::all(None, 0, vec![[127, 0, 0, 1].into()]);
    let about =
        About { cluster: Some("d".parse().unwrap()), offer: Some(offer), ..About::new("d".parse().unwrap()) };
    let deaf = Member::join(two._scene.ticket.clone(), about, LONG).unwrap();
    assert!(two.a.member.wait_for_count(LONG, 4));
    let begun = Instant::now();
    let why = two.a.assembler.connect(deaf.node(), wanted("files"), LONG).unwrap_err();
    assert!(why.to_string().contains("has no service 1") && begun.elapsed() < LONG, "{why}");
}

#[test]
fn very_many_at_once_have_their_turn() {
    let two = Two::new("many", ["h1", "h2"], ["", ""]);
    // More than are heard in a second, and than are remembered.
    const MANY: usize = 150;
    std::thread::scope(|scope| {
        let connect = || scope.spawn(|| two.a.connect(&two.b).map(|path| path.stack.to_string()));
        let all: Vec<_> = (0..MANY).map(|_| connect()).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap().as_deref(), Ok("tls/tcp")));
    });
    let halls = two.halls.lock().unwrap();
    let begun: BTreeSet<u64> = halls.begun.iter().map(|(key, _)| key.connection).collect();
    assert_eq!((begun.len(), halls.begun.len()), (MANY, MANY), "each once");
    assert_eq!(two.b.assembler.refusals(Reason::Replayed), 0);
}
