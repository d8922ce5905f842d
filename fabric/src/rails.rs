//! The rails that a fabric can have, as one type: calls are resolved by a branch, not through a table.

use std::path::PathBuf;

use gridnet_core::error::Error;
use gridnet_core::forward_rail;
use gridnet_core::loopback::{Hub, LoopbackRail};
use gridnet_core::rail::{Rail, Refusal};
use gridnet_core::wire::Address;
use gridnet_shm::{ShmConfig, ShmRail};

use crate::config::{Config, HugePages};

/// One rail of a fabric.
#[derive(Debug)]
pub enum AnyRail {
    /// Shared memory between processes of the host.
    Shm(Box<ShmRail>),
    /// The fabric with itself.
    Own(LoopbackRail),
}

/// Opens the rails that the configuration allows, in its order. A rail that cannot be had is left out when the
/// choice is automatic, and is an error when it was named.
pub(crate) fn open_rails(
    config: &Config,
    local: &Address,
    name: Option<&str>,
) -> Result<Vec<AnyRail>, Refusal> {
    let mut rails = Vec::new();
    for rail in config.rails.preference() {
        rails.push(match rail {
            "shm" => AnyRail::Shm(Box::new(ShmRail::open(shm_config(config, local, name))?)),
            _ => AnyRail::Own(Hub::new().named("self").of_process(std::process::id()).rail(local)),
        });
    }
    if rails.is_empty() {
        return Err(Refusal::new(Error::Config, "GRIDNET_RAILS leaves no rail"));
    }
    Ok(rails)
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
            AnyRail::Own($rail) => $call,
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl Rail for AnyRail {
    forward_rail!(each => frames aside);
}
