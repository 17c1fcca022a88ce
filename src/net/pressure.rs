//! Memory pressure: the connections that hold much memory and drain it slowest are closed first.
//!
//! A separate thread checks the memory account and all holders of buffers. No other thread waits for it, and
//! it takes no lock of the hub. There are two rules.
//!
//! **A minimum pace that rises with memory use.** A peer with more than `SMALL` bytes queued or arriving must
//! move what it holds within a time limit, which shrinks with the fourth power of the share of memory budget
//! that buffers take: see `Pace`. While memory is plentiful the limit is hours. So a slow upload or a client
//! that pauses is not cut off then, whatever it holds.
//!
//! **At the limit,** connections that hold more than the average are closed at once, those that recently
//! moved the least of what they hold first, until there is some room. The same happens when large packets
//! have waited for room for a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::{io, mem};

use slab::Slab;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::log_level::notice;
use crate::outbox::{CloseReason, Outbox};
use crate::stats::account::{Account, STEP};

/// What a peer may hold at any pace while the limit is not reached, in bytes.
const SMALL: u64 = 1024 * 1024;
/// The time in which a peer must move what it holds when buffers use their whole memory budget.
const SHORTEST_TIME: Duration = Duration::from_secs(3);
/// Below this share of the buffers' memory budget no pace is checked. The time limit would be days there.
const LEAST_SHARE: f64 = 1.0 / 16.0;
/// How often holders are checked above that share.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often the account is checked below it.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// After this time without a refused submission the log says that none is refused any longer.
const NONE_REFUSED: Duration = Duration::from_mins(1);
/// The time over which a peer's pace is averaged, for the order in which connections are closed at the limit.
const LATELY: Duration = Duration::from_secs(2);
/// How long large packets wait for room before other connections are closed for them.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(1);
/// How many closed connections of one check get a log line each; the others share one.
const LINES: usize = 5;

/// A holder of buffers, and how to close it.
#[derive(Debug)]
enum Target {
    Connection(Arc<Outbox>),
    Task(String, CancellationToken),
}

/// A peer for which the server holds buffers.
#[derive(Debug)]
pub struct Holder {
    target: Target,
    /// Bytes of partial packets, or bytes that a task holds for its peer.
    held: AtomicUsize,
    /// Total bytes of large packets received.
    received: AtomicU64,
    /// Total bytes written to the peer.
    written: AtomicU64,
}

impl Holder {
    /// Counts `bytes` written to the peer.
    pub fn wrote(&self, bytes: usize) {
        add(&self.written, bytes);
    }

    /// Counts `bytes` received of a large packet.
    pub fn received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    /// Sets how many bytes the peer's task holds, besides those in its outbox.
    pub fn set_held(&self, bytes: usize) {
        self.held.store(bytes, Ordering::Relaxed);
    }

    fn queued(&self) -> u64 {
        match &self.target {
            Target::Connection(outbox) => outbox.queued() as u64,
            Target::Task(..) => 0,
        }
    }
}

/// Adds to a count that has one writer at a time.
fn add(count: &AtomicU64, bytes: usize) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(bytes as u64), Ordering::Relaxed);
}

/// The registration of a holder, until this is dropped.
#[derive(Debug)]
pub struct Registered {
    pressure: Arc<Pressure>,
    key: usize,
    holder: Arc<Holder>,
}

impl std::ops::Deref for Registered {
    type Target = Holder;

    fn deref(&self) -> &Holder {
        &self.holder
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.pressure.lock().try_remove(self.key);
    }
}

/// All holders of buffers, and the thread that checks them.
#[derive(Debug)]
pub struct Pressure {
    account: Arc<Account>,
    holders: Mutex<Slab<Arc<Holder>>>,
    thread: OnceLock<Thread>,
    /// Whether a large packet has waited for room since the last check.
    is_wanted: AtomicBool,
    /// Connections closed since the last check, with the bytes each held.
    closed: Mutex<Vec<(String, u64)>>,
}

impl Pressure {
    /// Creates the registry without holders.
    pub fn new(account: Arc<Account>) -> Arc<Self> {
        let (holders, thread, is_wanted, closed) = Default::default();
        Arc::new(Self { account, holders, thread, is_wanted, closed })
    }

    /// The account.
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Adds a connection.
    pub fn add_connection(self: &Arc<Self>, outbox: Arc<Outbox>) -> Registered {
        self.add(Target::Connection(outbox))
    }

    /// Adds a task that holds bytes for a peer of this name; `cancel` ends it.
    pub fn add_task(self: &Arc<Self>, name: String, cancel: CancellationToken) -> Registered {
        self.add(Target::Task(name, cancel))
    }

