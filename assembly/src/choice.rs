//! Which stacks a connection may have, in which order, and why not others.

use std::fmt;

use crate::facts::Facts;
use crate::name::Name;
use crate::rules::{origin, Means, Pair, Policy, Rules, Scheme};
use crate::stack::{Filter, Method, Reach, Security, Stack};
use crate::standing::is_meant;

/// Which of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that asks.
    From,
    /// The one that is asked.
    To,
}

/// Why a stack is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The scheme does not lead there by this method.
    Scheme(Scheme),
    /// The rule names the stacks to use, and this is none of them.
    NotNamed,
    /// They are not on one host.
    OtherHost,
    /// One of them does not have this method or filter.
    NotOffered(Side, &'static str),
    /// The one that is asked has told no address.
    NoAddress,
    /// It is less safe than what is asked for.
    TooWeak {
        /// What it is between these two.
        is: Security,
        /// What is asked for.
        least: Security,
    },
    /// The rules for what all services share do not take it.
    Shared {
        /// The line of the exception that decides; `None`: no exception matches.
        line: Option<usize>,
        /// How safe it is between these two, and what is asked for; `None`: they do not lead there.
        weak: Option<(Security, Security)>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Scheme(Scheme::Cluster) => {
                f.write_str("scheme cluster: they are of two clusters, and not both of them lead")
            }
            Reason::Scheme(scheme) => write!(f, "scheme {} has no such method", scheme.name()),
            Reason::NotNamed => f.write_str("the rule does not name it"),
            Reason::OtherHost => f.write_str("they are not known to be on one host"),
            Reason::NotOffered(Side::From, what) => write!(f, "the node that asks has no {what}"),
            Reason::NotOffered(Side::To, what) => write!(f, "the node that is asked has no {what}"),
            Reason::NoAddress => f.write_str("the node that is asked has told no address"),
            Reason::TooWeak { is, least } => {
                write!(f, "it is {} between these two, {} is asked for", is.name(), least.name())
            }
            Reason::Shared { line, weak } => {
                match weak {
                    Some((is, least)) => {
                        let (is, least) = (is.name(), least.name());
                        write!(
                            f,
                            "it is {is} between these two, {least} is asked for of what all services share"
                        )?;
                    }
                    None => f.write_str("it is no way for what all services share")?,
                }
                write!(f, ": {}", origin(*line))
            }
        }
    }
}

/// A stack that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The stack.
    pub stack: Stack,
    /// How safe it is between these two.
    pub security: Security,
}

/// Everything that is to be said of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What the rules say.
    pub policy: Policy,
    /// The least that is asked for, by the rules and by who wants the connection.
    pub least: Security,
    /// What may be used, the best first.
    pub candidates: Vec<Candidate>,
    /// What may not, and why.
    pub left_out: Vec<(Stack, Reason)>,
}

impl Choice {
    /// The stacks of a connection by these rules, at least so safe.
    pub fn new(rules: &Rules, pair: &Pair<'_>, least: Security) -> Choice {
        let policy = rules.policy(pair);
        let least = least.max(policy.min_security);
        let (mut candidates, mut left_out) = (Vec::new(), Vec::new());
        for stack in menu(&policy.means) {
            match judge(&policy, pair, &stack, least) {
                Ok(security) => candidates.push(Candidate { stack, security }),
                Err(reason) => left_out.push((stack, reason)),
            }
        }
        Choice { policy, least, candidates, left_out }
    }

    /// The same, without what the rules do not take for the service that all share: see [`shares`].
    #[must_use]
    pub fn shared(mut self, rules: &Rules, pair: &Pair<'_>, all: &Name) -> Choice {
        for candidate in std::mem::take(&mut self.candidates) {
            match shares(rules, pair, all, &candidate.stack, candidate.security) {
                Ok(()) => self.candidates.push(candidate),
                Err(reason) => self.left_out.push((candidate.stack, reason)),
            }
        }
        self
    }

