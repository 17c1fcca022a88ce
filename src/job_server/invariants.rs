//! What must hold after every transition. Used by debug builds and by the simulation.

use std::collections::{HashMap, HashSet};

use super::JobServer;
use super::connection::{Sleep, Wait};
use super::index::NONE;
use super::job::JobState;
use crate::protocol::{Priority, Submission};

impl JobServer {
    /// In a debug build, checks the invariants, unless there is so much that it would take long.
    pub(super) fn debug_check_invariants(&self) {
        #[cfg(debug_assertions)]
        if self.jobs.len() + self.connections.len() + self.functions.len() + self.waits.len() < super::WORK_PER_CALL {
            self.check_invariants();
        }
    }

    /// Checks everything that the module's documentation promises.
    ///
    /// # Panics
    /// Where something does not hold: the server's own state is wrong, and there is no telling what else is.
    pub fn check_invariants(&self) {
        self.check_jobs();
        self.check_functions();
        self.check_waits();
        self.check_runs();
        self.check_sleepers();
    }

    fn check_jobs(&self) {
        let (mut keys, mut uniques) = (HashSet::new(), HashSet::new());
        let (mut scheduled, mut keyed_by_workload) = (0, 0);
        for (slot, job) in self.jobs.iter() {
            assert_eq!(self.jobs.find_number(job.number), Some(slot), "a job is not found by its handle");
            let unique = job.unique();
            if !unique.is_empty() {
                let workload = if unique == b"-" { job.workload().as_bytes() } else { b"" };
                if unique != b"-" || !workload.is_empty() {
                    assert!(keys.insert((job.function, unique, workload)), "two jobs of one key");
                    keyed_by_workload += usize::from(unique == b"-");
                    let again = Submission {
                        function: b"",
                        unique,
                        reducer: b"",
                        priority: job.priority,
                        background: false,
                        due_s: None,
                        workload: job.workload(),
                    };
                    let found = self.jobs.find_equal(job.function, &again).ok();
                    assert_eq!(found, Some(slot), "a job is not found by its key");
                }
                if unique != b"-" {
                    uniques.insert(unique);
                    let newest = self.jobs.find_unique(unique).map(|newest| self.jobs.get(newest).number);
                    assert!(
                        newest.is_some_and(|newest| newest >= job.number),
                        "the newest job of a unique is not found"
                    );
                }
            }
            let is_running = matches!(job.state, JobState::Running(_));
            assert!(job.background || job.waits != NONE || is_running, "an abandoned job was kept");
            if job.state == JobState::Scheduled {
                scheduled += 1;
                assert!(self.jobs.schedule.contains(&(job.due_s, job.number, slot)), "a scheduled job has no time");
            }
        }
        assert_eq!(self.jobs.schedule.len(), scheduled, "a time without a scheduled job");
        let [by_number, by_unique, by_key, namesakes] = self.jobs.index_lengths();
        assert_eq!([by_number, by_unique], [self.jobs.len(), uniques.len()], "an index is off");
        assert_eq!(by_key, keyed_by_workload + namesakes, "the index of keys is off");
    }

    fn check_functions(&self) {
        let mut expected: HashMap<u32, [u32; 5]> = HashMap::new();
        for (_, job) in self.jobs.iter() {
            let counts = expected.entry(job.function).or_default();
            match job.state {
                JobState::Ready { .. } => counts[job.priority.index()] += 1,
                JobState::Scheduled => counts[3] += 1,
                JobState::Running(_) => counts[4] += 1,
            }
        }
        assert_eq!(self.function_names.len(), self.functions.len());
        assert_eq!(self.stats.functions.len(), self.functions.len());
        for (slot, function) in &self.functions {
            let counts = expected.remove(&u32::try_from(slot).unwrap_or(NONE)).unwrap_or_default();
            for priority in Priority::ALL {
                let list = function.ready[priority.index()];
                assert_eq!(list.len, counts[priority.index()], "a ready job is in no list");
                let (mut job, mut length, mut before) = (list.first, 0, NONE);
                while job != NONE {
                    let JobState::Ready { previous, next } = self.jobs.get(job).state else { break };
                    assert_eq!(previous, before, "a list is torn");
                    (before, job, length) = (job, next, length + 1);
                }
                assert_eq!((job, length), (NONE, list.len), "a list has a job that is not ready, or another length");
            }
            assert_eq!([function.scheduled, function.running], [counts[3], counts[4]]);
            let gauges = self.stats.functions.get(function.name.as_bytes()).map(|entry| entry.value().clone());
            let published = gauges.map(|gauges| {
                let [high, normal, low] = [0, 1, 2].map(|priority| gauges.ready[priority].get());
                [high, normal, low, gauges.scheduled.get(), gauges.running.get(), gauges.workers.get()]
            });
            let [high, normal, low, scheduled, running] = counts.map(u64::from);
            let workers = u64::from(function.workers);
            assert_eq!(published, Some([high, normal, low, scheduled, running, workers]), "a published number is off");
        }
        assert!(expected.is_empty(), "a job has no function");
        let in_use = self.functions.iter().filter(|(_, function)| !function.is_unused()).count();
        assert_eq!(self.functions_in_use, in_use, "functions in use are miscounted");
    }

