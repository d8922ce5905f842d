//! The kinds of values that variables about networks have.

use super::parse::Kind;
use gridnet_uring_tcp::{Interfaces, Multirail, PortRange, MAX_PATHS};

/// Names of interfaces, addresses and networks with commas between them; empty means automatic.
pub(super) struct InterfaceList;

impl Kind for InterfaceList {
    type Value = Interfaces;

    fn parse(&self, text: &str) -> Option<Interfaces> {
        Interfaces::parse(text)
    }

    fn show(&self, value: &Interfaces) -> String {
        value.to_string()
    }

    fn accepted(&self) -> String {
        "names of interfaces, addresses and networks (10.1.0.0/16) with commas between them, or empty for the automatic choice"
            .to_owned()
    }
}

/// A range of ports; empty means any.
pub(super) struct Ports;

impl Kind for Ports {
    type Value = Option<PortRange>;

    fn parse(&self, text: &str) -> Option<Option<PortRange>> {
        if text.is_empty() {
            return Some(None);
        }
        let (first, last) = text.split_once('-')?;
        let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        PortRange::new(port(first)?, port(last)?).map(Some)
    }

    fn show(&self, value: &Option<PortRange>) -> String {
        value.map_or(String::new(), |range| format!("{}-{}", range.first(), range.last()))
    }

    fn accepted(&self) -> String {
        "two ports from 1 to 65535 with a hyphen between them, or empty for any".to_owned()
    }
}

/// How many paths a link may have.
pub(super) struct PathCount;

impl Kind for PathCount {
    type Value = Multirail;

    fn parse(&self, text: &str) -> Option<Multirail> {
        match text {
            "auto" => Some(Multirail::Auto),
            "off" => Some(Multirail::Off),
            _ => {
                let most = text.parse().ok().filter(|most| (2..=MAX_PATHS).contains(most))?;
                text.bytes().all(|byte| byte.is_ascii_digit()).then_some(Multirail::AtMost(most))
            }
        }
    }

    fn show(&self, value: &Multirail) -> String {
        match value {
            Multirail::Auto => "auto".to_owned(),
            Multirail::Off => "off".to_owned(),
            Multirail::AtMost(most) | Multirail::Alike(most) => most.to_string(),
        }
    }

    fn accepted(&self) -> String {
        format!("auto, off, or a number from 2 to {MAX_PATHS}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_from_two() {
        for text in ["auto", "off", "2", "8"] {
            assert_eq!(PathCount.parse(text).map(|paths| PathCount.show(&paths)).as_deref(), Some(text));
        }
        for text in ["", "0", "1", "9", "+2", "on", "2 "] {
            assert_eq!(PathCount.parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_of_ports_have_two_ends_in_order() {
        for text in ["", "41000-41999", "1-65535", "7-7"] {
            assert_eq!(Ports.parse(text).map(|ports| Ports.show(&ports)).as_deref(), Some(text));
        }
        for text in ["41000", "-", "1-", "-1", "0-9", "9-8", "1-65536", "+1-2", "1-2-3", "a-b", "1 - 2"] {
            assert_eq!(Ports.parse(text), None, "{text}");
        }
    }
}
