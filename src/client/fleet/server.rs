//! One server, as the monitor sees it: what its text commands tell, and the rounds of questions that go over it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::round::{Answered, Question, ask_all};
use crate::client::address::ServerAddress;
use crate::client::admin_text::{TextAnswer, TextConnection};
use crate::client::connection;
use crate::client::listing::{Listing, printable};
use crate::client::table::Table;

/// A function, as a server tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Known {
    pub(super) total: u64,
    pub(super) running: u64,
    pub(super) workers: u64,
    /// The age of the oldest job that waits, in seconds; C++ gearmand does not tell.
    pub(super) oldest_s: Option<f64>,
    /// The operator withholds its jobs.
    pub(super) is_paused: bool,
    /// So many may run at once, 0 for any number.
    pub(super) max_running: u64,
}

/// The memory that a listing may take, in bytes: that of a server with all the functions that it takes by default.
pub(super) const LISTING_MAX: usize = 64 << 20;

/// The functions of a server.
pub(super) type Functions = BTreeMap<String, Known>;

/// A server, and the connection for text commands.
pub(super) struct Server {
    pub(super) address: ServerAddress,
    pub(super) connect_timeout: Duration,
    text: Option<TextConnection>,
    /// It has no `show functions`.
    is_plain: bool,
}

impl Server {
    pub(super) const fn new(address: ServerAddress, connect_timeout: Duration) -> Self {
        Self { address, connect_timeout, text: None, is_plain: false }
    }

    /// What functions there are, how many jobs and workers each has, and whether the connection is a new one.
    ///
    /// # Errors
    /// Why the server cannot be asked; the next call connects again.
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
                Err(format!("{line} is answered with {}", printable(&String::from_utf8_lossy(&text))))
            }
        }
    }

    async fn table(&mut self, line: &str) -> Result<Option<Table>, String> {
        match self.ask(line).await? {
            TextAnswer::Listing(lines) => Ok(Table::parse(&lines)),
            TextAnswer::Ok(_) | TextAnswer::Err(_) => Ok(None),
        }
    }

    /// The client ids of the connections that do a function.
    ///
    /// # Errors
    /// Why the server cannot be asked.
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

    /// Lets the server forget functions that have neither jobs nor workers.
    ///
    /// # Errors
    /// Why the server cannot be asked. That it does not want to is none.
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

    /// A round of questions.
    ///
    /// # Errors
    /// When there is no connection.
    pub(super) async fn ask_all(&self, questions: &[Question], limit: Duration) -> Result<Vec<Answered>, String> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let asked = ask_all(&self.address, self.connect_timeout, questions, limit).await;
        asked.map_err(|error| format!("{}: {error}", self.address))
    }
}

/// A line of `status`. A name that is no UTF-8 is none of a fleet's.
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
