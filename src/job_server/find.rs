//! Job search: which jobs match a query, found by the index with the fewest candidates.
//!
//! A cursor says which index it belongs to, so that a listing of several calls continues on that index, even
//! if the numbers of candidates change meanwhile.

use std::ops::{ControlFlow, Range};

use super::control::LOOKS_PER_CALL;
use super::ids::{FunctionSlot, RunSlot, SlotId, WaitSlot};
use super::job::{JobRef, JobState};
use super::list::{JobView, LISTS, QUEUED_LISTS};
use super::{JobServer, WORK_PER_CALL};

/// The criteria of a job search. A job must match all that are set.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobQuery<'a> {
    /// Jobs of this function.
    pub function: Option<&'a [u8]>,
    /// Jobs with this unique id.
    pub unique: Option<&'a [u8]>,
    /// Jobs in this stage.
    pub stage: Option<StageKind>,
    /// Jobs that a connection with this client id holds.
    pub holder: Option<&'a [u8]>,
    /// Jobs that a connection with this client id waits for.
    pub waiter: Option<&'a [u8]>,
}

/// The stage of a job, as a search criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageKind {
    /// It is not due yet.
    Scheduled,
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Running,
}

/// The result of one search call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The cursor for the next call; `None` after the last job.
    pub next: Option<u64>,
    /// The number of jobs, runs and waits examined.
    pub looks: usize,
}

/// The index or list by which jobs are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// All jobs, by slot.
    All,
    /// All runs, by slot.
    Runs,
    /// The waits of a client's connections, by slot.
    Waits,
    /// The runs of a client's connections, by slot.
    Held,
    /// The jobs of a unique id, by slot.
    Unique,
    /// The lists of a function, and then its runs, by slot.
    Function,
}

const PATHS: [Path; 6] = [Path::All, Path::Runs, Path::Waits, Path::Held, Path::Unique, Path::Function];
/// The bits of a cursor above these hold the path.
const PLACE_BITS: u32 = 56;
/// In a cursor over a function's jobs, this bit says that the lists are done and its runs follow.
const IN_RUNS: u64 = 1 << 55;

/// A query with its names looked up.
struct Wanted<'a> {
    query: JobQuery<'a>,
    function: Option<FunctionSlot>,
}

