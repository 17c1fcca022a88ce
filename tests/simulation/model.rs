//! What a job server must do, told a second time and as plainly as possible: a few maps that are searched
//! from end to end.
//!
//! The model sees what each connection sent, in the order in which the server got it, and everything that the
//! server said in return. It knows nothing of the server's own state but what is published. Where the
//! protocol leaves a choice (which sleeper is woken, in which order clients are told) it checks the choice
//! and follows it.

use std::collections::{BTreeMap, BTreeSet};

use gearmand::job_server::{ConnectionEnd, DisconnectProgress, DropFunction, Now, Policy, StoreOp, WorkerMode};

use super::model_control::{Controls, EditSeen, Whom};
use super::model_store::{Load, PendingAdd};
use super::wire::{self, Ask, Reply};

/// A job that was handed out longer ago has reached its worker, in microseconds.
const LONGEST_MISS_US: u64 = 1_000_000;
/// How often a job is spared an attempt.
const MOST_MISSES: u32 = 16;

/// What came of a transition: packets in the order in which they were sent, and what the operator was told.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: Vec<(u32, Reply)>,
    /// Who got gaps in what they are sent.
    pub(crate) held: Vec<u32>,
    /// Which gaps were filled with what.
    pub(crate) filled: Vec<(u32, u64, Reply)>,
    pub(crate) operations: Vec<StoreOp>,
    pub(crate) dropped: Vec<u64>,
    pub(crate) timed_out: Vec<u64>,
    pub(crate) missing: Vec<u64>,
    pub(crate) duplicates: Vec<u64>,
    /// How many functions were offered and not registered.
    pub(crate) refused_functions: u64,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) function: usize,
    pub(crate) unique: &'static [u8],
    pub(crate) reducer: &'static [u8],
    pub(crate) workload: Vec<u8>,
    pub(crate) priority: usize,
    pub(crate) background: bool,
    pub(crate) due_s: u64,
    /// The connections that wait for it, each as often as it submitted it.
    pub(crate) waits: Vec<u32>,
    pub(crate) attempts: u32,
    /// How often it was handed to one that was gone already, or came back as not begun.
    pub(crate) misses: u32,
    pub(crate) state: State,
    pub(crate) residency: Residency,
    /// Whether its workload is.
    pub(crate) in_memory: bool,
    /// Whether it was in the background from the beginning, due at once, and never given back.
    pub(crate) is_plain: bool,
    /// When it was submitted, in seconds since 1970.
    pub(crate) submitted_s: u64,
}

/// Whether a job outlives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residency {
    Memory,
    /// The store is asked to keep it.
    Storing,
    Stored,
}

impl Job {
    pub(crate) fn is_wanted(&self) -> bool {
        self.background || !self.waits.is_empty()
    }
}

