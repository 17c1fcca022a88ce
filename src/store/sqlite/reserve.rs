//! Room on the disk that is kept for removals.
//!
//! A removal frees room, and needs some first: for the frames that say so in the WAL, and for the copy of the WAL into the
//! database. So a file of a fixed size stands beside the database, its blocks allocated and never used. When the disk is full,
//! whoever has filled it, the file is removed: then there is room to remove jobs, and none for new ones, until the file
//! can be made again.

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

/// The largest reserve that is chosen here: twice what the WAL holds before it is copied.
const LARGEST: u64 = 32 << 20;
/// Otherwise it is this part of the file system.
const SHARE: u64 = 16;
/// One that is asked for is this part of the file system at most: otherwise there would be no room for jobs.
const LARGEST_SHARE: u64 = 4;
/// What a new job must find room for beside itself: this part of the reserve, within these bounds in bytes. A transaction changes
/// other pages, too.
const MARGIN_SHARE: u64 = 8;
const MARGIN_MIN: u64 = 128 << 10;
const MARGIN_MAX: u64 = 4 << 20;
/// So much is written to see whether anything can be.
const PROBE: u64 = 64 << 10;
/// How often a reserve that was given up is tried to be made again.
const INTERVAL: Duration = Duration::from_secs(1);

/// The reserve of one database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    directory: PathBuf,
    /// Its full size in bytes; 0 for none.
    size: u64,
    /// How large it is now; 0 where it was given up.
    held: u64,
    /// Whether the file system allocates blocks before they are written. Otherwise so much is left free instead.
    allocates: bool,
    tried: Option<Instant>,
}

impl Reserve {
    /// Of this database. There is none until its size is [set](Self::set).
    pub(super) fn new(database: &Path) -> Self {
        let parent = database.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        Self { path: path_of(database), directory, size: 0, held: 0, allocates: true, tried: None }
    }

    /// Sets its size, `None` for one that suits the disk, and makes it, or removes it for 0.
    pub(super) fn set(&mut self, bytes: Option<u64>) {
        self.size = match (bytes, self.file_system()) {
            (None, state) => state.map_or(0, |state| suitable(&state)),
            (Some(bytes), Some(state)) => self.capped(bytes, total(&state)),
            (Some(bytes), None) => bytes,
        };
        self.held = 0;
        if self.size == 0 {
            // Where there is none, or where it stays, it is in nobody's way.
            let _ = fs::remove_file(&self.path);
            return;
        }
        self.make(self.size);
    }

    /// A size that was asked for, or what the disk, of so many bytes, has room for.
    fn capped(&self, bytes: u64, disk: u64) -> u64 {
        let most = disk / LARGEST_SHARE;
        if bytes <= most {
            return bytes;
        }
        tracing::warn!(
            "--store-reserve asks for {} MiB, and the disk of {} has {} MiB: {:.1} MiB are kept, a quarter; lower --store-reserve",
            bytes >> 20,
            self.directory.display(),
            disk >> 20,
            in_mebibytes(most)
        );
        most
    }

    /// Whether one is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.size > 0
    }

    /// Whether there is one: of its full size, or of half of it at least.
    pub(super) fn is_held(&self) -> bool {
        self.held > 0 || !self.allocates
    }

    /// Whether it could be larger, and enough time has passed to try that.
    pub(super) fn is_due(&self) -> bool {
        let is_small = self.allocates && self.held < self.size;
        is_small && self.tried.is_none_or(|tried| tried.elapsed() >= INTERVAL)
    }

    /// Its full size, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What it takes on the disk now, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held
    }

    /// How many bytes more than its workload a new job must find room for.
    pub(super) fn margin(&self) -> u64 {
        (self.size / MARGIN_SHARE).clamp(MARGIN_MIN, MARGIN_MAX)
    }

    /// How many bytes are to be left free, since they could not be allocated.
    pub(super) fn left_free(&self) -> u64 {
        if self.allocates { 0 } else { self.size }
    }

    /// Bytes that are free on the file system for this user.
    pub(super) fn free(&self) -> Option<u64> {
        self.file_system().map(|state| state.blocks_available().saturating_mul(state.fragment_size()))
    }

    fn file_system(&self) -> Option<Statvfs> {
        statvfs(&self.directory).ok()
    }

    /// Makes it, or makes it larger, where so many bytes may be taken: all of it, or half.
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
                // ZFS and NFS cannot allocate. Where the file cannot be made at all, neither can the WAL, and commits tell.
                Err(_) => {
                    self.remove();
                    (self.held, self.allocates) = (0, false);
                    return;
                }
            }
        }
        if self.held == 0 {
            // What was allocated of it is better free.
            self.remove();
        }
    }

    /// Gives it up. Returns whether that has made room.
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

/// Removes what an earlier process has left of a reserve. Returns whether that has made room.
pub(super) fn remove_of(database: &Path) -> bool {
    remove(&path_of(database))
}

/// Some file systems free blocks only with the next sync.
fn remove(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(path) else { return false };
    let emptied = file.set_len(0).and_then(|()| file.sync_all());
    let removed = fs::remove_file(path);
    emptied.is_ok() || removed.is_ok()
}

/// Writes a little beside the database, to see why it could not be written itself.
///
/// # Errors
/// What stands in the way: no space, a quota, a file system that is read-only.
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

/// The size of a file system, in bytes.
fn total(state: &Statvfs) -> u64 {
    state.blocks().saturating_mul(state.fragment_size())
}

/// A file of this size all of whose blocks are its own.
///
/// # Errors
/// See [`require_blocks`], and whatever stands in the way of the file.
fn allocate(path: &Path, size: u64) -> io::Result<()> {
    let file = open(path)?;
    if file.metadata()?.len() > size {
        file.set_len(size)?;
    }
    // A file that is complete costs nothing at the next start.
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

/// Where a file system cannot allocate, the C library writes a byte to each block instead and says that all went well: with
/// compression, or where blocks come later, such a file has next to none.
///
/// # Errors
/// `EOPNOTSUPP` where a file has fewer blocks than this size takes.
fn require_blocks(file: &File, size: u64) -> io::Result<()> {
    // Blocks of 512 bytes, as stat counts them.
    if file.metadata()?.blocks().saturating_mul(512) < size {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW).open(path)
}

/// Whether an error says that there is no room.
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
