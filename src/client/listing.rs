//! Formats the listings of the text protocol as tables for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::terminal::{cut, width};

/// A listing with a known line format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Status,
    PriorityStatus,
    Workers,
    Jobs,
    UniqueJobs,
    Store,
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Text,
    Number,
    /// 0 or 1 on the wire.
    Flag,
    /// Words separated by spaces.
    Words,
}

use Column::{Flag, Number, Text, Words};

impl Listing {
    /// Column names as in JSON; table headings are the same in capitals.
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

    /// Splits a line into its columns. A line in another format becomes the first cell.
    pub(super) fn cells(self, line: &[u8]) -> Vec<String> {
        let line = text(line);
        let count = self.columns().len();
        let mut cells: Vec<String> = match self {
            Self::UniqueJobs => vec![line],
            Self::Workers => worker_cells(&line),
            Self::Status | Self::PriorityStatus | Self::Jobs | Self::Store => {
                // Split from the right: a name may contain a tab.
                let mut cells: Vec<String> = line.rsplitn(count, '\t').map(str::to_owned).collect();
                cells.reverse();
                cells
            }
        };
        cells.resize(count, String::new());
        cells
    }

    /// Formats the lines as a table with headings, at most `room` terminal columns wide. Columns are aligned,
    /// numbers to the right.
    pub(super) fn table(self, lines: &[Vec<u8>], room: Option<usize>) -> String {
        let columns = self.columns();
        let mut rows = vec![columns.iter().map(|(name, _)| name.to_uppercase()).collect::<Vec<_>>()];
        rows.extend(lines.iter().map(|line| self.cells(line).iter().map(|cell| printable(cell)).collect()));
        let to_right: Vec<bool> = columns.iter().map(|(_, kind)| *kind == Number).collect();
        aligned_within(&rows, &to_right, room)
    }

    /// Formats the lines as JSON: an array of objects, or for keys and values a single object.
    pub(super) fn json(self, lines: &[Vec<u8>]) -> String {
        if self == Self::Store {
            let fields = lines.iter().filter_map(|line| <[String; 2]>::try_from(self.cells(line)).ok());
            let number = |value: String| value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
            return json_text(&Value::Object(fields.map(|[key, value]| (key, number(value))).collect()));
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
        json_array(lines.iter().map(object))
    }
}

/// Spaces between two columns.
const GAP: usize = 2;
/// Maximum padding of a column: one long name among a million must not widen every line.
const WIDEST: usize = 256;
/// Minimum width that a text column is cut to.
const NARROWEST: usize = 8;

/// Formats rows with one cell per column, aligned to the left or to the right, separated by two spaces.
pub(super) fn aligned(rows: &[Vec<String>], to_right: &[bool]) -> String {
    aligned_within(rows, to_right, None)
}

/// Like [`aligned`], at most `room` terminal columns wide. Text columns are cut to fit, numbers are not.
/// Columns that still do not fit are dropped from the right, and the heading line ends with a tilde.
pub(crate) fn aligned_within(rows: &[Vec<String>], to_right: &[bool], room: Option<usize>) -> String {
    let widths = widths(rows, to_right, room);
    let mut table = String::new();
    for row in rows {
        table.push_str(&row_text(row, &widths, to_right, room.is_some()));
        table.push('\n');
    }
    if let Some(end) = table.find('\n').filter(|_| widths.len() < to_right.len()) {
        table.insert_str(end, " ~");
    }
    table
}

/// Computes the widths of the columns. Columns that do not fit are missing from the result.
pub(crate) fn widths(rows: &[Vec<String>], to_right: &[bool], room: Option<usize>) -> Vec<usize> {
    let widest = |column: usize| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0).min(WIDEST);
    let mut widths: Vec<usize> = (0..to_right.len()).map(widest).collect();
    if let Some(room) = room {
        fit(&mut widths, to_right, room);
    }
    widths
}

