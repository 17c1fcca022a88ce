//! The model's store: jobs that are being kept, and jobs whose workloads are in the store alone.

use gearmand::job_server::{Durability, JobKey, MemoryUse, Now, StoreFailure, StoreOp, StoredJob, weight};
use gearmand::protocol::FunctionName;
use gearmand::stats::account::CONNECTION;

use super::model::{Job, Model, Outcome, Residency, State};
use super::model_submit::coalesce;
use super::wire::{self, FUNCTIONS, Reply, UNIQUES};

/// The most jobs that are read at once, within the limit of memory and beyond it. Jobs are read while fewer
/// are ready.
const MOST_LOADED: usize = 1024;
const MOST_LOADED_BEYOND_LIMIT: usize = 64;
/// How long the server waits when the store could not read.
const LOAD_AGAIN_US: u64 = 1_000_000;

/// A job that the store is asked to keep.
#[derive(Debug)]
pub(crate) struct PendingAdd {
    pub(crate) job: u64,
    pub(crate) has_ended: bool,
    /// Bytes of its workload.
    workload: usize,
    /// The gaps that its answer fills: connection, and which of its gaps.
    pub(crate) gaps: Vec<(u32, u64)>,
}

/// Jobs of one function and priority that are being read.
#[derive(Debug)]
pub(crate) struct Load {
    function: usize,
    priority: usize,
    jobs: Vec<u64>,
}

impl Model {
    /// The ticket of the operation that is to keep a job.
    pub(crate) fn pending_add_of(&self, job: u64) -> Option<u32> {
        let pending = self.pending_adds.iter().find(|(_, pending)| pending.job == job && !pending.has_ended);
        pending.map(|(ticket, _)| *ticket)
    }

    /// The answer to a submission of `from` waits for the store.
    pub(crate) fn wait_for_store(&mut self, from: u32, ticket: u32) {
        let connection = self.connections.get_mut(&from).unwrap();
        let gap = connection.gaps;
        connection.gaps += 1;
        self.pending_adds.get_mut(&ticket).unwrap().gaps.push((from, gap));
        self.expected_holds.push(from);
    }

    /// The store is asked to keep a job that is here.
    pub(crate) fn begin_to_store(&mut self, from: u32, job: u64, outcome: &Outcome) {
        let mut adds = outcome.operations.iter().filter_map(|operation| match operation {
            StoreOp::Add { ticket, durability, job } => Some((*ticket, *durability, job)),
            _ => None,
        });
        let (ticket, durability, stored) = adds.next().expect("the store was not asked to keep a job");
        assert!(adds.next().is_none(), "the store was asked twice to keep a job");
        let known = self.jobs.get_mut(&job).unwrap();
        known.residency = Residency::Storing;
        check_stored(stored, job, known);
        assert_eq!(stored.submitted_s, known.submitted_s, "the time at which job {job} was submitted");
        let name = FunctionName::new(FUNCTIONS[known.function]);
        let wanted = self.policy.function_durability.get(&name).copied().unwrap_or(self.policy.durability);
        assert_eq!(durability, wanted, "how far job {job} must have come in the store");
        if wanted != Durability::Always {
            self.note("need not be on the disk");
        }
        let workload = self.jobs[&job].workload.len();
        let pending = PendingAdd { job, has_ended: false, workload, gaps: Vec::new() };
        assert!(self.pending_adds.insert(ticket, pending).is_none(), "two operations have one ticket");
        self.expected_adds += 1;
        self.wait_for_store(from, ticket);
    }

    /// A job ends, in whatever state it is.
    pub(crate) fn end(&mut self, job: u64) -> Job {
        let ended = self.jobs.remove(&job).unwrap();
        self.just_ended.insert(wire::number(job), (job, ended.function, ended.priority));
        if let Some(ticket) = self.pending_add_of(job) {
            self.pending_adds.get_mut(&ticket).unwrap().has_ended = true;
            if ended.state != State::Storing {
                self.note("ended while it was being stored");
            }
        }
        match ended.state {
            State::PagedOut(_) => self.note("ended while it was paged out"),
            State::Loading(_) => self.note("ended while it was being read"),
            _ => {}
        }
        ended
    }

