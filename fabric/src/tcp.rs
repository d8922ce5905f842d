//! The rail tcp, as the configuration wants it.

use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::Address;
use gridnet_uring_tcp::{Key, Security, TcpConfig, TcpRail, Tuning, Window};

use crate::config::{Config, NetEngine};

/// Opens the rail for the fabric at `local`.
///
/// # Errors
/// Why it cannot be had: first of all, that nothing says how peers are to be known.
pub(crate) fn open(config: &Config, local: &Address, single_thread: bool) -> Result<TcpRail, Refusal> {
    TcpRail::open(TcpConfig {
        local: *local,
        interfaces: config.net_interfaces.clone(),
        ports: config.net_ports,
        security: security(config)?,
        engine: config.net_engine,
        single_thread,
        tuning: tuning(config),
        multirail: config.multirail,
        window: Window { bytes: config.net_window, ..Window::default() },
        retains: config.reliability,
    })
}

/// What the rail needs: what it is called, whether it cannot do without, and what is there or is missing.
pub fn examine(config: &Config) -> Vec<(&'static str, bool, Result<String, String>)> {
    let why = |refusal: Refusal| refusal.reason;
    let known = security(config).map(|security| match security {
        Security::Key(_) => "by a key; data is not encrypted".to_owned(),
        Security::Insecure => "anybody who says so, too (GRIDNET_NET_INSECURE)".to_owned(),
    });
    let addresses = config.net_interfaces.addresses().map(|all| {
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.join(", ")
    });
    let ring = gridnet_uring_tcp::io_uring().map(|()| "at thread level SINGLE; else epoll".to_owned());
    let needs_ring = config.net_engine == NetEngine::IoUring;
    vec![
        ("peers are known", true, known.map_err(why)),
        ("addresses", true, addresses.map_err(why)),
        ("io_uring", needs_ring, ring.map_err(why)),
    ]
}

fn security(config: &Config) -> Result<Security, Refusal> {
    match (&config.net_key_file, config.net_insecure) {
        (Some(path), false) => Ok(Security::Key(Key::read(path)?)),
        (None, true) => Ok(Security::Insecure),
        (None, false) => Err(Refusal::new(
            Error::Config,
            "it needs GRIDNET_NET_KEY_FILE, or GRIDNET_NET_INSECURE=1 on both sides",
        )),
        (Some(_), true) => Err(Refusal::new(
            Error::Config,
            "GRIDNET_NET_KEY_FILE and GRIDNET_NET_INSECURE exclude each other",
        )),
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
