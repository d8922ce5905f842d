//! Text in a page: lines of a key and values, separated by tabs. Readers skip keys that they do not know.

/// Most lines that a reader looks at: whoever wrote more is no fabric.
const MOST_LINES: usize = 256;

/// Lines for at most so many bytes; what does not fit is left out, whole lines at a time.
#[derive(Debug)]
pub(crate) struct Lines {
    text: String,
    bound: usize,
}

impl Lines {
    pub(crate) fn new(bound: usize) -> Lines {
        Lines { text: String::new(), bound }
    }

    /// Adds a line if there is room for it.
    pub(crate) fn add(&mut self, key: &str, values: &[&str]) {
        let mut line = key.to_owned();
        for value in values {
            line.push('\t');
            line.extend(value.chars().map(plain));
        }
        line.push('\n');
        if self.text.len() + line.len() <= self.bound {
            self.text += &line;
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// The lines of a text that somebody wrote: key, and at most `MOST_VALUES` values.
pub(crate) fn parse(bytes: &[u8]) -> Vec<(String, Vec<String>)> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().take(MOST_LINES).map(|line| {
        let mut cells = line.split('\t').map(|cell| cell.chars().map(plain).collect::<String>());
        let key = cells.next().unwrap_or_default();
        (key, cells.take(MOST_VALUES).collect())
    });
    lines.collect()
}

/// `text`, at most `bound` bytes of it.
pub(crate) fn cut(text: &str, bound: usize) -> &str {
    let end = (0..=bound.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

const MOST_VALUES: usize = 4;

/// Controls would move the cursor of whoever looks, or look like a separator.
fn plain(c: char) -> char {
    if c.is_control() {
        ' '
    } else {
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_without_controls_and_within_bounds() {
        let mut lines = Lines::new(30);
        lines.add("name", &["a\tb\x1b[2J", "ä"]);
        lines.add("left out", &["because it is too long"]);
        lines.add("last", &[]);
        let text = lines.into_text();
        assert!(text.len() <= 30);
        let parsed = parse(text.as_bytes());
        assert_eq!(parsed[0], ("name".into(), vec!["a b [2J".into(), "ä".into()]));
        assert_eq!(parsed[1], ("last".into(), vec![]));
        assert_eq!(parsed.len(), 2);
    }

    #[test]
    fn a_cut_keeps_characters_whole() {
        assert_eq!((cut("aä", 2), cut("aä", 3), cut("", 5), cut("ä", 0)), ("a", "aä", "", ""));
    }
}
