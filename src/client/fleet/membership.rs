//! Membership of the fleet: the known workers, and their last status.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use super::fan_out::{Answered, JobRequest, Unanswered, request_all};
use super::news::{News, Trouble};
use super::server::{Functions, Server};
use crate::client::address::ServerAddress;
use crate::fleet::contract::{
    FLEET, Identity, Introduction, Request, SET_ID, Status, Verb, WorkerId, WorkerState, belongs_to_contract, cut,
    read_answer,
};
use crate::fleet::reconcile::{Observed, Queue, Worker};

/// How many workers of a server get an id per iteration.
const NAMED_AT_ONCE: u64 = 256;
/// Backoff for names that have never answered: first and longest pause.
const UNRESPONSIVE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// Longest reason that is kept, in bytes.
const WHY_MAX: usize = 300;
/// Maximum number of workers.
const MEMBERS_MAX: usize = 16_384;
/// Maximum number of hosts without workers that are remembered.
const LEFT_MAX: usize = 1000;
/// Maximum number of processes distinguished per id.
const PROCESSES_MAX: usize = 8;

/// A worker of the fleet.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) status: Status,
    /// When the status was received.
    heard: Instant,
    /// Whether the last request was not answered.
    pub(super) is_silent: bool,
    /// Index of the server for requests to it.
    server: usize,
}

/// A name that has never answered. It may not be a worker at all.
#[derive(Clone, Debug)]
pub(super) struct Unresponsive {
    pub(super) why: String,
    /// Number of requests so far.
    tries: u32,
    asked: Instant,
}

impl Unresponsive {
    /// Whether to ask again. The pause doubles each time, since each iteration waits for a name that does not
    /// answer.
    fn is_due(&self) -> bool {
        self.asked.elapsed() >= UNRESPONSIVE_PAUSES.0.saturating_mul(1 << self.tries.min(10)).min(UNRESPONSIVE_PAUSES.1)
    }
}

/// The fleet, and the servers where its workers are.
pub(super) struct Membership {
    fleet: String,
    servers: Vec<Server>,
    begin: Instant,
    pub(super) members: BTreeMap<WorkerId, Member>,
    /// Workers of other fleets.
    other_fleets: BTreeMap<WorkerId, String>,
    /// Worker names that have never answered.
    pub(super) unresponsive: BTreeMap<WorkerId, Unresponsive>,
    /// Ids with two workers, and since when. A worker that has reconnected may appear twice for a while.
    pub(super) duplicate_ids: BTreeMap<WorkerId, Instant>,
    /// The processes that have answered for those ids: host and process id.
    pub(super) processes: BTreeMap<WorkerId, BTreeSet<(String, u64)>>,
    /// Workers that were told to exit.
    dismissed: BTreeSet<WorkerId>,
    /// Hosts whose last worker has ended: since when, and whether that was reported.
    left: BTreeMap<String, (Instant, bool)>,
    queues: BTreeMap<String, Queue>,
    /// Number of workers waiting for an id.
    pub(super) unnamed: u64,
    /// Number of connections of this fleet's monitors, on the server with the most.
    pub(super) monitors: u64,
    /// Fleets that have a monitor.
    monitored: BTreeSet<String>,
    /// When a lost server became reachable again.
    pub(super) returned: Option<Instant>,
    has_refreshed: bool,
    /// Since when functions of workers have been without workers, by server.
    empty: HashMap<(usize, String), Instant>,
    unreachable: BTreeSet<usize>,
}

impl Membership {
    pub(super) fn new(fleet: &str, servers: Vec<ServerAddress>, connect_timeout: Duration) -> Self {
        Self {
            fleet: fleet.to_owned(),
            servers: servers.into_iter().map(|address| Server::new(address, connect_timeout)).collect(),
            begin: Instant::now(),
            members: BTreeMap::new(),
            other_fleets: BTreeMap::new(),
            unresponsive: BTreeMap::new(),
            duplicate_ids: BTreeMap::new(),
            processes: BTreeMap::new(),
            dismissed: BTreeSet::new(),
            left: BTreeMap::new(),
            queues: BTreeMap::new(),
            unnamed: 0,
            monitors: 0,
            monitored: BTreeSet::new(),
            returned: None,
            has_refreshed: false,
            empty: HashMap::new(),
            unreachable: BTreeSet::new(),
        }
    }

