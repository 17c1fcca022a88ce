//! One job, and all of them: where they are kept and how they are found.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};

use bytes::Bytes;
use slab::Slab;

use super::index::{JobIndex, NONE};
use crate::protocol::{JobHandle, Priority, Submission, Workload};

/// The unique id that stands for the workload itself.
const WORKLOAD_IS_UNIQUE: &[u8] = b"-";

/// Where a job is. It decides in which list the job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// Not due yet; in the schedule.
    Scheduled,
    /// Waits for a worker; in its function's list of its priority, between these neighbours.
    Ready { previous: u32, next: u32 },
    /// A worker has it; in this slot of the runs.
    Running(u32),
}

/// A job. Kept small: a backlog has millions of them.
#[derive(Debug)]
pub(super) struct Job {
    /// Counts jobs; the number of the handle.
    pub(super) number: u64,
    body: Body,
    /// When the job may run, in seconds since 1970; 0 for always.
    pub(super) due_s: u64,
    pub(super) state: JobState,
    pub(super) function: u32,
    /// What [`Hashes`] begins with.
    hash: u32,
    /// The first of the waits of clients for this job.
    pub(super) waits: u32,
    /// How often a worker was lost with this job.
    pub(super) attempts: u16,
    pub(super) priority: Priority,
    /// Whether the job lives on without clients. Set by the first background submission of this job, and never unset.
    pub(super) background: bool,
    unique_length: u8,
    reducer_length: u8,
}

/// The bytes of a job.
#[derive(Debug)]
enum Body {
    /// Unique id, reducer and workload in one allocation of exactly their size.
    Small(Box<[u8]>),
    Large(Box<LargeBody>),
}

#[derive(Debug)]
struct LargeBody {
    unique_and_reducer: Box<[u8]>,
    workload: Bytes,
}

impl Job {
    fn new(number: u64, function: u32, submission: &Submission<'_>, hash: u32) -> Self {
        let Submission { unique, reducer, workload, .. } = *submission;
        let body = match workload.share() {
            Some(workload) => Body::Large(Box::new(LargeBody {
                unique_and_reducer: [unique, reducer].concat().into_boxed_slice(),
                workload,
            })),
            None => Body::Small([unique, reducer, workload.as_bytes()].concat().into_boxed_slice()),
        };
        Self {
            number,
            body,
            due_s: submission.due_s.unwrap_or(0),
            state: JobState::Scheduled,
            function,
            hash,
            waits: NONE,
            attempts: 0,
            priority: submission.priority,
            background: submission.background,
            // Parsing holds both to 64 bytes.
            unique_length: u8::try_from(unique.len()).unwrap_or(u8::MAX),
            reducer_length: u8::try_from(reducer.len()).unwrap_or(u8::MAX),
        }
    }

    pub(super) fn unique(&self) -> &[u8] {
        &self.head()[..usize::from(self.unique_length)]
    }

    pub(super) fn reducer(&self) -> &[u8] {
        let start = usize::from(self.unique_length);
        &self.head()[start..start + usize::from(self.reducer_length)]
    }

    pub(super) fn workload(&self) -> Workload<'_> {
        match &self.body {
            Body::Small(bytes) => {
                Workload::borrowed(&bytes[usize::from(self.unique_length) + usize::from(self.reducer_length)..])
            }
            Body::Large(large) => Workload::shared(&large.workload, &large.workload),
        }
    }

    pub(super) fn handle<'a>(&self, prefix: &'a str) -> JobHandle<'a> {
        JobHandle { prefix, number: self.number }
    }

    fn head(&self) -> &[u8] {
        match &self.body {
            Body::Small(bytes) => bytes,
            Body::Large(large) => &large.unique_and_reducer,
        }
    }
}

/// The hashes of a submission: where it is, or would be, in the indexes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes {
    /// Of the unique id, or of the workload where that is the unique; 0 for a job that never coalesces.
    base: u32,
    key: Option<u32>,
    unique: Option<u32>,
}

impl Hashes {
    fn new(base: u32, function: u32, has_key: bool, has_unique: bool) -> Self {
        // The function is the server's own number: spreading it needs no secret.
        let key = base ^ function.wrapping_add(1).wrapping_mul(0x9e37_79b1);
        Self { base, key: has_key.then_some(key), unique: has_unique.then_some(base) }
    }
}

/// The neighbours of a job among those with the same unique id and other functions, by age.
#[derive(Clone, Copy, Debug)]
struct Namesakes {
    newer: u32,
    older: u32,
}

/// All jobs, found by slot, by handle and by unique id, and the times at which something happens to them.
#[derive(Debug)]
pub(super) struct Jobs {
    slots: Slab<Job>,
    last_number: u64,
    by_number: JobIndex,
    /// By function and unique id, or workload: what coalesces.
    by_key: JobIndex,
    /// By unique id alone, for GET_STATUS_UNIQUE, which names no function: the newest job of each.
    by_unique: JobIndex,
    /// By slot; only jobs that have namesakes, or had.
    namesakes: HashMap<u32, Namesakes>,
    /// Jobs that are not due yet, by due time and then by age.
    pub(super) schedule: BTreeSet<(u64, u64, u32)>,
    hasher: RandomState,
}

