//! How messages stay open to what comes later: fields that are added come last, and whoever does not know them skips them.

use serde::Deserialize;

/// The fields of a message; what comes behind them was added later.
pub(crate) fn fields<'de, Fields: Deserialize<'de>>(bytes: &'de [u8]) -> postcard::Result<Fields> {
    postcard::take_from_bytes(bytes).map(|(fields, _)| fields)
}

/// Bytes that are written at once, and not one by one: `#[serde(with = "raw")]`.
pub(crate) mod raw {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        <&'de [u8]>::deserialize(deserializer).map(<[u8]>::to_vec)
    }
}
