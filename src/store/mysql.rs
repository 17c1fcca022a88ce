//! Jobs in a table of MySQL or MariaDB: C++ gearmand's table and columns, and additional ones.
//!
//! # The format
//! C++ gearmand reads and writes `unique_key`, `function_name`, `priority`, `data` and `when_to_run`. The two
//! texts are VARBINARY here, since with the usual collations the table's unique key treats `Case` and `case`
//! as equal. The additional columns are all nullable: `job_id`, the job number; `handle`; `reducer`;
//! `submitted`; `flags` ([`super::row`]); `attempts`; `due`, the due time if it does not fit into
//! `when_to_run`; and `unique_bytes`, the unique id if it cannot be stored in `unique_key`. In that case, or
//! if there is no unique id, `unique_key` has the handle, because C++ gearmand looks up a job's row by it.
//! Earlier versions left it NULL.
//!
//! The single row of `<table>_meta` holds the format version and the highest job number. `<table>_settings`
//! holds the operator settings of functions and workers, by name. Invalid rows are moved to
//! `<table>_quarantine`.
//!
//! # Two servers
//! A named lock (`GET_LOCK`) keeps a second server away as long as the connection lives. After a network
//! failure, MySQL may not notice for a long time that the old connection is dead, so the new connection kills
//! it.

mod changes;
mod edits;
mod errors;
mod replay;
mod schema;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};

use self::errors::Failed;
use self::schema::Table;
use super::driver::{self, CONNECT_LIMIT, Driver, Reconnecting, answer, within};
use super::location::{Access, Location};
use super::row::Prefixes;
use super::strangers::Strangers;
use super::{Changes, HasWorkload, Replayed, Store, StoreError, Workloads};
use crate::job_server::{JobKey, StoreFailure, StoredJob};

/// See the module.
pub(super) struct Mysql {
    connection: Reconnecting<Session>,
    options: Opts,
    /// Human-readable name of the database, without passwords.
    name: String,
    /// As configured.
    table: String,
    access: Access,
    prefixes: Prefixes,
    /// The id of the previous connection, which may linger after a network failure.
    last_id: Option<u64>,
    /// Whether settings that can lose jobs were already logged.
    warned: bool,
    /// The server's `max_allowed_packet` in bytes, as of the last connection.
    packet_max: usize,
    strangers: Strangers,
}

/// A connection, and what is known about the server.
struct Session {
    connection: Conn,
    /// Its id on the server.
    id: u64,
    table: Table,
    /// The server's `max_allowed_packet`, in bytes.
    packet_max: usize,
    /// The server's `innodb_flush_log_at_trx_commit`, if it is not 1.
    flushes_late: Option<u64>,
}

