//! What is passed on of pipes: after everything else, and no more than there is room for.
//!
//! The node that passes parts of pipes on writes down how many bytes of each sender wait with it, and lets them go at the rate of
//! the sender's share, and of all together. They wait in a [`Lane`] of each connection, from which one is taken when nothing else is
//! to be said there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::sync::Notify;

use crate::error::Refusal;
use crate::pipe::LEAST_BYTES;

/// Most bytes that are passed on of pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Of one member, per second. 0: nothing.
    pub member_bytes_per_second: u64,
    /// In total, per second. 0: nothing.
    pub total_bytes_per_second: u64,
}

impl Default for Shares {
    /// 4 MiB a second of each member, 16 MiB in total: pipes are there until a better way is found, and one core passes on some ten
    /// times as much.
    fn default() -> Shares {
        Shares { member_bytes_per_second: 4 << 20, total_bytes_per_second: 16 << 20 }
    }
}

/// Bytes of one sender that wait: those of all its pipes, and what is around them.
const MEMBER_WAITING_MAX: usize = crate::pipe::PIPES_MAX * crate::pipe::WINDOW_BYTES * 5 / 4;
/// Bytes of all that wait.
const WAITING_MAX: usize = 64 << 20;
/// So much time's share may go at once.
const BURST: Duration = Duration::from_millis(50);
/// Senders that are remembered.
const SENDERS_MAX: usize = 16_384;

/// What was passed on of a member's pipes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) bytes: u64,
    pub(crate) refused: u64,
}

/// The account of all that waits at one node. See the [module](self).
#[derive(Debug)]
pub(crate) struct Freight {
    shares: Shares,
    account: Mutex<Account>,
    #[cfg(test)]
    pub(crate) seen: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Account {
    senders: BTreeMap<NodeId, Sender>,
    waiting: usize,
    next: Instant,
    count: u64,
}

#[derive(Debug)]
struct Sender {
    waiting: usize,
    /// When its share of what has come is used up.
    next: Instant,
    carried: Carried,
}

impl Freight {
    pub(crate) fn new(shares: Shares) -> Arc<Freight> {
        let account = Account { senders: BTreeMap::new(), waiting: 0, next: Instant::now(), count: 0 };
        Arc::new(Freight {
            shares,
            account: Mutex::new(account),
            #[cfg(test)]
            seen: Mutex::default(),
        })
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was passed on of each member.
    pub(crate) fn carried(&self) -> Vec<(NodeId, Carried)> {
        self.account().senders.iter().map(|(node, sender)| (*node, sender.carried)).collect()
    }

    /// Puts bytes of a sender down; when they may go, and the number of them.
    fn put(&self, from: NodeId, bytes: usize, is_own: bool, now: Instant) -> Result<(Instant, u64), Refusal> {
        let mut account = self.account();
        let account = &mut *account;
        if account.senders.len() >= SENDERS_MAX && !account.senders.contains_key(&from) {
            account.senders.retain(|_, sender| sender.waiting > 0);
        }
        let is_full = account.waiting + bytes > WAITING_MAX || account.senders.len() > SENDERS_MAX;
        let new = || Sender { waiting: 0, next: now, carried: Carried::default() };
        let sender = account.senders.entry(from).or_insert_with(new);
        let rates = (self.shares.member_bytes_per_second, self.shares.total_bytes_per_second);
        let takes = (time_of(bytes, rates.0), time_of(bytes, rates.1));
        let (due, count) = match takes {
            _ if is_full || sender.waiting + bytes > MEMBER_WAITING_MAX => {
                sender.carried.refused += 1;
                return Err(Refusal::Rate);
            }
            _ if is_own => (now, account.count),
            (Some(of_member), Some(of_all)) => {
                sender.next = sender.next.max(now) + of_member;
                account.next = account.next.max(now) + of_all;
                let due = sender.next.max(account.next);
                (due.checked_sub(BURST).unwrap_or(due), account.count)
            }
            _ => {
                sender.carried.refused += 1;
                return Err(Refusal::Rate);
            }
        };
        sender.waiting += bytes;
        sender.carried.bytes += bytes as u64;
        account.waiting += bytes;
        account.count += 1;
        Ok((due, count))
    }

    fn gone(&self, from: NodeId, bytes: usize) {
        let mut account = self.account();
        account.waiting -= bytes;
        if let Some(sender) = account.senders.get_mut(&from) {
            sender.waiting -= bytes;
        }
    }

    /// A part that goes no further has come; whether the sender says more than its share.
    pub(crate) fn is_too_much(&self, from: NodeId, bytes: usize, now: Instant) -> bool {
        let Ok((due, _)) = self.put(from, bytes.max(LEAST_BYTES), false, now) else { return true };
        self.gone(from, bytes.max(LEAST_BYTES));
        due > now + BURST
    }
}

/// How long so many bytes take.
fn time_of(bytes: usize, per_second: u64) -> Option<Duration> {
    let nanos = (bytes as u64).saturating_mul(1_000_000_000).checked_div(per_second)?;
    Some(Duration::from_nanos(nanos))
}

/// What waits for one connection. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    freight: Arc<Freight>,
    queue: Mutex<BinaryHeap<Reverse<Parcel>>>,
    came: Notify,
}

/// In order of when they may go, and of when they came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parcel {
    due: Instant,
    number: u64,
    from: NodeId,
    cost: usize,
    bytes: Vec<u8>,
}

