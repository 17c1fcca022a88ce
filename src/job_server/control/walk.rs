//! Incremental operations on all jobs of a function: a cursor, and the walk from it.

use super::super::function::JobList;
use super::super::ids::FunctionSlot;
use super::super::index::NONE;
use super::super::job::JobState;
use super::super::list::{LISTS, QUEUED_LISTS, list_index};
use super::super::{JobServer, price};

/// The maximum number of rounds without changes that are repeated because some jobs may have been missed.
const MOST_ROUNDS_FOR_NOTHING: u8 = 8;

/// The cursor of an incremental operation. It begins at the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    phase: Phase,
    /// The highest job number when the operation began: later jobs are excluded.
    last_number: u64,
    round: Round,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Beginning,
    /// In the function's list of this index, after a job that stays in it, by slot and number.
    List(usize, Option<(u32, u64)>),
    /// Among the runs of the function, at the run of a job, by slot and number.
    Runs(Option<(u32, u64)>),
    /// At the next worker whose rules have changed.
    Rules,
}

/// One pass over all jobs of a function. Jobs that move back to where it was before may be missed, so another
/// round follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    /// The function's count of jobs that moved back, when the round began.
    returns: u32,
    /// Whether some jobs may have been missed.
    is_torn: bool,
    /// Whether it has changed any job.
    has_affected: bool,
    /// The number of rounds in a row before it that changed nothing.
    for_nothing: u8,
}

impl Cursor {
    /// The cursor of [`JobServer::go_on_with_rules`].
    pub(in crate::job_server) const OF_RULES: Self = Self {
        phase: Phase::Rules,
        last_number: 0,
        round: Round { returns: 0, is_torn: false, has_affected: false, for_nothing: 0 },
    };
}

/// The result of one call of an incremental operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of jobs it has changed.
    pub affected: usize,
    /// The cursor for the next call; `None` when all is done.
    pub next: Option<Cursor>,
}

impl JobServer {
    /// Calls `act` for the jobs of a function, list by list in order, and then for the running ones. `act`
    /// returns whether it has changed the job, which has then left its list.
    pub(super) fn walk(
        &mut self,
        function: FunctionSlot,
        from: Cursor,
        mut act: impl FnMut(&mut Self, u32) -> bool,
    ) -> Progress {
        let mut cursor = from;
        if matches!(cursor.phase, Phase::Beginning | Phase::Rules) {
            cursor = self.begin_round(function, Round::default(), self.jobs.last_number());
        }
        let mut affected = 0;
        for looks in 0.. {
            if looks > 0 && self.is_turn_over() {
                break;
            }
            let next = match cursor.phase {
                Phase::List(list, after) => self.next_in_list(function, list, after, &mut cursor.round),
                Phase::Runs(at) => self.next_run(function, at, &mut cursor.round),
                Phase::Beginning | Phase::Rules => None,
            };
            self.work_budget.spend(price::ENTRY);
            let Some(job) = next else {
                cursor.phase = match cursor.phase {
                    Phase::List(list, _) if list + 1 < LISTS => Phase::List(list + 1, None),
                    Phase::List(..) => Phase::Runs(None),
                    _ => {
                        let Some(cursor) = self.next_round(function, cursor) else {
                            return Progress { affected, next: None };
                        };
                        // Other connections run first.
                        return Progress { affected, next: Some(cursor) };
                    }
                };
                continue;
            };
            let number = self.jobs.get(job).number();
            let behind = self.behind_run(job);
            if number <= cursor.last_number && act(self, job) {
                affected += 1;
                cursor.round.has_affected = true;
                if let Phase::Runs(at) = &mut cursor.phase {
                    *at = behind;
                }
            } else {
                match &mut cursor.phase {
                    Phase::List(_, after) => *after = Some((job, number)),
                    Phase::Runs(at) => *at = behind,
                    Phase::Beginning | Phase::Rules => {}
                }
            }
            if matches!(cursor.phase, Phase::Runs(None)) {
                // That was the last run.
                let next = self.next_round(function, cursor);
                return Progress { affected, next };
            }
        }
        Progress { affected, next: Some(cursor) }
    }

    fn begin_round(&self, function: FunctionSlot, round: Round, last_number: u64) -> Cursor {
        let returns = self.functions[function].returns;
        let round = Round { returns, is_torn: false, has_affected: false, ..round };
        Cursor { phase: Phase::List(0, None), last_number, round }
    }

    /// The cursor of another round, if the last one may have missed some jobs.
    fn next_round(&self, function: FunctionSlot, cursor: Cursor) -> Option<Cursor> {
        let Round { returns, is_torn, has_affected, for_nothing } = cursor.round;
        let of = self.functions.get(function)?;
        let may_miss = is_torn || returns != of.returns;
        let for_nothing = if has_affected { 0 } else { for_nothing + 1 };
        let is_over = of.total() == of.storing || !may_miss || for_nothing > MOST_ROUNDS_FOR_NOTHING;
        (!is_over).then(|| self.begin_round(function, Round { for_nothing, ..cursor.round }, cursor.last_number))
    }

    /// The job after one in a function's list, or the first.
    fn next_in_list(
        &self,
        function: FunctionSlot,
        list: usize,
        after: Option<(u32, u64)>,
        round: &mut Round,
    ) -> Option<u32> {
        let Some((slot, number)) = after else {
            return Some(self.list_of(function, list).first).filter(|job| *job != NONE);
        };
        let job = self.jobs.find_in(slot, number).filter(|job| job.function == function && list_index(*job) == list);
        let Some(links) = job.and_then(|job| job.state.links()) else {
            // It has left the list, so the position in the list is lost.
            round.is_torn = true;
            return None;
        };
        Some(links.next).filter(|job| *job != NONE)
    }

    /// The job at a position in the list of a function's runs, or the first.
    fn next_run(&self, function: FunctionSlot, at: Option<(u32, u64)>, round: &mut Round) -> Option<u32> {
        let Some((slot, number)) = at else {
            return self.runs.get(self.functions[function].first_run).map(|run| run.job);
        };
        let job = self.jobs.find_in(slot, number);
        let is_there = job.is_some_and(|job| job.function == function && matches!(job.state, JobState::Running(_)));
        round.is_torn |= !is_there;
        is_there.then_some(slot)
    }

    /// The job whose run follows that of a running job, in the list of its function's runs.
    fn behind_run(&self, job: u32) -> Option<(u32, u64)> {
        let JobState::Running(run) = self.jobs.get(job).state else { return None };
        let next = self.runs.get(self.runs[run].next_of_function)?;
        Some((next.job, self.jobs.get(next.job).number()))
    }

    /// The lists by index: for each priority the ready, the loading and the paged-out jobs; then for each
    /// priority the scheduled jobs.
    pub(in crate::job_server) fn list_of(&self, function: FunctionSlot, index: usize) -> JobList {
        let function = &self.functions[function];
        match index.checked_sub(QUEUED_LISTS) {
            Some(priority) => function.scheduled[priority],
            None => [&function.ready, &function.loading, &function.paged_out][index % 3][index / 3],
        }
    }
}
