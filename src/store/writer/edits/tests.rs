//! Edits by the operator: merged, kept in the retry backlog, and retried.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::*;

fn key(number: u64, function: &str) -> JobKey {
    JobKey { number, function: FunctionName::new(function.as_bytes()), unique: b"".as_slice().into() }
}

fn to(function: &str, due_s: u64) -> Edit {
    Edit { function: FunctionName::new(function.as_bytes()), priority: Priority::High, due_s }
}

fn edit(number: u64, from: &str, edit: Edit) -> StoreOp {
    StoreOp::Edit { key: key(number, from), edit }
}

fn attempts(number: u64, function: &str, attempts: u16) -> StoreOp {
    StoreOp::Attempts { key: key(number, function), attempts }
}

impl Bench {
    #[track_caller]
    fn detailed(&self) -> Details {
        self.details.recv_timeout(DEADLINE).unwrap()
    }
}

#[test]
fn several_edits_of_a_job_are_one() {
    let operations = vec![edit(1, "f", to("g", 5)), edit(2, "f", to("f", 6)), edit(1, "g", to("h", 0))];
    let bench = Bench::start(&[], 0, operations);
    let edits = vec![(key(1, "f"), to("h", 0)), (key(2, "f"), to("f", 6))];
    assert_eq!(bench.detailed(), Details { edits, ..Details::default() });
}

#[test]
fn an_edited_job_that_ended_is_removed_by_the_name_that_the_store_knows() {
    let operations = vec![edit(1, "f", to("g", 0)), edit(1, "g", to("h", 0)), StoreOp::Remove(key(1, "h"))];
    let bench = Bench::start(&[], 0, operations);
    assert_eq!(bench.detailed(), Details { removes: vec![key(1, "f")], ..Details::default() });
}

#[test]
fn an_edit_of_a_job_that_is_being_added_changes_what_is_added() {
    let mut batch = Batch::of(vec![add(3), edit(3, "f", to("g", 7)), add(4), edit(3, "g", to("h", 8))]);
    let job = batch.additions.remove(0).job;
    assert_eq!((job.key(), job.priority, job.due_s), (key(3, "h"), Priority::High, 8));
    let (additions, changes) = batch.finish(Vec::new(), &mut Vec::new());
    assert_eq!((additions.len(), changes.edits), (1, Vec::new()));
    let bench = Bench::start(&[], 0, vec![add(3), edit(3, "f", to("g", 7)), StoreOp::Remove(key(3, "g"))]);
    assert_eq!(bench.seen(), (vec![], vec![], false));
    assert_eq!(bench.added(1), [(3, Ok(()))]);
}

#[test]
fn attempts_name_a_job_as_it_is_after_its_edits() {
    let bench = Bench::start(&[], 0, vec![attempts(1, "f", 2), edit(1, "f", to("g", 0)), attempts(2, "f", 1)]);
    let Details { edits, mut attempts, .. } = bench.detailed();
    attempts.sort_by_key(|(key, _)| key.number);
    assert_eq!(edits, [(key(1, "f"), to("g", 0))]);
    assert_eq!(attempts, [(key(1, "g"), 2), (key(2, "f"), 1)]);
}

#[test]
fn reads_name_a_job_as_the_store_knows_it() {
    let queue = WriteQueue::default();
    let load = |number, function| StoreOp::Load { ticket: 1, jobs: vec![key(number, function)] };
    let take = |count| {
        let Taken { loads, .. } = queue.take(None, count, MOST_BYTES);
        let names = loads.into_iter().map(|load| match load {
            StoreOp::Load { mut jobs, .. } => jobs.remove(0),
            other => panic!("{other:?}"),
        });
        names.collect::<Vec<_>>()
    };
    queue.push(vec![edit(1, "f", to("g", 0)), edit(2, "f", to("g", 0)), edit(1, "g", to("h", 0)), load(1, "h")]);
    assert_eq!(take(1), [key(1, "f")], "nothing was edited yet");
    queue.push(vec![load(1, "h"), load(2, "g"), load(3, "f")]);
    assert_eq!(take(2), [key(1, "g"), key(2, "f"), key(3, "f")], "the first edit is taken");
    queue.push(vec![load(1, "h"), load(2, "g")]);
    assert_eq!(take(2), [key(1, "h"), key(2, "g")], "all are");
}

