//! Endpoints for a service, and streams to listeners, whose rules are not those of the fabric.

use gridnet::{Listener, Requirements, Security, Stream};
use gridnet_assembly::message::Refusal as Reason;

use super::*;

const TCP: [(&str, &str); 1] = [("GRIDNET_RAILS", "tcp,self")];
/// By such rules a node goes anywhere, as one does that does not care.
const CARELESS: &str = "[[rule]]\nmin_security = 'plain'\nuse = ['tcp', 'tls/tcp']\n";

/// The rules of the example of that number on the page.
fn of_the_page(number: usize) -> String {
    let page = include_str!("../../../docs/rules.md");
    let example = page.split(&format!("\n### {number}. ")).nth(1).expect("there is such an example");
    let rules = example.split("```toml\n").nth(1).and_then(|text| text.split("```").next());
    rules.expect("it has rules").to_owned()
}

/// Does something while a fabric looks after its rails.
fn beside<T>(party: &Party, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = party.wait(Duration::from_millis(5));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn open_for(a: &Party, b: &Party, service: &str, least: Security) -> Result<PeerId, (Error, String)> {
    let requirements = Requirements::new(service, least).unwrap();
    open_with(a, b, |fabric, cq, node| {
        fabric.open_node_for(cq, node, &requirements, LONG, CONTEXT).unwrap();
    })
}

/// Calls a service, and says a word: what the listener has of it.
fn call(a: &Party, to: PeerId, b: &Party, listener: &Listener, service: &str) -> Result<Vec<u8>, Refusal> {
    let stream = beside(b, || Stream::connect(&a.shared, to, service, Some(LONG)))?;
    beside(b, || stream.write(b"a word", Some(LONG)).unwrap());
    let (accepted, mut bytes) = (listener.accept(Some(LONG)).unwrap(), [0; 16]);
    let len = beside(a, || accepted.read(&mut bytes, Some(LONG)).unwrap());
    Ok(bytes[..len].to_vec())
}

fn know_each_other(parties: &[&Party]) {
    for from in parties {
        for to in parties.iter().filter(|to| to.address() != from.address()) {
            know(from, to);
        }
    }
}

/// The sixth example of the page, as programs get it: nothing of the service goes over what is plain, whoever calls.
#[test]
fn a_listener_of_a_service_that_is_always_encrypted_takes_nothing_plain() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let page = of_the_page(6);
        assert!(page.contains("service = \"secrets\""), "{page}");
        let rules = [("a", page.as_str()), ("b", page.as_str()), ("c", CARELESS), ("d", page.as_str())];
        let [a, b, c, d] = rules.map(|(name, rules)| party(&scene, name, rules, &TCP));
        know_each_other(&[&a, &b, &c, &d]);
        let [secrets, files] = ["secrets", "files"].map(|name| Listener::open(&b.shared, name, 4).unwrap());
        let to = open(&a, &b, LONG).unwrap();
        assert_eq!(a.enter().engine.rail_name(to), Some("tcp-plain"));
        assert_eq!(call(&a, to, &b, &files, "files").unwrap(), b"a word");
        // The own rules are asked before anything is sent.
        let why = call(&a, to, &b, &secrets, "secrets").unwrap_err();
        assert_eq!(why.error, Error::Permission);
        let rule = "the rule of line 3: tcp: it is plain between these two, encrypted is asked for";
        assert!(why.reason.contains("of this side") && why.reason.contains(rule), "{why:?}");
        assert_eq!(b.enter().stack_refusals(Reason::Security), Ok(0));
        // Who has no such rules asks for one service, and calls another.
        let to = open_for(&c, &b, "files", Security::Plain).unwrap();
        assert_eq!(c.enter().engine.rail_name(to), Some("tcp-plain"));
        assert!(story(&b, c.address().node).contains("plain, as the node has asked for service files"));
        assert_eq!(call(&c, to, &b, &files, "files").unwrap(), b"a word");
        for times in 1..=3 {
            let why = call(&c, to, &b, &secrets, "secrets").unwrap_err();
            assert_eq!(why.error, Error::Permission);
            assert!(why.reason.contains("rules of the peer") && why.reason.contains("tcp-plain"), "{why:?}");
            assert_eq!(b.enter().stack_refusals(Reason::Security), Ok(times), "each is counted");
        }
        let lines = b.enter().refused_stacks().unwrap();
        let line = lines.iter().find(|line| line.who == c.address().node).expect("there is a line");
        assert_eq!(line.why, format!("{rule}; a stream to \"secrets\""));
        assert_eq!(secrets.accept(Some(Duration::ZERO)).map(drop), Err(Error::Again), "nobody has come");
        // By an endpoint for the service it goes encrypted, and so may the other one.
        let to = open_for(&d, &b, "secrets", Security::Plain).unwrap();
        assert_eq!(d.enter().engine.rail_name(to), Some("tcp"), "{}", explain(&d, to));
        assert!(
            story(&d, b.address().node).contains("stack tls/tcp: encrypted, agreed on for service secrets")
        );
        assert_eq!(call(&d, to, &b, &secrets, "secrets").unwrap(), b"a word");
        assert_eq!(call(&d, to, &b, &files, "files").unwrap(), b"a word");
        // It stays so, on both sides, whatever else leads there.
        let back = b.enter().engine.find(d.address().node).unwrap();
        for (party, peer, other) in [(&d, to, &b), (&b, back, &d)] {
            let address = other.address();
            let why = party.enter().engine.call_over(peer, "tcp-plain", &address).unwrap_err();
            assert_eq!(why.error, Error::Permission, "{why:?}");
        }
    });
}

