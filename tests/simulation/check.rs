//! What must be true between any two transitions, by the model and by what the server publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use gearmand::job_server::{JobServer, Now, Stage};
use gearmand::protocol::FunctionName;
use gearmand::stats::{Abilities, Gauge, JobCounters, Stats};

use super::model::{Job, Model, Residency, Sleep, State};
use super::store::{Known, Store};
use super::wire::{self, FUNCTIONS};

/// While jobs wait for their time, the wall clock must be looked at this often.
const LONGEST_LOOK_AHEAD_US: u64 = 1_000_000;

impl Model {
    /// The cheap checks, made after every transition.
    pub(crate) fn check(&mut self, now: Now, server: &JobServer, stats: &Stats) {
        self.check_functions(stats);
        assert_eq!(server.job_count(), self.jobs.len(), "jobs were lost, or live on after their end");
        assert_eq!(server.jobs_to_drain(), self.jobs_to_drain(), "jobs that a stop would lose");
        assert_eq!(server.last_number(), self.last_number, "the highest number of a job");
        self.check_gauges(stats);
        self.check_loads();
        self.check_account(server.memory_use());
        self.check_wakefulness();
        self.check_alarm(now, server.next_timeout(now));
    }

    fn check_functions(&mut self, stats: &Stats) {
        if std::mem::take(&mut self.may_have_forgotten) {
            let mut functions = std::mem::take(&mut self.functions);
            functions.retain(|function, limits| {
                let is_used = *limits != [0; 3] || self.is_working(*function) || self.is_controlled(*function);
                is_used || stats.functions.contains_key(wire::FUNCTIONS[*function])
            });
            self.settings_only.retain(|function| functions.contains_key(function));
            self.functions = functions;
            assert!(
                self.functions.len() <= self.policy.max_functions.max(self.restored_functions),
                "more functions than there may be"
            );
        }
        assert_eq!(stats.functions.len(), self.functions.len(), "functions were lost, or live on");
    }

    /// Published numbers equal a recount.
    fn check_gauges(&self, stats: &Stats) {
        let mut counted = [[0_u64; 6]; wire::FUNCTIONS.len()];
        for job in self.jobs.values() {
            counted[job.function][match job.state {
                State::Ready(_) | State::PagedOut(_) | State::Loading(_) => job.priority,
                State::Scheduled => 3,
                State::Running { .. } => 4,
                State::Storing => continue,
            }] += 1;
        }
        for connection in self.connections.values() {
            for ability in &connection.abilities {
                counted[ability.function][5] += 1;
            }
        }
        for function in self.functions.keys() {
            let name = wire::FUNCTIONS[*function];
            let gauges = stats.functions.get(name).expect("a function is not published");
            let [high, normal, low] = gauges.queued.each_ref().map(Gauge::get);
            let published = [high, normal, low, gauges.scheduled(), gauges.running.get(), gauges.workers.get()];
            assert_eq!(published, counted[*function], "published of {:?}, and counted", name.escape_ascii());
            self.check_age(*function, gauges.oldest_ms.get() / 1000);
        }
        let JobCounters { submitted, done, failed, exceptions, dropped, cancelled, abandoned, .. } = &stats.counters;
        let ended: u64 = [done, failed, exceptions, dropped, cancelled, abandoned].map(Gauge::get).iter().sum();
        let living: u64 = counted.iter().flat_map(|counts| &counts[..5]).sum();
        assert_eq!(
            submitted.get() + self.restored_jobs as u64,
            ended + living,
            "jobs that came, and that went or are there"
        );
    }

    /// It is published since when the first in the queues waits. A job that is being read may have ended
    /// since it was asked for.
    fn check_age(&self, function: usize, published_s: u64) {
        let mut firsts: BTreeMap<(usize, u8), (u64, u64)> = BTreeMap::new();
        let (mut earliest_s, mut is_loading) = (u64::MAX, false);
        let known = |since_s: u64| if since_s == 0 { u64::MAX } else { since_s };
        for job in self.jobs.values().filter(|job| job.function == function) {
            let since_s = job.submitted_s.max(job.due_s);
            let (list, turn) = match job.state {
                State::Ready(turn) => (0, turn),
                State::PagedOut(turn) => (1, turn),
                State::Loading(_) => {
                    (earliest_s, is_loading) = (earliest_s.min(known(since_s)), true);
                    continue;
                }
                _ => continue,
            };
            let first = firsts.entry((job.priority, list)).or_insert((turn, since_s));
            *first = (*first).min((turn, since_s));
        }
        let heads_s = firsts.into_values().map(|(_, since_s)| known(since_s)).min().unwrap_or(u64::MAX);
        let (earliest_s, published_s) = (earliest_s.min(heads_s), known(published_s));
        assert!(
            published_s == earliest_s || is_loading && published_s < earliest_s,
            "{published_s} and not {earliest_s}"
        );
    }

