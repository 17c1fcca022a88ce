//! A job, and the table of all jobs with its indexes.

mod bodies;
mod body;
mod ended;
mod hashes;
mod prefixes;
mod residency;
mod transfer;

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::ops::Deref;

use bytes::Bytes;

use self::bodies::Bodies;
pub(super) use self::body::Body;
use self::body::Held;
pub(super) use self::prefixes::Prefixes;
pub(super) use self::residency::Residency;
use super::Now;
use super::ids::{FunctionSlot, RunSlot, SlotId, WaitSlot};
use super::index::{JobIndex, NONE};
use super::map::Map;
use super::packed_uint::PackedUint;
use super::slab::Slab;
use super::stored::{JobKey, StoredJob};
use crate::protocol::{FunctionName, JobHandle, Priority, Submission, Workload};

/// Workloads from the store of at least this size are shared instead of copied, in bytes.
pub(super) const SHARED_FROM: usize = 32 * 1024;

/// The unique id that stands for the workload itself.
const WORKLOAD_IS_UNIQUE: &[u8] = b"-";

/// The state of a job. It determines which list the job is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// New and not stored yet; the slot of its addition. Visible only to its own clients.
    Storing(u32),
    /// Not due yet; in the schedule, and in its function's scheduled list of its priority.
    Scheduled(Links),
    /// Waits for a worker; in its function's ready list of its priority.
    Ready(Links),
    /// Would be ready if its workload were in memory; in its function's paged-out list of its priority.
    PagedOut(Links),
    /// Its workload is being read from the store; in its function's loading list of its priority.
    Loading(Links),
    /// A worker has it; the slot of its run.
    Running(RunSlot),
    /// Ended; only its waits are left, for the final packet. In no list and no index.
    Ended,
}

/// The neighbours of a job in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) previous: u32,
    pub(super) next: u32,
}

impl JobState {
    /// In no list yet.
    pub(super) const NOWHERE: Self = Self::Scheduled(Links { previous: NONE, next: NONE });

    /// The neighbours of a job in its function's list, if it is in one.
    pub(super) const fn links(self) -> Option<Links> {
        match self {
            Self::Scheduled(links) | Self::Ready(links) | Self::PagedOut(links) | Self::Loading(links) => Some(links),
            Self::Storing(_) | Self::Running(_) | Self::Ended => None,
        }
    }
}

/// A job. Kept small: a backlog has millions of them.
#[derive(Debug)]
pub(super) struct Job {
    /// The head (unique id and reducer), then the workload; if only the store has that, see [`Jobs::evict`].
    body: Held,
    /// The job number, which is in the handle. Handles have room for twelve digits, which take five bytes.
    number: PackedUint<5>,
    /// When the job may run, in seconds since 1970; 0 means immediately. Five bytes last for 34,000 years.
    due_s: PackedUint<5>,
    /// When it was submitted, in milliseconds since 1970; 0 if unknown.
    submitted_ms: PackedUint<6>,
    pub(super) state: JobState,
    pub(super) function: FunctionSlot,
    /// See [`VacantEntry`].
    hash: u32,
    /// The head of the list of its waits.
    pub(super) waits: WaitSlot,
    /// The number of failed attempts: how often a worker was lost with this job.
    pub(super) attempts: u16,
    pub(super) priority: Priority,
    /// Whether the job lives on without clients. Set by its first background submission, and unset only if
    /// the store does not take a job that was only in memory.
    pub(super) background: bool,
    pub(super) residency: Residency,
    /// The index of its handle prefix.
    pub(super) prefix: u8,
    unique_length: u8,
    reducer_length: u8,
}

/// A job with its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobRef<'a> {
    job: &'a Job,
    bodies: &'a Bodies,
}

impl Deref for JobRef<'_> {
    type Target = Job;

    fn deref(&self) -> &Job {
        self.job
    }
}

