//! Sites and public hosts around the host `internet`.

use super::{rules, EndPlan, HostPlan, Plan, SitePlan, INTERNET, INTERNET_ADDRESS, LAN};
use crate::error::{Error, Result};
use crate::impairment::Impairment;
use crate::topology::{Site, SiteKind};

impl Plan {
    pub(super) fn add_internet(&mut self) -> Result<()> {
        self.push_host(HostPlan {
            name: INTERNET.to_owned(),
            forwards: true,
            addresses: vec![("lo", format!("{INTERNET_ADDRESS}/32")), ("lo", "fd00:192::1/128".to_owned())],
            ..HostPlan::default()
        })?;
        Ok(())
    }

    /// Site `number`, from 1: gateway, uplink, hosts.
    pub(super) fn add_site(&mut self, number: usize, site: &Site) -> Result<()> {
        if number > MOST_SITES {
            return Err(Error::Topology(format!("more than {MOST_SITES} sites")));
        }
        check_login(site)?;
        let internet = self.host(INTERNET)?;
        let gateway = self.push_host(HostPlan {
            name: format!("gw-{}", site.name),
            site: Some(self.sites.len()),
            forwards: true,
            bridges: true,
            addresses: vec![(LAN, format!("10.{number}.0.1/24")), (LAN, format!("fd00:10:{number}::1/64"))],
            routes: vec![
                format!("default via 198.18.{number}.1"),
                format!("default via fd00:198:{number}::1"),
            ],
            rules: rules::gateway(site.kind, site.reject),
            ..HostPlan::default()
        })?;
        let uplink = |end| vec![format!("198.18.{number}.{end}/24"), format!("fd00:198:{number}::{end}/64")];
        let ends = [self.end(gateway, uplink(2)), self.end(internet, uplink(1))];
        self.push_link(format!("{}-{INTERNET}", site.name), ends, site.uplink, false)?;
        if site.kind.is_routed() {
            self.hosts[internet].routes.extend([
                format!("10.{number}.0.0/24 via 198.18.{number}.2"),
                format!("fd00:10:{number}::/64 via fd00:198:{number}::2"),
            ]);
        }
        let hosts = (1..=site.hosts).map(|host| self.add_site_host(number, site, gateway, host));
        let hosts = hosts.collect::<Result<_>>()?;
        let (name, login) = (site.name.clone(), site.login.clone());
        self.sites.push(SitePlan { name, kind: site.kind, login, gateway, hosts });
        Ok(())
    }

    fn add_site_host(&mut self, number: usize, site: &Site, gateway: usize, host: u8) -> Result<usize> {
        if host > MOST_HOSTS {
            return Err(Error::Topology(format!("site {:?} has more than {MOST_HOSTS} hosts", site.name)));
        }
        let mut routes = Vec::new();
        // Behind a proxy there is a route, and nothing comes of it; with no way out there is not even that.
        if site.kind != SiteKind::NoWayOut {
            routes = vec![format!("default via 10.{number}.0.1"), format!("default via fd00:10:{number}::1")];
        }
        let name = format!("{}{host}", site.name);
        let link = format!("{name}-{LAN}");
        let index =
            self.push_host(HostPlan { name, site: Some(self.sites.len()), routes, ..HostPlan::default() })?;
        let last = 10 + host;
        let addresses = vec![format!("10.{number}.0.{last}/24"), format!("fd00:10:{number}::{last}/64")];
        let port =
            EndPlan { host: gateway, interface: format!("port{host}"), addresses: Vec::new(), port: true };
        let ends = [self.end(index, addresses), port];
        self.push_link(link, ends, Impairment::default(), false)?;
        Ok(index)
    }

    /// Puts `host` on the public network.
    pub(super) fn make_public(&mut self, host: usize, uplink: Impairment) -> Result<()> {
        let internet = self.host(INTERNET)?;
        let number = self.links.iter().filter(|link| is_public(&link.ends[0])).count() + 1;
        if number > MOST_PUBLIC {
            return Err(Error::Topology(format!("more than {MOST_PUBLIC} public hosts")));
        }
        let (own, net) = (format!("203.0.113.{number}"), format!("fd00:203:{number}:"));
        let near = vec![format!("{own} peer {ROUTER}/32"), format!("{net}:1/64")];
        let far = vec![format!("{ROUTER} peer {own}/32"), format!("{net}:2/64")];
        self.hosts[host].routes.extend([format!("default via {ROUTER}"), format!("default via {net}:2")]);
        let ends = [self.end(host, near), self.end(internet, far)];
        let name = format!("{}-{INTERNET}", self.hosts[host].name);
        self.push_link(name, ends, uplink, false)
    }
}

fn check_login(site: &Site) -> Result<()> {
    let Some(login) = &site.login else { return Ok(()) };
    let fits = |text: &str| (1..=255).contains(&text.len()) && !text.contains(|c: char| c.is_control());
    if site.kind != SiteKind::ProxyOnly {
        return Err(Error::Topology(format!("site {:?}: login goes with the kind proxy-only", site.name)));
    }
    if fits(&login.user) && fits(&login.password) && !login.user.contains(':') {
        return Ok(());
    }
    Err(Error::Topology(format!(
        "site {:?}: login: accepted are a user and a password of 1 to 255 bytes, no colon in the user",
        site.name
    )))
}

fn is_public(end: &EndPlan) -> bool {
    end.addresses.first().is_some_and(|address| address.starts_with("203.0.113."))
}

/// What public hosts see of `internet`: the same on each of their links.
const ROUTER: &str = "203.0.113.254";

/// What fits between 1 and 254 in the addresses above.
const MOST_SITES: usize = 250;
const MOST_HOSTS: u8 = 240;
const MOST_PUBLIC: usize = 250;
