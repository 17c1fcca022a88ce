//! Checks that the paths of the store still lead to the open files.
//!
//! A file that was removed, moved or replaced while it is open still accepts jobs, but the next start does
//! not find them. The same happens after the WAL was truncated: SQLite appends after the hole. Each commit
//! checks before and after, which takes a few microseconds. A job that was written to such a file is not
//! acknowledged. The checks do not read the times of a file: see [`Known::at`].
//!
//! The index of the WAL is mapped into memory: if it was truncated, the kernel ends the process with SIGBUS
//! on the next access. So its length is checked before SQLite accesses it.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_PATH, off_t};
use nix::unistd::truncate;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::io::Errno;

/// A file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Database,
    Wal,
    /// The index of the WAL (`-shm`), which other programs use for locking.
    Index,
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The file does not exist.
    Gone,
    /// A different file, of this size in bytes.
    Replaced(u64),
    /// The file is shorter than what was written.
    Cut,
}

/// A path that does not lead to the open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) part: Part,
    pub(super) change: Change,
    path: PathBuf,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.change {
            Change::Gone => write!(f, "{path} was moved or deleted while in use"),
            Change::Replaced(_) => write!(f, "{path} was replaced by another file while in use"),
            Change::Cut => write!(f, "{path} was truncated while in use; its data is lost"),
        }
    }
}

/// An open file: device, inode, and minimum length in bytes.
#[derive(Clone, Copy, Debug)]
struct Known {
    device: u64,
    inode: u64,
    length: u64,
}

