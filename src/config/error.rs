//! Origins of settings, and configuration errors.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The origin of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Not set.
    Default,
    /// A line of a configuration file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(formatter, "environment {variable}"),
            Self::CommandLine => formatter.write_str("command line"),
        }
    }
}

/// A configuration error. Each message says what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An invalid value.
    #[error("{origin}: {name} cannot be `{value}`: {reason}")]
    BadValue {
        /// Long name of the setting.
        name: String,
        /// The value as it was written.
        value: String,
        /// Why it is invalid, and what is valid.
        reason: String,
        /// Its origin.
        origin: Origin,
    },
    /// A setting that needs a value has none.
    #[error("{origin}: {name} needs a value; write --{name}=VALUE")]
    MissingValue {
        /// Long name of the setting.
        name: String,
        /// Its origin.
        origin: Origin,
    },
    /// No setting has this name.
    #[error("{origin}: there is no setting `{name}`; {}", nearest_name(nearest.as_deref()))]
    Unknown {
        /// The name as it was written.
        name: String,
        /// The most similar known name, if there is one.
        nearest: Option<String>,
        /// Its origin.
        origin: Origin,
    },
    /// An ambiguous abbreviation.
    #[error("{origin}: `{name}` could be any of {candidates}; write the whole name")]
    Ambiguous {
        /// The name as it was written.
        name: String,
        /// The settings that it matches.
        candidates: String,
        /// Its origin.
        origin: Origin,
    },
    /// A word in a file of gearmand's own format that does not start with a dash.
    #[error("{origin}: `{piece}` has no effect without dashes; write {instead}")]
    NoDash {
        /// The word as it was written.
        piece: String,
        /// What was probably meant.
        instead: String,
        /// Its origin.
        origin: Origin,
    },
    /// A file sets the same setting twice.
    #[error("{origin}: {name} is set a second time, first in line {first_line}; remove one of the two")]
    SetTwice {
        /// Long name of the setting.
        name: String,
        /// The line of the first one.
        first_line: usize,
        /// The origin of the second one.
        origin: Origin,
    },
    /// A setting that is valid on the command line only.
    #[error("{origin}: {name} has no meaning in a configuration file; give --{name} on the command line")]
    NotInAFile {
        /// Long name of the setting.
        name: String,
        /// Its origin.
        origin: Origin,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}; correct --config-file or the file's permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system error.
        reason: String,
    },
    /// The file is not well-formed.
    #[error("{origin}: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
        /// The origin.
        origin: Origin,
    },
    /// A feature that this build does not have was selected.
    #[error("{origin}: --{name}{} is not available: {reason}", after_space(value))]
    Unavailable {
        /// Long name of the setting.
        name: String,
        /// The value, empty for a switch.
        value: String,
        /// Why it is unavailable, and what to do.
        reason: String,
        /// Its origin.
        origin: Origin,
    },
    /// Two settings conflict.
    #[error("{origin}: {reason}")]
    Contradiction {
        /// Which ones, and what to do.
        reason: String,
        /// The origin of the one that should change.
        origin: Origin,
    },
    /// Each setting is valid, but the command line parser rejects the combination.
    #[error("the settings cannot be combined: {reason}")]
    Combination {
        /// The message of the parser.
        reason: String,
    },
}

/// The end of a message about an unknown name.
pub(super) fn nearest_name(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "`gearmand --help` lists all names".to_owned(),
        |nearest| format!("the nearest name is `{nearest}`"),
    )
}

/// The value of an option, to append to its name.
fn after_space(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(" {value}") }
}

/// All configuration errors, one message per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}
