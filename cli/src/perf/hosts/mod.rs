//! Measuring between hosts: `gridnet perf --serve` on the one, `gridnet perf --connect` on the other.
//!
//! The server writes a key for this one time. A connection of the client, on which both prove to have it ([`greeting`]),
//! becomes standard input and output of a peer process, as a local one has; fabrics on both sides know each other by the
//! same key, or by GRIDNET_SESSION where both have one. Messages take the way that this connection takes, unless GRIDNET_NET_INTERFACES says otherwise.

mod client;
mod doors;
mod greeting;
mod key;
mod server;

pub(super) use client::call;
pub(super) use server::serve;

use crate::failure::Failure;
use gridnet::config::{Config, Origin};
use std::net::IpAddr;
use std::path::Path;

/// Variables by which the fabrics of one side, whose address is `ip`, reach the other: `NAME=value`.
fn options(ip: IpAddr, key: &Path, config: &Config) -> Result<Vec<String>, Failure> {
    if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(Failure::Run(format!(
            "{ip} is link-local, which gridnet does not use: take another address"
        )));
    }
    let key = key
        .to_str()
        .ok_or_else(|| Failure::Usage(format!("{}: a path in UTF-8 is accepted", key.display())))?;
    // Whoever has a session wants to measure that, on both sides.
    let key = if config.session.is_some() { "" } else { key };
    let mut options = vec![format!("GRIDNET_NET_KEY_FILE={key}"), "GRIDNET_NET_INSECURE=off".to_owned()];
    let given = |entry: &gridnet::config::Entry| {
        entry.name == "GRIDNET_NET_INTERFACES" && entry.origin != Origin::Default
    };
    if !config.entries().iter().any(given) {
        options.push(format!("GRIDNET_NET_INTERFACES={ip}"));
    }
    Ok(options)
}

/// `text` as a word for the shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@[]".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_follow_the_connection_unless_they_were_given() {
        let key = Path::new("/k");
        let ip = "10.1.0.2".parse().unwrap();
        let of = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            options(ip, key, &Config::from_sources(env, &[]).unwrap()).unwrap()
        };
        let always = ["GRIDNET_NET_KEY_FILE=/k", "GRIDNET_NET_INSECURE=off"];
        assert_eq!(of(&[]), [&always[..], &["GRIDNET_NET_INTERFACES=10.1.0.2"]].concat());
        assert_eq!(of(&[("GRIDNET_NET_INTERFACES", "eth1")]), always);
        let session =
            ["GRIDNET_NET_KEY_FILE=", "GRIDNET_NET_INSECURE=off", "GRIDNET_NET_INTERFACES=10.1.0.2"];
        assert_eq!(of(&[("GRIDNET_SESSION", "/n")]), session);
        let local = options("fe80::1".parse().unwrap(), key, &Config::default());
        assert!(matches!(local, Err(Failure::Run(text)) if text.contains("link-local")));
    }

    #[test]
    fn words_for_the_shell_are_quoted_where_they_have_to_be() {
        assert_eq!(quoted("/run/user/0/k.key"), "/run/user/0/k.key");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
