//! Queries a server for the data to show.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::actions::word;
use super::cpp_compat;
use super::data::{Snapshot, add_queued};
use super::views::View;
use crate::client::admin_text::{TextAnswer, TextConnection};
use crate::client::table::{Facts, Table, lossy};

/// States of jobs in query order, and how many jobs are shown of each. Running jobs matter most; of a long
/// queue a part is enough.
const JOBS: [(&str, usize); 3] = [("running", 500), ("queued", 500), ("scheduled", 200)];
/// How many jobs of a C++ gearmand are shown. It lists all of them, whatever their state.
const CPP_JOBS: usize = 1200;
/// Maximum number of pages per update: a page of jobs may be empty without being the last one.
const PAGES: usize = 4;

/// What to query. The server as a whole is always included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) views: &'static [View],
    /// If set, only the jobs of this function.
    pub(super) jobs_of: Option<Vec<u8>>,
    /// A worker's id or a job's handle for which all details are queried.
    pub(super) details: Option<(Detail, Vec<u8>)>,
}

/// Kind of an item that has details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Worker,
    Job,
}

impl Query {
    /// All lists.
    pub(super) fn everything() -> Self {
        Self { views: &View::ALL, ..Self::default() }
    }

    /// The list of a view.
    pub(super) fn of(view: View) -> Self {
        let all: &'static [View] = &View::ALL;
        Self { views: &all[view.index()..=view.index()], ..Self::default() }
    }

    fn wants(&self, view: View) -> bool {
        self.views.contains(&view)
    }
}

/// A connection, and what is known about the server.
pub(super) struct Fetcher {
    connection: TextConnection,
    timeout: Duration,
    begin: Instant,
    version: Vec<u8>,
    is_cpp: Option<bool>,
}

impl Fetcher {
    /// Queries over `connection`; each response must arrive within `timeout`. Times of snapshots count from
    /// `begin`.
    pub(super) fn new(connection: TextConnection, timeout: Duration, begin: Instant) -> Self {
        Self { connection, timeout, begin, version: Vec::new(), is_cpp: None }
    }

