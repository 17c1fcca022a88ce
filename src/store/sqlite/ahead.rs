//! Preallocates the WAL: zeros are written after its end before SQLite gets there.
//!
//! A sync of a file that has grown also commits the file system's journal, which takes as long again as
//! syncing the data. So does the first write to blocks that are only allocated. Once the WAL has its full
//! size, SQLite overwrites it from its start, and the file no longer grows. But each start begins with an
//! empty WAL. So the WAL is extended to its full size in advance, in pieces, while the writer is idle.
//!
//! # Why this is safe
//! For SQLite, the log ends at the first frame whose page number is 0, or whose salt differs from that in the
//! WAL header. A frame of zeros is such a frame, and a WAL without a header is empty. After SQLite has
//! restarted the log, it finds such frames after the last valid one anyway.
//!
//! The zeros are appended (`O_APPEND`), so the system determines the offset while it holds the lock of the
//! inode: whatever another program writes or truncates at the same time, they never overwrite its frames.
//! Closing the descriptor releases no SQLite locks, since SQLite locks the index and the database, but not
//! the WAL itself.
//!
//! A checkpoint may have truncated the WAL, and the disk may still have the log of before. Zeros in its place
//! would cut that log in two, and recovery after a power failure would apply the first part to a database
//! that has all of it: it would undo later changes of some pages and not of others. So the truncation is
//! synced first, as SQLite syncs a new WAL header before it writes frames behind it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::O_NOFOLLOW;

use super::SqliteStore;
use super::error::Trouble;
use crate::store::StoreError;

/// Bytes of zeros written and synced at a time, which takes some milliseconds.
const PIECE: u64 = 1 << 20;
/// Retry delay when there was no room or the write failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Free space to leave, as a multiple of the WAL size, in addition to the space kept for jobs and removals.
const FREE_SHARE: u64 = 2;

/// When the WAL may be extended.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Not before this time.
    again: Option<Instant>,
}

impl SqliteStore {
    /// See [`Store::prepare`](crate::store::Store::prepare).
    pub(super) fn write_ahead(&mut self) -> Result<bool, StoreError> {
        let Some(file) = self.file.as_ref().filter(|file| self.lock.is_some() && file.syncs()) else {
            return Ok(false);
        };
        let goal = file.wal_bytes_at_checkpoint();
        // The length at the last check of the files. It is measured again before a write.
        if self.files.seen_wal_length().is_some_and(|length| length >= goal) {
            return Ok(false);
        }
        if self.ahead.again.is_some_and(|again| again > Instant::now()) {
            return Ok(false);
        }
        self.check_files()?;
        let length = self.files.seen_wal_length().unwrap_or(goal);
        if length >= goal {
            return Ok(false);
        }
        let Some((path, identity)) = self.files.wal().filter(|_| self.has_much_room(goal, length)) else {
            self.ahead.again = Some(Instant::now() + AGAIN);
            return Ok(false);
        };
        let count = PIECE.min(goal - length);
        let written =
            self.with_file("cannot extend its WAL with zeros", |_| append_zeros(&path, identity, length, count))?;
        if !written {
            self.ahead.again = Some(Instant::now() + AGAIN);
            return Ok(false);
        }
        self.files.see_wal_length();
        Ok(self.files.seen_wal_length().is_some_and(|length| length < goal))
    }

    /// Whether the disk has enough free space for a full-size WAL and everything else.
    fn has_much_room(&self, goal: u64, length: u64) -> bool {
        let margin = self.reserve.margin();
        let wanted = self
            .needed(margin, margin)
            .saturating_add(self.reserve.size().saturating_sub(self.reserve.held_bytes()))
            .saturating_add(goal.saturating_mul(FREE_SHARE))
            .saturating_add(goal - length);
        self.reserve.free().is_some_and(|free| free >= wanted)
    }
}

/// Syncs the file, appends `count` zeros and syncs it again, if it is still the same file and has at least
/// `length` bytes. A shorter file was truncated, and zeros would hide that. Returns whether the zeros were
/// written. If the disk has no room for them or rejects them, nothing is lost.
///
/// # Errors
/// The sync failed: then data written by others may not be on disk either.
fn append_zeros(path: &Path, identity: (u64, u64), length: u64, count: u64) -> Result<bool, Trouble> {
    let Ok(mut file) = OpenOptions::new().append(true).custom_flags(O_NOFOLLOW).open(path) else { return Ok(false) };
    let is_same = |found: Metadata| (found.dev(), found.ino()) == identity && found.len() >= length;
    if !file.metadata().is_ok_and(is_same) {
        return Ok(false);
    }
    file.sync_data()?;
    let is_written = write_zeros(&mut file, count).is_ok();
    file.sync_data()?;
    Ok(is_written)
}

fn write_zeros(file: &mut File, count: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = usize::try_from(count).unwrap_or(ZEROS.len());
    while left > 0 {
        let part = left.min(ZEROS.len());
        file.write_all(&ZEROS[..part])?;
        left -= part;
    }
    Ok(())
}
