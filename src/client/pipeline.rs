//! Tracks submitted jobs: assigns responses to jobs, decides what may be printed, and what is lost with a
//! connection.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::answer::{Answer, WorkEvent};
use super::connection::{Connection, ConnectionError};
use super::output::{Output, keep};
use super::source::NewJob;
use crate::protocol::FunctionName;
use crate::protocol::packet::{CodecError, PacketType};

#[cfg(test)]
mod tests;

/// How many windows of finished jobs may wait for an older one whose result must be printed first.
const WAITING_WINDOWS: usize = 16;

/// How much of a failure's reason is shown to people, in bytes; JSON contains all of it.
const EXCEPTION_SHOWN: usize = 64 * 1024;
/// Memory limit of results that cannot be printed yet, in bytes: those of jobs behind an unfinished one, or
/// for JSON.
const HELD_MAX: usize = 1 << 30;
/// Approximate memory cost of a part of a result, in addition to its data, in bytes.
const PART_COST: usize = 64;

/// Settings that are the same for all jobs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// One of the SUBMIT_JOB packets.
    pub(super) packet_type: PacketType,
    /// Empty for none.
    pub(super) unique: Vec<u8>,
    /// Start time, in seconds of UNIX time, for SUBMIT_JOB_EPOCH.
    pub(super) epoch: Option<String>,
    /// Background: a job is finished once the server has accepted it.
    pub(super) background: bool,
    /// Whether results are printed in the order of submission.
    pub(super) ordered: bool,
    /// Whether jobs that may have run are resubmitted after a lost connection, even without a unique id.
    pub(super) resubmit: bool,
    /// Maximum number of unfinished jobs.
    pub(super) window: usize,
}

/// A job that was submitted and not yet printed.
#[derive(Debug)]
pub(super) struct Job {
    /// Counts from 1.
    pub(super) number: u64,
    pub(super) function: FunctionName,
    pub(super) handle: Option<Bytes>,
    /// Parts of the result that are not printed yet.
    pub(super) data: Vec<Bytes>,
    /// Kept for JSON only.
    pub(super) warnings: Vec<Bytes>,
    workload: Bytes,
    begin: Instant,
    /// Memory held by its result, in bytes.
    held: usize,
    /// Whether parts of its result have been printed and cannot be taken back.
    printed: bool,
    ending: Option<Ending>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Accepted by the server; it runs in the background.
    Created,
    /// Done, with the last part of the result.
    Complete(Bytes),
    /// Failed by the worker.
    Failed,
    /// Failed by the worker, with a reason.
    Exception(Bytes),
    /// Rejected by the server.
    Rejected(String),
    /// The connection was lost while the job was unfinished.
    Lost,
    /// Time ran out.
    TimedOut,
}

impl Ending {
    /// Name of the outcome, for programs.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Complete(_) => "complete",
            Self::Failed => "failed",
            Self::Exception(_) => "exception",
            Self::Rejected(_) => "rejected",
            Self::Lost => "lost",
            Self::TimedOut => "timeout",
        }
    }

    /// Description of the failure, for people.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Self::Created | Self::Complete(_) => None,
            Self::Failed => Some("failed".to_owned()),
            Self::Exception(why) => {
                let said = why.get(..EXCEPTION_SHOWN).unwrap_or(why);
                Some(format!("failed: {}", String::from_utf8_lossy(said).trim_end()))
            }
            Self::Rejected(why) => Some(format!("was rejected: {why}")),
            Self::Lost => Some("was lost with the connection; it may have run or may run still".to_owned()),
            Self::TimedOut => Some("is not finished in time".to_owned()),
        }
    }
}

/// A request whose response carries no handle.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Option,
    Submission(u64),
}

/// Counts of unsuccessful jobs so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Failed by their worker or rejected by the server.
    pub(super) failed: u64,
    /// Lost, or out of time.
    pub(super) lost: u64,
}

/// All jobs that are not printed yet, oldest first. The oldest is never finished.
pub(super) struct Pipeline {
    settings: Settings,
    jobs: VecDeque<Job>,
    /// Number of the oldest job, or of the next one if there is none.
    first: u64,
    unfinished: usize,
    pending: VecDeque<Pending>,
    /// Several numbers if the server merged submissions with one unique id into one job.
    by_handle: HashMap<Bytes, VecDeque<u64>>,
    counts: Counts,
    /// Memory held by the results of all jobs, in bytes, and its limit.
    held: usize,
    most_held: usize,
}