impl JobServer {
    /// Passes jobs that match a query to `show`, beginning at a cursor, which is 0 at first, until `show`
    /// breaks. Examines a bounded number of jobs. A job with several waits may be shown more than once.
    pub fn find_jobs(
        &self,
        query: &JobQuery<'_>,
        place: u64,
        mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>,
    ) -> Found {
        let mut looks = 0;
        let function = query.function.map(|name| self.function_names.get(name).copied());
        let (function, query) = match function {
            Some(None) => return Found { next: None, looks },
            function => (function.flatten(), *query),
        };
        // A held job is running.
        let stage = query.stage.or(query.holder.map(|_| StageKind::Running));
        let wanted = Wanted { query: JobQuery { stage, ..query }, function };
        let path = self.path(&wanted, place);
        let place = place & ((1 << PLACE_BITS) - 1);
        let mut act = |job: JobRef<'_>| match self.view(job) {
            Some(view) if self.is_wanted(job, &wanted, path) => show(view),
            _ => ControlFlow::Continue(()),
        };
        let next = match path {
            Path::All => in_slots(self.jobs.slot_bound(), place, &mut looks, |slot| self.jobs.find(slot), act),
            Path::Unique => {
                let slots = self.slots_of_unique(&wanted, place, &mut looks);
                in_given(slots, |slot| act(self.jobs.get(slot)))
            }
            Path::Runs => in_slots(self.run_bound(), place, &mut looks, |run| self.job_of_run(run), act),
            Path::Held => {
                let client = wanted.query.holder.unwrap_or_default();
                match self.runs_of_client(client, place, &mut looks) {
                    Some(runs) => in_given(runs, |run| self.job_of_run(run).map_or(GO_ON, &mut act)),
                    None => in_slots(self.run_bound(), place, &mut looks, |run| self.job_of_run(run), act),
                }
            }
            Path::Waits => {
                let client = wanted.query.waiter.unwrap_or_default();
                if let Some(waits) = self.waits_of_client(client, place, &mut looks) {
                    in_given(waits, |wait| act(self.jobs.get(self.waits[wait].job)))
                } else {
                    let job_of = |wait: WaitSlot| {
                        let wait = self.waits.get(wait)?;
                        self.clients.has(client, wait.connection).then(|| self.jobs.get(wait.job))
                    };
                    in_slots(self.wait_bound(), place, &mut looks, job_of, act)
                }
            }
            Path::Function => self.in_function(&wanted, place, &mut looks, act),
        };
        let tag = PATHS.iter().position(|known| *known == path).unwrap_or_default() as u64;
        Found { next: next.map(|next| tag << PLACE_BITS | next), looks }
    }

    /// The path in the cursor, or else the path with the fewest candidates.
    fn path(&self, wanted: &Wanted<'_>, place: u64) -> Path {
        let possible = |path| match path {
            Path::All => wanted.query.waiter.is_none(),
            Path::Runs => wanted.query.waiter.is_none() && wanted.query.stage == Some(StageKind::Running),
            Path::Waits => wanted.query.waiter.is_some(),
            Path::Held => wanted.query.waiter.is_none() && wanted.query.holder.is_some(),
            Path::Unique => wanted.query.unique.is_some_and(|unique| !unique.is_empty() && unique != b"-"),
            Path::Function => wanted.query.waiter.is_none() && wanted.function.is_some(),
        };
        let before = usize::try_from(place >> PLACE_BITS).ok().and_then(|tag| PATHS.get(tag)).copied();
        if let Some(before) = before.filter(|before| place > 0 && possible(*before)) {
            return before;
        }
        let paths = PATHS.into_iter().filter(|path| possible(*path));
        paths.min_by_key(|path| self.most_on(*path, wanted)).unwrap_or(Path::All)
    }

    /// The maximum number of jobs that a path leads past, as far as it is cheap to compute.
    fn most_on(&self, path: Path, wanted: &Wanted<'_>) -> usize {
        match path {
            Path::All => self.jobs.len(),
            Path::Runs => self.runs.len(),
            Path::Waits => self.sum_of_client(wanted.query.waiter, |connection| connection.waits),
            Path::Held => self.sum_of_client(wanted.query.holder, |connection| connection.runs),
            Path::Unique => {
                let jobs = self.jobs_with_unique(wanted).take(LOOKS_PER_CALL).map(|slot| self.jobs.get(slot).waits);
                let waits = |first| if wanted.query.waiter.is_some() { self.count_waits(first) as usize } else { 0 };
                jobs.map(|first| 1 + waits(first)).sum()
            }
            Path::Function => {
                let lists = lists_of(wanted.query.stage);
                let function = wanted.function.unwrap_or(FunctionSlot::NONE);
                let listed: usize = lists.map(|list| self.list_of(function, list).len as usize).sum();
                listed + if has_runs(wanted) { self.functions[function].running as usize } else { 0 }
            }
        }
    }

    fn sum_of_client(&self, client: Option<&[u8]>, count: impl Fn(&super::Connection) -> u32) -> usize {
        let connections = client.into_iter().flat_map(|client| self.clients.of(client)).take(LOOKS_PER_CALL);
        connections.map(|connection| 1 + count(&self.connections[connection]) as usize).sum()
    }

    /// Whether a job that was found by a path matches the query.
    fn is_wanted(&self, job: JobRef<'_>, wanted: &Wanted<'_>, path: Path) -> bool {
        let Wanted { query, function } = wanted;
        let is_held_by = |client: &[u8]| match job.state {
            JobState::Running(run) => self.clients.has(client, self.runs[run].connection),
            _ => false,
        };
        function.is_none_or(|function| function == job.function)
            && query.unique.is_none_or(|unique| unique == job.unique())
            && query.stage.is_none_or(|stage| stage_of(job) == Some(stage))
            && query.holder.is_none_or(is_held_by)
            && (path == Path::Waits || query.waiter.is_none_or(|client| self.is_awaited_by(job, client)))
    }

    fn is_awaited_by(&self, job: JobRef<'_>, client: &[u8]) -> bool {
        let mut next = job.waits;
        while let Some(wait) = self.waits.get(next) {
            if self.clients.has(client, wait.connection) {
                return true;
            }
            next = wait.next_of_job;
        }
        false
    }

    /// The jobs with the unique id, or the one with the function and unique id.
    fn jobs_with_unique<'a>(&'a self, wanted: &Wanted<'a>) -> impl Iterator<Item = u32> + 'a {
        let unique = wanted.query.unique.unwrap_or_default();
        let of_function = wanted.function.map(|function| self.jobs.find_equal(function, unique, &[]).ok());
        let newest = match of_function {
            Some(job) => job,
            None => self.jobs.find_unique(unique),
        };
        let has_function = wanted.function.is_some();
        std::iter::successors(newest, move |job| if has_function { None } else { self.jobs.older_sibling(*job) })
    }

    /// The same from a cursor onwards, by slot. There is at most one job per function.
    fn slots_of_unique(&self, wanted: &Wanted<'_>, place: u64, looks: &mut usize) -> Vec<u32> {
        let jobs = self.jobs_with_unique(wanted).inspect(|_| *looks += 1);
        smallest(jobs.filter(|slot| u64::from(*slot) >= place))
    }

    /// The runs of a client's connections from a cursor onwards, by slot; `None` if it is quicker to scan all
    /// runs.
    fn runs_of_client(&self, client: &[u8], place: u64, looks: &mut usize) -> Option<Vec<RunSlot>> {
        let mut runs = Vec::new();
        for connection in self.clients.of(client) {
            let mut run = self.connections[connection].first_run;
            *looks += 1;
            while let Some(held) = self.runs.get(run) {
                *looks += 1;
                if *looks > LOOKS_PER_CALL {
                    return None;
                }
                runs.push(run);
                run = held.next;
            }
            if *looks > LOOKS_PER_CALL {
                return None;
            }
        }
        Some(smallest(runs.into_iter().filter(|run| u64::from(run.number()) >= place)))
    }

    /// The same for the waits of a client's connections.
    fn waits_of_client(&self, client: &[u8], place: u64, looks: &mut usize) -> Option<Vec<WaitSlot>> {
        let mut waits = Vec::new();
        for connection in self.clients.of(client) {
            let mut next = self.connections[connection].first_wait;
            *looks += 1;
            while let Some(wait) = self.waits.get(next) {
                *looks += 1;
                if *looks > LOOKS_PER_CALL {
                    return None;
                }
                waits.push(next);
                next = wait.next_of_connection;
            }
            if *looks > LOOKS_PER_CALL {
                return None;
            }
        }
        Some(smallest(waits.into_iter().filter(|wait| u64::from(wait.number()) >= place)))
    }

    /// The jobs of a function: first those in its lists, then the running ones.
    fn in_function(
        &self,
        wanted: &Wanted<'_>,
        place: u64,
        looks: &mut usize,
        mut act: impl FnMut(JobRef<'_>) -> ControlFlow<()>,
    ) -> Option<u64> {
        let function = wanted.function?;
        let lists = lists_of(wanted.query.stage);
        if place & IN_RUNS == 0 && !lists.is_empty() {
            let next = self.list_in_lists(function, lists, place, looks, &mut act);
            return next.or_else(|| has_runs(wanted).then_some(IN_RUNS));
        }
        let place = place & !IN_RUNS;
        if self.functions[function].running as usize > LOOKS_PER_CALL {
            let next = in_slots(self.run_bound(), place, looks, |run| self.job_of_run(run), act);
            return next.map(|next| next | IN_RUNS);
        }
        let first = Some(self.functions[function].first_run).filter(|run| *run != RunSlot::NONE);
        let next_of = |run: &RunSlot| Some(self.runs[*run].next_of_function).filter(|run| *run != RunSlot::NONE);
        let runs = std::iter::successors(first, next_of).inspect(|_| *looks += 1);
        let runs = smallest(runs.filter(|run| u64::from(run.number()) >= place));
        let next = in_given(runs, |run| self.job_of_run(run).map_or(GO_ON, &mut act));
        next.map(|next| next | IN_RUNS)
    }

    fn job_of_run(&self, run: RunSlot) -> Option<JobRef<'_>> {
        self.runs.get(run).map(|run| self.jobs.get(run.job))
    }

    fn run_bound(&self) -> usize {
        self.runs.bound()
    }

    fn wait_bound(&self) -> usize {
        self.waits.bound()
    }
}

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

