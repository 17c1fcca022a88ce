//! Liveness of the job server's thread. A response of the HTTP thread alone does not show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Beat;

/// Timeout for the job server's thread to respond.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Pings the job server's thread, with one ping at a time for all callers.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    beats: watch::Sender<u64>,
    is_asked: AtomicBool,
}

impl Pulse {
    /// Whether the job server's thread responds within the limit. `ask` sends it the ping.
    pub(super) async fn is_there(self: &Arc<Self>, limit: Duration, ask: impl Fn(Beat)) -> bool {
        let mut beats = self.beats.subscribe();
        if !self.is_asked.swap(true, Ordering::AcqRel) {
            let pulse = Arc::clone(self);
            ask(Box::new(move || {
                pulse.is_asked.store(false, Ordering::Release);
                pulse.beats.send_modify(|beat| *beat = beat.wrapping_add(1));
            }));
        }
        matches!(timeout(limit, beats.changed()).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn one_sign_of_life_is_for_all_who_wait_for_it() {
        let pulse = Arc::new(Pulse::default());
        let asked: Mutex<Vec<Beat>> = Mutex::default();
        let ask = |beat| asked.lock().unwrap().push(beat);
        let short = Duration::from_millis(20);
        let (one, other) = tokio::join!(pulse.is_there(short, ask), pulse.is_there(short, ask));
        assert!(!one && !other, "nobody gave one");
        let mut beats = std::mem::take(&mut *asked.lock().unwrap());
        assert_eq!(beats.len(), 1);
        // The first response is late, the next one in time.
        beats.pop().unwrap()();
        assert!(pulse.is_there(LIMIT, |beat| beat()).await);
        assert!(!pulse.is_there(short, |_| {}).await);
    }
}
