//! How rows are printed: for people, or for programs.

use super::plan::Plan;
use super::row::Row;
use super::task::Here;
use crate::args::{Format, Op, Pin};
use crate::{cabi, canary, cores, text};
use std::io::{self, Write};

/// Text to go before the first row.
pub(crate) fn heading(circumstances: &str, format: Format) -> String {
    match format {
        Format::Table => format!("{circumstances}\n\n{}", column_heads()),
        Format::Json => String::new(),
        Format::Csv => format!("{}\n", CSV_COLUMNS.join(",")),
    }
}

/// A row, with the end of its line.
pub(crate) fn row(row: &Row, format: Format) -> io::Result<String> {
    match format {
        Format::Table => Ok(table_line(row)),
        Format::Json => Ok(format!("{}\n", serde_json::to_string(row)?)),
        Format::Csv => csv_line(row),
    }
}

/// Text to go after the last row.
pub(crate) fn legend(rows: &[Row], format: Format) -> String {
    if format != Format::Table {
        return String::new();
    }
    let mut lines = vec![];
    for (op, text) in MEANINGS {
        if rows.iter().any(|row| row.op == *op) {
            lines.push(format!("{:<14}{text}", op.to_string()));
        }
    }
    if rows.iter().any(|row| row.canary_ns.is_some() && row.op != Op::Canary) {
        lines.push(format!("{:<14}{CANARY_MEANING}", "canary"));
    }
    if rows.iter().any(|row| row.unstable) {
        lines.push(format!("{:<14}{UNSTABLE_MEANING}", "unstable"));
    }
    format!("\n{}\n", lines.join("\n"))
}

/// Prints `text` now, so that a reader at the end of a pipe sees each row when it is there.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One line that says what is measured between which hosts.
pub(crate) fn between_hosts(plan: &Plan, at: &str, there: &Here) -> String {
    let (version, processor) = (cabi::version(), cores::processor());
    let name = format!("{} ({at})", there.host);
    let other = if there.version == version { String::new() } else { format!(", gridnet {}", there.version) };
    let place = match plan.placement.parent {
        Some(core) => format!("core {core} of this host"),
        None => "this host".to_owned(),
    };
    format!(
        "gridnet {version}: between {place} ({processor}) and {name}, {}{other}; wait mode {}",
        there.processor, plan.wait
    )
}

/// One line that says what is measured where.
pub(crate) fn circumstances(plan: &Plan) -> io::Result<String> {
    let place = match (plan.placement.pin, plan.placement.pair()) {
        (_, Some((a, b))) => {
            let one_way_ns = canary::median(a, b)?;
            let word = canary::distance_word(one_way_ns);
            format!("on cores {a} and {b} ({word}: a cache line takes {one_way_ns:.0} ns)")
        }
        (Pin::None, None) => "on any core".to_owned(),
        _ => "on one core".to_owned(),
    };
    Ok(format!(
        "gridnet {}: two processes {place}, wait mode {}, {}",
        cabi::version(),
        plan.wait,
        cores::processor()
    ))
}

fn column_heads() -> String {
    let numbers = NUMBERS.map(|(head, width)| format!("{head:>width$}"));
    format!("{:<12}{:>10}{}\n", "test", "size", numbers.concat())
}

fn table_line(row: &Row) -> String {
    let time = |us: Option<f64>| match us {
        None => "-".to_owned(),
        Some(us) if us < 1.0 => format!("{us:.4}"),
        Some(us) => format!("{us:.2}"),
    };
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let cells = [
        time(row.p50_us),
        time(row.p99_us),
        time(row.avg_us),
        number(row.gb_per_s),
        number(row.mmsg_per_s),
        row.canary_ns.map_or("-".to_owned(), |ns| format!("{ns:.0}")),
        number(row.ratio_to_canary),
    ];
    let cells: Vec<String> =
        cells.iter().zip(NUMBERS).map(|(cell, (_, width))| format!("{cell:>width$}")).collect();
    let peer = row.peer.map(|state| format!("peer {state}"));
    let unstable = row.unstable.then(|| "unstable".to_owned());
    let notes = peer.into_iter().chain(row.scale.notes()).chain(unstable);
    let notes: String = notes.map(|note| format!("  {note}")).collect();
    format!("{:<12}{:>10}{}{notes}\n", row.op, text::size(row.size), cells.concat())
}

