//! The result as a page, as JSON lines, and as the summary in another page.

use crate::machine::Machine;
use crate::op::{Shows, Task};
use crate::peer::{Peer, GRIDNET};
use crate::row::{Figures, Row};
use serde::Serialize;
use std::fmt::Write;

pub(crate) struct Report<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) peers: &'a [Peer],
    /// By task, and within a task in the order of `peers`.
    pub(crate) rows: &'a [Row],
}

/// Between these lines of a page is the summary.
const BEGIN: &str = "<!-- bench/peers: begin, written by the command -->";
const END: &str = "<!-- bench/peers: end -->";

impl Report<'_> {
    /// The rows of each task.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (Task, &[Row])> {
        let same = |a: &Row, b: &Row| a.task.op.name == b.task.op.name && a.task.size == b.task.size;
        self.rows.chunk_by(same).filter_map(|rows| Some((rows.first()?.task, rows)))
    }

    /// What a peer calls itself, or why it was not run.
    fn title(&self, name: &str) -> String {
        let version = self.peers.iter().find(|peer| peer.name == name).map(|peer| &peer.version);
        match version {
            Some(Ok(version)) if name.contains("-debian") => format!("{version}, Debian"),
            Some(Ok(version)) => version.clone(),
            _ => name.to_owned(),
        }
    }

    /// The page. The picture lies beside it, as STEM.svg.
    pub(crate) fn markdown(&self, stem: &str) -> String {
        let mut page = String::from("# gridnet beside other libraries\n\nWritten by `bench/peers/run`.\n\n");
        for (name, value) in &self.machine.facts {
            _ = writeln!(page, "- {name}: {}", cell(value));
        }
        _ = writeln!(page, "\n![Time of a message over that of gridnet]({stem}.svg)\n\n{}", self.summary());
        for (task, rows) in self.tasks() {
            _ = writeln!(page, "\n## {task}\n");
            page += &self.details(task, rows);
        }
        page + MEANING
    }

    /// A row for each peer, a column for each task.
    fn summary(&self) -> String {
        let tasks: Vec<(Task, &[Row])> = self.tasks().collect();
        let heads: Vec<String> =
            tasks.iter().map(|(task, _)| format!("`{}` {}", task.op.name, size(*task))).collect();
        let mut table = format!("| peer | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(tasks.len()));
        for peer in self.peers {
            let row = |rows: &[Row]| rows.iter().find(|row| row.peer == peer.name).map(short);
            let cells: Vec<String> =
                tasks.iter().map(|(_, rows)| row(rows).unwrap_or_else(|| "-".to_owned())).collect();
            let row = match &peer.version {
                Ok(_) => format!("| {} | {} |", cell(&self.title(peer.name)), cells.join(" | ")),
                Err(why) => {
                    format!("| {} | not run: {} |{}", peer.name, cell(why), " |".repeat(cells.len() - 1))
                }
            };
            _ = writeln!(table, "{row}");
        }
        table + &self.over_raw(&tasks)
    }

    /// gridnet over the bare socket, where that was measured.
    fn over_raw(&self, tasks: &[(Task, &[Row])]) -> String {
        let ratio = |rows: &[Row]| rows.first()?.figures.as_ref().ok()?.to_raw;
        if tasks.iter().all(|(_, rows)| ratio(rows).is_none()) {
            return String::new();
        }
        let cells: Vec<String> =
            tasks.iter().map(|(_, rows)| ratio(rows).map_or("-".to_owned(), times)).collect();
        format!("| gridnet x raw | {} |\n", cells.join(" | "))
    }

    fn details(&self, task: Task, rows: &[Row]) -> String {
        let mut table = "| peer | measured | x gridnet | x raw | x canary | canary ns | runs used | spread | |\n|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for row in rows {
            let title = cell(&self.title(row.peer));
            let line = match &row.figures {
                Ok(figures) => format!("| {title} | {} |", detail(task, figures)),
                Err(why) => format!("| {title} | | | | | | | | not run: {} |", cell(why)),
            };
            _ = writeln!(table, "{line}");
        }
        table
    }

    /// One object for each row.
    pub(crate) fn json_lines(&self) -> Result<String, String> {
        let mut text = String::new();
        for row in self.rows {
            let version = self.peers.iter().find(|peer| peer.name == row.peer);
            let version = version.and_then(|peer| peer.version.as_deref().ok());
            let line = serde_json::to_string(&Line::new(row, version)).map_err(|error| error.to_string())?;
            _ = writeln!(text, "{line}");
        }
        Ok(text)
    }

    /// `page` with this summary between its marks; `None` if it has none.
    pub(crate) fn replace_in(&self, page: &str) -> Option<String> {
        let (before, rest) = page.split_once(BEGIN)?;
        let (_, after) = rest.split_once(END)?;
        let fact = |name: &str| {
            let found = self.machine.facts.iter().find(|(fact, _)| fact == name);
            found.map_or("unknown", |(_, value)| value)
        };
        let facts = ["processor", "system", "canary", "load before"];
        let facts = facts.map(|name| format!("{name} {}", fact(name))).join("; ");
        Some(format!("{before}{BEGIN}\n{}\n{}.\n{END}{after}", self.summary(), capitalised(&facts)))
    }
}

