//! Files that are removed, moved, replaced or cut under a store that uses them: nothing more is acknowledged
//! until they are right again, and where all of it is still there it is made right.

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use gearmand::job_server::StoreFailure;
use gearmand::store::location::Access;

use crate::{Kept, Place, add, open, own, remove, replay, starting};

/// A store with two jobs: one that the database has, and one that only the WAL has.
fn with_jobs(place: &Place) -> Box<dyn gearmand::store::Store> {
    add(&mut *place.own(), &[Kept::plain(1)]).unwrap();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(2)]).unwrap();
    store
}

fn cut(path: &std::path::Path) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
}

/// Nothing is acknowledged, and the reason is said.
#[track_caller]
fn refuses(store: &mut dyn gearmand::store::Store, words: &str) {
    for number in [10, 11, 12] {
        let error = add(store, &[Kept::plain(number)]).expect_err("a job was acknowledged that nobody finds again");
        assert_eq!(error.failure, StoreFailure::Io, "{error}");
        assert!(error.text.contains(words), "{error}");
    }
}

/// What was moved away is used again once it is back.
#[test]
fn a_file_that_is_moved_away_takes_no_jobs_until_it_is_back() {
    for suffixes in [&[""][..], &["", "-wal", "-shm"]] {
        let place = Place::new();
        let mut store = with_jobs(&place);
        let away = tempfile::tempdir_in(place.path.parent().unwrap()).unwrap();
        for suffix in suffixes {
            fs::rename(place.beside(suffix), away.path().join(format!("x{suffix}"))).unwrap();
        }
        refuses(&mut *store, "was moved or deleted");
        assert!(!place.path.exists(), "another file was made");
        // What was there can be read meanwhile.
        assert!(store.load(&[Kept::plain(2).key()], 1 << 20).unwrap()[0].is_some());
        for suffix in suffixes {
            fs::rename(away.path().join(format!("x{suffix}")), place.beside(suffix)).unwrap();
        }
        remove(&mut *store, &[Kept::plain(10), Kept::plain(11), Kept::plain(12)]);
        add(&mut *store, &[Kept::plain(3)]).unwrap();
        drop(store);
        assert_eq!(replay(&mut *place.own()).0, [1, 2, 3].map(Kept::plain));
    }
}

/// Something that another program does to the files.
type Change<'a> = &'a dyn Fn(&Place);

#[test]
fn a_file_that_is_removed_or_replaced_or_cut_takes_no_jobs() {
    let removed = |place: &Place| fs::remove_file(&place.path).unwrap();
    let replaced = |place: &Place| {
        fs::remove_file(&place.path).unwrap();
        fs::write(&place.path, b"").unwrap();
    };
    let changes: [(Change<'_>, &str); 4] = [
        (&removed, "was moved or deleted"),
        (&replaced, "was replaced by another file"),
        (&|place| cut(&place.path), "was truncated"),
        (&|place| cut(&place.beside("-wal")), "-wal was truncated"),
    ];
    for (change, words) in changes {
        let place = Place::new();
        let mut store = with_jobs(&place);
        store.check().unwrap();
        assert_eq!(store.missing(), None);
        change(&place);
        // Also where nothing is asked.
        assert!(store.check().unwrap_err().text.contains(words));
        assert!(store.missing().unwrap().contains(words));
        refuses(&mut *store, words);
        // Also not with whatever housekeeping comes first.
        let _ = store.idle();
        refuses(&mut *store, words);
    }
}

/// The file is still open: what only the WAL has is copied into the database.
#[test]
fn a_wal_that_is_removed_is_made_again_and_nothing_is_lost() {
    for suffixes in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        let place = Place::new();
        let mut store = with_jobs(&place);
        for suffix in suffixes {
            fs::remove_file(place.beside(suffix)).unwrap();
        }
        add(&mut *store, &[Kept::plain(3)]).unwrap();
        add(&mut *store, &[Kept::plain(4)]).unwrap();
        // Another program finds them.
        let seen = replay(&mut *open(&place.path, false, Access::Read).unwrap()).0;
        assert_eq!(seen, [1, 2, 3, 4].map(Kept::plain), "{suffixes:?}");
        drop(store);
        assert_eq!(replay(&mut *place.own()).0, [1, 2, 3, 4].map(Kept::plain));
    }
}

#[test]
fn a_wal_that_is_replaced_takes_no_jobs_until_it_is_back() {
    let place = Place::new();
    let mut store = with_jobs(&place);
    let away = place.beside("-away");
    fs::rename(place.beside("-wal"), &away).unwrap();
    fs::write(place.beside("-wal"), b"something else").unwrap();
    refuses(&mut *store, "-wal was replaced by another file");
    fs::rename(&away, place.beside("-wal")).unwrap();
    remove(&mut *store, &[Kept::plain(10), Kept::plain(11), Kept::plain(12)]);
    add(&mut *store, &[Kept::plain(3)]).unwrap();
    drop(store);
    assert_eq!(replay(&mut *place.own()).0, [1, 2, 3].map(Kept::plain));
}

/// Other programs may do this at any time.
#[test]
fn a_wal_that_another_program_has_copied_and_cut_is_no_fault() {
    let place = Place::new();
    let mut store = with_jobs(&place);
    let other = place.raw();
    for number in 3..6 {
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(fs::metadata(place.beside("-wal")).unwrap().len(), 0);
        add(&mut *store, &[Kept::plain(number)]).unwrap();
    }
    remove(&mut *store, &[1, 2, 3, 4].map(Kept::plain));
    other.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    add(&mut *store, &[Kept::plain(6)]).unwrap();
    drop(other);
    drop(store);
    assert_eq!(replay(&mut *place.own()).0, [5, 6].map(Kept::plain));
}

