//! What the peers of a server that is killed know: which jobs they submitted, what they were told, what they
//! ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::common::DEADLINE;
use crate::durable::{Contents, Recovered, Submission};

/// The knowledge of all peers together.
pub(crate) struct Book {
    pages: Mutex<Pages>,
    acknowledged: Condvar,
}

#[derive(Default)]
struct Pages {
    /// By serial number.
    jobs: BTreeMap<u64, Entry>,
    by_handle: HashMap<String, u64>,
    next_serial: u64,
    /// Counts what happens, so that one thing can be said to be later than another.
    clock: u64,
    /// Acknowledgements of this round.
    acknowledged: u64,
    /// The highest number of a handle that anybody was given before this round.
    highest_before: u64,
    highest: u64,
}

struct Entry {
    submission: Submission,
    /// Who submitted it: jobs of one client keep their order.
    client: u64,
    submitted: u64,
    acknowledged: Option<u64>,
    handle: Option<String>,
    end: End,
    /// How many peers have said in this round that it is over.
    said_over: u32,
    /// The library of its client chose the unique id.
    foreign: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// Somebody has said that it is over, and does not know whether the server has heard it.
    Said,
    /// The server has heard it, and said so at this time.
    Heard(u64),
    /// An operator was told so, and is told only what is committed.
    Committed,
    /// It was found missing after a crash, as it may have been.
    Gone,
}

impl Book {
    pub(crate) fn new() -> Self {
        let pages = Pages { next_serial: 1, ..Pages::default() };
        Self { pages: Mutex::new(pages), acknowledged: Condvar::new() }
    }

    /// Serial numbers for `count` jobs, the first of them.
    pub(crate) fn serials(&self, count: u64) -> u64 {
        let mut pages = self.pages();
        pages.next_serial += count;
        pages.next_serial - count
    }

    /// To be called before the job is sent.
    pub(crate) fn submits(&self, serial: u64, client: u64, submission: Submission) {
        self.enter(serial, client, submission, false);
    }

    /// The same for a job of another library.
    pub(crate) fn submits_foreign(&self, serial: u64, client: u64, submission: Submission) {
        self.enter(serial, client, submission, true);
    }

    /// A client was told that its job is kept.
    #[track_caller]
    pub(crate) fn acknowledge(&self, serial: u64, handle: Option<String>) {
        let mut pages = self.pages();
        let now = pages.tick();
        if let Some(handle) = &handle {
            let number = number(handle);
            assert!(
                number > pages.highest_before,
                "{handle} was given, after {} before the crash",
                pages.highest_before
            );
            pages.highest = pages.highest.max(number);
            let earlier = pages.by_handle.insert(handle.clone(), serial);
            assert!(earlier.is_none_or(|earlier| earlier == serial), "{handle} was given to {earlier:?} and {serial}");
        }
        let entry = pages.jobs.get_mut(&serial).expect("a job that was submitted");
        entry.acknowledged = Some(now);
        entry.handle = handle.or(entry.handle.take());
        pages.acknowledged += 1;
        self.acknowledged.notify_all();
    }

    /// Waits until so many jobs were acknowledged in this round.
    pub(crate) fn wait_for_acknowledged(&self, count: u64) {
        let pages = self.pages();
        let waited = self.acknowledged.wait_timeout_while(pages, DEADLINE, |pages| pages.acknowledged < count);
        let (pages, timeout) = waited.expect("no thread panicked");
        assert!(!timeout.timed_out(), "{} of {count} jobs were acknowledged in {DEADLINE:?}", pages.acknowledged);
    }

