//! Behaviour of the load generator's connections: how they respond to packets, and how they check them.
//!
//! Every answer is checked: an unexpected packet, an unknown handle or a result that differs from the
//! workload fails the whole row. A fast server that answers wrongly has no number.

use std::collections::VecDeque;
use std::time::Instant;

use crate::failure::{Result, fail};
use crate::protocol::{
    CAN_DO, ECHO_REQ, ECHO_RES, ERROR, GRAB_JOB_ALL, JOB_ASSIGN_UNIQ, JOB_CREATED, NO_JOB, NOOP, PRE_SLEEP, REQUEST,
    Response, SUBMIT_JOB, SUBMIT_JOB_BG, SUBMIT_JOB_EPOCH, WORK_COMPLETE, append, split,
};

/// Function of every job that is run here.
pub(crate) const FUNCTION: &[u8] = b"bench";

/// Length of a unique id made by libgearman: a UUID as text.
const UNIQUE: usize = 36;
/// Maximum length of a job handle in the protocol.
const HANDLE: usize = 64;
/// Workloads start at different offsets of a common pattern, which is this many bytes longer than the longest
/// workload.
const SHIFTS: usize = 251;

/// Counters of all connections of one generator.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Jobs or grabs that clients may still start.
    pub(crate) budget: u64,
    /// Jobs or grabs started and not yet ended.
    pub(crate) outstanding: u64,
    /// Foreground jobs completed, background jobs created, grabs answered.
    pub(crate) ended: u64,
    /// Jobs that workers completed.
    pub(crate) worked: u64,
    /// NOOPs that workers got.
    pub(crate) noops: u64,
    /// Workers that got NO_JOB and sleep.
    pub(crate) asleep: usize,
    /// Connections that the server has answered once.
    pub(crate) greeted: usize,
    /// Nanoseconds from submission to result, or to the handle of a background job, if [`Tally::timed`].
    pub(crate) latencies: Vec<u32>,
    /// Whether to fill `latencies`.
    pub(crate) timed: bool,
}

/// Kind of submission of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submission {
    /// Ends with the result.
    Foreground,
    /// Ends with the handle.
    Background,
    /// Background, due at this UNIX time in seconds.
    Epoch(u64),
}

/// Behaviour of a connection.
pub(crate) enum Role {
    Client(Client),
    Worker(Worker),
    Grabber(Grabber),
}

/// A worker that grabs, echoes, sleeps when there is no job, and grabs again when woken: like libgearman's
/// with one grab outstanding.
pub(crate) struct Worker {
    function: &'static [u8],
    /// Grabs that it keeps outstanding while there are jobs.
    window: usize,
    outstanding: usize,
    started: bool,
}

impl Worker {
    /// A worker of one function.
    pub(crate) const fn new(function: &'static [u8], window: usize) -> Self {
        Self { function, window, outstanding: 0, started: false }
    }

    fn fill(&mut self, output: &mut Vec<u8>) {
        while self.outstanding < self.window {
            self.outstanding += 1;
            append(output, REQUEST, GRAB_JOB_ALL, &[]);
        }
    }
}

/// A client that keeps a window of jobs outstanding.
pub(crate) struct Client {
    function: &'static [u8],
    submission: Submission,
    window: usize,
    /// Bytes of every workload.
    workload: usize,
    pattern: Vec<u8>,
    /// State of the generator of unique ids.
    sequence: u64,
    /// Submitted jobs without a handle yet, in order.
    unnamed: VecDeque<Job>,
    /// Jobs with a handle, without a result yet.
    running: VecDeque<([u8; HANDLE], usize, Job)>,
}

/// A worker that only asks for jobs, when there are none.
pub(crate) struct Grabber {
    window: usize,
    outstanding: usize,
}

struct Job {
    unique: [u8; UNIQUE],
    shift: usize,
    submitted: Option<Instant>,
}

impl Client {
    /// A client whose jobs are of `function` and carry `workload` bytes, at least 36. `seed` makes its
    /// uniques differ from other clients'.
    pub(crate) fn new(
        function: &'static [u8],
        submission: Submission,
        window: usize,
        workload: usize,
        seed: u64,
    ) -> Self {
        let length = workload.saturating_sub(UNIQUE) + SHIFTS;
        Self {
            function,
            submission,
            window,
            workload: workload.saturating_sub(UNIQUE),
            pattern: (0u64..).map(|n| mix(n).to_be_bytes()[0]).take(length).collect(),
            sequence: mix(seed) << 32,
            unnamed: VecDeque::new(),
            running: VecDeque::new(),
        }
    }

    fn fill(&mut self, output: &mut Vec<u8>, tally: &mut Tally) {
        while tally.budget > 0 && self.unnamed.len() + self.running.len() < self.window {
            tally.budget -= 1;
            tally.outstanding += 1;
            let job = Job {
                unique: unique(self.sequence),
                shift: usize::try_from(self.sequence % SHIFTS as u64).unwrap_or_default(),
                submitted: tally.timed.then(Instant::now),
            };
            self.sequence += 1;
            let filler = &self.pattern[job.shift..job.shift + self.workload];
            let mut submit = |kind, due: &[u8]| {
                let parts = [self.function, b"\0", &job.unique, b"\0", due, &job.unique, filler];
                append(output, REQUEST, kind, &parts);
            };
            match self.submission {
                Submission::Foreground => submit(SUBMIT_JOB, b""),
                Submission::Background => submit(SUBMIT_JOB_BG, b""),
                Submission::Epoch(due) => submit(SUBMIT_JOB_EPOCH, format!("{due}\0").as_bytes()),
            }
            self.unnamed.push_back(job);
        }
    }

