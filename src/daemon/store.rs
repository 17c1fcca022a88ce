//! The store of a server: opens it, restores its jobs, and closes it.

mod restore;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, warn};

use self::restore::Restore;
use crate::config::{Config, DurabilityLevel, QueueChoice};
use crate::hub::Hub;
use crate::job_server::{Durability, FOREIGN_NUMBER_MAX, NUMBER_MAX, RestoredSettings, StoreFailure};
use crate::log_level::audit;
use crate::net::Clock;
use crate::stats::{Stats, StoreState};
use crate::store::location::{Access, Location};
use crate::store::write_queue::WriteQueue;
use crate::store::writer::{self, Settings};
use crate::store::{Begun, Replayed, Store, StoreError};

/// How long a start waits for an unreachable database: after a reboot it may start later than this server.
const WAIT_FOR_DATABASE: Duration = Duration::from_secs(30);
/// How often the connection is retried in that time.
const DATABASE_INTERVAL: Duration = Duration::from_millis(500);
/// How often an idle database is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a stop checks whether the store is done.
const STOP_INTERVAL: Duration = Duration::from_millis(2);
/// How many settings that are left out get a log line each.
const NAMED_SETTINGS: usize = 10;
/// How long a stop waits for pending writes.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The running store of a server.
pub(super) struct Keeper {
    queue: Arc<WriteQueue>,
    writer: JoinHandle<()>,
    /// `None` if all jobs were restored before the server accepted connections.
    restore: Option<Restore>,
}

impl Keeper {
    /// Restores the jobs of a store into the hub, and starts the writer that stores the changes in `queue`.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub(super) async fn start(
        location: &Location,
        config: &Config,
        hub: &Arc<Hub>,
        clock: &Arc<Clock>,
        queue: Arc<WriteQueue>,
    ) -> Result<Self, StoreError> {
        let store = open(location, config.job_handle_prefix.as_str().into()).await?;
        let (store, restore, quarantined) = match begin(store).await? {
            (store, Some((known, reading))) => {
                take_over(location, hub, known);
                hub.begin_restoring();
                let mut restore = Restore::start(reading, hub, clock)?;
                let quarantined = restore.wait().await?;
                (store, quarantined.is_none().then_some(restore), quarantined.unwrap_or(0))
            }
            (store, None) => {
                let (store, replayed) = restore::replay(store, hub, clock).await?;
                let quarantined = replayed.quarantined;
                take_over(location, hub, replayed);
                (store, None, quarantined)
            }
        };
        let jobs = hub.kept_job_count();
        let durability = &config.durability;
        if restore.is_some() {
            audit!(
                "background jobs are kept in {location}, durability {durability}; {jobs} jobs restored so far: \
                 workers get them, submissions wait until all are restored"
            );
        } else {
            audit!("background jobs are kept in {location}, durability {durability}; {jobs} jobs restored");
        }
        if quarantined > 0 {
            error!("{location}: {quarantined} invalid rows quarantined, see the log");
        }
        hub.stats().store.set_state(StoreState::Working);
        publish(hub.stats(), location, config);
        let (told, clock) = (Arc::clone(hub), Arc::clone(clock));
        let report = Box::new(move |reports| told.stored(clock.now(), reports));
        let writer = writer::spawn(store, Arc::clone(&queue), writer_settings(config), hub.shared_stats(), report)
            .map_err(no_thread)?;
        Ok(Self { queue, writer, restore })
    }

    /// Applies changed settings.
    pub(super) fn reload(&self, config: &Config) {
        self.queue.set_settings(writer_settings(config));
    }

    /// Waits until all pending requests to the store are answered, with a timeout.
    pub(super) async fn answer_all(&self, hub: &Hub) {
        let end = Instant::now() + STOP_TIMEOUT;
        while hub.unanswered_job_count() > 0 && Instant::now() < end {
            tokio::time::sleep(STOP_INTERVAL).await;
        }
    }

    /// Waits for a failure of restoring jobs while the server is already accepting connections.
    pub(super) async fn failure(&mut self) -> StoreError {
        match &mut self.restore {
            Some(restore) => restore.failure().await,
            None => std::future::pending().await,
        }
    }

    /// Writes all pending changes, and closes the store.
    pub(super) async fn stop(self, last_number: u64) {
        if let Some(restore) = self.restore {
            restore.stop();
        }
        self.queue.close(last_number);
        let end = Instant::now() + STOP_TIMEOUT;
        while !self.writer.is_finished() {
            if Instant::now() > end {
                let left = self.queue.len();
                return error!("store did not finish within {STOP_TIMEOUT:?}: stopping with {left} changes unwritten");
            }
            tokio::time::sleep(STOP_INTERVAL).await;
        }
    }
}

