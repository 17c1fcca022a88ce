//! The model's workers: what they can do, what they are handed, and what becomes of what they say.

use gearmand::job_server::Now;

use super::model::{Ability, Job, Model, Outcome, Residency, Sleep, State};
use super::wire::{self, Ask, Reply};

/// How many jobs that were taken away from a connection the server surely remembers.
const REVOKED_FOR_SURE: usize = 1024;

impl Model {
    pub(crate) fn can_do(&mut self, from: u32, function: usize, timeout_ms: Option<u64>, outcome: &Outcome) {
        let limit = self.policy.max_functions_per_connection;
        let slept = self.transition;
        let abilities = &mut self.connections.get_mut(&from).unwrap().abilities;
        if let Some(index) = abilities.iter().position(|ability| ability.function == function) {
            let ability = abilities.remove(index);
            abilities.insert(0, Ability { timeout_ms, ..ability });
            return assert_eq!(outcome.refused_functions, 0, "a function was registered before");
        }
        if abilities.len() >= limit {
            assert_eq!(outcome.refused_functions, 1, "a connection has more functions than it may");
            return self.note("was one function too many of a connection");
        }
        if !self.functions.contains_key(&function) && self.functions.len() >= self.policy.max_functions {
            self.may_have_forgotten = true;
            if outcome.refused_functions > 0 {
                return self.note("was one function too many");
            }
        }
        assert_eq!(outcome.refused_functions, 0, "there was room for a function");
        self.functions.entry(function).or_default();
        self.settings_only.remove(&function);
        let abilities = &mut self.connections.get_mut(&from).unwrap().abilities;
        abilities.insert(0, Ability { function, timeout_ms, slept });
    }

    pub(crate) fn cant_do(&mut self, from: u32, function: usize) {
        let connection = self.connections.get_mut(&from).unwrap();
        if !connection.can_do(function) {
            return;
        }
        connection.abilities.retain(|ability| ability.function != function);
        if let Sleep::Woken { counted, .. } = &mut connection.sleep {
            *counted = false;
        }
        self.take_all_away(from, |job| job.function == function);
    }

    /// Takes jobs from a worker that is still there.
    pub(crate) fn take_all_away(&mut self, from: u32, which: impl Fn(&Job) -> bool) {
        for name in self.held_by(from) {
            if !which(&self.jobs[&name]) {
                continue;
            }
            if self.connections[&from].holds_unbegun && self.is_spared(name) {
                self.put_back(name);
                self.note("was given back as not begun");
            } else {
                self.record_revoked(from, name);
                self.lose_worker(name);
                self.note("was given back");
            }
        }
    }

    /// A connection can do nothing any more.
    pub(crate) fn forget_abilities(&mut self, who: u32) {
        let connection = self.connections.get_mut(&who).unwrap();
        if let Sleep::Woken { counted, .. } = &mut connection.sleep
            && !connection.abilities.is_empty()
        {
            *counted = false;
        }
        connection.abilities.clear();
    }

    pub(crate) fn record_revoked(&mut self, holder: u32, number: u64) {
        if let Some(connection) = self.connections.get_mut(&holder) {
            connection.revoked.push(number);
        }
    }

    pub(crate) fn lose_worker(&mut self, name: u64) {
        let job = self.jobs.get_mut(&name).unwrap();
        job.attempts += 1;
        if self.policy.job_retries.is_some_and(|retries| job.attempts >= u32::from(retries.get())) {
            let job = self.end(name);
            if job.is_wanted() { &mut self.dropped } else { &mut self.may_be_dropped }.push(name);
            for client in job.waits {
                self.expect(client, Reply::WorkFail { job: name });
            }
            self.note("was dropped after its last attempt");
        } else {
            self.put_back(name);
        }
    }

    /// A job is for the next worker, if anybody wants it.
    pub(crate) fn put_back(&mut self, name: u64) {
        let job = self.jobs.get_mut(&name).unwrap();
        job.is_plain = false;
        if job.is_wanted() {
            self.last_turn += 1;
            job.state = State::Ready(self.last_turn);
            if job.residency == Residency::Stored {
                self.note("was stored and lost its worker");
            }
        } else {
            self.end(name);
            self.note("was abandoned and lost its worker");
        }
    }

