//! The fleet as it will be once what was chosen is done: the working copy on which one decision is made.
//!
//! What is removed is counted out at once. What is added is counted as hoped for, and as sure only when a worker says so
//! itself: so nothing is taken away because of something that may have been lost on its way.

use std::collections::BTreeMap;

use super::super::contract::WorkerId;
use super::super::desired::Desired;
use super::{Action, Decision, Memory, Observed, Plan, Worker, millis, rolling};

/// How a worker stands to one of the fleet's functions that it does jobs of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is one of those that are wanted.
    Counts,
    /// It was told so just now.
    Hoped,
    /// It goes on until others do it, and then stops.
    Moves(Reason),
    /// It does so no more.
    Dropped,
}

/// Why a worker is to stop with a function as soon as others do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The function is not for its host.
    Host,
    /// It does more functions than it may.
    Functions,
    /// It is being replaced.
    Replaced,
    /// Its host has more of them than others.
    Spread,
}

/// Whether a worker is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// It is not.
    None,
    /// Others have their turn first.
    Later,
    /// It is being replaced.
    Now,
}

/// A worker, and what is decided of it.
pub(super) struct Member<'a> {
    /// What it said.
    pub(super) worker: &'a Worker,
    /// The fleet's functions that it does.
    pub(super) ours: BTreeMap<&'a str, Standing>,
    /// How many functions it does, those of others included. What it drops now still takes its slot.
    pub(super) slots: usize,
    /// How many functions it does that the desired state does not name.
    pub(super) foreign: usize,
    /// It is on its way out, or on a host on which no worker is to be.
    pub(super) is_leaving: bool,
    /// It has not answered for so long that nothing is expected of it.
    pub(super) is_forgotten: bool,
    /// Whether it is to be replaced.
    pub(super) replacement: Replacement,
    /// Which of its host's kinds it is, once somebody asked.
    kind: Option<usize>,
}

impl Member<'_> {
    /// Whether it is there and not about to go.
    pub(super) fn stays(&self) -> bool {
        !self.is_leaving && !self.is_forgotten
    }

    /// Whether it is to be replaced, now or later.
    pub(super) fn is_outdated(&self) -> bool {
        self.replacement != Replacement::None
    }

    /// Whether it is being replaced.
    pub(super) fn is_replaced(&self) -> bool {
        self.replacement == Replacement::Now
    }

    /// Whether it can be told something.
    pub(super) fn answers(&self) -> bool {
        self.stays() && self.worker.silent_ms == 0
    }

    /// Whether it could do a function.
    pub(super) fn could_do(&self, function: &str) -> bool {
        self.worker.not_in_use.contains(function) || self.worker.in_use.contains(function)
    }

    /// Whether it does nothing at all, and was told nothing.
    pub(super) fn is_spare(&self) -> bool {
        self.answers() && self.slots == 0 && self.worker.running.is_empty()
    }
}

/// A host, and what stands on it.
#[derive(Default)]
pub(super) struct Place<'a> {
    /// All of its workers.
    pub(super) workers: Vec<&'a WorkerId>,
    /// How many processes it bears: all workers but those that are forgotten.
    pub(super) population: usize,
    /// Whether it has more workers than it may.
    pub(super) is_crowded: bool,
    /// How many functions its workers do together.
    pub(super) load: usize,
    /// How many of each kind stay; nothing until somebody asks.
    kinds: Vec<usize>,
}

/// The workers of a function.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// How many are wanted.
    pub(super) target: usize,
    /// How many count.
    pub(super) counted: usize,
    /// Those of them that have answered just now, without those that were told only now.
    pub(super) sure: usize,
    /// All that do it and stay, whether they count or not.
    pub(super) present: usize,
    /// How many run a job of it, those included that are about to go.
    pub(super) busy: usize,
    /// How many of those that stay run a job of any function.
    pub(super) occupied: usize,
    /// How many workers were told to give up something, so that it can have more the next time.
    pub(super) freed: usize,
}

/// The working copy.
pub(super) struct Fleet<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) now: u64,
    pub(super) members: BTreeMap<&'a WorkerId, Member<'a>>,
    pub(super) places: BTreeMap<&'a str, Place<'a>>,
    pub(super) tallies: BTreeMap<&'a str, Tally>,
    /// How many workers of a function count on a host.
    pub(super) on_host: BTreeMap<(&'a str, &'a str), usize>,
    /// The host on which workers are being replaced.
    pub(super) replacing: Option<&'a str>,
    pub(super) plan: Plan,
}

