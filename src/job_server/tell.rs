//! Delivery of packets to all clients of a job, and the end of a job.
//!
//! A few clients are notified at once. For many clients the message is kept with the job, with a cursor to
//! the next wait, and is delivered in batches: by the worker's own request, which is repeated until delivery
//! is complete, and by the timer. Messages of one job are delivered in order. A job that has ended is removed
//! at once: only its waits are left, for the final packet, so that neither its worker's disconnect nor an
//! equal submission has any effect.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::connection::{Pending, Wait};
use super::effects::Effects;
use super::ids::{ConnectionSlot, SlotId, WaitSlot};
use super::job::JobState;
use super::{ConnectionId, JobServer, price};
use crate::protocol::{JobHandle, Response, Workload};
use crate::stats::account::Account;

/// A message to the clients of a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'a> {
    Status {
        numerator: &'a [u8],
        denominator: &'a [u8],
    },
    Data(Workload<'a>),
    Warning(Workload<'a>),
    Complete(Workload<'a>),
    Exception(Workload<'a>),
    Fail,
    /// The job ends without a packet: its clients have been notified already.
    Nothing,
}

/// A [`Said`] with bytes of its own, kept until it is delivered.
#[derive(Debug)]
enum Kept {
    Status { numerator: Box<[u8]>, denominator: Box<[u8]> },
    Data(Bytes),
    Warning(Bytes),
    Complete(Bytes),
    Exception(Bytes),
    Fail,
    Nothing,
}

/// A message that is being delivered to very many clients.
#[derive(Debug)]
pub(super) struct Message {
    kept: Kept,
    serial: u64,
    /// The connection whose request waits for the delivery.
    speaker: Option<ConnectionId>,
    /// The cursor: the next wait to notify. It belongs to the job, or is [`WaitSlot::NONE`].
    place: Option<WaitSlot>,
}

/// Copies of a payload that take more than this together, in bytes, are replaced by references to one.
const SHARED_FROM: usize = 16 * 1024;

/// The share of a budget that may be spent at once on the clients of one job, however much was spent before.
const AT_ONCE_SHARE: u32 = 8;

impl<'a> Said<'a> {
    const fn payload(self) -> Option<Workload<'a>> {
        match self {
            Self::Data(workload) | Self::Warning(workload) | Self::Complete(workload) | Self::Exception(workload) => {
                Some(workload)
            }
            Self::Status { .. } | Self::Fail | Self::Nothing => None,
        }
    }

    fn with_payload<'b>(self, payload: Workload<'b>) -> Said<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Data(_) => Said::Data(payload),
            Self::Warning(_) => Said::Warning(payload),
            Self::Complete(_) => Said::Complete(payload),
            Self::Exception(_) => Said::Exception(payload),
            Self::Status { .. } | Self::Fail | Self::Nothing => self,
        }
    }

    fn response(self, handle: JobHandle<'a>, wants_exceptions: bool) -> Option<Response<'a>> {
        Some(match self {
            Self::Status { numerator, denominator } => Response::WorkStatus { handle, numerator, denominator },
            Self::Data(workload) => Response::WorkData { handle, workload },
            Self::Warning(workload) => Response::WorkWarning { handle, workload },
            Self::Complete(workload) => Response::WorkComplete { handle, workload },
            Self::Exception(workload) if wants_exceptions => Response::WorkException { handle, workload },
            Self::Exception(_) | Self::Fail => Response::WorkFail { handle },
            Self::Nothing => return None,
        })
    }

    fn keep(self, account: &Arc<Account>) -> Kept {
        let keep = |payload: Workload<'_>| shared(payload, account);
        match self {
            Self::Status { numerator, denominator } => {
                Kept::Status { numerator: numerator.into(), denominator: denominator.into() }
            }
            Self::Data(payload) => Kept::Data(keep(payload)),
            Self::Warning(payload) => Kept::Warning(keep(payload)),
            Self::Complete(payload) => Kept::Complete(keep(payload)),
            Self::Exception(payload) => Kept::Exception(keep(payload)),
            Self::Fail => Kept::Fail,
            Self::Nothing => Kept::Nothing,
        }
    }
}

/// A payload that several packets may share. Bytes copied for that are counted until the last reference is
/// dropped; bytes of a large packet are counted already.
fn shared(payload: Workload<'_>, account: &Arc<Account>) -> Bytes {
    payload.share().unwrap_or_else(|| account.count_once(Bytes::copy_from_slice(payload.as_bytes())))
}

