//! The part of a job that a store keeps, and what the job server asks of a store.
//!
//! # The format, and the rules for changing it
//! [`StoredJob`] has the fields that are kept of a job; each store says in its own file how it writes them.
//! The version of the format is [`FORMAT`]. It is written into every store that this server creates or
//! converts, and is read before anything else:
//!
//! - A store of the same version is used as it is.
//! - A store without a version was written by C++ gearmand: it is converted once, in one transaction, so that
//!   an interrupted conversion has no effect. What C++ gearmand reads of a table stays readable for it.
//! - A store of an older version is converted in the same way when it is opened, in steps of one version
//!   each.
//! - A store of a newer version is refused with an error that names both versions: an old program must not
//!   guess.
//!
//! A field may be added without a new version only if its absence has a meaning (such as no attempts yet). A
//! change of a field's meaning, or the removal of a field, needs a higher version and a conversion step.

use std::sync::Arc;

use bytes::Bytes;

use super::job::Body;
use crate::protocol::names::{FUNCTION_MAX, REDUCER_MAX, UNIQUE_MAX};
use crate::protocol::{FunctionName, JobHandle, Priority, Workload};

/// The version of the format in which stores keep jobs. C++ gearmand's tables have none.
pub const FORMAT: u32 = 1;

/// The highest job number: handles have room for twelve digits. Beyond it jobs are refused, since no handle
/// may repeat.
pub const NUMBER_MAX: u64 = 999_999_999_999;

/// An entry of a store with a higher number was not written by a server that counted this far, unless the
/// store has recorded that number as assigned. It gets another number: otherwise the next job would have the
/// last one.
pub const FOREIGN_NUMBER_MAX: u64 = 900_000_000_000;

/// A job as a store keeps it: everything that a restart must bring back. Only background jobs are kept.
#[derive(Clone, Debug)]
pub struct StoredJob {
    /// The number of its handle, which is also its place in the order of jobs. At least 1, and unique in a
    /// store.
    pub number: u64,
    /// The part of its handle before the colon and the number. At most
    /// [`HANDLE_PREFIX_MAX`](crate::protocol::names::HANDLE_PREFIX_MAX) bytes.
    pub prefix: Arc<str>,
    /// Its function. At most [`FUNCTION_MAX`](crate::protocol::names::FUNCTION_MAX) bytes.
    pub function: FunctionName,
    /// Its priority.
    pub priority: Priority,
    /// When it may run, in seconds since 1970; 0 means immediately.
    pub due_s: u64,
    /// When it was submitted, in seconds since 1970; 0 if unknown.
    pub submitted_s: u64,
    /// The number of failed attempts: how often a worker was lost with it.
    pub attempts: u16,
    pub(super) unique_length: u8,
    pub(super) reducer_length: u8,
    pub(super) body: Body,
}

/// The parts of a [`StoredJob`] as they are read from a store. See there.
#[derive(Clone, Debug)]
pub struct StoredParts<'a> {
    /// See [`StoredJob::number`].
    pub number: u64,
    /// See [`StoredJob::prefix`].
    pub prefix: Arc<str>,
    /// See [`StoredJob::function`].
    pub function: FunctionName,
    /// See [`StoredJob::unique`].
    pub unique: &'a [u8],
    /// See [`StoredJob::reducer`].
    pub reducer: &'a [u8],
    /// See [`StoredJob::priority`].
    pub priority: Priority,
    /// See [`StoredJob::due_s`].
    pub due_s: u64,
    /// See [`StoredJob::submitted_s`].
    pub submitted_s: u64,
    /// See [`StoredJob::attempts`].
    pub attempts: u16,
    /// See [`StoredJob::workload`].
    pub workload: &'a [u8],
}

impl StoredJob {
    /// Makes a job from what a store has read.
    ///
    /// # Errors
    /// Why no peer can have submitted such a job, for the operator to read: names that are too long or not
    /// allowed would reach peers as something else.
    pub fn new(parts: StoredParts<'_>) -> Result<Self, &'static str> {
        let StoredParts { unique, reducer, workload, .. } = parts;
        if !(1..=NUMBER_MAX).contains(&parts.number) {
            return Err("job number out of range 1..=999999999999");
        }
        if parts.function.as_bytes().len() > FUNCTION_MAX {
            return Err("function name longer than 512 bytes");
        }
        if unique.len() > UNIQUE_MAX || reducer.len() > REDUCER_MAX {
            return Err("unique id or reducer longer than 64 bytes");
        }
        if [parts.function.as_bytes(), unique, reducer].iter().any(|name| name.contains(&0)) {
            return Err("function, unique id or reducer contains a NUL byte");
        }
        Ok(Self {
            number: parts.number,
            prefix: parts.prefix,
            function: parts.function,
            priority: parts.priority,
            due_s: parts.due_s,
            submitted_s: parts.submitted_s,
            attempts: parts.attempts,
            // Both have at most 64 bytes.
            unique_length: u8::try_from(unique.len()).unwrap_or(u8::MAX),
            reducer_length: u8::try_from(reducer.len()).unwrap_or(u8::MAX),
            body: Body::new(unique, reducer, Workload::borrowed(workload)),
        })
    }

    /// The handle that its client was given.
    pub fn handle(&self) -> JobHandle<'_> {
        JobHandle { prefix: &self.prefix, number: self.number }
    }