impl Job {
    fn new(now: Now, number: u64, function: FunctionSlot, submission: &Submission<'_>, body: Held, hash: u32) -> Self {
        let Submission { unique, reducer, .. } = *submission;
        Self {
            body,
            number: PackedUint::new(number),
            due_s: PackedUint::new(submission.due_s.unwrap_or(0)),
            submitted_ms: PackedUint::new(now.unix_us / 1000),
            state: JobState::NOWHERE,
            function,
            hash,
            waits: WaitSlot::NONE,
            attempts: 0,
            priority: submission.priority,
            background: submission.background,
            residency: Residency::Memory,
            prefix: 0,
            // The parser limits both to 64 bytes.
            unique_length: u8::try_from(unique.len()).unwrap_or(u8::MAX),
            reducer_length: u8::try_from(reducer.len()).unwrap_or(u8::MAX),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number.get()
    }

    pub(super) fn due_s(&self) -> u64 {
        self.due_s.get()
    }

    pub(super) fn set_due_s(&mut self, due_s: u64) {
        self.due_s = PackedUint::new(due_s);
    }

    pub(super) fn submitted_ms(&self) -> u64 {
        self.submitted_ms.get()
    }

    /// Since when it could run, in milliseconds since 1970, if known.
    pub(super) fn waits_since_ms(&self) -> Option<u64> {
        Some(self.submitted_ms().max(self.due_s() * 1000)).filter(|since_ms| *since_ms > 0)
    }

    /// The length of its unique id and its reducer, in bytes.
    pub(super) fn head_length(&self) -> usize {
        usize::from(self.unique_length) + usize::from(self.reducer_length)
    }

    /// Whether it has a unique id, be it one that stands for the workload.
    pub(super) fn has_unique_id(&self) -> bool {
        self.unique_length > 0
    }

    pub(super) fn handle<'a>(&self, prefixes: &'a Prefixes) -> JobHandle<'a> {
        JobHandle { prefix: prefixes.get(self.prefix), number: self.number() }
    }
}

impl<'a> JobRef<'a> {
    pub(super) fn unique(self) -> &'a [u8] {
        &self.job.body.head(self.bodies)[..usize::from(self.unique_length)]
    }

    pub(super) fn reducer(self) -> &'a [u8] {
        &self.job.body.head(self.bodies)[usize::from(self.unique_length)..self.head_length()]
    }

    /// The workload of a job that has it in memory.
    pub(super) fn workload(self) -> Workload<'a> {
        debug_assert!(self.residency != Residency::Store, "the workload of a job is used that is not in memory");
        self.rest()
    }

    /// The bytes after the head: the workload, or what replaces it.
    pub(super) fn rest(self) -> Workload<'a> {
        self.job.body.workload(self.bodies, self.head_length())
    }

    /// The bytes of [`rest`](Self::rest).
    pub(super) fn bytes(self) -> &'a [u8] {
        self.rest().as_bytes()
    }

    /// Whether it can be asked for by its unique id.
    fn has_unique(self) -> bool {
        self.unique_length > 1 || has_unique(self.unique())
    }

    /// Whether it coalesces by its workload.
    fn is_keyed_by_workload(self) -> bool {
        self.unique_length == 1 && self.unique() == WORKLOAD_IS_UNIQUE && !self.bytes().is_empty()
    }

    /// The number of its bytes that are shared with packets.
    pub(super) fn shared_memory(self) -> u64 {
        self.job.body.shared_memory()
    }

    /// The number of bytes of memory that its workload takes.
    pub(super) fn workload_memory(self) -> u64 {
        if self.residency == Residency::Store { 0 } else { self.job.body.workload_length(self.head_length()) as u64 }
    }

    /// Its key in a store.
    pub(super) fn key(self, function: &FunctionName) -> JobKey {
        JobKey { number: self.number(), function: function.clone(), unique: self.unique().into() }
    }

    /// The part of it that a store keeps.
    pub(super) fn to_stored(self, function: &FunctionName, prefixes: &Prefixes) -> StoredJob {
        StoredJob {
            number: self.number(),
            prefix: prefixes.share(self.prefix),
            function: function.clone(),
            priority: self.priority,
            due_s: self.due_s(),
            submitted_s: self.submitted_ms() / 1000,
            attempts: self.attempts,
            unique_length: self.unique_length,
            reducer_length: self.reducer_length,
            body: self.job.body.copy(self.bodies),
        }
    }
}

/// The index entry for a submission that equals no job.
#[derive(Clone, Copy, Debug)]
pub(super) struct VacantEntry {
    /// The hash of the unique id, or of the workload if that is the unique; 0 for a job that never coalesces.
    hash: u32,
    /// The newest job with the same unique id, of another function.
    sibling: Option<u32>,
}

