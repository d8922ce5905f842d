//! A node in a directory, as the one process keeps it that is its member: who is started again goes on as the node that is there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::CertificateDer;

use super::connect::{jittered, Whereabouts, PAUSES};
use super::link::renew_at_rendezvous;
use super::{About, Member};
use crate::authority::fingerprint;
use crate::clock::Moment;
use crate::directory::Version;
use crate::error::{Error, Refusal};
use crate::identity::Identity;
use crate::kept;
use crate::ticket::Ticket;

const LOCK: &str = "lock";

/// The directory of a node, which this process keeps, and nobody else as long as this is there.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    /// What of the member was written down.
    written: Option<(Moment, Version)>,
    _lock: Flock<File>,
}

impl Keeper {
    /// Makes the directory, or takes the one that is there.
    ///
    /// # Errors
    /// [`Error::Config`] when another process keeps it, or it cannot be made; [`Error::Permission`] when others can look into it.
    pub fn lock(dir: &Path) -> Result<Keeper, Error> {
        kept::create(dir)?;
        let path = dir.join(LOCK);
        let failed = |e: std::io::Error| Error::System(format!("{}: {e}", path.display()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        match Flock::lock(options.open(&path).map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Keeper { dir: dir.to_owned(), written: None, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(Error::Config(format!("another process keeps the node in {}", dir.display())))
            }
            Err((_, e)) => Err(failed(e.into())),
        }
    }

    /// Joins as the node that is there, with a new certificate, when its own is valid; else as a new node. Who goes on needs no ticket
    /// that is valid.
    ///
    /// # Errors
    /// As [`Member::join`]; [`Error::Config`] when the node that is there is of another session.
    pub fn join(&self, ticket: Ticket, about: About, limit: Duration) -> Result<Member, Error> {
        let earlier = self.earlier(&ticket)?;
        Member::join_alone(earlier, (ticket, about), limit, |_| ()).map(|(member, ())| member)
    }

    /// Writes down what has changed of the member.
    ///
    /// # Errors
    /// As [`Member::keep_in`].
    pub fn look(&mut self, member: &Member) -> Result<(), Error> {
        // Read first: what changes meanwhile is written with the next look.
        let now = Some((member.certified_until(), member.version()));
        if self.written != now {
            member.keep_in(&self.dir)?;
            self.written = now;
        }
        Ok(())
    }

    /// The node that is there, and the authority that has certified it.
    fn earlier(&self, ticket: &Ticket) -> Result<Option<Known>, Error> {
        if !kept::is_there(&self.dir) {
            return Ok(None);
        }
        let kept = kept::read(&self.dir)?;
        if Moment::now() >= kept.until {
            tracing::warn!("the certificate of node {} ended at {}: a new node joins", kept.node, kept.until);
            return Ok(None);
        }
        if fingerprint(&kept.authority) != ticket.authority {
            let dir = self.dir.display();
            let why = format!("{dir} holds node {} of another session: remove it first", kept.node);
            return Err(Error::Config(why));
        }
        Ok(Some((Identity::from_der(&kept.key, &kept.certificate)?, kept.authority)))
    }
}

/// What a node is, and the authority that says so.
pub(super) type Known = (Identity, CertificateDer<'static>);

/// Gets a new certificate for a node; again and again while nobody answers, or too many ask.
pub(super) async fn go_on(
    rendezvous: &Whereabouts,
    (identity, authority): Known,
    deadline: Instant,
) -> Result<Known, Error> {
    let mut pause = PAUSES.0;
    loop {
        let e = match renew_at_rendezvous(rendezvous, &authority, &identity).await {
            Ok(renewed) => return Ok((renewed, authority)),
            Err(e @ (Error::Unreachable(_) | Error::Refused(Refusal::Rate, _))) => e,
            Err(e) => return Err(e),
        };
        let next = Instant::now() + jittered(pause);
        if next >= deadline {
            return Err(e);
        }
        tokio::time::sleep_until(next.into()).await;
        pause = (2 * pause).min(PAUSES.1);
    }
}