/// Jobs in line have their turn: the lower goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// New, and not kept yet: nobody can see it.
    Storing,
    Scheduled,
    Ready(u64),
    /// Its workload is in the store alone.
    PagedOut(u64),
    /// Its workload is being read.
    Loading(u64),
    Running {
        holder: u32,
        /// On the monotonic clock.
        since_us: u64,
        /// Counts runs.
        started: u64,
        deadline_us: Option<u64>,
        numerator: u64,
        denominator: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    Awake,
    Asleep,
    /// `counted` while it can still do all functions that it could do when it was woken.
    Woken {
        deadline_us: u64,
        counted: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ability {
    pub(crate) function: usize,
    pub(crate) timeout_ms: Option<u64>,
    /// Since when it is one of the function's sleepers, if it sleeps.
    pub(crate) slept: u64,
}

#[allow(clippy::struct_excessive_bools, reason = "each holds or not, whatever the others do")]
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sleep: Sleep,
    pub(crate) exceptions: bool,
    /// Whether it has said that it has begun none of its jobs.
    pub(crate) holds_unbegun: bool,
    /// In the order in which they are looked through for a job.
    pub(crate) abilities: Vec<Ability>,
    pub(crate) revoked: Vec<u64>,
    /// The job that it was handed last, if it has asked for nothing since.
    pub(crate) last_assigned: Option<u64>,
    /// Whether it slept and held as many jobs as it may, after the last transition.
    pub(crate) was_full: bool,
    /// Where it comes from, and the id that it gave itself.
    pub(crate) host: &'static str,
    pub(crate) client: Option<&'static [u8]>,
    /// How many gaps it has had.
    pub(crate) gaps: u64,
    /// Whether it is kept for answers from the store alone.
    pub(crate) is_leaving: bool,
}

impl Connection {
    pub(crate) fn can_do(&self, function: usize) -> bool {
        self.abilities.iter().any(|ability| ability.function == function)
    }
}

/// The state that the server should be in.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) policy: Policy,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) connections: BTreeMap<u32, Connection>,
    /// With the limits by priority.
    pub(crate) functions: BTreeMap<usize, [u32; 3]>,
    /// Those of them that nothing but settings has named: they go with the last of these.
    pub(crate) settings_only: BTreeSet<usize>,
    /// What else the operator decided of them.
    pub(crate) controls: BTreeMap<usize, Controls>,
    /// Which workers get no jobs, of one function or of any.
    pub(crate) rules: BTreeMap<(Whom, Option<usize>), WorkerMode>,
    /// Unused functions may have been forgotten to make room for new ones.
    pub(crate) may_have_forgotten: bool,
    pub(crate) draining: bool,
    /// What has happened how often, to tell whether the simulation gets everywhere.
    pub(crate) happened: BTreeMap<&'static str, u64>,
    pub(crate) last_number: u64,
    /// The index of the prefix of new handles.
    pub(crate) prefix: usize,
    /// What the store is asked, by ticket.
    pub(crate) pending_adds: BTreeMap<u32, PendingAdd>,
    pub(crate) loads: BTreeMap<u32, Load>,
    pub(crate) load_again_us: Option<u64>,
    /// What the server held before the request, in bytes. It equals a recount after each.
    pub(crate) memory_used: u64,
    /// How many functions there were when the last job came back from the store.
    pub(crate) restored_functions: usize,
    /// How many jobs the store brought back at the last start.
    pub(crate) restored_jobs: usize,
    pub(crate) transition: u64,
    pub(crate) last_turn: u64,
    last_run: u64,
    /// What the transition must send, NOOPs aside.
    expected: Vec<(u32, Reply)>,
    pub(crate) expected_holds: Vec<u32>,
    pub(crate) expected_fills: Vec<(u32, u64, Reply)>,
    pub(crate) expected_adds: usize,
    /// Which changes the store must be told of, in order.
    pub(crate) expected_edits: Vec<EditSeen>,
    /// Jobs that have ended in this transition, by number.
    pub(crate) just_ended: BTreeMap<u64, (u64, usize, usize)>,
    /// Which jobs it must report as dropped, and may.
    pub(crate) dropped: Vec<u64>,
    pub(crate) may_be_dropped: Vec<u64>,
    pub(crate) had_ready: [bool; wire::FUNCTIONS.len()],
    /// Bytes in memory of stored workloads before the transition.
    pub(crate) stored_before: u64,
}

impl Model {
    pub(crate) fn new(policy: Policy) -> Self {
        let prefix = wire::PREFIXES.iter().position(|prefix| *prefix == policy.handle_prefix).unwrap();
        Self {
            policy,
            jobs: BTreeMap::new(),
            connections: BTreeMap::new(),
            functions: BTreeMap::new(),
            settings_only: BTreeSet::new(),
            controls: BTreeMap::new(),
            rules: BTreeMap::new(),
            may_have_forgotten: false,
            draining: false,
            happened: BTreeMap::new(),
            last_number: 0,
            prefix,
            pending_adds: BTreeMap::new(),
            loads: BTreeMap::new(),
            load_again_us: None,
            memory_used: 0,
            restored_functions: 0,
            restored_jobs: 0,
            transition: 0,
            last_turn: 0,
            last_run: 0,
            expected: Vec::new(),
            expected_holds: Vec::new(),
            expected_fills: Vec::new(),
            expected_adds: 0,
            expected_edits: Vec::new(),
            just_ended: BTreeMap::new(),
            dropped: Vec::new(),
            may_be_dropped: Vec::new(),
            had_ready: [false; wire::FUNCTIONS.len()],
            stored_before: 0,
        }
    }