    /// How many gaps of a connection are open.
    pub(crate) fn open_gaps(&self, connection: u32) -> usize {
        let gaps = self.pending_adds.values().flat_map(|pending| &pending.gaps);
        gaps.filter(|(who, _)| *who == connection).count()
    }

    /// The store has answered whether it keeps a job.
    pub(crate) fn added(&mut self, now: Now, ticket: u32, result: Result<(), StoreFailure>, outcome: &Outcome) {
        self.begin();
        let pending = self.pending_adds.remove(&ticket).expect("the store answers what it was not asked");
        let PendingAdd { job, has_ended, gaps, .. } = pending;
        let failure = result.err().filter(|_| !has_ended);
        let answer = failure.map_or(Reply::JobCreated(job), |failure| Reply::Error {
            code: "QUEUE_ERROR".to_owned(),
            text: text_of(failure).to_owned(),
        });
        self.note(if failure.is_some() { "was refused by the store" } else { "was stored" });
        if gaps.iter().any(|(who, _)| *who != gaps[0].0) {
            self.note("was awaited by several from the store");
        }
        for (who, gap) in gaps {
            if let Some(connection) = self.connections.get(&who) {
                if connection.is_leaving {
                    self.note("was answered after its client had closed its side");
                }
                self.expected_fills.push((who, gap, answer.clone()));
            } else {
                self.note("was answered by the store after its client had gone");
            }
        }
        if !has_ended {
            self.settle(now, job, result.is_ok(), outcome);
        }
        self.finish(now, None, outcome);
    }

    fn settle(&mut self, now: Now, job: u64, is_stored: bool, outcome: &Outcome) {
        let known = self.jobs.get_mut(&job).unwrap();
        let (function, is_new) = (known.function, known.state == State::Storing);
        known.residency = if is_stored { Residency::Stored } else { Residency::Memory };
        match (is_new, is_stored) {
            (true, true) => {
                self.schedule(now, job);
                if matches!(self.jobs[&job].state, State::Ready(_)) {
                    self.check_wakeups(function, outcome);
                }
            }
            (true, false) => {
                let failed = self.end(job);
                if !failed.waits.is_empty() {
                    self.note("was awaited when the store refused it");
                }
            }
            (false, true) => self.note("was stored after it had been in memory alone"),
            (false, false) => {
                known.background = false;
                let is_running = matches!(known.state, State::Running { .. });
                if known.is_wanted() {
                    self.note("went on in memory alone since the store refused it");
                } else if !is_running {
                    self.end(job);
                    self.note("was left by its client and refused by the store");
                }
            }
        }
    }

    /// A job that is in no list may be handed out, now or later.
    pub(crate) fn schedule(&mut self, now: Now, job: u64) {
        if self.jobs[&job].due_s * 1_000_000 <= now.unix_us {
            self.enqueue(job);
        } else {
            let is_over = self.stored_bytes() > self.policy.stored_workloads_max;
            let scheduled = self.jobs.get_mut(&job).unwrap();
            scheduled.state = State::Scheduled;
            if is_over && scheduled.residency == Residency::Stored && std::mem::take(&mut scheduled.in_memory) {
                self.note("was scheduled without its workload");
            }
        }
    }

    /// A job's time has come: it gets in line, or in the line of those that wait for their workloads.
    pub(crate) fn enqueue(&mut self, job: u64) {
        self.last_turn += 1;
        if self.must_page_out(job) {
            self.page_out(job);
        } else {
            self.jobs.get_mut(&job).unwrap().state = State::Ready(self.last_turn);
        }
    }

