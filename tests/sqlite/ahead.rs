//! Zeros behind the end of the WAL: SQLite finds the log all the same, whatever was done to it, and a disk
//! with little room has none.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use gearmand::store::{Changes, Store};
use tempfile::TempDir;

use crate::common::wait_for;
use crate::faults::{INSIDE, again, with_mounts};
use crate::{Kept, Place, add, own, remove, replay, starting};

/// What the WAL has when it is copied into the database: 4,000 pages with their headers.
const FULL: u64 = 4000 * (4096 + 24);

fn wal(place: &Place) -> u64 {
    fs::metadata(place.beside("-wal")).map_or(0, |file| file.len())
}

/// Lets the store do all that it can while nothing waits. Answers in how many pieces.
fn prepare(store: &mut dyn Store) -> u32 {
    let mut pieces = 1;
    while store.prepare().unwrap() {
        pieces += 1;
    }
    pieces
}

/// The files as a crash of the process leaves them.
struct Crash {
    directory: TempDir,
}

impl Crash {
    fn of(place: &Place) -> Self {
        let directory = TempDir::new().unwrap();
        for (suffix, name) in [("", "queue"), ("-wal", "queue-wal")] {
            fs::copy(place.beside(suffix), directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("queue")
    }

    /// Debian's SQLite, the reader and the next server find these jobs, and nothing else.
    #[track_caller]
    fn assert_has(&self, numbers: std::ops::RangeInclusive<u64>) {
        let expected: Vec<u64> = numbers.collect();
        let other = TempDir::new().unwrap();
        for name in ["queue", "queue-wal"] {
            fs::copy(self.directory.path().join(name), other.path().join(name)).unwrap();
        }
        let said = debian(&other.path().join("queue"), "PRAGMA integrity_check; SELECT count(*) FROM gearman_queue");
        assert_eq!(said, format!("ok\n{}\n", expected.len()), "Debian's sqlite3");
        let looked = crate::open(&self.path(), false, gearmand::store::location::Access::Read);
        let found = |mut store: Box<dyn Store>| replay(&mut *store).0.iter().map(|job| job.number).collect::<Vec<_>>();
        assert_eq!(found(looked.unwrap()), expected, "who looks");
        assert_eq!(found(own(&self.path()).unwrap()), expected, "the next server");
    }
}

fn debian(path: &Path, statement: &str) -> String {
    let mut sqlite = Command::new("sqlite3");
    sqlite.arg(path).arg(statement).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = starting(|| sqlite.spawn()).expect("sqlite3: see install-peers.sh");
    let output = started.wait_with_output().expect("the end of sqlite3");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_wal_gets_its_full_size_a_piece_at_a_time_and_commits_do_not_make_it_grow() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    assert!(wal(&place) < 1 << 17);
    assert!(store.prepare().unwrap(), "there is more to do");
    assert!((1 << 20..3 << 20).contains(&wal(&place)), "a piece: {} bytes", wal(&place));
    assert!((10..20).contains(&prepare(&mut *store)));
    let length = wal(&place);
    assert!((FULL..FULL + (1 << 20)).contains(&length), "{length} bytes");
    assert_eq!(prepare(&mut *store), 1, "all is done");
    for number in 2..500 {
        add(&mut *store, &[Kept::plain(number)]).unwrap();
        store.idle().unwrap();
    }
    assert_eq!(wal(&place), length, "commits made it grow");
    Crash::of(&place).assert_has(1..=499);
    drop(store);
    assert_eq!(wal(&place), 0, "a clean end leaves no WAL");
    assert_eq!(replay(&mut *place.own()).1.jobs, 499);
}

#[test]
fn a_crash_at_any_piece_leaves_the_jobs_before_it() {
    let place = Place::new();
    let mut store = place.own();
    // Of a WAL that holds nothing, the header is zeros too.
    place.raw().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    assert_eq!(wal(&place), 0);
    store.check().unwrap();
    for number in 1..=4 {
        store.prepare().unwrap();
        Crash::of(&place).assert_has(1..=number - 1);
        add(&mut *store, &[Kept::plain(number)]).unwrap();
        Crash::of(&place).assert_has(1..=number);
    }
}

#[test]
fn the_log_begins_anew_before_zeros_and_old_frames() {
    let place = Place::new();
    let mut store = place.own();
    prepare(&mut *store);
    let length = wal(&place);
    let mut number = 0;
    // The first thousand fills it beyond the point at which it is copied, so that the next begins it anew.
    for _ in 0..6 {
        let jobs: Vec<Kept> =
            (1..=1000).map(|place| Kept { workload: vec![7; 3000], ..Kept::plain(number + place) }).collect();
        for some in jobs.chunks(50) {
            add(&mut *store, some).unwrap();
            store.idle().unwrap();
        }
        number += 1000;
        Crash::of(&place).assert_has(1..=number);
    }
    assert!(wal(&place) < length + (1 << 20), "it began anew: {} bytes after {length}", wal(&place));
}

#[test]
fn a_wal_that_another_program_empties_gets_its_size_again() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    prepare(&mut *store);
    let length = wal(&place);
    for number in 2..6 {
        let said = debian(&place.path, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_eq!((said.as_str(), wal(&place)), ("0|0|0\n", 0));
        if number % 2 == 0 {
            // As it is done every few seconds, and with each commit.
            store.check().unwrap();
            prepare(&mut *store);
            assert!(wal(&place) >= length - (1 << 17), "{} bytes", wal(&place));
        }
        add(&mut *store, &[Kept::plain(number)]).unwrap();
        Crash::of(&place).assert_has(1..=number);
    }
}

/// As it does with `journal_size_limit`, when it begins the log anew.
#[test]
fn a_wal_that_another_program_makes_smaller_gets_its_size_again() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    prepare(&mut *store);
    let length = wal(&place);
    let other = "PRAGMA journal_size_limit = 0; PRAGMA wal_checkpoint; CREATE TABLE IF NOT EXISTS notes (text); \
                 INSERT INTO notes VALUES ('x')";
    for number in 2..5 {
        debian(&place.path, other);
        assert!(wal(&place) < 1 << 17, "{} bytes", wal(&place));
        add(&mut *store, &[Kept::plain(number)]).unwrap();
        Crash::of(&place).assert_has(1..=number);
        prepare(&mut *store);
        assert!(wal(&place) >= length - (1 << 17), "{} bytes", wal(&place));
        Crash::of(&place).assert_has(1..=number);
    }
    assert_eq!(debian(&place.path, "SELECT count(*) FROM notes"), "3\n");
}

/// Zeros are appended, wherever the end is by then.
#[test]
fn zeros_never_stand_where_another_program_writes() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    let other = place.raw();
    other.execute_batch("CREATE TABLE notes (number INTEGER, text BLOB); PRAGMA synchronous = OFF").unwrap();
    let (is_done, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (is_done, written) = (&is_done, &written);
        scope.spawn(move || {
            while !is_done.load(Ordering::Relaxed) && written.load(Ordering::Relaxed) < 2000 {
                let rows = other.execute("INSERT INTO notes VALUES (2, randomblob(9000))", []).unwrap();
                written.fetch_add(rows, Ordering::Relaxed);
            }
        });
        wait_for("the other program to write", || (written.load(Ordering::Relaxed) > 0).then_some(()));
        prepare(&mut *store);
        is_done.store(true, Ordering::Relaxed);
    });
    let written = written.into_inner();
    add(&mut *store, &[Kept::plain(2)]).unwrap();
    let crash = Crash::of(&place);
    assert_eq!(debian(&crash.path(), "SELECT count(*) FROM notes"), format!("{written}\n"));
    Crash::of(&place).assert_has(1..=2);
}

