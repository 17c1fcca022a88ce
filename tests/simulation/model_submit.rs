//! The model's clients: how jobs come in, which of them are one, and what is told of them by unique id.

use gearmand::job_server::{Now, StoreOp, weight};

use super::model::{Job, Model, Outcome, Residency, State, status};
use super::wire::{self, Reply, Submission};

impl Model {
    /// Whether a function exists or can be made, by what was answered where both may be.
    pub(crate) fn know_function(&mut self, from: u32, function: usize, outcome: &Outcome) -> bool {
        const REFUSAL: &str = "Too many functions on this server (max-functions)";
        if self.functions.contains_key(&function) {
            self.settings_only.remove(&function);
            return true;
        }
        let refused = outcome
            .sent
            .iter()
            .any(|(to, reply)| *to == from && matches!(reply, Reply::Error { text, .. } if text == REFUSAL));
        if self.functions.len() >= self.policy.max_functions {
            self.may_have_forgotten = true;
            if refused {
                self.expect_error(from, "QUEUE_ERROR", REFUSAL);
                self.note("was one function too many");
                return false;
            }
        }
        self.functions.insert(function, [0; 3]);
        true
    }

    pub(crate) fn submit(&mut self, now: Now, from: u32, submission: &Submission, outcome: &Outcome) {
        if self.draining {
            return self.expect_error(from, "SHUTDOWN_GRACEFUL", "");
        }
        let waits = self.waits_of(from);
        if !submission.background && waits >= self.policy.max_pending_jobs_per_connection as usize {
            return self.expect_error(from, "QUEUE_ERROR", "");
        }
        let new = weight::JOB + weight::OPERATION + submission.workload.len() as u64;
        if self.memory_used.saturating_add(new) > self.policy.memory_max / 4 * 3 {
            self.note("met a server without memory");
            let text = "Job queue is full: memory limit reached (max-memory)";
            return self.expect_error(from, "QUEUE_ERROR", text);
        }
        if !self.know_function(from, submission.function, outcome) {
            return;
        }
        let most = self.policy.max_waits_per_job as usize;
        let equal = self
            .jobs
            .iter()
            .find(|(_, job)| coalesce(job, submission.function, submission.unique, &submission.workload))
            .map(|(name, _)| *name);
        if let Some(name) = equal {
            let waits = self.jobs[&name].waits.iter().filter(|client| **client == from).count();
            if !submission.background && waits >= most {
                self.note("was awaited by one connection as often as it may be");
                return self.expect_error(from, "QUEUE_ERROR", "");
            }
            return self.join(from, name, submission.background, outcome);
        }
        let total = self.jobs.values().filter(|job| job.function == submission.function).count();
        let limit = self.functions[&submission.function][submission.priority] as usize;
        if limit > 0 && total >= limit {
            self.note("met a full queue");
            return self.expect_error(from, "QUEUE_ERROR", "Job queue is full");
        }
        if self.jobs.len() >= self.policy.max_jobs {
            self.note("met a full queue");
            let text = "Job queue is full: job limit reached (max-jobs)";
            return self.expect_error(from, "QUEUE_ERROR", text);
        }
        let is_durable = self.policy.keeps_jobs && submission.background;
        if let Err(text) = self.check_memory(submission.workload.len(), is_durable) {
            self.note(if is_durable { "met a store that was behind" } else { "met a full memory" });
            return self.expect_error(from, "QUEUE_ERROR", text);
        }
        let job = Job {
            function: submission.function,
            unique: submission.unique,
            reducer: submission.reducer.unwrap_or(b""),
            workload: submission.workload.clone(),
            priority: submission.priority,
            background: submission.background,
            due_s: submission.epoch_s.and_then(|due_s| u64::try_from(due_s).ok()).unwrap_or(0),
            waits: if submission.background { Vec::new() } else { vec![from] },
            attempts: 0,
            misses: 0,
            state: State::Storing,
            residency: Residency::Memory,
            in_memory: true,
            submitted_s: now.unix_us / 1_000_000,
            is_plain: submission.background && submission.epoch_s.is_none_or(|due_s| due_s <= 0),
        };
        self.create(now, from, job, is_durable, outcome);
    }

