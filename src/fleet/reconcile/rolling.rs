//! Rolling restart: replaces workers of a wrong version, and those to be replaced on request, host by host,
//! and on each host a few at a time. None exits before others run its functions.

use super::super::contract::WorkerId;
use super::fleet::{AssignmentState, Fleet, Member, Replacement, StartState};
use super::starts;

/// Finds the workers to be replaced, and selects those that are replaced now.
pub(super) fn choose(fleet: &mut Fleet<'_>) {
    let outdated: Vec<&WorkerId> =
        fleet.members.iter().filter(|(id, member)| is_outdated(fleet, id, member)).map(|(id, _)| *id).collect();
    for id in &outdated {
        if let Some(member) = fleet.members.get_mut(id) {
            member.replacement = Replacement::Later;
        }
    }
    let host = host(fleet, &outdated);
    fleet.replacing = host;
    fleet.plan.memory.replacing = host.map(str::to_owned);
    let Some(host) = host else {
        fleet.plan.memory.successors.clear();
        return;
    };
    // Workers whose successors cannot be started now do not hold up the others.
    let is_next = |m: &Member<'_>| m.worker.host == host && m.answers() && m.start_state != StartState::BackingOff;
    let on_host = |id: &&&WorkerId| fleet.members.get(**id).is_some_and(is_next);
    let mut chosen: Vec<&WorkerId> = outdated.iter().filter(on_host).copied().collect();
    // Workers without functions come first: they take up room and cost nothing.
    chosen.sort_by_key(|id| fleet.members.get(id).is_some_and(|member| !member.ours.is_empty()));
    for id in chosen.into_iter().take(fleet.desired.max_surge_per_host.max(1)) {
        if let Some(member) = fleet.members.get_mut(id) {
            member.replacement = Replacement::Now;
        }
    }
    let members = &fleet.members;
    let is_replaced = |id: &WorkerId| members.get(id).is_some_and(Member::is_replaced);
    // A worker that was told to take over a function and does not run it is no successor.
    let does = |id: &WorkerId, name: &str| {
        members.get(id).is_some_and(|m| m.answers() && !m.is_replaced() && m.worker.in_use.contains(name))
    };
    let successors = &mut fleet.plan.memory.successors;
    successors.retain(|id, _| is_replaced(id));
    for functions in successors.values_mut() {
        functions.retain(|name, id| does(id, name));
    }
}

/// Whether another worker has taken over a function, or was told to.
pub(super) fn has_successor(fleet: &Fleet<'_>, id: &WorkerId, name: &str) -> bool {
    fleet.plan.memory.successors.get(id).is_some_and(|functions| functions.contains_key(name))
}

/// Whether a worker that is being replaced is no longer needed for a function: enough others run it, or its
/// successor does.
fn is_done(fleet: &Fleet<'_>, id: &WorkerId, name: &str) -> bool {
    let counts = fleet.counts(name);
    let successor = fleet.plan.memory.successors.get(id).and_then(|functions| functions.get(name));
    let successor = successor.and_then(|successor| fleet.members.get(successor));
    counts.sure >= counts.target
        || successor
            .and_then(|member| member.ours.get(name))
            .is_some_and(|assignment| *assignment != AssignmentState::Hoped)
}

/// Whether no successor can be started for a worker: its host is full, the surge included, and nothing there
/// is about to change. This happens when workers came from elsewhere, or the monitor was restarted during the
/// replacement. The host is above its limit anyway, so the worker exits.
fn is_stuck(fleet: &Fleet<'_>, member: &Member<'_>) -> bool {
    let host = member.worker.host.as_str();
    let Some(host_state) = fleet.hosts.get(host) else { return false };
    let mut members =
        host_state.workers.iter().filter_map(|id| fleet.members.get(id)).filter(|other| !other.is_forgotten);
    let is_told = |other: &Member<'_>| other.ours.values().any(|assignment| *assignment == AssignmentState::Hoped);
    starts::is_full(fleet, host, true)
        && !starts::is_awaiting(fleet, host)
        && members.all(|other| other.answers() && !other.is_idle() && !is_told(other))
}

/// Whether a worker is to be replaced. A worker whose functions are all outside the desired state is left
/// alone.
fn is_outdated(fleet: &Fleet<'_>, id: &WorkerId, member: &Member<'_>) -> bool {
    if !member.stays() || member.foreign > 0 && member.ours.is_empty() {
        return false;
    }
    let version = &member.worker.version;
    fleet.plan.memory.rolling.contains(id)
        || member.ours.keys().any(|name| !fleet.is_right(version, name))
        || member.slots == 0 && fleet.missed_version(member.worker).is_some()
}

/// Whether a worker that is about to exit is one of those to be replaced.
pub(super) fn is_leftover(fleet: &Fleet<'_>, id: &WorkerId, member: &Member<'_>) -> bool {
    let worker = member.worker;
    let mut names = worker.running.iter().map(String::as_str).chain(member.ours.keys().copied()).peekable();
    fleet.plan.memory.rolling.contains(id)
        || if names.peek().is_some() {
            names.any(|name| !fleet.is_right(&worker.version, name))
        } else {
            fleet.missed_version(worker).is_some()
        }
}