    /// Sends a line and waits for its response.
    ///
    /// # Errors
    /// Why the connection is no longer usable.
    pub(super) async fn ask(&mut self, line: &[u8]) -> Result<TextAnswer, String> {
        match tokio::time::timeout(self.timeout, self.connection.ask(line)).await {
            Ok(Ok(answer)) => Ok(answer.answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", self.timeout.as_secs_f64())),
        }
    }

    /// Lines of a listing; empty if the server answers with an error.
    async fn lines(&mut self, line: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Ok(match self.ask(line).await? {
            TextAnswer::Listing(lines) => lines,
            TextAnswer::Ok(_) | TextAnswer::Err(_) => Vec::new(),
        })
    }

    async fn table(&mut self, line: &[u8]) -> Result<Option<Table>, String> {
        Ok(Table::parse(&self.lines(line).await?))
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// Why the connection is no longer usable.
    pub(super) async fn fetch(&mut self, query: &Query) -> Result<Snapshot, String> {
        let mut snapshot = Snapshot { at: self.begin.elapsed().as_secs_f64(), ..Snapshot::default() };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        snapshot.now_unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        if self.is_cpp != Some(true) {
            match self.ask(b"show server").await? {
                TextAnswer::Listing(lines) => {
                    self.is_cpp = Some(false);
                    snapshot.server = Facts::parse(&lines);
                }
                // A server that knew the command before is busy.
                _ if self.is_cpp == Some(false) => {}
                _ => {
                    self.is_cpp = Some(true);
                    if let TextAnswer::Ok(version) = self.ask(b"version").await? {
                        self.version = version;
                    }
                }
            }
        }
        snapshot.is_cpp = self.is_cpp == Some(true);
        if snapshot.is_cpp {
            self.fetch_cpp(query, &mut snapshot).await?;
        } else {
            self.fetch_ours(query, &mut snapshot).await?;
        }
        if let Some(functions) = &mut snapshot.functions {
            add_queued(functions);
        }
        Ok(snapshot)
    }

    async fn fetch_ours(&mut self, query: &Query, snapshot: &mut Snapshot) -> Result<(), String> {
        if query.wants(View::Functions) {
            snapshot.functions = self.table(b"show functions").await?;
        }
        if query.wants(View::Workers) {
            snapshot.workers = self.table(b"show workers").await?;
            if let Some(workers) = &mut snapshot.workers {
                workers.add_failures("failures");
            }
        }
        if query.wants(View::Jobs) {
            snapshot.jobs_of.clone_from(&query.jobs_of);
            snapshot.jobs = self.jobs(query.jobs_of.as_deref()).await?;
        }
        if query.wants(View::Server) {
            snapshot.rules = self.table(b"show rules").await?;
        }
        if let Some((detail, name)) = &query.details {
            let command: &[u8] = match detail {
                Detail::Worker => b"show worker ",
                Detail::Job => b"show job ",
            };
            let facts = match self.ask(&[command, &word(name)].concat()).await? {
                TextAnswer::Listing(lines) => Ok(Facts::parse(&lines)),
                TextAnswer::Ok(text) | TextAnswer::Err(text) => Err(lossy(&text).replace('+', " ")),
            };
            snapshot.details = Some((name.clone(), facts));
        }
        Ok(())
    }

    async fn jobs(&mut self, function: Option<&[u8]>) -> Result<Option<Table>, String> {
        let mut all: Option<Table> = None;
        for (state, most) in JOBS {
            let mut after = String::new();
            let mut found = 0;
            for _ in 0..PAGES {
                let mut line = format!("list jobs state={state} limit={}{after}", most - found).into_bytes();
                if let Some(function) = function {
                    line.extend_from_slice(b" function=");
                    line.extend_from_slice(&word(function));
                }
                let Some(mut page) = self.table(&line).await? else { return Ok(all) };
                found += page.rows.len();
                let next = page.next.take();
                let all = all.get_or_insert_with(|| Table { columns: page.columns.clone(), ..Table::default() });
                all.rows.append(&mut page.rows);
                let Some(next) = next else {
                    after.clear();
                    break;
                };
                after = format!(" after={next}");
                if found >= most {
                    break;
                }
            }
            if let Some(all) = all.as_mut().filter(|_| !after.is_empty()) {
                all.next = Some(after);
            }
        }
        Ok(all)
    }

    async fn fetch_cpp(&mut self, query: &Query, snapshot: &mut Snapshot) -> Result<(), String> {
        let status = self.lines(b"status").await?;
        let by_priority = self.lines(b"prioritystatus").await?;
        let functions = cpp_compat::functions(&status, &by_priority);
        snapshot.server = cpp_compat::server(&self.version, &functions);
        snapshot.functions = Some(functions);
        if query.wants(View::Workers) {
            snapshot.workers = Some(cpp_compat::workers(&self.lines(b"workers").await?));
        }
        if query.wants(View::Jobs) {
            snapshot.jobs = Some(cpp_compat::jobs(&self.lines(b"show jobs").await?, CPP_JOBS));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    /// Queries a server that has these responses and answers all other commands with an error. Returns the
    /// queries too.
    async fn fetched(query: &Query, answers: &'static [(&'static str, &'static str)]) -> (Snapshot, Vec<String>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        let server = tokio::spawn(async move {
            let (reader, mut writer) = tokio::io::split(theirs);
            let mut lines = BufReader::new(reader).lines();
            let mut asked = Vec::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                let known = answers.iter().find(|(question, _)| *question == line);
                let answer = known.map_or("ERR UNKNOWN_COMMAND Unknown\r\n", |(_, answer)| answer);
                asked.push(line);
                writer.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        let connection = TextConnection::new((Box::new(reader), Box::new(writer)));
        let mut fetcher = Fetcher::new(connection, Duration::from_secs(20), Instant::now());
        let snapshot = fetcher.fetch(query).await.unwrap();
        drop(fetcher);
        (snapshot, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_server_that_knows_no_more_is_asked_what_it_knows() {
        let (snapshot, asked) = fetched(
            &Query::everything(),
            &[
                ("version", "OK 1.1.19.1\n"),
                ("status", "rev\t3\t1\t2\n.\n"),
                ("prioritystatus", "rev\t0\t2\t0\t2\n.\n"),
                ("workers", "30 ::1 w : rev\n.\n"),
                ("show jobs", "H:h:1\t0\t0\t1\n.\n"),
            ],
        )
        .await;
        assert_eq!(asked, ["show server", "version", "status", "prioritystatus", "workers", "show jobs"]);
        assert!(snapshot.is_cpp);
        assert_eq!(snapshot.server.get("version"), Some(&b"1.1.19.1"[..]));
        let functions = snapshot.functions.unwrap();
        assert_eq!(functions.cell(&functions.rows[0], "queued"), Some(&b"2"[..]));
        assert_eq!(snapshot.workers.unwrap().rows.len(), 1);
        assert_eq!(snapshot.jobs.unwrap().rows.len(), 1);
    }

    #[tokio::test]
    async fn jobs_come_in_pages_by_state() {
        let query = Query {
            jobs_of: Some(b"f".to_vec()),
            details: Some((Detail::Job, b"H:h:1".to_vec())),
            ..Query::of(View::Jobs)
        };
        let (snapshot, asked) = fetched(
            &query,
            &[
                ("show server", "version\t9\n.\n"),
                ("list jobs state=running limit=500 function=f", "# handle state\nH:h:1\trunning\n# next 4\n.\n"),
                ("list jobs state=running limit=499 after=4 function=f", "# handle state\nH:h:2\trunning\n.\n"),
                ("list jobs state=queued limit=500 function=f", "# handle state\n# next 5\n.\n"),
                ("list jobs state=queued limit=500 after=5 function=f", "# handle state\n# next 5\n.\n"),
                ("list jobs state=scheduled limit=200 function=f", "# handle state\n.\n"),
                ("show job H:h:1", "ERR NO_SUCH_JOB No+such+job\r\n"),
            ],
        )
        .await;
        // Pages without jobs must not be requested endlessly.
        assert_eq!(asked.len(), 1 + 2 + PAGES + 1 + 1, "{asked:?}");
        let jobs = snapshot.jobs.unwrap();
        assert_eq!(jobs.text(0), "HANDLE  STATE\nH:h:1   running\nH:h:2   running\n");
        assert!(jobs.next.is_some());
        assert_eq!(snapshot.details.unwrap().1.unwrap_err(), "NO_SUCH_JOB No such job");
    }
}
