//! Listings with a heading line that names their columns, and responses with a key and a value per line;
//! formatted as tables and as JSON.
//!
//! Columns are found by name: a server may have more or fewer of them than this program knows.

use serde_json::{Map, Value, json};

use super::format::{heading, shown, words};
use super::listing::{aligned, aligned_within};

/// Cell whose value the server does not know.
const UNKNOWN: &[u8] = b"-";
/// Prefix of the first line of a listing.
const HEADING: &[u8] = b"# ";
/// Prefix of the line with the position where the next page starts.
const NEXT: &[u8] = b"# next ";

/// Columns and keys whose values are text, even if they look like numbers.
const TEXT: &[&str] = &[
    "name",
    "id",
    "address",
    "client_id",
    "tls_name",
    "state",
    "functions",
    "job",
    "handle",
    "unique",
    "function",
    "priority",
    "holder",
    "progress",
    "who",
    "mode",
    "version",
    "location",
    "error",
    "durability",
    "preview",
    "preview_encoding",
    "store_state",
    "store_error",
    "store_location",
    "store_durability",
];
/// Columns and keys whose values are flags.
const FLAGS: &[&str] =
    &["is_abandoned", "paused", "settings_only", "background", "in_use", "stored", "draining", "preview_truncated"];
/// Columns and keys whose values are names separated by commas.
const LISTS: &[&str] = &["functions"];
/// Columns of the `function` lines of `show worker`.
const FUNCTION_COLUMNS: &[&str] =
    &["name", "in_use", "mode", "done", "failed", "exceptions", "timed_out", "requeued", "mean_s", "p50_s", "p99_s"];
/// Columns of its `job` lines.
const JOB_COLUMNS: &[&str] = &["handle", "function", "since_unix_ms", "numerator", "denominator", "deadline_unix_ms"];

/// Type of a cell, determined by the name of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, unchanged.
    Text,
    /// A number, whole or with a fraction.
    Number,
    /// Yes or no.
    Flag,
}

impl Kind {
    /// The kind of a column.
    pub(super) fn of(column: &str) -> Self {
        if FLAGS.contains(&column) {
            Self::Flag
        } else if TEXT.contains(&column) {
            Self::Text
        } else {
            Self::Number
        }
    }
}

/// A listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Column names.
    pub(super) columns: Vec<String>,
    /// Rows with one cell per column, as received.
    pub(super) rows: Vec<Vec<Vec<u8>>>,
    /// Position where the next page starts.
    pub(super) next: Option<String>,
}

