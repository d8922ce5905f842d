//! Bytes that are for somebody else: what is printed of them is how many they are.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::record::raw;

/// The first bytes of a connection, for the service: `Debug` shows their number only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Data(#[serde(with = "raw")] Vec<u8>);

impl Data {
    /// The bytes themselves.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data(bytes)
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hidden(&self.0).fmt(f)
    }
}

/// What `Debug` shows of other bytes that are not for people.
pub(crate) struct Hidden<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_bytes_is_shown() {
        assert_eq!(format!("{:?}", Data::from(b"secret".to_vec())), "6 bytes");
    }
}
