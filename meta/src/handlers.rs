//! Turns of those who answer requests: so many at a time, and less of them for one that asks, so that none takes all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gridnet_core::wire::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that are being answered at a time.
pub(crate) const HANDLERS_MAX: usize = 4;
/// Of one node.
const OF_ONE_MAX: usize = 2;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Handlers {
    all: Arc<Semaphore>,
    /// Of those who wait, or have a turn.
    of_one: Mutex<HashMap<NodeId, Weak<Semaphore>>>,
}

/// A turn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for Handlers {
    fn default() -> Handlers {
        Handlers { all: Arc::new(Semaphore::new(HANDLERS_MAX)), of_one: Mutex::default() }
    }
}

impl Handlers {
    /// Waits for a turn to answer a node.
    pub(crate) async fn turn(&self, of: NodeId) -> Option<Turn> {
        // Who has many waits for its own first, and takes nothing from others meanwhile.
        let _of_one = self.of(of).acquire_owned().await.ok()?;
        let _of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _of_one, _of_all })
    }

    fn of(&self, node: NodeId) -> Arc<Semaphore> {
        let mut of_one = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = of_one.get(&node).and_then(Weak::upgrade) {
            return known;
        }
        of_one.retain(|_, known| known.strong_count() > 0);
        let own = Arc::new(Semaphore::new(OF_ONE_MAX));
        of_one.insert(node, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 16]).unwrap()
    }

    /// Turns that are there now.
    fn take<Waiting>(waiting: &mut Vec<Waiting>) -> Vec<Turn>
    where
        Waiting: Future<Output = Option<Turn>> + Unpin,
    {
        let mut context = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        waiting.retain_mut(|one| match Pin::new(one).poll(&mut context) {
            Poll::Ready(turn) => {
                taken.push(turn.expect("it is not closed"));
                false
            }
            Poll::Pending => true,
        });
        taken
    }

    #[test]
    fn none_has_all_turns() {
        let handlers = Handlers::default();
        let mut many: Vec<_> = (0..10).map(|_| Box::pin(handlers.turn(node(1)))).collect();
        let of_many = take(&mut many);
        let mut others: Vec<_> = (2..5).map(|byte| Box::pin(handlers.turn(node(byte)))).collect();
        let of_others = take(&mut others);
        assert_eq!((of_many.len(), of_others.len()), (2, 2), "four in all");
        drop(of_many);
        // In the order in which they have come.
        let last = take(&mut others);
        assert_eq!((last.len(), take(&mut many).len()), (1, 1));
        drop((many, others, of_others, last));
        drop(handlers.of(node(9)));
        drop(handlers.of(node(10)));
        assert_eq!(handlers.of_one.lock().unwrap().len(), 1, "who is gone is forgotten");
    }
}
