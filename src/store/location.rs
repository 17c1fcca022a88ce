//! Store locations: the kind of store, where it is, and how to open it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Store, StoreError};
use crate::job_server::StoreFailure;

/// The location of a store.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// gearmand's `--libsqlite3-table`.
        table: String,
        /// Whether a table created by C++ gearmand keeps its primary key, which costs most of the speed.
        keep_primary_key: bool,
    },
    /// A table in PostgreSQL.
    Postgres {
        /// A libpq connection string: `host=... user=...` or `postgresql://...`.
        conninfo: String,
        /// gearmand's `--libpq-table`.
        table: String,
    },
    /// A table in MySQL or MariaDB.
    Mysql {
        /// Host name, address, or the path of a UNIX socket.
        host: String,
        /// TCP port.
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
        /// TCP port.
        port: u16,
        /// Password; empty for none.
        password: String,
        /// gearmand's `--redis-prefix`.
        prefix: String,
    },
}

/// gearmand's default names for tables and keys.
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

/// The purpose for which a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To keep jobs: the store is created if it does not exist, locked against other servers, and upgraded if
    /// it is older.
    Own,
    /// To inspect: nothing is created, locked, upgraded or quarantined, and a server may be using the store.
    Read,
}

impl Location {
    /// Opens the store. Jobs without a handle get one with `prefix`.
    ///
    /// # Errors
    /// The text says what could not be opened, why, and what to do.
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
                Err(StoreError::new(StoreFailure::Refused, format!("{self}: this build does not support this store")))
            }
        }
    }
}

/// A host with its port, or a socket path, which has no port. Text before an @ is removed: it contains a
/// password if somebody gave a URL as the host.
fn address(host: &str, port: u16) -> String {
    if host.starts_with('/') {
        return host.to_owned();
    }
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{host}:{port}")
}

/// Human-readable, without passwords.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path, table, .. } => write!(f, "SQLite file {} (table {table})", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres { conninfo, table } => f.write_str(&super::postgres::name(conninfo, table)),
            #[cfg(not(feature = "postgres"))]
            Self::Postgres { table, .. } => write!(f, "PostgreSQL (table {table})"),
            Self::Mysql { host, port, database, table, .. } => {
                write!(f, "MySQL at {} (database {database}, table {table})", address(host, *port))
            }
            Self::Redis { host, port, prefix, .. } => write!(f, "Redis at {} (prefix {prefix})", address(host, *port)),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_without_passwords() {
        let mysql = |host: &str| Location::Mysql {
            host: host.to_owned(),
            port: 3306,
            user: "u".to_owned(),
            password: "secret".to_owned(),
            database: "d".to_owned(),
            table: "t".to_owned(),
        };
        let redis = |host: &str| Location::Redis {
            host: host.to_owned(),
            port: 6379,
            password: "secret".to_owned(),
            prefix: "p".to_owned(),
        };
        let named = [
            (mysql("h"), "MySQL at h:3306 (database d, table t)"),
            (mysql("/run/mysqld.sock"), "MySQL at /run/mysqld.sock (database d, table t)"),
            (redis("h"), "Redis at h:6379 (prefix p)"),
            (redis("/run/redis.sock"), "Redis at /run/redis.sock (prefix p)"),
            (redis("redis://:secret@h"), "Redis at h:6379 (prefix p)"),
        ];
        for (location, name) in named {
            assert_eq!(location.to_string(), name);
            assert_eq!(format!("{location:?}"), name);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_connection_string_is_named_by_host_and_database() {
        let named =
            |conninfo: &str| Location::Postgres { conninfo: conninfo.to_owned(), table: "t".to_owned() }.to_string();
        let name = "PostgreSQL at h (database d, table t)";
        assert_eq!(named("host=h dbname=d user=u password='se cret'"), name);
        assert_eq!(named("postgresql://u:secret@h/d"), name);
        assert_eq!(named("host=/run/pg dbname=d"), "PostgreSQL at /run/pg (database d, table t)");
        assert_eq!(named("password=secret nonsense"), "PostgreSQL (table t)");
    }
}
