//! The tools with fake in-memory stores that fail on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use indicatif::ProgressBar;

use super::import::{Import, Moved, is_marker};
use super::inspect::{Form, Only, count, list, verify};
use super::{EXIT_FAILED, ToolError};
use crate::job_server::{JobKey, StoreFailure, StoredJob, StoredParts};
use crate::protocol::{FunctionName, Priority};
use crate::store::{Changes, HasWorkload, Replayed, Store, StoreError, Workloads};

/// The contents of a store.
#[derive(Clone, Default)]
struct Kept {
    jobs: BTreeMap<u64, StoredJob>,
    last_number: u64,
    quarantined: u64,
}

/// The fault of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The commit with this number, from 0, fails and is not applied.
    Refuses(u32),
    /// The commit with this number is applied but reports a failure: the response was lost.
    LosesAnswer(u32),
    /// The last job of each addition is dropped.
    LosesJobs,
    /// Removals are ignored.
    ForgetsNothing,
}

/// A store whose contents survive reopening.
#[derive(Clone)]
struct Fake {
    kept: Arc<Mutex<Kept>>,
    fault: Fault,
    commits: u32,
}

impl Fake {
    fn new(jobs: Vec<StoredJob>) -> Self {
        let last_number = jobs.iter().map(|job| job.number).max().unwrap_or(0);
        let jobs = jobs.into_iter().map(|job| (job.number, job)).collect();
        let kept = Arc::new(Mutex::new(Kept { jobs, last_number, quarantined: 0 }));
        Self { kept, fault: Fault::None, commits: 0 }
    }

    /// Reopens the same store.
    fn again(&self, fault: Fault) -> Self {
        Self { kept: Arc::clone(&self.kept), fault, commits: 0 }
    }

    fn jobs(&self) -> Vec<StoredJob> {
        self.kept.lock().unwrap().jobs.values().cloned().collect()
    }

    fn apply(&self, changes: &Changes) {
        let mut kept = self.kept.lock().unwrap();
        if self.fault != Fault::ForgetsNothing {
            for key in &changes.removes {
                kept.jobs.remove(&key.number);
            }
        }
        let lost = usize::from(self.fault == Fault::LosesJobs && changes.adds.len() > 1);
        for job in &changes.adds[..changes.adds.len() - lost] {
            assert!(kept.jobs.insert(job.number, job.clone()).is_none(), "number {} is given twice", job.number);
            kept.last_number = kept.last_number.max(job.number);
        }
        kept.last_number = kept.last_number.max(changes.last_number);
    }
}

impl Store for Fake {
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        let kept = self.kept.lock().unwrap().clone();
        let jobs = u64::try_from(kept.jobs.len()).unwrap();
        let mut wanted = Workloads::Wanted;
        in_runtime(|| {
            for mut job in kept.jobs.into_values() {
                let has_workload = wanted == Workloads::Wanted;
                if !has_workload {
                    job = with(&job, job.number, b"");
                }
                wanted = take(job, has_workload);
            }
        });
        Ok(Replayed { jobs, quarantined: kept.quarantined, last_number: kept.last_number, settings: Vec::new() })
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let number = self.commits;
        self.commits += 1;
        assert!(changes.sync, "what is moved must be on the disk");
        if self.fault == Fault::Refuses(number) {
            return Err(StoreError::new(StoreFailure::Full, "the disk is full"));
        }
        in_runtime(|| self.apply(changes));
        if self.fault == Fault::LosesAnswer(number) {
            return Err(StoreError::new(StoreFailure::Unreachable, "the connection is lost"));
        }
        Ok(())
    }

    fn load(&mut self, _: &[JobKey], _: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        unreachable!("the tools read workloads with their jobs")
    }
}

/// Runs the action as database drivers do: inside a runtime, where no other can be started.
fn in_runtime<T>(action: impl FnOnce() -> T) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { action() })
}

fn job(number: u64, function: &str, unique: &str, workload: &[u8]) -> StoredJob {
    StoredJob::new(StoredParts {
        number,
        prefix: "H:test".into(),
        function: FunctionName::new(function.as_bytes()),
        unique: unique.as_bytes(),
        reducer: b"",
        priority: Priority::Normal,
        due_s: 0,
        submitted_s: 1_700_000_000,
        attempts: 0,
        workload,
    })
    .unwrap()
}

fn with(job: &StoredJob, number: u64, workload: &[u8]) -> StoredJob {
    let parts = StoredParts {
        number,
        prefix: Arc::clone(&job.prefix),
        function: job.function.clone(),
        unique: job.unique(),
        reducer: job.reducer(),
        priority: job.priority,
        due_s: job.due_s,
        submitted_s: job.submitted_s,
        attempts: job.attempts,
        workload,
    };
    StoredJob::new(parts).unwrap()
}