impl Table {
    /// An empty table.
    pub(super) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(ToString::to_string).collect(), rows: Vec::new(), next: None }
    }

    /// Parses a listing; `None` if its first line names no columns.
    pub(super) fn parse(lines: &[Vec<u8>]) -> Option<Self> {
        let (first, rest) = lines.split_first()?;
        let names = String::from_utf8_lossy(first.strip_prefix(HEADING)?).into_owned();
        let columns: Vec<String> =
            names.split(['\t', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let mut table = Self { columns, ..Self::default() };
        for line in rest {
            if let Some(cursor) = line.strip_prefix(NEXT) {
                table.next = Some(String::from_utf8_lossy(cursor).trim().to_owned());
            } else {
                table.push(line.split(|byte| *byte == b'\t').map(<[u8]>::to_vec).collect());
            }
        }
        Some(table)
    }

    /// Appends a row; missing cells are unknown.
    pub(super) fn push(&mut self, mut row: Vec<Vec<u8>>) {
        row.resize(self.columns.len(), UNKNOWN.to_vec());
        self.rows.push(row);
    }

    /// Index of the column with this name.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// A cell of a row; `None` if it is unknown.
    pub(super) fn cell<'a>(&self, row: &'a [Vec<u8>], column: &str) -> Option<&'a [u8]> {
        row.get(self.column(column)?).map(Vec::as_slice).filter(|cell| *cell != UNKNOWN)
    }

    /// A number of a row; `None` if it is unknown or not a number.
    pub(super) fn number(&self, row: &[Vec<u8>], column: &str) -> Option<f64> {
        number(self.cell(row, column)?)
    }

    /// Sets the column `name`: appends it, or replaces its cells.
    pub(super) fn set(&mut self, name: &str, mut cell: impl FnMut(&Self, &[Vec<u8>]) -> Option<String>) {
        let cells: Vec<Vec<u8>> =
            self.rows.iter().map(|row| cell(self, row).map_or_else(|| UNKNOWN.to_vec(), String::into_bytes)).collect();
        let column = self.column(name).unwrap_or_else(|| {
            self.columns.push(name.to_owned());
            self.columns.len() - 1
        });
        for (row, cell) in self.rows.iter_mut().zip(cells) {
            row.resize(column.max(row.len()), UNKNOWN.to_vec());
            if column == row.len() { row.push(cell) } else { row[column] = cell }
        }
    }

    /// Sets the column `name` to the number of failures, with an exception or without.
    pub(super) fn add_failures(&mut self, name: &str) {
        if let (Some(_), Some(_)) = (self.column("failed"), self.column("exceptions")) {
            self.set(name, |table, row| {
                let both = [table.number(row, "failed"), table.number(row, "exceptions")];
                both.iter()
                    .flatten()
                    .copied()
                    .reduce(|failed, exceptions| failed + exceptions)
                    .map(|all| all.to_string())
            });
        }
    }

    /// Selects the columns that `wanted` names, in that order.
    pub(super) fn select(&self, wanted: &[impl AsRef<str>]) -> Self {
        let places: Vec<usize> = wanted.iter().filter_map(|name| self.column(name.as_ref())).collect();
        let cells = |row: &Vec<Vec<u8>>| places.iter().map(|place| row[*place].clone()).collect();
        Self {
            columns: places.iter().map(|place| self.columns[*place].clone()).collect(),
            rows: self.rows.iter().map(cells).collect(),
            next: self.next.clone(),
        }
    }

    /// Formats the table for people at this time, in milliseconds since 1970: headings in capitals, columns
    /// aligned, numbers to the right.
    pub(super) fn text(&self, now_unix_ms: u64) -> String {
        self.text_within(now_unix_ms, None)
    }

    /// Like [`text`](Self::text), at most `room` terminal columns wide.
    pub(super) fn text_within(&self, now_unix_ms: u64, room: Option<usize>) -> String {
        let mut rows = vec![self.columns.iter().map(|name| heading(name)).collect::<Vec<_>>()];
        let cells = |row: &Vec<Vec<u8>>| {
            self.columns.iter().zip(row).map(|(name, cell)| shown(name, cell, now_unix_ms)).collect::<Vec<_>>()
        };
        rows.extend(self.rows.iter().map(cells));
        let to_right: Vec<bool> = self.columns.iter().map(|name| Kind::of(name) == Kind::Number).collect();
        aligned_within(&rows, &to_right, room)
    }

    /// Formats the table for programs: an array of objects.
    pub(super) fn json(&self) -> Value {
        Value::Array(self.objects().collect())
    }

    /// The rows as objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = Value> + '_ {
        let object = move |row: &Vec<Vec<u8>>| {
            let fields = self.columns.iter().zip(row).enumerate();
            // The first column is the name, and a dash is a valid name.
            let value = |index, name: &str, cell: &[u8]| {
                if LISTS.contains(&name) {
                    lossy(cell).split(',').filter(|name| !name.is_empty() && *name != "-").collect()
                } else if index == 0 && Kind::of(name) == Kind::Text {
                    Value::from(lossy(cell))
                } else {
                    value(Kind::of(name), cell)
                }
            };
            Value::Object(fields.map(|(index, (name, cell))| (name.clone(), value(index, name, cell))).collect())
        };
        self.rows.iter().map(object)
    }
}

