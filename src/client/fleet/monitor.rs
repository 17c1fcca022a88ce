//! The monitor: looks, decides, acts, tells, and begins again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::file::DesiredFile;
use super::roster::{News, Roster};
use crate::client::listing::printable;
use crate::client::{host_name, tell};
use crate::fleet::contract::{Request, Verb, WorkerId, check_name};
use crate::fleet::decide::{Action, Decision, Memory, Plan, decide};
use crate::fleet::desired::Desired;
use crate::fleet::report::{Event, FunctionReport, Report, Wish, WorkerReport};

/// So many things that it did are in a report.
const EVENTS_MAX: usize = 200;
/// The pause between two looks while something is on its way.
const SHORT_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The monitor of a fleet.
pub(super) struct Monitor {
    pub(super) roster: Roster,
    pub(super) file: DesiredFile,
    memory: Memory,
    plan: Plan,
    events: VecDeque<Event>,
    started: f64,
    /// What was wished since the last decision, so that nobody takes the fleet for settled.
    is_stale: bool,
    has_failed: bool,
}

impl Monitor {
    pub(super) fn new(roster: Roster, file: DesiredFile) -> Self {
        Self {
            roster,
            file,
            memory: Memory::default(),
            plan: Plan::default(),
            events: VecDeque::new(),
            started: unix_now(),
            is_stale: true,
            has_failed: false,
        }
    }

    pub(super) fn desired(&self) -> &Desired {
        self.file.desired()
    }

    /// Looks, and does what is to be done.
    ///
    /// # Errors
    /// When no server answers.
    pub(super) async fn turn(&mut self) -> Result<(), String> {
        match self.file.read_again() {
            None => {}
            Some(Ok(())) => self.note("reads the desired state again", "its file has changed", None),
            Some(Err(error)) => self.note("keeps the desired state that it has", "its file has changed", Some(error)),
        }
        let limit = self.desired().answer_timeout;
        let news = self.roster.look(true, limit).await?;
        for news in news {
            self.tell_news(news);
        }
        self.roster.tidy(self.desired().forget_after, limit).await;
        self.decide();
        // Workers that come back with their server come one by one; the first is not to be told to start the others.
        let hold = self.desired().interval * 2;
        if self.roster.returned.is_none_or(|returned| returned.elapsed() >= hold) {
            self.roster.returned = None;
            self.act().await;
        }
        self.is_stale = false;
        Ok(())
    }