/// Applies the state that precedes the jobs: the last job number and the operator's settings.
fn take_over(location: &Location, hub: &Hub, known: Replayed) {
    let Replayed { last_number, settings, .. } = known;
    hub.skip_to_number(last_number);
    if last_number > FOREIGN_NUMBER_MAX {
        let left = NUMBER_MAX.saturating_sub(last_number);
        error!(
            "{location}: only {left} job numbers left; submissions fail after that; drain this queue and start with an \
             empty one"
        );
    }
    tell_of_settings(location, &hub.restore_settings(settings));
}

/// Waits for a failure of restoring jobs.
pub(super) async fn unreadable(keeper: &mut Option<Keeper>) -> StoreError {
    match keeper {
        Some(keeper) => keeper.failure().await,
        None => std::future::pending().await,
    }
}

/// Logs the restored settings at every level, so that an operator notices a forgotten pause.
fn tell_of_settings(location: &Location, restored: &RestoredSettings) {
    let RestoredSettings { paused, limited, rules, left_out } = restored;
    if paused + limited + rules > 0 {
        audit!("restored settings: {paused} paused functions, {limited} functions with limits, {rules} worker rules");
    }
    for (name, why) in left_out.iter().take(NAMED_SETTINGS) {
        warn!("{location}: the setting {name:?} was not restored: {why}");
    }
    if left_out.len() > NAMED_SETTINGS {
        warn!("{location}: {} settings in total were not restored", left_out.len());
    }
}

fn writer_settings(config: &Config) -> Settings {
    // A database may become unreachable while it is idle. An idle file costs nothing.
    let is_database =
        matches!(config.queue, QueueChoice::Postgres { .. } | QueueChoice::Mysql { .. } | QueueChoice::Redis { .. });
    Settings {
        durability: level(config.durability.level),
        interval: config.durability.interval,
        probe: is_database.then_some(PROBE_INTERVAL),
        reserve: config.store_reserve,
    }
}

/// Publishes the location and durability of the store.
pub(super) fn publish(stats: &Stats, location: &Location, config: &Config) {
    stats.store.set_about(location.to_string(), durability_text(config));
}

fn durability_text(config: &Config) -> String {
    let of_functions = config.function_durability.iter().map(|own| format!(", {} {}", own.function, own.level));
    std::iter::once(config.durability.to_string()).chain(of_functions).collect()
}

/// Opens a store. Waits for a database that is unreachable.
async fn open(location: &Location, prefix: Arc<str>) -> Result<Box<dyn Store>, StoreError> {
    let end = Instant::now() + WAIT_FOR_DATABASE;
    let mut has_warned = false;
    loop {
        let (location, prefix) = (location.clone(), Arc::clone(&prefix));
        match on_own_thread(move || location.open(Access::Own, &prefix)).await {
            Err(error) if error.failure == StoreFailure::Unreachable && Instant::now() < end => {
                if !std::mem::replace(&mut has_warned, true) {
                    error!("{error}; trying again for {WAIT_FOR_DATABASE:?}");
                }
                tokio::time::sleep(DATABASE_INTERVAL).await;
            }
            result => return result,
        }
    }
}

/// Begins to restore jobs from a store that can be used at the same time.
async fn begin(mut store: Box<dyn Store>) -> Result<(Box<dyn Store>, Option<Begun>), StoreError> {
    on_own_thread(move || {
        let begun = store.begin_replay()?;
        Ok((store, begun))
    })
    .await
}

/// Runs blocking work on a separate thread. A driver may have a runtime of its own, which cannot run on a
/// thread of this one.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (done, result) = oneshot::channel();
    // The receiver may be dropped: the process ends then.
    let run = move || drop(done.send(work()));
    std::thread::Builder::new().name("store".to_owned()).spawn(run).map_err(no_thread)?;
    result.await.unwrap_or_else(|_| Err(StoreError::new(StoreFailure::Io, "the thread that opens the store has ended")))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn no_thread(error: io::Error) -> StoreError {
    StoreError::new(StoreFailure::Io, format!("cannot start a thread for the store: {error}"))
}

/// Converts the durability level of the settings.
pub(super) fn level(level: DurabilityLevel) -> Durability {
    match level {
        DurabilityLevel::Always => Durability::Always,
        DurabilityLevel::Interval => Durability::Interval,
        DurabilityLevel::Off => Durability::Off,
    }
}
