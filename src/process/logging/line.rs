//! Formats of an event: gearmand's columns, JSON, a syslog datagram, a journal datagram.
//!
//! Function names, client ids and the like come from peers, so no text of an event may start a new line, move
//! a terminal's cursor or look like another field. Control characters are escaped, and values with spaces,
//! quotes or `=` are quoted.

use std::fmt::{self, Write};

use chrono::{DateTime, Local, SecondsFormat};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

use crate::log_level::{AUDIT_TARGET, Level};

/// The ident in syslog and the journal.
const IDENT: &str = "gearmand";
/// Syslog's facility "user-level messages", shifted to its position in the priority.
const FACILITY_USER: u8 = 1 << 3;
/// Longest text sent as a datagram, in bytes: the usual limit of syslog daemons.
const MAX_DATAGRAM_TEXT: usize = 8000;
/// Width of the thread name in a line: `[ main ]`.
const THREAD_COLUMNS: usize = 6;

/// A parsed event.
#[derive(Debug)]
pub(super) struct Record {
    level: Level,
    time: DateTime<Local>,
    thread: String,
    /// Its source in the program; `None` for lines of the log about itself.
    metadata: Option<&'static Metadata<'static>>,
    values: Values,
}

/// The message and fields of an event.
#[derive(Debug, Default)]
struct Values {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Record {
    /// Parses an event, with the current time and thread.
    pub(super) fn new(event: &Event<'_>) -> Self {
        let mut values = Values::default();
        event.record(&mut values);
        Self {
            level: Level::of(event.metadata()),
            time: Local::now(),
            thread: thread_name(),
            metadata: Some(event.metadata()),
            values,
        }
    }

    /// A line of the log about itself.
    pub(super) fn of_log(level: Level, message: String) -> Self {
        let values = Values { message, fields: Vec::new() };
        Self { level, time: Local::now(), thread: thread_name(), metadata: None, values }
    }

    /// Its approximate size in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        let texts = self.values.fields.iter().map(|(name, value)| name.len() + value.as_str().map_or(8, str::len));
        size_of::<Self>() + self.values.message.len() + texts.sum::<usize>()
    }

    /// Whether it should also be shown on the terminal of a foreground server.
    pub(super) fn is_for_terminal(&self) -> bool {
        self.level <= Level::Error || self.metadata.is_some_and(|metadata| metadata.target() == AUDIT_TARGET)
    }

    /// The line of gearmand's log file, with its end of line. DEBUG lines name their source, as gearmand's do
    /// at nearly every level.
    pub(super) fn human(&self) -> String {
        let mut line = format!(
            "{:>7} {} [{:>THREAD_COLUMNS$} ] ",
            self.level,
            self.time.format("%Y-%m-%d %H:%M:%S%.6f"),
            self.thread,
        );
        line.push_str(&self.text());
        if self.level == Level::Debug
            && let Some((file, number)) = self.place()
        {
            let _ = write!(line, " -> {file}:{number}");
        }
        line.push('\n');
        line
    }

    /// The line of a JSON log, with its end of line.
    pub(super) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            level: &'static str,
            thread: &'a str,
            module: Option<&'static str>,
            message: &'a str,
            #[serde(skip_serializing_if = "Map::is_empty")]
            fields: Map<String, Value>,
        }
        let line = Line {
            time: self.time.to_rfc3339_opts(SecondsFormat::Micros, false),
            level: self.level.name(),
            thread: &self.thread,
            module: self.metadata.and_then(Metadata::module_path),
            message: &self.values.message,
            fields: self.values.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The datagram for a local syslog daemon (RFC 3164 without the host name, as libc's).
    pub(super) fn syslog(&self, pid: u32) -> String {
        format!(
            "<{}>{} {IDENT}[{pid}]: {}",
            FACILITY_USER | self.level as u8,
            self.time.format("%b %e %H:%M:%S"),
            truncated(self.text(), MAX_DATAGRAM_TEXT),
        )
    }

    /// The datagram for the systemd journal. No value contains a line end, so the simple `NAME=value` form is
    /// enough.
    pub(super) fn journal(&self) -> String {
        let mut text = format!(
            "PRIORITY={}\nSYSLOG_IDENTIFIER={IDENT}\nTHREAD={}\nMESSAGE={}\n",
            self.level as u8,
            Escaped(&self.thread),
            truncated(self.text(), MAX_DATAGRAM_TEXT),
        );
        if let Some((file, number)) = self.place() {
            let _ = write!(text, "CODE_FILE={file}\nCODE_LINE={number}\n");
        }
        for (name, value) in &self.values.fields {
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            let value = truncated(Escaped(&plain(value)).to_string(), MAX_DATAGRAM_TEXT);
            let _ = writeln!(text, "GEARMAN_{name}={value}");
        }
        text
    }

    fn place(&self) -> Option<(&'static str, u32)> {
        let metadata = self.metadata?;
        Some((metadata.file()?, metadata.line()?))
    }

    /// The escaped message and its `key=value` fields.
    fn text(&self) -> String {
        let mut text = Escaped(&self.values.message).to_string();
        for (name, value) in &self.values.fields {
            if !text.is_empty() {
                text.push(' ');
            }
            let value = plain(value);
            let _ = if needs_quotes(&value) {
                write!(text, "{name}={value:?}")
            } else {
                write!(text, "{name}={}", Escaped(&value))
            };
        }
        text
    }
}

impl Values {
    fn add(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, Value::String(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, Value::from(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::from(value));
    }
}

/// The name of the current thread, truncated to its width; `-` for a thread without a name.
fn thread_name() -> String {
    std::thread::current().name().unwrap_or("-").chars().take(THREAD_COLUMNS).collect()
}

/// A value without JSON's quotes around strings.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn needs_quotes(value: &str) -> bool {
    value.is_empty() || value.chars().any(|c| c.is_whitespace() || c == '"' || c == '=')
}

/// Truncates a text to at most `limit` bytes, at a character boundary.
fn truncated(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

/// Displays control characters, line and paragraph separators and bidirectional marks as escapes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}
