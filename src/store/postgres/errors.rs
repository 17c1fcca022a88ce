//! What goes wrong with PostgreSQL, and what the operator is told to do.

use std::error::Error;
use std::io;

use tokio_postgres::error::SqlState;

use super::super::StoreError;
use super::super::driver::{ANSWER_LIMIT, CONNECT_LIMIT};
use crate::job_server::StoreFailure;

/// What to do where either side demands TLS.
const NO_TLS: &str = "this server speaks to PostgreSQL without TLS: use sslmode=disable or prefer and a line for it in \
                      pg_hba.conf, a UNIX socket or a tunnel";

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The driver or the database says so.
    Driver(tokio_postgres::Error),
    /// No connection came about in time.
    Connecting,
    /// No answer came in time.
    NoAnswer,
    /// There is no directory in which the server's socket could come to be.
    NoDirectory(String),
    /// This store itself says so: what, and in words.
    Here(StoreFailure, String),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Driver(error)
    }
}

impl Failed {
    /// Whether trying again cannot mend it: somebody has to change a setting, here or in the database.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Driver(error) => error.as_db_error().map_or_else(
                || is_about_settings(error),
                |database| matches!(&database.code().code()[..2], "28" | "3D"),
            ),
            Self::NoDirectory(_) => true,
            Self::Connecting | Self::NoAnswer | Self::Here(..) => false,
        }
    }

    /// For clients and for the operator.
    pub(super) fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(error) => explain_driver(error),
            Self::Connecting => (
                StoreFailure::Unreachable,
                format!("no connection within {} s", CONNECT_LIMIT.as_secs()),
                "see whether it runs and whether its address is right",
            ),
            Self::NoAnswer => (
                StoreFailure::Unreachable,
                format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                "see whether it runs, and what it waits for (pg_stat_activity)",
            ),
            Self::NoDirectory(directory) => (
                StoreFailure::Unreachable,
                format!("there is no directory {directory} for the server's socket"),
                "see host=... in the connection string",
            ),
            Self::Here(failure, reason) => (*failure, reason.clone(), ""),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// Whether an error without a word of the database is about the connection string, or about what the server demands;
/// errors of reading and writing may pass.
fn is_about_settings(error: &tokio_postgres::Error) -> bool {
    let is_io = error.source().is_some_and(<dyn Error>::is::<io::Error>);
    let text = error.to_string();
    !is_io
        && ["invalid configuration", "error performing TLS", "authentication"]
            .iter()
            .any(|start| text.starts_with(start))
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
            "see whether it runs and whether its address is right"
        };
        return (StoreFailure::Unreachable, reason, advice);
    };
    let code = database.code();
    let (failure, advice) = judge(code);
    let advice = if database.message().ends_with("no encryption") { NO_TLS } else { advice };
    let detail = database.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    (failure, format!("{}{detail} [SQLSTATE {}]", database.message(), code.code()), advice)
}

/// What a state means for clients, and what to do about it.
fn judge(code: &SqlState) -> (StoreFailure, &'static str) {
    if *code == SqlState::DISK_FULL {
        return (StoreFailure::Full, "make room on the database's disk");
    }
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return (
            StoreFailure::ReadOnly,
            "connect to the primary (target_session_attrs=read-write), or let it be written to",
        );
    }
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return (StoreFailure::Io, "grant this user the table, or let it own the table so that columns can be added");
    }
    match &code.code()[..2] {
        "08" | "57" if *code != SqlState::QUERY_CANCELED => {
            (StoreFailure::Unreachable, "it is being stopped or started")
        }
        "28" => {
            (StoreFailure::Unreachable, "see user and password in the connection string, and the server's pg_hba.conf")
        }
        "3D" => (StoreFailure::Unreachable, "create the database, or name another in the connection string"),
        "53" => (StoreFailure::Full, "the database lacks connections, memory or space"),
        "22" | "23" | "54" => (StoreFailure::Refused, "this job does not fit into the table"),
        _ => (StoreFailure::Io, "see the database's log"),
    }
}
