//! The checks of the invariants after every transition. Used by debug builds and by the simulation.

use std::collections::{HashMap, HashSet};
use std::iter::successors;
use std::sync::Arc;

use super::connection::{Connection, Sleep, Wait};
use super::function::{Function, JobList};
use super::ids::{AbilitySlot, ConnectionSlot, FunctionSlot, RunSlot, SlotId, WaitSlot};
use super::index::NONE;
use super::job::{JobRef, JobState, Links, Residency};
use super::paging::MemoryTotals;
use super::pending_writes::PendingReply;
use super::{ConnectionId, JobServer};
use crate::protocol::Priority;
use crate::stats::{AbilityGauges, Gauge};

impl JobServer {
    /// In a debug build, checks the invariants, unless the state is so large that it would take long.
    pub(super) fn debug_check_invariants(&self) {
        #[cfg(debug_assertions)]
        if self.jobs.len() + self.connections.len() + self.functions.len() + self.waits.len() < super::WORK_PER_CALL {
            self.check_invariants();
        }
    }

    /// Checks everything that the module's documentation promises.
    ///
    /// # Panics
    /// If an invariant does not hold: the server's state is wrong, and cannot be trusted.
    pub fn check_invariants(&self) {
        self.check_jobs();
        self.check_functions();
        self.check_waits();
        self.check_clients();
        self.check_runs();
        self.check_attempt_history();
        self.check_sleepers();
        self.check_rules();
        self.check_pending_adds();
        self.check_memory_totals();
        self.check_messages();
        self.check_crowds();
    }

    fn check_jobs(&self) {
        let (mut keys, mut uniques) = (HashSet::new(), HashSet::new());
        let (mut scheduled, mut keyed_by_workload) = (0, 0);
        for (slot, job) in self.live_jobs() {
            assert_eq!(self.jobs.find_number(job.number()), Some(slot), "a job is not found by its handle");
            let unique = job.unique();
            if !unique.is_empty() {
                let workload = if unique == b"-" { job.rest().as_bytes() } else { b"" };
                if unique != b"-" || !workload.is_empty() {
                    assert!(keys.insert((job.function, unique, workload)), "two jobs of one key");
                    keyed_by_workload += usize::from(unique == b"-");
                    // A digest does not tell which workload it stands for.
                    if job.residency != Residency::Store || unique != b"-" {
                        let found = self.jobs.find_equal(job.function, unique, job.rest().as_bytes()).ok();
                        assert_eq!(found, Some(slot), "a job is not found by its key");
                    }
                }
                if unique != b"-" {
                    uniques.insert(unique);
                    let newest = self.jobs.find_unique(unique).map(|newest| self.jobs.get(newest).number());
                    assert!(
                        newest.is_some_and(|newest| newest >= job.number()),
                        "the newest job of a unique is not found"
                    );
                }
            }
            let is_running = matches!(job.state, JobState::Running(_));
            assert!(job.background || job.waits != WaitSlot::NONE || is_running, "an abandoned job was kept");
            self.check_residency(slot);
            if matches!(job.state, JobState::Scheduled(_)) {
                scheduled += 1;
                assert!(self.jobs.schedule.contains(&(job.due_s(), job.number(), slot)), "a scheduled job has no time");
            }
        }
        assert_eq!(self.jobs.schedule.len(), scheduled, "a time without a scheduled job");
        let [by_number, by_unique, by_key, siblings] = self.jobs.index_lengths();
        assert_eq!([by_number, by_unique], [self.live_jobs().count(), uniques.len()], "an index is off");
        assert_eq!(by_key, keyed_by_workload + siblings, "the index of keys is off");
    }

    /// All jobs except ended ones whose clients are still being notified.
    fn live_jobs(&self) -> impl Iterator<Item = (u32, JobRef<'_>)> {
        self.jobs.iter().filter(|(_, job)| job.state != JobState::Ended)
    }

    /// Checks that the place of a job's workload fits its state.
    fn check_residency(&self, slot: u32) {
        let job = self.jobs.get(slot);
        let is_evicted = match job.state {
            JobState::PagedOut(_) | JobState::Loading(_) => Some(true),
            JobState::Storing(_) | JobState::Ready(_) | JobState::Running(_) => Some(false),
            JobState::Scheduled(_) | JobState::Ended => None,
        };
        let fits = is_evicted.is_none_or(|is_evicted| is_evicted == (job.residency == Residency::Store));
        assert!(fits, "a workload is in memory that should not be, or is not and should be");
        let pending = self.pending_add_of(slot);
        assert_eq!(
            pending.is_some(),
            job.residency == Residency::Storing,
            "a job is being stored, or not, and does not know it"
        );
        if let Some(pending) = pending {
            assert_eq!(self.pending_adds[pending as usize].job, slot, "a pending addition is of another job");
        }
        assert!(job.background || !job.residency.is_stored(), "a foreground job is stored");
    }

