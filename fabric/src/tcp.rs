//! The rail tcp, as the configuration wants it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{Address, NetAddresses};
use gridnet_meta::credentials::{fabric_id, Credentials};
use gridnet_meta::member::INSECURE;
use gridnet_meta::ticket::Ticket;
use gridnet_uring_tcp::{Key, Multirail, Security, TcpConfig, TcpRail, Tuning, Window};

use crate::assembly::{PLAIN, RELAY, TCP};
use crate::config::{Config, NetEngine};
use crate::member::{ticket, Membership};
use crate::session::{check_alone, refusal, Agreeing, Members};

/// Opens the rail for the fabric at `local`, which gets a node id of its session's node, if it has one.
///
/// # Errors
/// Why it cannot be had: first of all, that nothing says how peers are to be known.
pub(crate) fn open(
    config: &Config,
    local: &mut Address,
    single_thread: bool,
    membership: Option<&Membership>,
) -> Result<TcpRail, Refusal> {
    let known = membership.map(|membership| agreeing(TCP, membership)).transpose()?;
    let security = match &known {
        Some(known) => Security::Session(known.clone()),
        None => {
            let known = Known::of(config)?;
            if let Known::ByASession(members) = &known {
                local.node = fabric_id(members.0.node(), local.node);
            }
            known.into_security()
        }
    };
    let mut rail = TcpRail::open(TcpConfig {
        local: *local,
        interfaces: config.net_interfaces.clone(),
        ports: config.net_ports,
        security,
        engine: config.net_engine,
        single_thread,
        tuning: tuning(config),
        multirail: config.multirail,
        window: Window { bytes: config.net_window, ..Window::default() },
        retains: config.reliability,
    })?;
    // Whom rules keep from being called.
    known.into_iter().for_each(|known| rail.lead_by(known));
    Ok(rail)
}

/// Opens the rail for plain connections between members with whom that was agreed on.
///
/// # Errors
/// What the system does not allow.
pub(crate) fn open_plain(
    config: &Config,
    local: &Address,
    single_thread: bool,
    membership: &Membership,
) -> Result<TcpRail, Refusal> {
    let known = agreeing(PLAIN, membership)?;
    let settings = TcpConfig {
        local: *local,
        interfaces: config.net_interfaces.clone(),
        ports: config.net_ports,
        security: Security::Session(known.clone()),
        engine: config.net_engine,
        single_thread,
        tuning: tuning(config),
        // Further paths would be sealed.
        multirail: Multirail::Off,
        window: Window { bytes: config.net_window, ..Window::default() },
        retains: config.reliability,
    };
    let mut rail = TcpRail::open_as(PLAIN, settings)?;
    rail.lead_by(known);
    Ok(rail)
}

/// Opens the rail over pipes between members: the last of all, which listens nowhere.
///
/// # Errors
/// What the system does not allow.
pub(crate) fn open_relay(
    config: &Config,
    local: &Address,
    single_thread: bool,
    membership: &Membership,
) -> Result<TcpRail, Refusal> {
    let settings = TcpConfig {
        local: Address { network: NetAddresses::NONE, ..*local },
        interfaces: config.net_interfaces.clone(),
        ports: None,
        security: Security::Session(agreeing(RELAY, membership)?),
        // Pipes are sockets of the host, and slow: a ring is worth nothing to them.
        engine: NetEngine::Epoll,
        single_thread,
        tuning: tuning(config),
        multirail: Multirail::Off,
        window: Window { bytes: config.net_window, ..Window::default() },
        retains: config.reliability,
    };
    let mut rail = TcpRail::open_by(RELAY, Arc::new(membership.pipes()?), settings)?;
    membership.take_pipes(rail.adopter(RELAY)?)?;
    Ok(rail)
}

/// How a rail knows the members of a session, and what was agreed on with each.
fn agreeing(rail: &'static str, membership: &Membership) -> Result<Arc<Agreeing>, Refusal> {
    Agreeing::new(rail, membership).map(Arc::new)
}

/// What the rail needs: what it is called, whether it cannot do without, and what is there or is missing.
pub fn examine(config: &Config) -> Vec<(&'static str, bool, Result<String, String>)> {
    let why = |refusal: Refusal| refusal.reason;
    let known = match ticket(config) {
        Some(path) => check_alone(config).and_then(|()| examine_ticket(path)),
        None => Known::of(config).map(|known| known.words()),
    };
    let addresses = config.net_interfaces.addresses().map(|all| {
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.join(", ")
    });
    let needs_ring = !matches!(config.net_engine, NetEngine::Auto | NetEngine::Epoll);
    let ring = match needs_ring {
        true => {
            gridnet_uring_tcp::engine(config.net_engine).map(|()| "as GRIDNET_NET_ENGINE says".to_owned())
        }
        false => gridnet_uring_tcp::io_uring().map(|()| "at thread level SINGLE; else epoll".to_owned()),
    };
    vec![
        ("peers are known", true, known.map_err(why)),
        ("addresses", true, addresses.map_err(why)),
        ("io_uring", needs_ring, ring.map_err(why)),
    ]
}

/// What a ticket is good for: looking at it joins nothing.
fn examine_ticket(path: &Path) -> Result<String, Refusal> {
    let Ticket { expires, insecure, .. } = Ticket::read(path).map_err(refusal)?;
    let how = if insecure { format!("; {INSECURE}") } else { String::new() };
    Ok(format!(
        "by a session, which fabrics join with a ticket until {expires}; data is encrypted (TLS 1.3){how}"
    ))
}

/// How peers are known.
enum Known {
    ByASession(Arc<Members>),
    ByAKey(Key),
    Not,
}

impl Known {
    /// What the configuration says.
    fn of(config: &Config) -> Result<Known, Refusal> {
        check_alone(config)?;
        if let Some(dir) = &config.session {
            let credentials = Credentials::open(dir).map_err(refusal)?;
            return Ok(Known::ByASession(Arc::new(Members(credentials))));
        }
        match &config.net_key_file {
            Some(path) => Ok(Known::ByAKey(Key::read(path)?)),
            None if config.net_insecure => Ok(Known::Not),
            None => Err(Refusal::new(
                Error::Config,
                "it needs GRIDNET_SESSION, or GRIDNET_NET_KEY_FILE, or GRIDNET_NET_INSECURE=1 on both sides",
            )),
        }
    }

    fn words(&self) -> String {
        match self {
            Known::ByASession(members) => {
                let (node, until) = (members.0.node(), members.0.until());
                format!("by a session, as node {node}, certified until {until}; data is encrypted (TLS 1.3)")
            }
            Known::ByAKey(_) => "by a key; data is plain, not encrypted".to_owned(),
            Known::Not => {
                "anybody who says so, too (GRIDNET_NET_INSECURE); data is plain, not encrypted".to_owned()
            }
        }
    }

    fn into_security(self) -> Security {
        match self {
            Known::ByASession(members) => Security::Session(members),
            Known::ByAKey(key) => Security::Key(key),
            Known::Not => Security::Insecure,
        }
    }
}

fn tuning(config: &Config) -> Tuning {
    let unless_zero = |time: Duration| (!time.is_zero()).then_some(time);
    Tuning {
        send_buffer: config.net_send_buffer,
        receive_buffer: config.net_receive_buffer,
        congestion: config.net_congestion.clone(),
        keep_alive: unless_zero(config.net_keep_alive),
        user_timeout: unless_zero(config.net_user_timeout),
    }
}
