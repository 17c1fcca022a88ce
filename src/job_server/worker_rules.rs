//! Worker rules: the operator's decisions that workers are disabled or draining, and get no jobs.
//!
//! A rule is looked up when a connection registers a function, when it sets its client id, and when rules
//! change. The result is stored with the ability, so that grabs and wake-ups check only a flag. The worker is
//! not told: it is answered as if there were no jobs, and is not woken for any.
//!
//! A rule may apply to many workers with many functions. [`JobServer::go_on_with_rules`] and
//! [`JobServer::timeout`] process a bounded number of them at a time. A worker that asks for a job or goes to
//! sleep before it was processed is processed then, so that a rule is in force at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{self, Excluded, Included, Unbounded};

use super::connection::Ability;
use super::control::{ControlError, Cursor, Rule, WorkerSelector, check_function_name};
use super::effects::Effects;
use super::ids::{AbilitySlot, ConnectionSlot, FunctionSlot, SlotId};
use super::{ConnectionId, JobServer, Now, WORK_PER_CALL, WorkerMode, price};
use crate::protocol::FunctionName;
use crate::protocol::names::CLIENT_ID_MAX;

/// The maximum number of rules for client ids and hosts, and of rules for one connection.
const MAX_RULES: usize = 1000;
/// The maximum number of rules for all connections together.
const MAX_RULES_FOR_CONNECTIONS: usize = 10_000;
/// The price of looking up the rules for one function of one worker.
const RULE: u32 = 4;
/// The maximum length of a host name, in bytes: that of names in the DNS.
const HOST_MAX: usize = 255;

/// The modes that the rules of one selector set, by function. The entry without a function is for all
/// functions.
type Modes = BTreeMap<Option<FunctionName>, WorkerMode>;

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// By connection slot.
    connections: BTreeMap<ConnectionSlot, Modes>,
    clients: BTreeMap<Vec<u8>, Modes>,
    hosts: BTreeMap<String, Modes>,
    /// Connections whose rules have changed and that were not processed yet; some are processed already, or
    /// gone.
    stale: VecDeque<ConnectionId>,
}

impl Rules {
    /// The number of rules that do not depend on a connection.
    fn remembered(&self) -> usize {
        self.clients.values().chain(self.hosts.values()).map(BTreeMap::len).sum()
    }

    /// The number of rules that end with their connections.
    fn for_connections(&self) -> usize {
        self.connections.values().map(BTreeMap::len).sum()
    }

    /// The rules of a selector, to be changed.
    fn of(&mut self, selector: &WorkerSelector) -> &mut Modes {
        match selector {
            WorkerSelector::Connection(id) => self.connections.entry(ConnectionSlot::of(*id)).or_default(),
            WorkerSelector::Client(id) => self.clients.entry(id.clone()).or_default(),
            WorkerSelector::Host(address) => self.hosts.entry(address.clone()).or_default(),
        }
    }

    /// The rules of a selector, if there are any.
    fn get(&self, selector: &WorkerSelector) -> Option<&Modes> {
        match selector {
            WorkerSelector::Connection(id) => self.connections.get(&ConnectionSlot::of(*id)),
            WorkerSelector::Client(id) => self.clients.get(id),
            WorkerSelector::Host(address) => self.hosts.get(address),
        }
    }

    /// Removes selectors that have no rules left.
    fn tidy(&mut self) {
        self.connections.retain(|_, modes| !modes.is_empty());
        self.clients.retain(|_, modes| !modes.is_empty());
        self.hosts.retain(|_, modes| !modes.is_empty());
    }

    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.clients.is_empty() && self.hosts.is_empty()
    }

    /// Removes the rules of a connection that has ended: its slot will be reused.
    pub(super) fn forget_connection(&mut self, slot: ConnectionSlot) {
        self.connections.remove(&slot);
    }
}