    fn check_pending_adds(&self) {
        let mut gaps: HashMap<ConnectionId, Vec<u64>> = HashMap::new();
        let mut seen = 0;
        for (_, pending) in &self.pending_adds {
            let mut reply = pending.first_reply;
            assert_ne!(reply, NONE, "nobody waits for the store");
            while reply != NONE {
                let PendingReply { connection, gap, next } = self.pending_replies[reply as usize];
                gaps.entry(connection).or_default().push(gap);
                (reply, seen) = (next, seen + 1);
            }
        }
        assert_eq!(seen, self.pending_replies.len(), "a submission waits for nothing");
        for (slot, connection) in &self.connections {
            let id = self.id_of(slot);
            let open = gaps.remove(&id).unwrap_or_default();
            assert_eq!(open.len(), connection.open_gaps as usize, "gaps are miscounted");
            assert!(open.iter().all(|gap| *gap < connection.gaps), "a gap was never made");
            assert_eq!(open.iter().collect::<HashSet<_>>().len(), open.len(), "two submissions share a gap");
        }
        assert!(self.late_adds.iter().all(|(_, late)| self.pending_adds.contains(*late as usize)));
    }

    fn check_memory_totals(&self) {
        let ended = self.pending_adds.iter().filter(|(_, pending)| pending.job == NONE);
        let ended = ended.map(|(_, pending)| pending.workload).sum();
        let mut expected = MemoryTotals { ended, ..MemoryTotals::default() };
        expected.names = self.functions.iter().map(|(_, function)| function.name.as_bytes().len() as u64).sum();
        expected.revoked = self.connections.iter().map(|(_, connection)| connection.revoked_entries()).sum();
        for (_, job) in self.live_jobs() {
            let workload = job.workload_memory();
            expected.heads += job.head_memory();
            expected.shared += job.shared_memory();
            match job.residency {
                Residency::Memory => expected.volatile += workload,
                Residency::Storing => expected.storing += workload,
                Residency::Both | Residency::Store => expected.stored += workload,
            }
            let is_running = matches!(job.state, JobState::Running(_));
            expected.stored_jobs += usize::from(job.residency.is_stored());
            expected.stored_running += usize::from(job.residency.is_stored() && is_running);
        }
        assert_eq!(self.memory_totals, expected, "memory is miscounted");
    }

    fn check_functions(&self) {
        let mut expected: HashMap<FunctionSlot, [u32; 14]> = HashMap::new();
        for (_, job) in self.live_jobs() {
            let counts = expected.entry(job.function).or_default();
            match job.state {
                JobState::Ready(_) => counts[job.priority.index()] += 1,
                JobState::Scheduled(_) => counts[[3, 12, 13][job.priority.index()]] += 1,
                JobState::Running(_) => counts[4] += 1,
                JobState::Storing(_) => counts[5] += 1,
                JobState::PagedOut(_) => counts[6 + job.priority.index()] += 1,
                JobState::Loading(_) => counts[9 + job.priority.index()] += 1,
                JobState::Ended => {}
            }
        }
        assert_eq!(self.function_names.len(), self.functions.len());
        for (priority, functions) in self.functions_ready.iter().enumerate() {
            let ready = self.functions.iter().filter(|(_, function)| function.ready[priority].len > 0);
            assert_eq!(ready.count(), functions.len(), "functions with ready jobs are miscounted");
            for (place, slot) in functions.iter().enumerate() {
                let function = &self.functions[*slot];
                let is_there = function.ready_places[priority] as usize == place && function.ready[priority].len > 0;
                assert!(is_there, "a function is not where it says");
            }
        }
        for (place, slot) in self.functions_unused.iter().enumerate() {
            let function = &self.functions[*slot];
            assert!(function.unused_place as usize == place && function.is_unused(), "a function in use is unused");
        }
        assert_eq!(self.stats.functions.len(), self.functions.len());
        for (slot, function) in &self.functions {
            let counts = expected.remove(&slot).unwrap_or_default();
            for priority in Priority::ALL.map(Priority::index) {
                self.check_list(function.ready[priority], counts[priority], JobState::Ready);
                self.check_list(function.paged_out[priority], counts[6 + priority], JobState::PagedOut);
                self.check_list(function.loading[priority], counts[9 + priority], JobState::Loading);
                self.check_list(function.scheduled[priority], counts[[3, 12, 13][priority]], JobState::Scheduled);
            }
            assert_eq!([function.running, function.storing], [counts[4], counts[5]]);
            let gauges = self.stats.functions.get(function.name.as_bytes());
            let published = gauges.map(|gauges| {
                let [high, normal, low] = [0, 1, 2].map(|priority| gauges.queued[priority].get());
                [high, normal, low, gauges.scheduled(), gauges.running.get(), gauges.workers.get()]
            });
            let [high, normal, low] =
                [0, 1, 2].map(|index| u64::from(counts[index] + counts[6 + index] + counts[9 + index]));
            let (scheduled, running) = (u64::from(counts[3] + counts[12] + counts[13]), u64::from(counts[4]));
            let workers = u64::from(function.workers);
            assert_eq!(published, Some([high, normal, low, scheduled, running, workers]), "a published number is off");
            self.check_published(function);
        }
        assert!(expected.is_empty(), "a job has no function");
        let unused = self.functions.iter().filter(|(_, function)| function.is_unused()).count();
        assert_eq!(self.functions_unused.len(), unused, "functions that are not in use are miscounted");
        let with_settings = self.functions.iter().filter(|(_, function)| function.has_settings()).count();
        assert_eq!(self.functions_with_settings, with_settings, "paused and limited functions are miscounted");
    }

