//! The rails that a fabric can have, as one type: calls are resolved by a branch, not through a table.

use std::path::PathBuf;
use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::loan::LoanMemory;
use gridnet_core::loopback::{Hub, LoopbackRail};
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{
    Armed, Capabilities, Lent, LinkId, Offered, PeerId, Posted, Rail, Refusal, RemoteSource, Sink,
};
use gridnet_core::region::{RemoteKey, Window};
use gridnet_core::ring::lane::Lane;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Incoming};
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
            _ => AnyRail::Own(Hub::new().named("self").rail(local)),
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

impl Rail for AnyRail {
    fn name(&self) -> &'static str {
        each!(self, rail => rail.name())
    }

    #[inline(always)]
    fn capabilities(&self) -> &Capabilities {
        each!(self, rail => rail.capabilities())
    }

    #[inline]
    fn segment_len(&self, total: u64) -> usize {
        each!(self, rail => rail.segment_len(total))
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        each!(self, rail => rail.connect(peer, address))
    }

    #[inline(always)]
    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        each!(self, rail => rail.post(link, frame))
    }

    #[inline(always)]
    fn post_message(&mut self, link: LinkId, tag: u64, message: &Iov) -> Posted {
        each!(self, rail => rail.post_message(link, tag, message))
    }

    #[inline(always)]
    fn post_loan(&mut self, link: LinkId, tag: u64, words: [u64; 3]) -> Posted {
        each!(self, rail => rail.post_loan(link, tag, words))
    }

    #[inline(always)]
    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        each!(self, rail => rail.poll(budget, sink))
    }

    fn favourite(&self) -> Option<&Arc<Lane>> {
        each!(self, rail => rail.favourite())
    }

    fn poll_link<S: Sink>(&mut self, link: LinkId, budget: usize, sink: &mut S) -> usize {
        each!(self, rail => rail.poll_link(link, budget, sink))
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        each!(self, rail => rail.maintain(now, sink))
    }

    fn deadline(&self) -> Option<Time> {
        each!(self, rail => rail.deadline())
    }

    #[inline]
    fn is_connecting(&self) -> bool {
        each!(self, rail => rail.is_connecting())
    }

    fn expose(&mut self, link: LinkId, memory: &Gather<'_>) -> Option<RemoteSource> {
        each!(self, rail => rail.expose(link, memory))
    }

    fn conceal(&mut self, link: LinkId, source: RemoteSource) {
        each!(self, rail => rail.conceal(link, source));
    }

    fn prefers_get(&mut self, link: LinkId, len: u64) -> bool {
        each!(self, rail => rail.prefers_get(link, len))
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        each!(self, rail => rail.get(link, from, to))
    }

    fn allocate(&mut self, len: usize, numa_node: u32) -> Option<Result<Lent, Refusal>> {
        each!(self, rail => rail.allocate(len, numa_node))
    }

    fn free(&mut self, token: u64) {
        each!(self, rail => rail.free(token));
    }

    fn offer(&mut self, region: &Offered) -> Result<u64, Refusal> {
        each!(self, rail => rail.offer(region))
    }

    fn withdraw(&mut self, number: u64, record: u64) -> bool {
        each!(self, rail => rail.withdraw(number, record))
    }

    fn window(&mut self, link: LinkId, key: &RemoteKey) -> Option<Window> {
        each!(self, rail => rail.window(link, key))
    }

    fn copy_to(
        &mut self,
        link: LinkId,
        key: &RemoteKey,
        offset: u64,
        from: &Iov,
    ) -> Option<Result<(), Error>> {
        each!(self, rail => rail.copy_to(link, key, offset, from))
    }

    fn copy_from(
        &mut self,
        link: LinkId,
        key: &RemoteKey,
        offset: u64,
        to: &Iov,
    ) -> Option<Result<(), Error>> {
        each!(self, rail => rail.copy_from(link, key, offset, to))
    }

    fn lend(&mut self, len: usize) -> Result<LoanMemory, Error> {
        each!(self, rail => rail.lend(len))
    }

    fn take_back(&mut self, memory: LoanMemory) {
        each!(self, rail => rail.take_back(memory));
    }

    #[inline]
    fn release_loan(&mut self, link: LinkId) {
        each!(self, rail => rail.release_loan(link));
    }

    fn delivered(&self, link: LinkId) -> u64 {
        each!(self, rail => rail.delivered(link))
    }

    fn retained(
        &mut self,
        link: LinkId,
        after: u64,
        frame: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        each!(self, rail => rail.retained(link, after, frame))
    }

    fn arm(&mut self) -> Armed {
        each!(self, rail => rail.arm())
    }

    fn disarm(&mut self) {
        each!(self, rail => rail.disarm());
    }

    fn wait_handle(&self) -> Option<i32> {
        each!(self, rail => rail.wait_handle())
    }

    #[inline]
    fn is_peer_on_this_core(&self) -> bool {
        each!(self, rail => rail.is_peer_on_this_core())
    }

    fn wakeups_sent(&self) -> u64 {
        each!(self, rail => rail.wakeups_sent())
    }

    fn process(&self, link: LinkId) -> Option<u32> {
        match self {
            AnyRail::Shm(rail) => rail.process(link),
            AnyRail::Own(_) => Some(std::process::id()),
        }
    }

    fn disconnect(&mut self, link: LinkId) {
        each!(self, rail => rail.disconnect(link));
    }
}
