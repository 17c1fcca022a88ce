//! What the operator changes of kept jobs is there at the next start.

use gearmand::job_server::{Edit, JobKey};
use gearmand::protocol::{FunctionName, Priority};
use gearmand::store::Changes;
use gearmand::store::location::Access;

use super::battery::{Database, zoo};
use super::jobs::{TestJob, adding, assert_same, open, read};

/// Everything about edits.
pub(crate) fn run(database: &mut dyn Database) {
    everywhere(database);
    places(database);
    again(database);
    stranger(database);
    cut(database);
}

fn job(number: u64, function: &str, unique: &str) -> TestJob {
    TestJob::new(number, function, unique, b"w")
}

/// The edit that makes one job of another.
fn edit(from: &TestJob, to: &TestJob) -> (JobKey, Edit) {
    (from.key(), Edit { function: FunctionName::new(&to.function), priority: to.priority, due_s: to.due_s })
}

fn editing(edits: Vec<(JobKey, Edit)>) -> Changes {
    Changes { edits, sync: true, ..Changes::default() }
}

/// Jobs of every kind, moved to functions of every kind and back.
fn everywhere(database: &dyn Database) {
    let location = database.location("everywhere");
    // Two have the same unique id, and cannot both be moved to the same function.
    let mut jobs: Vec<TestJob> = zoo().into_iter().filter(|job| job.number != 12).collect();
    let mut store = open(&location, Access::Own);
    store.commit(&adding(&jobs)).unwrap();
    let long = "f".repeat(512);
    let functions: [&[u8]; 6] =
        [b"target", b"with-hyphens", b"\xff\xfe\xfd", long.as_bytes(), "\u{fc}".as_bytes(), b"target"];
    for (nth, function) in functions.into_iter().enumerate() {
        let due_s = [0, 2_000_000_000, 5_000_000_000][nth % 3];
        let moved: Vec<TestJob> = jobs
            .iter()
            .map(|job| TestJob { function: function.to_vec(), priority: Priority::ALL[nth % 3], due_s, ..job.clone() })
            .collect();
        store.commit(&editing(jobs.iter().zip(&moved).map(|(from, to)| edit(from, to)).collect())).unwrap();
        assert_same(&read(&mut *store).0, &moved);
        jobs = moved;
    }
    drop(store);
    let mut store = open(&location, Access::Own);
    assert_same(&read(&mut *store).0, &jobs);
    let keys: Vec<JobKey> = jobs.iter().map(TestJob::key).collect();
    let loaded = store.load(&keys, usize::MAX).unwrap();
    assert!(loaded.iter().all(Option::is_some), "workloads are found by the new names");
    store.commit(&Changes { removes: keys, ..Changes::default() }).unwrap();
    assert_eq!((read(&mut *store).0.len(), database.rows("everywhere")), (0, 0));
}

