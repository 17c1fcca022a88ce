//! Jobs in a table of MySQL or MariaDB: C++ gearmand's table and columns, and some more.
//!
//! # The format
//! `unique_key`, `function_name`, `priority`, `data` and `when_to_run` are what C++ gearmand reads and writes; the two texts
//! are VARBINARY here, since with the usual collations `Case` and `case` are the same to the table's unique key. Beside them
//! stand, all of them nullable: `job_id`, the number of the job; `handle`; `reducer`; `submitted`; `flags`
//! ([`super::entry`]); `attempts`; `due`, the due time where it does not fit into `when_to_run`; and `unique_bytes`, where the
//! unique id cannot stand in `unique_key`. There, or where there is no unique id, `unique_key` has the handle: C++ gearmand
//! finds a job's row by it. Earlier versions left NULL.
//!
//! The version of the format and the highest number stand in the one row of `<table>_meta`. Rows that make no sense are
//! moved to `<table>_set_aside`.
//!
//! # Two servers
//! A lock by name (`GET_LOCK`) keeps a second server away for as long as the connection lives. Where the network broke MySQL
//! may not miss the old connection for long: the new one ends it.

mod changes;
mod edits;
mod errors;
mod replay;
mod schema;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};

use self::errors::Failed;
use self::schema::Table;
use super::driver::{ANSWER_LIMIT, CONNECT_LIMIT, Driver, IDLE_LIMIT, STATEMENT_LIMIT, within};
use super::entry::Prefixes;
use super::location::{Access, Location};
use super::{Changes, HasWorkload, Replayed, Store, StoreError, Workloads};
use crate::job_server::{JobKey, StoreFailure, StoredJob};

/// See the module.
pub(super) struct Mysql {
    // Before the driver, since it ends first.
    session: Option<Session>,
    driver: Driver,
    options: Opts,
    /// The database, for people to read, without passwords.
    name: String,
    /// As configured.
    table: String,
    access: Access,
    prefixes: Prefixes,
    last_used: Instant,
    /// The id of the last connection: it may linger where the network broke.
    last_id: Option<u64>,
    /// Whether it has ever been there. Before that, what trying again cannot mend is refused.
    opened: bool,
    /// Whether the operator was told of settings with which jobs can be lost.
    warned: bool,
    /// The server's `max_allowed_packet`, in bytes, as of the last connection.
    packet_max: usize,
}

/// One connection, and what is known of the other side.
struct Session {
    connection: Conn,
    /// Its id on the server.
    id: u64,
    table: Table,
    /// The server's `max_allowed_packet`, in bytes.
    packet_max: usize,
    /// The server's `innodb_flush_log_at_trx_commit`, where it is not 1.
    flushes_late: Option<u64>,
}

impl Mysql {
    /// Connects, and makes or converts the table where that is asked for. `location` is one of MySQL.
    ///
    /// # Errors
    /// The server cannot be reached or refuses, another server has the table, or its format is not known.
    pub(super) fn open(location: &Location, access: Access, prefix: &Arc<str>) -> Result<Self, StoreError> {
        let Location::Mysql { host, port, user, password, database, table } = location else {
            return Err(StoreError::new(StoreFailure::Io, format!("{location} is not in MySQL")));
        };
        let socket = host.starts_with('/');
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let options = OptsBuilder::default()
            .ip_or_hostname(if socket { "localhost".to_owned() } else { host.clone() })
            .tcp_port(*port)
            .socket(socket.then(|| host.clone()))
            // Otherwise the driver leaves TCP for the server's own socket, which may be another server's in a container.
            .prefer_socket(socket)
            .user(given(user))
            .pass(given(password))
            .db_name(given(database))
            .tcp_keepalive(Some(std::time::Duration::from_secs(20)))
            .tcp_nodelay(true)
            // One statement for each power of two.
            .stmt_cache_size(64_usize);
        let mut store = Self {
            session: None,
            driver: Driver::new()?,
            options: options.into(),
            name: location.to_string(),
            table: table.clone(),
            access,
            prefixes: Prefixes::new(prefix),
            last_used: Instant::now(),
            last_id: None,
            opened: false,
            warned: false,
            packet_max: 0,
        };
        store.with_session("open the table", async |_| Ok(()))?;
        store.opened = true;
        Ok(store)
    }

