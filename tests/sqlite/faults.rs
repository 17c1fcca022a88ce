//! What happens around the file: others who use it, disks that are full or fail.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gearmand::job_server::StoreFailure;
use gearmand::store::location::Access;
use gearmand::store::{Changes, Room};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::wait_for;
use crate::{Kept, Place, add, open, own, refusal, remove, replay, starting};

/// Goes on in a name space of mounts of its own, which takes no rights.
pub(crate) fn with_mounts(shell: &str) -> String {
    format!("exec unshare --map-root-user --mount sh -e -c '{shell}; exec \"$@\"' sh \"$@\"")
}

/// Set in the process that a test starts for its inner half, to the directory to work in.
pub(crate) const INSIDE: &str = "GEARMAND_TEST_INSIDE";

/// A statement waits this long for somebody else's lock; a little less for clocks that round.
const BUSY: Duration = Duration::from_secs(6);
const BUSY_AT_LEAST: Duration = Duration::from_secs(5);

/// Runs the test of this name again in a process of its own, after these commands of a shell.
#[track_caller]
pub(crate) fn again(test: &str, shell: &str, inside: &std::path::Path) {
    let mut command = Command::new("sh");
    command
        .args(["-e", "-c", &format!("{shell}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, inside)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let shell = starting(|| command.spawn()).expect("a shell");
    let output = shell.wait_with_output().expect("the end of a shell");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_second_server_is_refused_and_told_who_has_the_file() {
    let place = Place::new();
    let store = place.own();
    let error = refusal(&place.path);
    assert_eq!(error.failure, StoreFailure::Locked);
    for part in [&std::process::id().to_string(), place.path.to_str().unwrap(), ".lock", "another file or port"] {
        assert!(error.text.contains(part), "{error}");
    }
    drop(store);
    add(&mut *place.own(), &[Kept::plain(1)]).unwrap();
}

#[test]
fn a_file_that_another_program_holds_locked_is_an_error_and_passes() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    let other = place.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let error = add(&mut *store, &[Kept::plain(2)]).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Locked, "{error}");
    assert!(error.text.contains("end the program that holds the lock"), "{error}");
    assert!(start.elapsed() >= BUSY_AT_LEAST, "it did not wait");
    assert!(start.elapsed() < 3 * BUSY, "it waited {:?}", start.elapsed());
    other.execute_batch("COMMIT").unwrap();
    add(&mut *store, &[Kept::plain(3)]).unwrap();
    let numbers: Vec<u64> = replay(&mut *store).0.iter().map(|job| job.number).collect();
    assert_eq!(numbers, [1, 3]);
}

#[test]
fn a_reader_that_stays_holds_up_no_commit() {
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    let other = place.raw();
    other.execute_batch("BEGIN; SELECT * FROM gearman_queue").unwrap();
    let workload = vec![b'x'; 1 << 20];
    for number in 2..60 {
        // Each by itself: how long all of them take is up to the disk.
        let start = Instant::now();
        add(&mut *store, &[Kept { workload: workload.clone(), ..Kept::plain(number) }]).unwrap();
        store.idle().unwrap();
        assert!(start.elapsed() < BUSY_AT_LEAST, "commit {number} waited {:?} for a reader", start.elapsed());
    }
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(replay(&mut *store).1.jobs, 59);
}

#[test]
fn without_its_directory_the_file_is_refused() {
    let place = Place::new();
    let error = refusal(&place.path.join("no/such/file"));
    assert!(error.text.contains("create its directory") || error.text.contains("Not a directory"), "{error}");
    let error = refusal(&place.path.with_file_name("none").join("file"));
    assert!(error.text.contains("create its directory"), "{error}");
    let error = open(&place.path, false, Access::Read).map(drop).unwrap_err();
    assert!(error.text.contains(place.path.to_str().unwrap()), "{error}");
    assert!(!place.path.exists(), "who looks makes nothing");
}

#[test]
fn a_full_disk_is_an_error_until_there_is_space() {
    let Some(directory) = std::env::var_os(INSIDE) else {
        let place = Place::new();
        let shell = with_mounts(&format!("mount -t tmpfs -o size=2m none \"${INSIDE}\""));
        return again("faults::a_full_disk_is_an_error_until_there_is_space", &shell, place.path.parent().unwrap());
    };
    let path = std::path::Path::new(&directory).join("queue.sqlite3");
    let ballast = std::path::Path::new(&directory).join("ballast");
    fs::write(&ballast, vec![b'b'; 1 << 20]).unwrap();
    let mut store = own(&path).unwrap();
    let large = |number| Kept { workload: vec![b'x'; 100_000], ..Kept::plain(number) };
    let mut kept = 0;
    let error = loop {
        match add(&mut *store, &[large(kept + 1)]) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.failure, StoreFailure::Full, "{error}");
    assert!(error.text.contains("free some space"), "{error}");
    assert!(kept > 1, "nothing fitted");
    for _ in 0..3 {
        assert_eq!(add(&mut *store, &[large(kept + 1)]).unwrap_err().failure, StoreFailure::Full);
    }
    fs::remove_file(&ballast).unwrap();
    remove(&mut *store, &[large(kept + 1)]);
    add(&mut *store, &[large(kept + 1)]).unwrap();
    let jobs: Vec<Kept> = (1..=kept + 1).map(large).collect();
    assert_eq!(replay(&mut *store).0, jobs);
    drop(store);
    assert_eq!(replay(&mut *own(&path).unwrap()).0, jobs);
}

/// What is removed needs room first, and the reserve is that room.
#[test]
fn on_a_full_disk_jobs_are_removed_within_the_reserve() {
    let Some(directory) = std::env::var_os(INSIDE) else {
        let place = Place::new();
        let shell = with_mounts(&format!("mount -t tmpfs -o size=8m none \"${INSIDE}\""));
        return again(
            "faults::on_a_full_disk_jobs_are_removed_within_the_reserve",
            &shell,
            place.path.parent().unwrap(),
        );
    };
    let directory = std::path::Path::new(&directory);
    let large = |number| Kept { workload: vec![b'x'; 30_000], ..Kept::plain(number) };
    let jobs: Vec<Kept> = (1..=20).map(large).collect();
    for reserve in [0, 2 << 20] {
        let path = directory.join(format!("queue-{reserve}.sqlite3"));
        let ballast = directory.join("ballast");
        let mut store = own(&path).unwrap();
        store.set_reserve(Some(reserve));
        for job in &jobs {
            add(&mut *store, std::slice::from_ref(job)).unwrap();
        }
        assert_eq!(store.space().unwrap().reserve, reserve);
        // More than is free.
        let _ = fs::write(&ballast, vec![b'b'; 8 << 20]);
        let removal = |job: &Kept| Changes { removes: vec![job.key()], sync: true, ..Changes::default() };
        let removed = jobs.iter().flat_map(|job| store.commit(&removal(job))).count();
        if reserve == 0 {
            assert_eq!((removed, store.room(1 << 20)), (0, Room::Unknown), "the disk is not full, and shows nothing");
        } else {
            assert_eq!((removed, store.space().unwrap().reserve), (jobs.len(), 0));
            assert!(matches!(store.room(0), Room::Short(error) if error.failure == StoreFailure::Full));
        }
        fs::remove_file(&ballast).unwrap();
        for job in &jobs {
            store.commit(&removal(job)).unwrap();
        }
        if reserve > 0 {
            wait_for("the reserve", || (store.room(100_000) == Room::Enough).then_some(()));
            assert!(store.space().unwrap().reserve > 0);
            assert!(matches!(store.room(8 << 20), Room::Short(_)));
        }
        add(&mut *store, &jobs).unwrap();
        assert_eq!(replay(&mut *store).0, jobs);
        drop(store);
        assert_eq!(replay(&mut *own(&path).unwrap()).0, jobs);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_read_only_file_system_is_said_to_be_one() {
    let Some(directory) = std::env::var_os(INSIDE) else {
        let place = Place::new();
        add(&mut *place.own(), &[Kept::plain(1)]).unwrap();
        fs::rename(&place.path, place.path.with_file_name("queue.sqlite3")).unwrap();
        let shell =
            with_mounts(&format!("mount --bind \"${INSIDE}\" \"${INSIDE}\"; mount -o remount,bind,ro \"${INSIDE}\""));
        return again("faults::a_read_only_file_system_is_said_to_be_one", &shell, place.path.parent().unwrap());
    };
    let path = std::path::Path::new(&directory).join("queue.sqlite3");
    let error = refusal(&path);
    assert_eq!(error.failure, StoreFailure::ReadOnly, "{error}");
    // Who looks takes no lock and makes nothing, so the file can be read all the same.
    assert_eq!(replay(&mut *open(&path, false, Access::Read).unwrap()).0, [Kept::plain(1)]);
}

#[test]
fn after_a_failed_write_the_file_is_completed_first() {
    if std::env::var_os(INSIDE).is_none() {
        let place = Place::new();
        // Beyond its limit a write fails, instead of ending the process.
        let test = "faults::after_a_failed_write_the_file_is_completed_first";
        return again(test, "trap '' XFSZ", place.path.parent().unwrap());
    }
    let place = Place::new();
    let mut store = place.own();
    let mut jobs: Vec<Kept> = (1..=50).map(Kept::plain).collect();
    add(&mut *store, &jobs).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 100_000, hard).unwrap();
    let large = Kept { workload: vec![b'x'; 300_000], ..Kept::plain(60) };
    let first = add(&mut *store, std::slice::from_ref(&large));
    // The file is opened anew and completed; only what does not fit fails.
    let second = add(&mut *store, std::slice::from_ref(&large));
    let small = add(&mut *store, &[Kept::plain(51)]);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    assert_eq!(first.unwrap_err().failure, StoreFailure::Io);
    assert_eq!(second.unwrap_err().failure, StoreFailure::Io);
    small.unwrap();
    add(&mut *store, std::slice::from_ref(&large)).unwrap();
    jobs.extend([Kept::plain(51), large]);
    assert_eq!(replay(&mut *store).0, jobs);
}

#[test]
fn after_a_failed_write_a_reader_holds_up_commits_until_it_has_gone() {
    if std::env::var_os(INSIDE).is_none() {
        let place = Place::new();
        let test = "faults::after_a_failed_write_a_reader_holds_up_commits_until_it_has_gone";
        return again(test, "trap '' XFSZ", place.path.parent().unwrap());
    }
    let place = Place::new();
    let mut store = place.own();
    add(&mut *store, &[Kept::plain(1)]).unwrap();
    let reader = place.raw();
    reader.execute_batch("BEGIN").unwrap();
    let count: i64 = reader.query_row("SELECT count(*) FROM gearman_queue", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    add(&mut *store, &[Kept::plain(2)]).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 100_000, hard).unwrap();
    let large = Kept { workload: vec![b'x'; 300_000], ..Kept::plain(3) };
    let failed = add(&mut *store, &[large]);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    assert_eq!(failed.unwrap_err().failure, StoreFailure::Io);
    let error = store.commit(&Changes::default()).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Locked, "{error}");
    assert!(error.text.contains("recovery after a failed write is blocked by a reader"), "{error}");
    reader.execute_batch("COMMIT").unwrap();
    store.commit(&Changes::default()).unwrap();
    assert_eq!(replay(&mut *store).0, [Kept::plain(1), Kept::plain(2)]);
}
