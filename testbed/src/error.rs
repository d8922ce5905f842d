//! What can go wrong, by who can do something about it.

use crate::check::Finding;
use std::fmt;
use std::io;
use std::time::Duration;

/// Result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a lab, or something in it, is not to be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// This machine does not let us: namespaces are forbidden, or a tool is missing. Tests skip on this one, aloud.
    Unavailable(String),
    /// The topology says something that cannot be, or is not understood.
    Topology(String),
    /// A step of bringing the lab up, or of changing it, failed.
    Setup(String),
    /// The lab is up, but is not what was asked for.
    NotAsAsked(Vec<Finding>),
    /// There is nothing of that name.
    NoSuch {
        /// `host` or `link`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Something took longer than it may.
    Timeout {
        /// What it was.
        what: String,
        /// How long it had.
        after: Duration,
        /// What it had said by then.
        said: String,
    },
    /// A system call failed.
    Io(io::Error),
}

impl Error {
    /// The error of a step that failed for a reason of the system.
    pub(crate) fn setup(step: &str, why: impl fmt::Display) -> Error {
        Error::Setup(format!("{step}: {why}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) => write!(f, "no lab can be had here: {why}"),
            Error::Topology(why) => write!(f, "topology: {why}"),
            Error::Setup(why) => f.write_str(why),
            Error::NotAsAsked(findings) => {
                write!(f, "the lab is not what was asked for")?;
                findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
            }
            Error::NoSuch { kind, name, known } => {
                write!(f, "no {kind} is called {name:?}; there are {}", known.join(", "))
            }
            Error::Timeout { what, after, said } => {
                write!(f, "{what}: not done after {after:?}")?;
                if said.is_empty() {
                    Ok(())
                } else {
                    write!(f, "; it said: {said}")
                }
            }
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

impl From<nix::Error> for Error {
    fn from(error: nix::Error) -> Self {
        Error::Io(error.into())
    }
}
