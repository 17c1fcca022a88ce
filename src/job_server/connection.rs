//! A connection as the state machine sees it. Worker and client are roles of it: it may play both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::index::NONE;
use super::refused::RefusedFunctions;
use crate::protocol::{ConnectionOption, GrabKind};
use crate::stats::{AbilityGauges, ConnectionGauges, SleepState, Withholding};

/// Whether a connection waits to be told of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    /// It will ask by itself.
    Awake,
    /// It sent PRE_SLEEP. Its abilities are in their functions' lists of sleepers, but for those that are withheld, and not while
    /// it [is full](Connection::is_full).
    Asleep,
    /// It was sent a NOOP for a job of `function`, which counts it as on its way. `serial` tells this NOOP from others.
    Woken { function: u32, serial: u64 },
    /// It was sent a NOOP and let its time pass. Sooner or later it will read it and ask; until then it is not counted on.
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
    /// Whether it has said that none of the jobs that it holds is begun.
    pub(super) holds_unbegun: bool,
    /// What it can do, in the order in which it is looked through for jobs.
    pub(super) abilities: AbilityList,
    /// Whether it has had many abilities since it had none: see [`super::wake`].
    pub(super) is_wide: bool,
    /// When it fell asleep or could take jobs again, counted, and while it sleeps its neighbours among the
    /// wide ones that do.
    pub(super) slept: u64,
    pub(super) previous_sleeper: u32,
    pub(super) next_sleeper: u32,
    /// Whether the operator's rules for it have changed, and its abilities do not say so yet.
    pub(super) has_stale_rules: bool,
    /// The ability at which that goes on; [`NONE`] is the first.
    pub(super) rules_at: u32,
    /// The ability from which on it is to be looked for ready jobs that nobody is on the way for, since it
    /// has fallen asleep; [`NONE`] where that is done.
    pub(super) cover_at: u32,
    /// The first of the jobs that it waits for.
    pub(super) first_wait: u32,
    pub(super) waits: u32,
    /// The first and the last of the jobs that it holds, oldest first.
    pub(super) first_run: u32,
    pub(super) last_run: u32,
    pub(super) runs: u32,
    /// While it sleeps, whether it holds as many jobs as it may: then it would be told that there is none, and is not woken.
    pub(super) is_full: bool,
    /// The run of the job that it was assigned last, unless it has said something since. A slot of the runs.
    pub(super) last_assigned: u32,
    /// How many gaps it has had in what it is sent, and how many of them are open.
    pub(super) gaps: u64,
    pub(super) open_gaps: u32,
    /// How many jobs it has held at most at a time.
    pub(super) most_runs: u32,
    /// Numbers of jobs that were taken away from it while it ran them, and when, counted. Its result still ends such a job;
    /// nothing else that it says of it is heard, or answered.
    forfeited: BTreeMap<u64, u64>,
    /// The same in the order of time; those among them whose time is another one have been forgotten, or
    /// taken away again.
    forfeited_in_order: VecDeque<(u64, u64)>,
    last_forfeited: u64,
    /// What it offered and was not registered for, if anything.
    pub(super) refused: Option<RefusedFunctions>,
    /// What its request has not done yet, that is to come again.
    pub(super) pending: Option<Pending>,
    pub(super) gauges: Arc<ConnectionGauges>,
}

/// What a request that takes several turns still has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Clients of a job, in this slot, are told something.
    Message { job: u32, serial: u64 },
    /// It asked for a job, and is looked through from this ability on.
    Grab { kind: GrabKind, at: u32 },
    /// It no longer does this function, and still holds jobs of it.
    GiveBack { function: u32 },
}