impl JobServer {
    /// Disables or drains workers, for one function or for all: they get no jobs. Jobs that they hold
    /// continue. Returns the number of workers affected now: those that offer the function.
    ///
    /// A rule for a connection lasts as long as the connection; a rule for a client id or a host lasts until
    /// it is removed with [`enable_workers`](Self::enable_workers). A second rule for the same workers and
    /// function replaces the first.
    ///
    /// # Errors
    /// [`ControlError::NoSuchWorker`] for a connection that does not exist, [`ControlError::NameTooLong`] or
    /// [`ControlError::BadName`] for a name that no worker or function can have,
    /// [`ControlError::TooManyRules`] beyond 1,000 rules, or beyond 10,000 for connections in all.
    pub fn set_worker_mode(
        &mut self,
        now: Now,
        selector: &WorkerSelector,
        function: Option<&[u8]>,
        mode: WorkerMode,
        effects: &mut impl Effects,
    ) -> Result<usize, ControlError> {
        let changed = self.insert_rule(selector, function, mode)?;
        let function = function.map(FunctionName::new);
        if changed {
            self.store_rule(selector, function.as_ref(), Some(mode), effects);
        }
        Ok(self.apply_rules_to(now, selector, &[function], effects))
    }

    /// Inserts a rule without applying or storing it. Returns whether it is new, or has changed.
    pub(super) fn insert_rule(
        &mut self,
        selector: &WorkerSelector,
        function: Option<&[u8]>,
        mode: WorkerMode,
    ) -> Result<bool, ControlError> {
        let fits = match selector {
            WorkerSelector::Connection(_) => true,
            WorkerSelector::Client(id) => id.len() <= CLIENT_ID_MAX,
            WorkerSelector::Host(address) => address.len() <= HOST_MAX,
        };
        if !fits {
            return Err(ControlError::NameTooLong);
        }
        function.map_or(Ok(()), check_function_name)?;
        let function = function.map(FunctionName::new);
        if let WorkerSelector::Connection(id) = selector {
            self.slot_of(*id).ok_or(ControlError::NoSuchWorker)?;
        }
        let known = self.rules.get(selector);
        let is_new = !known.is_some_and(|known| known.contains_key(&function));
        let count = match selector {
            WorkerSelector::Connection(_) => known.map_or(0, BTreeMap::len),
            WorkerSelector::Client(_) | WorkerSelector::Host(_) => self.rules.remembered(),
        };
        let is_too_much = self.rules.for_connections() >= MAX_RULES_FOR_CONNECTIONS
            && matches!(selector, WorkerSelector::Connection(_));
        if is_new && (count >= MAX_RULES || is_too_much) {
            return Err(ControlError::TooManyRules);
        }
        Ok(self.rules.of(selector).insert(function, mode) != Some(mode))
    }

    /// Removes what [`set_worker_mode`](Self::set_worker_mode) set for exactly these workers: the rule for
    /// one function, or without one all their rules. Returns the number of workers affected now.
    ///
    /// # Errors
    /// [`ControlError::NoSuchWorker`] for a connection that does not exist, [`ControlError::NoSuchRule`] if
    /// there is no rule for exactly these workers: others may still apply to them.
    pub fn enable_workers(
        &mut self,
        now: Now,
        selector: &WorkerSelector,
        function: Option<&[u8]>,
        effects: &mut impl Effects,
    ) -> Result<usize, ControlError> {
        if let WorkerSelector::Connection(id) = selector {
            self.slot_of(*id).ok_or(ControlError::NoSuchWorker)?;
        }
        let modes = self.rules.of(selector);
        let removed: Vec<Option<FunctionName>> = match function.map(|name| Some(FunctionName::new(name))) {
            Some(function) => modes.remove(&function).map(|_| function).into_iter().collect(),
            None => std::mem::take(modes).into_keys().collect(),
        };
        self.rules.tidy();
        for function in &removed {
            self.store_rule(selector, function.as_ref(), None, effects);
        }
        if removed.is_empty() {
            return Err(ControlError::NoSuchRule);
        }
        Ok(self.apply_rules_to(now, selector, &removed, effects))
    }