    /// Checks the published numbers of a function other than the counts of jobs and workers.
    fn check_published(&self, function: &Function) {
        let lists = function.ready.iter().chain(&function.paged_out).filter(|list| list.len > 0);
        let heads = lists.filter_map(|list| self.jobs.get(list.first).waits_since_ms());
        let loads = function.loading.iter().zip(function.loading_since_ms).filter(|(loading, _)| loading.len > 0);
        let oldest_ms = heads.chain(loads.filter_map(|(_, since_ms)| since_ms)).min();
        assert_eq!(function.gauges.oldest_ms.get(), oldest_ms.unwrap_or(0), "the age of the first job is off");
        let limits = function.limits.map(u64::from);
        assert_eq!(function.gauges.max_queue.each_ref().map(Gauge::get), limits, "published limits are off");
        assert_eq!(function.gauges.settings_only.get(), u64::from(function.settings_only), "a published mark is off");
        let is_used = function.workers > 0 || function.total() > 0;
        assert!(!(function.settings_only && is_used), "a function in use is said to be known by its settings alone");
        let settings = [function.gauges.paused.get(), function.gauges.max_running.get()];
        assert_eq!(
            settings,
            [u64::from(function.paused), u64::from(function.max_running)],
            "published settings are off"
        );
    }

    fn check_list(&self, list: JobList, length: u32, state: fn(Links) -> JobState) {
        let (mut job, mut before, mut seen) = (list.first, NONE, 0);
        while job != NONE {
            let Some(links) = self.jobs.get(job).state.links() else { break };
            assert_eq!(self.jobs.get(job).state, state(links), "a job is in the wrong list");
            assert_eq!(links.previous, before, "a list is torn");
            (before, job, seen) = (job, links.next, seen + 1);
        }
        assert_eq!((job, seen, list.len), (NONE, length, length), "a list has other jobs than it should");
        assert_eq!(list.last, before, "a list ends elsewhere");
    }

    fn check_clients(&self) {
        let ids = self.connections.iter().filter_map(|(slot, connection)| Some((slot, connection.gauges.client_id()?)));
        let mut expected: Vec<(Vec<u8>, ConnectionSlot)> = ids.map(|(slot, id)| (id, slot)).collect();
        expected.sort_unstable();
        let known: Vec<_> = self.clients.iter().map(|(id, connection)| (id.to_vec(), connection)).collect();
        assert_eq!(known, expected, "a connection is not found by its client id");
    }

    fn check_waits(&self) {
        let mut seen = 0;
        for (slot, connection) in &self.connections {
            let (mut wait, mut before, mut count) = (connection.first_wait, WaitSlot::NONE, 0);
            while wait != WaitSlot::NONE {
                let Wait { connection: of, next_of_connection, previous_of_connection, .. } = self.waits[wait];
                assert_eq!((of, previous_of_connection), (slot, before), "a connection's waits are torn");
                (before, wait, count) = (wait, next_of_connection, count + 1);
            }
            assert_eq!(count, connection.waits);
            seen += self.waits.len().min(count as usize);
        }
        assert_eq!(seen, self.waits.len(), "a wait has no connection");
        let mut seen = 0;
        for (slot, job) in self.jobs.iter() {
            let (mut wait, mut before, expected) =
                (job.waits, WaitSlot::NONE, seen + self.count_waits(job.waits) as usize);
            while wait != WaitSlot::NONE {
                let Wait { job: of, next_of_job, previous_of_job, .. } = self.waits[wait];
                assert_eq!((of, previous_of_job), (slot, before), "a job's waits are torn");
                (before, wait) = (wait, next_of_job);
                seen += 1;
            }
            assert_eq!(seen, expected, "a job's waits are miscounted");
        }
        assert_eq!(seen, self.waits.len(), "a wait has no job");
    }

