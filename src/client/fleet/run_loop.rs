//! `gearmand fleet run`, and `apply` without a running monitor: the monitor's main loop, and the election of
//! a single monitor.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::Outcome;
use super::control_endpoint::ControlEndpoint;
use super::monitor::{Monitor, unix_now};
use crate::client::backoff::Backoff;
use crate::client::listing::printable;
use crate::client::{ToolError, tell};
use crate::fleet::report::{REPORT_MAX, Report, read_report};

/// Interval of the log line of a monitor on standby.
const REMINDER: Duration = Duration::from_hours(1);
/// Grace time after the time limit before the monitor is aborted.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// When a monitor ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Never.
    Ever,
    /// When the desired state is reached, or at this time.
    Settled(Instant),
}

/// A monitor, its client id, and the monitors that are considered dead.
pub(super) struct RunLoop {
    monitor: Monitor,
    connect_timeout: Duration,
    /// Ids of older monitors sort before those of newer ones. It appears in the servers' list of workers.
    client_id: String,
    /// Monitors that have a connection and do not answer.
    dead: BTreeSet<String>,
    /// Whether it has supervised the fleet before.
    has_begun: bool,
}

impl RunLoop {
    pub(super) fn new(monitor: Monitor, connect_timeout: Duration) -> Self {
        let client_id = format!("monitor-{:013.0}-{}", unix_now() * 1000.0, std::process::id());
        Self { monitor, connect_timeout, client_id, dead: BTreeSet::new(), has_begun: false }
    }

    /// Runs until the end.
    pub(super) async fn run(mut self, until: Until) -> Result<Outcome, ToolError> {
        let install = |kind| signal(kind).map_err(|error| ToolError::Io("cannot watch for signals", error));
        let (mut terminate, mut interrupt) = (install(SignalKind::terminate())?, install(SignalKind::interrupt())?);
        let end = async {
            match until {
                Until::Ever => std::future::pending().await,
                // Normally it ends by itself at this time, but waiting for another monitor or a server may
                // take longer.
                Until::Settled(end) => tokio::time::sleep_until((end + LAST_LOOK).into()).await,
            }
        };
        tokio::select! {
            outcome = self.work(until) => outcome,
            () = end => {
                Err(ToolError::Unreachable("timeout: no server reachable, or another monitor active".to_owned()))
            }
            _ = terminate.recv() => Ok(Outcome::Ended),
            _ = interrupt.recv() => Ok(Outcome::Ended),
        }
    }

    async fn work(&mut self, until: Until) -> Result<Outcome, ToolError> {
        loop {
            if self.stand_by().await {
                self.monitor.take_over();
            }
            if until == Until::Ever && !std::mem::replace(&mut self.has_begun, true) {
                // After an outage of a whole site, the server, the workers and the monitor come back in any
                // order.
                self.monitor.membership.returned = Some(Instant::now());
            }
            tell("fleet", format_args!("monitoring fleet \"{}\"", self.monitor.desired().fleet));
            if let Some(outcome) = self.look_after(until).await {
                return Ok(outcome);
            }
        }
    }

    /// Waits until no other monitor answers for this fleet. Returns whether there was one.
    async fn stand_by(&mut self) -> bool {
        let (mut has_told, mut told) = (false, Instant::now());
        let mut backoff = Backoff::new();
        loop {
            let desired = self.monitor.desired();
            let (limit, interval) = (desired.answer_timeout, desired.interval);
            let membership = &mut self.monitor.membership;
            match membership.functions(limit, &mut Vec::new()).await {
                Ok(_) if membership.monitors == 0 => return has_told,
                Ok(_) => {
                    backoff.reset();
                    match ask_report(&self.monitor, limit).await {
                        Ok(report) if !has_told || told.elapsed() >= REMINDER => {
                            (has_told, told) = (true, Instant::now());
                            let (host, pid) = (printable(&report.host), report.pid);
                            tell("fleet", format_args!("standby: monitor {pid} on {host} is active"));
                        }
                        Ok(_) => {}
                        Err(why) => {
                            let dead = self.monitor.membership.monitor_ids(limit).await;
                            tell(
                                "fleet",
                                format_args!("other monitor is unresponsive, considered dead: {}", printable(&why)),
                            );
                            self.dead.extend(dead);
                            return true;
                        }
                    }
                    tokio::time::sleep(interval).await;
                }
                Err(error) => {
                    tell("fleet", format_args!("{error}; trying again"));
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Acts as the monitor. Returns `None` if another one takes precedence.
    async fn look_after(&mut self, until: Until) -> Option<Outcome> {
        let servers = self.monitor.membership.addresses();
        let function = self.monitor.membership.monitor_function();
        let report = self.report();
        let mut endpoint = ControlEndpoint::open(servers, self.connect_timeout, &function, &self.client_id, report);
        let mut backoff = Backoff::new();
        loop {
            let pause = match self.monitor.turn().await {
                Ok(()) => {
                    backoff.reset();
                    self.monitor.pause()
                }
                Err(error) => {
                    tell("fleet", format_args!("{error}; trying again"));
                    backoff.pause()
                }
            };
            endpoint.publish(self.report());
            if self.must_step_down().await {
                tell("fleet", format_args!("stepping down: an older monitor is running"));
                return None;
            }
            if let Until::Settled(end) = until {
                if self.monitor.is_settled() {
                    return Some(Outcome::Settled(Box::new(self.monitor.report())));
                }
                if Instant::now() >= end {
                    return Some(Outcome::TimedOut(Box::new(self.monitor.report())));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(request) = endpoint.requests.recv() => {
                    let taken = self.monitor.take(request.command);
                    endpoint.publish(self.report());
                    // The client may have gone.
                    let _ = request.answer.send(taken);
                }
            }
        }
    }

    /// The report for clients. If the fleet is too large, it contains only a part of the workers.
    fn report(&self) -> Vec<u8> {
        let mut report = self.monitor.report();
        loop {
            // Serializing plain data does not fail.
            let text = serde_json::to_vec(&report).unwrap_or_default();
            if text.len() <= REPORT_MAX || report.workers.is_empty() {
                return text;
            }
            report.workers.truncate(report.workers.len() / 2);
            report.events.clear();
            report.strange.push("list of workers truncated: report size limit".to_owned());
        }
    }

    /// Whether there is an older monitor, so that this one must step down.
    async fn must_step_down(&mut self) -> bool {
        if self.monitor.membership.monitors <= 1 {
            return false;
        }
        let limit = self.monitor.desired().answer_timeout;
        let ids = self.monitor.membership.monitor_ids(limit).await;
        self.dead.retain(|id| ids.contains(id));
        // Any idle monitor may answer, including this one. If there is another one, it answers eventually.
        if !self.dead.is_empty()
            && let Ok(report) = ask_report(&self.monitor, limit).await
            && !self.monitor.is_own(&report)
        {
            self.dead.clear();
        }
        ids.iter().any(|id| is_monitor(id) && *id < self.client_id && !self.dead.contains(id))
    }
}

/// Whether a client id belongs to a monitor; these contain the start time.
fn is_monitor(id: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = id.strip_prefix("monitor-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(time, pid)| time.len() == 13 && digits(time) && digits(pid))
}

/// Requests the report of the running monitor.
///
/// # Errors
/// Why there is none.
pub(super) async fn ask_report(monitor: &Monitor, limit: Duration) -> Result<Report, String> {
    let answer = monitor.membership.ask_monitor(br#"{"verb":"status"}"#, limit).await?;
    read_report(&answer).map_err(|error| error.to_string())
}