    /// Lists a bounded number of rules, those for connections first: from the beginning, or after a rule of
    /// the previous page. An empty page is the end.
    pub fn list_rules(&self, after: Option<&Rule>) -> Vec<Rule> {
        let Rules { connections, clients, hosts, .. } = &self.rules;
        let function = after.map(|rule| &rule.function);
        let seen;
        let (connection, client, host) = match after.map(|rule| &rule.selector) {
            None => (Some(Unbounded), Some(Unbounded), Some(Unbounded)),
            Some(WorkerSelector::Connection(id)) => {
                seen = ConnectionSlot::of(*id);
                (Some(Included(&seen)), Some(Unbounded), Some(Unbounded))
            }
            Some(WorkerSelector::Client(id)) => (None, Some(Included(id)), Some(Unbounded)),
            Some(WorkerSelector::Host(address)) => (None, None, Some(Included(address))),
        };
        let connections = parts(connections, connection, function);
        let connections = connections.map(|(slot, part)| (WorkerSelector::Connection(self.id_of(*slot)), part));
        let clients = parts(clients, client, function).map(|(id, part)| (WorkerSelector::Client(id.clone()), part));
        let hosts = parts(hosts, host, function).map(|(address, part)| (WorkerSelector::Host(address.clone()), part));
        let all = connections.chain(clients).chain(hosts).take(WORK_PER_CALL);
        all.map(|(selector, (function, mode))| Rule { selector, function: function.clone(), mode: *mode }).collect()
    }

    /// The same for the rules of exactly these workers.
    pub fn list_rules_for(&self, selector: &WorkerSelector, after: Option<&Rule>) -> Vec<Rule> {
        let known = match selector {
            WorkerSelector::Connection(id) if self.slot_of(*id).is_none() => None,
            _ => self.rules.get(selector),
        };
        let begin = after.map_or(Unbounded, |rule| Excluded(&rule.function));
        let rules = known.into_iter().flat_map(|modes| modes.range((begin, Unbounded))).take(WORK_PER_CALL);
        rules
            .map(|(function, mode)| Rule { selector: selector.clone(), function: function.clone(), mode: *mode })
            .collect()
    }

    /// The connections that are selected: one by its id in any case, others if they offer a function.
    pub fn workers_of(&self, selector: &WorkerSelector) -> Vec<ConnectionId> {
        self.meant(selector).into_iter().map(|slot| self.id_of(slot)).collect()
    }

    fn meant(&self, selector: &WorkerSelector) -> Vec<ConnectionSlot> {
        let workers = || {
            let workers =
                self.connections.iter().filter(|(_, connection)| connection.abilities.first != AbilitySlot::NONE);
            workers.map(|(slot, connection)| (slot, &connection.gauges))
        };
        match selector {
            WorkerSelector::Connection(id) => self.slot_of(*id).into_iter().collect(),
            WorkerSelector::Client(id) => {
                let of_client = workers().filter(|(_, gauges)| gauges.has_client_id(id));
                of_client.map(|(slot, _)| slot).collect()
            }
            WorkerSelector::Host(address) => {
                workers().filter(|(_, gauges)| gauges.peer == *address).map(|(slot, _)| slot).collect()
            }
        }
    }

    /// Applies changed rules of a selector for these functions; `None` is any function. Returns the number of
    /// selected workers that offer one of them.
    fn apply_rules_to(
        &mut self,
        now: Now,
        selector: &WorkerSelector,
        functions: &[Option<FunctionName>],
        effects: &mut impl Effects,
    ) -> usize {
        let meant = self.meant(selector);
        if !matches!(selector, WorkerSelector::Connection(_)) {
            self.work_budget.spend_entries(self.connections.len());
        }
        let concerned = self.count_concerned(&meant, functions);
        for connection in &meant {
            self.make_rules_stale(*connection);
        }
        self.go_on_with_rules(now, effects);
        concerned
    }

    /// The number of these connections that offer one of the functions; all of them if one is `None`, which
    /// is any.
    fn count_concerned(&self, connections: &[ConnectionSlot], functions: &[Option<FunctionName>]) -> usize {
        if functions.contains(&None) {
            return connections.len();
        }
        let slots = functions.iter().flatten().filter_map(|name| self.function_names.get(name.as_bytes()).copied());
        let slots: Vec<FunctionSlot> = slots.collect();
        let offers =
            |connection: ConnectionSlot| slots.iter().any(|slot| self.ability_slots.contains_key(&(connection, *slot)));
        connections.iter().filter(|connection| offers(**connection)).count()
    }