impl Lane {
    pub(crate) fn new(freight: &Arc<Freight>) -> Lane {
        let (freight, queue, came) = (freight.clone(), Mutex::default(), Notify::new());
        Lane(Arc::new(Waiting { freight, queue, came }))
    }

    fn queue(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Parcel>>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a part of a pipe of a sender, as it is sent, where it waits. What this node sends itself has no share: its pipes bound it.
    ///
    /// # Errors
    /// [`Refusal::Rate`] when too much waits.
    pub(crate) fn put(&self, from: NodeId, bytes: Vec<u8>, is_own: bool) -> Result<(), Refusal> {
        self.put_at(from, bytes, is_own, Instant::now())
    }

    fn put_at(&self, from: NodeId, bytes: Vec<u8>, is_own: bool, now: Instant) -> Result<(), Refusal> {
        #[cfg(test)]
        self.0.freight.seen.lock().unwrap().extend_from_slice(&bytes);
        let cost = bytes.len().max(LEAST_BYTES);
        let (due, number) = self.0.freight.put(from, cost, is_own, now)?;
        self.queue().push(Reverse(Parcel { due, number, from, cost, bytes }));
        self.0.came.notify_one();
        Ok(())
    }

    /// The next that may go. Waiting for it may be given up and begun again: nothing is lost.
    pub(crate) async fn next(&self) -> Vec<u8> {
        loop {
            let due = match self.take(Instant::now()) {
                Ok(bytes) => return bytes,
                Err(due) => due,
            };
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => (),
                    () = self.0.came.notified() => (),
                },
                None => self.0.came.notified().await,
            }
        }
    }

    /// The next that may go then, or when there is one.
    pub(crate) fn take(&self, now: Instant) -> Result<Vec<u8>, Option<Instant>> {
        let mut queue = self.queue();
        match queue.peek().map(|Reverse(first)| first.due) {
            Some(due) if due <= now => (),
            due => return Err(due),
        }
        let Some(Reverse(Parcel { from, cost, bytes, .. })) = queue.pop() else { return Err(None) };
        drop(queue);
        self.0.freight.gone(from, cost);
        Ok(bytes)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        queue.drain().for_each(|Reverse(parcel)| self.freight.gone(parcel.from, parcel.cost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> NodeId {
        NodeId::new([byte; 16]).unwrap()
    }

    fn shares(member: u64, total: u64) -> Shares {
        Shares { member_bytes_per_second: member, total_bytes_per_second: total }
    }

    /// Bytes that may go within so long of what comes as fast as it is taken.
    fn bytes_within(freight: &Freight, from: &[NodeId], time: Duration, start: Instant) -> Vec<u64> {
        let of_one = |node: &NodeId| {
            let mut dues = std::iter::from_fn(|| freight.put(*node, 8192, false, start).ok());
            let count = dues.by_ref().take(MEMBER_WAITING_MAX / 8192).filter(|(due, _)| *due <= start + time);
            let count = count.count() as u64;
            let waiting = freight.account().senders[node].waiting;
            freight.gone(*node, waiting);
            count * 8192
        };
        from.iter().map(of_one).collect()
    }

    #[test]
    fn shares_are_kept_by_each_and_by_all() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let each = bytes_within(&Freight::new(shares(1 << 20, 1 << 30)), &[id(1), id(2)], second, start);
        assert!(each.iter().all(|bytes| (1 << 20..(1 << 20) * 11 / 10).contains(bytes)), "{each:?}");
        let all = bytes_within(&Freight::new(shares(1 << 30, 1 << 20)), &[id(1), id(2)], second, start);
        let sum: u64 = all.iter().sum();
        assert!((1 << 20..(1 << 20) * 11 / 10).contains(&sum), "{all:?}");
        assert_eq!(bytes_within(&Freight::new(shares(0, 1)), &[id(1)], second, start), [0]);
        assert_eq!(bytes_within(&Freight::new(shares(1, 0)), &[id(1)], second, start), [0]);
    }

    #[test]
    fn what_waits_is_bounded_for_each_and_in_total_and_given_back() {
        let freight = Freight::new(shares(1, 1));
        let lane = Lane::new(&freight);
        let fill = |node| (0..).take_while(|_| lane.put(node, vec![0; 8192], false).is_ok()).count();
        assert_eq!(fill(id(1)), MEMBER_WAITING_MAX / 8192);
        assert_eq!(lane.put(id(1), vec![0], true), Err(Refusal::Rate));
        let all: usize = (2..100).map(|byte| fill(id(byte))).sum();
        assert_eq!(all + MEMBER_WAITING_MAX / 8192, WAITING_MAX / 8192);
        let carried = freight.carried();
        assert_eq!((carried.len(), carried[0].1.refused), (99, 2));
        drop(lane);
        assert_eq!(freight.account().waiting, 0);
        assert!(freight.account().senders.values().all(|sender| sender.waiting == 0));
    }

    /// However long the parts are: all that its pipes may have on their way waits, and none is cut off.
    #[test]
    fn all_that_the_pipes_of_a_sender_allow_may_wait_at_one_place() {
        use crate::packet::{Conversation, Load, Packet, HOPS_MAX};
        use crate::pipe::{Pipe, PART_BYTES, PIPES_MAX};
        for len in [1, 100, LEAST_BYTES, 4000, PART_BYTES] {
            let lane = Lane::new(&Freight::new(shares(1, 1)));
            for number in 0..PIPES_MAX {
                let now = Instant::now();
                let mut pipe = Pipe::new(now);
                while pipe.room() > 0 {
                    let part = pipe.send(vec![7; len.min(pipe.room())], now);
                    let of = Conversation { number: u64::MAX - number as u64, is_mine: true };
                    let mut packet = Packet::new(id(1), id(2), u64::MAX, &Load::Piped(of, part));
                    for by in 3..=HOPS_MAX as u8 + 1 {
                        packet = packet.passed_on(id(by)).unwrap();
                    }
                    let bytes = postcard::to_stdvec(&packet).unwrap();
                    assert_eq!(lane.put(id(1), bytes, false), Ok(()), "pipe {number}, parts of {len}");
                }
            }
        }
    }

    #[test]
    fn those_of_one_sender_go_in_order_and_others_do_not_wait_for_its_share() {
        let freight = Freight::new(shares(100_000, 1 << 30));
        let lane = Lane::new(&freight);
        let start = Instant::now();
        for number in 0..20 {
            lane.put_at(id(1), vec![number; 1000], false, start).unwrap();
        }
        lane.put_at(id(2), vec![200; 1000], false, start).unwrap();
        let at = |ms| start + Duration::from_millis(ms);
        let mut taken: Vec<u8> = std::iter::from_fn(|| lane.take(at(0)).ok()).map(|bytes| bytes[0]).collect();
        assert!(taken.len() < 20 && taken.contains(&200), "{taken:?}");
        assert!(matches!(lane.take(at(0)), Err(Some(_))));
        taken.extend(std::iter::from_fn(|| lane.take(at(300)).ok()).map(|bytes| bytes[0]));
        taken.retain(|number| *number != 200);
        assert!(taken.iter().copied().eq(0..20), "{taken:?}");
        assert_eq!(lane.take(at(300)), Err(None));
    }
}
