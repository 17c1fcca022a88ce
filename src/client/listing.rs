//! The listings of the text protocol as tables for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A listing whose lines have a known form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Status,
    PriorityStatus,
    Workers,
    Jobs,
    UniqueJobs,
    Store,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Text,
    Number,
    /// 0 or 1 on the wire.
    Flag,
    /// Words between spaces.
    Words,
}

use Column::{Flag, Number, Text, Words};

impl Listing {
    /// Names as in JSON; headings are the same in capitals.
    const fn columns(self) -> &'static [(&'static str, Column)] {
        match self {
            Self::Status => &[("function", Text), ("total", Number), ("running", Number), ("workers", Number)],
            Self::PriorityStatus => {
                &[("function", Text), ("high", Number), ("normal", Number), ("low", Number), ("workers", Number)]
            }
            Self::Workers => &[("fd", Number), ("address", Text), ("id", Text), ("functions", Words)],
            Self::Jobs => &[("handle", Text), ("retries", Number), ("abandoned", Flag), ("background", Flag)],
            Self::UniqueJobs => &[("unique", Text)],
            Self::Store => &[("key", Text), ("value", Text)],
        }
    }

    /// Cuts a line into its columns; one that has another form fills the first.
    pub(super) fn cells(self, line: &[u8]) -> Vec<String> {
        let line = text(line);
        let count = self.columns().len();
        let mut cells: Vec<String> = match self {
            Self::UniqueJobs => vec![line],
            Self::Workers => worker_cells(&line),
            Self::Status | Self::PriorityStatus | Self::Jobs | Self::Store => {
                // From the right: a name that has a tab in it is still one name.
                let mut cells: Vec<String> = line.rsplitn(count, '\t').map(str::to_owned).collect();
                cells.reverse();
                cells
            }
        };
        cells.resize(count, String::new());
        cells
    }

    /// The lines as a table with headings; columns are aligned, numbers to the right.
    pub(super) fn table(self, lines: &[Vec<u8>]) -> String {
        let columns = self.columns();
        let mut rows = vec![columns.iter().map(|(name, _)| name.to_uppercase()).collect::<Vec<_>>()];
        rows.extend(lines.iter().map(|line| self.cells(line).iter().map(|cell| printable(cell)).collect()));
        let to_right: Vec<bool> = columns.iter().map(|(_, kind)| *kind == Number).collect();
        aligned(&rows, &to_right)
    }

    /// The lines as an array of objects; keys and values as one object.
    pub(super) fn json(self, lines: &[Vec<u8>]) -> Value {
        if self == Self::Store {
            let fields = lines.iter().filter_map(|line| <[String; 2]>::try_from(self.cells(line)).ok());
            let number = |value: String| value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
            return Value::Object(fields.map(|[key, value]| (key, number(value))).collect());
        }
        let object = |line: &Vec<u8>| {
            let cells = self.cells(line);
            let fields = self.columns().iter().zip(cells).map(|((name, kind), cell)| {
                let value = match kind {
                    Text => Value::from(cell),
                    Number => cell.parse::<u64>().map_or_else(|_| Value::from(cell), Value::from),
                    Flag => Value::from(cell == "1"),
                    Words => cell.split(' ').filter(|word| !word.is_empty()).collect(),
                };
                ((*name).to_owned(), value)
            });
            Value::Object(fields.collect::<Map<_, _>>())
        };
        Value::Array(lines.iter().map(object).collect())
    }
}

