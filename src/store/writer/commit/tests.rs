//! A caller waiting for a commit gets its result.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::*;

/// The result of all earlier operations.
fn committed(commit: &Commit) -> Result<(), StoreFailure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let waited = poll_fn(|context| commit.poll(context.waker()));
    runtime.block_on(async { tokio::time::timeout(DEADLINE, waited).await }).unwrap()
}

fn set(name: &str) -> StoreOp {
    StoreOp::Set { name: name.to_owned(), value: Some("paused".to_owned()) }
}

#[test]
fn one_is_told_when_all_that_was_asked_before_is_committed() {
    let bench = Bench::start(&[], 0, Vec::new());
    // More than fits into one transaction.
    let count = 3 * MOST_CHANGES as u64 + 1;
    bench.queue.push((1..=count).map(remove).collect());
    let commit = bench.queue.commit();
    assert_eq!(committed(&commit), Ok(()));
    let removed: Vec<Seen> = bench.commits.try_iter().collect();
    assert_eq!(removed.iter().map(|(removes, ..)| removes.len() as u64).sum::<u64>(), count);
    assert!(removed.len() > 3, "{} transactions", removed.len());
    // Without earlier operations there is nothing to commit.
    assert_eq!(committed(&bench.queue.commit()), Ok(()));
    assert_eq!(bench.commits.try_iter().count(), 0);
    bench.queue.push(vec![set("function f")]);
    assert_eq!(committed(&bench.queue.commit()), Ok(()));
    assert!(bench.details.try_iter().any(|details| !details.settings.is_empty()));
}

#[test]
fn one_is_told_that_the_store_fails_and_the_next_that_it_works_again() {
    let (bench, commit) = Bench::awaited(&[Err(StoreFailure::Full)], vec![remove(1), set("function f")]);
    assert_eq!(committed(&commit), Err(StoreFailure::Full));
    // The retries: the setting, then the removal, then a check that the store works.
    (0..4).for_each(|_| drop(bench.seen()));
    assert_eq!(committed(&bench.queue.commit()), Ok(()));
}

/// The client of the new job got the error already, and no caller waits for the job's removal.
#[test]
fn one_does_not_hear_of_a_new_job_that_failed_beside() {
    let (bench, commit) = Bench::awaited(&[Ok(()), Err(StoreFailure::Full)], vec![set("function f"), add(1)]);
    assert_eq!(committed(&commit), Ok(()));
    assert_eq!(bench.added(1), [(1, Err(StoreFailure::Full))]);
    // With another failed operation the error is reported as before.
    let (_bench, commit) = Bench::awaited(&[Err(StoreFailure::Full)], vec![remove(2), add(1)]);
    assert_eq!(committed(&commit), Err(StoreFailure::Full));
}

#[test]
fn one_is_told_of_what_the_store_refuses() {
    let (bench, commit) = Bench::awaited(&[], vec![set(REFUSED)]);
    assert_eq!(committed(&commit), Err(StoreFailure::Refused));
    assert_eq!(committed(&bench.queue.commit()), Ok(()), "that was another's");
}

#[test]
fn one_who_has_gone_keeps_nobody() {
    let bench = Bench::start(&[], 0, Vec::new());
    bench.queue.push(vec![remove(1)]);
    drop(bench.queue.commit());
    let commit = bench.queue.commit();
    assert_eq!(committed(&commit), Ok(()));
    assert_eq!(commit.poll(Waker::noop()), Poll::Ready(Ok(())));
}
