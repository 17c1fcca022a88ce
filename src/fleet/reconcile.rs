//! Reconciliation: a pure function from the desired and the observed state to a plan.
//!
//! The monitor observes, calls [`reconcile`], carries out the plan, and repeats. The only state is
//! [`Memory`], which is passed in and returned. A monitor that has lost it starts with an empty one and is
//! correct again after one `scale_down_after` time.

mod fleet;
mod placement;
mod refusals;
mod rolling;
mod scale_down;
mod scaling;
mod spreading;
mod starts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use fleet::Fleet;

use super::contract::WorkerId;
use super::desired::Desired;

/// State of the fleet as observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Time of the observation, in milliseconds of a monotonic clock.
    pub now_ms: u64,
    /// Workers of this fleet.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// Jobs of each function that the server knows.
    pub queues: BTreeMap<String, Queue>,
}

/// A worker, according to its last status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    /// Its host.
    pub host: String,
    /// Implementation language.
    pub language: String,
    /// Version of its code.
    pub version: String,
    /// Functions in use.
    pub in_use: BTreeSet<String>,
    /// Functions that it can run, but that are not in use.
    pub not_in_use: BTreeSet<String>,
    /// Functions of its running jobs.
    pub running: BTreeSet<String>,
    /// Whether it is about to exit.
    pub is_leaving: bool,
    /// How long it has not answered, in milliseconds; 0 if it has just answered.
    pub silent_ms: u64,
}

/// Jobs of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Number of jobs waiting for a worker.
    pub waiting: u64,
    /// Number of running jobs.
    pub running: u64,
    /// Age of the oldest waiting job, in milliseconds; `None` if the server does not report it.
    pub oldest_ms: Option<u64>,
    /// Whether the function is paused, so that more workers would not help.
    pub is_paused: bool,
    /// Limit of running jobs; 0 for none.
    pub max_running: u64,
}

/// State that is kept from one plan to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Per function.
    pub functions: BTreeMap<String, FunctionMemory>,
    /// Since when workers have been idle (without functions), in milliseconds.
    pub idle_since: BTreeMap<WorkerId, u64>,
    /// Per host.
    pub hosts: BTreeMap<String, HostMemory>,
    /// Workers that existed at the last plan.
    pub known: BTreeSet<WorkerId>,
    /// Workers to be replaced whatever their version (`gearmand fleet roll`).
    pub rolling: BTreeSet<WorkerId>,
    /// Since when workers in `rolling` have not been observed, in milliseconds.
    pub rolling_gone: BTreeMap<WorkerId, u64>,
    /// The host whose workers are being replaced. It is finished before the next one starts.
    pub replacing: Option<String>,
    /// For each worker that is being replaced: the functions that others have taken over from it, and which
    /// worker did.
    pub successors: BTreeMap<WorkerId, BTreeMap<String, WorkerId>>,
    /// The function and the worker that is being moved to another host. It keeps the function until another
    /// worker runs it.
    pub spreading: Option<(String, WorkerId)>,
    /// Refusals of workers, by function; see [`Memory::refused`].
    pub refusals: BTreeMap<WorkerId, BTreeMap<String, RefusalMemory>>,
}

/// A worker's refusals of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalMemory {
    /// Number of refusals.
    pub times: u32,
    /// Time before which it is not asked again.
    pub not_before_ms: u64,
}

impl Memory {
    /// Forgets failures, since with another desired state or new code the next attempt may succeed.
    pub fn forget_failures(&mut self) {
        for host in self.hosts.values_mut() {
            host.failures.clear();
        }
    }
}

/// State of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionMemory {
    /// Target number of workers.
    pub target: Option<usize>,
    /// Reason for the target, for people.
    pub why: String,
    /// Recommended numbers of workers with their times, back to `scale_down_after`. The numbers decrease,
    /// since an older and smaller number can never become the maximum.
    pub recommendations: VecDeque<(u64, usize)>,
    /// When workers were last added.
    pub grown_ms: Option<u64>,
    /// Since when jobs have been waiting without interruption.
    pub waiting_since_ms: Option<u64>,
}

/// State of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// Requested workers that have not appeared yet: for which functions, and until when they are awaited.
    pub pending: Vec<Pending>,
    /// The kinds of workers whose last start failed. Other kinds are started meanwhile.
    pub failures: BTreeMap<Kind, StartFailures>,
}

/// A kind of worker: what a worker and the one that it was told to start have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Implementation language.
    pub language: String,
    /// All functions that it can run.
    pub functions: BTreeSet<String>,
}

/// Failed starts of a kind of worker on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartFailures {
    /// Number of consecutive starts that failed: the worker did not appear, or had a wrong version.
    pub times: u32,
    /// Time before which no other worker of the kind is started.
    pub not_before_ms: u64,
    /// The last problem, for people.
    pub problem: String,
}

