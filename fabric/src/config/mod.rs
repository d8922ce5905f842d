//! Configuration: every variable, its default, and where its value came from.
//!
//! A value is looked up in this order, the last one found wins: the default in [`VARIABLES`], the environment,
//! the program that opens the fabric. Nothing is ignored: an unknown `GRIDNET_*` name and a value that does not
//! parse are a [`ConfigError`], even where a later source would have replaced it.

mod error;
mod net;
mod parse;
mod rails;
mod table;

pub use error::ConfigError;
pub use gridnet_uring_tcp::{Interfaces, Multirail, PortRange};
pub use parse::{HugePages, NetEngine, ProgressMode, SingleCopy, VerbsWire, WaitMode};
pub use rails::{RailSelection, KNOWN_RAILS};
pub use table::{Config, Variable, VARIABLES};

use std::fmt;

/// Names of variables begin with this; other variables of the environment are none of our business.
const PREFIX: &str = "GRIDNET_";

/// Where the value of a variable comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    #[default]
    Default,
    /// An environment variable of the process.
    Environment,
    /// The options the program gave when it opened the fabric.
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Default => "default",
            Origin::Environment => "environment",
            Origin::Program => "program",
        })
    }
}

/// One line of the configuration as it is in force, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the variable.
    pub name: &'static str,
    /// Value in force, in its canonical spelling.
    pub value: String,
    /// Default, in the same spelling.
    pub default: &'static str,
    /// What a number counts; empty where that says nothing.
    pub unit: &'static str,
    /// Which source the value is from.
    pub origin: Origin,
    /// What a value must look like.
    pub accepted: String,
    /// What the variable does.
    pub sentence: &'static str,
}

impl Config {
    /// Reads the configuration from `env` (names that do not begin with `GRIDNET_` are skipped) and `overrides`,
    /// which beat it.
    pub fn from_sources(
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Config, ConfigError> {
        let mut settings = Settings::default();
        for (name, value) in env.filter(|(name, _)| name.starts_with(PREFIX)) {
            settings.set(&name, value, Origin::Environment)?;
        }
        for (name, value) in overrides {
            settings.set(name, value.clone(), Origin::Program)?;
        }
        settings.build()
    }

    /// Reads the configuration from the environment of this process and `overrides`.
    ///
    /// Bytes that are not UTF-8 become replacement characters, which no variable accepts.
    pub fn from_process(overrides: &[(String, String)]) -> Result<Config, ConfigError> {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Config::from_sources(std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))), overrides)
    }

    /// Every variable with its value, in the order of the table.
    pub fn entries(&self) -> Vec<Entry> {
        self.shown()
            .into_iter()
            .zip(&VARIABLES)
            .map(|((value, origin), variable)| Entry {
                name: variable.name,
                value,
                default: variable.default,
                unit: variable.unit,
                origin,
                accepted: variable.accepted(),
                sentence: variable.sentence,
            })
            .collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        // Cannot fail: a test of the table parses every default.
        Settings::default().build().expect("built-in defaults are valid")
    }
}

/// The text in force for each variable while the sources are read.
struct Settings([(String, Origin); VARIABLES.len()]);

impl Settings {
    fn set(&mut self, name: &str, value: String, origin: Origin) -> Result<(), ConfigError> {
        let index = VARIABLES
            .iter()
            .position(|variable| variable.name == name)
            .ok_or_else(|| ConfigError::unknown(name))?;
        if !VARIABLES[index].accepts(&value) {
            return Err(VARIABLES[index].bad_value(&value));
        }
        self.0[index] = (value, origin);
        Ok(())
    }

