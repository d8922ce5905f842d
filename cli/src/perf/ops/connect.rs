//! `connect_lat`: from opening an endpoint to the first echo, between two processes that never met.
//!
//! Each time both open a fresh fabric, unmeasured. The peer waits for whoever comes, polling or asleep.

use crate::cabi::{Address, Buffer, Cq, Endpoint, Entry, Fabric, Kind, Sent};
use crate::failure::Failure;
use crate::perf::link::patience;
use std::time::{Duration, Instant};

/// The parent's part: connects to the fabric at `address` and gives the time to the first echo in ns. `settled` is called
/// when all but the connection is prepared.
pub(crate) fn lead(
    address: &Address,
    options: &[String],
    buffer: Buffer,
    settled: impl FnOnce() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let fabric = Fabric::open(None, options)?;
    let cq = fabric.cq()?;
    cq.recv(buffer, SIZE, ECHO)?;
    settled()?;
    let start = Instant::now();
    let endpoint = cq.connect(address)?;
    let mut in_flight = send(&cq, &endpoint, buffer, CALL)?;
    while cq.wait(patience())?.kind == Kind::Send {
        in_flight = false;
    }
    let elapsed = start.elapsed();
    let bye = send(&cq, &endpoint, buffer, BYE)?;
    for _ in 0..u32::from(in_flight) + u32::from(bye) {
        cq.wait(patience())?;
    }
    Ok(elapsed.as_nanos() as f64)
}

/// The peer's part: answers the first message that reaches a fresh fabric, whose address `ready` is told.
pub(crate) fn follow(
    options: &[String],
    asleep: bool,
    buffer: Buffer,
    ready: impl FnOnce([u8; 64]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut options = options.to_vec();
    if asleep {
        options.push("GRIDNET_WAIT_MODE=block".to_owned());
    }
    let fabric = Fabric::open(None, &options)?;
    let cq = fabric.cq()?;
    cq.recv(buffer, SIZE, CALL)?;
    cq.recv(buffer, SIZE, BYE)?;
    ready(fabric.address()?)?;
    let call = if asleep { cq.wait(patience())? } else { poll(&cq, patience())? };
    let endpoint = cq.answer(call.source)?;
    send(&cq, &endpoint, buffer, ECHO)?;
    // The bye also says that the echo arrived: its entry, if any, may come before or not at all.
    while cq.wait(patience())?.kind == Kind::Send {}
    Ok(())
}

/// Sends; true if an entry will follow.
fn send(cq: &Cq, endpoint: &Endpoint, buffer: Buffer, tag: u64) -> Result<bool, Failure> {
    let deadline = Instant::now() + patience();
    loop {
        match endpoint.send(buffer, SIZE, tag)? {
            Sent::Done => return Ok(false),
            Sent::InFlight => return Ok(true),
            Sent::Again if Instant::now() > deadline => {
                return Err(Failure::Run(format!("no room for a message in {:?}", patience())));
            }
            // Nothing is in flight and no message is due: a poll only lets the library work.
            Sent::Again => drop(cq.poll()?),
        }
    }
}

/// The next entry, never asleep.
fn poll(cq: &Cq, timeout: Duration) -> Result<Entry, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        for _ in 0..POLLS_PER_CLOCK {
            if let Some(entry) = cq.poll()? {
                return Ok(entry);
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::Run(format!("nobody connected in {timeout:?}")));
        }
    }
}

/// Bytes of the message and of its echo.
pub(crate) const SIZE: usize = 8;

const CALL: u64 = 4;
const ECHO: u64 = 5;
const BYE: u64 = 6;

/// A look at the clock costs as much as several polls.
const POLLS_PER_CLOCK: u32 = 64;