/// Rows of as many cells as there are columns, aligned to the left or to the right, with two spaces between.
pub(super) fn aligned(rows: &[Vec<String>], to_right: &[bool]) -> String {
    let widths: Vec<usize> = (0..to_right.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut table = String::new();
    for row in rows {
        let mut text = String::new();
        for ((cell, width), to_right) in row.iter().zip(&widths).zip(to_right) {
            let padding = " ".repeat(width - cell.chars().count());
            if !text.is_empty() {
                text.push_str("  ");
            }
            text.extend(if *to_right { [padding.as_str(), cell] } else { [cell, padding.as_str()] });
        }
        table.push_str(text.trim_end());
        table.push('\n');
    }
    table
}

/// Lines of a listing whose form is not known.
pub(super) fn plain_json(lines: &[Vec<u8>]) -> Value {
    json!({ "lines": lines.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>() })
}

/// `FD ADDRESS ID : FUNCTION FUNCTION`, where the id may have spaces in it and an IPv6 address has colons.
fn worker_cells(line: &str) -> Vec<String> {
    let (fd, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (address, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    // With an empty id the colon comes at once.
    let (id, functions) = match rest.strip_prefix(':') {
        Some(functions) if functions.is_empty() || functions.starts_with(' ') => ("", functions),
        _ => match rest.split_once(" : ") {
            Some(parts) => parts,
            None => (rest.strip_suffix(" :").unwrap_or(rest), ""),
        },
    };
    [fd, address, id, functions.trim()].map(str::to_owned).into()
}

/// Letters that are not seen and change how others are shown: they turn the direction of what follows, or join it.
const UNSEEN: [std::ops::RangeInclusive<char>; 4] =
    ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}', '\u{feff}'..='\u{feff}'];

/// What is safe to print: a name may hold anything, also what a terminal obeys. That is written byte for byte as `\xNN`, as
/// names are in commands.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        let obeyed = letter.is_control() || UNSEEN.iter().any(|range| range.contains(&letter));
        if !obeyed {
            out.push(letter);
            continue;
        }
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            // A String takes everything.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// A line of a listing as text; bytes that are no UTF-8 are written as `\xNN`.
fn text(line: &[u8]) -> String {
    let mut out = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_table_is_aligned() {
        let table = Listing::Status.table(&lines(&["rev\t12\t3\t1", "a much longer name\t0\t0\t100"]));
        let expected = [
            "FUNCTION            TOTAL  RUNNING  WORKERS",
            "rev                    12        3        1",
            "a much longer name      0        0      100",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
        assert_eq!(Listing::UniqueJobs.table(&[]), "UNIQUE\n");
    }

    #[test]
    fn json_has_numbers_and_flags() {
        assert_eq!(
            Listing::PriorityStatus.json(&lines(&["a\tb\t1\t2\t3\t4"])),
            json!([{"function": "a\tb", "high": 1, "normal": 2, "low": 3, "workers": 4}])
        );
        assert_eq!(
            Listing::Store.json(&lines(&["state\tok", "error\t", "added\t12"])),
            json!({"state": "ok", "error": "", "added": 12})
        );
        assert_eq!(
            Listing::Jobs.json(&lines(&["H:h:1\t0\t1\t0"])),
            json!([{"handle": "H:h:1", "retries": 0, "abandoned": true, "background": false}])
        );
    }

    #[test]
    fn workers_are_told_apart_from_their_functions() {
        for (line, cells) in [
            ("33 127.0.0.1 - : rev echo", ["33", "127.0.0.1", "-", "rev echo"]),
            ("33 :: - :", ["33", "::", "-", ""]),
            ("33 ::1 my id : rev", ["33", "::1", "my id", "rev"]),
            ("33 127.0.0.1  :", ["33", "127.0.0.1", "", ""]),
            ("33 127.0.0.1  : rev", ["33", "127.0.0.1", "", "rev"]),
            ("odd", ["odd", "", "", ""]),
        ] {
            assert_eq!(Listing::Workers.cells(line.as_bytes()), cells, "{line}");
        }
        assert_eq!(
            Listing::Workers.json(&lines(&["33 ::1 w : a b"])),
            json!([{"fd": 33, "address": "::1", "id": "w", "functions": ["a", "b"]}])
        );
    }

    #[test]
    fn a_terminal_is_not_commanded_by_names() {
        assert_eq!(printable("a\x1b[2Jb"), r"a\x1b[2Jb");
        assert_eq!(printable("a\u{202e}b\u{9b}c\u{e9}"), "a\\xe2\\x80\\xaeb\\xc2\\x9bc\u{e9}");
        assert_eq!(Listing::Status.cells(b"f\xff\t1\t2\t3")[0], r"f\xff");
        assert_eq!(Listing::Status.table(&lines(&["short"])).lines().nth(1), Some("short"));
    }
}
