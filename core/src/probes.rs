//! Places where tracers of the system may look in: USDT probes of the provider `gridnet`.
//!
//! Each is one NOP and a note in the object file; `bpftrace` and `perf` put a trap in its place while they watch. The
//! arguments are what is in registers there anyway. `docs/introspection.md` lists the probes and their arguments.

use crate::error::Error;
use crate::rail::PeerId;

macro_rules! probes {
    ($( $(#[$doc:meta])* $name:ident($($arg:ident: $type:ty = $value:expr),*); )*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name($($arg: $type),*) {
                #[cfg(not(any(loom, miri)))]
                probe::probe!(gridnet, $name $(, $value)*);
                #[cfg(any(loom, miri))]
                let _ = ($($value,)*);
            }
        )*
    };
}

probes! {
    /// A message went to the rail at once.
    send_posted(peer: PeerId = peer.number(), tag: u64 = tag, len: u64 = len);
    /// A message waits for its turn, or is to be announced.
    send_queued(peer: PeerId = peer.number(), tag: u64 = tag, len: u64 = len);
    /// The announcement of a large message came.
    message_announced(peer: PeerId = peer.number(), tag: u64 = tag, len: u64 = len);
    /// A message, or its announcement, came and found its receive.
    message_matched(peer: PeerId = peer.number(), tag: u64 = tag, len: u64 = len);
    /// A message, or its announcement, came, found no receive, and is kept.
    message_unexpected(peer: PeerId = peer.number(), tag: u64 = tag, len: u64 = len);
    /// An announcement was sent.
    rendezvous_started(peer: PeerId = peer.number(), op: u64 = op);
    /// An announced send is over.
    rendezvous_ended(peer: PeerId = peer.number(), op: u64 = op, status: Result<(), Error> = status.err().map_or(0, Error::code));
    /// A completion entered its queue.
    operation_completed(context: u64 = context, status: i32 = status, len: u64 = len);
    /// Frames flow.
    link_up(peer: PeerId = peer.number());
    /// The link is over.
    link_down(peer: PeerId = peer.number(), error: Error = error.code());
}