    /// The control function of this fleet's monitor.
    pub(super) fn monitor_function(&self) -> String {
        format!("{FLEET}{}", self.fleet)
    }

    /// Queries all servers for their functions.
    ///
    /// # Errors
    /// When none of them answers.
    pub(super) async fn functions(
        &mut self,
        limit: Duration,
        news: &mut Vec<News>,
    ) -> Result<Vec<Option<Functions>>, String> {
        let mut all = Vec::new();
        let mut reasons = Vec::new();
        for (index, server) in self.servers.iter_mut().enumerate() {
            match server.functions(limit).await {
                Ok((functions, is_new)) => {
                    if is_new && self.has_refreshed {
                        self.returned = Some(Instant::now());
                    }
                    self.unreachable.remove(&index);
                    all.push(Some(functions));
                }
                Err(error) => {
                    if self.unreachable.insert(index) {
                        news.push(News::NoServer(error.clone()));
                    }
                    reasons.push(error);
                    all.push(None);
                }
            }
        }
        if all.iter().all(Option::is_none) {
            return Err(reasons.join("; "));
        }
        self.has_refreshed = true;
        let workers_of = |name: &str| {
            let known = all.iter().flatten().filter_map(|functions| functions.get(name));
            known.map(|known| known.workers).max().unwrap_or(0)
        };
        let monitored = all.iter().flatten().flatten().filter(|(_, known)| known.workers > 0);
        self.monitored = monitored.filter_map(|(name, _)| name.strip_prefix(FLEET).map(str::to_owned)).collect();
        (self.monitors, self.unnamed) = (workers_of(&self.monitor_function()), workers_of(SET_ID));
        Ok(all)
    }

    /// Refreshes the membership. With `is_naming`, workers waiting for an id get one.
    ///
    /// # Errors
    /// When no server answers.
    pub(super) async fn refresh(&mut self, is_naming: bool, limit: Duration) -> Result<Vec<News>, String> {
        let mut news = Vec::new();
        let mut functions = self.functions(limit, &mut news).await?;
        let mut named = BTreeSet::new();
        if is_naming && self.unnamed > 0 {
            named = self.name_workers(&functions, limit).await;
            // The workers that just got an id have registered it on all of their servers. Most job counts
            // have not changed.
            functions = self.functions(limit, &mut news).await?;
        }
        self.count_jobs(&functions);
        let mut present = self.present(&functions);
        for (id, server) in self.ask_members(&present, limit, &named, &mut news).await {
            // The worker has ended since the servers were queried, unless another server still lists it.
            let name = id.manage_function();
            let is_there = |(index, functions): (usize, &Option<Functions>)| {
                index != server
                    && functions.as_ref().and_then(|known| known.get(&name)).is_some_and(|known| known.workers > 0)
            };
            if !functions.iter().enumerate().any(is_there) {
                present.remove(&id);
            }
        }
        self.other_fleets.retain(|id, _| present.contains_key(id));
        self.unresponsive.retain(|id, _| present.contains_key(id));
        let unreachable = &self.unreachable;
        let (mut gone, mut out_of_sight) = (Vec::new(), Vec::new());
        for (id, member) in self.members.iter().filter(|(id, _)| !present.contains_key(id)) {
            // Whether it still exists is unknown until its server is reachable again.
            let list = if unreachable.contains(&member.server) { &mut out_of_sight } else { &mut gone };
            list.push(id.clone());
        }
        for id in out_of_sight {
            if let Some(member) = self.members.get_mut(&id) {
                member.is_silent = true;
            }
        }
        for id in gone {
            let was_told = self.dismissed.remove(&id);
            if let Some(member) = self.members.remove(&id) {
                let Status { identity, activity } = member.status;
                let host = identity.host;
                if self.left.len() < LEFT_MAX {
                    self.left.insert(host.clone(), (Instant::now(), false));
                }
                news.push(News::Gone(id, host, was_told || activity.state == WorkerState::Leaving));
            }
        }
        for member in self.members.values() {
            self.left.remove(&member.status.identity.host);
        }
        Ok(news)
    }