    fn check_runs(&self) {
        let (mut seen, mut deadlines) = (0, 0);
        for (slot, connection) in &self.connections {
            let (mut run, mut before, mut count) = (connection.first_run, RunSlot::NONE, 0);
            while run != RunSlot::NONE {
                let state = &self.runs[run];
                assert_eq!((state.connection, state.previous), (slot, before), "a connection's runs are torn");
                assert_eq!(self.jobs.get(state.job).state, JobState::Running(run), "a run of a job that does not run");
                if let Some(deadline_us) = state.deadline_us {
                    deadlines += 1;
                    assert!(self.deadlines.contains(&(deadline_us, state.job)), "a deadline is missing");
                }
                (before, run, count) = (run, state.next, count + 1);
            }
            assert_eq!((connection.last_run, connection.runs), (before, count));
            seen += count as usize;
        }
        self.check_revoked();
        for (slot, function) in &self.functions {
            let (mut run, mut before, mut count) = (function.first_run, RunSlot::NONE, 0);
            while run != RunSlot::NONE {
                let state = &self.runs[run];
                let of = self.jobs.get(state.job).function;
                assert_eq!((of, state.previous_of_function), (slot, before), "a function's runs are torn");
                (before, run, count) = (run, state.next_of_function, count + 1);
            }
            assert_eq!(count, function.running, "a function's runs are miscounted");
        }
        let running = self.functions.iter().map(|(_, function)| function.running as usize).sum::<usize>();
        assert_eq!((seen, running), (self.runs.len(), self.runs.len()), "a run has no connection or no job");
        assert_eq!(deadlines, self.deadlines.len(), "a deadline has outlived its job");
    }

    /// Checks that an existing job that was revoked from a connection is not with it again, and was requeued.
    fn check_revoked(&self) {
        for (slot, connection) in &self.connections {
            for job in connection.revoked().filter_map(|number| self.jobs.find_number(number)) {
                let job = self.jobs.get(job);
                assert!(job.attempts > 0, "a job without a failed attempt was revoked");
                if let JobState::Running(run) = job.state {
                    let holder = self.runs[run].connection;
                    assert_ne!(holder, slot, "a job is taken for lost by the worker that has it");
                }
            }
        }
    }

    fn check_sleepers(&self) {
        let mut waking: HashMap<FunctionSlot, u32> = HashMap::new();
        let (mut abilities, mut sleeping) = (0, 0);
        for (slot, connection) in &self.connections {
            abilities += self.check_abilities(slot, connection);
            let is_full = connection.sleep == Sleep::Asleep && connection.runs >= self.policy.max_jobs_per_connection;
            assert_eq!(connection.is_full, is_full, "whether a sleeper holds as many jobs as it may is not known");
            match connection.sleep {
                Sleep::Asleep => {
                    if !connection.is_wide {
                        sleeping += self.abilities_of(connection).filter(|ability| self.is_listed(*ability)).count();
                    }
                }
                Sleep::Woken { function, serial } => {
                    *waking.entry(function).or_default() += 1;
                    assert!(self.noops.iter().any(|noop| noop.serial == serial), "a NOOP has no deadline");
                }
                Sleep::Awake | Sleep::Late => {}
            }
        }
        assert_eq!(abilities, self.abilities.len(), "an ability has no connection");
        for (slot, function) in &self.functions {
            let counted = waking.remove(&slot).unwrap_or(0);
            assert_eq!(function.waking, counted, "workers on their way are miscounted");
            let (mut ability, mut before) = (function.first_sleeper, AbilitySlot::NONE);
            while ability != AbilitySlot::NONE {
                let state = &self.abilities[ability];
                assert_eq!((state.function, state.previous), (slot, before), "a list of sleepers is torn");
                let sleep = self.connections[state.connection].sleep;
                assert_eq!(sleep, Sleep::Asleep, "one who does not sleep is in a list of sleepers");
                assert!(self.is_listed(ability), "one who gets no jobs is in a list of sleepers");
                (before, ability) = (ability, state.next);
                sleeping -= 1;
            }
            assert_eq!(function.last_sleeper, before);
            assert!(
                !self.is_forgotten(slot, function),
                "a job waits, nobody is on the way, and a worker sleeps that could do it"
            );
        }
        assert_eq!(sleeping, 0, "a sleeper is in no list");
        self.check_wide_sleepers();
        assert!(self.freed.is_empty(), "nobody has looked for jobs for one who may take them again");
        assert!(waking.is_empty(), "a worker is on its way for a function that does not exist");
    }

