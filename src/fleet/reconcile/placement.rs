//! Placement: assigns workers to functions that lack them, idle workers first, then new ones.
//!
//! All functions get their required minimum before any function gets its full target.

use std::collections::{BTreeMap, BTreeSet};

use super::super::contract::WorkerId;
use super::fleet::{AssignmentState, Fleet, Member, Reason};
use super::{many, refusals, rolling, starts};

/// Maximum number of hosts that are named in a message.
const NAMED: usize = 5;

/// Available workers per host, ordered by the number of functions they have.
pub(super) type Free<'a> = BTreeMap<&'a str, BTreeSet<(usize, &'a WorkerId)>>;

/// Assigns workers to all functions.
pub(super) fn fill(fleet: &mut Fleet<'_>) {
    let mut free = free(fleet);
    let names: Vec<&str> = fleet.function_counts.keys().copied().collect();
    // Successors of workers that are being replaced are placed on the same host, before other functions take
    // the room.
    let mut awaited = BTreeMap::new();
    for name in &names {
        let target = fleet.counts(name).target;
        awaited.insert(*name, replace(fleet, &mut free, name, target));
    }
    for must in [true, false] {
        for name in &names {
            let wanted = wanted(fleet, name, must);
            let awaited = awaited.get(name).copied().unwrap_or(0);
            if fleet.counts(name).counted + awaited >= wanted || !must && wanted == self::wanted(fleet, name, true) {
                continue;
            }
            register(fleet, &mut free, name, wanted - awaited, None);
            let to_come = starts::pending(fleet, name).max(awaited);
            let lacking = wanted.saturating_sub(fleet.counts(name).counted + to_come);
            start(fleet, name, lacking, None);
            if must {
                take_over(fleet, name, wanted);
            }
        }
    }
    for name in names {
        tell_unmet(fleet, name);
    }
}

/// Target number of workers of a function, or its required minimum.
fn wanted(fleet: &Fleet<'_>, name: &str, must: bool) -> usize {
    let target = fleet.counts(name).target;
    if must { fleet.desired.functions.get(name).map_or(0, |function| function.min.min(target)) } else { target }
}

/// Workers of a function that are being replaced and have no successor for it yet. Their successors are
/// placed on the same host, even if the function is not allowed there: it can move later, and must not be
/// without workers until then.
fn pinned<'a>(fleet: &Fleet<'a>, name: &str) -> Vec<&'a WorkerId> {
    let Some(host) = fleet.replacing else { return Vec::new() };
    let replaced = AssignmentState::Moves(Reason::Replaced);
    let workers = fleet.hosts.get(host).map_or(&[][..], |host_state| &host_state.workers).iter();
    let does = |id: &WorkerId| fleet.members.get(id).is_some_and(|member| member.ours.get(name) == Some(&replaced));
    workers.filter(|id| does(id) && !rolling::has_successor(fleet, id, name)).copied().collect()
}

/// All workers that can take one more function.
pub(super) fn free<'a>(fleet: &Fleet<'a>) -> Free<'a> {
    let most = fleet.desired.functions_per_worker;
    let is_free = |m: &Member<'_>| m.answers() && m.slots < most && !m.is_outdated();
    let rolling = &fleet.plan.memory.rolling;
    let mut free = Free::new();
    for (id, member) in fleet.members.iter().filter(|(id, member)| is_free(member) && !rolling.contains(*id)) {
        free.entry(&member.worker.host).or_default().insert((member.slots, id));
    }
    free
}

/// Whether a worker can take a function that it does not run yet.
pub(super) fn can_take(fleet: &Fleet<'_>, id: &WorkerId, name: &str) -> bool {
    fleet.members.get(id).is_some_and(|member| {
        let worker = member.worker;
        member.answers()
            && !member.ours.contains_key(name)
            && worker.not_in_use.contains(name)
            && fleet.is_right(&worker.version, name)
            && !refusals::is_refusing(fleet, id, name)
    })
}

/// Assigns functions of workers that are being replaced to others on the same host. Returns how many are
/// still awaited.
fn replace<'a>(fleet: &mut Fleet<'a>, free: &mut Free<'a>, name: &'a str, wanted: usize) -> usize {
    let Some(host) = fleet.replacing else { return 0 };
    let before = fleet.counts(name).counted;
    let replaced = pinned(fleet, name);
    let pinned = replaced.len().min(wanted.saturating_sub(before));
    if pinned == 0 {
        return 0;
    }
    let successors = register(fleet, free, name, before + pinned, Some(host));
    for (id, successor) in replaced.into_iter().zip(successors) {
        let of_worker = fleet.plan.memory.successors.entry(id.clone()).or_default();
        of_worker.insert(name.to_owned(), successor.clone());
    }
    let awaited = before + pinned - fleet.counts(name).counted;
    start(fleet, name, awaited.saturating_sub(starts::pending_on(fleet, name, host)), Some(host));
    let host_state = fleet.hosts.get(host).map_or(&[][..], |host_state| &host_state.workers);
    let is_leaving = host_state.iter().any(|id| fleet.members.get(id).is_some_and(|member| member.is_leaving));
    // If no worker can be started, and none leaves to make room, workers of other hosts have to take over.
    if is_leaving || starts::is_awaiting(fleet, host) { awaited } else { 0 }
}

