//! Files that are not what they should be: one row that makes no sense is quarantined, a whole file is
//! refused with what to do.

use std::fs;

use gearmand::job_server::StoreFailure;
use gearmand::store::Workloads;
use rusqlite::Connection;

use crate::{Kept, Place, add, own, refusal, replay};

/// SQL that makes job number 3 one that makes no sense, and what is said of it.
const INVALID: &[(&str, &str)] = &[
    ("priority = 3", "priority"),
    ("priority = -1", "priority"),
    ("priority = 'high'", "priority"),
    ("priority = NULL", "priority"),
    ("function_name = NULL", "function"),
    ("function_name = CAST(zeroblob(513) AS TEXT)", "function"),
    ("unique_key = printf('%065d', 1)", "unique id"),
    ("reducer = printf('%065d', 1)", "reducer"),
    ("when_to_run = -1", "due time"),
    ("when_to_run = 'soon'", "due time"),
    ("data = 17", "workload"),
    ("data = 1.5", "workload"),
    ("unique_key = 'unique-2'", "an earlier row"),
];

fn five() -> Vec<Kept> {
    (1..=5).map(Kept::plain).collect()
}

fn change(raw: &Connection, set: &str) {
    assert_eq!(raw.execute(&format!("UPDATE gearman_queue SET {set} WHERE job_id = 3"), []).unwrap(), 1);
}

#[test]
fn a_row_that_makes_no_sense_is_quarantined() {
    for (set, reason) in INVALID {
        let place = Place::new();
        add(&mut *place.own(), &five()).unwrap();
        change(&place.raw(), set);
        let others: Vec<Kept> = five().into_iter().filter(|job| job.number != 3).collect();

        let mut looker = place.read();
        let (jobs, replayed) = replay(&mut *looker);
        assert_eq!((jobs, replayed.quarantined), (others.clone(), 1), "{set}");
        drop(looker);

        let mut store = place.own();
        let (jobs, replayed) = replay(&mut *store);
        assert_eq!((jobs, replayed.quarantined), (others.clone(), 1), "{set}");
        let (jobs, replayed) = replay(&mut *store);
        assert_eq!((jobs, replayed.quarantined), (others, 0), "{set}");
        let sql = "SELECT reason, queue, CAST(data AS TEXT), quarantined > 1700000000 FROM gearman_quarantine";
        let (text, queue, data, has_time): (String, String, String, bool) =
            place.raw().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        assert!(text.contains(reason), "{set}: {text}");
        assert_eq!(queue, "gearman_queue");
        assert!(has_time);
        assert!(set.starts_with("data") || data == "workload of 3", "{set}: {data}");
    }
}

