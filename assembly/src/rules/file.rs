//! Rules as a file says them, in TOML. What is not accepted is refused with line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use super::{End, Means, Network, Rule, Rules, Scheme, Who, RULES_BYTES_MAX};
use crate::name::Name;
use crate::stack::{Security, Stack};

/// Most rules, and stacks of one, and addresses of a network.
const MANY: usize = 1024;

/// Why rules are not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesError {
    /// Line, from 1.
    pub line: usize,
    /// Character of the line, from 1.
    pub column: usize,
    /// What is wrong, and what would be accepted.
    pub what: String,
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for RulesError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scheme: Option<Text>,
    min_security: Option<Text>,
    #[serde(default)]
    networks: BTreeMap<Text, Vec<Text>>,
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    from: Option<EndText>,
    to: Option<EndText>,
    service: Option<Text>,
    scheme: Option<Text>,
    r#use: Option<Spanned<Vec<Text>>>,
    min_security: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct EndText {
    node: Option<Text>,
    cluster: Option<Text>,
    network: Option<Text>,
}

type Text = Spanned<String>;
/// Where it is wrong, and what.
type Wrong = (Range<usize>, String);
type Networks = BTreeMap<String, Vec<Network>>;

impl FromStr for Rules {
    type Err = RulesError;

    fn from_str(text: &str) -> Result<Rules, RulesError> {
        if text.len() > RULES_BYTES_MAX {
            let what = format!("rules have at most {RULES_BYTES_MAX} bytes");
            return Err(RulesError { line: 1, column: 1, what });
        }
        let file =
            toml::from_str::<File>(text).map_err(|e| (e.span().unwrap_or(0..0), e.message().to_owned()));
        file.and_then(|file| read(file, text)).map_err(|(span, what)| {
            let (line, column) = place(text, span.start);
            RulesError { line, column, what }
        })
    }
}

/// Line and column of a byte.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or("");
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

fn read(file: File, text: &str) -> Result<Rules, Wrong> {
    let scheme = file.scheme.as_ref().map(scheme).transpose()?.unwrap_or_default();
    let min_security = file.min_security.as_ref().map(level).transpose()?.unwrap_or_default();
    let networks = networks(&file.networks)?;
    let mut rules: Vec<Rule> = Vec::new();
    for rule in &file.rule {
        let wrong = |what: String| Err((rule.span(), what));
        if rules.len() == MANY {
            return wrong(format!("there are at most {MANY} rules"));
        }
        if let Some(before) = rules.last().filter(|before| before.is_for_all()) {
            return wrong(format!(
                "nothing comes as far as this rule: that of line {} matches everything",
                before.line
            ));
        }
        rules.push(read_rule(rule, min_security, &networks, text)?);
    }
    Ok(Rules { scheme, min_security, rules })
}

fn read_rule(
    rule: &Spanned<RuleText>,
    least: Security,
    networks: &Networks,
    text: &str,
) -> Result<Rule, Wrong> {
    let said = rule.get_ref();
    let min_security = said.min_security.as_ref().map(level).transpose()?;
    let means = match (&said.scheme, &said.r#use) {
        (Some(_), Some(stacks)) => {
            return Err((stacks.span(), "a rule has a scheme or stacks to use, not both".into()))
        }
        (Some(text), None) => Some(Means::Scheme(scheme(text)?)),
        (None, Some(texts)) => Some(Means::Stacks(stacks(texts, min_security.unwrap_or(least))?)),
        (None, None) => None,
    };
    if means.is_none() && min_security.is_none() {
        return Err((rule.span(), "the rule says nothing; accepted are use, scheme and min_security".into()));
    }
    let end = |end: &Option<EndText>| end.as_ref().map_or(Ok(End::default()), |end| read_end(end, networks));
    Ok(Rule {
        line: place(text, rule.span().start).0,
        from: end(&said.from)?,
        to: end(&said.to)?,
        service: said.service.as_ref().map(name).transpose()?,
        means,
        min_security,
    })
}

