//! Small proxies for sites that have nothing else: SOCKS5 (RFC 1928) and HTTP CONNECT (RFC 9110, 9.3.6), TCP only,
//! with a login (RFC 1929, RFC 7617) where one is asked for. Names are those of the lab's hosts. Made for tests: a thread for each direction.

use crate::error::{Error, Result};
use crate::namespace::Namespaces;
use crate::topology::Login;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where SOCKS5 is spoken.
pub const SOCKS_PORT: u16 = 1080;
/// Where HTTP is spoken.
pub const HTTP_PORT: u16 = 3128;

/// The hosts' names with their addresses.
type Names = Arc<HashMap<String, Vec<IpAddr>>>;

/// A proxy on one port, while it runs.
#[derive(Debug)]
pub(crate) struct Proxy {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
    open: Arc<Mutex<Open>>,
}

/// The streams that are open, and whether there may be more.
#[derive(Debug, Default)]
struct Open {
    ended: bool,
    streams: Vec<TcpStream>,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Socks,
    Http,
}

impl Proxy {
    /// Starts both proxies on `address` of a host.
    pub(crate) fn start(
        host: &Namespaces,
        address: IpAddr,
        names: &Names,
        login: Option<&Login>,
    ) -> Result<[Proxy; 2]> {
        let start = |port, protocol| {
            Proxy::start_one(
                host,
                SocketAddr::new(address, port),
                protocol,
                Rules { names: Arc::clone(names), login: login.cloned() },
            )
        };
        Ok([start(SOCKS_PORT, Protocol::Socks)?, start(HTTP_PORT, Protocol::Http)?])
    }

    fn start_one(host: &Namespaces, address: SocketAddr, protocol: Protocol, rules: Rules) -> Result<Proxy> {
        let failed = |e: io::Error| Error::setup(&format!("proxy on {address}"), e);
        let listener = host.run(|| TcpListener::bind(address))?.map_err(failed)?;
        let open = Arc::new(Mutex::new(Open::default()));
        let service = Service {
            listener: listener.try_clone()?,
            protocol,
            host: host.clone(),
            rules,
            open: Arc::clone(&open),
        };
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || service.run())
            .map_err(failed)?;
        Ok(Proxy { listener, thread: Some(thread), open })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.ended = true;
        for stream in open.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(open);
        // Wakes the thread that accepts.
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.listener),
            nix::sys::socket::Shutdown::Both,
        );
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a proxy goes by.
#[derive(Clone, Debug)]
struct Rules {
    names: Names,
    login: Option<Login>,
}

struct Service {
    listener: TcpListener,
    protocol: Protocol,
    host: Namespaces,
    rules: Rules,
    open: Arc<Mutex<Open>>,
}

impl Service {
    fn run(self) {
        // Connections out of here begin in the host's network.
        if self.host.enter_network().is_err() {
            return;
        }
        while let Ok((client, _)) = self.listener.accept() {
            let (protocol, rules, open) = (self.protocol, self.rules.clone(), Arc::clone(&self.open));
            // Made in here, threads are in this network, too. Errors end the connection: the client sees that.
            std::thread::spawn(move || {
                let _ = serve(client, protocol, &rules, &open);
            });
        }
    }
}

fn lock(open: &Mutex<Open>) -> std::sync::MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, from greeting to end.
fn serve(client: TcpStream, protocol: Protocol, rules: &Rules, open: &Mutex<Open>) -> io::Result<()> {
    client.set_read_timeout(Some(GREETING))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let target = match protocol {
        Protocol::Socks => greet_socks(&mut reader, &client, rules.login.as_ref())?,
        Protocol::Http => greet_http(&mut reader, &client, rules.login.as_ref())?,
    };
    let connected = target.connect(&rules.names);
    let answer: &[u8] = match (protocol, &connected) {
        (Protocol::Socks, Ok(_)) => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        (Protocol::Socks, Err(_)) => &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0],
        (Protocol::Http, Ok(_)) => b"HTTP/1.1 200 Connection established\r\n\r\n",
        (Protocol::Http, Err(_)) => b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    };
    (&client).write_all(answer)?;
    let server = connected?;
    client.set_read_timeout(None)?;
    {
        let mut open = lock(open);
        if open.ended {
            return Ok(());
        }
        open.streams.extend([client.try_clone()?, server.try_clone()?]);
    }
    let (client_out, server_in) = (client, server.try_clone()?);
    let back = std::thread::spawn(move || pump(server_in, &client_out));
    pump(reader, &server);
    let _ = back.join();
    Ok(())
}

