//! What can be wrong with a configuration.

use super::VARIABLES;
use std::fmt;

/// A variable that does not exist, or a value it does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// No variable has this name.
    Unknown {
        /// The name as it was written.
        name: String,
        /// The variable that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// The variable does not accept this value.
    BadValue {
        /// Name of the variable.
        name: &'static str,
        /// The value as it was written.
        value: String,
        /// What a value must look like.
        accepted: String,
    },
}

impl ConfigError {
    /// The error for a name that is not in the table.
    pub(super) fn unknown(name: &str) -> Self {
        let suggestion = VARIABLES
            .iter()
            .map(|variable| (distance(name, variable.name), variable.name))
            .min()
            .filter(|(distance, _)| *distance <= NEAR)
            .map(|(_, known)| known);
        ConfigError::Unknown { name: name.to_owned(), suggestion }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unknown { name, suggestion: Some(known) } => {
                write!(f, "{name}: no such variable, did you mean {known}?")
            }
            ConfigError::Unknown { name, suggestion: None } => {
                write!(f, "{name}: no such variable, `gridnet config` lists them all")
            }
            ConfigError::BadValue { name, value, accepted } => {
                write!(f, "{name}: bad value {value:?}, accepted is {accepted}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Edits (insert, remove, replace a character) that turn `a` into `b`: Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A name this many edits away is taken for a slip of the same name.
const NEAR: usize = 4;

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in
            [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("RAIL", "RAILS", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }
}
