//! Functions, one view at a time: whoever reads a list slowly holds no views.

use std::sync::Arc;
use std::vec;

use super::{Look, StatesByFunction, function_view};
use crate::admin::view::{FunctionView, WorkerStates};
use crate::job_server::Now;
use crate::protocol::FunctionName;
use crate::stats::FunctionGauges;

/// The functions of which there is no view yet.
pub struct Functions {
    left: vec::IntoIter<(FunctionName, Arc<FunctionGauges>)>,
    states: StatesByFunction,
}

impl Look {
    /// All functions, by name.
    pub fn functions(&self, now: Now) -> Vec<FunctionView> {
        let mut functions = self.list_functions();
        std::iter::from_fn(|| self.next_function(now, &mut functions)).collect()
    }

    /// The same, of which [`next_function`](Self::next_function) makes views.
    pub fn list_functions(&self) -> Functions {
        let functions = &self.stats().functions;
        let mut functions: Vec<(FunctionName, Arc<FunctionGauges>)> =
            functions.iter().map(|entry| (entry.key().clone(), Arc::clone(entry.value()))).collect();
        functions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Functions { left: functions.into_iter(), states: self.worker_states_by_function() }
    }

    /// A view of the next function; none after the last.
    pub fn next_function(&self, now: Now, functions: &mut Functions) -> Option<FunctionView> {
        let (name, gauges) = functions.left.next()?;
        let states = functions.states.get(&name).copied().unwrap_or_else(WorkerStates::default);
        Some(function_view(now, &name, &gauges, &states, &self.history_lock()))
    }
}