    fn abilities_of<'a>(&'a self, connection: &Connection) -> impl Iterator<Item = AbilitySlot> + use<'a> {
        let first = Some(connection.abilities.first).filter(|first| *first != AbilitySlot::NONE);
        successors(first, |ability| Some(self.abilities[*ability].turn_next).filter(|next| *next != AbilitySlot::NONE))
    }

    /// Checks the order of a connection's abilities. Returns their number.
    fn check_abilities(&self, slot: ConnectionSlot, connection: &Connection) -> usize {
        let (mut before, mut turn, mut count) = (AbilitySlot::NONE, i64::MIN, 0);
        for ability in self.abilities_of(connection) {
            let state = &self.abilities[ability];
            assert_eq!((state.connection, state.turn_previous), (slot, before), "abilities are torn");
            assert!(turn < state.turn, "abilities are out of order");
            (before, turn, count) = (ability, state.turn, count + 1);
        }
        assert_eq!((connection.abilities.last, connection.abilities.len), (before, count), "abilities are miscounted");
        let running = self.runs.iter().filter(|(_, run)| run.connection == slot);
        let mut counted: HashMap<*const AbilityGauges, u64> = HashMap::new();
        running.for_each(|(_, run)| *counted.entry(Arc::as_ptr(&run.gauges)).or_default() += 1);
        for ability in self.abilities_of(connection) {
            let gauges = &self.abilities[ability].gauges;
            let count = counted.get(&Arc::as_ptr(gauges)).copied().unwrap_or(0);
            assert_eq!(gauges.running.get(), count, "jobs of one function and worker are miscounted");
        }
        count as usize
    }

    /// Whether a job waits uncovered while a worker sleeps that could do it and that will not be checked
    /// again.
    fn is_forgotten(&self, slot: FunctionSlot, function: &Function) -> bool {
        let is_hopeless = |connection: ConnectionSlot| {
            let state = &self.connections[connection];
            let able = self.find_ability(connection, slot).is_some_and(|ability| self.is_listed(ability));
            able && state.cover_at == AbilitySlot::NONE && !state.has_stale_rules
        };
        let mut sleepers = self.connections.iter().filter(|(_, connection)| connection.sleep == Sleep::Asleep);
        function.has_uncovered() && sleepers.any(|(connection, _)| is_hopeless(connection))
    }

    fn check_wide_sleepers(&self) {
        let (mut connection, mut before, mut slept, mut seen) = (self.first_wide_sleeper, ConnectionSlot::NONE, 0, 0);
        while connection != ConnectionSlot::NONE {
            let state = &self.connections[connection];
            assert!(state.is_wide && state.is_ready_to_wake(), "one who does not sleep is among the wide sleepers");
            assert!(state.previous_sleeper == before && state.slept > slept, "the wide sleepers are torn");
            (before, slept, connection, seen) = (connection, state.slept, state.next_sleeper, seen + 1);
        }
        assert_eq!((self.last_wide_sleeper, self.wide_sleepers), (before, seen), "the wide sleepers are miscounted");
        let wide = self.connections.iter().filter(|(_, connection)| connection.is_wide);
        assert_eq!(wide.filter(|(_, connection)| connection.is_ready_to_wake()).count(), seen as usize);
        for (slot, function) in &self.functions {
            let (mut ability, mut before, mut count) = (function.first_wide, AbilitySlot::NONE, 0);
            while ability != AbilitySlot::NONE {
                let state = &self.abilities[ability];
                assert_eq!((state.function, state.previous), (slot, before), "wide abilities are torn");
                assert!(self.connections[state.connection].is_wide, "one with few functions is among the wide");
                (before, ability, count) = (ability, state.next, count + 1);
            }
            assert_eq!(function.wide, count, "wide abilities are miscounted");
        }
        for (_, connection) in &self.connections {
            assert!(
                !connection.is_wide || connection.abilities.first != AbilitySlot::NONE,
                "one is wide that can do nothing"
            );
            if connection.cover_at != AbilitySlot::NONE {
                assert!(connection.sleep == Sleep::Asleep, "one who does not sleep is to be looked through");
                assert!(!self.uncovered.is_empty(), "a sleeper will not be looked through");
            }
        }
    }
}
