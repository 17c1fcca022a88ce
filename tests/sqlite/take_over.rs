//! Files that C++ gearmand wrote, and files that it gets back: Debian's program is the other side.

use std::collections::BTreeMap;

use gearmand::protocol::Priority;
use rusqlite::Connection;

use crate::common::packet::{self, body};
use crate::common::{Server, Wire, wait_for};
use crate::{Kept, PREFIX, Place, add, remove, replay, starting};

/// The table as Debian's gearmand makes it.
pub(crate) fn create_cpp_table(raw: &Connection) {
    raw.execute_batch(
        "CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, \
         when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))",
    )
    .unwrap();
}

/// Columns of the table in the order of its making, and whether there is a primary key of text.
fn shape(raw: &Connection) -> (String, bool) {
    raw.query_row(
        "SELECT group_concat(name), sum(pk > 0 AND type = 'TEXT') = 2 FROM pragma_table_info('gearman_queue')",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
    .unwrap()
}

const OURS: &str = "job_id,unique_key,function_name,priority,when_to_run,handle,reducer,submitted,flags,attempts,data";

/// What C++ gearmand does not write is unknown.
fn from_cpp(number: u64, function: &[u8], unique: &[u8], workload: &[u8]) -> Kept {
    let (function, unique, workload) = (function.to_vec(), unique.to_vec(), workload.to_vec());
    Kept { function, unique, workload, submitted_s: 0, ..Kept::plain(number) }
}

/// Debian's gearmand with a queue in the file.
fn debian(place: &Place) -> Server {
    let path = place.path.to_str().unwrap();
    starting(|| Server::debian(&["-q", "libsqlite3", "--libsqlite3-db", path, "--libsqlite3-table", "gearman_queue"]))
}

/// Submits background jobs of every kind, and returns them as they should be kept.
fn submit_every_kind(server: &Server) -> Vec<Kept> {
    let binary: Vec<u8> = (0..=255).collect();
    let submissions: [(u32, &[&[u8]]); 8] = [
        (packet::SUBMIT_JOB_BG, &[b"plain", b"u1", b"workload"]),
        (packet::SUBMIT_JOB_HIGH_BG, &[b"plain", b"u2", &binary]),
        (packet::SUBMIT_JOB_LOW_BG, &[b"with-hyphen", b"u-3", b"low"]),
        (packet::SUBMIT_JOB_EPOCH, &[b"later", b"u4", b"4102444800", b"due in 2100"]),
        (packet::SUBMIT_JOB_BG, &[b"empty", b"u5", b""]),
        (packet::SUBMIT_JOB_BG, &[b"nounique", b"", b"has none"]),
        (packet::SUBMIT_JOB_BG, &[b"dash", b"-", b"workload is unique"]),
        (packet::SUBMIT_JOB_BG, &[b"bytes\xff\xfe", b"\xc3\x28", b"no UTF-8"]),
    ];
    let mut client = Wire::connect(server.addr());
    for (packet_type, arguments) in submissions {
        client.send(packet_type, &body(arguments));
        client.expect_type(packet::JOB_CREATED);
    }
    let plain = from_cpp;
    vec![
        plain(1, b"plain", b"u1", b"workload"),
        Kept { priority: Priority::High, ..plain(2, b"plain", b"u2", &binary) },
        Kept { priority: Priority::Low, ..plain(3, b"with-hyphen", b"u-3", b"low") },
        Kept { due_s: 4_102_444_800, ..plain(4, b"later", b"u4", b"due in 2100") },
        plain(5, b"empty", b"u5", b""),
        plain(6, b"nounique", b"", b"has none"),
        plain(7, b"dash", b"-", b"workload is unique"),
        plain(8, b"bytes\xff\xfe", b"\xc3\x28", b"no UTF-8"),
    ]
}

#[test]
fn a_file_of_debians_gearmand_is_taken_over() {
    for keep_primary_key in [false, true] {
        let place = Place::new();
        let server = debian(&place);
        let jobs = submit_every_kind(&server);
        // Who looks while it runs changes nothing.
        assert_eq!(replay(&mut *place.read()).0, jobs);
        drop(server);
        let (before, has_key) = shape(&place.raw());
        assert!(has_key);
        assert_eq!(replay(&mut *place.read()).0, jobs);
        assert_eq!(shape(&place.raw()), (before.clone(), true));

        let open = || if keep_primary_key { place.keeping_primary_key() } else { place.own() };
        let mut store = open();
        let (found, replayed) = replay(&mut *store);
        assert_eq!(found, jobs);
        assert_eq!((replayed.last_number, replayed.quarantined), (8, 0));
        let (after, has_key) = shape(&place.raw());
        if keep_primary_key {
            assert!(has_key && after.starts_with(&before), "{after}");
        } else {
            assert_eq!((after.as_str(), has_key), (OURS, false));
        }
        let keys: Vec<_> = jobs.iter().map(Kept::key).collect();
        let workloads: Vec<_> =
            store.load(&keys, usize::MAX).unwrap().into_iter().map(|data| data.unwrap().to_vec()).collect();
        assert_eq!(workloads, jobs.iter().map(|job| job.workload.clone()).collect::<Vec<_>>());
        remove(&mut *store, &jobs[..4]);
        add(&mut *store, &[Kept::plain(9)]).unwrap();
        drop(store);
        let expected: Vec<Kept> = jobs[4..].iter().cloned().chain([Kept::plain(9)]).collect();
        assert_eq!(replay(&mut *open()).0, expected);
    }
}

#[test]
fn a_file_from_before_epoch_jobs_is_taken_over() {
    let place = Place::new();
    place
        .raw()
        .execute_batch(
            "CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, \
             PRIMARY KEY (unique_key, function_name)); \
             INSERT INTO gearman_queue VALUES ('b', 'f', 0, x'00ff'), ('a', 'f', 1, NULL), ('', 'f', 2, 'text'); \
             CREATE INDEX gq_c ON gearman_queue (unique_key, function_name);",
        )
        .unwrap();
    let expected = [
        Kept { priority: Priority::High, ..from_cpp(1, b"f", b"b", b"\0\xff") },
        from_cpp(2, b"f", b"a", b""),
        Kept { priority: Priority::Low, ..from_cpp(3, b"f", b"", b"text") },
    ];
    assert_eq!(replay(&mut *place.read()).0, expected);
    drop(place.own());
    assert_eq!(replay(&mut *place.own()).0, expected);
    let raw = place.raw();
    assert_eq!(shape(&raw), (OURS.to_owned(), false));
    let cpp_would_end: i64 = raw
        .query_row(
            "SELECT count(*) FROM gearman_queue WHERE typeof(data) != 'blob' OR typeof(when_to_run) != 'integer'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(cpp_would_end, 0);
    let indexes: i64 =
        raw.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'index'", [], |row| row.get(0)).unwrap();
    assert_eq!(indexes, 0);
}

#[test]
fn the_order_of_rows_is_the_order_of_jobs() {
    let place = Place::new();
    create_cpp_table(&place.raw());
    place
        .raw()
        .execute_batch(
            "INSERT INTO gearman_queue (rowid, unique_key, function_name, priority, data, when_to_run) VALUES \
             (70, 'third', 'f', 1, x'33', 0), (5, 'first', 'f', 1, x'31', 0), (6, 'second', 'f', 1, x'32', 0)",
        )
        .unwrap();
    let uniques =
        |jobs: Vec<Kept>| jobs.into_iter().map(|job| String::from_utf8(job.unique).unwrap()).collect::<Vec<_>>();
    assert_eq!(uniques(replay(&mut *place.read()).0), ["first", "second", "third"]);
    assert_eq!(uniques(replay(&mut *place.keeping_primary_key()).0), ["first", "second", "third"]);
    let (jobs, replayed) = replay(&mut *place.own());
    assert_eq!(replayed.last_number, jobs[2].number);
    assert_eq!(uniques(jobs), ["first", "second", "third"]);
}

/// Works on the functions until the server has no more jobs; returns (function, unique id, workload) of each.
fn work_off(server: &Server, functions: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let mut worker = Wire::connect(server.addr());
    for function in functions {
        worker.send(packet::CAN_DO, function);
    }
    let mut done = Vec::new();
    loop {
        worker.send(packet::GRAB_JOB_UNIQ, b"");
        let (packet_type, assigned) = worker.recv();
        if packet_type == packet::NO_JOB {
            return done;
        }
        assert_eq!(packet_type, packet::JOB_ASSIGN_UNIQ);
        let parts: Vec<&[u8]> = assigned.splitn(4, |byte| *byte == 0).collect();
        done.push((parts[1].to_vec(), parts[2].to_vec(), parts[3].to_vec()));
        worker.send(packet::WORK_COMPLETE, &body(&[parts[0], b"done"]));
    }
}

/// The jobs of a store that goes back, and what Debian's gearmand should hand out: the jobs without a unique
/// id of their own under their handle.
fn going_back() -> Vec<Kept> {
    let plain = Kept::plain;
    vec![
        plain(11),
        Kept { priority: Priority::High, workload: (0..=255).collect(), ..plain(12) },
        Kept { priority: Priority::Low, function: b"with-hyphen".to_vec(), ..plain(13) },
        Kept { unique: Vec::new(), ..plain(14) },
        Kept { unique: Vec::new(), ..plain(15) },
        Kept { unique: b"-".to_vec(), ..plain(16) },
        Kept { unique: b"-".to_vec(), ..plain(17) },
        Kept { workload: Vec::new(), ..plain(18) },
        Kept { due_s: 1_000_000_000, reducer: b"sum".to_vec(), attempts: 3, ..plain(19) },
        Kept { workload: vec![b'x'; 1 << 20], ..plain(20) },
    ]
}

#[test]
fn debians_gearmand_takes_a_file_of_ours_and_runs_every_job() {
    for keep_primary_key in [false, true] {
        let place = Place::new();
        if keep_primary_key {
            create_cpp_table(&place.raw());
        }
        let open = || if keep_primary_key { place.keeping_primary_key() } else { place.own() };
        add(&mut *open(), &going_back()).unwrap();
        if !keep_primary_key {
            let index = "CREATE UNIQUE INDEX gq_c ON gearman_queue (unique_key, function_name)";
            place.raw().execute_batch(index).unwrap();
        }

        let server = debian(&place);
        let mut done = work_off(&server, &[b"reverse", b"with-hyphen"]);
        let mut expected: Vec<_> = going_back()
            .into_iter()
            .map(|job| {
                let own = !job.unique.is_empty() && job.unique != b"-";
                let unique = if own { job.unique } else { format!("{PREFIX}:{}", job.number).into_bytes() };
                (job.function, unique, job.workload)
            })
            .collect();
        done.sort();
        expected.sort();
        assert!(done == expected, "{} of {} jobs were as expected", done.len(), expected.len());
        let raw = place.raw();
        let rows = || raw.query_row("SELECT count(*) FROM gearman_queue", [], |row| row.get::<_, i64>(0)).ok();
        wait_for("the last row to be removed", || rows().filter(|rows| *rows == 0));

        // And back again, with what was submitted meanwhile.
        let mut meanwhile: BTreeMap<Vec<u8>, Kept> =
            submit_every_kind(&server).into_iter().map(|job| (job.function.clone(), job)).collect();
        drop(server);
        let (jobs, replayed) = replay(&mut *open());
        assert_eq!((jobs.len(), replayed.quarantined), (8, 0));
        assert!(replayed.last_number >= 20, "numbers go on");
        for job in jobs.into_iter().filter(|job| job.function != b"plain") {
            let was = meanwhile.remove(&job.function).unwrap();
            assert_eq!(job, Kept { number: job.number, ..was });
        }
        drop(raw);
        let raw = place.raw();
        let indexes: i64 =
            raw.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'gq_c'", [], |row| row.get(0)).unwrap();
        assert_eq!(indexes, 0);
    }
}

#[test]
fn a_table_that_kept_its_primary_key_can_lose_it_later() {
    let place = Place::new();
    create_cpp_table(&place.raw());
    let mut store = place.keeping_primary_key();
    add(&mut *store, &going_back()).unwrap();
    remove(&mut *store, &going_back()[..3]);
    drop(store);
    // C++ gearmand adds a row in its own way.
    place
        .raw()
        .execute_batch(
            "INSERT OR REPLACE INTO gearman_queue (priority, unique_key, function_name, data, when_to_run) \
             VALUES (1, 'late', 'f', x'31', 0)",
        )
        .unwrap();
    let mut expected = going_back().split_off(3);
    expected.push(from_cpp(21, b"f", b"late", b"1"));
    let (jobs, replayed) = replay(&mut *place.own());
    assert_eq!(jobs, expected);
    assert_eq!(replayed.last_number, 21);
    assert_eq!(shape(&place.raw()), (OURS.to_owned(), false));
}
