//! The job server as a pure state machine: jobs, functions, connections, and what happens between them.
//!
//! No clock, no randomness, no I/O and no lock is in here. Time is an argument, what is said goes through [`Effects`],
//! and equal calls in equal order have equal results; the one thing that comes from outside is the key of the hash
//! function that guards against chosen collisions, and nothing visible depends on it.
//!
//! # Invariants
//! [`JobServer::check_invariants`] checks them after every transition of a debug build, while there are few jobs.
//!
//! 1. A job is in exactly one state, and in exactly the list that its state implies.
//! 2. If a function has more ready jobs than workers that were woken for it and may still come, no worker sleeps that
//!    can do it.
//! 3. (function, unique id) names at most one job; an empty unique id names none.
//! 4. Each submission of a foreground job is one wait, until its one final packet or the end of its connection.
//! 5. A job that nobody waits for and that is not a background job is running, or it does not exist.
//! 6. A deadline exists exactly while its job runs.
//! 7. The published numbers equal the state.
//! 8. A job that is being stored for the first time is seen by nobody but the clients that wait for it. Each of their
//!    submissions has one gap, which is filled when the store has answered, and never before.
//! 9. A workload is not in memory exactly while its job is parked, being read, or scheduled, and then the store has it.
//! 10. A connection that sleeps stands among the sleepers of exactly those of its functions that the operator's rules do
//!     not withhold from it, and of none while it holds as many jobs as it may. What is withheld follows from the rules, once it
//!     has had its turn after they have changed.
//! 11. The first result of any connection that was handed a job ends the job while it exists: also after the job was taken away
//!     from that connection, be it ready, parked, being read, or with another worker. So a job whose every run outlasts its time
//!     ends. Results that come later are not answered. Of a connection that was never handed the job nothing is heard. A connection
//!     remembers at least the last 1,024 jobs that were taken away from it.

mod abilities;
mod account;
mod clients;
mod connection;
mod control;
mod crowd;
mod earlier;
mod effects;
mod find;
mod function;
mod functions;
mod index;
mod invariants;
mod job;
mod list;
mod map;
mod measure;
mod memory;
mod policy;
pub mod price;
mod query;
mod refused;
mod settings;
mod short;
mod slab;
mod stored;
mod storing;
mod submit;
mod tell;
mod wake;
mod withhold;
mod work;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::Arc;

pub use self::account::{MemoryUse, weight};
pub use self::control::{ControlError, Piece, Place, Rule, Who};
pub use self::earlier::{EarlierRun, RunEnd};
pub use self::effects::{Effects, Event};
pub use self::find::{Found, JobQuery, StageKind};
pub use self::list::{JobView, RunView, Stage};
pub use self::policy::Policy;
pub use self::query::DropFunction;
pub use self::settings::RestoredSettings;
pub use self::stored::{
    Durability, Edit, FOREIGN_NUMBER_MAX, FORMAT, JobKey, NUMBER_MAX, StoreFailure, StoreOp, StoreReport, StoredJob,
    StoredParts,
};

use self::clients::Clients;
use self::connection::{Ability, Connection, Pending, Run, Wait};
use self::crowd::Crowd;
use self::earlier::EarlierRuns;
use self::function::Function;
use self::index::NONE;
use self::job::{Jobs, Prefixes};
use self::map::Map;
use self::memory::{Holdings, Load};
use self::price::WorkBudget;
use self::slab::Slab;
use self::storing::{Addition, Creation};
use self::tell::{Message, Said};
use self::withhold::Rules;
use self::work::Outcome;
use crate::protocol::{FunctionName, PeerError, Request, Response, Submission};
use crate::stats::{ConnectionGauges, Stats};

pub use crate::stats::{ConnectionId, Withholding};

