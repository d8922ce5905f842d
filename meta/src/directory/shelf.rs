//! Steps from one state to the next, shared by followers of one process: who takes a step that another has taken gets what that one
//! has made of it, and keeps the same tables. A step is known by the signed digests at both of its ends, so it can be no other one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Event, Head, Tables};
use crate::authority::AuthorityKey;

/// Steps that are remembered: followers of one process are seldom further apart.
const STEPS_MAX: usize = 64;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    steps: Mutex<VecDeque<Step>>,
}

/// What a step has led to.
#[derive(Debug, Clone)]
pub(super) struct Step {
    key: AuthorityKey,
    /// Where it began; `None`: nowhere.
    from: Option<Head>,
    to: Head,
    /// As long as anybody keeps them.
    tables: Weak<Tables>,
    events: Arc<[Event]>,
}

impl Shelf {
    fn steps(&self) -> MutexGuard<'_, VecDeque<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a step leads to, if somebody has taken it.
    pub(super) fn find(
        &self,
        key: &AuthorityKey,
        from: Option<&Head>,
        to: &Head,
    ) -> Option<(Arc<Tables>, Arc<[Event]>)> {
        let steps = self.steps();
        let is_it = |step: &&Step| step.to == *to && step.from.as_ref() == from && step.key == *key;
        let step = steps.iter().rev().find(is_it)?;
        Some((step.tables.upgrade()?, step.events.clone()))
    }

    /// Whether somebody knows that state, and so that it is signed.
    pub(super) fn knows(&self, key: &AuthorityKey, head: &Head) -> bool {
        self.steps().iter().any(|step| step.to == *head && step.key == *key)
    }

    /// Tables of that state, if somebody has them, however it came there.
    pub(super) fn tables(&self, key: &AuthorityKey, of: &Head) -> Option<Arc<Tables>> {
        let steps = self.steps();
        let is_it = |step: &&Step| step.to == *of && step.key == *key;
        steps.iter().rev().filter(is_it).find_map(|step| step.tables.upgrade())
    }

    /// Somebody has taken a step.
    pub(super) fn put(
        &self,
        key: &AuthorityKey,
        from: Option<Head>,
        to: Head,
        tables: &Arc<Tables>,
        events: Arc<[Event]>,
    ) {
        let mut steps = self.steps();
        if steps.len() >= STEPS_MAX {
            steps.pop_front();
        }
        steps.push_back(Step { key: key.clone(), from, to, tables: Arc::downgrade(tables), events });
    }
}