impl Kept {
    fn said(&self) -> Said<'_> {
        match self {
            Self::Status { numerator, denominator } => Said::Status { numerator, denominator },
            Self::Data(payload) => Said::Data(Workload::common(payload)),
            Self::Warning(payload) => Said::Warning(Workload::common(payload)),
            Self::Complete(payload) => Said::Complete(Workload::common(payload)),
            Self::Exception(payload) => Said::Exception(Workload::common(payload)),
            Self::Fail => Said::Fail,
            Self::Nothing => Said::Nothing,
        }
    }

    /// Whether it is the last message of a job.
    const fn is_last(&self) -> bool {
        match self {
            Self::Complete(_) | Self::Exception(_) | Self::Fail | Self::Nothing => true,
            Self::Status { .. } | Self::Data(_) | Self::Warning(_) => false,
        }
    }
}

impl JobServer {
    /// Notifies all clients that wait for the job of a worker's message. Returns whether delivery is
    /// complete; if not, the worker's request must be repeated.
    pub(super) fn tell(
        &mut self,
        job: u32,
        speaker: ConnectionSlot,
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        if self.has_few_clients(job) {
            self.tell_at_once(job, said, effects);
            return true;
        }
        self.tell_in_pieces(job, Some(speaker), said, effects)
    }

    /// Ends a job in any state, and notifies all its clients. Removes it from the store if the store has it
    /// or may have it. If a worker's request ends it, returns whether delivery is complete; if not, the
    /// request must be repeated.
    pub(super) fn end(
        &mut self,
        job: u32,
        speaker: Option<ConnectionSlot>,
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        if self.has_few_clients(job) {
            self.tell_at_once(job, said, effects);
            self.remove_job(job, effects);
            return true;
        }
        self.retire(job, effects);
        self.tell_in_pieces(job, speaker, said, effects)
    }

    fn has_few_clients(&self, job: u32) -> bool {
        let most = self.policy.turn_budget / AT_ONCE_SHARE / price::PACKET;
        let is_unsaid = self.messages.is_empty() || !self.messages.contains_key(&job);
        is_unsaid && self.count_waits(self.jobs.get(job).waits) <= most.max(1)
    }

    fn tell_at_once(&mut self, job: u32, said: Said<'_>, effects: &mut impl Effects) {
        let first = self.jobs.get(job).waits;
        let receivers = self.count_waits(first) as usize;
        let owner = said
            .payload()
            .filter(|payload| receivers > 1 && payload.as_bytes().len().saturating_mul(receivers) >= SHARED_FROM);
        let owner = owner.map(|payload| shared(payload, &self.stats.memory));
        let said = match &owner {
            Some(owner) => said.with_payload(Workload::common(owner)),
            None => said,
        };
        let mut wait = first;
        while wait != WaitSlot::NONE {
            let Wait { connection, next_of_job, .. } = self.waits[wait];
            self.tell_one(job, connection, said, effects);
            wait = next_of_job;
        }
    }

    fn tell_one(&self, job: u32, connection: ConnectionSlot, said: Said<'_>, effects: &mut impl Effects) {
        let wants_exceptions = self.connections[connection].exceptions || self.policy.exceptions;
        let handle = self.jobs.get(job).handle(&self.prefixes);
        if let Some(response) = said.response(handle, wants_exceptions) {
            self.say(self.id_of(connection), response, effects);
        }
    }

    fn tell_in_pieces(
        &mut self,
        job: u32,
        speaker: Option<ConnectionSlot>,
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        self.last_message += 1;
        let serial = self.last_message;
        let message = Message {
            kept: said.keep(&self.stats.memory),
            serial,
            speaker: speaker.map(|speaker| self.id_of(speaker)),
            place: None,
        };
        let is_first = self.messages.get(&job).is_none_or(VecDeque::is_empty);
        self.messages.entry(job).or_default().push_back(message);
        if let Some(speaker) = speaker {
            self.connections[speaker].pending = Some(Pending::Message { job, serial });
        }
        if !self.work_budget.is_empty() {
            self.deliver(job, effects);
        }
        if is_first && self.messages.contains_key(&job) {
            self.undelivered.push_back(job);
        }
        speaker.is_none_or(|speaker| self.is_delivered(speaker, job, serial))
    }