    /// A worker was given a job: tells its serial number. Everything about it must be right.
    #[track_caller]
    pub(crate) fn assigned(
        &self,
        handle: &str,
        function: &[u8],
        unique: &[u8],
        reducer: &[u8],
        workload: &[u8],
    ) -> u64 {
        let mut pages = self.pages();
        let probe = Submission {
            function: function.to_vec(),
            unique: unique.to_vec(),
            reducer: reducer.to_vec(),
            priority: gearmand::protocol::Priority::Normal,
            due_s: 0,
            workload: workload.to_vec(),
        };
        let serial = probe.serial().expect("a job of this test");
        let entry = pages.jobs.get_mut(&serial).expect("a job that was submitted");
        let expected = &entry.submission;
        assert!(
            (function, reducer, workload) == (&expected.function, &expected.reducer, &expected.workload)
                && (entry.foreign || unique == expected.unique),
            "{handle} was handed out with other contents than those of {serial}"
        );
        assert!(entry.handle.as_deref().is_none_or(|known| known == handle), "{serial} is {handle} now");
        // A worker may be faster than the client that reads the acknowledgement.
        entry.handle = Some(handle.to_owned());
        pages.by_handle.insert(handle.to_owned(), serial);
        serial
    }

    /// To be called before a peer says that a job is over.
    pub(crate) fn says_over(&self, serial: u64) {
        let mut pages = self.pages();
        let entry = pages.jobs.get_mut(&serial).expect("a job that was submitted");
        entry.said_over += 1;
        if entry.end == End::Open {
            entry.end = End::Said;
        }
    }

    /// The server has answered what came after that.
    pub(crate) fn heard_over(&self, serial: u64) {
        let mut pages = self.pages();
        let now = pages.tick();
        let entry = pages.jobs.get_mut(&serial).expect("a job that was submitted");
        if entry.end == End::Said {
            entry.end = End::Heard(now);
        }
    }

    /// An operator was told that it is over.
    pub(crate) fn cancelled(&self, serial: u64) {
        let mut pages = self.pages();
        pages.jobs.get_mut(&serial).expect("a job that was submitted").end = End::Committed;
    }

    /// Whether more than one peer has said in this round that it is over.
    pub(crate) fn others_said_over(&self, serial: u64) -> bool {
        self.pages().jobs[&serial].said_over > 1
    }

    /// The handles of all jobs that nobody has ended.
    pub(crate) fn open_handles(&self) -> Vec<(u64, String)> {
        let pages = self.pages();
        let open = pages.jobs.iter().filter(|(_, entry)| entry.end == End::Open);
        open.filter_map(|(serial, entry)| Some((*serial, entry.handle.clone()?))).collect()
    }

    /// What is known of a job: its priority and when it is due.
    pub(crate) fn submission(&self, serial: u64) -> Submission {
        self.pages().jobs[&serial].submission.clone()
    }

    /// Holds what came back after a crash against what is known, and starts the next round from there.
    ///
    /// # Errors
    /// What is wrong, a line each.
    pub(crate) fn settle(&self, contents: &Contents) -> Result<(), Vec<String>> {
        let mut pages = self.pages();
        let mut wrong = Vec::new();
        let there: HashMap<u64, &Recovered> =
            contents.jobs.iter().filter_map(|job| Some((job.submission.serial()?, job))).collect();
        if there.len() != contents.jobs.len() || contents.quarantined > 0 {
            let (jobs, aside) = (contents.jobs.len(), contents.quarantined);
            wrong.push(format!("{jobs} jobs came back, and {} different ones; {aside} quarantined", there.len()));
        }
        let acknowledged: Vec<u64> = pages.acknowledged_later();
        for (serial, entry) in &mut pages.jobs {
            if let Err(what) = entry.settle(there.get(serial).copied(), &acknowledged) {
                wrong.push(format!("job {serial} ({:?}) {what}", entry.handle));
            }
        }
        wrong.extend(pages.judge_order(contents));
        for job in &contents.jobs {
            match job.submission.serial() {
                Some(serial) if pages.jobs.contains_key(&serial) => {
                    pages.by_handle.insert(job.handle.clone(), serial);
                }
                _ => wrong.push(format!("{} was never submitted", job.handle)),
            }
        }
        pages.acknowledged = 0;
        pages.highest_before = pages.highest;
        if contents.last_number < pages.highest {
            wrong.push(format!("{} was given, and {} is the last number known", pages.highest, contents.last_number));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// How many jobs were submitted, and how many of them are still to be done.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let pages = self.pages();
        let open = |entry: &&Entry| entry.end == End::Open && entry.acknowledged.is_some();
        (pages.jobs.len(), pages.jobs.values().filter(open).count())
    }

    fn enter(&self, serial: u64, client: u64, submission: Submission, foreign: bool) {
        let mut pages = self.pages();
        let submitted = pages.tick();
        let (acknowledged, handle, end, said_over) = (None, None, End::Open, 0);
        let entry = Entry { submission, client, submitted, acknowledged, handle, end, said_over, foreign };
        assert!(pages.jobs.insert(serial, entry).is_none(), "serial number {serial} is used twice");
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("no thread panicked")
    }
}

impl Pages {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// When jobs were submitted that were acknowledged in the meantime: they cover what was heard before.
    fn acknowledged_later(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self
            .jobs
            .values()
            .filter(|entry| entry.acknowledged.is_some() && !entry.foreign)
            .map(|entry| entry.submitted)
            .collect();
        times.sort_unstable();
        times
    }

