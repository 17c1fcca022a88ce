//! `gearmand fleet run`, and `apply` where no monitor runs: the monitor's loop, and the question who is the monitor.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::Outcome;
use super::monitor::{Monitor, unix_now};
use super::office::Office;
use crate::client::backoff::Backoff;
use crate::client::listing::printable;
use crate::client::{ToolError, tell};
use crate::fleet::report::{REPORT_MAX, Report, read_report};

/// How often one that stands by says so.
const REMINDER: Duration = Duration::from_hours(1);
/// How much later than it was to end it is given up.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// When a monitor ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Never.
    Ever,
    /// When nothing more is to be done, or at this time.
    Settled(Instant),
}

/// A monitor, what it is known by, and those that are taken for dead.
pub(super) struct Watch {
    monitor: Monitor,
    connect_timeout: Duration,
    /// Older ones sort before newer ones; what it holds is in the servers' list of workers.
    client_id: String,
    /// Monitors that have a connection and do not answer.
    dead: BTreeSet<String>,
    /// It has looked after the fleet before.
    has_begun: bool,
}

impl Watch {
    pub(super) fn new(monitor: Monitor, connect_timeout: Duration) -> Self {
        let client_id = format!("monitor-{:013.0}-{}", unix_now() * 1000.0, std::process::id());
        Self { monitor, connect_timeout, client_id, dead: BTreeSet::new(), has_begun: false }
    }

    /// Works until it is told to end.
    pub(super) async fn run(mut self, until: Until) -> Result<Outcome, ToolError> {
        let install = |kind| signal(kind).map_err(|error| ToolError::Io("cannot watch for signals", error));
        let (mut terminate, mut interrupt) = (install(SignalKind::terminate())?, install(SignalKind::interrupt())?);
        let end = async {
            match until {
                Until::Ever => std::future::pending().await,
                // It ends by itself then; another monitor or a server may be waited for beyond that.
                Until::Settled(end) => tokio::time::sleep_until((end + LAST_LOOK).into()).await,
            }
        };
        tokio::select! {
            outcome = self.work(until) => outcome,
            () = end => Err(ToolError::Unreachable("it took too long: no server could be asked, or another monitor was".to_owned())),
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
                // Server, workers and monitor of a site that was dark come back together, in any order.
                self.monitor.roster.returned = Some(Instant::now());
            }
            tell("fleet", format_args!("looks after the fleet \"{}\"", self.monitor.desired().fleet));
            if let Some(outcome) = self.look_after(until).await {
                return Ok(outcome);
            }
        }
    }

    /// Waits until no other monitor answers for this fleet; returns whether there was one.
    async fn stand_by(&mut self) -> bool {
        let (mut has_told, mut told) = (false, Instant::now());
        let mut backoff = Backoff::new();
        loop {
            let desired = self.monitor.desired();
            let (limit, interval) = (desired.answer_timeout, desired.interval);
            let roster = &mut self.monitor.roster;
            match roster.functions(limit, &mut Vec::new()).await {
                Ok(_) if roster.monitors == 0 => return has_told,
                Ok(_) => {
                    backoff.reset();
                    match ask_report(&self.monitor, limit).await {
                        Ok(report) if !has_told || told.elapsed() >= REMINDER => {
                            (has_told, told) = (true, Instant::now());
                            let (host, pid) = (printable(&report.host), report.pid);
                            tell("fleet", format_args!("stands by: process {pid} on {host} looks after this fleet"));
                        }
                        Ok(_) => {}
                        Err(why) => {
                            let dead = self.monitor.roster.monitor_ids(limit).await;
                            tell(
                                "fleet",
                                format_args!(
                                    "another monitor does not answer and is taken for dead: {}",
                                    printable(&why)
                                ),
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

    /// Is the monitor; `None` when another one is.
    async fn look_after(&mut self, until: Until) -> Option<Outcome> {
        let servers = self.monitor.roster.addresses();
        let function = self.monitor.roster.monitor_function();
        let report = self.report();
        let mut office = Office::open(servers, self.connect_timeout, &function, &self.client_id, report);
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
            office.publish(self.report());
            if self.is_second().await {
                tell("fleet", format_args!("leaves the fleet to another monitor, which was there before"));
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
                Some(call) = office.calls.recv() => {
                    let taken = self.monitor.take(call.wish);
                    office.publish(self.report());
                    // Whoever asked may have gone.
                    let _ = call.answer.send(taken);
                }
            }
        }
    }

    /// The report as others get it. Of a fleet beyond all measure it has a part of the workers.
    fn report(&self) -> Vec<u8> {
        let mut report = self.monitor.report();
        loop {
            // Plain data is never refused.
            let text = serde_json::to_vec(&report).unwrap_or_default();
            if text.len() <= REPORT_MAX || report.workers.is_empty() {
                return text;
            }
            report.workers.truncate(report.workers.len() / 2);
            report.events.clear();
            report.strange.push("there are more workers than a report can hold".to_owned());
        }
    }

    /// Whether another monitor was there before.
    async fn is_second(&mut self) -> bool {
        if self.monitor.roster.monitors <= 1 {
            return false;
        }
        let limit = self.monitor.desired().answer_timeout;
        let ids = self.monitor.roster.monitor_ids(limit).await;
        self.dead.retain(|id| ids.contains(id));
        // Whoever is free answers, be it this one; another answer comes sooner or later if there is anybody.
        if !self.dead.is_empty()
            && let Ok(report) = ask_report(&self.monitor, limit).await
            && !self.monitor.is_own(&report)
        {
            self.dead.clear();
        }
        ids.iter().any(|id| is_monitor(id) && *id < self.client_id && !self.dead.contains(id))
    }
}

/// Whether a client id is one of a monitor's, which begin with the time of its start.
fn is_monitor(id: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = id.strip_prefix("monitor-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(time, pid)| time.len() == 13 && digits(time) && digits(pid))
}

/// Asks the monitor that there is for its report.
///
/// # Errors
/// Why there is none.
pub(super) async fn ask_report(monitor: &Monitor, limit: Duration) -> Result<Report, String> {
    let answer = monitor.roster.ask_monitor(br#"{"verb":"status"}"#, limit).await?;
    read_report(&answer).map_err(|error| error.to_string())
}
