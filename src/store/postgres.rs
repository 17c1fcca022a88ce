//! Jobs in a table of PostgreSQL: C++ gearmand's table and columns, and additional ones.
//!
//! # The format
//! C++ gearmand reads and writes `unique_key`, `function_name`, `priority`, `data` and `when_to_run`. The
//! additional columns are all nullable: `job_id`, the job number; `handle`; `reducer`; `submitted`; `flags`
//! ([`super::row`]); `attempts`; `due`, the due time if it does not fit into `when_to_run`; `unique_bytes`
//! and `function_bytes`, for names that are not valid text in this database or too long for their column. If
//! the unique id cannot be stored in `unique_key`, or there is none, `unique_key` has the handle, because C++
//! gearmand looks up a job's row by it. Earlier versions left it NULL.
//!
//! The single row of `<table>_meta` holds the format version and the highest job number. `<table>_settings`
//! holds the operator settings of functions and workers, by name. Invalid rows are moved to
//! `<table>_quarantine`.
//!
//! # Two servers
//! An advisory lock on the table's oid keeps a second server away. It lives as long as the connection, so a
//! pooler that shares connections between transactions (PgBouncer's `pool_mode = transaction`) must not be
//! used. After a network failure, PostgreSQL may not notice for a long time that the old connection is dead,
//! so the new connection terminates it.

mod changes;
mod edits;
mod errors;
mod replay;
mod schema;

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::config::{Config, Host};
use tokio_postgres::{Client, NoTls};

use self::errors::Failed;
use self::schema::{Backend, Table};
use super::driver::{self, CONNECT_LIMIT, Driver, Reconnecting, answer, within};
use super::location::Access;
use super::row::Prefixes;
use super::strangers::Strangers;
use super::{Changes, HasWorkload, Replayed, Store, StoreError, Workloads};
use crate::job_server::{JobKey, StoreFailure, StoredJob};

/// Where libpq looks for a server if no host is given.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// See the module.
pub(super) struct Postgres {
    connection: Reconnecting<Session>,
    config: Config,
    /// Human-readable name of the database, without passwords.
    name: String,
    /// As configured.
    table: String,
    access: Access,
    prefixes: Prefixes,
    /// The backend of the previous connection, which may linger after a network failure.
    last_backend: Option<Backend>,
    /// Whether settings that can lose jobs were already logged.
    warned: bool,
    strangers: Strangers,
}

/// A connection, and what is known about the server.
struct Session {
    client: Client,
    backend: Backend,
    table: Table,
    /// Whether the database uses UTF-8; otherwise only ASCII is stored as text.
    utf8: bool,
    /// Whether the server does not wait for the disk by default.
    asynchronous: bool,
    /// The prepared statements; `None` for read access.
    statements: Option<changes::Statements>,
}

impl Postgres {
    /// Connects, and for [`Access::Own`] creates or converts the table.
    ///
    /// # Errors
    /// The connection string is wrong, the server cannot be reached or rejects the connection, another server
    /// has the table, or its format is unknown.
    pub(super) fn open(conninfo: &str, table: &str, access: Access, prefix: &Arc<str>) -> Result<Self, StoreError> {
        let config = read_conninfo(conninfo)?;
        let mut store = Self {
            connection: Reconnecting::new()?,
            name: describe(&config, table),
            config,
            table: table.to_owned(),
            access,
            prefixes: Prefixes::new(prefix),
            last_backend: None,
            warned: false,
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
        let Self { connection, config, name, table, access, last_backend, .. } = self;
        let (mut seen, last) = (None, last_backend.as_ref());
        let done = connection.with(
            (name.as_str(), purpose),
            &async |driver: &Driver| connect(driver, config, table, *access, last).await,
            async |session| {
                seen = Some(session.seen());
                work(session).await
            },
        );
        self.saw(seen, done.is_ok());
        done
    }

    /// See [`Reconnecting::with_again`].
    fn with_session_again<T>(
        &mut self,
        purpose: &str,
        work: &impl AsyncFn(&mut Session, bool) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let Self { connection, config, name, table, access, last_backend, .. } = self;
        let seen = RefCell::new(None);
        let done = connection.with_again(
            (name.as_str(), purpose),
            &async |driver: &Driver| {
                let last = seen.borrow().as_ref().map(|(backend, _): &(Backend, bool)| backend.clone());
                connect(driver, config, table, *access, last.as_ref().or(last_backend.as_ref())).await
            },
            &async |session: &mut Session, again: bool| {
                seen.replace(Some(session.seen()));
                work(session, again).await
            },
        );
        self.saw(seen.into_inner(), done.is_ok());
        done
    }

    fn saw(&mut self, seen: Option<(Backend, bool)>, is_done: bool) {
        if let Some((backend, asynchronous)) = seen {
            self.last_backend = Some(backend);
            if is_done {
                self.warn_once(asynchronous);
            }
        }
    }

    fn warn_once(&mut self, asynchronous: bool) {
        if asynchronous && !self.warned && self.access == Access::Own {
            self.warned = true;
            // Jobs can be lost, so this is logged at a level that is on by default.
            tracing::error!(
                "{}: the server acknowledges commits before they are on its disk (synchronous_commit or fsync is off); \
                 synchronous_commit is enabled for durable jobs; enable fsync in the server's configuration",
                self.name
            );
        }
    }
}

impl Session {
    /// The backend, and whether it answers before jobs are on its disk.
    fn seen(&self) -> (Backend, bool) {
        (self.backend.clone(), self.asynchronous)
    }
}

impl driver::Session for Session {
    type Error = tokio_postgres::Error;

