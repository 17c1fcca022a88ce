//! Workers that are started: where, by telling whom, and whether they came.

use std::collections::BTreeSet;

use super::super::contract::WorkerId;
use super::fleet::Fleet;
use super::{HostMemory, Memory, Pending, Worker, millis, seconds};

/// So many workers are awaited on one host at a time.
const PENDING_MAX: usize = 64;
/// How long no worker is started after one did not come; doubled each time, up to [`BACK_OFF_MAX_MS`].
const BACK_OFF_MS: u64 = 30_000;
pub(super) const BACK_OFF_MAX_MS: u64 = 600_000;

impl Memory {
    /// Remembers that a worker refused to start another one: that one is not awaited, and none is started on the host for
    /// some time, as when one did not come. What the worker said is the `problem`, for people.
    pub fn start_failed(&mut self, host: &str, by: &WorkerId, problem: String, now_ms: u64) {
        self.start_not_heard(host, by);
        fail(self.hosts.entry(host.to_owned()).or_default(), now_ms, problem);
    }

    /// Remembers that a worker had ended before it could start another one: that one is not awaited, and nothing has failed.
    pub fn start_not_heard(&mut self, host: &str, by: &WorkerId) {
        let Some(memory) = self.hosts.get_mut(host) else { return };
        if let Some(index) = memory.pending.iter().rposition(|pending| pending.by == *by) {
            memory.pending.remove(index);
        }
    }
}

/// Looks which of the workers that were to come have come.
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
                let problem = format!("it starts workers of {}, not {wanted}: is the new code there?", of(worker));
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
            fail(memory, now, format!("a worker that was started did not come within {timeout}"));
        }
    }
    // A host is forgotten when nothing has been tried on it for as long as the longest pause.
    hosts.retain(|_, memory| {
        !memory.pending.is_empty() || memory.failures > 0 && now < memory.not_before_ms.saturating_add(BACK_OFF_MAX_MS)
    });
    fleet.plan.memory.hosts = hosts;
}

/// Forgets those that were to be replaced and are gone. One that is not seen for a moment is not gone yet.
fn forget_replaced(fleet: &mut Fleet<'_>) {
    let (workers, now, forget_after) = (&fleet.observed.workers, fleet.now, millis(fleet.desired.forget_after));
    let memory = &mut fleet.plan.memory;
    let before = std::mem::take(&mut memory.rolling_gone);
    for id in memory.rolling.iter().filter(|id| !workers.contains_key(*id)) {
        memory.rolling_gone.insert(id.clone(), before.get(id).copied().unwrap_or(now));
    }
    let (gone, rolling) = (&mut memory.rolling_gone, &mut memory.rolling);
    gone.retain(|id, since| now.saturating_sub(*since) < forget_after || !rolling.remove(id));
}

fn of(worker: &Worker) -> String {
    if worker.version.is_empty() { "no version".to_owned() } else { format!("version {}", worker.version) }
}

/// The version that a worker was to have that came with another.
fn wrong_version<'a>(fleet: &Fleet<'a>, worker: &Worker, pending: &Pending) -> Option<&'a str> {
    if pending.functions.is_empty() {
        return fleet.missed_version(worker);
    }
    let mut wanted = pending.functions.iter().filter_map(|function| fleet.version_for(function));
    wanted.find(|version| *version != worker.version)
}

/// How long not to try what has failed so many times before, in milliseconds.
pub(super) fn pause(failures: u32) -> u64 {
    BACK_OFF_MS.saturating_mul(1 << failures.min(10)).min(BACK_OFF_MAX_MS)
}

/// Remembers that a host did not start a worker as it should. What fails together fails once.
fn fail(memory: &mut HostMemory, now: u64, problem: String) {
    if memory.not_before_ms <= now {
        memory.not_before_ms = now.saturating_add(pause(memory.failures));
        memory.failures = memory.failures.saturating_add(1);
    }
    memory.problem = problem;
}

/// Says which hosts start no workers, and why, as long as that is so.
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

/// Whether a host starts no workers for now.
pub(super) fn is_backing_off(fleet: &Fleet<'_>, host: &str) -> bool {
    fleet.plan.memory.hosts.get(host).is_some_and(|memory| {
        // One that has failed is tried with one worker first.
        fleet.now < memory.not_before_ms || memory.failures > 0 && !memory.pending.is_empty()
    })
}

/// Whether a worker is to come on a host.
pub(super) fn is_awaiting(fleet: &Fleet<'_>, host: &str) -> bool {
    fleet.plan.memory.hosts.get(host).is_some_and(|memory| !memory.pending.is_empty())
}

/// Whether a host has no place for another worker; there is more for one that takes another's place.
pub(super) fn is_full(fleet: &Fleet<'_>, host: &str, is_successor: bool) -> bool {
    let pending = fleet.plan.memory.hosts.get(host).map_or(0, |memory| memory.pending.len());
    let population = fleet.places.get(host).map_or(0, |place| place.population);
    let limit = if is_successor { fleet.limit(host) } else { fleet.desired.max_workers(host) };
    population.saturating_add(pending) >= limit || pending >= PENDING_MAX
}

/// The worker of a host that can be told to start another one that can do a function: one of the right version if there is
/// one, since it surely can.
pub(super) fn starter<'a>(fleet: &Fleet<'a>, host: &str, function: &str) -> Option<&'a WorkerId> {
    let mut any = None;
    for id in &fleet.places.get(host)?.workers {
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

/// How many workers are to come for a function on a host.
pub(super) fn pending_on(fleet: &Fleet<'_>, function: &str, host: &str) -> usize {
    fleet.plan.memory.hosts.get(host).map_or(0, |memory| for_function(memory, function))
}

/// How many workers are to come for a function, on all hosts that are right for it.
pub(super) fn pending(fleet: &Fleet<'_>, function: &str) -> usize {
    let is_for = |host: &str| fleet.desired.functions.get(function).is_some_and(|function| function.is_for(host));
    let hosts = fleet.plan.memory.hosts.iter().map(|(host, memory)| (host, for_function(memory, function)));
    hosts.filter(|(host, pending)| *pending > 0 && is_for(host)).map(|(_, pending)| pending).sum()
}

fn for_function(memory: &HostMemory, function: &str) -> usize {
    memory.pending.iter().filter(|pending| pending.functions.contains(function)).count()
}

/// Lets a worker that is to come anyway do one more function, if it can do more than one at a time and is right for all.
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