#[test]
fn a_wal_that_was_cut_or_removed_is_not_hidden_by_zeros() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    prepare(&mut *store);
    // The zeros may go: nothing is missing.
    let file = fs::OpenOptions::new().write(true).open(place.beside("-wal")).unwrap();
    file.set_len(wal(&place) / 2).unwrap();
    add(&mut *store, &[Kept::plain(2)]).unwrap();
    file.set_len(4000).unwrap();
    let error = store.prepare().unwrap_err();
    assert!(error.text.contains("was truncated"), "{error}");
    assert_eq!(wal(&place), 4000, "zeros were written");
}

#[test]
fn where_commits_do_not_sync_there_are_no_zeros() {
    let place = Place::new();
    let mut store = place.own();
    let adds = vec![Kept::plain(1).stored()];
    store.commit(&Changes { adds, ..Changes::default() }).unwrap();
    assert_eq!(prepare(&mut *store), 1);
    assert!(wal(&place) < 1 << 17);
}

/// A disk of 16 MiB: the WAL is small there. Others fill it, and all that is left is for removals and for
/// jobs.
#[test]
fn on_a_disk_with_little_room_there_are_no_zeros() {
    let Some(directory) = std::env::var_os(INSIDE) else {
        let place = Place::new();
        let shell = with_mounts(&format!("mount -t tmpfs -o size=16m none \"${INSIDE}\""));
        return again("ahead::on_a_disk_with_little_room_there_are_no_zeros", &shell, place.path.parent().unwrap());
    };
    let path = Path::new(&directory).join("queue.sqlite3");
    let wal = || fs::metadata(Path::new(&directory).join("queue.sqlite3-wal")).unwrap().len();
    let free = || {
        let state = nix::sys::statvfs::statvfs(Path::new(&directory)).unwrap();
        state.blocks_available() * state.fragment_size()
    };
    let mut store = own(&path).unwrap();
    store.set_reserve(None);
    let reserve = store.space().unwrap().reserve;
    assert!(reserve > 0);
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    prepare(&mut *store);
    assert!((500_000..1_000_000).contains(&wal()), "{} bytes", wal());
    // The disk is full: what the WAL takes is given back.
    let ballast = Path::new(&directory).join("ballast");
    fs::write(&ballast, vec![1; usize::try_from(free() - 100_000).unwrap()]).unwrap();
    assert!(matches!(store.room(0), gearmand::store::Room::Enough), "the zeros were given back: {} free", free());
    assert_eq!((wal(), store.space().unwrap().reserve), (0, reserve));
    assert_eq!(prepare(&mut *store), 1);
    assert_eq!((wal(), store.space().unwrap().reserve), (0, reserve), "they are written while there is much room only");
    remove(&mut *store, &[Kept::plain(1)]);
    fs::remove_file(&ballast).unwrap();
    add(&mut *store, &[Kept::plain(2)]).unwrap();
    drop(store);
    assert_eq!(replay(&mut *own(&path).unwrap()).0, [Kept::plain(2)]);
}
