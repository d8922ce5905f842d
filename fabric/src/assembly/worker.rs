//! The threads that agree with other members on stacks: they wait, so that no call of the program has to.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use gridnet_assembly::call::Failure;
use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::name::Name;
use gridnet_assembly::stack::Security;
use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Refusal};
use gridnet_core::wire::NodeId;
use gridnet_meta::error::{Error as Trouble, Refusal as Refused};
use gridnet_meta::member::{Agreed, Assembler, NoPath, Wanted};
use nix::sys::signal::{pthread_sigmask, SigSet, SigmaskHow};

use super::desk::{Desk, Ended, Wish};
use super::SERVICE;

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
        if !desk.add(wish, WORKERS_MAX) {
            return Ok(());
        }
        self.0.retain(|thread| !thread.is_finished());
        let (desk_too, assembler) = (desk.clone(), assembler.clone());
        match spawn(move || work(&desk_too, &assembler)) {
            Ok(thread) => self.0.push(thread),
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
    let Ok(service) = SERVICE.parse::<Name>() else { return };
    while let Some(wish) = desk.next() {
        // What the rules ask for is added.
        let wanted = Wanted { service: service.clone(), min_security: Security::Plain, first: Vec::new() };
        let limit = wish.deadline.saturating_duration_since(Instant::now());
        let outcome = assembler.agree(wish.node, wanted, limit);
        let outcome = settle(desk, &wish, outcome);
        desk.give(|work| work.ended.push(Ended { wish, outcome }));
    }
}

/// Notes how it went; the endpoint.
fn settle(desk: &Desk, wish: &Wish, outcome: Result<Agreed, NoPath>) -> Result<PeerId, Error> {
    let (story, outcome) = match outcome {
        Ok(Agreed { path, failure }) => {
            let (stack, security) = (&path.stack, path.security.name());
            let mut story = vec![format!("stack {stack}: {security}, agreed on for service {SERVICE}")];
            story.extend(failure.reasons());
            (story, desk.take_path(wish.node, &path).ok_or(Error::Internal))
        }
        Err(NoPath::Stacks(failure)) => {
            let mut story = vec![failed(wish.node)];
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
    desk.tell_of(wish.node, story);
    outcome
}

fn failed(node: NodeId) -> String {
    format!("no endpoint to node {node}:")
}

/// The class of all reasons together.
fn error_of(failure: &Failure, deadline: Instant) -> Error {
    let is_policy = |reason| matches!(reason, Some(Reason::Policy | Reason::Security));
    if failure.tried.iter().all(|tried| is_policy(tried.refusal)) {
        // Also when the rules of this side leave nothing to be tried.
        return Error::Permission;
    }
    match Instant::now() >= deadline {
        true => Error::Timeout,
        false => Error::Unreachable,
    }
}
