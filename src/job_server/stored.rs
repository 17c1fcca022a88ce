//! The half of a job that a store keeps, and what the job server asks of a store.
//!
//! # The format, and the rules for changing it
//! What is kept of a job is [`StoredJob`], field by field; each store says in its own file how it writes it. The version
//! of the format is [`FORMAT`]. It is written into every store that this server makes or converts, and read before
//! anything else:
//!
//! - A store of the same version is used as it is.
//! - A store without a version was written by C++ gearmand: it is converted once, in one transaction, so that an
//!   interrupted conversion has not happened. What C++ gearmand reads of a table stays readable for it.
//! - A store of an older version is converted in the same way when it is opened, by steps of one version each.
//! - A store of a newer version is refused with an error that names both versions: an old program must not guess.
//!
//! A field may be added without a new version if its absence has a meaning (such as no attempts yet), and only such a
//! field. Whoever changes the meaning of a field, or takes one away, raises the version and writes the step.

use std::sync::Arc;

use bytes::Bytes;

use super::job::Body;
use crate::protocol::names::{FUNCTION_MAX, REDUCER_MAX, UNIQUE_MAX};
use crate::protocol::{FunctionName, JobHandle, Priority, Workload};

/// The version of the format in which stores keep jobs. C++ gearmand's tables have none.
pub const FORMAT: u32 = 1;

/// The highest number of a job: handles have room for twelve digits. At the end jobs are refused, since no handle may repeat.
pub const NUMBER_MAX: u64 = 999_999_999_999;

/// An entry of a store with a higher number was not written by a server that counted so far, unless the store has noted
/// that number as given. It gets another number: otherwise the next job would have the last one.
pub const FOREIGN_NUMBER_MAX: u64 = 900_000_000_000;

/// A job as a store keeps it: everything that a restart must bring back. Only background jobs are kept.
#[derive(Clone, Debug)]
pub struct StoredJob {
    /// The number of its handle, which is also its place in the order of jobs. At least 1, and unique in a store.
    pub number: u64,
    /// The part of its handle before the colon and the number. At most
    /// [`HANDLE_PREFIX_MAX`](crate::protocol::names::HANDLE_PREFIX_MAX) bytes.
    pub prefix: Arc<str>,
    /// What is to be done. At most [`FUNCTION_MAX`](crate::protocol::names::FUNCTION_MAX) bytes.
    pub function: FunctionName,
    /// Its priority.
    pub priority: Priority,
    /// When it may run, in seconds since 1970; 0 for at once.
    pub due_s: u64,
    /// When it was submitted, in seconds since 1970; 0 where that is not known.
    pub submitted_s: u64,
    /// How often a worker was lost with it.
    pub attempts: u16,
    pub(super) unique_length: u8,
    pub(super) reducer_length: u8,
    pub(super) body: Body,
}

/// What a [`StoredJob`] is made of when it is read from a store. See there.
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
    /// A job out of what a store has read.
    ///
    /// # Errors
    /// Why no peer can have submitted such a job, for the operator to read: what is too long or not allowed would go out
    /// to peers as something else.
    pub fn new(parts: StoredParts<'_>) -> Result<Self, &'static str> {
        let StoredParts { unique, reducer, workload, .. } = parts;
        if !(1..=NUMBER_MAX).contains(&parts.number) {
            return Err("its number is not from 1 to 999999999999");
        }
        if parts.function.as_bytes().len() > FUNCTION_MAX {
            return Err("its function has more than 512 bytes");
        }
        if unique.len() > UNIQUE_MAX || reducer.len() > REDUCER_MAX {
            return Err("its unique id or its reducer has more than 64 bytes");
        }
        if [parts.function.as_bytes(), unique, reducer].iter().any(|name| name.contains(&0)) {
            return Err("its function, unique id or reducer has a NUL in it");
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

    /// The unique id as the client sent it: empty for none, `-` where the workload stands for it.
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

    /// What names it in a store.
    pub fn key(&self) -> JobKey {
        JobKey { number: self.number, function: self.function.clone(), unique: self.unique().into() }
    }

    /// How many bytes it takes beside its own size. A large workload is shared with its job, and not counted.
    pub fn memory(&self) -> usize {
        self.body.own_memory()
    }

    pub(super) fn head_length(&self) -> usize {
        usize::from(self.unique_length) + usize::from(self.reducer_length)
    }
}

/// What names a kept job: stores that keep rows go by the number, others by the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobKey {
    /// The number of its handle.
    pub number: u64,
    /// Its function.
    pub function: FunctionName,
    /// Its unique id as the client sent it; empty for none.
    pub unique: Box<[u8]>,
}

/// How far a change must have come before it counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// On the disk: neither the end of the process nor a power cut loses it.
    #[default]
    Always,
    /// Handed to the operating system, and on the disk within the interval that the writer was given: a power cut loses
    /// at most that.
    Interval,
    /// Handed to the operating system, which writes it when it likes.
    Off,
}

/// Something that the job server asks of its store. Operations are carried out in their order.
#[derive(Debug)]
pub enum StoreOp {
    /// Keep a job. Answered with [`StoreReport::Added`] of the same ticket.
    Add {
        /// Names this operation.
        ticket: u32,
        /// How far it must have come before it is answered.
        durability: Durability,
        /// The job.
        job: StoredJob,
    },
    /// Forget a job that has ended. Not answered; a store that cannot do it now does it later.
    Remove(JobKey),
    /// A worker was lost with the job. Not answered.
    Attempts {
        /// The job.
        key: JobKey,
        /// How often that has happened by now.
        attempts: u16,
    },
    /// The operator has changed the job. Not answered. What is asked of the job later names it as it is then, also where a
    /// change has failed so far.
    Edit {
        /// The job, as it was named before.
        key: JobKey,
        /// What it is from now on.
        edit: Edit,
    },
    /// Remember what the operator has decided, or forget it. Not answered. See the head of `settings.rs`. Of one name only the last word
    /// counts, and between settings and jobs there is no order.
    Set {
        /// What it is about.
        name: String,
        /// What was decided; `None` where it is as in the beginning.
        value: Option<String>,
    },
    /// Read workloads that are no longer in memory. Answered with [`StoreReport::Loaded`] of the same ticket.
    Load {
        /// Names this operation.
        ticket: u32,
        /// Whose.
        jobs: Vec<JobKey>,
    },
}

/// What the operator can change of a kept job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// See [`StoredJob::function`].
    pub function: FunctionName,
    /// See [`StoredJob::priority`].
    pub priority: Priority,
    /// See [`StoredJob::due_s`].
    pub due_s: u64,
}

/// What became of an operation.
#[derive(Debug)]
pub enum StoreReport {
    /// A job is kept, or it is not and never will be.
    Added {
        /// The operation's.
        ticket: u32,
        /// Why not.
        result: Result<(), StoreFailure>,
    },
    /// Workloads, in the order in which they were asked for; `None` for a job that the store does not have any more.
    Loaded {
        /// The operation's.
        ticket: u32,
        /// The workloads, or why there are none now.
        result: Result<Vec<Option<Bytes>>, StoreFailure>,
    },
}

/// Why a store could not do something, as far as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFailure {
    /// No space is left.
    Full,
    /// It may be read only.
    ReadOnly,
    /// The device failed.
    Io,
    /// Somebody else holds a lock on it.
    Locked,
    /// The database cannot be reached.
    Unreachable,
    /// What it holds makes no sense.
    Corrupt,
    /// It refused this job: for a database, one that does not fit into its columns or packets.
    Refused,
}
