//! The kinds of values that variables have: how each is read, shown and described.

use super::RailSelection;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What a waiting call does while nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// Spin for `GRIDNET_WAIT_SPIN`, then sleep; sleep at once where spinning would only hold up the peer.
    Adaptive,
    /// Never sleep: the lowest latency, a whole core per waiter.
    Spin,
    /// Sleep at once: the least CPU time.
    Block,
}

/// Who drives communication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// The calls of the program.
    Manual,
    /// A thread of the library.
    Thread,
}

/// Whether huge pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Used where the system offers them.
    Auto,
    /// Not asked for.
    Never,
}

/// What carries the packets of the software RDMA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerbsWire {
    /// UDP sockets: any host.
    Udp,
    /// Shared memory: processes of this host.
    Shm,
    /// Sockets of AF_XDP: any host, past the network of the system. One process of a host can have it.
    Xdp,
}

/// When long messages are copied straight out of the sender's memory.
pub use gridnet_shm::SingleCopy;

/// What watches the sockets of the rail tcp on which little happens.
pub use gridnet_uring_tcp::Engine as NetEngine;

/// A kind of value. `parse` and `show` are each other's inverse.
pub(super) trait Kind: Sync {
    /// The type of the configuration's field.
    type Value;
    /// Reads a value; `None` if the text is not one.
    fn parse(&self, text: &str) -> Option<Self::Value>;
    /// The canonical spelling.
    fn show(&self, value: &Self::Value) -> String;
    /// The accepted form, to follow "accepted is".
    fn accepted(&self) -> String;
}

/// One word out of a fixed list.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Sync> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Option<T> {
        self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    fn show(&self, value: &T) -> String {
        // The list has a word for each value of the enumeration.
        self.0.iter().find(|(_, listed)| listed == value).map_or(String::new(), |(word, _)| word.to_string())
    }

    fn accepted(&self) -> String {
        let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
        words.join(" or ")
    }
}

/// A plain number in a range.
pub(super) struct Count(pub(super) RangeInclusive<usize>);

impl Kind for Count {
    type Value = usize;

    fn parse(&self, text: &str) -> Option<usize> {
        number(text).filter(|value| self.0.contains(value))
    }

    fn show(&self, value: &usize) -> String {
        value.to_string()
    }

    fn accepted(&self) -> String {
        format!("a number from {} to {}", self.0.start(), self.0.end())
    }
}

/// A power of two in a range.
pub(super) struct PowerOfTwo(pub(super) RangeInclusive<usize>);

impl Kind for PowerOfTwo {
    type Value = usize;

    fn parse(&self, text: &str) -> Option<usize> {
        number(text).filter(|value| value.is_power_of_two() && self.0.contains(value))
    }

    fn show(&self, value: &usize) -> String {
        value.to_string()
    }

    fn accepted(&self) -> String {
        format!("a power of two from {} to {}", self.0.start(), self.0.end())
    }
}

/// A number of bytes in a range: plain, or with the suffix `k`, `m` or `g` (powers of 1024).
pub(super) struct Bytes(pub(super) RangeInclusive<usize>);

impl Kind for Bytes {
    type Value = usize;

    fn parse(&self, text: &str) -> Option<usize> {
        let (digits, factor) = BYTE_SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(*suffix).map(|digits| (digits, *factor)))
            .unwrap_or((text, 1));
        number(digits)?.checked_mul(factor).filter(|value| self.0.contains(value))
    }

    fn show(&self, value: &usize) -> String {
        let suffix = BYTE_SUFFIXES.iter().find(|(_, factor)| *value > 0 && value.is_multiple_of(*factor));
        suffix.map_or_else(|| value.to_string(), |(suffix, factor)| format!("{}{suffix}", value / factor))
    }

    fn accepted(&self) -> String {
        format!(
            "a size from {} to {}, with or without suffix k, m, g",
            self.show(self.0.start()),
            self.show(self.0.end())
        )
    }
}

/// A time: a number with its unit `ns`, `us`, `ms` or `s`, up to a limit.
pub(super) struct Time(pub(super) Duration);

impl Kind for Time {
    type Value = Duration;

