//! Workers: connections that can do functions, or could.

use std::sync::Arc;

use super::jobs::job_view;
use super::times::Times;
use super::{Look, Page, WorkerFilter, base64_of_no_text, durations_view, function_id, lossy};
use crate::admin::view::{WorkTotals, WorkerFunctionView, WorkerStates, WorkerView};
use crate::job_server::{ConnectionId, Now, Who};
use crate::protocol::text::connection_id;
use crate::protocol::{FunctionName, JobHandle};
use crate::stats::histogram::Durations;
use crate::stats::{AbilityGauges, ConnectionGauges, SleepState, Withholding, WorkCounters};

/// How a connection is named.
pub fn worker_id(id: ConnectionId) -> String {
    format!("{}-{}", id.slot, id.generation)
}

/// The connection of a name that [`worker_id`] gave.
pub fn parse_worker_id(text: &str) -> Option<ConnectionId> {
    connection_id(text.as_bytes()).map(|(slot, generation)| ConnectionId { slot, generation })
}

impl Look {
    /// Workers, by age of their connection, of which [`listed_worker`](Self::listed_worker) makes views.
    pub fn list_workers(&self, filter: &WorkerFilter) -> Page<ConnectionId, ConnectionId> {
        let mut connections: Vec<(ConnectionId, Arc<ConnectionGauges>)> =
            self.stats().connections.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect();
        connections.sort_unstable_by_key(|(id, _)| (id.generation, id.slot));
        let key = |id: &ConnectionId| (id.generation, id.slot);
        let first = filter.after.map_or(0, |after| connections.partition_point(|(id, _)| key(id) <= key(&after)));
        let mut items: Vec<ConnectionId> = Vec::new();
        for (id, gauges) in &connections[first..] {
            if !matches(gauges, filter) {
                continue;
            }
            if items.len() == filter.limit {
                let next = items.last().copied();
                return Page { items, next };
            }
            items.push(*id);
        }
        Page { items, next: None }
    }

    /// One worker, without its jobs; none where it has gone.
    pub fn listed_worker(&self, now: Now, id: ConnectionId) -> Option<WorkerView> {
        let gauges = Arc::clone(self.stats().connections.get(&id)?.value());
        worker_view(&self.times(now), id, &gauges, &self.stats().handle_prefixes())
    }

    /// One worker, with its jobs and the rules that mean it.
    pub fn worker(&self, now: Now, id: ConnectionId) -> Option<WorkerView> {
        let mut view = self.listed_worker(now, id)?;
        let (mut jobs, times) = (Vec::new(), self.times(now));
        self.hub.list_held_jobs(id, |job| jobs.push(job_view(&times, &job, 0)));
        view.jobs = Some(jobs);
        let client = self.stats().connections.get(&id).and_then(|entry| entry.value().client_id());
        let who = [Some(Who::Connection(id)), client.map(Who::Client), Some(Who::Host(view.address.clone()))];
        view.rules = Some(who.into_iter().flatten().flat_map(|who| self.rules_for(who)).collect());
        Some(view)
    }

    pub(super) fn worker_states(&self) -> WorkerStates {
        let mut states = WorkerStates::default();
        for entry in &self.stats().connections {
            let is_worker = entry.value().with_identity(|_, functions| !functions.is_empty());
            if is_worker {
                count(&mut states, state_of(entry.value()));
            }
        }
        states
    }

    pub(super) fn worker_states_of(&self, function: &FunctionName) -> WorkerStates {
        let mut states = WorkerStates::default();
        for entry in &self.stats().connections {
            entry.value().with_identity(|_, functions| {
                if let Some(ability) = functions.iter().find(|ability| ability.function == *function) {
                    count(&mut states, state(entry.value(), ability.withheld()));
                }
            });
        }
        states
    }
}

fn can_do(gauges: &ConnectionGauges, function: &[u8]) -> bool {
    gauges.with_identity(|_, functions| functions.iter().any(|known| known.function.as_bytes() == function))
}

fn matches(gauges: &ConnectionGauges, filter: &WorkerFilter) -> bool {
    filter.host.as_ref().is_none_or(|host| *host == gauges.peer)
        && filter.client.as_ref().is_none_or(|client| gauges.client_id().as_ref() == Some(client))
        && filter.function.as_ref().is_none_or(|function| can_do(gauges, function))
        && filter.state.as_ref().is_none_or(|state| *state == state_of(gauges))
        && is_worker(gauges)
}

fn is_worker(gauges: &ConnectionGauges) -> bool {
    let (functions, former) = gauges.functions();
    !functions.is_empty() || !former.is_empty()
}

