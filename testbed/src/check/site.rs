//! What the gateway of a site lets through, and what it makes of ports.

use super::{Finding, Subject, Verdict};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::Lab;
use crate::plan::{SitePlan, INTERNET};
use crate::proxy::SOCKS_PORT;
use crate::topology::{Login, SiteKind};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// Probes a site from its first host; one without hosts has nothing to probe.
pub(super) fn check(lab: &Lab, site: &SitePlan) -> Result<Vec<Finding>> {
    let Some(index) = site.hosts.first() else { return Ok(Vec::new()) };
    let probe = Probe {
        inside: Host { lab, index: *index },
        gateway: Host { lab, index: site.gateway },
        outside: lab.host(INTERNET)?,
        span: WAIT
            + 3 * lab
                .links()
                .map(|link| link.impairment().delay.0 + link.impairment().jitter.0)
                .max()
                .unwrap_or_default(),
    };
    let mut findings = Vec::new();
    let mut add = |what: &str, asked: &str, measured: String| {
        let verdict = Verdict::new(asked == measured);
        let subject = Subject::Site(site.name.clone());
        findings.push(Finding { subject, what: what.to_owned(), asked: asked.to_owned(), measured, verdict });
    };
    let seen = [probe.outward(FIRST_PORT)?, probe.outward(FIRST_PORT + 1)?];
    add("from inside", outward(site.kind), probe.describe(seen)?);
    add("from outside", if site.kind == SiteKind::Open { PASSES } else { BLOCKED }, probe.inward()?);
    if site.kind == SiteKind::ProxyOnly {
        add("by the proxy", PASSES, probe.by_proxy(site.login.as_ref())?);
    }
    Ok(findings)
}

/// What is seen from outside of a datagram from inside.
fn outward(kind: SiteKind) -> &'static str {
    match kind {
        SiteKind::Open | SiteKind::Firewalled => "own address and port",
        SiteKind::Masquerading => "the gateway's address, own port",
        SiteKind::RandomMasquerading => "the gateway's address, another port",
        SiteKind::NoWayOut | SiteKind::ProxyOnly => BLOCKED,
    }
}

struct Probe<'lab> {
    inside: Host<'lab>,
    gateway: Host<'lab>,
    outside: Host<'lab>,
    span: Duration,
}

impl Probe<'_> {
    /// Sends datagrams from a port inside; gives the address and port that they come from, seen outside.
    fn outward(&self, port: u16) -> Result<Option<(SocketAddr, u16)>> {
        let (inside, outside) = (self.bind(&self.inside, port)?, self.bind(&self.outside, 0)?);
        let target = outside.local_addr()?;
        Ok(self.knock(&inside, &outside, target)?.map(|from| (from, port)))
    }

    fn describe(&self, seen: [Option<(SocketAddr, u16)>; 2]) -> Result<String> {
        let [Some(first), Some(second)] = seen else {
            return Ok(if seen == [None, None] {
                BLOCKED.to_owned()
            } else {
                "sometimes blocked".to_owned()
            });
        };
        let gateway = self.gateway.address()?;
        let address = match first.0.ip() {
            from if from == self.inside.address()? => "own address",
            from if from == gateway => "the gateway's address",
            _ => "a strange address",
        };
        // A random port is the same as before once in tens of thousands; twice it is no chance.
        let same = [first, second].iter().all(|(from, port)| from.port() == *port);
        Ok(match (address, same) {
            ("own address", true) => "own address and port".to_owned(),
            (address, true) => format!("{address}, own port"),
            (address, false) => format!("{address}, another port"),
        })
    }

    /// Sends datagrams from outside to a host inside that has asked nobody.
    fn inward(&self) -> Result<String> {
        let (inside, outside) = (self.bind(&self.inside, 0)?, self.bind(&self.outside, 0)?);
        let target = inside.local_addr()?;
        let came = self.knock(&outside, &inside, target)?;
        Ok(if came.is_some() { PASSES } else { BLOCKED }.to_owned())
    }

    fn by_proxy(&self, login: Option<&Login>) -> Result<String> {
        let listener = self.outside.run(|| TcpListener::bind((own(&self.outside)?, 0)))??;
        let SocketAddr::V4(target) = listener.local_addr()? else {
            return Err(Error::setup(INTERNET, "no IPv4 address"));
        };
        // The bridge's address is the gateway's on the inside.
        let proxy =
            self.gateway.addresses().into_iter().find(|address| address.to_string().starts_with("10."));
        let proxy = proxy.ok_or_else(|| Error::setup(self.gateway.name(), "no address inside"))?;
        let talk = || -> io::Result<u8> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(proxy, SOCKS_PORT), PROXY_WAIT)?;
            stream.set_read_timeout(Some(PROXY_WAIT))?;
            let mut hello = vec![5, 1, if login.is_some() { 2 } else { 0 }];
            let mut length = 2;
            if let Some(login) = login {
                // The plan has checked the lengths.
                hello.extend([1, login.user.len() as u8]);
                hello.extend(login.user.as_bytes());
                hello.push(login.password.len() as u8);
                hello.extend(login.password.as_bytes());
                length += 2;
            }
            hello.extend([5, 1, 0, 1]);
            hello.extend(target.ip().octets());
            hello.extend(target.port().to_be_bytes());
            stream.write_all(&hello)?;
            let mut answer = vec![0; length + 2];
            stream.read_exact(&mut answer)?;
            Ok(answer[length + 1])
        };
        Ok(match self.inside.run(talk)? {
            Ok(0) => PASSES.to_owned(),
            Ok(reply) => format!("refused with {reply}"),
            Err(e) => e.to_string(),
        })
    }

    fn bind(&self, host: &Host<'_>, port: u16) -> Result<UdpSocket> {
        let address = own(host)?;
        Ok(host.run(|| UdpSocket::bind((address, port)))??)
    }

    /// Sends until something comes, or enough time has gone; gives where it came from.
    fn knock(&self, from: &UdpSocket, to: &UdpSocket, target: SocketAddr) -> Result<Option<SocketAddr>> {
        to.set_read_timeout(Some(self.span / KNOCKS))?;
        for _ in 0..KNOCKS {
            // No route is one of the ways to be blocked.
            let _ = from.send_to(b"knock", target);
            match to.recv_from(&mut [0; 16]) {
                Ok((_, from)) => return Ok(Some(from)),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }
}

fn own(host: &Host<'_>) -> io::Result<Ipv4Addr> {
    host.address().map_err(io::Error::other)
}

const PASSES: &str = "passes";
const BLOCKED: &str = "blocked";
/// Below the range of ports that the kernel gives out by itself.
const FIRST_PORT: u16 = 20_011;
/// How long something may take that is expected not to come, besides the delays of links.
const WAIT: Duration = Duration::from_millis(400);
/// A link may lose some of them.
const KNOCKS: u32 = 8;
const PROXY_WAIT: Duration = Duration::from_secs(20);