    async fn answers(&mut self) -> bool {
        matches!(within(CONNECT_LIMIT, self.client.batch_execute("SELECT 1")).await, Some(Ok(())))
    }
}

/// Connects and prepares the table. `last` is the backend of the previous connection.
async fn connect(
    driver: &Driver,
    config: &Config,
    table: &str,
    access: Access,
    last: Option<&Backend>,
) -> Result<Session, Failed> {
    let sockets = config.get_hosts().iter().filter_map(|host| match host {
        Host::Unix(path) => Some(path),
        Host::Tcp(_) => None,
    });
    let gone: Vec<_> = sockets.filter(|path| !path.is_dir()).collect();
    if let Some(path) = gone.first().filter(|_| gone.len() == config.get_hosts().len()) {
        return Err(Failed::NoDirectory(path.display().to_string()));
    }
    let (client, connection) = within(CONNECT_LIMIT, config.connect(NoTls)).await.ok_or(Failed::Connecting)??;
    driver.run_along(async move {
        // The error that ends a connection is reported by its client.
        let _ = connection.await;
    });
    schema::prepare(client, table, access, last).await
}

impl Store for Postgres {
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
        if let Some(text) = changes::refusal(changes) {
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

/// Parses a connection string, with libpq's defaults from the environment.
fn read_conninfo(conninfo: &str) -> Result<Config, StoreError> {
    let mut config: Config = conninfo.parse().map_err(|error: tokio_postgres::Error| {
        // The driver's text names a key, never a value.
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        StoreError::new(
            StoreFailure::Refused,
            format!("PostgreSQL: the connection string is not valid: {reason}; expected host=... dbname=... or postgresql://..."),
        )
    })?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(variable("PGHOST").unwrap_or_else(|| SOCKET_DIRECTORY.to_owned()));
    }
    if config.get_ports().is_empty()
        && let Some(port) = variable("PGPORT").and_then(|port| port.parse().ok())
    {
        config.port(port);
    }
    if config.get_user().is_none()
        && let Some(user) = variable("PGUSER")
    {
        config.user(user);
    }
    if config.get_dbname().is_none()
        && let Some(database) = variable("PGDATABASE")
    {
        config.dbname(database);
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_application_name().is_none() {
        config.application_name("gearmand");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_LIMIT);
    }
    Ok(config)
}

/// A human-readable name for the target of a connection string, without passwords.
pub(super) fn name(conninfo: &str, table: &str) -> String {
    // Errors in it are reported when it is opened.
    read_conninfo(conninfo).map_or_else(|_| format!("PostgreSQL (table {table})"), |config| describe(&config, table))
}

fn describe(config: &Config, table: &str) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .chain(config.get_hostaddrs().iter().map(ToString::to_string))
        .collect();
    let database = config.get_dbname().map(|name| format!("database {name}, ")).unwrap_or_default();
    format!("PostgreSQL at {} ({database}table {table})", hosts.join(", "))
}
