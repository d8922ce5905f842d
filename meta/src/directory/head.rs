//! A state of the directory, as the authority has signed it: what leaders pass on is believed by it, and not by who passes it on.
//!
//! It names a version, and two digests: one of all changes that have led there, one after the other, by which a follower knows
//! that the changes it was given are those; and one of the state itself, for who is given all of it.

use std::borrow::Borrow;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Directory, Record, Version};
use crate::authority::{Authority, AuthorityKey};
use crate::error::Error;
use crate::record::raw;

/// SHA-256 of records.
pub(super) type Digest = [u8; 32];

/// What is signed begins with it; no certificate does.
const LABEL: &[u8] = b"gridnet directory 1";

/// A state of the directory, as the authority has signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of which state it is.
    pub version: Version,
    /// How many records make it out of nothing.
    pub size: u64,
    pub(super) chain: Digest,
    pub(super) state: Digest,
    #[serde(with = "raw")]
    signature: Vec<u8>,
}

impl Head {
    /// Signs the state of a directory.
    pub(crate) fn sign(directory: &Directory, authority: &Authority) -> Result<Head, Error> {
        let (version, chain) = (directory.version, directory.chain);
        let (size, state) = (directory.tables.size(), digest(directory.tables.records()));
        let head = Head { version, size, chain, state, signature: Vec::new() };
        Ok(Head { signature: authority.sign(&head.signed())?, ..head })
    }

    /// Whether the authority has said so.
    pub(super) fn is_signed_by(&self, key: &AuthorityKey) -> bool {
        key.has_signed(&self.signed(), &self.signature)
    }

    fn signed(&self) -> Vec<u8> {
        let numbers = [self.version.epoch, self.version.number, self.size].map(u64::to_le_bytes);
        [LABEL, numbers.as_flattened(), &self.chain, &self.state].concat()
    }
}

/// The digest of changes with one more behind them.
pub(super) fn chained(chain: &Digest, record: &Record) -> Digest {
    let mut digest = Sha256::new();
    digest.update(chain);
    record.hash(&mut digest);
    digest.finalize().into()
}

/// The digest of a state.
pub(super) fn digest(records: impl Iterator<Item = impl Borrow<Record>>) -> Digest {
    let mut digest = Sha256::new();
    records.for_each(|record| record.borrow().hash(&mut digest));
    digest.finalize().into()
}
