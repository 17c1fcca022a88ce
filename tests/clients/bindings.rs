//! The Gearman libraries of other languages, and how their client and worker programs are started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub(crate) use crate::common::require_peers;

/// Whose client and worker programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// PHP's extension gearman, which wraps libgearman.
    Php,
    /// Perl's `Gearman::Client` and `Gearman::Worker`.
    Perl,
    /// libgearman itself.
    C,
    /// Python's gear, of OpenStack.
    Gear,
    /// Python's pygearman, the living fork of python-gearman.
    Pygearman,
    /// Node.js's gearmanode.
    Node,
    /// The tool `gearman` in a shell script; it can only `run reverse`.
    Shell,
}

/// All that do everything.
pub(crate) const LIBRARIES: [Binding; 6] =
    [Binding::Php, Binding::Perl, Binding::C, Binding::Gear, Binding::Pygearman, Binding::Node];

/// The tool `gearman` as client and worker.
pub(crate) const SHELL: Binding = Binding::Shell;

const MIB: usize = 1 << 20;

impl Binding {
    /// Its directory in `tests/clients/`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Php => "php",
            Self::Perl => "perl",
            Self::C => "c",
            Self::Gear => "gear",
            Self::Pygearman => "pygearman",
            Self::Node => "node",
            Self::Shell => "shell",
        }
    }

    /// The functions that its worker does.
    pub(crate) fn functions(self) -> &'static [&'static str] {
        match self {
            Self::Shell => &super::FUNCTIONS[..1],
            _ => &super::FUNCTIONS,
        }
    }

    /// Another library.
    pub(crate) fn next(self) -> Self {
        let at = LIBRARIES.iter().position(|binding| *binding == self);
        LIBRARIES[(at.expect("a library") + 1) % LIBRARIES.len()]
    }

    /// Whether its client asks for exceptions on every connection, without being told to.
    pub(crate) fn always_wants_exceptions(self) -> bool {
        self == Self::Php
    }

    /// The bytes of a large workload: 32 MiB, but less where the library copies all that it has received with
    /// every read, which takes the square of the size.
    pub(crate) fn large_workload(self) -> usize {
        match self {
            Self::Gear => 4 * MIB,
            Self::Node => 8 * MIB,
            _ => 32 * MIB,
        }
    }

    /// The worker program, connected to 127.0.0.1.
    pub(crate) fn worker(self, port: u16) -> Command {
        self.program("worker", port)
    }

    /// The client program, connected to 127.0.0.1; a command follows.
    pub(crate) fn client(self, port: u16) -> Command {
        self.program("client", port)
    }

    fn program(self, role: &str, port: u16) -> Command {
        let extension = match self {
            Self::Php => "php",
            Self::Perl => "pl",
            Self::C => "c",
            Self::Gear | Self::Pygearman => "py",
            Self::Node => "js",
            Self::Shell => "sh",
        };
        self.other(&format!("{role}.{extension}"), port)
    }

    /// The program in a file of its directory, connected to 127.0.0.1.
    pub(crate) fn other(self, file: &str, port: u16) -> Command {
        let script = directory().join(self.name()).join(file);
        let mut command = match self {
            Self::Php => interpreter("php", &["-d", "memory_limit=1G"], &script),
            Self::Perl => interpreter("perl", &[], &script),
            Self::C => Command::new(compiled().join(file.trim_end_matches(".c"))),
            Self::Gear | Self::Pygearman => {
                let python = directory().join("venv/bin/python");
                interpreter(python.to_str().expect("a UTF-8 path"), &[], &script)
            }
            Self::Node => interpreter("node", &["--no-deprecation"], &script),
            Self::Shell => interpreter("sh", &[], &script),
        };
        command.args(["127.0.0.1", &port.to_string()]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GEARMAN_") {
                command.env_remove(name);
            }
        }
        command
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn interpreter(program: &str, options: &[&str], script: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(options).arg(script);
    command
}

/// Where the C programs are; compiles them once a run of the tests.
fn compiled() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-c");
        std::fs::create_dir_all(&target).expect("a directory for the C programs");
        for role in ["client", "worker"] {
            // Another process of the tests may be running the program that is there: it is replaced, not
            // written to.
            let fresh = target.join(format!("{role}.{}", std::process::id()));
            let status = Command::new("cc")
                .args(["-std=c11", "-D_DEFAULT_SOURCE", "-O1", "-Wall", "-Wextra", "-o"])
                .arg(&fresh)
                .arg(directory().join("c").join(format!("{role}.c")))
                .arg("-lgearman")
                .status()
                .expect("a C compiler: run tests/install-peers.sh");
            assert!(status.success(), "the C {role} does not compile");
            std::fs::rename(&fresh, target.join(role)).expect("the program in its place");
        }
        target
    })
}
