//! Counters. They only grow, except those named "now".

/// What happened with one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Messages handed over for sending.
    pub messages_sent: u64,
    /// Messages that came in, matched or not.
    pub messages_received: u64,
    /// Payload bytes of the former.
    pub bytes_sent: u64,
    /// Payload bytes of the latter.
    pub bytes_received: u64,
    /// Sends that went whole.
    pub sends_eager: u64,
    /// Sends that were announced first.
    pub sends_rendezvous: u64,
    /// Messages that came before their receive.
    pub unexpected_total: u64,
    /// Times the peer was told to stop, as the unexpected store was full.
    pub backpressure_stops: u64,
}

impl PeerCounters {
    /// Adds another peer's; stays at the largest number, as what is read of a page may be any.
    pub fn add(&mut self, other: &PeerCounters) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.messages_sent, other.messages_sent);
        add(&mut self.messages_received, other.messages_received);
        add(&mut self.bytes_sent, other.bytes_sent);
        add(&mut self.bytes_received, other.bytes_received);
        add(&mut self.sends_eager, other.sends_eager);
        add(&mut self.sends_rendezvous, other.sends_rendezvous);
        add(&mut self.unexpected_total, other.unexpected_total);
        add(&mut self.backpressure_stops, other.backpressure_stops);
    }
}

/// What happened in an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sums over all peers.
    pub peers: PeerCounters,
    /// Unexpected messages now in store.
    pub unexpected_now: u64,
    /// Their bytes.
    pub unexpected_bytes_now: u64,
    /// Sends and receives that have not completed.
    pub pending_now: u64,
    /// Peers with a live link.
    pub peers_now: u64,
    /// Peers that have gone.
    pub peers_gone: u64,
    /// Wake-ups given to sleeping peers.
    pub wakeups_sent: u64,
}