    pub(crate) fn note(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    pub(crate) fn connected(&mut self, number: u32, host: &'static str) {
        let connection = Connection {
            sleep: Sleep::Awake,
            exceptions: false,
            holds_unbegun: false,
            abilities: Vec::new(),
            revoked: Vec::new(),
            last_assigned: None,
            was_full: false,
            host,
            client: None,
            gaps: 0,
            is_leaving: false,
        };
        self.connections.insert(number, connection);
    }

    /// The operator changes the settings. NOOPs that are on their way get the new time.
    pub(crate) fn policy_changed(&mut self, now: Now, policy: Policy, outcome: &Outcome) {
        self.begin();
        let (before, after) = (self.policy.wakeup_timeout_us, policy.wakeup_timeout_us);
        for connection in self.connections.values_mut() {
            if let Sleep::Woken { deadline_us, .. } = &mut connection.sleep {
                *deadline_us = *deadline_us - before + after;
            }
        }
        self.policy = policy;
        self.finish(now, None, outcome);
    }

    pub(crate) fn asked(&mut self, now: Now, from: u32, ask: &Ask, outcome: &Outcome) {
        self.begin();
        if *ask != Ask::Line {
            self.connections.get_mut(&from).unwrap().last_assigned = None;
        }
        match ask {
            Ask::CanDo { function } => self.can_do(from, *function, None, outcome),
            Ask::CanDoTimeout { function, timeout_ms } => {
                let timeout_ms = u64::try_from(*timeout_ms).ok().filter(|ms| *ms > 0).map(|ms| ms.max(1000));
                self.can_do(from, *function, timeout_ms, outcome);
            }
            Ask::CantDo { function } => self.cant_do(from, *function),
            Ask::ResetAbilities => {
                self.forget_abilities(from);
                self.take_all_away(from, |_| true);
            }
            Ask::PreSleep => self.pre_sleep(from),
            Ask::Grab(kind) => self.grab(now, from, *kind, outcome),
            Ask::Submit(submission) => self.submit(now, from, submission, outcome),
            Ask::WorkStatus { .. }
            | Ask::WorkData { .. }
            | Ask::WorkWarning { .. }
            | Ask::WorkComplete { .. }
            | Ask::WorkFail { .. }
            | Ask::WorkException { .. } => self.work(from, ask, outcome),
            Ask::GetStatus { handle } => {
                let job = wire::job_of(handle).and_then(|name| self.jobs.get(&name));
                if job.is_some_and(|job| job.state == State::Storing) {
                    self.note("was asked for by its handle before it was stored");
                }
                let job = wire::job_of(handle).and_then(|name| self.jobs.get(&name));
                let status = job.map_or([0; 4], status);
                self.expect(from, Reply::Status { handle: handle.clone(), status });
            }
            Ask::GetStatusUnique { unique } => self.get_status_unique(from, unique),
            Ask::Echo(workload) => self.expect(from, Reply::Echo(workload.clone())),
            Ask::Option(name) if name.eq_ignore_ascii_case(b"exceptions") => {
                self.connections.get_mut(&from).unwrap().exceptions = true;
                self.expect(from, Reply::Option(name.to_vec()));
            }
            Ask::Option(name) if name.eq_ignore_ascii_case(b"not-begun") => {
                self.connections.get_mut(&from).unwrap().holds_unbegun = true;
                self.expect(from, Reply::Option(name.to_vec()));
            }
            Ask::Option(_) => self.expect_error(from, "UNKNOWN_OPTION", ""),
            Ask::SetClientId { id } => self.renamed(from, id),
            Ask::Line => {}
            Ask::Wrong { code: "", .. } => assert_eq!(outcome.refused_functions, 1, "a function was to be refused"),
            Ask::Wrong { code, .. } => self.expect_error(from, code, ""),
        }
        self.finish(now, None, outcome);
    }

    pub(crate) fn disconnected(
        &mut self,
        now: Now,
        who: u32,
        end: ConnectionEnd,
        progress: DisconnectProgress,
        outcome: &Outcome,
    ) {
        self.begin();
        let gaps = self.open_gaps(who);
        let is_kept = end.wants_answers && gaps > 0;
        let is_no_client = gaps == 0 && self.waits_of(who) == 0;
        let missed = self.connections[&who].last_assigned.filter(|_| end.missed_last && is_no_client);
        let since_us = missed.and_then(|name| match self.jobs.get(&name)?.state {
            State::Running { since_us, .. } => Some(since_us),
            _ => None,
        });
        let is_recent = since_us.is_some_and(|since_us| now.monotonic_us - since_us < LONGEST_MISS_US);
        let missed = missed.filter(|_| is_recent);
        if since_us.is_some() && !is_recent {
            self.note("lost a worker that had held it for long");
        }
        assert_eq!(
            progress,
            if is_kept { DisconnectProgress::AwaitsAnswers } else { DisconnectProgress::Done },
            "{gaps} gaps are open"
        );
        if gaps > 0 {
            self.note(if is_kept {
                "had a client that closed its side"
            } else {
                "had a client that left before it was stored"
            });
        }
        let connection = self.connections.get_mut(&who).unwrap();
        let was_leaving = std::mem::replace(&mut connection.is_leaving, true);
        if matches!(connection.sleep, Sleep::Woken { .. }) {
            self.note("died between its NOOP and its grab");
        }
        self.forget_abilities(who);
        self.connections.get_mut(&who).unwrap().sleep = Sleep::Awake;
        if !was_leaving {
            self.abandon_all(who, missed);
        }
        if progress == DisconnectProgress::Done {
            self.connections.remove(&who);
            self.rules.retain(|(whom, _), _| *whom != Whom::Connection(who));
        }
        self.finish(now, Some(who), outcome);
    }

    /// One waits for no job any more, and runs none. That one of its jobs has not reached it.
    fn abandon_all(&mut self, who: u32, missed: Option<u64>) {
        let names: Vec<u64> = self.jobs.keys().copied().collect();
        for name in names {
            let job = self.jobs.get_mut(&name).unwrap();
            let waited = job.waits.len();
            job.waits.retain(|client| *client != who);
            let left = job.waits.len() < waited;
            let is_running = matches!(job.state, State::Running { .. });
            if left && !job.is_wanted() && !is_running {
                self.end(name);
                self.note("left with its last client");
            } else if left && !matches!(job.state, State::Running { holder, .. } if holder == who) {
                self.note("outlived one of its clients");
            }
        }
        for name in self.held_by(who) {
            if missed == Some(name) && self.is_spared(name) {
                self.put_back(name);
                self.note("was handed to one that was gone already");
            } else if missed != Some(name) && self.connections[&who].holds_unbegun && self.is_spared(name) {
                self.put_back(name);
                self.note("was not begun by one that left");
            } else {
                self.lose_worker(name);
                self.note("lost its worker");
            }
        }
    }

    /// A job was not begun, or not even read. Whether it is spared the attempt.
    pub(crate) fn is_spared(&mut self, name: u64) -> bool {
        let misses = &mut self.jobs.get_mut(&name).unwrap().misses;
        let is_spared = *misses < MOST_MISSES;
        *misses += u32::from(is_spared);
        is_spared
    }

    /// The jobs that a connection runs, oldest run first.
    pub(crate) fn held_by(&self, who: u32) -> Vec<u64> {
        let mut held: Vec<(u64, u64)> = self
            .jobs
            .iter()
            .filter_map(|(name, job)| match job.state {
                State::Running { holder, started, .. } if holder == who => Some((started, *name)),
                _ => None,
            })
            .collect();
        held.sort_unstable();
        held.into_iter().map(|(_, name)| name).collect()
    }

    /// The server was told that time has passed, until it had nothing left to do at this moment.
    pub(crate) fn time_passed(&mut self, now: Now, outcome: &Outcome) {
        self.begin();
        let mut late = 0;
        for connection in self.connections.values_mut() {
            if matches!(connection.sleep, Sleep::Woken { deadline_us, .. } if deadline_us <= now.monotonic_us) {
                connection.sleep = Sleep::Awake;
                late += 1;
            }
        }
        if late > 0 {
            self.note("let a NOOP's time pass");
        }
        let mut late_jobs: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| is_late(job, now)).map(|(name, _)| *name).collect();
        let mut reported = outcome.timed_out.clone();
        reported.sort_unstable();
        late_jobs.sort_unstable();
        assert_eq!(reported, late_jobs, "jobs that were reported as timed out, and those that should be");
        for name in &outcome.timed_out {
            if let State::Running { holder, .. } = self.jobs[name].state {
                self.record_revoked(holder, *name);
            }
            self.lose_worker(*name);
            self.note("timed out");
        }
        let is_due = |job: &Job| job.state == State::Scheduled && job.due_s * 1_000_000 <= now.unix_us;
        let mut due: Vec<(u64, u64)> =
            self.jobs.iter().filter(|(_, job)| is_due(job)).map(|(name, job)| (job.due_s, *name)).collect();
        due.sort_unstable();
        for (_, name) in due {
            self.enqueue(name);
            self.note("became due");
        }
        if self.load_again_us.is_some_and(|at_us| at_us <= now.monotonic_us) {
            self.load_again_us = None;
            self.note("was asked for again after the store could not read");
        }
        self.finish(now, None, outcome);
    }