    /// A submission equals a job that is there.
    fn join(&mut self, from: u32, name: u64, background: bool, outcome: &Outcome) {
        let pending = self.pending_add_of(name);
        if background && self.policy.keeps_jobs && self.jobs[&name].residency == Residency::Memory {
            let size = self.jobs[&name].workload.len();
            if let Err(text) = self.check_memory(size, true) {
                self.note("met a store that was behind when it was joined");
                return self.expect_error(from, "QUEUE_ERROR", text);
            }
        }
        let job = self.jobs.get_mut(&name).unwrap();
        let what = match job.state {
            State::Storing if background => "was joined before it was stored",
            State::Storing => "was joined by one who waits for it before it was stored",
            State::PagedOut(_) | State::Loading(_) if job.unique == b"-" => {
                "was joined by its workload while that was not in memory"
            }
            State::PagedOut(_) | State::Loading(_) => "was joined while it was paged out",
            _ if job.is_wanted() => "was joined",
            _ => "was abandoned and joined",
        };
        let (is_hidden, is_in_memory_alone) = (job.state == State::Storing, job.residency == Residency::Memory);
        job.background |= background;
        if !background {
            job.waits.push(from);
        }
        self.note(what);
        assert!(!outcome.sent.iter().any(|(_, reply)| *reply == Reply::Noop), "a joined job woke a worker");
        match pending {
            Some(ticket) if background || is_hidden => self.wait_for_store(from, ticket),
            None if background && is_in_memory_alone && self.policy.keeps_jobs => {
                self.begin_to_store(from, name, outcome);
            }
            _ => self.expect(from, Reply::JobCreated(name)),
        }
    }

    /// A job is new.
    fn create(&mut self, now: Now, from: u32, job: Job, is_durable: bool, outcome: &Outcome) {
        let name = if is_durable {
            let mut adds = outcome.operations.iter().filter_map(|operation| match operation {
                StoreOp::Add { job, .. } => Some(job.handle().to_string()),
                _ => None,
            });
            let handle = adds.next().expect("the store was not asked to keep a background job");
            wire::job_of(handle.as_bytes()).expect("the store was given a handle that is none of the server's")
        } else {
            let Some((_, Reply::JobCreated(name))) = outcome.sent.first() else {
                panic!("a submission was not answered by JOB_CREATED first but by {:?}", outcome.sent);
            };
            *name
        };
        let number = wire::number(name);
        assert!(number > self.last_number, "the number {number} of a new job was used before");
        assert_eq!(wire::prefix(name), self.prefix, "the prefix of a new handle");
        self.last_number = number;
        let function = job.function;
        self.jobs.insert(name, job);
        if is_durable {
            assert!(
                !outcome.sent.iter().any(|(_, reply)| *reply == Reply::Noop),
                "a job woke a worker before it was stored"
            );
            return self.begin_to_store(from, name, outcome);
        }
        self.expect(from, Reply::JobCreated(name));
        self.schedule(now, name);
        if matches!(self.jobs[&name].state, State::Ready(_)) {
            self.check_wakeups(function, outcome);
        }
    }

    /// A job wakes as many sleepers as the operator wants, and no herd.
    pub(crate) fn check_wakeups(&self, function: usize, outcome: &Outcome) {
        let sleepers = self.sleepers(function).count();
        let woken = outcome.sent.iter().filter(|(_, reply)| *reply == Reply::Noop).count();
        if self.room(function) == 0 {
            return assert_eq!(woken, 0, "a job woke somebody who may not have it");
        }
        match self.policy.worker_wakeup {
            0 => assert_eq!(woken, sleepers, "a job did not wake all sleepers"),
            1 => assert!(woken <= 1, "a job woke {woken} workers"),
            most => assert_eq!(woken, sleepers.min(most as usize), "a job woke more or fewer workers than configured"),
        }
    }

    pub(crate) fn get_status_unique(&mut self, from: u32, unique: &[u8]) {
        let can_be_meant = |job: &&Job| job.unique == unique && !unique.is_empty() && unique != b"-";
        let mut meant = self.jobs.values().rev().filter(can_be_meant);
        let is_hidden = meant.next().is_some_and(|job| job.state == State::Storing);
        let newest = self.jobs.values().rev().filter(can_be_meant).find(|job| job.state != State::Storing);
        let clients = newest.map_or(0, |job| job.waits.len() as u64);
        let status = newest.map_or([0; 4], status);
        if is_hidden {
            self.note(if newest.is_some() {
                "was asked for when a newer sibling was not stored"
            } else {
                "was asked for by its unique id before it was stored"
            });
        }
        self.expect(from, Reply::StatusUnique { unique: unique.to_vec(), status, clients });
    }
}

/// Whether a submission of this unique id and workload is of this job.
pub(crate) fn coalesce(job: &Job, function: usize, unique: &[u8], workload: &[u8]) -> bool {
    job.function == function
        && job.unique == unique
        && !job.unique.is_empty()
        && (job.unique != b"-" || !job.workload.is_empty() && job.workload == workload)
}
