//! The operator of the simulated server: settings, and the verbs that steer functions, jobs and workers.

use gearmand::job_server::{ControlError, Cursor, DropFunction, JobServer, Policy, WorkerMode, WorkerSelector};
use gearmand::protocol::{FunctionName, Priority};

use super::link::Recorder;
use super::model::Outcome;
use super::model_control::Whom;
use super::peer::{Surroundings, some_handle};
use super::policy::some_policy;
use super::wire::{self, CLIENTS, FUNCTIONS, HOSTS};
use super::world::{World, check_price, finish_hold};

impl World {
    /// The operator does something.
    pub(crate) fn operate(&mut self) {
        let function = self.random.index(self.functions);
        let name = FUNCTIONS[function];
        match self.random.below(15) {
            0..6 => return self.cancel(),
            6 | 7 => {
                self.drop_function(function);
            }
            8 => {
                let result = self.server.create_function(name);
                self.event("the operator creates", &(function, result));
                self.model.function_created(function, result.is_ok());
            }
            9 | 10 => {
                let limits = [0; 3].map(|_: u32| self.random.pick(&[0, 0, 0, 1, 5]));
                self.limit_queue(function, limits);
            }
            11 => {
                let Policy { exceptions, keeps_jobs, handle_prefix, .. } = self.model.policy.clone();
                let policy = some_policy(&mut self.random, self.has_small_limits);
                self.set_policy(Policy { exceptions, keeps_jobs, handle_prefix, ..policy });
            }
            _ => self.meddle_with_store(),
        }
        self.check();
    }

    pub(crate) fn drop_function(&mut self, function: usize) -> DropFunction {
        let (result, outcome) = self.steer(|server, effects| server.drop_function(FUNCTIONS[function], effects));
        self.event("the operator drops", &(function, result));
        self.model.function_dropped(function, result);
        self.conclude(outcome);
        result
    }

