//! Counters.

use gridnet::core::error::Error;
use gridnet::core::stats::PeerCounters;

use crate::boundary::guarded;
use crate::endpoint::{endpoint_of, gridnet_endpoint};
use crate::fabric::{fabric_of, gridnet_fabric};
use crate::grow::{size_of_out, write_grown, Growing};
use crate::status::{gridnet_status, GRIDNET_OK};

/// What has happened so far. All but those named "now" only grow.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct gridnet_counters {
    /// sizeof(gridnet_counters), to be set before the call.
    pub size: usize,
    /// Messages handed over for sending.
    pub messages_sent: u64,
    /// Messages that came in, received or not.
    pub messages_received: u64,
    /// Payload bytes of the former.
    pub bytes_sent: u64,
    /// Payload bytes of the latter.
    pub bytes_received: u64,
    /// Sends that went whole.
    pub sends_eager: u64,
    /// Sends that were announced first, and moved without a further copy.
    pub sends_rendezvous: u64,
    /// Messages now in the unexpected store (fabric only).
    pub unexpected_now: u64,
    /// Their bytes (fabric only).
    pub unexpected_bytes_now: u64,
    /// Messages that came before their receive.
    pub unexpected_total: u64,
    /// Operations that have not completed (fabric only).
    pub pending_now: u64,
    /// Times that a peer was told to stop since the unexpected store was full.
    pub backpressure_stops: u64,
    /// Rounds of polling (fabric only).
    pub polls: u64,
    /// Rounds of polling that found nothing (fabric only).
    pub empty_polls: u64,
    /// Times that a waiting call slept (fabric only).
    pub sleeps: u64,
    /// Wake-ups given to sleeping peers (fabric only).
    pub wakeups_sent: u64,
    /// Peers with a live connection (fabric only).
    pub peers_now: u64,
    /// Peers that have gone (fabric only).
    pub peers_gone: u64,
    /// Puts into regions of peers that were done or started.
    pub puts: u64,
    /// Their bytes.
    pub bytes_put: u64,
    /// Gets from regions of peers that were done or started.
    pub gets: u64,
    /// Their bytes.
    pub bytes_got: u64,
    /// Atomic operations on regions of peers that were done or started.
    pub atomics: u64,
    /// Those puts, gets and atomic operations that went by messages.
    pub operations_by_message: u64,
    /// Operations of peers on regions of this fabric that came by messages. Of others it does not know.
    pub operations_served: u64,
    /// Bytes that those have put and got.
    pub bytes_served: u64,
    /// Streams that were asked for or accepted here.
    pub streams: u64,
    /// Bytes that were written to streams.
    pub stream_bytes_sent: u64,
    /// Bytes of streams that came in, read or not.
    pub stream_bytes_received: u64,
}

// SAFETY: of this form; numbers.
unsafe impl Growing for gridnet_counters {
    const NAME: &'static str = "gridnet_counters";
    const FIRST: usize = std::mem::offset_of!(gridnet_counters, puts);
}

/// Counters of a whole fabric.
///
/// # Safety
/// `fabric` is NULL or a fabric; `counters_out` is NULL or points to a struct whose field size is set, and that has as many
/// bytes.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_counters(
    fabric: *mut gridnet_fabric,
    counters_out: *mut gridnet_counters,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        // SAFETY: the caller's promise.
        let size = unsafe { size_of_out(counters_out, "counters_out")? };
        let mut guard = object.owner.shared.enter()?;
        let all = guard.engine.counters();
        let wait = guard.wait_counters();
        let counters = gridnet_counters {
            unexpected_now: all.unexpected_now,
            unexpected_bytes_now: all.unexpected_bytes_now,
            pending_now: all.pending_now,
            polls: wait.polls,
            empty_polls: wait.empty_polls,
            sleeps: wait.sleeps,
            wakeups_sent: all.wakeups_sent,
            peers_now: all.peers_now,
            peers_gone: all.peers_gone,
            ..of_peers(&all.peers)
        };
        // SAFETY: the size was checked, valid by the caller's promise.
        unsafe { write_grown(counters_out, size, &counters) };
        Ok(GRIDNET_OK)
    })
}

/// Counters of the peer of an endpoint, over all endpoints to it.
///
/// # Safety
/// `endpoint` is NULL or an endpoint; `counters_out` as for gridnet_fabric_counters.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_counters(
    endpoint: *mut gridnet_endpoint,
    counters_out: *mut gridnet_counters,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        // SAFETY: the caller's promise.
        let size = unsafe { size_of_out(counters_out, "counters_out")? };
        let peer = object.owner.shared.enter()?.engine.peer_counters(object.peer).ok_or(Error::NotFound)?;
        // SAFETY: the size was checked, valid by the caller's promise.
        unsafe { write_grown(counters_out, size, &of_peers(&peer)) };
        Ok(GRIDNET_OK)
    })
}

fn of_peers(peers: &PeerCounters) -> gridnet_counters {
    gridnet_counters {
        messages_sent: peers.messages_sent,
        messages_received: peers.messages_received,
        bytes_sent: peers.bytes_sent,
        bytes_received: peers.bytes_received,
        sends_eager: peers.sends_eager,
        sends_rendezvous: peers.sends_rendezvous,
        unexpected_total: peers.unexpected_total,
        backpressure_stops: peers.backpressure_stops,
        puts: peers.puts,
        bytes_put: peers.bytes_put,
        gets: peers.gets,
        bytes_got: peers.bytes_got,
        atomics: peers.atomics,
        operations_by_message: peers.by_message,
        operations_served: peers.served,
        bytes_served: peers.bytes_served,
        streams: peers.streams,
        stream_bytes_sent: peers.stream_bytes_sent,
        stream_bytes_received: peers.stream_bytes_received,
        ..gridnet_counters::default()
    }
}
