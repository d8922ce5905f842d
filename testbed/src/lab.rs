//! A lab: brought up, changed, and gone when it is dropped.

pub(crate) mod bring_up;
mod play;
mod reset;

use crate::check::{self, Report};
use crate::error::Result;
use crate::host::Host;
use crate::link::{Link, LinkState};
use crate::namespace::Namespaces;
use crate::plan::Plan;
use crate::proxy::Proxy;
use crate::topology::Topology;
use std::time::Duration;

/// Hosts and links that are up. They are gone when this is dropped, or when the process ends, however it does.
#[derive(Debug)]
pub struct Lab {
    pub(crate) topology: Topology,
    pub(crate) plan: Plan,
    pub(crate) namespaces: Vec<Namespaces>,
    /// In the order of the plan. The relays in there end before the namespaces go.
    pub(crate) links: Vec<LinkState>,
    /// They end with the lab.
    #[allow(dead_code, reason = "held for its end")]
    proxies: Vec<Proxy>,
    /// What others of this user find; it ends with the lab.
    #[allow(dead_code, reason = "held open")]
    announcement: std::os::fd::OwnedFd,
}

impl Lab {
    /// Brings up a lab and checks it. It needs the rights of root in its user namespace: see [`sandbox`](crate::sandbox).
    ///
    /// # Errors
    /// [`Error::Topology`](crate::Error::Topology) for what cannot be, [`Error::Unavailable`](crate::Error::Unavailable)
    /// when this machine does not let us, [`Error::NotAsAsked`](crate::Error::NotAsAsked) when the self-check finds that
    /// a link or a site is not what was asked for.
    pub fn open(topology: Topology) -> Result<Lab> {
        let lab = Lab::open_unchecked(topology)?;
        lab.check(&mut |_| {})?.into_result()?;
        Ok(lab)
    }

    /// Brings up a lab.
    ///
    /// # Errors
    /// As [`open`](Lab::open), without the self-check.
    pub fn open_unchecked(topology: Topology) -> Result<Lab> {
        bring_up::bring_up(topology)
    }

    /// Measures each impaired link against what was asked, and probes each site. `progress` is told what comes next.
    ///
    /// # Errors
    /// When something cannot be measured at all; what is not as asked is in the report.
    pub fn check(&self, progress: &mut dyn FnMut(&str)) -> Result<Report> {
        check::check(self, progress)
    }

    /// What was asked for.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The host of that name.
    ///
    /// # Errors
    /// [`Error::NoSuch`](crate::Error::NoSuch)
    pub fn host(&self, name: &str) -> Result<Host<'_>> {
        Ok(Host { lab: self, index: self.plan.host(name)? })
    }

    /// The link of that name, `a-b` or `b-a` where it has none of its own.
    ///
    /// # Errors
    /// [`Error::NoSuch`](crate::Error::NoSuch)
    pub fn link(&self, name: &str) -> Result<Link<'_>> {
        Ok(Link { lab: self, index: self.plan.link(name)? })
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        (0..self.plan.hosts.len()).map(|index| Host { lab: self, index })
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = Link<'_>> {
        (0..self.plan.links.len()).map(|index| Link { lab: self, index })
    }

    /// Resets the TCP connections between two hosts that there are now, as a box on the way would: both sides get a
    /// reset, those that say nothing within `span` at one side only by their own kernel. Gives how many there were.
    ///
    /// # Errors
    /// [`Error::NoSuch`](crate::Error::NoSuch); [`Error::Setup`](crate::Error::Setup) when a tool fails.
    pub fn reset(&self, a: &str, b: &str, span: Duration) -> Result<usize> {
        reset::reset(self, self.plan.host(a)?, self.plan.host(b)?, span)
    }
}
