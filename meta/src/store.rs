//! What the rendez-vous node keeps on disk: a directory of mode 0700 with files of mode 0600.
//!
//! | file | holds |
//! |---|---|
//! | `session.toml` | the session's id, where it listens, how it is called |
//! | `authority.pem`, `authority.key` | the authority |
//! | `tickets.toml` | tickets: secret, end, how many may still join |
//! | `revoked` | revoked nodes, one a line, and when their last certificates end (seconds after 1970 began) |
//! | `life` | the number of the last life of the rendez-vous node |
//! | `ticket` | the first ticket, to be handed out |
//! | `lock` | locked by whoever changes anything of it |

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gridnet_core::wire::NodeId;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::clock::Moment;
use crate::error::Error;
use crate::private;
use crate::register::TicketState;
use crate::secret::JoinSecret;
use crate::ticket::{check_addresses, Ticket};

const VERSION: u32 = 1;

/// How a session is made.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Where the rendez-vous node listens.
    pub listen: Vec<SocketAddr>,
    /// Under which addresses others reach it; the same when empty.
    pub addresses: Vec<String>,
    /// Tickets say that the rendez-vous node is spoken to over plain TCP, and it answers so, too.
    pub insecure: bool,
    /// The first ticket.
    pub ticket: NewTicket,
}

/// How a ticket is made.
#[derive(Debug, Clone, Copy)]
pub struct NewTicket {
    /// How long one can join with it.
    pub lifetime: Duration,
    /// How many may join with it; `None`: any number.
    pub uses: Option<u64>,
}

