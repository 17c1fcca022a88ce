//! Small disks, which take the rights of root to mount.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// How large a disk is.
const MEBIBYTES: u64 = 24;

/// A file system of [`MEBIBYTES`], until dropped.
pub(super) struct Disk {
    home: TempDir,
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is missing: run tests/install-peers.sh: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}; it takes the rights of root", arguments.join(" "));
}

impl Disk {
    /// In memory.
    #[track_caller]
    pub(super) fn tmpfs() -> Self {
        let disk = Self::unmounted();
        let size = format!("size={MEBIBYTES}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &disk.shown()]);
        disk
    }

    /// In a file.
    #[track_caller]
    pub(super) fn ext4() -> Self {
        let disk = Self::unmounted();
        let image = disk.home.path().join("image").display().to_string();
        let file = File::create(&image).expect("a file");
        file.set_len(MEBIBYTES << 20).expect("a file of its size");
        run("mkfs.ext4", &["-q", &image]);
        run("mount", &["-o", "loop", &image, &disk.shown()]);
        disk
    }

    fn unmounted() -> Self {
        let disk = Self { home: TempDir::new().expect("a temporary directory") };
        fs::create_dir(disk.path()).expect("a directory");
        disk
    }

    pub(super) fn path(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path().join("queue.sqlite3")
    }

    fn shown(&self) -> String {
        self.path().display().to_string()
    }

    /// Another program takes all that is free.
    #[track_caller]
    pub(super) fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("a file");
        let mut bytes = vec![b'b'; 1 << 20];
        while !bytes.is_empty() {
            if ballast.write_all(&bytes).is_err() {
                bytes.truncate(bytes.len() / 2);
            }
        }
    }

    /// It gives that back.
    #[track_caller]
    pub(super) fn relieve(&self) {
        fs::remove_file(self.ballast()).expect("a file to remove");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path: &Path = &self.path();
        // A disk that was not mounted cannot be taken away.
        let _ = Command::new("umount").arg("--lazy").arg(path).output();
    }
}