impl<'a> Fleet<'a> {
    /// The fleet as it is seen.
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed, memory: &Memory) -> Self {
        let forget_after = millis(desired.forget_after);
        let mut members = BTreeMap::new();
        let mut places: BTreeMap<&str, Place<'_>> = BTreeMap::new();
        for (id, worker) in &observed.workers {
            let is_forgotten = worker.silent_ms > forget_after;
            let place = places.entry(&worker.host).or_default();
            place.workers.push(id);
            place.population += usize::from(!is_forgotten);
            let named = worker.in_use.iter().filter_map(|name| desired.functions.get_key_value(name));
            let ours: BTreeMap<&str, Standing> = named.map(|(name, _)| (name.as_str(), Standing::Counts)).collect();
            let member = Member {
                worker,
                slots: worker.in_use.len(),
                foreign: worker.in_use.len() - ours.len(),
                ours,
                is_leaving: worker.is_leaving,
                is_forgotten,
                replacement: Replacement::None,
                kind: None,
            };
            members.insert(id, member);
        }
        Self {
            desired,
            observed,
            now: observed.now_ms,
            members,
            places,
            tallies: desired.functions.keys().map(|name| (name.as_str(), Tally::default())).collect(),
            on_host: BTreeMap::new(),
            replacing: None,
            plan: Plan { memory: memory.clone(), ..Plan::default() },
        }
    }

    /// Says of each worker and function how they stand to each other, and counts.
    pub(super) fn count(&mut self) {
        for member in self.members.values_mut() {
            let host = member.worker.host.as_str();
            let is_replaced = member.is_replaced();
            let mut slots = self.desired.functions_per_worker.saturating_sub(member.foreign);
            for (name, standing) in &mut member.ours {
                let Some(function) = self.desired.functions.get(*name) else { continue };
                *standing = if is_replaced {
                    Standing::Moves(Reason::Replaced)
                } else if !function.is_for(host) {
                    Standing::Moves(Reason::Host)
                } else if slots == 0 {
                    Standing::Moves(Reason::Functions)
                } else {
                    slots -= 1;
                    Standing::Counts
                };
            }
            if !member.stays() {
                // What one that is about to go still runs is work that others will have to do.
                for name in member.worker.running.iter().filter(|_| !member.is_forgotten) {
                    if let Some(tally) = self.tallies.get_mut(name.as_str()) {
                        tally.busy += 1;
                    }
                }
                continue;
            }
            for (name, standing) in &member.ours {
                let Some(tally) = self.tallies.get_mut(name) else { continue };
                tally.present += 1;
                tally.busy += usize::from(member.worker.running.contains(*name));
                tally.occupied += usize::from(!member.worker.running.is_empty());
                if *standing == Standing::Counts {
                    tally.counted += 1;
                    tally.sure += usize::from(member.answers());
                    *self.on_host.entry((name, host)).or_default() += 1;
                }
            }
            if let Some(place) = self.places.get_mut(host) {
                place.load += member.slots;
            }
        }
        let crowded: Vec<&str> = self.places.keys().copied().filter(|host| self.crowd(host) > 0).collect();
        for host in crowded {
            if let Some(place) = self.places.get_mut(host) {
                place.is_crowded = true;
            }
        }
        self.plan.counted = self.tallies.iter().map(|(name, tally)| ((*name).to_owned(), tally.counted)).collect();
    }

    /// How many workers a host has too many, without those that leave.
    pub(super) fn crowd(&self, host: &str) -> usize {
        let workers = self.places.get(host).map_or(&[][..], |place| &place.workers);
        let stay = workers.iter().filter(|id| self.members.get(**id).is_some_and(Member::stays)).count();
        stay.saturating_sub(self.limit(host))
    }

    /// The most workers on a host, with those that others are replaced by.
    pub(super) fn limit(&self, host: &str) -> usize {
        let surge = if self.replacing == Some(host) { self.desired.roll_parallel.max(1) } else { 0 };
        self.desired.max_workers(host).saturating_add(surge)
    }

    /// The workers of a function.
    pub(super) fn tally(&self, function: &str) -> Tally {
        self.tallies.get(function).copied().unwrap_or_default()
    }

    /// How many workers of a function count on a host.
    pub(super) fn on(&self, function: &str, host: &str) -> usize {
        self.on_host.get(&(function, host)).copied().unwrap_or(0)
    }

    /// How many functions the workers of a host do together.
    pub(super) fn load(&self, host: &str) -> usize {
        self.places.get(host).map_or(0, |place| place.load)
    }

    /// Lets a worker go on with a function until another one does it.
    pub(super) fn move_away(&mut self, id: &'a WorkerId, function: &'a str, reason: Reason) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.ours.insert(function, Standing::Moves(reason)) == Some(Standing::Counts) {
            let (host, answers) = (member.worker.host.as_str(), member.worker.silent_ms == 0);
            self.count_out(function, host, answers);
        }
    }

    /// A worker counts for a function no more.
    fn count_out(&mut self, function: &'a str, host: &'a str, answers: bool) {
        if let Some(tally) = self.tallies.get_mut(function) {
            tally.counted -= 1;
            tally.sure -= usize::from(answers);
        }
        let load = self.places.get_mut(host).map(|place| &mut place.load);
        for number in self.on_host.get_mut(&(function, host)).into_iter().chain(load) {
            *number -= 1;
        }
    }

    /// The version that workers of a function are to be of, if any is wanted.
    pub(super) fn version_for(&self, function: &str) -> Option<&'a str> {
        self.desired.version_for(function)
    }

    /// Whether a version is right for a function.
    pub(super) fn is_right(&self, version: &str, function: &str) -> bool {
        self.version_for(function).is_none_or(|wanted| wanted == version)
    }

    /// The version that a worker is to be of that does nothing, if its own is wanted for nothing that it could do.
    pub(super) fn missed_version(&self, worker: &Worker) -> Option<&'a str> {
        let names = worker.in_use.union(&worker.not_in_use).filter(|name| self.desired.functions.contains_key(*name));
        let mut first = None;
        for name in names {
            match self.version_for(name).filter(|wanted| *wanted != worker.version) {
                None => return None,
                Some(wanted) => first = first.or(Some(wanted)),
            }
        }
        let of_all = Some(self.desired.version.as_str()).filter(|wanted| !wanted.is_empty());
        of_all.filter(|wanted| *wanted != worker.version).or(first)
    }

    /// Whether a worker's host would be left without one of its kind: the same language and the same functions.
    pub(super) fn is_last_of_kind(&mut self, id: &WorkerId) -> bool {
        let Some(host) = self.members.get(id).map(|member| member.worker.host.as_str()) else { return true };
        self.tell_kinds(host);
        let kind = self.members.get(id).and_then(|member| member.kind);
        let left = kind.and_then(|kind| self.places.get(host)?.kinds.get(kind).copied()).unwrap_or(0);
        left <= 1
    }

    /// Tells the kinds of a host's workers apart, once.
    fn tell_kinds(&mut self, host: &str) {
        let Some(place) = self.places.get_mut(host).filter(|place| place.kinds.is_empty()) else { return };
        let mut kinds: BTreeMap<(&str, Vec<&str>), usize> = BTreeMap::new();
        for id in &place.workers {
            let Some(member) = self.members.get_mut(id) else { continue };
            let functions = member.worker.in_use.union(&member.worker.not_in_use).map(String::as_str).collect();
            let new = kinds.len();
            let kind = *kinds.entry((&member.worker.language, functions)).or_insert(new);
            member.kind = Some(kind);
            place.kinds.resize(kinds.len(), 0);
            place.kinds[kind] += usize::from(member.answers());
        }
    }

    fn say(&mut self, action: Action, why: String) {
        self.plan.decisions.push(Decision { action, why });
    }

    /// Lets a worker do a function.
    pub(super) fn register(&mut self, id: &'a WorkerId, function: &'a str, why: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.slots += 1;
        member.ours.insert(function, Standing::Hoped);
        *self.on_host.entry((function, &member.worker.host)).or_default() += 1;
        if let Some(place) = self.places.get_mut(member.worker.host.as_str()) {
            place.load += 1;
        }
        if let Some(tally) = self.tallies.get_mut(function) {
            tally.counted += 1;
        }
        self.say(Action::Register { worker: id.clone(), function: function.to_owned() }, why);
    }

    /// Lets a worker do a function no more.
    pub(super) fn unregister(&mut self, id: &'a WorkerId, function: &'a str, why: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.ours.insert(function, Standing::Dropped) == Some(Standing::Counts) {
            let (host, answers) = (member.worker.host.as_str(), member.worker.silent_ms == 0);
            self.count_out(function, host, answers);
        }
        self.say(Action::Unregister { worker: id.clone(), function: function.to_owned() }, why);
    }

    /// Lets a worker end. It counts for no function.
    pub(super) fn exit(&mut self, id: &'a WorkerId, why: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        let kind = if member.answers() { member.kind } else { None };
        member.is_leaving = true;
        let kinds = self.places.get_mut(member.worker.host.as_str()).map(|place| &mut place.kinds);
        if let Some(left) = kind.and_then(|kind| kinds?.get_mut(kind)) {
            *left -= 1;
        }
        self.say(Action::Exit { worker: id.clone() }, why);
    }

    /// Starts a worker on a host.
    pub(super) fn start(&mut self, host: &str, by: &WorkerId, why: String) {
        self.say(Action::Start { host: host.to_owned(), by: by.clone() }, why);
    }

    /// What came of it.
    pub(super) fn into_plan(mut self) -> Plan {
        self.plan.targets = self.tallies.iter().map(|(name, tally)| ((*name).to_owned(), tally.target)).collect();
        let is_outdated = |(id, member): &(&&WorkerId, &Member<'_>)| {
            !member.is_forgotten
                && (member.is_outdated() || member.is_leaving && rolling::is_leftover(&self, id, member))
        };
        let outdated: Vec<(&WorkerId, bool)> = (self.members.iter().filter(is_outdated))
            .map(|(id, member)| (*id, !member.is_leaving || !member.worker.running.is_empty()))
            .collect();
        self.plan.outdated_at_work = outdated.iter().filter(|(_, is_at_work)| *is_at_work).count();
        self.plan.outdated = outdated.into_iter().map(|(id, _)| id.clone()).collect();
        self.plan.memory.known = self.observed.workers.keys().cloned().collect();
        self.plan
    }
}
