//! What `gearmand submit` prints: results to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::{Map, Value};

use super::listing::json_text;
use super::pipeline::{Ending, Job};
use super::{ToolError, terminal};
use crate::protocol::request::leading_count;

/// Format of the output.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Style {
    /// One JSON object per job.
    pub(super) json: bool,
    /// Adds a newline to a result that does not end with one, so that the results of many jobs can be told
    /// apart.
    pub(super) newline: bool,
    /// Background jobs: print their handles as the results.
    pub(super) handles: bool,
    /// Report the handle and the progress of every job.
    pub(super) verbose: bool,
}

/// Output of the tool.
pub(super) struct Output {
    style: Style,
    unique: Vec<u8>,
    /// Text that is not written yet, in order.
    buffer: Vec<u8>,
    /// Last byte of the result that is being printed in parts.
    last: Option<u8>,
    bar: ProgressBar,
    many: bool,
}

impl Output {
    /// `many`: whether more than one job may be submitted; the progress bar then counts jobs.
    pub(super) fn new(style: Style, unique: Vec<u8>, progress: bool, many: bool) -> Self {
        let bar = if progress && io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        bar.set_style(template("{spinner} {pos} jobs, {rate}, {elapsed}"));
        if many {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { style, unique, buffer: Vec::new(), last: None, bar, many }
    }

    /// Sets the total number of jobs, once all have been read.
    pub(super) fn total(&mut self, count: u64) {
        if self.many {
            self.bar.set_length(count);
            self.bar.set_style(template("{wide_bar} {pos}/{len} jobs, {rate}, {eta} left"));
        }
    }

    /// Whether parts of a result may be printed before the job is done.
    pub(super) const fn streams(&self) -> bool {
        !self.style.json
    }

    /// Prints a part of the result of the job that is next in the output.
    pub(super) fn part(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
        self.last = data.last().copied().or(self.last);
    }

    /// Reports the handle of a job.
    pub(super) fn created(&self, number: u64, handle: &[u8]) {
        if self.style.verbose {
            self.message(format_args!("job {number}: handle {}", handle.escape_ascii()));
        }
    }

    /// Writes a warning to standard error as the worker sent it; on a terminal, control characters are
    /// escaped.
    pub(super) fn warning(&self, data: &[u8]) {
        if self.style.json {
            return;
        }
        let data = &terminal::harmless(data, io::stderr().is_terminal());
        self.bar.suspend(|| {
            let mut stderr = io::stderr().lock();
            // A closed standard error is ignored.
            let _ = stderr.write_all(data);
            if data.last().is_some_and(|last| *last != b'\n') {
                let _ = stderr.write_all(b"\n");
            }
        });
    }

    /// Shows the progress of a job.
    pub(super) fn status(&self, number: u64, numerator: &[u8], denominator: &[u8]) {
        if !self.many
            && let (done, all @ 1..) = (leading_count(numerator), leading_count(denominator))
        {
            self.bar.set_style(template("{wide_bar} {pos}/{len}, {eta} left"));
            self.bar.set_length(all);
            self.bar.set_position(done);
        }
        if self.style.verbose {
            let (numerator, denominator) = (numerator.escape_ascii(), denominator.escape_ascii());
            self.message(format_args!("job {number}: {numerator}/{denominator}"));
        }
    }

    /// Prints a finished job that is next in the output. Parts that were printed before are no longer in it.
    pub(super) fn finished(&mut self, job: &Job, ending: &Ending) {
        if self.style.json {
            let object = self.object(job, ending);
            self.buffer.extend_from_slice(json_text(&object).as_bytes());
            self.buffer.push(b'\n');
        } else {
            self.text(job, ending);
        }
        if self.many {
            self.bar.inc(1);
        }
        self.last = None;
    }

    fn text(&mut self, job: &Job, ending: &Ending) {
        for data in &job.data {
            self.part(data);
        }
        if let Ending::Complete(result) = ending {
            self.part(result);
        }
        if let (Ending::Created, Some(handle)) = (ending, &job.handle)
            && self.style.handles
        {
            self.buffer.extend_from_slice(&terminal::harmless_on_stdout(handle));
            self.buffer.push(b'\n');
        }
        if self.style.newline && *ending != Ending::Created {
            let complete = matches!(ending, Ending::Complete(_));
            if self.last.map_or(complete, |last| last != b'\n') {
                self.buffer.push(b'\n');
            }
        }
        if let Some(why) = ending.problem() {
            let handle = job.handle.as_ref().map_or_else(String::new, |handle| format!(" ({})", handle.escape_ascii()));
            self.message(format_args!("job {}{handle} {why}", job.number));
        }
    }

    fn object(&self, job: &Job, ending: &Ending) -> Value {
        let mut object = Map::new();
        object.insert("job".to_owned(), Value::from(job.number));
        insert_bytes(&mut object, "function", job.function.as_bytes());
        if !self.unique.is_empty() {
            insert_bytes(&mut object, "unique", &self.unique);
        }
        if let Some(handle) = &job.handle {
            insert_bytes(&mut object, "handle", handle);
        }
        object.insert("outcome".to_owned(), Value::from(ending.name()));
        if !job.data.is_empty() {
            insert_bytes(&mut object, "data", &job.data.concat());
        }
        if !job.warnings.is_empty() {
            insert_bytes(&mut object, "warnings", &job.warnings.concat());
        }
        match ending {
            Ending::Complete(result) => insert_bytes(&mut object, "result", result),
            Ending::Exception(exception) => insert_bytes(&mut object, "exception", exception),
            Ending::Rejected(why) => {
                object.insert("error".to_owned(), Value::from(why.clone()));
            }
            Ending::Created | Ending::Failed | Ending::Lost | Ending::TimedOut => {}
        }
        Value::Object(object)
    }

    /// Writes a message that the server caused, rate limited.
    pub(super) fn message_of_server(&self, message: std::fmt::Arguments<'_>) {
        super::limit::limited(message, |line| self.message(line));
    }

    /// Writes a message for people.
    pub(super) fn message(&self, message: std::fmt::Arguments<'_>) {
        self.bar.suspend(|| super::tell("submit", message));
    }

    /// Writes the buffered output.
    pub(super) fn flush(&mut self) -> Result<(), ToolError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = &self.buffer;
        let printed = self.bar.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(buffer).and_then(|()| stdout.flush())
        });
        self.buffer.clear();
        printed.map_err(|error| ToolError::Io("cannot print results", error))
    }

    /// Ends the output.
    pub(super) fn close(&mut self) -> Result<(), ToolError> {
        self.bar.finish_and_clear();
        self.flush()
    }

    /// Output that has not been flushed.
    #[cfg(test)]
    pub(super) fn pending(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

/// Creates a progress bar style; `{rate}` is jobs per second.
pub(crate) fn template(text: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Writing to a string does not fail.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    })
}

/// Inserts bytes as text if they are UTF-8, otherwise base64 encoded as `NAME_base64`.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), Value::from(text)),
        Err(_) => object.insert(format!("{name}_base64"), Value::from(base64(bytes))),
    };
}

/// Base64 as in RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| group.get(index).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= group.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    text
}

/// Copies a small slice, so that keeping it does not keep the whole buffer it was received in.
pub(super) fn keep(bytes: &Bytes) -> Bytes {
    const SMALL: usize = 4096;
    if bytes.len() < SMALL { Bytes::copy_from_slice(bytes) } else { bytes.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_to_groups_of_four() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\x00", "//79AA==")]
        {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_say_so_in_their_name() {
        let mut object = Map::new();
        insert_bytes(&mut object, "a", "grün".as_bytes());
        insert_bytes(&mut object, "b", b"\xff");
        assert_eq!(Value::Object(object), serde_json::json!({"a": "grün", "b_base64": "/w=="}));
    }
}
