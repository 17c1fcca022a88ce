//! The managed workers that the contract is tried on, and how each is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Program, wait_for};

/// Whose managed worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// `gearmand work --managed`: a supervisor, whose child is the worker.
    Ours,
    /// `tests/clients/php/managed_worker.php`.
    Php,
    /// `tests/clients/pygearman/managed_worker.py`.
    Python,
}

/// All of them.
pub(crate) const SUBJECTS: [Subject; 3] = [Subject::Ours, Subject::Php, Subject::Python];

/// What `gearmand work --managed` does, as the functions that every subject could do.
const COMMANDS: [&str; 4] = [
    r#"reverse=read s || true; r=; while [ "$s" ]; do r=${s%"${s#?}"}$r; s=${s#?}; done; printf %s "$r""#,
    r#"sleep_ms=read ms || true; sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"; printf %s "$ms""#,
    r#"log_line=read line || true; echo "$line $$" >> "$LOG_FILE"; printf %s "$line""#,
    "fail=exit 1",
];

impl Subject {
    /// The language that it says.
    pub(crate) fn language(self) -> &'static str {
        match self {
            Self::Ours => "rust",
            Self::Php => "php",
            Self::Python => "python",
        }
    }

    /// The worker with the four functions of `FUNCTIONS`, for these servers (`HOST:PORT,HOST:PORT`) and this
    /// fleet. Its version is the first line of this file.
    pub(crate) fn command(self, servers: &str, fleet: &str, version_file: &Path) -> Command {
        let mut command = match self {
            Self::Ours => Command::new(env!("CARGO_BIN_EXE_gearmand")),
            Self::Php => script("php", "php/managed_worker.php"),
            Self::Python => script("python3", "pygearman/managed_worker.py"),
        };
        // Nothing of the test's own environment steers it.
        for (name, _) in std::env::vars_os() {
            if ["GEARMAN_", "FLEET_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        if self == Self::Ours {
            command.args(["work", "--managed", "--fleet-name", fleet, "--server", servers]);
            command.arg("--version-file").arg(version_file);
            command.args(COMMANDS.iter().flat_map(|function| ["-f", function]));
        } else {
            command.env("GEARMAN_SERVERS", servers).env("FLEET_NAME", fleet).env("WORKER_VERSION_FILE", version_file);
        }
        command
    }

    /// The process that is the worker, of one that was started.
    pub(crate) fn pid(self, program: &Program) -> u64 {
        match self {
            Self::Ours => child(program.pid()),
            Self::Php | Self::Python => u64::from(program.pid()),
        }
    }
}

/// The one child of a process, as soon as it has one.
pub(crate) fn child(process: u32) -> u64 {
    let path = format!("/proc/{process}/task/{process}/children");
    wait_for("a child", || fs::read_to_string(&path).expect("the children of a process").trim().parse().ok())
}

fn script(interpreter: &str, path: &str) -> Command {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(path);
    let mut command = Command::new(interpreter);
    command.arg(path);
    command
}