impl Mysql {
    /// Connects, and for [`Access::Own`] creates or converts the table. `location` must be a MySQL location.
    ///
    /// # Errors
    /// The server cannot be reached or rejects the connection, another server has the table, or its format is
    /// unknown.
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
            // Otherwise the driver switches from TCP to the server's socket path, which in a container may
            // belong to another server.
            .prefer_socket(socket)
            .user(given(user))
            .pass(given(password))
            .db_name(given(database))
            .tcp_keepalive(Some(std::time::Duration::from_secs(20)))
            .tcp_nodelay(true)
            // One statement for each power of two.
            .stmt_cache_size(64_usize);
        let mut store = Self {
            connection: Reconnecting::new()?,
            options: options.into(),
            name: location.to_string(),
            table: table.clone(),
            access,
            prefixes: Prefixes::new(prefix),
            last_id: None,
            warned: false,
            packet_max: 0,
            strangers: Strangers::default(),
        };
        store.with_session("open the table", async |_| Ok(()))?;
        Ok(store)
    }

    /// See [`Reconnecting::with`].
    fn with_session<T>(
        &mut self,
        purpose: &str,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let Self { connection, options, name, table, access, last_id, .. } = self;
        let (mut seen, last) = (None, *last_id);
        let done = connection.with(
            (name.as_str(), purpose),
            &async |_: &Driver| connect(options, table, *access, last).await,
            async |session| {
                seen = Some(session.seen());
                work(session).await
            },
        );
        self.saw(seen);
        done
    }

    /// See [`Reconnecting::with_again`].
    fn with_session_again<T>(
        &mut self,
        purpose: &str,
        work: &impl AsyncFn(&mut Session, bool) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let Self { connection, options, name, table, access, last_id, .. } = self;
        let seen: Cell<Option<Seen>> = Cell::new(None);
        let done = connection.with_again(
            (name.as_str(), purpose),
            &async |_: &Driver| connect(options, table, *access, seen.get().map(|seen| seen.id).or(*last_id)).await,
            &async |session: &mut Session, again: bool| {
                seen.set(Some(session.seen()));
                work(session, again).await
            },
        );
        self.saw(seen.get());
        done
    }

    fn saw(&mut self, seen: Option<Seen>) {
        if let Some(Seen { id, packet_max, flushes_late }) = seen {
            self.packet_max = packet_max;
            self.last_id = Some(id);
            self.warn_once(flushes_late);
        }
    }

    fn warn_once(&mut self, flushes_late: Option<u64>) {
        if let Some(value) = flushes_late
            && !self.warned
            && self.access == Access::Own
        {
            self.warned = true;
            // Jobs can be lost, so this is logged at a level that is on by default.
            tracing::error!(
                "{}: acknowledged jobs can be lost when the database's host loses power, since \
                 innodb_flush_log_at_trx_commit is {value}; set it to 1",
                self.name
            );
        }
    }
}

/// What is remembered about a connection.
#[derive(Clone, Copy)]
struct Seen {
    id: u64,
    packet_max: usize,
    flushes_late: Option<u64>,
}

impl Session {
    fn seen(&self) -> Seen {
        Seen { id: self.id, packet_max: self.packet_max, flushes_late: self.flushes_late }
    }
}

impl driver::Session for Session {
    type Error = mysql_async::Error;

    async fn answers(&mut self) -> bool {
        matches!(within(CONNECT_LIMIT, self.connection.ping()).await, Some(Ok(())))
    }
}

/// Connects and prepares the table. `last` is the id of the previous connection.
async fn connect(options: &Opts, table: &str, access: Access, last: Option<u64>) -> Result<Session, Failed> {
    if let Some(directory) = options.socket().and_then(|socket| Path::new(socket).parent())
        && !directory.is_dir()
    {
        return Err(Failed::NoDirectory(directory.display().to_string()));
    }
    let connecting = Conn::new(options.clone());
    let connection = within(CONNECT_LIMIT, connecting).await.ok_or(Failed::Connecting)??;
    schema::prepare(connection, table, access, last).await
}

impl Store for Mysql {
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        let (access, mut prefixes) = (self.access, self.prefixes.clone());
        let replayed =
            self.with_session("read jobs", async |session| replay::run(session, access, &mut prefixes, take).await)?;
        if replayed.quarantined > 0 && access == Access::Own {
            tracing::warn!(
                "{}: {} invalid rows were quarantined in {}_quarantine, with the reason",
                self.name,
                replayed.quarantined,
                self.table
            );
        }
        Ok(replayed)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if self.access == Access::Read {
            let text = format!("{}: could not keep jobs: the table was opened read-only", self.name);
            return Err(StoreError::new(StoreFailure::ReadOnly, text));
        }
        if let Some(text) = changes::refusal(changes, self.packet_max) {
            return Err(StoreError::new(StoreFailure::Refused, format!("{}: {text}", self.name)));
        }
        let made_way = self.with_session_again("keep jobs", &async |session: &mut Session, again| {
            changes::commit(session, changes, again).await
        })?;
        self.strangers.note(&self.name, made_way);
        Ok(())
    }

    fn load(&mut self, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.with_session_again("read workloads", &async |session: &mut Session, _| {
            replay::load(session, jobs, most_bytes).await
        })
    }
}