#[test]
fn an_endpoint_for_more_stays_so_before_anything_goes_over_it() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let [a, b] = ["a", "b"].map(|name| party(&scene, name, &of_the_page(6), &TCP));
        know_each_other(&[&a, &b]);
        let to = open_for(&a, &b, gridnet::SERVICE, Security::Authenticated).unwrap();
        let why = a.enter().engine.call_over(to, "tcp-plain", &b.address()).unwrap_err();
        assert_eq!(why.error, Error::Permission, "{why:?}");
    });
}

/// A better way is found, and is not for what goes over the present one: either side stays.
#[test]
fn what_may_only_be_relayed_is_not_moved_by_an_endpoint_for_something_else() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let rules = "[[rule]]\nservice = 'secrets'\nscheme = 'relay-only'\n";
        let [a, b] = ["a", "b"].map(|name| party(&scene, name, rules, &TCP));
        know_each_other(&[&a, &b]);
        let secrets = Listener::open(&b.shared, "secrets", 4).unwrap();
        let to = open_for(&a, &b, "secrets", Security::Plain).unwrap();
        assert_eq!(call(&a, to, &b, &secrets, "secrets").unwrap(), b"a word");
        for (from, other) in [(&a, &b), (&b, &a)] {
            let to = open(from, other, LONG).unwrap();
            assert_eq!(from.enter().engine.rail_name(to), Some("relay"), "{}", explain(from, to));
            let why = story(from, other.address().node);
            assert!(
                why.contains("tls/tcp: what goes over the conversation may not go over this rail"),
                "{why}"
            );
        }
        assert_eq!(call(&a, to, &b, &secrets, "secrets").unwrap(), b"a word");
        // Others go the better way.
        let c = party(&scene, "c", rules, &TCP);
        know_each_other(&[&b, &c]);
        let to = open(&c, &b, LONG).unwrap();
        assert_eq!(c.enter().engine.rail_name(to), Some("tcp"));
    });
}

/// Rules are looked at with each stream: those that come bind it, and those that go do not.
#[test]
fn streams_are_judged_by_the_rules_of_now() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        if !is_near(&scene) {
            println!("SKIPPED: rules of now: {} is on no near file system", scene.scratch.0.display());
            return;
        }
        let [a, b] = [("a", CARELESS), ("b", CARELESS)].map(|(name, rules)| party(&scene, name, rules, &TCP));
        know_each_other(&[&a, &b]);
        let secrets = Listener::open(&b.shared, "secrets", 4).unwrap();
        let to = open(&a, &b, LONG).unwrap();
        let page = of_the_page(6);
        for rules in [CARELESS, &page, CARELESS, &page] {
            let (new, path) = (scene.scratch.0.join("new"), scene.scratch.0.join("b.toml"));
            std::fs::write(&new, rules).unwrap();
            std::fs::rename(new, path).unwrap();
            let heard = call(&a, to, &b, &secrets, "secrets").map_err(|why| why.error);
            match rules == CARELESS {
                true => assert_eq!(heard.as_deref(), Ok(&b"a word"[..])),
                false => assert_eq!(heard, Err(Error::Permission)),
            }
        }
    });
}

#[test]
fn an_endpoint_that_is_there_over_less_is_not_used_for_more() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let page = of_the_page(6);
        let [a, b, c] = ["a", "b", "c"].map(|name| party(&scene, name, &page, &TCP));
        know_each_other(&[&a, &b, &c]);
        let secrets = Listener::open(&b.shared, "secrets", 4).unwrap();
        let to = open(&a, &b, LONG).unwrap();
        assert_eq!(a.enter().engine.rail_name(to), Some("tcp-plain"));
        for (service, least) in [("secrets", Security::Plain), (gridnet::SERVICE, Security::Encrypted)] {
            let (error, why) = open_for(&a, &b, service, least).unwrap_err();
            assert_eq!(error, Error::Unreachable, "{why}");
            let wanted = format!("wanted: service {service}, {} at least", least.name());
            assert!(why.contains(&wanted), "{why}");
            assert!(why.contains("there is a conversation with it already, over rail tcp-plain"), "{why}");
        }
        converse(&a, to, &b, 4);
        // The other way round more than was asked for does.
        let to = open_for(&c, &b, gridnet::SERVICE, Security::Encrypted).unwrap();
        assert_eq!(c.enter().engine.rail_name(to), Some("tcp"));
        assert!(story(&c, b.address().node).contains("tcp not tried: it is plain between these two"));
        assert_eq!(open(&c, &b, LONG), Ok(to));
        assert_eq!(call(&c, to, &b, &secrets, "secrets").unwrap(), b"a word");
    });
}

