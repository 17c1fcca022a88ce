//! Names of stores: what kind, where, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Store, StoreError};
use crate::job_server::StoreFailure;

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// gearmand's `--libsqlite3-table`.
        table: String,
        /// Whether a table made by C++ gearmand keeps its primary key, which costs most of the speed.
        keep_primary_key: bool,
    },
    /// A table in PostgreSQL.
    Postgres {
        /// A connection string as libpq reads it: `host=... user=...` or `postgresql://...`.
        conninfo: String,
        /// gearmand's `--libpq-table`.
        table: String,
    },
    /// A table in MySQL or MariaDB.
    Mysql {
        /// Host name, address, or the path of a UNIX socket.
        host: String,
        /// Port of TCP.
        port: u16,
        /// User.
        user: String,
        /// Password; empty for none.
        password: String,
        /// Database.
        database: String,
        /// gearmand's `--mysql-table`.
        table: String,
    },
    /// Keys in Redis.
    Redis {
        /// Host name or address, or the path of a UNIX socket.
        host: String,
        /// Port of TCP.
        port: u16,
        /// Password; empty for none.
        password: String,
        /// gearmand's `--redis-prefix`.
        prefix: String,
    },
}

/// gearmand's names for tables and keys, used where nothing else is said.
pub mod defaults {
    /// `--libsqlite3-table`
    pub const SQLITE_TABLE: &str = "gearman_queue";
    /// `--libpq-table`
    pub const POSTGRES_TABLE: &str = "queue";
    /// `--mysql-table`
    pub const MYSQL_TABLE: &str = "gearman_queue";
    /// `--redis-prefix`
    pub const REDIS_PREFIX: &str = "_gear_";
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To keep jobs: it is made where it is not there, locked against other servers, and converted where it is older.
    Own,
    /// To look: nothing is made, locked, converted or set aside, and a server may be using it.
    Read,
}

impl Location {
    /// Opens the store. Jobs without a handle get one with `prefix`.
    ///
    /// # Errors
    /// What could not be opened, why, and what to do.
    pub fn open(&self, access: Access, prefix: &Arc<str>) -> Result<Box<dyn Store>, StoreError> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite { path, table, keep_primary_key } => {
                let store = super::sqlite::SqliteStore::open(path, table, *keep_primary_key, access, prefix)?;
                Ok(Box::new(store))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres { conninfo, table } => {
                Ok(Box::new(super::postgres::Postgres::open(conninfo, table, access, prefix)?))
            }
            #[cfg(feature = "mysql")]
            Self::Mysql { .. } => Ok(Box::new(super::mysql::Mysql::open(self, access, prefix)?)),
            #[cfg(feature = "redis")]
            Self::Redis { .. } => Ok(Box::new(super::redis::Redis::open(self, access, prefix)?)),
            #[allow(unreachable_patterns, reason = "which of them are left depends on the features")]
            Self::Sqlite { .. } | Self::Postgres { .. } | Self::Mysql { .. } | Self::Redis { .. } => {
                Err(StoreError::new(StoreFailure::Refused, format!("{self}: this build has no such store")))
            }
        }
    }
}

/// For people to read, without passwords.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path, table, .. } => write!(f, "SQLite file {} (table {table})", path.display()),
            Self::Postgres { table, .. } => write!(f, "PostgreSQL (table {table})"),
            Self::Mysql { host, port, database, table, .. } => {
                write!(f, "MySQL at {host}:{port} (database {database}, table {table})")
            }
            Self::Redis { host, port, prefix, .. } => write!(f, "Redis at {host}:{port} (prefix {prefix})"),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
