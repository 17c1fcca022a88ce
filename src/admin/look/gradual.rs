//! Lists of functions and workers that are made a piece at a time, so that others have their turn in between.

use std::cmp::Reverse;
use std::sync::Arc;
use std::vec;

use super::times::Times;
use super::workers::{add_totals, count, state, state_of};
use super::{Look, StatesByFunction, durations_view, function_view};
use crate::admin::view::{DurationsView, FunctionView, WorkTotals, WorkerStates};
use crate::job_server::{ConnectionId, Now};
use crate::protocol::{FunctionName, JobHandle};
use crate::stats::histogram::{Durations, Histogram};
use crate::stats::{AbilityGauges, ConnectionGauges, FunctionGauges};

/// How many functions are viewed for one piece.
const FUNCTIONS: usize = 64;
/// How many functions of workers are looked at for one piece; the worker that reaches it is the last.
const ABILITIES: usize = 512;

/// Functions that are still to be viewed. Before that, the workers of all of them are counted in one pass.
#[derive(Debug)]
pub struct Functions {
    connections: vec::IntoIter<ConnectionId>,
    states: StatesByFunction,
    left: vec::IntoIter<(FunctionName, Arc<FunctionGauges>)>,
}

/// Workers that are still to be summed up, by age of their connection.
#[derive(Debug)]
pub struct Workers {
    connections: vec::IntoIter<ConnectionId>,
    prefixes: Vec<Arc<str>>,
}

/// A worker, with its functions taken together.
#[derive(Debug)]
pub struct WorkerSum {
    /// Names the connection.
    pub id: ConnectionId,
    /// What it publishes.
    pub gauges: Arc<ConnectionGauges>,
    /// The functions that it can do, the newest first.
    pub functions: Vec<Arc<AbilityGauges>>,
    /// When it connected, in milliseconds since 1970.
    pub connected_unix_ms: u64,
    /// When it was last heard from, in milliseconds since 1970.
    pub heard_unix_ms: u64,
    /// Its state, by the same word as everywhere.
    pub state: &'static str,
    /// The newest job that it holds, and since when.
    pub job: Option<(String, u64)>,
    /// What its runs came to.
    pub totals: WorkTotals,
    /// How long they took.
    pub run: DurationsView,
}

impl Look {
    /// All functions, by name, to be made in pieces.
    pub fn functions_in_pieces(&self) -> Functions {
        let functions = &self.stats().functions;
        let mut functions: Vec<(FunctionName, Arc<FunctionGauges>)> =
            functions.iter().map(|entry| (entry.key().clone(), Arc::clone(entry.value()))).collect();
        functions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.in_pieces(functions)
    }

    /// The `most` functions with the most jobs, and of those without, the ones with the most workers.
    pub fn busiest_in_pieces(&self, most: usize) -> Functions {
        self.first_in_pieces(most, |gauges| Reverse((gauges.total(), gauges.workers.get())))
    }

    /// The `most` functions with the most jobs since the start. The order changes slowly, since such counts only grow: whoever
    /// looks again finds nearly the same functions.
    pub fn most_used_in_pieces(&self, most: usize) -> Functions {
        self.first_in_pieces(most, |gauges| {
            let submitted =
                gauges.counters.get().map_or(0, |counters| counters.submitted.get() + counters.coalesced.get());
            // Jobs that the store brought along count as well.
            Reverse((submitted.max(gauges.total()), gauges.workers.get()))
        })
    }

    /// The first functions by their weights, and by name where these are equal.
    fn first_in_pieces<W: Ord>(&self, most: usize, weight: impl Fn(&FunctionGauges) -> W) -> Functions {
        let mut functions: Vec<_> = self
            .stats()
            .functions
            .iter()
            .map(|entry| (weight(entry.value()), entry.key().clone(), Arc::clone(entry.value())))
            .collect();
        if functions.len() > most {
            functions.select_nth_unstable_by(most, |a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
            functions.truncate(most);
        }
        functions.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        self.in_pieces(functions.into_iter().map(|(_, name, gauges)| (name, gauges)).collect())
    }

    fn in_pieces(&self, functions: Vec<(FunctionName, Arc<FunctionGauges>)>) -> Functions {
        Functions {
            connections: self.stats().connections_by_age().into_iter(),
            states: functions.iter().map(|(name, _)| (name.clone(), WorkerStates::default())).collect(),
            left: functions.into_iter(),
        }
    }

    /// All workers, to be made in pieces.
    pub fn workers_in_pieces(&self) -> Workers {
        Workers { connections: self.stats().connections_by_age().into_iter(), prefixes: self.stats().handle_prefixes() }
    }
}

impl Functions {
    /// Whether workers are still counted.
    pub fn is_counting(&self) -> bool {
        !self.connections.as_slice().is_empty()
    }