/// The time of a transition, by two clocks: due times are wall time, timeouts are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds since some moment in the past; never goes back.
    pub monotonic_us: u64,
    /// Microseconds since 1970-01-01 UTC; may be set.
    pub unix_us: u64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// Its peer still reads: it is kept until its gaps are filled.
    pub wants_answers: bool,
    /// Its peer has not read all that it was sent. Where the last of that is a job, handed out less than a second ago, and the peer
    /// has said nothing since, the close was probably on its way already: the job loses no attempt. That is a guess, since a worker
    /// may also have died while it read the job; so the same job is spared a bounded number of times.
    pub missed_last: bool,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// There is more to undo: the call is to be made again.
    Unfinished,
    /// Answers are still to come from the store. When they have, the call is to be made again.
    AwaitsAnswers,
    /// The connection is forgotten.
    Done,
}

const US_PER_S: u64 = 1_000_000;

/// How many waits, runs or timeouts one call works off, so that no call takes long.
const WORK_PER_CALL: usize = 256;

/// A job that was handed out longer ago than this has reached its worker.
const LONGEST_MISS_US: u64 = US_PER_S;

/// While jobs are scheduled, the wall clock is looked at this often, since it may be set forward.
const LONGEST_LOOK_AHEAD_US: u64 = US_PER_S;

/// The state of a job server.
#[derive(Debug)]
pub struct JobServer {
    policy: Policy,
    stats: Arc<Stats>,
    jobs: Jobs,
    prefixes: Prefixes,
    holdings: Holdings,
    /// Jobs that the store is asked to keep, and the submissions that wait for its answer.
    additions: Slab<Addition>,
    creations: Slab<Creation>,
    /// The additions of jobs that went on meanwhile, by slot of the job.
    late_additions: Map<u32, u32>,
    /// Parked jobs that the store is asked to read, and when it is asked again after it could not.
    loads: Slab<Load>,
    load_again_us: Option<u64>,
    /// The slot of the function for which that is next, while it goes on.
    loads_place: Option<usize>,
    functions: Slab<Function>,
    function_names: Map<FunctionName, u32>,
    /// How many the operator has paused or limited.
    functions_with_settings: usize,
    connections: Slab<Connection>,
    clients: Clients,
    last_generation: u32,
    abilities: Slab<Ability>,
    /// The slots of abilities, by connection and function.
    ability_slots: Map<(u32, u32), u32>,
    /// Counts how often an ability came first or last in turn, and how often a connection or an ability joined sleepers.
    last_turn: i64,
    last_slept: u64,
    /// The wide connections that sleep and could take a job, those that have slept longest first, and how many these are.
    first_wide_sleeper: u32,
    last_wide_sleeper: u32,
    wide_sleepers: u32,
    /// Connections that are still to be looked through for ready jobs that nobody is on the way for, since they have fallen asleep.
    uncovered: VecDeque<ConnectionId>,
    /// When a due date that is far ahead was reported last, on the monotonic clock.
    far_due_reported_us: Option<u64>,
    waits: Slab<Wait>,
    /// By slot of the job: who waits for it how often, where that may be near the limit.
    crowds: HashMap<u32, Crowd>,
    /// By slot of the job: what very many clients are being told, in order.
    messages: HashMap<u32, VecDeque<Message>>,
    last_message: u64,
    /// Slots of those jobs, in rotation.
    undelivered: VecDeque<u32>,
    runs: Slab<Run>,
    earlier_runs: EarlierRuns,
    /// When running jobs are taken away, on the monotonic clock.
    deadlines: BTreeSet<(u64, u32)>,
    /// By priority, functions with jobs that are ready, in no order. Each knows its place in here.
    functions_ready: [Vec<u32>; 3],
    /// Functions without jobs, workers and settings, in no order: they may be forgotten. Each knows its place in here.
    functions_unused: Vec<u32>,
    /// What was spent since [`JobServer::start_turn`].
    work_budget: WorkBudget,
    /// Connections that sleep and may take jobs again, whose functions are not covered yet. Empty between transitions.
    freed: Vec<u32>,
    /// When NOOPs are given up, in the order of time, which is the order in which they were sent. Those that were
    /// answered stay until their time, or until they are many.
    noops: VecDeque<Noop>,
    last_noop: u64,
    /// Which workers get no jobs.
    rules: Rules,
    draining: bool,
}