    fn must_page_out(&self, job: u64) -> bool {
        let job = &self.jobs[&job];
        if job.residency != Residency::Stored || !job.in_memory {
            return job.residency == Residency::Stored;
        }
        let mut line =
            self.jobs.values().filter(|other| other.function == job.function && other.priority == job.priority);
        if line.clone().any(|other| matches!(other.state, State::PagedOut(_) | State::Loading(_))) {
            return true;
        }
        let limit = self.policy.stored_workloads_max;
        let is_first = !line.any(|other| matches!(other.state, State::Ready(_)));
        self.stored_bytes() > if is_first { limit.saturating_add(limit / 4) } else { limit }
    }

    pub(crate) fn page_out(&mut self, job: u64) {
        self.last_turn += 1;
        let paged_out = self.jobs.get_mut(&job).unwrap();
        paged_out.state = State::PagedOut(self.last_turn);
        paged_out.in_memory = false;
        self.note("was paged out");
    }

    fn bytes(&self, residency: Residency) -> u64 {
        let counted = self.jobs.values().filter(|job| job.residency == residency && job.in_memory);
        counted.map(|job| job.workload.len() as u64).sum()
    }

    /// The account equals a recount. The model does not know how many jobs have shared a unique id, nor how
    /// many runs and lost jobs are remembered.
    pub(crate) fn check_account(&self, used: MemoryUse) {
        let count = |length: usize| length as u64;
        let (jobs, pending_adds) = (self.jobs.values(), self.pending_adds.values());
        let heads = jobs.clone().map(|job| {
            let index = if job.unique.is_empty() { 0 } else { weight::INDEX };
            count(job.unique.len() + job.reducer.len()) + index
        });
        let workloads: u64 = [Residency::Memory, Residency::Storing, Residency::Stored]
            .map(|residency| self.bytes(residency))
            .iter()
            .sum();
        let ended: u64 =
            pending_adds.clone().filter(|pending| pending.has_ended).map(|ended| count(ended.workload)).sum();
        let scheduled = jobs.clone().filter(|job| job.state == State::Scheduled).count();
        let least = heads.sum::<u64>()
            + workloads
            + ended
            + count(scheduled) * weight::TIME
            + count(self.jobs.len()) * weight::JOB;
        let siblings = used.jobs.checked_sub(least).expect("jobs weigh less than they should");
        assert!(siblings.is_multiple_of(weight::UNIQUE_SIBLINGS), "jobs weigh {} and not {least}", used.jobs);
        assert!(
            siblings / weight::UNIQUE_SIBLINGS <= count(self.jobs.len()),
            "jobs weigh {} and not {least}",
            used.jobs
        );
        let waits: usize = jobs.clone().map(|job| job.waits.len()).sum();
        let gaps: usize = pending_adds.map(|pending| pending.gaps.len()).sum();
        let expected = count(waits) * weight::WAIT
            + count(gaps) * weight::PENDING_REPLY
            + count(self.pending_adds.len()) * weight::PENDING_ADD;
        assert_eq!(used.waits, expected, "{waits} waits, {gaps} gaps");
        let running = jobs.filter(|job| matches!(job.state, State::Running { .. })).count();
        let over = used.runs.checked_sub(count(running) * weight::RUN).expect("runs weigh less than they should");
        assert!(weight::FAILED_ATTEMPT.is_multiple_of(weight::REVOKED));
        assert!(over.is_multiple_of(weight::REVOKED), "{running} runs weigh {}", used.runs);
        let abilities: usize = self.connections.values().map(|connection| connection.abilities.len()).sum();
        let names: usize = self.functions.keys().map(|function| FUNCTIONS[*function].len()).sum();
        let functions = count(self.functions.len()) * weight::FUNCTION + count(names);
        assert_eq!(used.functions, count(abilities) * weight::ABILITY + functions, "{abilities} abilities");
        assert_eq!(used.connections, count(self.connections.len()) * CONNECTION, "connections");
        let queued = count(self.pending_adds.len()) * weight::OPERATION + self.bytes(Residency::Storing) + ended;
        assert_eq!(used.store_queue, queued, "what waits for the store");
    }

