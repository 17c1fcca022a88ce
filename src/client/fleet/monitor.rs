//! The monitor: observes, reconciles, acts, reports, and repeats.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::file::DesiredFile;
use super::membership::Membership;
use super::news::{News, Trouble};
use crate::client::listing::printable;
use crate::client::{host_name, tell};
use crate::fleet::contract::{Identity, Request, Verb, WorkerId, check_name, cut};
use crate::fleet::desired::Desired;
use crate::fleet::reconcile::{Action, Decision, Memory, Plan, dry_run, reconcile};
use crate::fleet::report::{Event, FunctionReport, MonitorCommand, Report, WorkerReport};

/// Maximum number of past actions in a report.
const EVENTS_MAX: usize = 200;
/// Maximum number of stopped hosts.
const STOPPED_MAX: usize = 1000;
/// Longest error text that is kept, in bytes.
const ERROR_MAX: usize = 300;
/// Maximum number of observations reported per iteration.
const NEWS_MAX: usize = 200;
/// Maximum number of anomalies reported per kind.
const STRANGE_MAX: usize = 20;
/// Minimum and maximum pause between two iterations while a change is in progress.
const SHORT_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Monitor of a fleet.
pub(super) struct Monitor {
    pub(super) membership: Membership,
    pub(super) file: DesiredFile,
    /// The last plan, with the memory for the next one.
    plan: Plan,
    events: VecDeque<Event>,
    started: f64,
    /// A request was accepted since the last plan, so the fleet must not count as settled yet.
    is_stale: bool,
    has_failed: bool,
    /// Goals that could not be reached at the last iteration.
    unmet: Vec<String>,
}

impl Monitor {
    pub(super) fn new(membership: Membership, file: DesiredFile) -> Self {
        let memory = Memory { rolling: file.rolling().clone(), ..Memory::default() };
        Self {
            membership,
            file,
            plan: Plan { memory, ..Plan::default() },
            events: VecDeque::new(),
            started: unix_now(),
            is_stale: true,
            has_failed: false,
            unmet: Vec::new(),
        }
    }

    pub(super) fn desired(&self) -> &Desired {
        self.file.desired()
    }

    /// Observes and acts once.
    ///
    /// # Errors
    /// When no server answers.
    pub(super) async fn turn(&mut self) -> Result<(), String> {
        match self.file.read_again() {
            None => {}
            Some(Ok(())) => {
                self.plan.memory.forget_failures();
                self.note("reload desired state", "file changed", None);
            }
            Some(Err(error)) => self.note("keep previous desired state", "file changed", Some(error)),
        }
        let limit = self.desired().answer_timeout;
        let news = self.membership.refresh(true, limit).await?;
        let left_out = news.len().saturating_sub(NEWS_MAX);
        for news in news.into_iter().take(NEWS_MAX) {
            self.tell_news(news);
        }
        if left_out > 0 {
            self.note(&format!("{left_out} more changes not shown"), "too many in one iteration", None);
        }
        for host in self.membership.newly_left(self.desired().unresponsive_timeout) {
            self.tell_news(News::Left(host));
        }
        self.membership.gc(self.desired().unresponsive_timeout, limit).await;
        // Workers that come back with their server reconnect one by one. The first one must not be told to
        // start replacements for the others.
        let hold = self.desired().interval * 2;
        if self.membership.returned.is_none_or(|returned| returned.elapsed() >= hold) {
            self.membership.returned = None;
            self.reconcile();
            self.act().await;
            self.keep_rolling();
            self.tell_unmet();
        } else {
            self.plan = dry_run(self.file.desired(), &self.membership.observed(), &self.plan.memory);
        }
        self.is_stale = false;
        Ok(())
    }

    /// Makes a plan without executing it.
    pub(super) fn reconcile(&mut self) {
        self.plan = reconcile(self.file.desired(), &self.membership.observed(), &self.plan.memory);
    }

    /// Reports goals that cannot be reached, once when they appear and once when they are resolved.
    fn tell_unmet(&mut self) {
        // A change of the numbers in a message is not news.
        let known =
            |all: &[String], line: &String| all.iter().any(|other| without_numbers(other).eq(without_numbers(line)));
        let unmet = self.plan.unmet.clone();
        for line in unmet.iter().filter(|line| !known(&self.unmet, line)) {
            tell("fleet", format_args!("goal not reached: {}", printable(line)));
        }
        for line in self.unmet.iter().filter(|line| !known(&unmet, line)) {
            tell("fleet", format_args!("resolved: {}", printable(line)));
        }
        self.unmet = unmet;
    }

