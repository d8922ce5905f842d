//! Times, rates, sizes and probabilities as people write them; what is not understood is said with what is accepted.

use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time as in a topology: `25ms`, `1.5s`, `100us`, `0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A rate in bits a second, as in a topology: `100mbit`, `1gbit`, `512kbit`. Counted with Ethernet headers, as `tbf` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    /// Never zero: a link that carries nothing is a blackout.
    pub(crate) bits_per_second: u64,
}

/// A size in bytes, as in a topology: `64k`, `1m`, `1500`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The probability that a packet is lost, as in a topology: `0.1%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    pub(crate) parts_per_million: u32,
}

impl Rate {
    /// So many million bits a second; none is taken for one.
    pub const fn mbit(mbit: u64) -> Rate {
        Rate { bits_per_second: if mbit == 0 { 1_000_000 } else { mbit.saturating_mul(1_000_000) } }
    }

    /// Bits a second.
    pub const fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }

    /// How long `bytes` take.
    pub(crate) fn time_ns(self, bytes: u64) -> u64 {
        let ns = u128::from(bytes) * 8_000_000_000 / u128::from(self.bits_per_second);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How much goes in `span`.
    pub(crate) fn bytes_in(self, span: Duration) -> u64 {
        let bytes = u128::from(self.bits_per_second) * span.as_nanos() / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Loss {
    /// So many of a hundred; clamped to 0 to 100.
    pub fn percent(percent: f64) -> Loss {
        // `as` saturates, and takes what is no number for 0.
        Loss { parts_per_million: ((percent * 10_000.0).round() as u32).min(MILLION) }
    }

    /// Between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.parts_per_million) / f64::from(MILLION)
    }

    pub(crate) fn is_none(self) -> bool {
        self.parts_per_million == 0
    }
}

/// The number and the unit of `text`.
fn split(text: &str) -> Option<(f64, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..unit].parse().ok()?;
    Some((number, &text[unit..]))
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = split(text).and_then(|(number, unit)| {
            let scale = match unit {
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                _ => return None,
            };
            Some(number * scale)
        });
        seconds
            .filter(|seconds| *seconds <= LONGEST_S)
            .map(|seconds| Span(Duration::from_nanos((seconds * 1e9).round() as u64)))
            .ok_or_else(|| {
                format!("{text:?} is no time: accepted are numbers with us, ms or s, up to a day, such as 25ms or 1.5s")
            })
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bits = split(text).and_then(|(number, unit)| {
            let scale = match unit {
                "kbit" => 1e3,
                "mbit" => 1e6,
                "gbit" => 1e9,
                _ => return None,
            };
            Some((number * scale).round())
        });
        bits.filter(|bits| (SLOWEST_BITS..=FASTEST_BITS).contains(bits))
            .map(|bits| Rate { bits_per_second: bits as u64 })
            .ok_or_else(|| {
                format!("{text:?} is no rate: accepted are 8kbit to 100gbit, with kbit, mbit or gbit, such as 100mbit")
            })
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = split(text).and_then(|(number, unit)| {
            let scale = match unit {
                "" => 1.0,
                "k" => 1024.0,
                "m" => 1024.0 * 1024.0,
                _ => return None,
            };
            Some(number * scale)
        });
        bytes
            .filter(|bytes| (SMALLEST_QUEUE..=LARGEST_QUEUE).contains(bytes))
            .map(|bytes| Bytes(bytes as u64))
            .ok_or_else(|| {
                format!("{text:?} is no size: accepted are 3000 to 1024m, plain or with k or m, such as 256k")
            })
    }
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_suffix('%')
            .and_then(|number| number.parse::<f64>().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Loss::percent)
            .ok_or_else(|| format!("{text:?} is no loss: accepted is 0% to 100%, such as 0.1%"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_nanos() as f64 / 1e3;
        match us {
            us if us < 1e3 => write!(f, "{us:.0}us"),
            us if us < 1e6 => write!(f, "{}ms", short(us / 1e3)),
            us => write!(f, "{}s", short(us / 1e6)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_second as f64;
        match bits {
            bits if bits < 1e6 => write!(f, "{}kbit", short(bits / 1e3)),
            bits if bits < 1e9 => write!(f, "{}mbit", short(bits / 1e6)),
            bits => write!(f, "{}gbit", short(bits / 1e9)),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes.is_multiple_of(1 << 20) && bytes > 0 => write!(f, "{}m", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) && bytes > 0 => write!(f, "{}k", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.parts_per_million) / 10_000.0)
    }
}

/// At most two digits behind the point, and no zeros at its end.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

macro_rules! from_text {
    ($($unit:ty),*) => {$(
        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
from_text!(Span, Rate, Bytes, Loss);

const MILLION: u32 = 1_000_000;
/// A day: nobody waits longer for a test, and sums of times stay far from the end of 64 bits.
const LONGEST_S: f64 = 86_400.0;
/// Below it a full packet takes seconds.
const SLOWEST_BITS: f64 = 8e3;
const FASTEST_BITS: f64 = 100e9;
/// Two full packets: with less nothing gets through.
const SMALLEST_QUEUE: f64 = 3000.0;
const LARGEST_QUEUE: f64 = 1024.0 * 1024.0 * 1024.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_and_written_back() {
        for text in ["25ms", "1.5s", "100us", "1.25ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["100mbit", "1.5gbit", "512kbit"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["64k", "2m", "3001"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        for text in ["0.1%", "5%", "0.0001%"] {
            assert_eq!(text.parse::<Loss>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_is_accepted() {
        for text in ["", "25", "ms", "-1ms", "25 ms", "1e3s", "2m", "86401s", "1.2.3s"] {
            assert!(text.parse::<Span>().unwrap_err().contains("25ms"), "{text}");
        }
        for text in ["", "100", "100mb", "0mbit", "101gbit", "100Mbit"] {
            assert!(text.parse::<Rate>().unwrap_err().contains("100mbit"), "{text}");
        }
        for text in ["0", "2999", "1g", "64kb", "-1"] {
            assert!(text.parse::<Bytes>().unwrap_err().contains("256k"), "{text}");
        }
        for text in ["", "0.1", "101%", "-1%", "%", "NaN%"] {
            assert!(text.parse::<Loss>().unwrap_err().contains("0.1%"), "{text}");
        }
    }

    #[test]
    fn rates_convert_without_overflow() {
        let rate = Rate::mbit(100);
        assert_eq!(rate.time_ns(1250), 100_000);
        assert_eq!(rate.bytes_in(Duration::from_millis(1)), 12_500);
        assert_eq!(Rate::mbit(1).time_ns(u64::MAX), u64::MAX);
    }
}
