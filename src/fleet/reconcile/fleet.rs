//! The fleet as it will be after the chosen actions: the working copy of one plan.
//!
//! A removal takes effect in the counts immediately. An addition counts as expected (`Hoped`), and as `sure`
//! only once the worker reports it, so nothing is removed because of an addition that may have been lost.

use std::collections::BTreeMap;

use super::super::contract::WorkerId;
use super::super::desired::Desired;
use super::{Action, Decision, Memory, Observed, Plan, Worker, millis, rolling};

/// State of a worker's assignment to one of the fleet's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AssignmentState {
    /// Counts toward the target.
    Counts,
    /// Was registered just now.
    Hoped,
    /// Runs it until others do, and then drops it.
    Moves(Reason),
    /// Was dropped just now.
    Dropped,
}

/// Why a worker is to drop a function as soon as others run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The function is not allowed on its host.
    Host,
    /// It has more functions than allowed.
    Functions,
    /// It is being replaced.
    Replaced,
    /// Its host has more workers of the function than others.
    Spread,
}

/// Whether a worker is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// Not to be replaced.
    None,
    /// To be replaced later, after others.
    Later,
    /// Being replaced now.
    Now,
}

/// Whether a worker can be told to start another one, in view of failed starts of its kind on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartState {
    /// No start has failed.
    Ready,
    /// A start has failed. The next attempt is later.
    BackingOff,
    /// A start has failed. The next attempt is in progress: a worker of the kind is awaited.
    Retrying,
}

/// A worker, and the decisions about it.
pub(super) struct Member<'a> {
    /// Its observed state.
    pub(super) worker: &'a Worker,
    /// Its functions that belong to the fleet.
    pub(super) ours: BTreeMap<&'a str, AssignmentState>,
    /// Number of its functions, including those outside the desired state. A function that it drops now still
    /// occupies its slot.
    pub(super) slots: usize,
    /// Number of its functions that are not in the desired state.
    pub(super) foreign: usize,
    /// Whether it is exiting, or on a stopped host.
    pub(super) is_leaving: bool,
    /// Whether it has not answered for so long that it no longer counts.
    pub(super) is_forgotten: bool,
    /// Whether it is to be replaced.
    pub(super) replacement: Replacement,
    /// Whether it can be told to start another worker.
    pub(super) start_state: StartState,
    /// Index of its kind on its host, once computed.
    kind: Option<usize>,
}

impl Member<'_> {
    /// Whether it exists and is not about to exit.
    pub(super) fn stays(&self) -> bool {
        !self.is_leaving && !self.is_forgotten
    }

    /// Whether it is to be replaced, now or later.
    pub(super) fn is_outdated(&self) -> bool {
        self.replacement != Replacement::None
    }

    /// Whether it is being replaced.
    pub(super) fn is_replaced(&self) -> bool {
        self.replacement == Replacement::Now
    }

    /// Whether it can receive commands.
    pub(super) fn answers(&self) -> bool {
        self.stays() && self.worker.silent_ms == 0
    }

    /// Whether it can run a function.
    pub(super) fn could_do(&self, function: &str) -> bool {
        self.worker.not_in_use.contains(function) || self.worker.in_use.contains(function)
    }

    /// Whether it is idle: no functions, no running job, and no command given.
    pub(super) fn is_idle(&self) -> bool {
        self.answers() && self.slots == 0 && self.worker.running.is_empty()
    }
}

/// State of a host.
#[derive(Default)]
pub(super) struct HostState<'a> {
    /// All of its workers.
    pub(super) workers: Vec<&'a WorkerId>,
    /// Number of its processes: all workers except forgotten ones.
    pub(super) population: usize,
    /// Whether it has more workers than allowed.
    pub(super) is_crowded: bool,
    /// Number of functions of all its workers.
    pub(super) load: usize,
    /// Number of staying workers per kind; empty until computed.
    kinds: Vec<usize>,
}