/// All properties of a job except its number.
fn contents(job: &StoredJob) -> String {
    let StoredJob { prefix, function, priority, due_s, submitted_s, attempts, .. } = job;
    let (unique, reducer, workload) = (job.unique(), job.reducer(), job.workload());
    format!("{prefix} {function} {priority:?} {due_s} {submitted_s} {attempts} {unique:?} {reducer:?} {workload:?}")
}

fn all_contents(jobs: &[StoredJob]) -> Vec<String> {
    jobs.iter().map(contents).collect()
}

fn numbers(jobs: &[StoredJob]) -> Vec<u64> {
    jobs.iter().map(|job| job.number).collect()
}

/// Jobs of all kinds: with and without unique ids, equal ones, and in the forms that C++ gearmand and this
/// server write.
fn assorted() -> Vec<StoredJob> {
    let mut jobs = vec![
        job(3, "mail", "order-1", b"one"),
        job(4, "mail", "", b"same"),
        job(7, "mail", "", b"same"),
        job(8, "mail", "-", b"by workload"),
        job(9, "mail", "-", b"by another workload"),
        job(11, "a-b", "", b""),
        job(12, "a-b", "c", b"\0\xff"),
    ];
    jobs[0].attempts = 3;
    jobs[1].submitted_s = 0;
    jobs[2].submitted_s = 0;
    jobs[3].priority = Priority::High;
    jobs[5].due_s = 4_000_000_000;
    jobs
}

fn import(source: &mut Fake, target: &mut Fake, keep: bool) -> Result<Moved, ToolError> {
    let bar = ProgressBar::hidden();
    Import { source, target, from: "the source".to_owned(), keep, bar: &bar, batch_jobs: 2 }.run()
}

#[test]
fn jobs_move_with_all_they_have() {
    let (mut source, mut target) = (Fake::new(assorted()), Fake::new(Vec::new()));
    let moved = import(&mut source, &mut target, false).unwrap();
    assert_eq!(moved, Moved { copied: 7, known: 0, removed: 7, quarantined: 0 });
    assert_eq!(all_contents(&target.jobs()), all_contents(&assorted()));
    assert_eq!(numbers(&target.jobs()), numbers(&assorted()), "handles are kept");
    assert!(source.jobs().is_empty());
    assert_eq!(import(&mut source, &mut target, false).unwrap(), Moved::default());
}

