//! A host of a lab.

use crate::command::HostCommand;
use crate::error::{Error, Result};
use crate::lab::bring_up::{add_address, add_route};
use crate::lab::Lab;
use crate::namespace::Namespaces;
use crate::plan::bare;
use crate::testing;
use crate::tool;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};

/// A host of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Host<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) index: usize,
}

impl<'lab> Host<'lab> {
    /// Its name.
    pub fn name(&self) -> &'lab str {
        &self.lab.plan.hosts[self.index].name
    }

    /// What it is: `internet`, `gateway (masquerading)`, `site a`, `router` or `host`.
    pub fn role(&self) -> String {
        let plan = &self.lab.plan;
        let host = &plan.hosts[self.index];
        match host.site.map(|site| &plan.sites[site]) {
            Some(site) if site.gateway == self.index => format!("gateway ({})", site.kind),
            Some(site) => format!("site {}", site.name),
            None if host.name == crate::plan::INTERNET => "internet".to_owned(),
            None if host.forwards => "router".to_owned(),
            None => "host".to_owned(),
        }
    }

    /// The addresses that it was given, the one that others reach best first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lab.plan.addresses(self.index)
    }

    /// Its first IPv4 address.
    ///
    /// # Errors
    /// [`Error::Setup`] when it has none.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let first = self.addresses().into_iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        first.ok_or_else(|| Error::setup(self.name(), "the host has no IPv4 address"))
    }

    /// A command that is to run in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> HostCommand {
        HostCommand::new(program.as_ref(), self.name(), self.namespaces().clone())
    }

    /// A line for the shell that is to run in it.
    pub fn shell(&self, line: &str) -> HostCommand {
        self.command("sh").args(["-c", line])
    }

    /// A test of the running test program that is to run in it, such as one that is ignored and plays a part of another:
    /// it gets what it needs by variables.
    ///
    /// # Errors
    /// When the path of the program cannot be known.
    pub fn test(&self, name: &str) -> Result<HostCommand> {
        Ok(self.command(std::env::current_exe()?).args(testing::one_test(name)))
    }

    /// Runs `work` on a thread in the network of this host: sockets that are made there stay there, whoever uses them.
    /// Files are those of the caller.
    ///
    /// # Errors
    /// When the network cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespaces().run(work)
    }

    /// Adds an address with prefix length to an interface, and whatever routes of the plan that lets come back.
    ///
    /// # Errors
    /// When the tool refuses it.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        tool::ip(self.namespaces(), &add_address(address, interface))?;
        let routes: Vec<String> =
            self.lab.plan.hosts[self.index].routes.iter().map(|route| add_route(route)).collect();
        tool::ip_forced(self.namespaces(), &routes.join("\n"))
    }

    /// Removes an address, given without prefix length.
    ///
    /// # Errors
    /// When the host does not have it.
    pub fn remove_address(&self, address: &str) -> Result<()> {
        let wanted: IpAddr = address
            .parse()
            .map_err(|_| Error::setup(address, "no address: accepted are such as 192.168.7.1"))?;
        let said = self.command("ip").args(["-o", "address", "show"]).output(TOOL_TIMEOUT)?.success()?;
        let found = said.lines().find_map(|line| {
            // NUMBER: INTERFACE inet ADDRESS[/LENGTH] [peer ADDRESS/LENGTH] ...
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, interface, _, own, rest @ ..] = words.as_slice() else { return None };
            let peer = if let ["peer", peer, ..] = rest { format!(" peer {peer}") } else { String::new() };
            (bare(own) == Some(wanted)).then(|| format!("address del {own}{peer} dev {interface}"))
        });
        let line =
            found.ok_or_else(|| Error::setup(self.name(), format!("the host has no address {address}")))?;
        tool::ip(self.namespaces(), &line)
    }

    pub(crate) fn namespaces(&self) -> &'lab Namespaces {
        &self.lab.namespaces[self.index]
    }
}

/// Listing addresses takes milliseconds.
const TOOL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