    /// Does something with a connection that works, after it is made where there is none. `purpose` completes the sentence
    /// "could not ...".
    fn with_session<T>(
        &mut self,
        purpose: &str,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let idle = self.last_used.elapsed() > IDLE_LIMIT;
        let mut kept = self.session.take();
        let result = self.driver.run(async {
            if idle && let Some(session) = &mut kept {
                let answer = within(CONNECT_LIMIT, session.connection.ping()).await;
                if !matches!(answer, Some(Ok(()))) {
                    kept = None;
                }
            }
            let mut session = match kept {
                Some(session) => session,
                None => self.connect().await?,
            };
            let done = work(&mut session).await;
            Ok((session, done))
        });
        self.last_used = Instant::now();
        let (session, done) = match result {
            Ok(both) => both,
            Err(failed) => return Err(self.error(purpose, &failed)),
        };
        self.packet_max = session.packet_max;
        self.last_id = Some(session.id);
        self.warn_once(session.flushes_late);
        let error = match done {
            Ok(value) => {
                self.session = Some(session);
                return Ok(value);
            }
            Err(failed) => self.error(purpose, &failed),
        };
        // A refused job was rolled back; of a connection with any other failure nothing is known.
        if error.failure == StoreFailure::Refused {
            self.session = Some(session);
        }
        Err(error)
    }

    fn error(&self, purpose: &str, failed: &Failed) -> StoreError {
        let error = failed.explain(&self.name, purpose);
        let failure = if !self.opened && failed.is_lasting() { StoreFailure::Refused } else { error.failure };
        StoreError { failure, ..error }
    }

    async fn connect(&self) -> Result<Session, Failed> {
        if let Some(socket) = self.options.socket()
            && !Path::new(socket).parent().is_some_and(Path::is_dir)
        {
            return Err(Failed::NoDirectory(socket.to_owned()));
        }
        let connecting = Conn::new(self.options.clone());
        let connection = within(CONNECT_LIMIT, connecting).await.ok_or(Failed::Connecting)??;
        schema::prepare(connection, &self.table, self.access, self.last_id).await
    }

    fn warn_once(&mut self, flushes_late: Option<u64>) {
        if let Some(value) = flushes_late
            && !self.warned
            && self.access == Access::Own
        {
            self.warned = true;
            // Jobs can be lost: that is said at the level that is logged by default.
            tracing::error!(
                "{}: acknowledged jobs can be lost when the database's host loses power, since \
                 innodb_flush_log_at_trx_commit is {value}; set it to 1",
                self.name
            );
        }
    }
}

/// An answer of the database, within its time.
async fn answer<T>(future: impl Future<Output = Result<T, mysql_async::Error>>) -> Result<T, Failed> {
    Ok(within(ANSWER_LIMIT, future).await.ok_or(Failed::NoAnswer)??)
}

impl Store for Mysql {
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        let (access, mut prefixes) = (self.access, self.prefixes.clone());
        let replayed =
            self.with_session("read jobs", async |session| replay::run(session, access, &mut prefixes, take).await)?;
        if replayed.set_aside > 0 && access == Access::Own {
            tracing::warn!(
                "{}: {} rows made no sense and were moved to {}_set_aside, with the reason",
                self.name,
                replayed.set_aside,
                self.table
            );
        }
        Ok(replayed)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if self.access == Access::Read {
            let text = format!("{}: could not keep jobs: the table was opened for reading", self.name);
            return Err(StoreError::new(StoreFailure::ReadOnly, text));
        }
        if let Some(text) = changes::refusal(changes, self.packet_max) {
            return Err(StoreError::new(StoreFailure::Refused, format!("{}: {text}", self.name)));
        }
        self.with_session("keep jobs", async |session| changes::commit(session, changes).await)
    }

    fn load(&mut self, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.with_session("read workloads", async |session| replay::load(session, jobs, most_bytes).await)
    }
}
