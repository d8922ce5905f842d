//! The adapter of the rail verbs: which one there is, and whether it is taken.

use std::net::IpAddr;
use std::path::Path;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_verbs::ibv::gid::{self, Gid, Verdict};
use gridnet_verbs::IbvDevice;

use crate::config::Config;

/// What `GRIDNET_VERBS_DEVICE` calls the software device.
const SOFT: &str = "soft";

/// The adapter that is wanted, with its address; none where the software device is to be taken.
///
/// # Errors
/// When one was named, and cannot be had. Without a name the software device stands in for one that does not open.
pub(crate) fn open(config: &Config, addresses: &[IpAddr]) -> Result<Option<(IbvDevice, IpAddr)>, Refusal> {
    let name = config.verbs_device.as_deref();
    if name == Some(SOFT) {
        return Ok(None);
    }
    let gids = gid::all(Path::new(gid::SYSFS));
    let verdicts = gid::judge(&gids, addresses, name);
    let taken = gids.into_iter().zip(verdicts).find(|(_, verdict)| *verdict == Verdict::Taken);
    let Some((gid, _)) = taken else {
        return match name {
            None => Ok(None),
            Some(name) => {
                let why = format!("adapter {name} has no GID that can be used: gridnet info says why");
                Err(Refusal::new(Error::Config, why))
            }
        };
    };
    let at = gid.ip;
    match IbvDevice::open(gid) {
        Ok(device) => Ok(Some((device, at))),
        Err(e) if name.is_some() => Err(Refusal::new(Error::System, format!("adapter at {at}: {e}"))),
        Err(e) => {
            tracing::warn!(address = %at, error = %e, "the adapter does not open: the software device is taken");
            Ok(None)
        }
    }
}

/// What is said of each GID of this host.
pub(crate) fn examine(config: &Config, addresses: &[IpAddr]) -> Vec<String> {
    let gids = gid::all(Path::new(gid::SYSFS));
    if gids.is_empty() {
        return vec!["none: this host has no RDMA device".to_owned()];
    }
    let verdicts = match config.verbs_device.as_deref() {
        Some(SOFT) => vec![Verdict::NotAsked; gids.len()],
        name => gid::judge(&gids, addresses, name),
    };
    let line = |gid: Gid, verdict| {
        let Gid { device, port, index, ip, kind, interface, .. } = gid;
        format!("{device} port {port} GID {index} {ip} ({kind} {interface}): {verdict}")
    };
    gids.into_iter().zip(verdicts).map(|(gid, verdict)| line(gid, verdict)).collect()
}
