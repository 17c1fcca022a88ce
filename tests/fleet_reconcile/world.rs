//! A fleet that obeys: after a while, not always, and with workers that die, fall silent and come from
//! elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gearmand::fleet::WorkerId;
use gearmand::fleet::desired::{Desired, Function};
use gearmand::fleet::reconcile::{Action, Memory, Observed, Plan, Queue, Worker, reconcile};

use super::check;
use super::random::Random;

/// How often the monitor looks, in milliseconds.
pub(crate) const TICK_MS: u64 = 5_000;

/// What goes wrong, in percent of the cases.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct Faults {
    /// An action that is not done.
    pub(crate) lost: usize,
    /// A worker that refuses to do a function, or to start another worker.
    pub(crate) refused: usize,
    /// A worker that dies in a tick.
    pub(crate) killed: usize,
    /// A worker that falls silent in a tick, for some time.
    pub(crate) silent: usize,
    /// A worker that somebody else starts in a tick.
    pub(crate) started: usize,
    /// A monitor that is started anew in a tick.
    pub(crate) forgetful: usize,
}

/// A worker of the model.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) worker: Worker,
    /// The job that it runs, and for how many ticks still.
    job: Option<(String, usize)>,
    /// For how many ticks it does not answer.
    silent_for: usize,
}

/// A host of the model.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What can be started there: a language and its functions.
    pub(crate) kinds: Vec<(String, BTreeSet<String>)>,
    /// The version of the code that is there now.
    pub(crate) version: String,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now_ms: u64,
    pub(crate) desired: Desired,
    pub(crate) sites: BTreeMap<String, Site>,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    /// How many jobs of each function there always are, running or waiting.
    pub(crate) demand: BTreeMap<String, usize>,
    waiting_since: BTreeMap<String, u64>,
    /// Workers on their way: in which tick, where, and of which kind.
    pub(crate) to_come: Vec<(u64, String, (String, BTreeSet<String>))>,
    pub(crate) memory: Memory,
    pub(crate) faults: Faults,
    /// Nothing has gone wrong so far.
    pub(crate) is_faultless: bool,
    next_id: usize,
    /// When the target of a function rose last.
    pub(crate) grown: BTreeMap<String, u64>,
    /// All decisions so far, for whoever reads a failure.
    pub(crate) log: Vec<String>,
}

/// The names of the functions of a model.
pub(crate) fn names(count: usize) -> Vec<String> {
    ["mail", "resize", "index", "report", "sync"].iter().take(count).map(|name| (*name).to_owned()).collect()
}

