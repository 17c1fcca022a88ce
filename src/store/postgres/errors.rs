//! PostgreSQL errors, and the advice for the operator.

use std::error::Error;
use std::io;

use tokio_postgres::error::SqlState;

use super::super::driver::{self, DriverError};
use crate::job_server::StoreFailure;

/// Advice if either side requires TLS.
const NO_TLS: &str = "gearmand connects to PostgreSQL without TLS: use sslmode=disable or prefer and a line for it in \
                      pg_hba.conf, a UNIX socket or a tunnel";

/// Why an operation failed.
pub(super) type Failed = driver::Failed<tokio_postgres::Error>;

impl DriverError for tokio_postgres::Error {
    const WAITS: &str = "pg_stat_activity";
    const SOCKET: &str = "host=... in the connection string";

    fn is_lasting(&self) -> bool {
        self.as_db_error()
            .map_or_else(|| is_about_settings(self), |database| matches!(&database.code().code()[..2], "28" | "3D"))
    }

    fn is_passing(&self) -> bool {
        self.as_db_error().map_or_else(|| !is_about_settings(self), |database| is_passing(database.code()))
    }

    fn meaning(&self) -> (StoreFailure, String, &'static str) {
        explain_driver(self)
    }
}

/// Whether an error that did not come from the database concerns the connection string or a requirement of
/// the server. I/O errors may be transient.
fn is_about_settings(error: &tokio_postgres::Error) -> bool {
    let is_io = error.source().is_some_and(<dyn Error>::is::<io::Error>);
    let text = error.to_string();
    !is_io
        && ["invalid configuration", "error performing TLS", "authentication"]
            .iter()
            .any(|start| text.starts_with(start))
}

/// Whether this state means that a valid connection or transaction was ended. Conditions that take time to
/// pass are not included.
fn is_passing(code: &SqlState) -> bool {
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::IDLE_SESSION_TIMEOUT,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
    ]
    .contains(code)
        || code.code().starts_with("08")
}

fn explain_driver(error: &tokio_postgres::Error) -> (StoreFailure, String, &'static str) {
    let Some(database) = error.as_db_error() else {
        let reason = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        if reason.ends_with("password missing") {
            let text = "PostgreSQL asks for a password: add password=... to --libpq-conninfo".to_owned();
            return (StoreFailure::Unreachable, text, "");
        }
        let advice = if reason.contains("TLS") || reason.contains("tls") {
            NO_TLS
        } else {
            "check that it is running and that its address is correct"
        };
        return (StoreFailure::Unreachable, reason, advice);
    };
    let code = database.code();
    let (failure, advice) = judge(code);
    let advice = if database.message().ends_with("no encryption") { NO_TLS } else { advice };
    let detail = database.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    (failure, format!("{}{detail} [SQLSTATE {}]", database.message(), code.code()), advice)
}

/// Maps a state to the code for clients and the advice.
fn judge(code: &SqlState) -> (StoreFailure, &'static str) {
    if *code == SqlState::DISK_FULL {
        return (StoreFailure::Full, "free some space on the database's disk");
    }
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return (
            StoreFailure::ReadOnly,
            "connect to the primary (target_session_attrs=read-write), or make the server writable",
        );
    }
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return (StoreFailure::Io, "grant this user the table, or make it the owner so that columns can be added");
    }
    match &code.code()[..2] {
        "08" | "57" if *code != SqlState::QUERY_CANCELED => {
            (StoreFailure::Unreachable, "it is shutting down or starting")
        }
        "28" => {
            (StoreFailure::Unreachable, "check the connection string's user and password, and the server's pg_hba.conf")
        }
        "3D" => (StoreFailure::Unreachable, "create the database, or name another in the connection string"),
        "53" => (StoreFailure::Full, "the database lacks connections, memory or space"),
        "22" | "23" | "54" => (StoreFailure::Refused, "this job does not fit into the table"),
        _ => (StoreFailure::Io, "check the database's log"),
    }
}
