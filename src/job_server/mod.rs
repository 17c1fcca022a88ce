//! The job server as a pure state machine: jobs, functions, connections and their transitions.
//!
//! It uses no clock, randomness, I/O or lock. Time is an argument and output goes through [`Effects`], so
//! equal calls in equal order have equal results. The only outside input is the key of the hash function that
//! guards against chosen collisions; it has no visible effect.
//!
//! # Invariants
//! [`JobServer::check_invariants`] checks them after every transition of a debug build, while there are few
//! jobs.
//!
//! 1. A job is in exactly one state, and in exactly the list that its state implies.
//! 2. If a function has more ready jobs than woken workers that may still come for them, no worker that can
//!    do it sleeps.
//! 3. (function, unique id) identifies at most one job; an empty unique id identifies none.
//! 4. Each submission of a foreground job is one wait, until its final packet or the end of its connection.
//! 5. A job without waits that is not a background job is running, or it does not exist.
//! 6. A deadline exists exactly while its job runs.
//! 7. The published numbers equal the state.
//! 8. A job that is being stored for the first time is visible only to the clients that wait for it. Each of
//!    their submissions has one gap, which is filled when the store has answered, and never before.
//! 9. A workload is evicted from memory while its job is paged out or being read, and possibly while it is
//!    scheduled; the store then has it.
//! 10. A sleeping connection is in the sleeper lists of exactly those of its functions that the operator's
//!     rules do not disable or drain for it, and in none while it is at its job limit. The modes of its
//!     abilities follow from the rules, once a change of the rules has been applied to the connection.
//! 11. The first result from any connection that was handed a job ends the job while it exists, even if the
//!     job was revoked from that connection and is ready, paged out, being read, or with another worker. So a
//!     job ends even if all its runs exceed their timeout. Later results are not answered. Results from a
//!     connection that was never handed the job have no effect. A connection remembers at least the last
//!     1,024 jobs that were revoked from it.

mod abilities;
mod account;
mod attempt_history;
mod clients;
mod connection;
mod control;
mod crowd;
mod effects;
mod find;
mod function;
mod functions;
mod ids;
mod index;
mod invariants;
mod job;
mod list;
mod map;
mod metrics;
mod packed_uint;
mod paging;
mod pending_writes;
mod policy;
pub mod price;
mod query;
mod refused;
mod settings;
mod slab;
mod stored;
mod submit;
mod tell;
mod wake;
mod work;
mod worker_rules;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::Arc;

pub use self::account::{MemoryUse, weight};
pub use self::attempt_history::{FailedAttempt, RequeueReason};
pub use self::control::{ControlError, Cursor, DropFunction, Progress, Rule, WorkerSelector};
pub use self::effects::{Effects, Event};
pub use self::find::{Found, JobQuery, StageKind};
pub use self::list::{JobView, RunView, Stage};
pub use self::policy::Policy;
pub use self::settings::RestoredSettings;
pub use self::stored::{
    Durability, Edit, FOREIGN_NUMBER_MAX, FORMAT, JobKey, NUMBER_MAX, StoreFailure, StoreOp, StoreReport, StoredJob,
    StoredParts,
};

use self::attempt_history::AttemptHistory;
use self::clients::Clients;
use self::connection::{Ability, Connection, Pending, Run, Wait};
use self::crowd::Crowd;
use self::function::Function;
use self::ids::{AbilitySlot, ConnectionSlot, FunctionSlot, RunSlot, SlotId, WaitSlot};
use self::job::{Jobs, Prefixes};
use self::map::Map;
use self::paging::{Load, MemoryTotals};
use self::pending_writes::{PendingAdd, PendingReply};
use self::price::WorkBudget;
use self::slab::Slab;
use self::tell::{Message, Said};
use self::work::Outcome;
use self::worker_rules::Rules;
use crate::protocol::{FunctionName, PeerError, Request, Response, Submission};
use crate::stats::{ConnectionGauges, Stats};

