//! What is kept comes back.

use std::collections::BTreeMap;
use std::fs;

use gearmand::job_server::{Edit, StoreFailure};
use gearmand::protocol::{FunctionName, Priority};
use gearmand::store::{Changes, Workloads};

use crate::{Kept, Place, add, remove, replay};

const HIGHEST: u64 = 999_999_999_999;

/// Jobs in which each field is at its limits once.
fn strange_jobs() -> Vec<Kept> {
    let plain = Kept::plain;
    vec![
        Kept { priority: Priority::High, workload: Vec::new(), ..plain(1) },
        Kept { priority: Priority::Low, workload: (0..=255).cycle().take(1 << 20).collect(), ..plain(2) },
        Kept { function: vec![0xff; 512], unique: vec![0xfe; 64], reducer: vec![0xc0; 64], ..plain(3) },
        Kept { unique: Vec::new(), workload: b"\0begins with NUL".to_vec(), ..plain(4) },
        Kept { unique: b"-".to_vec(), ..plain(5) },
        Kept { unique: Vec::new(), function: b"with-hyphen".to_vec(), ..plain(6) },
        Kept { due_s: 4_102_444_800, attempts: u16::MAX, ..plain(7) },
        Kept { prefix: "H:a:b".to_owned(), reducer: b"sum".to_vec(), submitted_s: 0, ..plain(8) },
        Kept { function: Vec::new(), ..plain(9) },
        Kept { unique: b"'; DROP TABLE gearman_queue; --".to_vec(), ..plain(HIGHEST) },
    ]
}

#[test]
fn every_field_comes_back() {
    for keep_primary_key in [false, true] {
        let place = Place::new();
        if keep_primary_key {
            crate::take_over::create_cpp_table(&place.raw());
        }
        let open = || if keep_primary_key { place.keeping_primary_key() } else { place.own() };
        add(&mut *open(), &strange_jobs()).unwrap();
        let (jobs, replayed) = replay(&mut *open());
        assert_eq!(jobs, strange_jobs());
        assert_eq!(replayed.last_number, 999_999_999_999);
        assert_eq!(replayed.quarantined, 0);
        let (jobs, _) = replay(&mut *place.read());
        assert_eq!(jobs, strange_jobs());
    }
}

#[test]
fn a_due_time_beyond_what_can_be_kept_is_still_never() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept { due_s: u64::MAX, ..Kept::plain(1) }]).unwrap();
    let (jobs, _) = replay(&mut *store);
    assert_eq!(jobs[0].due_s, i64::MAX.unsigned_abs());
}