    pub(crate) fn pre_sleep(&mut self, from: u32) {
        let slept = self.transition;
        let connection = self.connections.get_mut(&from).unwrap();
        if connection.sleep == Sleep::Asleep {
            return;
        }
        let declined = matches!(connection.sleep, Sleep::Woken { .. });
        connection.sleep = Sleep::Asleep;
        for ability in &mut connection.abilities {
            ability.slept = slept;
        }
        if declined {
            self.note("went back to sleep after its NOOP");
        }
    }

    pub(crate) fn grab(&mut self, now: Now, from: u32, kind: wire::Grab, outcome: &Outcome) {
        self.connections.get_mut(&from).unwrap().sleep = Sleep::Awake;
        if self.draining {
            self.page_out_durable(from);
        }
        let holds =
            self.jobs.values().filter(|job| matches!(job.state, State::Running { holder, .. } if holder == from));
        let is_full = holds.count() >= self.policy.max_jobs_per_connection as usize;
        let abilities = &self.connections[&from].abilities;
        let choice = (0..3).flat_map(|priority| (0..abilities.len()).map(move |index| (priority, index))).find(
            |(priority, index)| {
                let function = abilities[*index].function;
                let is_open = self.room(function) > 0 && !self.is_withheld(from, function);
                let first = self.first_ready(function, *priority).filter(|_| is_open);
                first.is_some_and(|first| !(self.draining && self.jobs[&first].residency == Residency::Stored))
            },
        );
        let Some((priority, index)) = choice.filter(|_| !is_full) else {
            self.note_held_back(from);
            return self.expect(from, Reply::NoJob);
        };
        let Ability { function, timeout_ms, .. } = abilities[index];
        let assigned = outcome.sent.iter().find_map(|(to, reply)| match reply {
            Reply::Assign(assign) if *to == from => Some(assign.clone()),
            _ => None,
        });
        let assigned = assigned.expect("a worker got no job, and there was one for it");
        let first = self.first_ready(function, priority);
        assert_eq!(Some(assigned.job), first, "not the next job of function {function}, priority {priority}");
        self.check_order(assigned.job);
        let started = self.next_run();
        let abilities = &mut self.connections.get_mut(&from).unwrap().abilities;
        abilities[index..].rotate_left(1);
        let worker = self.connections.get_mut(&from).unwrap();
        worker.revoked.retain(|number| *number != assigned.job);
        worker.last_assigned = Some(assigned.job);
        let job = self.jobs.get_mut(&assigned.job).unwrap();
        let deadline_us = timeout_ms.map(|timeout_ms| now.monotonic_us + timeout_ms * 1000);
        let since_us = now.monotonic_us;
        job.state = State::Running { holder: from, started, since_us, deadline_us, numerator: 0, denominator: 0 };
        let is_reduce = kind == wire::Grab::All && !job.reducer.is_empty();
        let expected = wire::Assign {
            job: assigned.job,
            function: wire::FUNCTIONS[function].to_vec(),
            unique: (kind != wire::Grab::Plain).then(|| job.unique.to_vec()),
            reducer: is_reduce.then(|| job.reducer.to_vec()),
            workload: job.workload.clone(),
        };
        self.note("was handed out");
        self.expect(from, Reply::Assign(expected));
    }

    /// The next job of a function and priority that could be handed out.
    pub(crate) fn first_ready(&self, function: usize, priority: usize) -> Option<u64> {
        self.ready(function, priority).min().map(|(_, name)| name)
    }

    /// Turns and names of the jobs of a function and priority that could be handed out.
    pub(crate) fn ready(&self, function: usize, priority: usize) -> impl Iterator<Item = (u64, u64)> {
        let line = self.jobs.iter().filter(move |(_, job)| job.function == function && job.priority == priority);
        line.filter_map(|(name, job)| if let State::Ready(turn) = job.state { Some((turn, *name)) } else { None })
    }

    /// Stored jobs that were due at once and never given back are handed out in the order of their numbers.
    fn check_order(&self, name: u64) {
        let job = &self.jobs[&name];
        if job.residency != Residency::Stored || !job.is_plain {
            return;
        }
        let overtaken = self.jobs.range(..name).find(|(_, other)| {
            let waits = matches!(other.state, State::Ready(_) | State::PagedOut(_) | State::Loading(_));
            let is_alike = other.residency == Residency::Stored && other.is_plain && waits;
            is_alike && (other.function, other.priority) == (job.function, job.priority)
        });
        assert!(overtaken.is_none(), "job {name} was handed out before {overtaken:?}");
    }