    fn keep_rolling(&mut self) {
        if let Err(error) = self.file.keep_rolling(&self.plan.memory.rolling) {
            self.note("cannot save pending replacements", "list changed", Some(error));
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Pause until the next iteration, unless a request arrives.
    pub(super) fn pause(&self) -> Duration {
        let interval = self.desired().interval;
        let is_busy = !self.plan.is_settled() || self.membership.returned.is_some();
        if is_busy { (interval / 5).clamp(SHORT_PAUSES.0, SHORT_PAUSES.1).min(interval) } else { interval }
    }

    /// Executes the plan: first the actions that add capacity, then those that remove it. Capacity that was
    /// only requested does not justify a removal, so a worker that refuses does not hold up the others.
    async fn act(&mut self) {
        let decisions = std::mem::take(&mut self.plan.decisions);
        let makes = |action: &Action| matches!(action, Action::Register { .. } | Action::Start { .. });
        let (first, then): (Vec<_>, Vec<_>) = decisions.iter().cloned().partition(|decision| makes(&decision.action));
        let first = self.perform(&first).await;
        let then = self.perform(&then).await;
        self.has_failed = !(first && then);
        self.plan.decisions = decisions;
    }

    async fn perform(&mut self, decisions: &[Decision]) -> bool {
        let requests: Vec<(WorkerId, Request)> = decisions.iter().map(|decision| request(&decision.action)).collect();
        let answers = self.membership.tell(&requests, self.desired().answer_timeout).await;
        let mut went_well = true;
        for (decision, answer) in decisions.iter().zip(answers) {
            went_well &= answer.is_ok();
            if let Err(Trouble::Refused(why)) = &answer {
                self.remember_refusal(&decision.action, why);
            }
            if let (Err(Trouble::Gone), Action::Start { host, by }) = (&answer, &decision.action) {
                self.plan.memory.start_not_heard(host, by);
            }
            let what = self.said(&decision.action);
            self.note(&what, &decision.why, answer.err().map(|trouble| trouble.to_string()));
        }
        went_well
    }

    /// Records a refusal, so that the worker is not asked for the same again and again.
    fn remember_refusal(&mut self, action: &Action, why: &str) {
        let now_ms = self.membership.now_ms();
        let mut why = why.to_owned();
        cut(&mut why, ERROR_MAX);
        match action {
            Action::Register { worker, function } => self.plan.memory.refused(worker, function, now_ms),
            Action::Start { host, by } => self.plan.memory.start_failed(host, by, why, now_ms),
            Action::Unregister { .. } | Action::Exit { .. } => {}
        }
    }

    fn host_of(&self, id: &WorkerId) -> &str {
        self.membership.members.get(id).map_or("an unknown host", |member| member.status.identity.host.as_str())
    }

    /// Describes an action in words.
    pub(super) fn said(&self, action: &Action) -> String {
        match action {
            Action::Register { worker, function } => {
                format!("register {function} on {worker} on {}", self.host_of(worker))
            }
            Action::Unregister { worker, function } => {
                format!("unregister {function} from {worker} on {}", self.host_of(worker))
            }
            Action::Start { host, by } => format!("start worker on {host} via {by}"),
            Action::Exit { worker } => format!("stop {worker} on {}", self.host_of(worker)),
        }
    }

    fn tell_news(&mut self, news: News) {
        match news {
            News::Found(id, is_new) => {
                let Some(member) = self.membership.members.get(&id) else { return };
                let Identity { host, pid, language, version, .. } = &member.status.identity;
                let what = format!("found worker {id} on {host}, process {pid}, {language}, version {version}");
                self.note(&what, if is_new { "new id assigned" } else { "it already had an id" }, None);
            }
            News::Gone(id, host, was_told) => {
                let why = if was_told { "exited as requested" } else { "connection closed" };
                self.note(&format!("worker {id} on {host} gone"), why, None);
            }
            News::Left(host) if self.desired().stopped_hosts.contains(&host) => {}
            News::Left(host) => {
                self.note(&format!("cannot start workers on {host}"), "no worker left there", None);
            }
            // A name that never answered may not be a worker of ours; it is in the report only.
            News::Silent(id, _) if !self.membership.members.contains_key(&id) => {}
            News::Silent(id, why) => {
                let what = format!("no answer from {id} on {}", self.host_of(&id));
                self.note(&what, "status request", Some(why));
            }
            News::Back(id) => {
                self.note(&format!("{id} on {} responds again", self.host_of(&id)), "it was unresponsive", None);
            }
            News::NoServer(error) => self.note("server unreachable", "status request", Some(error)),
        }
    }

    /// Logs an action and remembers it.
    fn note(&mut self, what: &str, why: &str, error: Option<String>) {
        let error = error.map(|mut error| {
            cut(&mut error, ERROR_MAX);
            error
        });
        let line = match &error {
            None => format!("{what}: {why}"),
            Some(error) => format!("{what}: {why}: failed: {error}"),
        };
        tell("fleet", format_args!("{}", printable(&line)));
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { at: unix_now(), what: what.to_owned(), why: why.to_owned(), error });
    }

    /// Accepts a request; the following iterations carry it out.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn take(&mut self, command: MonitorCommand) -> Result<String, String> {
        let did = match command {
            MonitorCommand::Status => return Ok(String::new()),
            MonitorCommand::Apply { desired } => {
                let did = self.file.replace(&desired)?;
                self.plan.memory.forget_failures();
                self.note("apply new desired state", "on request", None);
                did
            }
            MonitorCommand::Roll { host } => {
                let members = self.membership.members.iter();
                let ids: BTreeSet<WorkerId> = members
                    .filter(|(_, member)| host.as_ref().is_none_or(|host| member.status.identity.host == *host))
                    .map(|(id, _)| id.clone())
                    .collect();
                if let Some(host) = host.filter(|_| ids.is_empty()) {
                    return Err(format!("no worker on host {host}"));
                }
                let did = format!("{} workers to be replaced", ids.len());
                self.note(&did, "roll requested", None);
                self.plan.memory.rolling.extend(ids);
                self.keep_rolling();
                did
            }
            MonitorCommand::Stop { host } => {
                check_name(&host).map_err(|error| format!("host name {error}"))?;
                if self.desired().stopped_hosts.len() >= STOPPED_MAX {
                    return Err(format!("too many stopped hosts (limit {STOPPED_MAX})"));
                }
                let kept = self.file.stop(&host, true);
                self.note(&format!("stop host {host}"), "on request", kept.err());
                match self.count_on(&host) {
                    0 => format!("host {host} stopped; no worker known there; check the host name"),
                    count => format!("host {host} stopped; its {count} workers exit after their current jobs"),
                }
            }
            MonitorCommand::Start { host } => {
                if self.file.stops(&host) {
                    return Err(format!(
                        "host {host} is stopped by the desired-state file: remove it from stopped_hosts there"
                    ));
                }
                if !self.desired().stopped_hosts.contains(&host) {
                    return Err(format!("host {host} is not stopped"));
                }
                let kept = self.file.stop(&host, false);
                self.note(&format!("enable host {host}"), "on request", kept.err());
                match self.count_on(&host) {
                    0 => format!("host {host} enabled; no worker runs there yet, start one"),
                    count => format!("host {host} enabled, with {count} workers"),
                }
            }
        };
        self.is_stale = true;
        Ok(did)
    }