    /// Continues to apply changed rules to workers, until the budget is spent.
    /// [`rules_cursor`](Self::rules_cursor) tells whether some are left.
    pub fn go_on_with_rules(&mut self, now: Now, effects: &mut impl Effects) {
        let mut to_cover = BTreeSet::new();
        let mut count = 0;
        // Mark all first, then wake: otherwise a worker could be woken just before it is marked.
        while (count == 0 || !self.is_turn_over())
            && let Some(id) = self.rules.stale.pop_front()
        {
            count += 1;
            self.work_budget.spend(price::ENTRY);
            let stale = self.slot_of(id).filter(|slot| self.connections[*slot].has_stale_rules);
            if let Some(connection) = stale
                && !self.update_modes(connection, &mut to_cover)
            {
                self.rules.stale.push_front(id);
                break;
            }
        }
        self.cover_all(now, to_cover, effects);
        self.debug_check_invariants();
    }

    /// The cursor for workers whose rules have changed, if some are left.
    pub fn rules_cursor(&self) -> Option<Cursor> {
        (!self.rules.stale.is_empty()).then_some(Cursor::OF_RULES)
    }

    /// Applies changed rules to a connection that may not be processed yet. Returns whether it is complete;
    /// if not, call again.
    pub(super) fn refresh_rules(&mut self, now: Now, connection: ConnectionSlot, effects: &mut impl Effects) -> bool {
        if !self.connections[connection].has_stale_rules {
            return true;
        }
        let mut to_cover = BTreeSet::new();
        let is_all = self.update_modes(connection, &mut to_cover);
        self.cover_all(now, to_cover, effects);
        is_all
    }

    /// Sets a connection's client id, for which there may be other rules.
    pub(super) fn rename(&mut self, now: Now, connection: ConnectionSlot, id: &[u8], effects: &mut impl Effects) {
        let gauges = &self.connections[connection].gauges;
        self.clients.set(connection, gauges.client_id().as_deref(), Some(id));
        let clients = &self.rules.clients;
        let was_meant = !clients.is_empty() && gauges.client_id().is_some_and(|id| clients.contains_key(&id));
        gauges.set_client_id(id);
        let is_meant = !clients.is_empty() && gauges.client_id().is_some_and(|id| clients.contains_key(&id));
        if was_meant || is_meant {
            self.make_rules_stale(connection);
            self.refresh_rules(now, connection, effects);
        }
    }

    /// Marks a connection's rules as changed, and queues it for processing.
    fn make_rules_stale(&mut self, connection: ConnectionSlot) {
        self.connections[connection].rules_at = AbilitySlot::NONE;
        if !std::mem::replace(&mut self.connections[connection].has_stale_rules, true) {
            self.rules.stale.push_back(self.id_of(connection));
        }
    }

    fn cover_all(&mut self, now: Now, functions: BTreeSet<FunctionSlot>, effects: &mut impl Effects) {
        for function in functions {
            self.cover(now, function, effects);
        }
    }

    /// The strictest rule for a function that a connection can do.
    pub(super) fn mode_for(&self, connection: ConnectionSlot, function: &[u8]) -> Option<WorkerMode> {
        if self.rules.is_empty() {
            return None;
        }
        strictest(&self.rules_for(connection), &FunctionName::new(function))
    }

    /// The rules that apply to a connection.
    fn rules_for(&self, connection: ConnectionSlot) -> Vec<&Modes> {
        let gauges = &self.connections[connection].gauges;
        let Rules { connections, clients, hosts, .. } = &self.rules;
        let of_client = if clients.is_empty() { None } else { gauges.client_id().and_then(|id| clients.get(&id)) };
        [connections.get(&connection), of_client, hosts.get(&gauges.peer)].into_iter().flatten().collect()
    }

    /// Continues to update the modes of a connection's abilities: at least one, and until the budget is
    /// spent. Adds the functions to cover again to `to_cover`. Returns whether it is complete.
    fn update_modes(&mut self, connection: ConnectionSlot, to_cover: &mut BTreeSet<FunctionSlot>) -> bool {
        let state = &self.connections[connection];
        let first = state.abilities.first;
        let mut ability = if state.rules_at == AbilitySlot::NONE { first } else { state.rules_at };
        let mut count = 0;
        while ability != AbilitySlot::NONE {
            if count > 0 && self.is_turn_over() {
                self.connections[connection].rules_at = ability;
                return false;
            }
            count += 1;
            let next = self.abilities[ability].turn_next;
            to_cover.extend(self.refresh_rule(ability));
            ability = next;
        }
        self.connections[connection].has_stale_rules = false;
        self.connections[connection].rules_at = AbilitySlot::NONE;
        true
    }

