//! `raw_tcp` between hosts: a ping-pong over a bare socket, on the same path, without gridnet.

use crate::failure::Failure;
use crate::perf::link::patience;
use crate::raw_tcp;
use gridnet::config::Config;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The parent's part: one-way times in ns of messages of `size` bytes, so many, or as many as `rounds_for` says of the time of
/// a round trip in ns.
pub(crate) fn lead(
    at: SocketAddr,
    size: usize,
    token: [u8; 16],
    iters: Option<u64>,
    rounds_for: impl FnOnce(f64) -> u64,
) -> Result<Vec<f64>, Failure> {
    let failed = |error: std::io::Error| Failure::Run(format!("{at}: {error}"));
    let mut stream = TcpStream::connect_timeout(&at, patience()).map_err(failed)?;
    stream.write_all(&token).map_err(failed)?;
    let rounds = match iters {
        Some(iters) => iters,
        None => {
            let trial = raw_tcp::ask_all(&stream, size, TRIAL).map_err(failed)?;
            rounds_for(2.0 * trial.iter().sum::<f64>() / TRIAL as f64)
        }
    };
    raw_tcp::ask_all(&stream, size, rounds as usize).map_err(failed)
}

/// The peer's part: listens at `ip`, tells `ready` where, and answers the one that knows the token until that hangs up.
pub(crate) fn follow(
    ip: IpAddr,
    size: usize,
    token: [u8; 16],
    ready: impl FnOnce(SocketAddr) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let listener = listen(ip)?;
    ready(listener.local_addr()?)?;
    let stream = accept(&listener, token)?;
    Ok(raw_tcp::answer_until_end(&stream, size)?)
}

/// A port of those that the configuration allows.
fn listen(ip: IpAddr) -> Result<TcpListener, Failure> {
    let ports = Config::from_process(&[])?.net_ports.map_or(0..=0, |range| range.first()..=range.last());
    let mut last = None;
    for port in ports {
        match TcpListener::bind((ip, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let why = last.map_or_else(String::new, |error| format!(": {error}"));
    Err(Failure::Run(format!("no port is free at {ip}{why}")))
}

fn accept(listener: &TcpListener, token: [u8; 16]) -> Result<TcpStream, Failure> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + patience();
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let mut said = [0; 16];
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(STRANGER))?;
                // Whoever does not know it, or hangs up, is a stranger.
                if stream.read_exact(&mut said).is_ok() && said == token {
                    return Ok(stream);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Run(format!("no bare socket came in {:?}", patience())))
}

/// Round trips that say how long one takes.
const TRIAL: usize = 5;

/// Time for a stranger to say who it is.
const STRANGER: Duration = Duration::from_secs(1);
