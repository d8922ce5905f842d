//! Stacks: a method under filters, written outermost first, as `tls/tcp(streams=1)`.
//!
//! The text has no blanks, and each stack has one text only: what was parsed prints as it was.

use std::fmt;
use std::str::FromStr;

/// Longest text of a stack.
pub const STACK_BYTES_MAX: usize = 128;
/// Most streams that `tcp(streams=N)` may ask for.
pub const STREAMS_MAX: u8 = 64;

/// A way to obtain a connected path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Method {
    /// Memory in common, within a host.
    Shm,
    /// A connection over TCP.
    Tcp,
    /// Through leaders and the rendez-vous node, when nothing else is left.
    Relay,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 3] = [Method::Shm, Method::Tcp, Method::Relay];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Method::Shm => "shm",
            Method::Tcp => "tcp",
            Method::Relay => "relay",
        }
    }

    /// The method of this name.
    pub fn of_name(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// What transforms all that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Filter {
    /// TLS 1.3, both sides certified by the session.
    Tls,
}

impl Filter {
    /// All of them.
    pub const ALL: [Filter; 1] = [Filter::Tls];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Filter::Tls => "tls",
        }
    }

    /// The filter of this name.
    pub fn of_name(name: &str) -> Option<Filter> {
        Filter::ALL.into_iter().find(|filter| filter.name() == name)
    }
}

/// How well a path keeps others out, from nothing to all. What `min_security` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Security {
    /// Whoever is on the way can read and change what passes, or pretend to be the peer.
    Plain,
    /// The peer is who it should be, and nobody changes what passes; others might read it.
    Authenticated,
    /// Nobody but the two reads or changes what passes.
    #[default]
    Encrypted,
}

impl Security {
    /// All levels, the lowest first.
    pub const ALL: [Security; 3] = [Security::Plain, Security::Authenticated, Security::Encrypted];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Security::Plain => "plain",
            Security::Authenticated => "authenticated",
            Security::Encrypted => "encrypted",
        }
    }

    /// The level of this name.
    pub fn of_name(name: &str) -> Option<Security> {
        Security::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// How far apart two processes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Of one user on one host: one domain of trust.
    SameUser,
    /// Of two users on one host.
    SameHost,
    /// On two hosts.
    Apart,
}

/// A method under filters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Outermost first; each at most once.
    filters: Vec<Filter>,
    method: Method,
    streams: Option<u8>,
}

impl Stack {
    /// A method without filters.
    pub fn bare(method: Method) -> Stack {
        Stack { filters: Vec::new(), method, streams: None }
    }

    /// The same under one more filter, which must not be there yet.
    #[must_use]
    pub fn under(mut self, filter: Filter) -> Option<Stack> {
        if self.filters.contains(&filter) {
            return None;
        }
        self.filters.insert(0, filter);
        Some(self)
    }

    /// The method at the bottom.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The filters, outermost first.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// How many streams are asked for; `None` leaves it to the configuration.
    pub fn streams(&self) -> Option<u8> {
        self.streams
    }

    /// Whether it is the same but for parameters.
    pub fn is_like(&self, other: &Stack) -> bool {
        (&self.filters, self.method) == (&other.filters, other.method)
    }

    /// How well it keeps others out, between two processes that are so far apart.
    ///
    /// Shared memory of one user counts as encrypted: whoever could read it could read the processes themselves. Between two users
    /// the kernel says who the peer is, and the memory is the pair's own, but what the other user does with it is its own affair:
    /// authenticated. A relay without `tls` is plain: those on the way prove themselves, and could read and change what passes.
    pub fn security(&self, reach: Reach) -> Security {
        match (self.filters.contains(&Filter::Tls), self.method, reach) {
            (true, ..) | (_, Method::Shm, Reach::SameUser) => Security::Encrypted,
            (_, Method::Shm, Reach::SameHost) => Security::Authenticated,
            _ => Security::Plain,
        }
    }

    /// The most that [`Stack::security`] can be.
    pub fn best_security(&self) -> Security {
        self.security(Reach::SameUser)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filters.iter().try_for_each(|filter| write!(f, "{}/", filter.name()))?;
        f.write_str(self.method.name())?;
        match self.streams {
            Some(streams) => write!(f, "(streams={streams})"),
            None => Ok(()),
        }
    }
}

/// Why a text is no stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackError {
    /// Number of the character where it goes wrong, from 1.
    pub position: usize,
    /// What is wrong there.
    pub what: String,
}

