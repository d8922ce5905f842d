//! What waits to be sent over one connection, until it is its turn: messages first, then parts of pipes.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::error::Refusal;
use crate::freight::{Freight, Lane};
use crate::message::Message;
use crate::packet::Packet;

/// Messages that wait until the other side takes them; more are dropped, and those packets' senders told.
const QUEUE_MAX: usize = 128;

/// Where messages for somebody are put, as they are sent.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    messages: mpsc::Sender<Vec<u8>>,
    lane: Lane,
}

/// From where they are taken.
#[derive(Debug)]
pub(crate) struct Queued {
    messages: mpsc::Receiver<Vec<u8>>,
    lane: Lane,
}

/// A queue for one connection.
pub(crate) fn queue(freight: &Arc<Freight>) -> (Queue, Queued) {
    queue_for(freight, QUEUE_MAX)
}

/// The same, for so many messages.
pub(crate) fn queue_for(freight: &Arc<Freight>, most: usize) -> (Queue, Queued) {
    let (sender, messages) = mpsc::channel(most);
    let lane = Lane::new(freight);
    (Queue { messages: sender, lane: lane.clone() }, Queued { messages, lane })
}

impl Queue {
    /// Puts a message there; whether there was room.
    pub(crate) fn try_send(&self, message: Vec<u8>) -> bool {
        self.messages.try_send(message).is_ok()
    }

    /// Puts a packet there. One of a pipe goes when it is its sender's turn; or, when `is_own`, that was judged elsewhere.
    ///
    /// # Errors
    /// The packet, and [`Refusal::Rate`] when too much waits.
    pub(crate) fn pass(&self, packet: Packet, is_own: bool) -> Result<(), (Packet, Refusal)> {
        let (from, is_piped) = (packet.from, packet.is_piped());
        let message = Message::Packet(packet);
        let is_sent = message.encode().is_ok_and(|bytes| match is_piped {
            true => self.lane.put(from, bytes, is_own).is_ok(),
            false => self.try_send(bytes),
        });
        match message {
            Message::Packet(packet) if !is_sent => Err((packet, Refusal::Rate)),
            _ => Ok(()),
        }
    }
}

impl Queued {
    /// The next message; when there is none, and they may go, the next part of a pipe. Waiting may be given up and begun again.
    pub(crate) async fn next(&mut self, may_carry: bool) -> Option<Vec<u8>> {
        tokio::select! {
            biased;
            message = self.messages.recv() => message,
            part = self.lane.next(), if may_carry => Some(part),
        }
    }

    /// The same, unless `other` happens, which parts of pipes wait for, too.
    pub(crate) async fn next_or(&mut self, other: impl Future<Output = ()>) -> Option<Vec<u8>> {
        tokio::select! {
            biased;
            Some(message) = self.messages.recv() => Some(message),
            () = other => None,
            part = self.lane.next() => Some(part),
        }
    }

    /// What waits, in order, without waiting: for a connection that is about to end.
    pub(crate) fn rest(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let now = Instant::now();
        std::iter::from_fn(move || self.messages.try_recv().ok().or_else(|| self.lane.take(now).ok()))
    }

    #[cfg(test)]
    pub(crate) fn try_recv(&mut self) -> Option<Vec<u8>> {
        self.messages.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freight::Shares;
    use crate::packet::{Conversation, Load, Part};
    use crate::testing::in_runtime;
    use gridnet_core::wire::NodeId;

    #[test]
    fn messages_go_before_all_parts_of_pipes_that_wait() {
        let (queue, mut queued) = queue(&Freight::new(Shares::default()));
        let of = Conversation { number: 1, is_mine: true };
        let load = Load::Piped(of, Part::Bytes { at: 0, bytes: vec![0; 8192] });
        let [from, to] = [1, 2].map(|byte| NodeId::new([byte; 16]).unwrap());
        let part = Packet::new(from, to, 1, &load);
        let bytes = Message::Packet(part.clone()).encode().unwrap();
        (0..50).for_each(|_| queue.pass(part.clone(), true).unwrap());
        in_runtime(async {
            assert_eq!(queued.next(true).await.unwrap(), bytes);
            for number in 0..50 {
                let message = Message::Ping(number).encode().unwrap();
                assert!(queue.try_send(message.clone()));
                assert_eq!(queued.next(true).await, Some(message));
                assert_eq!(queued.next_or(async {}).await, None, "so does what else is to be said");
            }
            let none = tokio::time::timeout(std::time::Duration::from_millis(20), queued.next(false)).await;
            assert!(none.is_err(), "they are not taken now");
            assert_eq!(queued.next_or(std::future::pending()).await, Some(bytes));
        });
    }
}