#[test]
fn an_edit_that_failed_is_made_again_under_every_name_that_the_job_may_have() {
    let failure = Err(StoreFailure::Unreachable);
    let bench = Bench::start(&[failure, failure], 0, vec![edit(1, "f", to("g", 1)), attempts(1, "g", 3)]);
    let first =
        Details { edits: vec![(key(1, "f"), to("g", 1))], attempts: vec![(key(1, "g"), 3)], ..Details::default() };
    assert_eq!(bench.detailed(), first);
    bench.ask(vec![edit(1, "g", to("h", 2))]);
    // The second failure, with or without the later edit; then success.
    let mut seen: Vec<Details> = Vec::new();
    while seen.last().is_none_or(|last| last.edits.last().is_none_or(|(_, edit)| *edit != to("h", 2))) {
        seen.push(bench.detailed());
    }
    let last = seen.pop().unwrap();
    assert_eq!(last.edits[0], (key(1, "f"), to("h", 2)), "the name that it had first");
    assert_eq!(
        last.edits.get(1),
        Some(&(key(1, "g"), to("h", 2))),
        "the name that it has if the first edit has happened"
    );
    let then = bench.detailed();
    let all = [last.attempts, then.attempts].concat();
    assert!(all.iter().all(|attempts| *attempts == (key(1, "h"), 3)) && !all.is_empty(), "{all:?}");
}

#[test]
fn a_job_that_ended_while_its_edit_is_retried_is_removed_by_every_name() {
    let bench = Bench::start(&[Err(StoreFailure::Io)], 0, vec![edit(1, "f", to("g", 1))]);
    assert_eq!(bench.detailed().edits.len(), 1);
    bench.ask(vec![StoreOp::Remove(key(1, "g"))]);
    let mut removes = Vec::new();
    // The edit may be retried before the removal is requested.
    while removes.is_empty() {
        removes = bench.detailed().removes;
    }
    assert_eq!(removes.last(), Some(&key(1, "g")));
    let mut backlog = RetryBacklog::default();
    backlog.add(Changes { edits: vec![(key(1, "f"), to("g", 0))], ..Changes::default() });
    backlog.add(Changes { edits: vec![(key(1, "g"), to("h", 0))], ..Changes::default() });
    backlog.add(Changes { removes: vec![key(1, "h")], ..Changes::default() });
    let changes = backlog.take(false).unwrap();
    assert_eq!(changes.removes, [key(1, "f"), key(1, "g"), key(1, "h")]);
    assert!(changes.edits.is_empty() && backlog.is_empty());
}

#[test]
fn a_refused_edit_is_given_up_and_keeps_nothing_else_out() {
    let operations = vec![edit(1, "f", to("g", 0)), edit(2, "f", to("g", 0)), edit(3, "f", to("g", 0)), add(9)];
    let bench = Bench::start(&[], 2, operations);
    assert_eq!(bench.added(1), [(9, Ok(()))]);
    let seen: Vec<Details> = bench.details.try_iter().collect();
    let made: BTreeSet<u64> = seen
        .iter()
        .map(|details| details.edits.iter().map(|(key, _)| key.number).collect::<Vec<_>>())
        .filter(|numbers| !numbers.contains(&2))
        .flatten()
        .collect();
    assert_eq!(made, BTreeSet::from([1, 3]), "{seen:?}");
    assert!(!matches!(bench.stats.store.state(), StoreState::Failing(_)), "the store itself works");
    let before = seen.len();
    bench.ask(vec![add(10)]);
    assert_eq!(bench.added(1), [(10, Ok(()))]);
    let later: Vec<Details> = bench.details.try_iter().collect();
    assert!(later.iter().all(|details| details.edits.is_empty()), "after {before}: {later:?}");
}

#[test]
fn a_workload_is_found_whatever_the_store_calls_its_job() {
    let failures = [Err(StoreFailure::Locked); 3];
    let bench = Bench::start(&failures, 0, vec![edit(1, "gone", to("g", 1)), edit(2, "f", to("gone", 1))]);
    assert_eq!(bench.detailed().edits.len(), 2);
    // A locked store can be read. It has the second job under its old name and the first one under its new
    // name.
    bench.ask(vec![StoreOp::Load { ticket: 7, jobs: vec![key(1, "g"), key(2, "gone")] }]);
    let report = bench.reports.recv_timeout(DEADLINE).unwrap();
    let StoreReport::Loaded { ticket: 7, result: Ok(workloads) } = report else { panic!("{report:?}") };
    assert_eq!(workloads, [Some(Bytes::from("1")), Some(Bytes::from("2"))]);
}

