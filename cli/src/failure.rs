//! How a command ends that does not succeed.

use crate::cabi::CallError;
use gridnet::config::ConfigError;
use std::io;
use std::process::ExitCode;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The user asked for something that cannot be: exit code 2.
    Usage(String),
    /// It was asked for rightly and did not work: exit code 1.
    Run(String),
    /// Whoever read the output has gone, as `head` does: nothing to say, exit code 0.
    OutputClosed,
    /// A process that we started for this has told the user why, and ended with this code.
    Said(u8),
}

impl Failure {
    /// Prints what happened to standard error and gives the exit code for it.
    pub(crate) fn report(self) -> ExitCode {
        let (text, code) = match self {
            Failure::Usage(text) => (text, 2),
            Failure::Run(text) => (text, 1),
            Failure::OutputClosed => return ExitCode::SUCCESS,
            Failure::Said(code) => return ExitCode::from(code),
        };
        eprintln!("gridnet: {text}");
        ExitCode::from(code)
    }

    /// The same failure with `what` in front of its text.
    pub(crate) fn during(self, what: &str) -> Self {
        match self {
            Failure::Usage(text) => Failure::Usage(format!("{what}: {text}")),
            Failure::Run(text) => Failure::Run(format!("{what}: {text}")),
            other => other,
        }
    }

    /// What it says.
    pub(crate) fn text(&self) -> &str {
        match self {
            Failure::Usage(text) | Failure::Run(text) => text,
            Failure::OutputClosed | Failure::Said(_) => "",
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl From<gridnet_meta::error::Error> for Failure {
    fn from(error: gridnet_meta::error::Error) -> Self {
        use gridnet_meta::error::Error;
        match error {
            Error::Config(_) => Failure::Usage(error.to_string()),
            _ => Failure::Run(error.to_string()),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Failure::Run(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Run(error.to_string()),
        }
    }
}
