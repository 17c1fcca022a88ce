//! Listings of queues while their jobs come, go and change.

use std::ops::ControlFlow;

use gearmand::job_server::{ConnectionEnd, Policy};
use gearmand::protocol::Priority;

use super::steering::{NOW, Scene, handle};

impl Scene {
    /// The numbers of a page of a queue, and the place behind it.
    fn page(&self, function: &[u8], place: u64, most: usize) -> (Vec<u64>, Option<u64>) {
        let mut page = Vec::new();
        let next = self.server.list_queued_jobs(function, place, |job| {
            page.push(job.handle.number);
            if page.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        (page, next)
    }

    fn rest(&self, function: &[u8], mut place: u64) -> Vec<u64> {
        let mut rest = Vec::new();
        for _ in 0..100 {
            let (page, next) = self.page(function, place, 3);
            rest.extend(page);
            match next {
                Some(next) => place = next,
                None => return rest,
            }
        }
        panic!("a listing does not end: {rest:?}");
    }
}

/// Ten jobs, the first five of which are listed; then something happens to the fifth.
fn after_five(act: impl FnOnce(&mut Scene)) -> Vec<u64> {
    let mut scene = Scene::new();
    scene.server.set_policy(NOW, &Policy { job_retries: None, ..Policy::default() }, &mut scene.ears);
    let client = scene.connect("");
    for _ in 0..10 {
        scene.submit(client, b"f", b"", None);
    }
    let (page, next) = scene.page(b"f", 0, 5);
    assert_eq!(page, [1, 2, 3, 4, 5]);
    act(&mut scene);
    scene.rest(b"f", next.unwrap())
}

#[test]
fn a_queue_is_listed_to_its_end_whatever_becomes_of_the_job_at_the_place() {
    let to = |priority| {
        move |scene: &mut Scene| scene.server.set_priority(NOW, &handle(5), priority, &mut scene.ears).unwrap()
    };
    assert_eq!(after_five(|_| {}), [6, 7, 8, 9, 10]);
    assert_eq!(after_five(to(Priority::Low)), [6, 7, 8, 9, 10, 5]);
    assert_eq!(after_five(to(Priority::High)), [6, 7, 8, 9, 10]);
    assert_eq!(
        after_five(|scene| scene.server.move_job(NOW, &handle(5), b"g", &mut scene.ears).unwrap()),
        [6, 7, 8, 9, 10]
    );
    assert_eq!(
        after_five(|scene| assert!(scene.server.cancel_job(NOW, &handle(5), &mut scene.ears))),
        [6, 7, 8, 9, 10]
    );
    // It gets in line once more, behind the others.
    let lose_five = |scene: &mut Scene| {
        let worker = scene.worker("", &[b"f"]);
        let held: Vec<u64> = (0..5).filter_map(|_| scene.grab(worker)).map(|(number, _)| number).collect();
        assert_eq!(held, [1, 2, 3, 4, 5]);
        scene.server.disconnect(NOW, worker, ConnectionEnd::default(), &mut scene.ears);
    };
    assert_eq!(after_five(lose_five), [6, 7, 8, 9, 10, 1, 2, 3, 4, 5]);
}

#[test]
fn a_place_that_nobody_gave_out_ends_the_listing_or_begins_it() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    scene.submit(client, b"f", b"", None);
    for place in [1, 7, 1 << 40, 5 << 40, 6 << 40, 7 << 40, u64::MAX, (1 << 40) - 1] {
        let (page, next) = scene.page(b"f", place, 5);
        assert!(page.len() <= 1 && next.is_none(), "{place}: {page:?} {next:?}");
    }
}