    /// The same for people, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.policy.to_string()];
        if self.least > self.policy.min_security {
            lines.push(format!("who asks wants {} at least", self.least.name()));
        }
        for (index, candidate) in self.candidates.iter().enumerate() {
            lines.push(format!("{}. {}: {}", index + 1, candidate.stack, candidate.security.name()));
        }
        lines.extend(self.left_out.iter().map(|(stack, reason)| format!("not {stack}: {reason}")));
        if self.candidates.is_empty() {
            lines.push("no stack is left: the two cannot be connected".to_owned());
        }
        lines
    }
}

/// What rules lead to for a connection, for people, a line each.
pub fn explain(rules: &Rules, pair: &Pair<'_>, least: Security) -> Vec<String> {
    let Pair { from, to, service } = pair;
    let title = format!(
        "{} of cluster {} asks {} of cluster {} for service {service}",
        from.label, from.cluster, to.label, to.cluster
    );
    [title].into_iter().chain(Choice::new(rules, pair, least).lines()).collect()
}

/// Whether the rules of the one that is asked accept a stack; how safe it is.
///
/// # Errors
/// Why not.
pub fn accept(rules: &Rules, pair: &Pair<'_>, stack: &Stack, least: Security) -> Result<Security, Reason> {
    let policy = rules.policy(pair);
    judge(&policy, pair, stack, least.max(policy.min_security))
}

/// Whether rules take a stack that they accept for one service for `all`, too, which is what all services share: what is for
/// another one may go over the same path later. More filters than a rule names do.
///
/// # Errors
/// Why not.
pub fn shares(rules: &Rules, pair: &Pair<'_>, all: &Name, stack: &Stack, is: Security) -> Result<(), Reason> {
    let policy = rules.policy(&Pair { service: all, ..*pair });
    let denied = |weak| Err(Reason::Shared { line: policy.line, weak });
    if is_meant(&policy, (pair.from, pair.to), stack).is_err() {
        return denied(None);
    }
    match is >= policy.min_security {
        true => Ok(()),
        false => denied(Some((is, policy.min_security))),
    }
}

/// How far a line of two nodes may lead, by which they ask each other without the bootstrap tree. It is always encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// There is to be none.
    Nowhere,
    /// Within their host.
    Host,
    /// Over the network, too.
    Network,
}

/// Which line rules allow two nodes: one leads both ways, so that what they say of both counts, whoever asks.
///
/// It needs nothing of what a node offers: whoever is a member can have one.
pub fn line(rules: &Rules, one: &Facts, other: &Facts, service: &Name) -> Span {
    let both = [(one, other), (other, one)].map(|(from, to)| span(rules, &Pair { from, to, service }));
    both.into_iter().min().unwrap_or(Span::Nowhere)
}

/// Whether rules allow two processes of one user of one host a line without TLS: where they lead to memory in common before anything
/// else, in both directions, and ask for no more than that is between such two.
pub fn line_inside(rules: &Rules, one: &Facts, other: &Facts, service: &Name) -> bool {
    let shm = Stack::bare(Method::Shm);
    let is_allowed = |(from, to)| {
        let policy = rules.policy(&Pair { from, to, service });
        let leads_there = match &policy.means {
            Means::Scheme(scheme) => scheme.allows(Method::Shm, from, to),
            // None that is too weak is named: such rules are refused.
            Means::Stacks(stacks) => stacks.first().is_some_and(|stack| stack.is_like(&shm)),
        };
        leads_there && shm.security(Reach::SameUser) >= policy.min_security
    };
    [(one, other), (other, one)].into_iter().all(is_allowed)
}

fn span(rules: &Rules, pair: &Pair<'_>) -> Span {
    let span_of = |method| match method {
        Method::Shm => Span::Host,
        Method::Tcp => Span::Network,
        Method::Relay => Span::Nowhere,
    };
    match rules.policy(pair).means {
        Means::Scheme(scheme) if scheme.allows(Method::Tcp, pair.from, pair.to) => Span::Network,
        Means::Scheme(_) => Span::Nowhere,
        Means::Stacks(stacks) => {
            stacks.iter().map(|stack| span_of(stack.method())).max().unwrap_or(Span::Nowhere)
        }
    }
}

