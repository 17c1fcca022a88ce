//! Disk space reserved for removals.
//!
//! A removal frees space, but needs some first: for its frames in the WAL, and for the checkpoint of the WAL
//! into the database. So a file of a fixed size is kept next to the database, with its blocks allocated and
//! never used. When the disk is full, no matter what filled it, the file is deleted. Then there is room to
//! remove jobs, but not for new ones, until the file can be created again.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::libc::O_NOFOLLOW;
use nix::sys::statvfs::{Statvfs, statvfs};

use super::room::in_mebibytes;

/// Maximum default reserve: twice the size of the WAL at a checkpoint.
const LARGEST: u64 = 32 << 20;
/// The default reserve is this fraction of the file system, up to the maximum.
const SHARE: u64 = 16;
/// A configured reserve is limited to this fraction of the file system: otherwise there would be no room for
/// jobs.
const LARGEST_SHARE: u64 = 4;
/// Space that must be available for a new job besides its workload: this fraction of the reserve, within
/// these bounds in bytes. A transaction changes other pages, too.
const MARGIN_SHARE: u64 = 8;
const MARGIN_MIN: u64 = 128 << 10;
const MARGIN_MAX: u64 = 4 << 20;
/// Number of bytes written to test whether writing is possible.
const PROBE: u64 = 64 << 10;
/// Minimum interval between attempts to restore a reserve that was given up.
const INTERVAL: Duration = Duration::from_secs(1);

/// The reserve of one database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    directory: PathBuf,
    /// Full size in bytes; 0 for none.
    size: u64,
    /// Current size; 0 if it was given up.
    held: u64,
    /// Whether the file system can preallocate blocks. If not, this much space is left free instead.
    allocates: bool,
    tried: Option<Instant>,
}

impl Reserve {
    /// A reserve for this database. It does not exist until its size is [set](Self::set).
    pub(super) fn new(database: &Path) -> Self {
        let parent = database.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        Self { path: path_of(database), directory, size: 0, held: 0, allocates: true, tried: None }
    }

    /// Sets the size, `None` for the default, and creates the file, or deletes it for 0.
    pub(super) fn set(&mut self, bytes: Option<u64>) {
        self.size = match (bytes, self.file_system()) {
            (None, state) => state.map_or(0, |state| suitable(&state)),
            (Some(bytes), Some(state)) => self.capped(bytes, total(&state)),
            (Some(bytes), None) => bytes,
        };
        self.held = 0;
        if self.size == 0 {
            // A missing file is fine. A file that cannot be removed does no harm.
            let _ = fs::remove_file(&self.path);
            return;
        }
        self.make(self.size);
    }

    /// Limits a configured size to what a disk of this many bytes has room for.
    fn capped(&self, bytes: u64, disk: u64) -> u64 {
        let most = disk / LARGEST_SHARE;
        if bytes <= most {
            return bytes;
        }
        tracing::warn!(
            "--store-reserve asks for {} MiB, and the disk of {} has {} MiB: limited to {:.1} MiB, a quarter of the \
             disk; lower --store-reserve",
            bytes >> 20,
            self.directory.display(),
            disk >> 20,
            in_mebibytes(most)
        );
        most
    }

    /// Whether a reserve is configured.
    pub(super) fn is_wanted(&self) -> bool {
        self.size > 0
    }

    /// Whether it exists, with at least half of its full size.
    pub(super) fn is_held(&self) -> bool {
        self.held > 0 || !self.allocates
    }

    /// Whether it is too small and the retry interval has passed.
    pub(super) fn is_due(&self) -> bool {
        let is_small = self.allocates && self.held < self.size;
        is_small && self.tried.is_none_or(|tried| tried.elapsed() >= INTERVAL)
    }

    /// Full size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Current size on disk in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held
    }

    /// Bytes that must be available for a new job besides its workload.
    pub(super) fn margin(&self) -> u64 {
        (self.size / MARGIN_SHARE).clamp(MARGIN_MIN, MARGIN_MAX)
    }

    /// Bytes to leave free because they could not be preallocated.
    pub(super) fn left_free(&self) -> u64 {
        if self.allocates { 0 } else { self.size }
    }

    /// Free bytes on the file system for this user.
    pub(super) fn free(&self) -> Option<u64> {
        self.file_system().map(|state| state.blocks_available().saturating_mul(state.fragment_size()))
    }

    fn file_system(&self) -> Option<Statvfs> {
        statvfs(&self.directory).ok()
    }

    /// Creates or enlarges the file within the available bytes: all of it, or half.
    pub(super) fn make(&mut self, available: u64) {
        self.tried = Some(Instant::now());
        self.allocates = true;
        for size in [self.size, self.size / 2] {
            if size <= self.held || size > available.saturating_add(self.held) {
                continue;
            }
            match allocate(&self.path, size) {
                Ok(()) => {
                    self.held = size;
                    return;
                }
                Err(error) if is_full(&error) => {}
                // ZFS and NFS cannot preallocate. If the file cannot be created at all, neither can the WAL,
                // and commits report it.
                Err(_) => {
                    self.remove();
                    (self.held, self.allocates) = (0, false);
                    return;
                }
            }
        }
        if self.held == 0 {
            // Free the blocks that were allocated.
            self.remove();
        }
    }

    /// Deletes the reserve. Returns whether that freed space.
    pub(super) fn give_up(&mut self) -> bool {
        if self.held == 0 {
            return false;
        }
        (self.held, self.tried) = (0, Some(Instant::now()));
        self.remove()
    }

    fn remove(&self) -> bool {
        remove(&self.path)
    }
}

