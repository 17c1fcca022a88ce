//! Refusals: a worker that refuses a function is not asked again immediately, and does not count as able to
//! run it.

use std::collections::BTreeMap;

use super::super::contract::WorkerId;
use super::fleet::Fleet;
use super::starts::{BACK_OFF_MAX_MS, pause};
use super::{Memory, RefusalMemory, many, seconds};

/// When this many workers of a host refuse a function, no other is started there for it, since it would
/// refuse too.
const TRIED_PER_HOST: usize = 2;

impl Memory {
    /// Records that a worker refused a function, so that it is not asked again for some time: 30 seconds
    /// after the first refusal, doubled with each further one, up to 10 minutes.
    pub fn refused(&mut self, worker: &WorkerId, function: &str, now_ms: u64) {
        let refusal = self.refusals.entry(worker.clone()).or_default().entry(function.to_owned()).or_default();
        refusal.not_before_ms = now_ms.saturating_add(pause(refusal.times));
        refusal.times = refusal.times.saturating_add(1);
    }
}

/// Forgets refusals that are old, or whose function is in use now.
pub(super) fn look_back(fleet: &mut Fleet<'_>) {
    let (workers, now) = (&fleet.observed.workers, fleet.now);
    fleet.plan.memory.refusals.retain(|id, functions| {
        functions.retain(|name, refusal| {
            let does = workers.get(id).is_some_and(|worker| worker.in_use.contains(name));
            !does && now < refusal.not_before_ms.saturating_add(BACK_OFF_MAX_MS)
        });
        !functions.is_empty()
    });
}

/// Whether a worker must not be asked for a function yet.
pub(super) fn is_refusing(fleet: &Fleet<'_>, id: &WorkerId, name: &str) -> bool {
    refusal(fleet, id, name).is_some_and(|refusal| fleet.now < refusal.not_before_ms)
}

/// Whether a worker has refused a function that it may be asked for again. It is kept meanwhile: a
/// replacement would refuse it too.
pub(super) fn has_refused(fleet: &Fleet<'_>, id: &WorkerId) -> bool {
    let refusals: Option<&BTreeMap<String, RefusalMemory>> = fleet.plan.memory.refusals.get(id);
    refusals.is_some_and(|functions| functions.keys().any(|name| fleet.function_counts.contains_key(name.as_str())))
}

/// Whether enough workers of a host refuse a function that others would refuse it too.
pub(super) fn is_hopeless(fleet: &Fleet<'_>, host: &str, name: &str) -> bool {
    let workers = fleet.hosts.get(host).map_or(&[][..], |host_state| &host_state.workers).iter();
    !fleet.plan.memory.refusals.is_empty()
        && workers.filter(|id| refusal(fleet, id, name).is_some()).count() >= TRIED_PER_HOST
}

/// Describes the refusals of a function, if there are any.
pub(super) fn said(fleet: &Fleet<'_>, name: &str) -> Option<String> {
    let refuse = fleet.members.iter().filter(|(id, member)| member.stays() && is_refusing(fleet, id, name));
    let refuse: Vec<&WorkerId> = refuse.map(|(id, _)| *id).collect();
    let next = refuse.iter().filter_map(|id| refusal(fleet, id, name)).map(|refusal| refusal.not_before_ms).min()?;
    let who = match refuse[..] {
        [one] => format!("{one} refuses"),
        _ => format!("{} refuse", many(refuse.len() as u64, "worker")),
    };
    Some(format!("{who} it, next try in {}", seconds(next.saturating_sub(fleet.now))))
}

fn refusal<'f>(fleet: &'f Fleet<'_>, id: &WorkerId, name: &str) -> Option<&'f RefusalMemory> {
    fleet.plan.memory.refusals.get(id)?.get(name)
}