/// What is accepted, for the end of each error.
const FORM: &str =
    "accepted are shm, tcp, tcp(streams=1) to tcp(streams=64) and relay, under filters as in tls/tcp";

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "character {}: {}; {FORM}", self.position, self.what)
    }
}

impl std::error::Error for StackError {}

/// A part of a text, and where it begins.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    /// Bytes before it in the whole.
    at: usize,
    whole: &'a str,
}

impl<'a> Part<'a> {
    fn wrong<T>(self, what: impl Into<String>) -> Result<T, StackError> {
        let before = self.whole.get(..self.at).unwrap_or(self.whole);
        Err(StackError { position: before.chars().count() + 1, what: what.into() })
    }

    /// What is before and behind the first of `letter`.
    fn split(self, letter: char) -> Option<(Part<'a>, Part<'a>)> {
        let (first, rest) = self.text.split_once(letter)?;
        let at = self.at + first.len() + letter.len_utf8();
        Some((Part { text: first, ..self }, Part { text: rest, at, ..self }))
    }

    /// All parts between `letter`s.
    fn parts(self, letter: char) -> Vec<Part<'a>> {
        let (mut parts, mut rest) = (Vec::new(), self);
        while let Some((first, behind)) = rest.split(letter) {
            parts.push(first);
            rest = behind;
        }
        parts.push(rest);
        parts
    }

    fn end(self) -> Part<'a> {
        Part { text: "", at: self.at + self.text.len(), ..self }
    }
}

impl FromStr for Stack {
    type Err = StackError;

    fn from_str(text: &str) -> Result<Stack, StackError> {
        let whole = Part { text, at: 0, whole: text };
        if text.len() > STACK_BYTES_MAX {
            return whole.wrong(format!("a stack has at most {STACK_BYTES_MAX} characters"));
        }
        let mut parts = whole.parts('/');
        let Some(last) = parts.pop() else { return whole.wrong("a stack is empty") };
        let mut filters = Vec::new();
        for part in parts {
            let filter = filter(part)?;
            if filters.contains(&filter) {
                return part.wrong(format!("the filter {} is there twice", filter.name()));
            }
            filters.push(filter);
        }
        let (method, streams) = method(last)?;
        Ok(Stack { filters, method, streams })
    }
}

fn filter(part: Part<'_>) -> Result<Filter, StackError> {
    let (name, parameters) = part.split('(').map_or((part, None), |(name, rest)| (name, Some(rest)));
    match (Filter::of_name(name.text), parameters) {
        (Some(filter), None) => Ok(filter),
        (Some(filter), Some(rest)) => rest.wrong(format!("the filter {} has no parameters", filter.name())),
        (None, _) if Method::of_name(name.text).is_some() => {
            part.wrong(format!("{} is a method, which comes last", name.text))
        }
        (None, _) => part.wrong(format!("there is no filter {:?}", name.text)),
    }
}

fn method(part: Part<'_>) -> Result<(Method, Option<u8>), StackError> {
    let (name, parameters) = part.split('(').map_or((part, None), |(name, rest)| (name, Some(rest)));
    let Some(method) = Method::of_name(name.text) else {
        return match (Filter::of_name(name.text), name.text) {
            (Some(filter), _) => {
                part.end().wrong(format!("a method is missing below the filter {}", filter.name()))
            }
            (None, "") => part.wrong("a method is missing"),
            (None, other) => part.wrong(format!("there is no method {other:?}")),
        };
    };
    let Some(parameters) = parameters else { return Ok((method, None)) };
    let Some(inside) = parameters.text.strip_suffix(')') else {
        return parameters.end().wrong("a closing parenthesis is missing");
    };
    let mut streams = None;
    for parameter in (Part { text: inside, ..parameters }).parts(',') {
        let (key, value) = match parameter.split('=') {
            Some((key, value)) => (key, value),
            None => return parameter.wrong("a parameter is NAME=VALUE"),
        };
        match (method, key.text) {
            (Method::Tcp, "streams") if streams.is_some() => return key.wrong("streams is there twice"),
            (Method::Tcp, "streams") => streams = Some(count(value)?),
            _ => return key.wrong(format!("{} has no parameter {:?}", method.name(), key.text)),
        }
    }
    Ok((method, streams))
}

/// A number as it would be printed.
fn count(value: Part<'_>) -> Result<u8, StackError> {
    let number = value.text.parse::<u8>().ok().filter(|n| (1..=STREAMS_MAX).contains(n));
    match number.filter(|n| n.to_string() == value.text) {
        Some(number) => Ok(number),
        None => value.wrong(format!("streams is a number from 1 to {STREAMS_MAX}")),
    }
}

#[cfg(test)]
mod tests;
