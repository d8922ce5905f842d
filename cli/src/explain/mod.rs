//! `gridnet explain`: what a running program does with gridnet, read from the page that its fabric keeps; or what rules lead to.

mod json;
mod print;
mod rules;

use crate::args::ExplainArgs;
use crate::failure::Failure;
use crate::text;
use gridnet::config::Config;
use gridnet::page::{self, Found, PageView, PeerView};
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;

pub(crate) use json::{of_activity, of_peer, of_waits, of_who};
pub(crate) use print::duration;

/// Explains rules, or one fabric or those of one process, with all peers or those that are meant; lists all without a name.
pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    match (&args.rules, &args.fabric, &args.peer) {
        (Some(file), Some(from), Some(to)) => rules::run(file, [from, to], args),
        _ => running(args.fabric.as_deref(), args.peer.as_deref(), args.json),
    }
}

fn running(wanted: Option<&str>, peer: Option<&str>, json: bool) -> Result<(), Failure> {
    let base = run_dir()?;
    let names = Names::collect(base.as_deref());
    let Some(wanted) = wanted else { return list(base.as_deref(), json) };
    let mut views = select(base.as_deref(), Some(wanted))?
        .iter()
        .map(|page| page.read().map_err(|e| Failure::Run(e.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(peer) = peer {
        keep_peers(&mut views, peer, &names)?;
    }
    let mut out = io::stdout().lock();
    if json {
        let all: serde_json::Value = views.iter().map(|view| json::of_view(view, &names)).collect();
        serde_json::to_writer_pretty(&mut out, &all).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        for (index, view) in views.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            print::view(&mut out, view, &names)?;
        }
    }
    Ok(())
}

/// Leaves of each page the peers that are meant by a word.
fn keep_peers(views: &mut Vec<PageView>, word: &str, names: &Names) -> Result<(), Failure> {
    let is_meant = |peer: &PeerView| {
        let numbers = [Some(peer.peer), peer.pid].map(|number| number.map(|number| number.to_string()));
        let texts = [names.of(&peer.node), Some(peer.node.as_str())];
        numbers.iter().flatten().any(|number| number == word) || texts.contains(&Some(word))
    };
    for view in views.iter_mut() {
        view.peers.retain(is_meant);
        // Those that are not shown were not asked for.
        view.more_peers = 0;
    }
    views.retain(|view| !view.peers.is_empty());
    match views.is_empty() {
        true => Err(Failure::Run(format!(
            "no peer is {word:?}; accepted: the number, name, process number or node of a peer"
        ))),
        false => Ok(()),
    }
}

/// The run directory that this environment asks for.
pub(crate) fn run_dir() -> Result<Option<PathBuf>, Failure> {
    Ok(Config::from_process(&[])?.run_dir)
}

/// The pages of a process or name, or all of this user.
pub(crate) fn select(base: Option<&std::path::Path>, wanted: Option<&str>) -> Result<Vec<Found>, Failure> {
    let Some(wanted) = wanted else {
        return Ok(page::all(base).0);
    };
    let failed = |why: page::Missing| Failure::Run(why.to_string());
    match wanted.parse() {
        // A number may be a name too; a process of that number comes first.
        Ok(pid) => match (page::of_process(base, pid), page::of_name(base, wanted)) {
            (Ok(found), _) => Ok(found),
            (Err(_), Ok(found)) => Ok(vec![found]),
            (Err(why), Err(_)) => Err(failed(why)),
        },
        Err(_) => Ok(vec![page::of_name(base, wanted).map_err(failed)?]),
    }
}

/// Says which pages cannot be read, and why.
pub(crate) fn warn(base: Option<&std::path::Path>) {
    page::all(base).1.iter().for_each(|why| eprintln!("gridnet: {why}"));
}

/// Names of fabrics by node: a page has the nodes of its peers only.
pub(crate) struct Names(HashMap<String, String>);

impl Names {
    /// The names of all fabrics that keep a page.
    pub(crate) fn collect(base: Option<&std::path::Path>) -> Names {
        let (found, _) = page::all(base);
        let named = found.into_iter().map(|page| {
            let name = page.who.name.unwrap_or(page.who.program);
            (page.who.node, name)
        });
        Names(named.collect())
    }

    /// The name of a fabric, or of its program.
    pub(crate) fn of(&self, node: &str) -> Option<&str> {
        self.0.get(node).map(String::as_str)
    }
}

fn list(base: Option<&std::path::Path>, json: bool) -> Result<(), Failure> {
    warn(base);
    let views: Vec<PageView> = select(base, None)?.iter().filter_map(|page| page.read().ok()).collect();
    let mut out = io::stdout().lock();
    if json {
        let all: serde_json::Value = views.iter().map(|view| json::of_who(&view.who)).collect();
        serde_json::to_writer_pretty(&mut out, &all).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if views.is_empty() {
        writeln!(out, "no fabric of this user is open here")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            let alive = view.activity.peers_total.saturating_sub(view.activity.peers_gone);
            vec![
                view.who.pid.to_string(),
                view.who.name.clone().unwrap_or_else(|| "-".to_owned()),
                view.who.program.clone(),
                alive.to_string(),
                view.who.version.clone(),
                view.who.node.clone(),
            ]
        })
        .collect();
    text::columns(&mut out, &["pid", "name", "program", "peers", "version", "node"], &rows)?;
    Ok(())
}
