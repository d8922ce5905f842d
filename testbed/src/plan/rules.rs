//! The packet filter of a gateway, as text for `nft`.

use super::{LAN, WAN};
use crate::topology::SiteKind;

/// The rules of a gateway; none when everything passes.
pub(super) fn gateway(kind: SiteKind, reject: bool) -> String {
    if kind == SiteKind::Open {
        return String::new();
    }
    let refuse = if reject {
        format!("iifname {WAN} meta l4proto tcp reject with tcp reset\n  ")
    } else {
        String::new()
    };
    let forward = if kind.has_way_out() {
        format!("iifname {WAN} ct state established,related accept\n  {refuse}iifname {WAN} drop")
    } else {
        // Also towards other links of the gateway, which are its own.
        format!("iifname {LAN} drop\n  oifname {LAN} drop")
    };
    let nat = match kind {
        SiteKind::Masquerading => nat("masquerade"),
        SiteKind::RandomMasquerading => nat("masquerade fully-random"),
        _ => String::new(),
    };
    format!(
        "table inet site {{
 chain forward {{
  type filter hook forward priority filter; policy accept;
  {forward}
 }}
 chain input {{
  type filter hook input priority filter; policy accept;
  iifname {WAN} ct state established,related accept
  {refuse}iifname {WAN} drop
 }}
{nat}}}
"
    )
}

fn nat(how: &str) -> String {
    format!(
        " chain nat {{
  type nat hook postrouting priority srcnat; policy accept;
  oifname {WAN} {how}
 }}
"
    )
}
