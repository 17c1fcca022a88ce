//! What must be true of every decision, said without the decision's own numbers.

use std::collections::{BTreeMap, BTreeSet};

use gearmand::fleet::WorkerId;
use gearmand::fleet::desired::Desired;
use gearmand::fleet::reconcile::{Action, Observed, Plan, Worker};

use super::world::World;

/// Checks a decision against what was seen.
pub(crate) fn holds(world: &World, observed: &Observed, plan: &Plan) {
    actions_make_sense(world, observed, plan);
    starts_keep_limits(world, observed, plan);
    each_host_keeps_a_worker(world, observed, plan);
    nothing_is_taken_that_is_needed(world, observed, plan);
    no_more_are_added_than_wanted(world, observed, plan);
    growth_lasts(world, observed, plan);
    one_host_is_rolled_at_a_time(world, observed, plan);
    for (name, target) in &plan.targets {
        let function = &world.desired.functions[name];
        assert!((function.min..=function.max()).contains(target), "target {target} of {name}: {}", world.story());
    }
}

fn answers(desired: &Desired, worker: &Worker) -> bool {
    worker.silent_ms == 0 && !worker.is_leaving && !desired.stopped_hosts.contains(&worker.host)
}

fn forgotten(desired: &Desired, worker: &Worker) -> bool {
    u128::from(worker.silent_ms) > desired.unresponsive_timeout.as_millis()
}

fn exits(plan: &Plan) -> BTreeSet<&WorkerId> {
    let exits = plan.decisions.iter().filter_map(|decision| match &decision.action {
        Action::Exit { worker } => Some(worker),
        _ => None,
    });
    exits.collect()
}

/// Whom something is said to is there and answers, and it makes a difference; nothing is said twice.
fn actions_make_sense(world: &World, observed: &Observed, plan: &Plan) {
    let mut said = BTreeSet::new();
    let mut slots: BTreeMap<&WorkerId, usize> = BTreeMap::new();
    for decision in &plan.decisions {
        let (Action::Register { worker: id, .. }
        | Action::Unregister { worker: id, .. }
        | Action::Exit { worker: id }
        | Action::Start { by: id, .. }) = &decision.action;
        let worker = observed.workers.get(id).expect("a worker that is there");
        let makes_sense = match &decision.action {
            Action::Register { function, .. } => {
                let slots = slots.entry(id).or_insert(worker.in_use.len());
                *slots += 1;
                let rules = &world.desired.functions[function];
                let version = rules.version.as_ref().unwrap_or(&world.desired.version);
                worker.not_in_use.contains(function)
                    && *slots <= world.desired.functions_per_worker
                    && (rules.is_for(&worker.host) || plan.memory.replacing.as_ref() == Some(&worker.host))
                    && (version.is_empty() || *version == worker.version)
                    && !exits(plan).contains(id)
            }
            Action::Unregister { function, .. } => {
                worker.in_use.contains(function) && world.desired.functions.contains_key(function)
            }
            Action::Start { host, .. } => worker.host == *host && !world.desired.stopped_hosts.contains(host),
            Action::Exit { .. } => true,
        };
        let is_stop = world.desired.stopped_hosts.contains(&worker.host) && !worker.is_leaving && worker.silent_ms == 0;
        assert!(answers(&world.desired, worker) || is_stop, "{decision:?} of {worker:?}\n{}", world.story());
        assert!(makes_sense, "{decision:?} of {worker:?}\n{}", world.story());
        let is_start = matches!(decision.action, Action::Start { .. });
        assert!(said.insert(format!("{:?}", decision.action)) || is_start, "twice {decision:?}\n{}", world.story());
        assert!(!decision.why.is_empty());
    }
    for worker in observed.workers.values().filter(|worker| world.desired.stopped_hosts.contains(&worker.host)) {
        let leaves = worker.is_leaving || worker.silent_ms > 0;
        let exits = exits(plan).iter().any(|id| observed.workers[*id] == *worker);
        assert!(leaves || exits, "{worker:?} stays on a stopped host");
    }
}

fn starts_keep_limits(world: &World, observed: &Observed, plan: &Plan) {
    let mut started: BTreeMap<&str, usize> = BTreeMap::new();
    for decision in &plan.decisions {
        if let Action::Start { host, .. } = &decision.action {
            *started.entry(host).or_default() += 1;
        }
    }
    for (host, started) in started {
        let there = observed.workers.values().filter(|w| w.host == host && !forgotten(&world.desired, w)).count();
        // A monitor that was started anew does not know of those that are on their way, and one that comes
        // from elsewhere is taken for one of them.
        let to_come = world.to_come.iter().filter(|(_, on, _)| on == host && world.is_faultless).count();
        let most = world.desired.max_workers(host) + world.desired.max_surge_per_host;
        assert!(there + to_come + started <= most, "{there} + {to_come} + {started} on {host}\n{}", world.story());
        let is_rolling = plan.memory.replacing.as_deref() == Some(host);
        let most = world.desired.max_workers(host);
        assert!(is_rolling || there + to_come + started <= most, "too many on {host}\n{}", world.story());
    }
}

fn each_host_keeps_a_worker(world: &World, observed: &Observed, plan: &Plan) {
    let exits = exits(plan);
    for id in &exits {
        let host = &observed.workers[*id].host;
        let mut others = observed.workers.iter().filter(|(other, _)| !exits.contains(other));
        let is_kept = others.any(|(_, worker)| worker.host == *host && answers(&world.desired, worker));
        let is_stopped = world.desired.stopped_hosts.contains(host);
        assert!(is_kept || is_stopped, "the last worker of {host} is told to leave\n{}", world.story());
    }
}

