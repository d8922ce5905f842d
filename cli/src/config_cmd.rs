//! `gridnet config`: every variable, its value and where the value comes from.

use crate::failure::Failure;
use crate::text;
use gridnet::config::{Config, Entry};
use std::io::{self, Write};

/// Prints the configuration that a program started here and now would get.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    let entries = Config::from_process(&[])?.entries();
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &json_of(&entries)).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
        text::columns(&mut out, &["variable", "value", "default", "unit", "origin", "meaning"], &rows)?;
    }
    Ok(())
}

fn row(entry: &Entry) -> Vec<String> {
    let shown = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    vec![
        entry.name.to_owned(),
        shown(&entry.value),
        shown(entry.default),
        shown(entry.unit),
        entry.origin.to_string(),
        entry.sentence.to_owned(),
    ]
}

fn json_of(entries: &[Entry]) -> serde_json::Value {
    let object = |entry: &Entry| {
        serde_json::json!({
            "name": entry.name,
            "value": entry.value,
            "default": entry.default,
            "unit": entry.unit,
            "origin": entry.origin.to_string(),
            "accepted": entry.accepted,
            "meaning": entry.sentence,
        })
    };
    entries.iter().map(object).collect()
}
