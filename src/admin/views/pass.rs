//! A count over all connections that concurrent listings share.
//!
//! One pass serves every listing that asked before it began, as one commit serves all who wait for it. So
//! hundreds of listings cost as much as one, and hold one result together.

use std::sync::{Arc, Mutex, PoisonError};

use crate::job_server::ConnectionId;
use crate::stats::{ConnectionGauges, Stats};

/// How many connections are copied at a time.
const PAGE: usize = 64;

/// The count.
pub(super) trait Sum: Default {
    /// Adds one connection, or at most `most` of its functions. With `left`, continues with the `left` oldest
    /// functions. Returns how many functions were examined, and how many are left.
    fn add(&mut self, connection: &ConnectionGauges, left: Option<usize>, most: usize) -> (usize, Option<usize>);
}

/// Passes over all connections, one at a time.
#[derive(Debug)]
pub(super) struct Pass<S> {
    state: Mutex<State<S>>,
}

/// The serial number of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Serial(u64);

#[derive(Debug)]
struct State<S> {
    /// The last pass that was begun.
    begun: Serial,
    under_way: Option<UnderWay<S>>,
    last: Option<(Serial, Arc<S>)>,
}

#[derive(Debug)]
struct UnderWay<S> {
    after: Option<ConnectionId>,
    /// How many functions of the next connection are left; `None` if none of it is counted yet.
    left: Option<usize>,
    sum: S,
}

impl<S> Default for Pass<S> {
    fn default() -> Self {
        Self { state: Mutex::new(State { begun: Serial::default(), under_way: None, last: None }) }
    }
}

impl<S: Sum> Pass<S> {
    /// The next pass that begins: its result is not older than this call.
    pub(super) fn next(&self) -> Serial {
        Serial(self.lock().begun.0 + 1)
    }

    /// The result of the last pass, if that is the wanted one or a later one.
    pub(super) fn found(&self, wanted: Serial) -> Option<Arc<S>> {
        self.lock().found(wanted)
    }

    /// Like [`found`](Self::found). If there is no result yet, continues the running pass, or begins one:
    /// examines the next connections, up to `most` of them and of their functions in total.
    pub(super) fn resume(&self, wanted: Serial, stats: &Stats, most: usize) -> Option<Arc<S>> {
        let mut passes = self.lock();
        if let Some(found) = passes.found(wanted) {
            return Some(found);
        }
        let State { begun, under_way, .. } = &mut *passes;
        let UnderWay { after, left, sum } = under_way.get_or_insert_with(|| {
            begun.0 += 1;
            UnderWay { after: None, left: None, sum: S::default() }
        });
        let mut seen = 0;
        while seen < most {
            let page = stats.connections.page(after.as_ref(), PAGE.min(most));
            if page.is_empty() {
                let sum = std::mem::take(sum);
                passes.last = Some((passes.begun, Arc::new(sum)));
                passes.under_way = None;
                return passes.found(wanted);
            }
            for (id, connection) in page {
                let (functions, functions_left) = sum.add(&connection, left.take(), most - seen);
                seen += 1 + functions;
                if functions_left.is_some() {
                    // If this connection closes before the next call, the remaining count is applied to the
                    // connection after it, which does no harm.
                    *left = functions_left;
                    return None;
                }
                *after = Some(id);
                if seen >= most {
                    break;
                }
            }
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> State<S> {
    fn found(&self, wanted: Serial) -> Option<Arc<S>> {
        self.last.as_ref().filter(|(serial, _)| *serial >= wanted).map(|(_, found)| Arc::clone(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Count(usize);

    impl Sum for Count {
        fn add(&mut self, _: &ConnectionGauges, _: Option<usize>, _: usize) -> (usize, Option<usize>) {
            self.0 += 1;
            (0, None)
        }
    }

    #[test]
    fn one_pass_serves_all_who_came_before_it_began() {
        let stats = Stats::default();
        let connect = |generation| {
            let gauges = Arc::new(ConnectionGauges::new(0, String::new()));
            stats.connections.insert(ConnectionId { slot: 0, generation }, gauges);
        };
        (0..200).for_each(connect);
        let pass: Pass<Count> = Pass::default();
        let (first, second) = (pass.next(), pass.next());
        assert!(pass.resume(first, &stats, 100).is_none());
        // A listing that comes during the pass waits for the next one: this pass may miss its changes.
        connect(200);
        let late = pass.next();
        assert!(pass.resume(second, &stats, 100).is_none());
        let found = pass.resume(first, &stats, 100).expect("all are counted");
        assert_eq!(found.0, 201);
        assert!(Arc::ptr_eq(&found, &pass.resume(second, &stats, 1).expect("the same pass")), "it was made twice");
        assert!(pass.found(late).is_none());
        let mut steps = 1;
        while pass.resume(late, &stats, 67).is_none() {
            steps += 1;
        }
        assert_eq!(steps, 4, "201 connections, 67 at a time, and a look at the end");
        assert!(pass.found(first).is_some_and(|newer| !Arc::ptr_eq(&found, &newer)), "a newer one serves as well");
    }
}