#[test]
fn less_than_is_required_is_no_endpoint_and_every_reason_is_told() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let plain = "[[rule]]\nmin_security = 'plain'\nuse = ['tcp']\n";
        let careless = format!("[[rule]]\nservice = 'files'\nscheme = 'relay-only'\n{CARELESS}");
        let [a, b] =
            [("a", plain), ("b", careless.as_str())].map(|(name, rules)| party(&scene, name, rules, &TCP));
        know_each_other(&[&a, &b]);
        let (error, why) = open_for(&a, &b, gridnet::SERVICE, Security::Authenticated).unwrap_err();
        assert_eq!(error, Error::Permission, "{why}");
        let own =
            "tcp not tried: it is plain between these two, authenticated is asked for (the rule of line 1)";
        assert!(
            why.contains(own) && why.contains("wanted: service gridnet, authenticated at least"),
            "{why}"
        );
        // The other side judges by its rules for the service.
        let files = Listener::open(&b.shared, "files", 4).unwrap();
        let (error, why) = open_for(&a, &b, "files", Security::Plain).unwrap_err();
        assert_eq!(error, Error::Permission, "{why}");
        assert!(
            why.contains("tcp: refused (policy): scheme relay-only has no such method (the rule of line 1)"),
            "{why}"
        );
        let lines = b.enter().refused_stacks().unwrap();
        assert!(
            lines.iter().any(|line| line.who == a.address().node && line.why.contains("line 1")),
            "{lines:?}"
        );
        // A service is there as long as somebody listens for it.
        drop(files);
        let gone = Requirements::new("files", Security::Plain).unwrap();
        let soon = Duration::from_millis(300);
        let ended = open_with(&a, &b, |fabric, cq, node| {
            fabric.open_node_for(cq, node, &gone, soon, CONTEXT).unwrap();
        });
        let (error, why) = ended.unwrap_err();
        assert_eq!(error, Error::Timeout, "it is asked for again for longer: {why}");
        assert!(why.contains("there is no service files"), "{why}");
    });
}

/// What is laxer for one service does not make a link over which everything else goes, too.
#[test]
fn no_service_makes_a_link_that_the_rules_for_fabrics_do_not_take() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let lax = "[[rule]]\nservice = 'files'\nuse = ['tcp']\nmin_security = 'plain'\n";
        let also = "[[rule]]\nservice = 'files'\nuse = ['tcp', 'tls/tcp']\nmin_security = 'plain'\n";
        let rules = [("b", lax), ("c", CARELESS), ("d", lax), ("e", also)];
        let [b, c, d, e] = rules.map(|(name, rules)| party(&scene, name, rules, &TCP));
        know_each_other(&[&b, &c, &d, &e]);
        let listeners = [&b, &e].map(|party| Listener::open(&party.shared, "files", 4).unwrap());
        let both = "tcp: refused (security): it is plain between these two, encrypted is asked for of what all services share: \
                    no rule matches (the rule of line 1)";
        // Who asks does not care, and who is asked does.
        let (error, why) = open_for(&c, &b, "files", Security::Plain).unwrap_err();
        assert_eq!(error, Error::Permission, "{why}");
        assert!(why.contains(both), "{why}");
        assert!(b.enter().stack_refusals(Reason::Security).unwrap() > 0);
        assert!(c.enter().engine.find(b.address().node).is_none(), "nothing goes over it");
        // Its own rules bind who asks.
        let (error, why) = open_for(&d, &c, "files", Security::Plain).unwrap_err();
        assert_eq!(error, Error::Permission, "{why}");
        assert!(why.contains("tcp not tried: it is plain") && why.contains("all services share"), "{why}");
        // Where something else is left, it is that.
        let to = open_for(&c, &e, "files", Security::Plain).unwrap();
        assert_eq!(c.enter().engine.rail_name(to), Some("tcp"), "{}", explain(&c, to));
        assert_eq!(call(&c, to, &e, &listeners[1], "files").unwrap(), b"a word");
    });
}

#[test]
fn an_edge_ends_for_itself_beside_an_endpoint_for_more() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let [a, b] = ["a", "b"].map(|name| party(&scene, name, &of_the_page(6), &TCP));
        know_each_other(&[&a, &b]);
        let _secrets = Listener::open(&b.shared, "secrets", 4).unwrap();
        let (more, node) = (Requirements::new("secrets", Security::Plain).unwrap(), b.address().node);
        let mut ended = beside(&b, || {
            {
                let mut fabric = a.enter();
                fabric.open_node_for(a.cq, node, &more, LONG, CONTEXT).unwrap();
                assert_eq!(fabric.open_edge(a.cq, (node, 7), LONG, CONTEXT + 1).unwrap(), None);
            }
            [(); 2].map(|()| a.wait_past_sends(LONG).map(|ended| (ended.context, ended.tag)))
        });
        ended.sort_by_key(|ended| ended.map_or(0, |ended| ended.0));
        assert_eq!(ended, [Ok((CONTEXT, 0)), Ok((CONTEXT + 1, 7))]);
    });
}
