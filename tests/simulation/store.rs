//! A store, and the writer in front of it: slow, failing, and after a crash exactly what was committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use gearmand::job_server::{Edit, JobKey, StoreFailure, StoreOp, StoreReport, StoredJob};
use gearmand::protocol::FunctionName;

use super::model_settings::Settings;
use super::random::Random;

const FAILURES: [StoreFailure; 7] = [
    StoreFailure::Full,
    StoreFailure::ReadOnly,
    StoreFailure::Io,
    StoreFailure::Locked,
    StoreFailure::Unreachable,
    StoreFailure::Corrupt,
    StoreFailure::Refused,
];

/// What is changed at once, as the operations were asked for.
#[derive(Clone, Debug, Default)]
struct Changes {
    removes: Vec<u64>,
    adds: Vec<(u32, StoredJob)>,
    attempts: Vec<(u64, u16)>,
    edits: Vec<(JobKey, Edit)>,
    settings: Vec<(String, Option<String>)>,
}

/// What of a job may change while it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) attempts: u16,
    pub(crate) function: FunctionName,
    pub(crate) priority: usize,
    pub(crate) due_s: u64,
}

impl Known {
    fn of(job: &StoredJob) -> Self {
        let StoredJob { attempts, priority, due_s, .. } = *job;
        Self { attempts, function: job.function.clone(), priority: priority.index(), due_s }
    }
}

/// What became of a batch, for the account of what happened.
pub(crate) type News = &'static str;

/// What an operation is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Job(u64),
    Setting(String),
}

/// How far the store has come, counted in operations, and what the operator was told of it.
#[derive(Debug, Default)]
struct Words {
    asked: u64,
    taken: u64,
    /// So many are committed, and nothing before them is owed.
    applied: u64,
    /// Words that are not answered yet: after how many operations they were said.
    waiting: VecDeque<u64>,
    /// The last one that is.
    answered: u64,
    /// Which operation was the last on something.
    touched: BTreeMap<Subject, u64>,
}

impl Words {
    fn push(&mut self, operation: &StoreOp) {
        let subject = match operation {
            StoreOp::Load { .. } => return,
            StoreOp::Add { job, .. } => Some(Subject::Job(job.number)),
            StoreOp::Remove(key) | StoreOp::Edit { key, .. } => Some(Subject::Job(key.number)),
            StoreOp::Set { name, .. } => Some(Subject::Setting(name.clone())),
            StoreOp::Attempts { .. } => None,
        };
        self.asked += 1;
        self.touched.extend(subject.map(|subject| (subject, self.asked)));
    }

    fn answer(&mut self) {
        while let Some(position) = self.waiting.front().copied().filter(|position| *position <= self.applied) {
            self.waiting.pop_front();
            self.answered = position;
        }
    }
}

/// The store with its writer.
#[derive(Debug)]
pub(crate) struct Store {
    /// What a crash leaves, by number.
    pub(crate) rows: BTreeMap<u64, StoredJob>,
    /// What the operator has decided: what a crash leaves, and what there will be if nothing more fails.
    pub(crate) settings: Settings,
    pub(crate) projected_settings: Settings,
    /// The highest number that the store knows of.
    pub(crate) last_number: u64,
    /// What there will be, by number, if nothing more fails.
    pub(crate) projected: BTreeMap<u64, Known>,
    /// Jobs that equal another one, and are left where they are until the next start.
    pub(crate) duplicates: BTreeSet<u64>,
    /// What somebody else removed.
    pub(crate) deleted: BTreeSet<u64>,
    queue: VecDeque<StoreOp>,
    loads: VecDeque<(u32, Vec<JobKey>)>,
    /// What is being committed.
    batch: Option<Changes>,
    /// What is to be done before anything newer. It holds no new jobs.
    owed: Changes,
    reports: VecDeque<StoreReport>,
    words: Words,
    /// In percent.
    faults: u64,
    /// While the store cannot be written, or not be used at all.
    broken: Option<StoreFailure>,
    /// So many transactions without new jobs have room in a store that is full.
    reserve: u64,
}

