//! Whether something for a service may go over a link that stands, by the rules of this side: streams, and endpoints that
//! were opened for more than the fabric itself.

use std::sync::{Arc, Weak};

use gridnet_assembly::stack::{Filter, Method, Security, Stack};
use gridnet_assembly::standing::{Denied, Standing};
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::stream::{Gate, Sought};
use gridnet_core::wire::NodeId;
use gridnet_meta::member::{Assembler, Passage};

use super::desk::Desk;
use super::{PLAIN, RELAY, TCP};

/// Decides about streams. Where no rules are but those that are built in, all may be.
#[derive(Debug)]
pub(crate) struct StreamGate {
    own: NodeId,
    /// The rails of the fabric, in order.
    rails: Vec<&'static str>,
    desk: Arc<Desk>,
    /// It ends with the membership.
    assembler: Weak<Assembler>,
}

impl StreamGate {
    pub(crate) fn new(
        own: NodeId,
        rails: Vec<&'static str>,
        desk: Arc<Desk>,
        assembler: Weak<Assembler>,
    ) -> StreamGate {
        StreamGate { own, rails, desk, assembler }
    }
}

impl Gate for StreamGate {
    fn admit(&mut self, sought: &Sought<'_>) -> Result<u64, Refusal> {
        if sought.node == self.own {
            // Nothing leaves the process.
            return Ok(u64::MAX);
        }
        let over = || Refusal::new(Error::Permission, "the membership in the session is over, and its rules");
        let assembler = self.assembler.upgrade().ok_or_else(over)?;
        if self.desk.has_rules_near() {
            assembler.look_for_rules();
        }
        if !assembler.has_rules() {
            return Ok(u64::MAX);
        }
        let Sought { node, user, rail, service, is_called } = *sought;
        let passage = Passage { other: node, user, is_called, service, least: Security::Plain };
        allowed(&assembler, &passage, &self.rails, rail).map_err(|denied| {
            if is_called {
                let why = format!("{}; a stream to {service:?}", denied.why);
                assembler.refuse_on(node, &Denied { why, ..denied.clone() });
            }
            let why = format!("the rules of this side allow no stream to {service:?} there: {}", denied.why);
            Refusal::new(Error::Permission, why)
        })
    }
}

/// The rails over which something may go, as bits by their index; the peer is reached over one of them now.
///
/// # Errors
/// Why it may not go over that one.
pub(super) fn allowed(
    assembler: &Assembler,
    passage: &Passage<'_>,
    rails: &[&'static str],
    present: usize,
) -> Result<u64, Denied> {
    let paths: Vec<Standing> = rails.iter().map(|rail| standing(rail, passage.user)).collect();
    let judged = assembler.admit(passage, &paths);
    if let Some(Err(denied)) = judged.get(present) {
        return Err(denied.clone());
    }
    let bits = judged.iter().zip(0..u64::BITS).filter(|(verdict, _)| verdict.is_ok());
    Ok(bits.map(|(_, rail)| 1 << rail).sum())
}

/// What rules know a link of a rail by. Of whose memory it is, the kernel has said.
fn standing(rail: &'static str, user: Option<u32>) -> Standing {
    let sealed = |method| Stack::bare(method).under(Filter::Tls);
    let (stack, security) = match rail {
        "shm" if user.is_none() => (Some(Stack::bare(Method::Shm)), Security::Encrypted),
        "shm" => (Some(Stack::bare(Method::Shm)), Security::Authenticated),
        TCP => (sealed(Method::Tcp), Security::Encrypted),
        RELAY => (sealed(Method::Relay), Security::Encrypted),
        PLAIN => (Some(Stack::bare(Method::Tcp)), Security::Plain),
        _ => (None, Security::Plain),
    };
    Standing { name: rail, stack, security }
}

#[cfg(test)]
mod tests {
    use super::super::builder::rail_of;
    use super::*;
    use crate::config::KNOWN_RAILS;

    #[test]
    fn without_rules_to_ask_there_are_streams_to_the_fabric_itself_only() {
        let [own, node] = [1, 2].map(|byte| NodeId::new([byte; 16]).unwrap());
        let mut gate = StreamGate::new(own, vec![TCP], Arc::new(Desk::new().unwrap()), Weak::new());
        for is_called in [false, true] {
            let sought = |node| Sought { node, user: None, rail: 0, service: "files", is_called };
            assert_eq!(gate.admit(&sought(own)).unwrap(), u64::MAX);
            assert_eq!(gate.admit(&sought(node)).unwrap_err().error, Error::Permission);
        }
    }

    #[test]
    fn each_rail_is_what_a_stack_means_or_has_no_name() {
        let rails = KNOWN_RAILS.iter().copied().chain([PLAIN, RELAY]);
        let named: Vec<&str> = rails
            .filter_map(|rail| {
                let path = standing(rail, None);
                let stack = path.stack?;
                assert_eq!(rail_of(&stack), Ok(rail), "{stack}");
                let claimed = stack.security(gridnet_assembly::stack::Reach::SameUser);
                assert!(path.security <= claimed, "{stack}");
                Some(rail)
            })
            .collect();
        assert_eq!(named, ["shm", TCP, PLAIN, RELAY]);
        assert_eq!(standing("shm", Some(7)).security, Security::Authenticated);
        assert_eq!(standing("verbs", None).security, Security::Plain);
    }
}
