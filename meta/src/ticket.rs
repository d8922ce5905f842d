//! Tickets: what a process needs to join a session.
//!
//! A ticket is a file of mode 0600: where the rendez-vous node is, the fingerprint of the authority by which it is
//! recognised, and a secret. Whoever has it can join, until it expires or is used up.

use std::path::Path;

use gridnet_core::wire::NodeId;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::clock::Moment;
use crate::error::Error;
use crate::private;
use crate::secret::JoinSecret;

/// Format of the file.
const VERSION: u32 = 1;
/// Most addresses of a rendez-vous node.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of the SHA-256 by which an authority is recognised.
pub const FINGERPRINT_BYTES: usize = 32;

/// SHA-256 (FIPS 180-4) of the certificate of an authority, in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; FINGERPRINT_BYTES]);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", crate::hex::encode(&self.0))
    }
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The session.
    pub session: NodeId,
    /// The number by which the rendez-vous node knows the ticket.
    pub id: NodeId,
    /// Where the rendez-vous node listens: `HOST:PORT`, in the order in which they are tried.
    pub addresses: Vec<String>,
    /// The authority that the rendez-vous node must be certified by.
    pub authority: Fingerprint,
    /// What is to be proved.
    pub secret: JoinSecret,
    /// When it ends.
    pub expires: Moment,
    /// The rendez-vous node is spoken to over plain TCP: see `docs/security.md` for what is lost.
    pub insecure: bool,
    /// Members that lead, and pass on what newcomers say to the rendez-vous node: for those who do not reach that themselves.
    pub via: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    session: String,
    ticket: String,
    addresses: Vec<String>,
    authority: String,
    secret: Zeroizing<String>,
    expires: toml::value::Datetime,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    via: Vec<String>,
}

impl Ticket {
    /// Reads a ticket file. One that others can read is refused, which is a line of the audit.
    ///
    /// # Errors
    /// [`Error::Permission`] when others can read it, [`Error::Config`] when it is no ticket, with the line.
    pub fn read(path: &Path) -> Result<Ticket, Error> {
        let text = private::read(path).inspect_err(|e| {
            if let Error::Permission(why) = e {
                tracing::warn!(target: "gridnet::audit", "refused ticket {}: {why}", path.display());
            }
        })?;
        Ticket::parse(&text).map_err(|e| Error::Config(format!("ticket {}: {e}", path.display())))
    }

    /// Writes it to a new file of mode 0600.
    ///
    /// # Errors
    /// [`Error::Config`] when there is such a file.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        private::write_new(path, self.to_text().as_bytes())
    }

    /// Writes it in place of the file that is there.
    ///
    /// # Errors
    /// [`Error::Config`] when it cannot be written.
    pub fn replace(&self, path: &Path) -> Result<(), Error> {
        private::write(path, self.to_text().as_bytes())
    }

    pub(crate) fn parse(text: &str) -> Result<Ticket, Error> {
        // What the parser shows of the text could be the secret.
        let file: File = toml::from_str(text).map_err(|e| {
            let line =
                e.span().map_or(1, |span| text.get(..span.start).unwrap_or("").matches('\n').count() + 1);
            Error::Config(format!("line {line}: {}", e.message()))
        })?;
        if file.version != VERSION {
            return Err(Error::Config(format!(
                "version {}: this program reads version {VERSION}",
                file.version
            )));
        }
        let id = |what: &str, text: &str| {
            text.parse::<NodeId>().map_err(|_| Error::Config(format!("{what}: 32 hexadecimal digits")))
        };
        let fingerprint = file.authority.strip_prefix("sha256:").and_then(crate::hex::decode);
        Ok(Ticket {
            session: id("session", &file.session)?,
            id: id("ticket", &file.ticket)?,
            addresses: check_addresses(file.addresses)?,
            authority: fingerprint
                .map(Fingerprint)
                .ok_or_else(|| Error::Config("authority: sha256: and 64 hexadecimal digits".into()))?,
            secret: JoinSecret::from_hex(&file.secret)?,
            expires: Moment::parse(&file.expires.to_string())
                .ok_or_else(|| Error::Config("expires: a time as 2027-01-31T12:00:00Z".into()))?,
            insecure: file.insecure,
            via: check_via(file.via)?,
        })
    }

    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let list =
            |texts: &[String]| texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ");
        let secret = self.secret.to_hex();
        // Room for all of it: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(4096));
        text.push_str("# A ticket of a gridnet session. Whoever has this file can join: keep it as you keep a password.\n");
        text.push_str(&format!(
            "version = {VERSION}\nsession = \"{}\"\nticket = \"{}\"\n",
            self.session, self.id
        ));
        text.push_str(&format!(
            "addresses = [{}]\nauthority = \"{}\"\n",
            list(&self.addresses),
            self.authority
        ));
        // What older programs do not know is written only where they must not go on without.
        if !self.via.is_empty() {
            text.push_str(&format!("via = [{}]\n", list(&self.via)));
        }
        if self.insecure {
            text.push_str("insecure = true\n");
        }
        text.push_str(&format!("expires = {}\n", self.expires));
        text.push_str("secret = \"");
        text.push_str(&secret);
        text.push_str("\"\n");
        text
    }
}