impl Store {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self {
            rows: BTreeMap::new(),
            settings: Settings::new(),
            projected_settings: Settings::new(),
            last_number: 0,
            projected: BTreeMap::new(),
            duplicates: BTreeSet::new(),
            deleted: BTreeSet::new(),
            queue: VecDeque::new(),
            loads: VecDeque::new(),
            batch: None,
            owed: Changes::default(),
            reports: VecDeque::new(),
            words: Words::default(),
            faults: random.pick(&[0, 5, 5, 30]),
            broken: None,
            reserve: 0,
        }
    }

    /// An operation is asked for.
    pub(crate) fn push(&mut self, operation: StoreOp) {
        self.words.push(&operation);
        match operation {
            StoreOp::Load { ticket, jobs } => return self.loads.push_back((ticket, jobs)),
            StoreOp::Add { ref job, .. } => {
                self.deleted.remove(&job.number);
                assert_eq!(self.projected.insert(job.number, Known::of(job)), None, "a job is added twice");
            }
            StoreOp::Remove(ref key) => {
                self.projected.remove(&key.number);
            }
            StoreOp::Attempts { ref key, attempts } => {
                self.projected.entry(key.number).and_modify(|known| known.attempts = attempts);
            }
            StoreOp::Set { ref name, ref value } => {
                let before = self.projected_settings.get(name).cloned();
                assert_ne!(before, *value, "a decision is told that is none");
                change(&mut self.projected_settings, name, value.as_ref());
            }
            StoreOp::Edit { ref key, ref edit } => {
                if let Some(known) = self.projected.get_mut(&key.number) {
                    assert_eq!(known.function, key.function, "a job is changed by another's key");
                    let Edit { function, priority, due_s } = edit.clone();
                    *known = Known { function, priority: priority.index(), due_s, ..known.clone() };
                }
            }
        }
        self.queue.push_back(operation);
    }

    /// The operator has said something, and is answered when everything that was asked for until now is
    /// committed.
    pub(crate) fn word(&mut self) {
        self.words.waiting.push_back(self.words.asked);
        self.words.answer();
    }

    /// What the operator was told to be done is done after a crash, unless something came after it.
    fn check_words(&self) -> Option<News> {
        let answered = self.words.touched.iter().filter(|(_, position)| **position <= self.words.answered);
        let mut checked = 0;
        for (subject, _) in answered {
            checked += 1;
            match subject {
                Subject::Setting(name) => {
                    let (kept, told) = (self.settings.get(name), self.projected_settings.get(name));
                    assert_eq!(
                        kept, told,
                        "the operator was told that {name} is decided, and the store has it otherwise"
                    );
                }
                Subject::Job(number) if self.deleted.contains(number) => {}
                Subject::Job(number) => {
                    // Losses of workers are nobody's word.
                    let of = |known: &Known| Known { attempts: 0, ..known.clone() };
                    let kept = self.rows.get(number).map(|job| of(&Known::of(job)));
                    let told = self.projected.get(number).map(of);
                    assert_eq!(kept, told, "the operator was told of job {number}, and the store has it otherwise");
                }
            }
        }
        (checked > 0).then_some("was changed by an operator who was answered before a crash")
    }

    /// Does the next thing. Returns what is worth to be noted.
    pub(crate) fn act(&mut self, random: &mut Random) -> Vec<News> {
        if random.chance(10) {
            self.broken = None;
        }
        match random.below(3) {
            0 if self.batch.is_none() => self.begin(random),
            0 | 1 if self.batch.is_some() => self.finish(random),
            _ => self.load(random),
        }
    }

    /// The next report.
    pub(crate) fn report(&mut self) -> Option<StoreReport> {
        self.reports.pop_front()
    }

    /// Whether there is nothing to do any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.batch.is_none() && self.queue.is_empty() && self.loads.is_empty() && self.reports.is_empty()
    }

    /// Whether the failure of a new job is still to be reported.
    pub(crate) fn has_failed(&self, ticket: u32) -> bool {
        self.reports
            .iter()
            .any(|report| matches!(report, StoreReport::Added { ticket: failed, result: Err(_) } if *failed == ticket))
    }

    /// Breaks, or works again.
    pub(crate) fn toggle(&mut self, random: &mut Random) {
        match self.broken {
            None => self.fail(random),
            Some(_) => self.broken = None,
        }
    }

    /// Breaks.
    pub(crate) fn fail(&mut self, random: &mut Random) {
        self.broken = Some(random.pick(&FAILURES));
        self.reserve = random.pick(&[0, 3, 100]);
    }

    /// No more faults.
    pub(crate) fn heal(&mut self) {
        (self.broken, self.faults) = (None, 0);
    }

    /// Somebody else removes a job.
    pub(crate) fn delete_one(&mut self, random: &mut Random) -> Option<u64> {
        let numbers: Vec<u64> = self.rows.keys().copied().collect();
        let number = (!numbers.is_empty()).then(|| random.pick(&numbers))?;
        self.rows.remove(&number);
        self.projected.remove(&number);
        self.deleted.insert(number);
        Some(number)
    }

    /// Somebody else adds a job that equals another one.
    pub(crate) fn add_duplicate(&mut self, random: &mut Random) {
        let rows: Vec<&StoredJob> = self.rows.values().filter(|job| !job.unique().is_empty()).collect();
        if rows.is_empty() {
            return;
        }
        let mut duplicate = random.pick(&rows).clone();
        self.last_number += 1;
        duplicate.number = self.last_number;
        self.projected.insert(duplicate.number, Known::of(&duplicate));
        self.rows.insert(duplicate.number, duplicate);
    }

    /// Takes some of the operations. A job that has ended before it was stored need not be stored.
    fn begin(&mut self, random: &mut Random) -> Vec<News> {
        if self.queue.is_empty() {
            return Vec::new();
        }
        let most = if random.chance(60) { self.queue.len() } else { 1 + random.index(self.queue.len()) };
        let mut batch = Changes::default();
        self.words.taken += most as u64;
        for operation in self.queue.drain(..most) {
            match operation {
                StoreOp::Add { ticket, job, .. } => batch.adds.push((ticket, job)),
                StoreOp::Remove(key) => batch.removes.push(key.number),
                StoreOp::Attempts { key, attempts } => batch.attempts.push((key.number, attempts)),
                StoreOp::Edit { key, edit } => batch.edits.push((key, edit)),
                StoreOp::Set { name, value } => batch.settings.push((name, value)),
                StoreOp::Load { .. } => unreachable!("loads have a queue of their own"),
            }
        }
        let Changes { adds, removes, .. } = &mut batch;
        let pairs: Vec<(u32, u64)> = adds
            .iter()
            .map(|(ticket, job)| (*ticket, job.number))
            .filter(|(_, number)| removes.contains(number))
            .collect();
        adds.retain(|(ticket, _)| !pairs.iter().any(|(paired, _)| paired == ticket));
        removes.retain(|number| !pairs.iter().any(|(_, paired)| paired == number));
        for (ticket, _) in &pairs {
            self.reports.push_back(StoreReport::Added { ticket: *ticket, result: Ok(()) });
        }
        self.batch = Some(batch);
        if pairs.is_empty() { Vec::new() } else { vec!["ended before the store was asked to keep it"] }
    }

    /// The batch under way is committed, or it fails. Who waits for it is told when nothing is owed.
    fn finish(&mut self, random: &mut Random) -> Vec<News> {
        let news = self.commit_or_fail(random);
        let Changes { removes, attempts, edits, settings, .. } = &self.owed;
        if removes.is_empty() && attempts.is_empty() && edits.is_empty() && settings.is_empty() {
            self.words.applied = self.words.taken;
            self.words.answer();
        }
        news
    }

    fn commit_or_fail(&mut self, random: &mut Random) -> Vec<News> {
        let Some(mut batch) = self.batch.take() else { return Vec::new() };
        if self.broken == Some(StoreFailure::Full) && self.reserve > 0 {
            return self.finish_within_reserve(batch);
        }
        let failure = self.broken.or_else(|| random.chance(self.faults).then(|| random.pick(&FAILURES)));
        let Some(failure) = failure else {
            self.apply_owed();
            self.apply(&batch);
            self.answer(&batch.adds, Ok(()));
            return Vec::new();
        };
        let mut news = vec!["met a store that fails"];
        if self.broken.is_none() && (failure == StoreFailure::Refused || random.chance(50)) {
            self.apply_owed();
        }
        if failure == StoreFailure::Refused && self.broken.is_none() && batch.adds.len() > 1 {
            // One of them does not fit: each is tried alone. What is to be removed comes with the first that
            // does.
            self.owed.removes.append(&mut batch.removes);
            self.owed.attempts.append(&mut batch.attempts);
            self.owed.edits.append(&mut batch.edits);
            self.owed.settings.append(&mut batch.settings);
            let refused = random.index(batch.adds.len());
            for (index, add) in batch.adds.into_iter().enumerate() {
                let alone = Changes { adds: vec![add], ..Changes::default() };
                if index == refused {
                    self.give_up(alone, failure);
                } else {
                    self.apply_owed();
                    self.apply(&alone);
                    self.answer(&alone.adds, Ok(()));
                }
            }
            news.push("was stored though another was refused");
            return news;
        }
        // A transaction that failed may have happened all the same.
        let Changes { removes, attempts, edits, settings, .. } = &self.owed;
        let owes_nothing = removes.is_empty() && attempts.is_empty() && edits.is_empty() && settings.is_empty();
        if owes_nothing && random.chance(30) {
            self.apply(&batch);
            if !batch.adds.is_empty() {
                news.push("was stored though that failed");
            }
        }
        if !batch.removes.is_empty() {
            news.push("was to be removed by what failed");
        }
        if !batch.edits.is_empty() {
            news.push("was to be changed by what failed");
        }
        self.give_up(batch, failure);
        news
    }

    /// A store that is full refuses new jobs before it tries them, and has room for everything else.
    fn finish_within_reserve(&mut self, mut batch: Changes) -> Vec<News> {
        self.reserve -= 1;
        let mut news = Vec::new();
        if !batch.removes.is_empty() || !self.owed.removes.is_empty() {
            news.push("was removed while the store was full");
        }
        for (_, job) in &batch.adds {
            self.projected.remove(&job.number);
        }
        if !batch.adds.is_empty() {
            news.push("met a store that fails");
        }
        let adds = std::mem::take(&mut batch.adds);
        self.apply_owed();
        self.apply(&batch);
        self.answer(&adds, Err(StoreFailure::Full));
        news
    }

    fn give_up(&mut self, batch: Changes, failure: StoreFailure) {
        self.owed.removes.extend(batch.removes);
        self.owed.attempts.extend(batch.attempts);
        self.owed.edits.extend(batch.edits);
        self.owed.settings.extend(batch.settings);
        for (_, job) in &batch.adds {
            self.owed.removes.push(job.number);
            self.projected.remove(&job.number);
        }
        self.answer(&batch.adds, Err(failure));
    }

    fn answer(&mut self, adds: &[(u32, StoredJob)], result: Result<(), StoreFailure>) {
        self.reports.extend(adds.iter().map(|(ticket, _)| StoreReport::Added { ticket: *ticket, result }));
    }

    fn apply_owed(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.apply(&owed);
    }

    fn apply(&mut self, changes: &Changes) {
        for number in &changes.removes {
            self.rows.remove(number);
        }
        for (_, job) in &changes.adds {
            self.last_number = self.last_number.max(job.number);
            assert!(self.rows.insert(job.number, job.clone()).is_none(), "a job is stored twice");
        }
        for (number, attempts) in &changes.attempts {
            self.rows.entry(*number).and_modify(|job| job.attempts = *attempts);
        }
        for (name, value) in &changes.settings {
            change(&mut self.settings, name, value.as_ref());
        }
        for (key, edit) in &changes.edits {
            let Edit { function, priority, due_s } = edit.clone();
            let row = self.rows.get_mut(&key.number);
            if let Some(job) = row {
                (job.function, job.priority, job.due_s) = (function, priority, due_s);
            }
        }
    }

    /// Reads workloads: all that were asked for, or the first of them, or none.
    fn load(&mut self, random: &mut Random) -> Vec<News> {
        let Some((ticket, jobs)) = self.loads.pop_front() else { return Vec::new() };
        let failure = self.broken.filter(|failure| !can_be_read(*failure));
        let failure = failure.or_else(|| random.chance(self.faults).then(|| random.pick(&FAILURES)));
        if let Some(failure) = failure {
            self.reports.push_back(StoreReport::Loaded { ticket, result: Err(failure) });
            return vec!["could not be read"];
        }
        let mut news = Vec::new();
        if self.broken.is_some() {
            news.push("was read while the store could not be written");
        }
        let count = if random.chance(70) { jobs.len() } else { 1 + random.index(jobs.len()) };
        let read = jobs[..count].iter().map(|key| {
            let is_there = self.rows.contains_key(&key.number);
            assert!(is_there || !self.projected.contains_key(&key.number), "a job is asked for that was never stored");
            let row = self.rows.get(&key.number)?;
            // Changes that are asked for and not made yet are changes all the same.
            let known = self.projected.get(&key.number);
            assert_eq!(
                known.map_or(&key.function, |known| &known.function),
                &key.function,
                "a job is asked for by another's key"
            );
            assert_eq!(row.unique(), &*key.unique, "a job is asked for by another's key");
            Some(Bytes::copy_from_slice(row.workload()))
        });
        let result = Ok(read.collect());
        self.reports.push_back(StoreReport::Loaded { ticket, result });
        if count < jobs.len() {
            news.push("was not among the first that were read");
        }
        news
    }

    /// The process ends at once. What is under way is kept or not, as a whole.
    pub(crate) fn crash(&mut self, random: &mut Random) -> Vec<News> {
        let mut news = Vec::new();
        let is_committed = random.chance(50);
        let lost = self.batch.iter().chain([&self.owed]).filter(|_| !is_committed);
        let is_edit = |operation: &StoreOp| matches!(operation, StoreOp::Edit { .. });
        if lost.into_iter().any(|changes| !changes.edits.is_empty()) || self.queue.iter().any(is_edit) {
            news.push("came back as it was before it was changed");
        }
        if is_committed && let Some(batch) = self.batch.take() {
            if !batch.adds.is_empty() {
                news.push("was stored and never acknowledged");
            }
            self.apply_owed();
            self.apply(&batch);
        }
        news.extend(self.check_words());
        self.forget();
        news
    }

    /// The process ends in order: everything that was asked for is done, or given up.
    pub(crate) fn stop(&mut self, random: &mut Random, last_number: u64) {
        // A reserve is as large as it takes to remove everything that has ended.
        self.faults = 0;
        match self.broken {
            Some(StoreFailure::Full) if self.reserve > 0 => self.reserve = u64::MAX,
            _ => self.broken = None,
        }
        while self.batch.is_some() || !self.queue.is_empty() {
            self.begin_or_finish(random);
        }
        self.apply_owed();
        self.last_number = self.last_number.max(last_number);
        let rows: BTreeMap<u64, Known> = self.rows.iter().map(|(number, job)| (*number, Known::of(job))).collect();
        assert_eq!(rows, self.projected, "the store that is simulated does not do what it is asked");
        assert_eq!(self.settings, self.projected_settings, "the store that is simulated forgets decisions");
        self.forget();
    }

    fn begin_or_finish(&mut self, random: &mut Random) {
        if self.batch.is_some() {
            self.finish(random)
        } else {
            self.begin(random)
        };
    }

    fn forget(&mut self) {
        (self.batch, self.owed) = (None, Changes::default());
        self.queue.clear();
        self.loads.clear();
        self.reports.clear();
        self.deleted.clear();
        self.duplicates.clear();
        self.words = Words::default();
        self.projected = self.rows.iter().map(|(number, job)| (*number, Known::of(job))).collect();
        self.projected_settings.clone_from(&self.settings);
    }
}

/// What is full, read-only or locked can still be read.
fn can_be_read(failure: StoreFailure) -> bool {
    matches!(failure, StoreFailure::Full | StoreFailure::ReadOnly | StoreFailure::Locked)
}

fn change(settings: &mut Settings, name: &str, value: Option<&String>) {
    match value {
        Some(value) => settings.insert(name.to_owned(), value.clone()),
        None => settings.remove(name),
    };
}