    fn count_on(&self, host: &str) -> usize {
        self.membership.members.values().filter(|member| member.status.identity.host == host).count()
    }

    /// Reads the desired state again, since another monitor may have changed it.
    pub(super) fn take_over(&mut self) {
        match self.file.take_over() {
            Ok(()) => self.plan.memory.rolling.clone_from(self.file.rolling()),
            Err(error) => self.note("keep previous desired state", "takeover", Some(error)),
        }
    }

    /// Anomalies, for people: things that exist but cannot be used, or are not supervised.
    fn strange(&self) -> Vec<String> {
        let mut strange = Vec::new();
        let desired = self.desired();
        if let Some(wrong) = self.file.wrong() {
            strange.push(format!("invalid file, previous desired state stays in effect: {wrong}"));
        }
        if self.membership.returned.is_some() {
            strange.push("actions paused: waiting for workers to reconnect".to_owned());
        }
        if !desired.functions.is_empty() {
            let mut others: BTreeMap<&String, usize> = BTreeMap::new();
            for function in self.membership.members.values().flat_map(|member| &member.status.activity.in_use) {
                if !desired.functions.contains_key(function) {
                    *others.entry(function).or_default() += 1;
                }
            }
            let said = |(name, count)| {
                format!("function {name} is not in the desired-state file, but {count} workers have it: left unchanged")
            };
            strange.extend(others.into_iter().take(STRANGE_MAX).map(said));
        }
        for (fleet, count) in self.membership.other_fleets().into_iter().take(STRANGE_MAX) {
            strange.push(format!("{count} workers belong to another fleet, \"{fleet}\""));
        }
        let unresponsive = self.membership.unresponsive.iter().take(STRANGE_MAX);
        strange.extend(unresponsive.map(|(id, unresponsive)| format!("{id} has never answered: {}", unresponsive.why)));
        let duplicate_ids =
            self.membership.duplicate_ids.iter().filter(|(_, since)| since.elapsed() >= desired.unresponsive_timeout);
        strange.extend(
            duplicate_ids.take(STRANGE_MAX).map(|(id, _)| said_of_duplicate(id, self.membership.processes.get(id))),
        );
        let left = self.membership.left_hosts(desired.unresponsive_timeout);
        let left = left.filter(|(host, _)| !desired.stopped_hosts.contains(*host));
        strange.extend(left.take(STRANGE_MAX).map(|(host, since)| {
            format!(
                "{host} has had no worker for {}s: the last one exited and none is left to start others; start one, or \
                 stop the host with `gearmand fleet stop {host}`",
                since.as_secs()
            )
        }));
        strange
    }

