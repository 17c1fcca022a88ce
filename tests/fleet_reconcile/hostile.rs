//! Numbers and names that nobody would choose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gearmand::fleet::WorkerId;
use gearmand::fleet::desired::{Desired, Function, Host};
use gearmand::fleet::reconcile::{Action, Memory, Observed, Queue, Worker, reconcile};
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-c]", Just("\u{e9}\0*".to_owned()), Just("manage_x".to_owned())]
}

fn number() -> impl Strategy<Value = usize> {
    prop_oneof![0..4_usize, Just(usize::MAX), Just(usize::MAX - 1), any::<usize>()]
}

fn big() -> impl Strategy<Value = u64> {
    prop_oneof![0..100_000_u64, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), (0..100_000_u64).prop_map(Duration::from_millis)]
}

prop_compose! {
    fn function()(
        min in number(), max in proptest::option::of(number()), scale_up_step in number(), scale_up_cooldown in time(),
        hosts in proptest::option::of(proptest::collection::vec("[a-c*]{0,3}", 0..3)),
        scale_up_queue in proptest::option::of(big()), scale_up_age in proptest::option::of(time()),
        scale_down_after in proptest::option::of(time()), version in proptest::option::of(name()),
    ) -> Function {
        Function {
            min, max, hosts, scale_up_queue, scale_up_age, scale_up_step, scale_down_after, scale_up_cooldown, version,
        }
    }
}

prop_compose! {
    fn desired()(
        times in [time(), time(), time()], numbers in [number(), number(), number(), number()], version in name(),
        stopped_hosts in btree_set(name(), 0..2), limits in btree_map(name(), proptest::option::of(number()), 0..2),
        functions in btree_map(name(), function(), 0..5),
    ) -> Desired {
        let [unresponsive_timeout, start_timeout, scale_down_after] = times;
        let [functions_per_worker, max_workers_per_host, idle_workers_per_host, max_surge_per_host] = numbers;
        let hosts = limits.into_iter().map(|(name, max_workers)| (name, Host { max_workers })).collect();
        Desired {
            unresponsive_timeout, start_timeout, scale_down_after, functions_per_worker, max_workers_per_host,
            idle_workers_per_host, max_surge_per_host, version, stopped_hosts, hosts, functions, ..Desired::default()
        }
    }
}

prop_compose! {
    fn worker()(
        host in name(), language in name(), version in name(), in_use in btree_set(name(), 0..4),
        not_in_use in btree_set(name(), 0..4), running in btree_set(name(), 0..2), is_leaving in any::<bool>(),
        silent_ms in prop_oneof![3 => Just(0), 1 => big()],
    ) -> Worker {
        Worker { host, language, version, in_use, not_in_use, running, is_leaving, silent_ms }
    }
}

prop_compose! {
    fn observed()(
        now_ms in big(), workers in btree_map("[a-z]{1,2}", worker(), 0..12),
        queues in btree_map(name(), (big(), big(), proptest::option::of(big())), 0..5),
    ) -> Observed {
        let id = |id: String| WorkerId::try_from(id).unwrap();
        let queue = |(waiting, running, oldest_ms)| Queue { waiting, running, oldest_ms, ..Queue::default() };
        Observed {
            now_ms,
            workers: workers.into_iter().map(|(name, worker)| (id(name), worker)).collect(),
            queues: queues.into_iter().map(|(name, numbers)| (name, queue(numbers))).collect(),
        }
    }
}

