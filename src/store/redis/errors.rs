//! What goes wrong with Redis, and what the operator is told to do.

use std::time::Duration;

use ::redis::{ErrorKind, RedisError};

use super::super::StoreError;
use super::ANSWER_LIMIT;
use crate::job_server::StoreFailure;

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The driver or the database says so.
    Driver(RedisError),
    /// No answer came within this time.
    NoAnswer(Duration),
    /// There is no directory in which the server's socket could come to be.
    NoDirectory(String),
    /// This store itself says so: what, and in words.
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
    /// An error of something that had so much time.
    pub(super) fn within(limit: Duration, error: RedisError) -> Self {
        if error.is_timeout() { Self::NoAnswer(limit) } else { Self::Driver(error) }
    }

    /// Whether trying again cannot mend it: somebody has to change a setting, here or in Redis.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Driver(error) => {
                is_about_password(error) || error.kind() == ErrorKind::InvalidClientConfig || is_cluster(error)
            }
            Self::NoDirectory(_) => true,
            Self::NoAnswer(_) | Self::Here(..) => false,
        }
    }

    /// Whether Redis has answered that it is full or read-only, and has done nothing.
    pub(super) fn is_refused_write(&self) -> bool {
        matches!(self, Self::Driver(error) if matches!(judge(error).0, StoreFailure::Full | StoreFailure::ReadOnly))
    }

    /// Whether the connection has ended, and the next one may do. Where no answer came, everybody has waited long enough.
    pub(super) fn is_severed(&self) -> bool {
        matches!(self, Self::Driver(error) if error.is_io_error() || error.is_connection_dropped())
    }

    /// For clients and for the operator.
    pub(super) fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(error) => {
                let (failure, advice) = judge(error);
                (failure, error.to_string(), advice)
            }
            Self::NoAnswer(limit) => (
                StoreFailure::Unreachable,
                format!("no answer within {} s", limit.as_secs()),
                "see whether it runs, and what it waits for",
            ),
            Self::NoDirectory(socket) => (
                StoreFailure::Unreachable,
                format!("there is no directory for the server's socket {socket}"),
                "see --redis-server",
            ),
            Self::Here(failure, reason) => (*failure, reason.clone(), ""),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// What an error means for clients, and what to do about it.
fn judge(error: &RedisError) -> (StoreFailure, &'static str) {
    let says = |code: &str| says(error, code);
    if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        return (StoreFailure::Unreachable, "see whether it runs and whether its address is right");
    }
    if says("OOM") {
        return (StoreFailure::Full, "raise its maxmemory, or let workers catch up");
    }
    if says("READONLY") || says("MISCONF") {
        return (StoreFailure::ReadOnly, "connect to the primary; see Redis's log for why it cannot write");
    }
    if says("NOAUTH") {
        return (StoreFailure::Unreachable, "Redis asks for a password: add --redis-password=...");
    }
    if is_about_password(error) {
        return (StoreFailure::Unreachable, "see the password");
    }
    if is_cluster(error) {
        return (
            StoreFailure::Unreachable,
            "a cluster cannot hold a queue: use a single Redis, with replicas if you like",
        );
    }
    if says("LOADING") || says("MASTERDOWN") || says("TRYAGAIN") {
        return (StoreFailure::Unreachable, "it is being started");
    }
    if says("NOPERM") {
        return (StoreFailure::Io, "let this user read and write the keys of the prefix");
    }
    (StoreFailure::Io, "see Redis's log")
}

fn says(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.to_string().contains(code)
}

fn is_about_password(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || says(error, "NOAUTH") || says(error, "WRONGPASS")
}

/// Whether this is one of several that share the keys among themselves.
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