#[test]
fn the_table_is_what_cpp_gearmand_reads() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &strange_jobs()).unwrap();
    let raw = place.raw();
    let row = |number: i64| -> (String, i64, i64, String, i64) {
        let sql = "SELECT CAST(unique_key AS TEXT), priority, when_to_run, typeof(data), flags FROM gearman_queue \
                   WHERE job_id = ?1";
        raw.query_row(sql, [number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .unwrap()
    };
    assert_eq!(row(1), ("unique-1".to_owned(), 0, 0, "blob".to_owned(), 0));
    assert_eq!(row(2), ("unique-2".to_owned(), 2, 0, "blob".to_owned(), 0));
    assert_eq!(row(4), ("H:here:4".to_owned(), 1, 0, "blob".to_owned(), 1));
    assert_eq!(row(5), ("H:here:5".to_owned(), 1, 0, "blob".to_owned(), 2));
    assert_eq!(row(7), ("unique-7".to_owned(), 1, 4_102_444_800, "blob".to_owned(), 0));
    let version: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, i64::from(gearmand::job_server::FORMAT));
    let types: String = raw
        .query_row(
            "SELECT group_concat(DISTINCT typeof(unique_key) || typeof(function_name)) FROM gearman_queue",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(types, "texttext");
}

#[test]
fn numbers_go_on_after_all_jobs_have_ended() {
    let place = Place::new();
    let mut store = place.own();
    let jobs: Vec<Kept> = (1..=30).map(Kept::plain).collect();
    add(&mut *store, &jobs).unwrap();
    // Foreground jobs get numbers too, and are not kept.
    store.commit(&Changes { last_number: 77, ..Changes::default() }).unwrap();
    store.commit(&Changes { last_number: 50, ..Changes::default() }).unwrap();
    remove(&mut *store, &jobs);
    remove(&mut *store, &jobs);
    drop(store);
    let (jobs, replayed) = replay(&mut *place.own());
    assert_eq!(jobs, []);
    assert_eq!(replayed.last_number, 77);
}

#[test]
fn what_was_committed_is_there_and_nothing_else() {
    const STEPS: u64 = 400;
    let seed: u64 = std::env::var("SQLITE_SEED").ok().map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("SQLITE_SEED={seed}");
    let mut state = seed;
    // Knuth's MMIX generator; the high bits are the good ones.
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let place = Place::new();
    let mut store = place.own();
    let mut model: BTreeMap<u64, Kept> = BTreeMap::new();
    let mut last_number = 0;
    for _ in 0..STEPS {
        let mut changes = Changes { sync: random(2) == 0, ..Changes::default() };
        for _ in 0..random(4) {
            let nth = usize::try_from(random(1 + model.len() as u64)).unwrap();
            if let Some(number) = model.keys().nth(nth).copied() {
                changes.removes.push(model.remove(&number).unwrap().key());
            }
        }
        let nth = usize::try_from(random(1 + model.len() as u64)).unwrap();
        if let Some(job) = model.values_mut().nth(nth) {
            let function = [b"reverse".as_slice(), b"other"][usize::try_from(random(2)).unwrap()];
            let key = job.key();
            (job.function, job.due_s, job.priority) = (function.to_vec(), random(9), Priority::High);
            let edit = Edit { function: FunctionName::new(function), priority: job.priority, due_s: job.due_s };
            changes.edits.push((key, edit));
        }
        for _ in 0..random(5) {
            last_number += 1;
            let workload = vec![b'x'; usize::try_from(random(9000)).unwrap()];
            let job = Kept { due_s: random(3), workload, ..Kept::plain(last_number) };
            changes.adds.push(job.stored());
            model.insert(last_number, job);
        }
        if let Some(mut job) = model.first_entry() {
            job.get_mut().attempts += 1;
            changes.attempts.push((job.get().key(), job.get().attempts));
        }
        changes.last_number = last_number;
        store.commit(&changes).unwrap();
        if random(20) == 0 {
            drop(store);
            store = place.own();
            let (jobs, replayed) = replay(&mut *store);
            assert!(jobs.iter().eq(model.values()), "seed {seed}");
            assert_eq!(replayed.last_number, last_number);
        }
        if random(5) == 0 {
            store.idle().unwrap();
        }
    }
    assert!(replay(&mut *store).0.iter().eq(model.values()), "seed {seed}");
}

#[test]
fn attempts_of_a_job_that_has_ended_are_no_error() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    let attempts = vec![(Kept::plain(1).key(), 3), (Kept::plain(2).key(), 9)];
    store.commit(&Changes { attempts, ..Changes::default() }).unwrap();
    assert_eq!(replay(&mut *store).0, [Kept { attempts: 3, ..Kept::plain(1) }]);
}

#[test]
fn workloads_that_are_not_wanted_are_left_and_loaded_later() {
    let place = Place::new();
    let mut store = place.own();
    // Those that are read with one that was wanted come with their workloads, too: up to 1000.
    let first: Vec<Kept> = (1..=1000).map(|number| Kept { unique: Vec::new(), ..Kept::plain(number) }).collect();
    let strange =
        || strange_jobs().into_iter().map(|job| Kept { number: job.number.min(HIGHEST - 1000) + 1000, ..job });
    let jobs: Vec<Kept> = first.into_iter().chain(strange()).collect();
    add(&mut *store, &jobs).unwrap();
    let mut seen = Vec::new();
    let replayed = store
        .replay(&mut |job, has_workload| {
            seen.push((Kept::of(&job), has_workload));
            if seen.len() < 3 { Workloads::Wanted } else { Workloads::Unwanted }
        })
        .unwrap();
    assert_eq!(replayed.jobs, jobs.len() as u64);
    for (nth, ((seen, has_workload), job)) in seen.into_iter().zip(jobs).enumerate() {
        assert_eq!(has_workload, nth < 1000 || job.unique == b"-", "{nth}");
        let workload = if has_workload { job.workload.clone() } else { Vec::new() };
        assert_eq!(seen, Kept { workload, ..job });
    }
    let mut keys: Vec<_> = strange().rev().map(|job| job.key()).collect();
    keys.insert(1, Kept::plain(5000).key());
    let loaded = store.load(&keys, usize::MAX).unwrap();
    let mut expected: Vec<_> = strange().rev().map(|job| Some(job.workload)).collect();
    expected.insert(1, None);
    let loaded: Vec<_> = loaded.into_iter().map(|workload| workload.map(|bytes| bytes.to_vec())).collect();
    assert_eq!(loaded, expected);
}

#[test]
fn a_commit_of_nothing_still_writes() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    for (sync, removes) in [(true, false), (false, false), (true, true), (true, false)] {
        let before = fs::read(place.beside("-wal")).unwrap();
        // One that removes what is not there changes no row either.
        let removes = if removes { vec![Kept::plain(2).key()] } else { Vec::new() };
        store.commit(&Changes { sync, removes, ..Changes::default() }).unwrap();
        assert_ne!(fs::read(place.beside("-wal")).unwrap(), before, "nothing was written (sync: {sync})");
    }
}

