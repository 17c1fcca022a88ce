//! Background jobs as the tests of the durable queue submit them, and as a store gives them back.
//!
//! Each job carries a serial number of the test in its workload, or in its unique id where the workload is
//! empty, so that a job can be told from all others even where its client never learned its handle.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]

pub(crate) mod bystander;
#[path = "../simulation/random.rs"]
mod random;

use std::path::Path;
use std::sync::Arc;

use gearmand::protocol::Priority;
use gearmand::store::location::{Access, Location, defaults};
use gearmand::store::{StoreError, Workloads};

pub(crate) use random::Random;

use crate::common::packet;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    pub(crate) function: Vec<u8>,
    pub(crate) unique: Vec<u8>,
    pub(crate) reducer: Vec<u8>,
    pub(crate) priority: Priority,
    pub(crate) due_s: u64,
    pub(crate) workload: Vec<u8>,
}

/// A job that was read from a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) number: u64,
    pub(crate) handle: String,
    pub(crate) submission: Submission,
}

/// All that was read from a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) jobs: Vec<Recovered>,
    pub(crate) last_number: u64,
    pub(crate) quarantined: u64,
}

impl Submission {
    /// A job of any kind, for one of these functions. A scheduled one is due at a second from `due_s` on.
    pub(crate) fn any(random: &mut Random, serial: u64, functions: &[&str], due_s: u64) -> Self {
        let mut submission = Self {
            function: random.pick(functions).into(),
            unique: Vec::new(),
            reducer: Vec::new(),
            priority: random.pick(&[Priority::High, Priority::Normal, Priority::Low]),
            due_s: 0,
            workload: workload(random, serial),
        };
        match random.below(10) {
            0..4 => submission.unique = format!("u{serial}").into(),
            4..6 => submission.unique = b"-".to_vec(),
            6 => {
                submission.unique = format!("u{serial}").into();
                submission.workload.clear();
            }
            _ => {}
        }
        match random.below(10) {
            0 => {
                submission.due_s = due_s + random.below(1000);
                submission.priority = Priority::Normal;
            }
            1 => {
                submission.reducer = b"join".to_vec();
                submission.priority = Priority::Normal;
            }
            _ => {}
        }
        submission
    }

    /// The number that tells this job from all others of the test; `None` for a job that no test submitted.
    pub(crate) fn serial(&self) -> Option<u64> {
        let digits = match self.workload.iter().position(|byte| *byte == b' ') {
            Some(end) => &self.workload[..end],
            None => self.unique.strip_prefix(b"u")?,
        };
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// The packet that submits it as a background job.
    pub(crate) fn request(&self) -> Vec<u8> {
        let Self { function, unique, reducer, due_s, workload, .. } = self;
        if *due_s > 0 {
            let due = due_s.to_string();
            let body = packet::body(&[function, unique, due.as_bytes(), workload]);
            return packet::request(packet::SUBMIT_JOB_EPOCH, &body);
        }
        if !reducer.is_empty() {
            let body = packet::body(&[function, unique, reducer, b"", workload]);
            return packet::request(packet::SUBMIT_REDUCE_JOB_BACKGROUND, &body);
        }
        let packet_type = match self.priority {
            Priority::High => packet::SUBMIT_JOB_HIGH_BG,
            Priority::Normal => packet::SUBMIT_JOB_BG,
            Priority::Low => packet::SUBMIT_JOB_LOW_BG,
        };
        packet::request(packet_type, &packet::body(&[function, unique, workload]))
    }

    /// The reverse of [`Submission::request`]; `None` for a packet that submits no background job.
    pub(crate) fn parse(packet_type: u32, body: &[u8]) -> Option<Self> {
        let (priority, count) = match packet_type {
            packet::SUBMIT_JOB_BG => (Priority::Normal, 3),
            packet::SUBMIT_JOB_HIGH_BG => (Priority::High, 3),
            packet::SUBMIT_JOB_LOW_BG => (Priority::Low, 3),
            packet::SUBMIT_JOB_EPOCH => (Priority::Normal, 4),
            packet::SUBMIT_REDUCE_JOB_BACKGROUND => (Priority::Normal, 5),
            _ => return None,
        };
        let arguments: Vec<&[u8]> = body.splitn(count, |byte| *byte == 0).collect();
        let mut submission = Self {
            function: arguments.first()?.to_vec(),
            unique: arguments.get(1)?.to_vec(),
            reducer: Vec::new(),
            priority,
            due_s: 0,
            workload: arguments.get(count - 1)?.to_vec(),
        };
        match packet_type {
            packet::SUBMIT_JOB_EPOCH => submission.due_s = std::str::from_utf8(arguments[2]).ok()?.parse().ok()?,
            packet::SUBMIT_REDUCE_JOB_BACKGROUND => submission.reducer = arguments[2].to_vec(),
            _ => {}
        }
        Some(submission)
    }
}

/// A few bytes, or some pages of them; none is special.
fn workload(random: &mut Random, serial: u64) -> Vec<u8> {
    let length = match random.below(20) {
        0..15 => random.below(200),
        15..19 => random.below(6_000),
        _ => random.below(60_000),
    };
    let mut bytes = format!("{serial} ").into_bytes();
    while (bytes.len() as u64) < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes
}

/// Reads all jobs of a SQLite file, by the code with which the server reads them.
///
/// # Errors
/// What a server would refuse to start for.
pub(crate) fn read(path: &Path, access: Access) -> Result<Contents, StoreError> {
    let table = defaults::SQLITE_TABLE.to_owned();
    let location = Location::Sqlite { path: path.to_owned(), table, keep_primary_key: false };
    let mut store = location.open(access, &Arc::from("H:nobody"))?;
    let mut jobs = Vec::new();
    let replayed = store.replay(&mut |job, has_workload| {
        assert!(has_workload, "{} came without its workload, which was wanted", job.handle());
        jobs.push(Recovered {
            number: job.number,
            handle: job.handle().to_string(),
            submission: Submission {
                function: job.function.as_bytes().to_vec(),
                unique: job.unique().to_vec(),
                reducer: job.reducer().to_vec(),
                priority: job.priority,
                due_s: job.due_s,
                workload: job.workload().to_vec(),
            },
        });
        Workloads::Wanted
    })?;
    assert_eq!(replayed.jobs, jobs.len() as u64, "jobs that were counted, and those that came");
    Ok(Contents { jobs, last_number: replayed.last_number, quarantined: replayed.quarantined })
}
