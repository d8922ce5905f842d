//! From a plan to namespaces, interfaces, addresses, routes, rules and relays.

use super::Lab;
use crate::attach;
use crate::error::{Error, Result};
use crate::link::LinkState;
use crate::namespace::Namespaces;
use crate::plan::{bare, EndPlan, HostPlan, LinkPlan, Plan, LAN};
use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::tool;
use crate::topology::{SiteKind, Topology};
use crate::wire::Wire;
use nix::ifaddrs::{getifaddrs, InterfaceAddress};
use nix::net::if_::InterfaceFlags;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) fn bring_up(topology: Topology) -> Result<Lab> {
    let mut plan = Plan::new(&topology)?;
    tool::check()?;
    if !Path::new("/proc/sys/net/ipv6").exists() {
        forget_ipv6(&mut plan);
    }
    let names = names(&plan);
    let text = hosts_file(&plan, &names);
    let namespaces: Vec<Namespaces> =
        plan.hosts.iter().map(|host| Namespaces::create(&host.name, &text)).collect::<Result<_>>()?;
    for (host, namespace) in plan.hosts.iter().zip(&namespaces) {
        namespace.run(|| set_kernel(host.forwards))??;
    }
    let wires = make_interfaces(&plan, &namespaces)?;
    for (index, namespace) in namespaces.iter().enumerate() {
        tool::ip(namespace, &interfaces(&plan, index))?;
    }
    for (index, (host, namespace)) in plan.hosts.iter().zip(&namespaces).enumerate() {
        wait_for_carrier(&plan, index, namespace)?;
        tool::ip(namespace, &addresses(&plan, index))?;
        if !host.rules.is_empty() {
            tool::nft(namespace, &host.rules)?;
        }
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        wait_for_ipv6(&plan, index, namespace)?;
    }
    let links = plan.links.iter().enumerate().map(|(index, link)| {
        let relay = link.relayed.then(|| relay(&topology, index, link, wires.as_ref())).transpose()?;
        Ok(LinkState::new(link.impairment, relay))
    });
    let links = links.collect::<Result<Vec<_>>>()?;
    let proxies = proxies(&plan, &namespaces, names)?;
    let hosts = plan.hosts.iter().map(|host| host.name.as_str());
    let announcement = attach::announce(hosts.zip(&namespaces))?;
    let lab = Lab { topology, plan, namespaces, links, proxies, announcement };
    for link in lab.links() {
        link.apply()?;
    }
    Ok(lab)
}

/// The name of each host with its addresses.
fn names(plan: &Plan) -> HashMap<String, Vec<IpAddr>> {
    plan.hosts.iter().enumerate().map(|(index, host)| (host.name.clone(), plan.addresses(index))).collect()
}

/// `/etc/hosts`: the first address of each family.
fn hosts_file(plan: &Plan, names: &HashMap<String, Vec<IpAddr>>) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for host in &plan.hosts {
        let addresses = names.get(&host.name).map_or(&[][..], Vec::as_slice);
        for is_v4 in [true, false] {
            if let Some(address) = addresses.iter().find(|address| address.is_ipv4() == is_v4) {
                text += &format!("{address} {}\n", host.name);
            }
        }
    }
    text
}

/// A kernel without IPv6: the lab has none, either.
fn forget_ipv6(plan: &mut Plan) {
    let is_v4 = |text: &String| !text.contains(':');
    for host in &mut plan.hosts {
        host.routes.retain(is_v4);
        host.addresses.retain(|(_, address)| is_v4(address));
    }
    for end in plan.links.iter_mut().flat_map(|link| &mut link.ends) {
        end.addresses.retain(is_v4);
    }
}

/// Settings of the calling thread's network. A new network takes some from the machine's first one, which may be anything.
fn set_kernel(forwards: bool) -> Result<()> {
    let forwarding = if forwards { "1" } else { "0" };
    let settings = [
        ("ipv4/ip_forward", forwarding),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        // Nobody else has our addresses; looking for them takes a second, in which they cannot be used.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/all/forwarding", forwarding),
    ];
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        if Path::new(&path).exists() {
            fs::write(&path, value).map_err(|e| Error::setup(&path, e))?;
        }
    }
    Ok(())
}

