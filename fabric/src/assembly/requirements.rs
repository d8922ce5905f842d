//! What an endpoint to a node is for, and what it has to be.

use gridnet_assembly::name::Name;
use gridnet_assembly::stack::Security;
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_meta::member::Wanted;

use super::SERVICE;
use crate::fabric::Fabric;

/// What an endpoint has to be: the rules of both sides for the service are asked, and it is at least so safe, or there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirements {
    service: Name,
    min_security: Security,
}

impl Requirements {
    /// For a service of the node: one that its rules know, such as that of a listener there; [`SERVICE`] for the fabric itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name that rules can have.
    pub fn new(service: &str, min_security: Security) -> Result<Requirements, Refusal> {
        let service =
            service.parse::<Name>().map_err(|why| Refusal::new(Error::Invalid, format!("service {why}")))?;
        Ok(Requirements { service, min_security })
    }

    /// For the fabric, as its rules have it.
    pub(super) fn of_fabric() -> Result<Requirements, Refusal> {
        Requirements::new(SERVICE, Security::Plain)
    }

    /// The same, as the members ask for it.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { service: self.service.clone(), min_security: self.min_security, first: Vec::new() }
    }
}

/// Whether more is wanted than the rules for fabrics have: it has to stay so, then.
pub(super) fn is_more(wanted: &Wanted) -> bool {
    wanted.service.as_str() != SERVICE || wanted.min_security > Security::Plain
}

impl Fabric {
    /// Others may ask for endpoints for this service from now on, where the fabric has joined a session, and rules can have the name.
    pub(crate) fn serve(&self, service: &str) {
        if let Some((membership, service)) = self.served(service) {
            membership.serve(service);
        }
    }

    /// They may not any more.
    pub(crate) fn end_service(&self, service: &str) {
        if let Some((membership, service)) = self.served(service) {
            membership.end_service(&service);
        }
    }

    /// The fabric itself is served as long as it is open, whoever listens for streams by that name.
    fn served(&self, service: &str) -> Option<(&crate::member::Membership, Name)> {
        let membership = self.membership().ok()?;
        let name = service.parse::<Name>().ok().filter(|name| name.as_str() != SERVICE)?;
        Some((membership, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_names_that_rules_can_have() {
        for wrong in ["", " ", "a b", ".a", "a\0", "\u{e4}", &"s".repeat(65)] {
            assert_eq!(
                Requirements::new(wrong, Security::Plain).unwrap_err().error,
                Error::Invalid,
                "{wrong}"
            );
        }
        assert!(!is_more(&Requirements::of_fabric().unwrap().wanted()));
        assert!(is_more(&Requirements::new("secrets", Security::Plain).unwrap().wanted()));
        assert!(is_more(&Requirements::new(SERVICE, Security::Authenticated).unwrap().wanted()));
    }
}