/// The host whose workers are replaced now: the one that is in progress, otherwise the first by name. Workers
/// whose successors cannot be started now do not count.
fn host<'a>(fleet: &Fleet<'a>, outdated: &[&WorkerId]) -> Option<&'a str> {
    let members = outdated.iter().filter_map(|id| fleet.members.get(*id));
    let members = members.filter(|member| member.answers() && member.start_state != StartState::BackingOff);
    let hosts = members.map(|member| member.worker.host.as_str());
    let begun = fleet.plan.memory.replacing.as_deref().filter(|_| !outdated.is_empty());
    // A worker that is still to appear there is part of the work on this host.
    let awaiting = begun.filter(|begun| starts::is_awaiting(fleet, begun));
    if let Some((host, _)) = awaiting.and_then(|begun| fleet.hosts.get_key_value(begun)) {
        return Some(host);
    }
    begun.and_then(|begun| hosts.clone().find(|host| *host == begun)).or_else(|| hosts.min())
}

/// Lets workers exit whose functions others run now.
pub(super) fn finish(fleet: &mut Fleet<'_>) {
    let is_done = |id: &WorkerId, member: &Member<'_>| member.ours.keys().all(|name| is_done(fleet, id, name));
    let replaced = fleet.members.iter().filter(|(_, member)| member.is_replaced());
    let (done, needed): (Vec<_>, Vec<_>) =
        replaced.map(|(id, member)| (*id, is_done(id, member))).partition(|(_, is_done)| *is_done);
    for (id, _) in done {
        dismiss(fleet, id);
    }
    // A worker that exits makes room for the successors of the others, so they are stuck only if none does.
    for (id, _) in needed {
        if fleet.members.get(id).is_some_and(|member| is_stuck(fleet, member)) {
            dismiss(fleet, id);
        }
    }
}

/// Lets a worker exit that is replaced, or drop its functions if it also has others that are not the fleet's.
fn dismiss<'a>(fleet: &mut Fleet<'a>, id: &'a WorkerId) {
    let Some(member) = fleet.members.get(id) else { return };
    let why = why(fleet, id, member);
    if member.foreign > 0 {
        let ours: Vec<&str> = member.ours.keys().copied().collect();
        for name in ours {
            fleet.unregister(id, name, why.clone());
        }
    } else if fleet.is_last_of_kind(id) && !is_dispensable(fleet, id) {
        start_another(fleet, id, why);
    } else {
        fleet.exit(id, why);
    }
}

/// Whether a full host does not need the last worker of a kind: others there can run all of its functions
/// that belong to the fleet.
fn is_dispensable(fleet: &Fleet<'_>, id: &WorkerId) -> bool {
    let Some(member) = fleet.members.get(id).filter(|member| is_stuck(fleet, member)) else { return false };
    let workers = fleet.hosts.get(member.worker.host.as_str()).map_or(&[][..], |host_state| &host_state.workers).iter();
    let others: Vec<&Member<'_>> =
        workers.filter(|other| **other != id).filter_map(|other| fleet.members.get(other)).collect();
    let mut names = fleet.desired.functions.keys().filter(|name| member.could_do(name));
    !others.is_empty() && names.all(|name| others.iter().any(|other| other.answers() && other.could_do(name)))
}

/// Starts another worker of the same kind first: without the last worker, no other could be told to start
/// one.
fn start_another(fleet: &mut Fleet<'_>, id: &WorkerId, why: String) {
    let Some(host) = fleet.members.get(id).map(|member| member.worker.host.as_str()) else { return };
    let memory = fleet.plan.memory.hosts.get(host);
    let is_on_its_way = memory.is_some_and(|memory| memory.pending.iter().any(|pending| pending.by == *id));
    if !is_on_its_way && starts::is_ready(fleet, id) && !starts::is_full(fleet, host, true) {
        starts::start(fleet, host, id, None, why);
    }
}

/// Reason for the replacement.
fn why(fleet: &Fleet<'_>, id: &WorkerId, member: &Member<'_>) -> String {
    let version = &member.worker.version;
    let wrong = member.ours.iter().filter(|(_, assignment)| **assignment != AssignmentState::Dropped);
    let wrong = wrong.map(|(name, _)| *name).find(|name| !fleet.is_right(version, name));
    let wanted = match wrong {
        Some(name) => fleet.version_for(name),
        None if member.slots == 0 => fleet.missed_version(member.worker),
        None => None,
    };
    match wanted {
        Some(wanted) if version.is_empty() => format!("{id} has no version, wanted {wanted}"),
        Some(wanted) => format!("{id} has version {version}, wanted {wanted}"),
        None => format!("{id} is to be replaced"),
    }
}