#[test]
fn the_quarantine_of_an_earlier_version_is_renamed() {
    const FORMER: &str = "CREATE TABLE gearman_set_aside (queue TEXT, reason TEXT, set_aside INTEGER, job_id, \
         unique_key, function_name, priority, when_to_run, handle, reducer, submitted, flags, attempts, data); \
         INSERT INTO gearman_set_aside (queue, reason, set_aside, job_id) \
         VALUES ('gearman_queue', 'first', 1700000001, 7), ('another', 'second', 1700000002, 8)";
    let place = Place::new();
    add(&mut *place.own(), &five()).unwrap();
    place.raw().execute_batch(FORMER).unwrap();
    drop(place.read());
    let tables = || -> Vec<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE name IN ('gearman_set_aside', 'gearman_quarantine') ORDER BY 1";
        let raw = place.raw();
        let mut select = raw.prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(tables(), ["gearman_set_aside"], "whoever only looks changes nothing");
    change(&place.raw(), "priority = 3");
    let (jobs, replayed) = replay(&mut *place.own());
    assert_eq!((jobs.len(), replayed.quarantined), (4, 1));
    assert_eq!(tables(), ["gearman_quarantine"]);
    let rows: Vec<(i64, String)> = {
        let raw = place.raw();
        let sql = "SELECT job_id, queue FROM gearman_quarantine WHERE quarantined > 1700000000 ORDER BY quarantined";
        let mut select = raw.prepare(sql).unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let row = |number, queue: &str| (number, queue.to_owned());
    assert_eq!(rows, [row(7, "gearman_queue"), row(8, "another"), row(3, "gearman_queue")]);
    // Where there are both, neither is changed.
    place.raw().execute_batch(FORMER).unwrap();
    assert_eq!(replay(&mut *place.own()).0.len(), 4);
    assert_eq!(tables(), ["gearman_quarantine", "gearman_set_aside"]);
}

#[test]
fn a_workload_that_is_a_number_is_seen_without_reading_workloads() {
    let place = Place::new();
    add(&mut *place.own(), &five()).unwrap();
    change(&place.raw(), "data = 17");
    let mut seen = Vec::new();
    let replayed = place
        .own()
        .replay(&mut |job, _| {
            seen.push(job.number);
            Workloads::Unwanted
        })
        .unwrap();
    assert_eq!((seen, replayed.quarantined), (vec![1, 2, 4, 5], 1));
}

#[test]
fn what_can_be_done_without_does_not_cost_the_job() {
    let third = || Kept::plain(3);
    let cases = [
        ("handle = NULL", third()),
        ("handle = 'H:elsewhere:4'", third()),
        ("handle = x'ff3a33'", third()),
        ("handle = printf('%060d:3', 1)", third()),
        ("handle = 'H:elsewhere:3'", Kept { prefix: "H:elsewhere".to_owned(), ..third() }),
        ("reducer = NULL, attempts = NULL, flags = NULL", third()),
        ("submitted = 'then'", Kept { submitted_s: 0, ..third() }),
        ("attempts = 1000000", Kept { attempts: u16::MAX, ..third() }),
        ("when_to_run = NULL", third()),
        ("data = NULL", Kept { workload: Vec::new(), ..third() }),
        ("data = 'text'", Kept { workload: b"text".to_vec(), ..third() }),
        ("unique_key = NULL", Kept { unique: Vec::new(), ..third() }),
        ("unique_key = '-'", Kept { unique: b"-".to_vec(), ..third() }),
    ];
    for (set, expected) in cases {
        let place = Place::new();
        add(&mut *place.own(), &five()).unwrap();
        change(&place.raw(), set);
        let mut store = place.own();
        let (jobs, replayed) = replay(&mut *store);
        assert_eq!((&jobs[2], replayed.quarantined), (&expected, 0), "{set}");
        let loaded = store.load(&[third().key()], usize::MAX).unwrap();
        assert_eq!(loaded[0].as_deref(), Some(&expected.workload[..]), "{set}");
    }
}

#[test]
fn equal_unique_ids_of_different_functions_are_different_jobs() {
    let place = Place::new();
    let jobs = [
        Kept { unique: b"u".to_vec(), ..Kept::plain(1) },
        Kept { unique: b"u".to_vec(), function: b"other".to_vec(), ..Kept::plain(2) },
        Kept { unique: b"-".to_vec(), ..Kept::plain(3) },
        Kept { unique: b"-".to_vec(), ..Kept::plain(4) },
        Kept { unique: Vec::new(), ..Kept::plain(5) },
        Kept { unique: Vec::new(), ..Kept::plain(6) },
    ];
    let mut store = place.own();
    add(&mut *store, &jobs).unwrap();
    assert_eq!(replay(&mut *store).0, jobs);
}

#[test]
fn many_invalid_rows_are_one_transaction() {
    let place = Place::new();
    let jobs: Vec<Kept> = (1..=3000).map(Kept::plain).collect();
    add(&mut *place.own(), &jobs).unwrap();
    place.raw().execute("UPDATE gearman_queue SET priority = 7 WHERE job_id % 3 = 0", []).unwrap();
    let mut store = place.own();
    let (jobs, replayed) = replay(&mut *store);
    assert_eq!((jobs.len(), replayed.quarantined, replayed.last_number), (2000, 1000, 3000));
    drop(store);
    let count: i64 = place.raw().query_row("SELECT count(*) FROM gearman_quarantine", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1000);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_kept() {
    let place = Place::new();
    let text = "not a database, but something that somebody wants to keep\n".repeat(100);
    fs::write(&place.path, &text).unwrap();
    let error = refusal(&place.path);
    assert_eq!(error.failure, StoreFailure::Corrupt);
    for part in [place.path.to_str().unwrap(), "backup", "recover", "start empty"] {
        assert!(error.text.contains(part), "{error}");
    }
    assert_eq!(fs::read_to_string(&place.path).unwrap(), text);
}

#[test]
fn a_damaged_database_is_refused() {
    let place = Place::new();
    let jobs: Vec<Kept> = (1..=5000).map(Kept::plain).collect();
    add(&mut *place.own(), &jobs).unwrap();
    let mut bytes = fs::read(&place.path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 3 * 4096].fill(0xa5);
    fs::write(&place.path, &bytes).unwrap();
    let error = own(&place.path).and_then(|mut store| store.replay(&mut |_, _| Workloads::Wanted)).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Corrupt, "{error}");
    assert!(error.text.contains("backup"), "{error}");
}

#[test]
fn an_empty_file_is_a_new_store() {
    let place = Place::new();
    fs::write(&place.path, "").unwrap();
    let mut store = place.own();
    add(&mut *store, &five()).unwrap();
    assert_eq!(replay(&mut *store).0, five());
}

#[test]
fn a_newer_version_is_refused_with_both_versions() {
    let place = Place::new();
    add(&mut *place.own(), &five()).unwrap();
    place.raw().pragma_update(None, "user_version", 4711).unwrap();
    let error = refusal(&place.path);
    assert_eq!(error.failure, StoreFailure::Corrupt);
    assert!(error.text.contains("4711") && error.text.contains("up to 1"), "{error}");
    let version: i64 = place.raw().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 4711);
}

