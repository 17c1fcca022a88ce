//! The eight log levels of gearmand, and how a [`tracing`] event maps to one.
//!
//! tracing has four levels in use here, gearmand has eight. An event's *gearmand level* follows from its
//! static metadata alone, so filtering stays as cheap as tracing's own:
//!
//! | written with | tracing level | target | gearmand level |
//! | --- | --- | --- | --- |
//! | [`fatal!`] | ERROR | [`FATAL_TARGET`] | FATAL |
//! | `tracing::error!` | ERROR | any other | ERROR |
//! | `tracing::warn!` | WARN | any | WARNING |
//! | [`notice!`] | INFO | [`NOTICE_TARGET`] | NOTICE |
//! | [`audit!`] | ERROR | [`AUDIT_TARGET`] | NOTICE, and written at every threshold |
//! | `tracing::info!` | INFO | any other | INFO |
//! | `tracing::debug!`, `trace!` | DEBUG, TRACE | any | DEBUG |
//!
//! ALERT and CRITICAL are thresholds only (`--verbose=ALERT` lets only FATAL through): no event of this
//! server has these levels.

use std::fmt;
use std::str::FromStr;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;

#[doc(inline)]
pub use crate::{audit, fatal, notice};

/// Target that makes an ERROR event a FATAL one.
pub const FATAL_TARGET: &str = "gearmand::fatal";
/// Target that makes an INFO event a NOTICE.
pub const NOTICE_TARGET: &str = "gearmand::notice";

/// Target of events that are written at every threshold.
pub const AUDIT_TARGET: &str = "gearmand::audit";

/// Logs an operator's action and its origin: at NOTICE, but written at every threshold. Takes the arguments
/// of `tracing::info!`.
#[macro_export]
macro_rules! audit {
    ($($argument:tt)+) => {
        ::tracing::event!(
            target: $crate::log_level::AUDIT_TARGET,
            ::tracing::Level::ERROR,
            $($argument)+
        )
    };
}

/// Logs at FATAL: the process cannot continue. Takes the arguments of `tracing::error!`.
#[macro_export]
macro_rules! fatal {
    ($($argument:tt)+) => {
        ::tracing::event!(
            target: $crate::log_level::FATAL_TARGET,
            ::tracing::Level::ERROR,
            $($argument)+
        )
    };
}

/// Logs at NOTICE, between WARNING and INFO. Takes the arguments of `tracing::info!`.
#[macro_export]
macro_rules! notice {
    ($($argument:tt)+) => {
        ::tracing::event!(
            target: $crate::log_level::NOTICE_TARGET,
            ::tracing::Level::INFO,
            $($argument)+
        )
    };
}

/// A log level of gearmand. Ordered from the most severe to the most verbose, so `event_level <= threshold`
/// means "is logged". The numbers are those of syslog's priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// The process cannot continue.
    Fatal = 0,
    /// A threshold only.
    Alert = 1,
    /// A threshold only.
    Critical = 2,
    /// A failure that needs the operator's attention.
    Error = 3,
    /// Something was refused or repaired.
    Warning = 4,
    /// Normal but worth a line: start, stop, each submission.
    Notice = 5,
    /// Connections coming and going.
    Info = 6,
    /// Everything.
    Debug = 7,
}

impl Level {
    /// All levels, from the most severe to the most verbose.
    pub const ALL: [Self; 8] =
        [Self::Fatal, Self::Alert, Self::Critical, Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug];

    /// The name as `--verbose` takes it and the log shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Alert => "ALERT",
            Self::Critical => "CRITICAL",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }

    /// The level with this number; numbers above 7 are [`Level::Debug`].
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Debug)
    }

    /// The level of an event or callsite.
    pub fn of(metadata: &Metadata<'_>) -> Self {
        match *metadata.level() {
            tracing::Level::ERROR if metadata.target() == FATAL_TARGET => Self::Fatal,
            // tracing lets errors through at every threshold.
            tracing::Level::ERROR if metadata.target() == AUDIT_TARGET => Self::Notice,
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO if metadata.target() == NOTICE_TARGET => Self::Notice,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Self::Debug,
        }
    }

    /// The most restrictive tracing level that lets through everything this threshold does.
    pub fn tracing_filter(self) -> LevelFilter {
        match self {
            Self::Fatal | Self::Alert | Self::Critical | Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Notice | Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::TRACE,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name is not one of gearmand's eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of FATAL ALERT CRITICAL ERROR WARNING NOTICE INFO DEBUG")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    /// Accepts the names in any case; gearmand itself accepts upper case only.
    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name)).ok_or(UnknownLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
            assert_eq!(level.name().to_lowercase().parse(), Ok(level));
            assert_eq!(Level::from_number(level as u8), level);
        }
        for wrong in ["", "WARN", "ERRORS", " INFO", "3"] {
            assert_eq!(wrong.parse::<Level>(), Err(UnknownLevel), "{wrong:?}");
        }
    }

    #[test]
    fn graver_levels_are_less() {
        assert!(Level::Fatal < Level::Error);
        assert!(Level::Notice < Level::Info);
        assert_eq!(format!("{:>7}", Level::Info), "   INFO");
    }
}