/// Removals alone, whatever comes of all else, leave each function what it is to have, or all that it had.
fn nothing_is_taken_that_is_needed(world: &World, observed: &Observed, plan: &Plan) {
    // Those that are replaced are another rule's.
    let is_replaced = |id: &&WorkerId| plan.memory.replacing.as_ref() == Some(&observed.workers[*id].host);
    let exits: BTreeSet<&WorkerId> = exits(plan).into_iter().filter(|id| !is_replaced(id)).collect();
    let mut short = Vec::new();
    for (name, target) in &plan.targets {
        let does = |worker: &Worker| answers(&world.desired, worker) && worker.in_use.contains(name);
        let before = observed.workers.values().filter(|worker| does(worker)).count();
        let is_dropped = |id: &WorkerId| {
            let action = Action::Unregister { worker: id.clone(), function: name.clone() };
            // One that does what is nobody's business here is replaced without an exit.
            let is_replaced = is_replaced(&id) && observed.workers[id].in_use.contains("other");
            exits.contains(id) || !is_replaced && plan.decisions.iter().any(|decision| decision.action == action)
        };
        let after = observed.workers.iter().filter(|(id, worker)| does(worker) && !is_dropped(id)).count();
        let min = world.desired.functions[name].min;
        assert!(after >= min.min(before), "{name}: {before} -> {after}, min {min}\n{}", world.story());
        if after < before.min(*target) {
            short.push(name);
        }
    }
    // A function gives a worker up only for one that has fewer than it must have.
    let lacks = |name: &&String| {
        let does = |worker: &&Worker| answers(&world.desired, worker) && worker.in_use.contains(*name);
        observed.workers.values().filter(does).count() < world.desired.functions[*name].min
    };
    assert!(short.is_empty() || plan.targets.keys().any(|name| lacks(&name)), "{short:?}\n{}", world.story());
}

/// Workers are added up to what is wanted, beside those that are to stop.
fn no_more_are_added_than_wanted(world: &World, observed: &Observed, plan: &Plan) {
    for (name, target) in &plan.targets {
        let is_added = |action: &Action| matches!(action, Action::Register { function, .. } if function == name);
        let added = plan.decisions.iter().filter(|decision| is_added(&decision.action)).count();
        let function = &world.desired.functions[name];
        let does = |worker: &&Worker| {
            !worker.is_leaving
                && !forgotten(&world.desired, worker)
                && !world.desired.stopped_hosts.contains(&worker.host)
                && worker.in_use.contains(name)
                && function.is_for(&worker.host)
                && worker.in_use.len() <= world.desired.functions_per_worker
        };
        let is_removed = |action: &Action| matches!(action, Action::Unregister { function, .. } if function == name);
        let removed = plan.decisions.iter().filter(|decision| is_removed(&decision.action)).count();
        let there = observed.workers.values().filter(does).count().saturating_sub(removed);
        let most = target + world.desired.max_surge_per_host;
        let is_rolling = plan.memory.replacing.is_some();
        let crowded = observed.workers.len() > world.desired.max_workers_per_host;
        let most = if is_rolling { most } else { *target };
        // One that moves to another host goes on until its successor is there.
        let is_moving = plan.memory.spreading.as_ref().is_some_and(|(function, _)| function == name);
        let most = most + usize::from(is_moving);
        assert!(added == 0 || crowded || there + added <= most, "{name}: {there} + {added}\n{}", world.story());
    }
}

/// What was added is not taken away before `scale_down_after` has passed.
fn growth_lasts(world: &World, observed: &Observed, plan: &Plan) {
    for decision in &plan.decisions {
        let Action::Unregister { function, .. } = &decision.action else { continue };
        // Functions that move, or make place for others, are no surplus.
        let is_surplus = decision.why.contains(&format!(" for {function} wanted"));
        let Some(grown) = world.grown.get(function).filter(|_| is_surplus && world.is_faultless) else { continue };
        let scale_down_after =
            world.desired.functions[function].scale_down_after.unwrap_or(world.desired.scale_down_after);
        let since = u128::from(observed.now_ms - grown);
        assert!(since >= scale_down_after.as_millis(), "{decision:?} {since} ms after it grew\n{}", world.story());
    }
}

fn one_host_is_rolled_at_a_time(world: &World, observed: &Observed, plan: &Plan) {
    let is_wrong = |worker: &Worker| !world.is_right(worker);
    let hosts: BTreeSet<&String> =
        (exits(plan).into_iter().map(|id| &observed.workers[id]).filter(|worker| answers(&world.desired, worker)))
            .filter(|worker| is_wrong(worker) && !worker.in_use.is_empty())
            .map(|worker| &worker.host)
            .collect();
    assert!(hosts.len() <= 1, "{hosts:?}\n{}", world.story());
    let before = world.memory.replacing.as_ref();
    if let Some(before) = before.filter(|before| plan.memory.replacing.as_ref() != Some(before)) {
        let on_host = |worker: &&Worker| {
            worker.host == *before && answers(&world.desired, worker) && is_wrong(worker) && !worker.in_use.is_empty()
        };
        let is_failing = plan.memory.hosts.get(before).is_some_and(|memory| !memory.failures.is_empty());
        let left = observed.workers.values().filter(on_host).filter(|w| !w.in_use.contains("other")).count();
        assert!(left == 0 || is_failing, "{left} workers are left on {before}\n{}", world.story());
    }
}
