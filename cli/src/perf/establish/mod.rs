//! `gridnet perf --op establish`: how long it takes to join a session, and to make a connection in it, by the ways there are.
//!
//! All of it is on one host, in a session of its own or in that of a ticket (`GRIDNET_SESSION`), whose rendez-vous
//! node may be anywhere; and in one process, but for endpoints of fabrics, of which each has one. Table 1 of the paper on component-based meta-communication compares the same ways.

mod fabric;
mod first;
mod node;

use super::plan::placement;
use super::{output, row};
use crate::args::{Format, Op, PerfArgs};
use crate::cores;
use crate::failure::Failure;
use crate::text;
use gridnet_meta::clock::Moment;
use gridnet_meta::member::{About, Member};
use gridnet_meta::rendezvous::Rendezvous;
use gridnet_meta::store::{NewSession, NewTicket, Store};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Rules;
use node::{Node, LIMIT};
use serde::Serialize;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use fabric::be_opened;

/// Connections by each way if nothing else is asked for.
const ROUNDS: u64 = 50;

/// How often an endpoint is tried, with another fabric each time, until one is opened.
const TRIES: usize = 5;

/// One way. The fields are the keys of the JSON objects.
#[derive(Clone, Debug, Serialize)]
struct Row {
    op: Op,
    /// What is done.
    way: &'static str,
    p50_us: f64,
    p99_us: f64,
    best_us: f64,
    /// Median over that of a direct connection.
    ratio_to_direct: Option<f64>,
    rounds: usize,
}

/// Measures and prints.
pub(super) fn run(args: &PerfArgs) -> Result<(), Failure> {
    let only = args.hosts.connect.is_none() && args.plot.is_none() && args.op.len() == 1;
    if !only {
        return Err(Failure::Run("establish is measured alone, in one process of this host".into()));
    }
    let places = placement(args.pin, &cores::allowed()?)?;
    let rounds = usize::try_from(args.iters.unwrap_or(ROUNDS)).unwrap_or(usize::MAX);
    let session = Session::find()?;
    let mut rows = Vec::new();
    let mut add = |way, measure: &mut dyn FnMut() -> Result<Duration, Failure>| -> Result<(), Failure> {
        let taken = (0..rounds).map(|_| measure()).collect::<Result<Vec<_>, _>>();
        rows.push(Row::new(way, taken.map_err(|failure| failure.during(way))?));
        Ok(())
    };
    add("join a session", &mut || session.join())?;
    let (here, beside) = (session.node("perf-a", "here")?, session.node("perf-a", "beside")?);
    let apart = session.node("perf-b", "apart")?;
    settle(&here, &beside)?;
    add("direct: TCP and TLS", &mut || here.direct(&beside))?;
    add("by the rendez-vous node, first", &mut || here.agreed_anew(&apart))?;
    add("by the rendez-vous node, later", &mut || here.assembled(&apart))?;
    add("in the cluster, first", &mut || here.agreed_anew(&beside))?;
    add("in the cluster, later", &mut || here.assembled(&beside))?;
    let mut fabric = fabric::Fabrics::open(&session.ticket_file, [places.parent, places.peer])?;
    // On a busy machine one may be lost by its leader just now.
    let mut tried = |open: &mut dyn FnMut(&mut fabric::Fabrics) -> Result<fabric::Took, Failure>| {
        let first = open(&mut fabric);
        (1..TRIES).fold(first, |took, _| took.or_else(|_| open(&mut fabric)))
    };
    let mut echoed = Vec::new();
    let mut until_there = |took: fabric::Took| {
        echoed.push(took.echoed);
        took.arrived
    };
    add("endpoint by node, one host, never spoken", &mut || {
        Ok(tried(&mut |all| all.open_other(false))?.arrived)
    })?;
    add("endpoint by node, one host, warm", &mut || {
        tried(&mut |all| all.open_other(true)).map(&mut until_there)
    })?;
    add("the same, 1 ms after another", &mut || {
        tried(&mut fabric::Fabrics::open_again).map(&mut until_there)
    })?;
    let again = echoed.split_off(rounds.min(echoed.len()));
    rows.push(Row::new("warm, until it has come back", echoed));
    rows.push(Row::new("the same, 1 ms after another, until it has come back", again));
    // Nobody else is to poll.
    drop(fabric);
    let first = first::First::open(&session.ticket, [places.parent, places.peer])?;
    let taken = (0..rounds).map(|_| first.begin()).collect::<Result<Vec<_>, _>>()?;
    rows.push(Row::new("bytes in the request, one host, warm", taken));
    compare(&mut rows);
    print(&rows, args.format)
}

/// Each over the direct connection.
fn compare(rows: &mut [Row]) {
    let Some(direct) = rows.iter().find(|row| row.way.starts_with("direct")).map(|row| row.p50_us) else {
        return;
    };
    for row in rows.iter_mut().filter(|row| row.way.contains("first") || row.way.contains("later")) {
        row.ratio_to_direct = Some(row::rounded(row.p50_us / direct));
    }
}

