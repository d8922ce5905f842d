//! What a fabric says of itself in each of its handshakes, for those who hear it by another way before: 12 bytes, little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | lowest protocol version spoken |
//! | 2 | 2 | highest protocol version spoken |
//! | 4 | 8 | features understood |

use super::hello::{Hello, FEATURES, FEATURE_UNHEARD, VERSION_MAX, VERSION_MIN};

/// Length of a [`Preface`].
pub const PREFACE_BYTES: usize = 12;

/// What a fabric says of itself in each of its handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preface {
    /// Lowest protocol version spoken.
    pub version_min: u16,
    /// Highest protocol version spoken.
    pub version_max: u16,
    /// Features understood.
    pub features: u64,
}

impl Preface {
    /// That of this library.
    pub const OWN: Preface =
        Preface { version_min: VERSION_MIN, version_max: VERSION_MAX, features: FEATURES };

    /// What a handshake says.
    pub fn of(hello: &Hello) -> Preface {
        let Hello { version_min, version_max, features, .. } = *hello;
        Preface { version_min, version_max, features }
    }

    /// Whether frames may go to who says this before its handshake is heard.
    pub fn may_go_unheard(&self) -> bool {
        let speaks_ours = self.version_min <= VERSION_MAX && VERSION_MIN <= self.version_max;
        speaks_ours && self.features & FEATURE_UNHEARD != 0
    }

    /// The bytes.
    pub fn to_bytes(&self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..2].copy_from_slice(&self.version_min.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.version_max.to_le_bytes());
        bytes[4..].copy_from_slice(&self.features.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote. Any bytes are one: it is what somebody says.
    pub fn parse(bytes: &[u8; PREFACE_BYTES]) -> Preface {
        let [a, b, c, d, features @ ..] = *bytes;
        let (version_min, version_max) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        Preface { version_min, version_max, features: u64::from_le_bytes(features) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::wire::NodeId;

    #[test]
    fn it_is_what_the_handshake_says_and_who_knows_nothing_of_it_is_waited_for() {
        let hello = Hello::new(NodeId::new([1; 16]).expect("not zero"), 1, 1);
        let own = Preface::of(&hello);
        assert_eq!((own, own.may_go_unheard()), (Preface::OWN, true));
        assert_eq!(Preface::parse(&own.to_bytes()), own);
        let older = Preface { features: own.features & !FEATURE_UNHEARD, ..own };
        let other = Preface { version_min: VERSION_MAX + 1, version_max: VERSION_MAX + 2, ..own };
        let none = Preface { version_min: 1, version_max: 0, ..own };
        for one in [older, other, none] {
            assert_eq!(Preface::parse(&one.to_bytes()), one);
            assert!(!one.may_go_unheard(), "{one:?}");
        }
    }
}
