//! Names that users give: of clusters, services and the like.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name.
pub const NAME_BYTES_MAX: usize = 64;

/// 1 to 64 letters, digits, dots, underscores and dashes (ASCII), which does not begin with a dot or a dash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Name, String> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(is_letter)
            && !text.starts_with(['.', '-']);
        match is_name {
            true => Ok(Name(text)),
            false => Err(format!(
                "{text:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', a letter, digit or '_' first"
            )),
        }
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        Name::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "cluster-7", "_x", "A.b_c-9", &"n".repeat(NAME_BYTES_MAX)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        let sent = postcard::to_stdvec(&"../x".to_owned()).unwrap();
        assert!(postcard::from_bytes::<Name>(&sent).is_err(), "what comes from the network is checked, too");
    }
}