/// A response with a key and a value per line. That of a worker also has lines for its functions and jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Keys and values, in the server's order.
    pub(super) pairs: Vec<(String, Vec<u8>)>,
    /// Functions of a worker.
    pub(super) functions: Table,
    /// Jobs of a worker.
    pub(super) jobs: Table,
}

impl Default for Facts {
    fn default() -> Self {
        Self { pairs: Vec::new(), functions: Table::new(FUNCTION_COLUMNS), jobs: Table::new(JOB_COLUMNS) }
    }
}

impl Facts {
    /// Parses the lines of a response.
    pub(super) fn parse(lines: &[Vec<u8>]) -> Self {
        let mut facts = Self::default();
        for line in lines.iter().filter(|line| !line.starts_with(b"#")) {
            let mut cells = line.split(|byte| *byte == b'\t').map(<[u8]>::to_vec);
            let key = cells.next().unwrap_or_default();
            let mut values: Vec<Vec<u8>> = cells.collect();
            match (key.as_slice(), values.len()) {
                (b"function", 2..) => facts.functions.push(values),
                (b"job", 2..) => facts.jobs.push(values),
                _ => {
                    let value = if values.len() == 1 { values.swap_remove(0) } else { values.join(&b'\t') };
                    facts.pairs.push((lossy(&key), value));
                }
            }
        }
        facts
    }

    /// The value of a key; `None` if it is unknown.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let (_, value) = self.pairs.iter().find(|(name, _)| name == key)?;
        Some(value.as_slice()).filter(|value| *value != UNKNOWN)
    }

    /// Formats the response for people at this time, in milliseconds since 1970.
    pub(super) fn text(&self, now_unix_ms: u64) -> String {
        self.text_within(now_unix_ms, None)
    }

    /// Like [`text`](Self::text), with tables at most `room` terminal columns wide. Values are not cut.
    pub(super) fn text_within(&self, now_unix_ms: u64, room: Option<usize>) -> String {
        let pair = |(key, cell): &(String, Vec<u8>)| vec![words(key), shown(key, cell, now_unix_ms)];
        let rows: Vec<Vec<String>> = self.pairs.iter().map(pair).collect();
        let mut text = aligned(&rows, &[false, false]);
        for (title, table) in [("functions", &self.functions), ("jobs", &self.jobs)] {
            if !table.rows.is_empty() {
                text.extend(["\n", title, "\n", &table.text_within(now_unix_ms, room)]);
            }
        }
        text
    }

    /// Formats the response for programs: an object. With `lists` it includes a worker's functions and jobs,
    /// even if there are none.
    pub(super) fn json(&self, lists: bool) -> Value {
        let mut fields: Map<String, Value> =
            self.pairs.iter().map(|(key, cell)| (key.clone(), value(kind_of_fact(key), cell))).collect();
        if lists {
            fields.insert("functions".to_owned(), self.functions.json());
            fields.insert("jobs".to_owned(), self.jobs.json());
        }
        Value::Object(fields)
    }
}

/// Text of a cell; bytes that are not UTF-8 are replaced.
pub(super) fn lossy(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell).into_owned()
}