pub use crate::stats::{ConnectionId, WorkerMode};

/// The time of a transition on two clocks: wall time for due times, monotonic time for timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds since an arbitrary moment in the past; never decreases.
    pub monotonic_us: u64,
    /// Microseconds since 1970-01-01 UTC; the clock may be set.
    pub unix_us: u64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// The peer still reads: keep the connection until its gaps are filled.
    pub wants_answers: bool,
    /// The peer has not read all of its output. If the last unread packet is a job that was handed out less
    /// than a second ago, and the peer has sent nothing since, its close was probably already on the way: the
    /// job loses no attempt. That is a guess, since the worker may also have died while it read the job, so
    /// the same job is spared only a bounded number of times.
    pub missed_last: bool,
}

/// The progress of a disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectProgress {
    /// More remains to undo: call again.
    Unfinished,
    /// Answers from the store are pending: call again when they have arrived.
    AwaitsAnswers,
    /// The connection is removed.
    Done,
}

const US_PER_S: u64 = 1_000_000;

/// The maximum number of waits, runs or timeouts that one call processes, so that no call takes long.
const WORK_PER_CALL: usize = 256;

/// A job that was handed out longer ago than this has reached its worker.
const LONGEST_MISS_US: u64 = US_PER_S;

/// The longest time between checks of the wall clock while jobs are scheduled, since it may be set forward.
const LONGEST_LOOK_AHEAD_US: u64 = US_PER_S;

/// The state of a job server.
#[derive(Debug)]
pub struct JobServer {
    policy: Policy,
    stats: Arc<Stats>,
    jobs: Jobs,
    prefixes: Prefixes,
    memory_totals: MemoryTotals,
    /// Jobs that the store was asked to add, and the submissions that wait for its answer.
    pending_adds: Slab<usize, PendingAdd>,
    pending_replies: Slab<usize, PendingReply>,
    /// Pending additions of jobs that are in use already, by job slot.
    late_adds: Map<u32, u32>,
    /// Reads of paged-out jobs that the store was asked for, and when to retry after a failed read.
    loads: Slab<usize, Load>,
    load_again_us: Option<u64>,
    /// The slot of the next function to retry reads for, while a retry is in progress.
    loads_cursor: Option<usize>,
    functions: Slab<FunctionSlot, Function>,
    function_names: Map<FunctionName, FunctionSlot>,
    /// The number of functions that the operator has paused or limited.
    functions_with_settings: usize,
    connections: Slab<ConnectionSlot, Connection>,
    clients: Clients,
    last_generation: u32,
    abilities: Slab<AbilitySlot, Ability>,
    /// Ability slots, by connection and function.
    ability_slots: Map<(ConnectionSlot, FunctionSlot), AbilitySlot>,
    /// Counters: how often an ability moved to the front or back of its order, and how often a connection or
    /// an ability joined sleepers.
    last_turn: i64,
    last_slept: u64,
    /// The list of sleeping wide connections that could take a job, longest asleep first, and its length.
    first_wide_sleeper: ConnectionSlot,
    last_wide_sleeper: ConnectionSlot,
    wide_sleepers: u32,
    /// Connections that have fallen asleep and whose functions are still to be checked for uncovered ready
    /// jobs.
    uncovered: VecDeque<ConnectionId>,
    /// When a far-ahead due date was last reported, on the monotonic clock.
    far_due_reported_us: Option<u64>,
    waits: Slab<WaitSlot, Wait>,
    /// By job slot: the number of waits of each connection, kept only where it may be near the limit.
    crowds: HashMap<u32, Crowd>,
    /// By job slot: messages that are being delivered to very many clients, in order.
    messages: HashMap<u32, VecDeque<Message>>,
    last_message: u64,
    /// The slots of those jobs, for round-robin delivery.
    undelivered: VecDeque<u32>,
    runs: Slab<RunSlot, Run>,
    attempt_history: AttemptHistory,
    /// The timeouts of running jobs, on the monotonic clock.
    deadlines: BTreeSet<(u64, u32)>,
    /// By priority, functions with ready jobs, unordered. Each function stores its index in here.
    functions_ready: [Vec<FunctionSlot>; 3],
    /// Functions without jobs, workers and settings, unordered: they may be evicted. Each function stores its
    /// index in here.
    functions_unused: Vec<FunctionSlot>,
    /// The work spent since [`JobServer::start_turn`], and the limit.
    work_budget: WorkBudget,
    /// Sleeping connections that may take jobs again and whose functions are not covered yet. Empty between
    /// transitions.
    freed: Vec<ConnectionSlot>,
    /// The timeouts of NOOPs in order of time, which is the order of sending. Answered NOOPs stay until their
    /// timeout, or until there are many.
    noops: VecDeque<Noop>,
    last_noop: u64,
    /// The rules by which workers get no jobs.
    rules: Rules,
    draining: bool,
}