/// Waits until all three know each other, and who leads.
fn settle(here: &Node, beside: &Node) -> Result<(), Failure> {
    for node in [here, beside] {
        let nodes = [here, beside].map(|node| node.member().node());
        let is_led = |entries: &[gridnet_meta::directory::Entry]| {
            let ours = entries.iter().filter(|entry| nodes.contains(&entry.node));
            entries.len() >= 3 && ours.filter(|entry| entry.via.is_some() || entry.leads).count() == 2
        };
        if !node.member().wait_for_nodes(LIMIT, is_led) {
            return Err(Failure::Run("the members do not come to know each other".into()));
        }
    }
    Ok(())
}

impl Row {
    fn new(way: &'static str, mut taken: Vec<Duration>) -> Row {
        taken.sort();
        let at = |share: f64| {
            let place = (taken.len() as f64 * share) as usize;
            taken.get(place.min(taken.len().saturating_sub(1))).map_or(0.0, |took| us(*took))
        };
        let (p50_us, p99_us, best_us) = (at(0.5), at(0.99), at(0.0));
        Row { op: Op::Establish, way, p50_us, p99_us, best_us, ratio_to_direct: None, rounds: taken.len() }
    }
}

fn us(took: Duration) -> f64 {
    row::rounded(took.as_secs_f64() * 1e6)
}

fn print(rows: &[Row], format: Format) -> Result<(), Failure> {
    let mut out = Vec::new();
    match format {
        Format::Json => {
            for row in rows {
                serde_json::to_writer(&mut out, row).map_err(|e| Failure::Run(e.to_string()))?;
                out.push(b'\n');
            }
        }
        Format::Csv => {
            out.extend_from_slice(b"op,way,p50_us,p99_us,best_us,ratio_to_direct,rounds\n");
            for row in rows {
                let ratio = row.ratio_to_direct.map_or(String::new(), |ratio| ratio.to_string());
                let Row { op, way, p50_us, p99_us, best_us, rounds, .. } = row;
                let line = format!("{op},\"{way}\",{p50_us},{p99_us},{best_us},{ratio},{rounds}\n");
                out.extend_from_slice(line.as_bytes());
            }
        }
        Format::Table => {
            let cells = |row: &Row| {
                let number = |value: f64| format!("{value:.1}");
                let ratio = row.ratio_to_direct.map_or(String::new(), |ratio| format!("{ratio:.2}"));
                vec![row.way.to_owned(), number(row.p50_us), number(row.p99_us), number(row.best_us), ratio]
            };
            let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
            text::columns(&mut out, &["establish", "p50 us", "p99 us", "best us", "of direct"], &rows)?;
        }
    }
    Ok(output::print(&String::from_utf8_lossy(&out))?)
}

/// A session to measure in.
struct Session {
    ticket: Ticket,
    ticket_file: PathBuf,
    /// One that is for this alone: first the rendez-vous node ends, then its directory goes.
    _own: Option<(Rendezvous, Scratch)>,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Session {
    /// That of the configuration, if it names a ticket; else one of its own.
    fn find() -> Result<Session, Failure> {
        let named = std::env::var_os("GRIDNET_SESSION").map(PathBuf::from).filter(|path| !path.is_dir());
        if let Some(ticket_file) = named {
            return Ok(Session { ticket: Ticket::read(&ticket_file)?, ticket_file, _own: None });
        }
        let dir = std::env::temp_dir().join(format!("gridnet-{}", super::unique_name()));
        let scratch = Scratch(dir.clone());
        // Nobody else gets the port meanwhile, but by chance.
        let listen: SocketAddr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let ticket = NewTicket { lifetime: Duration::from_secs(3600), uses: None };
        let new = NewSession { listen: vec![listen], addresses: Vec::new(), insecure: false, ticket };
        let (store, ticket) = Store::create(&dir, &new, Moment::now())?;
        // As many as are measured; and nobody is lost because the machine is busy.
        let rules = Rules { joins_per_second: 100_000, silence: 3 * LIMIT, ..Rules::default() };
        let rendezvous = Rendezvous::start(store, rules)?;
        Ok(Session { ticket, ticket_file: dir.join("ticket"), _own: Some((rendezvous, scratch)) })
    }

    fn node(&self, cluster: &str, label: &str) -> Result<Node, Failure> {
        Node::start(&self.ticket, cluster, label)
    }

    /// The time that it takes to be a member who knows who is there.
    fn join(&self) -> Result<Duration, Failure> {
        let label = "joins".parse().map_err(Failure::Run)?;
        let about = About { cluster: Some("perf-joins".parse().map_err(Failure::Run)?), ..About::new(label) };
        let begun = Instant::now();
        let _member = Member::join(self.ticket.clone(), about, LIMIT)?;
        Ok(begun.elapsed())
    }
}
