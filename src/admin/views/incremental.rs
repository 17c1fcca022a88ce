//! Lists of functions and workers that are made in pieces, so that other connections run in between.

use std::cmp::Reverse;
use std::sync::Arc;
use std::vec;

use super::pass::{Pass, Serial, Sum};
use super::workers::{ModeSum, add_totals, count, state};
use super::{StatesByFunction, Views, durations_view, function_view};
use crate::admin::view::{DurationsView, FunctionView, WorkTotals, WorkerStates};
use crate::job_server::{ConnectionId, Now};
use crate::protocol::{FunctionName, JobHandle};
use crate::stats::histogram::{Durations, Histogram};
use crate::stats::{AbilityGauges, ConnectionGauges, FunctionGauges};

/// How many functions are shown in one piece.
const FUNCTIONS: usize = 16;
/// How many functions of workers are examined for one piece, of one worker or of many.
const ABILITIES: usize = 256;
/// How many connections are copied at a time.
const CONNECTIONS: usize = 64;

/// The functions that are left to show. First, their workers are counted in one pass over all connections.
///
/// Between two pieces it holds only the name of the last function, and no copy of the rest.
#[derive(Debug)]
pub struct Functions {
    counts: Arc<Pass<StatesByFunction>>,
    /// The first pass whose result is not older than this list.
    wanted: Serial,
    left: Left,
}

#[derive(Debug)]
enum Left {
    /// All functions after this name.
    Behind(Option<FunctionName>),
    /// A fixed list.
    These(vec::IntoIter<(FunctionName, Arc<FunctionGauges>)>),
}

/// The workers that are left to sum up, by age of their connection: those after this one.
#[derive(Debug, Default)]
pub struct Workers {
    after: Option<ConnectionId>,
    /// A worker of which this many of the oldest functions are left to add.
    unfinished: Option<(WorkerSum, usize)>,
}

/// A worker, with the totals of its functions.
#[derive(Debug)]
pub struct WorkerSum {
    /// The id of the connection.
    pub id: ConnectionId,
    /// The gauges of the connection.
    pub gauges: Arc<ConnectionGauges>,
    /// How many functions it can do.
    pub functions: usize,
    /// Results of its runs.
    pub totals: WorkTotals,
    durations: Durations,
    modes: ModeSum,
}

/// The fields of a worker, besides its functions and results.
#[derive(Debug)]
pub struct WorkerHead {
    /// When it connected, in milliseconds since 1970.
    pub connected_unix_ms: u64,
    /// When it was last heard from, in milliseconds since 1970.
    pub heard_unix_ms: u64,
    /// Its state, named as in all views.
    pub state: &'static str,
    /// Its newest job, and when that run began.
    pub job: Option<(String, u64)>,
    /// How long its runs took.
    pub run: DurationsView,
}

impl Views {
    /// All functions by name, in pieces.
    pub fn functions_in_pieces(&self) -> Functions {
        Functions::new(Arc::default(), Left::Behind(None))
    }

    /// The same for the text protocol, where hundreds of listings may run on one thread: they share the
    /// counts.
    pub(in crate::admin) fn functions_in_shared_pieces(&self) -> Functions {
        Functions::new(self.shared_counts.get(), Left::Behind(None))
    }

    /// The `most` functions with the most jobs, then those with the most workers.
    pub fn busiest_in_pieces(&self, most: usize) -> Functions {
        self.first_in_pieces(most, |gauges| Reverse((gauges.total(), gauges.workers.get())))
    }

    /// The `most` functions with the most jobs since the start. The counts only grow, so the order changes
    /// slowly and the next call finds nearly the same functions.
    pub fn most_used_in_pieces(&self, most: usize) -> Functions {
        self.first_in_pieces(most, |gauges| {
            let submitted =
                gauges.counters.get().map_or(0, |counters| counters.submitted.get() + counters.coalesced.get());
            // Jobs restored from the store count as well.
            Reverse((submitted.max(gauges.total()), gauges.workers.get()))
        })
    }

