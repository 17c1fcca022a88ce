//! The world around a server that keeps jobs: its store, and crashes.

use std::collections::BTreeSet;
use std::sync::Arc;

use gearmand::job_server::{JobServer, Policy, StoreReport, StoredJob, StoredParts};
use gearmand::stats::Stats;

use super::link::Recorder;
use super::model::{Job, Model, Residency, State};
use super::policy::some_policy;
use super::wire;
use super::world::{PEERS, World, check_price, finish_hold};

impl World {
    /// The store goes on with something, or the server hears of it.
    pub(crate) fn store_acts(&mut self) {
        let Some(store) = &mut self.store else { return };
        if self.random.chance(40)
            && let Some(report) = store.report()
        {
            return self.report(report);
        }
        let news = store.act(&mut self.random);
        for what in news {
            self.event("the store", &what);
            self.model.note(what);
        }
        self.check();
    }

    /// Lets the store do everything that it was asked.
    pub(crate) fn settle_store(&mut self) {
        while self.store.as_ref().is_some_and(|store| !store.is_idle()) {
            self.store_acts();
        }
    }

    /// The server is told what the store has done.
    fn report(&mut self, report: StoreReport) {
        self.event("the store reports", &report);
        let (now, told) = (self.now, copy(&report));
        let mut effects = Recorder::new(&mut self.links, None, true);
        let mut rest = Some(report);
        while let Some(report) = rest {
            self.server.start_turn();
            rest = self.server.stored(now, report, &mut effects);
            check_price(&self.server, &self.model.policy);
        }
        finish_hold(&mut self.server, &self.model.policy, self.now, &mut effects);
        let outcome = effects.outcome;
        self.observe(&outcome);
        match told {
            StoreReport::Added { ticket, result } => self.model.added(now, ticket, result, &outcome),
            StoreReport::Loaded { ticket, result } => {
                self.model.loaded(now, ticket, result.as_deref(), &outcome);
            }
        }
        self.conclude(outcome);
    }

    /// Somebody does something to the store that the server knows nothing of.
    pub(crate) fn meddle_with_store(&mut self) {
        let Some(store) = &mut self.store else { return };
        if self.random.chance(60) {
            let deleted = store.delete_one(&mut self.random);
            self.event("somebody removes from the store", &deleted);
        } else {
            store.toggle(&mut self.random);
            self.event("the store breaks, or works again", &());
        }
    }

    /// A job that has been in memory alone is being stored: the clients that wait for it go, and the store
    /// breaks.
    pub(crate) fn strand_late_job(&mut self) {
        let is_late =
            |job: &&Job| job.residency == Residency::Storing && job.state != State::Storing && !job.waits.is_empty();
        let clients = self.model.jobs.values().find(is_late).map(|job| job.waits.clone()).unwrap_or_default();
        for slot in 0..self.links.len() {
            if self.links[slot].as_ref().is_some_and(|link| clients.contains(&link.number)) {
                self.disconnect(slot, false);
            }
        }
        if let Some(store) = &mut self.store
            && !clients.is_empty()
        {
            store.fail(&mut self.random);
        }
    }

    /// The server ends, at once or in order, and is started again.
    pub(crate) fn restart(&mut self) {
        if self.random.chance(20) {
            self.model.note("was kept when the server stopped");
            return self.stop_and_start();
        }
        let Some(store) = &mut self.store else { return };
        let unfinished: Vec<u64> = self
            .acknowledged
            .iter()
            .copied()
            .filter(|name| self.model.jobs.get(name).is_some_and(|job| job.residency == Residency::Stored))
            .filter(|name| !store.deleted.contains(&wire::number(*name)))
            .collect();
        let has_gaps = self.links.iter().flatten().any(|link| link.outgoing.has_gaps());
        let news = store.crash(&mut self.random);
        for name in &unfinished {
            assert!(store.rows.contains_key(&wire::number(*name)), "job {name} was acknowledged and is lost");
        }
        for what in news {
            self.model.note(what);
        }
        if has_gaps {
            self.model.note("waited for the store when the server crashed");
        }
        self.event("the server crashes", &());
        self.start();
    }

    /// The server stops in order: everything that it asked of the store is done.
    pub(crate) fn stop_and_start(&mut self) {
        if let Some(store) = &mut self.store {
            store.stop(&mut self.random, self.server.last_number());
        }
        self.event("the server stops", &());
        self.start();
    }

    /// A new server takes back what the store has.
    fn start(&mut self) {
        self.links = (0..PEERS).map(|_| None).collect();
        let policy = Policy { keeps_jobs: true, ..some_policy(&mut self.random, self.has_small_limits) };
        self.stats = Arc::new(Stats::default());
        self.server = JobServer::new(policy.clone(), Arc::clone(&self.stats));
        let old = std::mem::replace(&mut self.model, Model::new(policy));
        self.model.happened = old.happened;
        self.model.transition = old.transition;
        self.woken_before = self.model.happened.get("was woken").copied().unwrap_or(0);
        let Some(store) = &mut self.store else { return };
        if self.random.chance(20) && !self.is_winding_up {
            store.add_duplicate(&mut self.random);
        }
        let (rows, last_number) = (store.rows.clone(), store.last_number);
        let mut has_room = true;
        let mut effects = Recorder::new(&mut self.links, None, true);
        for job in rows.values() {
            // A store may bring workloads that are not wanted.
            let has_workload = has_room || job.unique() == b"-" || self.random.chance(20);
            let restored = if has_workload { job.clone() } else { without_workload(job) };
            has_room = self.server.restore(self.now, restored, has_workload, &mut effects);
            self.server.check_invariants();
            if self.model.restored(self.now, job, has_workload, has_room) {
                store.duplicates.insert(job.number);
            }
        }
        let outcome = effects.outcome;
        let duplicates: BTreeSet<u64> = outcome.duplicates.iter().map(|name| wire::number(*name)).collect();
        assert_eq!(duplicates, store.duplicates, "jobs that were reported as duplicates");
        assert!(outcome.sent.is_empty() && outcome.operations.is_empty(), "a server speaks before it has started");
        let restored = self.server.restore_settings(store.settings.clone().into_iter().collect());
        self.model.settings_restored(&mut store.settings, &restored);
        store.projected_settings.clone_from(&store.settings);
        self.server.skip_to_number(last_number);
        self.model.last_number = last_number;
        self.acknowledged.retain(|name| rows.contains_key(&wire::number(*name)));
        self.event("the server starts with so many jobs", &rows.len());
        self.check();
        self.check_listings();
    }
}

fn without_workload(job: &StoredJob) -> StoredJob {
    StoredJob::new(StoredParts {
        number: job.number,
        prefix: Arc::clone(&job.prefix),
        function: job.function.clone(),
        unique: job.unique(),
        reducer: job.reducer(),
        priority: job.priority,
        due_s: job.due_s,
        submitted_s: job.submitted_s,
        attempts: job.attempts,
        workload: b"",
    })
    .unwrap()
}

fn copy(report: &StoreReport) -> StoreReport {
    match report {
        StoreReport::Added { ticket, result } => StoreReport::Added { ticket: *ticket, result: *result },
        StoreReport::Loaded { ticket, result } => StoreReport::Loaded { ticket: *ticket, result: result.clone() },
    }
}