/// What there is to look at, in order of preference.
fn menu(means: &Means) -> Vec<Stack> {
    let by_default =
        [(Method::Shm, None), (Method::Tcp, Some(Filter::Tls)), (Method::Relay, Some(Filter::Tls))];
    let by_default = by_default.into_iter().filter_map(|(method, filter)| {
        let bare = Stack::bare(method);
        filter.map_or(Some(bare.clone()), |filter| bare.under(filter))
    });
    match means {
        Means::Scheme(_) => by_default.collect(),
        Means::Stacks(stacks) => {
            let others =
                by_default.filter(|other| !stacks.iter().any(|stack| stack.method() == other.method()));
            stacks.iter().cloned().chain(others).collect()
        }
    }
}

fn judge(policy: &Policy, pair: &Pair<'_>, stack: &Stack, least: Security) -> Result<Security, Reason> {
    match &policy.means {
        Means::Scheme(scheme) if !scheme.allows(stack.method(), pair.from, pair.to) => {
            return Err(Reason::Scheme(*scheme))
        }
        // Parameters are up to the one that asks.
        Means::Stacks(stacks) if !stacks.iter().any(|named| named.is_like(stack)) => {
            return Err(Reason::NotNamed)
        }
        _ => (),
    }
    for (side, facts) in [(Side::From, pair.from), (Side::To, pair.to)] {
        if let Some(what) = facts.offer.lacks(stack) {
            return Err(Reason::NotOffered(side, what));
        }
    }
    let reach = pair.from.reach(pair.to);
    can_lead_there(stack.method(), reach, pair.to)?;
    let is = stack.security(reach);
    match is >= least {
        true => Ok(is),
        false => Err(Reason::TooWeak { is, least }),
    }
}