/// Checks the addresses of a rendez-vous node: `HOST:PORT`, `1.2.3.4:PORT` or `[2001:db8::1]:PORT`.
///
/// # Errors
/// [`Error::Config`], with the address and what is accepted.
pub fn check_addresses(addresses: Vec<String>) -> Result<Vec<String>, Error> {
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        return Err(Error::Config(format!("addresses: 1 to {ADDRESSES_MAX} of the form HOST:PORT")));
    }
    for address in &addresses {
        if !is_address(address) {
            return Err(Error::Config(format!("address {address:?}: HOST:PORT, the port from 1 to 65535")));
        }
    }
    Ok(addresses)
}

/// The same for leaders that pass on what newcomers say: any number of them up to as many.
///
/// # Errors
/// As [`check_addresses`].
pub fn check_via(via: Vec<String>) -> Result<Vec<String>, Error> {
    match via.is_empty() {
        true => Ok(via),
        false => check_addresses(via).map_err(|e| Error::Config(format!("via: {e}"))),
    }
}

fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return false;
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
            (1..=253).contains(&host.len()) && host.bytes().all(is_letter)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        Ticket {
            session: NodeId::new([1; 16]).unwrap(),
            id: NodeId::new([2; 16]).unwrap(),
            addresses: vec!["rendezvous.example.org:7411".into(), "[2001:db8::1]:7411".into()],
            authority: Fingerprint([3; FINGERPRINT_BYTES]),
            secret: JoinSecret::random().unwrap(),
            expires: Moment::from_unix(1_900_000_000),
            insecure: false,
            via: Vec::new(),
        }
    }

    #[test]
    fn a_ticket_is_read_as_it_was_written() {
        let ticket = ticket();
        let again = Ticket::parse(&ticket.to_text()).unwrap();
        assert_eq!(again.to_text(), ticket.to_text());
        assert_eq!((again.expires, &again.addresses), (ticket.expires, &ticket.addresses));
        assert!(!ticket.to_text().contains("insecure") && !again.insecure, "nobody is insecure by default");
        let other = Ticket { insecure: true, via: vec!["10.0.0.1:7".into()], ..ticket };
        let again = Ticket::parse(&other.to_text()).unwrap();
        assert_eq!((again.insecure, again.via), (true, vec!["10.0.0.1:7".to_owned()]));
        let wrong = other.to_text().replace("10.0.0.1:7", "10.0.0.1");
        assert!(Ticket::parse(&wrong).unwrap_err().to_string().starts_with("via: address"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_the_secret_is_not_shown() {
        let text = ticket().to_text();
        let secret = text.lines().last().unwrap().split('"').nth(1).unwrap().to_owned();
        let with = |from: &str, to: &str| Ticket::parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(with("version = 1", "version = 2").contains("this program reads version 1"));
        assert!(with("session = \"0", "session = \"x").contains("session: 32 hexadecimal digits"));
        assert!(with("sha256:", "md5:").contains("authority: sha256:"));
        assert!(with("addresses = [", "adresses = [").starts_with("line 5: unknown field"));
        assert!(with(":7411", ":0").contains("\"rendezvous.example.org:0\": HOST:PORT"));
        for wrong in [with(&secret, &secret[1..]), with(&format!("\"{secret}\""), &format!("\"{secret}"))] {
            assert!(!wrong.contains(&secret[1..]), "{wrong}");
        }
        assert!(Ticket::parse("").unwrap_err().to_string().contains("missing field"));
    }

    #[test]
    fn addresses_are_hosts_and_ports() {
        for good in ["h:1", "10.0.0.1:65535", "[::1]:80", "a-b.c:7"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "h", "h:", ":1", "h:65536", "h:x", "::1:80", "[h]:80", "h h:1", "h\":1", "h:1\n"] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(check_addresses(vec!["h:1".into(); ADDRESSES_MAX + 1]).is_err());
        assert!(check_addresses(Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_borne(text in ".{0,400}") {
            let _ = Ticket::parse(&text);
        }
    }
}
