//! Scale-down: functions that workers drop, and workers that exit.

use std::collections::{BTreeMap, BTreeSet};

use super::super::contract::WorkerId;
use super::fleet::{AssignmentState, Fleet, Member, Reason};
use super::{many, millis, refusals, seconds};

/// Lets all workers of stopped hosts exit. They no longer count for any function.
pub(super) fn stop_hosts(fleet: &mut Fleet<'_>) {
    let stopped = &fleet.desired.stopped_hosts;
    let on_stopped = |member: &Member<'_>| stopped.contains(&member.worker.host);
    let workers: Vec<(&WorkerId, bool, &str)> = (fleet.members.iter().filter(|(_, member)| on_stopped(member)))
        .map(|(id, member)| (*id, member.answers(), member.worker.host.as_str()))
        .collect();
    for (id, answers, host) in workers {
        if answers {
            fleet.exit(id, format!("{host} is stopped"));
        } else if let Some(member) = fleet.members.get_mut(id) {
            member.is_leaving = true;
        }
    }
}

/// Drops functions from workers that are to move away from them, once others run them.
pub(super) fn drop_moved(fleet: &mut Fleet<'_>) {
    let mut dropped = Vec::new();
    for (id, member) in fleet.members.iter().filter(|(_, member)| member.answers() && !member.is_replaced()) {
        for (name, assignment) in &member.ours {
            let AssignmentState::Moves(reason) = assignment else { continue };
            let counts = fleet.counts(name);
            if counts.sure >= counts.target {
                dropped.push((*id, *name, *reason, member.worker.host.as_str()));
            }
        }
    }
    for (id, name, reason, host) in dropped {
        let why = match reason {
            Reason::Functions => {
                format!("limit of {} per worker", many(fleet.desired.functions_per_worker as u64, "function"))
            }
            Reason::Spread => format!("{host} has more of {name} than other hosts; a worker elsewhere took over"),
            Reason::Host | Reason::Replaced => format!("{name} is not for {host}; other workers took over"),
        };
        fleet.unregister(id, name, why);
    }
}

/// Drops functions from workers above the target.
pub(super) fn drop_surplus(fleet: &mut Fleet<'_>) {
    let names: Vec<&str> = fleet.function_counts.keys().copied().collect();
    for name in names {
        let counts = fleet.counts(name);
        let surplus = counts.sure.saturating_sub(counts.target);
        if surplus == 0 {
            continue;
        }
        // Order: wrong version first, then hosts above their limit, then idle workers, then hosts with the
        // most workers of the function.
        let mut hosts: BTreeMap<&str, Vec<(bool, bool, &WorkerId)>> = BTreeMap::new();
        for (id, member) in &fleet.members {
            if member.answers() && member.ours.get(name) == Some(&AssignmentState::Counts) {
                let is_idle = !member.worker.running.contains(name);
                let of_host = hosts.entry(&member.worker.host).or_default();
                of_host.push((!fleet.is_right(&member.worker.version, name), is_idle, id));
            }
        }
        let mut next = BTreeSet::new();
        for (host, workers) in &mut hosts {
            workers.sort_unstable();
            next.extend(last_of(fleet, host, workers));
        }
        let why = fleet.plan.memory.functions.get(name).map_or("", |memory| &memory.why);
        let why = format!("{} for {name} wanted, {} there: {why}", many(counts.target as u64, "worker"), counts.sure);
        for _ in 0..surplus {
            let Some((.., id, host)) = next.pop_last() else { break };
            fleet.unregister(id, name, why.clone());
            if let Some(workers) = hosts.get_mut(host) {
                workers.pop();
                next.extend(last_of(fleet, host, workers));
            }
        }
    }
}

/// A worker, preceded by the keys that rank it among those of other hosts; the highest goes first.
type Candidate<'a> = (bool, bool, bool, usize, &'a WorkerId, &'a str);

/// The next candidate of a host.
fn last_of<'a>(fleet: &Fleet<'a>, host: &'a str, workers: &[(bool, bool, &'a WorkerId)]) -> Option<Candidate<'a>> {
    let (is_wrong, is_idle, id) = workers.last()?;
    let is_crowded = fleet.hosts.get(host).is_some_and(|host_state| host_state.is_crowded);
    Some((*is_wrong, is_crowded, *is_idle, workers.len(), *id, host))
}

/// Records which workers are idle, and since when.
pub(super) fn note_idle_workers(fleet: &mut Fleet<'_>) {
    let before = std::mem::take(&mut fleet.plan.memory.idle_since);
    let is_idle = |member: &Member<'_>| member.is_idle() && !member.is_replaced();
    for (id, _) in fleet.members.iter().filter(|(_, member)| is_idle(member)) {
        let since = before.get(*id).copied().unwrap_or(fleet.now);
        fleet.plan.memory.idle_since.insert((*id).clone(), since);
    }
}

/// Lets workers exit that have been idle for long, or that are above their host's limit.
pub(super) fn stop_idle_workers(fleet: &mut Fleet<'_>) {
    note_idle_workers(fleet);
    let now = fleet.now;
    let scale_down_after = millis(fleet.desired.scale_down_after);
    let mut hosts: BTreeMap<&str, Vec<(bool, &WorkerId, u64)>> = BTreeMap::new();
    for (id, member) in &fleet.members {
        let Some(since) = fleet.plan.memory.idle_since.get(*id).copied() else { continue };
        hosts.entry(&member.worker.host).or_default().push((member.is_outdated(), id, now.saturating_sub(since)));
    }
    for (host, mut idle_workers) in hosts {
        let mut crowd = fleet.crowd(host);
        let mut left = idle_workers.len();
        idle_workers.sort_unstable();
        for (_, id, idle_for) in idle_workers.into_iter().rev() {
            let may_go = idle_for >= scale_down_after && !refusals::has_refused(fleet, id);
            let is_too_many = left > fleet.desired.idle_workers_per_host && may_go;
            if crowd == 0 && !is_too_many || fleet.is_last_of_kind(id) {
                continue;
            }
            let why = if crowd > 0 {
                format!("{host} has more than {}", many(fleet.desired.max_workers(host) as u64, "worker"))
            } else {
                format!("no function in use for {}", seconds(idle_for))
            };
            crowd = crowd.saturating_sub(1);
            left -= 1;
            fleet.exit(id, why);
        }
    }
}
