//! Properties of the fleet's decision, in a model of a fleet that obeys it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

#[path = "fleet_reconcile/check.rs"]
mod check;
#[path = "fleet_reconcile/examples.rs"]
mod examples;
#[path = "fleet_reconcile/hostile.rs"]
mod hostile;
#[path = "fleet_reconcile/random.rs"]
mod random;
#[path = "fleet_reconcile/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use gearmand::fleet::reconcile::{Action, Memory};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use world::{Faults, TICK_MS, World};

const CHAOS: Faults = Faults { lost: 15, refused: 3, killed: 2, silent: 2, started: 3, forgetful: 1 };

/// Says with which seed the cases are made, and how many times as many as usual: for a long run.
const SEED: &str = "GEARMAND_FLEET_SEED";
const TIMES: &str = "GEARMAND_FLEET_TIMES";

/// Many cases of one property, the same in every run that is told nothing; what fails is printed, with its
/// seed.
fn config(cases: u32) -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seed = number(SEED).unwrap_or(1);
    let cases = cases * u32::try_from(number(TIMES).unwrap_or(1)).expect("a small number");
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() }
}

/// All workers are as they are to be, and each function has what it is to have, as far as anything could be
/// done.
fn is_right(world: &mut World) {
    let plan = world.tick();
    for (id, process) in &world.processes {
        let worker = &process.worker;
        assert!(world.is_right(worker), "{id}: {worker:?}\n{}", world.story());
    }
    for (name, target) in &plan.targets {
        let there = plan.counted[name];
        let is_told = plan.unmet.iter().any(|line| line.starts_with(&format!("{name}: ")));
        assert!(there <= *target, "{name}: {there} of {target}\n{}", world.story());
        assert_eq!(there < *target, is_told, "{name}: {there} of {target}, {:?}\n{}", plan.unmet, world.story());
    }
    assert!(plan.is_settled(), "{plan:?}\n{}", world.story());
}

proptest! {
    #![proptest_config(config(250))]

    #[test]
    fn a_fleet_settles_and_stays_so(seed: u64) {
        let mut world = World::new(seed);
        world.settle();
        is_right(&mut world);
    }

    #[test]
    fn a_fleet_settles_after_chaos(seed: u64) {
        let mut world = World::new(seed);
        world.faults = CHAOS;
        for _ in 0..60 {
            world.tick();
        }
        world.faults = Faults::default();
        world.settle();
        is_right(&mut world);
    }
}

/// Rolls a fleet out to another version, with or without faults meanwhile.
fn roll(seed: u64, chaos: bool) {
    let mut world = World::new(seed);
    let own = world.desired.functions.iter().filter(|(_, function)| function.version.is_some());
    let own: Vec<String> = own.map(|(name, _)| name.clone()).collect();
    let want = |world: &mut World, version: &str| {
        version.clone_into(&mut world.desired.version);
        for name in &own {
            world.desired.functions.get_mut(name).unwrap().version = Some(version.to_owned());
        }
    };
    want(&mut world, "1");
    world.settle();
    want(&mut world, "2");
    world.sites.values_mut().for_each(|site| "2".clone_into(&mut site.version));
    if chaos {
        world.faults = CHAOS;
        for _ in 0..40 {
            world.tick();
        }
        world.faults = Faults::default();
    } else {
        // No function has fewer workers in between than it had, or is to have. Workers that do what is
        // nobody's business here stay beside those that take over the rest, so that a full host bears fewer
        // in the end.
        let is_mixed = world.processes.values().any(|process| process.worker.in_use.contains("other"));
        let mut least = if is_mixed { BTreeMap::new() } else { world.serving() };
        for _ in 0..100 {
            let plan = world.tick();
            // What a function must have is taken from others at any time.
            if plan.decisions.iter().any(|decision| decision.why.ends_with("is above its minimum")) {
                break;
            }
            let now = world.serving();
            for (name, least) in &mut least {
                *least = plan.targets[name].min(*least);
                assert!(now[name] >= *least, "{name}: {} of {least}\n{}", now[name], world.story());
            }
        }
    }
    world.settle();
    is_right(&mut world);
}

