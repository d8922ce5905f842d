//! The rails that a fabric can have, as one type: calls are resolved by a branch, not through a table.

use std::path::PathBuf;

use gridnet_core::error::Error;
use gridnet_core::forward_rail;
use gridnet_core::loopback::{Hub, LoopbackRail};
use gridnet_core::rail::{Rail, Refusal};
use gridnet_core::wire::{Address, NetAddresses};
use gridnet_shm::{RunDir, ShmConfig, ShmRail};
use gridnet_uring_tcp::TcpRail;
use gridnet_verbs::VerbsRail;

use crate::config::{Config, HugePages, RailSelection};
use crate::member::Membership;
use crate::{tcp, verbs};

/// One rail of a fabric.
#[derive(Debug)]
pub enum AnyRail {
    /// Shared memory between processes of the host.
    Shm(Box<ShmRail>),
    /// Other hosts; and members of the session through the bootstrap tree.
    Tcp(Box<TcpRail>),
    /// Other processes, over RDMA devices.
    Verbs(Box<VerbsRail>),
    /// The fabric with itself.
    Own(Box<LoopbackRail>),
}

/// The rails of a new fabric.
pub(crate) struct Opened {
    /// Those that are there, in order of preference.
    pub(crate) rails: Vec<AnyRail>,
    /// Those that would be used if they could be had, and why they cannot.
    pub(crate) missing: Vec<(&'static str, String)>,
    /// Where the rail for plain connections is called, if it is there.
    pub(crate) plain: NetAddresses,
}

/// Opens the rails that the configuration allows, in its order, and notes in the fabric's address where it is reached. The rail
/// tcp is left out when it cannot be had and the choice is automatic, and is an error when it was named.
pub(crate) fn open_rails(
    config: &Config,
    local: &mut Address,
    name: Option<&str>,
    single_thread: bool,
    membership: Option<&Membership>,
) -> Result<Opened, Refusal> {
    let mut opened = Opened { rails: Vec::new(), missing: Vec::new(), plain: NetAddresses::NONE };
    // First of all: its addresses are part of what is written down beside a name.
    let mut tcp = open_tcp(config, local, (single_thread, membership), &mut opened.missing)?.map(Box::new);
    let mut verbs = verbs::open(config, local)?.map(Box::new);
    for rail in config.rails.preference() {
        let rail = match rail {
            "shm" => Some(AnyRail::Shm(Box::new(ShmRail::open(shm_config(config, local, name))?))),
            "tcp" => tcp.take().map(AnyRail::Tcp),
            "verbs" => verbs.take().map(AnyRail::Verbs),
            _ => Some(AnyRail::Own(Box::new(own_rail(local)))),
        };
        opened.rails.extend(rail);
    }
    if let Some(membership) = membership.filter(|_| config.rails.allows("tcp")) {
        if membership.may_be_plain() {
            let plain = tcp::open_plain(config, local, single_thread, membership)?;
            opened.plain = plain.listens_at();
            opened.rails.push(AnyRail::Tcp(Box::new(plain)));
        }
        let relay = tcp::open_relay(config, local, single_thread, membership)?;
        opened.rails.push(AnyRail::Tcp(Box::new(relay)));
    }
    if opened.rails.is_empty() {
        return Err(Refusal::new(Error::Config, "GRIDNET_RAILS leaves no rail"));
    }
    Ok(opened)
}

fn open_tcp(
    config: &Config,
    local: &mut Address,
    (single_thread, membership): (bool, Option<&Membership>),
    missing: &mut Vec<(&'static str, String)>,
) -> Result<Option<TcpRail>, Refusal> {
    if !config.rails.allows("tcp") {
        return Ok(None);
    }
    match tcp::open(config, local, single_thread, membership) {
        Ok(rail) => {
            local.network = rail.listens_at();
            Ok(Some(rail))
        }
        Err(why) if matches!(config.rails, RailSelection::Only(_)) => {
            Err(Refusal::new(why.error, format!("rail tcp: {}", why.reason)))
        }
        Err(why) => {
            // Whoever asked for a network wants to know; others have never heard of it.
            if config.net_insecure || config.net_key_file.is_some() || config.session.is_some() {
                tracing::warn!(reason = %why.reason, "rail tcp cannot be had");
            }
            missing.push(("tcp", why.reason));
            Ok(None)
        }
    }
}

/// The rail by which a fabric talks with itself.
fn own_rail(local: &Address) -> LoopbackRail {
    Hub::new().named("self").of_process(std::process::id()).rail(local)
}

/// The run directory of this configuration, made if need be.
///
/// # Errors
/// [`Error::Permission`] when it belongs to another user or others may write it.
pub fn run_dir(config: &Config) -> Result<PathBuf, Refusal> {
    let base = config.run_dir.clone().unwrap_or_else(RunDir::default_base);
    RunDir::make(&base)?;
    Ok(base)
}

fn shm_config(config: &Config, local: &Address, name: Option<&str>) -> ShmConfig {
    ShmConfig {
        local: *local,
        name: name.map(str::to_owned),
        run_dir: config.run_dir.as_ref().map(PathBuf::from),
        segment_size: config.shm_segment_size,
        ring_slots: config.shm_ring_slots as u32,
        link_window: config.shm_link_window,
        single_copy: config.shm_single_copy,
        huge_pages: config.shm_huge_pages == HugePages::Auto,
        heap_size: config.shm_heap_size,
        allow_uids: config.shm_allow_uids.clone(),
    }
}

macro_rules! each {
    ($self:ident, $rail:ident => $call:expr) => {
        match $self {
            AnyRail::Shm($rail) => $call,
            AnyRail::Tcp($rail) => $call,
            AnyRail::Verbs($rail) => $call,
            AnyRail::Own($rail) => $call,
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl Rail for AnyRail {
    forward_rail!(each => frames aside);
}