    /// Hosts whose last worker ended at least `after` ago, and for how long they have had none.
    pub(super) fn left_hosts(&self, after: Duration) -> impl Iterator<Item = (&str, Duration)> {
        let left = self.left.iter().map(|(host, (since, _))| (host.as_str(), since.elapsed()));
        left.filter(move |(_, since)| *since >= after)
    }

    /// Those among them that were not reported yet.
    pub(super) fn newly_left(&mut self, after: Duration) -> Vec<String> {
        let mut hosts = Vec::new();
        for (host, (since, is_told)) in &mut self.left {
            if since.elapsed() >= after && !std::mem::replace(is_told, true) {
                hosts.push(host.clone());
            }
        }
        hosts
    }

    /// Assigns ids to workers that are waiting for one.
    async fn name_workers(&mut self, functions: &[Option<Functions>], limit: Duration) -> BTreeSet<WorkerId> {
        let (mut named, mut answered) = (BTreeSet::new(), 0);
        for (index, functions) in functions.iter().enumerate() {
            let Some(known) = functions.as_ref().and_then(|functions| functions.get(SET_ID)) else { continue };
            // A worker on several servers got its id on the first of them.
            let waiting = if index == 0 { known.workers } else { known.workers.saturating_sub(answered) };
            let requests: Vec<JobRequest> = (0..waiting.min(NAMED_AT_ONCE))
                .map(|_| JobRequest { function: SET_ID.to_owned(), unique: "", workload: fresh_id().into_bytes() })
                .collect();
            for answer in
                self.servers[index].request_all(&requests, limit).await.unwrap_or_default().into_iter().flatten()
            {
                let Ok(introduction) = read_answer::<Introduction>(&answer) else { continue };
                answered += 1;
                let Identity { id, fleet, .. } = introduction.identity;
                if fleet == self.fleet {
                    named.insert(id);
                }
            }
        }
        named
    }

    fn count_jobs(&mut self, functions: &[Option<Functions>]) {
        self.queues.clear();
        for (name, known) in functions.iter().flatten().flatten() {
            if belongs_to_contract(name) {
                continue;
            }
            let queue = self.queues.entry(name.clone()).or_default();
            queue.running += known.running;
            queue.waiting += known.total.saturating_sub(known.running);
            // If one of several servers assigns no jobs, the others make up for it.
            queue.is_paused |= known.is_paused;
            queue.max_running = queue.max_running.max(known.max_running);
            let oldest_ms = known.oldest_s.map(|age| Duration::try_from_secs_f64(age).unwrap_or_default());
            queue.oldest_ms = queue.oldest_ms.max(oldest_ms.map(milliseconds));
        }
    }

