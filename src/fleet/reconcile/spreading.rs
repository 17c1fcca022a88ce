//! Spreading: balances the workers of a function over its hosts, also after a host has come back.
//!
//! One worker moves at a time, in the same way as a worker on a host that is not allowed: it keeps its
//! function until another one runs it, on the host with the fewest. Each move makes the numbers of the
//! function's workers per host more equal, or leaves them and makes the numbers of all functions per host
//! more equal. So the moves terminate.

use super::super::contract::WorkerId;
use super::fleet::{AssignmentState, Fleet, Reason};
use super::placement::{self, Free};
use super::{refusals, starts};

/// Chooses the worker that moves.
pub(super) fn choose(fleet: &mut Fleet<'_>) {
    let before = fleet.plan.memory.spreading.take();
    // Successors belong on the same host, and the available workers are needed for missing ones.
    if fleet.replacing.is_some() || !fleet.plan.memory.rolling.is_empty() {
        return;
    }
    let begun = before.as_ref().and_then(|(name, id)| begun(fleet, name, id));
    let Some((name, id)) = begun.or_else(|| next(fleet)) else { return };
    fleet.plan.memory.spreading = Some((name.to_owned(), id.clone()));
    fleet.move_away(id, name, Reason::Spread);
}

/// The move in progress, if it still makes sense.
fn begun<'a>(fleet: &Fleet<'a>, name: &str, id: &WorkerId) -> Option<(&'a str, &'a WorkerId)> {
    let (name, _) = fleet.desired.functions.get_key_value(name)?;
    let (id, member) = fleet.members.get_key_value(id)?;
    if !member.answers() || member.ours.get(name.as_str()) != Some(&AssignmentState::Counts) {
        return None;
    }
    let from = member.worker.host.as_str();
    let has_come = || fleet.counts(name).sure > fleet.counts(name).target;
    let can_come = || targets(fleet, &placement::free(fleet), name).iter().any(|to| is_better(fleet, name, from, to));
    (has_come() || can_come()).then_some((name, *id))
}

/// The next move, unless a worker is awaited.
fn next<'a>(fleet: &Fleet<'a>) -> Option<(&'a str, &'a WorkerId)> {
    if fleet.plan.memory.hosts.values().any(|memory| !memory.pending.is_empty()) {
        return None;
    }
    let least = fleet.hosts.values().map(|host_state| host_state.load).min().unwrap_or(0);
    let uneven: Vec<&str> =
        fleet.desired.functions.keys().map(String::as_str).filter(|name| is_uneven(fleet, least, name)).collect();
    if uneven.is_empty() {
        return None;
    }
    let free = placement::free(fleet);
    uneven.into_iter().find_map(|name| {
        let load = |host: &str| (fleet.on(name, host), fleet.load(host));
        let to = targets(fleet, &free, name).into_iter().min_by_key(|host| load(host))?;
        let mut sources: Vec<&str> =
            fleet.hosts.keys().copied().filter(|from| is_better(fleet, name, from, to)).collect();
        sources.sort_by_key(|host| std::cmp::Reverse(load(host)));
        sources.into_iter().find_map(|from| Some((name, mover(fleet, name, from)?)))
    })
}

/// Whether a function has reached its target, and moving one of its workers would balance its hosts better.
/// `least` is the lowest load of all hosts.
fn is_uneven<'a>(fleet: &Fleet<'a>, least: usize, name: &'a str) -> bool {
    let counts = fleet.counts(name);
    if (counts.sure, counts.counted) != (counts.target, counts.target) {
        return false;
    }
    let of_function = fleet.on_host.range((name, "")..).take_while(|((other, _), _)| *other == name);
    let most = of_function.map(|((_, host), count)| (*count, fleet.load(host), *host)).max();
    let Some((count, load, from)) = most.filter(|(count, ..)| *count > 0) else { return false };
    // Most functions have at most one worker per host: this check is fast for many hosts.
    if count == 1 && load < least + 2 {
        return false;
    }
    let to = open(fleet, name).min_by_key(|host| (fleet.on(name, host), fleet.load(host)));
    to.is_some_and(|to| is_better(fleet, name, from, to))
}