    /// Bytes in memory of workloads that the store has too.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.bytes(Residency::Stored)
    }

    /// Whether there is memory for the workload of a new job; otherwise the text of the refusal.
    pub(crate) fn check_memory(&self, workload: usize, is_durable: bool) -> Result<(), &'static str> {
        let (residency, most) = if is_durable {
            (Residency::Storing, self.policy.storing_workloads_max)
        } else {
            (Residency::Memory, self.policy.volatile_workloads_max)
        };
        // Jobs that have ended meanwhile are still on their way.
        let ended = self.pending_adds.values().filter(|pending| is_durable && pending.has_ended);
        let operations = if is_durable { self.pending_adds.len() as u64 * weight::OPERATION } else { 0 };
        let taken = self.bytes(residency) + ended.map(|pending| pending.workload as u64).sum::<u64>() + operations;
        if taken == 0 || taken.saturating_add(workload as u64) <= most {
            return Ok(());
        }
        Err(if is_durable {
            "Queue error: the store cannot keep up, try again"
        } else {
            "Job queue is full: workload memory limit reached (max-workload-memory)"
        })
    }

    /// The paged-out jobs of a function and priority, in order.
    fn paged_out(&self, function: usize, priority: usize) -> Vec<u64> {
        let of_line = self.jobs.iter().filter(|(_, job)| job.function == function && job.priority == priority);
        let mut paged_out: Vec<(u64, u64)> = of_line
            .filter_map(|(name, job)| if let State::PagedOut(turn) = job.state { Some((turn, *name)) } else { None })
            .collect();
        paged_out.sort_unstable();
        paged_out.into_iter().map(|(_, name)| name).collect()
    }

    /// The store is asked for workloads: only for those that workers will need next, and never twice at a
    /// time.
    pub(crate) fn note_loads(&mut self, outcome: &Outcome) {
        for operation in &outcome.operations {
            let StoreOp::Load { ticket, jobs } = operation else { continue };
            if let Some((_, function, priority)) = jobs.iter().find_map(|key| self.just_ended.get(&key.number)).copied()
            {
                self.note_load_of_ended(*ticket, jobs, function, priority);
                continue;
            }
            let names: Vec<u64> = jobs.iter().map(|key| self.name_of(key.number)).collect();
            let Job { function, priority, .. } = self.jobs[names.first().expect("no job was asked for")];
            let paged_out = self.paged_out(function, priority);
            assert_eq!(paged_out.get(..names.len()), Some(&names[..]), "jobs were not asked for in their turn");
            // In which moment of the transition it asked is its own business.
            let most = self.most_loaded(self.stored_before).max(self.most_loaded(self.stored_bytes()));
            assert!(names.len() <= most, "{} jobs were asked for at once", names.len());
            // Others may have come back to the line since it asked.
            let few = most.max(MOST_LOADED_BEYOND_LIMIT);
            assert!(self.ready(function, priority).count() < few, "jobs were asked for that are not needed soon");
            assert!(!self.draining, "a job was asked for that will not be handed out");
            assert!(self.has_workers(function), "a job was asked for that nobody can do");
            assert!(!self.is_paused(function), "a job was asked for that will not be handed out now");
            assert_eq!(self.load_again_us, None, "the store was asked again too soon");
            assert_eq!(self.loading(function, priority), 0, "two loads are under way for one line");
            for name in &names {
                let job = self.jobs.get_mut(name).unwrap();
                if let State::PagedOut(turn) = job.state {
                    job.state = State::Loading(turn);
                }
            }
            let load = Load { function, priority, jobs: names };
            assert!(self.loads.insert(*ticket, load).is_none(), "two loads have one ticket");
        }
    }

    /// Jobs were asked for, and some of them have ended in the same transition, since many do.
    fn note_load_of_ended(&mut self, ticket: u32, keys: &[JobKey], function: usize, priority: usize) {
        let name_of = |key: &JobKey| match self.just_ended.get(&key.number) {
            Some((name, ..)) => *name,
            None => self.name_of(key.number),
        };
        let jobs: Vec<u64> = keys.iter().map(name_of).collect();
        for name in &jobs {
            let Some(job) = self.jobs.get_mut(name) else { continue };
            if let State::PagedOut(turn) = job.state {
                job.state = State::Loading(turn);
            }
        }
        assert!(self.loads.insert(ticket, Load { function, priority, jobs }).is_none(), "two loads have one ticket");
    }

    /// How many jobs may be read at once, and how many may be ready then, while so many bytes are in memory.
    fn most_loaded(&self, stored_bytes: u64) -> usize {
        let limit = self.policy.stored_workloads_max;
        match stored_bytes {
            stored if stored <= limit => MOST_LOADED,
            stored if stored <= limit.saturating_add(limit / 4) => MOST_LOADED_BEYOND_LIMIT,
            _ => 1,
        }
    }

    fn loading(&self, function: usize, priority: usize) -> usize {
        let of_line = self.jobs.values().filter(|job| job.function == function && job.priority == priority);
        of_line.filter(|job| matches!(job.state, State::Loading(_))).count()
    }

    fn has_workers(&self, function: usize) -> bool {
        self.connections.values().any(|connection| connection.can_do(function))
    }

    /// The name of the job with this number.
    pub(crate) fn name_of(&self, number: u64) -> u64 {
        let mut named = self.jobs.range(wire::name(number, 0)..wire::name(number + 1, 0));
        *named.next().unwrap_or_else(|| panic!("there is no job {number}")).0
    }

    /// The store has read some of the jobs that it was asked for, or it could not.
    pub(crate) fn loaded(
        &mut self,
        now: Now,
        ticket: u32,
        workloads: Result<&[Option<bytes::Bytes>], &StoreFailure>,
        outcome: &Outcome,
    ) {
        self.begin();
        let load = self.loads.remove(&ticket).expect("the store reads what it was not asked for");
        if workloads.is_err() {
            self.load_again_us.get_or_insert(now.monotonic_us + LOAD_AGAIN_US);
        }
        let is_damaged = workloads == Err(&StoreFailure::Corrupt);
        let workloads = workloads.unwrap_or_default();
        let mut missing = Vec::new();
        for (index, name) in load.jobs.iter().enumerate() {
            let Some(job) = self.jobs.get_mut(name) else { continue };
            let State::Loading(turn) = job.state else { panic!("job {name} is not being read") };
            match workloads.get(index) {
                None if is_damaged && index == 0 => {
                    self.last_turn += 1;
                    job.state = State::PagedOut(self.last_turn);
                    // It has lost its turn.
                    job.is_plain = false;
                    self.note("could not be read and let the others go first");
                }
                None => job.state = State::PagedOut(turn),
                Some(Some(workload)) => {
                    assert_eq!(job.workload, workload[..], "the store has another workload for job {name}");
                    self.last_turn += 1;
                    (job.state, job.in_memory) = (State::Ready(self.last_turn), true);
                    self.note("came back from the store");
                }
                Some(None) => {
                    let gone = self.end(*name);
                    for client in gone.waits {
                        self.expect(client, Reply::WorkFail { job: *name });
                    }
                    missing.push(*name);
                    self.note("was removed behind the server's back");
                }
            }
        }
        assert_eq!(outcome.missing, missing, "jobs that were reported as missing");
        self.finish(now, None, outcome);
    }

    /// Nobody who could do a paged-out job waits for it without need.
    pub(crate) fn check_loads(&self) {
        if self.draining || self.load_again_us.is_some() {
            return;
        }
        for (name, job) in &self.jobs {
            if !matches!(job.state, State::PagedOut(_))
                || !self.has_workers(job.function)
                || self.is_paused(job.function)
            {
                continue;
            }
            let line = (job.function, job.priority);
            let is_asked = self.loads.values().any(|load| (load.function, load.priority) == line);
            let is_needed = self.ready(job.function, job.priority).next().is_none();
            assert!(is_asked || !is_needed, "job {name} is paged out, has workers, and nothing is being read");
        }
    }

    /// While the server drains, the stored jobs that a worker would be handed next are left for the next
    /// start.
    pub(crate) fn page_out_durable(&mut self, from: u32) {
        let functions: Vec<usize> =
            self.connections[&from].abilities.iter().rev().map(|ability| ability.function).collect();
        for function in functions {
            for priority in 0..3 {
                while let Some(first) = self.first_ready(function, priority)
                    && self.jobs[&first].residency == Residency::Stored
                {
                    self.page_out(first);
                    self.note("was left for the next start");
                }
            }
        }
    }

    /// A new server gets a job back from the store. `has_room` is what it said to that. Returns whether the
    /// job equals one that it has.
    pub(crate) fn restored(&mut self, now: Now, stored: &StoredJob, has_workload: bool, has_room: bool) -> bool {
        let prefix = wire::PREFIXES.iter().position(|prefix| **prefix == *stored.prefix).unwrap();
        let name = wire::name(stored.number, prefix);
        let find = |all: &'static [&'static [u8]], bytes: &[u8]| all.iter().find(|known| **known == bytes).copied();
        let job = Job {
            function: FUNCTIONS.iter().position(|function| *function == stored.function.as_bytes()).unwrap(),
            unique: find(&UNIQUES, stored.unique()).unwrap(),
            reducer: find(&[b"", b"sum"], stored.reducer()).unwrap(),
            workload: stored.workload().to_vec(),
            priority: stored.priority.index(),
            background: true,
            due_s: stored.due_s,
            waits: Vec::new(),
            attempts: u32::from(stored.attempts),
            misses: 0,
            state: State::Scheduled,
            residency: Residency::Stored,
            in_memory: has_workload,
            is_plain: stored.due_s == 0 && stored.attempts == 0,
            submitted_s: stored.submitted_s,
        };
        self.functions.entry(job.function).or_default();
        self.restored_functions = self.functions.len();
        let is_duplicate = self.jobs.values().any(|other| coalesce(other, job.function, job.unique, &job.workload));
        if is_duplicate {
            self.note("was found twice in the store");
        } else {
            self.last_number = self.last_number.max(stored.number);
            self.jobs.insert(name, job);
            self.restored_jobs += 1;
            self.schedule(now, name);
            self.note("outlived a crash");
            if !has_workload {
                self.note("came back without its workload");
            }
        }
        assert_eq!(has_room, self.stored_bytes() <= self.policy.stored_workloads_max, "whether there is more room");
        is_duplicate
    }
}

/// What the store is given is what was submitted.
fn check_stored(stored: &StoredJob, name: u64, job: &Job) {
    assert_eq!(stored.handle().to_string().as_bytes(), wire::handle(name));
    assert_eq!(stored.function.as_bytes(), FUNCTIONS[job.function]);
    assert_eq!((stored.unique(), stored.reducer()), (job.unique, job.reducer));
    assert_eq!(stored.workload(), job.workload);
    assert_eq!((stored.priority.index(), stored.due_s), (job.priority, job.due_s));
    assert_eq!(u32::from(stored.attempts), job.attempts, "the attempts of a stored job");
}

fn text_of(failure: StoreFailure) -> &'static str {
    match failure {
        StoreFailure::Full => "Queue error: the store is full",
        StoreFailure::ReadOnly => "Queue error: the store is read-only",
        StoreFailure::Io => "Queue error: the store cannot be written",
        StoreFailure::Locked => "Queue error: the store is locked",
        StoreFailure::Unreachable => "Queue error: the database cannot be reached",
        StoreFailure::Corrupt => "Queue error: the store is damaged",
        StoreFailure::Refused => "Queue error: the store rejects this job",
    }
}
