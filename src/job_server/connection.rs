//! The state of a connection. Worker and client are roles: one connection may play both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::ids::{AbilitySlot, ConnectionSlot, FunctionSlot, RunSlot, SlotId, WaitSlot};
use super::refused::RefusedFunctions;
use crate::protocol::{ConnectionOption, GrabKind};
use crate::stats::{AbilityGauges, ConnectionGauges, SleepState, WorkerMode};

/// Whether a connection waits to be woken for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    /// It asks for jobs by itself.
    Awake,
    /// It sent PRE_SLEEP. Its abilities are in their functions' lists of sleepers, except those that are
    /// disabled or draining, and except while it [is full](Connection::is_full).
    Asleep,
    /// It was sent a NOOP for a job of `function`, which counts it as on its way. `serial` identifies this
    /// NOOP.
    Woken { function: FunctionSlot, serial: u64 },
    /// It did not answer a NOOP in time. It will read the NOOP and ask at some point; until then no function
    /// counts on it.
    Late,
}

/// A connection.
#[allow(clippy::struct_excessive_bools, reason = "each holds or not, whatever the others do")]
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) sleep: Sleep,
    /// Whether it asked for exceptions.
    pub(super) exceptions: bool,
    /// Whether it has declared that it has begun none of the jobs that it holds.
    pub(super) holds_unbegun: bool,
    /// Its abilities, in the order in which they are searched for jobs.
    pub(super) abilities: AbilityList,
    /// Whether it has had many abilities since it last had none: see [`super::wake`].
    pub(super) is_wide: bool,
    /// When it fell asleep or could take jobs again, as a counter, and while it sleeps its neighbours in the
    /// list of wide sleepers.
    pub(super) slept: u64,
    pub(super) previous_sleeper: ConnectionSlot,
    pub(super) next_sleeper: ConnectionSlot,
    /// Whether the operator's rules for it have changed and are not yet applied to all its abilities.
    pub(super) has_stale_rules: bool,
    /// The ability at which applying them continues; [`AbilitySlot::NONE`] is the first.
    pub(super) rules_at: AbilitySlot,
    /// The ability at which the search for uncovered ready jobs continues, after it has fallen asleep;
    /// [`AbilitySlot::NONE`] when the search is done.
    pub(super) cover_at: AbilitySlot,
    /// The head of the list of its waits, and their number.
    pub(super) first_wait: WaitSlot,
    pub(super) waits: u32,
    /// The list of the runs of the jobs that it holds, oldest first, and their number.
    pub(super) first_run: RunSlot,
    pub(super) last_run: RunSlot,
    pub(super) runs: u32,
    /// While it sleeps, whether it is at its job limit: a GRAB_JOB would get NO_JOB, so it is not woken.
    pub(super) is_full: bool,
    /// The run of the job that it was assigned last, unless it has sent something since. A slot of the runs.
    pub(super) last_assigned: RunSlot,
    /// The number of gaps ever left in its output, and how many of them are open.
    pub(super) gaps: u64,
    pub(super) open_gaps: u32,
    /// The maximum number of jobs it has held at a time.
    pub(super) most_runs: u32,
    /// Numbers of jobs that were revoked from it while it ran them, and when, as a counter. Its result still
    /// ends such a job; its other packets about the job are ignored and not answered.
    revoked: BTreeMap<u64, u64>,
    /// The same in order of time. Entries whose time differs from the one above belong to jobs that were
    /// forgotten, or revoked again.
    revoked_in_order: VecDeque<(u64, u64)>,
    last_revoked: u64,
    /// The functions it offered that were not registered, if any.
    pub(super) refused: Option<RefusedFunctions>,
    /// The unfinished part of its request, which is to be applied again.
    pub(super) pending: Option<Pending>,
    pub(super) gauges: Arc<ConnectionGauges>,
}

/// The unfinished part of a request that takes several lock holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// A message is being delivered to the clients of the job in this slot.
    Message { job: u32, serial: u64 },
    /// It asked for a job, and the search continues at this ability.
    Grab { kind: GrabKind, at: AbilitySlot },
    /// It no longer does this function, and still holds jobs of it.
    GiveBack { function: FunctionSlot },
}

/// The minimum number of revoked jobs that are remembered per connection; more if it has held more at a time.
/// Beyond twice that number the oldest are forgotten: a worker that accumulates them gets errors, and can no
/// longer end them. A worker that runs many jobs in parallel, each beyond its timeout, has had far more of
/// them than it seems to hold.
const LEAST_REVOKED: usize = 1024;
/// Entries of revoked jobs that are dropped for each new one, at most.
const FORGOTTEN_AT_ONCE: usize = 16;

impl Connection {
    pub(super) fn new(generation: u32, gauges: Arc<ConnectionGauges>) -> Self {
        Self {
            generation,
            sleep: Sleep::Awake,
            exceptions: false,
            holds_unbegun: false,
            abilities: AbilityList::default(),
            is_wide: false,
            slept: 0,
            previous_sleeper: ConnectionSlot::NONE,
            next_sleeper: ConnectionSlot::NONE,
            has_stale_rules: false,
            rules_at: AbilitySlot::NONE,
            cover_at: AbilitySlot::NONE,
            first_wait: WaitSlot::NONE,
            waits: 0,
            first_run: RunSlot::NONE,
            last_run: RunSlot::NONE,
            runs: 0,
            is_full: false,
            last_assigned: RunSlot::NONE,
            gaps: 0,
            open_gaps: 0,
            most_runs: 0,
            revoked: BTreeMap::new(),
            revoked_in_order: VecDeque::new(),
            last_revoked: 0,
            refused: None,
            pending: None,
            gauges,
        }
    }