    fn build(self) -> Result<Config, ConfigError> {
        Config::from_settings(self.0)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings(std::array::from_fn(|index| (VARIABLES[index].default.to_owned(), Origin::Default)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn program(name: &str, value: &str) -> Result<Config, ConfigError> {
        Config::from_sources(std::iter::empty(), &pairs(&[(name, value)]))
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = Config::default();
        assert_eq!(config.rails.preference(), ["shm", "tcp", "self"]);
        assert_eq!(config.wait_mode, WaitMode::Adaptive);
        assert_eq!(config.wait_spin, Duration::from_micros(50));
        assert_eq!(config.progress, ProgressMode::Manual);
        assert_eq!(config.shm_segment_size, 1 << 30);
        assert_eq!(config.shm_ring_slots, 128);
        assert_eq!(config.shm_link_window, 1 << 20);
        assert_eq!(config.eager_max, 8192);
        assert_eq!(config.run_dir, None);
        assert_eq!(config.host_id, None);
        assert_eq!(config.log, "warn");
    }

    #[test]
    fn the_program_beats_the_environment_and_that_beats_the_default() {
        let env = pairs(&[("GRIDNET_WAIT_MODE", "spin"), ("GRIDNET_MAX_OPS", "5"), ("HOME", "/")]);
        let config = Config::from_sources(env.into_iter(), &pairs(&[("GRIDNET_MAX_OPS", "7")])).unwrap();
        assert_eq!((config.wait_mode, config.max_ops), (WaitMode::Spin, 7));
        let origin = |name| config.entries().into_iter().find(|entry| entry.name == name).unwrap().origin;
        assert_eq!(origin("GRIDNET_WAIT_MODE"), Origin::Environment);
        assert_eq!(origin("GRIDNET_MAX_OPS"), Origin::Program);
        assert_eq!(origin("GRIDNET_RAILS"), Origin::Default);
    }

    #[test]
    fn the_last_of_several_overrides_wins() {
        let twice = pairs(&[("GRIDNET_MAX_OPS", "5"), ("GRIDNET_MAX_OPS", "6")]);
        assert_eq!(Config::from_sources(std::iter::empty(), &twice).unwrap().max_ops, 6);
    }

    #[test]
    fn a_bad_value_is_an_error_even_where_the_program_replaces_it() {
        let env = pairs(&[("GRIDNET_MAX_OPS", "many")]);
        let error = Config::from_sources(env.into_iter(), &pairs(&[("GRIDNET_MAX_OPS", "7")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "GRIDNET_MAX_OPS: bad value \"many\", accepted is a number from 1 to 1073741824"
        );
    }

    #[test]
    fn an_unknown_name_is_an_error_with_a_suggestion_when_one_is_near() {
        let error = program("GRIDNET_WAITMODE", "spin").unwrap_err();
        assert_eq!(error.to_string(), "GRIDNET_WAITMODE: no such variable, did you mean GRIDNET_WAIT_MODE?");
        let error = program("GRIDNET_COFFEE_STRENGTH", "9").unwrap_err();
        assert_eq!(
            error.to_string(),
            "GRIDNET_COFFEE_STRENGTH: no such variable, `gridnet config` lists them all"
        );
        assert!(program("PATH", "/bin").is_err(), "an override is always meant for us");
    }

    #[test]
    fn each_kind_of_variable_refuses_what_it_cannot_mean() {
        for (name, value) in [
            ("GRIDNET_RAILS", "carrier-pigeon"),
            ("GRIDNET_WAIT_MODE", "Spin"),
            ("GRIDNET_WAIT_SPIN", "50"),
            ("GRIDNET_PROGRESS", ""),
            ("GRIDNET_SHM_SEGMENT_SIZE", "65g"),
            ("GRIDNET_SHM_RING_SLOTS", "100"),
            ("GRIDNET_SHM_HUGE_PAGES", "always"),
            ("GRIDNET_SHM_ALLOW_UIDS", "root"),
            ("GRIDNET_NET_INTERFACES", "10.0.0.0/33"),
            ("GRIDNET_NET_PORTS", "41000"),
            ("GRIDNET_SESSION", "node"),
            ("GRIDNET_NET_KEY_FILE", "key"),
            ("GRIDNET_NET_INSECURE", "yes"),
            ("GRIDNET_NET_ENGINE", "select"),
            ("GRIDNET_NET_WINDOW", "1k"),
            ("GRIDNET_VERBS_WIRE", "tcp"),
            ("GRIDNET_EAGER_MAX", "8193"),
            ("GRIDNET_UNEXPECTED_MESSAGES", "64k"),
            ("GRIDNET_RUN_DIR", "relative/path"),
            ("GRIDNET_HOST_ID", "two words"),
            ("GRIDNET_LOG", "loud"),
        ] {
            let error = program(name, value).expect_err(name);
            let text = error.to_string();
            assert!(text.starts_with(name) && text.contains(&format!("{value:?}")), "{text}");
        }
    }

    #[test]
    fn entries_follow_the_fields() {
        let mut config = program("GRIDNET_SHM_LINK_WINDOW", "524288").unwrap();
        let shown = |config: &Config, name| {
            config.entries().into_iter().find(|entry| entry.name == name).unwrap().value
        };
        assert_eq!(shown(&config, "GRIDNET_SHM_LINK_WINDOW"), "512k");
        config.wait_mode = WaitMode::Block;
        assert_eq!(shown(&config, "GRIDNET_WAIT_MODE"), "block");
    }
}
