//! Results for people: columns that line up, numbers with units; and for programs: JSON.

use std::io::{IsTerminal, Write};

/// Writes to standard output in one piece. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes one line to standard error in one piece.
pub fn complain(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// One JSON value and a newline.
pub fn json<T: serde::Serialize>(value: &T) {
    // Plain structs of numbers and strings cannot fail to be written.
    if let Ok(text) = serde_json::to_string(value) {
        print(&format!("{text}\n"));
    }
}

/// A table: the columns as wide as their widest cell, numbers to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let numeric = |column: usize| {
        rows.iter()
            .all(|row| row[column].starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    };
    let widths: Vec<(usize, bool)> = (0..head.len())
        .map(|c| (width(c), !rows.is_empty() && numeric(c)))
        .collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, &(width, right))| {
            if right {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let body = rows
        .iter()
        .map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(head.to_vec())).chain(body).collect()
}

/// One line on standard error that replaces itself; nothing if that is no terminal.
pub struct ProgressLine {
    shown: bool,
    on: bool,
}

impl ProgressLine {
    /// A line that is shown if somebody can watch it.
    pub fn new(quiet: bool) -> ProgressLine {
        ProgressLine {
            shown: false,
            on: !quiet && std::io::stderr().is_terminal(),
        }
    }

    /// Replaces the line.
    pub fn set(&mut self, text: &str) {
        if self.on {
            self.shown = true;
            let _ = std::io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
        }
    }

    /// Removes it.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["0".into(), "idle".into()],
            vec!["12".into(), "running".into()],
        ];
        assert_eq!(
            table(&["P", "STATE"], &rows),
            " P  STATE\n 0  idle\n12  running\n"
        );
        assert_eq!(table(&["P", "STATE"], &[]), "P  STATE\n");
    }
}