impl Jobs {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            slots: Slab::new(),
            last_number: 0,
            by_number: JobIndex::default(),
            by_key: JobIndex::default(),
            by_unique: JobIndex::default(),
            namesakes: HashMap::with_hasher(hasher.clone()),
            schedule: BTreeSet::new(),
            hasher,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, slot: u32) -> &Job {
        &self.slots[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Job {
        &mut self.slots[slot as usize]
    }

    /// The jobs in slots from `first` on, in the order of slots, looking at `count` slots at most.
    pub(super) fn page(&self, first: usize, count: usize) -> impl Iterator<Item = &Job> {
        (first..first.saturating_add(count)).filter_map(|slot| self.slots.get(slot))
    }

    /// One more than the last slot that may hold a job.
    pub(super) fn slot_bound(&self) -> usize {
        if self.slots.is_empty() { 0 } else { self.slots.capacity() }
    }

    /// Keeps a new job. It is in no list yet but the indexes.
    pub(super) fn insert(&mut self, function: u32, submission: &Submission<'_>, hashes: Hashes) -> u32 {
        self.last_number += 1;
        let job = Job::new(self.last_number, function, submission, hashes.base);
        let by_number = low_half(job.number);
        let namesake = hashes.unique.and_then(|hash| self.find_unique_hashed(submission.unique, hash));
        // The limit of jobs is far below the number of slots that fit into 32 bits.
        let slot = u32::try_from(self.slots.insert(job)).unwrap_or(NONE);
        self.by_number.insert(slot, by_number);
        if let Some(hash) = hashes.key {
            self.by_key.insert(slot, hash);
        }
        match (hashes.unique, namesake) {
            (Some(hash), Some(older)) => {
                self.by_unique.replace(older, slot, hash);
                self.namesakes.entry(older).or_insert(Namesakes { newer: NONE, older: NONE }).newer = slot;
                self.namesakes.insert(slot, Namesakes { newer: NONE, older });
            }
            (Some(hash), None) => self.by_unique.insert(slot, hash),
            (None, _) => {}
        }
        slot
    }

    /// Forgets a job, which must be in no list any more but the indexes.
    pub(super) fn remove(&mut self, slot: u32) {
        let job = self.slots.remove(slot as usize);
        self.by_number.remove(slot, low_half(job.number));
        let unique = job.unique();
        let has_key = has_key(unique, job.workload().as_bytes());
        let hashes = Hashes::new(job.hash, job.function, has_key, has_unique(unique));
        if let Some(hash) = hashes.key {
            self.by_key.remove(slot, hash);
        }
        if let Some(hash) = hashes.unique {
            self.remove_unique(slot, hash);
        }
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
        }
    }

    fn remove_unique(&mut self, slot: u32, hash: u32) {
        let Some(Namesakes { newer, older }) = self.namesakes.remove(&slot) else {
            return self.by_unique.remove(slot, hash);
        };
        if let Some(links) = self.namesakes.get_mut(&older) {
            links.newer = newer;
        }
        if let Some(links) = self.namesakes.get_mut(&newer) {
            links.older = older;
        } else if older == NONE {
            self.by_unique.remove(slot, hash);
        } else {
            self.by_unique.replace(slot, older, hash);
        }
    }

    pub(super) fn find_number(&self, number: u64) -> Option<u32> {
        self.by_number.find(low_half(number), |slot| self.get(slot).number == number)
    }

    /// The live job that a submission coalesces onto.
    pub(super) fn find_equal(&self, function: u32, submission: &Submission<'_>, hashes: Hashes) -> Option<u32> {
        let Submission { unique, workload, .. } = *submission;
        self.by_key.find(hashes.key?, |slot| {
            let job = self.get(slot);
            job.function == function
                && job.unique() == unique
                && (unique != WORKLOAD_IS_UNIQUE || job.workload().as_bytes() == workload.as_bytes())
        })
    }

    /// The newest live job with this unique id, whichever its function.
    pub(super) fn find_unique(&self, unique: &[u8]) -> Option<u32> {
        has_unique(unique).then(|| self.find_unique_hashed(unique, self.hash(unique)))?
    }

    fn find_unique_hashed(&self, unique: &[u8], hash: u32) -> Option<u32> {
        self.by_unique.find(hash, |slot| self.get(slot).unique() == unique)
    }

    /// Where a submission is looked for, and kept if it is new.
    ///
    /// Its unique id is hashed once: a peer chooses it, so the hash is a keyed one, which is not cheap.
    pub(super) fn hashes(&self, function: u32, submission: &Submission<'_>) -> Hashes {
        let Submission { unique, workload, .. } = *submission;
        let workload = workload.as_bytes();
        if has_unique(unique) {
            Hashes::new(self.hash(unique), function, true, true)
        } else if has_key(unique, workload) {
            Hashes::new(self.hash(workload), function, true, false)
        } else {
            Hashes::new(0, function, false, false)
        }
    }

    fn hash(&self, value: impl Hash) -> u32 {
        let hash = self.hasher.hash_one(value);
        low_half(hash >> 32) ^ low_half(hash)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Job)> {
        self.slots.iter().map(|(slot, job)| (u32::try_from(slot).unwrap_or(NONE), job))
    }

    pub(super) fn index_lengths(&self) -> [usize; 3] {
        [self.by_number.len(), self.by_key.len(), self.by_unique.len()]
    }
}

/// Whether a job with this unique id can coalesce.
fn has_key(unique: &[u8], workload: &[u8]) -> bool {
    !unique.is_empty() && (unique != WORKLOAD_IS_UNIQUE || !workload.is_empty())
}

/// Whether a job can be asked for by this unique id.
fn has_unique(unique: &[u8]) -> bool {
    !unique.is_empty() && unique != WORKLOAD_IS_UNIQUE
}

fn low_half(value: u64) -> u32 {
    let [b0, b1, b2, b3, ..] = value.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_small() {
        assert!(size_of::<Job>() <= 64, "{}", size_of::<Job>());
    }
}