    /// Decides, and does nothing of it.
    pub(super) fn decide(&mut self) {
        self.plan = decide(self.file.desired(), &self.roster.observed(), &self.memory);
        self.memory = std::mem::take(&mut self.plan.memory);
        self.plan.memory.hosts.clone_from(&self.memory.hosts);
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long to wait until the next turn, if nobody has a wish.
    pub(super) fn pause(&self) -> Duration {
        let interval = self.desired().interval;
        let is_busy = !self.plan.is_settled() || self.roster.returned.is_some();
        if is_busy { (interval / 5).clamp(SHORT_PAUSES.0, SHORT_PAUSES.1).min(interval) } else { interval }
    }

    /// Does what was decided: first what makes room for work, and what takes it away only if all of that went well.
    async fn act(&mut self) {
        let decisions = std::mem::take(&mut self.plan.decisions);
        let makes = |action: &Action| matches!(action, Action::Register { .. } | Action::Start { .. });
        let (first, then): (Vec<_>, Vec<_>) = decisions.iter().cloned().partition(|decision| makes(&decision.action));
        self.has_failed = !self.perform(&first).await;
        if !self.has_failed {
            self.has_failed = !self.perform(&then).await;
        }
        self.plan.decisions = decisions;
    }

    async fn perform(&mut self, decisions: &[Decision]) -> bool {
        let requests: Vec<(WorkerId, Request)> = decisions.iter().map(|decision| request(&decision.action)).collect();
        let answers = self.roster.tell(&requests, self.desired().answer_timeout).await;
        let mut went_well = true;
        for (decision, answer) in decisions.iter().zip(answers) {
            went_well &= answer.is_ok();
            let what = self.said(&decision.action);
            self.note(&what, &decision.why, answer.err());
        }
        went_well
    }

    fn host_of(&self, id: &WorkerId) -> &str {
        self.roster.members.get(id).map_or("gone", |member| member.status.host.as_str())
    }

    /// An action in words.
    pub(super) fn said(&self, action: &Action) -> String {
        match action {
            Action::Register { worker, function } => {
                format!("lets {worker} on {} do {function}", self.host_of(worker))
            }
            Action::Unregister { worker, function } => {
                format!("lets {worker} on {} do no more {function}", self.host_of(worker))
            }
            Action::Start { host, by } => format!("starts a worker on {host} by {by}"),
            Action::Exit { worker } => format!("ends {worker} on {}", self.host_of(worker)),
        }
    }

    fn tell_news(&mut self, news: News) {
        match news {
            News::Found(id, is_new) => {
                let Some(member) = self.roster.members.get(&id) else { return };
                let status = &member.status;
                let (host, pid, language, version) = (&status.host, status.pid, &status.language, &status.version);
                let what = format!("finds {id} on {host}, process {pid}, {language}, version {version}");
                self.note(&what, if is_new { "it had no id yet" } else { "it had its id already" }, None);
            }
            News::Gone(id, host) => self.note(&format!("forgets {id} on {host}"), "its connection has ended", None),
            News::Silent(id, why) => {
                let what = format!("gets no answer from {id} on {}", self.host_of(&id));
                self.note(&what, "it was asked how it is", Some(why));
            }
            News::Back(id) => {
                self.note(&format!("hears from {id} on {} again", self.host_of(&id)), "it had been silent", None);
            }
            News::NoServer(error) => self.note("cannot reach a server", "it looks at all of them", Some(error)),
        }
    }

    /// Says and remembers what was done.
    fn note(&mut self, what: &str, why: &str, error: Option<String>) {
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

    /// Takes over a wish; what is to be done for it is done in the next turns.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn take(&mut self, wish: Wish) -> Result<String, String> {
        let did = match wish {
            Wish::Status => return Ok(String::new()),
            Wish::Apply { desired } => {
                let did = self.file.replace(&desired)?;
                self.note("takes over another desired state", "it was asked to", None);
                did
            }
            Wish::Roll { host } => {
                let members = self.roster.members.iter();
                let ids: BTreeSet<WorkerId> = members
                    .filter(|(_, member)| host.as_ref().is_none_or(|host| member.status.host == *host))
                    .map(|(id, _)| id.clone())
                    .collect();
                if let Some(host) = host.filter(|_| ids.is_empty()) {
                    return Err(format!("no worker is on host {host}"));
                }
                let did = format!("{} workers are to be replaced", ids.len());
                self.note(&did, "it was asked to roll", None);
                self.memory.rolling.extend(ids);
                did
            }
            Wish::Stop { host } => {
                check_name(&host).map_err(|error| format!("the name of a host {error}"))?;
                let kept = self.file.stop(&host, true);
                self.note(&format!("stops host {host}"), "it was asked to", kept.err());
                format!("host {host} is stopped")
            }
            Wish::Start { host } => {
                if !self.desired().stopped_hosts.contains(&host) {
                    return Err(format!("host {host} is not stopped"));
                }
                let kept = self.file.stop(&host, false);
                self.note(&format!("uses host {host} again"), "it was asked to", kept.err());
                format!("host {host} is used when a worker is there")
            }
        };
        self.is_stale = true;
        Ok(did)
    }

    /// Whether nothing more is to be done, as far as it can be done.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_stale && !self.has_failed && self.roster.returned.is_none() && self.plan.is_settled()
    }

    /// What there is to say.
    pub(super) fn report(&self) -> Report {
        let desired = self.desired();
        let of = |numbers: &BTreeMap<String, usize>, name: &str| numbers.get(name).copied().unwrap_or_default();
        let functions = desired.functions.iter().map(|(name, function)| {
            let queue = self.roster.queue(name);
            FunctionReport {
                function: name.clone(),
                min: function.min,
                max: function.max(),
                target: of(&self.plan.targets, name),
                workers: of(&self.plan.counted, name),
                waiting: queue.waiting,
                running: queue.running,
                oldest: queue.oldest_ms.map(|age| Duration::from_millis(age).as_secs_f64()),
            }
        });
        let mut unmet = self.plan.unmet.clone();
        unmet.extend(self.roster.mute.iter().map(|(id, why)| format!("worker {id} has never answered: {why}")));
        let doubled = self.roster.doubled.iter().filter(|(_, since)| since.elapsed() >= desired.forget_after);
        unmet.extend(doubled.map(|(id, _)| format!("two workers answer to {id}, and one is not seen: end both")));
        Report {
            ok: true,
            fleet: desired.fleet.clone(),
            host: host_name(),
            pid: u64::from(std::process::id()),
            started: self.started,
            version: desired.version.clone(),
            settled: self.is_settled(),
            outdated: self.plan.outdated,
            unnamed: self.roster.unnamed,
            functions: functions.collect(),
            workers: self.workers(),
            stopped_hosts: desired.stopped_hosts.iter().cloned().collect(),
            unmet,
            events: self.events.iter().cloned().collect(),
        }
    }

    pub(super) fn workers(&self) -> Vec<WorkerReport> {
        let report = |(id, member): (&WorkerId, &super::roster::Member)| WorkerReport {
            status: member.status.clone(),
            silent: member.silence().as_secs_f64(),
            outdated: self.memory.rolling.contains(id)
                || (!self.desired().version.is_empty() && member.status.version != self.desired().version),
        };
        self.roster.members.iter().map(report).collect()
    }
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

pub(super) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