    /// Jobs come back in the order of their numbers, and those of one client in its order.
    fn judge_order(&self, contents: &Contents) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut last_number = 0;
        let mut last_of_client: HashMap<u64, u64> = HashMap::new();
        for job in &contents.jobs {
            if job.number <= last_number {
                wrong.push(format!("{} comes after number {last_number}", job.handle));
            }
            last_number = job.number;
            let Some((serial, entry)) = job.submission.serial().and_then(|serial| self.jobs.get_key_value(&serial))
            else {
                continue;
            };
            if last_of_client.insert(entry.client, *serial).is_some_and(|earlier| earlier > *serial) {
                wrong.push(format!("{} comes after a later job of the same client", job.handle));
            }
        }
        wrong
    }
}

impl Entry {
    /// Compares one job with what is known of it. `acknowledged` are the times at which other jobs were
    /// submitted that are kept for certain, in order.
    fn settle(&mut self, found: Option<&Recovered>, acknowledged: &[u64]) -> Result<(), String> {
        /// So many later jobs make it certain that the end is kept.
        const COVERED_BY: usize = 2;
        let Some(found) = found else {
            let lost = self.acknowledged.is_some() && self.end == End::Open;
            self.end = End::Gone;
            return if lost { Err("was acknowledged, has not ended, and is lost".to_owned()) } else { Ok(()) };
        };
        let before = self.end;
        self.said_over = 0;
        // It is there, so it must stay until somebody ends it anew.
        self.end = End::Open;
        self.acknowledged.get_or_insert(0);
        let known = self.handle.replace(found.handle.clone());
        match before {
            End::Gone => return Err("was gone after an earlier crash, and is there again".to_owned()),
            End::Heard(at) if acknowledged.len() - acknowledged.partition_point(|time| *time <= at) >= COVERED_BY => {
                return Err("ended well before the crash, and came back".to_owned());
            }
            End::Committed => return Err("was cancelled, the operator was told so, and it came back".to_owned()),
            End::Heard(_) | End::Said | End::Open => {}
        }
        if known.is_some_and(|known| known != found.handle) || !found.handle.ends_with(&format!(":{}", found.number)) {
            return Err(format!("is number {} as {} now", found.number, found.handle));
        }
        let mut expected = self.submission.clone();
        if self.foreign {
            expected.unique.clone_from(&found.submission.unique);
        }
        if found.submission != expected {
            return Err(format!("is not as submitted: {:?} was {expected:?}", found.submission));
        }
        Ok(())
    }
}

/// The handles of `show jobs`.
pub(crate) fn handles(listing: &str) -> HashSet<String> {
    let lines = listing.lines().filter(|line| *line != ".");
    lines.filter_map(|line| Some(line.split('\t').next()?.to_owned())).collect()
}

fn number(handle: &str) -> u64 {
    handle.rsplit(':').next().and_then(|digits| digits.parse().ok()).expect("a handle")
}
