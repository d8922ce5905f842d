//! A member as it is now, for the connections on which its own process proves that it is it.

use std::sync::Arc;

use gridnet_core::wire::NodeId;

use super::state::Shared;
use super::Member;
use crate::clock::Moment;
use crate::credentials::Credentials;
use crate::directory::Version;
use crate::error::Error;
use crate::kept::Kept;

/// What is looked at before each connection.
pub(crate) struct Present(Arc<Shared>);

impl Present {
    pub(crate) fn node(&self) -> NodeId {
        self.0.node
    }

    /// What changes with its certificate, and with who is refused.
    pub(crate) fn stamp(&self) -> (Moment, Version) {
        let state = self.0.lock();
        (state.identity.until(), state.follower.version())
    }

    /// Its key and certificate, and who was revoked.
    pub(crate) fn kept(&self) -> Kept {
        let (identity, revoked) = {
            let state = self.0.lock();
            (state.identity.clone(), state.follower.directory().revocations().clone())
        };
        let (key, certificate) = identity.to_der();
        Kept {
            node: self.0.node,
            until: identity.until(),
            key,
            certificate: certificate.clone(),
            authority: self.0.authority.clone(),
            revoked,
        }
    }
}

impl Member {
    /// What this process proves by that it is this member, on connections of its own. It follows the member: a certificate that was renewed,
    /// or a node that was revoked, counts from the next connection on.
    ///
    /// # Errors
    /// As [`Credentials::open`].
    pub fn credentials(&self) -> Result<Credentials, Error> {
        Credentials::of_member(Present(self.shared.clone()))
    }
}
