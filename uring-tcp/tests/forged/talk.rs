//! Two nodes that talk in every way there is.

use gridnet_core::endpoint::Engine;
use gridnet_core::error::Error;
use gridnet_core::matching::Key;
use gridnet_core::rail::{PeerId, Rail};
use gridnet_core::region::{Atomic, AtomicOp, Width};
use gridnet_core::stream::{ListenerId, StreamId};
use gridnet_core::testing::node::{exactly, Node, SendOptions, Ticket};
use gridnet_core::testing::random::Random;

/// The service that everybody has.
pub const SERVICE: &str = "echo";

/// What one side of a conversation uses.
pub struct Side {
    /// What it calls the other one.
    pub to: PeerId,
    /// Regions of the other side, the first of which it may read and write.
    pub rkeys: Vec<Key>,
    pub region_len: usize,
    pub tickets: Vec<Ticket>,
    pub streams: Vec<StreamId>,
    next_tag: u64,
}

impl Side {
    pub fn new<R: Rail>(node: &mut Node<R>, to: PeerId, keys: &[[u8; 64]], region_len: usize) -> Side {
        let rkeys =
            keys.iter().map(|key| node.engine().import_key(to, key).expect("it is a key of the peer"));
        let rkeys = rkeys.collect();
        Side { to, rkeys, region_len, tickets: Vec::new(), streams: Vec::new(), next_tag: 0 }
    }

    /// Asks the other side for a stream.
    pub fn call<R: Rail>(&mut self, node: &mut Node<R>) {
        self.streams.extend(node.engine().stream_connect(self.to, SERVICE).ok().map(|(id, _)| id));
    }

    /// Reads and writes what may be, and takes calls.
    pub fn stream<R: Rail>(&mut self, node: &mut Node<R>, listener: ListenerId, random: &mut Random) {
        let engine: &mut Engine<R> = node.engine();
        while let Ok((id, _, peer)) = engine.stream_accept(listener) {
            if peer == self.to {
                self.streams.push(id);
            } else {
                engine.stream_close(id);
            }
        }
        let mut buffer = [0; 3000];
        for id in &self.streams {
            // Errors are those of a stream that has ended.
            let _ = engine.stream_read(*id, &mut buffer);
            if random.chance(0.1) {
                let len = random.below(buffer.len() as u64) as usize;
                let _ = engine.stream_write(*id, &buffer[..len]);
            }
        }
    }

    /// Gives up what is left, once the other side has gone.
    pub fn end<R: Rail>(self, node: &mut Node<R>) {
        for id in self.streams {
            node.engine().stream_close(id);
        }
        self.rkeys.into_iter().for_each(|key| node.engine().close_key(key));
    }
}

/// Starts a message from one side to the other, with its receive before or behind it, or none.
pub fn message<R: Rail, S: Rail>(
    (from, sender): (&mut Node<R>, &mut Side),
    (to, receiver): (&mut Node<S>, &mut Side),
    random: &mut Random,
) {
    sender.next_tag += 1;
    let tag = sender.next_tag;
    let len = random.pick(&[0, 8, 48, 48, 200, 200, 9000, 9000, 40_000, 40_000, 300_000]);
    let options = SendOptions {
        immediate: random.chance(0.2).then_some(7),
        sync: random.chance(0.3),
        always_complete: random.chance(0.3),
    };
    let bytes = vec![tag as u8; len];
    let room = if random.chance(0.2) { len / 2 } else { len };
    // Errors are those of a peer that has gone.
    let mut receive = |receiver: &mut Side| {
        receiver.tickets.extend(to.receive_with(exactly(receiver.to, tag), &[room / 2, room - room / 2]));
    };
    let order = random.below(8);
    if order < 4 {
        receive(receiver);
    }
    sender.tickets.extend(from.send_with(sender.to, &[&bytes], tag, options));
    if (4..7).contains(&order) {
        receive(receiver);
    }
}

/// Starts an operation on a region of the other side, most often one that is allowed.
pub fn remote<R: Rail>(node: &mut Node<R>, side: &mut Side, random: &mut Random) {
    let rkey = random.pick(&side.rkeys);
    let len = random.pick(&[1, 8, 700, 20_000, 70_000]).min(side.region_len);
    let offset = random.below((side.region_len - len) as u64 + 1);
    let started: Result<Ticket, Error> = match random.below(4) {
        0 => node.put(side.to, rkey, offset, &vec![3; len]),
        1 => node.get(side.to, rkey, offset, len),
        2 => {
            let op = random.pick(&[AtomicOp::Add, AtomicOp::Swap, AtomicOp::CompareSwap]);
            let atomic =
                Atomic { op, width: Width::Eight, operand: random.below(9), compare: random.below(9) };
            node.atomic(side.to, rkey, offset / 8 * 8, &atomic)
        }
        _ => node.flush(side.to),
    };
    side.tickets.extend(started);
}

/// Gives up an operation that is under way.
pub fn cancel<R: Rail>(node: &mut Node<R>, side: &Side, random: &mut Random) {
    if !side.tickets.is_empty() {
        let ticket = side.tickets[random.below(side.tickets.len() as u64) as usize];
        let _ = node.cancel(ticket);
    }
}