    pub(crate) fn work(&mut self, from: u32, ask: &Ask, outcome: &Outcome) {
        let (handle, is_last) = match ask {
            Ask::WorkStatus { handle, .. } | Ask::WorkData { handle, .. } | Ask::WorkWarning { handle, .. } => {
                (handle, false)
            }
            Ask::WorkComplete { handle, .. } | Ask::WorkFail { handle } | Ask::WorkException { handle, .. } => {
                (handle, true)
            }
            other => panic!("{other:?} tells nothing of a job"),
        };
        let number = wire::job_of(handle);
        let held = number.filter(|number| {
            self.jobs
                .get(number)
                .is_some_and(|job| matches!(job.state, State::Running { holder, .. } if holder == from))
        });
        let Some(number) = held else {
            return self.work_for_another(from, number, ask, is_last, outcome);
        };
        if let Ask::WorkStatus { numerator: done, denominator: of, .. } = ask
            && let State::Running { numerator, denominator, .. } = &mut self.jobs.get_mut(&number).unwrap().state
        {
            (*numerator, *denominator) = (leading_number(done), leading_number(of));
        }
        self.forward(number, ask);
        if is_last {
            let job = self.end(number);
            self.note(if job.is_wanted() { "was finished" } else { "was finished though nobody wants it" });
        }
    }

    fn forward(&mut self, number: u64, ask: &Ask) {
        for client in self.jobs[&number].waits.clone() {
            let wants_exceptions = self.policy.exceptions || self.connections[&client].exceptions;
            self.expect(client, forwarded(number, ask, wants_exceptions));
        }
    }

    /// A connection speaks of a job that it does not hold. If it held the job once, it gets no error, and its
    /// result ends the job; of anything else nobody hears.
    fn work_for_another(&mut self, from: u32, number: Option<u64>, ask: &Ask, is_last: bool, outcome: &Outcome) {
        let revoked = &mut self.connections.get_mut(&from).unwrap().revoked;
        let is_same = |revoked: &u64| number.is_some_and(|number| wire::number(number) == wire::number(*revoked));
        if let Some(index) = revoked.iter().position(is_same) {
            // It goes by the number, where it knows the prefix.
            let is_sure = revoked.len() - index <= REVOKED_FOR_SURE && number == Some(revoked[index]);
            if is_sure || outcome.sent.is_empty() {
                let name = revoked[index];
                if is_last {
                    revoked.remove(index);
                }
                if is_last && number == Some(name) && self.jobs.contains_key(&name) {
                    return self.end_late(name, ask);
                }
                return self.note("was spoken of after it was taken away");
            }
        }
        self.expect_error(from, "JOB_NOT_FOUND", "");
    }
}

impl Model {
    /// A job ends by the word of one from whom it was taken away.
    fn end_late(&mut self, name: u64, ask: &Ask) {
        self.forward(name, ask);
        let job = self.end(name);
        if let State::Running { holder, .. } = job.state {
            self.record_revoked(holder, name);
            return self.note("was ended by one that had lost it, while another ran it");
        }
        self.note("was ended by one that had lost it, while it waited");
    }
}

/// What a client is told when a worker says this.
fn forwarded(job: u64, ask: &Ask, wants_exceptions: bool) -> Reply {
    match ask {
        Ask::WorkStatus { numerator, denominator, .. } => Reply::WorkStatus {
            job,
            numerator: numerator.as_bytes().to_vec(),
            denominator: denominator.as_bytes().to_vec(),
        },
        Ask::WorkData { workload, .. } => Reply::WorkData { job, workload: workload.clone() },
        Ask::WorkWarning { workload, .. } => Reply::WorkWarning { job, workload: workload.clone() },
        Ask::WorkComplete { workload, .. } => Reply::WorkComplete { job, workload: workload.clone() },
        Ask::WorkException { workload, .. } if wants_exceptions => {
            Reply::WorkException { job, workload: workload.clone() }
        }
        Ask::WorkException { .. } | Ask::WorkFail { .. } => Reply::WorkFail { job },
        other => panic!("{other:?} is not passed on"),
    }
}

/// The number that a text begins with after blanks; negative ones are 0.
fn leading_number(text: &str) -> u64 {
    let digits: String = text.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
