//! Links: what they do, what can be done to them, and that the self-check notices when they do not.

mod common;

use common::{connect, connected, connected_to, listen, ms, receive, send, PATIENCE, SILENCE};
use gridnet_testbed::{
    lab_test, Action, Change, Error, HostSpec, Impairment, Lab, LinkSpec, Loss, Rate, Subject, Topology,
};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::time::Instant;

fn two(impairment: Impairment) -> Topology {
    Topology::new().host("a").host("b").link(LinkSpec::between("a", "b").with(impairment))
}

fn bad() -> Impairment {
    Impairment::default().delay(ms(20)).jitter(ms(5)).mbit(20).loss_percent(2.0)
}

/// The lab, whose links are checked: a busy machine makes them slower for a moment.
fn opened(topology: &Topology) -> Lab {
    let mut tries = 0;
    loop {
        match Lab::open(topology.clone()) {
            Err(Error::NotAsAsked(findings)) if tries < 10 => println!("once more: {findings:?}"),
            lab => return lab.unwrap(),
        }
        tries += 1;
    }
}

lab_test! {
    fn hosts_find_each_other_by_name_in_both_families() {
        let relayed = Impairment::default().delay(ms(1));
        let lab = [Impairment::default(), relayed].map(|impairment| {
            let lab = opened(&two(impairment));
            for family in ["-4", "-6"] {
                let ping = lab.host("a").unwrap().command("ping").args([family, "-c", "1", "-W", "10", "b"]);
                let said = ping.output(PATIENCE).unwrap().success().unwrap();
                assert!(said.contains(" 0% packet loss"), "{said}");
            }
            lab
        });
        let [lab, _] = lab;
        let name = lab.host("b").unwrap().command("uname").arg("-n").output(PATIENCE).unwrap();
        assert_eq!(name.success().unwrap(), "b\n");
    }

    fn a_plain_link_is_as_fast_as_asked_and_no_faster() {
        let lab = opened(&two(Impairment::default().mbit(40)));
        assert!(!lab.link("a-b").unwrap().is_relayed());
        let [mut near, mut far] = connected(&lab, "a", "b");
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| send(&mut near, 0, 2_000_000).unwrap());
            receive(&mut far, 0, 2_000_000).unwrap();
        });
        // 400 ms; what may go at once and what waits in buffers is counted in its favour.
        assert!(start.elapsed() > ms(300), "{:?}", start.elapsed());
    }

    fn a_bad_link_is_as_bad_as_asked() {
        let lab = Lab::open_unchecked(two(bad())).unwrap();
        let report = lab.check(&mut |_| {}).unwrap();
        for finding in &report.findings {
            println!("{finding}");
        }
        assert!(report.is_as_asked());
        assert_eq!(report.findings.len(), 8, "delay, jitter, loss and rate of both directions");
        let ping = lab.host("a").unwrap().command("ping").args(["-c", "50", "-i", "0.01", "-W", "10", "b"]);
        let said = ping.output(PATIENCE).unwrap().stdout;
        let least = said.rsplit(" = ").next().and_then(|times| times.split('/').next()?.parse::<f64>().ok());
        assert!(least.is_some_and(|least| least >= 40.0), "{said}");
        let counts = lab.link("a-b").unwrap().counts().unwrap().unwrap();
        assert!(counts.iter().all(|counts| counts.lost > 0 && counts.passed > 0), "{counts:?}");
    }

    fn a_link_that_only_pretends_is_noticed() {
        let plain = |impairment: Impairment| two(impairment);
        let none = Impairment::default();
        for (topology, what) in [
            (plain(none.delay(ms(20))), "delay"),
            (plain(none.delay(ms(5)).jitter(ms(20))), "jitter"),
            (plain(none.loss_percent(1.0)), "loss"),
            (plain(none.delay(ms(1)).loss_percent(1.0)), "loss"),
            (plain(none.mbit(10)), "rate"),
            (plain(none.delay(ms(1)).mbit(10)), "rate"),
        ] {
            let lab = Lab::open_unchecked(topology).unwrap();
            lab.link("a-b").unwrap().pretend().unwrap();
            let Err(Error::NotAsAsked(findings)) = lab.check(&mut |_| {}).unwrap().into_result() else {
                panic!("a link without {what} passed the self-check");
            };
            let of_both = findings.iter().filter(|finding| finding.what.starts_with(what));
            assert_eq!(of_both.count(), 2, "{findings:?}");
            assert!(findings.iter().all(|finding| finding.subject == Subject::Link("a-b".to_owned())));
            let said = Error::NotAsAsked(findings).to_string();
            assert!(said.contains("link a-b") && said.contains("asked") && said.contains("measured"), "{said}");
        }
    }

    fn a_dead_link_is_noticed() {
        let lab = Lab::open_unchecked(two(bad())).unwrap();
        lab.link("a-b").unwrap().blackout(true).unwrap();
        let said = lab.check(&mut |_| {}).unwrap().into_result().unwrap_err().to_string();
        assert!(said.contains("link a-b: datagrams from a to b"), "{said}");
    }

    fn a_blackout_stops_a_transfer_and_it_goes_on_after() {
        for impairment in [Impairment::default(), Impairment::default().delay(ms(2)).mbit(200)] {
            let lab = Lab::open(two(impairment)).unwrap();
            let link = lab.link("b-a").unwrap();
            let [mut near, mut far] = connected(&lab, "a", "b");
            send(&mut near, 0, 100_000).unwrap();
            receive(&mut far, 0, 100_000).unwrap();
            link.blackout(true).unwrap();
            send(&mut near, 100_000, 110_000).unwrap();
            far.set_read_timeout(Some(SILENCE)).unwrap();
            let silent = far.read(&mut [0; 1]).unwrap_err();
            assert_eq!(silent.kind(), ErrorKind::WouldBlock, "nothing passes");
            link.blackout(false).unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            receive(&mut far, 100_000, 110_000).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| send(&mut near, 110_000, 2_000_000).unwrap());
                receive(&mut far, 110_000, 2_000_000).unwrap();
            });
            // And the other way.
            send(&mut far, 0, 100_000).unwrap();
            receive(&mut near, 0, 100_000).unwrap();
        }
    }

    fn a_reset_ends_connections_on_both_sides_and_new_ones_work() {
        for impairment in [Impairment::default(), Impairment::default().delay(ms(2))] {
            let lab = Lab::open(two(impairment)).unwrap();
            for busy in [true, false] {
                let [mut near, mut far] = connected(&lab, "a", "b");
                let talk = busy.then(|| {
                    let mut writer = near.try_clone().unwrap();
                    std::thread::spawn(move || while send(&mut writer, 0, 1000).is_ok() {})
                });
                // The reader drains, so that the connection stays busy until it is reset.
                let reader = std::thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    loop {
                        match far.read(&mut buffer) {
                            Ok(0) => return None,
                            Ok(_) => {}
                            Err(e) => return Some(e.kind()),
                        }
                    }
                });
                assert_eq!(lab.reset("b", "a", ms(300)).unwrap(), 1);
                // A connection that its own kernel has ended was aborted, the other side's is reset.
                let ended = [Some(ErrorKind::ConnectionReset), Some(ErrorKind::ConnectionAborted)];
                let near_end = near.read(&mut [0; 1]).err().map(|e| e.kind());
                let far_end = reader.join().unwrap();
                // A writer may have been told first; the reader then sees an end.
                let told = |end: &Option<ErrorKind>| ended.contains(end);
                assert!(told(&near_end) || busy, "busy {busy}: {near_end:?}");
                assert!(told(&far_end), "busy {busy}: {far_end:?}");
                if let Some(talk) = talk {
                    talk.join().unwrap();
                }
            }
            assert_eq!(lab.reset("a", "b", ms(100)).unwrap(), 0, "nothing is left");
            let [mut near, mut far] = connected(&lab, "a", "b");
            send(&mut near, 0, 1000).unwrap();
            receive(&mut far, 0, 1000).unwrap();
        }
    }

    fn a_reset_spares_other_hosts() {
        let topology = two(Impairment::default()).host("c").link(LinkSpec::between("c", "b"));
        let lab = Lab::open(topology).unwrap();
        let second = lab.host("b").unwrap().addresses()[2];
        let [mut near, mut far] = connected_to(&lab, "c", "b", second);
        let [_doomed, mut other] = connected(&lab, "a", "b");
        assert_eq!(lab.reset("a", "b", ms(50)).unwrap(), 1);
        assert!(other.read(&mut [0; 1]).is_err());
        send(&mut near, 0, 1000).unwrap();
        receive(&mut far, 0, 1000).unwrap();
    }

    fn an_address_goes_and_another_stays() {
        let topology = two(Impairment::default()).link(LinkSpec::between("a", "b").name("second"));
        let lab = Lab::open(topology).unwrap();
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let [first, _, second, _] = b.addresses()[..] else { panic!("{:?}", b.addresses()) };
        let listeners = [first, second].map(|address| listen(b, address));
        let targets = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let [_one, mut two] = targets.map(|target| connect(a, target, PATIENCE).unwrap());
        let (mut far, _) = listeners[1].accept().unwrap();
        b.remove_address(&first.to_string()).unwrap();
        assert!(connect(a, targets[0], SILENCE).is_err(), "the address is gone");
        send(&mut two, 0, 100_000).unwrap();
        receive(&mut far, 0, 100_000).unwrap();
        assert!(b.remove_address(&first.to_string()).is_err(), "it is gone");
        b.add_address("eth0", &format!("{first}/24")).unwrap();
        connect(a, targets[0], PATIENCE).unwrap();
    }

    fn a_link_can_change() {
        let lab = Lab::open(two(Impairment::default().mbit(10).delay(ms(1)))).unwrap();
        let link = lab.link("a-b").unwrap();
        link.set_rate(Rate::mbit(50)).unwrap();
        link.change(&Change { loss: Some(Loss::percent(1.0)), ..Change::default() }).unwrap();
        assert_eq!(link.impairment(), Impairment::default().mbit(50).delay(ms(1)).loss_percent(1.0));
        lab.check(&mut |_| {}).unwrap().into_result().unwrap();
        let plain = Lab::open(two(Impairment::default().mbit(10))).unwrap();
        plain.link("a-b").unwrap().set_rate(Rate::mbit(30)).unwrap();
        plain.check(&mut |_| {}).unwrap().into_result().unwrap();
        let late = Change { delay: Some("1ms".parse().unwrap()), ..Change::default() };
        let said = plain.link("a-b").unwrap().change(&late).unwrap_err().to_string();
        assert!(said.contains("relay = true"), "{said}");
    }

    fn events_happen_in_their_order() {
        let blackout = |on| Action::Blackout { link: "a-b".to_owned(), on };
        let topology = two(Impairment::default()).event(ms(0), blackout(true)).event(ms(100), blackout(false));
        let lab = Lab::open(topology).unwrap();
        let [mut near, mut far] = connected(&lab, "a", "b");
        let (_hold, stop) = std::sync::mpsc::channel();
        let mut heard = Vec::new();
        let start = Instant::now();
        lab.play(&stop, &mut |event, outcome| {
            outcome.unwrap();
            heard.push(event.action.clone());
            if event.at.is_zero() {
                send(&mut near, 0, 100).unwrap();
                far.set_read_timeout(Some(ms(50))).unwrap();
                assert!(far.read(&mut [0; 1]).is_err());
            }
        });
        assert!(start.elapsed() >= ms(100));
        assert_eq!(heard, [blackout(true), blackout(false)]);
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        receive(&mut far, 0, 100).unwrap();
    }

    fn routers_forward_over_links_of_their_own() {
        let topology = Topology::new()
            .host(HostSpec::new("a").route("172.16.1.0/24 via 172.16.0.2"))
            .host(HostSpec::new("r").router())
            .host(HostSpec::new("b").route("172.16.0.0/24 via 172.16.1.1"))
            .link(LinkSpec::between("a", "r"))
            .link(LinkSpec::between("r", "b").with(Impairment::default().delay(ms(5))));
        let lab = Lab::open(topology).unwrap();
        let [mut near, mut far] = connected(&lab, "a", "b");
        // Large packets of one kernel become small ones on the way through the relay, or stay whole: both arrive.
        std::thread::scope(|scope| {
            scope.spawn(|| send(&mut near, 0, 3_000_000).unwrap());
            receive(&mut far, 0, 3_000_000).unwrap();
        });
        let address: IpAddr = "172.16.1.2".parse().unwrap();
        assert_eq!(lab.host("b").unwrap().address().unwrap(), address);
    }

    fn large_packets_of_both_families_cross_the_relay() {
        let lab = Lab::open(two(Impairment::default().delay(ms(1)))).unwrap();
        for address in lab.host("b").unwrap().addresses() {
            let [mut near, mut far] = connected_to(&lab, "a", "b", address);
            std::thread::scope(|scope| {
                scope.spawn(|| send(&mut near, 0, 3_000_000).unwrap());
                receive(&mut far, 0, 3_000_000).unwrap();
            });
        }
        let [there, _] = lab.link("a-b").unwrap().counts().unwrap().unwrap();
        assert!(there.bytes / there.passed > 3000, "they were whole: {there:?}");
        assert_eq!(there.overrun, 0, "{there:?}");
    }

    fn a_lossy_fast_link_carries_a_transfer_whole() {
        let impairment = Impairment::default().delay(ms(5)).mbit(300).loss_percent(0.1);
        let lab = Lab::open(two(impairment)).unwrap();
        let [mut near, mut far] = connected(&lab, "a", "b");
        std::thread::scope(|scope| {
            scope.spawn(|| send(&mut near, 0, 10_000_000).unwrap());
            receive(&mut far, 0, 10_000_000).unwrap();
        });
        let counts = lab.link("a-b").unwrap().counts().unwrap().unwrap();
        assert!(counts[0].bytes >= 10_000_000 && counts[0].lost > 0, "{counts:?}");
    }
}