/// A line of the JSON; what does not apply is null.
#[derive(Serialize)]
struct Line<'a> {
    op: &'static str,
    size: u64,
    peer: &'static str,
    version: Option<&'a str>,
    not_run: Option<&'a str>,
    time_us: Option<f64>,
    gb_per_s: Option<f64>,
    mmsg_per_s: Option<f64>,
    canary_ns: Option<f64>,
    ratio_to_canary: Option<f64>,
    ratio_to_gridnet: Option<f64>,
    ratio_to_raw: Option<f64>,
    runs: usize,
    runs_used_us: Vec<f64>,
    unstable: bool,
    failure: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(row: &'a Row, version: Option<&'a str>) -> Line<'a> {
        let figures = row.figures.as_ref().ok();
        let value = |of: fn(&Figures) -> Option<f64>| figures.and_then(of).map(rounded);
        let stream = row.task.op.shows != Shows::Latency;
        let time_ns = figures.map(|figures| figures.time_ns).filter(|_| stream);
        Line {
            op: row.task.op.name,
            size: row.task.size,
            peer: row.peer,
            version,
            not_run: row.figures.as_ref().err().map(String::as_str),
            time_us: value(|figures| Some(figures.time_ns / 1_000.0)),
            gb_per_s: time_ns.map(|time_ns| rounded(row.task.size as f64 / time_ns)),
            mmsg_per_s: time_ns.map(|time_ns| rounded(1_000.0 / time_ns)),
            canary_ns: value(|figures| figures.canary_ns),
            ratio_to_canary: value(|figures| figures.to_canary),
            ratio_to_gridnet: value(|figures| figures.to_gridnet),
            ratio_to_raw: value(|figures| figures.to_raw),
            runs: figures.map_or(0, |figures| figures.runs),
            runs_used_us: figures.map_or(Vec::new(), |figures| {
                figures.used_ns.iter().map(|ns| rounded(ns / 1_000.0)).collect()
            }),
            unstable: figures.is_some_and(|figures| figures.unstable),
            failure: figures.and_then(|figures| figures.failure.as_deref()),
        }
    }
}

/// Value and ratio, for the summary.
fn short(row: &Row) -> String {
    let Ok(figures) = &row.figures else {
        return "not run".to_owned();
    };
    let value = row.task.op.shows.text(figures.time_ns, row.task.size);
    let ratio = figures.to_gridnet.filter(|_| row.peer != GRIDNET);
    let ratio = ratio.map_or(String::new(), |ratio| format!(" ({})", times(ratio)));
    let unstable = if figures.unstable { " unstable" } else { "" };
    format!("{value}{ratio}{unstable}")
}

fn detail(task: Task, figures: &Figures) -> String {
    let value = |ns: f64| task.op.shows.text(ns, task.size);
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), times);
    let least = figures.used_ns.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.used_ns.iter().copied().fold(0.0, f64::max);
    let unstable = figures.unstable.then(|| "unstable".to_owned());
    let failure = figures.failure.as_deref().map(|why| format!("a run failed: {}", cell(why)));
    let notes: Vec<String> = [unstable, failure].into_iter().flatten().collect();
    [
        value(figures.time_ns),
        ratio(figures.to_gridnet),
        ratio(figures.to_raw),
        ratio(figures.to_canary),
        figures.canary_ns.map_or("-".to_owned(), |ns| format!("{ns:.0}")),
        format!("{} of {}", figures.used_ns.len(), figures.runs),
        format!("{} to {}", value(least), value(most)),
        notes.join("; "),
    ]
    .join(" | ")
}

/// `0.93 x`, `14 x`.
pub(crate) fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio < 10.0 => format!("{ratio:.2} x"),
        ratio => format!("{ratio:.0} x"),
    }
}

