//! The space that the file and its WAL take, and copies of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use gearmand::store::{Workloads, sqlite};

use crate::{Kept, Place, add, opening, remove, replay};

/// So many jobs that they take 12 MiB.
fn backlog() -> Vec<Kept> {
    (1..=3000).map(|number| Kept { workload: vec![7; 4096], ..Kept::plain(number) }).collect()
}

fn size(place: &Place) -> u64 {
    fs::metadata(&place.path).unwrap().len()
}

#[test]
fn a_file_whose_jobs_have_gone_gets_small_again() {
    for keep_primary_key in [false, true] {
        let place = Place::new();
        if keep_primary_key {
            crate::take_over::create_cpp_table(&place.raw());
        }
        let mut store = if keep_primary_key { place.keeping_primary_key() } else { place.own() };
        let jobs = backlog();
        add(&mut *store, &jobs).unwrap();
        assert!(!store.rest().unwrap(), "nothing is free");
        remove(&mut *store, &jobs[..2990]);
        place.raw().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        assert!(store.rest().unwrap(), "it waits whether the backlog comes again");
        let before = size(&place);
        assert!(!store.rest().unwrap());
        assert!(size(&place) < 1 << 20 && before > 8 << 20, "{before} bytes before, {} after", size(&place));
        let left = &jobs[2990..];
        assert_eq!(replay(&mut *store).0, left);
        add(&mut *store, &[Kept::plain(4000)]).unwrap();
        remove(&mut *store, left);
        drop(store);
        assert_eq!(replay(&mut *place.read()).0, [Kept::plain(4000)]);
    }
}

#[test]
fn a_reader_does_not_keep_a_file_from_getting_small_for_ever() {
    let place = Place::new();
    let mut store = place.own();
    let jobs = backlog();
    add(&mut *store, &jobs).unwrap();
    remove(&mut *store, &jobs);
    let raw = place.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.rest().unwrap());
    assert!(!store.rest().unwrap(), "another program writes: nothing is done, and nothing has failed");
    raw.execute_batch("ROLLBACK").unwrap();
    add(&mut *store, &[Kept::plain(4000)]).unwrap();
    assert!(store.rest().unwrap());
    assert!(!store.rest().unwrap());
    assert!(size(&place) < 1 << 20);
}

#[test]
fn whoever_looks_holds_no_transaction_while_they_look() {
    let place = Place::new();
    let mut store = place.own();
    let jobs: Vec<Kept> = (1..=3000).map(Kept::plain).collect();
    add(&mut *store, &jobs).unwrap();
    let raw = place.raw();
    let mut seen = Vec::new();
    place
        .read()
        .replay(&mut |job, _| {
            if seen.len() % 500 == 0 {
                let busy: bool = raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
                assert!(!busy, "the WAL cannot begin anew at job {}", job.number);
            }
            seen.push(job.number);
            Workloads::Wanted
        })
        .unwrap();
    assert_eq!(seen, (1..=3000).collect::<Vec<u64>>());
}

#[test]
fn a_copy_is_whole_and_has_the_rights_of_the_file() {
    let place = Place::new();
    let mut store = place.own();
    let jobs = backlog();
    add(&mut *store, &jobs).unwrap();
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o600)).unwrap();
    let copy = place.beside(".copy");
    let bytes = sqlite::backup(&place.path, "gearman_queue", &copy).unwrap();
    assert_eq!(
        (fs::metadata(&copy).unwrap().len(), fs::metadata(&copy).unwrap().permissions().mode() & 0o777),
        (bytes, 0o600)
    );
    remove(&mut *store, &jobs);
    let (copied, replayed) = replay(&mut *crate::own(&copy).unwrap());
    assert_eq!((copied, replayed.last_number), (jobs, 3000));
    let error = sqlite::backup(&place.path, "gearman_queue", &copy).unwrap_err();
    assert!(error.text.contains("choose another"), "{error}");
    assert!(!place.beside(".copy.part").exists());
}

#[test]
fn a_file_that_no_server_uses_is_made_smaller() {
    let place = Place::new();
    let mut store = place.own();
    let jobs = backlog();
    add(&mut *store, &jobs).unwrap();
    remove(&mut *store, &jobs[1000..]);
    let error = sqlite::compact(&place.path, "gearman_queue").unwrap_err();
    assert!(error.text.contains("another server"), "{error}");
    drop(store);
    let (before, after) = opening(|| sqlite::compact(&place.path, "gearman_queue")).unwrap();
    assert!(before > 8 << 20 && after < 6 << 20 && after == size(&place), "{before} bytes before, {after} after");
    assert_eq!(replay(&mut *place.own()).0, jobs[..1000]);
}
