//! The world around the server: clocks, connections that cut their bytes anywhere, and who does what when.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use gearmand::job_server::{ConnectionEnd, DisconnectProgress, DropFunction, JobServer, Now, Policy};
use gearmand::protocol::packet::{FrameLimits, FramingError, Magic, Scan, scan};
use gearmand::protocol::{Request, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

use super::link::{Link, Recorder};
use super::model::{Model, Outcome};
use super::peer::{Peer, Surroundings};
use super::policy::some_policy;
use super::random::Random;
use super::store::Store;
use super::wire::{self, Ask, FUNCTIONS, HOSTS, Reply, Submission};

const LIMITS: FrameLimits = FrameLimits { packet: 16_384, line: 64 };
pub(crate) const PEERS: usize = 8;
const EVENTS_SHOWN: usize = 40;
/// How many jobs are more than one call of the server works off.
const FLOOD: usize = 300;

pub(crate) struct World {
    seed: u64,
    step: u64,
    pub(crate) random: Random,
    pub(crate) server: JobServer,
    pub(crate) stats: Arc<Stats>,
    pub(crate) model: Model,
    /// In a share of seeds, where background jobs are kept.
    pub(crate) store: Option<Store>,
    /// How often the store does something, in a thousand steps.
    pub(crate) pace: u64,
    /// Background jobs of which a client has read that they are created.
    pub(crate) acknowledged: BTreeSet<u64>,
    pub(crate) now: Now,
    /// When the server is called next; found out after each transition, and not when a clock is set.
    pub(crate) alarm_us: Option<u64>,
    pub(crate) links: Vec<Option<Link>>,
    last_connection: u32,
    pub(crate) recent: Vec<u64>,
    /// How many NOOPs were sent before the server was started last.
    pub(crate) woken_before: u64,
    pub(crate) functions: usize,
    /// So many jobs make clients hold back: with few, workers sleep; with many, they queue.
    enough: usize,
    pub(crate) has_small_limits: bool,
    is_crowded: bool,
    pub(crate) is_winding_up: bool,
    events: Option<VecDeque<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, shows_events: bool) -> Self {
        let mut random = Random::new(seed);
        let has_small_limits = random.chance(25);
        let store = random.chance(60).then(|| Store::new(&mut random));
        let policy = Policy { keeps_jobs: store.is_some(), ..some_policy(&mut random, has_small_limits) };
        let stats = Arc::new(Stats::default());
        Self {
            seed,
            step: 0,
            server: JobServer::new(policy.clone(), Arc::clone(&stats)),
            stats,
            model: Model::new(policy),
            store,
            pace: random.pick(&[10, 100, 200, 500]),
            acknowledged: BTreeSet::new(),
            now: Now { monotonic_us: random.below(1_000_000), unix_us: 1_800_000_000_000_000 },
            alarm_us: None,
            links: (0..PEERS).map(|_| None).collect(),
            last_connection: 0,
            recent: Vec::new(),
            woken_before: 0,
            functions: if has_small_limits { FUNCTIONS.len() } else { 2 + random.index(3) },
            enough: random.pick(&[2, 5, 10, 30]),
            has_small_limits,
            is_crowded: !has_small_limits && random.chance(25),
            is_winding_up: false,
            events: shows_events.then(VecDeque::new),
            random,
        }
    }

    /// Lives through `steps` steps, then lets everything come to its end.
    pub(crate) fn run(&mut self, steps: u64) {
        while self.step < steps {
            self.step += 1;
            if self.step == steps / 10 * 9 && self.random.chance(20) {
                self.server.start_draining();
                self.model.draining = true;
            }
            self.step();
        }
        self.wind_up();
        self.leave();
    }

    fn step(&mut self) {
        if self.store.is_some() {
            if self.random.below(1000) < self.pace {
                return self.store_acts();
            }
            if self.random.below(2500) == 0 {
                return self.restart();
            }
            if self.random.chance(1) && self.random.chance(50) {
                self.strand_late_job();
            }
        }
        self.release_leaving();
        let slot = self.random.index(PEERS);
        if self.links[slot].is_none() {
            let peer = Peer::new(&mut self.random);
            self.connect(slot, peer);
        }
        match self.random.below(1000) {
            0..380 => self.act(slot),
            380..400 => {
                for slot in 0..PEERS {
                    self.deliver_to_server(slot, 100);
                    self.deliver_to_peer(slot, 100);
                }
            }
            400..650 => {
                let share = self.random.pick(&[10, 50, 100, 100]);
                self.deliver_to_server(slot, share);
            }
            650..900 => {
                let share = self.random.pick(&[10, 50, 100, 100]);
                self.deliver_to_peer(slot, share);
            }
            900..974 => {
                let longest_us = self.random.pick(&[100, 2_000, 20_000, 50_000, 150_000, 1_200_000]);
                let span_us = self.random.below(longest_us);
                self.advance(span_us);
            }
            974..980 => {
                self.control();
                self.store.iter_mut().for_each(Store::word);
            }
            980..985 => self.set_wall_clock(),
            985..992 => {
                self.operate();
                self.store.iter_mut().for_each(Store::word);
            }
            992..999 => self.die(slot),
            _ if self.is_crowded && self.model.jobs.len() < 40 && self.random.chance(60) => self.flood(slot),
            _ => self.check_listings(),
        }
    }

    pub(crate) fn event(&mut self, what: &str, about: &impl Debug) {
        let (step, now) = (self.step, self.now.monotonic_us);
        if let Some(events) = &mut self.events {
            if events.len() == EVENTS_SHOWN {
                events.pop_front();
            }
            events.push_back(format!("step {step} at {now} us: {what} {}", wire::readable(&format!("{about:?}"))));
        }
    }

    fn connect(&mut self, slot: usize, peer: Peer) {
        self.last_connection += 1;
        let number = self.last_connection;
        let host = self.random.pick(&HOSTS);
        let gauges = Arc::new(ConnectionGauges::new(0, host.to_owned()));
        let id = self.server.connect(Arc::clone(&gauges));
        self.model.connected(number, host);
        self.event("connects", &(number, peer.temper));
        self.links[slot] = Some(Link::new(id, number, gauges, peer));
    }

    fn act(&mut self, slot: usize) {
        if self.links[slot].as_ref().is_none_or(|link| link.is_leaving) {
            return;
        }
        let world = Surroundings {
            unix_s: i64::try_from(self.now.unix_us / 1_000_000).unwrap(),
            is_busy: self.model.jobs.len() > self.enough,
            recent: &self.recent,
            functions: self.functions,
            registering_may_fail: self.has_small_limits,
        };
        let asks = self.links[slot].as_mut().unwrap().peer.act(&mut self.random, &world);
        self.send(slot, asks);
    }

    fn send(&mut self, slot: usize, asks: Vec<Ask>) {
        let link = self.links[slot].as_mut().unwrap();
        for ask in asks {
            let bytes = ask.encode();
            link.to_server.extend_from_slice(&bytes);
            link.asked.push_back((ask, bytes));
        }
    }

    /// Lets a share of what is under way arrive, in percent, and the server read it.
    pub(crate) fn deliver_to_server(&mut self, slot: usize, share: u64) {
        let Some(link) = self.links[slot].as_mut().filter(|link| !link.is_leaving) else { return };
        let count = part(&mut self.random, link.to_server.len(), share);
        link.server_buffer.extend(link.to_server.drain(..count));
        let stream = std::mem::take(&mut link.server_buffer);
        let mut start = 0;
        loop {
            let size = match scan(&stream[start..], &LIMITS).expect("what a peer sent cannot be cut") {
                Scan::Packet { header, body } => {
                    assert_eq!(header.magic, Magic::Request);
                    let packet = &stream[start..start + header.packet_size()];
                    let ask = self.take_asked(slot, packet);
                    self.request(slot, &ask, header.number, body);
                    packet.len()
                }
                Scan::Line { line, size } => {
                    assert_eq!(line, b"version");
                    assert_eq!(self.take_asked(slot, &stream[start..start + size]), Ask::Line);
                    size
                }
                Scan::PartialPacket(size) => {
                    assert!(size > stream.len() - start, "a whole packet is called a part");
                    break;
                }
                Scan::PartialLine => break,
                Scan::Oversized(header) => panic!("no peer sends {header:?}"),
            };
            start += size;
        }
        self.links[slot].as_mut().unwrap().server_buffer = stream[start..].to_vec();
    }

    /// The request that a packet should be, byte for byte.
    fn take_asked(&mut self, slot: usize, packet: &[u8]) -> Ask {
        let (ask, bytes) = self.links[slot].as_mut().unwrap().asked.pop_front().expect("a packet that nobody sent");
        assert_eq!(packet, bytes, "{ask:?} arrived as something else");
        ask
    }

    fn request(&mut self, slot: usize, ask: &Ask, number: u32, body: &[u8]) {
        let link = self.links[slot].as_ref().unwrap();
        let (id, from) = (link.id, link.number);
        self.event("asks", &(from, ask));
        // As a connection does with packets that are worth a buffer of their own.
        let owner = Bytes::copy_from_slice(body);
        let workload = if self.random.chance(30) { Workload::shared(&owner, &owner) } else { Workload::borrowed(body) };
        let refused_before = self.stats.functions_refused.get();
        self.model.memory_used = self.server.memory_use().total();
        let mut effects = Recorder::new(&mut self.links, Some(id), self.store.is_some());
        match Request::parse(number, workload) {
            Ok(request) => {
                let mut calls = 1;
                self.server.start_turn();
                while !self.server.request(self.now, id, &request, &mut effects) {
                    check_price(&self.server, &self.model.policy);
                    self.server.check_invariants();
                    self.server.start_turn();
                    calls += 1;
                    assert!(calls < 10_000, "a request is never done");
                }
                if calls > 1 {
                    self.model.note("was worked off in pieces");
                }
            }
            Err(error) => self.server.refuse(id, error, &mut effects),
        }
        finish_hold(&mut self.server, &self.model.policy, self.now, &mut effects);
        let mut outcome = effects.outcome;
        outcome.refused_functions = self.stats.functions_refused.get() - refused_before;
        self.observe(&outcome);
        self.model.asked(self.now, from, ask, &outcome);
        self.conclude(outcome);
    }

    /// Sees what the server did in a transition, before the model judges it.
    pub(crate) fn observe(&mut self, outcome: &Outcome) {
        let answers = outcome.filled.iter().map(|(number, _, reply)| (number, reply));
        for (number, reply) in outcome.sent.iter().map(|(number, reply)| (number, reply)).chain(answers) {
            if let Reply::JobCreated(job) = reply {
                if self.recent.len() == 40 {
                    self.recent.remove(0);
                }
                self.recent.push(*job);
            }
            self.event("    sends", &(number, reply));
        }
        for number in &outcome.held {
            self.event("    leaves a gap", number);
        }
        for operation in &outcome.operations {
            self.event("    asks the store", operation);
        }
    }

    /// After the model has judged a transition: hands the store what it was asked, and checks everything.
    pub(crate) fn conclude(&mut self, outcome: Outcome) {
        if let Some(store) = &mut self.store {
            outcome.operations.into_iter().for_each(|operation| store.push(operation));
        }
        self.check();
    }

    pub(crate) fn check(&mut self) {
        // With few jobs it does so itself.
        if self.step.is_multiple_of(8) || self.model.jobs.len() > 100 {
            self.server.check_invariants();
        }
        if let Some(store) = &self.store {
            self.model.check_store(store);
            assert_eq!(store.projected_settings, self.model.settings(), "decisions that the store was told of");
        }
        self.model.check(self.now, &self.server, &self.stats);
        self.alarm_us = self.server.next_timeout(self.now);
    }

    /// What is listed of jobs and of connections.
    pub(crate) fn check_listings(&self) {
        self.model.check_listing(&self.server);
        // No random numbers are taken for it: a seed stays the story that it is.
        let query = self.seed.wrapping_mul(7919).wrapping_add(self.step.wrapping_mul(104_729)) % 1_000_000_007;
        let query = usize::try_from(query).unwrap();
        (0..8).for_each(|more| self.model.check_finding(&self.server, query + more));
        self.check_rules();
        for link in self.links.iter().flatten() {
            link.gauges.with_identity(|_, functions| self.model.check_abilities(link.number, functions));
        }
    }

    pub(crate) fn deliver_to_peer(&mut self, slot: usize, share: u64) {
        let Some(link) = &mut self.links[slot] else { return };
        if link.outgoing.is_waiting() {
            link.to_peer.extend(link.outgoing.take(&mut self.random));
        }
        let count = part(&mut self.random, link.to_peer.len(), share);
        link.peer_buffer.extend(link.to_peer.drain(..count));
        let mut start = 0;
        while let Some((reply, size)) = wire::decode(&link.peer_buffer[start..]) {
            link.peer.hear(&reply);
            start += size;
        }
        link.peer_buffer.drain(..start);
        let acknowledged = std::mem::take(&mut link.peer.acknowledged);
        if let Some(store) = &self.store {
            for job in &acknowledged {
                let is_safe = store.rows.contains_key(&wire::number(*job)) || !self.model.jobs.contains_key(job);
                let is_deleted = store.deleted.contains(&wire::number(*job));
                assert!(is_safe || is_deleted, "job {job} was acknowledged and is not in the store");
            }
        }
        self.acknowledged.extend(acknowledged);
    }

    /// Lets time pass. The server is called when it wanted to be, or somewhat late.
    fn advance(&mut self, span_us: u64) {
        self.call_if_due();
        let end_us = self.now.monotonic_us + span_us;
        if self.random.chance(85) {
            while let Some(alarm_us) = self.alarm_us.filter(|alarm_us| *alarm_us <= end_us) {
                self.move_clocks(alarm_us);
                self.call_if_due();
            }
        }
        self.move_clocks(end_us);
        if self.random.chance(50) {
            self.call_if_due();
        }
    }

    pub(crate) fn move_clocks(&mut self, monotonic_us: u64) {
        let span_us = monotonic_us.saturating_sub(self.now.monotonic_us);
        self.now.monotonic_us += span_us;
        self.now.unix_us += span_us;
    }

    pub(crate) fn call_if_due(&mut self) {
        let is_due = |alarm_us: Option<u64>, now: Now| alarm_us.is_some_and(|alarm_us| alarm_us <= now.monotonic_us);
        if !is_due(self.alarm_us, self.now) {
            return;
        }
        let now = self.now;
        self.event("time passes", &now);
        let mut effects = Recorder::new(&mut self.links, None, self.store.is_some());
        for calls in 0.. {
            assert!(calls < 10_000, "the server wants to be called again and again");
            self.server.timeout(self.now, &mut effects);
            check_price(&self.server, &self.model.policy);
            if !is_due(self.server.next_timeout(self.now), self.now) {
                break;
            }
        }
        let outcome = effects.outcome;
        self.observe(&outcome);
        self.model.time_passed(self.now, &outcome);
        self.conclude(outcome);
    }

    fn set_wall_clock(&mut self) {
        let span_us = self.random.below(10_000_000);
        if self.random.chance(50) {
            self.now.unix_us += span_us;
        } else {
            self.now.unix_us -= span_us;
        }
        let now = self.now;
        self.event("the wall clock is set", &now);
    }

    /// A connection ends, perhaps in the middle of a packet, perhaps after sending nonsense.
    fn die(&mut self, slot: usize) {
        if self.random.chance(50) {
            self.deliver_to_server(slot, 70);
        }
        if self.random.chance(10) {
            let end = scan(b"\0BAD", &LIMITS);
            assert_eq!(end, Err(FramingError::BadMagic));
        }
        let wants_answers = self.random.chance(50);
        self.disconnect(slot, wants_answers);
    }

    /// A connection ends. With `wants_answers` its peer has but closed its side, and reads what is still to
    /// come.
    pub(crate) fn disconnect(&mut self, slot: usize, wants_answers: bool) {
        let (id, number) = self.links[slot].as_ref().map(|link| (link.id, link.number)).unwrap();
        self.event(if wants_answers { "closes its side" } else { "dies" }, &number);
        let end = ConnectionEnd { wants_answers, missed_last: self.random.chance(30) };
        let mut effects = Recorder::new(&mut self.links, Some(id), self.store.is_some());
        let mut calls = 0;
        let progress = loop {
            self.server.start_turn();
            match self.server.disconnect(self.now, id, end, &mut effects) {
                DisconnectProgress::Unfinished => self.server.check_invariants(),
                progress => break progress,
            }
            check_price(&self.server, &self.model.policy);
            calls += 1;
            assert!(calls < 10_000, "a connection cannot be got rid of");
        };
        finish_hold(&mut self.server, &self.model.policy, self.now, &mut effects);
        let outcome = effects.outcome;
        self.observe(&outcome);
        match progress {
            DisconnectProgress::Done => self.links[slot] = None,
            DisconnectProgress::Unfinished | DisconnectProgress::AwaitsAnswers => {
                self.links[slot].as_mut().unwrap().is_leaving = true;
            }
        }
        self.model.disconnected(self.now, number, end, progress, &outcome);
        self.conclude(outcome);
    }

    /// Those that were kept for answers alone, and have them, leave.
    pub(crate) fn release_leaving(&mut self) {
        for slot in 0..self.links.len() {
            if self.links[slot].as_ref().is_some_and(|link| link.is_leaving && !link.outgoing.has_gaps()) {
                self.deliver_to_peer(slot, 100);
                self.disconnect(slot, true);
                assert!(self.links[slot].is_none(), "a connection is kept for nothing");
            }
        }
    }

    /// More at once than the server does in one call: waits of a client that dies, jobs that become due
    /// together, jobs of a worker that dies.
    fn flood(&mut self, slot: usize) {
        self.disconnect(slot, false);
        self.connect(slot, Peer::orderly_worker());
        self.limit_queue(0, [0; 3]);
        let (kind, has_store) = (self.random.below(3), self.store.is_some());
        let due_s = i64::try_from(self.now.unix_us / 1_000_000).unwrap() + 1;
        let asks: Vec<Ask> = (0..FLOOD)
            .map(|index| {
                Ask::Submit(Submission {
                    function: 0,
                    unique: b"",
                    reducer: None,
                    priority: 1,
                    background: kind != 0 || has_store && index % 2 == 0,
                    epoch_s: (kind == 1).then_some(due_s),
                    workload: index.to_be_bytes().to_vec(),
                })
            })
            .collect();
        let asks = self.links[slot].as_mut().unwrap().peer.sent(asks);
        self.send(slot, asks);
        self.deliver_to_server(slot, 100);
        if self.random.chance(70) {
            self.settle_store();
        }
        if kind == 2 {
            let grabs = (0..FLOOD).map(|_| Ask::Grab(wire::Grab::Plain));
            let asks = std::iter::once(Ask::CanDo { function: 0 }).chain(grabs).collect();
            let asks = self.links[slot].as_mut().unwrap().peer.sent(asks);
            self.send(slot, asks);
            self.deliver_to_server(slot, 100);
        }
        let wants_answers = self.random.chance(30);
        self.disconnect(slot, wants_answers);
        self.model.note("was part of a flood");
    }

    /// No more faults: reliable workers come, those that hold jobs end them, and all jobs end.
    fn wind_up(&mut self) {
        self.is_winding_up = true;
        self.lift_all();
        self.make_reliable();
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 100_000, "{} jobs do not end", self.model.jobs.len());
            if self.exchange() {
                continue;
            }
            let has_duplicates = self.store.as_ref().is_some_and(|store| !store.duplicates.is_empty());
            if self.model.jobs.is_empty() && !has_duplicates {
                break;
            }
            if (self.model.draining || self.model.jobs.is_empty()) && self.model.jobs_to_drain() == 0 {
                // The others are for the next start.
                self.model.note("was kept when the server stopped");
                self.stop_and_start();
                self.make_reliable();
                continue;
            }
            let alarm_us = self.alarm_us.expect("jobs are left, and nobody will ever be told");
            self.move_clocks(alarm_us);
            self.call_if_due();
        }
        for link in self.links.iter().flatten() {
            assert!(link.peer.is_content(), "connection {} still waits: {:?}", link.number, link.peer);
        }
    }

    /// The store fails no more, there is time enough, and two workers come that can do everything, in some
    /// worlds each job later than it may.
    fn make_reliable(&mut self) {
        if let Some(store) = &mut self.store {
            store.heal();
        }
        let policy = self.model.policy.clone();
        self.set_policy(Policy {
            handle_prefix: policy.handle_prefix,
            worker_wakeup: policy.worker_wakeup,
            job_retries: policy.job_retries,
            exceptions: policy.exceptions,
            keeps_jobs: policy.keeps_jobs,
            stored_workloads_max: policy.stored_workloads_max,
            ..Policy::default()
        });
        for _ in 0..2 {
            let mut peer = if self.seed % 10 < 3 { Peer::late_worker() } else { Peer::orderly_worker() };
            let asks = peer.start_work();
            let slot = self.links.len();
            self.links.push(None);
            self.connect(slot, peer);
            self.send(slot, asks);
        }
    }

    /// Lets everybody send, read and react once. Returns whether anything was under way.
    fn exchange(&mut self) -> bool {
        let mut is_busy = false;
        for slot in 0..self.links.len() {
            let Some(link) = self.links[slot].as_mut() else { continue };
            if !link.is_leaving {
                let asks = link.peer.wind_up(&mut self.random, self.now.monotonic_us);
                self.send(slot, asks);
            }
            let link = self.links[slot].as_ref().unwrap();
            is_busy |= !link.is_leaving && !link.to_server.is_empty();
            is_busy |= !link.to_peer.is_empty() || link.outgoing.is_waiting();
            self.deliver_to_server(slot, 100);
            self.deliver_to_peer(slot, 100);
        }
        if self.store.as_ref().is_some_and(|store| !store.is_idle()) {
            self.store_acts();
            is_busy = true;
        }
        self.release_leaving();
        is_busy
    }

    /// All leave, and nothing is left of them.
    fn leave(&mut self) {
        self.check_listings();
        for slot in 0..self.links.len() {
            if self.links[slot].is_some() {
                self.disconnect(slot, false);
            }
        }
        while let Some(alarm_us) = self.alarm_us {
            self.move_clocks(alarm_us);
            self.call_if_due();
        }
        assert_eq!(self.server.job_count(), 0);
        if let Some(store) = &mut self.store {
            store.stop(&mut self.random, self.server.last_number());
            assert!(store.rows.is_empty(), "jobs are in the store for ever");
        }
        for (function, name) in FUNCTIONS.into_iter().enumerate() {
            let gauges = self.stats.functions.get(name);
            let result = self.drop_function(function);
            if let Some(gauges) = gauges {
                assert_eq!(result, DropFunction::Dropped);
                assert_eq!((gauges.total(), gauges.workers.get()), (0, 0), "numbers of nothing");
            }
        }
        self.check();
        assert_eq!(self.stats.functions.len(), 0);
        let woken = self.model.happened.get("was woken").copied().unwrap_or(0);
        assert_eq!(self.stats.wakeups.get(), woken - self.woken_before, "NOOPs that were published, and sent");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let events = self.events.iter().flatten().cloned().collect::<Vec<_>>().join("\n");
            eprintln!("seed {}, step {}, {:?}\n{events}", self.seed, self.step, self.model.policy);
        }
    }
}

/// A number of bytes up to `percent` of `length`, and now and then all of them.
fn part(random: &mut Random, length: usize, percent: u64) -> usize {
    if length == 0 || percent == 100 {
        return length;
    }
    random.index(length * usize::try_from(percent).unwrap() / 100 + 1)
}

/// What a hold may cost beyond its budget: the dearest step that cannot be cut. Here that is to ask the store
/// for a flood of jobs.
const DEAREST_STEP: u32 = 1000;

/// No hold of the lock is dearer than its budget and one step.
pub(crate) fn check_price(server: &JobServer, policy: &Policy) {
    let most = policy.turn_budget + DEAREST_STEP;
    assert!(server.spent() <= most, "a hold has spent {}, and may spend {most}", server.spent());
}

/// A hold ends. What very many are still to be told they are told now, so that it counts as one transition.
pub(crate) fn finish_hold(server: &mut JobServer, policy: &Policy, now: Now, effects: &mut Recorder<'_>) {
    check_price(server, policy);
    while server.has_unfinished() {
        server.check_invariants();
        server.start_turn();
        server.go_on_with_all(now, effects);
        check_price(server, policy);
    }
}
