//! Tests of the output of a connection.

use std::convert::Infallible;
use std::task::Waker;

use proptest::prelude::*;

use super::*;
use crate::protocol::Workload;

proptest! {
    /// Bytes leave in the order in which they were queued, whatever their sizes and however the socket takes
    /// them.
    #[test]
    fn bytes_leave_in_the_order_they_came(sizes in prop::collection::vec(0..40_000_usize, 1..40), chunk in 1..70_000_usize) {
        let outbox = Outbox::new(usize::MAX, Arc::default());
        let mut expected = Vec::new();
        for (seed, size) in sizes.iter().enumerate() {
            let owner = Bytes::from(vec![u8::try_from(seed).unwrap(); *size]);
            let workload = Workload::shared(&owner, &owner);
            let response = Response::EchoRes { workload };
            outbox.send(&response);
            expected.extend(response.to_bytes());
        }
        prop_assert_eq!(outbox.queued(), expected.len());
        let mut output = outbox.take(0, Waker::noop()).unwrap();
        prop_assert_eq!(output.len(), expected.len());
        let mut seen = Vec::new();
        while !output.is_empty() {
            let written = output.write_with::<Infallible>(chunk, |pieces| {
                let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
                assert!(bytes.len() <= chunk);
                // The kernel may take fewer bytes.
                let bytes = &bytes[..bytes.len() - seen.len() % 2 * (bytes.len() / 2)];
                seen.extend_from_slice(bytes);
                Ok(bytes.len())
            });
            prop_assert!(written.unwrap() > 0);
        }
        prop_assert_eq!(seen, expected);
    }
}

proptest! {
    /// Every packet leaves in its place, whatever is sent between gaps and in whatever order they are filled.
    #[test]
    fn gaps_keep_the_order(steps in prop::collection::vec((0..3_u8, 0..30_000_usize, any::<prop::sample::Index>()), 1..120)) {
        let outbox = Outbox::new(usize::MAX, Arc::default());
        let echo = |seed: usize, size: usize| {
            let owner = Bytes::from(vec![u8::try_from(seed % 251).unwrap(); size]);
            Response::EchoRes { workload: Workload::shared(&owner, &owner) }.to_bytes()
        };
        let say = |bytes: &[u8]| {
            let owner = Bytes::copy_from_slice(&bytes[12..]);
            outbox.send(&Response::EchoRes { workload: Workload::shared(&owner, &owner) });
        };
        // Each packet, or the number of an open gap.
        let mut expected: Vec<Result<Vec<u8>, u64>> = Vec::new();
        let (mut seen, mut gaps) = (Vec::new(), 0);
        let drain = |seen: &mut Vec<u8>| {
            let mut output = outbox.take(0, Waker::noop()).unwrap();
            while !output.is_empty() {
                let write = |pieces: &[IoSlice<'_>]| {
                    seen.extend(pieces.iter().flat_map(|piece| piece.iter().copied()));
                    Ok::<_, Infallible>(pieces.iter().map(|piece| piece.len()).sum())
                };
                output.write_with(usize::MAX, write).unwrap();
            }
        };
        for (seed, (action, size, index)) in steps.into_iter().enumerate() {
            let open: Vec<u64> = expected.iter().filter_map(|place| place.as_ref().err().copied()).collect();
            match action {
                0 => {
                    let bytes = echo(seed, size);
                    say(&bytes);
                    expected.push(Ok(bytes));
                }
                1 => {
                    outbox.hold(size);
                    expected.push(Err(gaps));
                    gaps += 1;
                }
                _ if !open.is_empty() => {
                    let gap = *index.get(&open);
                    let owner = Bytes::from(vec![7; size]);
                    let answer = Response::EchoRes { workload: Workload::shared(&owner, &owner) };
                    outbox.fill(gap, &answer);
                    let place = expected.iter_mut().find(|place| **place == Err(gap)).unwrap();
                    *place = Ok(answer.to_bytes());
                }
                _ => drain(&mut seen),
            }
            prop_assert_eq!(outbox.has_gaps(), expected.iter().any(Result::is_err));
        }
        drain(&mut seen);
        let released: Vec<u8> = expected.iter().map_while(|place| place.as_ref().ok()).flatten().copied().collect();
        prop_assert_eq!(seen, released);
    }
}

#[test]
fn one_packet_beyond_the_limit_is_taken_and_the_next_closes() {
    let outbox = Outbox::new(20, Arc::default());
    outbox.send(&Response::Noop);
    outbox.send(&Response::Noop);
    assert_eq!(outbox.queued(), 24);
    outbox.send(&Response::Noop);
    assert_eq!(outbox.take(0, Waker::noop()).unwrap_err(), CloseReason::SlowReader);
}