/// The neighbours of a job, by age, among its siblings: jobs with the same unique id and other functions.
#[derive(Clone, Copy, Debug)]
struct UniqueSiblings {
    newer: u32,
    older: u32,
}

/// All jobs, indexed by slot, handle and unique id, and the schedule.
#[derive(Debug)]
pub(super) struct Jobs {
    slots: Slab<usize, Job>,
    bodies: Bodies,
    last_number: u64,
    by_number: JobIndex,
    /// By unique id, the newest job of each. GET_STATUS_UNIQUE names no function.
    by_unique: JobIndex,
    /// By function and unique id, only jobs that have or had siblings; by function and workload, if that is
    /// the unique. Together with `by_unique`, all jobs that coalesce.
    by_key: JobIndex,
    /// By slot.
    siblings: Map<u32, UniqueSiblings>,
    /// Jobs that are not due yet, by due time and then by age.
    pub(super) schedule: BTreeSet<(u64, u64, u32)>,
    hasher: RandomState,
}

impl Jobs {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            slots: Slab::new(),
            bodies: Bodies::default(),
            last_number: 0,
            by_number: JobIndex::default(),
            by_key: JobIndex::default(),
            by_unique: JobIndex::default(),
            siblings: Map::with_hasher(hasher.clone()),
            schedule: BTreeSet::new(),
            hasher,
        }
    }

    /// Bytes of unused memory for job bodies, beyond what is always allowed.
    pub(super) fn free_bytes(&self) -> usize {
        self.bodies.free_bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The highest job number assigned so far.
    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Makes the numbers of new jobs higher than this one.
    pub(super) fn skip_to_number(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    /// The job in a slot, if there is one.
    pub(super) fn find(&self, slot: u32) -> Option<JobRef<'_>> {
        self.slots.get(slot as usize).map(|job| self.with_bytes(job))
    }

    /// The job in a slot, if it still has this number.
    pub(super) fn find_in(&self, slot: u32, number: u64) -> Option<JobRef<'_>> {
        self.find(slot).filter(|job| job.number() == number)
    }

    pub(super) fn get(&self, slot: u32) -> JobRef<'_> {
        self.with_bytes(&self.slots[slot as usize])
    }

    fn with_bytes<'a>(&'a self, job: &'a Job) -> JobRef<'a> {
        JobRef { job, bodies: &self.bodies }
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Job {
        &mut self.slots[slot as usize]
    }

    /// The links of a job in its list, if it is in one; `None` for [`NONE`].
    pub(super) fn links_mut(&mut self, slot: u32) -> Option<&mut Links> {
        match &mut self.slots.get_mut(slot as usize)?.state {
            JobState::Scheduled(links)
            | JobState::Ready(links)
            | JobState::PagedOut(links)
            | JobState::Loading(links) => Some(links),
            JobState::Storing(_) | JobState::Running(_) | JobState::Ended => None,
        }
    }

    /// One more than the last slot that may hold a job.
    pub(super) fn slot_bound(&self) -> usize {
        self.slots.bound()
    }

    /// Inserts a new job into the entry that [`find_equal`](Self::find_equal) found vacant. It is in the
    /// indexes, and in no list yet.
    pub(super) fn insert(
        &mut self,
        now: Now,
        function: FunctionSlot,
        submission: &Submission<'_>,
        vacant: VacantEntry,
    ) -> u32 {
        self.last_number += 1;
        let Submission { unique, reducer, workload, .. } = *submission;
        let body = Held::new(&mut self.bodies, unique, reducer, workload);
        let job = Job::new(now, self.last_number, function, submission, body, vacant.hash);
        self.keep(job, vacant)
    }

    /// Inserts a job from a store, under its own number, as [`insert`](Self::insert) does.
    pub(super) fn restore(
        &mut self,
        function: FunctionSlot,
        job: StoredJob,
        prefix: u8,
        residency: Residency,
        vacant: VacantEntry,
    ) -> u32 {
        self.last_number = self.last_number.max(job.number);
        let head_length = usize::from(job.unique_length) + usize::from(job.reducer_length);
        let job = Job {
            body: job.body.hold(head_length, &mut self.bodies),
            number: PackedUint::new(job.number),
            due_s: PackedUint::new(job.due_s),
            submitted_ms: PackedUint::new(job.submitted_s.saturating_mul(1000)),
            state: JobState::NOWHERE,
            function,
            hash: vacant.hash,
            waits: WaitSlot::NONE,
            attempts: job.attempts,
            priority: job.priority,
            background: true,
            residency,
            prefix,
            unique_length: job.unique_length,
            reducer_length: job.reducer_length,
        };
        self.keep(job, vacant)
    }

    fn keep(&mut self, job: Job, vacant: VacantEntry) -> u32 {
        let VacantEntry { hash, sibling } = vacant;
        let (by_number, function) = (low_half(job.number()), job.function);
        // The limit of jobs is far below the number of slots that fit into 32 bits.
        let slot = u32::try_from(self.slots.insert(job)).unwrap_or(NONE);
        self.by_number.insert(slot, by_number);
        let job = self.get(slot);
        if job.has_unique() {
            match sibling {
                None => self.by_unique.insert(slot, hash),
                Some(older) => {
                    self.by_unique.replace(older, slot, hash);
                    self.siblings_of(older).newer = slot;
                    self.siblings_of(slot).older = older;
                }
            }
        } else if job.is_keyed_by_workload() {
            self.by_key.insert(slot, key_hash(hash, function));
        }
        slot
    }

    /// Evicts a workload that the store has. A job that coalesces by its workload keeps a digest.
    pub(super) fn evict(&mut self, slot: u32) {
        let job = self.get(slot);
        let (unique, reducer) = (job.unique(), job.reducer());
        let digest = job.is_keyed_by_workload().then(|| self.digest(job.rest().as_bytes()));
        let digest = digest.as_ref().map_or(&[][..], |digest| digest);
        let body = Body::new(unique, reducer, Workload::borrowed(digest));
        self.set_body(slot, body);
        self.get_mut(slot).residency = Residency::Store;
    }

    /// Puts back an evicted workload.
    pub(super) fn load(&mut self, slot: u32, workload: &Bytes) {
        let shared = Workload::shared(workload, workload);
        let loaded = if workload.len() >= SHARED_FROM { shared } else { Workload::borrowed(workload) };
        let job = self.get(slot);
        let (old_hash, function, was_keyed) = (job.hash, job.function, job.is_keyed_by_workload());
        let body = Body::new(job.unique(), job.reducer(), loaded);
        self.set_body(slot, body);
        self.get_mut(slot).residency = Residency::Both;
        if was_keyed {
            // Another program may have changed the workload in the store.
            self.by_key.remove(slot, key_hash(old_hash, function));
        }
        if self.get(slot).is_keyed_by_workload() {
            let hash = self.hash_workload(workload);
            self.get_mut(slot).hash = hash;
            self.by_key.insert(slot, key_hash(hash, function));
        }
    }

    /// Replaces the bytes of a job. The unique id and the reducer must stay the same.
    fn set_body(&mut self, slot: u32, body: Body) {
        let job = &mut self.slots[slot as usize];
        let body = body.hold(job.head_length(), &mut self.bodies);
        std::mem::replace(&mut job.body, body).free(&mut self.bodies);
    }

    fn has_workload(&self, job: JobRef<'_>, workload: &[u8]) -> bool {
        if job.residency == Residency::Store {
            job.rest().as_bytes() == self.digest(workload)
        } else {
            job.rest().as_bytes() == workload
        }
    }

    /// The links of a job to its siblings, which are created if it has none.
    fn siblings_of(&mut self, slot: u32) -> &mut UniqueSiblings {
        if !self.siblings.contains_key(&slot) {
            let Job { hash, function, .. } = *self.get(slot);
            self.by_key.insert(slot, key_hash(hash, function));
        }
        self.siblings.get_or_insert(slot, UniqueSiblings { newer: NONE, older: NONE })
    }

    /// Removes a job, which must be in no list, only in the indexes.
    pub(super) fn remove(&mut self, slot: u32) {
        self.remove_from_indexes(slot);
        let job = self.slots.remove(slot as usize);
        job.body.free(&mut self.bodies);
    }

    fn remove_from_indexes(&mut self, slot: u32) {
        let job = self.get(slot);
        let (number, hash, function) = (job.number(), job.hash, job.function);
        let (has_unique, is_keyed_by_workload) = (job.has_unique(), job.is_keyed_by_workload());
        self.by_number.remove(slot, low_half(number));
        if has_unique {
            self.remove_unique(slot, hash, function);
        } else if is_keyed_by_workload {
            self.by_key.remove(slot, key_hash(hash, function));
        }
    }

    fn remove_unique(&mut self, slot: u32, hash: u32, function: FunctionSlot) {
        // Usually there are none, and the slot need not be hashed.
        let siblings = if self.siblings.is_empty() { None } else { self.siblings.remove(&slot) };
        let Some(UniqueSiblings { newer, older }) = siblings else {
            return self.by_unique.remove(slot, hash);
        };
        self.by_key.remove(slot, key_hash(hash, function));
        if let Some(links) = self.siblings.get_mut(&older) {
            links.newer = newer;
        }
        if let Some(links) = self.siblings.get_mut(&newer) {
            links.older = older;
        } else if older == NONE {
            self.by_unique.remove(slot, hash);
        } else {
            self.by_unique.replace(slot, older, hash);
        }
    }

    pub(super) fn find_number(&self, number: u64) -> Option<u32> {
        self.by_number.find(low_half(number), |slot| self.get(slot).number() == number)
    }

    /// The live job that a submission coalesces with, or the vacant entry for it. The unique id is hashed
    /// once: a peer chooses it, so the hash is keyed, which is not cheap.
    pub(super) fn find_equal(
        &self,
        function: FunctionSlot,
        unique: &[u8],
        workload: &[u8],
    ) -> Result<u32, VacantEntry> {
        if has_unique(unique) {
            let hash = self.hash(unique);
            let Some(newest) = self.find_unique_hashed(unique, hash) else {
                return Err(VacantEntry { hash, sibling: None });
            };
            if self.get(newest).function == function {
                return Ok(newest);
            }
            let is_equal = |slot| self.get(slot).function == function && self.get(slot).unique() == unique;
            let vacant = VacantEntry { hash, sibling: Some(newest) };
            return self.by_key.find(key_hash(hash, function), is_equal).ok_or(vacant);
        }
        if unique != WORKLOAD_IS_UNIQUE || workload.is_empty() {
            return Err(VacantEntry { hash: 0, sibling: None });
        }
        let hash = self.hash_workload(workload);
        let is_equal = |slot| {
            let job = self.get(slot);
            job.function == function && job.unique() == unique && self.has_workload(job, workload)
        };
        self.by_key.find(key_hash(hash, function), is_equal).ok_or(VacantEntry { hash, sibling: None })
    }

    /// The newest live job with this unique id, of any function.
    pub(super) fn find_unique(&self, unique: &[u8]) -> Option<u32> {
        has_unique(unique).then(|| self.find_unique_hashed(unique, self.hash(unique)))?
    }

    /// The next older live job with the same unique id, of another function.
    pub(super) fn older_sibling(&self, slot: u32) -> Option<u32> {
        self.siblings.get(&slot).map(|siblings| siblings.older).filter(|older| *older != NONE)
    }

    fn find_unique_hashed(&self, unique: &[u8], hash: u32) -> Option<u32> {
        self.by_unique.find(hash, |slot| self.get(slot).unique() == unique)
    }

    /// All jobs, including ended ones.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, JobRef<'_>)> {
        self.slots.iter().map(|(slot, job)| (u32::try_from(slot).unwrap_or(NONE), self.with_bytes(job)))
    }

    /// The lengths of the indexes by number, unique id and key, and the number of jobs with siblings.
    pub(super) fn index_lengths(&self) -> [usize; 4] {
        [self.by_number.len(), self.by_unique.len(), self.by_key.len(), self.siblings.len()]
    }
}

/// The hash in the index that includes the function.
fn key_hash(hash: u32, function: FunctionSlot) -> u32 {
    // The server assigns the function's slot: spreading it needs no secret.
    hash ^ function.number().wrapping_add(1).wrapping_mul(0x9e37_79b1)
}

/// Whether a job can be looked up by this unique id.
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
