//! What the operator changes of kept jobs is there at the next start.

use gearmand::job_server::{Edit, JobKey, StoreFailure};
use gearmand::protocol::{FunctionName, Priority};
use gearmand::store::{Changes, Store};

use crate::take_over::create_cpp_table;
use crate::{Kept, Place, add, remove, replay};

/// The edit that makes one job of another.
fn edit(from: &Kept, to: &Kept) -> (JobKey, Edit) {
    (from.key(), Edit { function: FunctionName::new(&to.function), priority: to.priority, due_s: to.due_s })
}

fn edit_all(store: &mut dyn Store, from: &[Kept], to: &[Kept]) {
    let edits = from.iter().zip(to).map(|(from, to)| edit(from, to)).collect();
    store.commit(&Changes { edits, sync: true, ..Changes::default() }).unwrap();
}

fn of(function: &[u8], job: Kept) -> Kept {
    Kept { function: function.to_vec(), ..job }
}

/// Our file, and one with C++ gearmand's primary key.
fn both(test: impl Fn(&Place, &dyn Fn() -> Box<dyn Store>)) {
    let place = Place::new();
    test(&place, &|| place.own());
    let place = Place::new();
    create_cpp_table(&place.raw());
    test(&place, &|| place.keeping_primary_key());
}

#[test]
fn what_was_changed_is_there_at_the_next_start() {
    both(|_, open| {
        let old = [
            Kept::plain(1),
            Kept { unique: Vec::new(), ..Kept::plain(2) },
            Kept { unique: b"-".to_vec(), ..Kept::plain(3) },
            Kept { attempts: 7, reducer: b"sum".to_vec(), ..Kept::plain(4) },
        ];
        add(&mut *open(), &old).unwrap();
        let change = |job: &Kept| Kept {
            function: b"\xff other".to_vec(),
            priority: Priority::Low,
            due_s: 5_000_000_000,
            ..job.clone()
        };
        let new: Vec<Kept> = old.iter().map(change).collect();
        let mut store = open();
        edit_all(&mut *store, &old, &new);
        edit_all(&mut *store, &old, &new);
        edit_all(&mut *store, &[Kept::plain(9)], &[of(b"x", Kept::plain(9))]);
        drop(store);
        let mut store = open();
        assert_eq!(replay(&mut *store).0, new);
        let keys: Vec<JobKey> = new.iter().map(Kept::key).collect();
        assert!(store.load(&keys, usize::MAX).unwrap().iter().all(Option::is_some));
        remove(&mut *store, &new);
        assert_eq!(replay(&mut *store).0, []);
    });
}

#[test]
fn jobs_change_places_in_one_transaction() {
    both(|_, open| {
        let named = |number: u64, function: &[u8]| of(function, Kept { unique: b"u".to_vec(), ..Kept::plain(number) });
        let old = [named(1, b"f"), named(2, b"g"), named(3, b"h"), named(4, b"i")];
        let mut store = open();
        add(&mut *store, &old).unwrap();
        let new = [named(1, b"g"), named(2, b"f"), named(3, b"i")];
        let edits = old.iter().zip(&new).map(|(from, to)| edit(from, to)).collect();
        let adds = vec![named(5, b"h").stored()];
        let attempts = vec![(new[0].key(), 2)];
        let changes = Changes { edits, adds, attempts, removes: vec![old[3].key()], ..Changes::default() };
        store.commit(&changes).unwrap();
        let first = Kept { attempts: 2, ..new[0].clone() };
        assert_eq!(replay(&mut *store).0, [first, new[1].clone(), new[2].clone(), named(5, b"h")]);
    });
}

#[test]
fn a_row_that_no_server_knows_is_quarantined_for_one_that_is_moved_to_its_place() {
    let place = Place::new();
    create_cpp_table(&place.raw());
    let mut store = place.keeping_primary_key();
    let old = [Kept::plain(1), Kept { unique: Vec::new(), ..Kept::plain(2) }, Kept::plain(3)];
    add(&mut *store, &old).unwrap();
    // The second one has the name that stands for a job without a unique id.
    place
        .raw()
        .execute_batch(
            "INSERT INTO gearman_queue (unique_key, function_name, priority, data, when_to_run) \
             VALUES ('unique-1', 'g', 1, x'31', 0), ('H:here:2', 'g', 1, x'32', 0)",
        )
        .unwrap();
    let new = old.clone().map(|job| of(b"g", job));
    edit_all(&mut *store, &old, &new);
    let raw = place.raw();
    let sql = "SELECT unique_key || ': ' || reason FROM gearman_quarantine";
    let aside: Vec<String> =
        raw.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(aside, ["unique-1: job 1 was moved to its place by the operator"]);
    drop(store);
    let (jobs, replayed) = replay(&mut *place.keeping_primary_key());
    assert_eq!((&jobs[..3], replayed.quarantined), (&new[..], 0));
    assert_eq!(jobs[3].unique, b"H:here:2");
}

#[test]
fn neighbours_and_strays_are_removed_and_nothing_between_them() {
    both(|_, open| {
        let jobs: Vec<Kept> = (1..=100).map(Kept::plain).collect();
        let mut store = open();
        add(&mut *store, &jobs).unwrap();
        let goes = |number: u64| matches!(number, 1..=3 | 7 | 9 | 20..=59 | 61 | 98..=100);
        let (mut gone, left): (Vec<Kept>, Vec<Kept>) = jobs.into_iter().partition(|job| goes(job.number));
        gone.reverse();
        gone.push(Kept::plain(200));
        gone.push(gone[0].clone());
        remove(&mut *store, &gone);
        assert_eq!(replay(&mut *store).0, left);
    });
}

#[test]
fn whoever_only_looks_changes_nothing() {
    let place = Place::new();
    add(&mut *place.own(), &[Kept::plain(1)]).unwrap();
    let edits = vec![edit(&Kept::plain(1), &of(b"g", Kept::plain(1)))];
    let error = place.read().commit(&Changes { edits, ..Changes::default() }).unwrap_err();
    assert_eq!(error.failure, StoreFailure::ReadOnly);
    assert_eq!(replay(&mut *place.own()).0, [Kept::plain(1)]);
}