/// How many taken-away jobs are remembered for a connection at least; more where it has held more at a time.
/// Beyond twice as many the oldest are forgotten: a worker that piles them up gets errors, and cannot end
/// them any more. A worker that does many jobs side by side, each for longer than its time, has had far more
/// of them than it seems to hold.
const LEAST_FORFEITED: usize = 1024;

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
            previous_sleeper: NONE,
            next_sleeper: NONE,
            has_stale_rules: false,
            rules_at: NONE,
            cover_at: NONE,
            first_wait: NONE,
            waits: 0,
            first_run: NONE,
            last_run: NONE,
            runs: 0,
            is_full: false,
            last_assigned: NONE,
            gaps: 0,
            open_gaps: 0,
            most_runs: 0,
            forfeited: BTreeMap::new(),
            forfeited_in_order: VecDeque::new(),
            last_forfeited: 0,
            refused: None,
            pending: None,
            gauges,
        }
    }

    /// Sleeps or wakes, and tells the world.
    pub(super) fn set_sleep(&mut self, sleep: Sleep) {
        self.gauges.set_sleep(match sleep {
            Sleep::Awake => SleepState::Awake,
            Sleep::Asleep => SleepState::Asleep,
            Sleep::Woken { .. } | Sleep::Late => SleepState::Woken,
        });
        self.sleep = sleep;
    }

    /// It has asked for an option.
    pub(super) const fn set_option(&mut self, option: ConnectionOption) {
        match option {
            ConnectionOption::Exceptions => self.exceptions = true,
            ConnectionOption::NotBegun => self.holds_unbegun = true,
        }
    }

    /// Whether it sleeps and could take a job.
    pub(super) fn is_ready_to_wake(&self) -> bool {
        self.sleep == Sleep::Asleep && !self.is_full
    }

    /// A job is taken away from it. Where memory is short, no more such jobs are remembered than always are.
    pub(super) fn forfeit(&mut self, number: u64, is_memory_short: bool) {
        let more = if is_memory_short { 0 } else { self.most_runs as usize };
        let most = LEAST_FORFEITED.max(more);
        while self.forfeited_in_order.len() >= 2 * most
            && let Some((oldest, time)) = self.forfeited_in_order.pop_front()
        {
            if self.forfeited.get(&oldest) == Some(&time) {
                self.forfeited.remove(&oldest);
            }
        }
        self.last_forfeited += 1;
        self.forfeited.insert(number, self.last_forfeited);
        self.forfeited_in_order.push_back((number, self.last_forfeited));
    }

    /// How many entries it has of jobs that were taken away from it.
    pub(super) fn forfeited_entries(&self) -> usize {
        self.forfeited_in_order.len()
    }

    /// The jobs that were taken away from it, as far as they are remembered.
    pub(super) fn forfeited(&self) -> impl Iterator<Item = u64> {
        self.forfeited.keys().copied()
    }

    /// Whether the job was taken away from this connection; if so, `is_last` forgets that.
    pub(super) fn has_forfeited(&mut self, number: u64, is_last: bool) -> bool {
        if is_last { self.forfeited.remove(&number).is_some() } else { self.forfeited.contains_key(&number) }
    }
}

/// That a connection can do a function. While the connection sleeps, it stands in the function's list of sleepers, unless
/// it is withheld. That of a wide connection stands in the function's list of those, always.
#[derive(Debug)]
pub(super) struct Ability {
    pub(super) connection: u32,
    pub(super) function: u32,
    pub(super) timeout_ms: Option<u64>,
    pub(super) gauges: Arc<AbilityGauges>,
    /// Whether the operator's rules keep the function's jobs from this connection.
    pub(super) withheld: Option<Withholding>,
    pub(super) previous: u32,
    pub(super) next: u32,
    /// Among the sleepers of its function it stands since then, or since its connection fell asleep.
    pub(super) since: u64,
    /// Its place in the order in which the connection's abilities are looked through; its neighbours there.
    pub(super) turn: i64,
    pub(super) turn_previous: u32,
    pub(super) turn_next: u32,
}

/// The abilities of a connection, linked through themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct AbilityList {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) len: u32,
}

impl Default for AbilityList {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

/// That a client waits for a job. It is in two lists: that of the job and that of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) job: u32,
    pub(super) connection: u32,
    pub(super) next_of_job: u32,
    pub(super) previous_of_job: u32,
    /// How many waits the job has. Kept by the first of them alone.
    pub(super) count: u32,
    pub(super) next_of_connection: u32,
    pub(super) previous_of_connection: u32,
}

/// That a worker holds a job.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) job: u32,
    pub(super) connection: u32,
    /// Of the ability to do it, which may have ended meanwhile.
    pub(super) gauges: Arc<AbilityGauges>,
    /// When it began, on the monotonic clock and for people.
    pub(super) since_us: u64,
    pub(super) since_unix_ms: u64,
    /// When the job is taken away again, on the monotonic clock.
    pub(super) deadline_us: Option<u64>,
    pub(super) numerator: u64,
    pub(super) denominator: u64,
    pub(super) previous: u32,
    pub(super) next: u32,
    /// Its neighbours among the runs of its function, the one that began last first.
    pub(super) next_of_function: u32,
    pub(super) previous_of_function: u32,
}
