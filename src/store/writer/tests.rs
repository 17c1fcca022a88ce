#[path = "commit/tests.rs"]
mod commit;
#[path = "edits/tests.rs"]
mod edits;
#[path = "removals/tests.rs"]
mod removals;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::job_server::{Edit, StoredParts};
use crate::protocol::{FunctionName, Priority};
use crate::store::commit::Commit;
use crate::store::{HasWorkload, Replayed, Workloads};

/// Generous for a slow machine. A test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A transaction as the store saw it: numbers removed, numbers added, whether a sync was requested.
type Seen = (Vec<u64>, Vec<u64>, bool);

/// The other parts of the same transaction.
#[derive(Debug, Default, PartialEq, Eq)]
struct Details {
    removes: Vec<JobKey>,
    edits: Vec<(JobKey, Edit)>,
    attempts: Vec<(JobKey, u16)>,
    settings: Vec<(String, Option<String>)>,
}

/// A setting that the store always rejects.
const REFUSED: &str = "refused";

/// A store with scripted results that records its calls.
struct Scripted {
    outcomes: VecDeque<Result<(), StoreFailure>>,
    /// The number of a job whose addition and edits it always rejects.
    refused: u64,
    /// The error of every read, if any, and the number of reads.
    unreadable: Option<StoreFailure>,
    reads: Arc<AtomicUsize>,
    commits: Sender<Seen>,
    details: Sender<Details>,
}

impl Store for Scripted {
    fn replay(&mut self, _: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        Ok(Replayed::default())
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let numbers = |keys: &[JobKey]| keys.iter().map(|key| key.number).collect();
        let adds: Vec<u64> = changes.adds.iter().map(|job| job.number).collect();
        let Changes { removes, edits, attempts, settings, .. } = changes;
        let is_refused = adds.contains(&self.refused)
            || settings.iter().any(|(name, _)| name == REFUSED)
            || edits.iter().any(|(key, _)| key.number == self.refused);
        let mut edits = edits.clone();
        edits.sort_by_key(|(key, _)| key.number);
        let (removes, attempts, settings) = (removes.clone(), attempts.clone(), settings.clone());
        self.details.send(Details { removes, edits, attempts, settings }).unwrap();
        self.commits.send((numbers(&changes.removes), adds, changes.sync)).unwrap();
        let outcome = if is_refused { Err(StoreFailure::Refused) } else { self.outcomes.pop_front().unwrap_or(Ok(())) };
        outcome.map_err(|failure| StoreError::new(failure, "as the test says"))
    }

    fn load(&mut self, jobs: &[JobKey], _: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(failure) = self.unreadable {
            return Err(StoreError::new(failure, "as the test says"));
        }
        let workload = |key: &JobKey| (key.function != gone()).then(|| Bytes::from(key.number.to_string()));
        Ok(jobs.iter().map(workload).collect())
    }
}

impl Default for Scripted {
    fn default() -> Self {
        let (commits, details) = (channel().0, channel().0);
        Self { outcomes: VecDeque::new(), refused: 0, unreadable: None, reads: Arc::default(), commits, details }
    }
}

/// A writer with a scripted store.
struct Bench {
    queue: Arc<WriteQueue>,
    commits: Receiver<Seen>,
    details: Receiver<Details>,
    reports: Receiver<StoreReport>,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    /// The operations are queued before the writer starts, so that it takes them all at once.
    fn start(outcomes: &[Result<(), StoreFailure>], refused: u64, operations: Vec<StoreOp>) -> Self {
        Self::with(Durability::Always, outcomes, refused, operations)
    }

    fn with(
        durability: Durability,
        outcomes: &[Result<(), StoreFailure>],
        refused: u64,
        operations: Vec<StoreOp>,
    ) -> Self {
        let queue = Arc::new(WriteQueue::default());
        queue.push(operations);
        Self::of(queue, durability, outcomes, refused)
    }

    /// With the operations that are queued, a caller waits for their commit before the writer starts.
    fn awaited(outcomes: &[Result<(), StoreFailure>], operations: Vec<StoreOp>) -> (Self, Commit) {
        let queue = Arc::new(WriteQueue::default());
        queue.push(operations);
        let commit = queue.commit();
        (Self::of(queue, Durability::Always, outcomes, 0), commit)
    }