#[derive(Clone, Copy, Debug)]
struct Noop {
    deadline_us: u64,
    connection: u32,
    serial: u64,
}

impl JobServer {
    /// An empty server, which publishes its numbers in `stats`.
    pub fn new(policy: Policy, stats: Arc<Stats>) -> Self {
        let hasher = RandomState::new();
        stats.set_handle_prefix(0, &Arc::from(policy.handle_prefix.as_str()));
        Self {
            prefixes: Prefixes::new(&policy.handle_prefix),
            work_budget: WorkBudget::new(policy.turn_budget),
            policy,
            stats,
            jobs: Jobs::new(hasher.clone()),
            holdings: Holdings::default(),
            additions: Slab::new(),
            creations: Slab::new(),
            late_additions: Map::default(),
            loads: Slab::new(),
            load_again_us: None,
            loads_place: None,
            functions: Slab::new(),
            function_names: Map::with_hasher(hasher),
            functions_with_settings: 0,
            connections: Slab::new(),
            clients: Clients::default(),
            last_generation: 0,
            abilities: Slab::new(),
            ability_slots: Map::default(),
            last_turn: 0,
            last_slept: 0,
            first_wide_sleeper: NONE,
            last_wide_sleeper: NONE,
            wide_sleepers: 0,
            uncovered: VecDeque::new(),
            far_due_reported_us: None,
            waits: Slab::new(),
            crowds: HashMap::new(),
            messages: HashMap::new(),
            last_message: 0,
            undelivered: VecDeque::new(),
            runs: Slab::new(),
            earlier_runs: EarlierRuns::default(),
            deadlines: BTreeSet::new(),
            functions_ready: [const { Vec::new() }; 3],
            functions_unused: Vec::new(),
            freed: Vec::new(),
            noops: VecDeque::new(),
            last_noop: 0,
            rules: Rules::default(),
            draining: false,
        }
    }

    /// Changes the settings. The prefix of handles stays as it was, and so does whether jobs are kept. NOOPs that are on their way
    /// get the new time, so that they are still given up in the order in which they were sent.
    pub fn set_policy(&mut self, now: Now, policy: &Policy, effects: &mut impl Effects) {
        for noop in &mut self.noops {
            let sent_us = noop.deadline_us.saturating_sub(self.policy.wake_timeout_us);
            noop.deadline_us = sent_us.saturating_add(policy.wake_timeout_us);
        }
        let handle_prefix = std::mem::take(&mut self.policy.handle_prefix);
        let max_jobs = self.policy.max_jobs_per_connection;
        self.work_budget.set_budget(policy.turn_budget);
        self.policy = Policy { handle_prefix, keeps_jobs: self.policy.keeps_jobs, ..policy.clone() };
        if self.policy.max_jobs_per_connection != max_jobs {
            self.apply_max_jobs(now, effects);
        }
        self.debug_check_invariants();
    }

    /// From now on no job is taken any more. Those that are there go on, but for the ones that a restart brings back: of
    /// these only running ones do.
    pub fn start_draining(&mut self) {
        self.draining = true;
        self.stats.draining.set(1);
    }

    /// How many jobs there are, in any state.
    pub fn job_count(&self) -> usize {
        self.jobs.len()
    }

    /// How many jobs would be lost, or run twice, if the server stopped now.
    pub fn jobs_at_stake(&self) -> usize {
        self.jobs.len() - (self.holdings.stored_jobs - self.holdings.stored_running)
    }

    /// How many jobs the store is asked to keep and has not answered for.
    pub fn unanswered_job_count(&self) -> usize {
        self.additions.len()
    }

