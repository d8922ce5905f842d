//! Which rails may be used, in which order.

use std::fmt;

/// Every rail this build knows, in the order in which `auto` prefers them.
pub const KNOWN_RAILS: &[&str] = &["shm", "tcp", "verbs", "self"];
/// Those that are used only where they are named: what goes over them is not protected.
const NAMED_ONLY: &[&str] = &["verbs"];

/// The rails that `GRIDNET_RAILS` allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RailSelection {
    /// All of them, in the built-in order.
    Auto,
    /// Only these, in this order.
    Only(Vec<&'static str>),
    /// All but these, in the built-in order.
    Except(Vec<&'static str>),
}

impl RailSelection {
    /// Whether the rail `name` may be used.
    pub fn allows(&self, name: &str) -> bool {
        self.preference().contains(&name)
    }

    /// Whether the rail `name` would be used, had it not been left out here: some have to be named.
    pub fn excludes(&self, name: &str) -> bool {
        match self {
            RailSelection::Except(rails) => rails.contains(&name),
            _ => !self.allows(name) && !NAMED_ONLY.contains(&name),
        }
    }

    /// The rails that may be used, the preferred one first; never empty.
    pub fn preference(&self) -> Vec<&'static str> {
        match self {
            RailSelection::Auto => automatic().collect(),
            RailSelection::Only(rails) => rails.clone(),
            RailSelection::Except(rails) => automatic().filter(|known| !rails.contains(known)).collect(),
        }
    }

    /// Reads `auto`, `shm,self` or `^self,^shm`; `None` for unknown or repeated rails, for a mixture of the two
    /// forms, and when nothing is left.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(RailSelection::Auto);
        }
        let items: Vec<&str> = text.split(',').map(str::trim).collect();
        let excluded: Vec<&str> = items.iter().filter_map(|item| item.strip_prefix('^')).collect();
        if excluded.is_empty() {
            return known_once(&items).map(RailSelection::Only);
        }
        if excluded.len() != items.len() {
            return None;
        }
        let selection = RailSelection::Except(known_once(&excluded)?);
        (!selection.preference().is_empty()).then_some(selection)
    }
}

impl fmt::Display for RailSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RailSelection::Auto => f.pad("auto"),
            RailSelection::Only(rails) => f.pad(&rails.join(",")),
            RailSelection::Except(rails) => f.pad(&format!("^{}", rails.join(",^"))),
        }
    }
}

fn automatic() -> impl Iterator<Item = &'static str> {
    KNOWN_RAILS.iter().copied().filter(|known| !NAMED_ONLY.contains(known))
}

/// The known rails of these names, or `None` if one is unknown or named twice.
fn known_once(names: &[&str]) -> Option<Vec<&'static str>> {
    let mut rails = Vec::with_capacity(names.len());
    for name in names {
        let known = *KNOWN_RAILS.iter().find(|known| *known == name)?;
        if rails.contains(&known) {
            return None;
        }
        rails.push(known);
    }
    Some(rails)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order() {
        let selection = RailSelection::parse("self, shm").unwrap();
        assert_eq!(selection.preference(), ["self", "shm"]);
        assert_eq!(selection.to_string(), "self,shm");
    }

    #[test]
    fn a_caret_excludes() {
        let selection = RailSelection::parse("^shm").unwrap();
        assert!(!selection.allows("shm") && selection.allows("self"));
        assert_eq!(selection.to_string(), "^shm");
    }

    #[test]
    fn what_is_not_protected_has_to_be_named() {
        for text in ["auto", "^shm", "^verbs"] {
            assert!(!RailSelection::parse(text).unwrap().allows("verbs"), "{text}");
        }
        assert!(RailSelection::parse("verbs,self").unwrap().allows("verbs"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "shm,",
            "^",
            "shm,^self",
            "^shm,self",
            "^shm,^tcp,^self",
            "shm,shm",
            "SHM",
            "auto,shm",
            "udp",
        ] {
            assert_eq!(RailSelection::parse(text), None, "{text:?}");
        }
    }
}
