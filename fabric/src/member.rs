//! A fabric as a member of a session: it joins with a ticket when it is opened, and leaves when it is closed.

use std::path::Path;
use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::Address;
use gridnet_meta::directory::Entry;
use gridnet_meta::member::{About, Member};
use gridnet_meta::name::Name;
use gridnet_meta::ticket::Ticket;

use crate::config::Config;
use crate::fabric::Fabric;
use crate::session::{check_alone, refusal, Members};

/// The place of a fabric in its session. It is left when this is dropped, in bounded time.
#[derive(Debug)]
pub(crate) struct Membership {
    /// There until the end.
    member: Option<Member>,
    members: Arc<Members>,
    /// Its thread is there in this process only.
    process: u32,
}

impl Membership {
    /// Joins, if the configuration names a ticket. The fabric's node id is that of the node that it becomes.
    ///
    /// # Errors
    /// Why it does not: [`Error::Permission`] for a ticket that others can read, or that the session does not take (any more),
    /// [`Error::Unreachable`] when nobody answers in time, [`Error::Config`] for what is no ticket.
    pub(crate) fn begin(config: &Config, local: &mut Address) -> Result<Option<Membership>, Refusal> {
        let Some(path) = ticket(config) else { return Ok(None) };
        check_alone(config)?;
        let about = about(config)?;
        let ticket = Ticket::read(path).map_err(refusal)?;
        let member = Member::join(ticket, about, config.session_timeout).map_err(refusal)?;
        let members = Arc::new(Members(member.credentials().map_err(refusal)?));
        local.node = member.node();
        Ok(Some(Membership { member: Some(member), members, process: std::process::id() }))
    }

    /// The member that the fabric is.
    fn member(&self) -> Result<&Member, Refusal> {
        let gone = || Refusal::new(Error::Forked, "the session was joined by another process");
        self.member.as_ref().filter(|_| self.process == std::process::id()).ok_or_else(gone)
    }

    /// By which the rail tcp knows its peers.
    pub(crate) fn members(&self) -> &Arc<Members> {
        &self.members
    }
}

impl Fabric {
    /// Who is in the session, this fabric among them, by node id, as far as it knows.
    ///
    /// # Errors
    /// [`Error::Config`] when it has joined none.
    pub fn nodes(&self) -> Result<Vec<Entry>, Refusal> {
        Ok(self.membership()?.member()?.nodes())
    }

    fn membership(&self) -> Result<&Membership, Refusal> {
        let none = || {
            Refusal::new(Error::Config, "the fabric has joined no session: GRIDNET_SESSION names no ticket")
        };
        self.membership.as_ref().ok_or_else(none)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A child of fork has a copy without the thread, and would wait for it in vain.
            std::mem::forget(self.member.take());
        }
    }
}

/// The ticket that the configuration names: a file, where a node that others keep is a directory.
pub(crate) fn ticket(config: &Config) -> Option<&Path> {
    config.session.as_deref().filter(|path| path.is_file())
}

fn about(config: &Config) -> Result<About, Refusal> {
    let name = |variable: &str, text: &str| {
        let wrong = |why| Refusal::new(Error::Config, format!("{variable}: {why}"));
        text.parse::<Name>().map_err(wrong)
    };
    let label = match &config.session_label {
        Some(text) => name("GRIDNET_SESSION_LABEL", text)?,
        None => own_label()?,
    };
    let cluster = config.session_cluster.as_deref().map(|text| name("GRIDNET_SESSION_CLUSTER", text));
    Ok(About { cluster: cluster.transpose()?, will: config.session_lead, ..About::new(label) })
}

/// Host and process, in the letters that a name has.
fn own_label() -> Result<Name, Refusal> {
    let host = nix::sys::utsname::uname().map(|uname| uname.nodename().to_string_lossy().into_owned());
    let letters =
        host.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(40).collect::<String>();
    let host = if letters.is_empty() { "host" } else { &letters };
    let label = format!("{host}.{}", std::process::id());
    label.parse().map_err(|why| Refusal::new(Error::System, why))
}