#[test]
fn another_table_of_that_name_is_refused_with_what_was_found() {
    let cases = [
        ("CREATE TABLE gearman_queue (id INTEGER PRIMARY KEY, body TEXT)", "id, body"),
        ("CREATE TABLE gearman_queue (unique_key, function_name, priority, data, colour)", "colour"),
        ("CREATE TABLE other (a); CREATE VIEW gearman_queue AS SELECT a FROM other", "a view"),
        (
            "CREATE TABLE gearman_queue (unique_key, function_name, priority, data, PRIMARY KEY (unique_key)) WITHOUT ROWID",
            "without row numbers",
        ),
    ];
    for (sql, part) in cases {
        let place = Place::new();
        place.raw().execute_batch(sql).unwrap();
        let error = refusal(&place.path);
        assert!(error.text.contains(part) && error.text.contains("another file or table"), "{error}");
        let tables: i64 = place
            .raw()
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'gearman_%'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 1, "nothing is made in a file that is refused");
        let mode: String = place.raw().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "delete");
    }
}

#[test]
fn a_column_that_a_later_program_added_is_left_alone() {
    let place = Place::new();
    add(&mut *place.own(), &five()).unwrap();
    place.raw().execute_batch("ALTER TABLE gearman_queue ADD COLUMN colour TEXT").unwrap();
    let mut store = place.own();
    assert_eq!(replay(&mut *store).0, five());
    add(&mut *store, &[Kept::plain(6)]).unwrap();
}

#[test]
fn a_column_that_an_earlier_program_had_not_is_added() {
    let place = Place::new();
    add(&mut *place.own(), &five()).unwrap();
    place.raw().execute_batch("ALTER TABLE gearman_queue DROP COLUMN attempts").unwrap();
    assert_eq!(replay(&mut *place.read()).0, five());
    let mut store = place.own();
    assert_eq!(replay(&mut *store).0, five());
    add(&mut *store, &[Kept { attempts: 2, ..Kept::plain(6) }]).unwrap();
    assert_eq!(replay(&mut *store).0[5].attempts, 2);
}