/// Formats a row in columns of these widths. Longer cells overflow unless `is_cut`.
pub(crate) fn row_text(row: &[String], widths: &[usize], to_right: &[bool], is_cut: bool) -> String {
    let mut text = String::new();
    for (index, ((cell, most), to_right)) in row.iter().zip(widths).zip(to_right).enumerate() {
        let cell = if is_cut { cut(cell, *most) } else { cell.clone() };
        let padding = " ".repeat(most.saturating_sub(width(&cell)));
        if index > 0 {
            text.push_str(&" ".repeat(GAP));
        }
        text.extend(if *to_right { [padding, cell] } else { [cell, padding] });
    }
    text.truncate(text.trim_end().len());
    text
}

/// Narrows the columns, and drops the last ones, until they fit into `room`.
fn fit(widths: &mut Vec<usize>, to_right: &[bool], room: usize) {
    loop {
        let needed = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        // Leave room for the tilde after the headings.
        let room = if widths.len() < to_right.len() { room.saturating_sub(GAP) } else { room };
        let Some(excess) = needed(widths).checked_sub(room).filter(|excess| *excess > 0) else { return };
        let texts = || widths.iter().zip(to_right).enumerate().filter(|(_, (_, to_right))| !**to_right);
        let spare: usize = texts().map(|(_, (width, _))| width.saturating_sub(NARROWEST)).sum();
        if spare < excess && widths.len() > 1 {
            widths.pop();
            continue;
        }
        // The widest column is narrowed first.
        for _ in 0..excess {
            let widest = widths.iter().zip(to_right).enumerate().filter(|(_, (_, to_right))| !**to_right);
            let Some((index, _)) = widest.max_by_key(|(_, (width, _))| **width) else { break };
            widths[index] = widths[index].saturating_sub(1);
        }
        if widths.len() == 1 {
            widths[0] = widths[0].min(room);
            return;
        }
    }
}

/// JSON for the lines of a listing in an unknown format.
pub(super) fn plain_json(lines: &[Vec<u8>]) -> Value {
    json!({ "lines": lines.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>() })
}