impl World {
    /// A world of a seed: some hosts, kinds of workers, functions and jobs.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let functions = {
            let count = random.within(1, 5);
            names(count)
        };
        let hosts: Vec<String> = (1..=random.within(1, 4)).map(|number| format!("web{number}")).collect();
        let mut desired = Desired {
            functions_per_worker: if random.chance(60) { 1 } else { random.within(2, 3) },
            max_workers_per_host: random.within(2, 8),
            idle_workers_per_host: if random.chance(70) { 0 } else { random.within(1, 2) },
            max_surge_per_host: random.within(1, 3),
            scale_down_after: Duration::from_secs(random.within(4, 12) as u64 * 5),
            version: if random.chance(70) { "1".to_owned() } else { String::new() },
            ..Desired::default()
        };
        for name in &functions {
            desired.functions.insert(name.clone(), function(&mut random, &hosts));
        }
        let mut world = Self {
            now_ms: 1_000_000,
            desired,
            sites: BTreeMap::new(),
            processes: BTreeMap::new(),
            demand: functions.iter().map(|name| (name.clone(), random.below(7))).collect(),
            waiting_since: BTreeMap::new(),
            to_come: Vec::new(),
            memory: Memory::default(),
            faults: Faults::default(),
            is_faultless: true,
            next_id: 0,
            grown: BTreeMap::new(),
            log: Vec::new(),
            random,
        };
        world.choose_versions();
        for host in hosts {
            world.add_host(&host, &functions);
        }
        world
    }

    /// Some functions are of a version of their own; in some worlds all are, and nothing is of the one that
    /// all others are of.
    fn choose_versions(&mut self) {
        let all = self.random.chance(20);
        for function in self.desired.functions.values_mut() {
            function.version = (all || self.random.chance(20)).then(|| "1".to_owned());
        }
        if all {
            "unused".clone_into(&mut self.desired.version);
        }
    }

    /// Whether a worker is of a version that is wanted.
    pub(crate) fn is_right(&self, worker: &Worker) -> bool {
        let is_right = |name: &String| self.desired.version_for(name).is_none_or(|wanted| wanted == worker.version);
        let ours = |name: &&String| self.desired.functions.contains_key(*name);
        let mut could_do = worker.not_in_use.iter().filter(ours).peekable();
        if !worker.in_use.is_empty() {
            worker.in_use.iter().filter(ours).all(is_right)
        } else if could_do.peek().is_some() {
            could_do.any(is_right)
        } else {
            self.desired.version.is_empty() || self.desired.version == worker.version
        }
    }

    fn add_host(&mut self, host: &str, functions: &[String]) {
        let mut kinds = Vec::new();
        for language in ["php", "python"].iter().take(self.random.within(1, 2)) {
            let all = self.random.chance(60);
            // One at least, so that there is a version that it is right with.
            let least = self.random.pick(functions);
            let can: BTreeSet<String> = functions
                .iter()
                .filter(|name| all || **name == least || self.random.chance(60))
                .chain([&"other".to_owned()])
                .cloned()
                .collect();
            kinds.push(((*language).to_owned(), can));
        }
        self.sites.insert(host.to_owned(), Site { kinds: kinds.clone(), version: "1".to_owned() });
        for _ in 0..self.random.within(1, self.desired.max_workers_per_host.min(4)) {
            let kind = self.random.pick(&kinds);
            let id = self.arrive(host, kind);
            let process = self.processes.get_mut(&id).unwrap();
            // Some were told before.
            if self.random.chance(40) {
                let name = self.random.pick(&process.worker.not_in_use.iter().cloned().collect::<Vec<_>>());
                process.worker.not_in_use.remove(&name);
                process.worker.in_use.insert(name);
            }
        }
    }

    /// A worker comes, and has an id that was never there.
    pub(crate) fn arrive(&mut self, host: &str, kind: (String, BTreeSet<String>)) -> WorkerId {
        self.next_id += 1;
        // Ids do not follow the order in which workers come.
        let id = WorkerId::try_from(format!("w{:03}-{}", self.random.below(1000), self.next_id)).unwrap();
        let version = self.sites[host].version.clone();
        let worker =
            Worker { host: host.to_owned(), language: kind.0, version, not_in_use: kind.1, ..Worker::default() };
        self.processes.insert(id.clone(), Process { worker, job: None, silent_for: 0 });
        id
    }

    /// What a monitor sees.
    pub(crate) fn observed(&self) -> Observed {
        let mut queues = BTreeMap::new();
        for (name, demand) in &self.demand {
            let running = self.processes.values().filter(|p| p.job.as_ref().is_some_and(|job| job.0 == *name)).count();
            let oldest = self.waiting_since.get(name).map(|since| self.now_ms - since);
            let waiting = demand.saturating_sub(running) as u64;
            queues.insert(
                name.clone(),
                Queue { waiting, running: running as u64, oldest_ms: oldest, ..Queue::default() },
            );
        }
        let workers = self.processes.iter().map(|(id, process)| (id.clone(), process.worker.clone())).collect();
        Observed { now_ms: self.now_ms, workers, queues }
    }

    /// The monitor looks, decides, and it is done, as far as nothing goes wrong; then time goes on.
    pub(crate) fn tick(&mut self) -> Plan {
        if self.random.chance(self.faults.forgetful) {
            self.memory = Memory::default();
        }
        self.is_faultless &= self.faults == Faults::default();
        let observed = self.observed();
        let plan = reconcile(&self.desired, &observed, &self.memory);
        assert_eq!(plan, reconcile(&self.desired, &observed, &self.memory), "not the same again");
        for decision in &plan.decisions {
            self.log.push(format!("{}: {:?}: {}", self.now_ms, decision.action, decision.why));
        }
        check::holds(self, &observed, &plan);
        for (name, target) in &plan.targets {
            let before = self.memory.functions.get(name).and_then(|memory| memory.target);
            if before.is_some_and(|before| before < *target) {
                self.grown.insert(name.clone(), self.now_ms);
            }
        }
        self.memory = plan.memory.clone();
        for decision in &plan.decisions {
            if self.random.chance(self.faults.refused) {
                self.refuse(&decision.action);
            } else if !self.random.chance(self.faults.lost) {
                self.obey(&decision.action);
            }
        }
        self.pass();
        plan
    }

    fn refuse(&mut self, action: &Action) {
        match action {
            Action::Register { worker, function } => self.memory.refused(worker, function, self.now_ms),
            Action::Start { host, by } => self.memory.start_failed(host, by, "no".to_owned(), self.now_ms),
            Action::Unregister { .. } | Action::Exit { .. } => {}
        }
    }

    fn obey(&mut self, action: &Action) {
        let (Action::Register { worker: id, .. }
        | Action::Unregister { worker: id, .. }
        | Action::Exit { worker: id }
        | Action::Start { by: id, .. }) = action;
        let Some(process) = self.processes.get_mut(id).filter(|process| process.silent_for == 0) else { return };
        let worker = &mut process.worker;
        match action {
            Action::Register { function, .. } if worker.not_in_use.remove(function) => {
                worker.in_use.insert(function.clone());
            }
            Action::Unregister { function, .. } if worker.in_use.remove(function) => {
                worker.not_in_use.insert(function.clone());
            }
            Action::Exit { .. } => worker.is_leaving = true,
            Action::Start { host, .. } => {
                let functions = worker.in_use.union(&worker.not_in_use).cloned().collect();
                let kind = (worker.language.clone(), functions);
                let due = self.now_ms + self.random.within(0, 3) as u64 * TICK_MS;
                self.to_come.push((due, host.clone(), kind));
            }
            Action::Register { .. } | Action::Unregister { .. } => {}
        }
    }

    /// A tick passes.
    fn pass(&mut self) {
        self.now_ms += TICK_MS;
        for (due, host, kind) in std::mem::take(&mut self.to_come) {
            if due < self.now_ms {
                self.arrive(&host, kind);
            } else {
                self.to_come.push((due, host, kind));
            }
        }
        self.go_wrong();
        for process in self.processes.values_mut() {
            process.silent_for = process.silent_for.saturating_sub(1);
            process.worker.silent_ms = if process.silent_for > 0 { process.worker.silent_ms + TICK_MS } else { 0 };
            process.job = process.job.take().filter(|(_, left)| *left > 1).map(|(name, left)| (name, left - 1));
        }
        self.processes.retain(|_, process| !process.worker.is_leaving || process.job.is_some());
        for (name, demand) in &self.demand {
            let mut running =
                self.processes.values().filter(|p| p.job.as_ref().is_some_and(|job| job.0 == *name)).count();
            for process in self.processes.values_mut() {
                let is_free = process.job.is_none() && !process.worker.is_leaving && process.silent_for == 0;
                if running < *demand && is_free && process.worker.in_use.contains(name) {
                    process.job = Some((name.clone(), self.random.within(1, 4)));
                    running += 1;
                }
            }
            if running < *demand {
                self.waiting_since.entry(name.clone()).or_insert(self.now_ms);
            } else {
                self.waiting_since.remove(name);
            }
        }
        for process in self.processes.values_mut() {
            process.worker.running = process.job.iter().map(|(name, _)| name.clone()).collect();
        }
    }

    fn go_wrong(&mut self) {
        let ids: Vec<WorkerId> = self.processes.keys().cloned().collect();
        for id in ids {
            if self.random.chance(self.faults.killed) {
                self.processes.remove(&id);
            } else if self.random.chance(self.faults.silent) {
                let ticks = self.random.within(1, 12);
                self.processes.get_mut(&id).unwrap().silent_for = ticks;
            }
        }
        let sites: Vec<String> = self.sites.keys().cloned().collect();
        for host in sites {
            let is_empty = !self.processes.values().any(|process| process.worker.host == host);
            if self.random.chance(self.faults.started) || is_empty && self.faults.killed > 0 && self.random.chance(20) {
                let kind = self.random.pick(&self.sites[&host].kinds.clone());
                self.arrive(&host, kind);
            }
        }
    }

    /// Ticks until nothing is decided for so long that nothing more will be, and returns after how many ticks
    /// that was so.
    pub(crate) fn settle(&mut self) -> usize {
        let mut last = 0;
        let quiet = 60;
        for tick in 1.. {
            let plan = self.tick();
            if !plan.decisions.is_empty() {
                last = tick;
            }
            if tick - last > quiet {
                return last;
            }
            assert!(tick < 600, "not settled after {tick} ticks:\n{}", self.story());
        }
        unreachable!()
    }

    /// How many workers do each function and are not about to leave.
    pub(crate) fn serving(&self) -> BTreeMap<String, usize> {
        let does = |name: &String, worker: &Worker| !worker.is_leaving && worker.in_use.contains(name);
        let count = |name| self.processes.values().filter(|process| does(name, &process.worker)).count();
        self.desired.functions.keys().map(|name| (name.clone(), count(name))).collect()
    }

    /// What led here.
    pub(crate) fn story(&self) -> String {
        let last = self.log.len().saturating_sub(60);
        let workers: Vec<String> =
            self.processes.iter().map(|(id, process)| format!("{id}: {:?}", process.worker)).collect();
        let log = self.log[last..].join("\n");
        format!("{:#?}\n{}\n{:?}\n{log}", self.desired, workers.join("\n"), self.memory)
    }
}

fn function(random: &mut Random, hosts: &[String]) -> Function {
    let min = random.below(3);
    let mut function = Function {
        min,
        max: random.chance(70).then(|| min + random.below(5)),
        scale_up_cooldown: Duration::from_secs(random.within(1, 4) as u64 * 5),
        scale_up_step: random.within(1, 2),
        ..Function::default()
    };
    if random.chance(25) {
        function.hosts = Some(vec![random.pick(hosts)]);
    }
    if random.chance(40) {
        function.scale_up_queue = Some(random.within(1, 3) as u64);
    }
    if random.chance(40) {
        function.scale_up_age = Some(Duration::from_secs(random.within(1, 6) as u64 * 5));
    }
    if random.chance(30) {
        function.scale_down_after = Some(Duration::from_secs(random.within(3, 9) as u64 * 5));
    }
    function
}
