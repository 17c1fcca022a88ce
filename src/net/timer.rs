//! The timer task: runs what is due, and sleeps until the next deadline.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Clock;
use crate::hub::Hub;

/// Runs for ever. The hub wakes it when a deadline is earlier than the one it sleeps for.
pub async fn keep_time(hub: Arc<Hub>, clock: Arc<Clock>) {
    let mut sleep = pin!(sleep_until(Instant::now()));
    poll_fn(|context| {
        loop {
            let now = clock.now();
            let Some(next_us) = hub.timeout(now, context.waker()) else {
                return Poll::<()>::Pending;
            };
            // More is due than one call handles: the connections run first.
            let at = Instant::from_std(clock.instant(next_us)).max(Instant::now() + Duration::from_micros(1));
            sleep.as_mut().reset(at);
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}
