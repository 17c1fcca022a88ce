//! Changes observed in the fleet, and why a worker did not carry out a request.

use std::fmt;

use super::fan_out::Unanswered;
use crate::fleet::contract::WorkerId;

/// Why a worker did not carry out a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It has ended.
    Gone,
    /// It did not answer; it may carry it out nevertheless.
    NoAnswer(String),
    /// It refused.
    Refused(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => fmt::Display::fmt(&Unanswered::Gone, f),
            Self::NoAnswer(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

/// A change worth reporting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A new worker; true if it has just received its id.
    Found(WorkerId, bool),
    /// Its connection has ended; true if it was told to exit, or had announced it.
    Gone(WorkerId, String, bool),
    /// A host has been without workers for a while.
    Left(String),
    /// It does not answer.
    Silent(WorkerId, String),
    /// It answers again.
    Back(WorkerId),
    /// A server does not answer.
    NoServer(String),
}