    /// The next ones, which are none while workers are counted; `None` after the last.
    pub fn next_piece(&mut self, look: &Look, now: Now) -> Option<Vec<FunctionView>> {
        if self.is_counting() {
            self.count_workers(look);
            return Some(Vec::new());
        }
        if self.left.as_slice().is_empty() {
            return None;
        }
        let none = WorkerStates::default();
        let (history, times) = (look.history_lock(), look.times(now));
        let view = |(name, gauges): (FunctionName, Arc<FunctionGauges>)| {
            function_view(&times, &name, &gauges, self.states.get(&name).unwrap_or(&none), &history)
        };
        Some(self.left.by_ref().take(FUNCTIONS).map(view).collect())
    }

    fn count_workers(&mut self, look: &Look) {
        let mut seen = 0;
        while seen < ABILITIES
            && let Some(id) = self.connections.next()
        {
            seen += 1;
            let Some(connection) = look.stats().connection(id) else { continue };
            let states = &mut self.states;
            seen += connection.with_identity(|_, abilities| {
                for ability in abilities {
                    if let Some(states) = states.get_mut(&ability.function) {
                        count(states, state(&connection, ability.withheld()));
                    }
                }
                abilities.len()
            });
        }
    }
}

impl Workers {
    /// The next ones, of which there may be none though more follow; `None` after the last.
    pub fn next_piece(&mut self, look: &Look, now: Now) -> Option<Vec<WorkerSum>> {
        if self.connections.as_slice().is_empty() {
            return None;
        }
        let (mut workers, mut seen, times) = (Vec::new(), 0, look.times(now));
        while seen < ABILITIES
            && let Some(id) = self.connections.next()
        {
            seen += 1;
            let Some(gauges) = look.stats().connection(id) else { continue };
            let (functions, former) = gauges.functions();
            seen += functions.len() + former.len();
            if !functions.is_empty() || !former.is_empty() {
                workers.push(sum(&times, id, gauges, functions, &former, &self.prefixes));
            }
        }
        Some(workers)
    }
}

fn sum(
    times: &Times,
    id: ConnectionId,
    gauges: Arc<ConnectionGauges>,
    functions: Vec<Arc<AbilityGauges>>,
    former: &[Arc<AbilityGauges>],
    prefixes: &[Arc<str>],
) -> WorkerSum {
    let (mut totals, mut run) = (WorkTotals::default(), Durations::default());
    for ability in functions.iter().chain(former) {
        add_totals(&mut totals, ability.counters.get());
        // Most have none, and a set of them is large.
        if let Some(durations) = ability.run.get().map(Histogram::read) {
            run.add(&durations);
        }
    }
    let job = gauges.job();
    let job = job.and_then(|(prefix, number, since_ms)| {
        let handle = JobHandle { prefix: prefixes.get(prefix)?, number };
        Some((handle.to_string(), times.unix_ms(since_ms)))
    });
    WorkerSum {
        id,
        state: state_of(&gauges),
        functions,
        connected_unix_ms: times.unix_ms(gauges.connected_ms.get()),
        heard_unix_ms: times.unix_ms(gauges.heard_ms.get()),
        job,
        totals,
        run: durations_view(&run),
        gauges,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::job_server::Policy;
    use crate::stats::Stats;

    const NOW: Now = Now { monotonic_us: 0, unix_us: 0 };

    /// A server with so many workers, each of which can do all of so many functions.
    fn look(workers: u32, functions: usize) -> Look {
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
        Look::new(Arc::new(Hub::new(Policy::default(), stats, None)), "1")
    }

    #[test]
    fn a_piece_of_a_list_is_short_however_much_there_is_to_look_at() {
        let look = look(10, 1000);
        let mut functions = look.functions_in_pieces();
        let mut views = Vec::new();
        let mut turns = 0;
        while let Some(piece) = functions.next_piece(&look, NOW) {
            assert!(piece.len() <= FUNCTIONS, "{}", piece.len());
            views.extend(piece);
            turns += 1;
        }
        assert_eq!(turns, 10 + 1000_usize.div_ceil(FUNCTIONS), "one worker a turn has more than enough functions");
        assert!(views.iter().all(|view| view.worker_states.waiting == 10));
        assert!(views.is_sorted_by(|a, b| a.name < b.name) && views.len() == 1000);

        let mut workers = look.workers_in_pieces();
        for generation in 0..10 {
            let piece = workers.next_piece(&look, NOW).unwrap();
            assert_eq!(piece.iter().map(|worker| worker.id.generation).collect::<Vec<_>>(), [generation]);
            assert_eq!(piece[0].functions.len(), 1000);
        }
        assert!(workers.next_piece(&look, NOW).is_none());
    }

    #[test]
    fn the_busiest_functions_come_first() {
        let look = look(1, 50);
        let stats = look.stats();
        for (name, jobs) in [(&b"f0007"[..], 3), (b"f0030", 5)] {
            stats.functions.get(name).unwrap().running.set(jobs);
        }
        let mut busiest = look.busiest_in_pieces(4);
        let pieces = std::iter::from_fn(|| busiest.next_piece(&look, NOW));
        let names: Vec<_> = pieces.flatten().map(|view| (view.name, view.worker_states.waiting)).collect();
        assert_eq!(names, ["f0030", "f0007", "f0000", "f0001"].map(|name| (name.to_owned(), 1)));
    }
}