    /// Nobody sleeps while there is work for them, unless enough others are on their way.
    ///
    /// A NOOP is for a job of one function: those on their way must be enough for each function that has
    /// sleepers, and for all of these together.
    fn check_wakefulness(&self) {
        let ready: [usize; wire::FUNCTIONS.len()] = std::array::from_fn(|function| self.available(function));
        let on_their_way = || {
            let connections = self.connections.iter();
            connections.filter(|(_, connection)| matches!(connection.sleep, Sleep::Woken { .. }))
        };
        let mut all = 0;
        for (function, jobs) in ready.into_iter().enumerate() {
            if jobs == 0 || self.sleepers(function).next().is_none() {
                continue;
            }
            all += jobs;
            let able = on_their_way()
                .filter(|(number, connection)| connection.can_do(function) && !self.is_withheld(**number, function))
                .count();
            assert!(jobs <= able, "{jobs} jobs of function {function} wait, a worker sleeps, {able} are on their way");
        }
        let woken = on_their_way().count();
        assert!(all <= woken, "{all} jobs wait that sleepers could do, and only {woken} are on their way");
    }

    /// The server wants to be called in time for everything that is to happen.
    fn check_alarm(&self, now: Now, alarm_us: Option<u64>) {
        let alarm_us = alarm_us.unwrap_or(u64::MAX);
        if let Some(again_us) = self.load_again_us {
            assert!(alarm_us <= again_us, "the store is not asked again in time");
        }
        for (number, job) in &self.jobs {
            let latest_us = match job.state {
                State::Ready(_) | State::PagedOut(_) | State::Loading(_) | State::Storing => continue,
                State::Running { deadline_us, .. } => deadline_us.unwrap_or(u64::MAX),
                State::Scheduled => {
                    let wait_us = (job.due_s * 1_000_000).saturating_sub(now.unix_us);
                    now.monotonic_us + wait_us.min(LONGEST_LOOK_AHEAD_US)
                }
            };
            assert!(
                alarm_us <= latest_us,
                "the server wants to sleep until {alarm_us}, job {number} until {latest_us}"
            );
        }
        for (number, connection) in &self.connections {
            if let Sleep::Woken { deadline_us, counted: true } = connection.sleep {
                assert!(alarm_us <= deadline_us, "the NOOP of connection {number} is not given up in time");
            }
        }
    }

    /// What is published of a connection's functions.
    pub(crate) fn check_abilities(&self, connection: u32, published: &Abilities) {
        let mut published: Vec<&[u8]> = published.iter().map(|ability| ability.function.as_bytes()).collect();
        let abilities = &self.connections[&connection].abilities;
        let mut expected: Vec<&[u8]> = abilities.iter().map(|ability| wire::FUNCTIONS[ability.function]).collect();
        published.sort_unstable();
        expected.sort_unstable();
        assert_eq!(published, expected, "published functions of connection {connection}");
    }

    /// The listing shows every job once, as it is.
    pub(crate) fn check_listing(&self, server: &JobServer) {
        let (mut listed, mut place) = (BTreeSet::new(), Some(0));
        while let Some(from) = place {
            place = server.list_jobs(from, |job| {
                let name = wire::job_of(job.handle.to_string().as_bytes()).expect("a strange handle is listed");
                let known = &self.jobs[&name];
                assert_ne!(known.state, State::Storing, "a job is listed before it is stored");
                assert_eq!(
                    (job.unique, job.attempts, job.abandoned, job.background),
                    (known.unique, known.attempts, !known.is_wanted(), known.background),
                    "the listing of job {name}"
                );
                let stage = match job.stage {
                    Stage::Scheduled => known.state == State::Scheduled,
                    Stage::Queued => matches!(known.state, State::Ready(_) | State::PagedOut(_) | State::Loading(_)),
                    Stage::Running(_) => matches!(known.state, State::Running { .. }),
                };
                assert!(stage, "job {name} is {:?}, and listed as {:?}", known.state, job.stage);
                let shown = (job.function.as_bytes(), job.priority.index(), job.due_s, job.submitted_ms / 1000);
                let truth = (FUNCTIONS[known.function], known.priority, known.due_s, known.submitted_s);
                assert_eq!(shown, truth, "the listing of job {name}");
                assert!(job.workload.is_none_or(|workload| workload == known.workload), "the workload of job {name}");
                assert!(listed.insert(name), "a job is listed twice");
                ControlFlow::Continue(())
            });
        }
        self.check_running_listing(server);
        for function in FUNCTIONS {
            self.check_queue_listing(server, function);
        }
        let visible = self.jobs.values().filter(|job| job.state != State::Storing);
        assert_eq!(listed.len(), visible.count(), "a job is not listed");
    }

