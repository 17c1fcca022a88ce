//! Workers that refuse a function: they are not asked for it again at once, and are not taken for workers that can do it.

use std::collections::BTreeMap;

use super::super::contract::WorkerId;
use super::fleet::Fleet;
use super::starts::{BACK_OFF_MAX_MS, pause};
use super::{Memory, RefusalMemory, many, seconds};

/// From so many workers of a host on that refuse a function no other is started there for it: it would refuse it too.
const TRIED_PER_HOST: usize = 2;

impl Memory {
    /// Remembers that a worker refused to do a function, so that it is not asked for that for some time: 30 seconds after
    /// the first time, and twice as long after each other, up to 10 minutes.
    pub fn refused(&mut self, worker: &WorkerId, function: &str, now_ms: u64) {
        let refusal = self.refusals.entry(worker.clone()).or_default().entry(function.to_owned()).or_default();
        refusal.not_before_ms = now_ms.saturating_add(pause(refusal.times));
        refusal.times = refusal.times.saturating_add(1);
    }
}

/// Forgets what was refused long ago, or is done now.
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

/// Whether a worker is not to be asked to do a function for now.
pub(super) fn is_refusing(fleet: &Fleet<'_>, id: &WorkerId, name: &str) -> bool {
    refusal(fleet, id, name).is_some_and(|refusal| fleet.now < refusal.not_before_ms)
}

/// Whether a worker has refused a function that it could be asked for again. It is kept meanwhile: another in its place
/// would refuse it as well.
pub(super) fn has_refused(fleet: &Fleet<'_>, id: &WorkerId) -> bool {
    let refusals: Option<&BTreeMap<String, RefusalMemory>> = fleet.plan.memory.refusals.get(id);
    refusals.is_some_and(|functions| functions.keys().any(|name| fleet.tallies.contains_key(name.as_str())))
}

/// Whether so many workers of a host refuse a function that others would too.
pub(super) fn is_hopeless(fleet: &Fleet<'_>, host: &str, name: &str) -> bool {
    let workers = fleet.places.get(host).map_or(&[][..], |place| &place.workers).iter();
    !fleet.plan.memory.refusals.is_empty()
        && workers.filter(|id| refusal(fleet, id, name).is_some()).count() >= TRIED_PER_HOST
}

/// Says that workers refuse a function, if any do.
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
