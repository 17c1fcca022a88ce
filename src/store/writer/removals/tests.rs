//! Removals are delayed briefly for new jobs, and for nothing else.

use super::super::removals::{MOST_REMOVALS, REMOVAL_WAIT};
use super::*;

/// The job numbers of these operations; negative for removals.
fn numbers(operations: &[StoreOp]) -> Vec<i64> {
    let number = |operation: &StoreOp| match operation {
        StoreOp::Add { job, .. } => i64::try_from(job.number).unwrap(),
        StoreOp::Remove(key) => -i64::try_from(key.number).unwrap(),
        other => panic!("{other:?}"),
    };
    operations.iter().map(number).collect()
}

#[test]
fn a_removal_goes_with_the_next_job() {
    let mut writer = writer();
    assert!(writer.hold_back_removals(vec![remove(1)], false).is_empty());
    let due = writer.removals_due().unwrap();
    assert!(due <= Instant::now() + REMOVAL_WAIT);
    // Its time must not come while this test is held up.
    let due = due + DEADLINE;
    writer.held_back.due = Some(due);
    assert!(writer.hold_back_removals(vec![remove(2)], false).is_empty());
    assert_eq!(writer.removals_due(), Some(due), "the first one does not wait for longer");
    assert_eq!(numbers(&writer.hold_back_removals(vec![remove(3), add(4)], false)), [-1, -2, -3, 4], "in their order");
    assert_eq!(writer.removals_due(), None);
    assert!(writer.hold_back_removals(Vec::new(), false).is_empty() && writer.removals_due().is_none());
}

#[test]
fn a_removal_does_not_wait_where_somebody_waits_for_it_or_it_has_waited() {
    let mut writer = writer();
    // A waiting caller, attempts, a setting, the shutdown: `has_more` is set.
    assert!(writer.hold_back_removals(vec![remove(1)], false).is_empty());
    assert_eq!(numbers(&writer.hold_back_removals(vec![remove(2)], true)), [-1, -2]);
    assert!(writer.hold_back_removals(vec![remove(3)], false).is_empty());
    assert_eq!(numbers(&writer.hold_back_removals(Vec::new(), true)), [-3]);
    assert!(writer.hold_back_removals(vec![remove(4)], false).is_empty());
    writer.held_back.due = Some(Instant::now());
    assert_eq!(numbers(&writer.hold_back_removals(Vec::new(), false)), [-4], "its time has come");
    let many: Vec<StoreOp> = (1..=MOST_REMOVALS as u64).map(remove).collect();
    assert_eq!(writer.hold_back_removals(many, false).len(), MOST_REMOVALS, "there are many");
}

#[test]
fn removals_do_not_wait_for_a_store_that_fails_nor_where_they_are_not_synced() {
    let mut failing = writer();
    failing.fail(&StoreError::new(StoreFailure::Io, "as the test says"));
    assert_eq!(numbers(&failing.hold_back_removals(vec![remove(1)], false)), [-1]);
    let mut relaxed = writer();
    relaxed.settings.durability = Durability::Off;
    assert_eq!(numbers(&relaxed.hold_back_removals(vec![remove(1)], false)), [-1]);
}

#[test]
fn a_removal_is_committed_without_another_job_and_at_the_end() {
    let bench = Bench::start(&[], 0, vec![remove(1)]);
    assert_eq!(bench.seen(), (vec![1], vec![], true), "nothing else is asked");
    bench.ask(vec![remove(2)]);
    bench.queue.close(2);
    let mut removed = Vec::new();
    while let Ok((removes, ..)) = bench.commits.recv_timeout(DEADLINE) {
        removed.extend(removes);
        if removed.contains(&2) {
            return;
        }
    }
    panic!("what was still waiting at the end was left out: {removed:?}");
}
