//! The task that keeps the time: it does what is due, and sleeps until more will be.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Clock;
use crate::hub::Hub;

/// Runs for ever. The hub wakes it when something is to happen earlier than it knows.
pub async fn keep_time(hub: Arc<Hub>, clock: Arc<Clock>) {
    let mut sleep = pin!(sleep_until(Instant::now()));
    poll_fn(|context| {
        loop {
            let now = clock.now();
            let Some(next_us) = hub.timeout(now, context.waker()) else {
                return Poll::<()>::Pending;
            };
            // What is due already is more than one call works off: the connections get their turn first.
            let at = Instant::from_std(clock.instant(next_us)).max(Instant::now() + Duration::from_micros(1));
            sleep.as_mut().reset(at);
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}