/// Splits `FD ADDRESS ID : FUNCTION FUNCTION`. The id may contain spaces, and an IPv6 address contains
/// colons.
fn worker_cells(line: &str) -> Vec<String> {
    let (fd, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (address, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    // With an empty id the colon follows immediately.
    let (id, functions) = match rest.strip_prefix(':') {
        Some(functions) if functions.is_empty() || functions.starts_with(' ') => ("", functions),
        _ => match rest.split_once(" : ") {
            Some(parts) => parts,
            None => (rest.strip_suffix(" :").unwrap_or(rest), ""),
        },
    };
    [fd, address, id, functions.trim()].map(str::to_owned).into()
}

/// Invisible characters that change how others are displayed: they reverse the direction of what follows,
/// join characters, or end a line in some programs.
const UNSEEN: [std::ops::RangeInclusive<char>; 8] = [
    '\u{61c}'..='\u{61c}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{e0000}'..='\u{e007f}',
];

/// Whether a character can control a terminal or mislead its reader.
fn is_obeyed(letter: char) -> bool {
    letter.is_control() || UNSEEN.iter().any(|range| range.contains(&letter))
}

/// Makes text safe to print: a name may contain anything, including terminal control characters. Each byte of
/// those is written as `\xNN`, as in names in commands.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if !is_obeyed(letter) {
            out.push(letter);
            continue;
        }
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a String does not fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Does the same for a name that need not be text: bytes that are not UTF-8 are written as `\xNN` too.
pub(crate) fn printable_bytes(name: &[u8]) -> String {
    printable(&text(name))
}

/// Converts a line of a listing to text; bytes that are not UTF-8 are written as `\xNN`.
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

/// Formats a JSON document on one line, safe to print: control characters are written as `\uXXXX`, which
/// programs read as the same characters.
pub(crate) fn json_text(document: &Value) -> String {
    harmless_json(&document.to_string())
}

/// Does the same for a serialized document. Apart from its line ends, only its strings can contain such
/// characters.
pub(crate) fn harmless_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter == '\n' || !is_obeyed(letter) {
            out.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            // Writing to a String does not fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Serializes documents as one array, without holding all of them as values.
pub(super) fn json_array(documents: impl Iterator<Item = Value>) -> String {
    let mut out = String::from("[");
    for (index, document) in documents.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&json_text(&document));
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    fn document(listing: Listing, of: &[&str]) -> Value {
        serde_json::from_str(&listing.json(&lines(of))).unwrap()
    }

    #[test]
    fn a_table_is_aligned() {
        let table = Listing::Status.table(&lines(&["rev\t12\t3\t1", "a much longer name\t0\t0\t100"]), None);
        let expected = [
            "FUNCTION            TOTAL  RUNNING  WORKERS",
            "rev                    12        3        1",
            "a much longer name      0        0      100",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
        assert_eq!(Listing::UniqueJobs.table(&[], None), "UNIQUE\n");
    }

    #[test]
    fn json_has_numbers_and_flags() {
        assert_eq!(
            document(Listing::PriorityStatus, &["a\tb\t1\t2\t3\t4"]),
            json!([{"function": "a\tb", "high": 1, "normal": 2, "low": 3, "workers": 4}])
        );
        assert_eq!(
            document(Listing::Store, &["state\tok", "error\t", "added\t12"]),
            json!({"state": "ok", "error": "", "added": 12})
        );
        assert_eq!(
            document(Listing::Jobs, &["H:h:1\t0\t1\t0"]),
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
            document(Listing::Workers, &["33 ::1 w : a b"]),
            json!([{"fd": 33, "address": "::1", "id": "w", "functions": ["a", "b"]}])
        );
    }

    #[test]
    fn a_table_is_cut_to_its_room_and_numbers_are_not() {
        let listing = ["a-rather-long-name-of-a-function\t12\t3\t1", "\u{6f22}\u{5b57}\t1234567\t0\t100"];
        let cut = |room| Listing::Status.table(&lines(&listing), Some(room));
        let expected = [
            "FUNCTION          TOTAL  RUNNING  WORKERS",
            "a-rather-long~       12        3        1",
            "\u{6f22}\u{5b57}            1234567        0      100",
        ];
        assert_eq!(cut(41).lines().collect::<Vec<_>>(), expected);
        assert_eq!(cut(100), Listing::Status.table(&lines(&listing), None));
        // Where the cut texts do not fit either, whole columns are dropped.
        assert_eq!(
            cut(22).lines().collect::<Vec<_>>(),
            ["FUNCTION       TOTAL ~", "a-rather-l~       12", "\u{6f22}\u{5b57}         1234567"]
        );
        for room in 1..60 {
            assert!(cut(room).lines().all(|line| width(line) <= room.max(9)), "{room}: {}", cut(room));
        }
    }

    #[test]
    fn one_long_name_does_not_make_all_lines_long() {
        let long = format!("{}\t0\t0\t0", "x".repeat(100_000));
        let table = Listing::Status.table(&lines(&[&long, "a\t1\t1\t1"]), None);
        assert!(table.lines().nth(1).unwrap().len() > 100_000);
        assert!(table.lines().nth(2).unwrap().len() < 300, "{}", table.lines().nth(2).unwrap());
    }

    #[test]
    fn json_commands_no_terminal_and_says_the_same() {
        let value = json!({"a": "\u{9b}31m\u{202e}x\u{7f}\u{2028}\u{e0041}\u{61c}\u{e9}", "b": [1, 2]});
        let text = json_text(&value);
        assert_eq!(text.replace("\\u", "?").chars().find(|letter| is_obeyed(*letter)), None, "{text}");
        assert!(text.contains("\\u009b31m\\u202ex\\u007f\\u2028\\udb40\\udc41\\u061c\u{e9}"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(json_array([json!(1), json!("\u{85}")].into_iter()), "[1,\"\\u0085\"]");
    }

    #[test]
    fn a_terminal_is_not_commanded_by_names() {
        assert_eq!(printable("a\x1b[2Jb"), r"a\x1b[2Jb");
        assert_eq!(printable("a\u{202e}b\u{9b}c\u{e9}"), "a\\xe2\\x80\\xaeb\\xc2\\x9bc\u{e9}");
        assert_eq!(Listing::Status.cells(b"f\xff\t1\t2\t3")[0], r"f\xff");
        assert_eq!(Listing::Status.table(&lines(&["short"]), None).lines().nth(1), Some("short"));
    }
}