/// Worker counts of a function.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FunctionCounts {
    /// Target number.
    pub(super) target: usize,
    /// Workers that count toward the target.
    pub(super) counted: usize,
    /// Those of them that answered the last request, without those registered just now.
    pub(super) sure: usize,
    /// All staying workers that have the function, whether they count or not.
    pub(super) present: usize,
    /// Workers that run a job of it, including those about to exit.
    pub(super) busy: usize,
    /// Staying workers with the function that run a job of any function.
    pub(super) occupied: usize,
    /// Workers that were told to give something up, so that this function can get more with the next plan.
    pub(super) freed: usize,
}

/// The working copy.
pub(super) struct Fleet<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) now: u64,
    pub(super) members: BTreeMap<&'a WorkerId, Member<'a>>,
    pub(super) hosts: BTreeMap<&'a str, HostState<'a>>,
    pub(super) function_counts: BTreeMap<&'a str, FunctionCounts>,
    /// Number of counting workers per function and host.
    pub(super) on_host: BTreeMap<(&'a str, &'a str), usize>,
    /// The host whose workers are being replaced.
    pub(super) replacing: Option<&'a str>,
    pub(super) plan: Plan,
}

impl<'a> Fleet<'a> {
    /// The fleet as observed.
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed, memory: &Memory) -> Self {
        let unresponsive_timeout = millis(desired.unresponsive_timeout);
        let mut members = BTreeMap::new();
        let mut hosts: BTreeMap<&str, HostState<'_>> = BTreeMap::new();
        for (id, worker) in &observed.workers {
            let is_forgotten = worker.silent_ms > unresponsive_timeout;
            let host_state = hosts.entry(&worker.host).or_default();
            host_state.workers.push(id);
            host_state.population += usize::from(!is_forgotten);
            let named = worker.in_use.iter().filter_map(|name| desired.functions.get_key_value(name));
            let ours: BTreeMap<&str, AssignmentState> =
                named.map(|(name, _)| (name.as_str(), AssignmentState::Counts)).collect();
            let member = Member {
                worker,
                slots: worker.in_use.len(),
                foreign: worker.in_use.len() - ours.len(),
                ours,
                is_leaving: worker.is_leaving,
                is_forgotten,
                replacement: Replacement::None,
                start_state: StartState::Ready,
                kind: None,
            };
            members.insert(id, member);
        }
        Self {
            desired,
            observed,
            now: observed.now_ms,
            members,
            hosts,
            function_counts: desired.functions.keys().map(|name| (name.as_str(), FunctionCounts::default())).collect(),
            on_host: BTreeMap::new(),
            replacing: None,
            plan: Plan { memory: memory.clone(), ..Plan::default() },
        }
    }

    /// Determines the assignment state of each worker and function, and counts them.
    pub(super) fn count(&mut self) {
        for member in self.members.values_mut() {
            let host = member.worker.host.as_str();
            let is_replaced = member.is_replaced();
            let mut slots = self.desired.functions_per_worker.saturating_sub(member.foreign);
            for (name, assignment) in &mut member.ours {
                let Some(function) = self.desired.functions.get(*name) else { continue };
                *assignment = if is_replaced {
                    AssignmentState::Moves(Reason::Replaced)
                } else if !function.is_for(host) {
                    AssignmentState::Moves(Reason::Host)
                } else if slots == 0 {
                    AssignmentState::Moves(Reason::Functions)
                } else {
                    slots -= 1;
                    AssignmentState::Counts
                };
            }
            if !member.stays() {
                // A job that still runs on an exiting worker counts as busy: it is load that other workers
                // will have to take over.
                for name in member.worker.running.iter().filter(|_| !member.is_forgotten) {
                    if let Some(counts) = self.function_counts.get_mut(name.as_str()) {
                        counts.busy += 1;
                    }
                }
                continue;
            }
            for (name, assignment) in &member.ours {
                let Some(counts) = self.function_counts.get_mut(name) else { continue };
                counts.present += 1;
                counts.busy += usize::from(member.worker.running.contains(*name));
                counts.occupied += usize::from(!member.worker.running.is_empty());
                if *assignment == AssignmentState::Counts {
                    counts.counted += 1;
                    counts.sure += usize::from(member.answers());
                    *self.on_host.entry((name, host)).or_default() += 1;
                }
            }
            if let Some(host_state) = self.hosts.get_mut(host) {
                host_state.load += member.slots;
            }
        }
        let crowded: Vec<&str> = self.hosts.keys().copied().filter(|host| self.crowd(host) > 0).collect();
        for host in crowded {
            if let Some(host_state) = self.hosts.get_mut(host) {
                host_state.is_crowded = true;
            }
        }
        self.plan.counted =
            self.function_counts.iter().map(|(name, counts)| ((*name).to_owned(), counts.counted)).collect();
    }

    /// Number of workers above the host's limit, without those that leave.
    pub(super) fn crowd(&self, host: &str) -> usize {
        let workers = self.hosts.get(host).map_or(&[][..], |host_state| &host_state.workers);
        let stay = workers.iter().filter(|id| self.members.get(**id).is_some_and(Member::stays)).count();
        stay.saturating_sub(self.limit(host))
    }

    /// Maximum number of workers on a host, including the surge during replacement.
    pub(super) fn limit(&self, host: &str) -> usize {
        let surge = if self.replacing == Some(host) { self.desired.max_surge_per_host.max(1) } else { 0 };
        self.desired.max_workers(host).saturating_add(surge)
    }

    /// Counts of a function.
    pub(super) fn counts(&self, function: &str) -> FunctionCounts {
        self.function_counts.get(function).copied().unwrap_or_default()
    }

    /// Number of counting workers of a function on a host.
    pub(super) fn on(&self, function: &str, host: &str) -> usize {
        self.on_host.get(&(function, host)).copied().unwrap_or(0)
    }

    /// Number of functions of all workers of a host.
    pub(super) fn load(&self, host: &str) -> usize {
        self.hosts.get(host).map_or(0, |host_state| host_state.load)
    }

    /// Lets a worker keep a function until another one runs it.
    pub(super) fn move_away(&mut self, id: &'a WorkerId, function: &'a str, reason: Reason) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.ours.insert(function, AssignmentState::Moves(reason)) == Some(AssignmentState::Counts) {
            let (host, answers) = (member.worker.host.as_str(), member.worker.silent_ms == 0);
            self.count_out(function, host, answers);
        }
    }

    /// Removes a worker from the counts of a function.
    fn count_out(&mut self, function: &'a str, host: &'a str, answers: bool) {
        if let Some(counts) = self.function_counts.get_mut(function) {
            counts.counted -= 1;
            counts.sure -= usize::from(answers);
        }
        let load = self.hosts.get_mut(host).map(|host_state| &mut host_state.load);
        for number in self.on_host.get_mut(&(function, host)).into_iter().chain(load) {
            *number -= 1;
        }
    }

    /// The desired version for workers of a function; `None` for any.
    pub(super) fn version_for(&self, function: &str) -> Option<&'a str> {
        self.desired.version_for(function)
    }

    /// Whether a version is right for a function.
    pub(super) fn is_right(&self, version: &str, function: &str) -> bool {
        self.version_for(function).is_none_or(|wanted| wanted == version)
    }

    /// The desired version for an idle worker, if its own version is wrong for every function that it can
    /// run.
    pub(super) fn missed_version(&self, worker: &Worker) -> Option<&'a str> {
        let names = worker.in_use.union(&worker.not_in_use).filter(|name| self.desired.functions.contains_key(*name));
        let mut first = None;
        for name in names {
            match self.version_for(name).filter(|wanted| *wanted != worker.version) {
                None => return None,
                Some(wanted) => first = first.or(Some(wanted)),
            }
        }
        let of_all = Some(self.desired.version.as_str()).filter(|wanted| !wanted.is_empty());
        of_all.filter(|wanted| *wanted != worker.version).or(first)
    }

    /// Whether a worker is the last of its kind on its host. A kind is a language and a set of functions.
    pub(super) fn is_last_of_kind(&mut self, id: &WorkerId) -> bool {
        let Some(host) = self.members.get(id).map(|member| member.worker.host.as_str()) else { return true };
        self.tell_kinds(host);
        let kind = self.members.get(id).and_then(|member| member.kind);
        let left = kind.and_then(|kind| self.hosts.get(host)?.kinds.get(kind).copied()).unwrap_or(0);
        left <= 1
    }

    /// Determines the kinds of a host's workers, once.
    fn tell_kinds(&mut self, host: &str) {
        let Some(host_state) = self.hosts.get_mut(host).filter(|host_state| host_state.kinds.is_empty()) else {
            return;
        };
        let mut kinds: BTreeMap<(&str, Vec<&str>), usize> = BTreeMap::new();
        for id in &host_state.workers {
            let Some(member) = self.members.get_mut(id) else { continue };
            let functions = member.worker.in_use.union(&member.worker.not_in_use).map(String::as_str).collect();
            let new = kinds.len();
            let kind = *kinds.entry((&member.worker.language, functions)).or_insert(new);
            member.kind = Some(kind);
            host_state.kinds.resize(kinds.len(), 0);
            host_state.kinds[kind] += usize::from(member.answers());
        }
    }

    fn say(&mut self, action: Action, why: String) {
        self.plan.decisions.push(Decision { action, why });
    }

    /// Registers a function on a worker.
    pub(super) fn register(&mut self, id: &'a WorkerId, function: &'a str, why: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.slots += 1;
        member.ours.insert(function, AssignmentState::Hoped);
        *self.on_host.entry((function, &member.worker.host)).or_default() += 1;
        if let Some(host_state) = self.hosts.get_mut(member.worker.host.as_str()) {
            host_state.load += 1;
        }
        if let Some(counts) = self.function_counts.get_mut(function) {
            counts.counted += 1;
        }
        self.say(Action::Register { worker: id.clone(), function: function.to_owned() }, why);
    }

    /// Unregisters a function from a worker.
    pub(super) fn unregister(&mut self, id: &'a WorkerId, function: &'a str, why: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.ours.insert(function, AssignmentState::Dropped) == Some(AssignmentState::Counts) {
            let (host, answers) = (member.worker.host.as_str(), member.worker.silent_ms == 0);
            self.count_out(function, host, answers);
        }
        self.say(Action::Unregister { worker: id.clone(), function: function.to_owned() }, why);
    }

    /// Lets a worker exit. It counts for no function.
    pub(super) fn exit(&mut self, id: &'a WorkerId, why: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        let kind = if member.answers() { member.kind } else { None };
        member.is_leaving = true;
        let kinds = self.hosts.get_mut(member.worker.host.as_str()).map(|host_state| &mut host_state.kinds);
        if let Some(left) = kind.and_then(|kind| kinds?.get_mut(kind)) {
            *left -= 1;
        }
        self.say(Action::Exit { worker: id.clone() }, why);
    }

    /// Starts a worker on a host.
    pub(super) fn start(&mut self, host: &str, by: &WorkerId, why: String) {
        self.say(Action::Start { host: host.to_owned(), by: by.clone() }, why);
    }

    /// Creates the plan.
    pub(super) fn into_plan(mut self) -> Plan {
        self.plan.targets =
            self.function_counts.iter().map(|(name, counts)| ((*name).to_owned(), counts.target)).collect();
        let is_outdated = |(id, member): &(&&WorkerId, &Member<'_>)| {
            !member.is_forgotten
                && (member.is_outdated() || member.is_leaving && rolling::is_leftover(&self, id, member))
        };
        let outdated: Vec<(&WorkerId, bool)> = (self.members.iter().filter(is_outdated))
            .map(|(id, member)| (*id, !member.is_leaving || !member.worker.running.is_empty()))
            .collect();
        self.plan.outdated_at_work = outdated.iter().filter(|(_, is_at_work)| *is_at_work).count();
        self.plan.outdated = outdated.into_iter().map(|(id, _)| id.clone()).collect();
        self.plan.memory.known = self.observed.workers.keys().cloned().collect();
        self.plan
    }
}