    /// The first functions by weight, then by name.
    fn first_in_pieces<W: Ord>(&self, most: usize, weight: impl Fn(&FunctionGauges) -> W) -> Functions {
        let mut functions: Vec<_> =
            self.stats().functions.iter().map(|(name, gauges)| (weight(&gauges), name, gauges)).collect();
        if functions.len() > most {
            functions.select_nth_unstable_by(most, |a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
            functions.truncate(most);
        }
        functions.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let functions: Vec<_> = functions.into_iter().map(|(_, name, gauges)| (name, gauges)).collect();
        Functions::new(Arc::default(), Left::These(functions.into_iter()))
    }

    /// All workers, in pieces.
    pub fn workers_in_pieces(&self) -> Workers {
        Workers::default()
    }
}

impl Functions {
    fn new(counts: Arc<Pass<StatesByFunction>>, left: Left) -> Self {
        Self { wanted: counts.next(), counts, left }
    }

    /// Whether the pass over the workers is still running.
    pub fn is_counting(&self) -> bool {
        self.counts.found(self.wanted).is_none()
    }

    /// The next functions; empty while workers are counted, `None` after the last.
    pub fn next_piece(&mut self, views: &Views, now: Now) -> Option<Vec<FunctionView>> {
        let Some(states) = self.counts.found(self.wanted) else {
            self.counts.resume(self.wanted, views.stats(), ABILITIES);
            return Some(Vec::new());
        };
        let most = FUNCTIONS;
        let functions: Vec<_> = match &mut self.left {
            Left::Behind(after) => {
                let page = views.stats().functions.page(after.as_ref(), most);
                *after = Some(page.last()?.0.clone());
                page
            }
            Left::These(left) => left.take(most).collect(),
        };
        if functions.is_empty() {
            return None;
        }
        let (history, times) = (views.history_lock(), views.times(now));
        let view = |(name, gauges): &(FunctionName, Arc<FunctionGauges>)| {
            function_view(&times, name, gauges, &states.of(name), &history)
        };
        Some(functions.iter().map(view).collect())
    }
}

impl Sum for StatesByFunction {
    fn add(&mut self, connection: &ConnectionGauges, left: Option<usize>, most: usize) -> (usize, Option<usize>) {
        connection.with_identity(|_, abilities| {
            let abilities = abilities.oldest(left.unwrap_or(usize::MAX));
            let total = abilities.len();
            for ability in abilities.take(most) {
                let state = state(connection, ability.mode());
                match self.0.get_mut(&ability.function) {
                    Some(states) => count(states, state),
                    None => count(self.0.entry(ability.function.clone()).or_default(), state),
                }
            }
            (total.min(most), Some(total.saturating_sub(most)).filter(|left| *left > 0))
        })
    }
}

impl StatesByFunction {
    fn of(&self, function: &FunctionName) -> WorkerStates {
        self.0.get(function).copied().unwrap_or_default()
    }
}

impl Workers {
    /// The next workers; may be empty although more follow, `None` after the last.
    pub(in crate::admin) fn next_piece(&mut self, views: &Views) -> Option<Vec<WorkerSum>> {
        let most = ABILITIES;
        let (mut workers, mut seen) = (Vec::new(), 0);
        while seen < most {
            if let Some((mut worker, left)) = self.unfinished.take() {
                let (added, left) = worker.add(left, most - seen);
                seen += added;
                if left > 0 {
                    self.unfinished = Some((worker, left));
                    break;
                }
                workers.push(worker);
            }
            let page = views.stats().connections.page(self.after.as_ref(), CONNECTIONS.min(most.saturating_sub(seen)));
            if page.is_empty() {
                return (seen > 0).then_some(workers);
            }
            for (id, gauges) in page {
                self.after = Some(id);
                seen += 1;
                if let Some(worker) = WorkerSum::begin(id, gauges) {
                    let left = worker.functions;
                    self.unfinished = Some((worker, left));
                    break;
                }
            }
        }
        Some(workers)
    }
}

impl WorkerSum {
    /// Starts the sum of a connection, unless it never was a worker. Its former functions are included.
    pub(super) fn begin(id: ConnectionId, gauges: Arc<ConnectionGauges>) -> Option<Self> {
        let former = gauges.former_functions();
        let functions = gauges.with_identity(|_, functions| functions.len());
        if functions == 0 && former.is_empty() {
            return None;
        }
        let (totals, durations, modes) = Default::default();
        let mut sum = Self { id, gauges, functions, totals, durations, modes };
        for ability in &former {
            sum.add_ability(ability);
        }
        Some(sum)
    }