impl Pipeline {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            jobs: VecDeque::new(),
            first: 1,
            unfinished: 0,
            pending: VecDeque::new(),
            by_handle: HashMap::new(),
            counts: Counts::default(),
            held: 0,
            most_held: HELD_MAX,
        }
    }

    /// How many more jobs may be submitted now.
    pub(super) fn room(&self) -> usize {
        let window = self.settings.window;
        let waiting = window.saturating_mul(WAITING_WINDOWS).saturating_sub(self.jobs.len());
        window.saturating_sub(self.unfinished).min(waiting)
    }

    /// Whether all submitted jobs are finished and printed.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Number of submitted jobs.
    pub(super) fn submitted(&self) -> u64 {
        self.first - 1 + self.jobs.len() as u64
    }

    /// When the oldest unprinted job was submitted.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.jobs.front().map(|job| job.begin)
    }

    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Starts on a new connection: requests exceptions, and resubmits the jobs that are waiting for it.
    pub(super) fn connected(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if !self.settings.background {
            connection.request(PacketType::OptionReq, &[b"exceptions"])?;
            self.pending.push_back(Pending::Option);
        }
        for job in self.jobs.iter().filter(|job| job.ending.is_none()) {
            self.pending.push_back(Pending::Submission(job.number));
            request(&self.settings, connection, job)?;
        }
        Ok(())
    }

    /// Submits a job.
    pub(super) fn submit(&mut self, new: NewJob, now: Instant, connection: &mut Connection, output: &mut Output) {
        let number = self.first + self.jobs.len() as u64;
        let job = Job {
            number,
            function: new.function,
            handle: None,
            data: Vec::new(),
            warnings: Vec::new(),
            workload: new.workload,
            begin: now,
            held: 0,
            printed: false,
            ending: None,
        };
        let requested = request(&self.settings, connection, &job);
        self.jobs.push_back(job);
        self.unfinished += 1;
        match requested {
            Ok(()) => self.pending.push_back(Pending::Submission(number)),
            Err(error) => self.finish(number, Ending::Rejected(error.to_string()), output),
        }
    }

    /// Handles a response. Returns whether it advances a job.
    pub(super) fn answer(&mut self, answer: Answer, output: &mut Output) -> bool {
        let is_awaited = match &answer {
            Answer::JobCreated(_) => !self.pending.is_empty(),
            Answer::Error { .. } => matches!(self.pending.front(), Some(Pending::Submission(_))),
            Answer::Work { handle, .. } => self.by_handle.contains_key(handle),
            _ => false,
        };
        match answer {
            Answer::JobCreated(handle) => {
                if let Some(Pending::Submission(number)) = self.pending.pop_front() {
                    self.created(number, &handle, output);
                }
            }
            Answer::OptionRes => {
                self.pending.pop_front();
            }
            // A server that does not know the option sends plain failures. This is no reason to stop.
            Answer::Error { code, text } => match self.pending.pop_front() {
                Some(Pending::Submission(number)) => {
                    self.finish(number, Ending::Rejected(format!("{code}: {text}")), output);
                }
                Some(Pending::Option) => {}
                None => output.message_of_server(format_args!("server error {code}: {text}")),
            },
            Answer::Work { handle, event } => self.work(&handle, event, output),
            Answer::Noop | Answer::NoJob | Answer::JobAssign(_) | Answer::EchoRes => {}
        }
        is_awaited
    }

    fn created(&mut self, number: u64, handle: &Bytes, output: &mut Output) {
        let handle = Bytes::copy_from_slice(handle);
        output.created(number, &handle);
        if let Some(job) = self.job(number) {
            job.handle = Some(handle.clone());
        }
        if self.settings.background {
            self.finish(number, Ending::Created, output);
        } else {
            self.by_handle.entry(handle).or_default().push_back(number);
        }
    }

    fn work(&mut self, handle: &Bytes, event: WorkEvent, output: &mut Output) {
        let Some(numbers) = self.by_handle.get_mut(handle) else { return };
        let ending = match event {
            WorkEvent::Complete(result) => Ending::Complete(keep(&result)),
            WorkEvent::Fail => Ending::Failed,
            WorkEvent::Exception(why) => Ending::Exception(keep(&why)),
            WorkEvent::Data(_) | WorkEvent::Warning(_) | WorkEvent::Status(..) => {
                // The server sends one copy for each submission that shares the handle; each submission gets
                // its own.
                let Some(number) = numbers.front().copied() else { return };
                numbers.rotate_left(1);
                self.news(number, &event, output);
                return;
            }
        };
        for number in self.by_handle.remove(handle).unwrap_or_default() {
            self.finish(number, ending.clone(), output);
        }
    }

    fn news(&mut self, number: u64, event: &WorkEvent, output: &mut Output) {
        let next = self.settings.ordered && number == self.first && output.streams();
        let Some(job) = self.job(number) else { return };
        match event {
            WorkEvent::Data(data) if next => {
                output.part(data);
                job.printed = true;
            }
            WorkEvent::Data(data) => {
                job.data.push(keep(data));
                self.hold(number, data.len(), output);
            }
            WorkEvent::Warning(data) if output.streams() => output.warning(data),
            WorkEvent::Warning(data) => {
                job.warnings.push(keep(data));
                self.hold(number, data.len(), output);
            }
            WorkEvent::Status(numerator, denominator) => output.status(number, numerator, denominator),
            WorkEvent::Complete(_) | WorkEvent::Fail | WorkEvent::Exception(_) => {}
        }
    }

    /// Accounts for a part of a result that is kept. A result above the memory limit ends the job.
    fn hold(&mut self, number: u64, bytes: usize, output: &mut Output) {
        let cost = bytes + PART_COST;
        self.held += cost;
        if let Some(job) = self.job(number) {
            job.held += cost;
        }
        if self.held > self.most_held {
            for numbers in self.by_handle.values_mut() {
                numbers.retain(|other| *other != number);
            }
            self.release(number);
            let why = too_much(self.most_held);
            self.finish(number, why, output);
        }
    }

    /// Drops what is kept of a result.
    fn release(&mut self, number: u64) {
        let Some(job) = self.job(number) else { return };
        job.data = Vec::new();
        job.warnings = Vec::new();
        let held = std::mem::take(&mut job.held);
        self.held -= held;
    }

    /// Keeps a result until all results before it are printed, or returns the reason why it cannot be kept.
    fn kept(&mut self, number: u64, ending: Ending) -> Ending {
        let size = match &ending {
            Ending::Complete(result) | Ending::Exception(result) => result.len(),
            _ => 0,
        };
        if !self.settings.ordered || number == self.first || size == 0 {
            return ending;
        }
        if self.held + size > self.most_held {
            self.release(number);
            return too_much(self.most_held);
        }
        self.held += size;
        if let Some(job) = self.job(number) {
            job.held += size;
        }
        ending
    }

    fn job(&mut self, number: u64) -> Option<&mut Job> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.jobs.get_mut(index)
    }

    fn finish(&mut self, number: u64, ending: Ending, output: &mut Output) {
        let ordered = self.settings.ordered;
        if self.job(number).is_none_or(|job| job.ending.is_some()) {
            return;
        }
        let ending = self.kept(number, ending);
        let Some(job) = self.job(number) else { return };
        job.workload = Bytes::new();
        if !ordered {
            output.finished(job, &ending);
            self.release(number);
        }
        let count = match ending {
            Ending::Created | Ending::Complete(_) => None,
            Ending::Failed | Ending::Exception(_) | Ending::Rejected(_) => Some(&mut self.counts.failed),
            Ending::Lost | Ending::TimedOut => Some(&mut self.counts.lost),
        };
        if let Some(count) = count {
            *count += 1;
        }
        // Looked up again: the accounting needed the other fields.
        if let Some(job) = self.job(number) {
            job.ending = Some(ending);
        }
        self.unfinished -= 1;
        self.drop_finished(output);
    }

    /// Prints the finished jobs at the front, and the parts of the next one that have arrived already.
    fn drop_finished(&mut self, output: &mut Output) {
        while let Some(job) = self.jobs.front_mut() {
            let Some(ending) = job.ending.take() else {
                if self.settings.ordered && output.streams() {
                    for data in job.data.drain(..) {
                        output.part(&data);
                        job.printed = true;
                    }
                    self.held -= std::mem::take(&mut job.held);
                }
                return;
            };
            if self.settings.ordered {
                output.finished(job, &ending);
            }
            self.held -= job.held;
            self.jobs.pop_front();
            self.first += 1;
        }
    }

    /// Handles a lost connection. Jobs that may be resubmitted stay, the others end here.
    pub(super) fn disconnected(&mut self, output: &mut Output) {
        self.pending.clear();
        self.by_handle.clear();
        let again = self.settings.resubmit || !self.settings.unique.is_empty();
        let mut lost = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| job.ending.is_none()) {
            if again && !job.printed {
                job.data.clear();
                job.warnings.clear();
                self.held -= std::mem::take(&mut job.held);
                job.handle = None;
            } else {
                lost.push(job.number);
            }
        }
        for number in lost {
            self.finish(number, Ending::Lost, output);
        }
    }

    /// Ends all unfinished jobs.
    pub(super) fn give_up(&mut self, ending: &Ending, output: &mut Output) {
        let numbers: Vec<u64> = self.jobs.iter().filter(|job| job.ending.is_none()).map(|job| job.number).collect();
        for number in numbers {
            self.finish(number, ending.clone(), output);
        }
    }
}

/// The ending of a job whose result exceeds the memory limit.
fn too_much(most: usize) -> Ending {
    let most = most >> 20;
    Ending::Rejected(format!("results waiting to be printed exceed {most} MiB; use --unordered, without --json"))
}

fn request(settings: &Settings, connection: &mut Connection, job: &Job) -> Result<(), CodecError> {
    let function = job.function.as_bytes();
    match &settings.epoch {
        None => connection.request(settings.packet_type, &[function, &settings.unique, &job.workload]),
        Some(time) => {
            connection.request(settings.packet_type, &[function, &settings.unique, time.as_bytes(), &job.workload])
        }
    }
}
