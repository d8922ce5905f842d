//! The threads that agree with other members on stacks: they wait, so that no call of the program has to.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use gridnet_assembly::call::{Failure, Tried};
use gridnet_assembly::message::Refusal as Reason;
use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Refusal};
use gridnet_core::wire::NodeId;
use gridnet_meta::error::{Error as Trouble, Refusal as Refused};
use gridnet_meta::member::{Agreed, Assembler, NoPath, Wanted};
use nix::sys::signal::{pthread_sigmask, SigSet, SigmaskHow};

use super::desk::{AskedBy, Desk, Ended, Hand, Wish};
use super::requirements::is_more;

/// Endpoints that are being agreed on at a time; more wait for their turn.
const WORKERS_MAX: usize = 16;

/// The threads of a fabric; none as long as nobody wants an endpoint by node id.
#[derive(Debug, Default)]
pub(crate) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Agrees in the background.
    ///
    /// # Errors
    /// [`Error::System`] when there are no threads.
    pub(crate) fn begin(
        &mut self,
        desk: &Arc<Desk>,
        assembler: &Arc<Assembler>,
        wish: Wish,
    ) -> Result<(), Refusal> {
        let Some(hand) = desk.add(wish, WORKERS_MAX) else { return Ok(()) };
        self.0.retain(|thread| !thread.is_finished());
        let (desk_too, assembler) = (desk.clone(), assembler.clone());
        let body = move || match hand {
            Hand::Worker => work(&desk_too, &assembler),
            Hand::Clock => end_overdue(&desk_too),
        };
        match spawn(body) {
            Ok(thread) => self.0.push(thread),
            // Those who agree come to it, in time or later.
            Err(_) if hand == Hand::Clock => desk.not_timed(),
            Err(e) if desk.not_started().is_some() => {
                return Err(Refusal::new(Error::System, format!("thread: {e}")));
            }
            // Those that are there come to it.
            Err(_) => {}
        }
        Ok(())
    }

    /// Waits for all, which were told to end.
    pub(crate) fn join(&mut self) {
        for thread in self.0.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Signals are for the program's threads: this one is born with all of them blocked.
fn spawn(body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let mut before = SigSet::empty();
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
    let spawned = std::thread::Builder::new().name("gridnet-open".into()).spawn(body);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    spawned
}

fn work(desk: &Desk, assembler: &Assembler) {
    while let Some(mut wish) = desk.next() {
        if matches!(wish.asked_by, AskedBy::Lookout) {
            // What is known to do is there already.
            assembler.broken(wish.node);
        }
        let limit = wish.deadline.saturating_duration_since(Instant::now());
        let outcome = match wish.begun.take() {
            Some(begun) => begun.0.run(begun.1),
            None => assembler.agree(wish.node, wish.wanted.clone(), limit),
        };
        let outcome = settle(desk, &wish, outcome, None);
        desk.give(|work| work.ended.push(Ended { wish, outcome }));
    }
}

/// Ends wishes for which no thread has had time, as long as any wait.
fn end_overdue(desk: &Desk) {
    loop {
        let overdue = desk.overdue();
        if overdue.is_empty() {
            return;
        }
        for wish in overdue {
            let why = format!("{WORKERS_MAX} others were being agreed on all the time");
            if matches!(wish.asked_by, AskedBy::Program(..)) {
                desk.tell_of(wish.node, vec![failed(wish.node), why]);
            }
            desk.give(|work| work.ended.push(Ended { wish, outcome: Err(Error::Timeout) }));
        }
    }
}

/// Notes how it went, and by which way, if that is worth it; the endpoint.
pub(super) fn settle(
    desk: &Desk,
    wish: &Wish,
    outcome: Result<Agreed, NoPath>,
    way: Option<&str>,
) -> Result<PeerId, Error> {
    let (story, outcome) = match outcome {
        Ok(Agreed { path, failure }) => {
            let (stack, security) = (&path.stack, path.security.name());
            let service = &wish.wanted.service;
            let mut story = vec![format!("stack {stack}: {security}, agreed on for service {service}")];
            story.extend(way.map(str::to_owned));
            story.extend(failure.reasons());
            (story, desk.take_path(wish.node, &path).ok_or(Error::Internal))
        }
        Err(NoPath::Stacks(failure)) => {
            let mut story = vec![failed(wish.node)];
            story.extend(asked_for(&wish.wanted));
            story.extend(failure.reasons());
            (story, Err(error_of(&failure, wish.deadline)))
        }
        Err(NoPath::Session(why)) => {
            let error = match why {
                Trouble::Refused(Refused::Late, _) => Error::Timeout,
                Trouble::Refused(Refused::NoRoute, _) => Error::NotFound,
                ref other => crate::session::refusal(other.clone()).error,
            };
            (vec![failed(wish.node), why.to_string()], Err(error))
        }
        Err(_) => (vec![failed(wish.node)], Err(Error::Internal)),
    };
    // What there is stays as it came about, when nothing better was found.
    if outcome.is_ok() || matches!(wish.asked_by, AskedBy::Program(..)) {
        desk.tell_of(wish.node, story);
    }
    outcome
}

/// What was wanted, where that is more than an endpoint of the fabric.
fn asked_for(wanted: &Wanted) -> Option<String> {
    let (service, least) = (&wanted.service, wanted.min_security.name());
    is_more(wanted).then(|| format!("wanted: service {service}, {least} at least"))
}

fn failed(node: NodeId) -> String {
    format!("no endpoint to node {node}:")
}

/// The class of all reasons together.
fn error_of(failure: &Failure, deadline: Instant) -> Error {
    let is_policy = |reason| matches!(reason, Some(Reason::Policy | Reason::Security));
    if failure.is_none_allowed() || failure.tried.iter().all(|tried| is_policy(tried.refusal)) {
        return Error::Permission;
    }
    let is_unserved = |tried: &Tried| tried.refusal == Some(Reason::Service);
    match Instant::now() >= deadline {
        _ if failure.tried.last().is_some_and(is_unserved) => Error::NotFound,
        true => Error::Timeout,
        false => Error::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gridnet_core::endpoint::CqId;

    use super::super::requirements::Requirements;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn wish(context: u64, limit: Duration) -> Wish {
        let node = NodeId::new([5; 16]).unwrap();
        let asked_by = AskedBy::Program(CqId::from_bits(1), context, 0);
        let wanted = Requirements::of_fabric().unwrap().wanted();
        Wish { node, wanted, deadline: Instant::now() + limit, asked_by, begun: None }
    }

    #[test]
    fn all_reasons_together_are_of_one_class() {
        let failure = |tried: Vec<(Option<Reason>, &str)>| {
            let tried = tried.into_iter();
            let tried = tried.map(|(refusal, why)| Tried { stack: None, refusal, why: why.to_owned() });
            Failure { left_out: Vec::new(), by: String::new(), tried: tried.collect() }
        };
        let later = Instant::now() + LONG;
        let class = |tried| error_of(&failure(tried), later);
        assert_eq!(class(vec![(None, "no stack is allowed")]), Error::Permission, "by the own rules");
        assert_eq!(class(vec![(Some(Reason::Policy), ""), (Some(Reason::Security), "")]), Error::Permission);
        assert_eq!(class(vec![(Some(Reason::Service), "")]), Error::NotFound);
        assert_eq!(class(vec![(Some(Reason::Service), ""), (None, "")]), Error::Unreachable);
        assert_eq!(class(vec![(Some(Reason::Policy), ""), (None, "")]), Error::Unreachable);
        assert_eq!(error_of(&failure(vec![(None, "")]), Instant::now()), Error::Timeout);
    }

    #[test]
    fn what_nobody_has_time_for_ends_when_it_is_due() {
        let (desk, start) = (Arc::new(Desk::new().unwrap()), Instant::now());
        assert_eq!(desk.add(wish(1, LONG), 1), Some(Hand::Worker));
        // The only thread has gone to the first one.
        assert!(desk.next().is_some());
        assert_eq!(desk.add(wish(2, LONG), 1), Some(Hand::Clock));
        let clock = std::thread::spawn({
            let desk = desk.clone();
            move || end_overdue(&desk)
        });
        // The later one is due first.
        assert_eq!(desk.add(wish(3, Duration::from_millis(20)), 1), None);
        while !desk.is_busy() {
            assert!(start.elapsed() < LONG / 2, "it ends in its time");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let ended = desk.take().ended;
        let [Ended { wish: Wish { asked_by: AskedBy::Program(_, 3, _), .. }, outcome: Err(Error::Timeout) }] =
            &ended[..]
        else {
            panic!("{ended:?}")
        };
        assert!(desk.story(wish(0, LONG).node, None).is_some());
        desk.close();
        clock.join().unwrap();
        assert!(start.elapsed() < LONG / 2, "nothing is waited for when it is closed");
    }
}