    fn parse(&self, text: &str) -> Option<Duration> {
        let (digits, unit_ns) =
            TIME_UNITS.iter().find_map(|(unit, ns)| text.strip_suffix(*unit).map(|digits| (digits, *ns)))?;
        let ns = u64::try_from(number(digits)?).ok()?.checked_mul(unit_ns)?;
        Some(Duration::from_nanos(ns)).filter(|value| *value <= self.0)
    }

    fn show(&self, value: &Duration) -> String {
        let ns = value.as_nanos();
        // Seconds last in the list of suffixes (they are the tail of the others), first in size.
        let unit = TIME_UNITS.iter().rev().find(|(_, unit)| ns > 0 && ns.is_multiple_of(u128::from(*unit)));
        unit.map_or_else(
            || format!("{ns}ns"),
            |(unit, unit_ns)| format!("{}{unit}", ns / u128::from(*unit_ns)),
        )
    }

    fn accepted(&self) -> String {
        format!("a time with its unit ns, us, ms or s, up to {}", self.show(&self.0))
    }
}

/// A list of rails.
pub(super) struct Rails;

impl Kind for Rails {
    type Value = RailSelection;

    fn parse(&self, text: &str) -> Option<RailSelection> {
        RailSelection::parse(text)
    }

    fn show(&self, value: &RailSelection) -> String {
        value.to_string()
    }

    fn accepted(&self) -> String {
        let known = super::KNOWN_RAILS.join(",");
        format!("auto, or rails of the list {known} in order of preference, or each with ^ to exclude it")
    }
}

/// An absolute path; empty means that one is chosen automatically.
pub(super) struct Directory;

impl Kind for Directory {
    type Value = Option<PathBuf>;

    fn parse(&self, text: &str) -> Option<Option<PathBuf>> {
        match text {
            "" => Some(None),
            _ => (text.starts_with('/') && !text.contains(['\0', char::REPLACEMENT_CHARACTER]))
                .then(|| Some(PathBuf::from(text))),
        }
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        value.as_ref().map_or(String::new(), |path| path.display().to_string())
    }

    fn accepted(&self) -> String {
        "an absolute path, or empty for the automatic choice".to_owned()
    }
}

/// A name of up to 64 letters, digits, dots, underscores and hyphens; empty means automatic.
pub(super) struct Name;

impl Kind for Name {
    type Value = Option<String>;

    fn parse(&self, text: &str) -> Option<Option<String>> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match text {
            "" => Some(None),
            _ => (text.len() <= 64 && text.bytes().all(allowed)).then(|| Some(text.to_owned())),
        }
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }

    fn accepted(&self) -> String {
        "1 to 64 characters of A-Z a-z 0-9 . _ -, or empty for the automatic choice".to_owned()
    }
}

/// User ids with commas between them; empty for none.
pub(super) struct Uids;

impl Kind for Uids {
    type Value = Vec<u32>;

    fn parse(&self, text: &str) -> Option<Vec<u32>> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        // The largest number means no user.
        let uid = |item| number(item).and_then(|n| u32::try_from(n).ok()).filter(|uid| *uid != u32::MAX);
        text.split(',').map(uid).collect()
    }

    fn show(&self, value: &Vec<u32>) -> String {
        value.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }

    fn accepted(&self) -> String {
        "user ids (numbers up to 4294967294) with commas between them, or empty for none".to_owned()
    }
}

/// A log filter: levels, or `target=level`, separated by commas.
pub(super) struct LogFilter;

impl Kind for LogFilter {
    type Value = String;

    fn parse(&self, text: &str) -> Option<String> {
        let target = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte))
        };
        let directive = |item: &str| match item.split_once('=') {
            Some((name, level)) => target(name) && LOG_LEVELS.contains(&level),
            None => LOG_LEVELS.contains(&item),
        };
        text.split(',').all(directive).then(|| text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn accepted(&self) -> String {
        format!("a level ({}) or target=level, several with commas", LOG_LEVELS.join(" "))
    }
}

/// Decimal digits and nothing else: no sign, no blank, no empty text.
fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

/// The largest first, so that `show` finds the shortest spelling.
const BYTE_SUFFIXES: &[(&str, usize)] = &[("g", GIB), ("m", MIB), ("k", KIB)];