fn size(task: Task) -> String {
    let text = task.to_string();
    text.strip_prefix(task.op.name).unwrap_or(&text).trim().to_owned()
}

/// Text of others in a table: what would end the cell, or begin a tag, does not.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ").replace('<', "(").replace('>', ")").replace('`', "'")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// `value` with four decimals: tenths of a nanosecond where it counts microseconds.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

const MEANING: &str = "
## What the columns say

- Measured: median over the runs of the run's median one-way time (`_lat`), or of its average (`_rate`, `_bw`).
- x gridnet: time of a message over gridnet's in the same rounds. Below 1 is faster than gridnet, above 1 slower; also
  for rates and bandwidths.
- x raw: time over that of a bare TCP socket that both sides poll, in the same rounds; in tables over TCP.
- x canary: one-way time over that of a bare cache line between the same cores, measured before and after each run.
- Runs used: those whose two canaries agree within 15 % with each other and with the median of all canaries of the
  table. Where that is half of the runs or less, all are used, and the row is marked `unstable`: do not trust it.
";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::row::tests::{runs, task};
    use crate::row::{self, Runs};

    /// A report of two peers, of which the second could not run in one of two tasks.
    pub(crate) fn sample(check: impl FnOnce(&Report)) {
        let failed = Runs { samples: vec![], failure: Some("no <mpicc> | here".into()) };
        let gridnet = || ("gridnet", runs(&[(100.0, 60.0, 60.0)]));
        let moved = || ("ucx", runs(&[(250.0, 60.0, 200.0)]));
        let rows = [
            row::rows(task("tag_lat"), &[gridnet(), moved(), ("zeromq", failed.clone())]),
            row::rows(task("tag_rate"), &[gridnet(), ("ucx", failed.clone()), ("zeromq", failed)]),
        ];
        let peer = |name, version: Result<&str, &str>| {
            Peer::fixed(name, version.map(str::to_owned).map_err(str::to_owned))
        };
        let peers = [
            peer("gridnet", Ok("gridnet 0.1.0")),
            peer("ucx", Ok("UCX 1.22.0")),
            peer("zeromq", Err("no <mpicc> | here")),
        ];
        let machine = Machine { facts: vec![("processor".into(), "a fast one".into())] };
        check(&Report { machine: &machine, peers: &peers, rows: &rows.concat() });
    }

    #[test]
    fn the_page_has_values_ratios_and_reasons() {
        sample(|report| {
            let page = report.markdown("peers");
            for part in [
                "- processor: a fast one",
                "| peer | `tag_lat` 8 B | `tag_rate` 8 B |",
                "| gridnet 0.1.0 | 0.100 us | 5.0 M/s |",
                "| UCX 1.22.0 | 0.250 us (2.50 x) unstable | not run |",
                "| zeromq | not run: no (mpicc) / here | |",
                "## tag_lat 8 B",
                "(peers.svg)",
            ] {
                assert!(page.contains(part), "{part} in\n{page}");
            }
        });
    }

    #[test]
    fn every_table_is_as_wide_as_its_head() {
        sample(|report| {
            let page = report.markdown("peers");
            let width = |line: &&str| line.matches('|').count();
            for table in page.split("\n\n").filter(|part| part.starts_with('|')) {
                let widths: Vec<usize> = table.lines().map(|line| width(&line)).collect();
                assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
            }
        });
    }

    #[test]
    fn json_lines_are_objects_with_null_for_what_does_not_apply() {
        sample(|report| {
            let text = report.json_lines().unwrap();
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), 6);
            assert_eq!(lines[1]["ratio_to_gridnet"], 2.5);
            assert_eq!(lines[1]["unstable"], true);
            assert!(lines[1]["not_run"].is_null() && lines[1]["gb_per_s"].is_null());
            assert_eq!(lines[2]["not_run"], "no <mpicc> | here");
            assert_eq!(lines[3]["mmsg_per_s"], 5.0);
        });
    }

    #[test]
    fn a_marked_part_is_replaced_and_the_rest_stays() {
        sample(|report| {
            let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
            let new = report.replace_in(&page).unwrap();
            assert!(new.starts_with("before\n") && new.ends_with("\nafter\n"));
            assert!(!new.contains("old") && new.contains("| gridnet 0.1.0 |"));
            assert_eq!(report.replace_in(&new).unwrap(), new);
            assert!(report.replace_in("no marks").is_none());
        });
    }
}
