//! Starting workers: on which host, by which worker, and whether they appeared.

use std::collections::BTreeSet;

use super::super::contract::WorkerId;
use super::fleet::Fleet;
use super::{HostMemory, Memory, Pending, Worker, millis, seconds};

/// Maximum number of workers awaited per host.
const PENDING_MAX: usize = 64;
/// Backoff after a worker did not appear; doubled with each failure, up to [`BACK_OFF_MAX_MS`].
const BACK_OFF_MS: u64 = 30_000;
pub(super) const BACK_OFF_MAX_MS: u64 = 600_000;

impl Memory {
    /// Records that a worker refused to start another one. That one is not awaited, and the host is in
    /// backoff, as after one that did not appear. The worker's reason is the `problem`, for people.
    pub fn start_failed(&mut self, host: &str, by: &WorkerId, problem: String, now_ms: u64) {
        self.start_not_heard(host, by);
        fail(self.hosts.entry(host.to_owned()).or_default(), now_ms, problem);
    }

    /// Records that a worker exited before it could start another one. That one is not awaited, and this does
    /// not count as a failure.
    pub fn start_not_heard(&mut self, host: &str, by: &WorkerId) {
        let Some(memory) = self.hosts.get_mut(host) else { return };
        if let Some(index) = memory.pending.iter().rposition(|pending| pending.by == *by) {
            memory.pending.remove(index);
        }
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
        let Some(index) = memory.pending.iter().position(|pending| pending.functions.iter().all(could_do)) else {
            continue;
        };
        let pending = memory.pending.remove(index);
        match wrong_version(fleet, worker, &pending) {
            Some(wanted) => {
                let problem =
                    format!("started a worker of {} instead of {wanted}; is the new code installed?", of(worker));
                fail(memory, now, problem);
            }
            None => *memory = HostMemory { pending: std::mem::take(&mut memory.pending), ..HostMemory::default() },
        }
    }
    for memory in hosts.values_mut() {
        let awaited = memory.pending.len();
        memory.pending.retain(|pending| pending.until_ms > now);
        if memory.pending.len() < awaited {
            let timeout = seconds(millis(fleet.desired.start_timeout));
            fail(memory, now, format!("started worker did not register within {timeout}"));
        }
    }
    // A host is forgotten when nothing has been tried on it for as long as the longest backoff.
    hosts.retain(|_, memory| {
        !memory.pending.is_empty() || memory.failures > 0 && now < memory.not_before_ms.saturating_add(BACK_OFF_MAX_MS)
    });
    fleet.plan.memory.hosts = hosts;
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

/// Records a failed start on a host. Concurrent failures count once.
fn fail(memory: &mut HostMemory, now: u64, problem: String) {
    if memory.not_before_ms <= now {
        memory.not_before_ms = now.saturating_add(pause(memory.failures));
        memory.failures = memory.failures.saturating_add(1);
    }
    memory.problem = problem;
}

/// Reports hosts in backoff and the reason.
pub(super) fn tell_problems(fleet: &mut Fleet<'_>) {
    for (host, memory) in &fleet.plan.memory.hosts {
        if memory.failures == 0 || fleet.desired.stopped_hosts.contains(host) {
            continue;
        }
        let line = match memory.not_before_ms.saturating_sub(fleet.now) {
            0 => format!("{host}: {}", memory.problem),
            pause => format!("{host}: {}, next try in {}", memory.problem, seconds(pause)),
        };
        fleet.plan.unmet.push(line);
    }
}

/// Whether a host is in backoff.
pub(super) fn is_backing_off(fleet: &Fleet<'_>, host: &str) -> bool {
    fleet.plan.memory.hosts.get(host).is_some_and(|memory| {
        // After a failure, only one worker at a time is tried.
        fleet.now < memory.not_before_ms || memory.failures > 0 && !memory.pending.is_empty()
    })
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

/// The worker of a host that is told to start one with a function: preferably one of the right version, since
/// its copy certainly has the function.
pub(super) fn starter<'a>(fleet: &Fleet<'a>, host: &str, function: &str) -> Option<&'a WorkerId> {
    let mut any = None;
    for id in &fleet.hosts.get(host)?.workers {
        let Some(member) = fleet.members.get(id).filter(|member| member.answers()) else { continue };
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
    let pending = Pending { functions, by: by.clone(), until_ms };
    fleet.plan.memory.hosts.entry(host.to_owned()).or_default().pending.push(pending);
    fleet.start(host, by, why);
}
