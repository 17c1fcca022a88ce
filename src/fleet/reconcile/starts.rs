//! Starting workers: on which host, by which worker, and whether they appeared.

use std::collections::BTreeSet;

use super::super::contract::WorkerId;
use super::fleet::{Fleet, Member, StartState};
use super::{HostMemory, Kind, Memory, Pending, Worker, millis, seconds};

/// Maximum number of workers awaited per host.
const PENDING_MAX: usize = 64;
/// When this many kinds of workers of a host cannot be started, no other kind is tried there either. So a
/// worker that reports other functions each time cannot evade the backoff.
const FAILING_KINDS_MAX: usize = 16;
/// Backoff after a worker did not appear; doubled with each failure, up to [`BACK_OFF_MAX_MS`].
const BACK_OFF_MS: u64 = 30_000;
pub(super) const BACK_OFF_MAX_MS: u64 = 600_000;

impl Memory {
    /// Records that a worker refused to start another one. That one is not awaited, and its kind is in
    /// backoff on the host, as after one that did not appear. The worker's reason is the `problem`, for
    /// people.
    pub fn start_failed(&mut self, host: &str, by: &WorkerId, problem: String, now_ms: u64) {
        let Some(memory) = self.hosts.get_mut(host) else { return };
        if let Some(pending) = memory.give_up(by) {
            memory.fail(pending.kind, now_ms, problem);
        }
    }

    /// Records that a worker exited before it could start another one. That one is not awaited, and this does
    /// not count as a failure.
    pub fn start_not_heard(&mut self, host: &str, by: &WorkerId) {
        if let Some(memory) = self.hosts.get_mut(host) {
            memory.give_up(by);
        }
    }
}

impl HostMemory {
    /// Stops awaiting the last worker that this one was told to start.
    fn give_up(&mut self, by: &WorkerId) -> Option<Pending> {
        let index = self.pending.iter().rposition(|pending| pending.by == *by)?;
        Some(self.pending.remove(index))
    }

    /// Records a failed start of a kind of worker. Concurrent failures count once.
    fn fail(&mut self, kind: Kind, now: u64, problem: String) {
        let failures = self.failures.entry(kind).or_default();
        if failures.not_before_ms <= now {
            failures.not_before_ms = now.saturating_add(pause(failures.times));
            failures.times = failures.times.saturating_add(1);
        }
        failures.problem = problem;
    }

    /// Whether a worker of a kind is awaited.
    fn awaits(&self, kind: &Kind) -> bool {
        self.pending.iter().any(|pending| pending.kind == *kind)
    }

    /// Whether a worker can be told to start another one.
    fn start_state(&self, worker: &Worker, now: u64) -> StartState {
        match self.failures.iter().find(|(kind, _)| kind.is_of(worker)) {
            // After a failure, only one worker of the kind at a time is tried.
            Some((kind, _)) if self.awaits(kind) => StartState::Retrying,
            Some((_, failures)) if now < failures.not_before_ms => StartState::BackingOff,
            None if self.failures.len() >= FAILING_KINDS_MAX => StartState::BackingOff,
            Some(_) | None => StartState::Ready,
        }
    }
}

impl Kind {
    fn of(worker: &Worker) -> Self {
        let functions = worker.in_use.union(&worker.not_in_use).cloned().collect();
        Self { language: worker.language.clone(), functions }
    }

    fn is_of(&self, worker: &Worker) -> bool {
        self.language == worker.language && self.functions.iter().eq(worker.in_use.union(&worker.not_in_use))
    }
}

