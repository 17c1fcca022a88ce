//! The bytes of a job: unique id and reducer, one after the other, and the workload.

use std::sync::Arc;

use bytes::Bytes;

use super::bodies::{Bodies, Cell};
use crate::protocol::Workload;
use crate::stats::account::Account;

/// The bytes of a job outside of the table, on the way to the store or from it.
#[derive(Clone, Debug)]
pub(in crate::job_server) enum Body {
    /// Everything in one allocation of exactly its size.
    Small(Box<[u8]>),
    Large(Box<LargeBody>),
}

#[derive(Clone, Debug)]
pub(in crate::job_server) struct LargeBody {
    head: Box<[u8]>,
    workload: Bytes,
    /// Whether the workload is the buffer that it was read into. Otherwise it is a copy, and packets copy
    /// from it.
    is_shared: bool,
}

/// The bytes of a job in the table.
#[derive(Debug)]
pub(super) enum Held {
    Cell(Cell),
    Large(Box<LargeBody>),
}

impl LargeBody {
    fn shared(unique: &[u8], reducer: &[u8], workload: Bytes) -> Self {
        Self { head: [unique, reducer].concat().into_boxed_slice(), workload, is_shared: true }
    }

    /// From bytes that begin with a unique id and a reducer, of `head_length` bytes together.
    fn owned(bytes: impl Into<Bytes>, head_length: usize) -> Self {
        let bytes = bytes.into();
        let head = bytes[..head_length].into();
        Self { head, workload: bytes.slice(head_length..), is_shared: false }
    }

    fn workload(&self) -> Workload<'_> {
        if self.is_shared {
            Workload::shared(&self.workload, &self.workload)
        } else {
            Workload::borrowed(&self.workload)
        }
    }
}

impl Body {
    /// Copies what cannot be shared.
    pub(in crate::job_server) fn new(unique: &[u8], reducer: &[u8], workload: Workload<'_>) -> Self {
        match workload.share() {
            Some(workload) => Self::Large(Box::new(LargeBody::shared(unique, reducer, workload))),
            None => Self::Small([unique, reducer, workload.as_bytes()].concat().into_boxed_slice()),
        }
    }

    /// The memory that it takes and does not share, in bytes.
    pub(in crate::job_server) fn own_memory(&self) -> usize {
        match self {
            Self::Small(bytes) => bytes.len(),
            Self::Large(large) => {
                let copied = if large.is_shared { 0 } else { large.workload.len() };
                large.head.len() + copied + size_of::<LargeBody>()
            }
        }
    }

    /// Counts a shared workload in the account until its last reference is dropped.
    pub(in crate::job_server) fn counted_once(self, account: &Arc<Account>) -> Self {
        match self {
            Self::Large(mut large) if large.is_shared => {
                large.workload = account.count_once(large.workload);
                Self::Large(large)
            }
            other => other,
        }
    }

    /// Bytes that begin with the unique id and the reducer.
    pub(in crate::job_server) fn head(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(large) => &large.head,
        }
    }

    /// The workload, which follows the `head_length` bytes of the unique id and the reducer.
    pub(in crate::job_server) fn workload(&self, head_length: usize) -> Workload<'_> {
        match self {
            Self::Small(bytes) => Workload::borrowed(&bytes[head_length..]),
            Self::Large(large) => large.workload(),
        }
    }

    /// Moves the bytes into the table; unique id and reducer have `head_length` bytes.
    pub(super) fn hold(self, head_length: usize, bodies: &mut Bodies) -> Held {
        match self {
            Self::Large(large) => Held::Large(large),
            Self::Small(bytes) => match bodies.keep([&bytes, b"", b""]) {
                Some(cell) => Held::Cell(cell),
                None => Held::Large(Box::new(LargeBody::owned(bytes, head_length))),
            },
        }
    }
}

impl Held {
    /// Copies what cannot be shared.
    pub(super) fn new(bodies: &mut Bodies, unique: &[u8], reducer: &[u8], workload: Workload<'_>) -> Self {
        if let Some(workload) = workload.share() {
            return Self::Large(Box::new(LargeBody::shared(unique, reducer, workload)));
        }
        if let Some(cell) = bodies.keep([unique, reducer, workload.as_bytes()]) {
            return Self::Cell(cell);
        }
        let bytes = [unique, reducer, workload.as_bytes()].concat();
        Self::Large(Box::new(LargeBody::owned(bytes, unique.len() + reducer.len())))
    }

    /// Frees its memory.
    pub(super) fn free(self, bodies: &mut Bodies) {
        if let Self::Cell(cell) = self {
            bodies.free(cell);
        }
    }

    /// How many bytes follow the unique id and the reducer, which have `head_length` bytes.
    pub(super) fn workload_length(&self, head_length: usize) -> usize {
        match self {
            Self::Cell(cell) => cell.length().saturating_sub(head_length),
            Self::Large(large) => large.workload.len(),
        }
    }

    /// The number of workload bytes that are shared with packets.
    pub(super) fn shared_memory(&self) -> u64 {
        match self {
            Self::Large(large) if large.is_shared => large.workload.len() as u64,
            Self::Cell(_) | Self::Large(_) => 0,
        }
    }

    /// Bytes that begin with the unique id and the reducer.
    pub(super) fn head<'a>(&'a self, bodies: &'a Bodies) -> &'a [u8] {
        match self {
            Self::Cell(cell) => bodies.get(*cell),
            Self::Large(large) => &large.head,
        }
    }

    /// The workload, which follows the `head_length` bytes of the unique id and the reducer.
    pub(super) fn workload<'a>(&'a self, bodies: &'a Bodies, head_length: usize) -> Workload<'a> {
        match self {
            Self::Cell(cell) => Workload::borrowed(&bodies.get(*cell)[head_length..]),
            Self::Large(large) => large.workload(),
        }
    }

    /// The same bytes outside of the table, shared or copied.
    pub(super) fn copy(&self, bodies: &Bodies) -> Body {
        match self {
            Self::Cell(cell) => Body::Small(bodies.get(*cell).into()),
            Self::Large(large) => Body::Large(large.clone()),
        }
    }
}