/// Registers a function on available workers: first on the hosts with the fewest workers of it, then on those
/// with the lowest load; or only on the host `on`. Returns the chosen workers.
fn register<'a>(
    fleet: &mut Fleet<'a>,
    free: &mut Free<'a>,
    name: &'a str,
    wanted: usize,
    on: Option<&str>,
) -> Vec<&'a WorkerId> {
    let mut taken = Vec::new();
    let Some(function) = fleet.desired.functions.get(name).filter(|_| fleet.counts(name).counted < wanted) else {
        return taken;
    };
    // The next candidate of each host; the best of them is chosen.
    let mut next = BTreeSet::new();
    for (host, workers) in free.iter().filter(|(host, _)| on.is_none_or(|on| on == **host)) {
        if let Some((slots, id)) = workers.first().filter(|_| on.is_some() || function.is_for(host)) {
            let (is_crowded, load) =
                fleet.hosts.get(host).map_or((false, 0), |host_state| (host_state.is_crowded, host_state.load));
            next.insert((is_crowded, fleet.on(name, host), load, *slots, *id, *host));
        }
    }
    while fleet.counts(name).counted < wanted
        && let Some((is_crowded, .., slots, id, host)) = next.pop_first()
    {
        let Some(workers) = free.get_mut(host) else { continue };
        if can_take(fleet, id, name) {
            let why = why(fleet, name, on);
            fleet.register(id, name, why);
            taken.push(id);
            workers.remove(&(slots, id));
            if slots + 1 < fleet.desired.functions_per_worker {
                workers.insert((slots + 1, id));
            }
        }
        if let Some((slots, id)) = workers.range((slots, id)..).find(|other| **other != (slots, id)) {
            next.insert((is_crowded, fleet.on(name, host), fleet.load(host), *slots, *id, host));
        }
    }
    taken
}

/// Starts workers for the missing ones.
fn start<'a>(fleet: &mut Fleet<'a>, name: &'a str, mut lacking: usize, on: Option<&str>) {
    if lacking == 0 {
        return;
    }
    let Some(function) = fleet.desired.functions.get(name) else { return };
    let mut hosts = BTreeSet::new();
    for (host, host_state) in fleet.hosts.iter().filter(|(host, _)| on.is_none_or(|on| on == **host)) {
        if (on.is_some() || function.is_for(host)) && !fleet.desired.stopped_hosts.contains(*host) {
            let there = fleet.on(name, host) + starts::pending_on(fleet, name, host);
            hosts.insert((there, host_state.population, *host));
        }
    }
    let mut full = Vec::new();
    while lacking > 0
        && let Some((there, population, host)) = hosts.pop_first()
    {
        if starts::join(fleet, host, name) {
            hosts.insert((there + 1, population, host));
            lacking -= 1;
            continue;
        }
        if refusals::is_hopeless(fleet, host, name) {
            continue;
        }
        // The worker that is being replaced starts its own successor.
        let replaced = on.and_then(|_| pinned(fleet, name).into_iter().find(|id| starts::is_ready(fleet, id)));
        let Some(by) = replaced.or_else(|| starts::starter(fleet, host, name)) else { continue };
        if starts::is_full(fleet, host, on.is_some()) {
            full.push(host);
            continue;
        }
        let why = why(fleet, name, on);
        starts::start(fleet, host, by, Some(name), why);
        hosts.insert((there + 1, population + 1, host));
        lacking -= 1;
    }
    for host in full {
        if lacking > 0 && make_room(fleet, host, name) {
            lacking -= 1;
        }
    }
}

/// Lets an idle worker that cannot run the function leave a full host. Returns whether one leaves.
fn make_room(fleet: &mut Fleet<'_>, host: &str, name: &str) -> bool {
    let Some(host_state) = fleet.hosts.get(host) else { return false };
    let members = || host_state.workers.iter().filter_map(|id| Some((*id, fleet.members.get(id)?)));
    // One at a time: the room of a leaving worker is not free until it is gone. And where workers are being
    // replaced, an idle one may be the successor of another.
    if fleet.replacing == Some(host)
        || starts::is_awaiting(fleet, host)
        || members().any(|(_, member)| member.is_leaving)
    {
        return false;
    }
    let idle_workers: Vec<&WorkerId> =
        members().filter(|(_, member)| member.is_idle()).map(|(id, _)| id).rev().collect();
    for id in idle_workers {
        if !fleet.is_last_of_kind(id) {
            fleet.exit(id, format!("no room on {host} for a worker that can do {name}"));
            note_freed(fleet, name);
            return true;
        }
    }
    false
}