/// Makes all virtual cables, straight into the hosts; gives the network of the relays, if there is one.
fn make_interfaces(plan: &Plan, namespaces: &[Namespaces]) -> Result<Option<Namespaces>> {
    let relays = plan.links.iter().any(|link| link.relayed);
    let wires = relays.then(|| Namespaces::create("relay", "")).transpose()?;
    if let Some(wires) = &wires {
        // The kernel is to say nothing of its own on the wires.
        let silent = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        if Path::new("/proc/sys/net/ipv6").exists() {
            wires.run(silent)?.map_err(|e| Error::setup("the network of the relays", e))?;
        }
    }
    let mut lines = String::new();
    for (index, link) in plan.links.iter().enumerate() {
        // Without ARP frames go to the interface's own hardware address; as both ends have the same one they arrive.
        let mac = format!("02:00:00:00:{:02x}:{:02x}", index / 256, index % 256);
        let near = |end: &EndPlan| {
            let address = if is_lan(link) { String::new() } else { format!("address {mac} ") };
            format!("{} {address}netns {}", end.interface, namespaces[end.host].network_path())
        };
        match &wires {
            Some(wires) if link.relayed => {
                for (number, end) in link.ends.iter().enumerate() {
                    let far = format!("{} netns {}", wire_name(index, number), wires.network_path());
                    _ = writeln!(lines, "link add {} type veth peer name {far}", near(end));
                }
            }
            _ => {
                let [a, b] = [&link.ends[0], &link.ends[1]].map(near);
                _ = writeln!(lines, "link add {a} type veth peer name {b}");
            }
        }
    }
    tool::ip(&namespaces[0], &lines)?;
    if let Some(wires) = &wires {
        let mut up = String::new();
        for (index, _) in plan.links.iter().enumerate().filter(|(_, link)| link.relayed) {
            for number in 0..2 {
                _ = writeln!(up, "link set {} up", wire_name(index, number));
            }
        }
        tool::ip(wires, &up)?;
    }
    Ok(wires)
}

/// What `ip` is to do in a host once its interfaces are there.
fn interfaces(plan: &Plan, index: usize) -> String {
    let mut lines = "link set lo up\n".to_owned();
    if plan.hosts[index].bridges {
        _ = writeln!(lines, "link add {LAN} type bridge forward_delay 0\nlink set {LAN} up");
    }
    for (link, end) in ends(plan, index) {
        let how = match (end.port, is_lan(link)) {
            (true, _) => format!("master {LAN} "),
            (false, true) => String::new(),
            (false, false) => "arp off ".to_owned(),
        };
        _ = writeln!(lines, "link set {} {how}up", end.interface);
    }
    lines
}

/// What `ip` is to do in a host once its interfaces are up.
fn addresses(plan: &Plan, index: usize) -> String {
    let host: &HostPlan = &plan.hosts[index];
    let of_links = ends(plan, index)
        .flat_map(|(_, end)| end.addresses.iter().map(|address| add_address(address, &end.interface)));
    let others = host.addresses.iter().map(|(interface, address)| add_address(address, interface));
    let routes = host.routes.iter().map(|route| add_route(route));
    of_links.chain(others).chain(routes).map(|line| line + "\n").collect()
}

/// The ends of links at a host.
fn ends(plan: &Plan, index: usize) -> impl Iterator<Item = (&LinkPlan, &EndPlan)> {
    let ends = plan.links.iter().flat_map(|link| link.ends.iter().map(move |end| (link, end)));
    ends.filter(move |(_, end)| end.host == index)
}

