//! Counters. They only grow, except those named "now".

use crate::ledger::Counter;

/// Makes of one list the counters of a peer as values, and as cells that somebody adds to.
macro_rules! peer_counters {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What happened with one peer.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct PeerCounters { $( $(#[$doc])* pub $name: u64, )* }

        /// The same in memory that others may read, in whole cache lines.
        #[derive(Debug, Default)]
        #[repr(C, align(64))]
        pub struct PeerCells { $( $(#[$doc])* pub $name: Counter, )* }

        impl PeerCounters {
            /// The names of the counters, in the order of their cells.
            pub const NAMES: [&'static str; PEER_COUNTERS] = [$( stringify!($name), )*];

            /// The values, in the same order.
            pub fn values(&self) -> [u64; PEER_COUNTERS] {
                [$( self.$name, )*]
            }

            /// The counters of these values, in the same order.
            pub fn from_values([$( $name, )*]: [u64; PEER_COUNTERS]) -> PeerCounters {
                PeerCounters { $( $name, )* }
            }
        }

        impl PeerCells {
            fn all(&self) -> [&Counter; PEER_COUNTERS] {
                [$( &self.$name, )*]
            }
        }
    };
}

/// Number of counters of a peer.
const PEER_COUNTERS: usize = 19;

peer_counters! {
    /// Messages handed over for sending.
    messages_sent,
    /// Messages that came in, matched or not.
    messages_received,
    /// Payload bytes of the former.
    bytes_sent,
    /// Payload bytes of the latter.
    bytes_received,
    /// Sends that went whole.
    sends_eager,
    /// Sends that were announced first.
    sends_rendezvous,
    /// Messages that came before their receive.
    unexpected_total,
    /// Times the peer was told to stop, as the unexpected store was full.
    backpressure_stops,
    /// Puts into its regions that were done or started.
    puts,
    /// Their bytes.
    bytes_put,
    /// Gets from its regions that were done or started.
    gets,
    /// Their bytes.
    bytes_got,
    /// Atomic operations on its regions that were done or started.
    atomics,
    /// Those puts, gets and atomic operations that went by messages.
    by_message,
    /// Its operations on regions of ours that came by messages. Of others this fabric does not know.
    served,
    /// Bytes that those have put and got.
    bytes_served,
    /// Streams that were asked for or accepted here.
    streams,
    /// Bytes that were written to streams.
    stream_bytes_sent,
    /// Bytes of streams that came in, read or not.
    stream_bytes_received,
}

impl PeerCounters {
    /// Adds another peer's; stays at the largest number, as what is read of a page may be any.
    pub fn add(&mut self, other: &PeerCounters) {
        let mut sums = self.values();
        for (sum, more) in sums.iter_mut().zip(other.values()) {
            *sum = sum.saturating_add(more);
        }
        *self = PeerCounters::from_values(sums);
    }

    /// Puts, gets and atomic operations on its regions.
    pub fn region_operations(&self) -> u64 {
        self.puts.saturating_add(self.gets).saturating_add(self.atomics)
    }
}

impl PeerCells {
    /// The values.
    pub fn snapshot(&self) -> PeerCounters {
        PeerCounters::from_values(self.all().map(Counter::value))
    }

    /// Adds what another peer's say.
    pub fn add(&self, other: &PeerCounters) {
        self.all().into_iter().zip(other.values()).for_each(|(cell, more)| cell.add(more));
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.all().into_iter().for_each(|cell| cell.set(0));
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