/// The lists that hold jobs of this stage.
fn lists_of(stage: Option<StageKind>) -> Range<usize> {
    match stage {
        None => 0..LISTS,
        Some(StageKind::Queued) => 0..QUEUED_LISTS,
        Some(StageKind::Scheduled) => QUEUED_LISTS..LISTS,
        Some(StageKind::Running) => 0..0,
    }
}

fn has_runs(wanted: &Wanted<'_>) -> bool {
    wanted.query.stage.is_none_or(|stage| stage == StageKind::Running)
}

/// Examines a bounded number of slots. Returns the cursor for the next call.
fn in_slots<'a, Id: SlotId>(
    bound: usize,
    place: u64,
    looks: &mut usize,
    find: impl Fn(Id) -> Option<JobRef<'a>>,
    mut act: impl FnMut(JobRef<'_>) -> ControlFlow<()>,
) -> Option<u64> {
    let place = usize::try_from(place).unwrap_or(usize::MAX);
    let end = place.saturating_add(WORK_PER_CALL).min(bound);
    for slot in place..end {
        *looks += 1;
        let job = find(Id::from_index(slot));
        if job.is_some_and(|job| act(job).is_break()) {
            return Some(slot as u64 + 1);
        }
    }
    (end < bound).then_some(end as u64)
}