/// `s` last: the other units end with it.
const TIME_UNITS: &[(&str, u64)] = &[("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

const LOG_LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_suffixes_and_keep_their_range() {
        let bytes = Bytes(KIB..=GIB);
        for (text, value) in [("1024", 1024), ("1k", 1024), ("3m", 3 * MIB), ("1g", GIB), ("007k", 7 * KIB)] {
            assert_eq!(bytes.parse(text), Some(value), "{text}");
        }
        for text in [
            "",
            "k",
            "1 k",
            "1K",
            "1kb",
            "-1k",
            "+2k",
            "1.5m",
            "1023",
            "2g",
            "99999999999999999999",
            "17179869185g",
        ] {
            assert_eq!(bytes.parse(text), None, "{text}");
        }
        assert_eq!(bytes.accepted(), "a size from 1k to 1g, with or without suffix k, m, g");
    }

    #[test]
    fn times_need_their_unit() {
        let time = Time(Duration::from_secs(10));
        for (text, ns) in
            [("10ns", 10), ("5us", 5_000), ("3ms", 3_000_000), ("2s", 2_000_000_000), ("0ns", 0)]
        {
            assert_eq!(time.parse(text), Some(Duration::from_nanos(ns)), "{text}");
        }
        for text in
            ["", "5", "us", "5 us", "-5us", "1.5us", "5min", "11s", "99999999999999999999s", "18446744074s"]
        {
            assert_eq!(time.parse(text), None, "{text}");
        }
    }

    #[test]
    fn counts_and_powers_of_two_keep_their_range() {
        assert_eq!(Count(1..=8).parse("8"), Some(8));
        for text in ["0", "9", "", "1k", "+1", "eight"] {
            assert_eq!(Count(1..=8).parse(text), None, "{text}");
        }
        assert_eq!(PowerOfTwo(64..=4096).parse("128"), Some(128));
        for text in ["32", "100", "8192", "0"] {
            assert_eq!(PowerOfTwo(64..=4096).parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_and_paths_are_what_they_say() {
        assert_eq!(Name.parse("node-7.rack_2"), Some(Some("node-7.rack_2".to_owned())));
        for text in ["a b", "a/b", "é", &"x".repeat(65)] {
            assert_eq!(Name.parse(text), None, "{text}");
        }
        assert_eq!(Directory.parse("/run/x"), Some(Some(PathBuf::from("/run/x"))));
        assert_eq!(Directory.parse("run"), None);
        assert_eq!(Directory.parse("/run/\u{fffd}"), None);
    }

    #[test]
    fn user_ids_are_numbers_with_commas() {
        for (text, uids) in [("", vec![]), ("0", vec![0]), ("12,4294967294", vec![12, u32::MAX - 1])] {
            assert_eq!(Uids.parse(text), Some(uids.clone()), "{text}");
            assert_eq!(Uids.show(&uids), text);
        }
        for text in [
            ",",
            "1,",
            ",1",
            "1,,2",
            "1 ,2",
            "-1",
            "+1",
            "root",
            "4294967295",
            "99999999999999999999",
            "0x1",
            "*",
        ] {
            assert_eq!(Uids.parse(text), None, "{text}");
        }
    }

    #[test]
    fn log_filters_are_levels_and_targets() {
        for text in ["info", "warn,gridnet_shm=trace", "gridnet::fabric=debug", "off"] {
            assert_eq!(LogFilter.parse(text).as_deref(), Some(text));
        }
        for text in ["", "verbose", "info,", "=info", "gridnet_shm", "gridnet_shm=loud", "a b=info"] {
            assert_eq!(LogFilter.parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(value in 0..=64 * GIB) {
            let bytes = Bytes(0..=64 * GIB);
            prop_assert_eq!(bytes.parse(&bytes.show(&value)), Some(value));
        }

        #[test]
        fn times_round_trip(ns in 0..=10_000_000_000u64, zeros in 0..=9u32) {
            let time = Time(Duration::from_secs(10));
            let step = 10u64.pow(zeros);
            let value = Duration::from_nanos(ns / step * step);
            prop_assert_eq!(time.parse(&time.show(&value)), Some(value));
        }
    }
}
