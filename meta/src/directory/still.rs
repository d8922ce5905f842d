//! "Still so": a word of the rendez-vous node, signed by the authority, that the directory was at a version at a time. Leaders pass it on;
//! one that keeps back what has changed since, such as that it was revoked, has no later word.

use serde::{Deserialize, Serialize};

use super::Version;
use crate::authority::{Authority, AuthorityKey};
use crate::clock::Moment;
use crate::error::Error;
use crate::record::raw;

/// What is signed begins with it; nothing else does.
const LABEL: &[u8] = b"gridnet still so 1";

/// A word of the rendez-vous node: what the directory was, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Still {
    /// Where the directory was.
    pub version: Version,
    /// When, in seconds after 1970 began, by the clock of the rendez-vous node.
    pub at: i64,
    #[serde(with = "raw")]
    signature: Vec<u8>,
}

impl Still {
    /// Signs that the directory is there now.
    pub(crate) fn sign(version: Version, now: Moment, authority: &Authority) -> Result<Still, Error> {
        let still = Still { version, at: now.unix(), signature: Vec::new() };
        Ok(Still { signature: authority.sign(&still.signed())?, ..still })
    }

    /// Whether the authority has said so.
    pub(crate) fn is_signed_by(&self, key: &AuthorityKey) -> bool {
        key.has_signed(&self.signed(), &self.signature)
    }

    fn signed(&self) -> Vec<u8> {
        let numbers = [self.version.epoch, self.version.number].map(u64::to_le_bytes);
        [LABEL, numbers.as_flattened(), &self.at.to_le_bytes()].concat()
    }
}
