//! The pause before the next try to connect: longer each time, and never the same for two clients.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The first pause is at most this.
const SHORTEST: Duration = Duration::from_millis(200);
/// No pause is longer than this: a server that is back is found within half a minute.
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses whose upper bound doubles. A pause lies between a half of its bound and the bound, by chance, so that the
/// thousand workers of a restarted server do not come back in the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { bound: SHORTEST }
    }

    /// After a success.
    pub(super) const fn reset(&mut self) {
        self.bound = SHORTEST;
    }

    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(LONGEST);
        // The standard library seeds its hash maps from the system's randomness; that is all the chance needed here.
        let chance = RandomState::new().build_hasher().finish() % 1024;
        bound / 2 + bound * u32::try_from(chance).unwrap_or(0) / 2048
    }

    /// Waits for the next pause, but no longer than until `stop`; false if there is to be no other try.
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
