//! What stands between a server under test and its disk: `shim.c`, loaded into the server, and what it writes
//! down.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]

pub(crate) mod trace;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use trace::Trace;

/// A directory for the files of a server, watched by the shim.
pub(crate) struct Shim {
    home: TempDir,
    control: File,
}

/// A class of calls that can be made to fail. The numbers are those of `shim.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Write = 0,
    Sync = 1,
    /// Opening a file for writing.
    Open = 2,
    /// Cutting a file, or reserving space for it.
    Resize = 3,
}

/// The size of one class in the control file: four numbers of four bytes.
const CLASS_SIZE: u64 = 16;

impl Shim {
    /// Compiles the shim, and makes an empty directory for it to watch.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let home = TempDir::new().expect("a temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/shim.c");
        let status = Command::new("cc")
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-fno-builtin", "-shared", "-fPIC", "-o"])
            .arg(home.path().join("shim.so"))
            .arg(source)
            .arg("-ldl")
            .status()
            .expect("cc is missing: run tests/install-peers.sh");
        assert!(status.success(), "cc: {status}");
        fs::create_dir(home.path().join("state")).expect("a directory");
        let control = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(home.path().join("control"))
            .expect("a control file");
        control.set_len(4 * CLASS_SIZE).expect("a control file");
        Self { home, control }
    }

    /// The variables with which a server is started under the shim.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.home.path().canonicalize().expect("a path").join(name).display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), path("shim.so")),
            ("SHIM_DIRECTORY".to_owned(), path("state")),
            ("SHIM_TRACE".to_owned(), path("trace")),
            ("SHIM_CONTROL".to_owned(), path("control")),
        ]
    }

    /// Where the server's SQLite file is.
    pub(crate) fn database(&self) -> PathBuf {
        self.home.path().canonicalize().expect("a path").join("state/queue.sqlite3")
    }

    /// The arguments that make the server use [`Shim::database`].
    pub(crate) fn arguments(&self) -> Vec<String> {
        ["-q", "libsqlite3", "--libsqlite3-db"]
            .map(str::to_owned)
            .into_iter()
            .chain([self.database().display().to_string()])
            .collect()
    }

    /// Makes each `every`-th call of a class fail with this error number, from the next one on; 0 for none.
    #[track_caller]
    pub(crate) fn fail(&self, class: Class, every: u32, error: i32) {
        let at = class as u64 * CLASS_SIZE;
        let error = u32::try_from(error).expect("an error number");
        // Last comes what makes it happen.
        self.put(at + 4, error);
        self.put(at + 8, 0);
        self.put(at + 12, 0);
        self.put(at, every);
    }

    /// Lets all calls succeed again.
    #[track_caller]
    pub(crate) fn heal(&self) {
        for class in [Class::Write, Class::Sync, Class::Open, Class::Resize] {
            self.put(class as u64 * CLASS_SIZE, 0);
        }
    }

    /// How many calls of a class have failed since [`Shim::fail`].
    #[track_caller]
    pub(crate) fn failed(&self, class: Class) -> u32 {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, class as u64 * CLASS_SIZE + 12).expect("the control file");
        u32::from_ne_bytes(bytes)
    }

    /// What has been written down so far. Whole only once the server has ended.
    #[track_caller]
    pub(crate) fn trace(&self) -> Trace {
        Trace::read(&self.home.path().join("trace"))
    }

    fn put(&self, at: u64, value: u32) {
        self.control.write_all_at(&value.to_ne_bytes(), at).expect("the control file");
    }
}
