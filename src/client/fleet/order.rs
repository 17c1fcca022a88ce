//! Requests to a running monitor, and following their progress until they are done.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::monitor::Monitor;
use super::run_loop::ask_report;
use super::show;
use crate::client::listing::printable;
use crate::client::{EXIT_FAILED, ToolError, tell};
use crate::fleet::contract::{Status, Verb, WorkerId, WorkerState, read_answer};
use crate::fleet::report::{MonitorCommand, Report};

/// Interval at which the progress is queried.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a monitor may take to accept a request.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long queries may remain unanswered: the monitor may be busy, and a server may be restarting.
const SILENCE: Duration = Duration::from_mins(1);

/// Answer of the monitor to an accepted request.
#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    did: String,
}

/// The report of the running monitor of this fleet; `None` if there is none.
///
/// # Errors
/// When no server can be reached, or the monitor does not answer.
pub(super) async fn running(monitor: &mut Monitor) -> Result<Option<Report>, ToolError> {
    let limit = monitor.desired().answer_timeout;
    monitor.membership.functions(limit, &mut Vec::new()).await.map_err(ToolError::Unreachable)?;
    if monitor.membership.monitors == 0 {
        return Ok(None);
    }
    let report = ask_report(monitor, limit).await;
    report
        .map(Some)
        .map_err(|error| ToolError::Unreachable(format!("the monitor does not answer: {}", printable(&error))))
}

/// A request, carried out by another monitor or without one.
pub(super) struct Order {
    monitor: Monitor,
    timeout: Duration,
    is_json: bool,
}

impl Order {
    pub(super) const fn new(monitor: Monitor, timeout: Duration, is_json: bool) -> Self {
        Self { monitor, timeout, is_json }
    }

    /// Sends the request to the running monitor, and reports its actions until it is done.
    pub(super) async fn give(self, command: MonitorCommand, before: Report) -> Result<u8, ToolError> {
        // Serializing plain data does not fail.
        let workload = serde_json::to_vec(&command).unwrap_or_default();
        let answer = self.monitor.membership.ask_monitor(&workload, PATIENCE).await.map_err(ToolError::Unreachable)?;
        match read_answer::<Ack>(&answer) {
            Ok(Ack { did }) => tell("fleet", format_args!("{}", printable(&did))),
            Err(error) => {
                tell("fleet", format_args!("request refused by the monitor: {}", printable(&error)));
                return Ok(EXIT_FAILED);
            }
        }
        self.follow(before, &command).await
    }

    async fn follow(self, before: Report, command: &MonitorCommand) -> Result<u8, ToolError> {
        let end = Instant::now() + self.timeout;
        let limit = self.monitor.desired().answer_timeout;
        let mut since = before.events.last().map_or(0.0, |event| event.at);
        let mut heard = Instant::now();
        loop {
            let report = match ask_report(&self.monitor, limit).await {
                Ok(report) => report,
                Err(_) if heard.elapsed() < SILENCE && Instant::now() < end => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => {
                    return Err(ToolError::Unreachable(format!("the monitor does not answer: {}", printable(&error))));
                }
            };
            heard = Instant::now();
            if (&report.host, report.pid) != (&before.host, before.pid) {
                let (host, pid) = (printable(&report.host), report.pid);
                tell(
                    "fleet",
                    format_args!("another monitor is active now, process {pid} on {host}; repeat the command"),
                );
                return Ok(EXIT_FAILED);
            }
            for event in report.events.iter().filter(|event| event.at > since) {
                let error = event.error.as_ref().map_or_else(String::new, |error| format!(": failed: {error}"));
                tell("fleet", format_args!("{}", printable(&format!("{}: {}{error}", event.what, event.why))));
            }
            since = report.events.last().map_or(since, |event| event.at.max(since));
            let is_done = match command {
                MonitorCommand::Stop { host } => {
                    report.workers.iter().all(|worker| worker.status.identity.host != *host)
                }
                MonitorCommand::Start { .. } | MonitorCommand::Status => true,
                MonitorCommand::Apply { .. } => report.settled,
                MonitorCommand::Roll { .. } => report.settled && report.outdated == 0,
            };
            if is_done || Instant::now() >= end {
                // Goals that were not part of the request are not mentioned.
                let is_whole = !matches!(command, MonitorCommand::Apply { .. }) || report.unmet.is_empty();
                return show::end(&report, is_done, is_whole, self.is_json);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends a host's workers without a running monitor, and waits until they are gone.
    pub(super) async fn stop(mut self, host: &str) -> Result<u8, ToolError> {
        let end = Instant::now() + self.timeout;
        let limit = self.monitor.desired().answer_timeout;
        let mut has_found = false;
        loop {
            self.monitor.membership.refresh(false, limit).await.map_err(ToolError::Unreachable)?;
            let there =
                self.monitor.membership.members.iter().filter(|(_, member)| member.status.identity.host == host);
            let stays = |status: &Status| status.activity.state != WorkerState::Leaving;
            let count = there.clone().count();
            let ids: Vec<WorkerId> =
                there.filter(|(_, member)| stays(&member.status)).map(|(id, _)| id.clone()).collect();
            if count == 0 {
                let (host, unnamed) = (printable(host), self.monitor.membership.unnamed);
                if !has_found {
                    tell("fleet", format_args!("no worker of this fleet on host {host}"));
                }
                if unnamed > 0 {
                    tell("fleet", format_args!("{unnamed} workers have no id yet; some may be on host {host}"));
                }
                return show::end(&self.report(), has_found, true, self.is_json);
            }
            if !has_found {
                tell("fleet", format_args!("{count} workers exit after their current jobs"));
            }
            has_found = true;
            let requests: Vec<_> = ids.into_iter().map(|id| (id, Verb::ExitWorker.request())).collect();
            let answers = self.monitor.membership.tell(&requests, limit).await;
            for ((id, _), answer) in requests.iter().zip(answers) {
                if let Err(error) = answer {
                    tell("fleet", format_args!("{id}: {}", printable(&error.to_string())));
                }
            }
            if Instant::now() >= end {
                return show::end(&self.report(), false, true, self.is_json);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn report(&self) -> Report {
        Report { host: String::new(), pid: 0, started: 0.0, ..self.monitor.report() }
    }
}
