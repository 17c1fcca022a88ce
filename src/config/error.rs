//! Where a setting came from, and what can be wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
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

/// What is wrong with the configuration. Each message says what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that the setting cannot take.
    #[error("{origin}: {name} cannot be `{value}`: {reason}")]
    BadValue {
        /// Long name of the setting.
        name: String,
        /// The value as it was written.
        value: String,
        /// Why not, and what would do.
        reason: String,
        /// Where it was written.
        origin: Origin,
    },
    /// A setting that needs a value stands without one.
    #[error("{origin}: {name} needs a value; write --{name}=VALUE")]
    MissingValue {
        /// Long name of the setting.
        name: String,
        /// Where it was written.
        origin: Origin,
    },
    /// No setting has this name.
    #[error("{origin}: there is no setting `{name}`; {}", nearest_name(nearest.as_deref()))]
    Unknown {
        /// The name as it was written.
        name: String,
        /// The known name most like it, where one is like it.
        nearest: Option<String>,
        /// Where it was written.
        origin: Origin,
    },
    /// An abbreviation that fits several settings.
    #[error("{origin}: `{name}` could be any of {candidates}; write the whole name")]
    Ambiguous {
        /// The name as it was written.
        name: String,
        /// The settings it fits.
        candidates: String,
        /// Where it was written.
        origin: Origin,
    },
    /// A word in a file of gearmand's own format that does not start with a dash.
    #[error("{origin}: `{piece}` has no effect without dashes; write {instead}")]
    NoDash {
        /// The word as it was written.
        piece: String,
        /// What was probably meant.
        instead: String,
        /// Where it was written.
        origin: Origin,
    },
    /// A file sets the same thing twice.
    #[error("{origin}: {name} is set a second time, first in line {first_line}; remove one of the two")]
    SetTwice {
        /// Long name of the setting.
        name: String,
        /// The line of the first one.
        first_line: usize,
        /// Where the second one was written.
        origin: Origin,
    },
    /// A setting that only the command line can give.
    #[error("{origin}: {name} has no meaning in a configuration file; give --{name} on the command line")]
    NotInAFile {
        /// Long name of the setting.
        name: String,
        /// Where it was written.
        origin: Origin,
    },
    /// A file that cannot be read.
    #[error("cannot read the configuration file {}: {reason}; correct --config-file or the file's permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file that is not well-formed.
    #[error("{origin}: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
        /// Where.
        origin: Origin,
    },
    /// A part that this build does not have was chosen.
    #[error("{origin}: --{name}{} cannot be had: {reason}", after_space(value))]
    Unavailable {
        /// Long name of the setting.
        name: String,
        /// The value, empty for a switch.
        value: String,
        /// Why not, and what to do.
        reason: String,
        /// Where it was chosen.
        origin: Origin,
    },
    /// Two settings contradict each other.
    #[error("{origin}: {reason}")]
    Contradiction {
        /// Which ones, and what to do.
        reason: String,
        /// Where the one that should change was set.
        origin: Origin,
    },
    /// The settings were each in order but the command line parser refuses them together.
    #[error("the settings cannot be combined: {reason}")]
    Combination {
        /// What the parser said.
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

/// The value of an option behind its name.
fn after_space(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(" {value}") }
}

/// Everything that is wrong with the configuration, one message a line.
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