/// Deletes the reserve of an earlier process. Returns whether that freed space.
pub(super) fn remove_of(database: &Path) -> bool {
    remove(&path_of(database))
}

/// Truncates and syncs before the removal, since some file systems free blocks only with the next sync.
fn remove(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(path) else { return false };
    let emptied = file.set_len(0).and_then(|()| file.sync_all());
    let removed = fs::remove_file(path);
    emptied.is_ok() || removed.is_ok()
}

/// Writes a small file next to the database, to find out why the database could not be written.
///
/// # Errors
/// The reason: no space, a quota, a read-only file system.
pub(super) fn probe(database: &Path) -> io::Result<()> {
    let path = with_ending(database, ".probe");
    let written = allocate(&path, PROBE);
    let _ = fs::remove_file(path);
    match written {
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::ENOSYS)) => {
            Ok(())
        }
        result => result,
    }
}

fn path_of(database: &Path) -> PathBuf {
    with_ending(database, ".reserve")
}

fn with_ending(database: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(ending);
    PathBuf::from(name)
}

fn suitable(state: &Statvfs) -> u64 {
    (total(state) / SHARE).min(LARGEST)
}

/// Size of a file system in bytes.
fn total(state: &Statvfs) -> u64 {
    state.blocks().saturating_mul(state.fragment_size())
}

/// Creates a file of this size with all blocks allocated.
///
/// # Errors
/// See [`require_blocks`], and all errors of creating the file.
fn allocate(path: &Path, size: u64) -> io::Result<()> {
    let file = open(path)?;
    if file.metadata()?.len() > size {
        file.set_len(size)?;
    }
    // An existing complete file costs nothing at a restart.
    if file.metadata()?.len() == size && require_blocks(&file, size).is_ok() {
        return Ok(());
    }
    let length = i64::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    while let Err(error) = posix_fallocate(&file, 0, length) {
        if error != Errno::EINTR {
            return Err(error.into());
        }
    }
    require_blocks(&file, size)
}

/// Verifies that the blocks are allocated. If a file system cannot preallocate, the C library writes a byte
/// to each block instead and reports success. With compression or delayed allocation such a file has hardly
/// any blocks.
///
/// # Errors
/// `EOPNOTSUPP` if a file has fewer blocks than this size needs.
fn require_blocks(file: &File, size: u64) -> io::Result<()> {
    // `stat` counts blocks of 512 bytes.
    if file.metadata()?.blocks().saturating_mul(512) < size {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW).open(path)
}

/// Whether an error means that there is no space.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_given_up_and_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("queue");
        let file = directory.path().join("queue.reserve");
        let mut reserve = Reserve::new(&database);
        assert!(!reserve.is_wanted() && !reserve.give_up());
        reserve.set(Some(1 << 20));
        assert!(reserve.is_held());
        assert_eq!(fs::metadata(&file).unwrap().blocks() * 512, 1 << 20);
        assert!(reserve.give_up() && !reserve.is_held() && !file.exists());
        assert!(!reserve.is_due(), "what was just given up is let go of");
        reserve.make((1 << 20) - 1);
        assert_eq!((reserve.is_held(), reserve.held_bytes()), (true, 1 << 19), "half of it is better than none");
        reserve.make(1 << 19);
        assert_eq!((reserve.is_held(), reserve.held_bytes()), (true, 1 << 20));
        reserve.set(Some(1 << 16));
        assert_eq!(fs::metadata(&file).unwrap().len(), 1 << 16);
        reserve.set(Some(0));
        assert!(!file.exists() && !reserve.is_wanted());
        reserve.set(None);
        assert!(reserve.is_held() && reserve.size() <= LARGEST);
    }

    #[test]
    fn a_file_with_too_few_blocks_is_no_reserve() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.reserve");
        let file = open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let unallocated = require_blocks(&file, 1 << 20).unwrap_err();
        assert_eq!(unallocated.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
        assert!(!is_full(&unallocated), "room is left free instead");
        allocate(&path, 1 << 20).unwrap();
        require_blocks(&file, 1 << 20).unwrap();
    }

    #[test]
    fn of_what_is_asked_for_a_quarter_of_the_disk_is_kept() {
        let reserve = Reserve::new(Path::new("/nowhere/queue"));
        let sizes = [0, 6, 7, 100].map(|mebibytes| reserve.capped(mebibytes << 20, 24 << 20) >> 20);
        assert_eq!(sizes, [0, 6, 6, 6]);
    }

    #[test]
    fn what_is_larger_than_the_disk_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(&directory.path().join("queue"));
        reserve.size = 1 << 60;
        reserve.make(1 << 60);
        assert!(!reserve.is_held(), "half of it is too large, too");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "something of it was left");
    }
}