    pub(crate) fn cancelled(&mut self, now: Now, handle: &[u8], existed: bool, outcome: &Outcome) {
        self.begin();
        let name =
            wire::job_of(handle).filter(|name| self.jobs.get(name).is_some_and(|job| job.state != State::Storing));
        assert_eq!(existed, name.is_some(), "what was said of a cancelled job");
        if let Some(name) = name {
            let job = self.end(name);
            if let State::Running { holder, .. } = job.state {
                self.record_revoked(holder, name);
            }
            for client in job.waits {
                self.expect(client, Reply::WorkFail { job: name });
            }
            self.note("was cancelled");
        }
        self.finish(now, None, outcome);
    }

    pub(crate) fn function_created(&mut self, function: usize, accepted: bool) {
        self.settings_only.remove(&function);
        if !self.functions.contains_key(&function) && self.functions.len() >= self.policy.max_functions {
            if !accepted {
                return;
            }
            self.may_have_forgotten = true;
        }
        assert!(accepted, "there was room for another function");
        self.functions.entry(function).or_default();
    }

    pub(crate) fn function_dropped(&mut self, function: usize, result: DropFunction) {
        let expected = if !self.functions.contains_key(&function) {
            DropFunction::NotFound
        } else if self.is_working(function) {
            let is_running = |job: &Job| job.function == function && matches!(job.state, State::Running { .. });
            let has_workers = self.connections.values().any(|connection| connection.can_do(function));
            if has_workers || self.jobs.values().any(is_running) { DropFunction::InUse } else { DropFunction::HasJobs }
        } else {
            self.functions.remove(&function);
            self.settings_only.remove(&function);
            self.controls.remove(&function);
            DropFunction::Dropped
        };
        assert_eq!(result, expected, "what was said of a dropped function");
    }

