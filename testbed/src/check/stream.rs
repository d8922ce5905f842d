//! Streams of numbered datagrams over a link, both ends of which are in our hands, so that one clock times them.

use crate::error::{Error, Result};
use crate::host::Host;
use crate::plan::bare;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Two sockets, one at each end of a link.
pub(super) struct Pair {
    pub(super) ends: [UdpSocket; 2],
    epoch: Instant,
    /// Of the next stream, so that datagrams of the last one are not taken for its own.
    run: u32,
}

/// Datagrams that are to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) count: u32,
    pub(super) gap: Duration,
    /// How long after the last one has been sent one may come.
    pub(super) quiet: Duration,
}

impl Pair {
    /// Opens sockets on the addresses of a link. The first end speaks first, and may be behind a firewall.
    pub(super) fn open(
        hosts: [Host<'_>; 2],
        addresses: [&str; 2],
        patience: Duration,
    ) -> Result<Option<Pair>> {
        let bind = |end: usize| -> Result<UdpSocket> {
            let address: IpAddr =
                bare(addresses[end]).ok_or_else(|| Error::setup(addresses[end], "no address"))?;
            Ok(hosts[end].run(|| UdpSocket::bind(SocketAddr::new(address, 0)))??)
        };
        let [first, second] = [bind(0)?, bind(1)?];
        first.connect(second.local_addr()?)?;
        second.set_read_timeout(Some(HELLO_GAP))?;
        let end = Instant::now() + patience;
        let mut buffer = [0; 16];
        while Instant::now() < end {
            // Refused is what a datagram got that came before the other end was there: not to be expected, no harm.
            let _ = first.send(b"hello");
            if let Ok((_, from)) = second.recv_from(&mut buffer) {
                second.connect(from)?;
                return Ok(Some(Pair { ends: [first, second], epoch: Instant::now(), run: 0 }));
            }
        }
        Ok(None)
    }

    /// Sends datagrams from an end to the other one; gives how long each one that came was on its way.
    pub(super) fn stream(&mut self, from: usize, shape: Shape) -> Result<Vec<Duration>> {
        self.run += 1;
        let (run, epoch) = (self.run, self.epoch);
        let (sender, receiver) = (&self.ends[from], &self.ends[1 - from]);
        receiver.set_read_timeout(Some(shape.quiet))?;
        let late = thread::scope(|scope| {
            let sending = scope.spawn(move || send(sender, run, epoch, shape));
            let mut late = Vec::new();
            let mut buffer = [0; 64];
            while late.len() < shape.count as usize {
                match receiver.recv(&mut buffer) {
                    Ok(length) => late.extend(age(&buffer[..length], run, epoch)),
                    Err(e) if is_timeout(&e) && sending.is_finished() => break,
                    Err(e) if is_timeout(&e) || e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
            Ok(late)
        });
        Ok(late?)
    }

    /// Sends full packets from an end, at up to `bits_per_second`, while `work` runs.
    pub(super) fn flood<T>(&self, from: usize, bits_per_second: u64, work: impl FnOnce() -> T) -> Result<T> {
        let sender = &self.ends[from];
        // Many at once where single ones would keep this machine too busy.
        let pieces = if bits_per_second >= 100_000_000 { 10 } else { 1 };
        setsockopt(sender, sockopt::UdpGsoSegment, &(PAYLOAD as i32))?;
        let (done, ask) = std::sync::mpsc::channel::<()>();
        let result = thread::scope(|scope| {
            scope.spawn(move || {
                let bytes = vec![0; PAYLOAD * pieces];
                let start = Instant::now();
                let mut bits = 0_u64;
                while ask.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                    let allowed = start.elapsed().as_nanos() * u128::from(bits_per_second) / 1_000_000_000;
                    if u128::from(bits) > allowed {
                        thread::sleep(Duration::from_micros(200));
                        continue;
                    }
                    // No room, or nobody who takes it: that is what the queue is for.
                    let _ = sender.send(&bytes);
                    bits += bytes.len() as u64 * 8;
                }
            });
            let result = work();
            drop(done);
            result
        });
        setsockopt(sender, sockopt::UdpGsoSegment, &0)?;
        Ok(result)
    }
}

fn send(sender: &UdpSocket, run: u32, epoch: Instant, shape: Shape) -> io::Result<()> {
    let start = Instant::now();
    for number in 0..shape.count {
        let due = shape.gap * number;
        thread::sleep(due.saturating_sub(start.elapsed()));
        let mut datagram = [0; 64];
        datagram[..4].copy_from_slice(&run.to_le_bytes());
        datagram[4..12].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
        match sender.send(&datagram) {
            Ok(_) => {}
            // A full queue, or the answer of somebody to an earlier one.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// How long a datagram of `run` has been on its way.
fn age(datagram: &[u8], run: u32, epoch: Instant) -> Option<Duration> {
    let number = u32::from_le_bytes(datagram.get(..4)?.try_into().ok()?);
    let sent = u64::from_le_bytes(datagram.get(4..12)?.try_into().ok()?);
    (number == run).then(|| epoch.elapsed().saturating_sub(Duration::from_nanos(sent)))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Bytes of a datagram of a stream on the wire: 64, and headers of UDP, IPv6 and Ethernet.
pub(super) const WIRE_BYTES: u64 = 64 + 8 + 40 + 14;
/// Fits into 1500 with any headers of ours.
const PAYLOAD: usize = 1400;
const HELLO_GAP: Duration = Duration::from_millis(100);