    fn of(queue: Arc<WriteQueue>, durability: Durability, outcomes: &[Result<(), StoreFailure>], refused: u64) -> Self {
        let (said, commits) = channel();
        let (detailed, details) = channel();
        let (told, reports) = channel();
        let outcomes = outcomes.iter().copied().collect();
        let store = Scripted { outcomes, refused, commits: said, details: detailed, ..Scripted::default() };
        let stats = Arc::new(Stats::default());
        let settings = Settings { durability, interval: Duration::from_millis(5), probe: None, reserve: None };
        let report = Box::new(move |reports: Vec<StoreReport>| {
            for report in reports {
                told.send(report).unwrap();
            }
        });
        let thread = spawn(Box::new(store), Arc::clone(&queue), settings, Arc::clone(&stats), report).unwrap();
        Self { queue, commits, details, reports, stats, thread: Some(thread) }
    }

    fn ask(&self, operations: Vec<StoreOp>) {
        self.queue.push(operations);
        self.queue.wake();
    }

    #[track_caller]
    fn seen(&self) -> Seen {
        self.commits.recv_timeout(DEADLINE).unwrap()
    }

    /// Tickets and results of the next `count` reports.
    #[track_caller]
    fn added(&self, count: usize) -> Vec<(u32, Result<(), StoreFailure>)> {
        let next = || match self.reports.recv_timeout(DEADLINE).unwrap() {
            StoreReport::Added { ticket, result } => (ticket, result),
            loaded @ StoreReport::Loaded { .. } => panic!("{loaded:?}"),
        };
        (0..count).map(|_| next()).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.queue.close(0);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// A function that has no jobs in the store.
fn gone() -> FunctionName {
    FunctionName::new(b"gone")
}

fn job(number: u64) -> StoredJob {
    StoredJob::new(StoredParts {
        number,
        prefix: "H:test".into(),
        function: FunctionName::new(b"f"),
        unique: b"",
        reducer: b"",
        priority: Priority::Normal,
        due_s: 0,
        submitted_s: 0,
        attempts: 0,
        workload: b"w",
    })
    .unwrap()
}

/// The ticket of an addition is its job's number.
fn add(number: u32) -> StoreOp {
    add_with(number, Durability::Always)
}

fn add_with(number: u32, durability: Durability) -> StoreOp {
    StoreOp::Add { ticket: number, durability, job: job(number.into()) }
}

fn remove(number: u64) -> StoreOp {
    StoreOp::Remove(job(number).key())
}

#[test]
fn what_has_gathered_is_one_transaction() {
    let bench = Bench::start(&[], 0, vec![add(3), remove(1), add(4), remove(2)]);
    assert_eq!(bench.seen(), (vec![1, 2], vec![3, 4], true));
    assert_eq!(bench.added(2), [(3, Ok(())), (4, Ok(()))]);
}

#[test]
fn a_job_that_ended_before_it_was_stored_is_neither_added_nor_removed() {
    let bench = Bench::start(&[], 0, vec![add(3), add(4), remove(3), remove(1)]);
    assert_eq!(bench.seen(), (vec![1], vec![4], true));
    assert_eq!(bench.added(2), [(3, Ok(())), (4, Ok(()))]);
}

#[test]
fn what_failed_is_removed_before_anything_newer_is_done() {
    let bench = Bench::start(&[Err(StoreFailure::Full)], 0, vec![add(3), remove(1)]);
    assert_eq!(bench.seen(), (vec![1], vec![3], true));
    assert_eq!(bench.added(1), [(3, Err(StoreFailure::Full))]);
    // The writer retries by itself.
    assert_eq!(bench.seen(), (vec![1, 3], vec![], true));
    assert_eq!(bench.seen(), (vec![], vec![], true), "then whatever was to be done");
    bench.ask(vec![add(5)]);
    assert_eq!(bench.seen(), (vec![], vec![5], true));
    assert_eq!(bench.added(1), [(5, Ok(()))]);
}

#[test]
fn a_disk_that_was_full_is_called_failing_until_it_takes_a_job() {
    let bench = Bench::start(&[Err(StoreFailure::Full)], 0, vec![add(1)]);
    assert_eq!(bench.added(1), [(1, Err(StoreFailure::Full))]);
    // The automatic retry is small, and fits.
    assert_eq!([bench.seen(), bench.seen()], [(vec![], vec![1], true), (vec![1], vec![], true)]);
    assert_eq!(bench.seen(), (vec![], vec![], true));
    // When the read is answered, the retry is done.
    bench.ask(vec![StoreOp::Load { ticket: 7, jobs: vec![job(9).key()] }]);
    assert!(matches!(bench.reports.recv_timeout(DEADLINE), Ok(StoreReport::Loaded { ticket: 7, result: Ok(_) })));
    assert!(matches!(bench.stats.store.state(), StoreState::Failing(_)));
    bench.ask(vec![add(2)]);
    assert_eq!(bench.added(1), [(2, Ok(()))]);
    assert_eq!(bench.stats.store.state(), StoreState::Working);
}

#[test]
fn while_a_store_fails_new_jobs_are_refused_at_once() {
    let bench = Bench::start(&[Err(StoreFailure::Io); 9], 0, vec![add(1)]);
    assert_eq!(bench.added(1), [(1, Err(StoreFailure::Io))]);
    assert!(matches!(bench.stats.store.state(), StoreState::Failing(_)));
    bench.ask(vec![add(2), add(3)]);
    assert_eq!(bench.added(2), [(2, Err(StoreFailure::Io)), (3, Err(StoreFailure::Io))]);
}

#[test]
fn one_refused_job_does_not_keep_the_others_out() {
    let bench = Bench::start(&[], 4, vec![add(3), add(4), add(5), remove(1)]);
    assert_eq!(bench.added(3), [(3, Ok(())), (4, Err(StoreFailure::Refused)), (5, Ok(()))]);
    let seen: Vec<Seen> = bench.commits.try_iter().collect();
    let kept =
        seen.iter().map(|(_, adds, _)| adds).filter(|adds| !adds.contains(&4)).flatten().copied().collect::<Vec<_>>();
    assert_eq!(kept, [3, 5], "{seen:?}");
    let removed: Vec<u64> = seen.iter().skip(1).flat_map(|(removes, ..)| removes.clone()).collect();
    assert!(removed.contains(&1), "what is to be removed is: {seen:?}");
}

#[test]
fn a_refused_job_leaves_what_has_its_number_alone() {
    let bench = Bench::start(&[], 4, vec![add(4)]);
    assert_eq!(bench.added(1), [(4, Err(StoreFailure::Refused))]);
    assert_eq!(bench.seen(), (vec![], vec![4], true));
    bench.ask(vec![add(5)]);
    assert_eq!(bench.seen(), (vec![], vec![5], true), "nothing is removed");
}

#[test]
fn attempts_of_one_job_do_not_pile_up() {
    let queue = WriteQueue::default();
    let attempts = |attempts| StoreOp::Attempts { key: job(1).key(), attempts };
    queue.push((0..1000).map(attempts).collect());
    assert_eq!(queue.take(None, MOST_CHANGES, MOST_BYTES).attempts, [(job(1).key(), 999)]);
    queue.push(vec![attempts(1000), remove(1), remove(2)]);
    let taken = queue.take(None, MOST_CHANGES, MOST_BYTES);
    assert!(taken.attempts.is_empty() && taken.changes.len() == 2, "a job that has ended has no attempts");
}

#[test]
fn what_may_linger_is_on_the_disk_within_the_interval() {
    let bench = Bench::with(Durability::Interval, &[], 0, vec![add_with(1, Durability::Interval)]);
    assert_eq!(bench.seen(), (vec![], vec![1], false));
    assert_eq!(bench.added(1), [(1, Ok(()))]);
    assert_eq!(bench.seen(), (vec![], vec![], true), "nothing else is asked");
    bench.ask(vec![add_with(2, Durability::Interval), add_with(3, Durability::Always)]);
    assert_eq!(bench.seen(), (vec![], vec![2, 3], true));
    assert_eq!(bench.added(2).len(), 2);
    bench.ask(vec![add_with(4, Durability::Off)]);
    assert_eq!(bench.seen(), (vec![], vec![4], false));
}

#[test]
fn reads_are_answered_in_their_order() {
    let bench = Bench::start(&[], 0, vec![]);
    let jobs: Vec<JobKey> = (1..=1000).map(|number| job(number).key()).collect();
    bench.ask(vec![StoreOp::Load { ticket: 7, jobs }]);
    let report = bench.reports.recv_timeout(DEADLINE).unwrap();
    let StoreReport::Loaded { ticket: 7, result: Ok(workloads) } = report else { panic!("{report:?}") };
    let read: Vec<u64> =
        workloads.iter().flatten().map(|bytes| String::from_utf8_lossy(bytes).parse().unwrap()).collect();
    assert_eq!(read, (1..=1000).collect::<Vec<u64>>());
}

fn set(name: &str, value: Option<&str>) -> StoreOp {
    StoreOp::Set { name: name.to_owned(), value: value.map(str::to_owned) }
}

impl Bench {
    /// The settings of the next transaction that has any.
    #[track_caller]
    fn set(&self) -> Vec<(String, Option<String>)> {
        loop {
            let Details { settings, .. } = self.details.recv_timeout(DEADLINE).unwrap();
            if !settings.is_empty() {
                return settings;
            }
        }
    }
}

#[test]
fn of_each_decision_the_last_word_is_written_apart_from_jobs() {
    let operations = vec![set("a", Some("1")), add(3), set("b", Some("1")), set("a", Some("2")), set("b", None)];
    let bench = Bench::start(&[], 0, operations);
    assert_eq!(bench.set(), [("a".to_owned(), Some("2".to_owned())), ("b".to_owned(), None)]);
    assert_eq!([bench.seen(), bench.seen()], [(vec![], vec![], true), (vec![], vec![3], true)]);
    assert_eq!(bench.added(1), [(3, Ok(()))]);
    // It is also written without a job.
    bench.ask(vec![set("c", Some("1"))]);
    assert_eq!(bench.set(), [("c".to_owned(), Some("1".to_owned()))]);
}

#[test]
fn a_decision_that_failed_is_written_later_unless_there_is_a_newer_one() {
    let bench = Bench::start(&[Err(StoreFailure::Io)], 0, vec![set("a", Some("1")), set("b", Some("1"))]);
    assert_eq!(bench.set().len(), 2);
    bench.ask(vec![set("a", Some("2"))]);
    let mut last = std::collections::BTreeMap::new();
    while last.get("a") != Some(&Some("2".to_owned())) || !last.contains_key("b") {
        last.extend(bench.set());
    }
    assert_eq!(last.get("b"), Some(&Some("1".to_owned())));
}

#[test]
fn decisions_that_are_refused_are_given_up_and_jobs_go_on() {
    let bench = Bench::start(&[], 0, vec![set(REFUSED, Some("1")), add(3)]);
    assert_eq!(bench.added(1), [(3, Ok(()))]);
    assert_eq!([bench.seen(), bench.seen()], [(vec![], vec![], true), (vec![], vec![3], true)]);
    bench.ask(vec![set("a", Some("1")), add(4)]);
    assert_eq!(bench.added(1), [(4, Ok(()))]);
    assert_eq!([bench.set(), bench.set()].map(|settings| settings[0].0.clone()), [REFUSED, "a"]);
}

/// A writer without its thread.
fn writer() -> Writer {
    writer_of(Scripted::default())
}

fn writer_of(store: Scripted) -> Writer {
    let settings =
        Settings { durability: Durability::Always, interval: Duration::from_millis(5), probe: None, reserve: None };
    Writer::new(Box::new(store), Arc::default(), settings, Arc::default(), Box::new(|_| ()))
}

#[test]
fn whoever_needs_a_store_that_fails_has_it_tried_once_a_second() {
    let mut writer = writer();
    let error = StoreError::new(StoreFailure::Unreachable, "as the test says");
    for (tried_for, expected) in [(0, 1), (2, 2), (10, 4)] {
        writer.tried_for = Duration::from_secs(tried_for);
        writer.breaker = None;
        writer.fail(&error);
        let first = writer.breaker.as_ref().map(|breaker| breaker.pause).unwrap();
        assert_eq!(first, Duration::from_secs(tried_for).clamp(FIRST_PAUSE, LONGEST_PAUSE), "tried for {tried_for} s");
        for _ in 0..10 {
            writer.fail(&error);
        }
        let breaker = writer.breaker.as_mut().unwrap();
        assert_eq!(breaker.again - breaker.failed, LONGEST_PAUSE, "by itself it is tried seldom");
        assert_eq!(breaker.asked_again - breaker.failed, Duration::from_secs(expected), "tried for {tried_for} s");
        assert_eq!(writer.rejection(), Some(StoreFailure::Unreachable));
        writer.breaker.as_mut().unwrap().asked_again = Instant::now();
        assert_eq!(writer.rejection(), None, "the next one tries it");
    }
}

fn loads(count: u32) -> Vec<StoreOp> {
    (0..count).map(|ticket| StoreOp::Load { ticket, jobs: vec![job(1).key()] }).collect()
}

#[test]
fn a_read_that_fails_spares_those_behind_it_unless_it_is_damage() {
    for (failure, expected) in
        [(StoreFailure::Unreachable, 1), (StoreFailure::Locked, 1), (StoreFailure::Io, 1), (StoreFailure::Corrupt, 20)]
    {
        let reads = Arc::new(AtomicUsize::new(0));
        let store = Scripted { unreadable: Some(failure), reads: Arc::clone(&reads), ..Scripted::default() };
        let mut writer = writer_of(store);
        let (told, answers) = channel();
        writer.report = Box::new(move |reports| told.send(reports).unwrap());
        // It has failed before, and a retry is due.
        writer.fail(&StoreError::new(failure, "as the test says"));
        writer.breaker.as_mut().unwrap().again = Instant::now();
        writer.load_all(loads(20));
        assert_eq!(reads.load(Ordering::Relaxed), expected, "{failure:?}");
        assert_eq!(answers.try_iter().count(), 20, "each is answered");
    }
}

#[test]
fn a_store_that_cannot_be_reached_is_left_alone_anew_by_readers() {
    let reads = Arc::new(AtomicUsize::new(0));
    let unreadable = Some(StoreFailure::Unreachable);
    let mut writer = writer_of(Scripted { unreadable, reads: Arc::clone(&reads), ..Scripted::default() });
    for failure in [StoreFailure::Full, StoreFailure::Unreachable] {
        writer.fail(&StoreError::new(failure, "as the test says"));
        writer.breaker.as_mut().unwrap().again = Instant::now();
        writer.load_all(loads(1));
        assert_eq!(writer.rejection(), Some(StoreFailure::Unreachable), "after {failure:?}");
    }
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    // A preview opens the circuit breaker too.
    writer.breaker = None;
    assert!(writer.read_preview(&job(1).key()).is_none() && writer.read_preview(&job(1).key()).is_none());
    assert_eq!(reads.load(Ordering::Relaxed), 3);
    // A store that may still be writable or readable keeps its earlier error.
    let mut writer = writer_of(Scripted { unreadable: Some(StoreFailure::Io), ..Scripted::default() });
    writer.fail(&StoreError::new(StoreFailure::Full, "as the test says"));
    writer.load_all(loads(1));
    assert_eq!(writer.rejection(), Some(StoreFailure::Full));
}

#[test]
fn what_waits_for_a_retry_at_the_end_is_named_and_nothing_else() {
    let mut backlog = RetryBacklog::default();
    assert!(backlog.outcomes().is_empty() && backlog.has_only_refused());
    backlog.add_refused([job(1).key(), job(2).key()].into_iter());
    assert_eq!(backlog.outcomes(), ["2 rejected jobs may run after the next start"]);
    assert!(backlog.has_only_refused());
    let settings = vec![("function f".to_owned(), None)];
    backlog.add(Changes { removes: vec![job(3).key()], settings, ..Changes::default() });
    let expected = [
        "1 finished jobs will run again after the next start",
        "2 rejected jobs may run after the next start",
        "1 operator settings may be reverted",
    ];
    assert_eq!(backlog.outcomes(), expected);
    assert!(!backlog.has_only_refused());
}