/// Checks which of the awaited workers have appeared.
pub(super) fn look_back(fleet: &mut Fleet<'_>) {
    let (observed, now) = (fleet.observed, fleet.now);
    forget_replaced(fleet);
    let mut hosts = std::mem::take(&mut fleet.plan.memory.hosts);
    let known = &fleet.plan.memory.known;
    for (_, worker) in observed.workers.iter().filter(|(id, _)| !known.contains(*id)) {
        let Some(memory) = hosts.get_mut(&worker.host) else { continue };
        let could_do = |function: &String| worker.not_in_use.contains(function) || worker.in_use.contains(function);
        let fits = |(_, pending): &(usize, &Pending)| pending.functions.iter().all(could_do);
        // New code may offer other functions, so a worker of another kind may be the awaited one too.
        let unlike =
            |(_, Pending { kind, .. }): &(usize, &Pending)| (!kind.is_of(worker), kind.language != worker.language);
        let Some((index, _)) = memory.pending.iter().enumerate().filter(fits).min_by_key(unlike) else { continue };
        let pending = memory.pending.remove(index);
        match wrong_version(fleet, worker, &pending) {
            Some(wanted) => {
                let problem =
                    format!("started a worker of {} instead of {wanted}; is the new code installed?", of(worker));
                memory.fail(pending.kind, now, problem);
            }
            None => {
                memory.failures.remove(&pending.kind);
            }
        }
    }
    for memory in hosts.values_mut() {
        for pending in memory.pending.extract_if(.., |pending| pending.until_ms <= now).collect::<Vec<_>>() {
            let timeout = seconds(millis(fleet.desired.start_timeout));
            memory.fail(pending.kind, now, format!("started worker did not register within {timeout}"));
        }
        // A kind is forgotten when it has not been tried for as long as the longest backoff.
        let HostMemory { pending, failures } = memory;
        failures.retain(|kind, failures| {
            now < failures.not_before_ms.saturating_add(BACK_OFF_MAX_MS)
                || pending.iter().any(|pending| pending.kind == *kind)
        });
    }
    hosts.retain(|_, memory| !memory.pending.is_empty() || !memory.failures.is_empty());
    for (host, memory) in &hosts {
        note_start_states(fleet, host, memory);
    }
    fleet.plan.memory.hosts = hosts;
}

/// Determines which workers of a host can be told to start others.
fn note_start_states(fleet: &mut Fleet<'_>, host: &str, memory: &HostMemory) {
    if memory.failures.is_empty() {
        return;
    }
    let workers = fleet.hosts.get(host).map_or(&[][..], |host_state| &host_state.workers);
    for id in workers {
        if let Some(member) = fleet.members.get_mut(id) {
            member.start_state = memory.start_state(member.worker, fleet.now);
        }
    }
}

/// Forgets workers that were to be replaced and are gone. One that is missing only for a moment is not gone
/// yet.
fn forget_replaced(fleet: &mut Fleet<'_>) {
    let (workers, now, unresponsive_timeout) =
        (&fleet.observed.workers, fleet.now, millis(fleet.desired.unresponsive_timeout));
    let memory = &mut fleet.plan.memory;
    let before = std::mem::take(&mut memory.rolling_gone);
    for id in memory.rolling.iter().filter(|id| !workers.contains_key(*id)) {
        memory.rolling_gone.insert(id.clone(), before.get(id).copied().unwrap_or(now));
    }
    let (gone, rolling) = (&mut memory.rolling_gone, &mut memory.rolling);
    gone.retain(|id, since| now.saturating_sub(*since) < unresponsive_timeout || !rolling.remove(id));
}

fn of(worker: &Worker) -> String {
    if worker.version.is_empty() { "no version".to_owned() } else { format!("version {}", worker.version) }
}

/// The desired version of a worker that appeared with another one.
fn wrong_version<'a>(fleet: &Fleet<'a>, worker: &Worker, pending: &Pending) -> Option<&'a str> {
    if pending.functions.is_empty() {
        return fleet.missed_version(worker);
    }
    let mut wanted = pending.functions.iter().filter_map(|function| fleet.version_for(function));
    wanted.find(|version| *version != worker.version)
}

/// Backoff after this many failures, in milliseconds.
pub(super) fn pause(failures: u32) -> u64 {
    BACK_OFF_MS.saturating_mul(1 << failures.min(10)).min(BACK_OFF_MAX_MS)
}

/// Reports the kinds of workers in backoff on each host, and the reason.
pub(super) fn tell_problems(fleet: &mut Fleet<'_>) {
    let stopped = &fleet.desired.stopped_hosts;
    for (host, memory) in fleet.plan.memory.hosts.iter().filter(|(host, _)| !stopped.contains(*host)) {
        for (Kind { language, .. }, failures) in &memory.failures {
            let of = if language.is_empty() { String::new() } else { format!(" ({language})") };
            let line = match failures.not_before_ms.saturating_sub(fleet.now) {
                0 => format!("{host}{of}: {}", failures.problem),
                pause => format!("{host}{of}: {}, next try in {}", failures.problem, seconds(pause)),
            };
            fleet.plan.unmet.push(line);
        }
    }
}

/// Whether no start of a worker's kind has failed on its host, or the time for the next attempt has come.
pub(super) fn is_ready(fleet: &Fleet<'_>, id: &WorkerId) -> bool {
    fleet.members.get(id).is_some_and(|member| member.start_state == StartState::Ready)
}

/// Whether a worker is awaited on a host.
pub(super) fn is_awaiting(fleet: &Fleet<'_>, host: &str) -> bool {
    fleet.plan.memory.hosts.get(host).is_some_and(|memory| !memory.pending.is_empty())
}