/// Cases that failed once: their functions had fewer workers than their targets meanwhile.
#[test]
fn a_roll_takes_no_worker_that_is_needed() {
    for seed in [2_505_023_492_300_182_380, 2_296_944_523_879_457_787, 9_415_276_271_014_862_203] {
        roll(seed, false);
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_roll_replaces_all(seed: u64, chaos: bool) {
        roll(seed, chaos);
    }

    #[test]
    fn a_roll_without_a_version_replaces_those_that_were_named(seed: u64) {
        let mut world = World::new(seed);
        world.settle();
        let foreign = |world: &World, id: &_| world.processes.get(id).is_some_and(|p| p.worker.in_use.contains("other"));
        world.memory.rolling = world.processes.keys().cloned().collect();
        let named = world.memory.rolling.clone();
        world.settle();
        let left: Vec<_> = named.iter().filter(|id| world.processes.contains_key(*id) && !foreign(&world, id)).collect();
        prop_assert!(left.is_empty(), "{left:?} are left\n{}", world.story());
    }

    #[test]
    fn a_desired_state_may_change_at_any_time(seed: u64, other: u64) {
        let mut world = World::new(seed);
        for round in 0..3 {
            for _ in 0..world.random.below(30) {
                world.tick();
            }
            world.desired = World::new(other.wrapping_add(round)).desired;
            world.is_faultless = false;
            if world.random.chance(50) {
                world.desired.stopped_hosts.insert("web2".to_owned());
            }
            world.desired.version.clear();
            world.desired.functions.values_mut().for_each(|function| function.version = None);
        }
        world.settle();
        let plan = world.tick();
        prop_assert!(plan.is_settled());
    }

    #[test]
    fn a_load_that_comes_and_goes_faster_than_scale_down_moves_nothing(seed: u64) {
        let mut world = World::new(seed);
        let names: Vec<String> = world.desired.functions.keys().cloned().collect();
        world.desired.functions_per_worker = 1;
        for function in world.desired.functions.values_mut() {
            function.scale_down_after = None;
        }
        world.desired.scale_down_after = Duration::from_mins(1);
        let high: Vec<usize> = names.iter().map(|_| world.random.within(1, 6)).collect();
        let swing = |world: &mut World, tick: usize| {
            let is_high = tick % 8 < 4;
            for (name, high) in names.iter().zip(&high) {
                world.demand.insert(name.clone(), if is_high { *high } else { 0 });
            }
            world.tick()
        };
        for tick in 0..200 {
            swing(&mut world, tick);
        }
        for tick in 0..100 {
            let plan = swing(&mut world, tick);
            prop_assert!(plan.decisions.is_empty(), "{:?}\n{}", plan.decisions, world.story());
        }
    }

    #[test]
    fn a_monitor_that_remembers_nothing_shrinks_nothing_for_an_idle_time(seed: u64) {
        let mut world = World::new(seed);
        world.settle();
        world.memory = Memory::default();
        let demand = world.demand.clone();
        world.demand.values_mut().for_each(|demand| *demand = 0);
        let before = world.now_ms;
        loop {
            let plan = world.tick();
            let shortest = world.desired.functions.values().filter_map(|function| function.scale_down_after);
            let shortest = shortest.chain([world.desired.scale_down_after]).min().unwrap();
            if u128::from(world.now_ms - before - TICK_MS) >= shortest.as_millis() {
                break;
            }
            prop_assert!(plan.decisions.is_empty(), "{:?}, {demand:?}\n{}", plan.decisions, world.story());
        }
    }
}

/// How many workers of a host do a function, and how many functions its workers do together.
fn load(world: &World, name: &str, host: &str) -> (usize, usize) {
    let workers = || world.processes.values().map(|process| &process.worker).filter(|worker| worker.host == host);
    let does = workers().filter(|worker| worker.in_use.contains(name)).count();
    (does, workers().map(|worker| worker.in_use.len()).sum())
}

/// No worker is of more use on another host that has a free one for its function.
fn is_spread(world: &World) {
    for (name, function) in &world.desired.functions {
        for worker in world.processes.values().map(|process| &process.worker) {
            let is_right = world.desired.version_for(name).is_none_or(|wanted| wanted == worker.version);
            let is_free = worker.in_use.len() < world.desired.functions_per_worker && worker.not_in_use.contains(name);
            if !is_right || !is_free || !function.is_for(&worker.host) {
                continue;
            }
            let (there, total_there) = load(world, name, &worker.host);
            for host in world.sites.keys().filter(|host| function.is_for(host)) {
                let (here, sum_here) = load(world, name, host);
                let is_better = here >= there + 2 || here == there + 1 && sum_here >= total_there + 2;
                let to = &worker.host;
                assert!(!is_better, "{name}: {here} on {host}, {there} on {to}\n{}", world.story());
            }
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn workers_are_spread_when_a_host_has_come_back(seed: u64) {
        let mut world = World::new(seed);
        // A fleet that grows and shrinks by itself is another matter.
        for function in world.desired.functions.values_mut() {
            function.max = None;
        }
        world.settle();
        is_spread(&world);
        let host = world.sites.keys().next_back().unwrap().clone();
        world.processes.retain(|_, process| process.worker.host != host);
        world.settle();
        let kinds = world.sites[&host].kinds.clone();
        for number in 0..world.desired.max_workers_per_host {
            world.arrive(&host, kinds[number % kinds.len()].clone());
        }
        world.settle();
        is_spread(&world);
        is_right(&mut world);
    }
}

proptest! {
    #![proptest_config(config(30))]

    #[test]
    fn a_host_that_starts_nothing_is_asked_less_and_less(seed: u64) {
        let mut world = World::new(seed);
        world.faults = Faults { lost: 100, ..Faults::default() };
        let mut starts = 0;
        for _ in 0..(3_600_000 / TICK_MS) {
            let plan = world.tick();
            starts += plan.decisions.iter().filter(|decision| matches!(decision.action, Action::Start { .. })).count();
        }
        // In an hour: at first as many as there is room for, then one of each kind after each pause.
        let room = (world.desired.max_workers_per_host + world.desired.max_surge_per_host) * world.sites.len();
        let kinds: usize = world.sites.values().map(|site| site.kinds.len()).sum();
        prop_assert!(starts <= room + 12 * kinds, "{starts} starts\n{}", world.story());
    }
}