    /// The workers with an id, and the first server of each.
    fn present(&mut self, functions: &[Option<Functions>]) -> BTreeMap<WorkerId, usize> {
        let mut present = BTreeMap::new();
        let before = std::mem::take(&mut self.duplicate_ids);
        // Known workers come first: forged names must not displace them.
        for id in self.members.keys() {
            let name = id.manage_function();
            let is_there = |functions: &Option<Functions>| {
                functions.as_ref().and_then(|functions| functions.get(&name)).is_some_and(|known| known.workers > 0)
            };
            if let Some(index) = functions.iter().position(is_there) {
                present.insert(id.clone(), index);
            }
        }
        for (index, functions) in functions.iter().enumerate() {
            for (name, known) in functions.iter().flatten() {
                let Some(id) = WorkerId::of_function(name.as_bytes()) else { continue };
                if known.workers > 1 {
                    let since = before.get(&id).copied().unwrap_or_else(Instant::now);
                    if self.duplicate_ids.len() < MEMBERS_MAX {
                        self.duplicate_ids.insert(id.clone(), since);
                    }
                }
                if known.workers > 0 && present.len() < MEMBERS_MAX {
                    present.entry(id).or_insert(index);
                }
                let place = (index, name.clone());
                if known.workers == 0 && known.total == 0 {
                    if self.empty.len() < MEMBERS_MAX {
                        self.empty.entry(place).or_insert_with(Instant::now);
                    }
                } else {
                    self.empty.remove(&place);
                }
            }
        }
        let duplicate_ids = &self.duplicate_ids;
        self.processes.retain(|id, _| duplicate_ids.contains_key(id));
        present
    }

    /// Queries the status of all workers. Returns those that have ended meanwhile, with the server that was
    /// used.
    async fn ask_members(
        &mut self,
        present: &BTreeMap<WorkerId, usize>,
        limit: Duration,
        named: &BTreeSet<WorkerId>,
        news: &mut Vec<News>,
    ) -> Vec<(WorkerId, usize)> {
        let asked: Vec<(WorkerId, usize)> = present
            .iter()
            .filter(|(id, _)| {
                !self.other_fleets.contains_key(id) && self.unresponsive.get(id).is_none_or(Unresponsive::is_due)
            })
            .map(|(id, server)| (id.clone(), *server))
            .collect();
        let status = Verb::Status.request();
        // If an id has two connections, the idle one answers: two concurrent requests reach both.
        let duplicate_ids: Vec<&(WorkerId, usize)> =
            asked.iter().filter(|(id, _)| self.duplicate_ids.contains_key(id)).collect();
        let twice = duplicate_ids
            .iter()
            .map(|(id, server)| (*server, JobRequest { unique: "again", ..job_request(id, &status) }));
        let requests: Vec<(usize, JobRequest)> =
            asked.iter().map(|(id, server)| (*server, job_request(id, &status))).chain(twice).collect();
        let answers = self.ask(&requests, limit).await;
        for ((id, _), answer) in asked.iter().chain(duplicate_ids).zip(&answers) {
            let status = answer.as_ref().ok().and_then(|answer| Status::read(answer).ok());
            let status = status.filter(|_| self.duplicate_ids.contains_key(id)).map(Status::bounded);
            let processes = status.as_ref().map(|_| self.processes.entry(id.clone()).or_default());
            if let (Some(status), Some(processes)) = (status, processes.filter(|known| known.len() < PROCESSES_MAX)) {
                processes.insert((status.identity.host, status.identity.pid));
            }
        }
        let mut ended = Vec::new();
        for ((id, server), answer) in asked.into_iter().zip(answers) {
            if answer == Err(Unanswered::Gone) {
                ended.push((id, server));
                continue;
            }
            let answer = answer.map_err(|why| why.to_string());
            match answer.and_then(|answer| Status::read(&answer)).and_then(|status| of_worker(status, &id)) {
                Ok(status) if status.identity.fleet != self.fleet => {
                    self.unresponsive.remove(&id);
                    self.other_fleets.insert(id, status.identity.fleet);
                }
                Ok(status) => {
                    self.unresponsive.remove(&id);
                    let member = Member { status, heard: Instant::now(), is_silent: false, server };
                    match self.members.insert(id.clone(), member) {
                        None => {
                            let is_new = named.contains(&id);
                            news.push(News::Found(id, is_new));
                        }
                        Some(before) if before.is_silent => news.push(News::Back(id)),
                        Some(_) => {}
                    }
                }
                Err(why) => self.does_not_answer(id, server, why, news),
            }
        }
        ended
    }

