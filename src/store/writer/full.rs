//! A store that is full: new jobs are refused while there is still room to remove others, and what it has left is published.

use std::time::{Duration, Instant};

use tracing::warn;

use super::super::{Changes, Room, StoreError};
use super::batch::Addition;
use super::failing::Failing;
use super::{Writer, added};
use crate::job_server::{StoreFailure, StoreReport};

/// How often a store that is full is looked at, to see whether there is room again.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// How often the space of a disk is looked at: at most, and where nothing else is done.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
const IDLE_MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// From this size on the write-ahead log is warned of, and again each time that it has doubled.
const LARGE_WAL: u64 = 256 << 20;
/// What a job takes in a store beside its workload, in bytes, at most.
const ENTRY: u64 = 1024;

/// The space on the store's disk.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// When it was looked at last.
    at: Option<Instant>,
    /// Whether the store knows it.
    is_known: bool,
    /// The size of the write-ahead log that was warned of last.
    warned: u64,
}

impl Writer {
    /// Refuses the additions for which there is no room.
    pub(super) fn refuse_beyond_room(&mut self, additions: &mut Vec<Addition>, reports: &mut Vec<StoreReport>) {
        if self.has_room_again() == Some(false) {
            reports.extend(additions.drain(..).map(|addition| added(addition.ticket, Err(StoreFailure::Full))));
            return;
        }
        let weight = |addition: &Addition| addition.job.workload().len() as u64 + ENTRY;
        let total = additions.iter().map(weight).sum();
        if !matches!(self.store.room(total), Room::Short(_)) {
            return;
        }
        let mut taken = 0;
        let mut is_full = false;
        let (mut fitting, mut refused) = (Vec::new(), None);
        for addition in additions.drain(..) {
            let room = if is_full { None } else { Some(self.store.room(taken + weight(&addition))) };
            match room {
                Some(Room::Enough | Room::Unknown) => {
                    taken += weight(&addition);
                    fitting.push(addition);
                    continue;
                }
                Some(Room::Short(error)) => {
                    if let Room::Short(full) = self.store.room(0) {
                        is_full = true;
                        self.fill_up(&full);
                    }
                    refused = Some(error);
                }
                None => {}
            }
            reports.push(added(addition.ticket, Err(StoreFailure::Full)));
        }
        *additions = fitting;
        if let Some(error) = refused.filter(|_| !is_full) {
            warn!("the store refuses a job: {error}");
        }
    }

    /// The store has no room for new jobs, and some for removals.
    pub(super) fn fill_up(&mut self, error: &StoreError) {
        self.fail(error);
        if let Some(failing) = &mut self.failing {
            failing.is_writable = true;
            failing.again = Instant::now() + ROOM_INTERVAL;
        }
    }

    /// Whether changes without new jobs wait, since the store has not taken the last.
    pub(super) fn must_wait(&self) -> bool {
        let waits = |failing: &Failing| !failing.is_writable && !failing.is_on_trial && failing.is_left_alone();
        self.failing.as_ref().is_some_and(waits)
    }

    /// A store that is full has taken a change without new jobs, or has not.
    pub(super) fn set_writable(&mut self, is_writable: bool) {
        if let Some(failing) = self.failing.as_mut().filter(|failing| failing.failure == StoreFailure::Full) {
            failing.is_writable = is_writable;
        }
    }

    /// Whether the store works again, where it can tell without being tried.
    pub(super) fn has_room_again(&mut self) -> Option<bool> {
        self.failing.as_ref().filter(|failing| failing.failure == StoreFailure::Full)?;
        match self.store.room_again() {
            Room::Unknown => None,
            Room::Enough => Some(true),
            Room::Short(_) => {
                if let Some(failing) = &mut self.failing {
                    failing.is_on_trial = false;
                    failing.again = Instant::now() + ROOM_INTERVAL;
                }
                Some(false)
            }
        }
    }

    /// The time has come to do something though nothing was asked: to see whether the store works again, or to have everything on
    /// the disk.
    pub(super) fn act_unasked(&mut self) {
        if self.commit_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let is_settled = self.failing.as_ref().is_some_and(|failing| failing.is_writable);
        if is_settled && self.owed.is_empty() && !self.is_sync_due() {
            match self.has_room_again() {
                Some(true) => return self.work_again(),
                Some(false) => return,
                None => {}
            }
        }
        // A failure is known by then.
        let _ = self.commit(Changes { sync: true, ..Changes::default() });
    }

    /// When the space is to be looked at, though nothing was asked.
    pub(super) fn measure_at(&self) -> Option<Instant> {
        self.measured.at.filter(|_| self.measured.is_known).map(|at| at + IDLE_MEASURE_INTERVAL)
    }

    /// Files that were removed, and a disk that another program has filled, are told of though nothing is asked. A reserve that
    /// was given up is made again.
    fn look_after(&mut self) {
        if self.failing.as_ref().is_some_and(|failing| !failing.is_writable) {
            return;
        }
        if let Err(error) = self.store.check() {
            self.fail(&error);
        } else if self.failing.is_none()
            && let Room::Short(error) = self.store.room(0)
        {
            self.fill_up(&error);
        }
    }

    /// At the end: tells where the next start will find nothing of what was stored. Returns whether that is so.
    pub(super) fn is_missing(&mut self) -> bool {
        let missing = self.store.missing();
        let is_missing = missing.is_some();
        self.stats.store.set_missing(missing);
        is_missing
    }

    /// Publishes what the store has left on its disk.
    pub(super) fn measure(&mut self) {
        if self.measured.at.is_some_and(|at| at.elapsed() < MEASURE_INTERVAL) {
            return;
        }
        self.look_after();
        let space = self.store.space();
        (self.measured.at, self.measured.is_known) = (Some(Instant::now()), space.is_some());
        self.stats.store.set_space(space);
        let wal = space.map_or(0, |space| space.wal);
        if wal < LARGE_WAL {
            self.measured.warned = 0;
        } else if wal / 2 >= self.measured.warned {
            self.measured.warned = wal;
            warn!(
                "the write-ahead log of the store has {} MiB: another program has had a transaction open for long, so that the log \
                 cannot begin anew; end that transaction (`fuser FILE` names programs that have the file open)",
                wal >> 20
            );
        }
    }
}