fn read_end(end: &EndText, networks: &Networks) -> Result<End, Wrong> {
    let who = |text: &Text| match text.get_ref().parse() {
        Ok(id) => Ok(Who::Id(id)),
        Err(_) => name(text).map(Who::Label),
    };
    let network = |text: &Text| {
        let known = || networks.keys().cloned().collect::<Vec<_>>().join(", ");
        networks.get(text.get_ref()).cloned().ok_or_else(|| {
            let known = if networks.is_empty() {
                "[networks] names none".into()
            } else {
                format!("accepted are {}", known())
            };
            (text.span(), format!("there is no network {:?}; {known}", text.get_ref()))
        })
    };
    Ok(End {
        node: end.node.as_ref().map(who).transpose()?,
        cluster: end.cluster.as_ref().map(name).transpose()?,
        network: end.network.as_ref().map(network).transpose()?,
    })
}

fn stacks(texts: &Spanned<Vec<Text>>, least: Security) -> Result<Vec<Stack>, Wrong> {
    let mut stacks: Vec<Stack> = Vec::new();
    if texts.get_ref().is_empty() || texts.get_ref().len() > MANY {
        return Err((texts.span(), format!("a rule uses 1 to {MANY} stacks")));
    }
    for text in texts.get_ref() {
        let stack: Stack =
            text.get_ref().parse().map_err(|e| (text.span(), format!("stack {:?}: {e}", text.get_ref())))?;
        let best = stack.best_security();
        if best < least {
            let what = format!(
                "{stack} is {}, and min_security {} asks for more: it would never be used",
                best.name(),
                least.name()
            );
            return Err((text.span(), what));
        }
        if stacks.contains(&stack) {
            return Err((text.span(), format!("{stack} is there twice")));
        }
        stacks.push(stack);
    }
    Ok(stacks)
}

fn networks(said: &BTreeMap<Text, Vec<Text>>) -> Result<Networks, Wrong> {
    let mut networks = Networks::new();
    for (key, texts) in said {
        if texts.is_empty() || texts.len() > MANY {
            return Err((key.span(), format!("a network has 1 to {MANY} addresses, as 10.1.0.0/16")));
        }
        let of_it: Result<Vec<Network>, Wrong> = texts.iter().map(network).collect();
        networks.insert(name(key)?.to_string(), of_it?);
    }
    Ok(networks)
}

fn network(text: &Text) -> Result<Network, Wrong> {
    let wrong = |what: &str| {
        (
            text.span(),
            format!("{:?} {what}; accepted are 10.1.0.0/16, 2001:db8::/32 and 192.0.2.7", text.get_ref()),
        )
    };
    let (address, bits) =
        text.get_ref().split_once('/').map_or((text.get_ref().as_str(), None), |(a, b)| (a, Some(b)));
    let address: std::net::IpAddr = address.parse().map_err(|_| wrong("is no network"))?;
    let (size, value) = match address {
        std::net::IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        std::net::IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let bits = bits.map_or(Some(size), |bits| bits.parse().ok().filter(|bits| *bits <= size));
    let bits: u32 = bits.ok_or_else(|| wrong("is no network"))?;
    let rest = u128::MAX.checked_shl(size - bits).unwrap_or(0);
    match value & !rest {
        0 => Ok(Network { address, bits }),
        _ => Err(wrong("has more bits than it says")),
    }
}

fn name(text: &Text) -> Result<Name, Wrong> {
    text.get_ref().parse().map_err(|what| (text.span(), what))
}

fn scheme(text: &Text) -> Result<Scheme, Wrong> {
    one_of(text, "scheme", &Scheme::ALL, Scheme::name)
}

fn level(text: &Text) -> Result<Security, Wrong> {
    one_of(text, "security", &Security::ALL, Security::name)
}

fn one_of<T: Copy>(text: &Text, what: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, Wrong> {
    let found = all.iter().copied().find(|one| name(*one) == text.get_ref());
    found.ok_or_else(|| {
        let names: Vec<&str> = all.iter().copied().map(name).collect();
        (text.span(), format!("there is no {what} {:?}; accepted are {}", text.get_ref(), names.join(", ")))
    })
}