/// Whether a host is full. A successor may use the surge.
pub(super) fn is_full(fleet: &Fleet<'_>, host: &str, is_successor: bool) -> bool {
    let pending = fleet.plan.memory.hosts.get(host).map_or(0, |memory| memory.pending.len());
    let population = fleet.hosts.get(host).map_or(0, |host_state| host_state.population);
    let limit = if is_successor { fleet.limit(host) } else { fleet.desired.max_workers(host) };
    population.saturating_add(pending) >= limit || pending >= PENDING_MAX
}

/// The worker of a host that is told to start one with a function now, if one is ready for that.
pub(super) fn starter<'a>(fleet: &Fleet<'a>, host: &str, function: &str) -> Option<&'a WorkerId> {
    best_starter(fleet, host, function, |member| member.start_state == StartState::Ready)
}

/// Whether a worker of a host can run a function, so that it can start another one now or later.
pub(super) fn has_starter(fleet: &Fleet<'_>, host: &str, function: &str) -> bool {
    best_starter(fleet, host, function, |_| true).is_some()
}

/// The worker of a host whose copy is the best for a function: preferably one of the right version, since its
/// copy certainly has the function.
fn best_starter<'a>(
    fleet: &Fleet<'a>,
    host: &str,
    function: &str,
    can_start: impl Fn(&Member<'_>) -> bool,
) -> Option<&'a WorkerId> {
    let mut any = None;
    for id in &fleet.hosts.get(host)?.workers {
        let Some(member) = fleet.members.get(id).filter(|m| m.answers() && can_start(m)) else { continue };
        let is_right = fleet.is_right(&member.worker.version, function);
        if (is_right || any.is_none()) && member.could_do(function) {
            if is_right {
                return Some(id);
            }
            any = Some(*id);
        }
    }
    any
}

/// Number of workers awaited for a function on a host.
pub(super) fn pending_on(fleet: &Fleet<'_>, function: &str, host: &str) -> usize {
    fleet.plan.memory.hosts.get(host).map_or(0, |memory| for_function(memory, function))
}

/// Number of workers awaited for a function, on all hosts where it is allowed.
pub(super) fn pending(fleet: &Fleet<'_>, function: &str) -> usize {
    let is_for = |host: &str| fleet.desired.functions.get(function).is_some_and(|function| function.is_for(host));
    let hosts = fleet.plan.memory.hosts.iter().map(|(host, memory)| (host, for_function(memory, function)));
    hosts.filter(|(host, pending)| *pending > 0 && is_for(host)).map(|(_, pending)| pending).sum()
}

fn for_function(memory: &HostMemory, function: &str) -> usize {
    memory.pending.iter().filter(|pending| pending.functions.contains(function)).count()
}

/// Assigns another function to an awaited worker, if it may have several functions and its version is right
/// for all of them.
pub(super) fn join(fleet: &mut Fleet<'_>, host: &str, function: &str) -> bool {
    let most = fleet.desired.functions_per_worker;
    let desired = fleet.desired;
    let version = desired.version_for(function);
    let fits_version = |other: &String| match (version, desired.version_for(other)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    let Some(memory) = fleet.plan.memory.hosts.get_mut(host) else { return false };
    let members = &fleet.members;
    let fits = |pending: &&mut Pending| {
        (1..most).contains(&pending.functions.len())
            && !pending.functions.contains(function)
            && pending.functions.iter().all(fits_version)
            && members.get(&pending.by).is_some_and(|by| by.could_do(function))
    };
    memory.pending.iter_mut().find(fits).is_some_and(|pending| pending.functions.insert(function.to_owned()))
}

/// Starts a worker.
pub(super) fn start(fleet: &mut Fleet<'_>, host: &str, by: &WorkerId, function: Option<&str>, why: String) {
    let until_ms = fleet.now.saturating_add(millis(fleet.desired.start_timeout).max(1));
    let functions: BTreeSet<String> = function.map(str::to_owned).into_iter().collect();
    let kind = fleet.observed.workers.get(by).map(Kind::of).unwrap_or_default();
    let mut memory = fleet.plan.memory.hosts.remove(host).unwrap_or_default();
    let is_retry = memory.failures.contains_key(&kind);
    memory.pending.push(Pending { functions, by: by.clone(), kind, until_ms });
    if is_retry {
        note_start_states(fleet, host, &memory);
    }
    fleet.plan.memory.hosts.insert(host.to_owned(), memory);
    fleet.start(host, by, why);
}
