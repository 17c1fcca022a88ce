//! Zeros behind the end of the WAL, written before SQLite gets there.
//!
//! A sync of a file that has grown commits the file system's journal as well, which takes as long again as
//! the sync of what was written, and so does the first write into blocks that are only allocated. Once the
//! WAL has its full size SQLite writes it over from its start, and nothing grows; but each start begins with
//! an empty one. So it gets its full size at once, a piece at a time, while nothing waits.
//!
//! # Why this is safe
//! For SQLite the log ends at the first frame whose page number is 0, or whose salt is not that of the log's
//! header. A frame of zeros has neither; and a log without a header is an empty one. That is what it finds
//! behind the last frame anyway once it has begun the log anew.
//!
//! The zeros are appended (`O_APPEND`), so the system finds their place while it holds the lock of the file:
//! whatever another program writes or cuts at the same time, they never stand where its frames are. SQLite
//! has no locks on the WAL itself that closing a descriptor could release: they are on its index and on the
//! database.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::O_NOFOLLOW;

use super::SqliteStore;
use super::error::Trouble;
use crate::store::StoreError;

/// Bytes of zeros that are written and synced at a time: some milliseconds.
const PIECE: u64 = 1 << 20;
/// Where there was no room, or the zeros could not be written, it is tried again so much later.
const AGAIN: Duration = Duration::from_secs(5);
/// This many times the size of the WAL must stay free, beside what is kept for jobs and removals.
const FREE_SHARE: u64 = 2;

/// When zeros may be written.
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
        // As it was at the last check of the files. It is looked at again before anything is written.
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
            self.with_file("cannot write zeros behind its WAL", |_| append_zeros(&path, identity, length, count))?;
        if !written {
            self.ahead.again = Some(Instant::now() + AGAIN);
            return Ok(false);
        }
        self.files.see_wal_length();
        Ok(self.files.seen_wal_length().is_some_and(|length| length < goal))
    }

    /// Whether the disk has so much room that a WAL of its full size is in nobody's way.
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

/// Appends zeros to a file, if it is still this one and has so many bytes, and syncs it. Answers whether they
/// are there: a disk that has no room for them, or does not take them, has lost nothing. To a file that was
/// cut they would only hide that.
///
/// # Errors
/// Where the sync fails: then what others wrote may not be on the disk either.
fn append_zeros(path: &Path, identity: (u64, u64), length: u64, count: u64) -> Result<bool, Trouble> {
    let Ok(mut file) = OpenOptions::new().append(true).custom_flags(O_NOFOLLOW).open(path) else { return Ok(false) };
    let is_same = |found: Metadata| (found.dev(), found.ino()) == identity && found.len() >= length;
    if !file.metadata().is_ok_and(is_same) {
        return Ok(false);
    }
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
