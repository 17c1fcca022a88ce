//! The model's operator: what is held back from workers, and jobs that are moved, preferred or not waited
//! for.

use std::collections::BTreeSet;

use gearmand::job_server::{ControlError, Now, StoreOp, WorkerMode};

use super::model::{Job, Model, Outcome, Residency, Sleep, State};
use super::model_submit::coalesce;
use super::wire::{self, FUNCTIONS, Reply};

/// What the operator decided of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Controls {
    pub(crate) paused: bool,
    /// 0 for no limit.
    pub(crate) max_running: usize,
}

/// Whom a rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whom {
    Connection(u32),
    Client(&'static [u8]),
    Host(&'static str),
}

/// A change that the store is told of: the number of the job, its function before, and all that may have
/// changed.
pub(crate) type EditSeen = (u64, usize, usize, usize, u64);

impl Model {
    fn controls(&self, function: usize) -> Controls {
        self.controls.get(&function).copied().unwrap_or_default()
    }

    pub(crate) fn is_paused(&self, function: usize) -> bool {
        self.controls(function).paused
    }

    pub(crate) fn is_controlled(&self, function: usize) -> bool {
        self.controls(function) != Controls::default()
    }

    pub(crate) fn paused(&self) -> Vec<usize> {
        self.controls.iter().filter(|(_, controls)| controls.paused).map(|(function, _)| *function).collect()
    }

    pub(crate) fn limited(&self) -> Vec<usize> {
        self.controls.iter().filter(|(_, controls)| controls.max_running > 0).map(|(function, _)| *function).collect()
    }

    /// The jobs that wait for their time.
    pub(crate) fn scheduled(&self) -> Vec<u64> {
        let scheduled = self.jobs.iter().filter(|(_, job)| job.state == State::Scheduled);
        scheduled.map(|(name, _)| *name).collect()
    }

    /// How many more jobs of a function may be handed out.
    pub(crate) fn room(&self, function: usize) -> usize {
        let Controls { paused, max_running } = self.controls(function);
        let is_running = |state| matches!(state, State::Running { .. });
        let running = self.jobs.values().filter(|job| job.function == function && is_running(job.state)).count();
        match (paused, max_running) {
            (true, _) => 0,
            (false, 0) => usize::MAX,
            (false, most) => most.saturating_sub(running),
        }
    }

    /// How many jobs of a function workers could have at once.
    pub(crate) fn available(&self, function: usize) -> usize {
        let is_ready = |state| matches!(state, State::Ready(_));
        let ready = self.jobs.values().filter(|job| job.function == function && is_ready(job.state)).count();
        ready.min(self.room(function))
    }

    /// Whether a connection gets no jobs of a function.
    pub(crate) fn is_withheld(&self, connection: u32, function: usize) -> bool {
        !self.rules.is_empty()
            && self.rules.keys().any(|(whom, of)| of.is_none_or(|of| of == function) && self.means(*whom, connection))
    }

    fn means(&self, whom: Whom, number: u32) -> bool {
        let connection = &self.connections[&number];
        match whom {
            Whom::Connection(meant) => meant == number,
            Whom::Client(id) => connection.client == Some(id),
            Whom::Host(host) => connection.host == host,
        }
    }

    /// Connections that can do something; one that is meant by itself whatever it does.
    pub(crate) fn workers_of(&self, whom: Whom) -> Vec<u32> {
        let numbers = self.connections.iter().filter(|(number, connection)| {
            self.means(whom, **number) && (matches!(whom, Whom::Connection(_)) || !connection.abilities.is_empty())
        });
        numbers.map(|(number, _)| *number).collect()
    }

    /// How many workers that rules for these mean offer one of the functions; `None` is any.
    fn count_concerned(&self, whom: Whom, functions: &[Option<usize>]) -> usize {
        let offers = |worker: &u32| {
            functions.iter().any(|function| function.is_none_or(|function| self.connections[worker].can_do(function)))
        };
        self.workers_of(whom).iter().filter(|worker| offers(worker)).count()
    }

    /// Which abilities are withheld.
    fn all_withheld(&self) -> BTreeSet<(u32, usize)> {
        let abilities = self
            .connections
            .iter()
            .flat_map(|(number, connection)| connection.abilities.iter().map(|ability| (*number, ability.function)));
        abilities.filter(|(number, function)| self.is_withheld(*number, *function)).collect()
    }

    /// Something changes that the rules go by.
    fn change_rules(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.all_withheld();
        change(self);
        let after = self.all_withheld();
        for (number, function) in before.difference(&after) {
            let slept = self.transition;
            let abilities = &mut self.connections.get_mut(number).unwrap().abilities;
            // It gets in line again.
            abilities
                .iter_mut()
                .filter(|ability| ability.function == *function)
                .for_each(|ability| ability.slept = slept);
            self.note("was given jobs again");
        }
        for (number, _) in after.difference(&before) {
            if let Sleep::Woken { counted, .. } = &mut self.connections.get_mut(number).unwrap().sleep {
                *counted = false;
                self.note("was woken when jobs were withheld from it");
            }
        }
    }

    /// A connection gives itself an id.
    pub(crate) fn renamed(&mut self, from: u32, id: &'static [u8]) {
        self.change_rules(|model| model.connections.get_mut(&from).unwrap().client = Some(id));
    }

    /// A worker got no job: would it have had one?
    pub(crate) fn note_held_back(&mut self, from: u32) {
        for function in self.connections[&from].abilities.iter().map(|ability| ability.function).collect::<Vec<_>>() {
            if (0..3).all(|priority| self.first_ready(function, priority).is_none()) {
                continue;
            }
            if self.is_withheld(from, function) {
                self.note("was withheld from a worker");
            } else if self.is_paused(function) {
                self.note("was held back since its function is paused");
            } else if self.room(function) == 0 {
                self.note("was held back since as many run as may");
            }
        }
    }

    pub(crate) fn worker_mode_set(
        &mut self,
        now: Now,
        whom: Whom,
        function: Option<usize>,
        mode: WorkerMode,
        result: Result<usize, ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        self.change_rules(|model| {
            model.rules.insert((whom, function), mode);
        });
        assert_eq!(result, Ok(self.count_concerned(whom, &[function])), "whom a rule concerns");
        self.finish(now, None, outcome);
    }

    pub(crate) fn workers_enabled(
        &mut self,
        now: Now,
        whom: Whom,
        function: Option<usize>,
        result: Result<usize, ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        let is_meant = |of: Whom, part: Option<usize>| of == whom && (function.is_none() || part == function);
        let ended: Vec<Option<usize>> =
            self.rules.keys().filter(|(of, part)| is_meant(*of, *part)).map(|(_, part)| *part).collect();
        self.change_rules(|model| {
            model.rules.retain(|(of, part), _| !is_meant(*of, *part));
        });
        let concerned = self.count_concerned(whom, &ended);
        let expected = if ended.is_empty() { Err(ControlError::NoSuchRule) } else { Ok(concerned) };
        assert_eq!(result, expected, "whom a rule concerned");
        self.finish(now, None, outcome);
    }

    /// Whether no function more may be paused or limited, and this one is to be.
    fn is_one_setting_too_many(&self, function: usize, is_set: bool) -> bool {
        let has_settings = |function: &usize| {
            self.is_controlled(*function) || self.functions.get(function).is_some_and(|of| *of != [0; 3])
        };
        let most = 10_000.min(self.policy.max_functions - self.policy.max_functions / 8);
        let count = (0..FUNCTIONS.len()).filter(has_settings).count();
        is_set && !has_settings(&function) && count >= most
    }

    pub(crate) fn function_limited(&mut self, function: usize, limits: [u32; 3], result: Result<usize, ControlError>) {
        if self.is_one_setting_too_many(function, limits != [0; 3]) {
            assert_eq!(result, Err(ControlError::TooManySettings));
            self.note("was one function too many to be limited");
        } else if self.know_for_setting(function, limits != [0; 3], result) {
            self.functions.insert(function, limits);
            self.end_setting(function, result);
        }
    }

    /// A setting of a function is to change. Returns whether there is one, or it is made for that.
    fn know_for_setting(&mut self, function: usize, is_set: bool, result: Result<usize, ControlError>) -> bool {
        if self.functions.contains_key(&function) {
            return true;
        }
        if !is_set {
            assert_eq!(result, Ok(0), "nothing was there to take back");
            return false;
        }
        let is_known = self.know_for_control(function, result == Err(ControlError::TooManyFunctions));
        if is_known {
            self.settings_only.insert(function);
        }
        is_known
    }

    /// A setting has changed: a function that was there for its settings alone goes with the last of them.
    fn end_setting(&mut self, function: usize, result: Result<usize, ControlError>) {
        let is_used = !self.settings_only.contains(&function);
        assert_eq!(result, Ok(usize::from(is_used)), "whether anybody uses it");
        if !is_used && !self.is_controlled(function) && self.functions[&function] == [0; 3] {
            self.settings_only.remove(&function);
            self.functions.remove(&function);
            self.note("had a function that was forgotten with its last setting");
        }
    }

    /// The operator speaks of a function, which is made where there is room for it. Returns whether there is.
    fn know_for_control(&mut self, function: usize, is_refused: bool) -> bool {
        self.settings_only.remove(&function);
        if !self.functions.contains_key(&function) {
            if self.functions.len() >= self.policy.max_functions {
                self.may_have_forgotten = true;
                if is_refused {
                    return false;
                }
            }
            self.functions.insert(function, [0; 3]);
        }
        true
    }

    pub(crate) fn function_paused(
        &mut self,
        now: Now,
        function: usize,
        paused: bool,
        result: Result<usize, ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        if !paused && !self.functions.contains_key(&function) {
            assert_eq!(result, Err(ControlError::NoSuchFunction));
        } else if self.is_one_setting_too_many(function, paused) {
            assert_eq!(result, Err(ControlError::TooManySettings));
        } else if self.know_for_setting(function, paused, result) {
            let controls = self.controls.entry(function).or_default();
            let was_paused = std::mem::replace(&mut controls.paused, paused);
            assert!(!paused || outcome.sent.is_empty(), "a pause says something: {:?}", outcome.sent);
            if was_paused && self.available(function) > 0 {
                self.note("was there when its function went on");
            }
            self.end_setting(function, result);
        }
        self.finish(now, None, outcome);
    }

    pub(crate) fn running_limited(
        &mut self,
        now: Now,
        function: usize,
        most: u32,
        result: Result<usize, ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        if self.is_one_setting_too_many(function, most > 0) {
            assert_eq!(result, Err(ControlError::TooManySettings));
        } else if self.know_for_setting(function, most > 0, result) {
            self.controls.entry(function).or_default().max_running = usize::try_from(most).unwrap();
            self.end_setting(function, result);
        }
        self.finish(now, None, outcome);
    }

    /// The job of a handle, or why it can be moved to no other place.
    fn waiting(&self, handle: &[u8]) -> Result<u64, ControlError> {
        let known = wire::job_of(handle).and_then(|name| self.jobs.get(&name).map(|job| (name, job)));
        let (name, job) = known.filter(|(_, job)| job.state != State::Storing).ok_or(ControlError::NoSuchJob)?;
        match job.state {
            State::Running { .. } => Err(ControlError::JobIsRunning),
            State::Loading(_) => Err(ControlError::JobIsBusy),
            _ if job.residency == Residency::Storing => Err(ControlError::JobIsBusy),
            _ => Ok(name),
        }
    }

    pub(crate) fn moved(
        &mut self,
        now: Now,
        handle: &[u8],
        to: usize,
        result: Result<(), ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        match self.waiting(handle) {
            Err(error) => {
                assert_eq!(result, Err(error), "what was said of a job that is to be moved");
                self.note(match error {
                    ControlError::JobIsRunning => "was running when it was to be moved",
                    ControlError::JobIsBusy => "was busy when it was to be moved",
                    _ => "was gone when it was to be moved",
                });
            }
            Ok(name) if self.know_for_control(to, result == Err(ControlError::TooManyFunctions)) => {
                if self.jobs[&name].function == to {
                    assert_eq!(result, Ok(()));
                } else if self.has_equal(name, to) {
                    assert_eq!(result, Err(ControlError::JobExistsThere));
                    self.note("met its equal where it was to be moved");
                } else {
                    assert_eq!(result, Ok(()));
                    self.transfer(name, to);
                    self.note("was moved");
                }
            }
            Ok(_) => {}
        }
        self.finish(now, None, outcome);
    }

    fn has_equal(&self, name: u64, function: usize) -> bool {
        let job = &self.jobs[&name];
        self.jobs.values().any(|other| coalesce(other, function, job.unique, &job.workload))
    }

    fn transfer(&mut self, name: u64, to: usize) {
        let job = self.jobs.get_mut(&name).unwrap();
        let before = std::mem::replace(&mut job.function, to);
        if matches!(job.state, State::PagedOut(_)) {
            let what = if job.unique == b"-" {
                "was moved, and found by its workload, while that was not in memory"
            } else {
                "was moved while it was paged out"
            };
            self.note(what);
        }
        self.changed(name, before);
    }

    /// A job that waits is another than it was: it gets in line again, and the store is told.
    fn changed(&mut self, name: u64, function_before: usize) {
        let job = self.jobs.get_mut(&name).unwrap();
        job.is_plain = false;
        if job.residency == Residency::Stored {
            let edit = (wire::number(name), function_before, job.function, job.priority, job.due_s);
            self.expected_edits.push(edit);
        }
        if matches!(job.state, State::Ready(_) | State::PagedOut(_)) {
            // In no line, until it has its place in the new one.
            job.state = State::Scheduled;
            self.enqueue(name);
        }
    }

    /// All jobs of a function that wait are moved, in their order. Which stored jobs were being read by then
    /// is told by what the store was asked.
    pub(crate) fn moved_all(
        &mut self,
        now: Now,
        from: usize,
        to: usize,
        result: Result<usize, ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        if !self.functions.contains_key(&from) {
            assert_eq!(result, Err(ControlError::NoSuchFunction));
        } else if self.know_for_control(to, result == Err(ControlError::TooManyFunctions)) {
            let affected = result.expect("jobs are moved between functions that are there");
            let moved = if from == to { 0 } else { self.transfer_all(from, to, outcome) };
            assert_eq!(affected, moved, "how many jobs were moved");
            if moved > 1 {
                self.note("was moved with all others");
            }
        }
        self.finish(now, None, outcome);
    }

    fn transfer_all(&mut self, from: usize, to: usize, outcome: &Outcome) -> usize {
        let (mut edited, mut read) = (BTreeSet::new(), BTreeSet::new());
        for operation in &outcome.operations {
            match operation {
                StoreOp::Edit { key, .. } => drop(edited.insert(key.number)),
                StoreOp::Load { jobs, .. } => read.extend(jobs.iter().map(|key| key.number)),
                _ => {}
            }
        }
        let of_function = self.jobs.iter().filter(|(_, job)| job.function == from);
        let mut line: Vec<(usize, usize, u64, u64)> = of_function
            .filter_map(|(name, job)| match job.state {
                State::Ready(turn) => Some((job.priority, 0, turn, *name)),
                State::PagedOut(turn) => Some((job.priority, 1, turn, *name)),
                State::Scheduled => Some((usize::MAX, 0, 0, *name)),
                _ => None,
            })
            .collect();
        line.sort_unstable();
        let mut moved = 0;
        for (.., name) in line {
            let has_equal = self.has_equal(name, to);
            let number = wire::number(name);
            let is_moved = match self.jobs[&name].residency {
                Residency::Memory => !has_equal,
                Residency::Storing => false,
                Residency::Stored => edited.contains(&number),
            };
            if self.jobs[&name].residency == Residency::Stored && !is_moved {
                assert!(has_equal || read.contains(&number), "job {name} was not moved");
            }
            if is_moved {
                assert!(!has_equal, "job {name} was moved to its equal");
                self.transfer(name, to);
                moved += 1;
            }
        }
        moved
    }

    pub(crate) fn cancelled_all(
        &mut self,
        now: Now,
        function: usize,
        result: Result<usize, ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        // Between two pieces workers are called for what has room by then, and may go with a later one.
        let is_ready = |job: &Job| job.function == function && matches!(job.state, State::Ready(_));
        self.had_ready[function] |= !self.is_paused(function) && self.jobs.values().any(is_ready);
        if self.functions.contains_key(&function) {
            let is_meant = |job: &&u64| {
                let job = &self.jobs[job];
                job.function == function && job.state != State::Storing
            };
            let names: Vec<u64> = self.jobs.keys().filter(is_meant).copied().collect();
            assert_eq!(result, Ok(names.len()), "how many jobs were cancelled");
            if names.len() > 1 {
                self.note("was cancelled with all others");
            }
            for name in names {
                let job = self.end(name);
                if let State::Running { holder, .. } = job.state {
                    self.record_revoked(holder, name);
                }
                for client in job.waits {
                    self.expect(client, Reply::WorkFail { job: name });
                }
            }
        } else {
            assert_eq!(result, Err(ControlError::NoSuchFunction));
        }
        self.finish(now, None, outcome);
    }

    pub(crate) fn prioritised(
        &mut self,
        now: Now,
        handle: &[u8],
        priority: usize,
        result: Result<(), ControlError>,
        outcome: &Outcome,
    ) {
        self.begin();
        let waiting = self.waiting(handle);
        assert_eq!(result, waiting.map(|_| ()), "what was said of a job that is to have another priority");
        if let Ok(name) = waiting {
            let job = self.jobs.get_mut(&name).unwrap();
            let function = job.function;
            if std::mem::replace(&mut job.priority, priority) != priority {
                self.changed(name, function);
                self.note("was given another priority");
            }
        }
        self.finish(now, None, outcome);
    }

    pub(crate) fn ran_now(&mut self, now: Now, handle: &[u8], result: Result<(), ControlError>, outcome: &Outcome) {
        self.begin();
        let name =
            wire::job_of(handle).filter(|name| self.jobs.get(name).is_some_and(|job| job.state != State::Storing));
        match name {
            None => assert_eq!(result, Err(ControlError::NoSuchJob)),
            Some(name) if self.jobs[&name].state != State::Scheduled => {
                assert_eq!(result, Err(ControlError::JobIsNotScheduled));
            }
            Some(name) if self.jobs[&name].residency == Residency::Storing => {
                assert_eq!(result, Err(ControlError::JobIsBusy));
            }
            Some(name) => {
                assert_eq!(result, Ok(()));
                let job = self.jobs.get_mut(&name).unwrap();
                job.due_s = job.due_s.min(now.unix_us / 1_000_000);
                let function = job.function;
                self.changed(name, function);
                self.enqueue(name);
                self.note("was not waited for");
            }
        }
        self.finish(now, None, outcome);
    }

    /// The store is told of each change of a job that it has, and of no other.
    pub(crate) fn check_edits(&mut self, outcome: &Outcome) {
        let index = |name: &[u8]| FUNCTIONS.iter().position(|function| *function == name).unwrap();
        let mut seen = Vec::new();
        for operation in &outcome.operations {
            if let StoreOp::Edit { key, edit } = operation {
                let (before, after) = (index(key.function.as_bytes()), index(edit.function.as_bytes()));
                seen.push((key.number, before, after, edit.priority.index(), edit.due_s));
            }
        }
        seen.sort_unstable();
        self.expected_edits.sort_unstable();
        assert_eq!(seen, self.expected_edits, "changes that the store was told of");
    }
}
