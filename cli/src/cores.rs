//! Which cores this process may use, and where a thread runs.

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use std::io;

/// The cores that this thread may use, in ascending order.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let mask = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect())
}

/// Keeps the calling thread, and the threads and processes it starts, on `core`.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    allow(&[core])
}

/// Keeps the calling thread, and those it starts, on some cores.
pub(crate) fn allow(cores: &[usize]) -> io::Result<()> {
    let mut mask = CpuSet::new();
    cores.iter().for_each(|core| mask.set(*core));
    Ok(sched_setaffinity(None, &mask)?)
}

/// What the processor calls itself.
pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_that_core_only() {
        let core = *allowed().unwrap().last().unwrap();
        // A thread of its own, so that the other tests keep their cores.
        let after = std::thread::spawn(move || {
            pin(core).unwrap();
            allowed().unwrap()
        });
        assert_eq!(after.join().unwrap(), [core]);
    }
}