    /// The unique id as the client sent it: empty for none, `-` if the workload serves as the unique id.
    pub fn unique(&self) -> &[u8] {
        &self.body.head()[..usize::from(self.unique_length)]
    }

    /// The name of the reducer; empty for none.
    pub fn reducer(&self) -> &[u8] {
        let start = usize::from(self.unique_length);
        &self.body.head()[start..start + usize::from(self.reducer_length)]
    }

    /// The workload.
    pub fn workload(&self) -> &[u8] {
        self.body.workload(self.head_length()).as_bytes()
    }

    /// Its key in a store.
    pub fn key(&self) -> JobKey {
        JobKey { number: self.number, function: self.function.clone(), unique: self.unique().into() }
    }

    /// The memory that it takes beside its own size, in bytes. A large workload is shared with its job, and
    /// not counted.
    pub fn memory(&self) -> usize {
        self.body.own_memory()
    }

    pub(super) fn head_length(&self) -> usize {
        usize::from(self.unique_length) + usize::from(self.reducer_length)
    }
}

/// The key of a stored job: stores with rows use the number, others use the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobKey {
    /// The number of its handle.
    pub number: u64,
    /// Its function.
    pub function: FunctionName,
    /// Its unique id as the client sent it; empty for none.
    pub unique: Box<[u8]>,
}

/// How durable a change must be before it counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// On the disk: neither the end of the process nor a power cut loses it.
    #[default]
    Always,
    /// Handed to the operating system, and on the disk within the interval that the writer was given: a power
    /// cut loses at most the changes of that interval.
    Interval,
    /// Handed to the operating system, which writes it to the disk at any time.
    Off,
}

/// An operation that the job server asks of its store. Operations are carried out in order.
#[derive(Debug)]
pub enum StoreOp {
    /// Adds a job. Answered with [`StoreReport::Added`] of the same ticket.
    Add {
        /// Identifies this operation.
        ticket: u32,
        /// How durable it must be before it is answered.
        durability: Durability,
        /// The job.
        job: StoredJob,
    },
    /// Removes a job that has ended. Not answered; a store that cannot do it now does it later.
    Remove(JobKey),
    /// Records that a worker was lost with the job. Not answered.
    Attempts {
        /// The job.
        key: JobKey,
        /// The number of failed attempts so far.
        attempts: u16,
    },
    /// Changes a job by command of the operator. Not answered. Later operations name the job as it is after
    /// the change, even if the change has failed so far.
    Edit {
        /// The key of the job before the change.
        key: JobKey,
        /// The changed fields.
        edit: Edit,
    },
    /// Sets or removes a setting of the operator. Not answered. See the head of `settings.rs`. Only the last
    /// operation of a name counts, and settings and jobs have no order between them.
    Set {
        /// The name of the setting.
        name: String,
        /// Its value; `None` for the default.
        value: Option<String>,
    },
    /// Reads workloads that are no longer in memory. Answered with [`StoreReport::Loaded`] of the same
    /// ticket.
    Load {
        /// Identifies this operation.
        ticket: u32,
        /// The jobs.
        jobs: Vec<JobKey>,
    },
}

/// The fields of a stored job that the operator can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// See [`StoredJob::function`].
    pub function: FunctionName,
    /// See [`StoredJob::priority`].
    pub priority: Priority,
    /// See [`StoredJob::due_s`].
    pub due_s: u64,
}

/// The result of an operation.
#[derive(Debug)]
pub enum StoreReport {
    /// A job is stored, or it is not and never will be.
    Added {
        /// The ticket of the operation.
        ticket: u32,
        /// Why the job is not stored, if it is not.
        result: Result<(), StoreFailure>,
    },
    /// Workloads, in the order in which they were requested; `None` for a job that the store no longer has.
    Loaded {
        /// The ticket of the operation.
        ticket: u32,
        /// The workloads, or why they cannot be read now.
        result: Result<Vec<Option<Bytes>>, StoreFailure>,
    },
}

/// Why a store operation failed, in as much detail as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFailure {
    /// No space is left.
    Full,
    /// It is read-only.
    ReadOnly,
    /// The device failed.
    Io,
    /// Another program holds a lock on it.
    Locked,
    /// The database cannot be reached.
    Unreachable,
    /// Its content is invalid.
    Corrupt,
    /// It refused this job: for a database, one that does not fit into its columns or packets.
    Refused,
}
