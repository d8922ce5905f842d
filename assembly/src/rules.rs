//! Rules: which stacks two nodes may use, in which order, and how safe they have to be.
//!
//! A scheme says it for all; exceptions name nodes, clusters, networks or services. The first exception that matches decides; what
//! it does not say is as at the top of the file.

mod file;

use std::fmt;
use std::net::IpAddr;

use gridnet_core::wire::NodeId;

use crate::facts::Facts;
use crate::name::Name;
use crate::stack::{Filter, Method, Security, Stack};

pub use file::RulesError;

/// Longest text of rules.
pub const RULES_BYTES_MAX: usize = 256 << 10;

/// What is done where no exception says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Scheme {
    /// Every node with every other one: `shm`, `tls/tcp`, and `tls/relay` as a last resort.
    #[default]
    Direct,
    /// The same within a cluster, and between those that lead; between clusters `tls/relay`, which leads through them.
    Cluster,
    /// By way of the bootstrap channel only.
    RelayOnly,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Scheme; 3] = [Scheme::Direct, Scheme::Cluster, Scheme::RelayOnly];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Direct => "direct",
            Scheme::Cluster => "cluster",
            Scheme::RelayOnly => "relay-only",
        }
    }

    /// Whether two nodes use a method by this scheme.
    pub fn allows(self, method: Method, from: &Facts, to: &Facts) -> bool {
        let is_near = from.cluster == to.cluster || (from.leads && to.leads);
        match (self, method) {
            (_, Method::Relay) | (Scheme::Direct, _) => true,
            (Scheme::Cluster, _) => is_near,
            (Scheme::RelayOnly, _) => false,
        }
    }
}

/// A connection that somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Who asks.
    pub from: &'a Facts,
    /// Who is asked.
    pub to: &'a Facts,
    /// For what.
    pub service: &'a Name,
}

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let is_same = |of: u128, other: u128, size: u32| {
            let shift = size.saturating_sub(self.bits);
            of.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(of), IpAddr::V4(other)) => is_same(of.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(of), IpAddr::V6(other)) => is_same(of.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

/// A node, by its id or by what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Id(NodeId),
    Label(Name),
}

/// One end of a connection: all that is said of it has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct End {
    node: Option<Who>,
    cluster: Option<Name>,
    network: Option<Vec<Network>>,
}

impl End {
    fn is_any(&self) -> bool {
        *self == End::default()
    }

    fn matches(&self, facts: &Facts) -> bool {
        let is_node = match &self.node {
            Some(Who::Id(node)) => *node == facts.node,
            Some(Who::Label(label)) => *label == facts.label,
            None => true,
        };
        let is_in = |networks: &Vec<Network>| {
            let addresses = &facts.offer.addresses;
            addresses.iter().any(|address| networks.iter().any(|network| network.contains(*address)))
        };
        is_node
            && self.cluster.as_ref().is_none_or(|cluster| *cluster == facts.cluster)
            && self.network.as_ref().is_none_or(is_in)
    }
}

/// What may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// What a scheme says.
    Scheme(Scheme),
    /// These, in this order.
    Stacks(Vec<Stack>),
}

/// An exception.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    line: usize,
    from: End,
    to: End,
    service: Option<Name>,
    means: Option<Means>,
    min_security: Option<Security>,
}

impl Rule {
    fn is_for_all(&self) -> bool {
        self.from.is_any() && self.to.is_any() && self.service.is_none()
    }

    fn matches(&self, from: &Facts, to: &Facts, service: Option<&Name>) -> bool {
        self.from.matches(from)
            && self.to.matches(to)
            && self.service.as_ref().is_none_or(|named| Some(named) == service)
    }
}

/// What rules say of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The line of the exception that decides; `None`: no exception matches.
    pub line: Option<usize>,
    /// What may be used.
    pub means: Means,
    /// How safe it has to be at least.
    pub min_security: Security,
}

impl Policy {
    /// The exception that decides, for people.
    pub fn origin(&self) -> String {
        origin(self.line)
    }

    /// What is said behind a reason: the exception that decides, if one does.
    pub(crate) fn behind(&self) -> String {
        self.line.map_or_else(String::new, |_| format!(" ({})", self.origin()))
    }
}

/// The exception that decides, for people.
pub(crate) fn origin(line: Option<usize>) -> String {
    line.map_or_else(|| "no rule matches".to_owned(), |line| format!("the rule of line {line}"))
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin())?;
        match &self.means {
            Means::Scheme(scheme) => write!(f, "scheme {}", scheme.name())?,
            Means::Stacks(stacks) => {
                let stacks: Vec<String> = stacks.iter().map(Stack::to_string).collect();
                write!(f, "use {}", stacks.join(", "))?;
            }
        }
        write!(f, ", min_security {}", self.min_security.name())
    }
}

/// See the [module](self). The default: scheme `direct`, `encrypted`, no exceptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    scheme: Scheme,
    min_security: Security,
    rules: Vec<Rule>,
}

impl Rules {
    /// What they say of a connection.
    pub fn policy(&self, pair: &Pair<'_>) -> Policy {
        self.policy_of(pair.from, pair.to, Some(pair.service))
    }

    /// The same, where the service may have a name that rules cannot have.
    pub(crate) fn policy_of(&self, from: &Facts, to: &Facts, service: Option<&Name>) -> Policy {
        let rule = self.rules.iter().find(|rule| rule.matches(from, to, service));
        Policy {
            line: rule.map(|rule| rule.line),
            means: rule.and_then(|rule| rule.means.clone()).unwrap_or(Means::Scheme(self.scheme)),
            min_security: rule.and_then(|rule| rule.min_security).unwrap_or(self.min_security),
        }
    }

    /// The stacks that exceptions name, each with the line of its exception.
    pub fn stacks(&self) -> impl Iterator<Item = (usize, &Stack)> {
        self.rules.iter().flat_map(|rule| {
            let stacks = match &rule.means {
                Some(Means::Stacks(stacks)) => stacks.as_slice(),
                _ => &[],
            };
            stacks.iter().map(|stack| (rule.line, stack))
        })
    }

    /// Whether an exception names a stack of this method and these filters: schemes are not looked at.
    pub fn may_lead_to(&self, method: Method, filters: &[Filter]) -> bool {
        self.stacks().any(|(_, stack)| stack.method() == method && stack.filters() == filters)
    }
}

#[cfg(test)]
mod tests;