    /// Sets the sleep state, and publishes it.
    pub(super) fn set_sleep(&mut self, sleep: Sleep) {
        self.gauges.set_sleep(match sleep {
            Sleep::Awake => SleepState::Awake,
            Sleep::Asleep => SleepState::Asleep,
            Sleep::Woken { .. } | Sleep::Late => SleepState::Woken,
        });
        self.sleep = sleep;
    }

    /// Applies an option that the connection asked for.
    pub(super) const fn set_option(&mut self, option: ConnectionOption) {
        match option {
            ConnectionOption::Exceptions => self.exceptions = true,
            ConnectionOption::NotBegun => self.holds_unbegun = true,
        }
    }

    /// Counts a new run, the last of its list.
    pub(super) fn add_run(&mut self, run: RunSlot) {
        self.last_run = run;
        self.last_assigned = run;
        self.runs += 1;
        self.most_runs = self.most_runs.max(self.runs);
        self.gauges.running.set(u64::from(self.runs));
    }

    /// Whether it sleeps and could take a job.
    pub(super) fn is_ready_to_wake(&self) -> bool {
        self.sleep == Sleep::Asleep && !self.is_full
    }

    /// Records that a job was revoked from it. If memory is short, only the minimum number is remembered.
    pub(super) fn record_revoked(&mut self, number: u64, is_memory_short: bool) {
        let more = if is_memory_short { 0 } else { self.most_runs as usize };
        let most = LEAST_REVOKED.max(more);
        let is_stale = |revoked: &BTreeMap<u64, u64>, (number, time): &(u64, u64)| revoked.get(number) != Some(time);
        for _ in 0..FORGOTTEN_AT_ONCE {
            let is_enough = self.revoked_in_order.len() < 2 * most;
            let Some((oldest, time)) = self.revoked_in_order.front().copied() else { break };
            if is_enough && !is_stale(&self.revoked, &(oldest, time)) {
                break;
            }
            self.revoked_in_order.pop_front();
            if self.revoked.get(&oldest) == Some(&time) {
                self.revoked.remove(&oldest);
            }
        }
        self.last_revoked += 1;
        self.revoked.insert(number, self.last_revoked);
        self.revoked_in_order.push_back((number, self.last_revoked));
    }

    /// The number of entries for jobs that were revoked from it.
    pub(super) fn revoked_entries(&self) -> usize {
        self.revoked_in_order.len()
    }

    /// The jobs that were revoked from it, as far as they are remembered.
    pub(super) fn revoked(&self) -> impl Iterator<Item = u64> {
        self.revoked.keys().copied()
    }

    /// Whether the job was revoked from this connection; `is_last` then removes the record.
    pub(super) fn was_revoked(&mut self, number: u64, is_last: bool) -> bool {
        if is_last { self.revoked.remove(&number).is_some() } else { self.revoked.contains_key(&number) }
    }
}

/// The ability of a connection to do a function. While the connection sleeps, it is in the function's list of
/// sleepers, unless it is disabled or draining. The ability of a wide connection is always in the function's
/// list of wide ones instead.
#[derive(Debug)]
pub(super) struct Ability {
    pub(super) connection: ConnectionSlot,
    pub(super) function: FunctionSlot,
    pub(super) timeout_ms: Option<u64>,
    pub(super) gauges: Arc<AbilityGauges>,
    /// The mode of this connection for the function, by the operator's rules; `None` if it gets jobs.
    pub(super) mode: Option<WorkerMode>,
    pub(super) previous: AbilitySlot,
    pub(super) next: AbilitySlot,
    /// Since when it is among its function's sleepers, as a counter, unless its connection fell asleep later.
    pub(super) since: u64,
    /// Its position in the order in which the connection's abilities are searched, and its neighbours there.
    pub(super) turn: i64,
    pub(super) turn_previous: AbilitySlot,
    pub(super) turn_next: AbilitySlot,
}

/// The list of a connection's abilities, linked through the abilities.
#[derive(Clone, Copy, Debug)]
pub(super) struct AbilityList {
    pub(super) first: AbilitySlot,
    pub(super) last: AbilitySlot,
    pub(super) len: u32,
}

impl Default for AbilityList {
    fn default() -> Self {
        Self { first: AbilitySlot::NONE, last: AbilitySlot::NONE, len: 0 }
    }
}

/// The wait of a client for a job. It is in two lists: that of the job and that of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) job: u32,
    pub(super) connection: ConnectionSlot,
    pub(super) next_of_job: WaitSlot,
    pub(super) previous_of_job: WaitSlot,
    /// The number of waits of the job. Only the first of them has it.
    pub(super) count: u32,
    pub(super) next_of_connection: WaitSlot,
    pub(super) previous_of_connection: WaitSlot,
}

/// A job that a worker holds.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) job: u32,
    pub(super) connection: ConnectionSlot,
    /// The numbers of the ability for the job's function, which may have ended meanwhile.
    pub(super) gauges: Arc<AbilityGauges>,
    /// When it began, on the monotonic clock, and on the wall clock for display.
    pub(super) since_us: u64,
    pub(super) since_unix_ms: u64,
    /// The timeout of the job, on the monotonic clock.
    pub(super) deadline_us: Option<u64>,
    pub(super) numerator: u64,
    pub(super) denominator: u64,
    pub(super) previous: RunSlot,
    pub(super) next: RunSlot,
    /// Its neighbours in the list of its function's runs, the one that began last first.
    pub(super) next_of_function: RunSlot,
    pub(super) previous_of_function: RunSlot,
}