/// The kernel notices in its own time that the other end of a cable is up; before that it takes no IPv6 routes. The sign
/// that it has is the address that it gives to the interface by itself.
fn wait_for_carrier(plan: &Plan, index: usize, namespace: &Namespaces) -> Result<()> {
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let wanted = || ends(plan, index).filter(|(_, end)| !end.port).map(|(_, end)| end.interface.clone());
    wait_for(&plan.hosts[index].name, || {
        let ready = namespace.run(|| ready(has_ipv6))??;
        Ok(wanted().find(|name| !ready.contains(name)))
    })
}

/// An IPv6 address is there at once, and can be reached when the kernel comes to it.
fn wait_for_ipv6(plan: &Plan, index: usize, namespace: &Namespaces) -> Result<()> {
    let addresses: Vec<IpAddr> = plan.addresses(index).into_iter().filter(IpAddr::is_ipv6).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    wait_for(&plan.hosts[index].name, || {
        let routes = namespace.run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route"))??;
        let is_missing = |address: &&IpAddr| match address {
            IpAddr::V6(address) => !routes.contains(&format!("{:032x} 80 ", u128::from(*address))),
            IpAddr::V4(_) => false,
        };
        Ok(addresses.iter().find(is_missing).map(IpAddr::to_string))
    })
}

/// Waits until nothing is missing any more: conditions in the kernel that nobody tells us of.
fn wait_for(host: &str, missing: impl Fn() -> Result<Option<String>>) -> Result<()> {
    let end = Instant::now() + KERNEL;
    while let Some(missing) = missing()? {
        if Instant::now() >= end {
            return Err(Error::Timeout {
                what: format!("{missing} of host {host}"),
                after: KERNEL,
                said: String::new(),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The interfaces of this thread's network that can be used.
fn ready(has_ipv6: bool) -> nix::Result<Vec<String>> {
    let is_ready = |interface: &InterfaceAddress| {
        let address = interface.address.as_ref();
        interface.flags.contains(InterfaceFlags::IFF_RUNNING)
            && (!has_ipv6 || address.is_some_and(|address| address.as_sockaddr_in6().is_some()))
    };
    Ok(getifaddrs()?.filter(is_ready).map(|interface| interface.interface_name).collect())
}

/// It takes milliseconds on a quiet machine.
const KERNEL: Duration = Duration::from_secs(20);

/// The line of `ip` that adds an address.
pub(crate) fn add_address(address: &str, interface: &str) -> String {
    let nodad = if bare(address).is_some_and(|address| address.is_ipv6()) { " nodad" } else { "" };
    format!("address add {address} dev {interface}{nodad}")
}

/// The line of `ip` that adds a route, or finds it there.
pub(crate) fn add_route(route: &str) -> String {
    format!("route replace {route}")
}

/// On a local network hosts find one another by ARP, as ever.
fn is_lan(link: &LinkPlan) -> bool {
    link.ends.iter().any(|end| end.port)
}

fn wire_name(link: usize, end: usize) -> String {
    format!("l{link}e{end}")
}

fn relay(topology: &Topology, index: usize, link: &LinkPlan, wires: Option<&Namespaces>) -> Result<Relay> {
    let network = wires.ok_or_else(|| Error::setup(&link.name, "the relays have no network"))?;
    let [a, b] = network.run(|| [0, 1].map(|end| Wire::open(&wire_name(index, end))))?;
    // Far enough from each other that no two dice roll the same way.
    let seed = topology.seed.wrapping_mul(0x1_0000_0001).wrapping_add(index as u64 * 2);
    Relay::start(&link.name, [a?, b?], link.impairment, seed)
}

/// The proxies of sites that have nothing else.
fn proxies(
    plan: &Plan,
    namespaces: &[Namespaces],
    names: HashMap<String, Vec<IpAddr>>,
) -> Result<Vec<Proxy>> {
    let names = Arc::new(names);
    let mut proxies = Vec::new();
    for site in plan.sites.iter().filter(|site| site.kind == SiteKind::ProxyOnly) {
        let own = plan.hosts[site.gateway].addresses.iter().filter_map(|(_, address)| bare(address));
        for address in own {
            proxies.extend(Proxy::start(&namespaces[site.gateway], address, &names, site.login.as_ref())?);
        }
    }
    Ok(proxies)
}