/// A worker's state: what the rules say to all of its functions, if they do.
pub(super) fn state_of(gauges: &ConnectionGauges) -> &'static str {
    let withheld = gauges.with_identity(|_, functions| {
        // All of them are withheld, one at least as that of a disabled worker is.
        let all: Option<Vec<Withholding>> = functions.iter().map(|ability| ability.withheld()).collect();
        all.and_then(|all| all.iter().copied().find(|how| *how == Withholding::Disabled).or(all.first().copied()))
    });
    state(gauges, withheld)
}

/// The first of these that fits, where this is withheld: of a worker, or of one function of it.
pub(super) fn state(gauges: &ConnectionGauges, withheld: Option<Withholding>) -> &'static str {
    let runs = gauges.running.get() > 0;
    match (withheld, gauges.sleep()) {
        (Some(Withholding::Disabled), _) => "disabled",
        (Some(Withholding::Draining), _) if runs => "draining",
        (Some(Withholding::Draining), _) => "drained",
        _ if runs => "working",
        (_, SleepState::Asleep) => "asleep",
        (_, SleepState::Woken) => "woken",
        (_, SleepState::Awake) => "waiting",
    }
}

pub(super) fn count(states: &mut WorkerStates, state: &str) {
    let count = match state {
        "disabled" => &mut states.disabled,
        "draining" => &mut states.draining,
        "drained" => &mut states.drained,
        "working" => &mut states.working,
        "asleep" => &mut states.asleep,
        "woken" => &mut states.woken,
        _ => &mut states.waiting,
    };
    *count += 1;
}

/// `None` for a connection that never was a worker.
fn worker_view(
    times: &Times,
    id: ConnectionId,
    gauges: &ConnectionGauges,
    prefixes: &[Arc<str>],
) -> Option<WorkerView> {
    let (functions, former) = gauges.functions();
    if functions.is_empty() && former.is_empty() {
        return None;
    }
    let (mut totals, mut run) = (WorkTotals::default(), Durations::default());
    let in_use = functions.iter().map(|ability| (ability, true));
    let functions = in_use.chain(former.iter().rev().map(|ability| (ability, false)));
    let functions = functions.map(|(ability, in_use)| {
        let durations = ability.run.read();
        add_totals(&mut totals, ability.counters.get());
        run.add(&durations);
        ability_view(ability, in_use, &durations)
    });
    let functions = functions.collect();
    let job = gauges.job();
    let handle = job.and_then(|(prefix, number, _)| Some(JobHandle { prefix: prefixes.get(prefix)?, number }));
    let client_id = gauges.client_id();
    Some(WorkerView {
        id: worker_id(id),
        address: gauges.peer.clone(),
        file_descriptor: gauges.file_descriptor,
        client_id: client_id.as_deref().map(lossy),
        client_id_base64: client_id.as_deref().and_then(base64_of_no_text),
        tls_name: None,
        connected_unix_ms: times.unix_ms(gauges.connected_ms.get()),
        heard_unix_ms: times.unix_ms(gauges.heard_ms.get()),
        state: state_of(gauges),
        functions,
        running: gauges.running.get(),
        job: handle.map(|handle| handle.to_string()),
        since_unix_ms: job.map(|(.., since_ms)| times.unix_ms(since_ms)),
        totals,
        run: durations_view(&run),
        jobs: None,
        rules: None,
    })
}

fn ability_view(ability: &AbilityGauges, in_use: bool, durations: &Durations) -> WorkerFunctionView {
    let mut totals = WorkTotals::default();
    add_totals(&mut totals, ability.counters.get());
    WorkerFunctionView {
        id: function_id(ability.function.as_bytes()),
        name: lossy(ability.function.as_bytes()),
        in_use,
        withheld: ability.withheld().map(|how| match how {
            Withholding::Disabled => "disabled",
            Withholding::Draining => "draining",
        }),
        totals,
        run: durations_view(durations),
    }
}

pub(super) fn add_totals(totals: &mut WorkTotals, counters: Option<&WorkCounters>) {
    let Some(counters) = counters else { return };
    totals.done += counters.done.get();
    totals.failed += counters.failed.get();
    totals.excepted += counters.excepted.get();
    totals.timed_out += counters.timed_out.get();
    totals.requeued += counters.requeued.get();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_found_by_its_id_and_by_nothing_else() {
        let id = ConnectionId { slot: 12, generation: 3456 };
        assert_eq!(parse_worker_id(&worker_id(id)), Some(id));
        for text in ["", "-", "1", "1-", "-1", "+1-2", "1--2", "1-2-3", "99999999999-1", "1-2 "] {
            assert_eq!(parse_worker_id(text), None, "{text}");
        }
    }
}