    fn check_running_listing(&self, server: &JobServer) {
        let (mut listed, mut place) = (BTreeSet::new(), Some(0));
        while let Some(from) = place {
            place = server.list_running_jobs(from, |job| {
                assert!(
                    listed.insert(wire::job_of(job.handle.to_string().as_bytes()).unwrap()),
                    "a run is listed twice"
                );
                ControlFlow::Continue(())
            });
        }
        let running = self.jobs.iter().filter(|(_, job)| matches!(job.state, State::Running { .. }));
        assert_eq!(listed, running.map(|(name, _)| *name).collect(), "jobs that are listed as running");
    }

    /// What waits of a function is listed by priority, one job a call.
    fn check_queue_listing(&self, server: &JobServer, function: &[u8]) {
        let (mut listed, mut after) = (Vec::new(), Some(0));
        while let Some(last) = after {
            after = server.list_queued_jobs(function, last, |job| {
                listed.push((job.priority.index(), wire::job_of(job.handle.to_string().as_bytes()).unwrap()));
                ControlFlow::Break(())
            });
        }
        assert!(listed.is_sorted_by_key(|(priority, _)| *priority), "a queue is listed in no order");
        let waits = |job: &Job| matches!(job.state, State::Ready(_) | State::PagedOut(_) | State::Loading(_));
        let waiting = self.jobs.iter().filter(|(_, job)| FUNCTIONS[job.function] == function && waits(job));
        let waiting: BTreeSet<_> = waiting.map(|(name, job)| (job.priority, *name)).collect();
        assert_eq!((listed.len(), listed.into_iter().collect()), (waiting.len(), waiting), "a queue as it is listed");
    }

    /// How many jobs a drain waits for: a stop would lose them, or let them run twice.
    pub(crate) fn jobs_to_drain(&self) -> usize {
        let is_safe = |residency, state| residency == Residency::Stored && !matches!(state, State::Running { .. });
        self.jobs.values().filter(|job| !is_safe(job.residency, job.state)).count()
    }

    /// What the server takes for stored is stored; and when everything that it asked for is done, the store
    /// has its kept jobs, with their attempts, and no others.
    pub(crate) fn check_store(&self, store: &Store) {
        let mut expected = 0;
        let pending_adds = self.pending_adds.iter().filter(|(_, pending)| !pending.has_ended);
        let tickets: BTreeMap<u64, u32> = pending_adds.map(|(ticket, pending)| (pending.job, *ticket)).collect();
        for (name, job) in self.jobs.iter().filter(|(_, job)| job.residency != Residency::Memory) {
            let number = wire::number(*name);
            if store.deleted.contains(&number) {
                continue;
            }
            let ticket = tickets.get(name).copied();
            assert_eq!(ticket.is_some(), job.residency == Residency::Storing);
            if ticket.is_some_and(|ticket| store.has_failed(ticket)) {
                continue;
            }
            assert!(
                job.residency != Residency::Stored || store.rows.contains_key(&number),
                "job {name} is not in the store"
            );
            let known = Known {
                attempts: u16::try_from(job.attempts).unwrap(),
                function: FunctionName::new(wire::FUNCTIONS[job.function]),
                priority: job.priority,
                due_s: job.due_s,
            };
            assert_eq!(store.projected.get(&number), Some(&known), "job {name}, as it will be in the store");
            expected += 1;
        }
        expected += store.duplicates.iter().filter(|number| store.projected.contains_key(number)).count();
        assert_eq!(
            store.projected.len(),
            expected,
            "a job that has ended will stay in the store: {:?}",
            store.projected
        );
    }
}
