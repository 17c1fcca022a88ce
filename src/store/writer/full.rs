//! A full store: rejects new jobs while there is still room for removals, and publishes the free space.

use std::time::{Duration, Instant};

use tracing::warn;

use super::super::{Changes, Room, StoreError};
use super::batch::Addition;
use super::circuit_breaker::CircuitBreaker;
use super::{Writer, added};
use crate::job_server::{StoreFailure, StoreReport};

/// How often a full store is checked for free space.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// How often disk space is measured: minimum interval, and interval while idle.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
const IDLE_MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// Warn when the write-ahead log (WAL) reaches this size, and again each time it has doubled.
const LARGE_WAL: u64 = 256 << 20;
/// Maximum overhead of a stored job without its workload, in bytes.
const ENTRY: u64 = 1024;

/// Disk space of the store.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Time of the last measurement.
    at: Option<Instant>,
    /// Whether the store can measure it.
    is_known: bool,
    /// WAL size at the last warning.
    warned: u64,
}

impl Writer {
    /// Rejects the additions that do not fit.
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
            warn!("the store rejected a job: {error}");
        }
    }

    /// Marks the store as full: no room for new jobs, but for removals.
    pub(super) fn fill_up(&mut self, error: &StoreError) {
        self.fail(error);
        if let Some(breaker) = &mut self.breaker {
            breaker.is_writable = true;
            breaker.again = Instant::now() + ROOM_INTERVAL;
        }
    }

    /// Whether changes without new jobs must wait, because the store failed to commit the last ones.
    pub(super) fn must_wait(&self) -> bool {
        let waits = |breaker: &CircuitBreaker| !breaker.is_writable && breaker.is_open();
        self.breaker.as_ref().is_some_and(waits)
    }

    /// Records whether a full store accepted a change without new jobs.
    pub(super) fn set_writable(&mut self, is_writable: bool) {
        if let Some(breaker) = self.breaker.as_mut().filter(|breaker| breaker.failure == StoreFailure::Full) {
            breaker.is_writable = is_writable;
        }
    }

    /// Whether the store works again, if that can be determined without a write.
    pub(super) fn has_room_again(&mut self) -> Option<bool> {
        self.breaker.as_ref().filter(|breaker| breaker.failure == StoreFailure::Full)?;
        match self.store.room_again() {
            Room::Unknown => None,
            Room::Enough => Some(true),
            Room::Short(_) => {
                if let Some(breaker) = &mut self.breaker {
                    breaker.is_half_open = false;
                    breaker.again = Instant::now() + ROOM_INTERVAL;
                }
                Some(false)
            }
        }
    }

    /// Timer action: retries a failing store, or syncs earlier commits to disk.
    pub(super) fn act_unasked(&mut self) {
        if self.commit_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let is_settled = self.breaker.as_ref().is_some_and(|breaker| breaker.is_writable);
        if is_settled && self.retry_backlog.is_empty() && !self.is_sync_due() {
            match self.has_room_again() {
                Some(true) => return self.work_again(),
                Some(false) => return,
                None => {}
            }
        }
        // An error was already recorded.
        let _ = self.commit(Changes { sync: true, ..Changes::default() });
    }

    /// When to measure the disk space while idle.
    pub(super) fn measure_at(&self) -> Option<Instant> {
        self.measured.at.filter(|_| self.measured.is_known).map(|at| at + IDLE_MEASURE_INTERVAL)
    }

    /// Detects removed files, and a disk filled by another program, even while idle. Restores a reserve that
    /// was given up.
    fn look_after(&mut self) {
        if self.breaker.as_ref().is_some_and(|breaker| !breaker.is_writable) {
            return;
        }
        if let Err(error) = self.store.check() {
            self.fail(&error);
        } else if self.breaker.is_none()
            && let Room::Short(error) = self.store.room(0)
        {
            self.fill_up(&error);
        }
    }

    /// At shutdown: reports whether the next start will not find the stored data, and publishes the reason.
    pub(super) fn is_missing(&mut self) -> bool {
        let missing = self.store.missing();
        let is_missing = missing.is_some();
        self.stats.store.set_missing(missing);
        is_missing
    }

    /// Publishes the disk space of the store.
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
                "the write-ahead log of the store has {} MiB: another program keeps a transaction open, so the WAL \
                 cannot restart; end that transaction (`fuser FILE` names programs that have the file open)",
                wal >> 20
            );
        }
    }
}