fn can_lead_there(method: Method, reach: Reach, to: &Facts) -> Result<(), Reason> {
    match method {
        Method::Shm if reach == Reach::Apart => Err(Reason::OtherHost),
        Method::Tcp if to.offer.addresses.is_empty() => Err(Reason::NoAddress),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(text: &str) -> Facts {
        Facts::describe(text).unwrap()
    }

    fn choice(rules: &str, [from, to]: [&str; 2], least: Security) -> Vec<String> {
        let (from, to, service) = (facts(from), facts(to), "s".parse().unwrap());
        let rules = rules.parse().unwrap();
        Choice::new(&rules, &Pair { from: &from, to: &to, service: &service }, least).lines().split_off(1)
    }

    #[test]
    fn each_that_is_left_out_has_its_reason() {
        let none = Security::Plain;
        assert_eq!(
            choice("", ["a@x/h", "b@x/h"], none),
            ["1. shm: encrypted", "2. tls/tcp: encrypted", "3. tls/relay: encrypted"]
        );
        assert_eq!(
            choice("", ["a@x/h,offers=shm+relay", "b@x/i"], none),
            [
                "not shm: they are not known to be on one host",
                "not tls/tcp: the node that asks has no tls",
                "not tls/relay: the node that asks has no tls",
                "no stack is left: the two cannot be connected"
            ]
        );
        assert_eq!(
            choice("scheme = 'cluster'", ["a@x,leads", "b@y"], none)[..2],
            [
                "1. tls/relay: encrypted",
                "not shm: scheme cluster: they are of two clusters, and not both of them lead"
            ]
        );
        assert_eq!(
            choice("scheme = 'cluster'", ["a@x,leads", "b@y,leads"], none)[0],
            "1. tls/tcp: encrypted"
        );
        let weak = "min_security = 'plain'\n[[rule]]\nuse = ['shm', 'tcp(streams=1)']";
        assert_eq!(
            choice(weak, ["a@x/h", "b@x/h,uid=1"], Security::Authenticated),
            [
                "who asks wants authenticated at least",
                "1. shm: authenticated",
                "not tcp(streams=1): it is plain between these two, authenticated is asked for",
                "not tls/relay: the rule does not name it"
            ]
        );
        let silent =
            Facts { offer: crate::facts::Offer { addresses: vec![], ..facts("b").offer }, ..facts("b") };
        assert_eq!(can_lead_there(Method::Tcp, Reach::Apart, &silent), Err(Reason::NoAddress));
    }

    #[test]
    fn a_line_leads_as_far_as_the_rules_of_both_directions_do() {
        let span = |rules: &str, [one, other]: [&str; 2]| {
            line(&rules.parse().unwrap(), &facts(one), &facts(other), &"meta".parse().unwrap())
        };
        let apart = ["a@x/h", "b@y/i"];
        assert_eq!(span("", apart), Span::Network);
        assert_eq!(span("", ["a@x/h,offers=none", "b@y,nowhere"]), Span::Network, "whatever they offer");
        assert_eq!(span("scheme = 'relay-only'", apart), Span::Nowhere);
        assert_eq!(span("scheme = 'cluster'", apart), Span::Nowhere);
        assert_eq!(span("scheme = 'cluster'", ["a@x/h", "b@x/i"]), Span::Network);
        assert_eq!(span("[[rule]]\nuse = ['shm', 'tls/relay']", apart), Span::Host);
        assert_eq!(span("[[rule]]\nuse = ['tls/relay', 'tls/tcp(streams=2)']", apart), Span::Network);
        let shielded = "[[rule]]\nto.cluster = 'y'\nscheme = 'relay-only'";
        assert_eq!((span(shielded, apart), span(shielded, ["b@y", "a@x"])), (Span::Nowhere, Span::Nowhere));
        let only = "scheme = 'relay-only'\n[[rule]]\nservice = 'meta'\nscheme = 'direct'";
        assert_eq!(span(only, apart), Span::Network, "of the service meta");
    }

    #[test]
    fn a_line_is_without_tls_where_memory_in_common_comes_first() {
        let is = |rules: &str| {
            let (rules, service) = (rules.parse().unwrap(), "meta".parse().unwrap());
            line_inside(&rules, &facts("a@x/h"), &facts("b@x/h"), &service)
        };
        assert!(is("") && is("scheme = 'cluster'") && !is("scheme = 'relay-only'"));
        assert!(is("[[rule]]\nuse = ['shm', 'tls/tcp']") && !is("[[rule]]\nuse = ['tls/tcp', 'shm']"));
        let one_way = "[[rule]]\nfrom.node = 'b'\nuse = ['tls/tcp', 'shm']";
        assert!(!is(one_way), "both ways");
    }

    fn any_rules() -> impl Strategy<Value = Rules> {
        let scheme = proptest::sample::select(Scheme::ALL.to_vec());
        let level = || proptest::sample::select(Security::ALL.to_vec());
        let stacks = proptest::sample::subsequence(vec!["shm", "tcp", "tls/tcp", "tls/relay", "relay"], 1..5);
        (scheme, level(), proptest::option::of((stacks, level()))).prop_filter_map(
            "a stack too weak",
            |(scheme, level, rule)| {
                let mut text = format!("scheme = '{}'\nmin_security = '{}'\n", scheme.name(), level.name());
                if let Some((stacks, level)) = rule {
                    text += &format!(
                        "[[rule]]\nuse = {stacks:?}\nmin_security = '{}'\nto.cluster = 'x'",
                        level.name()
                    );
                }
                text.parse().ok()
            },
        )
    }

    fn any_node() -> impl Strategy<Value = Facts> {
        let offers = proptest::sample::select(vec![
            "",
            ",offers=tcp",
            ",offers=shm+tcp+tls+relay",
            ",offers=relay+tls",
        ]);
        ("[ab]", "[xy]", "[hi]", 0..2u32, offers).prop_map(|(label, cluster, host, uid, offers)| {
            facts(&format!("{label}@{cluster}/{host},uid={uid}{offers}"))
        })
    }

    proptest! {
        #[test]
        fn nothing_is_chosen_that_is_weaker_than_asked_for_and_all_that_is_would_be_accepted(
            rules in any_rules(), from in any_node(), to in any_node(), least in proptest::sample::select(Security::ALL.to_vec()),
        ) {
            let service = "s".parse().unwrap();
            let pair = Pair { from: &from, to: &to, service: &service };
            let choice = Choice::new(&rules, &pair, least);
            for candidate in &choice.candidates {
                prop_assert!(candidate.security >= least && candidate.security >= choice.policy.min_security);
                prop_assert_eq!(accept(&rules, &pair, &candidate.stack, least), Ok(candidate.security));
            }
            for (stack, reason) in &choice.left_out {
                prop_assert_eq!(accept(&rules, &pair, stack, least), Err(*reason));
            }
        }
    }
}
