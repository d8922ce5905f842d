//! Whether the rules of this side let something for a service go over a path that stands already.

use std::time::Instant;

use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::Security;
use gridnet_assembly::standing::{self, Denied, Standing};
use gridnet_core::wire::NodeId;

use super::Assembler;

/// Something that is to go over a path which stands.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// The node at the other end.
    pub other: NodeId,
    /// The user whose process it is, where nothing but that is proved: by the kernel, and another than this side's.
    pub user: Option<u32>,
    /// The other one asks for it; else this side does.
    pub is_called: bool,
    /// What it is for.
    pub service: &'a str,
    /// How safe it has to be, at least; the rules may ask for more.
    pub least: Security,
}

impl Assembler {
    /// Whether rules are in force that say anything but those that are built in.
    pub fn has_rules(&self) -> bool {
        *self.inner.rules() != Rules::default()
    }

    /// For each of these paths, whether the rules let it go there, and why not. Nothing may go to a node that the directory does not have.
    pub fn admit(&self, passage: &Passage<'_>, paths: &[Standing]) -> Vec<Result<(), Denied>> {
        let shared = self.inner.shared.upgrade();
        let facts = shared.and_then(|shared| Some((shared.own_facts(), shared.facts(passage.other)?)));
        let Some((own, other)) = facts else {
            let why = "the directory of the session does not have the node".to_owned();
            return vec![Err(Denied { refusal: Reason::Unknown, why }); paths.len()];
        };
        if let Some(user) = passage.user.filter(|user| *user != other.offer.uid) {
            // Whose id it has said is not proved.
            let why =
                format!("its process is of user {user}, and the node says that it is of {}", other.offer.uid);
            return vec![Err(Denied { refusal: Reason::Policy, why }); paths.len()];
        }
        let pair = if passage.is_called { (&other, &own) } else { (&own, &other) };
        let rules = self.inner.rules();
        let judge = |path| standing::admit(&rules, pair, passage.service, path, passage.least);
        paths.iter().map(judge).collect()
    }

    /// Notes that a node was refused something which it wanted to go over a path that stands.
    pub fn refuse_on(&self, who: NodeId, denied: &Denied) {
        self.inner.called().refuse_on(who, denied, Instant::now());
    }
}
