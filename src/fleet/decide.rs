//! What is to be done next for a fleet: a pure function from what is wanted and what is seen to what to do.
//!
//! The monitor looks, calls [`decide`], does all of it, and looks again. Nothing is remembered here but in [`Memory`],
//! which comes in and goes out; a monitor that has lost it begins with an empty one and is right after one `idle` time.

mod filling;
mod fleet;
mod leaving;
mod refusals;
mod rolling;
mod scaling;
mod spreading;
mod starts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use fleet::Fleet;

use super::contract::WorkerId;
use super::desired::Desired;

/// What a monitor sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// When, in milliseconds of a clock that never goes back.
    pub now_ms: u64,
    /// The workers of this fleet.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// The jobs of each function that the server knows.
    pub queues: BTreeMap<String, Queue>,
}

/// A worker, as it said last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    /// Its host.
    pub host: String,
    /// What it is written in.
    pub language: String,
    /// The version of its code.
    pub version: String,
    /// The functions that it does jobs of.
    pub in_use: BTreeSet<String>,
    /// Those that it could do.
    pub not_in_use: BTreeSet<String>,
    /// The functions of the jobs that it runs.
    pub running: BTreeSet<String>,
    /// It is about to end.
    pub is_leaving: bool,
    /// For how long it has not answered, in milliseconds; 0 if it has answered just now.
    pub silent_ms: u64,
}

/// The jobs of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many wait for a worker.
    pub waiting: u64,
    /// How many run.
    pub running: u64,
    /// The age of the oldest that waits, in milliseconds; `None` where the server does not tell.
    pub oldest_ms: Option<u64>,
    /// No worker gets one of them for now, so more workers would not help.
    pub is_paused: bool,
    /// No more of them run at once, 0 for any number.
    pub max_running: u64,
}

/// What is remembered from one decision to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Of each function.
    pub functions: BTreeMap<String, FunctionMemory>,
    /// Since when workers have been without functions, in milliseconds.
    pub spare_since: BTreeMap<WorkerId, u64>,
    /// Of each host.
    pub hosts: BTreeMap<String, HostMemory>,
    /// The workers that were there at the last decision.
    pub known: BTreeSet<WorkerId>,
    /// Workers that are to be replaced whatever their version (`gearmand fleet roll`).
    pub rolling: BTreeSet<WorkerId>,
    /// Since when those of them that are not seen have not been, in milliseconds.
    pub rolling_gone: BTreeMap<WorkerId, u64>,
    /// The host on which workers are being replaced; it is finished before the next one.
    pub replacing: Option<String>,
    /// Of each worker that is being replaced: which functions others have taken over from it, and who.
    pub successors: BTreeMap<WorkerId, BTreeMap<String, WorkerId>>,
    /// The worker that moves to another host, and its function: it goes on until another one does that.
    pub spreading: Option<(String, WorkerId)>,
    /// What workers have refused to do, by their function; see [`Memory::refused`].
    pub refusals: BTreeMap<WorkerId, BTreeMap<String, RefusalMemory>>,
}

/// What is remembered of a worker that refused a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalMemory {
    /// How many times it did.
    pub times: u32,
    /// It is not asked again before.
    pub not_before_ms: u64,
}

impl Memory {
    /// Another desired state is there, or new code: what went wrong before may go well now.
    pub fn forget_failures(&mut self) {
        for host in self.hosts.values_mut() {
            (host.failures, host.not_before_ms, host.problem) = (0, 0, String::new());
        }
    }
}

/// What is remembered of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionMemory {
    /// How many workers it was to have.
    pub target: Option<usize>,
    /// Why so many, for people.
    pub why: String,
    /// How many workers seemed right, and when, as far as `idle` reaches back: falling, since an older and smaller number
    /// never matters again.
    pub recommendations: VecDeque<(u64, usize)>,
    /// When workers were added last.
    pub grown_ms: Option<u64>,
    /// Since when jobs have waited without a pause.
    pub waiting_since_ms: Option<u64>,
}