#[derive(Clone, Copy, Debug)]
struct Noop {
    deadline_us: u64,
    connection: ConnectionSlot,
    serial: u64,
}

impl JobServer {
    /// Creates an empty server that publishes its numbers in `stats`.
    pub fn new(policy: Policy, stats: Arc<Stats>) -> Self {
        let hasher = RandomState::new();
        stats.set_handle_prefix(0, &Arc::from(policy.handle_prefix.as_str()));
        Self {
            prefixes: Prefixes::new(&policy.handle_prefix),
            work_budget: WorkBudget::new(policy.turn_budget),
            policy,
            stats,
            jobs: Jobs::new(hasher.clone()),
            memory_totals: MemoryTotals::default(),
            pending_adds: Slab::new(),
            pending_replies: Slab::new(),
            late_adds: Map::default(),
            loads: Slab::new(),
            load_again_us: None,
            loads_cursor: None,
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
            first_wide_sleeper: ConnectionSlot::NONE,
            last_wide_sleeper: ConnectionSlot::NONE,
            wide_sleepers: 0,
            uncovered: VecDeque::new(),
            far_due_reported_us: None,
            waits: Slab::new(),
            crowds: HashMap::new(),
            messages: HashMap::new(),
            last_message: 0,
            undelivered: VecDeque::new(),
            runs: Slab::new(),
            attempt_history: AttemptHistory::default(),
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

    /// Changes the settings, except the handle prefix and whether jobs are stored. NOOPs in flight get the
    /// new timeout, so that they still expire in the order in which they were sent.
    pub fn set_policy(&mut self, now: Now, policy: &Policy, effects: &mut impl Effects) {
        for noop in &mut self.noops {
            let sent_us = noop.deadline_us.saturating_sub(self.policy.wakeup_timeout_us);
            noop.deadline_us = sent_us.saturating_add(policy.wakeup_timeout_us);
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

    /// Starts draining: rejects new jobs. Existing jobs continue, except queued durable ones, which wait for
    /// the restart.
    pub fn start_draining(&mut self) {
        self.draining = true;
        self.stats.draining.set(1);
    }

    /// The number of jobs, in any state.
    pub fn job_count(&self) -> usize {
        self.jobs.len()
    }

    /// The number of jobs that a drain waits for: those that are running, or in memory only. They would be
    /// lost, or run twice, if the server stopped now.
    pub fn jobs_to_drain(&self) -> usize {
        self.jobs.len() - (self.memory_totals.stored_jobs - self.memory_totals.stored_running)
    }

    /// The number of jobs that the store was asked to add and has not answered for.
    pub fn unanswered_job_count(&self) -> usize {
        self.pending_adds.len()
    }

    /// The number of jobs that the store has.
    pub fn kept_job_count(&self) -> usize {
        self.memory_totals.stored_jobs
    }

    /// The highest job number assigned so far.
    pub fn last_number(&self) -> u64 {
        self.jobs.last_number()
    }

    /// Makes the numbers of new jobs higher than this one. Beyond [`NUMBER_MAX`] there are none, and new jobs
    /// are rejected.
    pub fn skip_to_number(&mut self, number: u64) {
        self.jobs.skip_to_number(number.min(NUMBER_MAX));
    }

    /// Adds a connection.
    pub fn connect(&mut self, gauges: Arc<ConnectionGauges>) -> ConnectionId {
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = self.last_generation;
        let slot = self.connections.insert(Connection::new(generation, gauges));
        ConnectionId { slot: slot.number(), generation }
    }

    /// Ends a connection: requeues its jobs, and removes the jobs that only it waited for.
    ///
    /// A connection with much to undo takes several calls, between which other connections run. It must send
    /// nothing meanwhile. `end` says whether to keep it for pending answers, and whether its last job loses
    /// an attempt.
    pub fn disconnect(
        &mut self,
        now: Now,
        id: ConnectionId,
        end: ConnectionEnd,
        effects: &mut impl Effects,
    ) -> DisconnectProgress {
        let ConnectionEnd { wants_answers, missed_last } = end;
        let Some(connection) = self.slot_of(id) else {
            return DisconnectProgress::Done;
        };
        let ended = &mut self.connections[connection];
        ended.pending = None;
        let is_recent = |run: &Run| now.monotonic_us.saturating_sub(run.since_us) < LONGEST_MISS_US;
        if !missed_last
            || ended.first_wait != WaitSlot::NONE
            || ended.open_gaps > 0
            || !self.runs.get(ended.last_assigned).is_some_and(is_recent)
        {
            // It has the job, or the unread output may be packets to it as a client.
            ended.last_assigned = RunSlot::NONE;
        }
        self.report_refused_functions(connection, effects);
        if !self.remove_abilities(now, connection, effects) {
            self.debug_check_invariants();
            return DisconnectProgress::Unfinished;
        }
        // At least one per call, so that repeated calls complete it.
        for count in 0.. {
            match self.connections[connection].first_wait {
                WaitSlot::NONE => break,
                _ if count > 0 && self.is_turn_over() => break,
                wait => self.abandon(wait, effects),
            }
        }
        for count in 0.. {
            match self.connections[connection].first_run {
                RunSlot::NONE => break,
                _ if count > 0 && self.is_turn_over() => break,
                run => {
                    let is_last = run == self.connections[connection].last_assigned;
                    let is_missed = (is_last || self.is_unbegun(run)) && self.may_miss(run);
                    self.requeue(now, run, (!is_missed).then_some(RequeueReason::Disconnected), effects);
                }
            }
        }
        let Connection { first_wait, first_run, open_gaps, .. } = self.connections[connection];
        let progress = if first_wait != WaitSlot::NONE || first_run != RunSlot::NONE {
            DisconnectProgress::Unfinished
        } else if wants_answers && open_gaps > 0 {
            self.connections[connection].gauges.remove_all_functions();
            DisconnectProgress::AwaitsAnswers
        } else {
            let gone = self.connections.remove(connection);
            self.memory_totals.revoked -= gone.revoked_entries();
            self.clients.set(connection, gone.gauges.client_id().as_deref(), None);
            self.rules.forget_connection(connection);
            DisconnectProgress::Done
        };
        self.debug_check_invariants();
        progress
    }

    /// Processes a report of the store. Returns the unprocessed rest, if any: call again with it, after other
    /// connections have run.
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

    /// Answers an invalid request with an error. Like any request, it shows that the peer has not left
    /// without its last job.
    pub fn refuse(&mut self, from: ConnectionId, error: PeerError, effects: &mut impl Effects) {
        self.work_budget.spend(price::REQUEST);
        if let Some(connection) = self.slot_of(from) {
            self.connections[connection].last_assigned = RunSlot::NONE;
            self.say(from, Response::Error(error), effects);
        }
    }

    /// Resets the work spent: a lock hold begins.
    pub fn start_turn(&mut self) {
        self.work_budget.start();
    }

    /// The work spent since [`start_turn`](Self::start_turn), in the unit of [`price`].
    pub fn spent(&self) -> u32 {
        self.work_budget.spent()
    }

    /// Whether the budget is spent since [`start_turn`](Self::start_turn), so that other connections should
    /// run.
    pub fn is_turn_over(&self) -> bool {
        self.work_budget.is_empty()
    }

    /// Processes a request of a connection.
    ///
    /// Returns whether it is complete. If not, make the same call again, before the connection's next request
    /// and after other connections have run.
    pub fn request(&mut self, now: Now, from: ConnectionId, request: &Request<'_>, effects: &mut impl Effects) -> bool {
        let Some(connection) = self.slot_of(from) else {
            return true;
        };
        self.work_budget.spend(price::REQUEST);
        if let Some(pending) = self.connections[connection].pending {
            let is_all = self.go_on(now, connection, pending, effects);
            self.debug_check_invariants();
            return is_all;
        }
        let mut is_all = true;
        self.connections[connection].last_assigned = RunSlot::NONE;
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
                self.connections[connection].set_option(option);
                self.say(from, Response::OptionRes { written }, effects);
            }
            Request::SetClientId { id } => {
                self.rename(now, connection, id, effects);
            }
        }
        self.debug_check_invariants();
        is_all
    }

    /// Resumes a request that takes several lock holds. Returns whether it is complete.
    fn go_on(&mut self, now: Now, connection: ConnectionSlot, pending: Pending, effects: &mut impl Effects) -> bool {
        match pending {
            Pending::Message { job, serial } => self.go_on_telling(connection, job, serial, effects),
            // The rules may have changed since the last lock hold.
            Pending::Grab { kind, at } => {
                self.refresh_rules(now, connection, effects) && self.take_job(now, connection, kind, Some(at), effects)
            }
            Pending::GiveBack { function } => self.give_back(now, connection, function, effects),
        }
    }

    /// Whether incremental work is unfinished. [`timeout`](Self::timeout) continues it, whichever call began
    /// it.
    pub fn has_unfinished(&self) -> bool {
        self.has_undelivered()
            || !self.uncovered.is_empty()
            || self.rules_cursor().is_some()
            || self.loads_cursor.is_some()
    }

    /// Continues all incremental work until the budget is spent.
    pub fn go_on_with_all(&mut self, now: Now, effects: &mut impl Effects) {
        self.go_on_loading(effects);
        self.go_on_with_rules(now, effects);
        self.go_on_covering(now, effects);
        self.deliver_all(effects);
    }

    /// When to call [`timeout`](Self::timeout) next, on the monotonic clock, as far as is known `now`.
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

    /// Handles the passage of time: expires NOOPs, revokes jobs whose workers are late, makes due jobs ready,
    /// and continues incremental work.
    ///
    /// Processes a bounded number of each; [`next_timeout`](Self::next_timeout) tells whether some are left.
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
            let of = &mut self.functions[function];
            of.scheduled[priority].remove(&mut self.jobs, job);
            of.returns = of.returns.wrapping_add(1);
            self.make_ready(now, job, effects);
        }
        self.load_again(now);
        self.go_on_with_all(now, effects);
        self.debug_check_invariants();
    }

    fn slot_of(&self, id: ConnectionId) -> Option<ConnectionSlot> {
        let slot = ConnectionSlot::of(id);
        self.connections.get(slot).filter(|connection| connection.generation == id.generation).map(|_| slot)
    }

    /// Sends a packet and spends its price.
    fn say(&self, to: ConnectionId, response: Response<'_>, effects: &mut impl Effects) {
        self.work_budget.spend(price::of_packet(&response));
        effects.send(to, response);
    }

    fn id_of(&self, connection: ConnectionSlot) -> ConnectionId {
        ConnectionId { slot: connection.number(), generation: self.connections[connection].generation }
    }
}
