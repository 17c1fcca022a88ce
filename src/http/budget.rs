//! A shared memory budget for large bodies and results.
//!
//! Everything above a free allowance is charged, regardless of the number of chunks, until the last byte is
//! written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Interface;
use super::answer::{ApiError, kib};
use crate::stats::account::{Account, Amount, Part};

/// Size of the budget in KiB, unless memory is limited or a single body may be larger.
const MOST_KIB: usize = 256 * 1024;

/// Free allowance of each body or result, in bytes.
pub(super) const SMALL: usize = 64 * 1024;
/// How long to wait for others to release their shares.
const PATIENCE: Duration = Duration::from_secs(30);

/// The memory budget that all large bodies and results share.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Permits, one per KiB.
    semaphore: Arc<Semaphore>,
    account: Arc<Account>,
}

impl Budget {
    /// A budget of 256 MiB, but no more than an eighth of the account's limit, and at least twice the maximum
    /// packet size.
    pub fn new(max_packet_size: usize, account: Arc<Account>) -> Self {
        let eighth = usize::try_from(account.limit() / 8 / 1024).unwrap_or(usize::MAX);
        let largest = kib(max_packet_size).saturating_mul(2);
        let most = MOST_KIB.min(eighth).max(largest).min(Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(most)), account }
    }
}

/// A share of the budget, released on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
    /// The amount reported to the account.
    amount: Amount,
}

impl Share {
    pub(super) fn new(interface: &Interface) -> Self {
        Self::of(&interface.budget)
    }

    pub(super) fn of(budget: &Budget) -> Self {
        let amount = Amount::new(Arc::clone(&budget.account), Part::Http);
        Self { budget: budget.clone(), permit: None, amount }
    }

    /// Grows the share to this total in bytes.
    ///
    /// # Errors
    /// The budget is exhausted.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), ApiError> {
        let missing = self.missing(bytes);
        if missing > 0 {
            let more = Arc::clone(&self.budget.semaphore).try_acquire_many_owned(missing).map_err(|_| too_much())?;
            self.add(more);
        }
        Ok(())
    }

    /// The same, but waits. Cancel safe.
    ///
    /// # Errors
    /// The budget stays exhausted for too long.
    pub(super) async fn await_hold(&mut self, bytes: usize) -> io::Result<()> {
        let missing = self.missing(bytes);
        if missing > 0 {
            let more = timeout(PATIENCE, Arc::clone(&self.budget.semaphore).acquire_many_owned(missing)).await;
            match more {
                Ok(Ok(more)) => self.add(more),
                Ok(Err(_)) | Err(_) => return Err(io::ErrorKind::OutOfMemory.into()),
            }
        }
        Ok(())
    }

    /// Moves the whole share to a new one, and leaves this one empty.
    pub(super) fn take(&mut self) -> Self {
        let rest = Self::of(&self.budget);
        std::mem::replace(self, rest)
    }

    /// The missing permits, in KiB.
    fn missing(&self, bytes: usize) -> u32 {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = if bytes <= SMALL { 0 } else { kib(bytes) };
        u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX)
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.amount.set(held * 1024);
    }
}

/// The error for an exhausted budget.
pub(super) fn too_much() -> ApiError {
    ApiError::busy("too_much_at_once", "memory budget for large bodies is exhausted")
}

/// Appends bytes without allocating for more than `most` bytes in total.
pub(super) fn append(bytes: &mut Vec<u8>, more: &[u8], most: usize) {
    if bytes.capacity() - bytes.len() < more.len() {
        let room = more.len().max(bytes.len().min(most.saturating_sub(bytes.len())));
        bytes.reserve_exact(room);
    }
    bytes.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_charged_and_goes_back() {
        let budget = Budget { semaphore: Arc::new(Semaphore::new(100)), account: Arc::default() };
        let left = || (budget.semaphore.available_permits(), budget.account.get(Part::Http));
        let mut share = Share::of(&budget);
        share.hold(SMALL).unwrap();
        assert_eq!(left(), (100, 0));
        share.hold(SMALL + 1).unwrap();
        share.hold(80 * 1024).unwrap();
        assert_eq!(left(), (20, 80 * 1024));
        assert!(share.hold(101 * 1024).is_err());
        let other = share.take();
        share.hold(10).unwrap();
        assert_eq!(left(), (20, 80 * 1024));
        drop(other);
        assert_eq!(left(), (100, 0));
    }

    #[test]
    fn two_of_the_largest_always_fit() {
        let account = Arc::new(Account::default());
        let permits = |packet| Budget::new(packet, Arc::clone(&account)).semaphore.available_permits();
        assert_eq!(permits(64 << 20), MOST_KIB);
        account.set_limit(512 << 20);
        assert_eq!([permits(1 << 20), permits(64 << 20)], [64 * 1024, 128 * 1024]);
    }

    #[test]
    fn no_more_is_set_aside_than_may_come() {
        let mut bytes = Vec::new();
        for _ in 0..10 {
            append(&mut bytes, &[0; 100], 1000);
        }
        assert_eq!((bytes.len(), bytes.capacity()), (1000, 1000));
    }
}
