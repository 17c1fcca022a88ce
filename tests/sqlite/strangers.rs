//! What other programs do to the table while a server uses it: rows that they insert keep no job out and
//! become jobs at the next start, and what their triggers leave out is not acknowledged.

use gearmand::job_server::StoreFailure;
use gearmand::store::{Changes, Store};
use rusqlite::Connection;

use crate::{Kept, Place, add, remove, replay};

const HIGHEST: u64 = 999_999_999_999;

/// Inserts a row as somebody would who counts on from the last one.
fn insert(raw: &Connection, number: u64, function: &str, unique: &str) {
    let sql = "INSERT INTO gearman_queue (job_id, unique_key, function_name, priority, when_to_run, data) \
               VALUES (?1, ?2, ?3, 1, 0, 'stranger')";
    raw.execute(sql, (i64::try_from(number).unwrap(), unique, function)).unwrap();
}

type Open = fn(&Place) -> Box<dyn Store>;

/// A table of each form, and a way to open it.
fn forms() -> [(Place, Open); 2] {
    let kept = Place::new();
    crate::take_over::create_cpp_table(&kept.raw());
    [(Place::new(), Place::own), (kept, Place::keeping_primary_key)]
}

/// The jobs but for the strangers, and how many of those there are.
#[track_caller]
fn ours(store: &mut dyn Store) -> (Vec<Kept>, usize) {
    let (jobs, replayed) = replay(store);
    assert_eq!(replayed.quarantined, 0);
    let (strangers, ours): (Vec<Kept>, Vec<Kept>) = jobs.into_iter().partition(|job| job.workload == b"stranger");
    (ours, strangers.len())
}

#[test]
fn rows_of_others_keep_no_job_out_and_are_jobs_at_the_next_start() {
    for (place, open) in forms() {
        let mut store = open(&place);
        let jobs: Vec<Kept> = (1..=40).map(Kept::plain).collect();
        add(&mut *store, &jobs[..2]).unwrap();
        let raw = place.raw();
        for number in [3, 4, 20, 40] {
            insert(&raw, number, "elsewhere", &format!("x{number}"));
        }
        // One at a time, and many.
        add(&mut *store, &jobs[2..3]).unwrap_or_else(|error| panic!("a stranger is in the way: {error}"));
        add(&mut *store, &jobs[3..]).unwrap_or_else(|error| panic!("strangers are in the way: {error}"));
        drop(store);
        for _ in 0..2 {
            let mut store = open(&place);
            assert_eq!(ours(&mut *store), (jobs.clone(), 4));
        }
        let mut store = open(&place);
        let strangers: Vec<Kept> = replay(&mut *store).0.split_off(40);
        assert!(strangers.iter().all(|job| job.number > 40 && job.function == b"elsewhere"), "{strangers:?}");
        remove(&mut *store, &strangers);
        assert_eq!(ours(&mut *store), (jobs, 0));
    }
}

#[test]
fn a_row_of_our_function_and_unique_id_keeps_no_job_out() {
    let [_, (place, open)] = forms();
    let mut store = open(&place);
    let job = Kept::plain(1);
    insert(&place.raw(), 900, "reverse", "unique-1");
    add(&mut *store, std::slice::from_ref(&job)).unwrap_or_else(|error| panic!("a stranger is in the way: {error}"));
    drop(store);
    let (ours, strangers) = ours(&mut *open(&place));
    assert_eq!((ours, strangers), (vec![job], 1));
}

#[test]
fn numbers_that_no_job_can_have_are_replaced_at_the_start() {
    for (place, open) in forms() {
        add(&mut *open(&place), &[Kept::plain(1), Kept::plain(7)]).unwrap();
        let raw = place.raw();
        for number in [HIGHEST - 1, HIGHEST, HIGHEST + 1, 900_000_000_001] {
            insert(&raw, number, "elsewhere", &format!("x{number}"));
        }
        for number in ["-3", "0", "9223372036854775807"] {
            let sql = format!(
                "INSERT INTO gearman_queue (job_id, unique_key, function_name, priority, when_to_run, data) \
                               VALUES ({number}, 'y{number}', 'elsewhere', 1, 0, 'stranger')"
            );
            raw.execute_batch(&sql).unwrap();
        }
        let mut store = open(&place);
        let (jobs, replayed) = replay(&mut *store);
        let numbers: Vec<u64> = jobs.iter().map(|job| job.number).collect();
        assert_eq!(
            (numbers, replayed.last_number, replayed.quarantined),
            (vec![1, 7, 8, 9, 10, 11, 12, 13, 14], 14, 0)
        );
        assert!(jobs.iter().all(|job| job.prefix == crate::PREFIX));
        assert_eq!(replay(&mut *store), (jobs, replayed), "and that once");
    }
}

#[test]
fn a_high_number_that_was_given_stays() {
    let place = Place::new();
    let job = Kept::plain(HIGHEST - 2);
    add(&mut *place.own(), std::slice::from_ref(&job)).unwrap();
    insert(&place.raw(), HIGHEST - 1, "elsewhere", "x");
    let (jobs, replayed) = replay(&mut *place.own());
    assert_eq!(jobs[0], job);
    assert_eq!((jobs.len(), replayed.last_number, replayed.quarantined), (2, HIGHEST - 1, 0));
}

#[test]
fn what_a_trigger_leaves_out_is_refused() {
    let triggers = [
        "BEFORE INSERT ON gearman_queue WHEN NEW.job_id % 2 = 0 BEGIN SELECT RAISE(IGNORE); END",
        "AFTER INSERT ON gearman_queue WHEN NEW.job_id % 2 = 0 BEGIN DELETE FROM gearman_queue WHERE job_id = NEW.job_id; END",
    ];
    for (place, open) in forms() {
        for trigger in triggers {
            let mut store = open(&place);
            place.raw().execute_batch(&format!("CREATE TRIGGER t {trigger}")).unwrap();
            for numbers in [2..=2, 1..=2, 1..=40] {
                let error = add(&mut *store, &numbers.map(Kept::plain).collect::<Vec<_>>()).expect_err(trigger);
                assert_eq!(error.failure, StoreFailure::Refused, "{error}");
                assert!(error.text.contains("trigger"), "{error}");
                assert_eq!(replay(&mut *store).0, [], "none of them is there");
            }
            add(&mut *store, &[Kept::plain(1)]).unwrap();
            remove(&mut *store, &[Kept::plain(1)]);
            place.raw().execute_batch("DROP TRIGGER t").unwrap();
        }
    }
}

#[test]
fn a_trigger_that_writes_elsewhere_is_no_reason_to_refuse() {
    let place = Place::new();
    let mut store = place.own();
    place
        .raw()
        .execute_batch(
            "CREATE TABLE audit (job_id); CREATE TRIGGER t AFTER INSERT ON gearman_queue \
             BEGIN INSERT INTO audit VALUES (NEW.job_id); END",
        )
        .unwrap();
    let jobs: Vec<Kept> = (1..=40).map(Kept::plain).collect();
    add(&mut *store, &jobs).unwrap();
    store.commit(&Changes { sync: true, ..Changes::default() }).unwrap();
    assert_eq!(replay(&mut *store).0, jobs);
}