    /// Continues delivery of a connection's message. Returns whether it is complete.
    pub(super) fn go_on_telling(
        &mut self,
        speaker: ConnectionSlot,
        job: u32,
        serial: u64,
        effects: &mut impl Effects,
    ) -> bool {
        self.deliver(job, effects);
        self.is_delivered(speaker, job, serial)
    }

    fn is_delivered(&mut self, speaker: ConnectionSlot, job: u32, serial: u64) -> bool {
        let messages = self.messages.get(&job);
        let is_there = messages.is_some_and(|messages| messages.iter().any(|message| message.serial == serial));
        if !is_there {
            self.connections[speaker].pending = None;
        }
        !is_there
    }

    /// Continues delivery to very many clients, round-robin over their jobs, until the budget is spent.
    /// [`timeout`](Self::timeout) does so too; see [`has_undelivered`](Self::has_undelivered).
    pub fn deliver_all(&mut self, effects: &mut impl Effects) {
        for _ in 0..self.undelivered.len() {
            if self.is_turn_over() {
                return;
            }
            let Some(job) = self.undelivered.pop_front() else { return };
            self.deliver(job, effects);
            if self.messages.contains_key(&job) {
                self.undelivered.push_back(job);
            }
        }
    }

    /// Delivers messages of a job to at least one client, and until the budget is spent.
    fn deliver(&mut self, job: u32, effects: &mut impl Effects) {
        let mut has_told = false;
        while let Some(mut message) = self.messages.get_mut(&job).and_then(VecDeque::pop_front) {
            let is_last = message.kept.is_last();
            // If the worker was lost during delivery, drop its message: the next worker will send its own.
            let mut wait = match message.place {
                _ if !is_last && !self.is_awaited_by_speaker(job, &message) => WaitSlot::NONE,
                Some(place) => place,
                None => self.jobs.get(job).waits,
            };
            while wait != WaitSlot::NONE {
                if has_told && self.is_turn_over() {
                    message.place = Some(wait);
                    self.messages.entry(job).or_default().push_front(message);
                    return;
                }
                has_told = true;
                let Wait { connection, next_of_job, .. } = self.waits[wait];
                self.work_budget.spend(price::ENTRY);
                self.tell_one(job, connection, message.kept.said(), effects);
                if is_last {
                    self.remove_wait(wait);
                }
                wait = next_of_job;
            }
            if is_last {
                return self.forget_ended(job);
            }
        }
        self.messages.remove(&job);
    }

    fn is_awaited_by_speaker(&self, job: u32, message: &Message) -> bool {
        let speaker = message.speaker.and_then(|speaker| self.slot_of(speaker));
        let pending = speaker.and_then(|speaker| self.connections[speaker].pending);
        pending == Some(Pending::Message { job, serial: message.serial })
    }

    /// Moves the delivery cursor past a wait that is removed.
    pub(super) fn skip_wait(&mut self, job: u32, wait: WaitSlot, next: WaitSlot) {
        let front = self.messages.get_mut(&job).and_then(VecDeque::front_mut);
        if let Some(message) = front.filter(|message| message.place == Some(wait)) {
            message.place = Some(next);
        }
    }

    /// Frees an ended job that has no waits left.
    pub(super) fn forget_ended(&mut self, job: u32) {
        self.messages.remove(&job);
        self.jobs.free_slot(job);
    }

    /// Whether messages are still to be delivered.
    pub fn has_undelivered(&self) -> bool {
        !self.undelivered.is_empty()
    }

    /// Checks the messages that are being delivered.
    pub(super) fn check_messages(&self) {
        for (job, messages) in &self.messages {
            assert!(self.undelivered.contains(job), "what is said of a job will never be delivered");
            assert!(!messages.is_empty(), "nothing is said of a job");
            let known = self.jobs.find(*job);
            assert!(known.is_some(), "something is said of a job that is gone");
            let has_last = messages.iter().any(|message| message.kept.is_last());
            let has_ended = known.is_some_and(|job| job.state == JobState::Ended);
            assert_eq!(
                has_last, has_ended,
                "a job has ended, and its last packet has not come, or the other way round"
            );
            for (index, message) in messages.iter().enumerate() {
                assert!(index == 0 || message.place.is_none(), "what was said later is delivered before");
                let of_job = |wait: WaitSlot| {
                    wait == WaitSlot::NONE || self.waits.get(wait).is_some_and(|wait| wait.job == *job)
                };
                assert!(message.place.is_none_or(of_job), "a delivery is at a wait for another job");
            }
        }
    }
}
