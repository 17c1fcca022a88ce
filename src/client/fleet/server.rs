//! A server as seen by the monitor: its text commands, and fan-outs over it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::fan_out::{Answered, JobRequest, request_all};
use crate::client::address::ServerAddress;
use crate::client::admin_text::{TextAnswer, TextConnection};
use crate::client::connection;
use crate::client::listing::{Listing, printable};
use crate::client::table::Table;

/// State of a function on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Known {
    pub(super) total: u64,
    pub(super) running: u64,
    pub(super) workers: u64,
    /// Age of the oldest waiting job, in seconds; C++ gearmand does not report it.
    pub(super) oldest_s: Option<f64>,
    /// Whether the function is paused.
    pub(super) is_paused: bool,
    /// Limit of running jobs; 0 for none.
    pub(super) max_running: u64,
}

/// Memory limit for a listing, in bytes: enough for a server with as many functions as its default limit
/// allows.
pub(super) const LISTING_MAX: usize = 64 << 20;

/// The functions of a server.
pub(super) type Functions = BTreeMap<String, Known>;

/// A server, and the connection for text commands.
pub(super) struct Server {
    pub(super) address: ServerAddress,
    pub(super) connect_timeout: Duration,
    text: Option<TextConnection>,
    /// Whether it has no `show functions`.
    is_plain: bool,
}

impl Server {
    pub(super) const fn new(address: ServerAddress, connect_timeout: Duration) -> Self {
        Self { address, connect_timeout, text: None, is_plain: false }
    }

    /// The functions, with their number of jobs and workers, and whether the connection is a new one.
    ///
    /// # Errors
    /// Why the server cannot be queried; the next call reconnects.
    pub(super) async fn functions(&mut self, limit: Duration) -> Result<(Functions, bool), String> {
        let was_connected = self.text.is_some();
        let asked = tokio::time::timeout(limit.max(self.connect_timeout), self.ask_functions()).await;
        let result = asked.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        if result.is_err() {
            self.text = None;
        }
        result.map(|functions| (functions, !was_connected)).map_err(|error| format!("{}: {error}", self.address))
    }

    async fn ask_functions(&mut self) -> Result<Functions, String> {
        let mut functions = Functions::new();
        for line in self.listing("status").await? {
            if let Some((name, known)) = read_line(&line) {
                functions.insert(name, known);
            }
        }
        if self.is_plain {
            return Ok(functions);
        }
        let Some(table) = self.table("show functions").await? else {
            self.is_plain = true;
            return Ok(functions);
        };
        for row in &table.rows {
            let name = table.cell(row, "name").map(String::from_utf8_lossy).unwrap_or_default();
            if let Some(known) = functions.get_mut(name.as_ref()) {
                known.oldest_s = table.number(row, "oldest_s");
                known.is_paused = table.number(row, "paused").is_some_and(|paused| paused > 0.0);
                let most = table.cell(row, "max_running").and_then(|most| std::str::from_utf8(most).ok());
                known.max_running = most.and_then(|most| most.parse().ok()).unwrap_or(0);
            }
        }
        Ok(functions)
    }

    async fn ask(&mut self, line: &str) -> Result<TextAnswer, String> {
        let text = if let Some(text) = &mut self.text {
            text
        } else {
            let stream = connection::open(&self.address, self.connect_timeout).await;
            self.is_plain = false;
            let stream = stream.map_err(|error| error.to_string())?;
            self.text.insert(TextConnection::with_most(stream, LISTING_MAX))
        };
        let answer = text.ask(line).await;
        answer.map(|answer| answer.answer).map_err(|error: io::Error| error.to_string())
    }

    async fn listing(&mut self, line: &str) -> Result<Vec<Vec<u8>>, String> {
        match self.ask(line).await? {
            TextAnswer::Listing(lines) => Ok(lines),
            TextAnswer::Ok(text) | TextAnswer::Err(text) => {
                Err(format!("unexpected answer to {line}: {}", printable(&String::from_utf8_lossy(&text))))
            }
        }
    }

    async fn table(&mut self, line: &str) -> Result<Option<Table>, String> {
        match self.ask(line).await? {
            TextAnswer::Listing(lines) => Ok(Table::parse(&lines)),
            TextAnswer::Ok(_) | TextAnswer::Err(_) => Ok(None),
        }
    }

    /// Client ids of the connections that registered a function.
    ///
    /// # Errors
    /// Why the server cannot be queried.
    pub(super) async fn clients_of(&mut self, function: &str, limit: Duration) -> Result<Vec<String>, String> {
        let lines = tokio::time::timeout(limit, self.listing("workers")).await;
        let lines = lines.unwrap_or_else(|_| Err("no answer".to_owned()));
        if lines.is_err() {
            self.text = None;
        }
        let cells = lines?.into_iter().map(|line| Listing::Workers.cells(&line));
        Ok(cells
            .filter(|cells| cells[3].split(' ').any(|name| name == function))
            .map(|cells| cells[2].clone())
            .collect())
    }

    /// Drops functions that have neither jobs nor workers.
    ///
    /// # Errors
    /// Why the server cannot be queried. A refusal to drop one is not an error.
    pub(super) async fn forget(&mut self, functions: &[String], limit: Duration) -> Result<(), String> {
        let dropping = async {
            for function in functions {
                self.ask(&format!("drop function {function}")).await?;
            }
            Ok(())
        };
        let result = tokio::time::timeout(limit, dropping).await.unwrap_or_else(|_| Err("no answer".to_owned()));
        if result.is_err() {
            self.text = None;
        }
        result
    }

    /// Runs a fan-out.
    ///
    /// # Errors
    /// When the connection cannot be established.
    pub(super) async fn request_all(&self, requests: &[JobRequest], limit: Duration) -> Result<Vec<Answered>, String> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let asked = request_all(&self.address, self.connect_timeout, requests, limit).await;
        asked.map_err(|error| format!("{}: {error}", self.address))
    }
}

/// Parses a line of `status`. Names that are not UTF-8 do not belong to a fleet.
pub(super) fn read_line(line: &[u8]) -> Option<(String, Known)> {
    let mut cells = line.rsplitn(4, |byte| *byte == b'\t');
    let mut number = || std::str::from_utf8(cells.next()?).ok()?.trim().parse().ok();
    let (workers, running, total) = (number()?, number()?, number()?);
    let name = String::from_utf8(cells.next()?.to_vec()).ok()?;
    Some((name, Known { total, running, workers, ..Known::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_status_is_read_from_its_end() {
        let known = Known { total: 3, running: 1, workers: 2, ..Known::default() };
        assert_eq!(read_line(b"f\t3\t1\t2"), Some(("f".to_owned(), known)));
        assert_eq!(read_line(b"a\tb\t3\t1\t2"), Some(("a\tb".to_owned(), known)));
        for strange in [&b""[..], b"f\t1\t2", b"f\t-1\t0\t0", b"\xff\t0\t0\t0"] {
            assert_eq!(read_line(strange), None, "{strange:?}");
        }
    }
}