    /// Whether a function has jobs or workers.
    pub(crate) fn is_working(&self, function: usize) -> bool {
        self.jobs.values().any(|job| job.function == function)
            || self.connections.values().any(|connection| connection.can_do(function))
    }

    pub(crate) fn waits_of(&self, connection: u32) -> usize {
        self.jobs.values().map(|job| job.waits.iter().filter(|client| **client == connection).count()).sum()
    }

    /// By function, whether it has jobs that could be handed out.
    pub(crate) fn has_ready(&self) -> [bool; wire::FUNCTIONS.len()] {
        std::array::from_fn(|function| self.available(function) > 0)
    }

    pub(crate) fn begin(&mut self) {
        self.transition += 1;
        self.expected.clear();
        self.expected_holds.clear();
        self.expected_fills.clear();
        self.expected_adds = 0;
        self.expected_edits.clear();
        self.just_ended.clear();
        self.stored_before = self.stored_bytes();
        self.dropped.clear();
        self.may_be_dropped.clear();
        self.had_ready = self.has_ready();
    }

    pub(crate) fn expect(&mut self, to: u32, reply: Reply) {
        self.expected.push((to, reply));
    }

    /// The next number of a run.
    pub(crate) fn next_run(&mut self) -> u64 {
        self.last_run += 1;
        self.last_run
    }

    /// An empty text stands for any.
    pub(crate) fn expect_error(&mut self, to: u32, code: &str, text: &str) {
        self.expect(to, Reply::Error { code: code.to_owned(), text: text.to_owned() });
    }

