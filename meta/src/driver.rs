//! The thread in which members live: one for each, or one for many.

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::directory::Shelf;
use crate::error::Error;
use crate::handlers::{Handlers, HANDLERS_MAX};
use crate::rendezvous::spawn;

/// Threads for what may wait: answering requests, and looking up names. The first never take those of the second.
const WAITING_THREADS: usize = HANDLERS_MAX + 4;

/// What members of one driver have in common.
#[derive(Debug)]
pub(crate) struct Common {
    /// Who answers a request has one of these.
    pub(crate) turns: Arc<Handlers>,
    pub(crate) shelf: Arc<Shelf>,
    /// Where tasks of a member run.
    pub(crate) handle: Handle,
}

/// A thread in which members live, with all signals blocked. It ends when this is dropped, and they with it.
#[derive(Debug)]
pub struct Driver {
    handle: Handle,
    /// Who answers a request has one of these.
    turns: Arc<Handlers>,
    /// What its members share of directories.
    shelf: Arc<Shelf>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::System`] when there are no threads.
    pub fn start() -> Result<Driver, Error> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(WAITING_THREADS).thread_name("gridnet-wait");
        let runtime = builder.build().map_err(|e| Error::System(format!("runtime: {e}")))?;
        let handle = runtime.handle().clone();
        let (stop, mut stopped) = watch::channel(false);
        let thread = spawn("gridnet-member", move || {
            runtime.block_on(async { drop(stopped.wait_for(|stop| *stop).await) });
            // Looking up a name may take as long as it likes: nobody waits for it.
            runtime.shutdown_background();
        })?;
        Ok(Driver { handle, turns: Arc::default(), shelf: Arc::default(), stop, thread: Some(thread) })
    }

    pub(crate) fn common(&self) -> Common {
        Common { turns: self.turns.clone(), shelf: self.shelf.clone(), handle: self.handle.clone() }
    }

    pub(crate) fn run(&self, member: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(member));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
