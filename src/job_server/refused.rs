//! Suspicious requests that only the operator learns of: functions that are not registered, and due dates
//! that look wrong.

use super::connection::{Connection, Sleep};
use super::effects::{Effects, Event};
use super::ids::ConnectionSlot;
use super::{JobServer, Now, US_PER_S};
use crate::protocol::NotRegistered;

/// The smallest due date, in seconds since 1970, that may have been given in milliseconds: as seconds it is
/// in the year 5138, as milliseconds in 1973.
const FAR_DUE_S: u64 = 100_000_000_000;
/// The minimum time between reports of such a date, in microseconds.
const FAR_DUE_INTERVAL_US: u64 = 60 * US_PER_S;

/// The functions that a connection offered and that were not registered.
#[derive(Debug)]
pub(super) struct RefusedFunctions {
    count: u64,
    /// Why the first of them was refused.
    why: NotRegistered,
    is_reported: bool,
}

impl JobServer {
    /// Records a function of a connection that is not registered. The peer is not told: see
    /// [`NotRegistered`].
    pub(super) fn refuse_function(
        &mut self,
        connection: ConnectionSlot,
        why: NotRegistered,
        effects: &mut impl Effects,
    ) {
        self.stats.functions_refused.bump(1);
        let Connection { refused, sleep, .. } = &mut self.connections[connection];
        refused.get_or_insert(RefusedFunctions { count: 0, why, is_reported: false }).count += 1;
        // A connection that is awake will ask for a job after it has offered all its functions.
        if *sleep != Sleep::Awake {
            self.report_refused_functions(connection, effects);
        }
    }

    /// Reports the functions that were not registered for a connection, unless they were reported before.
    pub(super) fn report_refused_functions(&mut self, connection: ConnectionSlot, effects: &mut impl Effects) {
        let Connection { refused, gauges, abilities, .. } = &mut self.connections[connection];
        let Some(refused) = refused.as_mut().filter(|refused| !refused.is_reported) else {
            return;
        };
        refused.is_reported = true;
        effects.report(Event::FunctionsRefused {
            connection: gauges,
            refused: refused.count,
            registered: abilities.len as usize,
            why: refused.why,
        });
    }

    /// Reports a job that is due so far ahead that its client may have meant milliseconds.
    pub(super) fn report_far_due(&mut self, now: Now, job: u32, due_s: u64, effects: &mut impl Effects) {
        let is_recent = |at_us: u64| now.monotonic_us.saturating_sub(at_us) < FAR_DUE_INTERVAL_US;
        if due_s < FAR_DUE_S || self.far_due_reported_us.is_some_and(is_recent) {
            return;
        }
        self.far_due_reported_us = Some(now.monotonic_us);
        let job = self.jobs.get(job);
        let function = self.functions[job.function].name.as_bytes();
        effects.report(Event::DueFarAhead { handle: job.handle(&self.prefixes), function, due_s });
    }
}