/// Takes a worker from a function above its minimum, for one below its minimum.
fn take_over<'a>(fleet: &mut Fleet<'a>, name: &'a str, wanted: usize) {
    let counts = fleet.counts(name);
    // Workers that are to drop the function have not dropped it yet.
    let lacking = wanted.saturating_sub(counts.counted.max(counts.present) + starts::pending(fleet, name));
    let Some(function) = fleet.desired.functions.get(name).filter(|_| lacking > 0) else { return };
    let mut taken = Vec::new();
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, member) in fleet.members.iter().rev() {
        let can = !member.is_outdated()
            && !fleet.plan.memory.rolling.contains(*id)
            && function.is_for(&member.worker.host)
            && can_take(fleet, id, name);
        if !can {
            continue;
        }
        // A worker that has just dropped a function becomes available for the next plan: do not take it
        // twice.
        if member.ours.values().any(|assignment| *assignment == AssignmentState::Dropped) {
            return;
        }
        let other = member.ours.iter().find(|(other, assignment)| {
            let spared = left.get(*other).copied().unwrap_or_else(|| spared(fleet, other));
            **assignment == AssignmentState::Counts && spared > 0
        });
        if let Some((other, _)) = other {
            let spared = left.entry(other).or_insert_with(|| spared(fleet, other));
            *spared -= 1;
            taken.push((*id, *other));
            if taken.len() == lacking {
                break;
            }
        }
    }
    for (id, other) in taken {
        let there = fleet.counts(name).counted;
        fleet.unregister(id, other, format!("{name} has {there} of at least {wanted}, {other} is above its minimum"));
        note_freed(fleet, name);
    }
}

fn note_freed(fleet: &mut Fleet<'_>, name: &str) {
    if let Some(counts) = fleet.function_counts.get_mut(name) {
        counts.freed += 1;
    }
}

/// Number of workers of a function above its minimum.
fn spared(fleet: &Fleet<'_>, name: &str) -> usize {
    fleet.counts(name).sure.saturating_sub(wanted(fleet, name, true))
}

/// Reason why a function gets a worker.
fn why(fleet: &Fleet<'_>, name: &str, on: Option<&str>) -> String {
    if let Some(host) = on {
        return format!("replacement of a worker on {host}");
    }
    if let Some(from) = moving(fleet, name) {
        return format!("spreading {name} over hosts: {from} has more of it");
    }
    let counts = fleet.counts(name);
    let why = fleet.plan.memory.functions.get(name).map_or("", |memory| &memory.why);
    format!("{} for {name} wanted, {} there: {why}", many(counts.target as u64, "worker"), counts.counted)
}

/// The host that a worker of a function is being moved away from, if there is one.
fn moving<'a>(fleet: &Fleet<'a>, name: &str) -> Option<&'a str> {
    let (_, id) = fleet.plan.memory.spreading.as_ref().filter(|(function, _)| function == name)?;
    fleet.members.get(id).map(|member| member.worker.host.as_str())
}

/// Reports that a function is below its target, and why, unless the missing workers are on their way.
fn tell_unmet(fleet: &mut Fleet<'_>, name: &str) {
    let counts = fleet.counts(name);
    let to_come = starts::pending(fleet, name) + counts.freed + pinned(fleet, name).len();
    let to_come = to_come + usize::from(moving(fleet, name).is_some());
    if counts.counted + to_come >= counts.target {
        return;
    }
    let Some(function) = fleet.desired.functions.get(name) else { return };
    let allowed: Vec<&str> = fleet.hosts.keys().copied().filter(|host| function.is_for(host)).collect();
    let open: Vec<&str> = allowed.iter().copied().filter(|host| !fleet.desired.stopped_hosts.contains(*host)).collect();
    let able: Vec<&str> = open.iter().copied().filter(|host| starts::has_starter(fleet, host, name)).collect();
    let is_trying = able.iter().any(|host| starts::starter(fleet, host, name).is_some());
    let why = if allowed.is_empty() {
        "no worker on an allowed host".to_owned()
    } else if open.is_empty() {
        "all allowed hosts are stopped".to_owned()
    } else if able.is_empty() {
        "no worker on an allowed host offers it".to_owned()
    } else if let Some(said) = refusals::said(fleet, name) {
        said
    } else if !is_trying {
        let more = match able.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("cannot start workers on {}{more}", able[..able.len().min(NAMED)].join(", "))
    } else {
        "no room for more on any host".to_owned()
    };
    let there = counts.counted;
    fleet.plan.unmet.push(format!("{name}: {} wanted, {there} there: {why}", many(counts.target as u64, "worker")));
}