    fn does_not_answer(&mut self, id: WorkerId, server: usize, mut why: String, news: &mut Vec<News>) {
        cut(&mut why, WHY_MAX);
        if let Some(member) = self.members.get_mut(&id) {
            member.server = server;
            if !std::mem::replace(&mut member.is_silent, true) {
                news.push(News::Silent(id, why));
            }
            return;
        }
        let tries = self.unresponsive.get(&id).map_or(0, |unresponsive| unresponsive.tries.saturating_add(1));
        if tries == 0 {
            news.push(News::Silent(id.clone(), why.clone()));
        }
        self.unresponsive.insert(id, Unresponsive { why, tries, asked: Instant::now() });
    }

    /// Sends requests to workers, concurrently on all servers.
    async fn ask(&self, asked: &[(usize, JobRequest)], limit: Duration) -> Vec<Answered> {
        let no_answer = |why: String| Err(Unanswered::Why(why));
        let mut answers: Vec<Answered> = vec![no_answer("no server available".to_owned()); asked.len()];
        let mut fan_outs = Vec::new();
        for (index, server) in self.servers.iter().enumerate() {
            let places: Vec<usize> = (0..asked.len()).filter(|place| asked[*place].0 == index).collect();
            let requests: Vec<JobRequest> = places.iter().map(|place| asked[*place].1.clone()).collect();
            if requests.is_empty() {
                continue;
            }
            let (address, connect_timeout) = (server.address.clone(), server.connect_timeout);
            let fan_out = tokio::spawn(async move { request_all(&address, connect_timeout, &requests, limit).await });
            fan_outs.push((places, fan_out));
        }
        for (places, fan_out) in fan_outs {
            let of_server = match fan_out.await {
                Ok(Ok(of_server)) => of_server,
                Ok(Err(error)) => vec![no_answer(error.to_string()); places.len()],
                Err(error) => vec![no_answer(error.to_string()); places.len()],
            };
            for (place, answer) in places.into_iter().zip(of_server) {
                answers[place] = answer;
            }
        }
        answers
    }

