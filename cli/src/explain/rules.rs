//! What rules lead to between two nodes: described on the command line, or members of a session.

use crate::args::ExplainArgs;
use crate::failure::Failure;
use gridnet::core::wire::NodeId;
use gridnet_assembly::choice::{accept, explain, Choice};
use gridnet_assembly::facts::Facts;
use gridnet_assembly::rules::{Pair, Rules, RULES_BYTES_MAX};
use gridnet_assembly::stack::{Security, Stack};
use gridnet_meta::rendezvous::{ask_status, NodeStatus};
use gridnet_meta::store::Store;
use serde_json::{json, Value};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

pub(super) fn run(file: &Path, nodes: [&str; 2], args: &ExplainArgs) -> Result<(), Failure> {
    let rules = read(file)?;
    let theirs = args.peer_rules.as_deref().map(read).transpose()?;
    let [from, to] = match &args.session {
        Some(dir) => members(dir, nodes)?,
        None => described(nodes)?,
    };
    let pair = Pair { from: &from, to: &to, service: &args.service };
    let mut out = io::stdout().lock();
    if args.json {
        let object = object(&rules, theirs.as_ref(), &pair);
        serde_json::to_writer_pretty(&mut out, &object).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        for line in explain(&rules, &pair, Security::Plain) {
            writeln!(out, "{line}")?;
        }
        for line in theirs.iter().flat_map(|theirs| answers(&rules, theirs, &pair)) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// What the node that is asked says to the candidates.
fn answers(rules: &Rules, theirs: &Rules, pair: &Pair<'_>) -> Vec<String> {
    let choice = Choice::new(rules, pair, Security::Plain);
    let answer = |stack: &Stack| match accept(theirs, pair, stack, choice.least) {
        Ok(_) => format!("{} accepts {stack}", pair.to.label),
        Err(reason) => format!("{} refuses {stack}: {reason}", pair.to.label),
    };
    let title = format!("{} goes by: {}", pair.to.label, theirs.policy(pair));
    [title].into_iter().chain(choice.candidates.iter().map(|one| answer(&one.stack))).collect()
}

fn read(path: &Path) -> Result<Rules, Failure> {
    let wrong = |why: String| Failure::Usage(format!("rules {}: {why}", path.display()));
    let mut text = String::new();
    // One byte more than may be, so that too many are noticed.
    let most = RULES_BYTES_MAX as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    read.map_err(|e| wrong(e.to_string()))?;
    text.parse().map_err(|e: gridnet_assembly::rules::RulesError| wrong(e.to_string()))
}

fn described([from, to]: [&str; 2]) -> Result<[Facts; 2], Failure> {
    let describe = |text| Facts::describe(text).map_err(Failure::Usage);
    Ok([describe(from)?, describe(to)?])
}

/// The members of a session that are meant.
fn members(dir: &Path, [from, to]: [&str; 2]) -> Result<[Facts; 2], Failure> {
    let nodes = ask_status(Store::open(dir)?.dir())?.nodes;
    Ok([member(&nodes, from)?, member(&nodes, to)?])
}

fn member(nodes: &[NodeStatus], wanted: &str) -> Result<Facts, Failure> {
    // What looks like an id is one: anybody can take that of another for its label.
    let is_id = wanted.parse::<NodeId>().is_ok();
    let is_meant = |n: &&NodeStatus| if is_id { n.node == wanted } else { n.label == wanted };
    let meant: Vec<&NodeStatus> = nodes.iter().filter(is_meant).collect();
    let [status] = meant[..] else {
        let many = meant.iter().map(|n| n.node.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Failure::Run(match meant.len() {
            0 => format!("no node {wanted:?} is in the session; accepted is the id or label of one"),
            _ => format!("several nodes say that they are {wanted:?}: {many}; name one by its id"),
        }));
    };
    let (facts, node) = (Facts::describe(&status.facts), status.node.parse());
    match (facts, node) {
        (Ok(facts), Ok(node)) => Ok(Facts { node, ..facts }),
        _ => Err(Failure::Run("another build of gridnet serves the session".to_owned())),
    }
}

/// Names of keys stay; keys may be added.
fn object(rules: &Rules, theirs: Option<&Rules>, pair: &Pair<'_>) -> Value {
    let choice = Choice::new(rules, pair, Security::Plain);
    let refused = |stack| theirs.and_then(|theirs| accept(theirs, pair, stack, choice.least).err());
    let candidates = choice.candidates.iter().map(|one| {
        let refused = refused(&one.stack).map(|reason| reason.to_string());
        json!({"stack": one.stack.to_string(), "security": one.security.name(), "peer_refuses": refused})
    });
    let candidates: Value = candidates.collect();
    let left_out = choice.left_out.iter();
    let left_out: Value = left_out
        .map(|(stack, reason)| json!({"stack": stack.to_string(), "reason": reason.to_string()}))
        .collect();
    json!({
        "from": pair.from.to_string(),
        "to": pair.to.to_string(),
        "service": pair.service.as_str(),
        "line": choice.policy.line,
        "policy": choice.policy.to_string(),
        "min_security": choice.least.name(),
        "candidates": candidates,
        "left_out": left_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node: u8, label: &str) -> NodeStatus {
        NodeStatus {
            node: NodeId::new([node; 16]).unwrap().to_string(),
            cluster: "c".into(),
            label: label.into(),
            since: String::new(),
            leads: false,
            via: None,
            facts: format!("l{node}@c"),
        }
    }

    #[test]
    fn a_label_that_looks_like_an_id_is_not_taken_for_it() {
        let id = |node: u8| NodeId::new([node; 16]).unwrap().to_string();
        let nodes =
            [status(1, "one"), status(2, &id(1)), status(3, &id(9)), status(4, "same"), status(5, "same")];
        let meant = |wanted: &str| member(&nodes, wanted).map(|facts| facts.node.to_string());
        assert_eq!(meant(&id(1)).ok(), Some(id(1)), "not the one that calls itself so");
        assert_eq!(meant("one").ok(), Some(id(1)));
        assert!(meant(&id(9)).is_err(), "it is not there");
        assert!(meant("same").is_err());
    }
}