#[test]
fn a_task_that_waits_for_its_peer_is_told_of_the_overflow() {
    let outbox = Outbox::new(20, Arc::default());
    outbox.send(&Response::Noop);
    let taken = outbox.take(0, Waker::noop()).unwrap();
    assert!(outbox.send(&Response::Noop).is_some());
    assert_eq!(outbox.closed_at_once(), None);
    assert!(outbox.send(&Response::Noop).is_some(), "nobody looks at what was taken");
    assert_eq!(outbox.closed_at_once(), Some(CloseReason::SlowReader));
    assert_eq!(taken.len(), 12);
}

#[test]
fn one_who_is_kicked_is_told_nothing_more() {
    let outbox = Outbox::new(1000, Arc::default());
    outbox.send(&Response::Noop);
    let taken = outbox.take(0, Waker::noop()).unwrap();
    outbox.send(&Response::Noop);
    outbox.hold(7);
    assert!(outbox.close(CloseReason::Kicked).is_some(), "a task that waits for its peer is not told");
    assert_eq!(outbox.closed_at_once(), Some(CloseReason::Kicked));
    assert!(!outbox.has_gaps());
    assert_eq!(outbox.take(taken.len(), Waker::noop()).unwrap_err(), CloseReason::Kicked);
    let outbox = Outbox::new(1000, Arc::default());
    outbox.send(&Response::Noop);
    outbox.close(CloseReason::Shutdown);
    assert_eq!(outbox.closed_at_once(), None, "a stop lets what waits be written");
    assert_eq!(outbox.take(0, Waker::noop()).unwrap().len(), 12);
}

#[test]
fn answers_to_the_connection_itself_do_not_close_it() {
    let outbox = Outbox::new(20, Arc::default());
    for _ in 0..10 {
        outbox.answer(&Response::Noop);
    }
    outbox.answer_text(b"OK\r\n");
    assert_eq!(outbox.take(0, Waker::noop()).unwrap().len(), 124);
    outbox.send(&Response::Noop);
    let reason = outbox.closed_at_once();
    assert_eq!(reason, Some(CloseReason::SlowReader), "what others say finds too much waiting");
}

#[test]
fn the_account_knows_what_waits_and_what_was_taken() {
    let account = Arc::new(Account::default());
    let outbox = Outbox::new(usize::MAX, Arc::clone(&account));
    let held = || account.get(Part::Output);
    let echo = |size: usize| {
        let owner = Bytes::from(vec![7; size]);
        outbox.send(&Response::EchoRes { workload: Workload::borrowed(&owner) });
    };
    echo(100_000);
    assert!((100_000..200_000).contains(&held()), "{}", held());
    let taken = outbox.take(0, Waker::noop()).unwrap();
    echo(50_000);
    assert!((150_000..300_000).contains(&held()), "{}", held());
    drop(outbox.take(taken.len(), Waker::noop()).unwrap());
    assert!((50_000..100_000).contains(&held()), "{}", held());
    outbox.take(50_012, Waker::noop()).unwrap().recycle();
    assert_eq!(held(), 0);
    for gap in 0..100 {
        outbox.hold(1);
        echo(2_000 + gap);
    }
    assert!((200_000..600_000).contains(&held()), "{}", held());
    (1..100).for_each(|gap| drop(outbox.fill(gap, &Response::Noop)));
    outbox.fill(0, &Response::Noop);
    assert!((200_000..600_000).contains(&held()), "{}", held());
    outbox.close(CloseReason::OutOfMemory);
    assert_eq!(held(), 0);
    let shared = account.count_once(Bytes::from(vec![7; 100_000]));
    let outboxes: Vec<Outbox> = (0..100).map(|_| Outbox::new(usize::MAX, Arc::clone(&account))).collect();
    for outbox in &outboxes {
        outbox.send(&Response::EchoRes { workload: Workload::shared(&shared, &shared) });
    }
    drop(shared);
    assert_eq!(account.get(Part::Results), 100_000, "it is shared by all");
    drop(outboxes);
    assert_eq!(account.total(), 0);
}

#[test]
fn what_is_written_makes_room() {
    let outbox = Outbox::new(20, Arc::default());
    for _ in 0..10 {
        outbox.send(&Response::Noop);
        outbox.send(&Response::Noop);
        assert_eq!(outbox.take(0, Waker::noop()).unwrap().len(), 24);
        assert!(outbox.take(24, Waker::noop()).unwrap().is_empty());
    }
}