#[test]
fn jobs_that_can_be_in_each_others_way_are_changed_in_one_transaction() {
    let mut backlog = RetryBacklog::default();
    let unique = |number: u64| if number <= 2 { b"same".to_vec() } else { format!("a{number}").into_bytes() };
    let named = |number, function: &str| JobKey { unique: unique(number).into(), ..key(number, function) };
    // "same" sorts last, and one of its two jobs is the last that fits.
    let fill = 2 * MOST_CHANGES as u64 + 1;
    let edits = (3..=fill).map(|number| (named(number, "f"), to("g", 0)));
    let edits = edits.chain([(named(1, "f"), to("g", 0)), (named(2, "g"), to("f", 0))]).collect();
    let attempts = vec![(named(1, "g"), 4)];
    backlog.add(Changes { edits, attempts, removes: vec![key(fill + 2, "f")], ..Changes::default() });
    let parts: Vec<Changes> = std::iter::from_fn(|| backlog.take(false)).collect();
    let sizes: Vec<usize> = parts.iter().map(|part| part.edits.len()).collect();
    assert_eq!(sizes, [0, MOST_CHANGES, MOST_CHANGES + 1]);
    assert_eq!(parts.iter().map(|part| part.attempts.len()).collect::<Vec<_>>(), [0, 0, 1], "after all edits");
    assert_eq!(parts.iter().map(|part| part.removes.len()).collect::<Vec<_>>(), [1, 0, 0], "alone, before all edits");
}

/// The key of a job in a store that identifies jobs by function and unique id.
type Place = (Vec<u8>, Vec<u8>);

/// A row of such a store: number, priority, due time and attempts.
type Row = (u64, u8, u64, u16);

fn place(key: &JobKey) -> Place {
    (key.function.as_bytes().to_vec(), key.unique.to_vec())
}

/// Such a store that fails at random, before or after a transaction.
struct Moody {
    rows: Arc<Mutex<BTreeMap<Place, Row>>>,
    random: Random,
    /// How many more times it may fail.
    failures: Arc<AtomicU32>,
    committed: Sender<()>,
}

/// Knuth's MMIX generator; the high bits are of better quality.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

impl Moody {
    fn make(&self, changes: &Changes) {
        let mut rows = self.rows.lock().unwrap();
        let is_there =
            |rows: &BTreeMap<Place, Row>, key: &JobKey| rows.get(&place(key)).is_some_and(|row| row.0 == key.number);
        for key in &changes.removes {
            if is_there(&rows, key) {
                rows.remove(&place(key));
            }
        }
        let mut lifted: HashMap<u64, (Place, Row)> = HashMap::new();
        for (key, edit) in &changes.edits {
            let target = JobKey { function: edit.function.clone(), ..key.clone() };
            for name in [key, &target] {
                if is_there(&rows, name) {
                    let (number, _, _, attempts) = rows.remove(&place(name)).unwrap();
                    lifted.insert(number, (place(&target), (number, edit.priority as u8, edit.due_s, attempts)));
                }
            }
        }
        for (target, row) in lifted.into_values() {
            let other = rows.insert(target, row);
            assert_eq!(other, None, "{row:?} is moved onto another job");
        }
        for job in &changes.adds {
            let row = (job.number, job.priority as u8, job.due_s, job.attempts);
            let other = rows.insert(place(&job.key()), row);
            assert_eq!(other, None, "{row:?} is added onto another job");
        }
        for (key, attempts) in &changes.attempts {
            if is_there(&rows, key)
                && let Some(row) = rows.get_mut(&place(key))
            {
                row.3 = *attempts;
            }
        }
    }
}

impl Store for Moody {
    fn replay(&mut self, _: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        Ok(Replayed::default())
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let mood = if self.failures.load(Ordering::Relaxed) > 0 { self.random.below(6) } else { 5 };
        if mood != 0 {
            self.make(changes);
        }
        self.committed.send(()).unwrap();
        if mood > 1 {
            return Ok(());
        }
        self.failures.fetch_sub(1, Ordering::Relaxed);
        Err(StoreError::new(StoreFailure::Locked, "a mood"))
    }

    fn load(&mut self, jobs: &[JobKey], _: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        let rows = self.rows.lock().unwrap();
        let number = |key: &JobKey| rows.get(&place(key)).filter(|row| row.0 == key.number).map(|row| row.0);
        Ok(jobs.iter().map(|key| number(key).map(|number| Bytes::from(number.to_string()))).collect())
    }
}

/// The job server's view.
#[derive(Default)]
struct Known {
    jobs: BTreeMap<u64, (JobKey, Row)>,
    /// Jobs that are not yet confirmed as stored.
    storing: HashSet<u64>,
    last: u64,
}

impl Known {
    fn is_free(&self, place_wanted: &Place) -> bool {
        self.jobs.values().all(|(key, _)| place(key) != *place_wanted)
    }

