//! The operations, one file each. Both sides of an operation are in one file: the parent leads and takes the time,
//! its peer follows.

pub(crate) mod connect;
pub(crate) mod handed;
pub(crate) mod latency;
pub(crate) mod loan;
pub(crate) mod onesided;
pub(crate) mod peers;
pub(crate) mod raw;
pub(crate) mod stream;

use super::link::Link;
use super::stats::Samples;
use super::task::Task;
use crate::args::Op;
use crate::failure::Failure;

/// The parent's part of a run.
pub(crate) fn lead(link: &Link, task: Task) -> Result<Samples, Failure> {
    match task.op {
        Op::TagLat => latency::lead(link, task),
        Op::HandedLat => handed::lead(link, task),
        Op::LoanLat => loan::lead(link, task),
        Op::TagBw | Op::TagRate => stream::lead(link, task),
        op if op.is_onesided() => onesided::lead(link, task),
        _ => Err(not_here(task)),
    }
}

/// The peer's part of a run; calls `ready` when its receives are posted.
pub(crate) fn follow(
    link: &Link,
    task: Task,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    match task.op {
        Op::TagLat => latency::follow(link, task, ready),
        Op::HandedLat => handed::follow(link, task, ready),
        Op::LoanLat => loan::follow(link, task, ready),
        Op::TagBw | Op::TagRate => stream::follow(link, task, ready),
        op if op.is_onesided() => onesided::follow(link, task, ready),
        _ => Err(not_here(task)),
    }
}

fn not_here(task: Task) -> Failure {
    Failure::Run(format!("{} is not run over a link", task.op))
}
