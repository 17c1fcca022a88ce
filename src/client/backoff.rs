//! Exponential backoff with jitter between attempts to connect.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Upper bound of the first pause.
const SHORTEST: Duration = Duration::from_millis(200);
/// Upper bound of all pauses: a restarted server is found within half a minute.
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses whose upper bound doubles. Each pause is a random time between half of the bound and the bound, so
/// that the thousand workers of a restarted server do not reconnect at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { bound: SHORTEST }
    }

    /// Resets the bound after a success.
    pub(super) const fn reset(&mut self) {
        self.bound = SHORTEST;
    }

    /// Returns the next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(LONGEST);
        // The standard library seeds its hash maps from the system's randomness. No better randomness is
        // needed here.
        let chance = RandomState::new().build_hasher().finish() % 1024;
        bound / 2 + bound * u32::try_from(chance).unwrap_or(0) / 2048
    }

    /// Sleeps for the next pause, or until `stop`. Returns false if there must not be another attempt.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = self.pause();
        tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew() {
        let mut backoff = Backoff::new();
        let mut bound = SHORTEST;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= bound / 2 && pause <= bound, "{pause:?} of {bound:?}");
            bound = (bound * 2).min(LONGEST);
        }
        assert_eq!(bound, LONGEST);
        backoff.reset();
        assert!(backoff.pause() <= SHORTEST);
    }
}