    /// The next operation to send to the store.
    fn operation(&mut self, random: &mut Random) -> Option<StoreOp> {
        let function = FunctionName::new(&[b"fgh"[usize::try_from(random.below(3)).unwrap()]]);
        let unique: &[u8] = [b"a".as_slice(), b"b", b"c", b"d"][usize::try_from(random.below(4)).unwrap()];
        let settled: Vec<u64> = self.jobs.keys().copied().filter(|number| !self.storing.contains(number)).collect();
        let chosen = settled.get(usize::try_from(random.below(settled.len().max(1) as u64)).unwrap()).copied();
        match (random.below(8), chosen) {
            (0 | 1, _) | (_, None) => {
                self.last += 1;
                let key = JobKey { number: self.last, function, unique: unique.into() };
                if !self.is_free(&place(&key)) {
                    return None;
                }
                let parts = StoredParts {
                    number: self.last,
                    prefix: "H:test".into(),
                    function: key.function.clone(),
                    unique,
                    reducer: b"",
                    priority: Priority::Normal,
                    due_s: 0,
                    submitted_s: 0,
                    attempts: 0,
                    workload: b"w",
                };
                let job = StoredJob::new(parts).unwrap();
                self.storing.insert(self.last);
                self.jobs.insert(self.last, (key, (self.last, 1, 0, 0)));
                let ticket = u32::try_from(self.last).unwrap();
                Some(StoreOp::Add { ticket, durability: Durability::Always, job })
            }
            (2, Some(number)) => self.jobs.remove(&number).map(|(key, _)| StoreOp::Remove(key)),
            (3, Some(number)) => {
                let (key, row) = self.jobs.get_mut(&number)?;
                row.3 += 1;
                Some(StoreOp::Attempts { key: key.clone(), attempts: row.3 })
            }
            (4, Some(number)) => {
                let (key, _) = &self.jobs[&number];
                Some(StoreOp::Load { ticket: u32::try_from(number).unwrap(), jobs: vec![key.clone()] })
            }
            (_, Some(number)) => {
                let (key, row) = self.jobs[&number].clone();
                let target = JobKey { function: function.clone(), ..key.clone() };
                if function != key.function && !self.is_free(&place(&target)) {
                    return None;
                }
                let due_s = random.below(100);
                self.jobs.insert(number, (target, (number, 0, due_s, row.3)));
                Some(StoreOp::Edit { key, edit: Edit { function, priority: Priority::High, due_s } })
            }
        }
    }

    fn hear(&mut self, report: StoreReport) {
        match report {
            StoreReport::Added { ticket, result } => {
                self.storing.remove(&u64::from(ticket));
                if result.is_err() {
                    self.jobs.remove(&u64::from(ticket));
                }
            }
            StoreReport::Loaded { ticket, result } => {
                let is_alive = self.jobs.contains_key(&u64::from(ticket));
                let workload = result.map(|mut workloads| workloads.pop().flatten());
                assert!(!is_alive || !matches!(workload, Ok(None)), "the workload of {ticket} is not found");
            }
        }
    }
}

#[test]
fn whatever_fails_the_store_has_in_the_end_what_the_job_server_knows() {
    const FAILURES: u32 = 12;
    let seed = std::env::var("WRITER_SEED").ok().map_or(0x0ed1, |seed| seed.parse().unwrap());
    println!("WRITER_SEED={seed}");
    let mut random = Random(seed);
    let queue = Arc::new(WriteQueue::default());
    let rows = Arc::new(Mutex::new(BTreeMap::new()));
    let (committed, commits) = channel();
    let failures = Arc::new(AtomicU32::new(FAILURES));
    let store = Moody { rows: Arc::clone(&rows), random: Random(seed ^ 1), failures: Arc::clone(&failures), committed };
    let settings =
        Settings { durability: Durability::Always, interval: Duration::from_millis(5), probe: None, reserve: None };
    let (told, reports) = channel();
    let report =
        Box::new(move |reports: Vec<StoreReport>| reports.into_iter().for_each(|report| told.send(report).unwrap()));
    let thread = spawn(Box::new(store), Arc::clone(&queue), settings, Arc::new(Stats::default()), report).unwrap();
    let mut known = Known::default();
    for _ in 0..400 {
        for report in reports.try_iter() {
            known.hear(report);
        }
        let operations: Vec<StoreOp> = (0..random.below(12)).filter_map(|_| known.operation(&mut random)).collect();
        let is_change = operations.iter().any(|operation| !matches!(operation, StoreOp::Load { .. }));
        queue.push(operations);
        queue.wake();
        if is_change && random.below(2) == 0 {
            // It fails less often than this, and then retries by itself.
            let _ = commits.recv_timeout(Duration::from_millis(20));
        }
    }
    assert!(failures.swap(0, Ordering::Relaxed) < FAILURES, "the store never failed");
    queue.close(known.last);
    let deadline = Instant::now() + DEADLINE;
    while !thread.is_finished() {
        assert!(Instant::now() < deadline, "the writer does not end");
        let _ = commits.recv_timeout(Duration::from_millis(20));
    }
    thread.join().unwrap();
    for report in reports.try_iter() {
        known.hear(report);
    }
    let expected: BTreeMap<Place, Row> = known.jobs.values().map(|(key, row)| (place(key), *row)).collect();
    assert_eq!(*rows.lock().unwrap(), expected, "seed {seed}");
}
