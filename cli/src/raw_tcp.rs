//! The bare socket: a ping-pong between two threads over the loopback interface by calls that never block, without gridnet.
//!
//! It is the floor under every latency over TCP, as the canary is under those in shared memory.

use crate::cores;
use crate::perf::patience;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::Instant;

/// One-way times in ns of messages of `size` bytes between threads on two cores, if two are given: one for each of `rounds` round
/// trips.
pub(crate) fn measure(pair: Option<(usize, usize)>, size: usize, rounds: usize) -> io::Result<Vec<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let asking = TcpStream::connect(listener.local_addr()?)?;
    let (answering, _) = listener.accept()?;
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let pinned = pair.map_or(Ok(()), |(_, core)| cores::pin(core));
            start.wait();
            pinned.and_then(|()| answer_all(&answering, size, rounds))
        });
        let asks = scope.spawn(|| {
            let pinned = pair.map_or(Ok(()), |(core, _)| cores::pin(core));
            start.wait();
            pinned.and_then(|()| ask_all(&asking, size, rounds))
        });
        let samples = asks.join().expect("the asking thread does not panic");
        answers.join().expect("the answering thread does not panic").and(samples)
    })
}

/// One side: one-way times in ns, one for each of `rounds` round trips.
pub(crate) fn ask_all(stream: &TcpStream, size: usize, rounds: usize) -> io::Result<Vec<f64>> {
    make_busy(stream)?;
    let mut buffer = vec![0; size];
    for _ in 0..warmup(rounds) {
        ask(stream, &mut buffer)?;
    }
    (0..rounds).map(|_| ask(stream, &mut buffer)).collect()
}

/// The other side.
pub(crate) fn answer_all(stream: &TcpStream, size: usize, rounds: usize) -> io::Result<()> {
    make_busy(stream)?;
    let mut buffer = vec![0; size];
    (0..warmup(rounds) + rounds).try_for_each(|_| answer(stream, &mut buffer))
}

/// The other side, until the first one closes the connection.
pub(crate) fn answer_until_end(stream: &TcpStream, size: usize) -> io::Result<()> {
    make_busy(stream)?;
    let mut buffer = vec![0; size];
    loop {
        match answer(stream, &mut buffer) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(())
            }
            Err(e) => return Err(e),
        }
    }
}

fn make_busy(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)
}

/// Round trips that go before, unmeasured.
fn warmup(rounds: usize) -> usize {
    rounds.min(WARMUP)
}

fn ask(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<f64> {
    let start = Instant::now();
    write(stream, buffer)?;
    read(stream, buffer)?;
    Ok(start.elapsed().as_nanos() as f64 / 2.0)
}

fn answer(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    read(stream, buffer)?;
    write(stream, buffer)
}

fn read(mut stream: &TcpStream, mut left: &mut [u8]) -> io::Result<()> {
    again(|| {
        let len = stream.read(left)?;
        if len == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        left = std::mem::take(&mut left).get_mut(len..).unwrap_or_default();
        Ok(left.is_empty())
    })
}

fn write(mut stream: &TcpStream, mut left: &[u8]) -> io::Result<()> {
    again(|| {
        let len = stream.write(left)?;
        left = left.get(len..).unwrap_or_default();
        Ok(left.is_empty())
    })
}

/// Repeats `step` until it says that it is done.
fn again(mut step: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let mut since = None;
    loop {
        match step() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                // The clock is read by those who wait only.
                if since.get_or_insert_with(Instant::now).elapsed() > patience() {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(e) => return Err(e),
        }
    }
}

const WARMUP: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_trip_gives_a_sample() {
        for size in [1, 8, 300_000] {
            let samples = measure(None, size, 5).unwrap();
            assert_eq!(samples.len(), 5);
            assert!(samples.iter().all(|ns| *ns > 0.0));
        }
    }
}
