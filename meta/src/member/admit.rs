//! Whether the rules of this side let something for a service go over a path that stands already.

use std::time::Instant;

use gridnet_assembly::facts::Facts;
use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::{Method, Security};
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
        let rules = self.inner.rules();
        paths.iter().map(|path| judge(&rules, passage, (&own, &other), path)).collect()
    }

    /// Notes that a node was refused something which it wanted to go over a path that stands.
    pub fn refuse_on(&self, who: NodeId, denied: &Denied) {
        self.inner.called().refuse_on(who, denied, Instant::now());
    }
}

/// One path. Over memory in common nothing is proved but whose process the other one is: it has to be the user that the node says.
fn judge(
    rules: &Rules,
    passage: &Passage<'_>,
    (own, other): (&Facts, &Facts),
    path: &Standing,
) -> Result<(), Denied> {
    let is_shm = path.stack.as_ref().is_some_and(|stack| stack.method() == Method::Shm);
    let user = passage.user.or(is_shm.then_some(own.offer.uid));
    if let Some(user) = user.filter(|user| *user != other.offer.uid) {
        // Whose id it has said is not proved.
        let why =
            format!("its process is of user {user}, and the node says that it is of {}", other.offer.uid);
        return Err(Denied { refusal: Reason::Policy, why });
    }
    let pair = if passage.is_called { (other, own) } else { (own, other) };
    standing::admit(rules, pair, passage.service, path, passage.least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_passes_over_memory_in_common_for_a_node_of_its_user_and_host_only() {
        let own = Facts::describe("a@x/h,uid=1").unwrap();
        let rules = "min_security = 'plain'".parse().unwrap();
        let judge = |other: &str, user, stack: &str, is_called| {
            let other = Facts::describe(other).unwrap();
            let (stack, security) = (stack.parse().ok(), Security::Encrypted);
            let path = Standing { name: "rail", stack, security };
            let least = Security::Plain;
            let passage = Passage { other: other.node, user, is_called, service: "s", least };
            judge(&rules, &passage, (&own, &other), &path).is_ok()
        };
        for is_called in [false, true] {
            assert!(judge("b@x/h,uid=1", None, "shm", is_called));
            assert!(judge("b@x/h,uid=2", Some(2), "shm", is_called));
            // Of this side's user, or of another one than the node.
            assert!(!judge("b@x/h,uid=2", None, "shm", is_called));
            assert!(!judge("b@x/h,uid=1", Some(2), "shm", is_called));
            // The numbers are the same, the hosts are not.
            assert!(!judge("b@x/i,uid=2", Some(2), "shm", is_called));
            assert!(!judge("b@x/i,uid=1", None, "shm", is_called));
            // Over others it is proved who it is.
            assert!(judge("b@x/i,uid=2", None, "tls/tcp", is_called));
        }
    }
}