impl Known {
    /// The file at `path`.
    ///
    /// Its times are not requested. Since Linux 6.13 (multigrain timestamps) a request for the times of a
    /// file makes its next write set new ones, and on some file systems the next `fdatasync` writes the inode
    /// for that, too: on ext4 without a journal a commit took 40 us longer.
    fn at(path: &Path) -> io::Result<Self> {
        let fields = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE;
        match statx(CWD, path, AtFlags::empty(), fields) {
            Ok(file) => Ok(Self {
                device: makedev(file.stx_dev_major, file.stx_dev_minor),
                inode: file.stx_ino,
                length: file.stx_size,
            }),
            // A kernel before 4.11, or a filter of system calls that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => {
                let file = std::fs::metadata(path)?;
                Ok(Self { device: file.dev(), inode: file.ino(), length: file.len() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Compares it with the file at `path` now, and returns the length of that.
    fn compare(self, path: &Path) -> Result<u64, Change> {
        let Ok(now) = Self::at(path) else { return Err(Change::Gone) };
        if (now.device, now.inode) != (self.device, self.inode) {
            return Err(Change::Replaced(now.length));
        }
        if now.length < self.length { Err(Change::Cut) } else { Ok(now.length) }
    }
}

/// The open index of the WAL, independent of its path.
#[derive(Debug)]
struct Index {
    /// Opened with `O_PATH`: closing any other kind of descriptor would release SQLite's locks on the file.
    file: File,
    /// The number of bytes that SQLite may have mapped.
    length: u64,
}

impl Index {
    fn open(path: &Path) -> Option<Self> {
        let file = OpenOptions::new().read(true).custom_flags(O_PATH | O_NOFOLLOW).open(path).ok()?;
        let length = file.metadata().ok()?.len();
        Some(Self { file, length })
    }

    /// Restores the length, and zeros the whole file, including what the truncation left. SQLite rebuilds an
    /// index without a header from the WAL, but would trust one that has its header and not the rest.
    fn extend(&self) -> io::Result<()> {
        let name = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let length = off_t::try_from(self.length).map_err(io::Error::other)?;
        truncate(name.as_str(), 0)?;
        truncate(name.as_str(), length)?;
        Ok(())
    }
}

/// The open files of a store.
#[derive(Debug)]
pub(super) struct Files {
    paths: [PathBuf; 3],
    /// `None` for a file that is not open or did not exist.
    known: [Option<Known>; 3],
    /// `None` if it is not open.
    index: Option<Index>,
    /// Length of the WAL at the last check.
    wal_length: Option<u64>,
}

impl Files {
    pub(super) fn of(database: &Path) -> Self {
        let with = |end: &str| {
            let mut name = OsString::from(database);
            name.push(end);
            PathBuf::from(name)
        };
        Self { paths: ["", "-wal", "-shm"].map(with), known: [None; 3], index: None, wal_length: None }
    }

    /// Records the files as they are now, just after opening.
    pub(super) fn note(&mut self) {
        for (known, path) in self.known.iter_mut().zip(&self.paths) {
            *known = Known::at(path).ok();
        }
        self.wal_length = self.known[Part::Wal as usize].map(|wal| wal.length);
        if let Some(index) = &mut self.known[Part::Index as usize] {
            index.length = 0;
        }
        self.index = Index::open(&self.paths[Part::Index as usize]);
    }

    /// Restores the length of a truncated index, and returns whether it was truncated. Only while a
    /// connection is open: without one, other programs may truncate it.
    ///
    /// # Errors
    /// The repair failed. Then SQLite must not access the index.
    pub(super) fn mend_index(&mut self) -> Result<bool, Mismatch> {
        let Some(index) = &mut self.index else { return Ok(false) };
        let cut =
            || Mismatch { part: Part::Index, change: Change::Cut, path: self.paths[Part::Index as usize].clone() };
        let length = index.file.metadata().map_err(|_| cut())?.len();
        if length >= index.length {
            index.length = length;
            return Ok(false);
        }
        index.extend().map_err(|_| cut())?;
        Ok(true)
    }

    /// Sets the minimum length of the WAL in bytes.
    pub(super) fn set_wal_length(&mut self, length: u64) {
        if let Some(wal) = &mut self.known[Part::Wal as usize] {
            wal.length = length;
        }
    }

    /// Length of the WAL in bytes at the last check, including trailing zeros.
    pub(super) fn seen_wal_length(&self) -> Option<u64> {
        self.wal_length
    }

    /// Measures the length of the WAL.
    pub(super) fn see_wal_length(&mut self) {
        self.wal_length = self.length(Part::Wal);
    }

    /// The path of the open WAL, and its device and inode.
    pub(super) fn wal(&self) -> Option<(PathBuf, (u64, u64))> {
        let wal = self.known[Part::Wal as usize]?;
        Some((self.paths[Part::Wal as usize].clone(), (wal.device, wal.inode)))
    }

    /// The WAL and its index were closed, after a complete checkpoint.
    pub(super) fn forget_wal(&mut self) {
        self.known[Part::Wal as usize] = None;
        self.wal_length = None;
        self.forget_index();
    }

    /// The index was closed. It contains nothing that is not in the WAL.
    pub(super) fn forget_index(&mut self) {
        self.known[Part::Index as usize] = None;
        self.index = None;
    }

    /// Accepts a shorter database, after it was compacted.
    pub(super) fn allow_shorter_database(&mut self) {
        if let Some(database) = &mut self.known[Part::Database as usize] {
            database.length = 0;
        }
    }

    /// Length of a file in bytes; `None` if it does not exist.
    pub(super) fn length(&self, part: Part) -> Option<u64> {
        Known::at(&self.paths[part as usize]).ok().map(|file| file.length)
    }

    /// Compares the paths with the recorded files.
    ///
    /// # Errors
    /// The first mismatch.
    pub(super) fn check(&mut self) -> Result<(), Mismatch> {
        self.check_these(&[Part::Database, Part::Wal, Part::Index])
    }

    /// The same for the files that hold the data of the last commit.
    ///
    /// # Errors
    /// See [`check`](Self::check).
    pub(super) fn check_holders(&mut self) -> Result<(), Mismatch> {
        self.check_these(&[Part::Database, Part::Wal])
    }

    fn check_these(&mut self, parts: &[Part]) -> Result<(), Mismatch> {
        for &part in parts {
            let (known, path) = (&mut self.known[part as usize], &self.paths[part as usize]);
            let Some(expected) = known else { continue };
            match expected.compare(path) {
                Ok(length) if part == Part::Database => expected.length = length,
                Ok(length) if part == Part::Wal => self.wal_length = Some(length),
                Ok(_) => {}
                Err(change) => return Err(Mismatch { part, change, path: path.clone() }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_not_as_it_was_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("queue");
        let wal = directory.path().join("queue-wal");
        fs::write(&database, b"0123").unwrap();
        fs::write(&wal, b"01234567").unwrap();
        let mut files = Files::of(&database);
        files.note();
        let changed = |files: &mut Files| files.check().map_err(|wrong| (wrong.part, wrong.change));
        assert_eq!(changed(&mut files), Ok(()));
        // Only the bytes that are known to be needed must exist.
        files.set_wal_length(4);
        fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(4).unwrap();
        assert_eq!(changed(&mut files), Ok(()));
        fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(0).unwrap();
        assert_eq!(changed(&mut files), Err((Part::Wal, Change::Cut)));
        fs::remove_file(&wal).unwrap();
        assert_eq!(changed(&mut files), Err((Part::Wal, Change::Gone)));
        let away = directory.path().join("away");
        fs::rename(&database, &away).unwrap();
        assert_eq!(changed(&mut files), Err((Part::Database, Change::Gone)));
        fs::write(&database, b"01").unwrap();
        assert_eq!(changed(&mut files), Err((Part::Database, Change::Replaced(2))));
        fs::rename(&away, &database).unwrap();
        assert_eq!(changed(&mut files), Err((Part::Wal, Change::Gone)), "the database is right again");
    }
}