    /// How many jobs the store has.
    pub fn kept_job_count(&self) -> usize {
        self.holdings.stored_jobs
    }

    /// The highest number that was given to a job.
    pub fn last_number(&self) -> u64 {
        self.jobs.last_number()
    }

    /// Numbers of new jobs are higher than this one. Beyond [`NUMBER_MAX`] there are none, and no job is taken any more.
    pub fn skip_to_number(&mut self, number: u64) {
        self.jobs.skip_to_number(number.min(NUMBER_MAX));
    }

    /// A new connection.
    pub fn connect(&mut self, gauges: Arc<ConnectionGauges>) -> ConnectionId {
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = self.last_generation;
        let slot = self.connections.insert(Connection::new(generation, gauges));
        // Connections are limited to far fewer than fit into 32 bits.
        ConnectionId { slot: u32::try_from(slot).unwrap_or(NONE), generation }
    }

    /// A connection has ended, or is to end: its jobs go back, and those that only it waited for go.
    ///
    /// A connection with much to undo takes several calls, between which others get their turn; it must not send anything
    /// any more. How it is kept and what goes back as it was is in `end`.
    pub fn disconnect(
        &mut self,
        now: Now,
        id: ConnectionId,
        end: ConnectionEnd,
        effects: &mut impl Effects,
    ) -> Departure {
        let ConnectionEnd { wants_answers, missed_last } = end;
        let Some(connection) = self.slot_of(id) else {
            return Departure::Done;
        };
        let ended = &mut self.connections[connection as usize];
        ended.pending = None;
        let is_recent = |run: &Run| now.monotonic_us.saturating_sub(run.since_us) < LONGEST_MISS_US;
        if !missed_last
            || ended.first_wait != NONE
            || ended.open_gaps > 0
            || !self.runs.get(ended.last_assigned as usize).is_some_and(is_recent)
        {
            // It has the job, or it may be what others said to it as a client that it has missed.
            ended.last_assigned = NONE;
        }
        self.report_refused_functions(connection, effects);
        if !self.remove_abilities(now, connection, effects) {
            self.debug_check_invariants();
            return Departure::Unfinished;
        }
        // At least one a call, so that it comes to its end.
        for count in 0.. {
            match self.connections[connection as usize].first_wait {
                NONE => break,
                _ if count > 0 && self.is_turn_over() => break,
                wait => self.abandon(wait, effects),
            }
        }
        for count in 0.. {
            match self.connections[connection as usize].first_run {
                NONE => break,
                _ if count > 0 && self.is_turn_over() => break,
                run => {
                    let is_last = run == self.connections[connection as usize].last_assigned;
                    let is_missed = (is_last || self.is_unbegun(run)) && self.may_miss(run);
                    self.requeue(now, run, (!is_missed).then_some(RunEnd::Disconnected), effects);
                }
            }
        }
        let Connection { first_wait, first_run, open_gaps, .. } = self.connections[connection as usize];
        let departure = if first_wait != NONE || first_run != NONE {
            Departure::Unfinished
        } else if wants_answers && open_gaps > 0 {
            self.connections[connection as usize].gauges.remove_all_functions();
            Departure::AwaitsAnswers
        } else {
            let gone = self.connections.remove(connection as usize);
            self.holdings.forfeited -= gone.forfeited_entries();
            self.clients.set(connection, gone.gauges.client_id().as_deref(), None);
            self.rules.forget_connection(connection);
            Departure::Done
        };
        self.debug_check_invariants();
        departure
    }

    /// The store has done something that it was asked for. Returns the report again if that is not all: the call is to be
    /// made again with it, after others had their turn.
    pub fn stored(&mut self, now: Now, report: StoreReport, effects: &mut impl Effects) -> Option<StoreReport> {
        let rest = match report {
            StoreReport::Added { ticket, result } => {
                (!self.added(now, ticket, result, effects)).then_some(StoreReport::Added { ticket, result })
            }
            StoreReport::Loaded { ticket, result } => self.loaded(now, ticket, result, effects),
        };
        self.debug_check_invariants();
        rest
    }