fn csv_line(row: &Row) -> io::Result<String> {
    let object = serde_json::to_value(row)?;
    let cell = |column: &&str| match &object[*column] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) if text.contains([',', '"', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(format!("{}\n", CSV_COLUMNS.iter().map(cell).collect::<Vec<_>>().join(",")))
}

/// The fields of [`Row`].
const CSV_COLUMNS: [&str; 19] = [
    "op",
    "rails",
    "size",
    "p50_us",
    "p99_us",
    "avg_us",
    "gb_per_s",
    "mmsg_per_s",
    "canary_ns",
    "ratio_to_canary",
    "pin",
    "wait",
    "peer",
    "unstable",
    "peers",
    "ratio_to_one_peer",
    "kib_per_peer",
    "fds_per_peer",
    "cpu_percent",
];

/// Heads and widths of the columns with numbers.
const NUMBERS: [(&str, usize); 7] = [
    ("p50 us", 11),
    ("p99 us", 11),
    ("avg us", 11),
    ("GB/s", 9),
    ("Mmsg/s", 9),
    ("canary ns", 11),
    ("x canary", 10),
];

const MEANINGS: &[(Op, &str)] = &[
    (
        Op::TagLat,
        "time for one message to reach the other process: half a round trip (below 1 us, means of 16)",
    ),
    (Op::HandedLat, "as tag_lat, while another thread calls after each 256 round trips, on both sides"),
    (
        Op::LoanLat,
        "half a round trip of loans: taken, written, read where they are, given back; first and last line touched",
    ),
    (Op::TagBw, "time per message, and bandwidth, with many messages in flight; 1 GB is 10^9 bytes"),
    (Op::TagRate, "time per message, and messages per second, with many small messages in flight"),
    (Op::PutLat, "time until a put is seen by the owner of the region: half a round trip (means of 16)"),
    (Op::GetLat, "time of a call that gets from the other process's region (means of 16)"),
    (
        Op::AtomicLat,
        "time until an atomic add is seen by the owner of the word: half a round trip (means of 16)",
    ),
    (Op::PutBw, "time per put, and bandwidth, until all of a window are in the region"),
    (Op::GetBw, "time per get, and bandwidth, from the other process's region"),
    (Op::ConnectLat, "from opening an endpoint to the first echo, the peer polling or asleep meanwhile"),
    (Op::PeersOpen, "from opening the first endpoint to the last first echo, the fabrics polled by one thread"),
    (
        Op::PeersMemory,
        "proportional set size of both processes, and descriptors of one, for each further peer, drained and idle",
    ),
    (Op::PeersLat, "as tag_lat, while the other peers are connected and idle; beside it, with one peer only"),
    (Op::IdleCpu, "processor time over time of a wait in which nothing comes"),
    (
        Op::Canary,
        "a bare cache line going back and forth between the two cores, without gridnet: half a round trip",
    ),
    (Op::RawTcp, "a message going back and forth over a bare TCP socket, without gridnet: half a round trip"),
];

const CANARY_MEANING: &str =
    "a bare cache line from core to core, before and after each row: the hardware's limit for a small message";

const UNSTABLE_MEANING: &str =
    "the distance of the cores changed during the measurement, five times over: do not trust the row";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::perf::scale::Scale;

    pub(crate) fn sample(op: Op, size: usize) -> Row {
        Row {
            op,
            rails: "shm,self".into(),
            size,
            p50_us: Some(0.0625),
            p99_us: Some(0.07),
            avg_us: Some(12.5),
            gb_per_s: Some(0.13),
            mmsg_per_s: None,
            canary_ns: Some(57.5),
            ratio_to_canary: Some(1.09),
            pin: "0,1".into(),
            wait: "adaptive".into(),
            peer: None,
            unstable: false,
            scale: Scale::default(),
        }
    }

    #[test]
    fn csv_has_a_cell_for_each_field_and_quotes_commas() {
        let line = row(&sample(Op::TagLat, 8), Format::Csv).unwrap();
        assert_eq!(
            line,
            "tag_lat,\"shm,self\",8,0.0625,0.07,12.5,0.13,,57.5,1.09,\"0,1\",adaptive,,false,,,,,\n"
        );
        let object = serde_json::to_value(sample(Op::TagLat, 8)).unwrap();
        let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let mut columns = CSV_COLUMNS.to_vec();
        keys.sort_unstable();
        columns.sort_unstable();
        assert_eq!(keys, columns);
    }

    #[test]
    fn json_is_one_line_with_null_for_what_does_not_apply() {
        let line = row(&sample(Op::TagLat, 8), Format::Json).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["op"], "tag_lat");
        assert!(object["mmsg_per_s"].is_null() && object["peer"].is_null() && object["peers"].is_null());
    }

    #[test]
    fn the_columns_of_the_table_line_up() {
        let line = row(&sample(Op::ConnectLat, 1 << 20), Format::Table).unwrap();
        assert_eq!(line.trim_end().len(), column_heads().trim_end().len());
        let noted = Row { unstable: true, peer: Some("asleep"), ..sample(Op::ConnectLat, 8) };
        assert!(row(&noted, Format::Table).unwrap().ends_with("  peer asleep  unstable\n"));
    }

    #[test]
    fn the_legend_explains_what_was_measured() {
        let text = legend(&[sample(Op::TagBw, 8)], Format::Table);
        assert!(text.contains("tag_bw") && text.contains("canary") && !text.contains("tag_rate"));
        assert_eq!(legend(&[sample(Op::TagBw, 8)], Format::Json), "");
    }
}