    /// Adds the next `most` of its `left` oldest functions. Returns how many were added, and how many are
    /// left.
    pub(in crate::admin) fn add(&mut self, left: usize, most: usize) -> (usize, usize) {
        let gauges = Arc::clone(&self.gauges);
        gauges.with_identity(|_, functions| {
            let functions = functions.oldest(left);
            let count = functions.len();
            for ability in functions.take(most) {
                self.add_ability(ability);
                self.modes.add(ability.mode());
            }
            (count.min(most), count.saturating_sub(most))
        })
    }

    fn add_ability(&mut self, ability: &AbilityGauges) {
        add_totals(&mut self.totals, ability.counters.get());
        // Most abilities have none, and a histogram is large.
        if let Some(durations) = ability.run.get().map(Histogram::read) {
            self.durations.add(&durations);
        }
    }

    /// The fields besides the functions.
    pub(in crate::admin) fn head(&self, views: &Views, now: Now) -> WorkerHead {
        let (gauges, times, prefixes) = (&self.gauges, views.times(now), views.stats().handle_prefixes());
        let job = gauges.job().and_then(|(prefix, number, since_ms)| {
            let handle = JobHandle { prefix: prefixes.get(prefix)?, number };
            Some((handle.to_string(), times.unix_ms(since_ms)))
        });
        WorkerHead {
            connected_unix_ms: times.unix_ms(gauges.connected_ms.get()),
            heard_unix_ms: times.unix_ms(gauges.heard_ms.get()),
            state: state(gauges, self.modes.of_all()),
            job,
            run: durations_view(&self.durations),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::job_server::Policy;
    use crate::stats::Stats;

    const NOW: Now = Now { monotonic_us: 0, unix_us: 0 };

    /// A server with this many workers, each of which can do all of this many functions.
    fn views(workers: u32, functions: usize) -> Views {
        let stats = Arc::new(Stats::default());
        let names: Vec<_> =
            (0..functions).map(|number| FunctionName::new(format!("f{number:04}").as_bytes())).collect();
        for name in &names {
            stats.functions.insert(name.clone(), Arc::default());
        }
        for generation in 0..workers {
            let connection = ConnectionGauges::new(0, "192.0.2.1".to_owned());
            for name in &names {
                connection.add_function(name);
            }
            stats.connections.insert(ConnectionId { slot: 0, generation }, Arc::new(connection));
        }
        Views::new(Arc::new(Hub::new(Policy::default(), stats, None)), "1")
    }

    #[test]
    fn a_piece_of_a_list_is_short_however_much_there_is_to_look_at() {
        let views = views(10, 1000);
        let mut functions = views.functions_in_pieces();
        let mut shown = Vec::new();
        let mut turns = 0;
        while let Some(piece) = functions.next_piece(&views, NOW) {
            assert!(piece.len() <= FUNCTIONS, "{}", piece.len());
            shown.extend(piece);
            turns += 1;
        }
        let counting = (10 * 1001_usize).div_ceil(ABILITIES);
        let expected = counting + 1000 / FUNCTIONS..=counting + 1 + 1000_usize.div_ceil(FUNCTIONS);
        assert!(expected.contains(&turns), "{turns} turns; {expected:?} are expected");
        assert!(shown.iter().all(|view| view.worker_states.waiting == 10));
        assert!(shown.is_sorted_by(|a, b| a.name < b.name) && shown.len() == 1000);

        let mut workers = views.workers_in_pieces();
        let (mut seen, mut turns) = (Vec::new(), 0);
        while let Some(piece) = workers.next_piece(&views) {
            seen.extend(piece.into_iter().map(|worker| (worker.id.generation, worker.functions)));
            turns += 1;
        }
        assert_eq!(seen, (0..10).map(|generation| (generation, 1000)).collect::<Vec<_>>());
        assert!(turns >= 10 * 1000 / ABILITIES, "{turns} turns");
    }

    #[test]
    fn the_busiest_functions_come_first() {
        let views = views(1, 50);
        let stats = views.stats();
        for (name, jobs) in [(&b"f0007"[..], 3), (b"f0030", 5)] {
            stats.functions.get(name).unwrap().running.set(jobs);
        }
        let mut busiest = views.busiest_in_pieces(4);
        let pieces = std::iter::from_fn(|| busiest.next_piece(&views, NOW));
        let names: Vec<_> = pieces.flatten().map(|view| (view.name, view.worker_states.waiting)).collect();
        assert_eq!(names, ["f0030", "f0007", "f0000", "f0001"].map(|name| (name.to_owned(), 1)));
    }
}
