//! Redis errors, and the advice for the operator.

use std::time::Duration;

use ::redis::{ErrorKind, RedisError};

use super::super::StoreError;
use super::ANSWER_LIMIT;
use crate::job_server::StoreFailure;

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// An error from the driver or the database.
    Driver(RedisError),
    /// The response timed out after this time.
    NoAnswer(Duration),
    /// The directory of the server's socket does not exist, so the socket cannot appear there.
    NoDirectory(String),
    /// An error detected by the store itself: code and text.
    Here(StoreFailure, String),
}

impl From<RedisError> for Failed {
    fn from(error: RedisError) -> Self {
        Self::within(ANSWER_LIMIT, error)
    }
}

impl From<::redis::ParsingError> for Failed {
    fn from(error: ::redis::ParsingError) -> Self {
        Self::Driver(error.into())
    }
}

impl Failed {
    /// An error of an operation with this timeout.
    pub(super) fn within(limit: Duration, error: RedisError) -> Self {
        if error.is_timeout() { Self::NoAnswer(limit) } else { Self::Driver(error) }
    }

    /// Whether the error is permanent: retrying does not help until somebody changes a setting, here or in
    /// Redis.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Driver(error) => {
                is_about_password(error) || error.kind() == ErrorKind::InvalidClientConfig || is_cluster(error)
            }
            Self::NoDirectory(_) => true,
            Self::NoAnswer(_) | Self::Here(..) => false,
        }
    }

    /// Whether Redis rejected the write because it is full or read-only, and did nothing.
    pub(super) fn is_refused_write(&self) -> bool {
        matches!(self, Self::Driver(error) if matches!(judge(error).0, StoreFailure::Full | StoreFailure::ReadOnly))
    }

    /// Whether the connection has ended, so that a new one may work. Not after a timeout: the callers have
    /// waited long enough.
    pub(super) fn is_severed(&self) -> bool {
        matches!(self, Self::Driver(error) if error.is_io_error() || error.is_connection_dropped())
    }

    /// Builds the error for clients and the operator.
    pub(super) fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(error) => {
                let (failure, advice) = judge(error);
                (failure, error.to_string(), advice)
            }
            Self::NoAnswer(limit) => (
                StoreFailure::Unreachable,
                format!("no answer within {} s", limit.as_secs()),
                "check that it is running, and what it waits for",
            ),
            Self::NoDirectory(socket) => (
                StoreFailure::Unreachable,
                format!("the directory of the server's socket {socket} does not exist"),
                "see --redis-server",
            ),
            Self::Here(failure, reason) => (*failure, reason.clone(), ""),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// Maps an error to the code for clients and the advice.
fn judge(error: &RedisError) -> (StoreFailure, &'static str) {
    let says = |code: &str| says(error, code);
    if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        return (StoreFailure::Unreachable, "check that it is running and that its address is correct");
    }
    if says("OOM") {
        return (StoreFailure::Full, "raise its maxmemory, or let workers catch up");
    }
    // The driver has its own word for the first one when it reports a failed transaction.
    if says("READONLY") || says("ReadOnly") || says("MISCONF") {
        return (StoreFailure::ReadOnly, "connect to the primary; check Redis's log for why it cannot write");
    }
    if says("NOAUTH") {
        return (StoreFailure::Unreachable, "Redis asks for a password: add --redis-password=...");
    }
    if is_about_password(error) {
        return (StoreFailure::Unreachable, "check the password");
    }
    if is_cluster(error) {
        return (
            StoreFailure::Unreachable,
            "a cluster cannot hold a queue: use a single Redis, with replicas if you like",
        );
    }
    if says("LOADING") || says("MASTERDOWN") || says("TRYAGAIN") {
        return (StoreFailure::Unreachable, "it is starting");
    }
    if says("NOPERM") {
        return (StoreFailure::Io, "grant this user read and write access to the keys of the prefix");
    }
    (StoreFailure::Io, "check Redis's log")
}

fn says(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.to_string().contains(code)
}

fn is_about_password(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || says(error, "NOAUTH") || says(error, "WRONGPASS")
}

/// Whether the server is a node of a cluster.
fn is_cluster(error: &RedisError) -> bool {
    ["MOVED", "CROSSSLOT", "CLUSTERDOWN"].iter().any(|code| says(error, code))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_missing_answer_is_named_with_its_time() {
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut] {
            let failed = Failed::from(RedisError::from(io::Error::from(kind)));
            let error = failed.explain("Redis", "keep jobs");
            assert_eq!(error.failure, StoreFailure::Unreachable);
            assert!(error.text.contains("could not keep jobs: no answer within 10 s"), "{error}");
        }
        let failed = Failed::from(RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert!(!failed.explain("Redis", "keep jobs").text.contains("no answer"));
    }
}