/// What is remembered of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// Workers that were told to start another one that has not come yet: for what, and until when it is awaited.
    pub pending: Vec<Pending>,
    /// How many of them in a row did not come, or came with a wrong version.
    pub failures: u32,
    /// No other is started before.
    pub not_before_ms: u64,
    /// What was wrong the last time, for people; empty if nothing was.
    pub problem: String,
}

/// A worker that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The functions that it is started for; none for one that replaces a worker without functions.
    pub functions: BTreeSet<String>,
    /// The worker that was told to start it, and is of its kind.
    pub by: WorkerId,
    /// Until when it is awaited.
    pub until_ms: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Let a worker do jobs of a function.
    Register {
        /// Which worker.
        worker: WorkerId,
        /// Of what.
        function: String,
    },
    /// Let a worker do no more jobs of a function.
    Unregister {
        /// Which worker.
        worker: WorkerId,
        /// Of what.
        function: String,
    },
    /// Start a worker.
    Start {
        /// On this host.
        host: String,
        /// By telling this one.
        by: WorkerId,
    },
    /// Let a worker finish and end.
    Exit {
        /// Which worker.
        worker: WorkerId,
    },
}

/// An action and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What.
    #[serde(flatten)]
    pub action: Action,
    /// Why, for people.
    pub why: String,
}

/// What came of looking at a fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What is to be done, in this order.
    pub decisions: Vec<Decision>,
    /// How many workers each function is to have now.
    pub targets: BTreeMap<String, usize>,
    /// How many it has that count.
    pub counted: BTreeMap<String, usize>,
    /// What cannot be reached, and why, for people.
    pub unmet: Vec<String>,
    /// The workers that are to be replaced, those included that were told to end and have not done so yet.
    pub outdated: BTreeSet<WorkerId>,
    /// How many of them are not only about to end: they are still needed, or run a job.
    pub outdated_at_work: usize,
    /// What to remember.
    pub memory: Memory,
}

impl Plan {
    /// Whether the fleet is as it is wanted, as far as that is possible.
    pub fn is_settled(&self) -> bool {
        self.decisions.is_empty()
            && self.outdated_at_work == 0
            && self.memory.hosts.values().all(|host| host.pending.is_empty())
    }
}

/// What is to be done now, and what to remember when it has been done.
///
/// The order of the work matters: what came since the last time, what is wanted, what is to be replaced; then what is
/// added, and only then what is taken away, and that by what workers say and not by what they were told.
pub fn decide(desired: &Desired, observed: &Observed, memory: &Memory) -> Plan {
    let mut fleet = Fleet::new(desired, observed, memory);
    look(&mut fleet);
    choose(&mut fleet);
    fleet.into_plan()
}

/// As [`decide`], for whoever does nothing of it this time: what to remember is what was seen alone. No worker is awaited
/// that nobody was told to start, and no cool-down begins.
pub fn foresee(desired: &Desired, observed: &Observed, memory: &Memory) -> Plan {
    let mut fleet = Fleet::new(desired, observed, memory);
    look(&mut fleet);
    leaving::note_spares(&mut fleet);
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

/// Takes in what has come of what was done before.
fn look(fleet: &mut Fleet<'_>) {
    starts::look_back(fleet);
    refusals::look_back(fleet);
    leaving::stop_hosts(fleet);
    rolling::choose(fleet);
    fleet.count();
}

/// Chooses what is to be done.
fn choose(fleet: &mut Fleet<'_>) {
    scaling::set_targets(fleet);
    spreading::choose(fleet);
    filling::fill(fleet);
    rolling::finish(fleet);
    leaving::drop_moved(fleet);
    leaving::drop_surplus(fleet);
    leaving::let_spares_go(fleet);
    starts::tell_problems(fleet);
}

/// A time in the milliseconds that are used here.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A number and the word for that many.
fn many(number: impl Into<u64>, one: &str) -> String {
    let number = number.into();
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Milliseconds, for people: in whole seconds where it is more than one.
fn seconds(ms: u64) -> String {
    if ms < 1_000 { format!("{ms}ms") } else { format!("{}s", ms / 1_000) }
}
