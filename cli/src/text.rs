//! Text in columns.

use std::io::{self, Write};

/// Prints `rows` under `heading`, each column as wide as its longest cell, the last one as it is.
pub(crate) fn columns(out: &mut impl Write, heading: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    line(out, heading.iter().copied(), &widths)?;
    for row in rows {
        line(out, row.iter().map(String::as_str), &widths)?;
    }
    Ok(())
}

/// `bytes` as people write it: `8 B`, `64 KiB`, `1 MiB`.
pub(crate) fn size(bytes: usize) -> String {
    let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = unit.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    exact.map_or_else(|| format!("{bytes} B"), |(shift, name)| format!("{} {name}", bytes >> shift))
}

/// What somebody else wrote, fit for a terminal: without characters that would do something there.
pub(crate) fn readable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn line<'a>(out: &mut impl Write, cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> io::Result<()> {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    writeln!(out, "{}", padded.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let mut out = Vec::new();
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), String::new()]];
        columns(&mut out, &["x", "y"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "x     y\na     b\nlong\n");
    }

    #[test]
    fn what_others_write_does_nothing_to_a_terminal() {
        assert_eq!(readable("größe\u{1b}[2J\u{9b}31m\r\n"), "größe?[2J?31m??");
    }

    #[test]
    fn sizes_use_the_largest_exact_unit() {
        for (bytes, text) in [(0, "0 B"), (8, "8 B"), (1025, "1025 B"), (65536, "64 KiB"), (1 << 20, "1 MiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