/// A worker that was requested and has not appeared yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Functions that it is started for; none for one that replaces a worker without functions.
    pub functions: BTreeSet<String>,
    /// The worker that was told to start it.
    pub by: WorkerId,
    /// Kind of both.
    pub kind: Kind,
    /// Time until which it is awaited.
    pub until_ms: u64,
}

/// An action on the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Take a function into use on a worker.
    Register {
        /// The worker.
        worker: WorkerId,
        /// The function.
        function: String,
    },
    /// Take a function out of use on a worker.
    Unregister {
        /// The worker.
        worker: WorkerId,
        /// The function.
        function: String,
    },
    /// Start a worker.
    Start {
        /// Its host.
        host: String,
        /// The existing worker that is told to start it.
        by: WorkerId,
    },
    /// Let a worker finish its job and exit.
    Exit {
        /// The worker.
        worker: WorkerId,
    },
}

/// An action and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The action.
    #[serde(flatten)]
    pub action: Action,
    /// Its reason, for people.
    pub why: String,
}

/// Result of a reconciliation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Actions, in this order.
    pub decisions: Vec<Decision>,
    /// Target number of workers per function.
    pub targets: BTreeMap<String, usize>,
    /// Number of workers that count, per function.
    pub counted: BTreeMap<String, usize>,
    /// Goals that cannot be reached, and why, for people.
    pub unmet: Vec<String>,
    /// Workers to be replaced, including those that were told to exit and have not exited yet.
    pub outdated: BTreeSet<WorkerId>,
    /// Number of those that are still needed or run a job, and are not merely about to exit.
    pub outdated_at_work: usize,
    /// State for the next plan.
    pub memory: Memory,
}

impl Plan {
    /// Whether the fleet matches the desired state, as far as possible.
    pub fn is_settled(&self) -> bool {
        self.decisions.is_empty()
            && self.outdated_at_work == 0
            && self.memory.hosts.values().all(|host| host.pending.is_empty())
    }
}

/// Makes the plan, including the memory for the time after its execution.
///
/// The order of the steps matters: first the changes since the last plan, the targets, and the workers to be
/// replaced; then additions; and only then removals, based on what workers report and not on what they were
/// told.
pub fn reconcile(desired: &Desired, observed: &Observed, memory: &Memory) -> Plan {
    let mut fleet = Fleet::new(desired, observed, memory);
    look(&mut fleet);
    choose(&mut fleet);
    fleet.into_plan()
}

/// Dry run of [`reconcile`]: the plan is not executed, so the memory contains only observations. No worker is
/// awaited that was not requested, and no cool-down starts.
pub fn dry_run(desired: &Desired, observed: &Observed, memory: &Memory) -> Plan {
    let mut fleet = Fleet::new(desired, observed, memory);
    look(&mut fleet);
    scale_down::note_idle_workers(&mut fleet);
    let seen = fleet.plan.memory.clone();
    choose(&mut fleet);
    let mut plan = fleet.into_plan();
    let of_functions = std::mem::take(&mut plan.memory.functions);
    let known = std::mem::take(&mut plan.memory.known);
    let as_before = |(name, after): (String, FunctionMemory)| {
        let before = seen.functions.get(&name).cloned().unwrap_or_default();
        let FunctionMemory { recommendations, waiting_since_ms, .. } = after;
        (name, FunctionMemory { recommendations, waiting_since_ms, ..before })
    };
    let functions = of_functions.into_iter().map(as_before).collect();
    plan.memory = Memory { functions, known, ..seen };
    plan
}

/// Evaluates the results of earlier actions.
fn look(fleet: &mut Fleet<'_>) {
    starts::look_back(fleet);
    refusals::look_back(fleet);
    scale_down::stop_hosts(fleet);
    rolling::choose(fleet);
    fleet.count();
}

/// Chooses the actions.
fn choose(fleet: &mut Fleet<'_>) {
    scaling::set_targets(fleet);
    spreading::choose(fleet);
    placement::fill(fleet);
    rolling::finish(fleet);
    scale_down::drop_moved(fleet);
    scale_down::drop_surplus(fleet);
    scale_down::stop_idle_workers(fleet);
    starts::tell_problems(fleet);
}

/// Converts a time to milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A number with its noun in singular or plural.
fn many(number: impl Into<u64>, one: &str) -> String {
    let number = number.into();
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Formats milliseconds for people: in whole seconds from one second on.
fn seconds(ms: u64) -> String {
    if ms < 1_000 { format!("{ms}ms") } else { format!("{}s", ms / 1_000) }
}
