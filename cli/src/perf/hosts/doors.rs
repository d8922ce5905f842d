//! Where the server listens: one socket for each address, all with the same port, never at all addresses of the host at once.

use crate::args::HostsArgs;
use crate::failure::Failure;
use gridnet::config::Config;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};

/// The sockets, which never block.
pub(super) fn open(args: &HostsArgs, config: &Config) -> Result<Vec<TcpListener>, Failure> {
    let (listen, port) = match args.listen {
        Some((_, Some(port))) if args.port.is_some_and(|other| other != port) => {
            return Err(Failure::Usage("--listen and --port name different ports".into()));
        }
        Some((ip, port)) => (Some(ip), port.or(args.port)),
        None => (None, args.port),
    };
    let addresses = match listen {
        Some(ip) if ip.is_unspecified() => {
            return Err(Failure::Usage(format!("--listen {ip} would be all addresses: name one")));
        }
        Some(ip) => vec![ip],
        None => config
            .net_interfaces
            .addresses()
            .map_err(|refusal| Failure::Run(format!("{}; or name one: --listen ADDR", refusal.reason)))?,
    };
    let ports: Box<dyn Iterator<Item = u16>> = match (port, config.net_ports) {
        (Some(port), _) => Box::new(std::iter::once(port)),
        (None, Some(range)) => Box::new(range.first()..=range.last()),
        (None, None) => Box::new(std::iter::repeat_n(0, PROPOSALS)),
    };
    let mut why = "no port is allowed".to_owned();
    for port in ports {
        match at_all(&addresses, port) {
            Ok(doors) => return Ok(doors),
            Err((at, error)) if error.kind() == ErrorKind::AddrNotAvailable => {
                return Err(Failure::Run(format!("{} is no address of this host", at.ip())));
            }
            Err((at, error)) => why = format!("{at}: {error}"),
        }
    }
    Err(Failure::Run(format!("there is no port to listen at: {why}")))
}

fn at_all(addresses: &[IpAddr], mut port: u16) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut doors = Vec::new();
    for ip in addresses {
        let at = SocketAddr::new(*ip, port);
        let door = TcpListener::bind(at).and_then(|door| {
            door.set_nonblocking(true)?;
            port = door.local_addr()?.port();
            Ok(door)
        });
        doors.push(door.map_err(|error| (at, error))?);
    }
    Ok(doors)
}

/// Ports that the system proposes before we give up: each is free at one address, and may be taken at the others.
const PROPOSALS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: Option<(IpAddr, Option<u16>)>, port: Option<u16>) -> HostsArgs {
        HostsArgs { serve: true, connect: None, key: None, port, listen, keep: false }
    }

    #[test]
    fn every_address_has_the_same_port() {
        let config = Config::from_sources(
            [("GRIDNET_NET_INTERFACES".to_owned(), "127.0.0.1,127.0.0.0/8".to_owned())].into_iter(),
            &[],
        );
        let doors = open(&args(None, None), &config.unwrap()).unwrap();
        let ports: Vec<u16> = doors.iter().map(|door| door.local_addr().unwrap().port()).collect();
        assert!(!ports.is_empty() && ports.iter().all(|port| *port == ports[0] && *port > 0), "{ports:?}");
        let lo = "127.0.0.1".parse().unwrap();
        let Err(Failure::Run(text)) = open(&args(Some((lo, Some(ports[0]))), None), &Config::default())
        else {
            panic!("a port was had twice");
        };
        assert!(text.contains(&ports[0].to_string()), "{text}");
    }

    #[test]
    fn nobody_listens_everywhere_or_where_this_host_is_not() {
        let refused = |ip: &str, own, port| {
            let failure =
                open(&args(Some((ip.parse().unwrap(), own)), port), &Config::default()).unwrap_err();
            failure.text().to_owned()
        };
        assert!(refused("0.0.0.0", None, None).contains("all addresses"));
        assert!(refused("::", None, None).contains("all addresses"));
        assert!(refused("203.0.113.7", None, None).contains("no address of this host"));
        assert!(refused("127.0.0.1", Some(4), Some(5)).contains("different ports"));
    }
}