/// The smallest of these slots in order: one more than one call shows.
fn smallest<Id: SlotId + Ord>(slots: impl Iterator<Item = Id>) -> Vec<Id> {
    let mut slots: Vec<Id> = slots.collect();
    if slots.len() > WORK_PER_CALL + 1 {
        slots.select_nth_unstable(WORK_PER_CALL);
        slots.truncate(WORK_PER_CALL + 1);
    }
    slots.sort_unstable();
    slots
}

/// Visits a bounded number of sorted slots. Returns the cursor for the next call.
fn in_given<Id: SlotId>(slots: Vec<Id>, mut act: impl FnMut(Id) -> ControlFlow<()>) -> Option<u64> {
    let mut slots = slots.into_iter();
    for slot in slots.by_ref().take(WORK_PER_CALL) {
        if act(slot).is_break() {
            return Some(u64::from(slot.number()) + 1);
        }
    }
    slots.next().map(|slot| slot.number().into())
}

fn stage_of(job: JobRef<'_>) -> Option<StageKind> {
    match job.state {
        JobState::Storing(_) | JobState::Ended => None,
        JobState::Scheduled(_) => Some(StageKind::Scheduled),
        JobState::Ready(_) | JobState::PagedOut(_) | JobState::Loading(_) => Some(StageKind::Queued),
        JobState::Running(_) => Some(StageKind::Running),
    }
}
