//! A session, as the rail tcp knows its peers by it.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{Address, NodeId};
use gridnet_meta::credentials::Credentials;
use gridnet_meta::member::Assembler;
use gridnet_uring_tcp::{Session, Way};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ServerConnection};

use crate::assembly::{Desk, Direction, PLAIN, TCP};
use crate::config::Config;
use crate::member::Membership;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Members(pub(crate) Credentials);

impl Session for Members {
    fn call(&self, fabric: NodeId) -> Result<ClientConnection, Refusal> {
        self.0.call(fabric).map_err(refusal)
    }

    fn answer(&self) -> Result<ServerConnection, Refusal> {
        self.0.answer().map_err(refusal)
    }

    fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Refusal> {
        self.0.check(shown, fabric).map_err(refusal)
    }

    fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId> {
        self.0.revoked_of(fabrics)
    }

    fn may_come(&self, from: IpAddr) -> bool {
        self.0.may_come(from)
    }

    fn proved(&self, from: IpAddr) {
        self.0.proved(from);
    }

    fn refused(&self, who: &str, why: &str) {
        self.0.refused(who, why);
    }

    fn refusals(&self) -> u64 {
        self.0.refusals()
    }
}

/// The same for a rail of which something is agreed on with each peer: whether it is for that one, for as long as this stands, and over
/// how many connections its links go.
pub(crate) struct Agreeing {
    rail: &'static str,
    members: Arc<Members>,
    desk: Arc<Desk>,
    /// Has rules looked at that may have changed. It ends with the membership.
    assembler: Weak<Assembler>,
}

impl fmt::Debug for Agreeing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agreeing({})", self.rail)
    }
}

impl Agreeing {
    /// # Errors
    /// [`Error::Forked`] in a child.
    pub(crate) fn new(rail: &'static str, membership: &Membership) -> Result<Agreeing, Refusal> {
        let (members, desk) = (membership.members().clone(), membership.desk().clone());
        Ok(Agreeing { rail, members, desk, assembler: membership.assembler()? })
    }

    /// Whether this rail is for a fabric.
    fn allows(&self, fabric: NodeId, direction: Direction) -> bool {
        if self.rail == TCP && self.desk.has_rules_near() {
            // Of those who come by address nobody asks first, which would have them looked at.
            self.assembler.upgrade().iter().for_each(|assembler| assembler.look_for_rules());
        }
        self.desk.allows(self.rail, fabric, direction)
    }

    /// Why it is not.
    fn not_agreed(&self) -> String {
        match self.rail {
            PLAIN => "no plain connection was agreed on".to_owned(),
            TCP => {
                let file = self.desk.rules_path().unwrap_or("".as_ref()).display();
                format!(
                    "by the rules of GRIDNET_SESSION_RULES ({file}) members are reached by node id \
                     (gridnet_endpoint_open_node), not by address"
                )
            }
            _ => "no stack was agreed on that goes over this rail".to_owned(),
        }
    }
}

impl Session for Agreeing {
    fn call(&self, fabric: NodeId) -> Result<ClientConnection, Refusal> {
        self.members.call(fabric)
    }

    fn answer(&self) -> Result<ServerConnection, Refusal> {
        self.members.answer()
    }

    fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Refusal> {
        self.members.check(shown, fabric)?;
        let why = match self.rail {
            _ if self.allows(fabric, Direction::IsCalled) => return Ok(()),
            // Where its rules are is nobody else's business.
            TCP => "by the rules of who is called members are let in by node id, not by address: nothing was agreed on".into(),
            _ => self.not_agreed(),
        };
        Err(Refusal::new(Error::Permission, format!("{why} with node {fabric}")))
    }

    fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId> {
        self.members.revoked_of(fabrics)
    }

    fn may_come(&self, from: IpAddr) -> bool {
        self.members.may_come(from)
    }

    fn proved(&self, from: IpAddr) {
        self.members.proved(from);
    }

    fn refused(&self, who: &str, why: &str) {
        self.members.refused(who, why);
    }

    fn refusals(&self) -> u64 {
        self.members.refusals()
    }

    fn linked(&self, fabric: NodeId) {
        self.desk.linked(self.rail, fabric);
    }

    fn streams(&self, fabric: NodeId) -> Option<u32> {
        (self.rail == TCP).then(|| self.desk.streams(fabric))?
    }

    fn unseals(&self) -> bool {
        self.rail == PLAIN
    }
}

/// Calls those only with whom it was agreed on, by their addresses.
impl Way for Agreeing {
    fn name(&self) -> &'static str {
        self.rail
    }

    fn connect(&self, address: &Address) -> Option<Result<OwnedFd, Refusal>> {
        // "Not there" is what others say of it that have nothing to do with the address.
        let error = if self.rail == TCP { Error::Permission } else { Error::Unreachable };
        (!self.allows(address.node, Direction::Calls)).then(|| Err(Refusal::new(error, self.not_agreed())))
    }
}

/// What an error of a session means to a rail.
pub(crate) fn refusal(error: gridnet_meta::error::Error) -> Refusal {
    use gridnet_meta::error::Error as Failed;
    let kind = match error {
        Failed::Config(_) => Error::Config,
        Failed::System(_) => Error::System,
        Failed::Unreachable(_) => Error::Unreachable,
        _ => Error::Permission,
    };
    Refusal::new(kind, format!("session: {error}"))
}

/// Whether nothing but a session, a key, or nothing at all says how peers are known: none is to weaken another.
///
/// # Errors
/// [`Error::Config`], with the names of all variables that do.
pub(crate) fn check_alone(config: &Config) -> Result<(), Refusal> {
    let said = [
        (config.session.is_some(), "GRIDNET_SESSION"),
        (config.net_key_file.is_some(), "GRIDNET_NET_KEY_FILE"),
        (config.net_insecure, "GRIDNET_NET_INSECURE"),
    ];
    let said: Vec<&str> = said.into_iter().filter(|(is_said, _)| *is_said).map(|(_, name)| name).collect();
    match said.len() {
        0 | 1 => Ok(()),
        _ => Err(Refusal::new(Error::Config, format!("{} exclude each other", said.join(" and ")))),
    }
}
