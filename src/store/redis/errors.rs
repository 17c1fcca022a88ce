//! What goes wrong with Redis, and what the operator is told to do.

use ::redis::RedisError;

use super::super::StoreError;
use crate::job_server::StoreFailure;

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The driver or the database says so.
    Driver(RedisError),
    /// This store itself says so: what, and in words.
    Here(StoreFailure, String),
}

impl From<RedisError> for Failed {
    fn from(error: RedisError) -> Self {
        Self::Driver(error)
    }
}

impl From<::redis::ParsingError> for Failed {
    fn from(error: ::redis::ParsingError) -> Self {
        Self::Driver(error.into())
    }
}

impl Failed {
    /// For clients and for the operator.
    pub(super) fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(error) => {
                let (failure, advice) = judge(error);
                (failure, error.to_string(), advice)
            }
            Self::Here(failure, reason) => (*failure, reason.clone(), ""),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// What an error means for clients, and what to do about it.
fn judge(error: &RedisError) -> (StoreFailure, &'static str) {
    let text = error.to_string();
    let says = |code: &str| error.code() == Some(code) || text.contains(code);
    if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        return (StoreFailure::Unreachable, "see whether it runs and whether its address is right");
    }
    if says("OOM") {
        return (StoreFailure::Full, "raise its maxmemory, or let workers catch up");
    }
    if says("READONLY") || says("MISCONF") {
        return (StoreFailure::ReadOnly, "connect to the primary; see Redis's log for why it cannot write");
    }
    if error.kind() == ::redis::ErrorKind::AuthenticationFailed || says("NOAUTH") || says("WRONGPASS") {
        return (StoreFailure::Unreachable, "see the password");
    }
    if says("MOVED") || says("CROSSSLOT") || says("CLUSTERDOWN") {
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
