//! What is found by an index is what a look at every job finds.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use gearmand::job_server::{JobQuery, JobServer, Stage, StageKind};

use super::model::{Model, State};
use super::wire::{self, FUNCTIONS};

/// What is asked for, by numbers that are told from each other: 0 is for anything.
struct Digits(usize);

impl Digits {
    fn take<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let choice = self.0 % (choices.len() + 1);
        self.0 /= choices.len() + 1;
        choices.get(choice.checked_sub(1)?).copied()
    }
}

impl Model {
    /// Asks for some jobs in each of several ways, a few at a time, and compares with what the model says of
    /// all.
    pub(crate) fn check_finding(&self, server: &JobServer, seed: usize) {
        let uniques: Vec<&[u8]> =
            self.jobs.values().map(|job| job.unique).collect::<BTreeSet<_>>().into_iter().collect();
        let clients: BTreeSet<&[u8]> = self.connections.values().filter_map(|connection| connection.client).collect();
        let clients: Vec<&[u8]> = clients.into_iter().chain([&b"nobody"[..]]).collect();
        let mut digits = Digits(seed);
        let query = JobQuery {
            stage: digits.take(&[StageKind::Queued, StageKind::Running, StageKind::Scheduled]),
            function: digits.take(&FUNCTIONS),
            holder: digits.take(&[0, 1, 2]).map(|index| clients[index % clients.len()]),
            unique: digits.take(&[0, 1, 2]).and_then(|index| uniques.get(index % uniques.len().max(1)).copied()),
            waiter: digits.take(&[0, 1, 2]).map(|index| clients[index % clients.len()]),
        };
        let (mut found, mut place) = (BTreeSet::new(), Some(0));
        while let Some(from) = place {
            let mut left = 1 + seed % 3;
            place = server
                .find_jobs(&query, from, |job| {
                    let is_new = found.insert(wire::job_of(job.handle.to_string().as_bytes()).expect("a handle"));
                    assert!(is_new || query.waiter.is_some(), "a job is found twice by {query:?}");
                    if let (Some(StageKind::Running), Stage::Queued) = (query.stage, job.stage) {
                        panic!("{query:?} finds a job that does not run");
                    }
                    left -= 1;
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .next;
        }
        let is_client =
            |connection: &u32, wanted: &[u8]| self.connections.get(connection).and_then(|of| of.client) == Some(wanted);
        let expected = self.jobs.iter().filter(|(_, job)| {
            let stage = match job.state {
                State::Storing => return false,
                State::Scheduled => StageKind::Scheduled,
                State::Ready(_) | State::PagedOut(_) | State::Loading(_) => StageKind::Queued,
                State::Running { .. } => StageKind::Running,
            };
            let is_held = |client: &[u8]| match &job.state {
                State::Running { holder, .. } => is_client(holder, client),
                _ => false,
            };
            query.stage.is_none_or(|wanted| wanted == stage)
                && query.function.is_none_or(|function| function == FUNCTIONS[job.function])
                && query.unique.is_none_or(|unique| unique == job.unique)
                && query.holder.is_none_or(is_held)
                && query.waiter.is_none_or(|client| job.waits.iter().any(|waiter| is_client(waiter, client)))
        });
        assert_eq!(found, expected.map(|(name, _)| *name).collect(), "what is found by {query:?}");
    }
}