    fn add(self: &Arc<Self>, target: Target) -> Registered {
        let (held, received, written) = Default::default();
        let holder = Arc::new(Holder { target, held, received, written });
        let key = self.lock().insert(Arc::clone(&holder));
        Registered { pressure: Arc::clone(self), key, holder }
    }

    /// Records a connection that was closed for lack of memory. The next check logs it.
    pub fn note_closed(&self, name: String, held: u64) {
        self.account.closed.add(1);
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).push((name, held));
    }

    /// Reports that a large packet waits for room, and wakes the thread.
    pub fn want_room(&self) {
        if !self.is_wanted.swap(true, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Holder>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends soon after all other references to `pressure` are dropped.
///
/// # Errors
/// When the system cannot create another thread.
pub fn start(pressure: &Arc<Pressure>) -> io::Result<()> {
    let observed = Arc::downgrade(pressure);
    let thread = thread::Builder::new().name("memory".to_owned()).spawn(move || run(&observed))?;
    // Called once.
    let _ = pressure.thread.set(thread.thread().clone());
    Ok(())
}

fn run(observed: &Weak<Pressure>) {
    let mut history = HolderHistory::default();
    while let Some(pressure) = observed.upgrade() {
        let interval = history.look(&pressure, Instant::now());
        drop(pressure);
        thread::park_timeout(interval);
    }
}

/// What earlier checks saw of all holders.
struct HolderHistory {
    seen: HashMap<usize, Seen>,
    looked_at: Instant,
    wanted_since: Option<Instant>,
    refusals: Refusals,
}

impl Default for HolderHistory {
    fn default() -> Self {
        let refusals = Refusals::default();
        Self { seen: HashMap::new(), looked_at: Instant::now(), wanted_since: None, refusals }
    }
}

/// What earlier checks saw of refused submissions.
#[derive(Default)]
struct Refusals {
    count: u64,
    /// While submissions are refused: the count before the first refusal, and when the last was seen.
    since: Option<(u64, Instant)>,
}

impl Refusals {
    /// Logs when submissions begin to be refused, and when none was refused for a minute.
    fn look(&mut self, account: &Account, now: Instant) {
        let before = mem::replace(&mut self.count, account.refused.get());
        match self.since {
            None if self.count > before => {
                let (held, limit) = (mib(account.total()), mib(account.limit()));
                warn!(
                    "submissions are refused: the memory limit or the job limit is reached (max-memory, \
                     max-workload-memory, max-jobs); {held} of {limit} in use, see `show server`"
                );
                account.is_refusing.set(1);
                self.since = Some((before, now));
            }
            Some((first, _)) if self.count > before => self.since = Some((first, now)),
            Some((first, last)) if now.saturating_duration_since(last) >= NONE_REFUSED => {
                notice!(
                    "submissions are accepted again: none refused in the last minute, {} before",
                    self.count - first
                );
                account.is_refusing.set(0);
                self.since = None;
            }
            _ => {}
        }
    }
}

/// What earlier checks saw of a holder.
struct Seen {
    holder: Weak<Holder>,
    received: u64,
    written: u64,
    /// Recent speed, in bytes a second.
    speed: f64,
    /// How far it is behind the required pace, in bytes.
    behind: f64,
}

/// A holder that may be closed.
struct Candidate {
    holder: Arc<Holder>,
    held: u64,
    speed: f64,
}

impl HolderHistory {
    /// Runs one check. Returns the time until the next.
    fn look(&mut self, pressure: &Pressure, now: Instant) -> Duration {
        let account = &pressure.account;
        let (buffered, most) = (account.buffered(), account.buffers_max());
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let share = buffered as f64 / most as f64;
        log_closed(pressure);
        self.refusals.look(account, now);
        let is_wanted = pressure.is_wanted.swap(false, Ordering::Relaxed);
        self.wanted_since = is_wanted.then(|| self.wanted_since.unwrap_or(now));
        if share < LEAST_SHARE && !is_wanted {
            self.seen = HashMap::new();
            self.looked_at = now;
            return IDLE_INTERVAL;
        }
        let elapsed = now.saturating_duration_since(mem::replace(&mut self.looked_at, now));
        let candidates = self.measure(pressure, elapsed, Pace { share });
        let has_waited = self.wanted_since.is_some_and(|since| now.saturating_duration_since(since) >= WAIT_FOR_ROOM);
        let excess = match (buffered > most, has_waited) {
            (true, _) => buffered - most / 4 * 3,
            (false, true) => most / 8,
            (false, false) => 0,
        };
        if has_waited {
            self.wanted_since = None;
        }
        close(pressure, choose(candidates, excess));
        INTERVAL
    }

    /// Updates the measurements. Returns all holders of more than a little. A negative speed marks those that
    /// are below the required pace.
    fn measure(&mut self, pressure: &Pressure, elapsed: Duration, pace: Pace) -> Vec<Candidate> {
        let holders = pressure.lock();
        self.seen
            .retain(|key, seen| holders.get(*key).is_some_and(|holder| seen.holder.as_ptr() == Arc::as_ptr(holder)));
        let mut candidates = Vec::new();
        for (key, holder) in holders.iter() {
            let (queued, kept) = (holder.queued(), holder.held.load(Ordering::Relaxed) as u64);
            let held = queued + kept;
            if held <= STEP as u64 {
                self.seen.remove(&key);
                continue;
            }
            let received = holder.received.load(Ordering::Relaxed);
            let written = holder.written.load(Ordering::Relaxed);
            let seen = self.seen.entry(key).or_insert_with(|| Seen {
                holder: Arc::downgrade(holder),
                received,
                written,
                speed: 0.0,
                behind: 0.0,
            });
            // Bytes that a slow reader sends do not count for it.
            let was_written = written.wrapping_sub(mem::replace(&mut seen.written, written));
            let was_received = received.wrapping_sub(mem::replace(&mut seen.received, received));
            let is_upload = matches!(holder.target, Target::Connection(..)) && kept > queued;
            let moved = if is_upload { was_received } else { was_written };
            let is_too_slow = seen.moved(moved, held, elapsed, pace);
            let speed = if is_too_slow { -1.0 } else { seen.speed };
            candidates.push(Candidate { holder: Arc::clone(holder), held, speed });
        }
        candidates
    }
}

impl Seen {
    /// Accounts for the bytes moved since the last check and the bytes held now. Returns whether the holder
    /// is too slow.
    #[allow(clippy::cast_precision_loss, reason = "a pace need not be exact")]
    fn moved(&mut self, moved: u64, held: u64, elapsed: Duration, pace: Pace) -> bool {
        let (moved, held, elapsed_s) = (moved as f64, held as f64, elapsed.as_secs_f64());
        let weight = (elapsed_s / LATELY.as_secs_f64()).min(1.0);
        self.speed = self.speed * (1.0 - weight) + moved / elapsed_s.max(0.001) * weight;
        if held <= SMALL as f64 {
            self.behind = 0.0;
            return false;
        }
        self.behind = (self.behind + held * elapsed_s / pace.time_s() - moved).max(0.0);
        self.behind >= held
    }
}

/// The pace required of peers, by the share of the buffers' memory budget in use.
#[derive(Clone, Copy, Debug)]
struct Pace {
    share: f64,
}

impl Pace {
    /// The time in which a peer must move what it holds, in seconds: 3 when buffers use their whole budget,
    /// 48 at half of it, 13 minutes at a quarter.
    fn time_s(self) -> f64 {
        SHORTEST_TIME.as_secs_f64() / self.share.powi(4)
    }
}

/// Chooses the holders that are too slow, and then more of those that hold more than the average, until
/// `excess` bytes are freed.
fn choose(candidates: Vec<Candidate>, excess: u64) -> Vec<Candidate> {
    let count = candidates.len().max(1) as u64;
    let average = candidates.iter().map(|candidate| candidate.held).sum::<u64>() / count;
    let (mut chosen, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.speed < 0.0);
    let mut freed: u64 = chosen.iter().map(|candidate| candidate.held).sum();
    let mut large: Vec<Candidate> = others.into_iter().filter(|candidate| candidate.held >= average).collect();
    #[allow(clippy::cast_precision_loss, reason = "an order need not be exact")]
    let relative = |candidate: &Candidate| candidate.speed / candidate.held as f64;
    large.sort_by(|one, other| relative(one).total_cmp(&relative(other)).then(other.held.cmp(&one.held)));
    for candidate in large {
        if freed >= excess {
            break;
        }
        freed += candidate.held;
        chosen.push(candidate);
    }
    chosen
}

fn close(pressure: &Pressure, chosen: Vec<Candidate>) {
    for Candidate { holder, held, .. } in chosen {
        match &holder.target {
            // Its task calls `note_closed`.
            Target::Connection(outbox) => {
                if let Some(waker) = outbox.close(CloseReason::OutOfMemory) {
                    waker.wake();
                }
            }
            Target::Task(name, cancel) => {
                cancel.cancel();
                pressure.note_closed(name.clone(), held);
            }
        }
    }
}

/// Logs the closed connections. Beyond `LINES` they share a line.
fn log_closed(pressure: &Pressure) {
    let mut closed = mem::take(&mut *pressure.closed.lock().unwrap_or_else(PoisonError::into_inner));
    closed.sort_by_key(|(_, held)| std::cmp::Reverse(*held));
    let limit = mib(pressure.account.limit());
    for (name, held) in closed.iter().take(LINES) {
        let held = mib(*held);
        warn!("Closed {name}: slow peer under memory pressure: held {held} (--max-memory {limit})");
    }
    if closed.len() > LINES {
        let held = mib(closed.iter().skip(LINES).map(|(_, held)| held).sum());
        let count = closed.len() - LINES;
        warn!("Closed {count} more slow peers under memory pressure: held {held} (--max-memory {limit})");
    }
}

fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::account::Part;

    const MIB: u64 = 1 << 20;

    /// How many seconds a peer lasts that holds `held` bytes while buffers take this share, and moves this
    /// many bytes a second.
    fn lifetime_s(share: f64, held: u64, moved_a_second: u64, most: u32) -> Option<u32> {
        let mut seen = Seen { holder: Weak::new(), received: 0, written: 0, speed: 0.0, behind: 0.0 };
        (1..=most).find(|_| seen.moved(moved_a_second, held, Duration::from_secs(1), Pace { share }))
    }

    #[test]
    fn the_time_shrinks_as_memory_does() {
        let lives = |share| lifetime_s(share, 48 * MIB, 0, 100_000);
        assert_eq!(
            [lives(1.0), lives(0.75), lives(0.5), lives(0.25), lives(0.1)],
            [Some(3), Some(10), Some(48), Some(768), Some(30_000)]
        );
        // Slightly behind, but it adds up.
        assert!(lifetime_s(0.8, 48 * MIB, 2_000, 60).is_some(), "2 kB/s");
        assert_eq!(lifetime_s(0.8, 48 * MIB, 10 * MIB, 1000), None);
        assert_eq!(lifetime_s(0.2, 63 * MIB, 40_000, 100_000), None, "a slow upload");
        assert_eq!(lifetime_s(1.0, MIB, 0, 100_000), None, "little waits for it");
    }

    #[test]
    fn the_slowest_of_those_that_hold_much_go_first() {
        let candidate = |name: &str, held: u64, speed: f64| {
            let target = Target::Task(name.to_owned(), CancellationToken::new());
            let (kept, received, written) = Default::default();
            let holder = Arc::new(Holder { target, held: kept, received, written });
            Candidate { holder, held, speed }
        };
        let names = |excess| {
            let candidates = vec![
                candidate("small and still", MIB / 2, 0.0),
                candidate("large and fast", 60 * MIB, 5e7),
                candidate("large and slow", 50 * MIB, 1e3),
                candidate("large and still", 40 * MIB, 0.0),
                candidate("larger and still", 45 * MIB, 0.0),
            ];
            let chosen = choose(candidates, excess);
            let name = |candidate: &Candidate| match &candidate.holder.target {
                Target::Task(name, _) => name.clone(),
                Target::Connection(..) => String::new(),
            };
            chosen.iter().map(name).collect::<Vec<String>>()
        };
        assert_eq!(names(0), Vec::<String>::new());
        assert_eq!(names(1), ["larger and still"]);
        assert_eq!(names(100 * MIB), ["larger and still", "large and still", "large and slow"]);
        assert_eq!(names(u64::MAX).len(), 4, "who holds little stays");
    }

    #[test]
    fn a_look_closes_until_there_is_room() {
        let account = Arc::new(Account::default());
        account.set_limit(80 * MIB);
        let pressure = Pressure::new(Arc::clone(&account));
        let tokens: Vec<CancellationToken> = (0..10).map(|_| CancellationToken::new()).collect();
        let holders: Vec<Registered> =
            tokens.iter().map(|token| pressure.add_task("a task".to_owned(), token.clone())).collect();
        for holder in &holders {
            holder.set_held(8 << 20);
        }
        let (mut history, mut now) = (HolderHistory::default(), Instant::now());
        let mut look = |held| {
            account.set(Part::Http, held);
            now += INTERVAL;
            let again = history.look(&pressure, now);
            (again, tokens.iter().filter(|token| token.is_cancelled()).count())
        };
        assert_eq!(look(MIB), (IDLE_INTERVAL, 0));
        assert_eq!(look(40 * MIB), (INTERVAL, 0));
        assert_eq!(look(71 * MIB), (INTERVAL, 3), "from 71 down to three quarters of 70");
        assert_eq!(account.closed.get(), 3);
        drop(holders);
        assert!(pressure.lock().is_empty());
    }
}
