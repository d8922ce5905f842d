//! How control messages stay open to what comes later.
//!
//! A *record* is a number and its fields, with the length of the fields in front, so that whoever does not know the number skips
//! it. *Extras* are numbered fields behind the fixed ones: one who does not know a number keeps it and passes it on.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most bytes of all extras of one record: with 4 for the number and length of each.
pub const EXTRAS_BYTES_MAX: usize = 512;

/// Fields by number, that not every version knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras(BTreeMap<u16, Box<[u8]>>);

impl Extras {
    /// The field of this number.
    pub fn field(&self, number: u16) -> Option<&[u8]> {
        self.0.get(&number).map(AsRef::as_ref)
    }

    /// The same with this field; `None` when there is no room for it.
    #[must_use]
    pub fn with(mut self, number: u16, bytes: &[u8]) -> Option<Extras> {
        self.0.insert(number, bytes.into());
        (self.size() <= EXTRAS_BYTES_MAX).then_some(self)
    }

    /// Bytes that they take.
    pub(crate) fn size(&self) -> usize {
        self.0.values().map(|bytes| bytes.len() + 4).sum()
    }
}

impl Serialize for Extras {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields: Vec<(u16, Raw)> = self.0.iter().map(|(number, bytes)| (*number, Raw(bytes))).collect();
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Extras {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Extras, D::Error> {
        let fields = Vec::<(u16, &'de [u8])>::deserialize(deserializer)?;
        let extras = Extras(fields.into_iter().map(|(number, bytes)| (number, bytes.into())).collect());
        match extras.size() <= EXTRAS_BYTES_MAX {
            true => Ok(extras),
            false => Err(serde::de::Error::custom("too long")),
        }
    }
}

/// Bytes that are written at once, and not one by one.
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The same for a field of a derived message: `#[serde(with = "raw")]`.
pub(crate) mod raw {
    use super::Raw;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ptr_arg, reason = "the form that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(bytes: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
        Raw(bytes).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        <&'de [u8]>::deserialize(deserializer).map(<[u8]>::to_vec)
    }
}

/// The fields of a record; what comes behind them was added later.
pub(crate) fn fields<'de, Fields: Deserialize<'de>>(bytes: &'de [u8]) -> postcard::Result<Fields> {
    postcard::take_from_bytes(bytes).map(|(fields, _)| fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_kept_and_bounded() {
        let extras = Extras::default().with(7, b"seven").unwrap().with(1, b"").unwrap();
        let bytes = postcard::to_stdvec(&extras).unwrap();
        let again: Extras = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(
            (again.field(7), again.field(1), again.field(2)),
            (Some(&b"seven"[..]), Some(&b""[..]), None)
        );
        assert!(extras.clone().with(9, &[0; EXTRAS_BYTES_MAX]).is_none());
        let long = postcard::to_stdvec(&vec![(1u16, vec![0u8; EXTRAS_BYTES_MAX])]).unwrap();
        assert!(postcard::from_bytes::<Extras>(&long).is_err());
    }
}
