//! What goes wrong with MySQL and MariaDB, and what the operator is told to do.

use mysql_async::{DriverError, Error};

use super::super::StoreError;
use super::super::driver::{ANSWER_LIMIT, CONNECT_LIMIT};
use crate::job_server::StoreFailure;

/// Errors of user, password, database and demanded TLS.
const LASTING: [u16; 6] = [1044, 1045, 1049, 1130, 1698, 3159];

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The driver or the database says so.
    Driver(Error),
    /// No connection came about in time.
    Connecting,
    /// No answer came in time.
    NoAnswer,
    /// There is no directory in which the server's socket could come to be.
    NoDirectory(String),
    /// This store itself says so: what, and in words.
    Here(StoreFailure, String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

impl Failed {
    /// Whether trying again cannot mend it: somebody has to change a setting, here or in the database.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Driver(Error::Server(error)) => LASTING.contains(&error.code),
            Self::Driver(Error::Driver(error)) => matches!(
                error,
                DriverError::UnknownAuthPlugin { .. }
                    | DriverError::MysqlOldPasswordDisabled
                    | DriverError::NoClientSslFlagFromServer
                    | DriverError::CleartextPluginDisabled
            ),
            Self::NoDirectory(_) => true,
            Self::Driver(_) | Self::Connecting | Self::NoAnswer | Self::Here(..) => false,
        }
    }

    /// Whether the database has understood, and does not want it.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Driver(Error::Server(error)) if judge(error.code).0 == StoreFailure::Refused)
    }

    /// For clients and for the operator.
    pub(super) fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(Error::Server(error)) => {
                let (failure, advice) = if error.message.ends_with("(using password: NO)") {
                    (StoreFailure::Unreachable, "MySQL asks for a password: add --mysql-password=...")
                } else {
                    judge(error.code)
                };
                (failure, format!("{} [{} {}]", error.message, error.code, error.state), advice)
            }
            Self::Driver(error) => {
                (StoreFailure::Unreachable, error.to_string(), "see whether it runs and whether its address is right")
            }
            Self::Connecting => (
                StoreFailure::Unreachable,
                format!("no connection within {} s", CONNECT_LIMIT.as_secs()),
                "see whether it runs and whether its address is right",
            ),
            Self::NoAnswer => (
                StoreFailure::Unreachable,
                format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                "see whether it runs, and what it waits for (SHOW PROCESSLIST)",
            ),
            Self::NoDirectory(socket) => (
                StoreFailure::Unreachable,
                format!("there is no directory for the server's socket {socket}"),
                "see --mysql-host",
            ),
            Self::Here(failure, reason) => (*failure, reason.clone(), ""),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// What an error number means for clients, and what to do about it.
fn judge(code: u16) -> (StoreFailure, &'static str) {
    match code {
        3159 => (StoreFailure::Unreachable, "this server speaks to MySQL without TLS: use its UNIX socket or a tunnel"),
        code if LASTING.contains(&code) => {
            (StoreFailure::Unreachable, "see user, password and database, and what the user was granted")
        }
        1040 | 1053 | 1077 | 1079 | 1203 | 1927 | 2006 | 2013 => {
            (StoreFailure::Unreachable, "it is being stopped or has too many connections")
        }
        1021 | 1030 | 1037 | 1041 | 1114 => (StoreFailure::Full, "make room for the database"),
        1290 | 1792 | 1836 | 3989 => (StoreFailure::ReadOnly, "connect to the primary, or let it be written to"),
        1142 | 1227 => (StoreFailure::Io, "grant this user CREATE, ALTER, INDEX, INSERT, UPDATE, DELETE and SELECT"),
        1205 => (StoreFailure::Locked, "see which other session holds locks on the table (SHOW ENGINE INNODB STATUS)"),
        1062 | 1118 | 1153 | 1264 | 1366 | 1406 | 3988 => {
            (StoreFailure::Refused, "this job does not fit into the table")
        }
        _ => (StoreFailure::Io, "see the database's log"),
    }
}