#[test]
fn numbers_go_on_after_those_that_were_given() {
    let (mut source, mut target) = (Fake::new(assorted()), Fake::new(vec![job(2, "mail", "other", b"")]));
    target.kept.lock().unwrap().last_number = 8;
    import(&mut source, &mut target, false).unwrap();
    assert_eq!(numbers(&target.jobs()), [2, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(all_contents(&target.jobs())[1..], all_contents(&assorted()), "the order is kept");
}

#[test]
fn handles_that_the_source_gave_are_not_given_again() {
    for jobs in [assorted(), Vec::new()] {
        let (mut source, mut target) = (Fake::new(jobs), Fake::new(Vec::new()));
        source.kept.lock().unwrap().last_number = 1000;
        import(&mut source, &mut target, false).unwrap();
        assert!(target.kept.lock().unwrap().last_number >= 1000);
    }
}

#[test]
fn jobs_that_are_there_are_not_copied_again() {
    let there = vec![job(30, "mail", "order-1", b"another"), with(&assorted()[5], 11, b"")];
    let (mut source, mut target) = (Fake::new(assorted()), Fake::new(there));
    let moved = import(&mut source, &mut target, true).unwrap();
    assert_eq!((moved.copied, moved.known, moved.removed), (5, 2, 0));
    assert_eq!(source.jobs().len(), 7, "they are kept");
    assert_eq!(target.jobs().len(), 7);
    // The equal jobs of an old queue have nothing to identify them.
    let again = import(&mut source, &mut target, true).unwrap();
    assert_eq!((again.copied, again.known), (2, 5));
}

/// Imports with a fault, then without. Returns whether the fault occurred.
fn interrupted(on_source: bool, fault: Fault, there: &[StoredJob]) -> bool {
    let (source, target) = (Fake::new(assorted()), Fake::new(there.to_vec()));
    let (first, second) = if on_source { (fault, Fault::None) } else { (Fault::None, fault) };
    let first = import(&mut source.again(first), &mut target.again(second), false);
    let mut both = all_contents(&source.jobs());
    both.extend(all_contents(&target.jobs()));
    let assorted = all_contents(&assorted());
    let lost: Vec<_> = assorted.iter().filter(|job| !both.contains(*job)).collect();
    assert!(lost.is_empty(), "{fault:?} lost {lost:?}");
    let met = first.is_err();
    import(&mut source.again(Fault::None), &mut target.again(Fault::None), false).unwrap();
    let mut expected = all_contents(there);
    expected.extend(assorted);
    assert_eq!(all_contents(&target.jobs()), expected, "{fault:?}, on the source: {on_source}");
    assert!(source.jobs().is_empty());
    assert!(!target.jobs().iter().any(is_marker), "{fault:?} left the marker");
    met
}

#[test]
fn an_interrupted_import_loses_and_doubles_nothing() {
    let mut met = 0;
    let mut equal = with(&assorted()[1], 2, b"same");
    equal.submitted_s = 0;
    for there in [&[][..], &[job(1, "mail", "", b"same"), equal], &[job(500, "mail", "", b"")]] {
        for on_source in [false, true] {
            for fault in [Fault::Refuses, Fault::LosesAnswer] {
                met += (0..100).take_while(|number| interrupted(on_source, fault(*number), there)).count();
            }
        }
    }
    // Three targets. Commits: the marker, four batches and the marker's removal in the target, four batches
    // in the source. Two faults each.
    assert_eq!(met, 3 * (6 + 4) * 2);
}

#[test]
fn a_target_that_lost_jobs_leaves_the_source_alone() {
    let (mut source, target) = (Fake::new(assorted()), Fake::new(Vec::new()));
    let error = import(&mut source, &mut target.again(Fault::LosesJobs), false).unwrap_err().to_string();
    assert!(error.contains("holds 4 jobs where there should be 7"), "{error}");
    assert_eq!(source.jobs().len(), 7);
    import(&mut source, &mut target.again(Fault::None), false).unwrap();
    assert_eq!(target.jobs().len(), 7);
}

#[test]
fn a_source_that_forgets_nothing_ends_the_import() {
    let (source, mut target) = (Fake::new(assorted()), Fake::new(Vec::new()));
    let error = import(&mut source.again(Fault::ForgetsNothing), &mut target, false).unwrap_err().to_string();
    assert!(error.contains("still holds jobs"), "{error}");
    assert_eq!(target.jobs().iter().filter(|job| !is_marker(job)).count(), 7);
}

#[test]
fn an_import_that_was_interrupted_is_finished_before_another() {
    let target = Fake::new(Vec::new());
    import(&mut Fake::new(assorted()), &mut target.again(Fault::Refuses(2)), false).unwrap_err();
    let bar = ProgressBar::hidden();
    let (mut source, mut other) = (Fake::new(vec![job(1, "x", "", b"")]), target.again(Fault::None));
    let import_other = Import {
        source: &mut source,
        target: &mut other,
        from: "another source".to_owned(),
        keep: false,
        bar: &bar,
        batch_jobs: 2,
    };
    let error = import_other.run().unwrap_err();
    assert!(matches!(&error, ToolError::Usage(text) if text.contains("an import from the source")), "{error}");
    let error = import(&mut target.again(Fault::None), &mut Fake::new(Vec::new()), false).unwrap_err().to_string();
    assert!(error.contains("finish that one first"), "{error}");
}

#[test]
fn an_import_goes_on_after_a_server_has_used_the_target() {
    let (source, target) = (Fake::new(assorted()), Fake::new(Vec::new()));
    import(&mut source.again(Fault::None), &mut target.again(Fault::Refuses(2)), false).unwrap_err();
    target.apply(&Changes { adds: vec![job(1000, "new", "new", b"")], ..Changes::default() });
    import(&mut source.again(Fault::None), &mut target.again(Fault::None), false).unwrap();
    assert_eq!(numbers(&target.jobs()), [3, 4, 1000, 1001, 1002, 1003, 1004, 1005]);
    assert!(source.jobs().is_empty());
}

fn printed(tool: impl FnOnce(&mut Vec<u8>) -> Result<u8, ToolError>) -> (String, u8) {
    let mut out = Vec::new();
    let status = tool(&mut out).unwrap();
    (String::from_utf8(out).unwrap(), status)
}

#[test]
fn jobs_are_listed_in_their_order() {
    let mut store = Fake::new(assorted());
    let only = |function: Option<&str>, limit| Only { function: function.map(|name| name.as_bytes().to_vec()), limit };
    let (text, status) = printed(|out| list(&mut store, &only(Some("mail"), 3), Form::Table(None), out));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(status, 0);
    assert_eq!(lines[0], ["HANDLE", "FUNCTION", "UNIQUE", "PRIORITY", "DUE", "ATTEMPTS", "BYTES", "AGE"]);
    assert_eq!(lines[1][..7], ["H:test:3", "mail", "order-1", "normal", "-", "3", "3"]);
    assert_eq!(lines[2], ["H:test:4", "mail", "-", "normal", "-", "0", "4", "-"]);
    assert_eq!((lines.len(), lines[3][0]), (4, "H:test:7"));
    let (text, _) = printed(|out| list(&mut store, &only(Some("a-b"), u64::MAX), Form::Json, out));
    let jobs: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = serde_json::json!({
        "handle": "H:test:11", "function": "a-b", "unique": "", "priority": "normal", "due": 4_000_000_000_u64,
        "attempts": 0, "bytes": 0, "submitted": 1_700_000_000
    });
    assert_eq!((jobs.len(), &jobs[0]), (2, &expected));
    // Rows after those that determine the widths are printed too.
    let mut many = Fake::new((1..=2500).map(|number| job(number, "f", "", b"")).collect());
    let (text, _) = printed(|out| list(&mut many, &only(None, u64::MAX), Form::Table(None), out));
    assert_eq!(text.lines().count(), 2501);
    assert!(text.ends_with('\n') && text.lines().last().unwrap().starts_with("H:test:2500  f"));
}

#[test]
fn jobs_are_counted_by_function_and_priority() {
    let mut store = Fake::new(assorted());
    let (text, status) = printed(|out| count(&mut store, Form::Table(None), out));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let heading = ["FUNCTION", "JOBS", "HIGH", "NORMAL", "LOW", "SCHEDULED"];
    assert_eq!(lines, [heading, ["a-b", "2", "0", "2", "0", "1"], ["mail", "5", "1", "4", "0", "0"]]);
    assert_eq!(status, 0);
    let (text, _) = printed(|out| count(&mut store, Form::Json, out));
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({"function": "a-b", "jobs": 2, "high": 0, "normal": 2, "low": 0, "scheduled": 1});
    assert_eq!(first, expected);
}

#[test]
fn what_makes_no_sense_is_found() {
    let location = "/queue".parse::<super::url::QueueUrl>().unwrap().0;
    let mut store = Fake::new(assorted());
    let (text, status) = printed(|out| verify(&mut store, &location, false, out));
    assert_eq!((text.as_str(), status), ("SQLite file /queue (table gearman_queue): 7 jobs are sound\n", 0));
    store.kept.lock().unwrap().quarantined = 2;
    store.kept.lock().unwrap().jobs.insert(20, job(20, "mail", "order-1", b""));
    let (text, status) = printed(|out| verify(&mut store, &location, true, out));
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found, serde_json::json!({"sound": 7, "quarantined": 2, "disordered": 0, "joined": 1}));
    assert_eq!(status, EXIT_FAILED);
    store.kept.lock().unwrap().jobs.insert(21, job(3, "mail", "late", b""));
    let (text, _) = printed(|out| verify(&mut store, &location, false, out));
    assert!(text.contains("\n1 jobs have a number out of order"), "{text}");
}

#[test]
fn names_are_shown_as_people_read_them_and_command_no_terminal() {
    let names: [(&[u8], &str); 4] = [
        ("gr\u{fc}n-\u{6f22}\u{5b57}".as_bytes(), "gr\u{fc}n-\u{6f22}\u{5b57}"),
        (b"\xff\xfe-latin", "\\xff\\xfe-latin"),
        ("a\u{1b}[2J\u{9b}b".as_bytes(), "a\\x1b[2J\\xc2\\x9bb"),
        ("c\u{202e}\u{2028}d".as_bytes(), "c\\xe2\\x80\\xae\\xe2\\x80\\xa8d"),
    ];
    let jobs = names.iter().zip(1..).map(|((name, _), number)| {
        let mut entry = job(number, "f", "", b"");
        entry.function = FunctionName::new(name);
        entry
    });
    let mut store = Fake::new(jobs.collect());
    let all = Only { function: None, limit: u64::MAX };
    let (listed, _) = printed(|out| list(&mut store, &all, Form::Table(None), out));
    let (counted, _) = printed(|out| count(&mut store, Form::Table(None), out));
    for (_, shown) in names {
        assert!(listed.contains(shown) && counted.contains(shown), "{shown}: {listed}{counted}");
    }
    // Columns are aligned by display width.
    let at = |line: &str| crate::client::terminal::width(line.split("  normal").next().unwrap_or_default());
    let places: Vec<usize> = listed.lines().skip(1).map(at).collect();
    assert!(places.iter().all(|place| *place == places[0]), "{listed}");
    let (json, _) = printed(|out| list(&mut store, &all, Form::Json, out));
    assert!(json.contains("\\u009b") && json.contains("\\u202e") && json.contains("gr\u{fc}n"), "{json}");
    // On a terminal, lines fit its width.
    let (cut, _) = printed(|out| list(&mut store, &all, Form::Table(Some(60)), out));
    assert!(cut.lines().all(|line| crate::client::terminal::width(line) <= 60), "{cut}");
    let (cut, _) = printed(|out| count(&mut store, Form::Table(Some(60)), out));
    assert!(cut.lines().all(|line| crate::client::terminal::width(line) <= 60), "{cut}");
}