/// In one transaction jobs take each other's places, those of jobs that end, and leave theirs to new ones.
fn places(database: &dyn Database) {
    let mut store = open(&database.location("places"), Access::Own);
    let old = [job(1, "f", "u"), job(2, "g", "u"), job(3, "h", "u"), job(4, "i", "u"), job(5, "f", "v")];
    store.commit(&adding(&old)).unwrap();
    let high = |job: TestJob| TestJob { priority: Priority::High, ..job };
    // 1 and 2 change places, 3 takes that of 4, a new one that of 3, and 5 stays where it is.
    let new = [high(job(1, "g", "u")), job(2, "f", "u"), job(3, "i", "u"), high(job(5, "f", "v")), job(6, "h", "u")];
    let edits = vec![edit(&old[0], &new[0]), edit(&old[1], &new[1]), edit(&old[2], &new[2]), edit(&old[4], &new[3])];
    let gone = job(99, "f", "w");
    let edits = edits.into_iter().chain([edit(&gone, &job(99, "g", "w"))]).collect();
    let attempts = vec![(new[0].key(), 2), (new[4].key(), 3), (gone.key(), 4)];
    let changes = Changes { edits, attempts, removes: vec![old[3].key()], ..adding(&new[4..]) };
    store.commit(&changes).unwrap();
    let with_attempts = |job: &TestJob, attempts| TestJob { attempts, ..job.clone() };
    let mut expected = new.clone();
    expected[0] = with_attempts(&new[0], 2);
    expected[4] = with_attempts(&new[4], 3);
    assert_same(&read(&mut *store).0, &expected);
    assert_eq!(database.rows("places"), 5);
    // A name that a job had is another's now.
    store.commit(&Changes { removes: vec![new[0].key(), old[0].key()], ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &expected[1..]);
}

/// An edit may be made again, under every name that the job may have.
fn again(database: &dyn Database) {
    let mut store = open(&database.location("again"), Access::Own);
    let (first, second) = (job(1, "f", "u"), TestJob { due_s: 2_000_000_000, ..job(1, "g", "u") });
    store.commit(&adding(std::slice::from_ref(&first))).unwrap();
    for _ in 0..3 {
        store.commit(&editing(vec![edit(&first, &second)])).unwrap();
        assert_same(&read(&mut *store).0, std::slice::from_ref(&second));
    }
    let third = TestJob { priority: Priority::Low, ..job(1, "with-hyphen", "u") };
    let either = || editing(vec![edit(&first, &third), edit(&second, &third)]);
    for _ in 0..2 {
        store.commit(&either()).unwrap();
        assert_same(&read(&mut *store).0, std::slice::from_ref(&third));
    }
    store.commit(&Changes { removes: vec![second.key(), third.key()], ..either() }).unwrap();
    assert_eq!(read(&mut *store).0.len(), 0);
    store.commit(&either()).unwrap();
    assert_eq!((read(&mut *store).0.len(), database.rows("again")), (0, 0), "what is not there does not come to be");
}

/// What no server knows of does not keep a job from being moved to its place, and is not lost.
fn stranger(database: &dyn Database) {
    let location = database.location("stranger");
    let mut store = open(&location, Access::Own);
    let old = [job(1, "f", "u1"), job(2, "f", "u2")];
    let new = [job(1, "g", "u1"), job(2, "g", "u2")];
    store.commit(&adding(&old)).unwrap();
    database.put_stranger("stranger");
    let changes =
        || Changes { edits: vec![edit(&old[0], &new[0]), edit(&old[1], &new[1])], ..adding(&[job(3, "f", "u1")]) };
    store.commit(&changes()).unwrap_or_else(|error| panic!("a stranger is in the way: {error}"));
    store.commit(&editing(changes().edits)).unwrap();
    drop(store);
    let mut store = open(&location, Access::Own);
    let (jobs, _) = read(&mut *store);
    let expected = [new[0].clone(), new[1].clone(), job(3, "f", "u1")];
    assert_same(&jobs[..3], &expected);
    let strangers = jobs[3..].iter().filter(|job| job.workload == b"stranger").count();
    assert_eq!(strangers + database.strangers_quarantined("stranger"), 1, "{:?}", &jobs[3..]);
    store.commit(&Changes { removes: expected.iter().map(TestJob::key).collect(), ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &jobs[3..]);
}

/// The connection is cut, and the edit is made again.
fn cut(database: &mut dyn Database) {
    let location = database.location("cut");
    let mut store = open(&location, Access::Own);
    let (old, new) = (job(1, "f", "u"), TestJob { priority: Priority::High, ..job(1, "g", "u") });
    store.commit(&adding(std::slice::from_ref(&old))).unwrap();
    let changes = editing(vec![edit(&old, &new)]);
    database.kill();
    store.commit(&changes).unwrap_err();
    database.start_again();
    store.commit(&changes).unwrap();
    assert_same(&read(&mut *store).0, std::slice::from_ref(&new));
    // It has happened, and the store does not know.
    database.kill();
    database.start_again();
    let _ = store.commit(&changes);
    store.commit(&changes).unwrap();
    assert_same(&read(&mut *store).0, &[new]);
}
