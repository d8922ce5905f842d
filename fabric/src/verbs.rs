//! The rail verbs, as the configuration wants it.

use std::net::IpAddr;
use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::Address;
use gridnet_uring_tcp::Key;
use gridnet_verbs::device::Device;
use gridnet_verbs::{Ports, Secret, Security, SoftDevice, VerbsConfig, VerbsRail};

use crate::adapter;
use crate::config::{Config, VerbsWire};
use crate::session::check_alone;

/// Opens the rail for the fabric at `local`, which is reached there from then on; none unless it was named.
///
/// # Errors
/// Why it cannot be had.
pub(crate) fn open(config: &Config, local: &mut Address) -> Result<Option<VerbsRail>, Refusal> {
    if !config.rails.allows("verbs") {
        return Ok(None);
    }
    let opened = open_named(config, local);
    opened.map(Some).map_err(|why| Refusal::new(why.error, format!("rail verbs: {}", why.reason)))
}

fn open_named(config: &Config, local: &mut Address) -> Result<VerbsRail, Refusal> {
    let security = security(config)?;
    if config.rails.allows("tcp") {
        let why =
            "an address has one port, which is that of the rail tcp: GRIDNET_RAILS may have one of the two";
        return Err(Refusal::new(Error::Config, why));
    }
    let (device, listen) = device(config)?;
    let rail = VerbsRail::open(VerbsConfig {
        local: *local,
        device,
        listen,
        ports: ports(config),
        security,
        keep_alive: (!config.net_keep_alive.is_zero()).then_some(config.net_keep_alive),
        retains: config.reliability,
    })?;
    local.network = rail.listens_at();
    Ok(rail)
}

/// An adapter at an address that may be used, or the software device, over the wire that is wanted, at the first one.
fn device(config: &Config) -> Result<(Box<dyn Device>, IpAddr), Refusal> {
    let addresses = config.net_interfaces.addresses()?;
    if let Some((device, address)) = adapter::open(config, &addresses)? {
        return Ok((Box::new(device), address));
    }
    let none = || Refusal::new(Error::Config, "no address");
    let address = *addresses.first().ok_or_else(none)?;
    let opened = match (config.verbs_wire, address) {
        (VerbsWire::Udp, _) => SoftDevice::over_udp(address, ports(config)),
        (VerbsWire::Shm, _) => SoftDevice::over_shm(),
        (VerbsWire::Xdp, IpAddr::V4(address)) => SoftDevice::over_xdp(address, ports(config)),
        (VerbsWire::Xdp, IpAddr::V6(_)) => Err(std::io::Error::other("AF_XDP has IPv4 only")),
    };
    let failed = |e| Refusal::new(Error::System, format!("software device at {address}: {e}"));
    Ok((Box::new(opened.map_err(failed)?), address))
}

fn ports(config: &Config) -> Option<Ports> {
    config.net_ports.and_then(|ports| Ports::new(ports.first(), ports.last()))
}

/// What the rail needs: what it is called, whether it cannot do without, and what is there or is missing.
pub fn examine(config: &Config) -> Vec<(&'static str, bool, Result<String, String>)> {
    let known = security(config).map(|security| {
        let by = match security {
            Security::Key(_) => "by a key",
            Security::Insecure => "anybody who says so, too (GRIDNET_NET_INSECURE)",
        };
        format!("{by}; data is plain, neither encrypted nor authenticated")
    });
    let device = device(config).map(|(device, _)| {
        let mtu = device.limits().max_mtu;
        format!("{}, GID {}, path MTU {mtu}", device.name(), device.gid().ip())
    });
    let why = |refusal: Refusal| refusal.reason;
    let mut found =
        vec![("peers are known", true, known.map_err(why)), ("device", true, device.map_err(why))];
    let addresses = config.net_interfaces.addresses().unwrap_or_default();
    found.extend(adapter::examine(config, &addresses).into_iter().map(|line| ("adapter", false, Ok(line))));
    found
}

/// How peers are known. RoCE has no encryption, so that no session is served by it.
fn security(config: &Config) -> Result<Security, Refusal> {
    check_alone(config)?;
    if config.session.is_some() {
        let why = "in a session all that leaves a host is encrypted, and RoCE cannot be";
        return Err(Refusal::new(Error::Config, why));
    }
    match &config.net_key_file {
        Some(path) => Ok(Security::Key(Arc::new(FileKey(Key::read(path)?)))),
        None if config.net_insecure => Ok(Security::Insecure),
        None => {
            let why = "it needs GRIDNET_NET_KEY_FILE, or GRIDNET_NET_INSECURE=1 on both sides";
            Err(Refusal::new(Error::Config, why))
        }
    }
}

/// The key of a file, which signs what the rail says.
struct FileKey(Key);

impl Secret for FileKey {
    fn sign(&self, purpose: &str, texts: &[&[u8]]) -> [u8; 32] {
        self.0.sign(purpose, texts)
    }

    fn accepts(&self, purpose: &str, texts: &[&[u8]], proof: &[u8]) -> bool {
        self.0.accepts(purpose, texts, proof)
    }
}