    /// A connection has sent something that makes no sense, and is told so: it was there after what it was sent before.
    pub fn refuse(&mut self, from: ConnectionId, error: PeerError, effects: &mut impl Effects) {
        self.work_budget.spend(price::REQUEST);
        if let Some(connection) = self.slot_of(from) {
            self.connections[connection as usize].last_assigned = NONE;
            self.say(from, Response::Error(error), effects);
        }
    }

    /// From now on what is spent is counted anew: a hold of the lock begins.
    pub fn start_turn(&mut self) {
        self.work_budget.start();
    }

    /// What was spent since [`start_turn`](Self::start_turn), in the unit of [`price`].
    pub fn spent(&self) -> u32 {
        self.work_budget.spent()
    }

    /// Whether so much was spent since [`start_turn`](Self::start_turn) that others should have their turn.
    pub fn is_turn_over(&self) -> bool {
        self.work_budget.is_empty()
    }

    /// A connection asks for something.
    ///
    /// Returns whether that is all. If not, the same call is to be made again, before the next request of this connection and
    /// after others had their turn.
    pub fn request(&mut self, now: Now, from: ConnectionId, request: &Request<'_>, effects: &mut impl Effects) -> bool {
        let Some(connection) = self.slot_of(from) else {
            return true;
        };
        self.work_budget.spend(price::REQUEST);
        if let Some(pending) = self.connections[connection as usize].pending {
            let is_all = self.go_on(now, connection, pending, effects);
            self.debug_check_invariants();
            return is_all;
        }
        let mut is_all = true;
        self.connections[connection as usize].last_assigned = NONE;
        match *request {
            Request::CanDo { function, timeout_ms } => self.can_do(now, connection, function, timeout_ms, effects),
            Request::CannotRegister(why) => self.refuse_function(connection, why, effects),
            Request::CantDo { function } => is_all = self.cant_do(now, connection, function, effects),
            Request::ResetAbilities => is_all = self.reset_abilities(now, connection, effects),
            Request::PreSleep => is_all = self.pre_sleep(now, connection, effects),
            Request::GrabJob(kind) => is_all = self.grab_job(now, connection, kind, effects),
            Request::Submit(submission) => self.submit(now, connection, &submission, effects),
            Request::WorkStatus { handle, numerator, denominator } => {
                is_all = self.work_status(connection, handle, numerator, denominator, effects);
            }
            Request::WorkData { handle, workload } => {
                is_all = self.work_data(connection, handle, Said::Data(workload), effects);
            }
            Request::WorkWarning { handle, workload } => {
                is_all = self.work_data(connection, handle, Said::Warning(workload), effects);
            }
            Request::WorkComplete { handle, workload } => {
                is_all = self.finish(now, connection, handle, Outcome::Complete(workload), effects);
            }
            Request::WorkFail { handle } => is_all = self.finish(now, connection, handle, Outcome::Fail, effects),
            Request::WorkException { handle, workload } => {
                is_all = self.finish(now, connection, handle, Outcome::Exception(workload), effects);
            }
            Request::GetStatus { handle } => self.get_status(connection, handle, effects),
            Request::GetStatusUnique { unique } => self.get_status_unique(connection, unique, effects),
            Request::Echo { workload } => self.say(from, Response::EchoRes { workload }, effects),
            Request::Option { option, written } => {
                self.connections[connection as usize].set_option(option);
                self.say(from, Response::OptionRes { written }, effects);
            }
            Request::SetClientId { id } => {
                self.rename(now, connection, id, effects);
            }
        }
        self.debug_check_invariants();
        is_all
    }

