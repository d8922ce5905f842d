//! Reads a topology from TOML. Whatever is not understood is an error that names the line, the key and what is accepted.

use crate::error::{Error, Result};
use crate::impairment::{Change, Impairment};
use crate::topology::{Action, Event, HostSpec, LinkSpec, Login, Run, Site, SiteKind, Topology};
use crate::units::{Bytes, Loss, Rate, Span};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

impl Topology {
    /// Reads a topology.
    ///
    /// # Errors
    /// [`Error::Topology`] for what is not understood.
    pub fn parse(text: &str) -> Result<Topology> {
        let file: File =
            toml::from_str(text).map_err(|e| Error::Topology(e.to_string().trim_end().to_owned()))?;
        file.into_topology().map_err(Error::Topology)
    }

    /// Reads a topology from a file.
    ///
    /// # Errors
    /// [`Error::Topology`] when it cannot be read, or for what is not understood.
    pub fn read(path: &Path) -> Result<Topology> {
        let failed = |why: String| Error::Topology(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Topology::parse(&text).map_err(|error| match error {
            Error::Topology(why) => failed(why),
            other => other,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seed: Option<u64>,
    #[serde(default)]
    site: Vec<FileSite>,
    #[serde(default)]
    host: Vec<FileHost>,
    #[serde(default)]
    link: Vec<FileLink>,
    #[serde(default)]
    event: Vec<FileEvent>,
    #[serde(default)]
    run: Vec<FileRun>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSite {
    name: String,
    kind: SiteKind,
    #[serde(default = "one")]
    hosts: u8,
    #[serde(default)]
    reject: bool,
    login: Option<Login>,
    #[serde(default)]
    uplink: Impairment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHost {
    name: String,
    #[serde(default)]
    public: bool,
    uplink: Option<Impairment>,
    #[serde(default)]
    router: bool,
    #[serde(default)]
    routes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLink {
    between: [String; 2],
    name: Option<String>,
    addresses: Option<[String; 2]>,
    #[serde(default)]
    relay: bool,
    delay: Option<Span>,
    jitter: Option<Span>,
    rate: Option<Rate>,
    loss: Option<Loss>,
    queue: Option<Bytes>,
    #[serde(default)]
    blackout: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileEvent {
    at: Span,
    link: Option<String>,
    blackout: Option<bool>,
    delay: Option<Span>,
    jitter: Option<Span>,
    rate: Option<Rate>,
    loss: Option<Loss>,
    queue: Option<Bytes>,
    reset: Option<[String; 2]>,
    host: Option<String>,
    interface: Option<String>,
    add_address: Option<String>,
    remove_address: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRun {
    host: String,
    command: String,
    #[serde(default)]
    background: bool,
    timeout: Option<Span>,
}

impl File {
    fn into_topology(self) -> std::result::Result<Topology, String> {
        let mut topology = Topology { seed: self.seed.unwrap_or(1), ..Topology::default() };
        topology.sites = self.site.into_iter().map(FileSite::into_site).collect();
        topology.hosts =
            self.host.into_iter().map(FileHost::into_host).collect::<std::result::Result<_, _>>()?;
        for link in self.link {
            let (link, events) = link.into_link()?;
            topology.links.push(link);
            topology.events.extend(events);
        }
        for event in self.event {
            topology.events.push(event.into_event()?);
        }
        topology.events.sort_by_key(|event| event.at);
        topology.runs = self.run.into_iter().map(FileRun::into_run).collect();
        Ok(topology)
    }
}

impl FileSite {
    fn into_site(self) -> Site {
        let FileSite { name, kind, hosts, reject, login, uplink } = self;
        Site { name, kind, hosts, reject, login, uplink }
    }
}

impl FileHost {
    fn into_host(self) -> std::result::Result<HostSpec, String> {
        if self.uplink.is_some() && !self.public {
            return Err(format!("host {:?}: uplink goes with public = true only", self.name));
        }
        let public = self.public.then(|| self.uplink.unwrap_or_default());
        Ok(HostSpec { name: self.name, public, router: self.router, routes: self.routes })
    }
}

impl FileLink {
    fn into_link(self) -> std::result::Result<(LinkSpec, Vec<Event>), String> {
        let change = Change {
            delay: self.delay,
            jitter: self.jitter,
            rate: self.rate,
            loss: self.loss,
            queue: self.queue,
        };
        let link = LinkSpec {
            name: self.name,
            between: self.between,
            addresses: self.addresses,
            relay: self.relay,
            impairment: Impairment::default().changed(&change),
        };
        let name = link.name.clone().unwrap_or_else(|| link.between.join("-"));
        let mut events = Vec::new();
        for window in self.blackout {
            for (at, on) in blackout(&window)?.into_iter().zip([true, false]) {
                events.push(Event { at, action: Action::Blackout { link: name.clone(), on } });
            }
        }
        Ok((link, events))
    }
}

/// Beginning and end of `3s..6s`.
fn blackout(window: &str) -> std::result::Result<[Duration; 2], String> {
    let refused = |why: &str| format!("blackout {window:?}: {why}, such as \"3s..6s\"");
    let (from, to) =
        window.split_once("..").ok_or_else(|| refused("accepted are two times with .. between"))?;
    let time = |text: &str| text.parse::<Span>().map(|span| span.0).map_err(|why| refused(&why));
    let [from, to] = [time(from)?, time(to)?];
    if from >= to {
        return Err(refused("the end is to come after the beginning"));
    }
    Ok([from, to])
}

impl FileEvent {
    fn into_event(self) -> std::result::Result<Event, String> {
        let at = self.at;
        let refused = |why: &str| format!("event at {at}: {why}; {ACCEPTED_EVENTS}");
        let change = Change {
            delay: self.delay,
            jitter: self.jitter,
            rate: self.rate,
            loss: self.loss,
            queue: self.queue,
        };
        let changes = change != Change::default();
        let subjects = [self.link.is_some(), self.reset.is_some(), self.host.is_some()];
        if subjects.iter().filter(|given| **given).count() != 1 {
            return Err(refused("exactly one of link, reset and host is to be given"));
        }
        let stray = self.link.is_none() && (self.blackout.is_some() || changes)
            || self.host.is_none()
                && (self.interface.is_some() || self.add_address.is_some() || self.remove_address.is_some());
        if stray {
            return Err(refused("a key does not go with the others"));
        }
        let action = match (self.link, self.reset, self.host) {
            (Some(link), ..) => match self.blackout {
                Some(on) if !changes => Action::Blackout { link, on },
                None if changes => Action::Change { link, change },
                _ => return Err(refused("a link needs blackout or what changes, not both")),
            },
            (_, Some(between), _) => Action::Reset { between },
            (_, _, host) => {
                let host = host.unwrap_or_default();
                match (self.remove_address, self.add_address, self.interface) {
                    (Some(address), None, None) => Action::RemoveAddress { host, address },
                    (None, Some(address), Some(interface)) => Action::AddAddress { host, interface, address },
                    _ => return Err(refused("a host needs remove-address, or add-address and interface")),
                }
            }
        };
        Ok(Event { at: at.0, action })
    }
}

impl FileRun {
    fn into_run(self) -> Run {
        let timeout = self.timeout.map_or(RUN_TIMEOUT, |span| span.0);
        Run { host: self.host, command: self.command, background: self.background, timeout }
    }
}

fn one() -> u8 {
    1
}

/// Long enough for a transfer over a bad link, short enough that a hanging one is noticed.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);

const ACCEPTED_EVENTS: &str =
    "accepted are link with blackout = true or false; link with delay, jitter, rate, loss or \
    queue; reset = [\"a\", \"b\"]; host with remove-address; host with interface and add-address";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_file_can_say_is_read() {
        let topology = Topology::parse(include_str!("../tests/full.toml")).unwrap();
        assert_eq!(topology.sites.len(), 3);
        assert_eq!(topology.sites[2], Site::new("c", SiteKind::ProxyOnly).login("u", "secret"));
        assert_eq!(
            topology.sites[0].uplink,
            Impairment::default().delay(Duration::from_millis(10)).mbit(100)
        );
        assert_eq!(topology.hosts[0].public, Some(Impairment::default()));
        assert_eq!(topology.links[0].impairment.loss, Loss::percent(0.1));
        let times: Vec<u64> = topology.events.iter().map(|event| event.at.as_secs()).collect();
        assert_eq!(times, [1, 3, 4, 5, 6, 7]);
        assert!(topology.runs[0].background && topology.runs[1].timeout == Duration::from_secs(20));
    }

    #[test]
    fn the_topology_of_the_page_is_one() {
        let page = include_str!("../../docs/lab.md");
        let text = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let topology = Topology::parse(text).unwrap();
        crate::plan::Plan::new(&topology).unwrap();
        assert_eq!((topology.sites.len(), topology.events.len(), topology.runs.len()), (1, 3, 1));
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_is_accepted() {
        for (text, bad, accepted) in [
            ("[[link]]\nbetween = ['a', 'b']\ndely = '1ms'", "dely", "delay"),
            ("[[link]]\nbetween = ['a', 'b']\ndelay = '1'", "\"1\"", "25ms"),
            ("[[link]]\nbetween = ['a']", "between", "length 2"),
            ("[[link]]\nbetween = ['a', 'b']\nblackout = ['3s']", "3s", "3s..6s"),
            ("[[link]]\nbetween = ['a', 'b']\nblackout = ['3s..2s']", "3s..2s", "after"),
            ("[[site]]\nname = 'a'\nkind = 'nat'", "nat", "masquerading (masq)"),
            ("[[site]]\nname = 'a'\nkind = 'open'\nuplink = { speed = '1mbit' }", "speed", "rate"),
            ("[[sites]]\nname = 'a'", "sites", "site"),
            ("[[host]]\nname = 'a'\nuplink = {}", "uplink", "public = true"),
            ("[[event]]\nat = '1s'\nlink = 'x'", "blackout", "remove-address"),
            ("[[event]]\nat = '1s'\nlink = 'x'\nblackout = true\nrate = '1mbit'", "not both", "reset"),
            ("[[event]]\nat = '1s'\nreset = ['a', 'b']\nrate = '1mbit'", "does not go", "reset"),
            ("[[event]]\nat = '1s'", "exactly one", "link"),
            ("[[event]]\nat = '1s'\nhost = 'a'\nadd-address = '10.0.0.1/8'", "interface", "add-address"),
            ("[[run]]\nhost = 'a'", "command", "missing"),
        ] {
            let said = Topology::parse(text).unwrap_err().to_string();
            assert!(said.contains(bad) && said.contains(accepted), "{text}\n{said}");
        }
    }
}