/// Number in a cell.
pub(super) fn number(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Type of a key's value. `functions` is a count for a server and a list of names for a worker.
fn kind_of_fact(key: &str) -> Kind {
    if LISTS.contains(&key) { Kind::Number } else { Kind::of(key) }
}

/// Whether a flag is set.
pub(super) fn flag(cell: &[u8]) -> Option<bool> {
    match cell {
        b"1" | b"yes" | b"true" => Some(true),
        b"0" | b"no" | b"false" => Some(false),
        _ => None,
    }
}

fn value(kind: Kind, cell: &[u8]) -> Value {
    if cell == UNKNOWN {
        return Value::Null;
    }
    let text = || Value::from(lossy(cell));
    match kind {
        Kind::Text => text(),
        Kind::Flag => flag(cell).map_or_else(text, Value::from),
        Kind::Number => {
            let whole = std::str::from_utf8(cell).ok().and_then(|cell| cell.parse::<u64>().ok());
            whole.map_or_else(|| number(cell).map_or_else(text, |number| json!(number)), Value::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn columns_are_found_by_name_and_unknown_ones_are_kept() {
        let table = Table::parse(&lines(&["# name\tpaused\tnew\toldest_s", "a b\t1\tx\t-", "c\t0", "# next 7-8"]));
        let table = table.unwrap();
        assert_eq!(table.next.as_deref(), Some("7-8"));
        assert_eq!(table.cell(&table.rows[0], "name"), Some(&b"a b"[..]));
        assert_eq!(table.cell(&table.rows[0], "oldest_s"), None);
        assert_eq!(table.cell(&table.rows[1], "new"), None);
        assert_eq!(table.cell(&table.rows[1], "nothing"), None);
        assert_eq!(
            table.json(),
            json!([{"name": "a b", "paused": true, "new": "x", "oldest_s": null},
                {"name": "c", "paused": false, "new": null, "oldest_s": null}])
        );
        assert_eq!(table.select(&["oldest_s", "missing", "name"]).text(0), "OLDEST  NAME\n     -  a b\n     -  c\n");
        assert_eq!(Table::parse(&lines(&["name\tpaused"])), None);
        assert_eq!(Table::parse(&[]), None);
    }

    #[test]
    fn numbers_and_names_that_look_like_them_are_told_apart() {
        let table = Table::parse(&lines(&["# name functions running run_mean_s client_id", "-\ta,b\t12\t0.25\t-"]));
        assert_eq!(
            table.unwrap().json(),
            json!([{"name": "-", "functions": ["a", "b"], "running": 12, "run_mean_s": 0.25, "client_id": null}])
        );
    }

    #[test]
    fn a_column_is_added_or_replaced() {
        let mut table = Table::parse(&lines(&["# name done", "a\t4", "b\t-"])).unwrap();
        table.set("twice", |table, row| table.number(row, "done").map(|done| format!("{}", done * 2.0)));
        table.set("done", |_, _| Some("0".to_owned()));
        assert_eq!(table.text(0), "NAME  DONE  TWICE\na        0      8\nb        0      -\n");
    }

    #[test]
    fn a_worker_has_functions_and_jobs_among_its_facts() {
        let facts = Facts::parse(&lines(&[
            "id\t1-2",
            "client_id\t-",
            "odd",
            "function\trev\t1\t-\t5\t0\t0\t0\t0\t0.5\t0.4\t1.5",
            "job\tH:h:1\trev\t1000\t1\t2\t-",
        ]));
        assert_eq!(facts.get("id"), Some(&b"1-2"[..]));
        assert_eq!(facts.get("client_id"), None);
        let json = facts.json(true);
        assert_eq!(json["functions"][0]["p99_s"], 1.5);
        assert_eq!(json["functions"][0]["in_use"], true);
        assert_eq!(json["jobs"][0]["deadline_unix_ms"], Value::Null);
        assert!(facts.text(0).contains("\nfunctions\nNAME  IN_USE  MODE  DONE"), "{}", facts.text(0));
        // The `function` line of a job has a single value.
        let job = Facts::parse(&lines(&["handle\tH:h:1", "function\trev"]));
        assert_eq!(job.json(false), json!({"handle": "H:h:1", "function": "rev"}));
    }

    #[test]
    fn a_terminal_is_not_commanded_by_cells() {
        let table = Table::parse(&lines(&["# name", "a\x1b[2J"])).unwrap();
        assert_eq!(table.text(0), "NAME\na\\x1b[2J\n");
        assert_eq!(Facts::parse(&lines(&["k\tv\x07"])).text(0), "k  v\\x07\n");
    }
}