/// What the server does by itself beside commits finds that no fault either.
#[test]
fn a_database_that_another_program_has_compacted_is_no_fault_while_nothing_is_committed() {
    let place = Place::new();
    let mut store = with_jobs(&place);
    let other = place.raw();
    for (turn, rests) in [(0, false), (1, true)] {
        let jobs: Vec<Kept> =
            (10..200).map(|number| Kept { workload: vec![b'x'; 4096], ..Kept::plain(number) }).collect();
        add(&mut *store, &jobs).unwrap();
        other.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        remove(&mut *store, &jobs);
        let before = fs::metadata(&place.path).unwrap().len();
        other.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert!(fs::metadata(&place.path).unwrap().len() < before, "turn {turn}");
        if rests {
            store.rest().unwrap();
        } else {
            store.idle().unwrap();
        }
    }
    drop(other);
    drop(store);
    assert_eq!(replay(&mut *place.own()).0, [1, 2].map(Kept::plain));
}

#[test]
fn a_lock_file_that_is_removed_is_made_again() {
    let place = Place::new();
    let mut store = with_jobs(&place);
    fs::remove_file(place.beside(".lock")).unwrap();
    add(&mut *store, &[Kept::plain(3)]).unwrap();
    assert_eq!(own(&place.path).map(drop).unwrap_err().failure, StoreFailure::Locked);
    // Nor while nothing is committed: the database is locked, too.
    fs::remove_file(place.beside(".lock")).unwrap();
    let error = own(&place.path).map(drop).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Locked);
    assert!(error.text.contains("its lock file was removed"), "{error}");
    // Other programs do not notice.
    place.raw().execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    add(&mut *store, &[Kept::plain(4)]).unwrap();
    // Where another server was faster, this one takes no more jobs.
    fs::remove_file(place.beside(".lock")).unwrap();
    let lock = OpenOptions::new().create(true).truncate(true).write(true).open(place.beside(".lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(add(&mut *store, &[Kept::plain(5)]).unwrap_err().failure, StoreFailure::Locked);
}

/// SQLite has it mapped: without its pages the process would end. What is left of the header must not be
/// believed.
#[test]
fn an_index_that_is_cut_is_made_again_and_nothing_is_lost() {
    for length in [0, 200, 32768] {
        let place = Place::new();
        let mut store = with_jobs(&place);
        // More pages than the first part of the index has names for.
        let large = Kept { workload: vec![b'w'; 20 << 20], ..Kept::plain(3) };
        add(&mut *store, std::slice::from_ref(&large)).unwrap();
        let index = place.beside("-shm");
        let before = fs::metadata(&index).unwrap().len();
        assert!(before > 32768, "{before}");
        let cut = || OpenOptions::new().write(true).open(&index).unwrap().set_len(length).unwrap();
        cut();
        add(&mut *store, &[Kept::plain(4)]).unwrap();
        assert_eq!(fs::metadata(&index).unwrap().len(), before);
        cut();
        assert_eq!(store.load(&[large.key()], 64 << 20).unwrap()[0].as_deref(), Some(&large.workload[..]));
        cut();
        store.idle().unwrap();
        cut();
        store.rest().unwrap();
        cut();
        store.set_reserve(Some(1 << 20));
        let _ = store.room(1);
        cut();
        let _ = store.room(1);
        // Where it is not found any more, too.
        cut();
        fs::remove_file(&index).unwrap();
        add(&mut *store, &[Kept::plain(5)]).unwrap();
        cut();
        drop(store);
        assert_eq!(
            replay(&mut *place.own()).0,
            [Kept::plain(1), Kept::plain(2), large, Kept::plain(4), Kept::plain(5)]
        );
    }
}

/// It holds nothing that is not in the WAL, and another program may have made it.
#[test]
fn an_index_that_is_replaced_is_made_again_and_nothing_is_lost() {
    let by_another = |place: &Place| {
        let mut sqlite = Command::new("sqlite3");
        sqlite.arg(&place.path).arg("SELECT count(*) FROM gearman_queue").stdout(Stdio::piped());
        let output = starting(|| sqlite.spawn()).expect("sqlite3").wait_with_output().expect("the end of sqlite3");
        assert_eq!(output.stdout, b"2\n", "{output:?}");
        assert!(fs::metadata(place.beside("-shm")).unwrap().len() > 0);
    };
    let changes: [Change<'_>; 3] = [
        &|place| fs::write(place.beside("-shm"), b"something else").unwrap(),
        &|place| fs::write(place.beside("-shm"), vec![7; 32768]).unwrap(),
        &by_another,
    ];
    for change in changes {
        let place = Place::new();
        let mut store = with_jobs(&place);
        fs::remove_file(place.beside("-shm")).unwrap();
        change(&place);
        add(&mut *store, &[Kept::plain(3)]).unwrap();
        add(&mut *store, &[Kept::plain(4)]).unwrap();
        let seen = replay(&mut *open(&place.path, false, Access::Read).unwrap()).0;
        assert_eq!(seen, [1, 2, 3, 4].map(Kept::plain));
        drop(store);
        assert_eq!(replay(&mut *place.own()).0, [1, 2, 3, 4].map(Kept::plain));
    }
}