    fn created(&mut self, handle: &[u8], tally: &mut Tally) -> Result<()> {
        let Some(job) = self.unnamed.pop_front() else {
            return fail("JOB_CREATED without a submission");
        };
        if handle.is_empty() || handle.len() > HANDLE {
            return fail("JOB_CREATED with an impossible handle");
        }
        if self.submission == Submission::Foreground {
            let mut kept = [0; HANDLE];
            kept[..handle.len()].copy_from_slice(handle);
            self.running.push_back((kept, handle.len(), job));
        } else {
            job.end(tally);
        }
        Ok(())
    }

    fn completed(&mut self, body: &[u8], tally: &mut Tally) -> Result<()> {
        let (handle, result) = split(body)?;
        let found = self.running.iter().position(|(kept, length, _)| &kept[..*length] == handle);
        let Some((_, _, job)) = found.and_then(|at| self.running.remove(at)) else {
            return fail("WORK_COMPLETE for a handle that was never given");
        };
        let filler = &self.pattern[job.shift..job.shift + self.workload];
        if result.strip_prefix(&job.unique) != Some(filler) {
            return fail("a result that is not its workload");
        }
        job.end(tally);
        Ok(())
    }
}

impl Job {
    fn end(self, tally: &mut Tally) {
        if let Some(submitted) = self.submitted {
            tally.latencies.push(u32::try_from(submitted.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
        tally.outstanding -= 1;
        tally.ended += 1;
    }
}

impl Grabber {
    /// A worker that keeps `window` grabs outstanding.
    pub(crate) fn new(window: usize) -> Self {
        Self { window, outstanding: 0 }
    }

    fn fill(&mut self, output: &mut Vec<u8>, tally: &mut Tally) {
        while tally.budget > 0 && self.outstanding < self.window {
            tally.budget -= 1;
            tally.outstanding += 1;
            self.outstanding += 1;
            append(output, REQUEST, GRAB_JOB_ALL, &[]);
        }
    }
}

impl Role {
    /// Sends the first packets of the connection.
    pub(crate) fn greet(&self, output: &mut Vec<u8>) {
        match self {
            Self::Client(_) => {}
            Self::Worker(worker) => append(output, REQUEST, CAN_DO, &[worker.function]),
            Self::Grabber(_) => append(output, REQUEST, CAN_DO, &[FUNCTION]),
        }
        append(output, REQUEST, ECHO_REQ, &[b"hello"]);
    }

    /// Starts as many jobs as the window and the budget allow; a worker asks for its first job.
    pub(crate) fn begin(&mut self, output: &mut Vec<u8>, tally: &mut Tally) {
        match self {
            Self::Client(client) => client.fill(output, tally),
            Self::Grabber(grabber) => grabber.fill(output, tally),
            Self::Worker(worker) => {
                if !std::mem::replace(&mut worker.started, true) {
                    worker.fill(output);
                }
            }
        }
    }

    /// Handles one response and appends the packets that follow from it.
    pub(crate) fn take(&mut self, response: &Response<'_>, output: &mut Vec<u8>, tally: &mut Tally) -> Result<()> {
        match (&mut *self, response.kind) {
            (Self::Client(client), JOB_CREATED) => {
                client.created(response.body, tally)?;
                client.fill(output, tally);
            }
            (Self::Client(client), WORK_COMPLETE) => {
                client.completed(response.body, tally)?;
                client.fill(output, tally);
            }
            (Self::Worker(worker), JOB_ASSIGN_UNIQ) => work(worker.function, response.body, output, tally)?,
            (Self::Worker(worker), NO_JOB) => {
                worker.outstanding -= 1;
                // Its other grabs are answered too before it sleeps.
                if worker.outstanding == 0 {
                    tally.asleep += 1;
                    append(output, REQUEST, PRE_SLEEP, &[]);
                }
            }
            (Self::Worker(worker), NOOP) => {
                tally.noops += 1;
                tally.asleep = tally.asleep.saturating_sub(1);
                worker.fill(output);
            }
            (Self::Grabber(grabber), NO_JOB) => {
                grabber.outstanding -= 1;
                tally.outstanding -= 1;
                tally.ended += 1;
                grabber.fill(output, tally);
            }
            (_, ECHO_RES) if response.body == b"hello" => {
                tally.greeted += 1;
            }
            (_, ERROR) => return fail(format!("ERROR {}", String::from_utf8_lossy(response.body))),
            (_, kind) => return fail(format!("packet type {kind} where none was due")),
        }
        Ok(())
    }
}

/// Echoes a job and asks for the next one in the same write, as a worker does whose jobs take no time.
fn work(own: &[u8], body: &[u8], output: &mut Vec<u8>, tally: &mut Tally) -> Result<()> {
    let (handle, rest) = split(body)?;
    let (function, rest) = split(rest)?;
    let (unique, workload) = split(rest)?;
    if function != own || unique.len() != UNIQUE || !workload.starts_with(unique) {
        return fail("a job that no client submitted");
    }
    tally.worked += 1;
    append(output, REQUEST, WORK_COMPLETE, &[handle, b"\0", workload]);
    append(output, REQUEST, GRAB_JOB_ALL, &[]);
    Ok(())
}

/// A UUID-like text; distinct for distinct numbers, without an order that a hash table could profit from.
fn unique(number: u64) -> [u8; UNIQUE] {
    let first = mix(number);
    let mut digits = (u128::from(first) << 64) | u128::from(mix(first));
    let mut text = [b'-'; UNIQUE];
    for (place, byte) in text.iter_mut().enumerate() {
        if ![8, 13, 18, 23].contains(&place) {
            *byte = b"0123456789abcdef"[usize::from(digits.to_le_bytes()[0] & 15)];
            digits >>= 4;
        }
    }
    text
}

/// One step of `SplitMix64`, a bijection.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