    /// Goes on with a request that takes several turns. Returns whether that is all.
    fn go_on(&mut self, now: Now, connection: u32, pending: Pending, effects: &mut impl Effects) -> bool {
        match pending {
            Pending::Message { job, serial } => self.go_on_telling(connection, job, serial, effects),
            // A rule may have come since the last piece.
            Pending::Grab { kind, at } => {
                self.refresh_rules(now, connection, effects) && self.take_job(now, connection, kind, Some(at), effects)
            }
            Pending::GiveBack { function } => self.give_back(now, connection, function, effects),
        }
    }

    /// Whether something was begun that is done in pieces, whoever asks for it: by [`timeout`](Self::timeout).
    pub fn has_unfinished(&self) -> bool {
        self.has_undelivered()
            || !self.uncovered.is_empty()
            || self.rules_place().is_some()
            || self.loads_place.is_some()
    }

    /// Goes on with all of that until the turn is over.
    pub fn go_on_with_all(&mut self, now: Now, effects: &mut impl Effects) {
        self.go_on_loading(effects);
        self.go_on_with_rules(now, effects);
        self.go_on_covering(now, effects);
        self.deliver_all(effects);
    }

    /// When [`timeout`](Self::timeout) wants to be called, on the monotonic clock, as far as is known `now`.
    pub fn next_timeout(&self, now: Now) -> Option<u64> {
        let noop = self.noops.front().map(|noop| noop.deadline_us);
        let deadline = self.deadlines.first().map(|(deadline_us, _)| *deadline_us);
        let due = self.jobs.schedule.first().map(|(due_s, ..)| {
            let wait_us = due_s.saturating_mul(US_PER_S).saturating_sub(now.unix_us);
            now.monotonic_us + wait_us.min(LONGEST_LOOK_AHEAD_US)
        });
        let unfinished = self.has_unfinished().then_some(now.monotonic_us);
        [noop, deadline, due, self.load_again_us, unfinished].into_iter().flatten().min()
    }

    /// Time has passed: gives up NOOPs, takes jobs from workers that are late, makes ready what is due, and goes on with
    /// rules that have changed.
    ///
    /// Works off a bounded number of them; [`next_timeout`](Self::next_timeout) tells whether some are left.
    pub fn timeout(&mut self, now: Now, effects: &mut impl Effects) {
        self.start_turn();
        self.give_up_noops(now, effects);
        for _ in 0..WORK_PER_CALL {
            if self.is_turn_over() {
                break;
            }
            let Some((_, job)) = self.deadlines.first().copied().filter(|(at_us, _)| *at_us <= now.monotonic_us) else {
                break;
            };
            self.time_out(now, job, effects);
        }
        for _ in 0..WORK_PER_CALL {
            if self.is_turn_over() {
                break;
            }
            let due = self.jobs.schedule.first().copied();
            let Some(entry) = due.filter(|(due_s, ..)| due_s.saturating_mul(US_PER_S) <= now.unix_us) else {
                break;
            };
            let (_, _, job) = entry;
            self.jobs.schedule.remove(&entry);
            let (function, priority) = (self.jobs.get(job).function, self.jobs.get(job).priority.index());
            let of = &mut self.functions[function as usize];
            of.scheduled[priority].remove(&mut self.jobs, job);
            of.returns = of.returns.wrapping_add(1);
            self.make_ready(now, job, effects);
        }
        self.load_again(now);
        self.go_on_with_all(now, effects);
        self.debug_check_invariants();
    }

    fn slot_of(&self, id: ConnectionId) -> Option<u32> {
        self.connections
            .get(id.slot as usize)
            .filter(|connection| connection.generation == id.generation)
            .map(|_| id.slot)
    }

    /// Sends a packet, which has its price.
    fn say(&self, to: ConnectionId, response: Response<'_>, effects: &mut impl Effects) {
        self.work_budget.spend(price::of_packet(&response));
        effects.send(to, response);
    }

    fn id_of(&self, connection: u32) -> ConnectionId {
        ConnectionId { slot: connection, generation: self.connections[connection as usize].generation }
    }
}
