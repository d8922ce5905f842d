//! What several test files need.
#![allow(dead_code, reason = "each test file uses its part")]

use gridnet_testbed::{Host, Lab};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long anything may take that is expected to come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long something is waited for that is expected not to come.
pub const SILENCE: Duration = Duration::from_millis(500);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A listener on an address of `host`.
pub fn listen(host: Host<'_>, address: IpAddr) -> TcpListener {
    host.run(|| TcpListener::bind((address, 0))).unwrap().unwrap()
}

/// Connects from `host`.
pub fn connect(host: Host<'_>, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    host.run(|| TcpStream::connect_timeout(&to, patience)).unwrap()
}

/// A connection from `a` to the first address of `b`: its two ends.
pub fn connected(lab: &Lab, a: &str, b: &str) -> [TcpStream; 2] {
    let address = lab.host(b).unwrap().address().unwrap().into();
    connected_to(lab, a, b, address)
}

/// A connection from `a` to an address of `b`: its two ends.
pub fn connected_to(lab: &Lab, a: &str, b: &str, address: IpAddr) -> [TcpStream; 2] {
    let (a, b) = (lab.host(a).unwrap(), lab.host(b).unwrap());
    let listener = listen(b, address);
    let near = connect(a, listener.local_addr().unwrap(), PATIENCE).unwrap();
    let (far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    [near, far]
}

/// Byte `index` of a stream that shows what is lost, doubled or out of order.
pub fn byte(index: u64) -> u8 {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Sends bytes `from..to` of the stream.
pub fn send(stream: &mut TcpStream, from: u64, to: u64) -> std::io::Result<()> {
    let bytes: Vec<u8> = (from..to).map(byte).collect();
    stream.write_all(&bytes)
}

/// Receives bytes `from..to` of the stream, each of which has to be right.
pub fn receive(stream: &mut TcpStream, from: u64, to: u64) -> std::io::Result<()> {
    let mut bytes = vec![0; (to - from) as usize];
    stream.read_exact(&mut bytes)?;
    let wrong = (from..to).zip(&bytes).find(|(index, found)| byte(*index) != **found);
    assert_eq!(wrong, None, "of bytes {from} to {to}");
    Ok(())
}