    /// Sends commands to members. The answers are in the order of the requests.
    pub(super) async fn tell(&mut self, requests: &[(WorkerId, Request)], limit: Duration) -> Vec<Result<(), Trouble>> {
        let server = |id: &WorkerId| self.members.get(id).map_or(0, |member| member.server);
        let asked: Vec<(usize, JobRequest)> =
            requests.iter().map(|(id, request)| (server(id), job_request(id, request))).collect();
        let answers = self.ask(&asked, limit).await;
        let mut outcomes = Vec::new();
        for ((id, request), answer) in requests.iter().zip(answers) {
            let is_exit = request.verb == Verb::ExitWorker;
            let outcome = match answer {
                Ok(answer) => read_answer::<serde::de::IgnoredAny>(&answer).map(|_| ()).map_err(Trouble::Refused),
                // It was told to exit, and has.
                Err(Unanswered::Gone) if is_exit => Ok(()),
                Err(Unanswered::Gone) => Err(Trouble::Gone),
                Err(Unanswered::Why(why)) => Err(Trouble::NoAnswer(why)),
            };
            if is_exit && outcome.is_ok() && self.members.contains_key(id) {
                self.dismissed.insert(id.clone());
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Sends a request to the monitor of this fleet.
    ///
    /// # Errors
    /// When no monitor answers, or it refuses.
    pub(super) async fn ask_monitor(&self, workload: &[u8], limit: Duration) -> Result<bytes::Bytes, String> {
        let mut why = "no server available".to_owned();
        for server in &self.servers {
            let job_request = JobRequest { function: self.monitor_function(), unique: "", workload: workload.to_vec() };
            match server.request_all(&[job_request], limit).await.map(|mut answers| answers.pop()) {
                Ok(Some(Ok(answer))) => return Ok(answer),
                Ok(Some(Err(error))) => why = error.to_string(),
                Err(error) => why = error,
                Ok(None) => {}
            }
        }
        Err(why)
    }

    /// Client ids of the connections of this fleet's monitors.
    pub(super) async fn monitor_ids(&mut self, limit: Duration) -> BTreeSet<String> {
        let function = self.monitor_function();
        let mut ids = BTreeSet::new();
        for server in &mut self.servers {
            ids.extend(server.clients_of(&function, limit).await.unwrap_or_default());
        }
        ids
    }

    /// Drops functions of workers that have been gone for a while from the servers.
    pub(super) async fn gc(&mut self, after: Duration, limit: Duration) {
        let mut by_server: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        self.empty.retain(|(server, name), since| {
            let is_old = since.elapsed() >= after;
            if is_old {
                by_server.entry(*server).or_default().push(name.clone());
            }
            !is_old
        });
        for (index, functions) in by_server {
            // If this fails, the next iteration tries again.
            let _ = self.servers[index].forget(&functions, limit).await;
        }
    }

    /// The fleets that have a monitor.
    pub(super) fn monitored_fleets(&self) -> Vec<String> {
        self.monitored.iter().cloned().collect()
    }

    /// Number of workers per other fleet.
    pub(super) fn other_fleets(&self) -> BTreeMap<&str, usize> {
        let mut fleets = BTreeMap::new();
        for fleet in self.other_fleets.values() {
            *fleets.entry(fleet.as_str()).or_default() += 1;
        }
        fleets
    }

    /// The observed state for a plan.
    pub(super) fn observed(&self) -> Observed {
        let workers = self.members.iter().map(|(id, member)| (id.clone(), member.seen())).collect();
        Observed { now_ms: self.now_ms(), workers, queues: self.queues.clone() }
    }

    /// Time for plans, in milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        milliseconds(self.begin.elapsed())
    }

    pub(super) fn queue(&self, function: &str) -> Queue {
        self.queues.get(function).copied().unwrap_or_default()
    }

    pub(super) fn addresses(&self) -> Vec<ServerAddress> {
        self.servers.iter().map(|server| server.address.clone()).collect()
    }
}

impl Member {
    /// How long it has not answered.
    pub(super) fn silence(&self) -> Duration {
        // A silent worker has a nonzero silence, however short.
        if self.is_silent { self.heard.elapsed().max(Duration::from_millis(1)) } else { Duration::ZERO }
    }

    fn seen(&self) -> Worker {
        let Status { identity, activity } = &self.status;
        Worker {
            host: identity.host.clone(),
            language: identity.language.clone(),
            version: identity.version.clone(),
            in_use: activity.in_use.iter().cloned().collect(),
            not_in_use: activity.not_in_use.iter().cloned().collect(),
            running: activity.running.iter().map(|run| run.function.clone()).collect(),
            is_leaving: activity.state == WorkerState::Leaving,
            silent_ms: milliseconds(self.silence()),
        }
    }
}

fn job_request(id: &WorkerId, request: &Request) -> JobRequest {
    // Concurrent status requests share a unique id, so one answer serves all; commands are executed each
    // time.
    let unique = if request.verb == Verb::Status { "status" } else { "" };
    // Serializing plain data does not fail.
    let workload = serde_json::to_vec(request).unwrap_or_default();
    JobRequest { function: id.manage_function(), unique, workload }
}

/// Accepts a status only if it is from the requested worker; limits its contents.
fn of_worker(status: Status, id: &WorkerId) -> Result<Status, String> {
    if status.identity.id != *id {
        return Err(format!("answered with another id, {}", status.identity.id));
    }
    let mut status = status.bounded();
    let host = &mut status.identity.host;
    if host.is_empty() {
        "unknown".clone_into(host);
    }
    Ok(status)
}

/// A new unique id.
fn fresh_id() -> String {
    // The standard library seeds its hash maps from the system's randomness. No better randomness is needed
    // here.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
