//! What TLS 1.3 carries over a bare TCP connection of the loopback interface, without the rail: 1 MiB after 1 MiB one way, both
//! sides certified as in a session. Two threads on two cores, calls that never block; the library's own way to read and write.
//!
//! `cargo bench -p gridnet-uring-tcp --bench raw_tls`; beside it, `gridnet session quick -- gridnet perf --op tag_bw --size 1m
//! --rails tcp`.

#[path = "../tests/common/certificates.rs"]
mod certificates;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use certificates::{name, Authority};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

const LEN: usize = 1 << 20;
const ROUNDS: usize = 5;
/// How long each takes.
const SPAN: Duration = Duration::from_millis(300);
/// What is sent before time counts.
const WARMUP: Duration = Duration::from_millis(50);

/// A socket whose calls return at once, tried until something is done.
struct Busy(TcpStream);

fn until_done<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            done => return done,
        }
    }
}

impl Read for Busy {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        until_done(|| self.0.read(buffer))
    }
}

impl Write for Busy {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        until_done(|| self.0.write(bytes))
    }

    fn write_vectored(&mut self, pieces: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        until_done(|| self.0.write_vectored(pieces))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pair() -> (Busy, Busy) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let one = TcpStream::connect(listener.local_addr().expect("it has an address")).expect("it listens");
    let (other, _) = listener.accept().expect("somebody calls");
    for socket in [&one, &other] {
        socket.set_nonblocking(true).expect("a socket can be told so");
        socket.set_nodelay(true).expect("a socket can be told so");
    }
    (Busy(one), Busy(other))
}

/// GB/s from `from` to `to`.
fn measure(mut from: impl Write + Send, mut to: impl Read + Send) -> f64 {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (bytes, start) = (vec![7; LEN], Instant::now());
            while start.elapsed() < WARMUP + SPAN * 2 {
                // Who has measured enough hangs up.
                if from.write_all(&bytes).and_then(|()| from.flush()).is_err() {
                    return;
                }
            }
        });
        let reads = scope.spawn(move || {
            let (mut bytes, mut count, start) = (vec![0; LEN], 0, Instant::now());
            while start.elapsed() < WARMUP {
                to.read_exact(&mut bytes).expect("the other side sends");
            }
            let start = Instant::now();
            while start.elapsed() < SPAN {
                to.read_exact(&mut bytes).expect("the other side sends");
                count += 1;
            }
            (count * LEN) as f64 / start.elapsed().as_secs_f64() / 1e9
        });
        reads.join().expect("the reader does not panic")
    })
}

fn main() {
    let authority = Authority::new();
    for _ in 0..ROUNDS {
        let (one, other) = pair();
        let plain = measure(one, other);
        let (one, other) = pair();
        let caller = ClientConnection::new(authority.member().client, name()).expect("the names are right");
        let called = ServerConnection::new(authority.member().server).expect("the certificate is right");
        let sealed = measure(StreamOwned::new(caller, one), StreamOwned::new(called, other));
        println!("1 MiB one way, GB/s: plain {plain:.2}, TLS 1.3 {sealed:.2}");
    }
}
