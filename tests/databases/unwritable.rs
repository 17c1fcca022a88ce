//! Databases that can be read and not written.

use gearmand::job_server::StoreFailure;
use gearmand::store::Changes;
use gearmand::store::location::{Access, Location};

use super::jobs::{TestJob, adding, assert_same, open, read};

/// `lock` makes the database read-only, and `unlock` writable again.
#[track_caller]
pub(crate) fn read_only(location: &Location, lock: impl FnOnce(), unlock: impl FnOnce()) {
    let mut store = open(location, Access::Own);
    let job = |number: u64| TestJob::new(number, "f", &format!("u{number}"), b"workload");
    store.commit(&adding(&[job(1)])).unwrap();
    lock();
    // That may have cost the connection.
    let _ = store.commit(&Changes::default());
    for _ in 0..3 {
        let error = store.commit(&adding(&[job(2)])).unwrap_err();
        assert_eq!(error.failure, StoreFailure::ReadOnly, "{error}");
        let loaded = store.load(&[job(1).key()], 1 << 20).unwrap_or_else(|error| panic!("it can be read: {error}"));
        assert_eq!(loaded[0].as_deref(), Some(&b"workload"[..]));
    }
    // What has to be removed may not be there, and shows all the same that nothing can be written.
    let absent = Changes { removes: vec![job(9).key()], sync: true, ..Changes::default() };
    assert_eq!(store.commit(&absent).map_err(|error| error.failure), Err(StoreFailure::ReadOnly));
    unlock();
    // A connection may have to be made anew first.
    let added = (0..2).any(|_| store.commit(&adding(&[job(3)])).is_ok());
    assert!(added, "it can be written again");
    assert_same(&read(&mut *store).0, &[job(1), job(3)]);
}
