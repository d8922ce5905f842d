//! Which GID of which adapter is taken: what the system says of each, and why it is, or is not, the one.
//!
//! A RoCE adapter has a table of GIDs for each port. The system fills it with the addresses of the network interface of that port,
//! each once for each version of RoCE. What can be taken is RoCE v2 over an address that may be used, at a port that is up.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Where the system tells of adapters.
pub const SYSFS: &str = "/sys/class/infiniband";

/// An entry of a table of GIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gid {
    /// Name of the adapter, such as `mlx5_0`.
    pub device: String,
    /// Number of its port, from 1.
    pub port: u8,
    /// Place in the table.
    pub index: u8,
    /// The GID as an address.
    pub ip: IpAddr,
    /// What the system calls it: `RoCE v2`, or `IB/RoCE v1`.
    pub kind: String,
    /// Its network interface; empty where there is none, as with InfiniBand.
    pub interface: String,
    /// The port can be used.
    pub is_up: bool,
}

/// What is said of a GID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken.
    Taken,
    /// It could be, but an earlier one is.
    Spare,
    /// The port belongs to InfiniBand, where GIDs are no addresses.
    NotEthernet,
    /// RoCE v1, which no router forwards.
    OldVersion,
    /// The port is down.
    Down,
    /// No address that may be used here.
    NotAllowed,
    /// Another device was asked for.
    NotAsked,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Taken => "taken",
            Verdict::Spare => "would do, but another one is taken",
            Verdict::NotEthernet => "no: the port is not one of Ethernet",
            Verdict::OldVersion => "no: RoCE v1",
            Verdict::Down => "no: the port is down",
            Verdict::NotAllowed => "no: GRIDNET_NET_INTERFACES does not have this address",
            Verdict::NotAsked => "no: GRIDNET_VERBS_DEVICE names another device",
        })
    }
}

/// All GIDs of this host, by adapter, port and place; `root` is [`SYSFS`]. None where there is no adapter.
pub fn all(root: &Path) -> Vec<Gid> {
    let mut found = Vec::new();
    for (device, path) in entries(root) {
        for (port, path) in entries(&path.join("ports")) {
            let Ok(port) = port.parse() else { continue };
            found.extend(of_port(&device, port, &path));
        }
    }
    found
}

fn of_port(device: &str, port: u8, path: &Path) -> Vec<Gid> {
    let is_up = text(&path.join("state")).starts_with("4:");
    let mut found: Vec<Gid> = entries(&path.join("gids"))
        .into_iter()
        .filter_map(|(index, gid)| {
            let ip = text(&gid).parse::<Ipv6Addr>().ok().filter(|ip| !ip.is_unspecified())?;
            let attribute = |what: &str| text(&path.join("gid_attrs").join(what).join(&index));
            let (kind, interface) = (attribute("types"), attribute("ndevs"));
            let index = index.parse().ok()?;
            Some(Gid { device: device.into(), port, index, ip: ip.to_canonical(), kind, interface, is_up })
        })
        .collect();
    found.sort_by_key(|gid| gid.index);
    found
}

/// What is said of each. `allowed` are the addresses that may be used, best first; `name` is the device that was asked for.
pub fn judge(gids: &[Gid], allowed: &[IpAddr], name: Option<&str>) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = gids.iter().map(|gid| refused(gid, allowed, name)).collect();
    let place = |gid: &Gid| allowed.iter().position(|ip| *ip == gid.ip);
    let best = (0..gids.len())
        .filter(|at| verdicts.get(*at) == Some(&Verdict::Spare))
        .min_by_key(|at| gids.get(*at).and_then(place));
    if let Some(verdict) = best.and_then(|at| verdicts.get_mut(at)) {
        *verdict = Verdict::Taken;
    }
    verdicts
}

fn refused(gid: &Gid, allowed: &[IpAddr], name: Option<&str>) -> Verdict {
    match () {
        () if name.is_some_and(|name| name != gid.device) => Verdict::NotAsked,
        () if gid.interface.is_empty() => Verdict::NotEthernet,
        () if gid.kind != "RoCE v2" => Verdict::OldVersion,
        () if !allowed.contains(&gid.ip) => Verdict::NotAllowed,
        () if !gid.is_up => Verdict::Down,
        () => Verdict::Spare,
    }
}

fn entries(path: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut all: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    all.sort();
    all
}

/// A line of the system; empty where it cannot be read, as where a place of the table is free.
fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place in a table: GID, kind, interface.
    type Place = (&'static str, &'static str, &'static str);

    fn port(root: &Path, device: &str, state: &str, table: &[Place]) {
        let path = root.join(device).join("ports/1");
        for dir in ["gids", "gid_attrs/types", "gid_attrs/ndevs"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        fs::write(path.join("state"), state).unwrap();
        for (index, (gid, kind, interface)) in table.iter().enumerate() {
            fs::write(path.join(format!("gids/{index}")), format!("{gid}\n")).unwrap();
            fs::write(path.join(format!("gid_attrs/types/{index}")), kind).unwrap();
            fs::write(path.join(format!("gid_attrs/ndevs/{index}")), interface).unwrap();
        }
    }

    #[test]
    fn each_gid_is_judged() {
        let root = std::env::temp_dir().join(format!("gridnet-gids-{}", std::process::id()));
        let v4 = |last: &str| -> &'static str { format!("0000:0000:0000:0000:0000:ffff:0a00:{last}").leak() };
        const V1: &str = "IB/RoCE v1\n";
        const V2: &str = "RoCE v2\n";
        let none = "0000:0000:0000:0000:0000:0000:0000:0000";
        let link = "fe80:0000:0000:0000:0042:acff:fe11:0002";
        port(&root, "ib0", "4: ACTIVE\n", &[(link, "", "")]);
        port(
            &root,
            "mlx5_0",
            "4: ACTIVE\n",
            &[(link, V2, "eth1"), (v4("0001"), V1, "eth1"), (v4("0001"), V2, "eth1"), (none, "", "")],
        );
        port(&root, "mlx5_1", "1: DOWN\n", &[(v4("0002"), V2, "eth2")]);
        port(&root, "mlx5_2", "4: ACTIVE\n", &[(v4("0003"), V2, "eth3")]);
        let gids = all(&root);
        let verdicts = |allowed: &[&str], name| {
            let allowed: Vec<IpAddr> = allowed.iter().map(|ip| ip.parse().unwrap()).collect();
            judge(&gids, &allowed, name)
        };
        use Verdict::*;
        let names: Vec<_> = gids.iter().map(|gid| (gid.device.as_str(), gid.index)).collect();
        assert_eq!(
            names,
            [("ib0", 0), ("mlx5_0", 0), ("mlx5_0", 1), ("mlx5_0", 2), ("mlx5_1", 0), ("mlx5_2", 0)]
        );
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.1"];
        assert_eq!(verdicts(&all, None), [NotEthernet, NotAllowed, OldVersion, Spare, Down, Taken]);
        assert_eq!(
            verdicts(&all[2..], None),
            [NotEthernet, NotAllowed, OldVersion, Taken, NotAllowed, NotAllowed]
        );
        assert_eq!(
            verdicts(&all, Some("mlx5_0")),
            [NotAsked, NotAllowed, OldVersion, Taken, NotAsked, NotAsked]
        );
        assert!(verdicts(&[], None).iter().all(|verdict| !matches!(verdict, Taken | Spare)));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_host_without_adapters_has_no_gid() {
        assert_eq!(all(Path::new("/nowhere")), []);
    }
}