    /// Updates the mode of one ability. Returns the function if it must be covered again.
    pub(super) fn refresh_rule(&mut self, ability: AbilitySlot) -> Option<FunctionSlot> {
        let Ability { connection, function, mode, .. } = self.abilities[ability];
        let rule = if self.rules.is_empty() {
            None
        } else {
            self.work_budget.spend(RULE);
            strictest(&self.rules_for(connection), &self.functions[function].name)
        };
        self.work_budget.spend(price::ENTRY);
        if rule == mode { None } else { self.set_mode(ability, rule) }
    }

    /// Returns the function if it must be covered again.
    fn set_mode(&mut self, ability: AbilitySlot, mode: Option<WorkerMode>) -> Option<FunctionSlot> {
        let Ability { connection, function, mode: before, .. } = self.abilities[ability];
        self.work_budget.spend(2 * price::ENTRY);
        self.abilities[ability].mode = mode;
        self.abilities[ability].gauges.set_mode(mode);
        let is_ready = self.connections[connection].is_ready_to_wake();
        let is_to_cover = match (before, mode) {
            (None, Some(_)) if is_ready => {
                if !self.connections[connection].is_wide {
                    self.remove_sleeper(ability);
                }
                false
            }
            (None, Some(_)) => self.cancel_wakeup(connection, function),
            (Some(_), None) if is_ready => {
                self.join_later(ability);
                true
            }
            // It asks by itself, or is at its job limit, or nothing changes for jobs.
            (Some(_), Some(_) | None) | (None, None) => false,
        };
        is_to_cover.then_some(function)
    }

    /// Checks that the modes of all abilities follow from the rules.
    pub(super) fn check_rules(&self) {
        for slot in self.rules.connections.keys() {
            assert!(self.connections.contains(*slot), "a rule has outlived its connection");
        }
        let Rules { connections, clients, hosts, .. } = &self.rules;
        let all = connections.values().chain(clients.values()).chain(hosts.values());
        assert!(all.into_iter().all(|modes| !modes.is_empty()), "an empty set of rules is kept");
        for (slot, connection) in &self.connections {
            let id = self.id_of(slot);
            assert!(
                !connection.has_stale_rules || self.rules.stale.contains(&id),
                "a connection will not have its turn"
            );
        }
        for (_, ability) in &self.abilities {
            if self.connections[ability.connection].has_stale_rules {
                continue;
            }
            let name = &self.functions[ability.function].name;
            let rule = self.mode_for(ability.connection, name.as_bytes());
            assert_eq!(ability.mode, rule, "the mode of an ability does not follow from the rules");
        }
    }
}

/// The rules of one kind of selector: none, all, or those from a key on, after `function` at that key.
fn parts<'a, K: Ord>(
    all: &'a BTreeMap<K, Modes>,
    begin: Option<Bound<&'a K>>,
    function: Option<&'a Option<FunctionName>>,
) -> impl Iterator<Item = (&'a K, (&'a Option<FunctionName>, &'a WorkerMode))> {
    let all = begin.into_iter().flat_map(|begin| all.range((begin, Unbounded)));
    all.flat_map(move |(key, modes)| {
        let seen = function.filter(|_| begin == Some(Included(key)));
        modes.range((seen.map_or(Unbounded, Excluded), Unbounded)).map(move |part| (key, part))
    })
}

/// The strictest of several rules for a function. Disabled is stricter than draining.
fn strictest(rules: &[&Modes], function: &FunctionName) -> Option<WorkerMode> {
    let function = Some(function.clone());
    let of_function = rules.iter().filter_map(|modes| modes.get(&function));
    let of_all = rules.iter().filter_map(|modes| modes.get(&None));
    of_function.chain(of_all).copied().min_by_key(|mode| *mode != WorkerMode::Disabled)
}
