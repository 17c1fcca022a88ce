//! The managed workers that the contract is tried on, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whose managed worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// `tests/clients/php/managed_worker.php`.
    Php,
    /// `tests/clients/pygearman/managed_worker.py`.
    Python,
}

/// All of them.
pub(crate) const SUBJECTS: [Subject; 2] = [Subject::Php, Subject::Python];

impl Subject {
    /// The language that it says.
    pub(crate) fn language(self) -> &'static str {
        match self {
            Self::Php => "php",
            Self::Python => "python",
        }
    }

    /// Whether it takes up new code; a worker that does not refuses `reload`. One that does has the first line of the
    /// file `WORKER_VERSION_FILE` as its version.
    pub(crate) fn reloads(self) -> bool {
        match self {
            Self::Php | Self::Python => true,
        }
    }

    /// The worker with the four functions of `FUNCTIONS`, for these servers (`HOST:PORT,HOST:PORT`) and this fleet.
    pub(crate) fn command(self, servers: &str, fleet: &str) -> Command {
        let mut command = match self {
            Self::Php => script("php", "php/managed_worker.php"),
            Self::Python => script("python3", "pygearman/managed_worker.py"),
        };
        // Nothing of the test's own environment steers it.
        for (name, _) in std::env::vars_os() {
            if ["GEARMAN_", "FLEET_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env_remove("FUNCTIONS").env("GEARMAN_SERVERS", servers).env("FLEET_NAME", fleet);
        command
    }
}

fn script(interpreter: &str, path: &str) -> Command {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(path);
    let mut command = Command::new(interpreter);
    command.arg(path);
    command
}