proptest! {
    #![proptest_config(super::config(2_000))]

    #[test]
    fn strange_numbers_and_names_are_decided_about(states in proptest::collection::vec((desired(), observed()), 1..6)) {
        // What was remembered under one of them goes into the next, and all workers are to be replaced at
        // some time.
        let mut memory = Memory::default();
        for (desired, observed) in &states {
            let plan = reconcile(desired, observed, &memory);
            prop_assert_eq!(&plan, &reconcile(desired, observed, &memory));
            let starts = plan.decisions.iter().filter(|d| matches!(d.action, Action::Start { .. })).count();
            let hosts: BTreeSet<&String> = observed.workers.values().map(|worker| &worker.host).collect();
            prop_assert!(starts <= 64 * hosts.len(), "{} starts", starts);
            memory = plan.memory;
            prop_assert!(memory.functions.values().all(|function| function.recommendations.len() <= 200));
            memory.rolling = observed.workers.keys().cloned().collect();
        }
    }
}

/// A large fleet: each worker can do all functions.
fn large(workers: usize, functions: usize, hosts: usize) -> (Desired, Observed) {
    let names: Vec<String> = (0..functions).map(|number| format!("function-{number:03}")).collect();
    let function = Function { min: 2, max: Some(workers / functions), scale_up_queue: Some(5), ..Function::default() };
    let desired = Desired {
        functions: names.iter().map(|name| (name.clone(), function.clone())).collect(),
        max_workers_per_host: workers,
        ..Desired::default()
    };
    let worker = |number: usize| Worker {
        host: format!("web{}", number % hosts),
        version: "1".to_owned(),
        not_in_use: names.iter().cloned().collect(),
        ..Worker::default()
    };
    let id = |number: usize| WorkerId::try_from(format!("w{number}")).unwrap();
    let queue = Queue { waiting: 1_000, running: 5, oldest_ms: Some(10_000), ..Queue::default() };
    let observed = Observed {
        now_ms: 1_000_000,
        workers: (0..workers).map(|number| (id(number), worker(number))).collect(),
        queues: names.iter().map(|name| (name.clone(), queue)).collect(),
    };
    (desired, observed)
}

/// The shortest of some runs, since others may use the processor too.
fn shortest(desired: &Desired, observed: &Observed, memory: &Memory) -> Duration {
    let run = |_| {
        let start = Instant::now();
        std::hint::black_box(reconcile(desired, observed, memory));
        start.elapsed()
    };
    (0..5).map(run).min().unwrap()
}

#[test]
fn a_thousand_workers_are_decided_about_in_no_time() {
    for hosts in [1, 50, 1_000] {
        let (mut desired, mut observed) = large(1_000, 100, hosts);
        let mut taken = BTreeMap::new();
        taken.insert("first", shortest(&desired, &observed, &Memory::default()));
        let plan = reconcile(&desired, &observed, &Memory::default());
        assert_eq!(plan.decisions.len(), 1_000, "all are given something to do");
        for decision in &plan.decisions {
            let Action::Register { worker, function } = &decision.action else { panic!("{decision:?}") };
            let worker = observed.workers.get_mut(worker).unwrap();
            worker.not_in_use.remove(function);
            worker.in_use.insert(function.clone());
        }
        observed.now_ms += 5_000;
        taken.insert("settled", shortest(&desired, &observed, &plan.memory));
        desired.version = "2".to_owned();
        taken.insert("rolling", shortest(&desired, &observed, &plan.memory));
        desired.version.clear();
        observed.queues.clear();
        observed.now_ms += 3_600_000;
        taken.insert("shrinking", shortest(&desired, &observed, &plan.memory));
        for worker in observed.workers.values_mut() {
            let in_use = std::mem::take(&mut worker.in_use);
            worker.not_in_use.extend(in_use);
        }
        desired.functions.values_mut().for_each(|function| function.hosts = Some(vec!["elsewhere".to_owned()]));
        let idle = Memory { idle_since: observed.workers.keys().map(|id| (id.clone(), 0)).collect(), ..plan.memory };
        taken.insert("leaving", shortest(&desired, &observed, &idle));
        println!("{hosts} hosts: {taken:?}");
        assert!(taken.values().all(|time| *time < Duration::from_millis(500)), "{hosts} hosts: {taken:?}");
    }
}