    /// Compares what was sent with what was expected. What is sent to `leaving` reaches nobody.
    pub(crate) fn finish(&mut self, now: Now, leaving: Option<u32>, outcome: &Outcome) {
        self.note_full();
        let mut expected = std::mem::take(&mut self.expected);
        for (to, reply) in outcome.sent.iter().filter(|(to, _)| Some(*to) != leaving) {
            if *reply == Reply::Noop {
                self.woken(now, *to);
                continue;
            }
            let index = expected.iter().position(|(client, packet)| client == to && is_as_expected(packet, reply));
            let Some(index) = index else {
                panic!("connection {to} was sent {reply:?}; expected was {expected:?}");
            };
            expected.remove(index);
        }
        expected.retain(|(to, _)| Some(*to) != leaving);
        assert_eq!(expected, [], "packets that were not sent");
        assert_eq!(outcome.held, self.expected_holds, "gaps that were left");
        assert_eq!(outcome.filled, self.expected_fills, "gaps that were filled");
        let adds = outcome.operations.iter().filter(|operation| matches!(operation, StoreOp::Add { .. }));
        assert_eq!(adds.count(), self.expected_adds, "jobs that the store was asked to keep");
        self.check_edits(outcome);
        self.note_loads(outcome);
        for number in &self.dropped {
            assert!(outcome.dropped.contains(number), "job {number} was dropped and not reported");
        }
        for number in &outcome.dropped {
            let expected = self.dropped.contains(number) || self.may_be_dropped.contains(number);
            assert!(expected, "job {number} was reported as dropped");
        }
    }

    /// Whether a connection holds as many jobs as it may.
    pub(crate) fn is_full(&self, who: u32) -> bool {
        self.held_by(who).len() >= self.policy.max_jobs_per_connection as usize
    }

    /// A sleeper that may hold more jobs again gets in line behind the others.
    fn note_full(&mut self) {
        let numbers: Vec<u32> = self.connections.keys().copied().collect();
        for who in numbers {
            let is_full = self.is_full(who);
            let transition = self.transition;
            let connection = self.connections.get_mut(&who).unwrap();
            let is_asleep = connection.sleep == Sleep::Asleep;
            let was_full = std::mem::replace(&mut connection.was_full, is_asleep && is_full);
            if is_asleep && was_full && !is_full {
                for ability in &mut connection.abilities {
                    ability.slept = transition;
                }
                self.note("was ended by a sleeper that could hold no more");
            }
        }
    }

    /// A NOOP was sent: only to a sleeper, only for a job, and to nobody before those who have slept longer.
    fn woken(&mut self, now: Now, who: u32) {
        let has_ready = self.has_ready();
        let connection = &self.connections[&who];
        assert_eq!(connection.sleep, Sleep::Asleep, "connection {who} was sent a NOOP and does not sleep");
        assert!(!self.is_full(who), "connection {who} was woken and can hold no more jobs");
        let is_next = connection.abilities.iter().any(|ability| {
            let function = ability.function;
            !self.is_withheld(who, function)
                && (has_ready[function] || self.had_ready[function])
                && self.sleepers(function).all(|(_, other)| other.slept >= ability.slept)
        });
        assert!(is_next, "connection {who} was woken for no job, or before others whose turn it was");
        let deadline_us = now.monotonic_us + self.policy.wakeup_timeout_us;
        self.connections.get_mut(&who).unwrap().sleep = Sleep::Woken { deadline_us, counted: true };
        self.note("was woken");
    }

    /// The sleeping connections that can do a function, and could take a job.
    pub(crate) fn sleepers(&self, function: usize) -> impl Iterator<Item = (u32, &Ability)> {
        self.connections
            .iter()
            .filter(|(number, connection)| connection.sleep == Sleep::Asleep && !self.is_full(**number))
            .flat_map(|(number, connection)| connection.abilities.iter().map(|ability| (*number, ability)))
            .filter(move |(number, ability)| ability.function == function && !self.is_withheld(*number, function))
    }
}

/// Known, running, numerator, denominator.
pub(crate) fn status(job: &Job) -> [u64; 4] {
    match job.state {
        State::Running { numerator, denominator, .. } => [1, 1, numerator, denominator],
        State::Scheduled | State::Ready(_) | State::PagedOut(_) | State::Loading(_) => [1, 0, 0, 0],
        State::Storing => [0; 4],
    }
}

fn is_late(job: &Job, now: Now) -> bool {
    matches!(job.state, State::Running { deadline_us: Some(deadline_us), .. } if deadline_us <= now.monotonic_us)
}

fn is_as_expected(expected: &Reply, actual: &Reply) -> bool {
    match (expected, actual) {
        (Reply::Error { code, text }, Reply::Error { code: actual_code, text: actual_text }) => {
            code == actual_code && (text.is_empty() || text == actual_text)
        }
        _ => expected == actual,
    }
}
