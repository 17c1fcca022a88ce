//! Dispatch of a connection's input: requests to the hub, lines of text to the text commands.

use tracing::info;

use super::connection::{LINE, Limits, Server, TEXT_AHEAD, has_room};
use super::decoder::{Progress, Sink};
use super::greeting::{Greeting, OtherProtocol};
use super::long_answer::{self, Running};
use crate::hub::Applied;
use crate::job_server::{ConnectionId, Now};
use crate::outbox::Outbox;
use crate::protocol::text::{AdminCommand, AdminError};
use crate::protocol::{PeerError, Request};
use crate::stats::ConnectionGauges;

/// Applies the decoded input of a connection.
pub(super) struct Dispatcher<'a> {
    pub(super) server: &'a Server,
    pub(super) outbox: &'a Outbox,
    pub(super) long_answer: &'a mut Option<Running>,
    pub(super) has_text: &'a mut bool,
    pub(super) id: ConnectionId,
    pub(super) gauges: &'a ConnectionGauges,
    pub(super) limits: &'a Limits,
    pub(super) greeting: &'a mut Greeting,
    /// Budget that is left before the connection yields.
    pub(super) budget: &'a mut u32,
    /// The peer does not speak Gearman.
    pub(super) speaks_other_protocol: bool,
    /// The next request waits until all jobs are restored.
    pub(super) awaits_jobs: bool,
    /// When the first request of this input was applied.
    pub(super) worked_at: Option<Now>,
}

impl Dispatcher<'_> {
    /// The time at which the current request is applied.
    fn now(&mut self) -> Now {
        let now = self.server.clock.now();
        self.worked_at.get_or_insert(now);
        now
    }
}

impl Sink for Dispatcher<'_> {
    fn requests(&mut self, batch: &[Result<Request<'_>, PeerError>]) -> Progress {
        let now = self.now();
        *self.has_text = false;
        let Applied { count, spent, is_turn_over, awaits_jobs } = self.server.hub.apply(now, self.id, batch);
        log_refused(&batch[..count]);
        self.awaits_jobs = awaits_jobs;
        if batch.iter().any(Result::is_ok) {
            self.greeting.packet();
        }
        *self.budget = self.budget.saturating_sub(spent);
        if count < batch.len() {
            Progress::HoldAfter(count)
        } else if !is_turn_over && *self.budget > 0 && has_room(self.outbox, self.limits) {
            Progress::GoOn
        } else {
            Progress::Hold
        }
    }

    fn line(&mut self, line: &[u8]) -> bool {
        let mut answer = Vec::new();
        let parsed = AdminCommand::parse(line);
        let is_command = !matches!(parsed, Err(AdminError::UnknownCommand(_)));
        if let Some(other) = self.greeting.line(line, is_command) {
            let (what, word) = match other {
                OtherProtocol::Http => ("HTTP", line.split(|byte| *byte == b' ').next().unwrap_or(line)),
                OtherProtocol::Binary => ("TLS or another protocol", &b""[..]),
                OtherProtocol::Text => ("another protocol", line.split(|byte| *byte == b' ').next().unwrap_or(line)),
            };
            info!("Closed {}: {what} instead of Gearman on the job port", self.gauges.peer);
            AdminError::UnknownCommand(word).write(&mut answer);
            self.outbox.answer_text(&answer);
            self.speaks_other_protocol = true;
            return false;
        }
        let is_quick = parsed.as_ref().is_ok_and(AdminCommand::is_quick);
        let now = self.now();
        let long = self.server.admin.answer(now, line, parsed, &self.gauges.peer, &mut answer);
        *self.long_answer = long.and_then(|long| long_answer::begin(self.server, long, &mut answer));
        self.outbox.answer_text(&answer);
        *self.has_text = true;
        *self.budget = self.budget.saturating_sub(LINE);
        let is_enough = !is_quick || *self.budget == 0 || self.outbox.queued() >= TEXT_AHEAD;
        self.long_answer.is_none() && !is_enough && has_room(self.outbox, self.limits)
    }
}

/// Logs the requests that were refused as malformed.
fn log_refused(batch: &[Result<Request<'_>, PeerError>]) {
    for error in batch.iter().filter_map(|request| request.as_ref().err()) {
        info!("{}:{}", error.code, error.text);
    }
}
