//! Kill points: named places of the protocols at which a test ends its process.
//!
//! [`crate::kill_point`] marks a place; without the feature `testing` it is nothing at all. A test installs what is to
//! happen there, say a SIGKILL at the point that its environment names.

use std::sync::OnceLock;

static HOOK: OnceLock<fn(&'static str)> = OnceLock::new();

/// Calls `hook` with the name of each point that is reached from now on. The first hook of a process stays.
pub fn on_reached(hook: fn(&'static str)) {
    // A second one is a mistake of the test, which then sees no point.
    let _ = HOOK.set(hook);
}

/// A point was reached.
#[inline]
pub fn reached(name: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}
