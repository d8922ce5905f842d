//! Sites: what their gateways let through.

mod common;

use common::{connect, connected, listen, receive, send, PATIENCE, SILENCE};
use gridnet_testbed::{
    lab_test, Error, HostSpec, Impairment, Lab, LinkSpec, Site, SiteKind, Subject, Topology, HTTP_PORT,
    SOCKS_PORT,
};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

/// A site of each kind, called by its number in the order of `SiteKind::all`, and a public host.
fn every_kind() -> Topology {
    let sites = SiteKind::all().zip(["open", "fw", "masq", "random", "shut", "proxy"]);
    let topology = Topology::new().host(HostSpec::new("p").public(Impairment::default()));
    sites.fold(topology, |topology, (kind, name)| topology.site(Site::new(name, kind).hosts(2)))
}

lab_test! {
    fn every_kind_of_site_is_what_it_says() {
        let lab = Lab::open_unchecked(every_kind()).unwrap();
        let report = lab.check(&mut |_| {}).unwrap();
        for finding in &report.findings {
            println!("{finding}");
        }
        assert!(report.is_as_asked());
        assert_eq!(report.findings.len(), 13);
    }

    fn connections_out_of_each_kind_of_site_come_from_where_they_should() {
        let lab = Lab::open_unchecked(every_kind()).unwrap();
        let p = lab.host("p").unwrap();
        let listener = listen(p, p.address().unwrap().into());
        let target = listener.local_addr().unwrap();
        for (site, gateway_seen, port_kept) in [("open", false, true), ("fw", false, true), ("masq", true, true), ("random", true, false)] {
            let host = lab.host(&format!("{site}2")).unwrap();
            let mut near = connect(host, target, PATIENCE).unwrap();
            let (mut far, from) = listener.accept().unwrap();
            let gateway = lab.host(&format!("gw-{site}")).unwrap().address().unwrap();
            let expected = if gateway_seen { gateway } else { host.address().unwrap() };
            assert_eq!(from.ip(), IpAddr::from(expected), "{site}");
            assert_eq!(from.port() == near.local_addr().unwrap().port(), port_kept, "{site}");
            send(&mut near, 0, 10_000).unwrap();
            receive(&mut far, 0, 10_000).unwrap();
            send(&mut far, 0, 10_000).unwrap();
            receive(&mut near, 0, 10_000).unwrap();
        }
        let shut = connect(lab.host("shut1").unwrap(), target, SILENCE).unwrap_err();
        assert_eq!(shut.kind(), ErrorKind::NetworkUnreachable);
        let proxied = connect(lab.host("proxy1").unwrap(), target, SILENCE).unwrap_err();
        assert_eq!(proxied.kind(), ErrorKind::TimedOut);
        // The one host that has a way out.
        connect(lab.host("gw-shut").unwrap(), target, PATIENCE).unwrap();
        connect(lab.host("shut1").unwrap(), listen_inside(&lab, "gw-shut"), PATIENCE).unwrap();
    }

    fn connections_into_sites_pass_only_where_they_should() {
        let lab = Lab::open_unchecked(every_kind()).unwrap();
        let p = lab.host("p").unwrap();
        for (site, passes) in [("open", true), ("fw", false), ("masq", false), ("random", false), ("shut", false), ("proxy", false)] {
            let host = lab.host(&format!("{site}1")).unwrap();
            let listener = listen(host, host.address().unwrap().into());
            let patience = if passes { PATIENCE } else { SILENCE };
            assert_eq!(connect(p, listener.local_addr().unwrap(), patience).is_ok(), passes, "{site}");
            let gateway = lab.host(&format!("gw-{site}")).unwrap();
            let listener = listen(gateway, gateway.address().unwrap().into());
            assert_eq!(connect(p, listener.local_addr().unwrap(), patience).is_ok(), passes, "gateway of {site}");
        }
        let [mut near, mut far] = connected(&lab, "masq1", "masq2");
        send(&mut near, 0, 1000).unwrap();
        receive(&mut far, 0, 1000).unwrap();
    }

    fn a_rejecting_gateway_answers_by_a_reset() {
        let topology = Topology::new()
            .host(HostSpec::new("p").public(Impairment::default()))
            .site(Site::new("a", SiteKind::Firewalled).reject());
        let lab = Lab::open(topology).unwrap();
        let host = lab.host("a1").unwrap();
        let listener = listen(host, host.address().unwrap().into());
        let refused = connect(lab.host("p").unwrap(), listener.local_addr().unwrap(), PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    fn a_reset_finds_connections_through_a_masquerading_gateway() {
        let topology = Topology::new()
            .host(HostSpec::new("p").public(Impairment::default()))
            .site(Site::new("a", SiteKind::Masquerading))
            .site(Site::new("b", SiteKind::Masquerading));
        let lab = Lab::open(topology).unwrap();
        let [_doomed, mut far] = connected(&lab, "a1", "p");
        let [mut near_b, mut far_b] = connected(&lab, "b1", "p");
        assert_eq!(lab.reset("p", "a1", common::ms(50)).unwrap(), 1);
        assert!(far.read(&mut [0; 1]).is_err());
        send(&mut near_b, 0, 1000).unwrap();
        receive(&mut far_b, 0, 1000).unwrap();
    }

    fn the_http_proxy_connects_by_name() {
        let topology = Topology::new()
            .host(HostSpec::new("p").public(Impairment::default()))
            .site(Site::new("a", SiteKind::ProxyOnly));
        let lab = Lab::open(topology).unwrap();
        let p = lab.host("p").unwrap();
        let listener = listen(p, p.address().unwrap().into());
        let port = listener.local_addr().unwrap().port();
        let mut near = connect(lab.host("a1").unwrap(), SocketAddr::from(([10, 1, 0, 1], HTTP_PORT)), PATIENCE).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(near, "CONNECT p:{port} HTTP/1.1\r\nHost: p:{port}\r\n\r\n").unwrap();
        let (mut far, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), IpAddr::from(lab.host("gw-a").unwrap().address().unwrap()));
        let mut lines = BufReader::new(near.try_clone().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "HTTP/1.1 200 Connection established");
        assert_eq!(lines.next().unwrap().unwrap(), "");
        send(&mut near, 0, 1_000_000 / 10).unwrap();
        receive(&mut far, 0, 1_000_000 / 10).unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0; 1]).unwrap(), 0, "the end comes through, too");
        let mut other = connect(lab.host("a1").unwrap(), SocketAddr::from(([10, 1, 0, 1], HTTP_PORT)), PATIENCE).unwrap();
        write!(other, "CONNECT nobody:1 HTTP/1.1\r\n\r\n").unwrap();
        let mut said = String::new();
        other.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 502"), "{said}");
    }

    fn proxies_ask_for_a_login_where_there_is_one() {
        let topology = Topology::new()
            .host(HostSpec::new("p").public(Impairment::default()))
            .site(Site::new("a", SiteKind::ProxyOnly).login("u", "secret"));
        // The self-check goes through the proxy with it.
        let lab = Lab::open(topology).unwrap();
        let p = lab.host("p").unwrap();
        let listener = listen(p, p.address().unwrap().into());
        let port = listener.local_addr().unwrap().port();
        let http = |login: &str| {
            let proxy = SocketAddr::from(([10, 1, 0, 1], HTTP_PORT));
            let mut near = connect(lab.host("a1").unwrap(), proxy, PATIENCE).unwrap();
            near.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(near, "CONNECT p:{port} HTTP/1.1\r\n{login}\r\n").unwrap();
            BufReader::new(near).lines().next().unwrap().unwrap()
        };
        assert!(http("").starts_with("HTTP/1.1 407"));
        assert!(http("Proxy-Authorization: Basic dTpzZWNyZXQ\r\n").starts_with("HTTP/1.1 407"));
        assert!(http("Proxy-Authorization: Basic dTpzZWNyZXQ=\r\n").starts_with("HTTP/1.1 200"));
        let socks = |hello: &[u8]| {
            let proxy = SocketAddr::from(([10, 1, 0, 1], SOCKS_PORT));
            let mut near = connect(lab.host("a1").unwrap(), proxy, PATIENCE).unwrap();
            near.set_read_timeout(Some(PATIENCE)).unwrap();
            near.write_all(hello).unwrap();
            let mut answer = Vec::new();
            // Refused connections end, sometimes by a reset as there was more to read.
            let _ = near.take(4).read_to_end(&mut answer);
            answer
        };
        let by_name = [&b"\x05\x01\x02\x01\x01u\x06secret\x05\x01\x00\x03\x01p"[..], &port.to_be_bytes()].concat();
        assert_eq!(socks(&by_name), [5, 2, 1, 0]);
        assert_eq!(socks(b"\x05\x01\x02\x01\x01u\x06public"), [5, 2, 1, 1]);
        assert_eq!(socks(b"\x05\x01\x00"), [5, 255]);
    }

    fn a_gateway_that_is_not_what_was_asked_is_noticed() {
        let lab = Lab::open_unchecked(every_kind()).unwrap();
        for site in ["fw", "masq", "random", "shut"] {
            let nft = lab.host(&format!("gw-{site}")).unwrap().command("nft").args(["flush", "ruleset"]);
            nft.output(PATIENCE).unwrap().success().unwrap();
        }
        // A way out that should not be there.
        let ip = lab.host("shut1").unwrap().command("ip").args(["route", "add", "default", "via", "10.5.0.1"]);
        ip.output(PATIENCE).unwrap().success().unwrap();
        let ip = lab.host("internet").unwrap().shell("ip route add 10.3.0.0/24 via 198.18.3.2; ip route add 10.4.0.0/24 via 198.18.4.2; ip route add 10.5.0.0/24 via 198.18.5.2");
        ip.output(PATIENCE).unwrap().success().unwrap();
        let Err(Error::NotAsAsked(findings)) = lab.check(&mut |_| {}).unwrap().into_result() else {
            panic!("gateways without rules passed the self-check");
        };
        for site in ["fw", "masq", "random", "shut"] {
            let subject = Subject::Site(site.to_owned());
            assert!(findings.iter().any(|finding| finding.subject == subject), "{site}: {findings:?}");
        }
    }

    fn sites_far_apart_meet_over_their_uplinks() {
        let far = Impairment::default().delay(common::ms(10)).mbit(50);
        let topology = Topology::new()
            .site(Site::new("a", SiteKind::Open).uplink(far))
            .site(Site::new("b", SiteKind::Open).uplink(far))
            .link(LinkSpec::between("a1", "b1").name("private"));
        let lab = Lab::open(topology).unwrap();
        let start = std::time::Instant::now();
        let [mut near, mut far] = connected(&lab, "a1", "b1");
        assert!(start.elapsed() >= common::ms(40), "a round trip over two uplinks");
        send(&mut near, 0, 100_000).unwrap();
        receive(&mut far, 0, 100_000).unwrap();
    }
}

/// An address on the inside of a gateway on which somebody listens for good.
fn listen_inside(lab: &Lab, gateway: &str) -> SocketAddr {
    let host = lab.host(gateway).unwrap();
    let inside = host.addresses().into_iter().find(|address| address.to_string().starts_with("10.")).unwrap();
    let listener = listen(host, inside);
    let address = listener.local_addr().unwrap();
    // The kernel accepts for it as long as it is open.
    std::mem::forget(listener);
    address
}
