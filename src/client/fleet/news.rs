//! What a look at the fleet brings, and why an order was not obeyed.

use std::fmt;

use super::round::Unanswered;
use crate::fleet::contract::WorkerId;

/// Why a worker did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It has ended.
    Gone,
    /// It did not answer; perhaps it does it all the same.
    NoAnswer(String),
    /// It says no.
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

/// What a look brought that people want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It was not known before; true if it got its id just now.
    Found(WorkerId, bool),
    /// Its connection has ended; true if it was told to end, or had said that it would.
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
