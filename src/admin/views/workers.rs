//! Views of workers: connections that can do functions, or could before.

use std::sync::Arc;

use super::incremental::WorkerSum;
use super::jobs::job_view;
use super::times::Times;
use super::{Page, Views, WorkerFilter, base64_of_no_text, durations_view, function_id, lossy};
use crate::admin::view::{JobView, WorkTotals, WorkerFunctionView, WorkerStates, WorkerView};
use crate::job_server::{ConnectionId, Now, WorkerSelector};
use crate::protocol::text::connection_id;
use crate::protocol::{FunctionName, JobHandle};
use crate::stats::histogram::Durations;
use crate::stats::{AbilityGauges, ConnectionGauges, SleepState, WorkCounters, WorkerMode};

/// The id of a connection.
pub fn worker_id(id: ConnectionId) -> String {
    format!("{}-{}", id.slot, id.generation)
}

/// Parses an id from [`worker_id`].
pub fn parse_worker_id(text: &str) -> Option<ConnectionId> {
    connection_id(text.as_bytes()).map(|(slot, generation)| ConnectionId { slot, generation })
}

impl Views {
    /// Lists workers by age of their connection; [`listed_worker`](Self::listed_worker) makes their views.
    pub fn list_workers(&self, filter: &WorkerFilter) -> Page<ConnectionId, ConnectionId> {
        let mut items: Vec<ConnectionId> = Vec::new();
        let mut looked_at = 0;
        for (id, gauges) in self.stats().connections.behind(filter.after) {
            looked_at += 1;
            if !matches(&gauges, filter) {
                continue;
            }
            if items.len() == filter.limit {
                let next = items.last().copied();
                return Page { items, next, looked_at };
            }
            items.push(id);
        }
        Page { items, next: None, looked_at }
    }

    /// The view of one worker, without its jobs; `None` if it has disconnected.
    pub fn listed_worker(&self, now: Now, id: ConnectionId) -> Option<WorkerView> {
        let gauges = self.stats().connections.get(&id)?;
        worker_view(&self.times(now), id, &gauges, &self.stats().handle_prefixes())
    }

    /// The view of one worker, with its jobs and the rules that apply to it.
    pub fn worker(&self, now: Now, id: ConnectionId) -> Option<WorkerView> {
        let mut view = self.listed_worker(now, id)?;
        view.jobs = Some(self.held_jobs(now, id));
        let client = self.stats().connections.get(&id).and_then(|gauges| gauges.client_id());
        let selectors = [
            Some(WorkerSelector::Connection(id)),
            client.map(WorkerSelector::Client),
            Some(WorkerSelector::Host(view.address.clone())),
        ];
        view.rules = Some(selectors.into_iter().flatten().flat_map(|selector| self.rules_for(selector)).collect());
        Some(view)
    }

    /// Jobs that a worker holds; only the first if there are many.
    pub(in crate::admin) fn held_jobs(&self, now: Now, id: ConnectionId) -> Vec<JobView> {
        let (mut jobs, times) = (Vec::new(), self.times(now));
        self.hub.list_held_jobs(id, |job| jobs.push(job_view(&times, &job, 0)));
        jobs
    }

    /// Starts the sum of one worker's functions.
    pub(in crate::admin) fn worker_sum(&self, id: ConnectionId) -> Option<WorkerSum> {
        WorkerSum::begin(id, self.stats().connections.get(&id)?)
    }

    pub(super) fn worker_states_of(&self, function: &FunctionName) -> WorkerStates {
        let mut states = WorkerStates::default();
        for (_, connection) in &self.stats().connections {
            connection.with_identity(|_, functions| {
                if let Some(ability) = functions.iter().find(|ability| ability.function == *function) {
                    count(&mut states, state(&connection, ability.mode()));
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

/// The state of a worker. `disabled`, `draining` or `drained` only if rules withhold all of its functions.
pub(super) fn state_of(gauges: &ConnectionGauges) -> &'static str {
    let mut modes = ModeSum::default();
    gauges.with_identity(|_, functions| {
        for ability in functions {
            modes.add(ability.mode());
            if modes.is_known() {
                break;
            }
        }
    });
    state(gauges, modes.of_all())
}

/// The rules of a worker's functions, combined.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ModeSum {
    is_one_allowed: bool,
    is_one_disabled: bool,
    is_one_draining: bool,
}

impl ModeSum {
    pub(super) fn add(&mut self, mode: Option<WorkerMode>) {
        match mode {
            None => self.is_one_allowed = true,
            Some(WorkerMode::Disabled) => self.is_one_disabled = true,
            Some(WorkerMode::Draining) => self.is_one_draining = true,
        }
    }

    /// Whether further functions cannot change the result.
    const fn is_known(self) -> bool {
        self.is_one_allowed
    }

    /// The mode of the worker, if none of its functions is enabled: `Disabled` if that applies to at least
    /// one of them.
    pub(super) const fn of_all(self) -> Option<WorkerMode> {
        match self {
            Self { is_one_allowed: true, .. } => None,
            Self { is_one_disabled: true, .. } => Some(WorkerMode::Disabled),
            Self { is_one_draining: true, .. } => Some(WorkerMode::Draining),
            Self { .. } => None,
        }
    }
}

/// The first matching state, given the rule: of a worker, or of one of its functions.
pub(super) fn state(gauges: &ConnectionGauges, mode: Option<WorkerMode>) -> &'static str {
    let runs = gauges.running.get() > 0;
    match (mode, gauges.sleep()) {
        (Some(WorkerMode::Disabled), _) => "disabled",
        (Some(WorkerMode::Draining), _) if runs => "draining",
        (Some(WorkerMode::Draining), _) => "drained",
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

impl WorkerFunctionView {
    /// The results of a worker for one function, which it can do or could before.
    pub(in crate::admin) fn of(ability: &AbilityGauges, in_use: bool) -> Self {
        ability_view(ability, in_use, &ability.run.read())
    }
}

fn ability_view(ability: &AbilityGauges, in_use: bool, durations: &Durations) -> WorkerFunctionView {
    let mut totals = WorkTotals::default();
    add_totals(&mut totals, ability.counters.get());
    WorkerFunctionView {
        id: function_id(ability.function.as_bytes()),
        name: lossy(ability.function.as_bytes()),
        in_use,
        mode: ability.mode().map(|mode| match mode {
            WorkerMode::Disabled => "disabled",
            WorkerMode::Draining => "draining",
        }),
        totals,
        run: durations_view(durations),
    }
}

pub(super) fn add_totals(totals: &mut WorkTotals, counters: Option<&WorkCounters>) {
    let Some(counters) = counters else { return };
    totals.done += counters.done.get();
    totals.failed += counters.failed.get();
    totals.exceptions += counters.exceptions.get();
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