/// A session, as it lies on disk.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    session: NodeId,
    listen: Vec<SocketAddr>,
    addresses: Vec<String>,
    insecure: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionFile {
    version: u32,
    session: String,
    listen: Vec<SocketAddr>,
    addresses: Vec<String>,
    #[serde(default)]
    insecure: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketsFile {
    #[serde(default)]
    ticket: Vec<TicketEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketEntry {
    id: String,
    secret: Zeroizing<String>,
    expires: i64,
    left: Option<u64>,
}

impl Store {
    /// Makes a session in a new or empty directory.
    ///
    /// # Errors
    /// [`Error::Config`] when the directory holds something, or an address is none; [`Error::Permission`] when others can
    /// write into it.
    pub fn create(dir: &Path, new: &NewSession, now: Moment) -> Result<(Store, Ticket), Error> {
        let addresses = match new.addresses.is_empty() {
            true => addresses_of(&new.listen)?,
            false => new.addresses.clone(),
        };
        let store = Store {
            dir: dir.to_owned(),
            session: crate::random::id()?,
            listen: new.listen.clone(),
            addresses: check_addresses(addresses)?,
            insecure: new.insecure,
        };
        private::create_dir(dir)?;
        let authority = Authority::create(store.session, now)?;
        let (certificate, key) = authority.to_pem();
        private::write_new(&store.file("authority.pem"), certificate.as_bytes())?;
        private::write_new(&store.file("authority.key"), key.as_bytes())?;
        let ticket = store.new_ticket(&authority, new.ticket, now)?;
        ticket.write(&store.file("ticket"))?;
        // Last: what has no such file is no session.
        private::write_new(&store.file("session.toml"), store.to_text().as_bytes())?;
        Ok((store, ticket))
    }

    /// Opens the session of a directory.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none, [`Error::Permission`] when others could have changed it.
    pub fn open(dir: &Path) -> Result<Store, Error> {
        private::check_dir(dir)?;
        let path = dir.join("session.toml");
        let text = private::read(&path)?;
        let wrong = |why: &str| Error::Config(format!("{}: {why}", path.display()));
        let file: SessionFile = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
        if file.version != VERSION {
            return Err(wrong(&format!("version {}: this program reads version {VERSION}", file.version)));
        }
        let session = file.session.parse().map_err(|_| wrong("session: 32 hexadecimal digits"))?;
        let addresses = check_addresses(file.addresses).map_err(|e| wrong(&e.to_string()))?;
        let (listen, insecure) = (file.listen, file.insecure);
        Ok(Store { dir: dir.to_owned(), session, listen, addresses, insecure })
    }

    /// The session.
    pub fn session(&self) -> NodeId {
        self.session
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the rendez-vous node listens.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Whether the rendez-vous node may be spoken to over plain TCP.
    pub fn insecure(&self) -> bool {
        self.insecure
    }

    /// The authority.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn authority(&self) -> Result<Authority, Error> {
        let certificate = private::read(&self.file("authority.pem"))?;
        Authority::from_pem(&certificate, &private::read(&self.file("authority.key"))?)
    }

    /// Makes another ticket.
    ///
    /// # Errors
    /// [`Error::Config`] when it would never be valid.
    pub fn new_ticket(&self, authority: &Authority, new: NewTicket, now: Moment) -> Result<Ticket, Error> {
        if new.lifetime.as_secs() == 0 || new.uses == Some(0) {
            return Err(Error::Config("a ticket is valid for a second and for one join at least".into()));
        }
        let ticket = Ticket {
            session: self.session,
            id: crate::random::id()?,
            addresses: self.addresses.clone(),
            authority: authority.fingerprint(),
            secret: JoinSecret::random()?,
            expires: now.after(new.lifetime),
            insecure: self.insecure,
            via: Vec::new(),
        };
        let mut tickets = self.tickets(now)?;
        let state = TicketState { secret: ticket.secret.clone(), expires: ticket.expires, left: new.uses };
        tickets.insert(ticket.id, state);
        self.keep_tickets(&tickets)?;
        Ok(ticket)
    }

    /// Makes another ticket and writes it to a new file.
    pub(crate) fn write_ticket(&self, path: &Path, new: NewTicket) -> Result<(), Error> {
        if path.exists() {
            return Err(Error::Config(format!("{}: there is such a file", path.display())));
        }
        self.new_ticket(&self.authority()?, new, Moment::now())?.write(path)
    }

    /// Forgets a ticket.
    pub(crate) fn end_ticket(&self, ticket: NodeId) -> Result<(), Error> {
        let mut tickets = self.tickets(Moment::now())?;
        match tickets.remove(&ticket) {
            Some(_) => self.keep_tickets(&tickets),
            None => Err(Error::Config(format!("there is no ticket {ticket} in {}", self.dir.display()))),
        }
    }

    /// The tickets with which one can join now.
    pub(crate) fn tickets(&self, now: Moment) -> Result<BTreeMap<NodeId, TicketState>, Error> {
        let path = self.file("tickets.toml");
        if !path.exists() {
            return Ok(BTreeMap::new());
        }
        let wrong = |why: &str| Error::Config(format!("{}: {why}", path.display()));
        let text = private::read(&path)?;
        let file: TicketsFile = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
        let mut tickets = BTreeMap::new();
        for entry in file.ticket {
            let id = entry.id.parse().map_err(|_| wrong("id: 32 hexadecimal digits"))?;
            let secret = JoinSecret::from_hex(&entry.secret).map_err(|e| wrong(&e.to_string()))?;
            let expires = Moment::from_unix(entry.expires);
            // One that has just ended is told so, and not that it never was.
            if now < expires.after(Duration::from_secs(30 * 86_400)) {
                tickets.insert(id, TicketState { secret, expires, left: entry.left });
            }
        }
        Ok(tickets)
    }

    pub(crate) fn keep_tickets(&self, tickets: &BTreeMap<NodeId, TicketState>) -> Result<(), Error> {
        // Room for all of it: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(256 * (tickets.len() + 1)));
        for (id, ticket) in tickets {
            let secret = ticket.secret.to_hex();
            let _ =
                write!(text, "[[ticket]]\nid = \"{id}\"\nexpires = {}\nsecret = \"", ticket.expires.unix());
            text.push_str(&secret);
            text.push_str("\"\n");
            if let Some(left) = ticket.left {
                let _ = writeln!(text, "left = {left}");
            }
        }
        private::write(&self.file("tickets.toml"), text.as_bytes())
    }

    /// The revoked nodes, and when the last certificate of each ends, where that is known.
    pub(crate) fn revoked(&self) -> Result<BTreeMap<NodeId, Option<Moment>>, Error> {
        let path = self.file("revoked");
        if !path.exists() {
            return Ok(BTreeMap::new());
        }
        let text = private::read(&path)?;
        let node = |(at, line): (usize, &str)| {
            let wrong = || {
                let expected = "32 hexadecimal digits, and a number of seconds";
                Error::Config(format!("{}, line {}: {expected}", path.display(), at + 1))
            };
            let (node, until) =
                line.split_once(' ').map_or((line, None), |(node, until)| (node, Some(until)));
            let until =
                until.map(|until| until.parse().map(Moment::from_unix).map_err(|_| wrong())).transpose()?;
            Ok((node.parse().map_err(|_| wrong())?, until))
        };
        text.lines().enumerate().map(node).collect()
    }

    pub(crate) fn keep_revoked(&self, revoked: &BTreeMap<NodeId, Moment>) -> Result<(), Error> {
        let line = |(node, until): (&NodeId, &Moment)| format!("{node} {}\n", until.unix());
        private::write(&self.file("revoked"), revoked.iter().map(line).collect::<String>().as_bytes())
    }

    /// The number of the life that begins: larger than those before, by what is written down and by the clock, so that either may
    /// be lost.
    pub(crate) fn begin_life(&self, now: Moment) -> Result<u64, Error> {
        let path = self.file("life");
        let last = match path.exists() {
            true => private::read(&path)?
                .trim()
                .parse::<u64>()
                .map_err(|_| Error::Config(format!("{}: a number", path.display())))?,
            false => 0,
        };
        let life = last.saturating_add(1).max(u64::try_from(now.unix()).unwrap_or(0) << 16);
        private::write(&path, format!("{life}\n").as_bytes())?;
        Ok(life)
    }

    /// One more, while nobody serves the session: the next who does says until when it matters.
    pub(crate) fn add_revoked(&self, node: NodeId) -> Result<(), Error> {
        let mut revoked = self.revoked()?;
        revoked.entry(node).or_insert(None);
        let line = |(node, until): (&NodeId, &Option<Moment>)| match until {
            Some(until) => format!("{node} {}\n", until.unix()),
            None => format!("{node}\n"),
        };
        private::write(&self.file("revoked"), revoked.iter().map(line).collect::<String>().as_bytes())
    }

    /// Keeps all others from serving the session, or changing it, as long as it is held; `None` when somebody else holds it.
    pub(crate) fn lock(&self) -> Result<Option<Flock<std::fs::File>>, Error> {
        let path = self.file("lock");
        let failed = |e: std::io::Error| Error::System(format!("{}: {e}", path.display()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        match Flock::lock(options.open(&path).map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(failed(e.into())),
        }
    }

    /// Path of a file of the session.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn to_text(&self) -> String {
        let list =
            |texts: Vec<String>| texts.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ");
        let listen = list(self.listen.iter().map(ToString::to_string).collect());
        let addresses = list(self.addresses.clone());
        let insecure = if self.insecure { "insecure = true\n" } else { "" };
        format!(
            "version = {VERSION}\nsession = \"{}\"\nlisten = [{listen}]\naddresses = [{addresses}]\n{insecure}",
            self.session
        )
    }
}

/// Under which addresses one that listens there is reached.
fn addresses_of(listen: &[SocketAddr]) -> Result<Vec<String>, Error> {
    if let Some(any) = listen.iter().find(|address| address.ip().is_unspecified()) {
        let why = format!("{any} are all addresses of this host: say by which one others reach it");
        return Err(Error::Config(why));
    }
    Ok(listen.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use std::os::unix::fs::PermissionsExt;

    const HOUR: Duration = Duration::from_secs(3600);

    fn new(listen: &str) -> NewSession {
        let ticket = NewTicket { lifetime: HOUR, uses: None };
        NewSession { listen: vec![listen.parse().unwrap()], addresses: Vec::new(), insecure: false, ticket }
    }

    #[test]
    fn a_session_is_opened_as_it_was_made() {
        let scratch = Scratch::new("store");
        let (dir, now) = (scratch.path("s"), Moment::now());
        let (made, ticket) = Store::create(&dir, &new("127.0.0.1:7411"), now).unwrap();
        let store = Store::open(&dir).unwrap();
        assert_eq!(
            (store.session, &store.listen, &store.addresses),
            (made.session, &made.listen, &made.addresses)
        );
        assert_eq!(ticket.addresses, ["127.0.0.1:7411"]);
        assert_eq!(store.authority().unwrap().fingerprint(), ticket.authority);
        let handed_out = Ticket::read(&dir.join("ticket")).unwrap();
        assert_eq!(handed_out.to_text(), ticket.to_text());
        for entry in std::fs::read_dir(&dir).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
        assert!(Store::create(&dir, &new("127.0.0.1:7411"), now)
            .unwrap_err()
            .to_string()
            .contains("not empty"));
    }

    #[test]
    fn each_life_has_a_larger_number_than_the_one_before_whatever_the_clock_says() {
        let scratch = Scratch::new("lives");
        let now = Moment::now();
        let (store, _) = Store::create(&scratch.path("s"), &new("127.0.0.1:7411"), now).unwrap();
        let first = store.begin_life(now).unwrap();
        let second = store.begin_life(now.before(9 * HOUR)).unwrap();
        assert!(second > first);
        let third = store.begin_life(now.after(HOUR)).unwrap();
        std::fs::remove_file(store.file("life")).unwrap();
        assert!(third > second && store.begin_life(now.after(2 * HOUR)).unwrap() > third);
    }

    #[test]
    fn tickets_and_revocations_are_kept() {
        let scratch = Scratch::new("kept");
        let now = Moment::now();
        let (store, first) = Store::create(&scratch.path("s"), &new("127.0.0.1:7411"), now).unwrap();
        let once = NewTicket { lifetime: HOUR, uses: Some(1) };
        let second = store.new_ticket(&store.authority().unwrap(), once, now).unwrap();
        let mut tickets = store.tickets(now).unwrap();
        assert!(tickets.keys().eq(BTreeMap::from([(first.id, ()), (second.id, ())]).keys()));
        assert_eq!((tickets[&first.id].left, tickets[&second.id].left), (None, Some(1)));
        tickets.get_mut(&second.id).unwrap().left = Some(0);
        store.keep_tickets(&tickets).unwrap();
        let later = now.after(2 * HOUR);
        assert_eq!(store.tickets(later).unwrap()[&second.id].left, Some(0), "kept, so that it is told why");
        assert!(store.tickets(now.after(HOUR * 24 * 60)).unwrap().is_empty());
        store.keep_revoked(&BTreeMap::from([(first.id, later)])).unwrap();
        store.add_revoked(first.id).unwrap();
        store.add_revoked(second.id).unwrap();
        let revoked = BTreeMap::from([(first.id, Some(later)), (second.id, None)]);
        assert_eq!(store.revoked().unwrap(), revoked);
        assert!(store
            .new_ticket(&store.authority().unwrap(), NewTicket { lifetime: HOUR, uses: Some(0) }, now)
            .is_err());
    }

    #[test]
    fn what_is_wrong_with_a_directory_is_said() {
        let scratch = Scratch::new("wrong");
        let dir = scratch.path("s");
        assert!(matches!(Store::open(&dir), Err(Error::Config(text)) if text.contains("No such file")));
        let any = Store::create(&dir, &new("0.0.0.0:7411"), Moment::now()).unwrap_err().to_string();
        assert!(any.contains("0.0.0.0:7411 are all addresses of this host"), "{any}");
        let named =
            NewSession { addresses: vec!["rendezvous.example.org:7411".into()], ..new("0.0.0.0:7411") };
        Store::create(&dir, &named, Moment::now()).unwrap();
        std::fs::write(dir.join("session.toml"), "version = 9").unwrap();
        assert!(Store::open(&dir).unwrap_err().to_string().contains("session.toml: missing field"));
        std::fs::set_permissions(dir.join("authority.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Store::open(&dir), Err(Error::Permission(_))));
    }
}