/// Copies to the end, and says so.
fn pump(mut from: impl Read, mut to: &TcpStream) {
    // An error on one side is an end for the other.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

impl Target {
    fn connect(&self, names: &Names) -> io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = match self {
            Target::Address(address) => vec![*address],
            Target::Name(name, port) => match name.parse::<IpAddr>() {
                Ok(address) => vec![SocketAddr::new(address, *port)],
                Err(_) => {
                    names.get(name).into_iter().flatten().map(|ip| SocketAddr::new(*ip, *port)).collect()
                }
            },
        };
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }
}

fn greet_socks(reader: &mut impl Read, mut client: &TcpStream, login: Option<&Login>) -> io::Result<Target> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let [version, count] = take(reader)?;
    let methods = take_counted(reader, count)?;
    // 0 is nothing, 2 user and password, 255 none of those offered.
    let wanted = if login.is_some() { 2 } else { 0 };
    let method = if version == 5 && methods.contains(&wanted) { wanted } else { 255 };
    client.write_all(&[5, method])?;
    if method == 255 {
        return Err(bad());
    }
    if let Some(login) = login {
        let [_, user] = take(reader)?;
        let user = take_counted(reader, user)?;
        let [password] = take(reader)?;
        let password = take_counted(reader, password)?;
        let fits = (user, password) == (login.user.as_bytes().to_vec(), login.password.as_bytes().to_vec());
        client.write_all(&[1, u8::from(!fits)])?;
        if !fits {
            return Err(bad());
        }
    }
    let [version, command, _, kind] = take(reader)?;
    if (version, command) != (5, 1) {
        return Err(bad());
    }
    let host: IpAddr = match kind {
        1 => Ipv4Addr::from(take::<4>(reader)?).into(),
        4 => Ipv6Addr::from(take::<16>(reader)?).into(),
        3 => {
            let [length] = take(reader)?;
            let name = String::from_utf8(take_counted(reader, length)?).map_err(|_| bad())?;
            return Ok(Target::Name(name, u16::from_be_bytes(take(reader)?)));
        }
        _ => return Err(bad()),
    };
    Ok(Target::Address(SocketAddr::new(host, u16::from_be_bytes(take(reader)?))))
}

fn take<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_counted(reader: &mut impl Read, count: u8) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count.into()];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn greet_http(
    reader: &mut impl BufRead,
    mut client: &TcpStream,
    login: Option<&Login>,
) -> io::Result<Target> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.by_ref().take(LONGEST_LINE).read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        if line.is_empty() || lines.len() > MOST_LINES {
            break;
        }
        lines.push(line);
    }
    if let Some(login) = login {
        let wanted = base64(format!("{}:{}", login.user, login.password).as_bytes());
        let given = lines.iter().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
            let is_login = name.eq_ignore_ascii_case("proxy-authorization");
            is_login.then(|| value.trim().strip_prefix("Basic ")).flatten()
        });
        if given != Some(wanted.as_str()) {
            client.write_all(REFUSED)?;
            return Err(bad());
        }
    }
    let request = lines.first().ok_or_else(bad)?;
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).ok_or_else(bad)?;
    let (host, port) = target.rsplit_once(':').ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Target::Name(host.to_owned(), port.parse().map_err(|_| bad())?))
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (group >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit > chunk.len() { '=' } else { DIGITS[value].into() });
        }
    }
    text
}

const REFUSED: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"lab\"\r\nContent-Length: 0\r\n\r\n";

/// A client that does not say what it wants in this time is not one of ours.
const GREETING: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(30);
const LONGEST_LINE: u64 = 4096;
const MOST_LINES: usize = 100;

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn the_examples_of_the_standard_come_out() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
            ("u:secret?>", "dTpzZWNyZXQ/Pg=="),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }
}