    pub(crate) fn limit_queue(&mut self, function: usize, limits: [u32; 3]) {
        let (result, outcome) =
            self.steer(|server, effects| server.limit_function(FUNCTIONS[function], limits, effects));
        self.event("the operator limits", &(function, limits, result));
        self.model.function_limited(function, limits, result);
        self.conclude(outcome);
    }

    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.event("the operator decides", &policy);
        let now = self.now;
        let ((), outcome) = self.steer(|server, effects| server.set_policy(now, &policy, effects));
        self.model.policy_changed(now, policy, &outcome);
        self.conclude(outcome);
    }

    fn cancel(&mut self) {
        let world = Surroundings {
            unix_s: 0,
            is_busy: false,
            recent: &self.recent,
            functions: self.functions,
            registering_may_fail: false,
        };
        let handle = some_handle(&mut self.random, &world);
        self.event("the operator cancels", &handle.escape_ascii().to_string());
        let mut effects = Recorder::new(&mut self.links, None, self.store.is_some());
        self.server.start_turn();
        let existed = self.server.cancel_job(self.now, &handle, &mut effects);
        finish_hold(&mut self.server, &self.model.policy, self.now, &mut effects);
        let outcome = effects.outcome;
        self.observe(&outcome);
        self.model.cancelled(self.now, &handle, existed, &outcome);
        self.conclude(outcome);
    }

    /// The operator steers functions, jobs or workers. What holds jobs back is lifted about as often as it is
    /// made.
    pub(crate) fn control(&mut self) {
        let function = self.random.index(self.functions.min(4));
        match self.random.below(100) {
            0..8 => self.pause(function, true),
            8..20 => {
                let paused = self.model.paused();
                let function = if paused.is_empty() { function } else { self.random.pick(&paused) };
                self.pause(function, false);
            }
            20..30 => {
                let most = self.random.pick(&[0, 0, 1, 1, 2, 3]);
                self.limit_running(function, most);
            }
            30..42 => self.move_one(),
            42..50 => self.set_priority(),
            50..58 => self.run_job(),
            58..63 => {
                let to = self.random.index(self.functions);
                self.move_all(function, to);
            }
            63..66 => self.cancel_all(function),
            66..78 => {
                let (who, function) = (self.some_workers(), self.some_part(function));
                self.set_worker_mode(who, function);
            }
            78..95 => {
                let rules: Vec<(Whom, Option<usize>)> = self.model.rules.keys().copied().collect();
                let by_chance = (self.some_workers(), self.some_part(function));
                let (who, part) = if rules.is_empty() { by_chance } else { self.random.pick(&rules) };
                let part = if self.random.chance(60) { part } else { None };
                self.enable_workers(who, part);
            }
            _ => self.kick(),
        }
    }

    fn some_part(&mut self, function: usize) -> Option<usize> {
        self.random.chance(50).then_some(function)
    }

    /// Whom a rule may mean. A connection may have gone.
    fn some_workers(&mut self) -> Whom {
        match self.random.below(5) {
            0 => Whom::Client(self.random.pick(&CLIENTS)),
            1 => Whom::Host(self.random.pick(&HOSTS)),
            _ => {
                let numbers: Vec<u32> = self.links.iter().flatten().map(|link| link.number).collect();
                Whom::Connection(if numbers.is_empty() { 0 } else { self.random.pick(&numbers) })
            }
        }
    }

    /// `None` for a connection that has gone.
    fn who(&self, whom: Whom) -> Option<WorkerSelector> {
        Some(match whom {
            Whom::Connection(number) => {
                let link = self.links.iter().flatten().find(|link| link.number == number);
                WorkerSelector::Connection(link?.id)
            }
            Whom::Client(id) => WorkerSelector::Client(id.to_vec()),
            Whom::Host(address) => WorkerSelector::Host(address.to_owned()),
        })
    }

    /// The handle of a job, mostly of one that is there.
    fn some_job(&mut self) -> Vec<u8> {
        let jobs: Vec<u64> = self.model.jobs.keys().copied().collect();
        if !jobs.is_empty() && self.random.chance(80) {
            return wire::handle(self.random.pick(&jobs));
        }
        let world = Surroundings {
            unix_s: 0,
            is_busy: false,
            recent: &self.recent,
            functions: self.functions,
            registering_may_fail: false,
        };
        some_handle(&mut self.random, &world)
    }

    /// Does something to the server as one transition.
    fn steer<R>(&mut self, act: impl FnOnce(&mut JobServer, &mut Recorder<'_>) -> R) -> (R, Outcome) {
        let mut effects = Recorder::new(&mut self.links, None, self.store.is_some());
        self.server.start_turn();
        let result = act(&mut self.server, &mut effects);
        finish_hold(&mut self.server, &self.model.policy, self.now, &mut effects);
        let outcome = effects.outcome;
        self.observe(&outcome);
        (result, outcome)
    }

    fn pause(&mut self, function: usize, paused: bool) {
        self.event("the operator pauses or resumes", &(function, paused));
        let now = self.now;
        let (result, outcome) =
            self.steer(|server, effects| server.pause_function(now, FUNCTIONS[function], paused, effects));
        self.model.function_paused(now, function, paused, result, &outcome);
        self.conclude(outcome);
    }

    fn limit_running(&mut self, function: usize, most: u32) {
        self.event("the operator limits what runs", &(function, most));
        let now = self.now;
        let (result, outcome) =
            self.steer(|server, effects| server.limit_running(now, FUNCTIONS[function], most, effects));
        self.model.running_limited(now, function, most, result, &outcome);
        self.conclude(outcome);
    }

    fn move_one(&mut self) {
        let (handle, to) = (self.some_job(), self.random.index(self.functions));
        let now = self.now;
        self.event("the operator moves", &(handle.escape_ascii().to_string(), to));
        let (result, outcome) = self.steer(|server, effects| server.move_job(now, &handle, FUNCTIONS[to], effects));
        self.model.moved(now, &handle, to, result, &outcome);
        self.conclude(outcome);
    }

    fn set_priority(&mut self) {
        let (handle, priority) = (self.some_job(), self.random.pick(&Priority::ALL));
        let now = self.now;
        self.event("the operator prefers", &(handle.escape_ascii().to_string(), priority));
        let (result, outcome) = self.steer(|server, effects| server.set_priority(now, &handle, priority, effects));
        self.model.prioritised(now, &handle, priority.index(), result, &outcome);
        self.conclude(outcome);
    }

    fn run_job(&mut self) {
        let scheduled = self.model.scheduled();
        let handle = if scheduled.is_empty() || self.random.chance(10) {
            self.some_job()
        } else {
            wire::handle(self.random.pick(&scheduled))
        };
        let now = self.now;
        self.event("the operator does not wait for", &handle.escape_ascii().to_string());
        let (result, outcome) = self.steer(|server, effects| server.run_job(now, &handle, effects));
        self.model.ran_now(now, &handle, result, &outcome);
        self.conclude(outcome);
    }

    fn move_all(&mut self, from: usize, to: usize) {
        self.event("the operator moves all", &(from, to));
        let (now, policy) = (self.now, self.model.policy.clone());
        let (result, outcome) = self.steer(|server, effects| {
            in_pieces(|cursor| {
                server.start_turn();
                let progress = server.move_jobs(now, FUNCTIONS[from], FUNCTIONS[to], cursor, effects)?;
                check_price(server, &policy);
                server.check_invariants();
                Ok((progress.affected, progress.next))
            })
        });
        self.model.moved_all(now, from, to, result, &outcome);
        self.conclude(outcome);
    }

    fn cancel_all(&mut self, function: usize) {
        self.event("the operator cancels all", &function);
        let (now, policy) = (self.now, self.model.policy.clone());
        let (result, outcome) = self.steer(|server, effects| {
            in_pieces(|cursor| {
                server.start_turn();
                let progress = server.cancel_jobs(now, FUNCTIONS[function], cursor, effects)?;
                check_price(server, &policy);
                server.check_invariants();
                Ok((progress.affected, progress.next))
            })
        });
        self.model.cancelled_all(now, function, result, &outcome);
        self.conclude(outcome);
    }

    fn set_worker_mode(&mut self, whom: Whom, function: Option<usize>) {
        let mode = self.random.pick(&[WorkerMode::Disabled, WorkerMode::Draining]);
        self.event("the operator withholds", &(whom, function, mode));
        let Some(who) = self.who(whom) else { return };
        let now = self.now;
        let (result, outcome) = self.steer(|server, effects| {
            let name = function.map(|function| FUNCTIONS[function]);
            server.set_worker_mode(now, &who, name, mode, effects)
        });
        self.model.worker_mode_set(now, whom, function, mode, result, &outcome);
        self.conclude(outcome);
    }

    fn enable_workers(&mut self, whom: Whom, function: Option<usize>) {
        self.event("the operator lets go on", &(whom, function));
        let Some(who) = self.who(whom) else { return };
        let now = self.now;
        let (result, outcome) = self.steer(|server, effects| {
            let name = function.map(|function| FUNCTIONS[function]);
            server.enable_workers(now, &who, name, effects)
        });
        self.model.workers_enabled(now, whom, function, result, &outcome);
        self.conclude(outcome);
    }

    /// The connections are closed, and end as others do.
    fn kick(&mut self) {
        let whom = self.some_workers();
        self.event("the operator kicks", &whom);
        let Some(who) = self.who(whom) else { return };
        let meant = self.server.workers_of(&who);
        let mut numbers = Vec::new();
        for slot in 0..self.links.len() {
            if let Some(link) = self.links[slot].as_ref().filter(|link| meant.contains(&link.id)) {
                numbers.push(link.number);
            }
        }
        assert_eq!(numbers.len(), meant.len(), "one is kicked who is not there");
        numbers.sort_unstable();
        assert_eq!(numbers, self.model.workers_of(whom), "others were kicked than were meant");
        for slot in 0..self.links.len() {
            if self.links[slot].as_ref().is_some_and(|link| meant.contains(&link.id)) {
                self.model.note("was kicked");
                self.disconnect(slot, false);
            }
        }
    }

    /// What holds jobs back is lifted.
    pub(crate) fn lift_all(&mut self) {
        for function in self.model.paused() {
            self.pause(function, false);
        }
        for function in self.model.limited() {
            self.limit_running(function, 0);
        }
        let rules: Vec<Whom> = self.model.rules.keys().map(|(whom, _)| *whom).collect();
        for whom in rules {
            self.enable_workers(whom, None);
        }
    }

    /// The rules are those that the operator has made and not taken back.
    pub(crate) fn check_rules(&self) {
        let mut rules = self.server.list_rules(None);
        for ((whom, function), mode) in &self.model.rules {
            let who = self.who(*whom).expect("a rule has outlived its connection");
            let name = function.map(|function| FUNCTIONS[function]);
            let is_this = |rule: &gearmand::job_server::Rule| {
                rule.selector == who && rule.function.as_ref().map(FunctionName::as_bytes) == name && rule.mode == *mode
            };
            let index = rules.iter().position(is_this);
            rules.remove(index.expect("a rule is not shown"));
        }
        assert_eq!(rules, [], "rules that nobody made, or that were taken back");
    }
}

/// Calls again and again until all is done. Returns how many jobs that came to.
fn in_pieces(
    mut act: impl FnMut(Cursor) -> Result<(usize, Option<Cursor>), ControlError>,
) -> Result<usize, ControlError> {
    let (mut affected, mut cursor) = (0, Cursor::default());
    for _ in 0..1000 {
        let (more, next) = act(cursor)?;
        affected += more;
        match next {
            Some(next) => cursor = next,
            None => return Ok(affected),
        }
    }
    panic!("a long piece of work does not end");
}