    /// Whether nothing more is to be done, as far as it can be done.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_stale && !self.has_failed && self.membership.returned.is_none() && self.plan.is_settled()
    }

    /// Whether a report is from this monitor.
    pub(super) fn is_own(&self, report: &Report) -> bool {
        // The start time identifies a process like an id: it has microseconds.
        (report.pid, &report.host) == (u64::from(std::process::id()), &host_name())
            && (report.started - self.started).abs() < 0.001
    }

    /// Creates the report.
    pub(super) fn report(&self) -> Report {
        let desired = self.desired();
        let of = |numbers: &BTreeMap<String, usize>, name: &str| numbers.get(name).copied().unwrap_or_default();
        let functions = desired.functions.iter().map(|(name, function)| {
            let queue = self.membership.queue(name);
            FunctionReport {
                function: name.clone(),
                min: function.min,
                max: function.max(),
                target: of(&self.plan.targets, name),
                workers: of(&self.plan.counted, name),
                waiting: queue.waiting,
                running: queue.running,
                paused: queue.is_paused,
                oldest: queue.oldest_ms.map(|age| Duration::from_millis(age).as_secs_f64()),
            }
        });
        Report {
            ok: true,
            fleet: desired.fleet.clone(),
            host: host_name(),
            pid: u64::from(std::process::id()),
            started: self.started,
            version: desired.version.clone(),
            settled: self.is_settled(),
            outdated: self.plan.outdated.len(),
            unnamed: self.membership.unnamed,
            functions: functions.collect(),
            workers: self.workers(),
            stopped_hosts: desired.stopped_hosts.iter().cloned().collect(),
            unmet: self.plan.unmet.clone(),
            strange: self.strange(),
            events: self.events.iter().cloned().collect(),
        }
    }

    pub(super) fn workers(&self) -> Vec<WorkerReport> {
        let report = |(id, member): (&WorkerId, &super::membership::Member)| WorkerReport {
            status: member.status.clone(),
            silent: member.silence().as_secs_f64(),
            outdated: self.plan.outdated.contains(id),
        };
        self.membership.members.iter().map(report).collect()
    }
}

/// Describes an id with two connections to one server. Two requests per iteration eventually reveal whether
/// they belong to two processes.
fn said_of_duplicate(id: &WorkerId, processes: Option<&BTreeSet<(String, u64)>>) -> String {
    let processes: Vec<String> =
        processes.into_iter().flatten().map(|(host, pid)| format!("process {pid} on {host}")).collect();
    if processes.len() > 1 {
        return format!(
            "duplicate id {id}: two workers use it, and only one is visible: stop both ({})",
            processes.join(", ")
        );
    }
    format!(
        "{id} is one process with two management connections to one server: list each server once in its \
         GEARMAN_SERVERS, and add none that its library reads from there itself"
    )
}

fn request(action: &Action) -> (WorkerId, Request) {
    match action {
        Action::Register { worker, function } => {
            (worker.clone(), Verb::RegisterFunction.request_for(vec![function.clone()]))
        }
        Action::Unregister { worker, function } => {
            (worker.clone(), Verb::UnregisterFunction.request_for(vec![function.clone()]))
        }
        Action::Start { by, .. } => (by.clone(), Verb::NewWorker.request()),
        Action::Exit { worker } => (worker.clone(), Verb::ExitWorker.request()),
    }
}

/// A text without its digits.
fn without_numbers(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|letter| !letter.is_ascii_digit())
}

pub(super) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
