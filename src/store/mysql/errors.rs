//! MySQL and MariaDB errors, and the advice for the operator.

use mysql_async::{DriverError, Error};

use super::super::driver;
use crate::job_server::StoreFailure;

/// Errors about user, password, database and required TLS.
const LASTING: [u16; 6] = [1044, 1045, 1049, 1130, 1698, 3159];

/// Errors that end a valid connection, statement or transaction: it was killed, the server is stopping, or
/// there was a deadlock. Conditions that take time to pass are not included.
const PASSING: [u16; 8] = [1053, 1077, 1213, 1317, 1927, 2006, 2013, 4031];

/// Why an operation failed.
pub(super) type Failed = driver::Failed<Error>;

impl driver::DriverError for Error {
    const WAITS: &str = "SHOW PROCESSLIST";
    const SOCKET: &str = "--mysql-host";

    fn is_lasting(&self) -> bool {
        match self {
            Self::Server(error) => LASTING.contains(&error.code),
            Self::Driver(error) => matches!(
                error,
                DriverError::UnknownAuthPlugin { .. }
                    | DriverError::MysqlOldPasswordDisabled
                    | DriverError::NoClientSslFlagFromServer
                    | DriverError::CleartextPluginDisabled
            ),
            _ => false,
        }
    }

    fn is_passing(&self) -> bool {
        match self {
            Self::Server(error) => PASSING.contains(&error.code),
            Self::Io(_) => true,
            Self::Driver(error) => {
                matches!(error, DriverError::ConnectionClosed | DriverError::PoolDisconnected)
            }
            Self::Other(_) | Self::Url(_) => false,
        }
    }

    fn meaning(&self) -> (StoreFailure, String, &'static str) {
        let Self::Server(error) = self else {
            let advice = "check that it is running and that its address is correct";
            return (StoreFailure::Unreachable, self.to_string(), advice);
        };
        let (failure, advice) = if error.message.ends_with("(using password: NO)") {
            (StoreFailure::Unreachable, "MySQL asks for a password: add --mysql-password=...")
        } else {
            judge(error.code)
        };
        (failure, format!("{} [{} {}]", error.message, error.code, error.state), advice)
    }
}

/// Maps an error number to the code for clients and the advice.
fn judge(code: u16) -> (StoreFailure, &'static str) {
    match code {
        3159 => (StoreFailure::Unreachable, "gearmand connects to MySQL without TLS: use its UNIX socket or a tunnel"),
        code if LASTING.contains(&code) => {
            (StoreFailure::Unreachable, "check user, password and database, and the user's grants")
        }
        1040 | 1053 | 1077 | 1079 | 1203 | 1927 | 2006 | 2013 | 4031 => {
            (StoreFailure::Unreachable, "it is shutting down, or has too many connections")
        }
        1021 | 1030 | 1037 | 1041 | 1114 => (StoreFailure::Full, "free some disk space for the database"),
        1290 | 1792 | 1836 | 3989 => (StoreFailure::ReadOnly, "connect to the primary, or make the server writable"),
        1142 | 1227 => (StoreFailure::Io, "grant this user CREATE, ALTER, INDEX, INSERT, UPDATE, DELETE and SELECT"),
        1205 => (StoreFailure::Locked, "check which other session locks the table (SHOW ENGINE INNODB STATUS)"),
        1062 | 1118 | 1153 | 1264 | 1366 | 1406 | 3988 => {
            (StoreFailure::Refused, "this job does not fit into the table")
        }
        _ => (StoreFailure::Io, "check the database's log"),
    }
}