    fn check_waits(&self) {
        let mut seen = 0;
        for (slot, connection) in &self.connections {
            let (mut wait, mut before, mut count) = (connection.first_wait, NONE, 0);
            while wait != NONE {
                let Wait { connection: of, next_of_connection, previous_of_connection, .. } = self.waits[wait as usize];
                assert_eq!((of as usize, previous_of_connection), (slot, before), "a connection's waits are torn");
                (before, wait, count) = (wait, next_of_connection, count + 1);
            }
            assert_eq!(count, connection.waits);
            seen += self.waits.len().min(count as usize);
        }
        assert_eq!(seen, self.waits.len(), "a wait has no connection");
        let mut seen = 0;
        for (slot, job) in self.jobs.iter() {
            let (mut wait, mut before, expected) = (job.waits, NONE, seen + self.count_waits(job.waits) as usize);
            while wait != NONE {
                let Wait { job: of, next_of_job, previous_of_job, .. } = self.waits[wait as usize];
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
            let (mut run, mut before, mut count) = (connection.first_run, NONE, 0);
            while run != NONE {
                let state = &self.runs[run as usize];
                assert_eq!((state.connection as usize, state.previous), (slot, before), "a connection's runs are torn");
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
        let running = self.functions.iter().map(|(_, function)| function.running as usize).sum::<usize>();
        assert_eq!((seen, running), (self.runs.len(), self.runs.len()), "a run has no connection or no job");
        assert_eq!(deadlines, self.deadlines.len(), "a deadline has outlived its job");
    }

    fn check_sleepers(&self) {
        let mut waking: HashMap<u32, u32> = HashMap::new();
        let (mut abilities, mut sleeping) = (0, 0);
        for (slot, connection) in &self.connections {
            abilities += connection.abilities.len();
            for ability in &connection.abilities {
                assert_eq!(self.abilities[*ability as usize].connection as usize, slot);
            }
            match connection.sleep {
                Sleep::Asleep => sleeping += connection.abilities.len(),
                Sleep::Woken { function, serial } => {
                    *waking.entry(function).or_default() += 1;
                    assert!(self.noops.iter().any(|noop| noop.serial == serial), "a NOOP has no deadline");
                }
                Sleep::Awake | Sleep::Late => {}
            }
        }
        assert_eq!(abilities, self.abilities.len(), "an ability has no connection");
        for (slot, function) in &self.functions {
            let counted = waking.remove(&u32::try_from(slot).unwrap_or(NONE)).unwrap_or(0);
            assert_eq!(function.waking, counted, "workers on their way are miscounted");
            let (mut ability, mut before) = (function.first_sleeper, NONE);
            while ability != NONE {
                let state = &self.abilities[ability as usize];
                assert_eq!((state.function as usize, state.previous), (slot, before), "a list of sleepers is torn");
                let sleep = self.connections[state.connection as usize].sleep;
                assert_eq!(sleep, Sleep::Asleep, "one who does not sleep is in a list of sleepers");
                (before, ability) = (ability, state.next);
                sleeping -= 1;
            }
            assert_eq!(function.last_sleeper, before);
            let forgotten = function.has_uncovered() && function.first_sleeper != NONE;
            assert!(!forgotten, "a job waits, nobody is on the way, and a worker sleeps that could do it");
        }
        assert_eq!(sleeping, 0, "a sleeper is in no list");
        assert!(waking.is_empty(), "a worker is on its way for a function that does not exist");
    }
}