#[test]
fn others_can_look_while_a_server_uses_the_file() {
    let place = Place::new();
    let mut store = place.own();
    let jobs: Vec<Kept> = (1..=100).map(Kept::plain).collect();
    add(&mut *store, &jobs).unwrap();
    let mut looker = place.read();
    let mut seen = 0;
    // The server goes on while the other is in the middle of it, which sees what was there when it began.
    let replayed = looker
        .replay(&mut |job, _| {
            seen += 1;
            assert_eq!(job.number, seen);
            add(&mut *store, &[Kept::plain(100 + seen)]).unwrap();
            store.idle().unwrap();
            Workloads::Wanted
        })
        .unwrap();
    assert_eq!((seen, replayed.jobs), (100, 100));
    assert_eq!(replay(&mut *looker).1.jobs, 200);
    let error = looker.commit(&Changes::default()).unwrap_err();
    assert_eq!(error.failure, StoreFailure::ReadOnly);
    drop(store);
    assert_eq!(replay(&mut *looker).1.jobs, 200);
    // A server is not in the way of one that looks, nor the other way round.
    assert_eq!(replay(&mut *place.own()).1.jobs, 200);
}

#[test]
fn the_wal_stays_small_while_somebody_finds_the_time() {
    const WAL_BYTES_MAX: u64 = 24 << 20;
    let place = Place::new();
    let mut store = place.own();
    for batch in 0..60_u64 {
        let jobs: Vec<Kept> =
            (1..=100).map(|n| Kept { workload: vec![b'w'; 8000], ..Kept::plain(batch * 100 + n) }).collect();
        let adds = jobs.iter().map(Kept::stored).collect();
        store.commit(&Changes { adds, ..Changes::default() }).unwrap();
        store.idle().unwrap();
        let wal = fs::metadata(place.beside("-wal")).unwrap().len();
        assert!(wal < WAL_BYTES_MAX, "{wal} bytes of WAL after {batch} batches");
    }
    assert!(fs::metadata(&place.path).unwrap().len() > 2 * WAL_BYTES_MAX - (8 << 20), "nothing was copied");
    assert_eq!(replay(&mut *store).1.jobs, 6000);
}

#[test]
fn what_a_crash_leaves_is_complete() {
    let place = Place::new();
    let mut store = place.own();
    let jobs: Vec<Kept> = (1..=500).map(Kept::plain).collect();
    for job in jobs.chunks(7) {
        add(&mut *store, job).unwrap();
    }
    let crashed = Place::new();
    fs::copy(&place.path, &crashed.path).unwrap();
    fs::copy(place.beside("-wal"), crashed.beside("-wal")).unwrap();
    let mut after = crashed.own();
    assert_eq!(fs::metadata(crashed.beside("-wal")).unwrap().len(), 0, "the WAL is worked off at the start");
    assert_eq!(replay(&mut *after).0, jobs);
}

/// A change of settings, by names and values.
fn setting(settings: &[(&str, Option<&str>)]) -> Changes {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
    Changes { settings, sync: true, ..Changes::default() }
}

fn pairs(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn what_the_operator_has_decided_comes_back_with_its_queue() {
    let place = Place::new();
    let mut store = place.own();
    assert_eq!(replay(&mut *store).1.settings, []);
    store.commit(&setting(&[("function f", Some("paused")), ("function g", Some("running=1"))])).unwrap();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    store.commit(&setting(&[("function f", Some("queue=1,2,3")), ("function g", None), ("client c", None)])).unwrap();
    store.commit(&setting(&[("host ::1", Some("draining"))])).unwrap();
    let expected = pairs(&[("function f", "queue=1,2,3"), ("host ::1", "draining")]);
    assert_eq!(replay(&mut *store).1.settings, expected);
    drop(store);
    let (jobs, replayed) = replay(&mut *place.own());
    assert_eq!((jobs, replayed.settings), (vec![Kept::plain(1)], expected));
    assert_eq!(replay(&mut *place.read()).1.settings, [], "whoever looks is not told");
    let another = "INSERT INTO gearman_settings VALUES ('another_queue', 'function f', 'paused'), \
                   ('gearman_queue', X'FF', 7)";
    place.raw().execute_batch(another).unwrap();
    let settings = replay(&mut *place.own()).1.settings;
    assert_eq!(settings.len(), 3, "of this queue, also what is no text: {settings:?}");
}

#[test]
fn a_file_from_before_there_were_settings_has_none() {
    let place = Place::new();
    add(&mut *place.own(), &[Kept::plain(1)]).unwrap();
    place.raw().execute_batch("DROP TABLE gearman_settings").unwrap();
    assert_eq!(replay(&mut *place.read()).0, [Kept::plain(1)]);
    let mut store = place.own();
    let (jobs, replayed) = replay(&mut *store);
    assert_eq!((jobs, replayed.settings), (vec![Kept::plain(1)], Vec::new()));
    store.commit(&setting(&[("function f", Some("paused"))])).unwrap();
    assert_eq!(replay(&mut *store).1.settings, pairs(&[("function f", "paused")]));
}