/// The worker that gives up the function on a host, preferably an idle one.
fn mover<'a>(fleet: &Fleet<'a>, name: &str, host: &str) -> Option<&'a WorkerId> {
    let workers = fleet.hosts.get(host)?.workers.iter().copied();
    let does = |id: &&WorkerId| {
        fleet.members.get(*id).is_some_and(|member| {
            member.answers() && !member.is_outdated() && member.ours.get(name) == Some(&AssignmentState::Counts)
        })
    };
    let is_busy = |id: &&WorkerId| fleet.members.get(*id).is_some_and(|member| !member.worker.running.is_empty());
    workers.filter(does).min_by_key(is_busy)
}

/// The hosts that may have one more worker of a function.
fn open<'f, 'a>(fleet: &'f Fleet<'a>, name: &str) -> impl Iterator<Item = &'a str> + use<'f, 'a> {
    let function = fleet.desired.functions.get(name);
    let is_allowed = move |host: &str| function.is_some_and(|function| function.is_for(host));
    let hosts = fleet.hosts.iter().filter(|(_, host_state)| !host_state.is_crowded).map(|(host, _)| *host);
    hosts.filter(move |host| is_allowed(host) && !fleet.desired.stopped_hosts.contains(*host))
}

/// The hosts where one more worker can run a function now: an available one, otherwise one that is awaited or
/// can be started. None is started while one is available.
fn targets<'a>(fleet: &Fleet<'a>, free: &Free<'a>, name: &str) -> Vec<&'a str> {
    let awaited: Vec<&str> = open(fleet, name).filter(|host| starts::pending_on(fleet, name, host) > 0).collect();
    if !awaited.is_empty() {
        return awaited;
    }
    let lacking: Vec<&str> = fleet
        .function_counts
        .iter()
        .filter(|(_, counts)| counts.counted < counts.target)
        .map(|(name, _)| *name)
        .collect();
    let can_take = |host: &str| {
        let workers = free.get(host).into_iter().flatten();
        workers.map(|(_, id)| *id).filter(|id| placement::can_take(fleet, id, name)).collect::<Vec<_>>()
    };
    let is_for = |other: &str, host: &str| fleet.desired.functions.get(other).is_some_and(|other| other.is_for(host));
    let is_lacked = |host: &str, id: &WorkerId| {
        let mut others = lacking.iter().filter(|other| **other != name && is_for(other, host));
        others.any(|other| placement::can_take(fleet, id, other))
    };
    let with_free: Vec<(&str, Vec<&WorkerId>)> =
        open(fleet, name).map(|host| (host, can_take(host))).filter(|(_, workers)| !workers.is_empty()).collect();
    if !with_free.is_empty() {
        // Do not take workers that another function lacks.
        let is_open = |(host, workers): &(&str, Vec<&WorkerId>)| workers.iter().any(|id| !is_lacked(host, id));
        return with_free.into_iter().filter(is_open).map(|(host, _)| host).collect();
    }
    if lacking.iter().any(|other| *other != name) {
        return Vec::new();
    }
    open(fleet, name).filter(|host| can_start(fleet, name, host)).collect()
}

fn can_start(fleet: &Fleet<'_>, name: &str, host: &str) -> bool {
    let by = starts::starter(fleet, host, name).and_then(|id| fleet.members.get(id));
    // The worker that it would start is useless if its version is wrong.
    by.is_some_and(|by| fleet.is_right(&by.worker.version, name))
        && !starts::is_full(fleet, host, false)
        && !refusals::is_hopeless(fleet, host, name)
}

/// Whether moving a worker of a function from one host to the other improves the balance.
fn is_better(fleet: &Fleet<'_>, name: &str, from: &str, to: &str) -> bool {
    match fleet.on(name, from).saturating_sub(fleet.on(name, to)) {
        0 => false,
        1 => fleet.load(from) >= fleet.load(to) + 2,
        _ => true,
    }
}
